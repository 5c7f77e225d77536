"""Whatever a file contains, reading and batching it succeeds or ends in an error that blames the file."""

from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from random import Random

import numpy as np
import onnx
import onnx.parser
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from onnx import numpy_helper
from support.mutations import damaged
from support.random_graphs import grow

from builder.errors import BuilderError, ModelError
from builder.model import load, weights
from builder.proof import OriginalRuns
from builder.publishing import PublishOptions, blamed, make_batch_dynamic

MODELS = Path(__file__).parent.parent / "models"
LARGEST_BYTES = 60_000

HEAD = '<ir_version: 8, opset_import: ["": 17, "com.microsoft": 1, "own": 1]>'
TEXTS = {
    "a branch": """g (float[1, 4] x, bool c) => (float[1, 4] y) {
        y = If (c) <then_branch = t () => (float[1, 4] p) { p = Relu (x) },
                    else_branch = e () => (float[1, 4] q) { q = Neg (x) }> }""",
    "a loop": """g (float[1, 4] x) => (float[1, 4] y, float[3, 1, 4] s) <int64 n = {3}, bool go = {1}> {
        y, s = Loop (n, go, x) <body = b (int64 i, bool c, float[1, 4] v)
            => (bool d, float[1, 4] w, float[1, 4] z) { d = Identity (c) w = Sin (v) z = Neg (w) }> }""",
    "a scan": """g (float[1, 3, 4] x) => (float[1, 3, 4] y) {
        y = Scan <num_scan_inputs = 1, scan_input_axes = [1], scan_output_axes = [1],
                  body = b (float[1, 4] v) => (float[1, 4] w) { w = Exp (v) }> (x) }""",
    "a sequence": """g (float[1, 4] x) => (float[2, 4] y) <int64 at = {1}> {
        s = SequenceConstruct (x, x) t = SequenceAt (s, at) u = SequenceInsert (s, t, at)
        v = SequenceErase (u) y = ConcatFromSequence <axis = 0> (v) }""",
    "operators of com.microsoft": """g (float[1, 2, 2] x) => (float[1, 2, 2] y)
        <float[2, 6] w = {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0}, float[6] b = {0, 0, 0, 0, 0, 0}> {
        a = com.microsoft.Attention <num_heads = 1> (x, w, b) y = com.microsoft.Gelu (a) }""",
    "a symbolic batch": """g (float[n, 4] x) => (float[n, 2] y) <int64[2] s = {-1, 4}, int64[1] k = {2}> {
        r = Reshape (x, s) y, i = TopK (r, k) }""",
    "a function": """g (float[1, 4] x) => (float[1, 4] y) { y = own.f <slope = 0.5> (x) }
        <domain: "own", opset_import: ["": 17]> f <slope> (x) => (y) { y = LeakyRelu <alpha: float = @slope> (x) }""",
}  # fmt: skip

FEW, MANY = 60, 300


@cache
def seeds() -> list[onnx.ModelProto]:
    """The models that are damaged: texts, random graphs, and what exporters wrote."""
    exported = [path for path in sorted(MODELS.glob("*.onnx")) if path.stat().st_size < LARGEST_BYTES]
    return [
        *(onnx.parser.parse_model(f"{HEAD} {text}") for text in TEXTS.values()),
        *(grow(Random(seed), 1 + 2 * (seed % 2), 6) for seed in range(8)),
        *(onnx.load(path, load_external_data=False) for path in exported if "external" not in path.name),
    ]


def outcome(path: Path) -> str:
    """Read and batch the model as `publish` does; returns how it ended: "read", "batched" or an error's class.

    Raises:
        AssertionError: It ended in an error that blames this program.
    """
    reached = "refused by load"
    try:
        loaded = load(path)
        reached = "refused later"
        with blamed(loaded):
            make_batch_dynamic(loaded, PublishOptions(), runs=OriginalRuns(loaded, budget_s=1.0))
    except BuilderError as error:
        check(error)
        return reached
    return "batched"


def check(error: BuilderError) -> None:
    assert error.exit_code != BuilderError.exit_code, str(error)
    assert error.what
    assert error.fix


def fuzz(examples: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
        bounded = settings(
            max_examples=examples, derandomize=True, deadline=None, database=None, suppress_health_check=checks
        )
        return bounded(given(rng=st.randoms(use_true_random=False))(test))

    return decorate


@fuzz(FEW)
def test_a_damaged_model_is_batched_or_refused(rng: Random, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(damaged(rng.choice(seeds()), rng))
    event(outcome(path))


@pytest.mark.slow
@fuzz(MANY)
def test_many_damaged_models_are_batched_or_refused(rng: Random, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(damaged(rng.choice(seeds()), rng))
    event(outcome(path))


@settings(max_examples=FEW, derandomize=True, deadline=None, database=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture])  # fmt: skip
@given(content=st.binary(max_size=200))
def test_random_bytes_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    assert outcome(path) == "refused by load"


def test_damage_reaches_every_step(tmp_path: Path) -> None:
    """Otherwise the tests above would prove little: most damage would stop at the same check."""
    path, reached = tmp_path / "model.onnx", Counter[str]()
    for seed in range(50):
        rng = Random(seed)
        path.write_bytes(damaged(rng.choice(seeds()), rng))
        reached[outcome(path)] += 1
    assert min(reached[step] for step in ("refused by load", "refused later", "batched")) >= 3


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_the_texts_are_valid_models(text: str, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(onnx.parser.parse_model(f"{HEAD} {text}"), path)
    assert load(path).outputs


# ---- What the guards do, and that the checks above can fail


def too_long(folder: Path) -> Path:
    model = onnx.parser.parse_model(f"{HEAD} g (float[1, 4] x) => (float[1, 4] y) {{ y = Reshape (x, w) }}")
    tensor = numpy_helper.from_array(np.array([1, 4]), "w")
    tensor.raw_data += bytes(8)
    model.graph.initializer.append(tensor)
    onnx.save(model, folder / "model.onnx")
    return folder / "model.onnx"


def test_without_the_check_of_the_data_an_error_blames_the_file_all_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "check", lambda *_: None)
    loaded = load(too_long(tmp_path))
    with pytest.raises(ModelError, match="ONNX Runtime cannot load it"), blamed(loaded):
        make_batch_dynamic(loaded, PublishOptions())


def test_without_the_guards_a_damaged_model_blames_this_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(weights, "check", lambda *_: None)
    monkeypatch.setattr(OriginalRuns, "why_not", lambda *_: None)
    with pytest.raises(AssertionError, match="which is a bug"):
        outcome(too_long(tmp_path))


@pytest.mark.parametrize("error", [KeyError("seen"), BuilderError("Relu 'y'", "seen", "report it")])
def test_an_error_on_a_model_that_runs_is_a_bug_and_names_the_file(error: Exception, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(onnx.parser.parse_model(f"{HEAD} {TEXTS['a loop']}"), path)
    loaded = load(path)
    with pytest.raises(BuilderError, match="seen") as raised, blamed(loaded):
        raise error
    assert raised.value.exit_code == 1
    assert raised.value.where.startswith(str(path))


def test_an_error_on_a_model_that_fails_when_it_runs_is_the_models(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    text = "g (float[1, 4] x) => (float[1, 1] y) <int64[1] i = {9}> { y = Gather <axis = 1> (x, i) }"
    onnx.save(onnx.parser.parse_model(f"{HEAD} {text}"), path)
    loaded = load(path)
    with pytest.raises(ModelError, match="ONNX Runtime cannot run it"), blamed(loaded):
        raise KeyError("seen")


@pytest.mark.parametrize(
    "error", [MemoryError(), OSError(), ModelError("model.onnx", "it is wrong", "export it again")]
)
def test_errors_that_say_what_is_wrong_are_left_alone(error: Exception, tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(onnx.parser.parse_model(f"{HEAD} {TEXTS['a loop']}"), path)
    loaded = load(path)
    with pytest.raises(type(error)) as raised, blamed(loaded):
        raise error
    assert raised.value is error
