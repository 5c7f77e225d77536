"""PyTorch modules that are called in many ways: with dictionaries, tuples, `*args`, Python values, and arguments."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn


def layer(width: int, out: int = 3) -> nn.Linear:
    torch.manual_seed(width)
    return nn.Linear(width, out)


class Deep(nn.Module):
    """Takes arguments when it is made."""

    def __init__(self, width: int, depth: int = 1, *, scales: Sequence[float] = (1.0,)) -> None:
        super().__init__()
        self.layers = nn.Sequential(*(layer(width, width) for _ in range(depth)))
        self.scales = list(scales)

    @classmethod
    def small(cls) -> Deep:
        return cls(4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.layers(x) * sum(self.scales)


class Temperature(nn.Module):
    """Takes Python values beside its tensor."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = layer(4)

    def forward(
        self, x: torch.Tensor, temperature: float, mode: str = "soft", shifts: Sequence[float] | None = None
    ) -> torch.Tensor:
        y = self.layer(x) / temperature
        for shift in shifts or ():
            y = y + shift
        return y.softmax(-1) if mode == "soft" else y


class Weighted(nn.Module):
    """Takes a tensor that never changes."""

    def forward(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return x @ weight


class Dictionary(nn.Module):
    """Takes a dictionary."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = layer(4)

    def forward(self, batch: dict[str, torch.Tensor], scale: bool = False) -> dict[str, torch.Tensor]:
        y = self.layer(batch["image"]) * batch["mask"][:, None]
        return {"scores": y * 2 if scale else y}


class Recurrent(nn.Module):
    """Takes a tuple of states."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(1)
        self.cell = nn.LSTMCell(4, 5)

    def forward(self, x: torch.Tensor, state: tuple[torch.Tensor, torch.Tensor]) -> tuple[Any, ...]:
        hidden, cell = self.cell(x, state)
        return hidden, (hidden, cell)


class Images(nn.Module):
    """Takes a list of images without a batch, as detectors do."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = layer(6)

    def forward(self, images: list[torch.Tensor], targets: Any = None) -> list[dict[str, torch.Tensor]]:
        assert isinstance(images, list)
        return [{"boxes": self.layer(image.flatten(1))} for image in images]


class Several(nn.Module):
    """Takes any number of tensors."""

    def forward(self, first: torch.Tensor, *rest: torch.Tensor, scale: float = 1.0) -> torch.Tensor:
        return torch.cat([first, *rest], dim=1) * scale


class AnyName(nn.Module):
    """Takes any names, as wrappers of other modules do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Dictionary()

    def forward(self, **batch: torch.Tensor) -> Any:
        return self.inner(batch)


class Point(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor


@dataclasses.dataclass
class Query:
    point: Point
    weight: torch.Tensor
    power: int = 1


class Records(nn.Module):
    """Takes a dataclass with a named tuple in it."""

    def forward(self, query: Query | None = None) -> torch.Tensor:
        assert isinstance(query, Query)
        assert isinstance(query.point, Point)
        return (query.point.x - query.point.y) * query.weight**query.power


class DynamicCache:
    """A class that nothing here knows."""

    def __init__(self, *states: torch.Tensor) -> None:
        self.states = states


class Language(nn.Module):
    """Is called as Hugging Face's models are: a loss, logits, hidden states and a cache come back."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(2)
        self.embedding = nn.Embedding(20, 4)
        self.layer = layer(4)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        use_cache: bool = True,
        return_dict: bool = True,
        **kwargs: Any,
    ) -> Any:
        assert input_ids is not None
        hidden = self.embedding(input_ids)
        if attention_mask is not None:
            hidden = hidden * attention_mask[..., None]
        logits = self.layer(hidden)
        results = {"loss": logits.mean(), "logits": logits, "hidden_states": (hidden, hidden + 1)}
        return {**results, "past_key_values": DynamicCache(hidden)} if use_cache else results


class Shared(nn.Module):
    """Takes a tensor that all rows of a batch share."""

    def forward(self, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return torch.relu(x) @ weight


class State(nn.Module):
    """Returns tensors under the names of its inputs."""

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> dict[str, Any]:
        return {"x": x + h, "h": h * 2, "a_b": x, "a": {"b": h}}
