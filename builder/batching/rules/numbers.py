"""Number the samples of the call."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from builder.batching.emit import Emitter


def sample_numbers(emit: Emitter, rank: int) -> ir.Value:
    """Make `0, 1, ..., N - 1` as `int64[N, 1, ...]` of `rank` axes; it needs opset 11."""
    zero, one = (emit.constant(np.asarray(v, np.int64)) for v in (0, 1))
    (size,) = emit.node("Reshape", [emit.batch_size(), emit.constant(np.zeros(0, np.int64))])
    (numbers,) = emit.node("Range", [zero, size, one])
    return numbers if rank == 1 else emit.reshape(numbers, (-1, *(1,) * (rank - 1)))


def offsets(emit: Emitter, step: int, rank: int) -> ir.Value:
    """Make `0, step, 2 * step, ...` as `int64[N, 1, ...]` of `rank` axes."""
    numbers = sample_numbers(emit, rank)
    return numbers if step == 1 else emit.node("Mul", [numbers, emit.constant(np.asarray(step, np.int64))])[0]


def folded_shape(emit: Emitter, dims: Sequence[int]) -> ir.Value:
    """Make the shape `[N * d0, d1, ...]` as `int64[rank]`."""
    rows = emit.batch_size()
    if dims[0] != 1:
        (rows,) = emit.node("Mul", [rows, emit.constant(np.asarray([dims[0]], np.int64))])
    rest = [emit.constant(np.asarray(dims[1:], np.int64))] if len(dims) > 1 else []
    return emit.node("Concat", [rows, *rest], {"axis": 0})[0]
