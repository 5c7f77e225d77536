"""Notice when a Triton ends, or when one of its stubs dies.

This costs nothing while nothing happens: the kernel reports the end of each process, and a line in Triton's log is the
sign that there may be new ones.
"""

import contextlib
import os
import select
import signal
import time
from collections.abc import Callable
from dataclasses import replace

from builder.server.process import TritonProcess
from builder.server.stubs import Stub, children_of

GRACE_S = 0.5
"""How long a stub may be a zombie while its model is ready: Triton reaps the stub of an unloaded model at once."""

PATIENCE_S = 30.0
"""How long a stub may be a zombie in any case. Triton takes about 2 s to reap one that dies while its model loads, and
longer on a busy machine."""

_RESCAN_S = 10.0
_PENDING_S = 0.1
_WITHOUT_PIDFD_S = 0.5
"""How often to look where the kernel or a sandbox has no pidfd."""
_SETTLE_S = 0.25
"""How long to let the log run on before looking for new stubs, so that a long log costs little."""


class Watch:
    """Watches one `tritonserver` and its stubs."""

    def __init__(self, process: TritonProcess, is_ready: Callable[[Stub], bool]) -> None:
        """Watch `process`; `is_ready` asks Triton whether it calls the model of a stub ready."""
        self._process = process
        self._is_ready = is_ready
        self._living: dict[int, Stub] = {}
        self._ended: dict[int, float] = {}  # when each zombie was first seen
        self._looked = time.monotonic()

    def learn_stubs(self) -> None:
        """Read the names of the stubs, which one that has died no longer tells."""
        self._look()

    def wait(self) -> Stub | None:
        """Wait until a stub dies, and return it; or until Triton ends, and return None."""
        while self._process.poll() is None:
            if (dead := self._look()) is not None:
                return dead
            self._sleep(_PENDING_S if self._ended else _RESCAN_S)
        return None

    def dead_stub(self) -> Stub | None:
        """Return a stub that died, or None. This takes up to `GRACE_S` if one has just ended."""
        while (dead := self._look()) is None and any(self._age(pid) < GRACE_S for pid in self._ended):
            time.sleep(_PENDING_S)
        return dead

    def _look(self) -> Stub | None:
        """Look at every stub once, and return one that died.

        A stub that ends because its model is unloaded, or fails to load, is left to Triton.
        """
        stubs = [self._remembered(stub) for stub in children_of(self._process.pid)]
        self._living = {stub.pid: stub for stub in stubs}
        zombies = [stub for stub in stubs if stub.status is not None]
        self._looked = time.monotonic()
        self._ended = {stub.pid: self._ended.get(stub.pid, self._looked) for stub in zombies}
        return next((stub for stub in zombies if self._is_dead(stub)), None)

    def _remembered(self, stub: Stub) -> Stub:
        """Name a zombie, which has no command line any more, as it was called when it lived."""
        known = self._living.get(stub.pid)
        return stub if stub.status is None or known is None else replace(known, status=stub.status)

    def _is_dead(self, stub: Stub) -> bool:
        age = self._age(stub.pid)
        return age >= PATIENCE_S or (age >= GRACE_S and stub.model != "" and self._is_ready(stub))

    def _age(self, pid: int) -> float:
        """Return how old a zombie was at the last look. What was too young then has to be looked at again."""
        return self._looked - self._ended[pid]

    def _sleep(self, timeout_s: float) -> None:
        """Sleep until a process ends, Triton logs something, or the time is over."""
        log_activity = self._process.log_activity
        with contextlib.ExitStack() as opened:
            waiting = select.poll()
            waiting.register(log_activity, select.POLLIN)
            for pid in [self._process.pid, *(stub.pid for stub in self._living.values() if stub.status is None)]:
                try:
                    descriptor = os.pidfd_open(pid)
                except ProcessLookupError:  # it has just been reaped
                    continue
                except OSError:
                    timeout_s = min(timeout_s, _WITHOUT_PIDFD_S)
                    break
                opened.callback(os.close, descriptor)
                waiting.register(descriptor, select.POLLIN)
            happened = [descriptor for descriptor, _ in waiting.poll(timeout_s * 1000)]
        if happened == [log_activity.fileno()]:
            time.sleep(_SETTLE_S)
            log_activity.recv(4096)


def how_it_ended(status: int) -> str:
    """Say in words how a process ended, from its return code."""
    if status >= 0:
        return f"ended with exit code {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:  # a real-time signal
        name = f"signal {-status}"
    return f"was killed by {name}" + (" (Linux also sends it when memory runs out)" if name == "SIGKILL" else "")
