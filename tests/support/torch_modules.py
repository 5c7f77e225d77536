"""PyTorch modules that decide in Python what a trace then keeps for good, and some that cannot be exported."""

from collections import namedtuple
from typing import Any

import torch
from networks import ConvNet, TextEncoder
from torch import Tensor, nn


class Steps(nn.Module):
    """A loop over time, which tracing unrolls without a word."""

    def forward(self, signal: Tensor) -> Tensor:
        state = signal[:, 0]
        for step in range(1, signal.shape[1]):
            state = torch.tanh(state + signal[:, step])
        return state


class Leaky(nn.Module):
    """The second branch is for rows without a positive value, which are not drawn by chance."""

    def forward(self, x: Tensor) -> Tensor:
        y = torch.where(x > 0, x, 0.1 * x)
        return y * 3 if bool((x < 0).all()) else y


class Below(nn.Module):
    """The same, without a comparison that would be left in the graph."""

    def forward(self, x: Tensor) -> Tensor:
        return x * 3 if bool((x < 0).all()) else x * 2


class Sign(nn.Module):
    """A branch on values."""

    def forward(self, x: Tensor) -> Tensor:
        if x.sum() > 0:
            return 2 * x
        return x - 1


class Scaled(nn.Module):
    """A number out of a tensor: rows of one batch share it."""

    def forward(self, x: Tensor) -> Tensor:
        total = x.abs().sum().item()
        return x / total


class Experts(nn.Module):
    """An index into a list of layers."""

    def __init__(self) -> None:
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))

    def forward(self, x: Tensor, expert: Tensor) -> Tensor:
        return self.experts[int(expert[0])](x)


class TwoHeads(nn.Module):
    """One output by a loop over time, one by a branch on it, one by neither."""

    def forward(self, signal: Tensor) -> dict[str, Tensor]:
        assert signal.shape[2] == 4
        total = signal[:, 0]
        for step in range(1, signal.shape[1]):
            total = total + signal[:, step]
        mean = signal.mean(1)
        if signal.shape[1] > 5:
            mean = 2 * mean
        return {"total": total, "mean": mean, "largest": signal.amax(1)}


class OneAtATime(nn.Module):
    """Written for a batch of 1."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(12, 4)

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x.view(1, 12))


class TimeFirst(nn.Module):
    """PyTorch's own default: the batch is axis 1, of the states too."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(6, 8)

    def forward(self, signal: Tensor) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        return self.lstm(signal)


Scores = namedtuple("Scores", ["best", "all", "loss"])


class Nested(nn.Module):
    """Outputs in a named tuple, a list and a dict; parameters that are left out or given by name."""

    def forward(self, x: Tensor, mask: Tensor | None = None, *, scale: Tensor) -> Any:
        return Scores(x * scale, [x + 1, {"twice": 2 * x}], None)


class Square(nn.Module):
    """Works for images of one size."""

    def forward(self, image: Tensor) -> Tensor:
        return image.reshape(-1, 3, 100)


class Text(nn.Module):
    """Returns something that is not a tensor."""

    def forward(self, x: Tensor) -> tuple[Tensor, str]:
        return x, "done"


class Loss(nn.Module):
    """One number for the whole batch."""

    def forward(self, x: Tensor) -> Tensor:
        return x.square().mean()


class Noise(nn.Module):
    """Another answer every time."""

    def forward(self, x: Tensor) -> Tensor:
        return x + torch.randn_like(x)


class InPlace(nn.Module):
    """Changes its input."""

    def forward(self, x: Tensor) -> Tensor:
        x += 1
        return x * 2


class Chatty(nn.Module):
    """Prints."""

    def forward(self, x: Tensor) -> Tensor:
        print("forward was here")
        return x + 1


def in_training() -> nn.Module:
    """A module that drops half of everything, unless it is set to evaluation mode."""
    return nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5)).train()


def compiled() -> Any:
    """A module that is wrapped by torch.compile; compiling it fails."""

    def fail(graph: Any, example: Any) -> Any:
        raise RuntimeError("it was compiled")

    return torch.compile(nn.Linear(4, 3), backend=fail)


def broken() -> nn.Module:
    raise FileNotFoundError("no weights at weights.pt")


def dictionary() -> dict[str, Tensor]:
    return {"weight": torch.ones(1)}


NUMBER = 3


def seeded_network() -> nn.Module:
    return _seeded(ConvNet)


def seeded_encoder() -> nn.Module:
    return _seeded(TextEncoder)


def seeded_time_first() -> nn.Module:
    return _seeded(TimeFirst)


def _seeded(kind: type[nn.Module]) -> nn.Module:
    torch.manual_seed(5)
    return kind()
