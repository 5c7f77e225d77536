"""The state of a module, besides its inputs: buffers, parameters, and whatever else it keeps in attributes."""

import copy
import random
from collections import deque
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

LARGEST = 1 << 16
"""Larger tensors are told apart by PyTorch's count of their changes, not by their values."""

MOST_ITEMS = 64
"""Of longer lists, only the length counts."""

DEPTH = 3
"""How deep lists, dicts and objects are looked into."""

_PLAIN = (bool, int, float, complex, str, bytes, type(None))

_OWN = frozenset(vars(nn.Module()))
"""What every module has, such as its hooks."""

State = dict[str, tuple[str, Any]]
"""For each part of the state by its name: `buffer`, `parameter` or `attribute`, and a value to compare."""


def state_of(module: nn.Module, only: Collection[str] | None = None) -> State:
    """Return everything that the module keeps from call to call, or only the parts with these names."""
    found: State = {}

    def add(name: str, kind: str, value: Any) -> None:
        if only is None or name in only:
            found[name] = kind, _token(value, DEPTH)

    for name, buffer in module.named_buffers():
        add(name, "buffer", buffer)
    for name, parameter in module.named_parameters():
        add(name, "parameter", parameter)
    for prefix, part in module.named_modules():
        for name, value in vars(part).items():
            if name not in _OWN and not isinstance(value, nn.Module):
                add(f"{prefix}.{name}" if prefix else name, "attribute", value)
    return found


def changed_between(before: Mapping[str, tuple[str, Any]], after: Mapping[str, tuple[str, Any]]) -> dict[str, str]:
    """Return what changed, with what kind of state it is."""
    return {name: kind for name, (kind, value) in after.items() if before.get(name, (kind, None))[1] != value}


class Snapshot:
    """A module's state before it has run, to be put back.

    Large tensors that are changed in place are not put back; whoever replaces them by others is undone.
    """

    def __init__(self, module: nn.Module) -> None:
        self._module, self._state = module, state_of(module)
        parts = [part for part in module.modules() if not isinstance(part, torch.jit.ScriptModule)]
        self._attributes = [(part, {name: _copied(value) for name, value in vars(part).items()}) for part in parts]
        self._values = [(tensor, tensor.detach().clone()) for tensor in module.buffers() if tensor.numel() <= LARGEST]

    def has_changed(self) -> bool:
        """Return whether the module has another state now."""
        return bool(changed_between(self._state, state_of(self._module)))

    def restore(self) -> None:
        """Put everything back."""
        for part, attributes in self._attributes:
            vars(part).clear()
            vars(part).update({name: _copied(value) for name, value in attributes.items()})
        with torch.no_grad():
            for tensor, values in self._values:
                tensor.copy_(values)


def _copied(value: Any) -> Any:
    """Return a copy of a container, so that what is put into one later is not in the other."""
    return copy.copy(value) if isinstance(value, dict | list | set | deque) else value


def _token(value: Any, depth: int) -> Any:
    """Return something that is equal for equal values, and differs once a value was replaced or changed in place."""
    if isinstance(value, (*_PLAIN, np.random.Generator, random.Random, torch.Generator, torch.Tensor, np.ndarray)):
        return _of_values(value)
    if depth == 0:
        return id(value)
    if isinstance(value, list | tuple | deque | set | frozenset):
        items = tuple(_token(item, depth - 1) for item in value) if len(value) <= MOST_ITEMS else ()
        return type(value).__name__, len(value), items
    if isinstance(value, Mapping):
        keys = tuple((repr(key), _token(item, depth - 1)) for key, item in list(value.items())[:MOST_ITEMS])
        return type(value).__name__, len(value), keys
    return (id(type(value)), _token(dict(vars(value)), depth - 1)) if hasattr(value, "__dict__") else id(value)


def _of_values(value: Any) -> Any:
    """Return the token of a number, a text, an array or a generator."""
    match value:
        case torch.Tensor():
            return _tensor(value)
        case np.ndarray():
            is_small = value.nbytes <= LARGEST and value.dtype != object
            return (value.shape, value.tobytes()) if is_small else id(value)
        case torch.Generator():
            return value.get_state().numpy().tobytes()
        case np.random.Generator():
            return repr(value.bit_generator.state)
        case random.Random():
            return value.getstate()
    return repr(value)


def _tensor(tensor: torch.Tensor) -> Any:
    if tensor.is_meta or tensor.layout != torch.strided or tensor.is_quantized:
        return id(tensor)
    if tensor.numel() <= LARGEST:
        values = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy()
        return str(tensor.dtype), tuple(tensor.shape), values.tobytes()
    return id(tensor), None if tensor.is_inference() else tensor._version
