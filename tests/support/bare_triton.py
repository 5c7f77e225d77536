"""The real `tritonserver` with any command line, such as compose.yaml's."""

import os
import signal
import subprocess
import tempfile
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from builder.server import runtime
from builder.server.installation import find_installation
from support.reserved import reserved_ports
from support.serving import eventually, shared_memory_of

REPOSITORY = runtime.REPOSITORY
"""The repository's path, from the folder that the server runs in; a command line must use it."""


@dataclass(frozen=True, slots=True)
class BareTriton:
    """The addresses of a running server, and its log."""

    http_address: str
    grpc_address: str
    metrics_address: str
    log: Path


@contextmanager
def running(
    command: Sequence[str],
    *,
    repository: Path,
    environment: Mapping[str, str] | None = None,
    wait_until: str = "ready",
) -> Iterator[BareTriton]:
    """Run a command that becomes `tritonserver`, on free ports of 127.0.0.1, until the block ends."""
    installation = find_installation()
    with tempfile.TemporaryDirectory(prefix="triton-") as name, reserved_ports(3) as ports:
        addresses = {front: f"127.0.0.1:{port}" for front, port in zip(("http", "grpc", "metrics"), ports, strict=True)}
        folder = Path(name)
        runtime.lay_out(folder, installation, repository)
        _write_tritonserver(folder / "bin", installation.binary, addresses, shared_memory=f"{folder.name}-")
        variables = {**installation.environment(), **(environment or {})}
        variables["PATH"] = f"{folder / 'bin'}:{variables['PATH']}"
        server = BareTriton(addresses["http"], addresses["grpc"], addresses["metrics"], folder / "log")
        with server.log.open("w") as log:
            process = subprocess.Popen(
                command, cwd=folder, env=variables, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            _wait(process, server, wait_until)
            yield server
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)  # unloading its models would take 3 s
            process.wait()
            for region in shared_memory_of(folder):
                region.unlink(missing_ok=True)


def _write_tritonserver(folder: Path, binary: Path, addresses: Mapping[str, str], *, shared_memory: str) -> None:
    """Write a `tritonserver` that adds the options which the embedded binary and a shared machine need."""
    needed = [f"--backend-directory={runtime.BACKENDS}", "--allow-gpu-metrics=false"]
    needed.append(f"--backend-config=python,shm-region-prefix-name={shared_memory}")
    for front, address in addresses.items():
        host, _, port = address.rpartition(":")
        needed += [f"--{front}-address={host}", f"--{front}-port={port}"]
    folder.mkdir()
    script = folder / "tritonserver"
    script.write_text(f'#!/bin/sh\nexec {binary} {" ".join(needed)} "$@"\n')
    script.chmod(0o755)


def _wait(process: "subprocess.Popen[bytes]", server: BareTriton, state: str) -> None:
    assert eventually(lambda: _is(server, state) or process.poll() is not None), server.log.read_text()[-3000:]
    assert process.poll() is None, server.log.read_text()[-3000:]


def _is(server: BareTriton, state: str) -> bool:
    try:
        with urllib.request.urlopen(f"http://{server.http_address}/v2/health/{state}", timeout=60):
            return True
    except OSError:
        return False
