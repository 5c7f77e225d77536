"""What runs with TensorRT, and not with TensorRT for RTX, builds under the name and the version of TensorRT 10 and 11.

Both libraries have one Python interface, and the code here and in Polygraphy chooses by name and version. So the
compiler that is installed is run under the other name, in a Python where warnings are errors. It keeps no timings, but
writes and reads an empty cache of them.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MODEL = ROOT / "tests" / "models" / "encoder_layer_ts17.onnx"

STAND_IN = """
import warnings
import tensorrt_rtx_bindings as bindings
from tensorrt_rtx_bindings import *

__version__ = "{version}"

def deprecated(value, text):
    def get(self):
        warnings.warn(text, DeprecationWarning, stacklevel=1)
        return value
    return property(get)

if __version__.startswith("10."):  # what the bindings of 10.16 warn of, and 11 no longer has
    bindings.IBuilderConfig.int8_calibrator = deprecated(
        None, "Use Deprecated in TensorRT 10.1. Superseded by explicit quantization. instead."
    )
    bindings.ILayer.precision_is_set = deprecated(
        False, "Use Deprecated in TensorRT 10.12. Superseded by strong typing. instead."
    )
"""

BUILDING = """
import json, sys
from pathlib import Path
from support.plans import small
from builder.config import make_profiles
from builder.errors import HostError
from builder.proof import verify
from builder.tensorrt import BuildOptions, build, check_builds, find_library, library
from builder.tensorrt.running import runners

library.has_driver = lambda: True
folder = Path(sys.argv[1])
verified = verify(small(folder), max_batch_size=4, effort="off")
profiles = make_profiles(verified.batched, (), max_batch_size=4)
options = BuildOptions(timing_cache=folder / "timing.cache", workspace_mb=64)
first, second = [build(verified, profiles, options, lambda phase: None) for _ in range(2)]
try:
    with runners(second.plan, folder, 1):
        refused = ""
except HostError as error:
    refused = error.what
written = options.timing_cache.stat().st_size
check_builds(options)  # another build may extend it
other = folder / "weights.bin"
other.write_bytes(b"of some other program")
try:
    check_builds(BuildOptions(timing_cache=other))
    taken = ""
except HostError as error:
    taken = error.what
print(json.dumps([str(find_library()), len(first.plan), len(second.cache), written, refused, taken]))
"""


PUBLISHING = """
import sys
from collections import Counter
from contextlib import contextmanager
from builder.cli import cli
from builder.proof.session import open_rewritten
from builder.tensorrt import Host, compiling, host, library

built = []

def build(verified, *arguments):
    built.append(verified)
    return compiling_build(verified, *arguments)

@contextmanager
def runners(plan, where, profiles):
    session = open_rewritten(built[-1].model_bytes, where=where, folder=where.parent, keep_layout=True)
    yield None, [session.run] * profiles

compiling_build, compiling.build, compiling.runners = compiling.build, build, runners
compiling.count_formats = lambda *_: Counter({"Half": 3, "Float": 2})
library.has_driver = lambda: True
host._driver = lambda: Host("", "13.3", "580.1", "NVIDIA H200", "9.0")
cli(sys.argv[1:])
"""
"""`publish` on a machine that seems to have a GPU, on which ONNX Runtime runs the proven file in place of the plan."""


def run(script: str, *arguments: str, version: str, folder: Path) -> str:
    """Run a script with a stand-in for a version of TensorRT; return what it prints to stdout."""
    (folder / "tensorrt").mkdir()
    (folder / "tensorrt" / "__init__.py").write_text(STAND_IN.format(version=version))
    paths = os.pathsep.join(map(str, (folder, ROOT, ROOT / "tests")))
    command = [sys.executable, "-W", "error", "-c", script, *arguments]
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.rtx
@pytest.mark.slow
@pytest.mark.parametrize("version", ["10.16.0.72", "11.1.0.106"])
def test_a_plan_is_built_and_its_timings_are_kept(version: str, tmp_path: Path) -> None:
    printed = run(BUILDING, str(tmp_path), version=version, folder=tmp_path)
    compiler, size, cache, written, refused, taken = json.loads(printed.splitlines()[-1])
    assert compiler == f"TensorRT {version}"
    assert size > 1000
    assert cache == written > 0
    assert refused.startswith("TensorRT cannot load the plan") or not refused  # nothing, on a GPU
    assert taken == "it is not a timing cache of the installed TensorRT, and the build would overwrite it"
    assert (tmp_path / "weights.bin").read_bytes() == b"of some other program"


@pytest.mark.rtx
@pytest.mark.slow
def test_a_plan_is_published(tmp_path: Path) -> None:
    """All of `publish`, from its options to what lies in the repository, but for the running of the plan."""
    asked = ["--format", "tensorrt", "--precision", "fp16", "--fallback", "onnx", "--max-batch-size", "4", "--json"]
    printed = run(PUBLISHING, "publish", str(MODEL), *asked, version="11.1.0.106", folder=tmp_path)
    assert json.loads(printed)["name"] == MODEL.stem
    folder = tmp_path / "model_repository" / MODEL.stem / "1"
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["plan"]["tensorrt"], manifest["plan"]["gpu"]) == ("11.1.0.106", "NVIDIA H200")
    assert manifest["plan"]["layers"] == {"Half": 3, "Float": 2}
    assert (folder / "model.plan").stat().st_size > 100_000
    assert (folder / "timing-9.0.cache").stat().st_size > 0
    assert (folder / "model.onnx").exists()
