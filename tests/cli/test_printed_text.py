"""What the commands print about hostile files, byte by byte; and what they do when nothing can be printed."""

import io
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from support.hostile_text import HOSTILE, HOSTILE_FILE, READABLE, forged, unsafe

from builder.cli import main, output

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended, and the bytes that it printed."""

    code: int
    out: bytes
    err: bytes


Builder = Callable[..., Ended]


@pytest.fixture
def builder(monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]) -> Builder:
    """`python -m builder` with these arguments; whatever it prints is safe to print."""
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)  # `main` sets it

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["builder", *map(str, arguments)])
        capfdbinary.readouterr()
        try:
            main()
            code: object = 0
        except SystemExit as end:
            code = end.code
        captured = capfdbinary.readouterr()
        assert isinstance(code, int)
        assert (unsafe(captured.out), unsafe(captured.err)) == (set(), set())
        assert forged(captured.out) + forged(captured.err) == []
        return Ended(code, captured.out, captured.err)

    return run


def write(path: Path, *nodes: onnx.NodeProto, batch: int = 1, x: str = "x", y: str = "y") -> Path:
    """Write a model from float[batch, 4] to float[batch, 4] in which everything that has a name has a hostile one."""
    inputs, outputs = ([helper.make_tensor_value_info(name, TensorProto.FLOAT, [batch, 4])] for name in (x, y))
    graph = helper.make_graph(nodes, HOSTILE, inputs, outputs, doc_string=HOSTILE)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, producer_name=HOSTILE, doc_string=HOSTILE
    )
    helper.set_model_props(model, {HOSTILE: HOSTILE})
    path.write_bytes(model.SerializeToString())
    return path


def reshape(source: str, target: str, dims: list[int], name: str) -> list[onnx.NodeProto]:
    shape = numpy_helper.from_array(np.array(dims, np.int64))
    return [
        helper.make_node("Constant", [], [f"{name}.shape"], value=shape),
        helper.make_node("Reshape", [source, f"{name}.shape"], [target], name=name),
    ]


def softmax_over_batch(folder: Path) -> Path:
    node = helper.make_node("Softmax", ["x"], ["y"], name=HOSTILE, axis=0)
    return write(folder / f"{HOSTILE_FILE}.onnx", node, batch=4)


def rewritten(folder: Path, name: str = "m.onnx") -> Path:
    """A model with hostile names of its tensors and of the nodes that will be rewritten."""
    x, y = f"{HOSTILE}x", f"{HOSTILE}y"
    nodes = [*reshape(x, "r", [1, 2, 2], HOSTILE), *reshape("r", y, [1, 4], f"{HOSTILE}2")]
    return write(folder / name, *nodes, x=x, y=y)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "repository"


# ---- names in models


def test_a_hostile_model_is_published_listed_and_verified(builder: Builder, tmp_path: Path, root: Path) -> None:
    path = rewritten(tmp_path, f"{HOSTILE_FILE}.onnx")
    done = builder("publish", path, "--repository", root, "--name", "m")
    assert (done.code, done.out) == (0, f"{root / 'm' / '1'}\n".encode())
    assert READABLE.encode() in done.err
    listed = builder("list", "--repository", root)
    assert (listed.code, b"\\x1b" in listed.out) == (0, True)
    assert builder("verify", "m", "--repository", root).code == 0


def test_a_hostile_model_is_refused_with_its_nodes_name(builder: Builder, tmp_path: Path, root: Path) -> None:
    done = builder("publish", softmax_over_batch(tmp_path), "--repository", root)
    assert (done.code, done.out) == (3, b"")
    lines = done.err.decode().splitlines()
    assert [line[:6] for line in lines[-3:]] == ["error:", "    So", "fix: p"]
    assert "\\x1b[31mRED" in lines[-2]
    assert READABLE in lines[-2]


def test_a_hostile_operator_is_refused_by_name(builder: Builder, tmp_path: Path, root: Path) -> None:
    path = write(tmp_path / "m.onnx", helper.make_node(HOSTILE, ["x"], ["y"]))
    done = builder("publish", path, "--repository", root)
    assert done.code == 3
    assert b"\\x1b[31mRED" in done.err


def test_inspect_shows_hostile_names_in_its_tables(builder: Builder, tmp_path: Path) -> None:
    shown = builder("inspect", rewritten(tmp_path))
    assert shown.code == 0
    assert b":boom:" in shown.out.replace(b"\n", b"")
    assert b"[red]" in shown.out
    assert builder("inspect", softmax_over_batch(tmp_path)).code == 3


def test_json_has_every_name_as_it_is(builder: Builder, tmp_path: Path, root: Path) -> None:
    path = rewritten(tmp_path)
    shown = builder("inspect", path, "--json")
    found = json.loads(shown.out)
    assert [tensor["name"] for tensor in found["inputs"] + found["outputs"]] == [f"{HOSTILE}x", f"{HOSTILE}y"]
    assert [rewrite["node"] for rewrite in found["rewrites"]] == [HOSTILE, f"{HOSTILE}2"]
    assert READABLE.encode() in shown.out
    published = json.loads(builder("publish", path, "--repository", root, "--json").out)
    assert {rewrite["node"] for rewrite in published["manifest"]["rewrites"]} == {HOSTILE, f"{HOSTILE}2"}


def test_a_very_long_name_is_cut_short(builder: Builder, tmp_path: Path) -> None:
    node = helper.make_node("Softmax", ["x"], ["y"], name="n" * 4000, axis=0)
    done = builder("publish", write(tmp_path / "m.onnx", node, batch=4), "--repository", tmp_path / "r")
    assert done.code == 3
    assert len(done.err) < 2000
    assert "n… (4,0".encode() in done.err


def test_a_hostile_manifest_is_listed_safely(builder: Builder, tmp_path: Path, root: Path) -> None:
    builder("publish", rewritten(tmp_path), "--repository", root)
    path = root / "m" / "1" / "manifest.json"
    manifest = json.loads(path.read_text())
    for file, proof in ((HOSTILE, manifest["proof"]), (f"{HOSTILE}\ud800", manifest["proof"]), ("m.onnx", HOSTILE)):
        path.write_text(json.dumps({**manifest, "source": {**manifest["source"], "file": file}, "proof": proof}))
        assert b"\xe2\x94\x82 m " in builder("list", "--repository", root).out
        assert json.loads(builder("list", "--repository", root, "--json").out)[0]["name"] == "m"
    assert builder("verify", "m", "--repository", root).code != 0


# ---- the command line itself


@pytest.mark.parametrize(
    "arguments",
    [
        (HOSTILE,),
        (f"--{HOSTILE}",),
        ("list", f"--{HOSTILE}"),
        ("publish", HOSTILE),
        ("publish", "m.onnx", "--kind", HOSTILE),
        ("publish", "m.onnx", "--max-batch-size", HOSTILE),
        ("publish", f"{HOSTILE}:{HOSTILE}"),
        ("verify", HOSTILE),
        ("list", "--repository", HOSTILE),
        ("deploy", HOSTILE, "--server", HOSTILE),
    ],
    ids=lambda arguments: " ".join(arguments)[:12].encode("unicode_escape").decode(),
)
def test_a_hostile_argument_is_quoted_safely(
    builder: Builder, arguments: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    done = builder(*arguments)
    assert done.code != 0
    assert [line.split()[0] for line in done.err.decode().splitlines()[-2:]] == ["error:", "fix:"]


def test_a_bug_is_shown_with_a_traceback_that_cannot_be_mistaken_for_an_error(
    capfdbinary: pytest.CaptureFixture[bytes],
) -> None:
    try:
        raise ValueError(HOSTILE)
    except ValueError as error:
        output.show_bug(ValueError, error, error.__traceback__)
    shown = capfdbinary.readouterr().err
    assert shown.startswith(b"Traceback")
    assert b"raise ValueError(HOSTILE)" in shown
    assert (unsafe(shown), forged(shown)) == (set(), [])


# ---- where it goes to


def test_what_libraries_log_is_not_printed(tmp_path: Path) -> None:
    """onnx-ir logs the traceback of a shape inference that fails."""
    node = helper.make_node("Gather", ["x", "x"], ["y"], axis=1 << 62)
    done = shell("builder publish $1 --repository $2", write(tmp_path / "m.onnx", node), tmp_path / "r")
    assert done.returncode == 3
    assert "Traceback" not in done.stderr
    assert "Gather" in done.stderr


def test_what_onnxruntime_logs_outside_of_a_session_is_not_printed(tmp_path: Path) -> None:
    """It prints an allocation that cannot be counted at once, in colour."""
    shape = numpy_helper.from_array(np.array([2**31, 2**31]))
    nodes = (
        helper.make_node("Constant", [], ["s"], value=shape),
        helper.make_node("ConstantOfShape", ["s"], ["b"]),
        helper.make_node("ReduceSum", ["b"], ["r"], keepdims=0),
        helper.make_node("Add", ["x", "r"], ["y"]),
    )
    done = shell("builder publish $1 --repository $2", write(tmp_path / "m.onnx", *nodes), tmp_path / "r")
    assert done.returncode == 6
    assert "it needs more than the " in done.stderr
    assert not unsafe(done.stderr.encode())


def test_a_stdout_of_ascii_takes_every_name(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = io.BytesIO()
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(taken, encoding="ascii"))
    output.prepare()
    output.print_json({"name": HOSTILE})
    assert json.loads(taken.getvalue()) == {"name": HOSTILE}
    output.print_result(READABLE)
    output.print_table(["name"], [[READABLE]])
    assert taken.getvalue().count(b"\\u6f22") == 3
    assert unsafe(taken.getvalue()) == set()


def shell(line: str, *arguments: object) -> "subprocess.CompletedProcess[str]":
    """Run a line of bash in which `builder` is the program."""
    program = f'builder() {{ "{sys.executable}" -m builder "$@"; }}; set -o pipefail'
    command = ["bash", "-c", f"{program}; {line}", "bash", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("line", ["builder --help >&-", "builder --help <&- >&- 2>&-"])
def test_a_command_works_without_a_stdout(line: str) -> None:
    done = shell(line)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.slow
def test_a_model_is_published_while_nothing_can_be_printed(tmp_path: Path) -> None:
    path = rewritten(tmp_path)
    for number, streams in enumerate([">&-", "<&- >&- 2>&-", "2>/dev/full", "2>&1 | true"]):
        done = shell(f"builder publish $1 --repository $2 {streams}", path, tmp_path / str(number))
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        assert (tmp_path / str(number) / "m" / "1").is_dir()


@pytest.mark.slow
def test_a_reader_that_stops_early_is_no_failure(tmp_path: Path) -> None:
    done = shell("builder list --json --repository $1 | true", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.slow
def test_a_result_that_cannot_be_written_is_an_error(tmp_path: Path) -> None:
    done = shell("builder list --repository $1 >/dev/full", tmp_path)
    assert (done.returncode, done.stderr.count("error: "), "Traceback" in done.stderr) == (6, 1, False)


def test_usage_errors_have_their_exit_code_when_they_cannot_be_printed() -> None:
    assert shell("builder --nonsense 2>/dev/full").returncode == 2
