"""Attention of ai.onnx and com.microsoft: the batch is axis 0 of nearly every input and output."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import onnx_ir as ir

from builder.batching.layout import Batch, Placed, View, padded
from builder.batching.rule import Infer, Op, Operand, Plan, Refusal, Static, given, required
from builder.batching.rules.axes import on_axes
from builder.batching.rules.inference import Inputs, same_as_first
from builder.batching.rules.registry import ai_onnx, microsoft, table
from builder.batching.statics import evaluate

RANK_WITH_HEADS = 4
"""Axes of `[N, heads, T, D]`; in a value of 3 axes the last axis holds the heads."""


def attention(op: Op) -> Plan:
    """Attention: `Q [N, T, E] or [N, H, T, D], K, V, mask [(N, H,) T, S], caches [N, H, P, D] -> Y`.

    Source: https://onnx.ai/onnx/operators/onnx__Attention.html
    """
    return _with_bias(op, {0: 0, 1: 0, 2: 0, 4: 0, 5: 0, 6: 0}, [0] * 4, bias=3)


def _with_bias(op: Op, inputs: Mapping[int, int], outputs: Sequence[int], *, bias: int) -> Plan:
    """Plan by `on_axes`, with one more input, a mask or a bias, that broadcasts from the right to `[N, H, T, S]`."""
    added = op.given(bias)
    if added is None or _is_for_all_samples(added):
        return on_axes(op, inputs, outputs)
    if _has_rows(added):
        return on_axes(op, {**inputs, bias: 0}, outputs)
    plan = on_axes(_without_batch(op, bias), inputs, outputs)
    return replace(plan, inputs={**plan.inputs, bias: _broadcasting(op, *op.samples(bias))})


def _is_for_all_samples(mask: Operand) -> bool:
    """Return whether a mask is a constant that broadcasts along the batch."""
    return mask.batch is None and (mask.rank < RANK_WITH_HEADS or mask.shape[0] == 1)


def _has_rows(mask: Operand) -> bool:
    """Return whether axis 0 of a mask `[N, H, T, S]` is the batch's."""
    is_elsewhere = isinstance(mask.batch, Placed) and mask.batch.axis != 0
    return mask.rank == RANK_WITH_HEADS and mask.shape[0] != 1 and not is_elsewhere


def _broadcasting(op: Op, mask: Operand, batch: Batch) -> View:
    """View the mask of each sample as `[N, H, T, S]`, with ones for the axes it leaves out (B = 1).

    For a static `[T, S]` whose batch was dropped it is `[N, 1, T, S]`; for `[1, H, T, S]`, `[N, H, T, S]`.
    """
    axis = batch.axis if isinstance(batch, Placed) else 0
    if op.static_batch > 1 or (axis != 0 and batch.certain):
        op.refuse(f"its mask {mask.name!r} has the batch on axis {axis}")
    lifted = batch.lift()
    if mask.rank < RANK_WITH_HEADS:
        return padded(lifted, mask.shape, RANK_WITH_HEADS - 1)
    return View(lifted, (-1, *lifted.sample_shape(mask.shape)[1:]))


def _without_batch(op: Op, index: int) -> Op:
    """Return the node as if one input were left out."""
    inputs = list(op.inputs)
    inputs[index] = None
    return replace(op, inputs=inputs)


def rotary_embedding(op: Op) -> Plan:
    """RotaryEmbedding: `X [N, T, E] or [N, H, T, D]`, and tables for all positions or for those of each sample.

    Source: https://onnx.ai/onnx/operators/onnx__RotaryEmbedding.html
    """
    with_positions = op.given(3) is not None
    return on_axes(op, {0: 0, 3: 0} if with_positions else {0: 0, 1: 0, 2: 0}, [0])


def tensor_scatter(op: Op) -> Plan:
    """TensorScatter: `cache [N, ...], update [N, ...], first indices [N] -> [N, ...]`.

    Source: https://onnx.ai/onnx/operators/onnx__TensorScatter.html
    """
    return on_axes(op, {0: 0, 1: 0, 2: 0}, [0], strict=(0, 1))


def linear_attention(op: Op) -> Plan:
    """LinearAttention: every input is `[N, T, E]`, the state `[N, H, K, V]`.

    Source: https://onnx.ai/onnx/operators/onnx__LinearAttention.html
    """
    return on_axes(op, dict.fromkeys(range(6), 0), [0, 0])


# ---------------------------------------------------------------------- com.microsoft


def packed_attention(op: Op) -> Plan:
    """Attention: `input [N, T, E], mask [N] or [N, S], past [2, N, H, P, D] -> [N, T, E], present`.

    Source: https://github.com/microsoft/onnxruntime/blob/main/docs/ContribOperators.md
    """
    _refuse_starts_and_ends(op, 3)
    return _with_bias(op, {0: 0, 3: 0, 4: 1}, [0, 1], bias=5)


def quantized_attention(op: Op) -> Plan:
    """QAttention: as Attention, with a scale for each whole tensor."""
    _refuse_starts_and_ends(op, 5)
    return on_axes(op, {0: 0, 5: 0, 8: 1}, [0, 1])


def multi_head_attention(op: Op) -> Plan:
    """MultiHeadAttention: query, key, value, padding mask and caches have the batch on axis 0."""
    _refuse_starts_and_ends(op, 4)
    return _with_bias(op, {0: 0, 1: 0, 2: 0, 4: 0, 6: 0, 7: 0}, [0] * 4, bias=5)


def group_query_attention(op: Op) -> Plan:
    """GroupQueryAttention: as MultiHeadAttention, with lengths `[N]` and positions `[N, T]` too."""
    return _with_bias(op, {0: 0, 1: 0, 2: 0, 3: 0, 4: 0, 5: 0, 9: 0}, [0] * 4, bias=10)


def _refuse_starts_and_ends(op: Op, index: int) -> None:
    """Refuse a mask of one axis longer than the batch: it lists where all samples start, then where they end."""
    mask = op.given(index)
    if mask is not None and mask.rank == 1 and mask.shape[0] != op.operand(0).shape[0]:
        op.refuse(f"its mask {mask.name!r} lists the starts and ends of all samples on one axis")


def embed_layer_normalization(op: Op) -> Plan:
    """EmbedLayerNormalization: `ids [N, T], segments [N, T], mask [N, T], positions -> [N, T, H]`."""
    return on_axes(op, {0: 0, 1: 0, 7: 0, 8: 0}, [0, 0, 0], shared=(8,))


def quantized_embed_layer_normalization(op: Op) -> Plan:
    """QEmbedLayerNormalization: as EmbedLayerNormalization, with quantized tables."""
    return on_axes(op, {0: 0, 1: 0, 7: 0}, [0, 0])


def rotary_embedding_by_table(op: Op) -> Plan:
    """RotaryEmbedding: `X [N, T, E]`, positions `[N, T]`, or one offset `[1]` that all samples share."""
    positions = op.operand(1)
    if positions.batch is None and positions.rank == 1:
        return on_axes(op, {0: 0}, [0])
    if positions.rank == 1:
        op.refuse("all samples share its offset, and the offset depends on the samples")
    return on_axes(op, {0: 0, 1: 0}, [0])


# ---------------------------------------------------------------------- static shapes


def _heads(node: ir.Node, name: str = "num_heads") -> int:
    return int(node.attributes[name].value)


def _packed(weights: int, past: int, scale: int | None = None) -> Infer:
    """Infer `[N, T, E']`, and the cache `[2, N, H, P + T, D]`."""

    def shape(node: ir.Node, inputs: Inputs) -> Static:
        x, w, cache = required(inputs, 0), required(inputs, weights), given(inputs, past)
        sizes = node.attributes.get("qkv_hidden_sizes")
        hidden = int(sizes.value[2]) if sizes is not None and len(sizes.value) else w.shape[1] // 3
        dtype = x.dtype if scale is None else required(inputs, scale).dtype
        heads = _heads(node)
        length = x.shape[1] + (cache.shape[3] if cache is not None else 0)
        present = (2, x.shape[0], heads, length, hidden // heads)
        return [(dtype, (*x.shape[:2], hidden)), (dtype, present)][: len(node.outputs)]

    return shape


def _multi_head(node: ir.Node, inputs: Inputs) -> Static:
    """Infer `[N, T, E']`, caches `[N, H, P + S, D]`, products `[N, H, T, S]`."""
    query, past = required(inputs, 0), given(inputs, 6)
    heads, rows, steps = _heads(node), query.shape[0], query.shape[1]
    packed = next((o for o in (query, given(inputs, 1)) if o is not None and o.rank == PACKED_RANK), None)
    if packed is not None:
        length, depth, values = packed.shape[1], packed.shape[4], packed.shape[4]
    else:
        key, value = required(inputs, 1), required(inputs, 2)
        length = key.shape[1] if key.rank < RANK_WITH_HEADS else key.shape[2]
        values = value.shape[2] // heads if value.rank < RANK_WITH_HEADS else value.shape[3]
        depth = key.shape[2] // heads if key.rank < RANK_WITH_HEADS else key.shape[3]
    total = length + (past.shape[2] if past is not None else 0)
    shapes = [
        (rows, steps, heads * values),
        (rows, heads, total, depth),
        (rows, heads, total, values),
        (rows, heads, steps, total),
    ]
    return [(query.dtype, s) for s in shapes][: len(node.outputs)]


PACKED_RANK = 5
"""Axes of `[N, T, H, 3, D]`: query, key and value in one."""


def _group_query(node: ir.Node, inputs: Inputs) -> Static:
    """Infer `[N, T, H * D]`, caches `[N, G, S, D]`."""
    query, key, past = required(inputs, 0), given(inputs, 1), given(inputs, 3)
    heads, groups = _heads(node), _heads(node, "kv_num_heads")
    packed = key is None
    depth = query.shape[2] // (heads + 2 * groups if packed else heads)
    if past is None and len([v for v in node.outputs if v.name]) > 1:
        raise Refusal("the length of its cache depends on the value of an input")
    output = (query.dtype, (*query.shape[:2], heads * depth))
    if past is None:
        return [output] + [(query.dtype, ())] * (len(node.outputs) - 1)
    total = given(inputs, 6)
    known = evaluate(total) if total is not None and total.batch is None else None
    if known is None:
        raise Refusal("the length of its cache depends on the samples")
    cache = (past.dtype, (query.shape[0], groups, max(past.shape[2], int(known.item())), depth))
    return [output, cache, cache, (query.dtype, ())][: len(node.outputs)]


def _embedded(node: ir.Node, inputs: Inputs) -> Static:
    """Infer `[N, T, H]`, the length of every sample's mask, the sum of the embeddings."""
    ids, words = required(inputs, 0), required(inputs, 2)
    floats = ir.DataType.FLOAT if node.op_type.startswith("Q") else words.dtype
    found = (floats, (*ids.shape, words.shape[1]))
    return [found, (ir.DataType.INT32, ids.shape[:1]), found][: len(node.outputs)]


OPERATORS = table(
    ai_onnx("Attention", rule=attention),
    ai_onnx("LinearAttention", rule=linear_attention),
    ai_onnx("RotaryEmbedding", rule=rotary_embedding),
    ai_onnx("TensorScatter", rule=tensor_scatter),
    microsoft("Attention", rule=packed_attention, shape=_packed(1, 4)),
    microsoft("EmbedLayerNormalization", rule=embed_layer_normalization, shape=_embedded),
    microsoft("GroupQueryAttention", rule=group_query_attention, shape=_group_query),
    microsoft("MultiHeadAttention", rule=multi_head_attention, shape=_multi_head),
    microsoft("QAttention", rule=quantized_attention, shape=_packed(1, 8, scale=3)),
    microsoft("QEmbedLayerNormalization", rule=quantized_embed_layer_normalization, shape=_embedded),
    microsoft("RotaryEmbedding", rule=rotary_embedding_by_table, shape=same_as_first),
)
