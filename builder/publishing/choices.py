"""What the inputs of a model may be if they are not samples with the batch on axis 0."""

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import combinations, product

import onnx_ir as ir

from builder.model import Dim, Model, TensorSpec, operator

MOST_CHANGED = 3
"""How many kinds of inputs get another axis at a time."""

SMALL_ELEMENTS = 64
"""An input with more elements is data, not a setting."""

Axes = Mapping[str, int | None]


def other_axes(inputs: Sequence[TensorSpec], asked: Axes) -> Iterator[dict[str, int | None]]:
    """Yield other axes for the batch. Few changes come before many, and those where an input has no batch come last.

    Inputs with the same shape, such as the states of all layers, change together.

    Args:
        inputs: The inputs.
        asked: The axes that did not work; None for an input without a batch.
    """
    kinds: dict[object, list[TensorSpec]] = {}
    for spec in inputs:
        kinds.setdefault((spec.shape, asked.get(spec.name, 0)), []).append(spec)
    choices = [(specs, _choices(specs[0], inputs, asked)) for specs in kinds.values()]
    for has_none in (False, True):
        for count in range(1, 1 + min(MOST_CHANGED, len(kinds))):
            for changed in combinations(choices, count):
                for chosen in product(*(axes for _, axes in changed)):
                    if (None in chosen) == has_none:
                        pairs = zip(changed, chosen, strict=True)
                        yield {**asked, **{spec.name: axis for (specs, _), axis in pairs for spec in specs}}


def _choices(spec: TensorSpec, inputs: Sequence[TensorSpec], asked: Axes) -> list[int | None]:
    """Return the axes that may hold the batch of an input, without the one that did not work.

    Axis 0 may hold several rows of each sample if its size is a multiple of another input's. Finally, the input may
    have no batch at all.
    """
    first = spec.shape[0] if spec.shape else 1
    shapes = [other.shape for other in inputs if other.shape and other.name != spec.name]
    sizes = _sizes(spec.shape, shapes)
    found: list[int | None] = [axis for axis, dim in enumerate(spec.shape) if axis > 0 and dim in sizes]
    if any(_is_part(shape[0], first) for shape in shapes):
        found.append(0)
    if not spec.shape or first != 1:
        found.append(None)
    return [axis for axis in found if spec.name not in asked or asked[spec.name] != axis]


def _sizes(shape: Sequence[Dim], others: Sequence[Sequence[Dim]]) -> set[Dim]:
    """Return the sizes that the batch may have: of axis 0 of another input, or of some axis in all other inputs.

    If axis 0 of the input is static, the batch may also be of that size (a state with as many layers as samples), 1, or
    symbolic.
    """
    found: set[Dim] = {other[0] for other in others}
    if others:
        found |= set.intersection(*map(set, others))
    if shape and isinstance(shape[0], int):
        found |= {1, shape[0], *(dim for dim in shape if isinstance(dim, str))}
    return found


def _is_part(size: Dim, whole: Dim) -> bool:
    return isinstance(size, int) and isinstance(whole, int) and 1 < size < whole and whole % size == 0


def settings(inputs: Sequence[TensorSpec], axes: Axes | None = None) -> Iterator[list[str]]:
    """Yield groups of inputs that may be settings, such as a scale, a rate or a time step.

    They are small. If `axes` is given, they are the inputs without a batch in it. Otherwise they are those whose axis 0
    is not the batch; the batch may be axis 0 of any input, and the largest inputs come first.
    """
    small = [spec for spec in inputs if _is_small(spec)]
    if axes is not None:
        found = [[spec.name for spec in small if axes.get(spec.name, 0) is None]]
    else:
        by_size = sorted(inputs, key=_elements, reverse=True)
        batches = dict.fromkeys(spec.shape[0] for spec in by_size if spec.shape)
        found = [[spec.name for spec in small if spec.shape[:1] != (batch,)] for batch in batches]
    yield from (names for names in found if 0 < len(names) < len(inputs))


def _elements(spec: TensorSpec) -> int:
    return math.prod(dim for dim in spec.shape if isinstance(dim, int))


def _is_small(spec: TensorSpec) -> bool:
    return all(isinstance(dim, int) for dim in spec.shape) and _elements(spec) <= SMALL_ELEMENTS


def compared_with(model: Model, name: str) -> float | None:
    """Return the number that the graph compares an input with, such as the 16000 in `Equal(sr, 16000)`."""
    value = next((value for value in model.ir.graph.inputs if value.name == name), None)
    for node in () if value is None else value.consumers():
        others = [other for other in node.inputs if other is not None and other is not value]
        tensor = ir.convenience.get_const_tensor(others[0]) if others else None
        if operator(node) == ("", "Equal") and tensor is not None and tensor.size == 1:
            return float(tensor.numpy().reshape(-1)[0])
    return None
