"""The journal of a change in progress, which tells the next change what a killed process left half done.

It says which version of which model is being moved into the repository, None for no version:
{"model": "m", "version": 5}. If files are added to versions that are there, it names them too:
{"model": "m", "version": null, "added": ["5/manifest.json"]}. What it says is checked before anything is done with it,
because it leads to the deletion of that version or of these files. A journal that is damaged, or of a later release, is
kept aside for whoever wants to look at it.
"""

import json
import re
from dataclasses import dataclass

from builder.errors import RepositoryError
from builder.repository.model_directory import LARGEST_VERSION, check_model_name
from builder.repository.own_folder import OpenFolder

FILE = "journal.json"
STAGED = "journal.tmp"
KEPT = "journal.bad-{}"

_MOST_KEPT = 3
_LIMIT = 1 << 20
"""The most bytes of a journal; ours have at most 300, or 80 for each file that is added."""

_ADDED = re.compile(r"[1-9][0-9]{0,18}/(reference\.npz|manifest\.json)|config\.pbtxt")
"""What can be added to a model that is there: never a file that a server reads."""


@dataclass(frozen=True, slots=True)
class Journal:
    """The change in progress.

    Attributes:
        model: The model.
        version: The version that is added; None when none is.
        added: The files that are added, in this order, relative to the model's folder.
    """

    model: str
    version: int | None
    added: tuple[str, ...] = ()

    def to_json(self) -> bytes:
        """Return the content of the file."""
        content: dict[str, object] = {"model": self.model, "version": self.version}
        return json.dumps(content | ({"added": self.added} if self.added else {})).encode()


def read(folder: OpenFolder) -> Journal | None:
    """Read the journal; None when there is none.

    Raises:
        ValueError: It is damaged, or a later release wrote it.
    """
    try:
        content = json.loads(folder.read(FILE, limit=_LIMIT))
    except FileNotFoundError:
        return None
    except PermissionError as error:
        raise ValueError("this user may not read it") from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    if not isinstance(content, dict) or content.keys() - {"added"} != {"model", "version"}:
        raise ValueError("its fields are not those of this release")
    model, version, added = content["model"], content["version"], content.get("added", [])
    if not isinstance(added, list) or not all(isinstance(path, str) and _ADDED.fullmatch(path) for path in added):
        raise ValueError("it names files that no change adds")
    if not isinstance(model, str) or not (version is None or (type(version) is int and 0 < version <= LARGEST_VERSION)):
        raise ValueError("its values are not those of a change")
    try:
        check_model_name(model)
    except RepositoryError as error:
        raise ValueError(error.what) from error
    return Journal(model, version, tuple(added))


def keep_aside(folder: OpenFolder) -> str:
    """Rename the journal, whatever it is, and return its new name; the oldest of those kept before is deleted."""
    kept = set(folder.names())
    if KEPT.format(_MOST_KEPT) in kept:
        folder.remove(KEPT.format(_MOST_KEPT))
    for n in reversed(range(1, _MOST_KEPT)):
        if KEPT.format(n) in kept:
            _rename(folder, KEPT.format(n), KEPT.format(n + 1))
    _rename(folder, FILE, KEPT.format(1))
    return KEPT.format(1)


def _rename(folder: OpenFolder, before: str, after: str) -> None:
    (folder.path / before).rename(folder.path / after)
