"""A family of architectures: a small network of random weights that keeps a signal, and inputs for it.

Weights are uniform, as torch's own initialisation has them, with the variance that keeps values of the same
size from layer to layer. What exporters of trained networks never meet is put right: weights that start at
zero, layer scales of 1e-6, and running statistics of BatchNorm that have never seen a sample. Its outputs are
shifted by 1: random layers of BatchNorm and Relu in a row make any difference in their input larger, layer by
layer, as no trained ones do. Samples differ in what pooling keeps (colours and large shapes, pitches, words),
so that outputs do as well; how much they do, as a share of their size, is told beside every error.
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

SEED = 1
SETTLING = 8
"""Samples that running statistics are taken from"""
Inputs = Mapping[str, np.ndarray]


@dataclass(frozen=True)
class Network:
    """A torch module and a source of samples, each with its batch axis of 1."""

    module: Any
    sample: Callable[[int], Inputs]
    half: str = ""
    """``float16`` or ``bfloat16``, where the module is cast to it before export"""
    script: bool = False
    """Whether the module is compiled, to keep its loops and conditions"""
    kept: str = ""
    """A pattern of parameters that keep the values their own package starts them with"""
    scaled: tuple[str, float] = ("", 1.0)
    """A pattern of parameters whose values are multiplied by a number, and the number"""


@dataclass(frozen=True)
class Family:
    """An architecture and how to make a small one."""

    name: str
    source: str
    make: Callable[[], Network]
    exporters: tuple[str, ...] = ("script", "dynamo")


def enliven(network: Network, seed: int = SEED) -> None:
    """Give all parameters random values, and BatchNorm the statistics of what it sees."""
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    torch.manual_seed(seed)
    module, owners = network.module, _owners(network.module)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            values = _random(parameter, owners.get(name))
            pattern, factor = network.scaled
            if not (network.kept and re.search(network.kept, name)):
                parameter.copy_(values * factor if pattern and re.search(pattern, name) else values)
    norms = [part for part in module.modules() if isinstance(part, _BatchNorm)]
    module.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the mean over all samples
        norm.train()
    with torch.no_grad():
        for number in range(SETTLING if norms else 0):
            many = [network.sample(1000 + SETTLING * number + i) for i in range(SETTLING)]
            module(*(torch.from_numpy(np.concatenate([one[key] for one in many])) for key in many[0]))
    module.eval()


def images(size: int, channels: int = 3, frames: int = 0) -> Callable[[int], Inputs]:
    """Pictures, or films of so many `frames`: a colour, large shapes and some noise."""

    def sample(seed: int) -> Inputs:
        rng = np.random.default_rng(seed)
        shapes = rng.standard_normal((1, channels, 4, 4)).repeat(-(-size // 4), 2).repeat(-(-size // 4), 3)
        colour = rng.standard_normal((1, channels, 1, 1))
        image = colour + shapes[:, :, :size, :size] + 0.3 * rng.standard_normal((1, channels, size, size))
        if frames:
            drift = rng.standard_normal((1, channels, frames, 1, 1))
            image = image[:, :, None] + drift + 0.3 * rng.standard_normal((1, channels, frames, size, size))
        return {"image": image.astype(np.float32)}

    return sample


def words(vocabulary: int, length: int, *names: str) -> Callable[[int], Inputs]:
    """Token numbers for each of the inputs `names`; one called ``attention_mask`` is all ones."""

    def sample(seed: int) -> Inputs:
        rng = np.random.default_rng(seed)
        made = {name: rng.integers(1, vocabulary, (1, length)) for name in names}
        return {name: np.ones_like(v) if name == "attention_mask" else v for name, v in made.items()}

    return sample


def sounds(*shape: int) -> Callable[[int], Inputs]:
    """Sines of a few pitches with noise along the last axis, a mix of its own for each channel."""

    def sample(seed: int) -> Inputs:
        rng = np.random.default_rng(seed)
        time, rows = np.arange(shape[-1]), math.prod(shape[:-1])
        waves = np.sin(np.outer(rng.uniform(0.02, 1.0, 4), time) + rng.uniform(0, 6, (4, 1)))
        sound = rng.standard_normal((rows, 4)) @ waves + rng.standard_normal((rows, 1))
        sound += 0.2 * rng.standard_normal(sound.shape)
        return {"sound": sound.reshape(1, *shape).astype(np.float32)}

    return sample


def vectors(*shape: int) -> Callable[[int], Inputs]:
    """Normally distributed numbers."""
    return lambda seed: {"x": np.random.default_rng(seed).standard_normal((1, *shape), np.float32)}


def _owners(module: Any) -> dict[str, Any]:
    """The module that holds each parameter, by the parameter's full name."""
    return {
        f"{path}.{name}" if path else name: part
        for path, part in module.named_modules()
        for name, _ in part.named_parameters(recurse=False)
    }


def _random(parameter: Any, owner: Any) -> Any:
    import torch
    from torch import nn

    def uniform(bound: float) -> Any:
        return (2 * torch.rand_like(parameter) - 1) * bound

    kind = type(owner).__name__
    if "Norm" in kind:
        batch = isinstance(owner, nn.modules.batchnorm._BatchNorm)
        weight = parameter is getattr(owner, "weight", None)
        return float(weight or batch) + uniform(0.3)
    if parameter.ndim < 2:
        # Layer scales, and slopes of PReLU, multiply; what is called a bias is added.
        scale = parameter.numel() and bool((parameter == parameter.flatten()[0]).all())
        return 0.5 + uniform(0.1) if scale and float(parameter.flatten()[0]) > 0 else uniform(0.1)
    if isinstance(owner, nn.Embedding):
        return uniform(1.0)
    if isinstance(owner, nn.modules.conv._ConvTransposeNd):
        fan = parameter.shape[0] * math.prod(parameter.shape[2:]) / math.prod(owner.stride)
        return uniform(math.sqrt(6 / max(1, fan / owner.groups)))
    if isinstance(owner, nn.modules.conv._ConvNd):
        return uniform(math.sqrt(6 / math.prod(parameter.shape[1:])))
    if kind == "Conv1D":  # of GPT-2: (inputs, outputs)
        return uniform(math.sqrt(3 / parameter.shape[0]))
    if isinstance(owner, nn.Linear | nn.LSTM | nn.GRU | nn.RNN | nn.MultiheadAttention):
        return uniform(math.sqrt(3 / parameter.shape[-1]))
    return uniform(0.5)  # positions, class tokens, tables of relative positions
