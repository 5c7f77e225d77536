"""The package can be used from Python: the same calls as the commands, imported when they are first used."""

import ast
import inspect
import os
import re
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import onnx
import pytest

import builder
from builder import api, cli

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "api.md").read_text()


@pytest.fixture
def digits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The example model in a working directory of its own."""
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copy(ROOT / "examples" / "digits" / "digits.onnx", tmp_path))


@pytest.mark.parametrize("name", builder.__all__)
def test_every_public_name_can_be_imported_and_is_documented(name: str) -> None:
    assert getattr(builder, name) is not None
    assert name == "__version__" or f"{name}" in PAGE


def test_every_error_is_public() -> None:
    errors = {kind.__name__ for kind in builder.BuilderError.__subclasses__()}
    assert errors | {"BuilderError"} <= set(builder.__all__)


def test_an_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(ImportError, match="cannot import name 'publsh' from 'builder'"):
        exec("from builder import publsh")
    assert not hasattr(builder, "publsh")


def typed_names() -> set[str]:
    """Return what a type checker sees: the imports of `if TYPE_CHECKING`."""
    tree = ast.parse(inspect.getsource(builder))
    (block,) = [node for node in tree.body if isinstance(node, ast.If) and isinstance(node.test, ast.Name)]
    return {alias.name for node in block.body if isinstance(node, ast.ImportFrom) for alias in node.names}


def test_a_type_checker_sees_the_names_that_can_be_imported() -> None:
    assert typed_names() | {"__version__"} == set(builder.__all__)


def test_importing_the_package_imports_nothing_heavy() -> None:
    script = "import builder, sys; print(sorted(m for m in sys.modules if m in ('numpy', 'onnx', 'click')))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_the_default_repository_is_the_one_of_the_command_line() -> None:
    assert api.REPOSITORY == cli.options.REPOSITORY


def test_the_example_in_the_docstring_works(digits: Path) -> None:
    (example,) = re.findall(r"\n\n((?:    .*\n|\n)+)", builder.__doc__ or "")
    exec(textwrap.dedent(example), {})
    assert (digits.parent / "model_repository" / "digits" / "1" / "model.onnx").is_file()


@pytest.mark.slow
def test_a_program_with_threads_can_make_the_calls_that_work_on_a_model(digits: Path) -> None:
    program = """
import threading
from builder import inspect, publish, verify
stop = threading.Event()
threading.Thread(target=stop.wait).start()
print(inspect("digits.onnx").refusal)
print(publish("digits.onnx", "models").version.version)
print(verify("digits", "models").version)
stop.set()
"""
    command = [sys.executable, "-c", program]
    path = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=digits.parent, env=path, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout == "None\n1\n1\n"


@pytest.mark.slow
def test_the_examples_of_the_page_work(digits: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names: dict[str, object] = {}
    for example in re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL):
        exec(example, names)
    assert "serves version 1" in capsys.readouterr().out


def test_inspect_says_why_a_batch_cannot_be_made_dynamic(tmp_path: Path) -> None:
    model = onnx.parser.parse_model(
        '<ir_version: 8, opset_import: ["": 17]> g (float[3, 4] x) => (float[3, 4] y) { y = Softmax <axis = 0> (x) }'
    )
    onnx.save(model, tmp_path / "m.onnx")
    found = builder.inspect(tmp_path / "m.onnx")
    assert found.batched is None
    assert isinstance(found.refusal, builder.ModelError)


def test_verify_reports_what_it_does_and_finds_bytes_that_changed(digits: Path) -> None:
    done = builder.publish(digits, options=builder.PublishOptions(config=builder.ConfigOptions(max_batch_size=4)))
    said: list[tuple[str, str]] = []
    found = builder.verify("digits", report=lambda step, what: said.append((step, what)))
    assert (found.name, found.version) == ("digits", 1)
    assert said[0][0] == "verify"

    path = done.version.path / "model.onnx"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(builder.VerificationError):
        builder.verify("digits", version=1)


def test_publish_takes_the_callers_samples(digits: Path) -> None:
    np.savez("images.npz", **{"input.1": np.random.default_rng(0).random((5, 1, 8, 8), np.float32)})
    options = builder.PublishOptions(samples=Path("images.npz"), config=builder.ConfigOptions(max_batch_size=4))
    done = builder.publish(str(digits), "here", name="mine", options=options)
    assert (done.name, done.version.version, done.version.path.parts[-3:]) == ("mine", 1, ("here", "mine", "1"))
    assert done.manifest.proof.rows == 5
