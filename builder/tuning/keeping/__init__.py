"""Keep what a tuning measured, write its result back, and undo that.

`record` is what it leaves beside the repository, `store` keeps that, `reading` reads it again, and `conditions` says
when its measurements still hold. `applying` changes config.pbtxt and the servers, and `applied` is what is written down
of that. `undoing` takes it back, also on the servers, with `reaching`.
"""

from builder.tuning.keeping.applying import Applied, apply, preview
from builder.tuning.keeping.conditions import Conditions, ModelFacts, changed_fields
from builder.tuning.keeping.reaching import UndoAccess
from builder.tuning.keeping.record import Record, as_document, now
from builder.tuning.keeping.store import TuningStore, tuning
from builder.tuning.keeping.undoing import Connect, undo

__all__ = [
    "Applied",
    "Conditions",
    "Connect",
    "ModelFacts",
    "Record",
    "TuningStore",
    "UndoAccess",
    "apply",
    "as_document",
    "changed_fields",
    "now",
    "preview",
    "tuning",
    "undo",
]
