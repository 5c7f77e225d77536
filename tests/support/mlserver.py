"""A real MLServer, in a virtual environment of its own, with three models that are written here."""

import hashlib
import json
import subprocess
import sys
import sysconfig
import time
import urllib.request
import venv
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from builder.server import free_port
from support.bare_triton import BareTriton

REQUIREMENTS = Path(__file__).with_name("mlserver.txt")

RUNTIME = '''
from mlserver import MLModel
from mlserver.codecs import NumpyCodec, StringCodec
from mlserver.types import InferenceResponse

class Sums(MLModel):
    """y = the sum of each row of x, plus what the settings say; NAME in capitals, if there is a name."""

    async def predict(self, payload):
        x = NumpyCodec.decode_input(payload.inputs[0])
        y = x.sum(axis=1, keepdims=True) + self.settings.parameters.extra["off"]
        outputs = [NumpyCodec.encode_output("y", y.astype(x.dtype))]
        for name in payload.inputs[1:]:
            words = [word.upper() for word in StringCodec.decode_input(name)]
            outputs.append(StringCodec.encode_output("NAME", words, use_bytes=False))
        return InferenceResponse(model_name=self.name, outputs=outputs)
'''


def install(folder: Path) -> Path:
    """Return the program `mlserver`, installed in `folder` unless it is there; skip the test if it cannot be.

    Of the packages that it needs, those of this environment are used whose version is the same: pip takes half of the
    time then.
    """
    program = folder / "bin" / "mlserver"
    missing = _find_missing()
    done = folder / hashlib.sha256("\n".join([sys.prefix, *missing]).encode()).hexdigest()
    if not done.exists():
        venv.create(folder, clear=True, with_pip=False)
        pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet"]
        options = ["--no-deps", "--no-compile", "--only-binary", ":all:", *missing]
        try:
            subprocess.run([*pip, *options], check=True, capture_output=True, text=True, timeout=120)
        except (subprocess.CalledProcessError, subprocess.TimeoutExpired) as error:
            pytest.skip(f"MLServer cannot be installed: {str(error.stderr).strip()[-300:]}")
        (own,) = folder.glob("lib/python*/site-packages")
        (own / "ours.pth").write_text("\n".join({sysconfig.get_path(kind) for kind in ("purelib", "platlib")}))
        done.touch()
    return program


def _find_missing() -> list[str]:
    """Return the requirements for this Python that this environment does not meet."""
    lines = [line for line in REQUIREMENTS.read_text().splitlines() if line and not line.startswith("#")]
    wanted = [one for one in map(Requirement, lines) if one.marker is None or one.marker.evaluate()]
    ours = {canonicalize_name(one.name): one.version for one in distributions()}
    return [str(one) for one in wanted if not one.specifier.contains(ours.get(canonicalize_name(one.name), "0"))]


def write_models(folder: Path) -> None:
    """Write `bare`, which says nothing about its tensors as is MLServer's default, `listed`, and `wrong`."""
    tensors = {
        "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 1]}],
    }
    (folder / "runtime.py").write_text(RUNTIME)
    for name, off, described in (("bare", 0, {}), ("listed", 0, tensors), ("wrong", 1, tensors)):
        (folder / name).mkdir()
        settings: dict[str, Any] = {"name": name, "implementation": "runtime.Sums", **described}
        settings["parameters"] = {"version": "v1", "extra": {"off": off}}
        (folder / name / "model-settings.json").write_text(json.dumps(settings))


@contextmanager
def serving_mlserver(program: Path, folder: Path) -> Iterator[BareTriton]:
    """Serve the models on free ports, until the block ends."""
    write_models(folder)
    ports = {f"{front}_port": free_port() for front in ("http", "grpc", "metrics")}
    settings = {"host": "127.0.0.1", "parallel_workers": 0, "debug": False, **ports}
    (folder / "settings.json").write_text(json.dumps(settings))
    http, grpc, metrics = (f"127.0.0.1:{port}" for port in ports.values())
    server = BareTriton(http, grpc, metrics, folder / "log")
    with server.log.open("w") as log:
        process = subprocess.Popen([program, "start", "."], cwd=folder, stdout=log, stderr=subprocess.STDOUT)
    try:
        _wait(process, server)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(process: "subprocess.Popen[bytes]", server: BareTriton) -> None:
    deadline = time.monotonic() + 150
    while True:
        with suppress(OSError), urllib.request.urlopen(f"http://{server.http_address}/v2/health/ready", timeout=5):
            return
        assert process.poll() is None, server.log.read_text()[-3000:]
        assert time.monotonic() < deadline, server.log.read_text()[-3000:]
        time.sleep(0.1)
