"""Run a program that ends when the process that started it ends, and whose options `hiding` can hide.

Usage: python launch.py PARENT_PID PROGRAM [ARGUMENT]…

The program replaces this process, and the request for a signal stays in effect. An argument `--name=$HIDDEN_OPTION_N`
is a placeholder for the environment variable of that name.

Source: prctl(2), PR_SET_PDEATHSIG: kept across execve; sent when the *thread* ends that started this process.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1
PTRACE_TRACEME = 0
PLACEHOLDER = "=$HIDDEN_OPTION_"


def main(parent: int, command: list[str]) -> None:
    """Ask for SIGTERM when the parent ends, then run `command` in this process."""
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it ended before the request
        sys.exit(1)
    if libc.ptrace(PTRACE_TRACEME, 0, None, None) != 0:
        os.kill(os.getpid(), signal.SIGSTOP)  # tell the parent, which lets this process go on
        command = [_option(argument) for argument in command]
    os.execv(command[0], command)


def _option(argument: str) -> str:
    """Return what an argument stands for."""
    name = argument.rpartition("=$")[2]
    return os.environ.pop(name) if PLACEHOLDER in argument else argument


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2:])
