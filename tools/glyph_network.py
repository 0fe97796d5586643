"""The sample network: what it is made of, how it is trained, written and scored. Needs torch."""

import copy
import itertools
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import torch
from glyphs import CLASSES, SEEDS, SIDE, Distortion, Options, expose
from torch import Tensor, nn
from torch.nn import functional


class Block(nn.Sequential):
    """Depthwise then pointwise convolution, each with BatchNorm and SiLU; no shortcut."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int) -> None:
        super().__init__(
            nn.Conv2d(inputs, inputs, kernel, stride, kernel // 2, groups=inputs, bias=False),
            nn.BatchNorm2d(inputs),
            nn.SiLU(),
            nn.Conv2d(inputs, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
            nn.SiLU(),
        )


class Attention(nn.Module):
    """Multi-head self-attention with LayerNorm before it and a shortcut around it."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def forward(self, tokens: Tensor) -> Tensor:
        width = tokens.shape[2]
        depth = width // self.heads
        x = self.norm(tokens)
        query, key, value = (
            project(x).reshape(-1, tokens.shape[1], self.heads, depth).transpose(1, 2)
            for project in (self.query, self.key, self.value)
        )
        chance = torch.softmax(query @ key.transpose(2, 3) * depth**-0.5, dim=-1)
        return tokens + self.out((chance @ value).transpose(1, 2).reshape(-1, tokens.shape[1], width))


class Network(nn.Module):
    """Image [N, 1, 32, 32] in [0, 1] to logits [N, classes]."""

    def __init__(self, options: Options) -> None:
        super().__init__()
        kernel, width = options.stem_kernel, options.stem
        layers = [nn.Conv2d(1, width, kernel, 2, kernel // 2, bias=False), nn.BatchNorm2d(width), nn.SiLU()]
        for stage, (channels, blocks) in enumerate(options.stages):
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                layers.append(Block(width, channels, options.kernel, stride))
                width = channels
        self.features = nn.Sequential(*layers)
        tokens = (SIDE >> len(options.stages)) ** 2
        self.position = nn.Parameter(0.02 * torch.randn(1, tokens, width))
        self.attention = Attention(width, options.heads)
        self.norm = nn.LayerNorm(width)
        self.classify = nn.Linear(width, len(CLASSES))

    def forward(self, image: Tensor) -> Tensor:
        tokens = self.features(image).flatten(2).transpose(1, 2) + self.position
        return self.classify(self.norm(self.attention(tokens)).mean(1))


def light(options: Options, epoch: int) -> Distortion:
    """Distortion of one epoch; starting with faint print, the network learns nothing for a long time."""
    part = min(1.0, epoch / (options.easing * options.epochs))
    pairs = zip(options.easy_contrast, options.distortion.contrast, strict=True)
    low, high = (easy ** (1 - part) * faint**part for easy, faint in pairs)
    return replace(options.distortion, contrast=(low, high))


def train(options: Options, masks: np.ndarray, labels: np.ndarray) -> Network:
    """Adam without weight decay, one rise and fall of the learning rate, new light and noise every epoch."""
    torch.manual_seed(SEEDS["network"])
    network = Network(options).to(memory_format=torch.channels_last)
    steps = options.images // options.batch
    rate, total = options.learning_rate, options.epochs * steps
    optimizer = torch.optim.Adam(network.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, rate, total_steps=total, pct_start=options.warm_up, cycle_momentum=False
    )
    start = time.monotonic()
    for epoch in range(options.epochs):
        images = torch.from_numpy(expose(masks, 1000 + epoch, light(options, epoch)))
        order = np.random.default_rng(epoch).permutation(options.images)
        losses = []
        for chosen in order[: steps * options.batch].reshape(steps, options.batch):
            loss = functional.cross_entropy(network(images[chosen]), torch.from_numpy(labels[chosen]))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(loss.item())
        seconds = time.monotonic() - start
        print(f"epoch {epoch + 1}/{options.epochs}: loss {np.mean(losses):.3f}, {seconds:.0f} s", flush=True)
    return network.to(memory_format=torch.contiguous_format).eval()


def export(network: Network, path: Path) -> None:
    """ONNX, opset 17, BatchNorm nodes kept, batch axis dynamic, the classes in metadata_props."""
    torch.onnx.export(
        network,
        (torch.zeros(2, 1, SIDE, SIDE),),
        str(path),
        dynamo=False,
        opset_version=17,
        training=torch.onnx.TrainingMode.PRESERVE,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "batch"}, "logits": {0: "batch"}},
    )
    model = onnx.load(path)
    onnx.helper.set_model_props(model, {"classes": CLASSES, "pixels": "grey, 0 black to 1 white"})
    onnx.checker.check_model(model, full_check=True)
    onnx.save(model, path)


def round_weights(network: Network, bits: int) -> Network:
    """A copy with BatchNorm folded and each weight rounded to nearest, one scale for each output channel."""
    copied = copy.deepcopy(network)
    top = 2 ** (bits - 1) - 1
    for module in [module for module in copied.modules() if isinstance(module, nn.Sequential)]:
        for place, (layer, following) in enumerate(itertools.pairwise(module)):
            if isinstance(layer, nn.Conv2d) and isinstance(following, nn.BatchNorm2d):
                module[place] = nn.utils.fuse_conv_bn_eval(layer, following)
                module[place + 1] = nn.Identity()
    for layer in copied.modules():
        if isinstance(layer, nn.Conv2d | nn.Linear):
            rows = layer.weight.data.flatten(1)
            scale = rows.abs().amax(1, keepdim=True).clamp_min(1e-12) / top
            layer.weight.data = ((rows / scale).round() * scale).reshape(layer.weight.shape)
    return copied


@torch.no_grad()
def score(network: Network, images: np.ndarray, labels: np.ndarray) -> float:
    """Percentage of images whose highest logit is the true class."""
    best = [network(part).argmax(1) for part in torch.from_numpy(images).split(250)]
    return 100 * float((torch.cat(best).numpy() == labels).mean())
