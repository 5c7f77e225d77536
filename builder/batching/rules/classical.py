"""Classical models of ai.onnx.ml, which take axis 0 row by row. ONNX infers no shapes for some of them."""

import math

import numpy as np
import onnx_ir as ir

from builder.batching.layout import DROPPED, Batch, View, folded
from builder.batching.rule import Decomposition, Op, Plan, Refusal, Static, Wanted, required
from builder.batching.rules.axes import only_batched, parallel
from builder.batching.rules.decompose import append, constant
from builder.batching.rules.elementwise import same_shape
from builder.batching.rules.inference import Inputs, same_as_first
from builder.batching.rules.registry import ai_onnx, ai_onnx_ml, table

MATRIX = 2
"""Axes of a value whose rows are samples."""


def by_row(op: Op) -> Plan:
    """Features, row by row: `[N, F] -> [N, *t]`; a vector of features is one row."""
    operand = op.operand(0)
    batch = only_batched(op, 0, role="parameters")
    if batch.certain and batch.axis == operand.rank - 1 and operand.rank <= MATRIX:
        op.refuse(f"it has its features along axis {batch.axis}, which holds the batch")
    if operand.rank == 1:
        return _vector(op)
    if not batch.lifted and batch.axis == 0:
        return Plan([batch] * len(op.outputs))
    if op.static_batch > 1:
        op.refuse("it mixes the axis that holds the batch")
    form = batch.lift() if batch.is_on(0) else DROPPED
    return Plan([folded(form, shape) for shape in op.outputs], {0: folded(batch, operand.shape)})


def _vector(op: Op) -> Plan:
    """Make each vector of features (B = 1) a row of `[N, F]`; the answer of one row is a row of the answer."""
    if op.static_batch > 1:
        op.refuse("it takes the batch for features")
    outputs = [View(DROPPED, (-1, *shape[1:])) if shape != op.operand(0).shape else DROPPED for shape in op.outputs]
    return Plan(outputs, {0: DROPPED})


def along_features(op: Op) -> Plan:
    """Normalizer, Scaler, Imputer along the last axis: `[N, F] -> [N, F]`."""
    operand = op.operand(0)
    batch = only_batched(op, 0, role="parameters")
    form = parallel(op, batch, [operand.rank - 1], "has its features along")
    if operand.rank < MATRIX or not form.lifted:
        return Plan([form], {0: form})
    return Plan([folded(form, operand.shape)], {0: folded(form, operand.shape)})


def one_hot_encoder(op: Op) -> Plan:
    """OneHotEncoder inserts a new last axis: `[N, *s] -> [N, *s, categories]`."""
    return Plan([only_batched(op, 0, role="parameters")])


def feature_vectorizer(op: Op) -> Plan:
    """FeatureVectorizer joins columns: `[N, F1], [N, F2] -> [N, F1 + F2]`."""
    found = [b for *_, b in op.batched()]
    first = found[0]
    if first.lifted or any(b.lifted or b.axis != 0 or b.rows != first.rows for b in found):
        op.refuse("its samples must be the rows of all its inputs, axis 0")
    return Plan([first], dict.fromkeys(range(len(op.inputs)), first))


def array_feature_extractor(op: Op) -> Plan | Decomposition:
    """ArrayFeatureExtractor: constant columns of the samples, or columns of a constant table that the samples name.

    `[N, F], [k] -> [N, k]`; `[F], [N, 1] -> [1, N]`.

    Source: https://onnx.ai/onnx/operators/onnx_aionnxml_ArrayFeatureExtractor.html
    """
    data, indices = op.operand(0), op.operand(1)
    if data.batch is not None and indices.batch is None:
        form = parallel(op, data.batch, [data.rank - 1], "takes columns along")
        if data.rank > 1:
            return Plan([form], {0: form})
        return Plan([View(DROPPED, (-1, math.prod(indices.shape)))], {0: form})
    if data.batch is None:
        return _look_up(op, data.rank)
    op.refuse("its data and its indices both depend on the samples")


def _look_up(op: Op, rank: int) -> Decomposition:
    """Read a table along its last axis: a Gather at all indices as a vector, in the shape of the answer."""
    nodes: list[ir.Node] = []
    flat = constant(nodes, np.asarray([math.prod(op.operand(1).shape)], np.int64))
    indices = append(nodes, "Reshape", [op.node.inputs[1], flat])
    found = append(nodes, "Gather", [op.node.inputs[0], indices], attributes={"axis": rank - 1})
    shape = constant(nodes, np.asarray(op.outputs[0], np.int64))
    return Decomposition(nodes, [append(nodes, "Reshape", [found, shape])])


def tf_idf(op: Op) -> Plan:
    """TfIdfVectorizer counts n-grams in every row: `[N, C] -> [N, max_index]`; a vector is one row.

    Source: https://onnx.ai/onnx/operators/onnx__TfIdfVectorizer.html
    """
    operand = op.operand(0)
    batch = only_batched(op, 0, role="parameters")
    form = parallel(op, batch, [operand.rank - 1], "counts words along")
    if operand.rank == 1:
        return Plan([DROPPED], {0: form.lift()})
    view: Wanted = form if not form.lifted and form.axis == 0 else folded(form, operand.shape)
    result = form if isinstance(view, Batch) else folded(form.lift(), op.outputs[0])
    return Plan([result], {0: view})


# ---------------------------------------------------------------------- static shapes


def _rows(inputs: Inputs) -> int:
    first = required(inputs, 0)
    return first.shape[0] if first.rank > 1 else 1


def _classifier(node: ir.Node, inputs: Inputs) -> Static:
    """Infer labels `[N]` and scores `[N, classes]`."""
    for name, dtype in (
        ("classlabels_int64s", ir.DataType.INT64),
        ("classlabels_ints", ir.DataType.INT64),
        ("classlabels_strings", ir.DataType.STRING),
    ):
        attr = node.attributes.get(name)
        if attr is not None and attr.value:
            return [(dtype, (_rows(inputs),)), (ir.DataType.FLOAT, (_rows(inputs), len(attr.value)))]
    raise Refusal("it lists no class labels")


def _svm_classifier(node: ir.Node, inputs: Inputs) -> Static:
    """Infer labels and scores; without probabilities, one score for each pair of classes (two if there is one pair)."""
    labels, (dtype, (rows, classes)) = _classifier(node, inputs)
    votes = node.attributes.get("vectors_per_class")
    proba = node.attributes.get("prob_a")
    has_probabilities = proba is not None and proba.value
    if votes is not None and votes.value and not has_probabilities:
        return [labels, (dtype, (rows, max(2, classes * (classes - 1) // 2)))]
    return [labels, (dtype, (rows, classes))]


def _regressor(node: ir.Node, inputs: Inputs) -> Static:
    """Infer `[N, targets]`."""
    attr = node.attributes.get("n_targets") or node.attributes.get("targets")
    return [(ir.DataType.FLOAT, (_rows(inputs), int(attr.value) if attr is not None else 1))]


def _extractor(node: ir.Node, inputs: Inputs) -> Static:
    data, indices = required(inputs, 0), required(inputs, 1)
    count = math.prod(indices.shape)
    lead = data.shape[:-1] if data.rank > 1 else (1,)
    return [(data.dtype, (*lead, count))]


def _floats(node: ir.Node, inputs: Inputs) -> Static:
    first = required(inputs, 0)
    return [(ir.DataType.FLOAT, first.shape)]


def _columns(node: ir.Node, inputs: Inputs) -> Static:
    """Infer `[N, sum of columns]`."""
    attr = node.attributes.get("inputdimensions")
    widths = attr.value if attr is not None else [o.shape[-1] for o in inputs if o is not None]
    return [(ir.DataType.FLOAT, (_rows(inputs), sum(widths)))]


OPERATORS = table(
    ai_onnx_ml("LinearClassifier", "TreeEnsembleClassifier", rule=by_row, shape=_classifier),
    ai_onnx_ml("SVMClassifier", rule=by_row, shape=_svm_classifier),
    ai_onnx_ml("LinearRegressor", "SVMRegressor", "TreeEnsembleRegressor", rule=by_row, shape=_regressor),
    ai_onnx_ml("TreeEnsemble", rule=by_row),
    ai_onnx_ml("Binarizer", "CategoryMapper", "LabelEncoder", rule=same_shape),
    ai_onnx_ml("Normalizer", "Scaler", rule=along_features, shape=_floats),
    ai_onnx_ml("Imputer", rule=along_features, shape=same_as_first),
    ai_onnx_ml("ArrayFeatureExtractor", rule=array_feature_extractor, shape=_extractor),
    ai_onnx_ml("FeatureVectorizer", rule=feature_vectorizer, shape=_columns),
    ai_onnx_ml("OneHotEncoder", rule=one_hot_encoder),
    ai_onnx("TfIdfVectorizer", rule=tf_idf),
)
