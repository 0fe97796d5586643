"""ResNet-18 (He et al., 2016, table 1) with random weights, batch norms folded by the exporter."""

import warnings
from pathlib import Path

import torch
from torch import nn

STAGES = ((64, 1), (128, 2), (256, 2), (512, 2))
"""Channels of a stage and the stride of its first block; each has two blocks"""


def conv(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    padding = kernel // 2
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False), nn.BatchNorm2d(outputs)
    )


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(inputs, outputs, 3, stride), nn.ReLU(), conv(outputs, outputs, 3, 1))
        plain = inputs == outputs and stride == 1
        self.shortcut = nn.Identity() if plain else conv(inputs, outputs, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


def resnet18() -> nn.Module:
    layers: list[nn.Module] = [conv(3, 64, 7, 2), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for outputs, stride in STAGES:
        layers += [Block(inputs, outputs, stride), Block(outputs, outputs, 1)]
        inputs = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 1000))


def export(path: Path) -> None:
    torch.manual_seed(0)
    draft = path.with_suffix(".part")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            resnet18().eval(),
            (torch.randn(1, 3, 224, 224),),
            str(draft),
            input_names=["x"],
            output_names=["y"],
            opset_version=17,
            dynamo=False,
            dynamic_axes={"x": {0: "N"}, "y": {0: "N"}},
        )
    draft.replace(path)
