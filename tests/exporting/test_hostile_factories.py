"""Whatever the user's code raises is an error that says what to do, and never looks like success."""

import importlib.util
import os
import zipfile
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from builder import bounded
from builder.errors import HostError, ModelError
from builder.exporting import ExportOptions, InputSpec, export

if importlib.util.find_spec("torch") is not None:
    import torch

    from builder.exporting import factories, quiet
    from builder.exporting.subject import Subject

SUPPORT = Path(__file__).parents[1] / "support"

OPTIONS = ExportOptions((InputSpec.parse("x=float32[1,4]"),))

HOSTILE = {
    "hostile_modules:leaves": r"calling the factory fails: SystemExit: 0 \(.*hostile_modules.py:\d+: `sys.exit\(0\)`\)",
    "hostile_modules:gives_up": r"calling the factory fails: GeneratorExit \(",
    "hostile_modules:own": r"calling the factory fails: OwnError: of its own \(",
    "hostile_modules:unprintable": r"calling the factory fails: UnprintableError: <",
    "hostile_modules:silent": r"calling the factory fails: RuntimeError \(",
    "hostile_modules:Leaving": r"forward fails on x \[1, 4\]: SystemExit: 0 \(",
    "hostile_modules:Immovable": r"it cannot be moved to the CPU and set to evaluation mode: .*: always in training",
    "hostile_modules:Lazy": r"layer.weight has no shape yet: (.|\n)*call the module once in the factory",
    "hostile_modules:Meta": r"layer.weight is on the device 'meta', and has no values\n.*load its weights there",
    "hostile_modules.py:Lazy": "no Python module 'hostile_modules.py'\nfix: leave out .py: hostile_modules:Lazy$",
    "a_program:make": 'importing a_program fails: SystemExit: 2(.|\n)*below `if __name__ == "__main__":`$',
    "a_user_of_packages:make": "No module named 'no_such_library'(.|\n)*install the package that has no_such_library",
}


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(SUPPORT)
    monkeypatch.chdir(tmp_path)
    Path("hostile_modules.py").write_text("")
    Path("a_program.py").write_text("raise SystemExit(2)\n")
    Path("a_user_of_packages.py").write_text("import no_such_library\n")


def exported(source: str) -> None:
    export(source, Path("m.onnx"), options=OPTIONS)


@pytest.mark.torch
@pytest.mark.parametrize("source", HOSTILE)
def test_what_users_code_raises_is_an_error_with_a_fix(source: str) -> None:
    with pytest.raises(ModelError, match=HOSTILE[source]):
        exported(source)
    assert not Path("m.onnx").exists()


@pytest.mark.torch
def test_ctrl_c_in_a_factory_ends_the_command() -> None:
    with pytest.raises(KeyboardInterrupt):
        exported("hostile_modules:interrupted")


@pytest.mark.torch
def test_what_is_written_past_pythons_stream_stays_off_stdout(capfd: pytest.CaptureFixture[str]) -> None:
    with quiet.as_exported(is_verbose=False):
        found = factories.find("hostile_modules:Loud", OPTIONS)
        found.module(torch.ones(1, 4))
    os.write(1, b"the result")
    printed = capfd.readouterr()
    assert printed.out == "the result"
    assert printed.err == "from C++\nfrom another program\n"


@pytest.mark.torch
def test_relative_paths_stay_where_the_user_is(tmp_path: Path) -> None:
    found = factories.find("hostile_modules:Wandering", OPTIONS)
    assert Path.cwd() == tmp_path
    Subject("hostile_modules:Wandering", found).run({"x": np.ones((1, 4), np.float32)})
    assert Path.cwd() == tmp_path


@pytest.mark.parametrize(("source", "output"), [("a_program:make", "a_program.py"), ("./net.pt2", "net.pt2")])
def test_the_source_of_a_module_is_not_replaced(source: str, output: str) -> None:
    Path(output).write_bytes(b"source")
    with pytest.raises(HostError, match=f"{output}: is the source of the module(.|\n)*choose another output file"):
        export(source, Path(output), options=OPTIONS)
    assert Path(output).read_bytes() == b"source"


def test_a_device_is_not_replaced() -> None:
    with pytest.raises(HostError, match="/dev/null: is not a file that can be replaced"):
        export("a_program:make", Path("/dev/null"), options=OPTIONS)


@pytest.mark.torch
def test_nothing_is_left_beside_the_output_when_the_child_is_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with Ctrl-C, or at the end of the time that it may take: it cannot remove its own files then."""

    def stopped(work: partial[Any], **_: Any) -> NoReturn:
        (folder,) = tmp_path.glob(".m.onnx.*")
        assert folder in work.args
        (folder / "half an export").touch()
        raise KeyboardInterrupt

    with zipfile.ZipFile("net.pt2", "w") as archive:
        archive.writestr("net/models/model.json", "{}")
    monkeypatch.setattr(bounded, "run", stopped)
    before = set(tmp_path.iterdir())
    with pytest.raises(KeyboardInterrupt):
        export("net.pt2", tmp_path / "m.onnx", options=OPTIONS)
    assert set(tmp_path.iterdir()) == before
