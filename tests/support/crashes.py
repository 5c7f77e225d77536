"""Install version 2 again and again, killed one filesystem call later each time; run as a script.

Usage: crashes.py BEFORE FOLDER [SOURCE_STATE]. FOLDER/0, FOLDER/1, … start as copies of BEFORE, which holds a
repository `models` and its staging folder; a change is made to each and killed before its n-th call. The last one
completes. With nothing at BEFORE the killed change is a first publish.
"""

import os
import shutil
import signal
import sys
from itertools import count
from pathlib import Path

from builder.publishing import install
from builder.repository import Repository
from support.artifacts import scale

CALLS = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "os.truncate", "open", "fcntl.flock"}


def kill_before(call: int) -> None:
    """End this process with SIGKILL when it is about to make the n-th call that changes the filesystem."""
    seen = count()

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in CALLS and next(seen) == call:
            os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def install_killed(folder: Path, call: int) -> bool:
    """Whether the install completed."""
    child = os.fork()
    if child == 0:
        repository, artifact = Repository(folder / "models"), scale(3.0)
        kill_before(call)
        install(repository, "scale", artifact)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    if os.WIFSIGNALED(status):
        assert os.WTERMSIG(status) == signal.SIGKILL
        return False
    assert os.WEXITSTATUS(status) == 0
    return True


def main(before: Path, out: Path) -> None:
    """Make the crashes."""
    scale()  # everything imported and built once, before the forks
    for call in count():
        folder = out / str(call)
        shutil.copytree(before, folder) if before.exists() else folder.mkdir(parents=True)
        if install_killed(folder, call):
            break


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
