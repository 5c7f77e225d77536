"""The embedded Triton refuses the NumPy that its models would import, whatever this process imports."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest

from builder.errors import HostError
from builder.server import Server, installation

ROOT = Path(__file__).parents[2]
HERE = sysconfig.get_path("purelib")

REPORTING = """
import numpy
open({report!r}, "w").write(numpy.__version__ + " " + numpy.__file__)
class TritonPythonModel:
    def execute(self, requests):
        return []
"""


def numpy_2(folder: Path) -> Path:
    """Write as much of a NumPy 2.2.6 as it takes to be found; return the folder to import it from."""
    for package, file, text in [
        ("numpy", "__init__.py", "from numpy.version import version as __version__\n"),
        ("numpy", "version.py", 'version = "2.2.6"\n'),
        ("numpy-2.2.6.dist-info", "METADATA", "Metadata-Version: 2.1\nName: numpy\nVersion: 2.2.6\n"),
    ]:
        (folder / package).mkdir(parents=True, exist_ok=True)
        (folder / package / file).write_text(text)
    return folder


def environment(folder: Path) -> Path:
    """Make a virtual environment with the packages of this one below its own; return its folder of packages."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python3*/site-packages")
    (packages / "below.pth").write_text(f"{HERE}\n{ROOT}\n")
    return packages


def find_installation_in(folder: Path, *, first: str) -> str:
    """Look for the Triton in a virtual environment, in a program that imports from `first` before all else."""
    code = f"import sys; sys.path.insert(0, {first!r}); import numpy; print(numpy.__version__)\n"
    code += "from builder.server.installation import find_installation; find_installation()"
    command = [str(folder / "bin" / "python"), "-c", code]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    return done.stdout + done.stderr


def test_numpy_2_of_the_environment_is_refused_though_this_process_imports_numpy_1(tmp_path: Path) -> None:
    packages = numpy_2(environment(tmp_path))
    told = find_installation_in(tmp_path, first=HERE)
    assert told.startswith(np.__version__)
    assert f"does not work with NumPy 2.2.6, which its models would import from {packages}\nfix: run " in told
    assert told.endswith("'numpy>=1.26,<2'\n")


def test_numpy_1_of_the_environment_is_accepted_though_this_process_finds_numpy_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(numpy_2(tmp_path)))
    installation.find_installation()


def test_an_environment_without_numpy_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    packages = environment(tmp_path)
    (packages / "below.pth").unlink()
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path / "bin"))
    with pytest.raises(HostError, match=r"cannot import NumPy: ModuleNotFoundError: No module named 'numpy'\n.*run "):
        installation.find_installation()


def test_python_path_counts_where_the_models_read_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(numpy_2(tmp_path)))
    if sys.version_info >= (3, 11):  # test_the_real_stub_imports_the_numpy_that_was_checked holds this
        installation.find_installation()
    else:
        with pytest.raises(HostError, match=f"fix: take {tmp_path} out of PYTHONPATH, and if this comes again, run "):
            installation.find_installation()


@pytest.mark.slow
def test_the_real_stub_imports_the_numpy_that_was_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the environment's NumPy also in another folder, which PYTHONPATH names."""
    elsewhere, version, report = tmp_path / "elsewhere", tmp_path / "models" / "reporting" / "1", tmp_path / "report"
    elsewhere.mkdir()
    for name in ("numpy", "numpy.libs"):
        (elsewhere / name).symlink_to(Path(HERE, name))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(elsewhere), str(ROOT)]))
    version.mkdir(parents=True)
    (version / "model.py").write_text(REPORTING.format(report=str(report)))
    tensors = ' input { name: "X" data_type: TYPE_FP32 dims: 2 } output { name: "Y" data_type: TYPE_FP32 dims: 2 }'
    (version.parent / "config.pbtxt").write_text(
        f'name: "reporting" backend: "python" {tensors} instance_group {{ kind: KIND_CPU count: 1 }}'
    )
    with Server.start(tmp_path / "models", http_port=0, grpc_port=0, metrics_port=0, ready_timeout_s=120):
        seen, _, file = report.read_text().partition(" ")
    assert installation._numpy_of_stub(installation.find_installation()) == (seen, str(Path(file).parents[1]))
