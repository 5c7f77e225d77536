"""Change a Triton model repository: install a version, switch between versions, remove old ones.

`Repository` is a folder of models; `model_directory` reads one of them, and `staging` makes each change complete or
leaves the repository as it was, even when the process is killed.
"""

from builder.repository.model_directory import ModelDirectory, check_model_name
from builder.repository.versions import Artifact, ListedModel, ListedVersion, PublishedVersion, Repository, Switch

__all__ = [
    "Artifact",
    "ListedModel",
    "ListedVersion",
    "ModelDirectory",
    "PublishedVersion",
    "Repository",
    "Switch",
    "check_model_name",
]
