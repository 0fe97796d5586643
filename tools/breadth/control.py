"""Modules whose loops and conditions stay in the graph: torch compiles them from this file."""

import torch
from torch import nn


class Loop(nn.Module):
    """As many rounds of one layer as the input says."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.inner, self.head = nn.Linear(32, 32), nn.Linear(32, 32), nn.Linear(32, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.before(x)
        rounds = 2 + int(x.shape[1] > 3)
        for _ in range(rounds):
            x = torch.tanh(self.inner(x)) + x
        return self.head(x)


class Condition(nn.Module):
    """One of two layers, by the sign of the sum."""

    def __init__(self) -> None:
        super().__init__()
        self.before, self.one, self.two = nn.Linear(32, 32), nn.Linear(32, 8), nn.Linear(32, 8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.before(x)
        if bool(x.sum() > 0):  # noqa: SIM108 - a block stays one in the graph
            y = self.one(x)
        else:
            y = torch.relu(self.two(x))
        return y * 2.0
