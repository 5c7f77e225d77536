"""Keep what a tuning measured, write its result back, and undo that.

`record` is the file that it leaves beside the repository, `conditions` says when its measurements can be used again,
`applying` changes config.pbtxt and the servers, `undoing` takes that back, and `applied` is what the record says of it.
"""

from builder.tuning.keeping.applying import Applied, apply, preview
from builder.tuning.keeping.conditions import Conditions, ModelFacts, changed_fields
from builder.tuning.keeping.record import Record, TuningStore, as_document, now, tuning
from builder.tuning.keeping.undoing import Connect, undo

__all__ = [
    "Applied",
    "Conditions",
    "Connect",
    "ModelFacts",
    "Record",
    "TuningStore",
    "apply",
    "as_document",
    "changed_fields",
    "now",
    "preview",
    "tuning",
    "undo",
]
