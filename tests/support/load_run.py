"""Runs load tests as their users do: Locust in a process of its own, its report read back."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).parents[2]
LOCUSTFILE = ROOT / "loadtest" / "locustfile.py"


class Server(Protocol):
    """Where a server listens."""

    @property
    def http_address(self) -> str: ...

    @property
    def grpc_address(self) -> str: ...

    @property
    def metrics_address(self) -> str: ...


@dataclass(frozen=True)
class Finished:
    """A run that ended: its exit code, what it printed, and its result (empty when it wrote none)."""

    code: int
    stdout: str
    stderr: str
    result: dict[str, Any]
    report_dir: Path

    @property
    def last_lines(self) -> list[str]:
        return self.stdout.strip().splitlines()


def arguments(server: Server, report_dir: Path, *more: str, model: str = "classifier") -> list[str]:
    """The command line against a server of the tests."""
    addresses = ["--grpc-address", server.grpc_address, "--metrics-url", f"http://{server.metrics_address}/metrics"]
    return [
        *[sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--host", f"http://{server.http_address}"],
        *addresses,
        *["--model", model, "--report-dir", str(report_dir), *more],
    ]


def environment() -> dict[str, str]:
    """Locust finds the package from the repository's root, whatever it is started from."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@dataclass
class UnderWay:
    """A headless run that has been started."""

    process: "subprocess.Popen[bytes]"
    report_dir: Path

    def wait_for(self, text: str, timeout_s: float = 40.0) -> None:
        """Return once Locust's log holds `text`."""
        until = time.monotonic() + timeout_s
        while text not in self.read("stderr"):
            assert time.monotonic() < until, self.read("stderr")
            assert self.process.poll() is None, self.read("stderr")
            time.sleep(0.05)

    def read(self, stream: str) -> str:
        return self.report_dir.joinpath(stream).read_text()

    def finish(self, timeout_s: float = 60.0) -> Finished:
        """Wait for the run's end; one that does not end is killed and fails the test."""
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"still running after {timeout_s:g} s: {self.read('stderr')}") from None
        path = self.report_dir / "result.json"
        result = json.loads(path.read_text()) if path.exists() else {}
        return Finished(self.process.returncode, self.read("stdout"), self.read("stderr"), result, self.report_dir)


def start(server: Server, report_dir: Path, *more: str, model: str = "classifier") -> UnderWay:
    """A headless run under way."""
    command = [*arguments(server, report_dir, *more, model=model), "--headless", "--only-summary"]
    report_dir.mkdir(exist_ok=True)
    with (report_dir / "stdout").open("wb") as stdout, (report_dir / "stderr").open("wb") as stderr:
        return UnderWay(subprocess.Popen(command, env=environment(), stdout=stdout, stderr=stderr), report_dir)


def run(server: Server, report_dir: Path, *more: str, model: str = "classifier", timeout_s: float = 60.0) -> Finished:
    """A headless run from start to end."""
    return start(server, report_dir, *more, model=model).finish(timeout_s)
