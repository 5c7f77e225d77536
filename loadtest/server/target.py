"""Check before the first request that the server is ready and serves what the settings and the repository say."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loadtest.checking import Reference, Samples, draw, find_versions, from_reference, read_reference
from loadtest.errors import ServerError, SettingsError
from loadtest.server.control import TIMEOUT_S, Control, ControlError
from loadtest.settings import ModelChoice, Settings
from loadtest.wire import Address, ExchangeError, TensorSpec, is_model_ready, model_path

_NAME_HTTP = "set --host to the server's HTTP address, as in --host http://127.0.0.1:8000"
_FIX_TLS = (
    "set --ca-file to the certificates of the authority that signed the server's, or --client-cert to the "
    "certificate that the server asks for"
)
_FIX_ACCESS = "send what the server asks for, as in Authorization: Bearer TOKEN, from a --header-file"
_NAME_REPOSITORY = "set --repository to the repository that the server serves"


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
    """

    name: str
    versions: tuple[str, ...]
    max_batch_size: int | None
    batched: bool
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


def prepare(settings: Settings) -> list[Samples]:
    """Return the samples to send to each model, once the server was checked.

    Raises:
        ServerError: The server is not ready, or does not serve what the settings or the repository say.
        SettingsError: A reference is missing in the repository, or damaged.
    """
    with Control(settings.http) as control:
        binary = check_ready(settings, control)
        return [_prepare_model(settings, control, choice, binary=binary) for choice in settings.models]


def _prepare_model(settings: Settings, control: Control, choice: ModelChoice, *, binary: bool) -> Samples:
    served = find_served(settings, control, choice)
    _check_rows(settings, served)
    if settings.protocol == "grpc":
        check_grpc(settings, choice)
    if settings.repository is None:
        return draw(
            choice.name,
            choice.version,
            max_batch_size=(served.max_batch_size or 1) if served.batched else 0,
            inputs=served.inputs,
            outputs=tuple(spec.name for spec in served.outputs),
            seed=settings.load.seed,
            binary=binary,
        )
    reference = find_reference(settings.repository, choice, served.versions)
    _check_same(settings, reference, served)
    return from_reference(reference, choice.version, binary=binary)


# ---- what the server says


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
    try:
        control.fetch("/v2/health/ready")
    except ControlError as error:
        fix = "wait until its models are loaded, or look for the reason in its log"
        raise ServerError(host, "the server is not ready", fix) from error
    return "binary_tensor_data" in (metadata.get("extensions") or ())


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
    max_batch_size = _max_batch_size(control, choice)
    try:
        batched = _is_batched(metadata["inputs"], max_batch_size)
        inputs, outputs = (tuple(_spec(entry, batched) for entry in metadata[side]) for side in ("inputs", "outputs"))
        versions = tuple(map(str, metadata.get("versions") or ()))
        return Served(choice.name, versions, max_batch_size, batched, inputs, outputs)
    except (KeyError, TypeError, ValueError) as error:
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


def _max_batch_size(control: Control, choice: ModelChoice) -> int | None:
    try:
        return int(control.fetch_json(f"{model_path(choice.name, choice.version)}/config").get("max_batch_size", 0))
    except ControlError:
        return None


def _is_batched(inputs: Sequence[dict[str, Any]], max_batch_size: int | None) -> bool:
    if max_batch_size is not None:
        return max_batch_size > 0
    return all(int(entry["shape"][0]) == -1 for entry in inputs if entry["shape"])


def _spec(entry: dict[str, Any], batched: bool) -> TensorSpec:
    shape = tuple(int(dim) for dim in entry["shape"])
    return TensorSpec(entry["name"], entry["datatype"], shape[1:] if batched else shape)


# ---- does it agree with the settings and the repository


def _check_rows(settings: Settings, served: Served) -> None:
    limit = served.max_batch_size
    most = max(rows for rows, _ in settings.rows)
    if limit is not None and most > max(limit, 1):
        what = f"model {served.name} takes at most {max(limit, 1)} rows per request, not {most}"
        raise SettingsError("--rows", what, f"give {max(limit, 1)} or less")


def find_reference(repository: Path, choice: ModelChoice, served: Sequence[str]) -> Reference:
    """Return the reference of the version asked for, or else of the newest version that the server has.

    A server need not say which versions it has; then the newest version of the repository is taken.

    Raises:
        SettingsError: The repository has no reference for the model.
        ServerError: The server and the repository have no version in common.
    """
    stored = find_versions(repository, choice.name)
    if not stored:
        raise SettingsError(
            repository / choice.name,
            "no version of this model has a reference",
            "set --repository to where the model was published, or leave it out to check nothing",
        )
    numbered = [version for version in served if version.isdecimal()] or [str(version) for version in stored]
    wanted = [choice.version] if choice.version else numbered
    common = [version for version in stored if str(version) in wanted]
    if not common:
        what = f"the server has version {', '.join(wanted)}, the repository has {', '.join(map(str, stored))}"
        raise ServerError(f"model {choice.name}", what, _NAME_REPOSITORY)
    return read_reference(repository, choice.name, common[-1])


def _check_same(settings: Settings, reference: Reference, served: Served) -> None:
    """Check that names, types and dims in the repository are those of the server."""
    where = f"model {reference.model}"
    for side, ours, theirs in (
        ("inputs", reference.inputs, served.inputs),
        ("outputs", reference.outputs, served.outputs),
    ):
        if not _match(ours, theirs, exact=side == "inputs"):
            what = (
                f"the {side} differ: the repository's version {reference.version} has {_describe(ours)}, "
                f"the server {settings.host} has {_describe(theirs)}"
            )
            raise ServerError(where, what, f"{_NAME_REPOSITORY}, or reload the server")
    if served.batched != (reference.max_batch_size > 0):
        what = (
            f"max_batch_size is {reference.max_batch_size} in the repository, but the server {settings.host} "
            f"{'takes' if served.batched else 'does not take'} batches"
        )
        raise ServerError(where, what, f"{_NAME_REPOSITORY}, or reload the server")


def _match(ours: Sequence[TensorSpec], theirs: Sequence[TensorSpec], *, exact: bool) -> bool:
    there = {spec.name: spec for spec in theirs}
    if exact and len(ours) != len(theirs):
        return False
    return all(spec.name in there and _agree(spec, there[spec.name]) for spec in ours)


def _agree(ours: TensorSpec, theirs: TensorSpec) -> bool:
    if ours.datatype != theirs.datatype or len(ours.dims) != len(theirs.dims):
        return False
    return all(a == b or -1 in (a, b) for a, b in zip(ours.dims, theirs.dims, strict=True))


def _describe(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{spec.name} {spec.datatype}{list(spec.dims)}" for spec in specs) or "none"
