"""What a published version says of itself: its manifest, and the samples and answers it was proven with.

The proof writes them, config.pbtxt is made from them, and the repository keeps them beside the model.
"""

from builder.record.manifest import (
    Content,
    Manifest,
    ModelFile,
    OutputProof,
    Plan,
    Proof,
    ReferenceFile,
    ServedTensor,
    Source,
    check_served,
    read_manifest,
)
from builder.record.reference import first_row, raw_bytes, read_arrays, write_arrays

__all__ = [
    "Content",
    "Manifest",
    "ModelFile",
    "OutputProof",
    "Plan",
    "Proof",
    "ReferenceFile",
    "ServedTensor",
    "Source",
    "check_served",
    "first_row",
    "raw_bytes",
    "read_arrays",
    "read_manifest",
    "write_arrays",
]
