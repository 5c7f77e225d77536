"""Describe a published version: its manifest, and its reference, the samples and answers it was proven with.

The proof makes both, config.pbtxt is made from them, and the repository stores them with the model, so that `verify`
and `deploy` can compare the version's answers again later. `manifest` reads and writes `manifest.json`, with the files
of the version (`model_file`), what was compared (`proof`), its TensorRT plans (`plan`), and what `quantization`,
`accuracy` and `speed` found. `reference` has the arrays in `reference.npz`, and `decoding` reads JSON that anybody may
have written.
"""

from builder.record.accuracy import Accuracy, Score, accuracy_figure, accuracy_limit, accuracy_points
from builder.record.manifest import FILE as MANIFEST_FILE
from builder.record.manifest import (
    MOST_REWRITTEN,
    Download,
    Manifest,
    ReferenceFile,
    ServedTensor,
    Source,
    check_served,
    read_manifest,
)
from builder.record.model_file import Content, ModelFile
from builder.record.plan import COMPUTE_CAPABILITY, PLAN_FILE, Plan, plan_file, timing_cache_file
from builder.record.proof import OutputProof, Proof
from builder.record.quantization import Quantization
from builder.record.reference import FILE as REFERENCE_FILE
from builder.record.reference import first_row, raw_bytes, read_reference, write_arrays
from builder.record.speed import Speed, SpeedOfBatch

__all__ = [
    "COMPUTE_CAPABILITY",
    "MANIFEST_FILE",
    "MOST_REWRITTEN",
    "PLAN_FILE",
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
    "Score",
    "ServedTensor",
    "Source",
    "Speed",
    "SpeedOfBatch",
    "accuracy_figure",
    "accuracy_limit",
    "accuracy_points",
    "check_served",
    "first_row",
    "plan_file",
    "raw_bytes",
    "read_manifest",
    "read_reference",
    "timing_cache_file",
    "write_arrays",
]
