"""The command that an error shows for a missing package works in the Python that showed it."""

import importlib
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from builder import installing
from builder.installing import REQUIREMENTS, install, pip_install
from builder.version import __version__

ROOT = Path(__file__).parents[1]


def split(fix: str) -> list[str]:
    """Return the command of a fix."""
    return shlex.split(fix.removeprefix("run ").partition(" (")[0])


def test_the_versions_are_those_of_the_extras() -> None:
    toml = importlib.import_module("tomllib" if sys.version_info >= (3, 11) else "tomli")
    project = toml.loads((ROOT / "pyproject.toml").read_text())["project"]
    lists = [project["dependencies"], *project["optional-dependencies"].values()]
    named = {re.split(r"[<>=\[;]", text)[0]: text.partition(";")[0].strip() for texts in lists for text in texts}
    assert {name: named[name] for name in REQUIREMENTS} == {name: name + spec for name, spec in REQUIREMENTS.items()}


@pytest.mark.slow
def test_pip_accepts_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From another folder, with requirements that are met: nothing has to be downloaded."""
    monkeypatch.chdir(tmp_path)
    command = [*split(install("s3fs", "nvidia-pytriton")), "--dry-run", "--no-index"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Requirement already satisfied: s3fs>=" in done.stdout


def test_a_clone_uses_its_pinned_versions_and_names_paths_from_where_the_user_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "constraints.txt").touch()
    monkeypatch.setattr(installing, "_CONSTRAINTS", tmp_path / "constraints.txt")
    monkeypatch.setattr(sys, "executable", str(tmp_path / ".venv" / "bin" / "python"))
    monkeypatch.chdir(tmp_path)
    assert pip_install("a>=1") == ".venv/bin/python -m pip install -c constraints.txt 'a>=1'"
    monkeypatch.chdir("/")
    place = str(tmp_path).removeprefix("/")
    assert pip_install("a>=1") == f"{place}/.venv/bin/python -m pip install -c {place}/constraints.txt 'a>=1'"


def test_an_installed_wheel_has_no_pinned_versions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installing, "_CONSTRAINTS", tmp_path / "constraints.txt")
    assert "-c" not in split(install("torch"))


def test_an_activated_environment_is_python(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent))
    assert re.match(r"python[\d.]* -m pip install ", pip_install("a"))


def test_without_pip_uv_installs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Environments that uv makes have no pip."""
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    monkeypatch.setattr(sys, "executable", "/opt/some where/python")
    assert pip_install("a>=1").startswith("uv pip install --python '/opt/some where/python' ")


def test_the_documented_wheel_has_the_name_of_this_version() -> None:
    wheels = re.findall(r"triton_repository_builder-([\w.]+)-py3", (ROOT / "docs" / "pytorch.md").read_text())
    assert set(wheels) == {__version__}


def test_no_text_suggests_to_install_the_project_from_an_index() -> None:
    """It is on none, so that this would find nothing, or somebody else's package."""
    files = [*(ROOT / "builder").rglob("*.py"), *(ROOT / "docs").glob("*.md"), *ROOT.glob("*.md")]
    named = "install .*(?<!/)triton-repository" + "-builder"
    assert [str(path) for path in files if re.search(named, path.read_text(errors="replace"))] == []


def test_what_needs_pytorch_or_rtx_is_skipped_only_by_its_mark() -> None:
    """CI runs what is marked so, and makes a missing package an error. Another way to skip would go unnoticed."""
    torch = r"(?<![.\w])(?:has_|py)?(?:torch|onnxscript|transformers)\b"  # not torch in safetensors.torch
    rtx = r"(?-i:\b(?:HAS_RTX|tensorrt_rtx\w*|polygraphy)\b)"  # not Polygraphy in the reason of a test that needs a GPU
    own_ways = re.compile(rf"(?:importorskip|skipif|skip)\([^)\n]*(?:{torch}|{rtx})", re.IGNORECASE)
    found = {
        str(path.relative_to(ROOT))
        for path in (ROOT / "tests").rglob("*.py")
        if path not in (Path(__file__), ROOT / "tests" / "conftest.py") and own_ways.search(path.read_text())
    }
    assert found == set()
    assert own_ways.search('transformers = pytest.importorskip("transformers")')
    assert own_ways.search('@pytest.mark.skipif(not HAS_TORCH, reason="…")')
    assert own_ways.search('bindings = pytest.importorskip("tensorrt_rtx_bindings")')
