"""A running Triton, over gRPC: what it serves, loading and unloading, and asking it for answers.

Loading goes over gRPC because over HTTP it can stall inference.
"""

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
from builder.tensors import Array, Arrays

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig


ADMIN_HEADER = "triton-grpc-protocol-admin-key"
"""What a server started with `--grpc-restricted-protocol=…:admin-key=SECRET` wants to see the secret in.

Source: https://github.com/triton-inference-server/server/blob/main/docs/customization_guide/inference_protocols.md
"""

_NO_MODEL = ".no.such.model."
"""A name that no model of ours can have: unloading it does nothing, but only in explicit mode."""
_FIRST_S = 10.0
"""How long the first answer may take, before it is known that anything is there."""
_ASK_S = 60.0
"""How long a call that only asks may take."""
_POLL_S = 0.05
_ALIVE = ("READY", "LOADING", "UNLOADING")
"""The states in which a version holds memory."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server's gRPC front end listens.

    Attributes:
        target: `host:port`.
        tls: Whether to speak TLS, with the system's root certificates.
    """

    target: str
    tls: bool = False

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Read `grpc://host:port`, `grpcs://host:port` or `host:port`.

        Raises:
            ValueError: It is something else, for example an HTTP address.
        """
        parts = urlsplit(text if "//" in text else f"grpc://{text}")
        if parts.scheme not in ("grpc", "grpcs") or not parts.hostname or not parts.port or parts.path.strip("/"):
            raise ValueError(f"{text!r} is not a gRPC address: write it as grpc://host:8001")
        return cls(parts.netloc, parts.scheme == "grpcs")

    def __str__(self) -> str:
        return f"{'grpcs' if self.tls else 'grpc'}://{self.target}"


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer.

    Attributes:
        version: Of the model that gave it.
        outputs: By name, `dtype[*shape]`; strings are NumPy unicode, BF16 is float32.
        refusal: The server's words when it gave none; then there are no outputs.
    """

    version: int
    outputs: Arrays
    refusal: str | None = None


@dataclass(frozen=True, slots=True)
class Traffic:
    """How many requests a version has answered and refused since it was loaded, whoever sent them."""

    answered: int
    failed: int


class LiveServer:
    """A running Triton; a context manager that closes the connection.

    Args:
        address: Its gRPC front end.
        admin_key: The secret of its restricted protocols, if it has any.
        timeout_s: How long loading, and waiting until a version is ready, may each take.
    """

    def __init__(self, address: Address, *, admin_key: str | None = None, timeout_s: float = 300.0) -> None:
        self.address = address
        self._timeout_s = timeout_s
        self._headers = {ADMIN_HEADER: admin_key} if admin_key else {}
        self._client = triton.InferenceServerClient(address.target, ssl=address.tls)

    def __enter__(self) -> "LiveServer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._client.close()

    def check_control(self) -> None:
        """Check that it speaks KServe v2, lets this client control it, and is in explicit mode. Changes nothing.

        Raises:
            HostError: It is down, something else, restricted, or in another mode.
        """
        fix = "check that Triton runs there, and that this is its gRPC port (8001, unless it was told otherwise)"
        with self._reported("no inference server of the KServe v2 protocol answers", fix):
            metadata = self._client.get_server_metadata(headers=self._headers, client_timeout=_FIRST_S)
        if "model_repository" not in metadata.extensions:
            what = f"{metadata.name or 'this server'} {metadata.version} cannot load models: it is not a Triton"
            raise HostError(self.address, what, "give the address of a Triton")
        with self._reported("it keeps its model repository to itself", "give its key in TRITON_ADMIN_KEY"):
            self._client.get_model_repository_index(headers=self._headers, client_timeout=_ASK_S)
        with self._reported("it does not load models on request", "start it with --model-control-mode=explicit"):
            self._client.unload_model(_NO_MODEL, headers=self._headers, client_timeout=_ASK_S)

    def knows(self, name: str) -> bool:
        """Whether its repository holds such a model, loaded or not.

        Raises:
            HostError: It cannot be asked.
        """
        return any(entry.name == name for entry in self._index())

    def ready_versions(self, name: str) -> tuple[int, ...]:
        """The versions that it serves at this moment, ascending.

        Raises:
            HostError: It cannot be asked.
        """
        ready = (entry for entry in self._index() if entry.name == name and entry.state == "READY")
        return tuple(sorted(int(entry.version) for entry in ready))

    def config(self, name: str) -> "ModelConfig":
        """The config of a loaded model, as the server understood it.

        Raises:
            HostError: It cannot be asked.
        """
        with self._reported(f"it does not tell the config of {name!r}", "see to what it says"):
            answer = self._client.get_model_config(name, headers=self._headers, client_timeout=_ASK_S)
        config: ModelConfig = answer.config
        return config

    def load(self, name: str, version: int, *, called: str = "") -> float:
        """Load what the model's config names, and wait until that is what it serves; return the seconds it took.

        Args:
            name: The model.
            version: The one that its config names.
            called: What is loaded, in messages.

        Raises:
            HostError: It refuses, or is not done in time.
        """
        started = time.monotonic()
        called = called or f"version {version} of {name!r}"
        with self._reported(f"it did not load {called}", "see to what it says, then deploy again"):
            self._client.load_model(name, headers=self._headers, client_timeout=self._timeout_s)
        while (ready := self.ready_versions(name)) != (version,):
            if time.monotonic() - started > self._timeout_s:
                serves = ", ".join(map(str, ready)) or "none"
                what = f"{self._timeout_s:g} s after loading {name!r} it should serve version {version}, but it "
                what += f"serves {serves}"
                raise HostError(self.address, what, "check that it reads the repository that was published to")
            time.sleep(_POLL_S)
        return time.monotonic() - started

    def unload(self, name: str) -> None:
        """Stop serving a model, and wait until its memory is free again.

        Raises:
            HostError: It refuses, or is not done in time.
        """
        started = time.monotonic()
        with self._reported(f"it did not unload {name!r}", "see to what it says"):
            self._client.unload_model(name, headers=self._headers, client_timeout=self._timeout_s)
        while any(entry.name == name and entry.state in _ALIVE for entry in self._index()):
            if time.monotonic() - started > self._timeout_s:
                what = f"{self._timeout_s:g} s after unloading {name!r} it is not done with it"
                raise HostError(self.address, what, "see to its log")
            time.sleep(_POLL_S)

    def traffic(self, name: str, version: int) -> Traffic:
        """What a version that is ready has done so far.

        Raises:
            HostError: It cannot be asked.
        """
        with self._reported(f"it gives no statistics of {name!r}", "see to what it says"):
            answer = self._client.get_inference_statistics(
                name, str(version), headers=self._headers, client_timeout=_ASK_S
            )
        totals = answer.model_stats[0].inference_stats
        return Traffic(int(totals.success.count), int(totals.fail.count))

    def ask(
        self, name: str, requests: Sequence[Arrays], inputs: Sequence[ServedTensor], outputs: Sequence[ServedTensor]
    ) -> list[Answer]:
        """Send all requests at once, to whichever version the server chooses; return their answers in order.

        Args:
            name: The model.
            requests: The inputs by name, each as `Answer` has its outputs.
            inputs: What to send; a scalar row is sent as `[1]`.
            outputs: What to ask for.

        Raises:
            HostError: It is gone, or does not answer in time.
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
            raise HostError(self.address, f"it gives no answer: {_reason(error)}", "see to what it says") from error
        return Answer(0, {}, _reason(error))

    def _index(self) -> Iterator[Any]:
        with self._reported("it does not list its models", "see to what it says"):
            answer = self._client.get_model_repository_index(headers=self._headers, client_timeout=_ASK_S)
        yield from answer.models

    @contextmanager
    def _reported(self, what: str, fix: str) -> Iterator[None]:
        """Turn the server's refusals into a HostError."""
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
    """One input of a request."""
    data_type = tensor.data_type.removeprefix("TYPE_").replace("STRING", "BYTES")
    given = triton.InferInput(tensor.name, list(array.shape), data_type)
    given.set_data_from_numpy(array.astype(object) if array.dtype.kind == "U" else array)
    return given


def _array(array: Array) -> Array:
    """Strings arrive as objects that hold bytes."""
    if array.dtype.kind != "O":
        return array
    return np.array([value.decode() for value in array.reshape(-1)], np.str_).reshape(array.shape)


def _reason(error: InferenceServerException) -> str:
    """The server's words, or gRPC's, in one line."""
    return " ".join(str(error.message()).split())
