"""Factories and modules that fail in ways that `except Exception` misses, or before a check of their own."""

import os
import subprocess
import sys
from typing import NoReturn

import torch
from torch import Tensor, nn


class UnprintableError(Exception):
    """An exception that cannot be shown."""

    def __str__(self) -> str:
        raise ValueError("no text")


class OwnError(BaseException):
    """An exception that is no Exception."""


def leaves() -> NoReturn:
    """End the program as if it had succeeded."""
    sys.exit(0)


def gives_up() -> NoReturn:
    """Raise what only a generator should."""
    raise GeneratorExit


def own() -> NoReturn:
    """Raise what is no Exception."""
    raise OwnError("of its own")


def unprintable() -> NoReturn:
    """Raise what cannot be shown."""
    raise UnprintableError


def silent() -> NoReturn:
    """Raise an exception without a message."""
    raise RuntimeError


def interrupted() -> NoReturn:
    """Act as if Ctrl-C was pressed."""
    raise KeyboardInterrupt


class Leaving(nn.Module):
    """Ends the program in forward."""

    def forward(self, x: Tensor) -> Tensor:
        sys.exit(0)


class Immovable(nn.Module):
    """Cannot be set to evaluation mode."""

    def train(self, mode: bool = True) -> "Immovable":
        raise RuntimeError("always in training")


class Lazy(nn.Module):
    """Has a layer without a shape."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.LazyLinear(4)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.layer(x))


class Meta(nn.Module):
    """Has a layer without values."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 4, device="meta")

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.layer(x))


class Loud(nn.Module):
    """Writes to stdout past Python's own stream, as C++ and other programs do."""

    def forward(self, x: Tensor) -> Tensor:
        os.write(1, b"from C++\n")
        subprocess.run(["echo", "from another program"], check=True)
        return torch.relu(x)


class Wandering(nn.Module):
    """Changes the working directory when it is made, and in forward."""

    def __init__(self) -> None:
        super().__init__()
        os.chdir("/")

    def forward(self, x: Tensor) -> Tensor:
        os.chdir("/")
        return torch.relu(x)
