"""Read an ONNX file, and check that the following steps can work with it.

`load` parses the file, checks it (known operators, bounded sizes, weights inside the model's folder), hashes it and
returns a `Model`, which nothing changes from then on. `weights_of` checks only the files of weights. `fix_inputs` turns
inputs that never vary into constants, and `keep_outputs` leaves out the outputs that nobody asked for. `inlined` and
`why_not` compare opsets, for the steps that move nodes from one to another. `names` makes names for what they put into
a graph. `refuse_as` says what a file is that is no ONNX file. `zipmap` replaces outputs that are lists of
dictionaries.
"""

from builder.model import pickles, zipmap
from builder.model.archives import Archive, archive_of, traced_inputs
from builder.model.constants import fix_inputs
from builder.model.file_state import FileState
from builder.model.loading import Model, load, weights_of
from builder.model.names import free_name, keep_inner_apart, name_nodes, node_names, value_names
from builder.model.opsets import inlined, why_not
from builder.model.outputs import keep_outputs
from builder.model.recognition import refuse_as
from builder.model.soundness import RUNTIME_OPERATORS
from builder.model.types import Dim, TensorSpec, fits, label, operator, own_domain, stored_dtype

__all__ = [
    "RUNTIME_OPERATORS",
    "Archive",
    "Dim",
    "FileState",
    "Model",
    "TensorSpec",
    "archive_of",
    "fits",
    "fix_inputs",
    "free_name",
    "inlined",
    "keep_inner_apart",
    "keep_outputs",
    "label",
    "load",
    "name_nodes",
    "node_names",
    "operator",
    "own_domain",
    "pickles",
    "refuse_as",
    "stored_dtype",
    "traced_inputs",
    "value_names",
    "weights_of",
    "why_not",
    "zipmap",
]
