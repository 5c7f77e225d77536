"""Control a running Triton over gRPC: ask what it serves, load and unload models, and send requests.

Models are loaded over gRPC because a load over HTTP can delay inference requests.
"""

import re
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from builder.errors import HostError
from builder.record import ServedTensor
from builder.server import HEADER, KEY_VARIABLE, AdminAccess, find_server, is_loopback
from builder.tensors import Array, Arrays

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig


_NO_PROXY = [
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_send_message_length", triton.MAX_GRPC_MESSAGE_SIZE),
    ("grpc.max_receive_message_length", triton.MAX_GRPC_MESSAGE_SIZE),
]
"""Options for a server on this machine. Otherwise gRPC would send everything, and the key, to the proxy that the
environment names, and the proxy would connect to its own machine. The other two are tritonclient's defaults.
"""

_EXPECTED_HEADER = re.compile(r"expecting header '(?:triton-grpc-protocol-)?([^']+)'")

_LOOK_IN_LOG = "look for the cause in the server's log"

_NO_MODEL = ".no.such.model."
"""A name that no model can have. Unloading it changes nothing, and succeeds only in explicit mode."""

_FIRST_S = 10.0
"""How long the first answer may take, before it is known whether a server is there."""

_ASK_S = 60.0
"""How long a call that changes nothing may take."""

_POLL_S = 0.05

_IN_MEMORY = ("READY", "LOADING", "UNLOADING")
"""The states in which a version is in memory."""


@dataclass(frozen=True, slots=True)
class Address:
    """The address of a server's gRPC endpoint.

    Attributes:
        target: `host:port`.
        tls: Whether to use TLS, with the system's root certificates.
    """

    target: str
    tls: bool = False

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Read `grpc://host:port`, `grpcs://host:port` or `host:port`.

        Raises:
            ValueError: It is anything else, for example an HTTP address.
        """
        parts = urlsplit(text if "//" in text else f"grpc://{text}")
        if parts.scheme not in ("grpc", "grpcs") or not parts.hostname or not parts.port or parts.path.strip("/"):
            raise ValueError(f"{text!r} is not a gRPC address: write it as grpc://host:8001")
        return cls(parts.netloc, parts.scheme == "grpcs")

    def __str__(self) -> str:
        return f"{'grpcs' if self.tls else 'grpc'}://{self.target}"


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one request.

    Attributes:
        version: The version of the model that answered.
        outputs: The outputs by name, `dtype[*shape]`. Strings are NumPy unicode, and BF16 is float32.
        refusal: The server's error message if it did not answer. There are no outputs then.
    """

    version: int
    outputs: Arrays
    refusal: str | None = None


@dataclass(frozen=True, slots=True)
class Traffic:
    """How many requests of all clients a version has answered, and failed to answer, since it was loaded."""

    answered: int
    failed: int


class LiveServer:
    """A running Triton, as a context manager that closes the connection.

    Args:
        address: Its gRPC endpoint.
        admin: The key to its restricted protocols, if they are restricted. Default: that of the server that this user
            runs at this address, if it is one of ours on this machine.
        timeout_s: How long a load may take, and then the wait until the version is ready, seconds each.
    """

    def __init__(self, address: Address, *, admin: AdminAccess | None = None, timeout_s: float = 300.0) -> None:
        self.address = address
        self._timeout_s = timeout_s
        target = address.target
        if admin is None and not address.tls and (found := find_server(target)):
            target, admin = found.address, found.admin
        self._admin = admin
        self._headers = admin.grpc_headers if admin else {}
        options = _NO_PROXY if is_loopback(target) else None
        self._client = triton.InferenceServerClient(target, ssl=address.tls, channel_args=options)

    def __enter__(self) -> "LiveServer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def check_control(self) -> None:
        """Check that it speaks KServe v2, lets this client control it, and is in explicit mode. Changes nothing.

        Raises:
            HostError: It is down, is not Triton, restricts access, or is in another mode.
        """
        fix = "check that Triton is running there, and that this is its gRPC port (8001 by default)"
        with self._reported("no inference server (KServe v2) answers", fix):
            metadata = self._client.get_server_metadata(headers=self._headers, client_timeout=_FIRST_S)
        if "model_repository" not in metadata.extensions:
            what = f"{metadata.name or 'this server'} {metadata.version} cannot load models, so it is not Triton"
            raise HostError(self.address, what, "give the address of a Triton server")
        try:
            self._client.get_model_repository_index(headers=self._headers, client_timeout=_ASK_S)
        except InferenceServerException as error:
            key = "with this admin key" if self._admin else "without an admin key"
            what = f"no access to its model repository {key}: {_reason(error)}"
            raise HostError(self.address, what, self._advice(_reason(error))) from error
        with self._reported("it does not load models on request", "start it with --model-control-mode=explicit"):
            self._client.unload_model(_NO_MODEL, headers=self._headers, client_timeout=_ASK_S)

    def knows(self, name: str) -> bool:
        """Return whether its repository has a model of this name, loaded or not.

        Raises:
            HostError: It does not answer.
        """
        return any(entry.name == name for entry in self._index())

    def ready_versions(self, name: str) -> tuple[int, ...]:
        """Return the versions that it serves at this moment, in ascending order.

        Raises:
            HostError: It does not answer.
        """
        ready = (entry for entry in self._index() if entry.name == name and entry.state == "READY")
        return tuple(sorted(int(entry.version) for entry in ready))

    def config(self, name: str) -> "ModelConfig":
        """Return the config of a loaded model, as the server understood it.

        Raises:
            HostError: It does not answer.
        """
        with self._reported(f"it does not return the config of {name!r}", _LOOK_IN_LOG):
            answer = self._client.get_model_config(name, headers=self._headers, client_timeout=_ASK_S)
        config: ModelConfig = answer.config
        return config

    def load(self, name: str, version: int, *, label: str = "") -> float:
        """Load the version that the model's config names, wait until it alone is served, and return the seconds taken.

        Args:
            name: The model.
            version: The version that its config names.
            label: What messages call it.

        Raises:
            HostError: The server refuses, or is not ready in time.
        """
        started = time.monotonic()
        label = label or f"version {version} of {name!r}"
        with self._reported(f"it could not load {label}", "correct what the server reports, then deploy again"):
            self._client.load_model(name, headers=self._headers, client_timeout=self._timeout_s)
        while (ready := self.ready_versions(name)) != (version,):
            if time.monotonic() - started > self._timeout_s:
                serves = f"version {', '.join(map(str, ready))}" if ready else "no version"
                what = f"{self._timeout_s:g} s after loading {name!r}, it serves {serves} instead of version {version}"
                raise HostError(self.address, what, "check that the server reads this repository")
            time.sleep(_POLL_S)
        return time.monotonic() - started

    def unload(self, name: str) -> None:
        """Stop serving a model, and wait until it is no longer in memory.

        Raises:
            HostError: The server refuses, or is not done in time.
        """
        started = time.monotonic()
        with self._reported(f"it could not unload {name!r}", _LOOK_IN_LOG):
            self._client.unload_model(name, headers=self._headers, client_timeout=self._timeout_s)
        while any(entry.name == name and entry.state in _IN_MEMORY for entry in self._index()):
            if time.monotonic() - started > self._timeout_s:
                what = f"it is still unloading {name!r} after {self._timeout_s:g} s"
                raise HostError(self.address, what, _LOOK_IN_LOG)
            time.sleep(_POLL_S)

    def traffic(self, name: str, version: int) -> Traffic:
        """Return how many requests a version has answered so far. The version must be ready.

        Raises:
            HostError: It does not answer.
        """
        with self._reported(f"it does not return statistics for {name!r}", _LOOK_IN_LOG):
            answer = self._client.get_inference_statistics(
                name, str(version), headers=self._headers, client_timeout=_ASK_S
            )
        totals = answer.model_stats[0].inference_stats
        return Traffic(int(totals.success.count), int(totals.fail.count))

    def ask(
        self, name: str, requests: Sequence[Arrays], inputs: Sequence[ServedTensor], outputs: Sequence[ServedTensor]
    ) -> list[Answer]:
        """Send all requests at once, without naming a version, and return their answers in order.

        Args:
            name: The model.
            requests: The inputs of each request by name, in the form of the outputs of `Answer`.
            inputs: The inputs to send. A row without dimensions is sent as `[1]`.
            outputs: The outputs to ask for.

        Raises:
            HostError: The server is gone, or does not answer in time.
        """
        answers: SimpleQueue[tuple[int, Any, InferenceServerException | None]] = SimpleQueue()
        wanted = [triton.InferRequestedOutput(tensor.name) for tensor in outputs]
        for position, arrays in enumerate(requests):
            given = [_input(tensor, arrays[tensor.name]) for tensor in inputs]
            keep = partial(_keep, answers, position)
            self._client.async_infer(name, given, keep, outputs=wanted, client_timeout=_ASK_S, headers=self._headers)
        arrived = {position: (result, error) for position, result, error in (answers.get() for _ in requests)}
        return [self._answer(*arrived[position]) for position in range(len(requests))]

    def _answer(self, result: Any, error: InferenceServerException | None) -> Answer:
        if error is None:
            response = result.get_response()
            outputs = {output.name: _array(result.as_numpy(output.name)) for output in response.outputs}
            return Answer(int(response.model_version), outputs)
        if error.status() in ("StatusCode.UNAVAILABLE", "StatusCode.DEADLINE_EXCEEDED", "StatusCode.CANCELLED"):
            fix = "check that the server is still running, then deploy again"
            raise HostError(self.address, f"it does not answer: {_reason(error)}", fix) from error
        return Answer(0, {}, _reason(error))

    def _advice(self, refusal: str) -> str:
        """Return what to do about a server that refuses the key, or wants one."""
        expected = _EXPECTED_HEADER.search(refusal)
        header = self._admin.header if self._admin else HEADER
        named = f", and give --admin-header {expected[1]}" if expected and expected[1] != header else ""
        fix = f"set {KEY_VARIABLE} to the server's admin key, or name a file that holds it with --admin-key-file"
        return fix + named

    def _index(self) -> Iterator[Any]:
        with self._reported("it does not list its models", _LOOK_IN_LOG):
            answer = self._client.get_model_repository_index(headers=self._headers, client_timeout=_ASK_S)
        yield from answer.models

    @contextmanager
    def _reported(self, what: str, fix: str) -> Iterator[None]:
        """Turn an error of the server, or of the connection, into a HostError."""
        try:
            yield
        except InferenceServerException as error:
            raise HostError(self.address, f"{what}: {_reason(error)}", fix) from error


def _keep(
    answers: "SimpleQueue[tuple[int, Any, InferenceServerException | None]]",
    position: int,
    result: Any,
    error: InferenceServerException | None,
) -> None:
    answers.put((position, result, error))


def _input(tensor: ServedTensor, array: Array) -> Any:
    """Return one input of a request."""
    data_type = tensor.data_type.removeprefix("TYPE_").replace("STRING", "BYTES")
    given = triton.InferInput(tensor.name, list(array.shape), data_type)
    given.set_data_from_numpy(array.astype(object) if array.dtype.kind == "U" else array)
    return given


def _array(array: Array) -> Array:
    """Return an output as it came, except for strings, which come as bytes and are decoded."""
    if array.dtype.kind != "O":
        return array
    return np.array([value.decode() for value in array.reshape(-1)], np.str_).reshape(array.shape)


def _reason(error: InferenceServerException) -> str:
    """Return the error message of the server, or of gRPC, in one line."""
    return " ".join(str(error.message()).split())
