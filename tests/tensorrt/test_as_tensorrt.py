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
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

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
from builder.tensorrt import BuildOptions, build, find_library
from builder.tensorrt.running import runners

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
print(json.dumps([str(find_library()), len(first.plan), len(second.cache), written, refused]))
"""


@pytest.mark.rtx
@pytest.mark.slow
@pytest.mark.parametrize("version", ["10.16.0.72", "11.1.0.106"])
def test_a_plan_is_built_and_its_timings_are_kept(version: str, tmp_path: Path) -> None:
    (tmp_path / "tensorrt").mkdir()
    (tmp_path / "tensorrt" / "__init__.py").write_text(STAND_IN.format(version=version))
    paths = os.pathsep.join(map(str, (tmp_path, ROOT, ROOT / "tests")))
    command = [sys.executable, "-W", "error", "-c", BUILDING, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": paths}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    compiler, size, cache, written, refused = read(done.stdout)
    assert compiler == f"TensorRT {version}"
    assert size > 1000
    assert cache == written > 0
    assert refused.startswith("TensorRT cannot load the plan") or not refused  # nothing, on a GPU


def read(printed: str) -> tuple[Any, ...]:
    """Return the last line, which is JSON."""
    return tuple(json.loads(printed.splitlines()[-1]))
