"""Small models as ONNX text, and the check that each batched model answers every sample as the original does."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from _pytest.mark import ParameterSet
from onnx import parser
from onnx.reference import ReferenceEvaluator

from builder.batching import BatchedModel, BatchedTensor, add_batch_axis
from builder.errors import ModelError
from builder.model import load
from builder.model.soundness import RUNTIME_OPERATORS

Array = np.ndarray[Any, Any]

SIZES = (1, 2, 3, 5, 11)
"""The batch sizes that are compared. No case has 11 as another dimension, so a mistaken axis shows."""

IS_OLD_RUNTIME = tuple(map(int, ort.__version__.split(".")[:2])) < (1, 24)
"""ONNX Runtime 1.23 is the last release for Python 3.10."""

CHECKED = 7
"""The oldest opset that ONNX Runtime accepts; older models are not checked with onnx.checker."""

ALL_DOMAINS = {"ai.onnx.ml": 4, "com.microsoft": 1}


@dataclass(frozen=True)
class Case:
    """One small model.

    In every text, `B` stands for the static batch and `3B` for three times the static batch.

    Attributes:
        name: What it shows.
        inputs: As in ONNX text, separated by semicolons: `float[B, 3] x; int64[B] i`.
        body: Nodes as in ONNX text.
        weights: Initializers, such as `int64[1] a = {0}`. Without values, they are drawn at random.
        outputs: Names of the graph's outputs.
        batches: The static batches the model is made with.
        axes: Where the batch is, for inputs that do not have it on axis 0; None for one without a batch.
        below: For integers, the bound that values are drawn below; a pair is the lowest value and that bound.
        equal: For weights with an axis as long as the batch, that axis: all rows along it are the same.
        opset: Version of ai.onnx.
        domains: Versions of the others.
        refused: By static batch, the reason why the model must be refused.
        rtol: The relative tolerance; the absolute tolerance is a tenth of it.
        by_reference: ONNX Runtime has no kernel for it on the CPU, so ONNX's reference evaluator runs it.
        recent: ONNX Runtime 1.23 cannot run it yet.
    """

    name: str
    inputs: str
    body: str
    weights: str = ""
    outputs: Sequence[str] = ("y",)
    batches: Sequence[int] = (1, 3)
    axes: Mapping[str, int | None] = field(default_factory=dict)
    below: Mapping[str, int | tuple[int, int]] = field(default_factory=dict)
    equal: Mapping[str, int] = field(default_factory=dict)
    opset: int = 17
    domains: Mapping[str, int] = field(default_factory=lambda: ALL_DOMAINS)
    refused: Mapping[int, str] = field(default_factory=dict)
    rtol: float = 1e-5
    by_reference: bool = False
    recent: bool = False

    def model(self, static_batch: int) -> onnx.ModelProto:
        """Return the model at one static batch; its outputs have the types that running it gives."""
        imports = ", ".join(f'"{d}" : {v}' for d, v in {"": self.opset, **self.domains}.items())
        ir_version = 8 if self.opset < 19 else 10 if self.opset < 25 else 12
        outputs = ", ".join(f"float[1] {name}" for name in self.outputs)
        inputs = ", ".join(_parts(self.inputs, static_batch))
        body = _at(self.body, static_batch)
        model = parser.parse_model(
            f"<ir_version: {ir_version}, opset_import: [{imports}]> case ({inputs}) => ({outputs}) {{ {body} }}"
        )
        for tensor in _parts(self.weights, static_batch):
            model.graph.initializer.append(self._weight(tensor))
        for output in model.graph.output:
            output.ClearField("type")
        arrays = self.run(model, self.samples(model, 1))[0]
        for output, array in zip(model.graph.output, arrays, strict=True):
            dtype = (
                onnx.TensorProto.STRING if array.dtype == object else onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
            )
            output.type.CopyFrom(onnx.helper.make_tensor_type_proto(dtype, array.shape))
        return model

    def run(self, model: onnx.ModelProto, feeds: Sequence[Mapping[str, Array]]) -> list[list[Array]]:
        """The outputs for each of the feeds."""
        if self.by_reference:
            evaluator = ReferenceEvaluator(model)
            return [[np.asarray(a) for a in evaluator.run(None, dict(feed))] for feed in feeds]
        running = session(model)
        return [[np.asarray(a) for a in running.run(None, dict(feed))] for feed in feeds]

    def _weight(self, declaration: str) -> onnx.TensorProto:
        if "=" in declaration:
            tensor: onnx.TensorProto = parser.parse_graph(f"g () => () <{declaration}> {{ }}").initializer[0]
            return tensor
        value = parser.parse_graph(f"g ({declaration}) => () {{ }}").input[0]
        shape = _dims(value)
        array = self._draw(value.name, shape, value.type.tensor_type.elem_type)
        if value.name in self.equal:
            axis = self.equal[value.name]
            array = np.ascontiguousarray(np.broadcast_to(array.take([0], axis), shape))
        return onnx.numpy_helper.from_array(array, value.name)

    def _draw(self, name: str, shape: Sequence[int], dtype: int) -> Array:
        rng = np.random.default_rng([*name.encode()])
        if dtype == onnx.TensorProto.STRING:
            return rng.choice(np.asarray(["a", "b c", "Lorem", "x1"], object), shape)
        kind = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(dtype))
        if kind.kind in "iub":
            bound = self.below.get(name, 2 if kind.kind == "b" else 3)
            low, high = bound if isinstance(bound, tuple) else (0, bound)
            return rng.integers(low, high, shape).astype(kind)
        array: Array = rng.normal(size=shape).astype(kind)
        return array

    def samples(self, model: onnx.ModelProto, runs: int) -> list[dict[str, Array]]:
        """Inputs for `runs` runs of the original."""
        drawn = {}
        for value in model.graph.input:
            shape = _dims(value)
            drawn[value.name] = self._draw(value.name, (runs, *shape), value.type.tensor_type.elem_type)
        return [{name: array[i] for name, array in drawn.items()} for i in range(runs)]


def _element_type(array: Array) -> int:
    if array.dtype.kind in "OU":
        return int(onnx.TensorProto.STRING)
    return int(onnx.helper.np_dtype_to_tensor_dtype(array.dtype))


def _at(text: str, static_batch: int) -> str:
    """Put the static batch into a text."""
    return re.sub(r"\b(\d*)B\b", lambda m: str(int(m[1] or 1) * static_batch), text)


def _parts(text: str, static_batch: int) -> list[str]:
    return [part.strip() for part in _at(text, static_batch).split(";") if part.strip()]


def _dims(value: onnx.ValueInfoProto) -> list[int]:
    return [d.dim_value for d in value.type.tensor_type.shape.dim]


def session(model: onnx.ModelProto, *, log_severity: int = 3) -> ort.InferenceSession:
    """Return a session on one thread that runs the graph as it is written and, by default, logs errors only."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = log_severity
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def batch(model: onnx.ModelProto, folder: Path, axes: Mapping[str, int | None] | None = None) -> BatchedModel:
    """Load a model from a file and give it its batch axis."""
    path = folder / "model.onnx"
    onnx.save(model, path)
    return add_batch_axis(load(path), batch_axes=axes)


def prove(case: Case, static_batch: int, folder: Path) -> BatchedModel:
    """Batch a case, and compare it with the original on the same samples.

    Raises:
        ModelError: The case was refused.
    """
    model = case.model(static_batch)
    batched = batch(model, folder, case.axes)
    compare(case, model, batched)
    return batched


def compare(case: Case, model: onnx.ModelProto, batched: BatchedModel) -> None:
    """Compare the batched model with the original at every size of `SIZES`."""
    static_batch = batched.static_batch
    feeds = case.samples(model, -(-max(SIZES) // static_batch))
    answers = case.run(model, feeds)
    wanted = [np.concatenate([_rows(t, a[k], static_batch) for a in answers]) for k, t in enumerate(batched.outputs)]
    samples = {t.name: np.concatenate([t.split(f[t.name]) for f in feeds]) for t in batched.inputs}
    proto = ir.to_proto(batched.ir)
    if case.opset >= CHECKED and not any(n.op_type in RUNTIME_OPERATORS for n in proto.graph.node):
        onnx.checker.check_model(proto)
    given = case.run(proto, [{name: array[:size] for name, array in samples.items()} for size in SIZES])
    for size, got in zip(SIZES, given, strict=True):
        for array, want in zip(got, wanted, strict=True):
            _equal(case, array, want[:size], size)
    size = max(SIZES)
    _check_declared(case, proto, {name: array[:size] for name, array in samples.items()}, size)


def _rows(tensor: BatchedTensor, answer: Array, static_batch: int) -> Array:
    """Return one answer of the original for each sample; the whole answer if it has no batch."""
    rows = tensor.split(answer)
    return rows.repeat(static_batch, axis=0) if tensor.batch_axis is None else rows


def _check_declared(case: Case, proto: onnx.ModelProto, feed: Mapping[str, Array], size: int) -> None:
    """Check that every value of the graph has the type and the shape that the file declares for it."""
    probe = onnx.ModelProto()
    probe.CopyFrom(proto)
    probe.graph.output.extend(proto.graph.value_info)
    arrays = case.run(probe, [feed])[0]
    assert {value.type.tensor_type.shape.dim[0].dim_param for value in proto.graph.output} == {"batch"}
    for value, array in zip(probe.graph.output, arrays, strict=True):
        declared = [_size(d, size) for d in value.type.tensor_type.shape.dim]
        assert declared == list(array.shape), f"{value.name} is declared {declared} and has {array.shape}"
        assert value.type.tensor_type.elem_type == _element_type(array), value.name


def _size(dim: onnx.TensorShapeProto.Dimension, batch_size: int) -> int:
    """Return a dimension at one batch size; `3*batch` is three times that."""
    return (
        dim.dim_value if dim.HasField("dim_value") else int(dim.dim_param.removesuffix("batch")[:-1] or 1) * batch_size
    )


def proofs(cases: Iterable[Case], table: str = "") -> list[ParameterSet]:
    """Return every case at every static batch where it must be right; the test's name starts with `table`."""
    old = "needs ONNX Runtime 1.24 or newer"
    return [
        pytest.param(
            case,
            b,
            id=f"{table}{case.name}, B={b}",
            marks=pytest.mark.skipif(case.recent and IS_OLD_RUNTIME, reason=old),
        )
        for case in cases
        for b in case.batches
        if b not in case.refused
    ]


def refusals(cases: Iterable[Case], table: str = "") -> list[ParameterSet]:
    """Return every case at every static batch where it must be refused; the test's name starts with `table`."""
    return [
        pytest.param(case, b, id=f"{table}{case.name}, B={b}")
        for case in cases
        for b in case.batches
        if b in case.refused
    ]


def refuse(case: Case, static_batch: int, folder: Path) -> None:
    """Check that a case is refused for the reason it gives."""
    with pytest.raises(ModelError, match=re.escape(case.refused[static_batch])):
        batch(case.model(static_batch), folder, case.axes)


def _equal(case: Case, got: Array, want: Array, size: int) -> None:
    assert got.dtype == want.dtype
    assert got.shape == want.shape, f"{case.name}, N={size}: {got.shape} instead of {want.shape}"
    if got.dtype.kind == "f":
        np.testing.assert_allclose(got, want, rtol=case.rtol, atol=case.rtol / 10, err_msg=f"{case.name}, N={size}")
    else:
        np.testing.assert_array_equal(got, want, err_msg=f"{case.name}, N={size}")


def operators(case: Case) -> frozenset[tuple[str, str]]:
    """The operators a case uses, as (domain, op_type), those of subgraphs too."""
    graph = parser.parse_graph(f"g ({', '.join(_parts(case.inputs, 1))}) => () {{ {_at(case.body, 1)} }}")
    found, stack = set(), [graph]
    while stack:
        for node in stack.pop().node:
            found.add((node.domain, node.op_type))
            stack.extend(a.g for a in node.attribute if a.HasField("g"))
    return frozenset(found)
