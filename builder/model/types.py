"""Describe tensors without their values, and how values of each type are stored."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir

from builder.tensors import Array

Dim = int | str
"""A fixed size, or the name of a symbolic one."""


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A graph input or output: its name, element type and full shape (the batch included)."""

    name: str
    dtype: ir.DataType
    shape: tuple[Dim, ...]


def stored_dtype(dtype: ir.DataType) -> np.dtype[Any]:
    """Return the NumPy type that holds values of an ONNX type."""
    if dtype == ir.DataType.STRING:
        return np.dtype(np.str_)
    return np.dtype(np.uint16) if dtype == ir.DataType.BFLOAT16 else dtype.numpy()


def fits(array: Array, dtype: ir.DataType, shape: Sequence[Dim]) -> bool:
    """Return whether an array has this ONNX type and shape; a named dimension may have any size."""
    stored = stored_dtype(dtype)
    has_type = array.dtype.kind == stored.kind if dtype == ir.DataType.STRING else array.dtype == stored
    return has_type and len(shape) == array.ndim and all(map(_takes, shape, array.shape))


def _takes(dim: Dim, size: int) -> bool:
    return isinstance(dim, str) or dim == size


def own_domain(domain: str) -> str:
    """Return a domain with ONNX's own always written "", never "ai.onnx"."""
    return "" if domain == "ai.onnx" else domain


def operator(node: ir.Node) -> tuple[str, str]:
    """Return the domain and type of a node's operator: the key in all tables of operators."""
    return own_domain(node.domain), node.op_type


def label(node: ir.Node) -> str:
    """Return how messages name a node: its operator, and its name or, without one, its first output's."""
    return f"{node.op_type} {node.name or node.outputs[0].name!r}"
