"""Modules whose `forward` takes another branch for inputs that samples seldom are."""

import torch
from torch import nn


class _Linear(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(4, 3)
        self.table = nn.Embedding(50, 4)


class Bytes(_Linear):
    """Takes large values for pixels of 8 bits."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if float(x.max()) > 100:
            x = x / 255
        return self.linear(x)


class Saturates(_Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x.clamp(max=3) if x.max() > 12 else x)


class Percentile(_Linear):
    """Decides in NumPy."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) * (2 if x.numpy().max() > 9 else 1)


class Empty(_Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) if x.any() else torch.zeros(x.shape[0], 3)


class Cleans(_Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(torch.nan_to_num(x) if torch.isnan(x).any() else x)


class FirstHidden(_Linear):
    """Padding on the left."""

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        return self.linear(x * mask) * (2 if mask[0, 0] == 0 else 1)


class AllPadding(_Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        rows = self.table(x)
        return self.linear(rows.sum(1)) * (0 if (x == 0).all() else 1)


class Asserts(_Linear):
    """Only checks its inputs: the other branch raises."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.abs().max() > 50:
            raise ValueError("too large")
        return self.linear(x)


class SameEitherWay(_Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.linear(x) if x.abs().max() > 20 else self.linear(x + 0)
