"""Change a repository again and again, killed one filesystem call later each time; run as a script.

Usage: crashes.py BEFORE FOLDER CHANGE. FOLDER/0, FOLDER/1, … start as copies of BEFORE, which holds a repository
`models` and its staging folder; the change, one of `CHANGES`, is made to each and killed before its n-th call. The last
one completes. With nothing at BEFORE the killed change is a first publish.
"""

import os
import shutil
import signal
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path

from builder.config import ConfigOptions
from builder.publishing import install, roll_back
from builder.repository import AdoptedVersion, Repository
from support.artifacts import scale
from support.tuned import apply_to, undo_in

CALLS = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "os.truncate", "fcntl.flock"}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
"""The flags of an `open` that may change something. What is only read leaves the same as the call after it."""


def adopt(repository: Repository) -> None:
    """Add manifests and references to the versions 1 and 2, which have none, and a config."""
    versions = [AdoptedVersion(1, scale().manifest, scale().reference)]
    versions.append(AdoptedVersion(2, scale(3.0).manifest, scale(3.0).reference))
    with repository.changing("scale", "adopt scale") as change:
        change.adopt(versions, "max_batch_size: 8", read=None)


CHANGES: dict[str, Callable[[Repository], object]] = {
    "install": lambda repository: install(repository, "scale", scale(3.0)),
    "options": lambda repository: install(repository, "scale", scale(3.0), ConfigOptions(instances=2)),
    "labels": lambda repository: install(
        repository, "scale", scale(3.0), ConfigOptions(labels={"y": repository.root.parent / "labels.txt"})
    ),
    "rollback": lambda repository: roll_back(repository, "scale", 1),
    "adopt": adopt,
    "first config": lambda repository: install(repository, "scale", scale(5.0)),
    "unserved": lambda repository: install(repository, "scale", scale(4.0), serve=False),
    "tune": apply_to,
    "undo tuning": undo_in,
    "prune": lambda repository: repository.prune("scale", keep=1),
}


def is_writing(flags: object) -> bool:
    """Return whether a file is opened with these flags to change it, or to make it."""
    return isinstance(flags, int) and bool(flags & WRITING)


def kill_before(call: int) -> None:
    """End this process with SIGKILL when it is about to make the n-th call that changes the filesystem."""
    seen = count()

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        changes = event in CALLS or (event == "open" and is_writing(arguments[2]))
        if changes and next(seen) == call:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def completes(folder: Path, call: int, change: Callable[[Repository], object]) -> bool:
    """Make the change, killed at this call, and return whether it completed before."""
    child = os.fork()
    if child == 0:
        repository = Repository(folder / "models")
        kill_before(call)
        change(repository)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return False
    assert os.WEXITSTATUS(status) == 0
    return True


def main(before: Path, out: Path, change: Callable[[Repository], object]) -> None:
    """Make the crashes."""
    scale()  # everything imported and built once, before the forks
    for call in count():
        folder = out / str(call)
        shutil.copytree(before, folder) if before.exists() else folder.mkdir(parents=True)
        if completes(folder, call, change):
            break


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), CHANGES[sys.argv[3]])
