"""Run load tests, each in a process of its own that waits for its options, so that none of its start is waited for."""

import json
import os
import re
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, cast

from builder.errors import HostError
from builder.tuning.bench.machine import process_seconds
from builder.tuning.measurement import Load

COMMAND = (sys.executable, "-m", "loadtest", "standby")
"""The program, which is told with `--result` where its result goes."""

_OPTIONS = {"--host": "--http-address", "--grpc-address": "--server"}
"""Options of a load test, and what `tune` calls them; the others that a user can give have the same names."""

_WARM_UP_S = 1.0

_ENOUGH = 400
"""So many requests bound p99 from above; it takes 368."""

_IN_FLIGHT_S = 0.5
"""How long requests of an open loop may take on average before more of them wait here. Each of those that may be in
flight is a user of the load test, and 100 of them start in a second.
"""

_WHERE = "the load test"
_REPORT_IT = "run the command again; if that does not help, report it with this message"


@dataclass(frozen=True, slots=True)
class Ended:
    """A load test that has ended.

    Attributes:
        result: What result.json would have.
        cpu_s: The processor time of its process since it was told its options, in seconds.
    """

    result: Mapping[str, Any]
    cpu_s: float


class LoadTest:
    """A process for one load test, which waits for its options.

    It ends with this process, however that ends, and leaves no file behind.
    """

    def __init__(self) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 - it is closed by `stop`
        self._result, descriptor = os.pipe()
        try:
            self._process = subprocess.Popen(
                [*COMMAND, "--result", str(descriptor)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=self._said,
                cwd=Path(__file__).resolve().parents[3],  # where the package is found
                pass_fds=[descriptor],
                start_new_session=True,  # so that Ctrl-C reaches this process alone, which ends it
            )
        finally:
            os.close(descriptor)
        self._cpu_before = 0.0
        self._is_stopped = False

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def has_ended(self) -> bool:
        """Whether it has ended."""
        return self._process.poll() is not None

    def start(self, arguments: Sequence[str]) -> None:
        """Tell it the options of `loadtest run`; it works in another folder, so paths must be absolute.

        Raises:
            HostError: It has ended already.
        """
        self._cpu_before = process_seconds(self._process.pid)
        stdin = cast("IO[bytes]", self._process.stdin)
        try:
            stdin.write(f"{json.dumps([*arguments])}\n".encode())
            stdin.close()
        except BrokenPipeError as error:
            self._process.wait()
            raise HostError(_WHERE, f"it did not start: {self._last_words()}", _REPORT_IT) from error

    def result(self, *, timeout_s: float) -> Ended:
        """Wait for its result, and return what it measured. It is not waited for any longer: its end takes a second.

        Args:
            timeout_s: How long it may take, in seconds.

        Raises:
            HostError: It measured nothing, as when the server does not answer; or it takes too long.
        """
        text = self._read(time.monotonic() + timeout_s)
        if text is None:
            raise HostError(_WHERE, f"it did not end within {timeout_s:.0f} s", _REPORT_IT)
        cpu_s = process_seconds(self._process.pid) - self._cpu_before
        if not text:
            raise self._failure(self._process.wait())
        try:
            result = json.loads(text)
            if not isinstance(result, dict):
                raise ValueError("it is not an object")
        except ValueError as error:
            raise HostError(_WHERE, f"its result cannot be read: {error}", _REPORT_IT) from error
        return Ended(result, max(cpu_s, 0.0))

    def _read(self, until: float) -> bytes | None:
        """Return what it writes until it closes its end; None if it has not in time."""
        parts: list[bytes] = []
        while (left := until - time.monotonic()) > 0:
            if select.select([self._result], [], [], left)[0]:
                part = os.read(self._result, 1 << 16)
                if not part:
                    return b"".join(parts)
                parts.append(part)
        return None

    def stop(self) -> None:
        """End it, if it has not ended, and let go of what it had. A second call does nothing."""
        if self._is_stopped:
            return
        self._is_stopped = True
        self._process.kill()
        self._process.wait()
        os.close(self._result)
        self._said.close()
        with suppress(OSError):
            cast("IO[bytes]", self._process.stdin).close()

    def __enter__(self) -> "LoadTest":
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def _failure(self, status: int) -> HostError:
        """Return why there is no result: what it said as an error, or else how it ended."""
        said = self._words()
        for number, line in enumerate(said):
            if line.startswith("error: "):
                where, _, what = line.removeprefix("error: ").partition(": ")
                fixes = [later.removeprefix("fix: ") for later in said[number:] if later.startswith("fix: ")]
                return HostError(*map(_as_tune_says, (where, what or "it failed", fixes[0] if fixes else _REPORT_IT)))
        return HostError(_WHERE, f"it ended with status {status}: {self._last_words()}", _REPORT_IT)

    def _words(self) -> list[str]:
        self._said.seek(0)
        return self._said.read().decode("utf-8", "replace").splitlines()

    def _last_words(self) -> str:
        return next((line.strip() for line in reversed(self._words()) if line.strip()), "it said nothing")


def load_options(load: Load, *, stage_time_s: float) -> list[str]:
    """Return the options of a load test that say which load there is, and for how long."""
    rows = ",".join(f"{rows}={weight:g}" for rows, weight in load.rows)
    kind = ["--scenario", "constant", "--concurrency", str(load.users)]
    if load.rate is not None:
        at_once = round(min(max(load.rate * _IN_FLIGHT_S, 16), 256))
        kind = ["--scenario", "rate", "--rate", f"{load.rate:g}", "--arrivals", "poisson"]
        kind += ["--max-in-flight", str(at_once)]
    return [
        *kind,
        *("--rows", rows, "--stage-time", f"{stage_time_s:g}", "--warm-up", f"{_WARM_UP_S:g}"),
        *("--min-requests", "0" if load.is_of_all_sizes else str(_ENOUGH)),
    ]


def _as_tune_says(text: str) -> str:
    """Name the options in a message of the load test as `tune` does."""
    return re.sub(r"(?<![\w-])--(?:host|grpc-address)(?![\w-])", lambda found: _OPTIONS[found[0]], text)
