"""Change a Triton model repository so that every change is complete, or leaves everything as it was.

`Repository` is a folder of models. `Repository.changing` takes its lock and yields a `Change`, which says which number
a version would get (`find_slot`) and installs it with a finished config (`install`), or serves an older version
(`serve`). `model_directory` reads one model, `listing` all of them. `staging` holds the lock, and cleans up after a
change whose process was killed.
"""

from builder.repository import staging
from builder.repository.change import Artifact, Change, PublishedVersion, Slot
from builder.repository.listing import ListedModel, ListedVersion
from builder.repository.model_directory import ModelDirectory, check_model_name
from builder.repository.models import Repository
from builder.repository.staging import Staging, reported

__all__ = [
    "Artifact",
    "Change",
    "ListedModel",
    "ListedVersion",
    "ModelDirectory",
    "PublishedVersion",
    "Repository",
    "Slot",
    "Staging",
    "check_model_name",
    "reported",
    "staging",
]
