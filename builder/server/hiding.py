"""Start a program with options that other users of this machine cannot read.

Everybody can read the arguments of every process in /proc/PID/cmdline, and `tritonserver` takes its admin key only as
an argument. So the kernel gets a placeholder as the argument, and the option itself as an environment variable, which
only this user can read:

    arguments      tritonserver … --http-restricted-api=$HIDDEN_OPTION_0
    environment    HIDDEN_OPTION_0=--http-restricted-api=model-repository,…:admin-key=KEY

`launch.py` asks to be traced by its parent. The kernel then stops the process when it has become the program, before
the program's first instruction. At that moment the stack holds pointers to the arguments and to the variables:

    number of arguments | argument 0 | argument 1 | … | 0 | variable 0 | variable 1 | … | 0

`_swap` makes the pointer to the placeholder point into the variable, behind `HIDDEN_OPTION_0=`, and replaces the
pointer to the variable, so that the program's own children (which run the code of models) do not inherit it. The
kernel goes on to show the memory where it put the placeholder.

Where tracing is not allowed, `launch.py` stops itself and then passes the options as they are. `overwrite` erases them
once the program has read them. If nothing works, Triton refuses the placeholder, so it never runs with a known key.

Source: ptrace(2), PTRACE_TRACEME and execve; proc(5), /proc/PID/stat, fields arg_start and arg_end; System V ABI,
AMD64 supplement, section 3.4.1, "Initial Stack and Register State".
"""

import ctypes
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

_NAME = "HIDDEN_OPTION_"
_LAUNCH = Path(__file__).with_name("launch.py")

_POKE_DATA, _CONTINUE, _GET_REGISTERS, _DETACH, _PEEK_DATA = 5, 7, 12, 17, 2
_REGISTERS, _STACK_POINTER = 27, 19
"""The number of registers in `struct user_regs_struct` of x86-64, and the position of rsp."""

_WORD = 8
"""The size of a pointer, bytes."""

_libc = ctypes.CDLL(None, use_errno=True)
_libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
_libc.ptrace.restype = ctypes.c_long


def start(
    command: Sequence[str], hidden: Sequence[str], *, environment: Mapping[str, str], **how: Any
) -> "tuple[subprocess.Popen[str], bool]":
    """Start `command` with the options `hidden` behind its other arguments, and end it with the calling thread.

    Args:
        command: The program, by its path, and its arguments.
        hidden: Options of the form `--name=value`.
        environment: Its environment variables; at least one.
        how: More arguments for `subprocess.Popen`.

    Returns:
        The process, and whether the options are hidden. If they are not, call `overwrite` when it has read them.

    Raises:
        OSError: It cannot be started.
    """
    variables = {f"{_NAME}{position}": option for position, option in enumerate(hidden)}
    placeholders = [f"{option.partition('=')[0]}=${name}" for name, option in variables.items()]
    launch = [sys.executable, "-I", "-S", str(_LAUNCH), str(os.getpid())]
    process = subprocess.Popen([*launch, *command, *placeholders], env={**variables, **environment}, text=True, **how)
    try:
        is_traced = _wait_for_stop(process.pid)
        if is_traced:
            _swap(process.pid, len(command), variables)
            _ptrace(_DETACH, process.pid)
        elif process.poll() is None:
            os.kill(process.pid, signal.SIGCONT)
    except BaseException:
        process.kill()
        process.wait()
        raise
    return process, is_traced


def overwrite(pid: int, hidden: Sequence[str]) -> bool:
    """Erase the values of the options `hidden` from the arguments of a process, and return whether that worked.

    Until then everybody can read them.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        first, end = int(fields[45]), int(fields[46])  # arg_start and arg_end
        with Path(f"/proc/{pid}/mem").open("r+b", buffering=0) as memory:
            memory.seek(first)
            arguments = memory.read(end - first)
            for option in hidden:
                name, _, value = option.encode().partition(b"=")
                arguments = arguments.replace(name + b"=" + value, name + b"=" + b"*" * len(value))
            memory.seek(first)
            memory.write(arguments)
    except OSError:
        return False
    return True


def _wait_for_stop(pid: int) -> bool:
    """Wait until `launch.py` has become the program and is traced (True), or has stopped itself or ended (False)."""
    while True:
        event = os.waitid(os.P_PID, pid, os.WEXITED | os.WSTOPPED | os.WNOWAIT)
        if event is None or event.si_code != os.CLD_TRAPPED:
            return False
        if event.si_status == signal.SIGTRAP:
            return True
        _ptrace(_CONTINUE, pid, data=event.si_status)  # another signal, which goes to the process


def _swap(pid: int, first: int, variables: Mapping[str, str]) -> None:
    """Make the arguments from `first` on point to the values of the first environment variables, and hide those."""
    registers = (ctypes.c_ulong * _REGISTERS)()
    _ptrace(_GET_REGISTERS, pid, data=ctypes.addressof(registers))
    arguments = registers[_STACK_POINTER] + _WORD
    environment = arguments + _WORD * (first + len(variables) + 1)
    harmless = _peek(pid, environment + _WORD * len(variables))
    for position, name in enumerate(variables):
        variable = environment + _WORD * position
        _ptrace(_POKE_DATA, pid, arguments + _WORD * (first + position), _peek(pid, variable) + len(name) + 1)
        _ptrace(_POKE_DATA, pid, variable, harmless)


def _peek(pid: int, address: int) -> int:
    """Return the unsigned number at an address."""
    return _ptrace(_PEEK_DATA, pid, address) % 2**64


def _ptrace(request: int, pid: int, address: int = 0, data: int = 0) -> int:
    ctypes.set_errno(0)
    result = int(_libc.ptrace(request, pid, address, data))
    if error := ctypes.get_errno():
        raise OSError(error, f"ptrace({request}): {os.strerror(error)}")
    return result
