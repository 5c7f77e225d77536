"""Copy what an operation reads of a model from a bucket into a folder, and see afterwards what the operation changed.

The copy has every object of the model, at the same path, with the same size and time. Small ones have their content:
configs, manifests, label files. A large one has it only if the operation says that it reads it. Any other is a file of
zeros that takes no room on disk, so that names and sizes are right. If it were read nevertheless, its digest would be
wrong, which is an error.
"""

import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from builder import digest
from builder.bucket.storage import Storage, StoredObject
from builder.config import pbtxt
from builder.errors import RepositoryError
from builder.record import MANIFEST_FILE
from builder.repository import ModelDirectory, transaction

SMALL_BYTES = 1 << 20
"""The largest object that is always downloaded, in bytes."""

_TEXT_BYTES = 1 << 24
"""The largest config or manifest that is downloaded, in bytes; a larger one is refused whatever it says."""

_TEXTS = (".pbtxt", f"/{MANIFEST_FILE}")

_NAMED_BY_CONTENT = re.compile(
    rf"{transaction.WARMUP}/{transaction.OWN_WARMUP_FILE.pattern}|labels-[0-9a-f]{{64}}\.txt"
)
_KEPT_CONFIG = re.compile(r"[1-9][0-9]*/config\.[0-9]+\.pbtxt", re.ASCII)
_VERSION = re.compile(r"[1-9][0-9]*", re.ASCII)

Wanted = Callable[[ModelDirectory], Iterable[str]]
"""From a copy that has the small objects, to the large ones that an operation reads: paths, or folders as `3/`."""


@dataclass(frozen=True, slots=True)
class Difference:
    """What an operation changed in a working copy, as paths in the model's directory.

    Attributes:
        added: The new files, in the order in which they may be uploaded: the manifest of a version after its files.
        changed: The files with another content, without config.pbtxt.
        config: The new content of config.pbtxt; None if it did not change.
        versions: The versions that are gone.
        removed: The objects that are gone, in the order in which they may be deleted.
    """

    added: tuple[str, ...]
    changed: tuple[str, ...]
    config: bytes | None
    versions: tuple[int, ...]
    removed: tuple[str, ...]

    def __bool__(self) -> bool:
        """Return whether anything changed."""
        return bool(self.added or self.changed or self.removed or self.config is not None)


@dataclass(slots=True)
class WorkingCopy:
    """A model of a bucket on disk.

    Attributes:
        storage: The objects of the model.
        model: Its directory on disk.
        objects: What was in the bucket when it was copied, by path.
        config: The content of config.pbtxt then; None when there was none.
        is_mirrored: Whether every file that is deleted here is deleted in the bucket. Otherwise only whole versions and
            kept configs are: a warmup file may have come to be needed by what somebody else uploads.
    """

    storage: Storage
    model: ModelDirectory
    objects: dict[str, StoredObject] = field(default_factory=dict)
    config: bytes | None = None
    is_mirrored: bool = False
    _states: dict[str, tuple[int, int, int]] = field(default_factory=dict)
    _digests: dict[str, str] = field(default_factory=dict)

    def download(self, wanted: Wanted) -> None:
        """Copy the model. What a former call has downloaded is not downloaded again if it is still the same.

        Raises:
            RepositoryError: The bucket cannot be read.
            HostError: There is no room on disk.
        """
        with self.storage.reported("read"), self._former() as former:
            objects = self.storage.list_objects()
            if all(map(is_named_by_content, objects)):  # at most what an interrupted first upload left behind
                return
            self.model.path.mkdir(parents=True, exist_ok=True)
            for name, each in objects.items():
                _make_placeholder(self.model.path / name, each)
            self.objects = objects
            small = {name for name, each in objects.items() if _is_small(name, each)}
            self._fill(small, former)
            asked = _asked(self.model, wanted)
            self._fill({name for name in self.objects.keys() - small if name.startswith(asked)}, former)
            self._digests = {name: digest.of(self.model.path / name) for name in small & self.objects.keys()}
            self._states = {name: _state(self.model.path / name) for name in self.objects}
            if pbtxt.FILE in self.objects:
                self.config = self.model.config_path.read_bytes()

    def difference(self) -> Difference:
        """Compare the files with those that were copied."""
        found = _files(self.model.path)
        gone = self.objects.keys() - found
        versions = _versions(self.objects) - _versions(found)
        if not self.is_mirrored:
            folders = tuple(f"{version}/" for version in versions)
            gone = {name for name in gone if name.startswith(folders) or is_kept_config(name)}
        changed = {name for name in found & self.objects.keys() if self._is_changed(name)}
        added = found - self.objects.keys()
        has_config = pbtxt.FILE in added | changed
        return Difference(
            added=_manifests_last(added - {pbtxt.FILE}),
            changed=_manifests_last(changed - {pbtxt.FILE}),
            config=self.model.config_path.read_bytes() if has_config else None,
            versions=tuple(sorted(versions)),
            removed=_manifests_last(gone - {pbtxt.FILE}) + tuple(gone & {pbtxt.FILE}),
        )

    @contextmanager
    def _former(self) -> Iterator["_Former"]:
        """Move away what a former call has copied, and forget it; delete it at the end."""
        place = self.model.path.parent.parent / f"{self.model.name}.former"
        former = _Former(place, self.objects, {name for name in self._states if not self._is_touched(name)})
        self.objects, self.config, self._states, self._digests = {}, None, {}, {}
        if self.model.path.exists():
            self.model.path.rename(place)
        try:
            yield former
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def _fill(self, names: set[str], former: "_Former") -> None:
        """Download the content of objects; those that somebody has deleted meanwhile are left out."""
        missing = {}
        for name in names:
            target = self.model.path / name
            if former.has(name, self.objects[name]):
                (former.place / name).rename(target)
            else:
                missing[name] = target
        for name in self.storage.download(missing):
            del self.objects[name]
            (self.model.path / name).unlink(missing_ok=True)
        for name in missing.keys() & self.objects.keys():
            os.utime(missing[name], (self.objects[name].time,) * 2)

    def _is_changed(self, name: str) -> bool:
        path = self.model.path / name
        if not self._is_touched(name):
            return False
        return name not in self._digests or digest.of(path) != self._digests[name]

    def _is_touched(self, name: str) -> bool:
        """Return whether this is another file than the one that was copied."""
        path = self.model.path / name
        try:
            return path.resolve() != path or _state(path) != self._states[name]
        except OSError:
            return True


def copy_texts(storage: Storage, root: Path, *, but: str | None = None) -> None:
    """Copy all models of a repository, with the content of configs and manifests only.

    Args:
        storage: The repository in the bucket.
        root: The repository on disk.
        but: A model that is left out.

    Raises:
        RepositoryError: There is nothing below that URL, or the bucket cannot be read.
    """
    with storage.reported("read"):
        objects = storage.list_objects()
        if not objects:
            what = "there is nothing in the bucket below this URL"
            raise RepositoryError(storage.url, what, "correct the URL, or publish a model there first")
        objects = {name: each for name, each in objects.items() if name.partition("/")[0] != but}
        for name, each in objects.items():
            _make_placeholder(root / name, each)
        texts = {name: root / name for name, each in objects.items() if _is_text(name) and each.size <= _TEXT_BYTES}
        for name in storage.download(texts):
            (root / name).unlink()
        for name, path in texts.items():
            with suppress(FileNotFoundError):
                os.utime(path, (objects[name].time,) * 2)


def _is_text(name: str) -> bool:
    """Return whether an object is a config or a manifest, by its name."""
    return name.endswith(_TEXTS)


def _is_small(name: str, described: StoredObject) -> bool:
    return described.size <= (_TEXT_BYTES if _is_text(name) else SMALL_BYTES)


@dataclass(frozen=True, slots=True)
class _Former:
    """What was copied before: where it is now, which objects it was, and which files are still as they were copied."""

    place: Path
    objects: Mapping[str, StoredObject]
    untouched: set[str]

    def has(self, name: str, wanted: StoredObject) -> bool:
        """Return whether an object was downloaded before, and is the same in the bucket."""
        if name not in self.untouched or not wanted.tag or self.objects.get(name) != wanted:
            return False
        facts = (self.place / name).stat()
        return not facts.st_size or facts.st_blocks > 0  # a placeholder has no blocks


def is_kept_config(name: str) -> bool:
    """Return whether this is a config that was kept when another one replaced it, or that waits to serve (N = 0)."""
    return _KEPT_CONFIG.fullmatch(name) is not None


def is_named_by_content(name: str) -> bool:
    """Return whether this is a file of ours that is named by its content: whoever uploads it uploads the same."""
    return _NAMED_BY_CONTENT.fullmatch(name) is not None


def _make_placeholder(path: Path, described: StoredObject) -> None:
    """Make a file of zeros with an object's size and time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("xb") as stream:
        stream.truncate(described.size)
    os.utime(path, (described.time, described.time))


def _asked(model: ModelDirectory, wanted: Wanted) -> tuple[str, ...]:
    """Return the large objects that an operation reads; none where the operation will refuse the model anyway."""
    try:
        return tuple(wanted(model))
    except RepositoryError:
        return ()


def _files(folder: Path) -> set[str]:
    """Return the paths of all files below a folder, also of those that a link leads to."""
    found = set()
    for place, _, names in os.walk(folder, followlinks=True):
        found |= {(Path(place) / name).relative_to(folder).as_posix() for name in names}
    return found


def _versions(names: Iterable[str]) -> set[int]:
    folders = {name.partition("/")[0] for name in names if "/" in name}
    return {int(folder) for folder in folders if _VERSION.fullmatch(folder)}


def _manifests_last(names: Iterable[str]) -> tuple[str, ...]:
    """Sort files so that the manifest of a version comes after its other files: once it is there, all of them are.

    They are deleted in this order, too: what is left of a version keeps its manifest, so that it is known to be
    incomplete, and the next `prune` removes the rest.
    """

    def key(name: str) -> tuple[str, bool, bool, str]:
        folder = name.partition("/")[0] if "/" in name else ""
        return folder, name == f"{folder}/{MANIFEST_FILE}", is_kept_config(name), name

    return tuple(sorted(names, key=key))


def _state(path: Path) -> tuple[int, int, int]:
    facts = path.stat()
    return facts.st_ino, facts.st_size, facts.st_mtime_ns
