"""Clear away a Triton whose owner was killed.

Usage: python guard.py OWNER_PID TRITON_PID FOLDER

The kernel asks `tritonserver` to end together with its owner (`launch.py`), and while it serves, it ends its stubs too.
But a stub whose model is still loading would then wait for ever, and nobody would delete the folder.
"""

import contextlib
import os
import select
import shutil
import signal
import sys
import time
from pathlib import Path

GRACE_S = 15.0
_POLL_S = 0.1
_WITHOUT_PIDFD_S = 1.0


def main(owner: int, triton: int, folder: Path) -> None:
    """Wait until the owner has died, let Triton end, and then kill its process group and delete its files."""
    _wait_for_end(owner)
    deadline = time.monotonic() + GRACE_S
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < deadline and Path(f"/proc/{triton}").exists():
            time.sleep(_POLL_S)
        os.killpg(triton, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)
    for region in Path("/dev/shm").glob(f"{folder.name}-*"):
        region.unlink(missing_ok=True)


def _wait_for_end(owner: int) -> None:
    """Wait until the process that started this one has died."""
    try:
        watched = os.pidfd_open(owner)
    except OSError:  # it has died, or there is no pidfd here
        while os.getppid() == owner:
            time.sleep(_WITHOUT_PIDFD_S)
        return
    waiting = select.poll()
    waiting.register(watched, select.POLLIN)
    if os.getppid() == owner:
        waiting.poll()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
