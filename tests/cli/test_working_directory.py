"""Modules that lie in the working directory, a folder of downloads perhaps, are not imported."""

import json
import os
import re
import shutil
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCUSTFILE = ROOT / "loadtest" / "locustfile.py"
DIGITS = ROOT / "examples" / "digits" / "digits.onnx"

POISON = "import os\nos.write(2, b'IMPORTED ' + __name__.encode() + b'\\n')\nos._exit(99)\n"

OPTIONAL = {"brotli", "cupy", "fsspec", "orjson", "polygraphy", "tensorrt", "torch", "ujson", "uvloop"}
"""Modules that libraries import if they are there."""


QUICK = """
import sys
from importlib.machinery import PathFinder

class Quick:
    def find_spec(self, name, path=None, target=None):
        if name == "builder.cli.demo":
            spec = PathFinder.find_spec(name, path)
            run = spec.loader.exec_module
            spec.loader.exec_module = lambda module: (run(module), setattr(module, "SECONDS", 0.2))
            return spec

sys.meta_path.insert(0, Quick())
"""
"""Python runs this before the demo, of which each load is shorter then; nothing is imported sooner than without it."""


def run(folder: Path, *command: object, first: str = "") -> "subprocess.CompletedProcess[str]":
    environment = {**os.environ, "PYTHONPATH": f"{first}{ROOT}"}
    line = [sys.executable, *map(str, command)]
    return subprocess.run(line, cwd=folder, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def downloads(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, and with a module of every name in the standard library and among the packages installed.

    The modules that Python imports itself before it runs a program with `-m` are not there: only `python -P` guards
    against those.
    """
    folder = tmp_path_factory.mktemp("downloads")
    shutil.copy(DIGITS, folder)
    (folder / "empty.py").touch()
    log = run(folder, "-v", "-m", "empty").stderr
    unguarded = set(re.findall(r"^import '?(\w+)", log, re.MULTILINE))
    for name in {*sys.stdlib_module_names, *packages_distributions(), *OPTIONAL} - unguarded:
        if name.isidentifier() and name not in ("builder", "loadtest", "__main__"):
            (folder / f"{name}.py").write_text(POISON)
    return folder


@pytest.mark.parametrize(
    "command",
    [
        ("builder", "--help"),
        ("loadtest", "run", "--help"),
        pytest.param(("builder", "inspect", "digits.onnx"), marks=pytest.mark.slow),
    ],
    ids=" ".join,
)
def test_no_module_is_imported_from_the_working_directory(command: tuple[str, ...], downloads: Path) -> None:
    done = run(downloads, "-m", *command)
    assert (done.returncode, "IMPORTED" in done.stderr) == (0, False), done.stderr[-2000:]


@pytest.mark.slow
def test_the_demo_checks_every_answer_and_imports_no_module_from_the_working_directory(
    downloads: Path, tmp_path: Path
) -> None:
    (tmp_path / "sitecustomize.py").write_text(QUICK)
    done = run(downloads, "-m", "builder", "demo", "--json", first=f"{tmp_path}{os.pathsep}")
    assert (done.returncode, "IMPORTED" in done.stderr) == (0, False), done.stderr[-2000:]
    shown = json.loads(done.stdout)
    assert shown["accuracy_triton"] == shown["accuracy_original"] > 0.95
    assert {drive["protocol"] for drive in shown["drives"]} == {"HTTP", "gRPC"}
    assert all(drive["requests"] > 0 and drive["largest_difference"] < 1e-3 for drive in shown["drives"])
    assert "dynamic_batching" in (downloads / "model_repository" / "digits" / "config.pbtxt").read_text()


@pytest.mark.slow
def test_a_load_test_imports_no_module_from_the_working_directory(downloads: Path) -> None:
    locust = Path(sys.executable).with_name("locust")
    done = run(downloads, locust, "-f", LOCUSTFILE, "--headless", "--host", "http://127.0.0.1:9", "--model", "m")
    assert (done.returncode, "IMPORTED" in done.stderr) == (6, False), done.stderr[-2000:]
    assert "the server does not answer" in done.stderr


def test_a_module_that_is_imported_from_there_is_found(downloads: Path) -> None:
    done = run(downloads, "-c", "import click")
    assert (done.returncode, "IMPORTED" in done.stderr) == (99, True)


def test_a_folder_that_pythonpath_names_is_kept(tmp_path: Path) -> None:
    """It was put there on purpose."""
    program = (
        "from builder.search_path import leave_out_working_directory\nleave_out_working_directory()\nimport mine\n"
    )
    (tmp_path / "program.py").write_text(program)
    (tmp_path / "mine.py").touch()
    command = [sys.executable, "-m", "program"]
    for folders, code in ((f"{tmp_path}:{ROOT}", 0), (str(ROOT), 1)):
        environment = {**os.environ, "PYTHONPATH": folders}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, check=False)
        assert done.returncode == code


def test_a_working_directory_that_was_deleted_is_no_problem(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    line = f'mkdir "{gone}"; cd "{gone}"; rmdir "{gone}"; "{sys.executable}" -m builder --version'
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", line], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
