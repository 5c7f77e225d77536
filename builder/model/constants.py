"""Turn inputs that have the same value in every request into constants of the model."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx_ir as ir

from builder.arrays import read_npy
from builder.errors import ModelError
from builder.files import reason
from builder.model.loading import INITIALIZERS_ALONE, Model
from builder.model.types import TensorSpec, fits, stored_dtype
from builder.tensors import Array

LARGEST = 2**31 - 1
"""The most bytes of a constant: what an ONNX file can hold besides external weights."""


FLOATS_ONLY = 2**63
"""No integer from here up is filled in exactly: NumPy would make an array of Python objects of it."""


def fix_inputs(model: Model, values: Mapping[str, object]) -> Model:
    """Return the model with these inputs turned into initializers. Optional inputs may be named, too.

    Args:
        model: The model as it was loaded.
        values: By input, a number to fill it with, or an .npy file that contains an array of its type and shape.

    Raises:
        ModelError: There is no such input, or the value has another type or shape.
    """
    if not values:
        return model
    specs = {spec.name: spec for spec in (*model.inputs, *model.optional)}
    if unknown := sorted(values.keys() - specs.keys()):
        fix = f"use the name of an input: {', '.join(sorted(specs))}"
        raise ModelError(model.path, f"--constant names {', '.join(unknown)}, but there is no such input", fix)
    constants = {name: _array(model.path, specs[name], value) for name, value in values.items()}
    fixed = model.ir.clone()
    fixed.ir_version = max(fixed.ir_version, INITIALIZERS_ALONE)
    for value in [value for value in fixed.graph.inputs if value.name in constants]:
        fixed.graph.inputs.remove(value)
        value.const_value = _tensor(specs[str(value.name)], constants[str(value.name)])
        fixed.graph.initializers.pop(str(value.name), None)  # the former value of an optional input
        fixed.graph.register_initializer(value)
    inputs, optional = (tuple(s for s in side if s.name not in constants) for side in (model.inputs, model.optional))
    return replace(model, ir=fixed, inputs=inputs, constants=constants, optional=optional)


def _tensor(spec: TensorSpec, array: Array) -> ir.TensorProtocol:
    if spec.dtype == ir.DataType.STRING:
        texts = [str(text).encode() for text in array.ravel()]
        return ir.StringTensor(texts, shape=ir.Shape(array.shape), name=spec.name)
    values = array.view(spec.dtype.numpy()) if spec.dtype == ir.DataType.BFLOAT16 else array
    return ir.tensor(values, dtype=spec.dtype, name=spec.name)


def _array(path: Path, spec: TensorSpec, value: object) -> Array:
    """Return the value as an array of the input's type and shape."""
    dtype = stored_dtype(spec.dtype)
    wanted = f"{dtype.name}{list(spec.shape)}"
    if isinstance(value, Path):
        array = _read(value, wanted)
        if not fits(array, spec.dtype, spec.shape):
            what = f"the array is {array.dtype.name}{list(array.shape)}, but the input {spec.name!r} is {wanted}"
            raise ModelError(value, what, f"save an array of {wanted} to this file")
        return array
    if not isinstance(value, int | float):
        fix = f"pass --constant {spec.name}=VALUE with a number, or FILE.npy with an array of {wanted}"
        raise ModelError(path, f"--constant {spec.name}={value} is not a number", fix)
    value = value if abs(value) < FLOATS_ONLY else float(value)
    sizes = [dim for dim in spec.shape if isinstance(dim, int)]
    if len(sizes) < len(spec.shape) or dtype.kind == "U" or spec.dtype == ir.DataType.BFLOAT16:
        fix = f"save an array of {wanted} with numpy.save, and pass --constant {spec.name}=FILE.npy"
        raise ModelError(path, f"the input {spec.name!r} ({wanted}) cannot be filled with a number", fix)
    with np.errstate(over="ignore"):
        filled = np.full(sizes, value).astype(dtype)
    if dtype.kind != "f" and (filled != value).any():
        what = f"the input {spec.name!r} is {wanted}, which cannot hold {value:g}"
        raise ModelError(path, what, f"pass --constant {spec.name}=VALUE with a number that {dtype.name} can hold")
    return filled


def _read(path: Path, wanted: str) -> Array:
    fix = f"save one array of {wanted} to this file with numpy.save"
    try:
        return read_npy(path, limit=LARGEST)
    except OSError as error:
        what = f"the file cannot be read: {reason(error)}"
        raise ModelError(path, what, "check the path and the file's permissions") from error
    except ValueError as error:
        raise ModelError(path, f"the array cannot be read: {error}", fix) from error
