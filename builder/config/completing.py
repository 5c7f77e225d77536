"""Complete a config as Triton's ONNX Runtime backend does when it loads a model with auto-complete.

Source: AutoCompleteConfig, AutoCompleteMaxBatch and AutoCompleteIO in
https://github.com/triton-inference-server/onnxruntime_backend/blob/main/src/onnxruntime.cc
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from builder.config import interface
from builder.config.pbtxt import messages
from builder.record import Manifest, ServedTensor

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


def complete(config: "ModelConfig", manifest: Manifest) -> None:
    """Write what a config leaves to Triton's auto-completion: missing inputs and outputs, and missing dims and types.

    Triton completes a config that lists no inputs or no outputs, and turns on the dynamic batcher there. A largest
    batch that is missing is left as it is, because the caller knows what was proven.
    """
    if interface.is_partial(config) and config.max_batch_size > 1 and not config.HasField("sequence_batching"):
        config.dynamic_batching.SetInParent()
    has_batch = manifest.max_batch_size > 0
    for listed, tensors in ((config.input, manifest.inputs), (config.output, manifest.outputs)):
        by_name = {tensor.name: tensor for tensor in tensors}
        for tensor in listed:
            if tensor.name in by_name:
                _complete_tensor(tensor, by_name[tensor.name], has_batch=has_batch)
        for tensor in () if listed else tensors:
            list_tensor(listed, tensor, has_batch=has_batch)


def list_tensor(listed: Any, tensor: ServedTensor, *, has_batch: bool) -> None:
    """Add a tensor to the inputs or outputs. `dims` may not be empty: one value per row is [1], reshaped to []."""
    entry = listed.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims or [1])
    if not tensor.dims and has_batch:
        entry.reshape.SetInParent()


def _complete_tensor(listed: Any, tensor: ServedTensor, *, has_batch: bool) -> None:
    if listed.data_type == messages().TYPE_INVALID:
        listed.data_type = messages().DataType.Value(tensor.data_type)
    if not listed.dims and not listed.HasField("reshape"):
        listed.dims[:] = tensor.dims or [1]
        if not tensor.dims and has_batch:
            listed.reshape.SetInParent()
