"""Start and stop one `tritonserver` process, and read its log."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import Future
from pathlib import Path
from typing import TextIO

from builder.printable import escape
from builder.server import hiding, log, runtime
from builder.server.installation import find_installation

EXIT_TIMEOUT_S = 5
_KILL_AFTER_S = 2.0 * EXIT_TIMEOUT_S + 5
_JOIN_S = 5.0
"""How long to wait for the end of the log, which a process that left the session could keep open."""
_LOG_LINES = 1000
_GUARD = Path(__file__).with_name("guard.py")
_VISIBLE = "warning: every user of this machine can read the admin key in the arguments of the process tritonserver\n"


class TritonProcess:
    """A `tritonserver` in its own session and folder, with a thread that reads its log.

    The same thread starts the process. On Linux, a process that asked to end with its parent ends with the *thread*
    that started it, and this thread lives as long as the server.

    Attributes:
        pid: The process id, which is also the id of its session and its process group.
        log_activity: Readable once Triton has logged something since it was last read.
        loads: What it has logged about loading models.
    """

    def __init__(
        self, repository: Path, options: Sequence[str], log_to: TextIO | None, *, hidden: Sequence[str] = ()
    ) -> None:
        """Start the process.

        Args:
            repository: The model repository.
            options: Options of `tritonserver`.
            log_to: The stream to copy its log to.
            hidden: More options, which other users of this machine must not read.

        Raises:
            HostError: No Triton can run on this machine.
        """
        installation = find_installation()
        self._folder = tempfile.TemporaryDirectory(prefix="triton-")
        folder = Path(self._folder.name)
        self._shared_memory = f"{folder.name}-"
        runtime.lay_out(folder, installation, repository)
        command = [
            *(str(installation.binary), f"--cache-directory={installation.caches}", *options),
            f"--exit-timeout-secs={EXIT_TIMEOUT_S}",
            f"--backend-config=python,shm-region-prefix-name={self._shared_memory}",
        ]
        self._lines: deque[tuple[float, str]] = deque(maxlen=_LOG_LINES)
        self.loads = log.Loads()
        self._log_to = log_to
        self._hidden = hidden
        self.log_activity, self._wake = socket.socketpair()
        self._wake.setblocking(False)
        self._is_stopped = False
        started: Future[subprocess.Popen[str]] = Future()
        self._thread = threading.Thread(
            target=self._run, args=[command, installation.environment(), started], name="tritonserver", daemon=True
        )
        self._thread.start()
        try:
            self._popen = started.result()
        except BaseException:  # a signal may have come just before the process was there
            if started.exception() is None:
                self._popen = started.result()
                self.pid = self._popen.pid
                self.kill()
            raise
        self.pid = self._popen.pid

    def _run(
        self, command: Sequence[str], environment: dict[str, str], started: "Future[subprocess.Popen[str]]"
    ) -> None:
        try:
            process, is_hidden = hiding.start(
                command,
                self._hidden,
                environment=environment,
                cwd=self._folder.name,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                errors="replace",
                start_new_session=True,
            )
        except OSError as error:
            started.set_exception(error)
            return
        self._guard = self._start_guard(process.pid)
        started.set_result(process)
        assert process.stdout is not None
        with process.stdout as lines:
            for line in lines:
                if not is_hidden:  # Triton logs nothing before it has read its options
                    is_hidden = True
                    if not hiding.overwrite(process.pid, self._hidden):
                        self._echo(_VISIBLE)
                self._lines.append((time.monotonic(), line))
                self.loads.read(line)
                with contextlib.suppress(OSError):  # full, so there is a sign already; or closed
                    self._wake.send(b".")
                self._echo(line if line.endswith("\n") else f"{line}\n")  # its last line may be cut off

    def _start_guard(self, server: int) -> "subprocess.Popen[bytes] | None":
        """Start the process that clears away what is left if this process is killed."""
        command = [sys.executable, "-I", "-S", str(_GUARD), str(os.getpid()), str(server), self._folder.name]
        try:
            return subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError:  # too many processes: go on without it
            return None

    def _echo(self, line: str) -> None:
        try:
            if self._log_to is not None:
                self._log_to.write(f"{escape(line.rstrip())}\n")
        except BrokenPipeError:  # nothing reads the pipe any more, and Triton must not block on it
            self._log_to = None

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal, or None while it runs."""
        return self._popen.poll()

    def log_lines(self, *, newest_s: float = float("inf")) -> list[str]:
        """Return the lines that it logged in the last `newest_s` seconds, or in those before a signal ended it.

        They are all read if it has ended.
        """
        if self._popen.poll() is not None:
            self._thread.join(timeout=1)
        return log.before_the_end(list(self._lines), now=time.monotonic(), newest_s=newest_s)

    def stop(self) -> None:
        """End the server and its child processes, gracefully if possible, and delete the files that they left."""
        try:
            self._popen.terminate()
            self._popen.wait(timeout=_KILL_AFTER_S)
        except subprocess.TimeoutExpired:
            pass
        finally:
            self.kill()

    def kill(self) -> None:
        """End the server and its child processes at once, and delete the files that they left."""
        if self._is_stopped:
            return
        self._kill_group()
        self._popen.wait()
        self._thread.join(timeout=_JOIN_S)
        self.log_activity.close()
        self._wake.close()
        self._folder.cleanup()
        for region in Path("/dev/shm").glob(f"{self._shared_memory}*"):  # left behind if it was killed
            region.unlink(missing_ok=True)
        if self._guard is not None:
            self._guard.kill()
            self._guard.wait()
        self._is_stopped = True

    def _kill_group(self) -> None:
        try:
            os.killpg(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            return
