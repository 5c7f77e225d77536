"""Change a Triton model repository so that every change is complete, or leaves everything as it was.

`Repository` is a folder of models. `Repository.changing` takes its lock and yields a `Change`, which changes a model:
it installs a version with a finished config (`install`), or serves another one (`serve`). `find_slot` says which number
a version gets. `model_directory` reads one model, `kinds` says what it is, and `listing` reads all of them. `kept`
holds the configs that a model had before. `deployed` records what is on which server, and `pruning` finds out which
versions are not in use.

A change is prepared in the folder of `Staging`, which is an `OwnFolder` with a lock (`locked`), and reaches the
repository by a `transaction`, which also cleans up after a change whose process was killed. `disk` writes files so that
they are on disk afterwards.
"""

from builder.repository import disk, kept, transaction
from builder.repository.change import AdoptedVersion, Change, PublishedVersion, Replacement
from builder.repository.deployed import Deployed, DeploymentRecord, deploying, recorded
from builder.repository.disk import reported
from builder.repository.kept import Keeping, KeptConfig
from builder.repository.kinds import Kind
from builder.repository.listing import ListedModel, ListedVersion
from builder.repository.lock import Wait, locked
from builder.repository.model_directory import ModelDirectory, check_model_name
from builder.repository.models import Repository
from builder.repository.own_folder import OpenFolder, OwnFolder
from builder.repository.pruning import Asked, KeptVersion, Pruning
from builder.repository.slot import Artifact, Slot, find_slot
from builder.repository.staging import Staging

__all__ = [
    "AdoptedVersion",
    "Artifact",
    "Asked",
    "Change",
    "Deployed",
    "DeploymentRecord",
    "Keeping",
    "KeptConfig",
    "KeptVersion",
    "Kind",
    "ListedModel",
    "ListedVersion",
    "ModelDirectory",
    "OpenFolder",
    "OwnFolder",
    "Pruning",
    "PublishedVersion",
    "Replacement",
    "Repository",
    "Slot",
    "Staging",
    "Wait",
    "check_model_name",
    "deploying",
    "disk",
    "find_slot",
    "kept",
    "locked",
    "recorded",
    "reported",
    "transaction",
]
