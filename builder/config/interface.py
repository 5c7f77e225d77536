"""What clients see of a version under a config: the names, types and dims that they send and get.

A config may show clients less than the version has, or show it in another form: it may leave outputs out, reshape a
tensor, list a number where the model takes any size, and lower the largest batch. So whoever sends requests asks
`interface_of` for the interface in force, and not the manifest, which describes the model's own.

Source: ValidateIOShape in
https://github.com/triton-inference-server/core/blob/main/src/model_config_utils.cc, Normalize in
https://github.com/triton-inference-server/core/blob/main/src/infer_request.cc, and ValidateInputs and ValidateOutputs
in https://github.com/triton-inference-server/onnxruntime_backend/blob/main/src/onnxruntime.cc
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from builder.config.pbtxt import messages
from builder.errors import RepositoryError, VerificationError
from builder.record import Manifest, ServedTensor
from builder.tensors import Array

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

DEFAULT_MAX_BATCH_SIZE = 4
"""What Triton takes when it completes a config that gives no max_batch_size; `default-max-batch-size` changes it."""

_MOST_DIMS = 32


@dataclass(frozen=True, slots=True)
class ClientTensor:
    """An input or output as clients see it.

    Attributes:
        name: Its name.
        data_type: Triton's name of its type, such as `TYPE_FP32`.
        dims: The shape of one row as clients send or get it, -1 where it varies; without a batch, the whole shape.
        model_dims: The same as the model takes or gives it: other than `dims` where the config reshapes the tensor.
    """

    name: str
    data_type: str
    dims: tuple[int, ...]
    model_dims: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Interface:
    """What clients see of a version under a config.

    Attributes:
        inputs: The inputs, in the order of the config.
        outputs: The outputs that the config lists, in its order.
        max_batch_size: The most rows of a request; 0 when the version has no batch.
        left_out: The names of the version's outputs that the config does not list, so that no client can get them.
    """

    inputs: tuple[ClientTensor, ...]
    outputs: tuple[ClientTensor, ...]
    max_batch_size: int
    left_out: tuple[str, ...] = ()


def interface_of(config: "ModelConfig", manifest: Manifest, *, where: object) -> Interface:
    """Return what clients see of a version under a config.

    What a config leaves to Triton's auto-completion is as the version has it: all inputs when it lists none, all
    outputs when it lists none, and dims and types that are missing.

    Args:
        config: The config.
        manifest: The manifest of the version that it serves.
        where: The file of the config, for messages.

    Raises:
        RepositoryError: They contradict each other.
    """
    reasons = [*batch_contradictions(config, manifest), *tensor_contradictions(config, manifest)]
    if reasons:
        fix = "correct this file, or serve a version that it fits with `python -m builder rollback`"
        raise RepositoryError(where, "; ".join(reasons[:10]), fix)
    listed = {tensor.name for tensor in config.output}
    return Interface(
        inputs=_side(config.input, manifest.inputs),
        outputs=_side(config.output, manifest.outputs),
        max_batch_size=_max_batch_size(config, manifest),
        left_out=tuple(tensor.name for tensor in manifest.outputs if listed and tensor.name not in listed),
    )


def is_partial(config: "ModelConfig") -> bool:
    """Return whether Triton has to complete the config: it lists no inputs, or no outputs."""
    return not config.input or not config.output


def to_client(tensor: ClientTensor, rows: Array) -> Array:
    """Return stored rows as a client sends or gets them: `[rows, *model dims]` becomes `[rows, *dims]`.

    Raises:
        VerificationError: The config fixes a size that the stored rows do not have.
    """
    return _reshaped(tensor, rows, tensor.model_dims, tensor.dims)


def to_model(tensor: ClientTensor, rows: Array) -> Array:
    """Return a client's rows as the model takes or gives them: `[rows, *dims]` becomes `[rows, *model dims]`.

    Raises:
        VerificationError: The rows do not have these dims.
    """
    return _reshaped(tensor, rows, tensor.dims, tensor.model_dims)


def misfit(interface: Interface, samples: Mapping[str, Array]) -> str | None:
    """Say why a client cannot send stored samples under this interface; None when it can.

    Args:
        interface: The interface in force.
        samples: The samples by the name of their input, each `[rows, *model dims]`.
    """
    for tensor in interface.inputs:
        shape = samples[tensor.name].shape[1:]
        if not _fits(shape, tensor.model_dims):
            return _misfit(tensor, tensor.model_dims, shape)
    return None


def batch_contradictions(config: "ModelConfig", manifest: Manifest) -> Iterator[str]:
    """Yield why a config cannot have a batch, or must have one, where it says otherwise."""
    if config.max_batch_size > 0 and manifest.max_batch_size == 0:
        yield f"max_batch_size is {config.max_batch_size}, but the version has no batch"
    if config.max_batch_size == 0 and manifest.max_batch_size > 0 and not is_partial(config):
        yield "max_batch_size is 0, but the version has a batch"


def tensor_contradictions(config: "ModelConfig", manifest: Manifest) -> Iterator[str]:
    """Yield where the inputs and outputs of a config contradict a version, one clause each."""
    listed = {tensor.name for tensor in config.input}
    for tensor in manifest.inputs if listed else ():
        if tensor.name not in listed:
            yield f"it does not list input {tensor.name!r} of the version"
    inputs = [tensor for tensor in config.input if not _may_be_left_out(tensor, manifest)]
    yield from _of_side("input", inputs, manifest.inputs, has_batch=manifest.max_batch_size > 0)
    yield from _of_side("output", config.output, manifest.outputs, has_batch=manifest.max_batch_size > 0)


def _may_be_left_out(tensor: Any, manifest: Manifest) -> bool:
    """Return whether this is an optional input that clients need not send, so that no stored sample has it.

    It has a value in the model file. Triton knows such inputs only in models without a batch, and only a version that
    was adopted has them: in those that this package makes, they are constants.
    """
    is_known = any(tensor.name == own.name for own in manifest.inputs)
    return tensor.optional and not is_known and manifest.adopted and manifest.max_batch_size == 0


def segments(dims: Iterable[int]) -> tuple[int, ...]:
    """Return how many values lie between the sizes that vary: `[2, 4, -1, 6]` and `[8, -1, 1, 6]` both give (8, 6).

    A tensor can be reshaped from one shape to another if these numbers are the same.
    """
    sizes = [1]
    for dim in dims:
        if dim == -1:
            sizes.append(1)
        else:
            sizes[-1] *= dim
    return tuple(sizes)


def _of_side(side: str, listed: Iterable[Any], served: Sequence[ServedTensor], *, has_batch: bool) -> Iterator[str]:
    by_name = {tensor.name: tensor for tensor in served}
    for tensor in listed:
        if tensor.name in by_name:
            yield from _of_tensor(side, tensor, by_name[tensor.name], has_batch=has_batch)
        else:
            yield f"it lists {side} {tensor.name!r}, but the version has only {', '.join(map(repr, by_name))}"


def _of_tensor(side: str, tensor: Any, served: ServedTensor, *, has_batch: bool) -> Iterator[str]:
    """Compare type and dims. Where a dim of the version varies (-1), an input may list a number, an output may not."""
    at = f"{side} {tensor.name!r}"
    data_type = _data_type(tensor, served)
    if data_type != served.data_type:
        yield f"{at} is {data_type}, but the version's is {served.data_type}"
    if getattr(tensor, "optional", False):
        yield f"{at} is optional, but the version needs it"
    dims = _model_dims(tensor, served)
    if not served.dims and not has_batch:  # a scalar, which Triton shows to clients as one value
        fits = all(dim == 1 for dim in dims)
    else:
        fits = len(dims) == len(served.dims) and all(
            dim == own or (own == -1 and dim > 0 and side == "input")
            for dim, own in zip(dims, served.dims, strict=True)
        )
    if not fits:
        yield f"{at} has dims {list(dims[:_MOST_DIMS])}, but the version's are {list(served.dims)}"
    elif tensor.HasField("reshape") and segments(tensor.dims) != segments(dims):
        given = list(tensor.dims[:_MOST_DIMS])
        yield f"{at} cannot be reshaped from {given} to {list(dims[:_MOST_DIMS])}: the numbers of values differ"


def _side(listed: Sequence[Any], served: Sequence[ServedTensor]) -> tuple[ClientTensor, ...]:
    if not listed:
        return tuple(ClientTensor(t.name, t.data_type, t.dims or (1,), t.dims) for t in served)
    by_name = {tensor.name: tensor for tensor in served}
    return tuple(_client_tensor(tensor, by_name[tensor.name]) for tensor in listed if tensor.name in by_name)


def _client_tensor(tensor: Any, served: ServedTensor) -> ClientTensor:
    model_dims = _model_dims(tensor, served) if served.dims else ()
    dims = tuple(tensor.dims) or served.dims or (1,)
    return ClientTensor(tensor.name, _data_type(tensor, served), dims, model_dims)


def _model_dims(tensor: Any, served: ServedTensor) -> tuple[int, ...]:
    """Return the shape that a config says the model has; a config without dims says what the version has."""
    if tensor.HasField("reshape"):
        return tuple(tensor.reshape.shape)
    return tuple(tensor.dims) or served.dims


def _data_type(tensor: Any, served: ServedTensor) -> str:
    name: str = messages().DataType.Name(tensor.data_type)
    return served.data_type if name == "TYPE_INVALID" else name


def _max_batch_size(config: "ModelConfig", manifest: Manifest) -> int:
    """Return the most rows of a request. Triton chooses it where a config that it has to complete says nothing."""
    limit: int = config.max_batch_size
    return min(DEFAULT_MAX_BATCH_SIZE, manifest.max_batch_size) if limit == 0 else limit


def _reshaped(tensor: ClientTensor, rows: Array, old: tuple[int, ...], new: tuple[int, ...]) -> Array:
    if not _fits(rows.shape[1:], old):
        raise VerificationError(
            f"tensor {tensor.name!r}",
            _misfit(tensor, old, rows.shape[1:]),
            "change its dims in config.pbtxt, or publish the model with samples of that size with --samples FILE.npz",
        )
    varying = iter([size for size, dim in zip(rows.shape[1:], old, strict=True) if dim == -1])
    return rows.reshape(len(rows), *(next(varying) if dim == -1 else dim for dim in new))


def _fits(shape: Sequence[int], dims: Sequence[int]) -> bool:
    return len(shape) == len(dims) and all(dim in (-1, size) for size, dim in zip(shape, dims, strict=True))


def _misfit(tensor: ClientTensor, dims: Sequence[int], shape: Sequence[int]) -> str:
    return f"config.pbtxt gives {tensor.name!r} the dims {list(dims)}, but the stored rows have {list(shape)}"
