"""What the server says about itself and about the models of a load test."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from loadtest.errors import ServerError
from loadtest.server.control import TIMEOUT_S, Control, ControlError
from loadtest.settings import ModelChoice, Settings
from loadtest.wire import Address, ExchangeError, TensorSpec, is_model_ready, model_path

_NAME_HTTP = "set --host to the server's HTTP address, as in --host http://127.0.0.1:8000"
_FIX_TLS = (
    "set --ca-file to the certificates of the authority that signed the server's, or --client-cert to the "
    "certificate that the server asks for"
)
_FIX_ACCESS = "send what the server asks for, as in Authorization: Bearer TOKEN, from a --header-file"

_READY_S, _POLL_S = 5.0, 0.1
"""How long a server that is not ready is waited for, and how often it is asked, in seconds."""

_IDLE_US = 1_000_000
"""Triton's own default of max_sequence_idle_microseconds."""


@dataclass(frozen=True, slots=True)
class Served:
    """What the server says about a model.

    Attributes:
        name: The model's name.
        versions: Those that are ready.
        max_batch_size: None if the server does not say.
        batched: Whether axis 0 of every tensor is the batch; then the dims do not include it.
        inputs: The tensors it takes.
        outputs: The tensors it gives.
        idle_s: Of a stateful model, how long a sequence may wait for its next step; None for a model without sequences.
        has_config: Whether the server says how the model is configured.
        input_dims: By input, the dims that the model itself has, without the batch, if the server says them.
        output_dims: The same by output.
        optional: The inputs that need not be sent, if the server says them.
    """

    name: str
    versions: tuple[str, ...]
    max_batch_size: int | None
    batched: bool
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    idle_s: float | None = None
    has_config: bool = False
    input_dims: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    output_dims: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    optional: frozenset[str] = frozenset()


def check_ready(settings: Settings, control: Control) -> bool:
    """Check that a KServe v2 server is ready, and return whether it takes tensors as raw bytes over HTTP.

    Raises:
        ServerError: It is not.
    """
    host = settings.host
    try:
        metadata = control.fetch_json("/v2")
    except ControlError as error:
        if error.status is None:
            fix = _FIX_TLS if _is_about_tls(settings.http, error.kind) else f"start the server, or {_NAME_HTTP}"
            raise ServerError(host, f"the server does not answer: {error}", fix) from error
        if error.status in (401, 403):
            raise ServerError(host, f"the server refuses to answer: {error}", _FIX_ACCESS) from error
        got = f"GET /v2 returned {f'status {error.status}' if error.status else 'no HTTP response'}, {error}"
        raise ServerError(host, f"the server does not speak KServe v2: {got}", _NAME_HTTP) from error
    if "name" not in metadata:
        what = "the server does not speak KServe v2: GET /v2 returned no server name"
        raise ServerError(host, what, _NAME_HTTP)
    _wait_until_ready(host, control)
    return "binary_tensor_data" in (metadata.get("extensions") or ())


def _wait_until_ready(host: str, control: Control) -> None:
    """Wait a moment for a server that is not ready: Triton is not while it loads or unloads any other model.

    Raises:
        ServerError: It does not become ready.
    """
    deadline = time.monotonic() + _READY_S
    while True:
        try:
            control.fetch("/v2/health/ready")
        except ControlError as error:
            if time.monotonic() > deadline:
                fix = "wait until its models are loaded, or look for the reason in its log"
                raise ServerError(host, "the server is not ready", fix) from error
            time.sleep(_POLL_S)
        else:
            return


def _is_about_tls(address: Address, kind: str) -> bool:
    """Return whether a failure may come from TLS: a server without the certificate it asked for may just hang up."""
    return kind == "tls" or (kind == "cut" and address.tls is not None)


def find_served(settings: Settings, control: Control, choice: ModelChoice) -> Served:
    """Return what the server says about a model.

    Raises:
        ServerError: It does not serve this model, or not this version.
    """
    where = f"{settings.host}, model {choice.name}" + (f" version {choice.version}" if choice.version else "")
    try:
        metadata = control.fetch_json(model_path(choice.name, choice.version))
    except ControlError as error:
        what = f"the server does not serve this: {error}"
        raise ServerError(where, what, _choose_served(control)) from error
    config = _find_config(control, choice)
    try:
        max_batch_size = None if config is None else int(config.get("max_batch_size", 0))
        batched = _is_batched(metadata["inputs"], max_batch_size)
        inputs, outputs = (tuple(_spec(entry, batched) for entry in metadata[side]) for side in ("inputs", "outputs"))
        versions = tuple(map(str, metadata.get("versions") or ()))
        idle_s, has_config = _find_idle_s(config or {}), config is not None
        return Served(
            name=choice.name,
            versions=versions,
            max_batch_size=max_batch_size,
            batched=batched,
            inputs=inputs,
            outputs=outputs,
            idle_s=idle_s,
            has_config=has_config,
            input_dims=_model_dims(config or {}, "input"),
            output_dims=_model_dims(config or {}, "output"),
            optional=_optional(config or {}),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ServerError(where, f"the server's metadata cannot be read: {error!r}", _NAME_HTTP) from error


def _choose_served(control: Control) -> str:
    try:
        statistics = control.fetch_json("/v2/models/stats")  # of all models, and without a key, unlike the index
        names = sorted({entry["name"] for entry in statistics["model_stats"]})
    except (ControlError, KeyError, TypeError):
        return "set --model to a model that it serves"
    if not names:
        return "load a model: the server has none that is ready"
    return f"set --model to one that it serves: {', '.join(names)}"


def check_grpc(settings: Settings, choice: ModelChoice) -> None:
    """Check that the gRPC port, which the load goes to, serves what the HTTP port does.

    Raises:
        ServerError: It does not.
    """
    where, fix = f"{settings.grpc}, model {choice.name}", "set --grpc-address to the server's gRPC port"
    try:
        ready = is_model_ready(settings.grpc, TIMEOUT_S, choice.name, choice.version)
    except ExchangeError as error:
        said = settings.grpc.conceal(str(error))
        what = f"{settings.host} serves the model, but the gRPC port does not answer: {said}"
        raise ServerError(where, what, _FIX_TLS if _is_about_tls(settings.grpc, error.kind) else fix) from error
    if not ready:
        raise ServerError(where, f"{settings.host} serves the model, but this gRPC port does not", fix)


def _find_config(control: Control, choice: ModelChoice) -> dict[str, Any] | None:
    try:
        return control.fetch_json(f"{model_path(choice.name, choice.version)}/config")
    except ControlError:
        return None


def _model_dims(config: dict[str, Any], side: str) -> dict[str, tuple[int, ...]]:
    """Return the dims that the model itself has: those of `reshape`, or else those that clients see."""
    tensors = config.get(side) or ()
    shapes = {
        entry["name"]: entry["reshape"].get("shape", ()) if "reshape" in entry else entry["dims"] for entry in tensors
    }
    return {name: tuple(int(dim) for dim in shape) for name, shape in shapes.items()}


def _optional(config: dict[str, Any]) -> frozenset[str]:
    return frozenset(entry["name"] for entry in config.get("input") or () if entry.get("optional"))


def _find_idle_s(config: dict[str, Any]) -> float | None:
    """Return how long a sequence of a stateful model may wait for its next step.

    Source: https://github.com/triton-inference-server/common/blob/main/protobuf/model_config.proto
    """
    batching = config.get("sequence_batching")
    if batching is None:
        return None
    return (int(batching.get("max_sequence_idle_microseconds", 0)) or _IDLE_US) / 1e6


def _is_batched(inputs: Sequence[dict[str, Any]], max_batch_size: int | None) -> bool:
    if max_batch_size is not None:
        return max_batch_size > 0
    return all(int(entry["shape"][0]) == -1 for entry in inputs if entry["shape"])


def _spec(entry: dict[str, Any], batched: bool) -> TensorSpec:
    shape = tuple(int(dim) for dim in entry["shape"])
    return TensorSpec(entry["name"], entry["datatype"], shape[1:] if batched else shape)
