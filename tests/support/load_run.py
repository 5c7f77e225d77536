"""Run load tests as users do: Locust in its own process, and the report read afterwards."""

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol

from support import load_schema

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
    """Return the command line of a run against a server of the tests."""
    metrics = f"http://{server.metrics_address}/metrics" if server.metrics_address else "none"
    addresses = ["--grpc-address", server.grpc_address, "--server-metrics", metrics]
    return [
        *[sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--host", f"http://{server.http_address}"],
        *addresses,
        *["--model", model, "--report-dir", str(report_dir), *more],
    ]


def environment() -> dict[str, str]:
    """The environment in which Locust finds the package, from whatever folder it is started."""
    return {**os.environ, "PYTHONPATH": str(ROOT)}


@dataclass
class UnderWay:
    """A headless run in progress."""

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
        """Wait for the end of the run; if it does not end, it is killed and the test fails."""
        try:
            self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise AssertionError(f"still running after {timeout_s:g} s: {self.read('stderr')}") from None
        path = self.report_dir / "result.json"
        result = json.loads(path.read_text()) if path.exists() else {}
        if result:
            load_schema.check(result)
        return Finished(self.process.returncode, self.read("stdout"), self.read("stderr"), result, self.report_dir)


def start(server: Server, report_dir: Path, *more: str, model: str = "classifier") -> UnderWay:
    """Start a headless run."""
    command = [*arguments(server, report_dir, *more, model=model), "--headless", "--only-summary"]
    report_dir.mkdir(exist_ok=True)
    with (report_dir / "stdout").open("wb") as stdout, (report_dir / "stderr").open("wb") as stderr:
        return UnderWay(subprocess.Popen(command, env=environment(), stdout=stdout, stderr=stderr), report_dir)


def run(server: Server, report_dir: Path, *more: str, model: str = "classifier", timeout_s: float = 60.0) -> Finished:
    """Make a headless run from start to end."""
    return start(server, report_dir, *more, model=model).finish(timeout_s)


def answered(server: Server, model: str = "classifier") -> int:
    """Return how many requests the server says it has answered."""
    with urllib.request.urlopen(f"http://{server.http_address}/v2/models/{model}/stats") as answer:
        versions = json.load(answer)["model_stats"]
    return sum(int(version["inference_stats"]["success"]["count"]) for version in versions)


def wait_until_answered(server: Server, requests: int, timeout_s: float = 40.0) -> None:
    """Return once the server has answered this many requests more than now."""
    wanted, until = answered(server) + requests, time.monotonic() + timeout_s
    while answered(server) < wanted:
        assert time.monotonic() < until, "the load did not begin"
        time.sleep(0.05)


@dataclass
class Snapshots:
    """Counts the snapshots that a run takes of the server: one before its first window, one after each."""

    url: str
    taken: threading.Semaphore

    def wait_for(self, number: int, timeout_s: float = 40.0) -> None:
        """Return once so many were taken: 2 means that the first window was measured."""
        for _ in range(number):
            assert self.taken.acquire(timeout=timeout_s), "the load did not begin"

    def forget(self) -> None:
        """Count from now on."""
        while self.taken.acquire(blocking=False):
            pass


@contextmanager
def counting_snapshots() -> Iterator[Snapshots]:
    """A URL to give as `--server-metrics`: a run reads the metrics once before it starts, then with every snapshot."""
    taken = threading.Semaphore(0)
    checked = threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if checked.is_set():
                taken.release()
            checked.set()
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: Any) -> None:
            """Say nothing."""

    with listening(Handler) as url:
        yield Snapshots(f"{url}/metrics", taken)


@contextmanager
def listening(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """Serve HTTP on a free port, and yield its URL."""
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as listener:
        thread = threading.Thread(target=listener.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{listener.server_address[1]}"
        finally:
            listener.shutdown()
            thread.join()
