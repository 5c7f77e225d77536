"""Become another program that ends when the process that started it does.

Usage: python launch.py PARENT_PID PROGRAM [ARGUMENT]…

Source: prctl(2), PR_SET_PDEATHSIG: kept across execve; sent when the parent's *thread* ends.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(parent: int, command: list[str]) -> None:
    """Ask for SIGTERM at the parent's death, then run `command` in this process."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it died before we asked
        sys.exit(1)
    os.execv(command[0], command)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
