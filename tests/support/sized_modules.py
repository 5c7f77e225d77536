"""PyTorch modules whose dynamic axes may have some sizes and no others."""

import torch
from torch import Tensor, nn


class Step(nn.Module):
    """A step of a decoder: the mask is one longer than the past."""

    def forward(self, key: Tensor, mask: Tensor, x: Tensor) -> Tensor:
        return torch.cat([key, x], 1).sum(2) * mask


class Sound(nn.Module):
    """Needs 400 samples at least."""

    def forward(self, audio: Tensor) -> Tensor:
        return nn.functional.avg_pool1d(audio[:, None], 400, 160).mean(2)


class Positions(nn.Module):
    """A table of 8 positions."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.arange(16.0).reshape(8, 2))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.table[: x.shape[1]]


class Line(nn.Module):
    """A line of text: its height is always 6."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(6, 2)

    def forward(self, image: Tensor) -> Tensor:
        return self.layer(image.transpose(1, 2))
