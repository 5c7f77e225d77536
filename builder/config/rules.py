"""Tell why Triton would refuse a config, and where an existing config contradicts a new version."""

from collections import Counter
from collections.abc import Iterator
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Any

from builder.config import scheduling
from builder.config.interface import segments, tensor_contradictions
from builder.config.parameters import parameter_problems
from builder.config.pbtxt import messages
from builder.config.plans import PLATFORMS, unproven_files
from builder.record import Manifest

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

MODEL_FILES = {"onnxruntime": "model.onnx", "tensorrt": "model.plan"}
"""What Triton takes for the model file of each backend if default_model_filename names none."""


def problems(config: "ModelConfig") -> Iterator[str]:
    """Yield why Triton would refuse to load a model with this config, one clause each.

    Source: ValidateModelConfig, ValidateInstanceGroup and ValidateIOShape in
    https://github.com/triton-inference-server/core/blob/main/src/model_config_utils.cc, GenerateWarmupData in
    https://github.com/triton-inference-server/core/blob/main/src/backend_model_instance.cc
    """
    is_tensorrt = config.backend == "tensorrt" or config.platform == PLATFORMS["tensorrt"]
    if config.max_batch_size < 0:
        yield f"max_batch_size is {config.max_batch_size}"
    for side in ("input", "output"):
        tensors = getattr(config, side)
        if not tensors:
            yield f"it has no {side}"
        for name, count in Counter(tensor.name for tensor in tensors).items():
            if count > 1:
                yield f"{side} {name!r} is listed {count} times"
        for tensor in tensors:
            for what in _tensor_problems(tensor, config.max_batch_size, is_tensorrt=is_tensorrt):
                yield f"{side} {tensor.name!r}: {what}"
    yield from scheduling.queue_problems(config)
    yield from scheduling.instance_problems(config)
    yield from scheduling.cache_problems(config)
    yield from scheduling.metric_problems(config)
    yield from scheduling.label_problems(config)
    yield from parameter_problems(config)
    yield from _warmup_problems(config)


def _tensor_problems(tensor: Any, max_batch_size: int, *, is_tensorrt: bool) -> Iterator[str]:
    if tensor.data_type == messages().TYPE_INVALID:
        yield "it has no data_type"
    if not tensor.dims:
        yield "it has no dims"
    if any(dim < 1 and dim != -1 for dim in [*tensor.dims, *tensor.reshape.shape]):
        yield "a dim is neither -1 nor a number from 1 up"
    if tensor.HasField("reshape"):
        if not tensor.reshape.shape and max_batch_size == 0:
            yield "it is reshaped to a scalar, which needs a max_batch_size above 0"
        shape = tensor.reshape.shape
        if segments(tensor.dims) != segments(shape):
            yield f"reshape {list(shape[:32])} has another number of values than dims {list(tensor.dims[:32])}"
    if getattr(tensor, "format", 0) != 0 and len(tensor.dims) != 3:
        yield "a format of NHWC or NCHW needs 3 dims"
    if not is_tensorrt and (tensor.is_shape_tensor or tensor.is_non_linear_format_io):
        yield "shape tensors and non-linear formats are only for TensorRT"


def _warmup_problems(config: "ModelConfig") -> Iterator[str]:
    required = {tensor.name for tensor in config.input if not tensor.optional}
    inputs = {tensor.name: tensor for tensor in config.input}
    for warmup in config.model_warmup:
        if warmup.batch_size == 0:
            continue  # Triton skips it
        at = f"model_warmup {warmup.name!r}"
        if warmup.batch_size > max(1, config.max_batch_size):
            yield f"{at}: batch_size {warmup.batch_size} is above max_batch_size {config.max_batch_size}"
        for name, value in warmup.inputs.items():
            if value.WhichOneof("input_data_type") is None:
                yield f"{at}: input {name!r} has no data"
            if name in inputs:
                yield from (f"{at}: input {name!r} {what}" for what in _row_problems(inputs[name], value))
            elif not config.HasField("sequence_batching"):  # which may have more inputs, for its control values
                yield f"{at}: there is no input {name!r}"
        if absent := sorted(required - set(warmup.inputs)):
            yield f"{at}: no data for input {', '.join(map(repr, absent))}"


def _row_problems(tensor: Any, row: Any) -> Iterator[str]:
    """Yield why Triton would not take a row of a warmup: it has to be as clients send it."""
    dims, given = list(tensor.dims), list(row.dims)
    if row.data_type != tensor.data_type:
        yield f"is {_type_name(row.data_type)} instead of {_type_name(tensor.data_type)}"
    if -1 in given:
        yield "has a dim of -1"
    elif len(dims) != len(given) or any(dim not in (-1, own) for dim, own in zip(dims, given, strict=True)):
        yield f"has dims {given[:32]} instead of {dims[:32]}"


def _type_name(number: int) -> str:
    """Return the name of a data type; a config may have numbers that are none."""
    types = messages().DataType
    return str(types.Name(number)) if number in types.values() else str(number)


def disagreements(config: "ModelConfig", manifest: Manifest, name: str) -> Iterator[str]:
    """Yield where an existing config contradicts a version with this manifest, one clause each."""
    backend = manifest.backend
    if config.name not in ("", name):
        yield f"its name is {config.name!r}, but its directory's is {name!r}"
    if config.backend not in ("", *PLATFORMS) or config.platform not in ("", *PLATFORMS.values()):
        yield f"its backend is {config.backend or config.platform!r}, but the new version needs {backend!r}"
    if config.HasField("ensemble_scheduling"):
        yield "it is an ensemble"
    file = PurePosixPath(manifest.model.file).parts[0]  # it may be in a folder that Triton is given, model.onnx/
    if (config.default_model_filename or MODEL_FILES[backend]) != file:
        yield f"default_model_filename is {config.default_model_filename!r} instead of {file!r}"
    if not manifest.adopted:
        yield from unproven_files(config, manifest)
    yield from tensor_contradictions(config, manifest)
