"""Find inputs for which a module takes another branch than for the drawn samples.

`if x.max() > 100: x = x / 255` is gone from an exported graph, whichever branch it took, and samples from a normal
distribution never take the other one. So the module is watched while it runs: which values Python takes out of its
tensors, and which numbers they are compared with. Then it is given inputs unlike the samples: a thousand times as
large, all zeros, all the same, around the numbers that it compares with. Where Python takes another value than for any
sample, the export has to give the module's answers too.

A module that takes no values out of tensors runs once for this.
"""

import math
import time
from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice, product
from typing import Any

import numpy as np
import onnx_ir as ir
import torch
from torch.overrides import TorchFunctionMode

from builder.errors import ModelError
from builder.exporting.asking import Asking, WrongRowsError
from builder.exporting.frozen import taken_from
from builder.exporting.quiet import eagerly
from builder.tensors import Array, Arrays
from builder.user_code import UserCode

BUDGET_S = 3.0
"""The longest time to search, but at least so many runs as `FEWEST_RUNS`."""

FEWEST_RUNS = 16

MOST_ROWS = 64
"""How many inputs are compared."""

MOST_ALIKE = 8
"""How many of them make Python take the same values: all zeros may have the same answer in either branch."""

MOST_POINTS = 6
"""How many numbers that are compared with are tried."""

FACTORS = (1000.0, -1000.0, 0.0, 30.0, -30.0, 5.0, -5.0, 1e-3, 1e-6)

COMPARISONS = {"gt", "ge", "lt", "le", "eq", "ne"}
TESTS = {"isnan", "isinf", "isfinite", "nan_to_num"}
"""Functions of PyTorch that look for NaN and infinities."""


TAKING = {
    *("__array__", "__bool__", "__contains__", "__float__", "__index__", "__int__", "item", "numpy", "tolist"),
    *("allclose", "equal", "is_nonzero"),
    *("argwhere", "masked_select", "nonzero", "unique"),
}
"""Functions whose result, or its size, is a Python value that depends on a tensor's values."""


class _Watch(TorchFunctionMode):
    """Records the values that are taken out of tensors, and what tensors are compared with.

    Attributes:
        taken: The values in order. Of numbers that are not whole, only that they are taken.
        points: The numbers that tensors are compared with.
        tests: Whether NaN and infinities are looked for.
        depends: Whether any value depends on more than sizes and types.
    """

    def __init__(self) -> None:
        super().__init__()
        self.taken: list[Hashable] = []
        self.points: dict[float, None] = {}
        self.tests = self.depends = False

    @property
    def has_numbers(self) -> bool:
        """Whether numbers are taken that are not whole."""
        return float in self.taken

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        called = str(getattr(func, "__name__", ""))
        name = called.strip("_")
        if name in COMPARISONS:
            self.points.update((float(a), None) for a in args if isinstance(a, int | float) and math.isfinite(a))
        self.tests |= name in TESTS
        self.depends |= called in TAKING
        if (taken := taken_from(result)) is not None:
            self.taken.append(float if isinstance(taken, float) or _has_fractions(result) else repr(taken))
        return result


def _has_fractions(result: object) -> bool:
    return isinstance(result, np.ndarray) and result.dtype.kind == "f"


def find_other_branches(asking: Asking, reference: Arrays) -> list[Arrays]:
    """Return batches, `[batch, *dims]` by name, for which Python takes other values than for the samples.

    Args:
        asking: The module.
        reference: The samples as `input:NAME`.
    """
    samples = {tensor.name: reference[f"input:{tensor.name}"] for tensor in asking.batched.inputs}
    step, rows = asking.batched.static_batch, len(next(iter(samples.values())))
    starts = range(0, rows - step + 1, step)
    chunks = [{name: array[start : start + step] for name, array in samples.items()} for start in starts]
    known = _watch_samples(asking, chunks)
    kept = {t.name for t in asking.batched.inputs if t.dtype == ir.DataType.BFLOAT16}  # stored as bits
    found: list[Arrays] = []
    new = Counter[tuple[Hashable, ...]]()
    for unlike in _unlike(chunks, list(islice(known.points, MOST_POINTS)), tests=known.tests, kept=kept):
        if time.monotonic() > known.end or len(found) * step >= MOST_ROWS:
            break
        watch = _watched(asking, unlike)
        if watch is None or (not watch.has_numbers and tuple(watch.taken) in known.seen):
            continue
        new[tuple(watch.taken)] += 1
        if watch.has_numbers or new[tuple(watch.taken)] <= MOST_ALIKE:
            found.append(unlike)
    return found


@dataclass(slots=True)
class _Known:
    """What samples show.

    Attributes:
        seen: The values that Python takes.
        points: The numbers that tensors are compared with.
        tests: Whether NaN and infinities are looked for.
        end: When the search ends; at once if no value depends on the samples.
    """

    seen: set[tuple[Hashable, ...]] = field(default_factory=set)
    points: dict[float, None] = field(default_factory=dict)
    tests: bool = False
    end: float = 0.0


def _watch_samples(asking: Asking, chunks: Sequence[Arrays]) -> _Known:
    known = _Known()
    started = time.monotonic()
    for chunk in chunks:
        if (watch := _watched(asking, chunk)) is None:
            continue
        if not known.seen:
            if not watch.depends:
                break
            known.end = started + max(BUDGET_S, FEWEST_RUNS * (time.monotonic() - started))
        known.seen.add(tuple(watch.taken))
        known.points |= watch.points
        known.tests |= watch.tests
        if time.monotonic() > (started + known.end) / 2:
            break
    return known


def _watched(asking: Asking, chunk: Arrays) -> _Watch | None:
    """Run the module on a batch; None if it fails there, or has no finite answer."""
    watch, subject = _Watch(), asking.subject
    tensors = subject.tensors(asking.laid_out(chunk))
    try:
        with UserCode(subject.where, "forward fails", "correct forward"), torch.no_grad(), eagerly(), watch:
            results = subject(*tensors)
    except ModelError:
        return None
    answers = [result for result in results if result.is_floating_point()]
    return watch if all(bool(answer.isfinite().all()) for answer in answers) else None


def _unlike(chunks: Sequence[Arrays], points: Sequence[float], *, tests: bool, kept: set[str]) -> Iterator[Arrays]:
    """Yield batches unlike the samples. In each, one kind of change is made to all inputs, or to only one of them."""
    if not chunks:
        return
    changed = [name for name, array in chunks[0].items() if name not in kept and array.dtype.kind in "fiub"]
    groups = [changed, *([name] for name in changed if len(changed) > 1)]
    for number, ((kind, value), names) in enumerate(product(_ways(points, tests=tests), groups)):
        base = chunks[number // len(groups) % len(chunks)]
        new = {**base, **{name: _change(base[name], kind, value) for name in names}}
        if any(not np.array_equal(new[name], base[name]) for name in names):
            yield new


def _ways(points: Sequence[float], *, tests: bool) -> Iterator[tuple[str, float]]:
    """Yield the changes, those first that show most."""
    yield from (("times", factor) for factor in FACTORS)
    yield from product(("above", "below", "one", "all", "first", "last"), points)
    yield from (("same", 0.0), ("positive", 30.0), ("positive", -30.0), ("end", 1.0), ("end", 0.0))
    yield from (("one", special) for special in (math.nan, math.inf) if tests)


def _change(array: Array, kind: str, value: float) -> Array:
    """Return a batch `[batch, *dims]` with other values, within what its type holds."""
    values = array.astype(np.float64)
    width = max(1.0, abs(value) / 4)
    if not values.size:
        return array
    flat = values.reshape(len(values), -1)
    middle = flat.shape[1] // 2
    where = {"one": slice(middle, middle + 1), "first": slice(0, 1), "last": slice(-1, None), "all": slice(None)}
    if kind in where:
        flat[:, where[kind]] = value + (width if kind == "one" and array.dtype.kind == "f" else 0)
    elif kind in ("above", "below"):
        spread = np.abs(flat) / max(1.0, float(np.abs(flat).max(initial=0.0)))
        flat = value + (width + spread) * (1 if kind == "above" else -1)
    elif kind == "same":
        flat = np.repeat(flat[:, :1], flat.shape[1], axis=1)
    elif kind == "end":
        flat[:] = float(array.max(initial=0)) if value else float(array.min(initial=0))
    else:
        flat = (np.abs(flat) if kind == "positive" else flat) * value
    return _stored(flat.reshape(array.shape), array)


def _stored(values: Array, like: Array) -> Array:
    if like.dtype.kind == "f":
        most = np.finfo(like.dtype).max
        return np.where(np.isfinite(values), np.clip(values, -most, most), values).astype(like.dtype)
    if like.dtype.kind == "b":
        return values.astype(np.bool_)
    if not np.isfinite(values).all():
        return like
    if like.max(initial=0) <= 1:  # a mask stays one
        return np.clip(np.rint(values), 0, 1).astype(like.dtype)
    limits = np.iinfo(like.dtype)
    return np.clip(np.rint(values), max(limits.min, -(2**31)), min(limits.max, 2**31)).astype(like.dtype)


def reference_of(asking: Asking, inputs: Arrays) -> Arrays:
    """Return one batch with the module's answers: `input:NAME` and `output:NAME`.

    Raises:
        VerificationError: An output does not have a row for each row of the batch.
    """
    before = list(asking.of_other_shapes)
    try:
        return asking.ask(inputs, are_own=True)
    except WrongRowsError as wrong:
        raise wrong.error from wrong
    finally:
        asking.of_other_shapes[:] = before
