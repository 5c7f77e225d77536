"""A `python -m builder serve` in a process of its own, what it prints, and what it leaves behind."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

from support.serving import eventually, processes_of, triton_of

ROOT = Path(__file__).parents[2]
SHARED = Path("/dev/shm")
READY = re.compile(r"serve +HTTP (\S+), gRPC (\S+), metrics (\S+)\n")
AGAIN = "serve    Triton serves again, on the same ports\n"

PROGRAM = """
import sys
from builder.cli import app
from builder.server import supervision
supervision.FIRST_DELAY_S, supervision.MOST_FAILURES = float(sys.argv[1]), int(sys.argv[2])
sys.argv[1:] = sys.argv[3:]
app.main()
"""
"""The command with another first delay, and another number of failures that are forgiven."""


class Served:
    """The process and everything that it has printed so far."""

    def __init__(self, repository: Path, temporary: Path, program: Sequence[str], options: Sequence[str]) -> None:
        ports = [part for front in ("http", "grpc", "metrics") for part in (f"--{front}-port", "0")]
        temporary.mkdir()
        self._temporary = temporary
        self.process = subprocess.Popen(
            [sys.executable, *program, "serve", "--repository", str(repository), *ports, *options],
            cwd=ROOT,
            env={**os.environ, "TMPDIR": str(temporary)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._lines: list[str] = []
        self._sessions: list[int] = []
        self._folders: set[str] = set()
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        with self.process.stderr as lines:
            for line in lines:
                self._lines.append(line)

    @property
    def printed(self) -> str:
        """Everything printed so far."""
        return "".join(self._lines)

    def wait_for(self, text: str, times: int = 1) -> None:
        """Wait until it has printed a text that often."""
        assert eventually(lambda: self.printed.count(text) >= times or self.process.poll() is not None)
        assert self.printed.count(text) >= times, self.printed[-3000:]

    @property
    def http_address(self) -> str:
        """The address of the HTTP endpoint, once it is ready."""
        found = READY.search(self.printed)
        assert found is not None
        return found[1]

    def triton(self) -> int:
        """Return the pid of the running tritonserver, and remember what it must not leave behind."""
        pid = triton_of(self.process.pid)
        self._sessions.append(pid)
        self._folders.add(Path(f"/proc/{pid}/cwd").readlink().name)
        return pid

    def stubs(self) -> list[int]:
        """Return the pids of the living stubs."""
        running = processes_of(self.triton())
        return [pid for pid, command in running.items() if command[0].endswith("triton_python_backend_stub")]

    def ask(self, path: str, body: Any = None) -> Any:
        """Send a request over HTTP and return the answer, read as JSON."""
        data = None if body is None else json.dumps(body).encode()
        with urlopen(Request(f"http://{self.http_address}{path}", data), timeout=120) as answer:
            return json.loads(answer.read() or "null")

    def double(self, *values: float, model: str = "double") -> list[float]:
        """Ask the model `double` of `support.serving` for one row."""
        tensor = {"name": "X", "shape": [1, len(values)], "datatype": "FP32", "data": values}
        answer: list[float] = self.ask(f"/v2/models/{model}/infer", {"inputs": [tensor]})["outputs"][0]["data"]
        return answer

    def left(self) -> list[object]:
        """Return what is left of all servers that were seen: processes, folders, regions of shared memory."""
        processes = [pid for session in self._sessions for pid in processes_of(session)]
        folders = [folder for name in self._folders for folder in self._temporary.glob(name)]
        return [*processes, *folders, *(region for name in self._folders for region in SHARED.glob(f"{name}-*"))]

    def ends_with(self, code: int) -> None:
        """Wait for its end, and check the exit code and that nothing of any of its servers is left."""
        assert self.process.wait(timeout=120) == code, self.printed[-3000:]
        self._reader.join(timeout=120)
        assert eventually(lambda: self.left() == []), self.left()
        assert list(self._temporary.glob("triton-*/*")) == []
        assert "Traceback" not in self.printed


@contextmanager
def served(
    repository: Path,
    tmp_path: Path,
    *options: str,
    first_delay_s: float | None = None,
    most_failures: int = 5,
) -> Iterator[Served]:
    """Run `serve` on free ports, wait until it is ready, and kill it when the block is left."""
    changed = ["-c", PROGRAM, str(first_delay_s), str(most_failures)]
    program = ["-m", "builder"] if first_delay_s is None else changed
    serving = Served(repository, tmp_path / "temporary", program, options)
    try:
        serving.wait_for("serve    HTTP ")
        serving.triton()
        yield serving
    finally:
        with suppress(ProcessLookupError):
            serving.process.send_signal(signal.SIGKILL)
        serving.process.wait()
        serving._reader.join(timeout=120)
