"""Give a config a batch that was written for a model without one, where clients do not notice."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig


def can_get_batch(config: "ModelConfig") -> bool:
    """Return whether the first dimension of every input and output is 1, and is no batch yet.

    Then it can become the batch: what clients send today, such as `[1, 3, 224, 224]`, is a batch of one sample.
    """
    tensors = [*config.input, *config.output]
    is_listed = bool(config.input and config.output)
    is_plain = all(tensor.dims[:1] == [1] and not tensor.HasField("reshape") for tensor in tensors)
    return config.max_batch_size == 0 and is_listed and is_plain


def give_batch(config: "ModelConfig", max_batch_size: int) -> None:
    """Make the first dimension, which `can_get_batch` has checked, the batch, and turn on the dynamic batcher."""
    config.max_batch_size = max_batch_size
    for tensor in (*config.input, *config.output):
        del tensor.dims[0]
        if not tensor.dims:
            tensor.dims.append(1)
            tensor.reshape.SetInParent()
    if config.WhichOneof("scheduling_choice") is None:
        config.dynamic_batching.SetInParent()
