"""Read an ONNX file and check that it is one this project can work with.

`load` parses the file, checks that it is sound (known operators, bounded sizes, weights inside the model's folder) and
returns a `Model`, which nothing changes from then on. `fix_inputs` turns inputs that never vary into constants.
"""

from builder.model.constants import fix_inputs
from builder.model.loading import Model, load
from builder.model.types import Dim, TensorSpec, fits, label, operator, own_domain, stored_dtype

__all__ = [
    "Dim",
    "Model",
    "TensorSpec",
    "fits",
    "fix_inputs",
    "label",
    "load",
    "operator",
    "own_domain",
    "stored_dtype",
]
