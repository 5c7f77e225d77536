"""Nodes that the compiler refuses in a lower precision stay in fp32, and the model is proven and built with them."""

import faulthandler
from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import onnx_ir as ir
import pytest
from support.by_hand import original

from builder import bounded
from builder.batching import BatchedModel, add_batch_axis, keep_static
from builder.bounded import Limits
from builder.config import make_profiles
from builder.errors import HostError, ModelError
from builder.model import load
from builder.proof import VerifiedModel
from builder.publishing import compiling, lowered
from builder.publishing.compiling import MOST_ROUNDS, compile_proven
from builder.publishing.options import PublishOptions
from builder.tensorrt import BuildOptions, OnnxFile, UnbuildableError, build

WEIGHTS = "float[4, 4] w = {1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1}"
NAMES = ("one", "two", "three", "four", "five", "six")


@pytest.fixture
def chain(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> BatchedModel:
    """Six products with the identity, named in `NAMES`, one after the other. No compiler has to be installed."""
    monkeypatch.setattr(compiling, "build_time", nullcontext)
    monkeypatch.setattr(compiling, "check_builds", lambda options: None)
    values = ("x", "a", "b", "c", "d", "e", "y")
    nodes = " ".join(
        f"[{name}] {made} = MatMul ({taken}, w)" for name, taken, made in zip(NAMES, values, values[1:], strict=False)
    )
    return add_batch_axis(original(tmp_path, f"g (float[1, 4] x) => (float[1, 4] y) <{WEIGHTS}> {{ {nodes} }}"))


def compiled(
    batched: BatchedModel, precision: Any = "fp16", compile_model: Callable[[VerifiedModel], Any] = lambda found: found
) -> tuple[ir.Model, Any, list[str]]:
    """Return the proven graph, what `compile_model` returned, and what was reported about the precision."""
    options = PublishOptions(format="tensorrt", precision=precision)
    lines: list[str] = []

    def report(step: str, what: str) -> None:
        if step == "reduce":
            lines.append(what)

    profiles = make_profiles(batched, (), max_batch_size=2)
    proven, made = compile_proven(batched, options, None, 2, report, profiles=profiles, compile_model=compile_model)
    return proven.verified.batched.ir, made, lines


def in_fp32(model: ir.Model) -> set[str]:
    return {name for name in NAMES for node in model.graph if node.name == name and node.outputs[0].dtype == FLOAT}


FLOAT, HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16


def refusing(*names: str, named: bool = True, hopeless: bool = False, cast: bool = False) -> Callable[..., None]:
    """Return a parser that refuses nodes in fp16, one at a time as NVIDIA's does."""

    def check(model: OnnxFile, options: BuildOptions) -> None:
        for node in model.batched.ir.graph:
            if node.name in names and node.outputs[0].dtype == HALF:
                shown = [str(node.name)] if named else []
                if cast:  # that leads into the node, or out of it
                    graph = model.batched.ir.graph
                    shown = [next(str(each.name) for each in graph if each.op_type == "Cast")]
                raise UnbuildableError("model.onnx", "it is refused", "x", nodes=shown, is_about_precision=not hopeless)

    return check


def test_a_node_that_is_refused_stays_in_fp32(chain: BatchedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "check_parses", refusing("three"))
    model, _, lines = compiled(chain)
    assert in_fp32(model) == {"three"}
    assert lines[1:] == [
        "three stays in fp32, because it is refused",
        "5 nodes and 100% of the weights in fp16; still in fp32: 1 MatMul (TensorRT refuses it in this precision)",
    ]


def test_nodes_that_are_refused_one_after_the_other_stay_in_fp32(
    chain: BatchedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "check_parses", refusing("two", "four"))
    assert in_fp32(compiled(chain)[0]) == {"two", "four"}


def test_after_some_rounds_all_nodes_of_the_operator_stay_in_fp32(
    chain: BatchedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "check_parses", refusing(*NAMES[:5]))
    with pytest.raises(ModelError, match="nothing in this model can be in fp16"):
        compiled(chain)


def test_a_cast_that_is_refused_keeps_the_nodes_around_it_in_fp32(
    chain: BatchedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "check_parses", refusing("one", cast=True))
    assert in_fp32(compiled(chain)[0]) == {"one"}


def test_the_proof_is_not_made_before_the_model_parses(chain: BatchedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    proofs: list[frozenset[str]] = []
    prove = lowered.prove_lowered

    def counted(*arguments: Any, check: Callable[[BatchedModel], None], keep: frozenset[str], baseline: Any) -> Any:
        def then(model: BatchedModel) -> None:
            check(model)
            proofs.append(keep)

        return prove(*arguments, keep=keep, check=then, baseline=baseline)

    monkeypatch.setattr(compiling, "prove_lowered", counted)
    monkeypatch.setattr(compiling, "check_parses", refusing("two", "four"))
    compiled(chain)
    assert proofs == [{"two", "four"}]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_a_refusal_that_is_not_about_precision_ends_it(
    chain: BatchedModel, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    def check(model: OnnxFile, options: BuildOptions) -> None:
        raise UnbuildableError("model.onnx", f"no operator in {options.precision}", "x", nodes=["one"])

    monkeypatch.setattr(compiling, "check_parses", check)
    with pytest.raises(UnbuildableError, match=f"no operator in {precision}"):
        compiled(chain, precision)


def test_a_model_that_is_refused_in_fp32_too_is_refused_with_that_reason(
    chain: BatchedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    def check(model: OnnxFile, options: BuildOptions) -> None:
        what = f"refused in {options.precision}"
        raise UnbuildableError("model.onnx", what, "x", nodes=["one"], is_about_precision=True)

    monkeypatch.setattr(compiling, "check_parses", check)
    with pytest.raises(UnbuildableError, match="refused in fp32"):
        compiled(chain)


def test_the_rounds_end(chain: BatchedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever stays in fp32, the compiler names a node again."""
    rounds = []

    def check(model: OnnxFile, options: BuildOptions) -> None:
        if options.precision == "fp16":
            rounds.append(options)
            name = NAMES[len(rounds) % 2]
            raise UnbuildableError("model.onnx", "refused", "x", nodes=[name], is_about_precision=True)

    monkeypatch.setattr(compiling, "check_parses", check)
    with pytest.raises(ModelError, match=r"refused|nothing in this model can be in fp16"):
        compiled(chain)
    assert 2 <= len(rounds) <= MOST_ROUNDS + 1


@pytest.mark.parametrize("name", NAMES)
def test_a_node_that_is_not_named_is_found_by_building(
    chain: BatchedModel, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    refuse = refusing(name, named=False)
    monkeypatch.setattr(compiling, "check_parses", lambda *_: None)
    monkeypatch.setattr(compiling, "build", lambda model, profiles, options, report: refuse(model, options))

    def compile_model(found: VerifiedModel) -> str:
        refuse(found, BuildOptions())
        return "plan"

    model, made, _ = compiled(chain, compile_model=compile_model)
    assert (in_fp32(model), made) == ({name}, "plan")


def test_an_error_of_the_machine_is_not_searched_for(chain: BatchedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "check_parses", lambda *_: None)

    def compile_model(found: VerifiedModel) -> None:
        raise HostError("this machine", "out of memory", "free memory")

    with pytest.raises(HostError, match="out of memory"):
        compiled(chain, compile_model=compile_model)


def test_a_search_ends_when_its_time_is_up(chain: BatchedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    def out_of_time(*_: object) -> None:
        raise bounded.OutOfTimeError("model.onnx", "it was stopped after 10m", "allow more time")

    monkeypatch.setattr(compiling, "check_parses", lambda *_: None)
    monkeypatch.setattr(compiling, "build", out_of_time)
    refuse = refusing("four", named=False)
    with pytest.raises(bounded.OutOfTimeError):
        compiled(chain, compile_model=lambda found: refuse(found, BuildOptions()))


LSTM = (
    "g (float[1, 5, 4] x, int32[1] lengths) => (float[1, 5, 4] y) "
    "<float[1, 16, 4] w, float[1, 16, 4] r, float[4, 4] v> { "
    "t = Transpose <perm = [1, 0, 2]> (x) [lstm] s, h = LSTM <hidden_size = 4> (t, w, r, , lengths) "
    "axes = Constant <value = int64[1] {1}> () q = Squeeze (s, axes) u = Transpose <perm = [1, 0, 2]> (q) "
    "[product] y = MatMul (u, v) }"
)


@pytest.mark.rtx
@pytest.mark.slow
def test_an_lstm_with_lengths_stays_in_fp32_for_a_plan(tmp_path: Path) -> None:
    """NVIDIA's parser makes a Select of it that takes one input in fp16 and one in fp32."""
    weights = {"float[1, 16, 4] w": 64, "float[1, 16, 4] r": 64, "float[4, 4] v": 16}
    text = LSTM
    for declared, count in weights.items():
        numbers = ", ".join(f"{(number % 7 - 3) / 8}" for number in range(count))
        text = text.replace(declared, f"{declared} = {{{numbers}}}")
    batched = add_batch_axis(original(tmp_path, text))
    profiles = make_profiles(batched, (), max_batch_size=2)
    model, built, lines = compiled(
        batched,
        compile_model=lambda found: build(found, profiles, BuildOptions(precision="fp16"), lambda _: None),
    )
    assert {node.name: node.outputs[0].dtype for node in model.graph if node.name in ("lstm", "product")} == {
        "lstm": FLOAT,
        "product": HALF,
    }
    assert built.layers["Half"] > 0
    assert any(line.startswith("lstm stays in fp32, because TensorRT for RTX cannot parse the model") for line in lines)


@pytest.mark.rtx
def test_a_machine_that_cannot_build_is_refused_before_the_proof(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiling, "prove_lowered", lambda *_, **__: pytest.fail("it is proven"))
    batched = add_batch_axis(original(tmp_path, "g (float[1, 4] x) => (float[1, 4] y) { y = Relu (x) }"))
    options = PublishOptions(format="tensorrt", build=BuildOptions(version_compatible=True))
    with pytest.raises(HostError, match=r"this machine: TensorRT for RTX cannot build the plan: .*libnvinfer_lean"):
        compile_proven(batched, options, None, 1, lambda *_: None, profiles=[{}], compile_model=lambda found: None)


CRASHING = (
    "g (float[1, 9, 4] b, float[1, 2, 9] s) => (int64[M, 3] y) "
    "<float t = {0}> { y = NonMaxSuppression (b, s, s, t, t) }"
)
"""The number of boxes has to be a scalar. NVIDIA's parser 1.7.1 reads it without a look at its shape."""


def compile_without_proof(path: Path, report: Any) -> None:
    faulthandler.disable()  # pytest's report would look like a failure
    options = PublishOptions(format="tensorrt", effort="off")
    batched = keep_static(load(path))
    compile_proven(batched, options, None, 1, report, profiles=[{}], compile_model=lambda found: None)


@pytest.mark.rtx
@pytest.mark.slow
def test_a_crash_of_the_parser_is_an_error(tmp_path: Path) -> None:
    path = original(tmp_path, CRASHING).path
    with pytest.raises(UnbuildableError, match="the compiler's parser crashes on it") as failed:
        bounded.run(partial(compile_without_proof, path), where=path, limits=Limits(), has_gpu=True)
    assert failed.value.fix == "publish with --format onnx"
