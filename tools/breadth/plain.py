"""Networks written here: recurrent, one-dimensional, upsampling, of other types, loops and conditions."""

from collections.abc import Callable
from typing import Any

from breadth.family import Family, Inputs, Network, images, sounds, vectors, words


def _unet() -> Network:
    import torch
    from torch import nn

    def step(before: int, after: int) -> Any:
        return nn.Sequential(nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.ReLU())

    class UNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.down, self.middle, self.pool = step(3, 16), step(16, 32), nn.MaxPool2d(2)
            self.up, self.join = nn.ConvTranspose2d(32, 16, 2, stride=2), step(32, 16)
            self.out = nn.Conv2d(16, 4, 1)

        def forward(self, image):
            fine = self.down(image)
            coarse = self.up(self.middle(self.pool(fine)))
            return self.out(self.join(torch.cat([fine, coarse], 1)))

    return Network(UNet(), images(32))


def _generator() -> Network:
    from torch import nn

    net = nn.Sequential(
        nn.ConvTranspose2d(16, 32, 4), nn.BatchNorm2d(32), nn.ReLU(),
        nn.ConvTranspose2d(32, 16, 4, stride=2, padding=1, groups=2), nn.BatchNorm2d(16), nn.ReLU(),
        nn.ConvTranspose2d(16, 3, 4, stride=2, padding=1), nn.Tanh(),
    )  # fmt: skip
    return Network(net, vectors(16, 1, 1))


def _upscaler() -> Network:
    from torch import nn

    net = nn.Sequential(
        nn.Conv2d(3, 16, 5, padding=2), nn.PReLU(16), nn.Conv2d(16, 16, 3, padding=1), nn.PReLU(16),
        nn.Conv2d(16, 12, 3, padding=1), nn.PixelShuffle(2), nn.Upsample(scale_factor=2, mode="bilinear"),
    )  # fmt: skip
    return Network(net, images(24))


def _temporal() -> Network:
    from torch import nn

    layers: list[Any] = []
    for level in range(3):
        layers += [nn.Conv1d(8 if level == 0 else 16, 16, 3, dilation=2**level, padding="same"), nn.ReLU()]
    return Network(
        nn.Sequential(*layers, nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(16, 5)), sounds(8, 64)
    )


def _recurrent(kind: str) -> Callable[[], Network]:
    def make() -> Network:
        from torch import nn

        class Tagger(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.table = nn.Embedding(100, 32)
                self.inner = getattr(nn, kind)(32, 48, batch_first=True, bidirectional=True)
                self.head = nn.Linear(96, 10)

            def forward(self, ids):
                return self.head(self.inner(self.table(ids))[0])

        return Network(Tagger(), words(100, 12, "ids"))

    return make


def _ocr() -> Network:
    from torch import nn

    class Reader(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.see = nn.Sequential(
                nn.Conv2d(1, 16, 3, 2, 1),
                nn.ReLU(),
                nn.Conv2d(16, 32, 3, (2, 1), 1),
                nn.BatchNorm2d(32),
                nn.ReLU(),
            )
            self.read, self.head = nn.LSTM(32 * 4, 32, batch_first=True), nn.Linear(32, 20)

        def forward(self, image):
            columns = self.see(image).flatten(1, 2).transpose(1, 2)
            return self.head(self.read(columns)[0])

    return Network(Reader(), images(16, 1))


def _recommender() -> Network:
    import torch
    from torch import nn

    class Recommender(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.users, self.items = nn.Embedding(100, 16), nn.Embedding(100, 16)
            self.deep = nn.Sequential(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 1))

        def forward(self, user, item):
            a, b = self.users(user), self.items(item)
            return self.deep(torch.cat([a, b], -1)).squeeze(-1) + (a * b).sum(-1)

    return Network(Recommender(), words(100, 4, "user", "item"))


def _points() -> Network:
    from torch import nn

    class Points(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.each = nn.Sequential(
                nn.Conv1d(3, 32, 1), nn.BatchNorm1d(32), nn.ReLU(), nn.Conv1d(32, 64, 1)
            )
            self.head = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

        def forward(self, sound):
            return self.head(self.each(sound).amax(-1))

    return Network(Points(), sounds(3, 64))


def _torch_encoder() -> Network:
    from torch import nn

    layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, norm_first=True)
    return Network(nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), vectors(10, 32))


def _graph() -> Network:
    import torch
    from torch import nn

    class Graph(nn.Module):
        """Messages along edges that are numbers of nodes: Gather and ScatterAdd."""

        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(16, 32), nn.Linear(32, 8)

        def forward(self, x, edges):
            x, source, target = x[0], edges[0, 0], edges[0, 1]
            for layer in (self.one, self.two):
                sent = layer(x)
                index = target[:, None].expand(-1, sent.shape[1])
                x = torch.relu(sent + torch.zeros_like(sent).scatter_add(0, index, sent[source]))
            return x[None]

    def sample(seed: int) -> Inputs:
        import numpy as np

        rng = np.random.default_rng(seed)
        return {
            "x": rng.standard_normal((1, 12, 16), np.float32),
            "edges": rng.integers(0, 12, (1, 2, 30)),
        }

    return Network(Graph(), sample)


def _half(kind: str) -> Callable[[], Network]:
    def make() -> Network:
        from torch import nn

        net = nn.Sequential(
            nn.Conv2d(3, 16, 3, 2, 1),
            nn.ReLU(),
            nn.Conv2d(16, 32, 3, 2, 1),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(2048, 10),
        )
        return Network(net, images(32), half=kind)

    return make


def _loop() -> Network:
    return Network(loops().Loop(), vectors(4, 32), script=True)


def _condition() -> Network:
    return Network(loops().Condition(), vectors(4, 32), script=True)


def loops() -> Any:
    """The module with control flow, whose classes torch compiles: imported only where torch is needed."""
    from breadth import control

    return control


FAMILIES = (
    Family("U-Net", "torch", _unet),
    Family("DCGAN generator", "torch", _generator),
    Family("Super-resolution", "torch", _upscaler),
    Family("Temporal ConvNet", "torch", _temporal),
    Family("LSTM tagger", "torch", _recurrent("LSTM")),
    Family("GRU tagger", "torch", _recurrent("GRU")),
    Family("CRNN (OCR)", "torch", _ocr),
    Family("Recommender", "torch", _recommender),
    Family("PointNet", "torch", _points),
    Family("nn.Transformer", "torch", _torch_encoder),
    Family("Graph network", "torch", _graph),
    Family("ConvNet, float16", "torch", _half("float16")),
    Family("ConvNet, bfloat16", "torch", _half("bfloat16")),
    Family("Loop with weights", "torch", _loop, ("script",)),
    Family("If with weights", "torch", _condition, ("script",)),
)
