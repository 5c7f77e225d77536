"""Arrays, and the element types that ONNX, Triton and PyTorch share."""

from collections.abc import Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
"""A tensor's values. Strings are stored as NumPy's unicode, BF16 as its bits in uint16."""

Arrays = Mapping[str, Array]
"""Tensors by name."""

TRITON_TYPES: Mapping[str, str] = {
    "BOOL": "TYPE_BOOL",
    "UINT8": "TYPE_UINT8",
    "UINT16": "TYPE_UINT16",
    "UINT32": "TYPE_UINT32",
    "UINT64": "TYPE_UINT64",
    "INT8": "TYPE_INT8",
    "INT16": "TYPE_INT16",
    "INT32": "TYPE_INT32",
    "INT64": "TYPE_INT64",
    "FLOAT16": "TYPE_FP16",
    "FLOAT": "TYPE_FP32",
    "DOUBLE": "TYPE_FP64",
    "STRING": "TYPE_STRING",
    "BFLOAT16": "TYPE_BF16",
}
"""ONNX element types by name, and what Triton calls them.

Source: https://github.com/triton-inference-server/common/blob/main/protobuf/model_config.proto, DataType
"""

TORCH_TYPES: Mapping[str, str] = {
    "float16": "FLOAT16",
    "float32": "FLOAT",
    "float64": "DOUBLE",
    "bfloat16": "BFLOAT16",
    "int8": "INT8",
    "int16": "INT16",
    "int32": "INT32",
    "int64": "INT64",
    "uint8": "UINT8",
    "bool": "BOOL",
}
"""Element types that PyTorch, ONNX Runtime and Triton share: PyTorch's names, and ONNX's."""
