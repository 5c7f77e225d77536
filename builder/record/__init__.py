"""Describe a published version: its manifest, and its reference, the samples and answers it was proven with.

The proof makes both, config.pbtxt is made from them, and the repository stores them with the model, so that `verify`
and `deploy` can compare the version's answers again later. `manifest` reads and writes `manifest.json`, with
what `quantization`, `accuracy` and `speed` found, and `reference` the arrays in `reference.npz`.
"""

from builder.record.accuracy import Accuracy
from builder.record.manifest import FILE as MANIFEST_FILE
from builder.record.manifest import (
    MOST_REWRITTEN,
    Content,
    Download,
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
from builder.record.quantization import Quantization
from builder.record.reference import FILE as REFERENCE_FILE
from builder.record.reference import first_row, raw_bytes, read_reference, write_arrays
from builder.record.speed import Speed

__all__ = [
    "MANIFEST_FILE",
    "MOST_REWRITTEN",
    "REFERENCE_FILE",
    "Accuracy",
    "Content",
    "Download",
    "Manifest",
    "ModelFile",
    "OutputProof",
    "Plan",
    "Proof",
    "Quantization",
    "ReferenceFile",
    "ServedTensor",
    "Source",
    "Speed",
    "check_served",
    "first_row",
    "raw_bytes",
    "read_manifest",
    "read_reference",
    "write_arrays",
]
