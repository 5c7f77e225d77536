"""Find the `tritonserver` inside the wheel `nvidia-pytriton`, without importing the wheel."""

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from dataclasses import dataclass
from pathlib import Path

from builder.cores import usable_cores
from builder.errors import HostError
from builder.installing import REQUIREMENTS, install, pip_install

WHEEL = "nvidia-pytriton"
NOT_PASSED_ON = ("TRITON_ADMIN_KEY", "AIP_MODE")
"""Variables that `tritonserver` must not get: the admin key, which its stubs and so the code of models would inherit,
and the one that makes it listen for Vertex AI on every address, without a key.

Source: https://github.com/triton-inference-server/server/blob/r24.10/src/command_line_parser.cc, TritonParser::Parse
"""

CORES = "BUILDER_CORES"
"""The variable that tells our backend how many cores it may use."""

_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"

_WHICH_NUMPY = """
import os, runpy
from importlib.util import find_spec
try:
    folder = find_spec("numpy").submodule_search_locations[0]
    version = runpy.run_path(os.path.join(folder, "version.py"))["version"]
except Exception:
    import numpy
    version, folder = numpy.__version__, os.path.dirname(numpy.__file__)
print()
print(version, os.path.dirname(folder))
"""
"""Prints the version of the NumPy that `import numpy` finds, and the folder that it is in. Importing NumPy itself would
take four times as long."""


@dataclass(frozen=True, slots=True)
class Installation:
    """The files of one embedded Triton, all known to exist.

    Attributes:
        binary: The `tritonserver` executable.
        libraries: The folder of shared libraries in the wheel.
        python_backend: The folder of Triton's Python backend, which runs our backend.
        caches: The folder of Triton's response caches.
        stub: The executable that runs a backend's Python code, built for this version of Python.
    """

    binary: Path
    libraries: Path
    python_backend: Path
    caches: Path
    stub: Path

    def environment(self) -> dict[str, str]:
        """Return this process's environment with the variables that `tritonserver` and its stubs need.

        The stub uses the first `python3` on PATH, and so finds NumPy and ONNX Runtime. GPUs are hidden: this server
        runs models on the CPU, and refuses a model that asks for a GPU. The backend divides the cores among the
        instances of a model, and learns here how many a container allows.
        """
        ours = {name: value for name, value in os.environ.items() if name not in NOT_PASSED_ON}
        libraries = [_libpython_directory(), str(self.libraries), os.environ.get("LD_LIBRARY_PATH", "")]
        return {
            **ours,
            "PATH": os.pathsep.join([sysconfig.get_path("scripts"), os.environ.get("PATH", os.defpath)]),
            "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
            "CUDA_VISIBLE_DEVICES": "-1",
            CORES: str(usable_cores()),
        }


def find_installation() -> Installation:
    """Locate the embedded Triton and check that it can run here.

    Raises:
        HostError: This is another platform, the wheel is missing, or its stub cannot run this Python.
    """
    if (sys.platform, platform.machine()) != ("linux", "x86_64"):
        raise HostError(
            "the embedded Triton",
            f"it runs only on Linux x86-64, and this machine is {sys.platform} {platform.machine()}",
            "serve the repository from NVIDIA's Triton container instead",
        )
    if shutil.which("bash") is None:
        raise HostError("the embedded Triton", "it needs bash, which is not on PATH", "install bash")
    root = _wheel_root()
    triton = root / "pytriton" / "tritonserver"
    installation = Installation(
        binary=triton / "bin" / "tritonserver",
        libraries=root / "nvidia_pytriton.libs",
        python_backend=triton / "backends" / "python",
        caches=triton / "caches",
        stub=triton / "python_backend_stubs" / _PYTHON / "triton_python_backend_stub",
    )
    _check_complete(installation)
    _check_numpy(installation)
    _check_stub_runs(installation)
    return installation


def _wheel_root() -> Path:
    spec = importlib.util.find_spec("pytriton")
    if spec is None or spec.origin is None:
        raise HostError("the embedded Triton", f"the package {WHEEL} is not installed", install(WHEEL))
    return Path(spec.origin).parent.parent


def _check_complete(installation: Installation) -> None:
    if not installation.stub.exists():
        raise HostError(
            installation.stub.parent.parent,
            f"{WHEEL} has no Python backend for Python {_PYTHON}",
            "use Python 3.10, 3.11 or 3.12",
        )
    for path in (installation.binary, installation.libraries, installation.python_backend, installation.caches):
        if not path.exists():
            command = pip_install("--force-reinstall", "--no-deps", WHEEL + REQUIREMENTS[WHEEL])
            raise HostError(path, f"this part of the package {WHEEL} is missing", f"reinstall it: {command}")


def _check_numpy(installation: Installation) -> None:
    """Refuse NumPy 2: the stub was built for NumPy 1, and would silently treat every array as empty."""
    version, folder = _numpy_of_stub(installation)
    if version.startswith("1."):
        return
    what = f"{WHEEL} does not work with NumPy {version}, which its models would import from {folder}"
    fix = f"run {pip_install('numpy>=1.26,<2')}"
    on_python_path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    if folder in map(os.path.abspath, filter(None, on_python_path)):
        fix = f"take {folder} out of PYTHONPATH, and if this comes again, {fix}"
    raise HostError("the embedded Triton", what, fix)


def _numpy_of_stub(installation: Installation) -> tuple[str, str]:
    """Return the version of the NumPy that the stub will import, and the folder that it is in.

    This process may import another one: from PYTHONPATH, from a user's site-packages, or from a `sys.path` that its
    program changed. The stub embeds Python. It finds its packages as a program does that is started as `python3`, on
    Triton's PATH and in Triton's folder, and from Python 3.11 on with `-I` **[seen]**. That is what is started here.

    Raises:
        HostError: It would find none.
    """
    isolated = ["-I"] if b"PyConfig_InitIsolatedConfig" in installation.stub.read_bytes() else []
    with tempfile.TemporaryDirectory() as empty:  # a relative path in PYTHONPATH means another folder there, too
        asked = subprocess.run(
            ["python3", *isolated, "-c", _WHICH_NUMPY],
            executable=sys.executable,
            env=installation.environment(),
            cwd=empty,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )
    if asked.returncode:
        reason = (asked.stderr.strip().splitlines() or [f"it ended with {asked.returncode}"])[-1]
        fix = f"run {pip_install('numpy>=1.26,<2')}"
        raise HostError("the embedded Triton", f"the Python that runs its models cannot import NumPy: {reason}", fix)
    version, _, folder = asked.stdout.splitlines()[-1].partition(" ")
    return version, folder


def _check_stub_runs(installation: Installation) -> None:
    """Run the stub without arguments: it prints its usage and exits with 1, or with 127 if a library is missing."""
    loaded = subprocess.run(
        [installation.stub], env=installation.environment(), capture_output=True, text=True, check=False
    )
    if loaded.returncode == 127:
        raise HostError(
            installation.stub,
            f"it cannot be loaded: {loaded.stderr.strip().removeprefix(f'{installation.stub}: ')}",
            f"install libpython{_PYTHON}, or use a Python that was built with --enable-shared",
        )


def _libpython_directory() -> str:
    """Return the folder of this interpreter's shared library, or "" if the loader has to find it."""
    directory, name = sysconfig.get_config_vars("LIBDIR", "INSTSONAME")
    return str(directory) if directory and name and (Path(directory) / name).exists() else ""
