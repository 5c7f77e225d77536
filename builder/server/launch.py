"""Run a program that ends when the process that started it ends.

Usage: python launch.py PARENT_PID PROGRAM [ARGUMENT]…

The program replaces this process, and the request for a signal stays in effect.

Source: prctl(2), PR_SET_PDEATHSIG: kept across execve; sent when the *thread* ends that started this process.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def main(parent: int, command: list[str]) -> None:
    """Ask for SIGTERM when the parent ends, then run `command` in this process."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it ended before the request
        sys.exit(1)
    os.execv(command[0], command)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
