"""The command line: the result on stdout, everything else on stderr, an exit code and a fix for every error."""

import errno
import json
import os
import re
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NoReturn

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import numpy_helper
from support.artifacts import tree

from builder import __version__
from builder.batching.rules import OPERATORS
from builder.cli import cli, main

ROOT = Path(__file__).parents[2]
LINEAR = "(float[1, 4] x) => (float[1, 3] y) { y = MatMul (x, w) }"
ROUNDED = "(float[1, 4] x) => (float[1, 4] y) { y = Softmax <axis = 1> (x) }"


@dataclass(frozen=True, slots=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    def is_refusal(self, code: int, what: str) -> bool:
        """Whether only an error with this exit code came out, in two lines: where and what, and how to fix it."""
        *_, error, fix = self.err.rstrip("\n").split("\n")
        return (
            self.code == code
            and self.out == ""
            and "Traceback" not in self.err
            and re.match(r"error: .+: .+|  .+", error) is not None
            and fix.startswith("fix: ")
            and what in self.err
        )


Builder = Callable[..., Ended]


AS_NOBODY = """
import os, sys
import builder.publishing, builder.cli, builder.exporting.publishing, builder.cli.inspection, builder.api
import google.protobuf.text_format, onnx.reference, tritonclient.grpc.model_config_pb2
import onnxruntime, onnxruntime.capi.onnxruntime_pybind11_state
builder.config.pbtxt.messages()
if os.getuid() == 0: os.setuid(65534)
builder.cli.main()
"""


def as_nobody(*arguments: object) -> Ended:
    """`python -m builder` with these arguments, run as the user nobody."""
    command = [sys.executable, "-c", AS_NOBODY, *map(str, arguments)]
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return Ended(ended.returncode, ended.stdout, ended.stderr)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody can enter; pytest keeps its own closed, and closes them again while others run."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder).resolve()
        path.chmod(0o777)
        yield path


@pytest.fixture
def builder(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Builder:
    """`python -m builder` with these arguments."""

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["builder", *map(str, arguments)])
        capfd.readouterr()
        try:
            main()
            code: object = 0
        except SystemExit as end:
            code = end.code
        captured = capfd.readouterr()
        assert isinstance(code, int)
        return Ended(code, captured.out, captured.err)

    return run


def write_model(path: Path, graph: str = LINEAR, factor: float = 1) -> Path:
    model = onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["": 17]> g {graph}')
    if "w" in model.graph.node[0].input:
        weights = factor * np.arange(12, dtype=np.float32).reshape(4, 3)
        model.graph.initializer.append(numpy_helper.from_array(weights, "w"))
    path.write_bytes(model.SerializeToString())
    return path


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return write_model(tmp_path / "linear.onnx")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "repository"


@pytest.fixture
def published(builder: Builder, tmp_path: Path, root: Path) -> Path:
    """A repository with versions 1 and 2 of `linear`."""
    for factor in (1, 2):
        builder("publish", write_model(tmp_path / "linear.onnx", factor=factor), "--repository", root)
    return root


# ---------------------------------------------------------------- results


def test_publish_prints_the_path_alone_and_each_step_on_stderr(builder: Builder, model: Path, root: Path) -> None:
    done = builder("publish", model, "--repository", root)
    assert (done.code, done.out) == (0, f"{root / 'linear' / '1'}\n")
    steps = [line.split()[0] for line in done.err.splitlines()]
    assert [step for step in dict.fromkeys(steps) if step != "note"] == ["load", "batch", "rename", "verify", "install"]


def test_publish_prints_json_that_says_what_was_proven(builder: Builder, model: Path, root: Path) -> None:
    done = builder("publish", model, "--repository", root, "--json", "--max-batch-size", 5, "--rename", "y=z")
    found = json.loads(done.out)
    assert (done.code, found["name"], found["version"], found["created"]) == (0, "linear", 1, True)
    assert Path(found["path"]) == root / "linear" / "1"
    assert found["manifest"] == json.loads((root / "linear" / "1" / "manifest.json").read_text())
    assert found["manifest"]["max_batch_size"] == 5
    assert found["manifest"]["outputs"][0]["name"] == "z"


def test_publish_puts_the_settings_it_is_given_into_the_config(builder: Builder, model: Path, root: Path) -> None:
    options = "--max-queue-delay-us 700 --preferred-batch-size 4,8 --instances 3 --kind cpu --no-warmup"
    assert builder("publish", model, "--repository", root, *options.split()).code == 0
    config = (root / "linear" / "config.pbtxt").read_text()
    for expected in ("max_queue_delay_microseconds: 700", "count: 3", "KIND_CPU"):
        assert expected in config
    assert re.search(r"preferred_batch_size: \[?\s*4", config)
    assert "model_warmup" not in config


def test_publish_goes_to_model_repository_by_default(
    builder: Builder, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert builder("publish", model).code == 0
    assert (tmp_path / "model_repository" / "linear" / "1" / "model.onnx").is_file()


def test_inspect_shows_where_the_batch_is_and_what_would_change(builder: Builder, tmp_path: Path) -> None:
    graph = "(float[1, 4] x) => (float[2, 2] y) { s = Constant <value = int64[2] {2, 2}> ()  y = Reshape (x, s) }"
    path = write_model(tmp_path / "m.onnx", graph)
    shown = builder("inspect", path)
    assert shown.code == 0
    assert shown.err == ""
    assert "[N, 4]" in shown.out
    found = json.loads(builder("inspect", path, "--json").out)
    assert found["batchable"] is True
    assert found["opset"] == {"ai.onnx": 17}
    assert found["inputs"] == [
        {"name": "x", "data_type": "FLOAT", "shape": [1, 4], "batch_axis": 0, "rows_per_sample": 1, "dims": [4]}
    ]
    assert found["rewrites"][0]["op_type"] == "Reshape"


def test_inspect_shows_what_prevents_batching_and_ends_with_3(builder: Builder, tmp_path: Path) -> None:
    path = write_model(tmp_path / "m.onnx", "(float[3, 4] x) => (float[3, 4] y) { [n] y = Softmax <axis = 0> (x) }")
    shown = builder("inspect", path, "--json")
    found = json.loads(shown.out)
    assert (shown.code, found["batchable"], found["static_batch"]) == (3, False, None)
    assert "Softmax 'n'" in found["refusal"]
    assert "--static" in found["fix"]
    assert "error: " in shown.err


def test_inspect_changes_nothing(builder: Builder, model: Path, tmp_path: Path) -> None:
    before = tree(tmp_path)
    builder("inspect", model)
    assert tree(tmp_path) == before


def test_list_shows_every_version_and_which_is_served(builder: Builder, published: Path) -> None:
    shown = builder("list", "--repository", published)
    assert (shown.code, shown.err) == (0, "")
    assert re.search(r"linear.*  1 ", shown.out)
    assert re.search(r"linear.*→ 2 ", shown.out)
    (listed,) = json.loads(builder("list", "--repository", published, "--json").out)
    assert (listed["name"], listed["problem"]) == ("linear", None)
    assert [(v["version"], v["served"]) for v in listed["versions"]] == [(1, False), (2, True)]
    assert listed["versions"][0]["source"]["file"] == "linear.onnx"
    assert 32 in listed["versions"][0]["proven_batch_sizes"]


def test_list_says_when_there_is_nothing(builder: Builder, root: Path) -> None:
    root.mkdir()
    assert builder("list", "--repository", root).out == "no models\n"
    assert builder("list", "--repository", root, "--json").out == "[]\n"


def test_verify_proves_the_served_version_or_the_one_asked_for(builder: Builder, published: Path) -> None:
    shown = builder("verify", "linear", "--repository", published)
    assert (shown.code, shown.out.startswith("linear 2 y: equal")) == (0, True)
    found = json.loads(builder("verify", "linear", "--version", 1, "--repository", published, "--json").out)
    assert (found["version"], list(found["largest_difference"])) == (1, ["y"])


def test_rollback_and_prune_say_what_they_did(builder: Builder, published: Path) -> None:
    at = ("--repository", published)
    assert builder("rollback", "linear", *at).out == "linear: version 2 → 1\n"
    assert builder("rollback", "linear", "--to", 1, *at).out == "linear: version 1 is already served\n"
    assert (
        builder("prune", "linear", "--keep", 1, "--no-other-servers", *at).out == "linear: removed nothing\n"
    )  # 2 is kept, 1 is served
    assert builder("rollback", "linear", "--to", 2, *at).out == "linear: version 1 → 2\n"
    assert builder("prune", "linear", "--keep", 1, "--no-other-servers", *at).out == "linear: removed 1\n"


def test_rollback_and_prune_print_json(builder: Builder, published: Path) -> None:
    at = ("--repository", published, "--json")
    rollback = json.loads(builder("rollback", "linear", *at).out)
    assert rollback.pop("config_diff").startswith("--- linear/config.pbtxt\n+++ linear/config.pbtxt\n")
    assert rollback == {
        "name": "linear",
        "before": 2,
        "after": 1,
        "kept": "2/config.1.pbtxt",
        "restored": "1/config.1.pbtxt",
        "dry_run": False,
        "notes": [],
    }
    assert json.loads(builder("prune", "linear", "--keep", 1, "--no-other-servers", *at).out) == {
        "name": "linear",
        "removed": [],
        "kept": [
            {"version": 1, "reasons": ["config.pbtxt serves it"]},
            {"version": 2, "reasons": ["it is the newest one"]},
        ],
        "dry_run": False,
        "notes": [],
    }
    assert json.loads(builder("rollback", "linear", "--to", 2, *at).out)["after"] == 2
    assert json.loads(builder("prune", "linear", "--keep", 1, "--no-other-servers", *at).out) == {
        "name": "linear",
        "removed": [1],
        "kept": [{"version": 2, "reasons": ["it is the newest one", "config.pbtxt serves it"]}],
        "dry_run": False,
        "notes": [],
    }


def test_prune_can_keep_more_versions_than_there_will_ever_be(builder: Builder, published: Path) -> None:
    kept = builder("prune", "linear", "--keep", 10**20, "--repository", published)
    assert (kept.code, kept.out) == (0, "linear: removed nothing\n")


@pytest.mark.parametrize("command", sorted(cli.commands))
def test_every_command_has_help(builder: Builder, command: str) -> None:
    shown = builder(command, "--help")
    assert (shown.code, shown.err) == (0, "")
    assert shown.out.startswith(f"Usage: python -m builder {command} ")


def test_the_version_is_printed(builder: Builder) -> None:
    assert builder("--version").out == f"builder, version {__version__}\n"


# ---------------------------------------------------------------- 2: usage


@pytest.mark.parametrize(
    "arguments",
    [
        "frobnicate",
        "publish",
        "publish m.onnx other.onnx",
        "publish m.onnx --frobnicate",
        "publish m.onnx --max-batch-size 0",
        "publish m.onnx --max-batch-size 2147483648",
        "publish m.onnx --preferred-batch-size 2147483648",
        "publish m.onnx --instances 2147483648",
        "publish m.onnx --max-batch-size many",
        "publish m.onnx --preferred-batch-size 4,x",
        "publish m.onnx --preferred-batch-size 0",
        "publish m.onnx --rename x",
        "publish m.onnx --rename =x",
        "publish m.onnx --rename x=y --rename x=z",
        "publish m.onnx --batch-axis x=first",
        "publish m.onnx --constant x",
        "publish m.onnx --constant x=many",
        "publish m.onnx --constant x=1 --constant x=2",
        "publish m.onnx --kind tpu",
        "publish m.onnx --instances 0",
        "publish m.onnx --max-queue-delay-us -1",
        "publish m.onnx --static --preferred-batch-size 4",
        "publish m.onnx --max-batch-size 4 --preferred-batch-size 2,8",
        "verify",
        "verify m --version 0",
        "verify m --version 1.5",
        "rollback m --to 0",
        "prune m",
        "prune m --keep 0",
        "serve --http-port 65536",
        "serve --model-control-mode sometimes",
    ],
)
def test_wrong_usage_ends_with_2_before_any_work(builder: Builder, arguments: str) -> None:
    assert builder(*arguments.split()).is_refusal(2, "")


def test_no_command_at_all_shows_the_help_and_ends_with_2(builder: Builder) -> None:
    ended = builder()
    assert (ended.code, ended.out) == (2, "")
    assert ended.err.startswith("Usage: python -m builder")


@pytest.mark.parametrize(
    ("arguments", "error", "fix"),
    [
        ("publsh m.onnx", "python -m builder: there is no command 'publsh'", "use publish, or run"),
        ("frobnicate", "python -m builder: there is no command 'frobnicate'", "run `python -m builder --help`"),
        ("publish", "python -m builder publish: MODEL is missing", "add MODEL, or run `python -m builder publish --h"),
        (
            "prune m",
            "python -m builder prune: --keep is missing",
            "add --keep, or run `python -m builder prune --help`",
        ),
        ("publish m.onnx --nam x", "python -m builder publish: there is no option --nam", "use --name"),
        ("publish m.onnx --kind tpu", "--kind: 'tpu' is not one of 'auto', 'cpu', 'gpu'", "use auto, cpu or gpu"),
        ("publish m.onnx --instances 0", "--instances: 0 is too small", "use 1 or more"),
        ("publish m.onnx --instances x", "--instances: 'x' is not a whole number", "use a whole number, 1 or more"),
        (
            "verify m --version 9223372036854775808",
            "--version: 9223372036854775808 is too large",
            "use 922337203685477580",
        ),
        (
            "publish m.onnx --triton 23.01",
            "--triton: Triton release '23.01' is unknown",
            "use 24.10, 25.03",
        ),
        (
            "publish m.onnx --name",
            "python -m builder publish: option '--name' requires an argument",
            "run `python -m b",
        ),
        (
            "publish m.onnx x",
            "python -m builder publish: got unexpected extra argument (x)",
            "run `python -m builder pu",
        ),
        ("publish m.onnx --rename x", "--rename: 'x' is not of the form OLD=NEW", "write it as OLD=NEW, for example "),
        ("publish m.onnx --rename x=y --rename x=z", "--rename: 'x' is named twice", "give --rename once for 'x'"),
        (
            "publish m.onnx --constant x=many",
            "python -m builder publish: --constant x: 'many' is neither a number",
            "write a number, as in x=0.5",
        ),
        (
            "publish m.onnx --batch-axis x=first",
            "--batch-axis: 'first' is neither",
            "write x=1 for axis 1",
        ),
        (
            "publish m.onnx --max-error 2",
            "--max-error: 2 is not a number above 0 and up to 1",
            "use a number above 0 and up to",
        ),
        ("serve --repository s3://bucket/models", "--repository: 's3://bucket/models' is a URL", "give a folder"),
        ("deploy m --server grpc://h:1 --watch soon", "--watch: 'soon' is not a duration", "write seconds, minutes or"),
        ("deploy m --server http://h:1", "--server: 'http://h:1' is not a gRPC address", "write it as grpc://"),
        ("export m:f -o m.onnx --input x=f9[1]", "--input: unknown type 'f9' in 'x=f9[1]'", "use one of float16, "),
        ("deploy m --server grpc://h:1 --slack 0.5", "--slack: 0.5 is less than 1", "use a number from 1 up"),
        (
            "publish m.onnx --static --per-sample",
            "python -m builder publish: --static and --per-sample",
            "leave out --static",
        ),
        ("export m:f -o m.onnx", "python -m builder export: --input is missing", "add --input NAME=DTYPE[DIM,...] for"),
        (
            "publish m:f",
            "python -m builder publish: m:f looks like a PyTorch module",
            "add --input NAME=DTYPE[DIM,...]",
        ),
        ("publish m.onnx --opset 18", "python -m builder publish: --opset is only for PyTorch modules", "add --input"),
    ],
)
def test_wrong_usage_says_what_is_wrong_and_how_to_fix_it(
    builder: Builder, arguments: str, error: str, fix: str
) -> None:
    said = builder(*arguments.split()).err.splitlines()
    assert len(said) == 2
    assert said[0].startswith(f"error: {error}")
    assert said[1].startswith(f"fix: {fix}")


def test_inputs_without_a_batch_become_constants_or_are_sent_with_each_sample(
    builder: Builder, root: Path, tmp_path: Path
) -> None:
    path = tmp_path / "scaled.onnx"
    text = "g (float[1, 4] x, float[4] by) => (float[1, 4] y) { y = Mul (x, by) }"
    onnx.save(onnx.parser.parse_model(f'<ir_version: 8, opset_import: ["" : 17]> {text}'), path)

    assert builder("publish", path, "--repository", root).is_refusal(3, "different batches")
    assert builder("inspect", path, "--constant", "by=2").code == 0
    done = builder("publish", path, "--repository", root, "--name", "two", "--constant", "by=2", "--json")
    assert [tensor["name"] for tensor in json.loads(done.out)["manifest"]["inputs"]] == ["x"]
    done = builder("publish", path, "--repository", root, "--name", "own", "--batch-axis", "by=none", "--json")
    assert [tensor["dims"] for tensor in json.loads(done.out)["manifest"]["inputs"]] == [[4], [4]]


# ---------------------------------------------------------------- 3: the model


def test_a_model_that_cannot_be_read_ends_with_3(builder: Builder, root: Path, tmp_path: Path) -> None:
    (tmp_path / "text.onnx").write_text("not a model")
    for path, what in ((tmp_path / "missing.onnx", "no such file"), (tmp_path, "a folder")):
        assert builder("publish", path, "--repository", root).is_refusal(3, what)
        assert builder("inspect", path).is_refusal(3, what)
    assert builder("publish", tmp_path / "text.onnx", "--repository", root).is_refusal(3, "not an ONNX file")
    assert not root.exists()


@pytest.mark.slow
def test_files_that_may_not_be_read_end_with_3(open_folder: Path) -> None:
    model, root = write_model(open_folder / "linear.onnx"), open_folder / "repository"
    samples = model.with_suffix(".npz")
    np.savez(samples, x=np.eye(4, dtype=np.float32))
    samples.chmod(0)
    assert as_nobody("publish", model, "--repository", root, "--samples", samples).is_refusal(3, "Permission denied")
    model.chmod(0)
    for command in (("publish", model, "--repository", root), ("inspect", model)):
        assert as_nobody(*command).is_refusal(3, "cannot be read: Permission denied")


def test_names_that_do_not_fit_end_with_3(builder: Builder, root: Path, model: Path) -> None:
    at = ("--repository", root)
    assert builder("publish", model, *at, "--input-names", "a,b").is_refusal(3, "needs 1 name, for x, but gives 2")
    assert builder("publish", model, *at, "--input-names", "").is_refusal(3, "'' is not a valid name")
    assert builder("publish", model, *at, "--batch-axis", "z=0").is_refusal(3, "'z', which is not an input")
    assert builder("publish", model, *at, "--samples", root / "none.npz").is_refusal(3, "No such file")


# ---------------------------------------------------------------- 1: bugs


def test_a_bug_in_a_rule_ends_with_1_and_a_request_to_report_it(
    builder: Builder, model: Path, published: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(op: object) -> NoReturn:
        raise IndexError("tuple index\nout of range")

    before = tree(published.parent)
    key = ("", "MatMul")
    monkeypatch.setitem(OPERATORS, key, replace(OPERATORS[key], rule=fail))
    ended = builder("publish", model, "--repository", published)
    assert ended.is_refusal(1, "MatMul 'y': builder fails on this node, which is a bug: IndexError: tuple index out")
    assert "(test_cli.py, line " in ended.err
    assert "fix: report it with this message" in ended.err
    assert tree(published.parent) == before

    monkeypatch.setitem(OPERATORS, key, replace(OPERATORS[key], rule=out_of_memory))
    assert builder("publish", model, "--repository", published).is_refusal(6, "it needs more than the")


def out_of_memory(op: object) -> NoReturn:
    raise MemoryError


# ---------------------------------------------------------------- 4: the answers


def test_answers_that_differ_end_with_4_and_keep_the_failing_batch(
    builder: Builder, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rounded = write_model(tmp_path / "rounded.onnx", ROUNDED)
    ended = builder("publish", rounded, "--precision", "fp16", "--max-error", "1e-7", "--repository", root)
    assert ended.is_refusal(4, "output 'y' differs from the original's")
    assert "rounded.failed.npz" in ended.err
    with np.load(tmp_path / "rounded.failed.npz") as kept:
        assert {"input:x", "expected:y", "got:y"} == set(kept.files)
    assert not root.exists()


def test_published_bytes_that_changed_end_with_4(builder: Builder, published: Path) -> None:
    path = published / "linear" / "2" / "model.onnx"
    path.write_bytes(path.read_bytes().replace(np.float32(2).tobytes(), np.float32(3).tobytes(), 1))
    assert builder("verify", "linear", "--repository", published).is_refusal(4, "changed after they were published")


# ---------------------------------------------------------------- 5: the repository


@pytest.mark.parametrize("name", ["../x", ".x", "a/b", "", "a b", "/x", "x" * 201, "grö"])
def test_a_name_that_would_leave_the_repository_ends_with_5(
    builder: Builder, model: Path, published: Path, name: str
) -> None:
    before = tree(published.parent)
    at = ("--repository", published)
    for arguments in (
        ("publish", model, "--name", name),
        ("verify", name),
        ("rollback", name),
        ("prune", name, "--keep", 1),
    ):
        assert builder(*arguments, *at).is_refusal(5, f"model name {name!r}")
    assert tree(published.parent) == before


def test_what_is_not_there_ends_with_5(builder: Builder, published: Path, tmp_path: Path) -> None:
    at = ("--repository", published)
    assert builder("verify", "other", *at).is_refusal(5, "there is no such model")
    assert builder("verify", "linear", "--version", 7, *at).is_refusal(5, "there is no version 7")
    assert builder("rollback", "linear", "--to", 7, *at).is_refusal(5, "choose one of 1, 2")
    assert builder("prune", "other", "--keep", 1, *at).is_refusal(5, "there is no such model")
    for command in (("list",), ("verify", "linear"), ("serve",)):
        missing = builder(*command, "--repository", tmp_path / "missing")
        assert missing.is_refusal(5, str(tmp_path / "missing"))
    builder("rollback", "linear", *at)
    assert builder("rollback", "linear", *at).is_refusal(5, "there is no version before 1")


def test_a_repository_that_is_a_file_ends_with_5(builder: Builder, model: Path, tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("kept")
    for command in (("publish", model), ("verify", "linear"), ("list",), ("serve",)):
        assert builder(*command, "--repository", file).code == 5
        assert builder(*command, "--repository", file / "below").code == 5
    assert builder("publish", model, "--repository", file).is_refusal(5, f"{file}: it is a file")
    assert file.read_text() == "kept"


def test_a_config_that_cannot_be_read_ends_with_5(builder: Builder, model: Path, published: Path) -> None:
    config = published / "linear" / "config.pbtxt"
    config.write_text("max_batch_size: many")
    before = tree(published)
    for command in (("publish", model), ("verify", "linear"), ("rollback", "linear"), ("prune", "linear", "--keep", 1)):
        assert builder(*command, "--repository", published).is_refusal(5, "config.pbtxt")
    assert "linear" in builder("list", "--repository", published).out
    assert tree(published) == before


@pytest.mark.slow
def test_a_repository_that_may_not_be_written_ends_with_5_before_any_work(open_folder: Path) -> None:
    model, theirs = write_model(open_folder / "linear.onnx"), open_folder / "theirs"
    for folder in (theirs, theirs / "repository"):
        folder.mkdir()
        folder.chmod(0o755)
    theirs.chmod(0o555)
    before = tree(open_folder)
    for repository in (theirs / "repository", theirs / "new"):
        ended = as_nobody("publish", model, "--repository", repository)
        assert ended.is_refusal(5, "let this user read and change")
        assert "load" not in ended.err
    assert tree(open_folder) == before


# ---------------------------------------------------------------- 6: the machine


def test_a_port_in_use_ends_with_6(builder: Builder, published: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        for option in ("--http-port", "--grpc-port", "--metrics-port"):
            ports = {"--http-port": 0, "--grpc-port": 0, "--metrics-port": 0, option: port}
            ended = builder("serve", "--repository", published, *(part for pair in ports.items() for part in pair))
            assert ended.is_refusal(6, f"127.0.0.1:{port}")


@pytest.mark.parametrize("host", ["999.1.1.1", "a..b", "x" * 70, ""])
def test_a_host_that_is_not_this_machine_ends_with_6(builder: Builder, published: Path, host: str) -> None:
    assert builder("serve", "--repository", published, "--host", host).is_refusal(6, host)


def test_a_path_that_is_too_long_ends_with_6(builder: Builder) -> None:
    assert builder("serve", "--repository", "x" * 300).is_refusal(6, "use a shorter path")


def test_a_name_that_is_too_long_ends_with_3(builder: Builder, model: Path, root: Path) -> None:
    ended = builder("publish", model, "--repository", root, "--input-names", "x" * 99_000)
    assert ended.is_refusal(3, "use up to 1,000 letters")


def test_too_little_memory_ends_with_6(tmp_path: Path, root: Path) -> None:
    graph = f"(float[1, {2**28}] x) => (float[1, 1] y) {{ y = ReduceMax <axes = [1]> (x) }}"
    path = write_model(tmp_path / "large.onnx", graph)
    script = "import resource; resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30)); import builder.__main__"
    ended = subprocess.run(
        [sys.executable, "-c", script, "publish", str(path), "--repository", str(root)],
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    error, fix = ended.stderr.splitlines()[-2:]
    assert re.match(r"error: .*large.onnx: it needs more than the 2\.\d GB of memory that it may use, while", error)
    assert fix.startswith("fix: use a machine with more memory")
    assert ended.returncode == 6
    assert not root.exists()


# ---------------------------------------------------------------- 130: interrupted


def test_ctrl_c_in_the_import_of_a_compiled_module_ends_with_130(
    builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def cut_off(cause: BaseException | None) -> Callable[..., None]:
        def run(**_: object) -> None:
            raise ImportError("initialization failed") from cause

        return run

    monkeypatch.setattr(cli, "main", cut_off(KeyboardInterrupt()))
    assert builder("list") == Ended(130, "", "interrupted; nothing was left half done\n")
    monkeypatch.setattr(cli, "main", cut_off(None))
    with pytest.raises(ImportError, match="initialization failed"):
        builder("list")


# ---------------------------------------------------------------- 6: what any machine can run out of


@pytest.mark.parametrize(
    ("raised", "error", "fix"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "this machine: No space left on device", "free some disk"),
        (
            PermissionError(errno.EACCES, "Permission denied", "/x"),
            "/x: Permission denied",
            "give this user permission",
        ),
        (MemoryError(), "this machine: there is not enough memory", "close other programs"),
    ],
)
def test_a_machine_that_runs_out_of_something_ends_with_6(
    builder: Builder, monkeypatch: pytest.MonkeyPatch, raised: BaseException, error: str, fix: str
) -> None:
    def run(**_: object) -> None:
        raise raised

    monkeypatch.setattr(cli, "main", run)
    ended = builder("list")
    assert ended.is_refusal(6, error)
    assert f"fix: {fix}" in ended.err


def test_any_other_error_of_the_system_is_a_bug_and_keeps_its_traceback(
    builder: Builder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(**_: object) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file or directory", "/x")

    monkeypatch.setattr(cli, "main", run)
    with pytest.raises(FileNotFoundError):
        builder("list")


def test_output_that_cannot_be_written_ends_with_6(root: Path) -> None:
    root.mkdir()
    with Path("/dev/full").open("w") as full:
        command = [sys.executable, "-m", "builder", "list", "--repository", str(root)]
        ended = subprocess.run(command, cwd=ROOT, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 6
    assert ended.stderr.startswith("error: stdout: No space left on device\nfix: free some disk space")
