"""Complete a config as Triton's ONNX Runtime backend does when it loads a model with auto-complete.

Source: AutoCompleteConfig, AutoCompleteMaxBatch and AutoCompleteIO in
https://github.com/triton-inference-server/onnxruntime_backend/blob/main/src/onnxruntime.cc
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from builder.config import interface
from builder.config.backends import ONNX
from builder.config.pbtxt import messages
from builder.record import ServedTensor

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig


def largest_batch(config: "ModelConfig", shapes: Iterable[tuple[int, ...]]) -> int:
    """Return the max_batch_size with which Triton loads a model; 0 when it loads it without a batch.

    A config that lists inputs and outputs says it. Otherwise Triton looks at the model: it has a batch if the first
    dimension of all its inputs and outputs varies, even if the config says `max_batch_size: 0`.

    Args:
        config: The config; an empty one when there is none.
        shapes: The whole shape of every input and output of the model, -1 where it varies.
    """
    limit: int = config.max_batch_size
    if limit > 0 or not interface.is_partial(config):
        return limit
    return interface.DEFAULT_MAX_BATCH_SIZE if all(shape[:1] == (-1,) for shape in shapes) else 0


def complete(
    config: "ModelConfig", inputs: Iterable[ServedTensor], outputs: Iterable[ServedTensor], max_batch_size: int
) -> None:
    """Write into a config what Triton would complete.

    Args:
        config: The config, which may be empty. What it says stays.
        inputs: The inputs of the model, with dims as in the config that is made.
        outputs: Its outputs.
        max_batch_size: As `largest_batch` gives it.
    """
    if not config.backend and not config.platform:
        config.backend = ONNX
    config.max_batch_size = max_batch_size
    if not config.input:
        _list(config.input, inputs, max_batch_size)
    if not config.output:
        _list(config.output, outputs, max_batch_size)
    if max_batch_size > 1 and config.WhichOneof("scheduling_choice") is None:
        config.dynamic_batching.SetInParent()


def _list(listed: Any, tensors: Iterable[ServedTensor], max_batch_size: int) -> None:
    """List tensors. `dims` may not be empty: one value per row is [1], reshaped to [] where there is a batch."""
    for tensor in tensors:
        data_type = messages().DataType.Value(tensor.data_type)
        entry = listed.add(name=tensor.name, data_type=data_type, dims=tensor.dims or [1])
        if not tensor.dims and max_batch_size > 0:
            entry.reshape.SetInParent()
