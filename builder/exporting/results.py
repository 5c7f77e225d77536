"""What `forward` returns, as named tensors."""

import dataclasses
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import torch

from builder.errors import ModelError


@dataclasses.dataclass(frozen=True, slots=True)
class Result:
    """One object inside what `forward` returns.

    Attributes:
        name: Made of the keys that lead to it.
        groups: Other names to choose it by: `states_2_last` is in the containers `states` and `states_2`.
        value: A tensor, or an object that is neither a tensor nor a container that is known.
    """

    name: str
    groups: tuple[str, ...]
    value: Any


def flatten(value: Any, taken: Collection[str] = ()) -> list[Result]:
    """Return the objects inside what `forward` returns, in order, each with a name of its own.

    `{"logits": a, "states": (b, None, {"last": c})}` gives `logits`, `states_0` and `states_2_last`. A lone tensor
    is `output`, and the items of a tuple are `output_0`, `output_1` and so on. `None` is left out.

    Args:
        value: What `forward` returns.
        taken: The names of the inputs. ONNX has no output of the same name, so `h` becomes `output_h`.
    """
    found: dict[str, Result] = {}
    for result in _flat(value, "", ()):
        wanted = f"output_{result.name}" if result.name in taken else result.name
        name, number = wanted, 1
        while name in found or name in taken:
            number += 1
            name = f"{wanted}_{number}"
        found[name] = Result(name, (*result.groups, result.name), result.value)
    return list(found.values())


def _flat(value: Any, name: str, groups: tuple[str, ...]) -> Iterator[Result]:
    if value is None:
        return
    items = None if isinstance(value, torch.Tensor) else _as_mapping(value)
    if items is None:
        yield Result(name or "output", groups, value)
        return
    for key, item in items.items():
        own = f"output_{key}" if str(key).isdigit() else str(key)
        yield from _flat(item, f"{name}_{key}" if name else own, (*groups, name) if name else groups)


def _as_mapping(value: Any) -> Mapping[Any, Any] | None:
    """Return the items of a dict, dataclass, named tuple, list or tuple by key, or None for anything else."""
    if isinstance(value, Mapping):
        return value
    if dataclasses.is_dataclass(value):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return dict(value._asdict())
    if isinstance(value, list | tuple):
        return {str(i): item for i, item in enumerate(value)}
    return None


def choose(where: str, results: Sequence[Result], wanted: Sequence[str], parameters: Sequence[str]) -> list[Result]:
    """Return the results that were asked for, in the order in which `forward` returns them; all of them if none were.

    Args:
        where: The factory, for messages.
        results: All results.
        wanted: Names of outputs, or of containers of them.
        parameters: The parameters of `forward`.

    Raises:
        ModelError: There is no such output, or one is not a tensor.
    """
    for name in wanted:
        if not any(name == r.name or name in r.groups for r in results):
            fix = f"use one of {', '.join(map(_shown, results))}" if results else "return tensors from forward"
            raise ModelError(where, f"--output names {name!r}, which forward does not return", fix)
    chosen = [r for r in results if not wanted or r.name in wanted or not set(r.groups).isdisjoint(wanted)]
    if not chosen:
        raise ModelError(where, "forward returns no tensors", "return the results of forward")
    for result in chosen:
        if not isinstance(result.value, torch.Tensor):
            raise _no_tensor(where, result, results, parameters)
    return chosen


def _no_tensor(where: str, result: Result, results: Sequence[Result], parameters: Sequence[str]) -> ModelError:
    kind = type(result.value).__name__
    what = f"forward returns an object of type {kind}" + (f" as {result.name!r}" if result.name != "output" else "")
    fix = "return tensors, alone or in tuples, lists, dicts or dataclasses"
    others = [r.name for r in results if isinstance(r.value, torch.Tensor)]
    if others:
        fix = f"leave it out by naming the outputs to keep: --output {','.join(others[:8])}; or {fix}"
    if "Cache" in kind and "use_cache" in parameters:
        fix = f"switch it off with --constant use_cache=false; or {fix}"
    return ModelError(where, what, fix)


def _shown(result: Result) -> str:
    if isinstance(result.value, torch.Tensor):
        return f"{result.name} {list(result.value.shape)}"
    return f"{result.name} ({type(result.value).__name__}, which is not a tensor)"
