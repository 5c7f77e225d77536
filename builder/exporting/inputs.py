"""Check the inputs and axes that the user names, and make the values to export with."""

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx_ir as ir

from builder.errors import ModelError
from builder.exporting.options import ExportOptions, InputSpec
from builder.model import stored_dtype
from builder.tensors import Array, Arrays

BATCH = "batch"
"""The name of the dynamic batch axis."""


def check(factory: str, options: ExportOptions) -> None:
    """Check that every named axis exists and is named once, and that all inputs have the same batch size.

    Raises:
        ModelError: One of these does not hold.
    """
    shapes = {spec.name: spec.shape for spec in options.inputs}
    _check_names(factory, options)
    for name, axis in options.batch_axes.items():
        _check_axis(factory, "--batch-axis", axis, name, shapes)
    _check_dynamic(factory, options, shapes)
    if not options.is_static:
        _check_batch(factory, options)


def _check_names(factory: str, options: ExportOptions) -> None:
    """Check that no tensor or constant is given twice, alone or as a part of another."""
    given = {spec.path: "--input" for spec in options.inputs}
    if len(given) < len(options.inputs):
        raise ModelError(factory, "--input gives the same input twice", "give each input once")
    for name in options.constants:
        path = tuple(name.split("."))
        if path in given:
            raise ModelError(factory, f"--input and --constant both name {name!r}", "leave one of them out")
        given[path] = "--constant"
    for path, whole in itertools.product(given, given):
        if len(path) > len(whole) and path[: len(whole)] == whole:
            inner, outer = f"{given[path]} {'.'.join(path)}", f"{given[whole]} {'.'.join(whole)}"
            raise ModelError(factory, f"{inner} is a part of {outer}", f"leave out {outer}, or name only its parts")
    named: dict[str, str] = {}
    for spec in options.inputs:
        if (other := named.setdefault(spec.name, spec.given)) != spec.given:
            what = f"the inputs {other} and {spec.given} would both be called {spec.name!r} in the ONNX model"
            raise ModelError(factory, what, "rename one of the two parameters in forward")


def _check_dynamic(factory: str, options: ExportOptions, shapes: Mapping[str, Sequence[int]]) -> None:
    sizes: dict[str, int] = {}
    for name, axis, label in _dynamic_axes(options):
        _check_axis(factory, "--dynamic", axis, name, shapes)
        size = shapes[name][axis]
        if axis == options.batch_axes.get(name, 0):
            what = f"--dynamic names axis {axis} of {name!r}, which is the batch and always dynamic"
            raise ModelError(factory, what, "leave it out of --dynamic")
        if label == BATCH:
            what = f"--dynamic calls axis {axis} of {name!r} {BATCH!r}, which is the name of the batch axis"
            raise ModelError(factory, what, "choose another name")
        if sizes.setdefault(label, size) != size:
            what = f"--dynamic gives the name {label!r} to axes of different sizes, {sizes[label]} and {size}"
            raise ModelError(factory, what, "give each of them its own name")


def _dynamic_axes(options: ExportOptions) -> Iterator[tuple[str, int, str]]:
    for name, axes in options.dynamic.items():
        yield from ((name, axis, label) for axis, label in axes.items())


def _check_axis(factory: str, option: str, axis: int | None, name: str, shapes: Mapping[str, Sequence[int]]) -> None:
    listed = ", ".join(f"{known} {list(shape)}" for known, shape in shapes.items())
    if name not in shapes:
        raise ModelError(factory, f"{option} names {name!r}, which is not an input", f"use one of {listed}")
    if axis is not None and not 0 <= axis < len(shapes[name]):
        what = f"{option} names axis {axis} of {name!r}, which has shape {list(shapes[name])}"
        raise ModelError(factory, what, "count the axes from 0, as in INPUT:1=NAME or INPUT=1")


def _check_batch(factory: str, options: ExportOptions) -> None:
    axes = {spec.name: options.batch_axes.get(spec.name, 0) for spec in options.inputs}
    having = [(spec, axis) for spec in options.inputs if (axis := axes[spec.name]) is not None]
    batches = {spec.shape[axis] if spec.shape else None for spec, axis in having}
    if batches and batches != {1} and None in axes.values():
        what = "the batch has to be 1 where --batch-axis names an input without a batch"
        raise ModelError(factory, what, "give a batch of 1 to each other --input")
    if having and (len(batches) != 1 or None in batches):
        listed = ", ".join(f"{spec.name} {list(spec.shape)} (axis {axis})" for spec, axis in having)
        fix = "give all inputs the same batch size, name the batch with --batch-axis INPUT=AXIS, or INPUT=none for an "
        fix += "input without one, or use --static"
        raise ModelError(factory, f"the inputs have different batch sizes: {listed}", fix)


def static_example(options: ExportOptions) -> Arrays:
    """Return values for every input, in exactly the shapes that the user gives."""
    return {spec.name: _example(spec, spec.shape) for spec in options.inputs}


def dynamic_example(options: ExportOptions) -> Arrays:
    """Return values for every input, with a batch size that an exporter can make dynamic."""
    batch = _batch_to_trace(options.inputs)
    return {spec.name: _example(spec, (batch, *spec.shape[1:])) for spec in options.inputs}


def _batch_to_trace(inputs: Sequence[InputSpec]) -> int:
    """Return the given batch size if it is above 1, or else a size that no other dimension has.

    `torch.export` treats a size of 1 as a constant. For `x[1, 2, 3]` the result is 4: with 2 or 3, an exporter could
    take another axis for the batch.
    """
    given = inputs[0].shape[0]
    dimensions = {dim for spec in inputs for dim in spec.shape}
    return given if given > 1 else next(n for n in itertools.count(2) if n not in dimensions)


def _example(spec: InputSpec, shape: tuple[int, ...]) -> Array:
    """Return standard normal floats, or ones for other types.

    Ones are valid indices in every table, and are neither an empty mask nor a length of 0.
    """
    values: Array = np.ones(shape)
    if spec.dtype.is_floating_point():
        values = np.random.default_rng(len(spec.name)).standard_normal(shape)
    if spec.dtype == ir.DataType.BFLOAT16:
        return values.astype(spec.dtype.numpy()).view(np.uint16)
    return values.astype(stored_dtype(spec.dtype))
