"""Change a model repository completely or not at all, even when the process is killed.

A change is prepared in `.ROOT.staging/`, next to the root and on the same filesystem. It reaches the root only by
`rename`, which happens at once or not at all. To add version 5 of the model `m` to `models/`:

1. `.models.staging/version/`, `kept.pbtxt` (the config that is there) and `config.pbtxt` (the one to come) are written
   and flushed to disk;
2. `.models.staging/journal.json` is written: {"model": "m", "version": 5};
3. `version/` is renamed to `models/m/5`: Triton does not load it yet, because the config still names version 4;
4. `kept.pbtxt` is renamed to `models/m/4/config.1.pbtxt`, where the config of version 4 is kept;
5. `config.pbtxt` is renamed to `models/m/config.pbtxt`, which names version 5;
6. the journal is deleted first, then whatever else is in the staging folder.

Step 5 is the point of no return. If anything fails before it, what was renamed is renamed back, and nothing has
changed. What fails after it, such as flushing the folders to disk, does not undo the change, and is a note. From step 2
on Ctrl-C waits, so it never comes between a rename and the record of it.

If the process is killed in between, the next change finds the journal, and sees from the staged pieces that are left
how far it got:

| killed  | version/ | config.pbtxt | what the next change does                                           |
|---------|----------|--------------|---------------------------------------------------------------------|
| after 1 | there    | there        | there is no journal: it empties the staging folder                  |
| after 2 | there    | there        | the repository is as it was before: it empties the staging folder   |
| after 3 | gone     | there        | it removes `models/m/5`, unless somebody set the config to 5        |
| after 4 | gone     | there        | the same; the kept config stays, and is not kept a second time      |
| after 5 | gone     | gone         | the change was complete: it empties the staging folder              |

What step 4 leaves is true without step 5: it is the config that serves version 4, byte for byte.

A journal that cannot be read is kept aside, and the next change goes on without it. That is safe after every step:
after 1, 2 and 5 the journal changes nothing. After 3 and 4, version 5 stays in the repository. It is complete and on
disk, because step 1 came first; the config does not name it; and the next version is 6. So it is a version like those
that `rollback` left. The same holds for a journal of a later release as long as that release, too, moves only complete
versions, and the config last.

To adopt a version that is there, its manifest and reference are staged as `added-0` and so on, and the journal names
their places: {"model": "m", "version": null, "added": ["5/reference.npz", "5/manifest.json"]}. They are renamed there
one after the other, and the last rename is the point of no return. If the process is killed before it, the next change
finds the last one still staged, and removes those that are not.

If the model has no config yet, `added` names config.pbtxt: then the version in place is not served by a config that
somebody has removed since, and is taken back.

A rollback has no version/: steps 1 and 3 leave it out, and the journal's version is null. A first publish prepares the
whole folder of the model and moves it with one rename, the point of no return, so it needs no journal. A version that
is added without being served needs none either: the config that is there is kept first, and the rename of `version/`
is the point of no return. `prune` renames
versions into the staging folder, all or none of them; the last rename is its point of no return, and if it is killed,
the versions that it had removed stay removed. Warmup and label files are moved before step 1: their names are digests
of their content, so no file that a server may be reading is ever replaced.
"""

import os
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from builder import files, interrupts
from builder.config import LABEL_FILE, pbtxt
from builder.errors import RepositoryError
from builder.repository import journal
from builder.repository.disk import reason, rename, sync, sync_all, write
from builder.repository.journal import Journal
from builder.repository.model_directory import ModelDirectory
from builder.repository.own_folder import OpenFolder, close, entries

WARMUP = "warmup"
CONFIG = pbtxt.FILE
KEPT = "kept.pbtxt"
PREPARED = "prepared.pbtxt"
VERSION = "version"
MODEL = "model"

OWN_WARMUP_FILE = re.compile(r"[0-9a-f]{64}\.raw")

_OTHER_CONFIGS = ("[0-9]*/config.*.pbtxt", "configs/*.pbtxt")
_MOST_BYTES = 10_000_000

LEFT_OVER = re.compile(
    rf"{VERSION}|{MODEL}|{re.escape(CONFIG)}|{re.escape(KEPT)}|{re.escape(PREPARED)}|added-\d+|candidate"
    rf"|(removed|pruned)(-\d+)?|{OWN_WARMUP_FILE.pattern}|{LABEL_FILE.pattern}|{re.escape(journal.STAGED)}"
)
"""The names in the staging folder that a change leaves there."""


@dataclass(frozen=True, slots=True)
class _Move:
    """A rename that can be taken back: from where, to where, and what was renamed."""

    source: Path
    target: Path
    moved: os.stat_result

    def is_done(self) -> bool:
        """Return whether it took place, even if an error was reported."""
        try:
            return os.path.samestat(os.lstat(self.target), self.moved)
        except OSError:
            return False


@dataclass(slots=True)
class Transaction:
    """One change to a model while the lock is held.

    Attributes:
        root: The model repository.
        model: The model's name.
        folder: The staging folder.
        notes: What failed after the point of no return, and what that means; one sentence each.
    """

    root: Path
    model: str
    folder: OpenFolder
    notes: list[str] = field(default_factory=list)
    _moves: list[_Move] = field(default_factory=list)

    @property
    def path(self) -> Path:
        """The path of the staging folder."""
        return self.folder.path

    def switch(self, *, version: int | None, kept: str | None = None) -> None:
        """Move the staged version into the repository, then the staged config, which makes Triton serve it.

        Args:
            version: The number of the version; None if none is added.
            kept: Where in the model's folder the config that is there is kept before, if it is.
        """
        target = self.root / self.model
        interrupts.hold()
        added = () if os.path.lexists(target / CONFIG) else (CONFIG,)
        write(self.path / journal.STAGED, Journal(self.model, version, added).to_json())
        rename(self.path / journal.STAGED, self.path / journal.FILE)
        if version is not None:
            self._move(self.path / VERSION, target / str(version))
            sync_all((target, self.path))
        self._keep(kept)
        self._commit(self.path / CONFIG, target / CONFIG)

    def place(self, source: str, target: str, *, kept: str | None) -> None:
        """Move something staged into the model's folder, after the config that is there is kept; nothing is served.

        Args:
            source: Its name in the staging folder.
            target: Its place in the model's folder.
            kept: Where in the model's folder the config is kept, if it is.
        """
        interrupts.hold()
        self._keep(kept)
        self._commit(self.path / source, self.root / self.model / target)

    def forget(self, kept: str) -> None:
        """Delete a kept config, which is in force again. If that fails it stays, and does no harm."""
        path = self.root / self.model / kept
        try:
            path.unlink(missing_ok=True)
            sync(path.parent)
        except (OSError, KeyboardInterrupt) as error:
            self.notes.append(f"{path} could not be deleted: {reason(error)}; it does no harm")

    def place_model(self) -> None:
        """Move the whole staged folder of a new model into the repository."""
        interrupts.hold()
        self._commit(self.path / MODEL, self.root / self.model)

    def stage(self, position: int) -> Path:
        """Return where the file is staged that is to be added at this position."""
        return self.path / f"added-{position}"

    def add(self, paths: Sequence[str]) -> None:
        """Move staged files into the model's folder, all of them or none, where nothing is yet.

        Args:
            paths: Where to put them, relative to the model's folder, in the order of their positions.

        Raises:
            RepositoryError: Something is there already.
        """
        folder = self.root / self.model
        for path in paths:
            if os.path.lexists(folder / path):
                what = "this file was there already, and nothing that is there is replaced"
                raise RepositoryError(folder / path, what, "rename or delete it, then run the command again")
        interrupts.hold()
        write(self.path / journal.STAGED, Journal(self.model, None, tuple(paths)).to_json())
        rename(self.path / journal.STAGED, self.path / journal.FILE)
        *others, last = [(self.stage(position), folder / path) for position, path in enumerate(paths)]
        for source, target in others:
            self._move(source, target)
        sync_all({target.parent for _, target in others} | {self.path})
        self._commit(*last)

    def remove(self, versions: Sequence[int]) -> None:
        """Move versions out of the repository, all of them or none."""
        if not versions:
            return
        folder = self.root / self.model
        sync(folder)  # the config that is served now has to outlive what it replaced
        interrupts.hold()
        *others, last = [(folder / str(version), self.path / f"pruned-{version}") for version in versions]
        for source, target in others:
            self._move(source, target)
        self._commit(*last)

    def recover(self) -> str | None:
        """Undo the change of a killed process if it was not complete, and empty the folder; return what to know."""
        note = None
        try:
            found = journal.read(self.folder)
        except ValueError as error:
            found, name = None, journal.keep_aside(self.folder)
            note = (
                f"the record of an interrupted change cannot be used ({error}), and was renamed to {self.path / name}; "
                "if that change was adding a version, the version may be there, complete but not served"
            )
        if found is not None:
            if found.version is not None and self._is_half_done(found.model, found.version, found.added):
                rename(self.root / found.model / str(found.version), self.path / VERSION)
            self._take_back_added(found)
            self._sweep(found.model)
        self._clear()
        self._sweep(self.model)
        return note

    def undo(self, error: BaseException) -> None:
        """Take back what was moved before the change failed, and empty the folder.

        Raises:
            RepositoryError: Not everything could be taken back.
        """
        with suppress(OSError, KeyboardInterrupt):
            for move in reversed(self._moves):
                if move.is_done():
                    move.target.rename(move.source)
            sync_all({folder for move in self._moves for folder in (move.source.parent, move.target.parent)})
            self._sweep(self.model)
            self._clear()
        if left := [move for move in self._moves if move.is_done() and move.source.name != KEPT]:
            raise self._not_undone(left, error) from error

    def clean_up(self) -> None:
        """Empty the folder after a change. The next change does it if this fails."""
        try:
            self._clear()
        except (OSError, KeyboardInterrupt) as error:
            self.notes.append(
                f"the change is complete, but what it left in {self.path} could not be deleted: {reason(error)}; "
                "the next change to this repository deletes it"
            )

    def _keep(self, kept: str | None) -> None:
        if kept is not None:
            target = self.root / self.model / kept
            self._move(self.path / KEPT, target)
            sync_all((target.parent, self.path))

    def _move(self, source: Path, target: Path) -> None:
        """Rename in a way that `undo` can take back."""
        self._moves.append(_Move(source, target, os.lstat(source)))
        source.rename(target)

    def _commit(self, source: Path, target: Path) -> None:
        """Rename as the point of no return: if it takes place, the change is complete, whatever fails afterwards."""
        last = _Move(source, target, os.lstat(source))
        try:
            source.rename(target)
        except (OSError, KeyboardInterrupt) as error:
            if not last.is_done():
                raise
            self.notes.append(f"{target} is in place, although renaming it ended with an error: {reason(error)}")
        self._moves.clear()
        try:
            sync_all((target.parent, source.parent))
        except (OSError, KeyboardInterrupt) as error:
            self.notes.append(
                f"the change is complete, but could not be flushed to disk: {reason(error)}; it may be lost if this "
                "machine loses power now"
            )

    def _is_half_done(self, model: str, version: int, added: Sequence[str]) -> bool:
        """Return whether the version is in the repository, but neither the change nor anybody since serves it.

        A config that cannot be read may serve it, and so may one that is missing now, unless the change was to add it.
        A link is not what a change puts there.
        """
        folder, staged = self.root / model, self.folder.names()
        place = folder / str(version)
        if VERSION in staged or CONFIG not in staged or folder.is_symlink() or place.is_symlink() or not place.is_dir():
            return False
        try:
            text = ModelDirectory(folder).find_config()
            policy = pbtxt.parse(text or "", where=folder / CONFIG).version_policy
        except RepositoryError:
            return False
        if text is None:
            return CONFIG in added
        return policy.HasField("specific") and version not in policy.specific.versions

    def _take_back_added(self, found: Journal) -> None:
        """Take back the files that a killed change has added, if it was not complete: its last file is still staged."""
        staged, folder = self.folder.names(), self.root / found.model
        if not found.added or self.stage(len(found.added) - 1).name not in staged or folder.is_symlink():
            return
        for position, path in enumerate(found.added):
            place = folder / path
            if self.stage(position).name not in staged and place.is_file() and not place.parent.is_symlink():
                rename(place, self.stage(position))

    def _clear(self) -> None:
        """Delete what a change left in the folder, the journal first."""
        found = self.folder.names()
        if journal.FILE in found:
            self.folder.remove(journal.FILE)
        os.fsync(self.folder.descriptor)
        for name in found:
            if LEFT_OVER.fullmatch(name):
                self.folder.remove(name)

    def _sweep(self, model: str) -> None:
        """Delete our warmup and label files that no config of the model names, if its config can be read.

        This happens before a change, not after it: a server that is loading the former config still finds its files.
        Files that cannot be deleted stay: they do no harm.
        """
        directory = ModelDirectory(self.root / model)
        if directory.path.is_symlink():
            return
        try:
            text = directory.read_config()
            pbtxt.parse(text, where=directory.config_path)
        except RepositoryError:
            return
        warmup = directory.path / WARMUP
        with suppress(OSError):
            texts = [text, *_other_configs(directory.path)]
            _delete_unused(directory.path, LABEL_FILE, texts)
            if warmup.is_dir() and not warmup.is_symlink() and _delete_unused(warmup, OWN_WARMUP_FILE, texts):
                warmup.rmdir()

    def _not_undone(self, left: Sequence[_Move], error: BaseException) -> RepositoryError:
        """Return the error that says what is left of a change that failed and could not be undone."""
        removed = [move for move in left if move.target.parent == self.path]
        if removed:
            names = ", ".join(move.source.name for move in removed)
            what = f"{reason(error)}; until then these versions had been removed, and could not be put back: {names}"
            fix = f"before any other change, move {removed[0].target} back to {removed[0].source}, and so on; or go on"
            return RepositoryError(self.root / self.model, what, fix)
        what = f"{reason(error)}; {left[0].target} could not be removed again, but is complete and not served"
        return RepositoryError(self.root / self.model, what, "run the command again: it removes that version first")


def _other_configs(model: Path) -> Iterator[str]:
    """Yield the texts of the configs kept beside their versions, and of those that a server may be told to use.

    Raises:
        OSError: One of them cannot be read, so nobody knows which files it names.
    """
    for pattern in _OTHER_CONFIGS:
        for path in model.glob(pattern):
            yield files.read(path, limit=_MOST_BYTES, inside=files.real_path(model)).decode(errors="replace")


def _delete_unused(path: Path, own: "re.Pattern[str]", configs: Sequence[str]) -> bool:
    """Delete our files that no config names, and return whether the folder is then empty."""
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    try:
        for name in entries(folder):
            if own.fullmatch(name) and not any(name in text for text in configs):
                os.unlink(name, dir_fd=folder)
        return not entries(folder)
    finally:
        close(folder)
