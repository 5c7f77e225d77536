"""What a module itself does is a verdict: it is random, keeps a state, or has answers whose shape depends on values."""

import importlib.util
import logging
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builder.errors import HostError, Listing, ModelError, VerificationError
from builder.exporting import ExportOptions, InputSpec, export
from builder.exporting.temporary import Temporary

HAS_TORCH = importlib.util.find_spec("torch") is not None and importlib.util.find_spec("onnxscript") is not None
if HAS_TORCH:
    from builder.exporting import frozen, quiet, repeating
    from builder.exporting.found import Found
    from builder.exporting.state import Snapshot
    from builder.exporting.subject import Subject

SUPPORT = Path(__file__).parents[1] / "support"
X = "x=float32[1,4]"


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(SUPPORT)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def subject(name: str, spec: str = X) -> "Subject":
    module = importlib.import_module("torch_verdicts")
    return Subject(f"torch_verdicts:{name}", Found(getattr(module, name)().eval(), (InputSpec.parse(spec),)))


def check(name: str, spec: str = X) -> tuple[str, ...]:
    """Do the check that comes before an export."""
    asked, parsed = subject(name, spec), InputSpec.parse(spec)
    feeds, other = (np.random.default_rng(n).standard_normal(parsed.shape).astype(np.float32) for n in (1, 2))
    return repeating.refuse_changing(asked, {"x": feeds}, asked.run({"x": feeds}), {"x": other})


def exported(name: str, spec: str = X, **others: Any) -> list[str]:
    """Export a module, and return what was reported."""
    lines: list[str] = []
    asked = ExportOptions((InputSpec.parse(spec),), **others)
    export(
        f"torch_verdicts:{name}",
        Path("m.onnx"),
        options=asked,
        report=lambda step, what: lines.append(f"{step}: {what}"),
    )
    return lines


def line_of(text: str, name: str) -> str:
    """Return `FILE:LINE: ` of the first line with `text` in a class."""
    lines = (SUPPORT / "torch_verdicts.py").read_text().splitlines()
    start = lines.index(f"class {name}(nn.Module):")
    number = next(number for number, line in enumerate(lines, 1) if number > start and text in line)
    return f"torch_verdicts.py:{number}: `"


# ---- random numbers and states

RANDOM = {
    "DropsInForward": ("functional.dropout", "(dropout)", "training=self.training"),
    "SwitchesTraining": ("self.drop.train()", "(dropout)", "leave drop in evaluation mode"),
    "Reparametrized": ("torch.randn_like", "(randn_like)", "as an input of forward"),
    "Picks": ("torch.multinomial", "(multinomial)", "return the probabilities"),
    "Attends": ("functional.scaled", "(scaled_dot_product_attention)", "dropout_p=0.0 unless self.training"),
    "NumPyRandom": ("np.random.rand", "(NumPy's generator)", "as an input of forward"),
    "PythonRandom": ("random.random", "(Python's generator)", "as an input of forward"),
}


@pytest.mark.torch
@pytest.mark.parametrize("name", RANDOM)
def test_random_numbers_are_named_with_the_line_that_draws_them(name: str) -> None:
    text, call, fix = RANDOM[name]
    with pytest.raises(VerificationError, match="another answer each time it runs on the same input") as caught:
        check(name, "x=float32[1,2,3,4]" if name == "Attends" else "x=float32[1,40]")
    assert line_of(text, name) in caught.value.what
    assert f"draws random numbers {call}" in caught.value.what
    assert fix in caught.value.fix


STATES = {
    "OwnGenerator": ("torch.randn", "attribute 'generator'"),
    "Counter": ("self.steps += 1", "buffer 'steps'"),
    "ChangesData": ("self.total.data", "buffer 'total'"),
    "Average": ("self.mean = now", "attribute 'mean'"),
    "Cache": ("self.seen.append", "attribute 'seen'"),
}


@pytest.mark.torch
@pytest.mark.parametrize("name", STATES)
def test_a_state_that_changes_the_answers_is_named_with_the_line_that_changes_it(name: str) -> None:
    text, what = STATES[name]
    with pytest.raises(VerificationError, match="another answer each time") as caught:
        check(name)
    assert line_of(text, name) in caught.value.what
    assert f"forward changes the {what} at each call" in caught.value.what


@pytest.mark.torch
@pytest.mark.parametrize(
    ("way", "what"),
    [("attribute", "attribute 'first'"), ("dictionary", "attribute 'kept'"), ("buffer", "buffer 'scale'")],
)
def test_what_is_kept_of_the_first_inputs_is_named(way: str, what: str) -> None:
    with pytest.raises(VerificationError, match=rf"inputs that it is given first: .* in the {what}\n"):
        exported(f"FirstScale({way!r})", "x=float32[1,5]")


@pytest.mark.torch
def test_a_table_that_is_kept_for_a_size_is_accepted() -> None:
    asked = subject("FirstSize")
    fresh, (feeds, *others) = Snapshot(asked.module), [{"x": np.full((1, 40), n, np.float32)} for n in range(3)]
    repeating.refuse_kept(asked, feeds, asked.run(feeds), others, fresh)
    assert fresh.has_changed()
    fresh.restore()
    assert not fresh.has_changed()


@pytest.mark.torch
def test_random_numbers_that_only_batches_have_are_named_too() -> None:
    with pytest.raises(VerificationError, match=r"(?s)another answer each .*torch.rand\(.* random numbers \(rand\)"):
        exported("RandomBatches", exporter="TorchScript")


@pytest.mark.torch
def test_answers_that_change_for_no_reason_that_can_be_seen_are_refused_all_the_same() -> None:
    with pytest.raises(VerificationError, match=r"no random numbers of .* were found\n.*on a clock, a file"):
        check("Unpredictable")


@pytest.mark.torch
def test_random_numbers_and_states_that_change_no_answer_are_accepted() -> None:
    assert check("DrawsInVain") == ()
    assert check("CountsOnly") == ("calls",)


@pytest.mark.torch
def test_a_search_that_fails_leaves_the_verdict(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> Iterator[None]:
        raise RuntimeError("no tracing here")

    monkeypatch.setattr(repeating, "_Watch", fail)
    with pytest.raises(VerificationError, match=r"(?s)another answer .*be searched for: RuntimeError: no tracing"):
        check("Counter")


# ---- shapes that depend on the values


@pytest.mark.slow
@pytest.mark.torch
def test_rows_that_are_dropped_by_their_values_are_refused_with_the_sample_that_shows_it() -> None:
    with pytest.raises(VerificationError) as caught:
        exported("Keep")
    assert "the shape of 'output' depends on the values of the inputs: it is [0, 4] for sample" in caught.value.what
    assert "(x = [" in caught.value.what
    assert "use --static (no batching): tried; or return one entry for each row" in caught.value.fix
    kept = np.load("m.failed.npz")
    assert kept["input:x"].sum() < 0
    assert kept["got:output"].shape == (0, 4)
    assert not Path("m.onnx").exists()


@pytest.mark.slow
@pytest.mark.torch
def test_without_a_batch_answers_of_every_shape_are_compared() -> None:
    assert any("same answers" in line for line in exported("Keep", is_static=True))
    with pytest.raises(VerificationError, match=r"(?s)with|is float32\[1, 1, \d\] instead of.*frozen at"):
        exported("Trims", is_static=True, exporter="TorchScript")


@pytest.mark.torch
def test_samples_that_forward_fails_on_are_left_out_and_counted() -> None:
    (note,) = [line for line in exported("Refuses", exporter="TorchScript") if line.startswith("note")]
    assert "of 32 drawn samples are not used: forward fails on x [1, 4]: ValueError: the sum is negative" in note


@pytest.mark.torch
def test_more_cautious_samples_are_drawn_where_forward_fails_and_a_note_says_so() -> None:
    notes = " ".join(line for line in exported("RefusesMost", exporter="TorchScript") if line.startswith("note"))
    assert "but others: forward fails on x [1, 4]: ValueError: a value is out of range" in notes


# ---- the verdict stays


@pytest.mark.slow
@pytest.mark.torch
def test_a_module_that_cannot_be_traced_keeps_its_verdict_and_the_ways_that_work_are_named() -> None:
    with pytest.raises(ModelError) as caught:
        exported("Condition")
    assert caught.value.what.startswith("it cannot be exported:")
    assert "it reduces over axis 0, which holds the batch" in caught.value.what
    assert caught.value.what.count("dynamo-optimized function") == 1
    assert caught.value.fix.startswith("use --static (no batching), or --per-sample of publish (one row after")
    assert "both tried" in caught.value.fix


@pytest.mark.torch
def test_code_of_installed_packages_is_shown_without_the_folder_that_they_are_in(tmp_path: Path) -> None:
    from builder.user_code import place_of

    assert place_of("/usr/lib/python3/site-packages/nets/conv.py", 7) == "nets/conv.py:7"
    assert place_of(str(Path.cwd() / "venv/site-packages/nets/conv.py"), 7) == "nets/conv.py:7"
    assert place_of(str(Path.cwd() / "nets/conv.py"), 7) == "nets/conv.py:7"
    assert place_of("/srv/nets/conv.py", 7) == "/srv/nets/conv.py:7"


@pytest.mark.torch
def test_answers_that_differ_stay_a_verdict_when_the_frozen_line_cannot_be_searched_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail(*_: object) -> None:
        raise LookupError("nothing")

    monkeypatch.setattr(frozen, "_trace", fail)
    with pytest.raises(VerificationError, match=r"(?s)output 'output'.*be searched for: LookupError: nothing"):
        exported("Trims", is_static=True, exporter="TorchScript")


# ---- what is not shown


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:a warning")
@pytest.mark.parametrize("is_verbose", [False, True])
def test_what_exporters_print_is_hidden_or_goes_to_stderr_also_from_c(
    is_verbose: bool, capfd: pytest.CaptureFixture[str]
) -> None:
    import torch

    with quiet.exporter_quiet(is_verbose=is_verbose):
        print("from Python")
        os.write(2, b"from C")
        warnings.warn("a warning", stacklevel=1)
        logging.getLogger("torch").error("a log")
        torch._C._jit_set_onnx_log_enabled(True)
        torch._C._jit_onnx_log("a graph")
        torch._C._jit_set_onnx_log_enabled(False)
    printed = capfd.readouterr()
    assert printed.out == ""
    shown = [text for text in ("from Python", "from C", "a graph") if text in printed.err]
    assert shown == (["from Python", "from C", "a graph"] if is_verbose else [])


@pytest.mark.torch
def test_the_users_own_warnings_are_shown_and_those_of_pytorch_only_when_asked_for() -> None:
    def warned(is_verbose: bool) -> str:
        sys.modules["torch_verdicts"].__dict__.pop("__warningregistry__", None)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            exported("Warns", "x=float32[1,2,3,4]", exporter="TorchScript", is_static=True, is_verbose=is_verbose)
        return "\n".join(str(warning.message) for warning in caught)

    subject("Warns")
    assert "a warning of the user's" in warned(False)
    assert "TracerWarning" not in warned(False)
    assert "Triggered internally" not in warned(False)


def test_a_temporary_path_is_shown_as_what_it_was_made_from(tmp_path: Path) -> None:
    temporary = Temporary(tmp_path, "nets:make")
    loaded = f"Load model from {tmp_path}/0/m.onnx failed: '{tmp_path}/m.onnx.data', {tmp_path}."
    assert temporary.shown(loaded) == "Load model from nets:make failed: 'nets:make', nets:make."
    with pytest.raises(HostError) as caught, temporary.named():
        raise HostError(tmp_path / "m.onnx", Listing("it fails:", [f"at {tmp_path}/0/m.onnx"]), f"read {tmp_path}/a")
    assert str(caught.value) == "nets:make: it fails:\n    at nets:make\nfix: read nets:make"
    with pytest.raises(ModelError) as untouched, temporary.named():
        raise ModelError("nets:other", "it fails", "do something")
    assert untouched.value.where == "nets:other"
