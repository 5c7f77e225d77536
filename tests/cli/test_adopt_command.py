"""`adopt` and `list` on a repository of others: what they print, and their exit codes."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from onnx import parser
from support import foreign

from builder.cli import main

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], root: Path) -> Run:
    """`python -m builder COMMAND --repository ROOT` with further arguments: exit code, stdout and stderr."""

    def run(command: str, *arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["builder", command, "--repository", str(root), *map(str, arguments)])
        capfd.readouterr()
        try:
            main()
            code: object = 0
        except SystemExit as end:
            code = end.code
        captured = capfd.readouterr()
        assert isinstance(code, int)
        return code, captured.out, captured.err

    return run


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    foreign.write_onnx(root, "bare", None, foreign.scale())
    foreign.write_ensemble(root, "both", "scale", "gone")
    foreign.write_onnx(root, "mean", foreign.SCALE_CONFIG, parser.parse_model(foreign.BATCH_MEAN))
    foreign.write_onnx(root, "scale", foreign.SCALE_CONFIG + "version_policy { all { } }", *map(foreign.scale, (2, 3)))
    foreign.write_python(root, "script")
    return root


def test_what_is_skipped_and_refused_is_told_and_the_rest_is_adopted(run: Run) -> None:
    code, out, err = run("adopt")

    assert code == 3
    assert out == "bare: adopted version 1\nscale: adopted versions 1, 2\n"
    assert "skip     both: it is an ensemble of scale and gone\n" in err
    assert "skip     script: it is a model of the backend 'python'\n" in err
    assert "ReduceMean" in err
    assert run("adopt", "scale")[:2] == (0, "scale: its served versions are known already\n")


def test_nothing_to_adopt_is_no_error(run: Run, root: Path) -> None:
    for name in ("bare", "mean", "scale"):
        (root / name).rename(root.parent / name)
    assert run("adopt")[:2] == (0, "nothing to adopt\n")


def test_a_named_model_of_another_kind_is_an_error(run: Run) -> None:
    code, out, err = run("adopt", "both")
    assert (code, out) == (5, "")
    assert "it is an ensemble of scale and gone" in err


def test_the_result_as_json(run: Run) -> None:
    code, out, _ = run("adopt", "--json", "--dry-run")
    found = json.loads(out)
    assert code == 3
    assert [(model["name"], len(model["files"])) for model in found["adopted"]] == [("bare", 3), ("scale", 4)]
    assert [model["name"] for model in found["skipped"]] == ["both", "script"]
    assert [model["name"] for model in found["refused"]] == ["mean"]
    assert "max_batch_size: 4" in found["adopted"][0]["config"]


@pytest.mark.parametrize("names", [(), ("bare", "scale")])
@pytest.mark.parametrize("option", ["--samples", "--original", "--version", "--max-batch-size"])
def test_options_for_one_model_need_one_name(run: Run, option: str, names: tuple[str, ...]) -> None:
    code, _, err = run("adopt", *names, option, "1")
    assert code == 2
    assert f"{option} is for one model" in err


def test_the_list_says_what_each_model_is_and_where_it_came_from(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    run("adopt", "bare")
    listed = {model["name"]: model for model in json.loads(run("list", "--json")[1])}
    assert {name: model["backend"] for name, model in listed.items()} == {
        "bare": "onnxruntime",
        "both": "ensemble",
        "mean": "onnxruntime",
        "scale": "onnxruntime",
        "script": "python",
    }
    assert (listed["both"]["members"], listed["both"]["missing_members"]) == (["scale", "gone"], ["gone"])
    assert [version["origin"] for version in listed["bare"]["versions"]] == ["adopted"]
    assert [(v["served"], v["origin"]) for v in listed["scale"]["versions"]] == [(True, "foreign")] * 2
    shown = " ".join(run("list")[1].split())
    assert "an ensemble" in shown
