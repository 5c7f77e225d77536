"""The server under load, seen from the outside: is it ready, what does it serve, what does it count.

All but the question whether the load's own port serves the model goes over HTTP, whatever protocol the load uses.
Source: https://github.com/triton-inference-server/server/tree/main/docs/protocol
"""

import http.client
import json
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

from loadtest.checking.reference import Reference, Tensor, find_versions, read_reference
from loadtest.checking.samples import Samples, draw, from_reference
from loadtest.errors import ServerError, SettingsError
from loadtest.settings import ModelChoice, Settings
from loadtest.wire.exchange import ExchangeError
from loadtest.wire.grpc import is_model_ready

_TIMEOUT_S = 5.0
_NAME_HTTP = "name the server's HTTP address with --host, as in http://127.0.0.1:8000"


class NotThereError(Exception):
    """A control request got no usable answer; `status` is HTTP's, 0 for nonsense, None for silence."""

    def __init__(self, message: str, status: int | None = None) -> None:
        super().__init__(message)
        self.status = status


def fetch(url: str, timeout_s: float = _TIMEOUT_S) -> bytes:
    """GET `url`.

    Raises:
        NotThereError: No answer, or one that is not 200.
    """
    try:
        with urllib.request.urlopen(url, timeout=timeout_s) as answer:
            return bytes(answer.read())
    except urllib.error.HTTPError as error:
        with error:
            raise NotThereError(error.read(500).decode("utf-8", "replace") or error.reason, error.code) from error
    except http.client.HTTPException as error:
        raise NotThereError("what comes is not HTTP", 0) from error
    except OSError as error:
        raise NotThereError(str(getattr(error, "reason", error))) from error


def fetch_json(url: str, timeout_s: float = _TIMEOUT_S) -> dict[str, Any]:
    """GET a JSON object.

    Raises:
        NotThereError: No answer, or another one.
    """
    try:
        value = json.loads(fetch(url, timeout_s))
    except ValueError as error:
        raise NotThereError("the answer is not JSON", 200) from error
    if not isinstance(value, dict):
        raise NotThereError("the answer is not a JSON object", 200)
    return value


@dataclass(frozen=True, slots=True)
class Served:
    """What the server says of a model.

    Attributes:
        name: The model's name.
        versions: Those that are ready.
        max_batch_size: None when the server does not say.
        batched: Whether axis 0 of every tensor is the batch; their dims lack it then.
        inputs: The tensors it takes.
        outputs: The tensors it gives.
    """

    name: str
    versions: tuple[str, ...]
    max_batch_size: int | None
    batched: bool
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]


def model_url(host: str, name: str, version: str = "") -> str:
    """Where the server tells of a model."""
    url = f"{host}/v2/models/{quote(name, safe='')}"
    return f"{url}/versions/{version}" if version else url


def check_ready(settings: Settings) -> bool:
    """Hold that a KServe v2 server is there and ready, and tell whether it takes tensors as bytes over HTTP.

    Raises:
        ServerError: It is not.
    """
    host = settings.host
    try:
        metadata = fetch_json(f"{host}/v2")
    except NotThereError as error:
        if error.status is None:
            raise ServerError(host, f"the server does not answer: {error}", f"start it, or {_NAME_HTTP}") from error
        raise ServerError(
            host, f"it does not speak KServe v2: GET /v2 answers {error.status or 'nonsense'}, {error}", _NAME_HTTP
        ) from error
    if "name" not in metadata:
        raise ServerError(host, "it does not speak KServe v2: GET /v2 names no server", _NAME_HTTP)
    try:
        fetch(f"{host}/v2/health/ready")
    except NotThereError as error:
        raise ServerError(host, "the server is not ready", "wait for its models, or read its log") from error
    return "binary_tensor_data" in (metadata.get("extensions") or ())


def find_served(settings: Settings, choice: ModelChoice) -> Served:
    """What the server says of the model to load.

    Raises:
        ServerError: It does not serve that model, or not that version.
    """
    where = f"{settings.host}, model {choice.name}" + (f" version {choice.version}" if choice.version else "")
    try:
        metadata = fetch_json(model_url(settings.host, choice.name, choice.version))
    except NotThereError as error:
        what = f"the server does not serve it: {error}"
        raise ServerError(where, what, f"choose one that it serves ({_ready_models(settings.host)})") from error
    max_batch_size = _max_batch_size(settings.host, choice)
    try:
        batched = _is_batched(metadata["inputs"], max_batch_size)
        inputs, outputs = (tuple(_tensor(entry, batched) for entry in metadata[side]) for side in ("inputs", "outputs"))
        versions = tuple(map(str, metadata.get("versions") or ()))
        return Served(choice.name, versions, max_batch_size, batched, inputs, outputs)
    except (KeyError, TypeError, ValueError) as error:
        raise ServerError(where, f"its metadata cannot be read: {error!r}", _NAME_HTTP) from error


def check_grpc(settings: Settings, choice: ModelChoice) -> None:
    """Hold that the port which the load goes to serves the model, as the HTTP port says.

    Raises:
        ServerError: It does not.
    """
    where, mend = f"{settings.grpc}, model {choice.name}", "name the server's gRPC port with --grpc-address"
    try:
        ready = is_model_ready(settings.grpc, _TIMEOUT_S, choice.name, choice.version)
    except ExchangeError as error:
        what = f"{settings.host} serves it, but its gRPC port does not answer: {error}"
        raise ServerError(where, what, mend) from error
    if not ready:
        raise ServerError(where, f"{settings.host} serves it, but not this gRPC port", mend)


def _ready_models(host: str) -> str:
    request = urllib.request.Request(f"{host}/v2/repository/index", data=b"{}", method="POST")
    try:
        with urllib.request.urlopen(request, timeout=_TIMEOUT_S) as answer:
            index = json.load(answer)
        return ", ".join(sorted({entry["name"] for entry in index if entry.get("state") == "READY"})) or "none"
    except (OSError, ValueError, KeyError, TypeError, http.client.HTTPException):
        return "it does not list them"


def _max_batch_size(host: str, choice: ModelChoice) -> int | None:
    try:
        return int(fetch_json(f"{model_url(host, choice.name, choice.version)}/config").get("max_batch_size", 0))
    except NotThereError:
        return None


def _is_batched(inputs: Sequence[dict[str, Any]], max_batch_size: int | None) -> bool:
    if max_batch_size is not None:
        return max_batch_size > 0
    return all(int(entry["shape"][0]) == -1 for entry in inputs if entry["shape"])


def _tensor(entry: dict[str, Any], batched: bool) -> Tensor:
    shape = tuple(int(dim) for dim in entry["shape"])
    return Tensor(entry["name"], entry["datatype"], shape[1:] if batched else shape)


def prepare(settings: Settings) -> list[Samples]:
    """The samples of every model to load, held against what the server serves.

    Raises:
        ServerError: The server is not there, or does not serve what the settings or the repository say.
        SettingsError: The repository lacks a reference, or one is damaged.
    """
    binary = check_ready(settings)
    return [_prepare_model(settings, choice, binary=binary) for choice in settings.models]


def _prepare_model(settings: Settings, choice: ModelChoice, *, binary: bool) -> Samples:
    served = find_served(settings, choice)
    _check_rows(settings, served)
    if settings.protocol == "grpc":
        check_grpc(settings, choice)
    if settings.repository is None:
        return draw(
            choice.name,
            choice.version,
            max_batch_size=(served.max_batch_size or 1) if served.batched else 0,
            inputs=served.inputs,
            outputs=tuple(tensor.name for tensor in served.outputs),
            seed=settings.seed,
            binary=binary,
        )
    reference = find_reference(settings.repository, choice, served.versions)
    _check_same(settings, reference, served)
    return from_reference(reference, choice.version, binary=binary)


def _check_rows(settings: Settings, served: Served) -> None:
    bound = served.max_batch_size
    most = max(rows for rows, _ in settings.rows)
    if bound is not None and most > max(bound, 1):
        what = f"{most} rows per request, but model {served.name} takes at most {max(bound, 1)}"
        raise SettingsError("--rows", what, "ask for fewer rows")


def find_reference(repository: Path, choice: ModelChoice, served: Sequence[str]) -> Reference:
    """The reference of the version asked for, or else of the newest that the server has; it may not say which it has.

    Raises:
        SettingsError: The repository has none.
        ServerError: The server and the repository have no version in common.
    """
    stored = find_versions(repository, choice.name)
    if not stored:
        raise SettingsError(
            repository / choice.name,
            "there is no version with a reference",
            "name the repository the model was published in, or leave --repository out",
        )
    numbered = [version for version in served if version.isdecimal()] or [str(version) for version in stored]
    wanted = [choice.version] if choice.version else numbered
    common = [version for version in stored if str(version) in wanted]
    if not common:
        what = f"the server has version {', '.join(wanted)}, the repository has {', '.join(map(str, stored))}"
        raise ServerError(f"model {choice.name}", what, "name the repository that is served with --repository")
    return read_reference(repository, choice.name, common[-1])


def _check_same(settings: Settings, reference: Reference, served: Served) -> None:
    """Hold that names, types and dims of the repository are those of the server."""
    for side, ours, theirs in (
        ("inputs", reference.inputs, served.inputs),
        ("outputs", reference.outputs, served.outputs),
    ):
        if not _match(ours, theirs, exact=side == "inputs"):
            what = (
                f"the {side} differ: the repository's version {reference.version} has {_describe(ours)}, "
                f"the server {settings.host} has {_describe(theirs)}"
            )
            mend = "name the repository that is served, or reload the server"
            raise ServerError(f"model {reference.model}", what, mend)
    if served.batched != (reference.max_batch_size > 0):
        what = (
            f"max_batch_size is {reference.max_batch_size} in the repository, and the server {settings.host} "
            f"takes {'batches' if served.batched else 'no batches'}"
        )
        raise ServerError(f"model {reference.model}", what, "name the repository that is served")


def _match(ours: Sequence[Tensor], theirs: Sequence[Tensor], *, exact: bool) -> bool:
    there = {tensor.name: tensor for tensor in theirs}
    if exact and len(ours) != len(theirs):
        return False
    return all(
        tensor.name in there
        and there[tensor.name].datatype == tensor.datatype
        and _dims_match(tensor.dims, there[tensor.name].dims)
        for tensor in ours
    )


def _dims_match(ours: Sequence[int], theirs: Sequence[int]) -> bool:
    same_length = len(ours) == len(theirs)
    return same_length and all(a == b or -1 in (a, b) for a, b in zip(ours, theirs, strict=True))


def _describe(tensors: Sequence[Tensor]) -> str:
    return ", ".join(f"{tensor.name} {tensor.datatype}{list(tensor.dims)}" for tensor in tensors) or "none"
