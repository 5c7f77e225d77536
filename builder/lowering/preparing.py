"""Prepare a graph for a lower precision."""

from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes.common import LiftConstantsToInitializersPass, ShapeInferencePass

from builder.model import inlined


def prepared(source: ir.Model, where: Path) -> ir.Model:
    """Return a copy without functions, with its constants as initializers and a type for every value."""
    model = inlined(source, where=where)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    # Outputs that are left out have the name "". Inference gives types only to values with a name of their own.
    left_out = [output for node in model.graph for output in node.outputs if not output.name]
    for number, output in enumerate(left_out):
        output.name = f"left out: {number}"
    ShapeInferencePass(check_type=False, strict_mode=False, data_prop=False)(model)
    for output in left_out:
        output.name = ""
    for value in model.graph.initializers.values():
        if value.const_value is not None:
            value.type = ir.TensorType(value.const_value.dtype)
    return model
