"""Replace scikit-learn's ZipMap, which returns a list of dictionaries, by the tensor that it reads.

Triton serves only tensors.

Source: https://onnx.ai/onnx/operators/onnx_aionnxml_ZipMap.html
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from builder.tensors import Array

Labels = tuple[int | str, ...]
"""The keys of the dictionaries, in the order of the tensor's columns."""


def take_out(proto: onnx.ModelProto) -> dict[str, Labels]:
    """Replace every graph output that comes from a ZipMap by the tensor that the ZipMap reads, under the same name.

    Returns:
        By output, the labels of the tensor's columns.
    """
    graph = proto.graph
    makers = {name: node for node in graph.node for name in node.output}
    found: dict[str, Labels] = {}
    for output in graph.output:
        node = makers.get(output.name)
        if node is None or node.op_type != "ZipMap" or node.domain != "ai.onnx.ml":
            continue
        labels = _labels(node)
        if not labels:
            continue
        found[output.name] = labels
        node.op_type, node.domain = "Identity", ""
        del node.attribute[:]
        output.type.CopyFrom(onnx.helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, [_rows(graph), len(labels)]))
    if found and all(opset.domain not in ("", "ai.onnx") for opset in proto.opset_import):
        proto.opset_import.append(onnx.helper.make_opsetid("", 13))
    return found


def _labels(node: onnx.NodeProto) -> Labels:
    """Return the labels of a ZipMap; empty when the node is malformed."""
    for attribute in node.attribute:
        if attribute.name == "classlabels_int64s":
            return tuple(attribute.ints)
        if attribute.name == "classlabels_strings":
            return tuple(text.decode(errors="replace") for text in attribute.strings)
    return ()


def _rows(graph: onnx.GraphProto) -> int | str:
    """Return the size of the first input's first axis, which is the batch."""
    dims = [dim for value in graph.input[:1] for dim in value.type.tensor_type.shape.dim[:1]]
    return dims[0].dim_value if dims and dims[0].HasField("dim_value") else "batch"


def as_tensor(rows: Sequence[Mapping[Any, float]], labels: Labels) -> Array:
    """Turn the dictionaries that the original model returns into the tensor: `float32[N, labels]`."""
    return np.asarray([[row[label] for label in labels] for row in rows], np.float32)
