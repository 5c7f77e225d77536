"""Control a running Triton over gRPC: ask what it serves, load and unload models, and send requests.

Models are loaded over gRPC because a load over HTTP can delay inference requests.
"""

import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, Any

import grpc
import tritonclient.grpc as triton
from google.protobuf import json_format
from tritonclient.utils import InferenceServerException

from builder.deployment.access import Certificates
from builder.deployment.address import Address
from builder.deployment.inference import ASK_S, EXPECTED_HEADER, Answer, Asking, Tensor, reason
from builder.deployment.outcome import numbered
from builder.errors import HostError
from builder.server import HEADER, KEY_VARIABLE, AdminAccess, find_server, is_loopback
from builder.tensors import Arrays

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig


_OPTIONS: tuple[tuple[str, int | str], ...] = (
    ("grpc.max_send_message_length", triton.MAX_GRPC_MESSAGE_SIZE),
    ("grpc.max_receive_message_length", triton.MAX_GRPC_MESSAGE_SIZE),
)
"""Options for a connection. They are tritonclient's defaults."""

_NO_PROXY = (("grpc.enable_http_proxy", 0), *_OPTIONS)
"""Options for a server on this machine. Otherwise gRPC would send everything, and the key, to the proxy that the
environment names, and the proxy would connect to its own machine.
"""

_LOOK_IN_LOG = "look for the cause in the server's log"

_NO_MODEL = ".no.such.model."
"""A name that no model can have. Unloading it changes nothing, and succeeds only in explicit mode."""

_FIRST_S = 10.0
"""How long the first answer may take, before it is known whether a server is there."""

_POLL_S = 0.05

_IN_MEMORY = ("READY", "LOADING", "UNLOADING")
"""The states in which a version is in memory."""


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
        headers: Other headers to send with each request, by name in lower case.
        certificates: The certificates for TLS.
        timeout_s: How long a load may take, and then the wait until the version is ready, seconds each.
    """

    def __init__(
        self,
        address: Address,
        *,
        admin: AdminAccess | None = None,
        headers: Mapping[str, str] | None = None,
        certificates: Certificates | None = None,
        timeout_s: float = 300.0,
    ) -> None:
        self.address = address
        self._timeout_s = timeout_s
        self._target = address.target
        if admin is None and not address.tls and (found := find_server(self._target)):
            self._target, admin = found.address, found.admin
        self._admin = admin
        self._headers = dict(headers or {})
        self._admin_headers: Mapping[str, str] = admin.grpc_headers if admin else {}
        self._certificates = certificates or Certificates()
        self._stopped = threading.Event()
        self._client = self._connect()

    def _connect(self) -> Any:
        options = list(_NO_PROXY if is_loopback(self._target) else _OPTIONS)
        if (name := self.address.name) is not None:  # whom the certificate, or a gateway, knows by name
            options += [("grpc.ssl_target_name_override", name.rpartition(":")[0]), ("grpc.default_authority", name)]
        credentials = None
        if self.address.tls:
            given = self._certificates
            credentials = grpc.ssl_channel_credentials(given.authority, given.key, given.certificate)
        return triton.InferenceServerClient(self._target, creds=credentials, channel_args=options)

    def interrupt(self) -> None:
        """End what other threads wait for here: their calls fail. Afterwards, `resume` allows new calls."""
        self._stopped.set()
        self._client.close()

    def resume(self) -> None:
        """Allow calls again after `interrupt`."""
        self._client = self._connect()
        self._stopped.clear()

    @property
    def _control_headers(self) -> dict[str, str]:
        return {**self._headers, **self._admin_headers}

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
        self.check_access()
        with self._reported("it does not load models on request", "start it with --model-control-mode=explicit"):
            self._client.unload_model(_NO_MODEL, headers=self._control_headers, client_timeout=ASK_S)

    def check_access(self) -> None:
        """Check that it speaks KServe v2 and lets this client ask for its models. Changes nothing.

        Raises:
            HostError: It is down, is not Triton, or restricts access.
        """
        fix = "check that Triton is running there, and that this is its gRPC port (8001 by default)"
        with self._reported("no inference server (KServe v2) answers", fix):
            metadata = self._client.get_server_metadata(headers=self._control_headers, client_timeout=_FIRST_S)
        if "model_repository" not in metadata.extensions:
            what = f"{metadata.name or 'this server'} {metadata.version} cannot load models, so it is not Triton"
            raise HostError(self.address, what, "give the address of a Triton server")
        try:
            self._client.get_model_repository_index(headers=self._control_headers, client_timeout=ASK_S)
        except InferenceServerException as error:
            key = "with this admin key" if self._admin else "without an admin key"
            what = f"no access to its model repository {key}: {reason(error)}"
            raise HostError(self.address, what, self._advice(reason(error))) from error

    def version(self) -> str:
        """Return the version that the server says it has, such as `2.51.0`; empty if it does not answer."""
        with suppress(InferenceServerException):
            metadata = self._client.get_server_metadata(headers=self._control_headers, client_timeout=ASK_S)
            return str(metadata.version)
        return ""

    def knows(self, name: str) -> bool:
        """Return whether its repository has a model of this name, loaded or not.

        Raises:
            HostError: It does not answer.
        """
        return any(entry.name == name for entry in self._index())

    def sees(self, name: str, *, wait_s: float) -> bool:
        """Return whether a folder of this name appears in its repository in time.

        Raises:
            HostError: It does not answer.
        """
        deadline = time.monotonic() + wait_s
        while not (found := self.knows(name)) and time.monotonic() < deadline and not self._stopped.is_set():
            time.sleep(_POLL_S)
        return found

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
            answer = self._client.get_model_config(name, headers=self._control_headers, client_timeout=ASK_S)
        config: ModelConfig = answer.config
        return config

    def load(
        self, name: str, versions: Sequence[int], *, label: str = "", config: "ModelConfig | None" = None
    ) -> float:
        """Load a model, wait until exactly these versions are served, and return the seconds taken.

        Args:
            name: The model.
            versions: The versions that its config names, ascending.
            label: What messages call it.
            config: The config to load it with; None takes the one in the repository.

        Raises:
            HostError: The server refuses, or is not ready in time.
        """
        started = time.monotonic()
        wanted = numbered(versions)
        override = None
        if config is not None:
            override = json_format.MessageToJson(config, preserving_proto_field_name=True, indent=None)
        fix = "correct what the server reports, then deploy again"
        with self._reported(f"it could not load {label or f'{wanted} of {name!r}'}", fix):
            self._client.load_model(
                name, headers=self._control_headers, config=override, client_timeout=self._timeout_s
            )
        while (ready := self.ready_versions(name)) != tuple(versions):
            if time.monotonic() - started > self._timeout_s or self._stopped.is_set():
                what = f"{self._timeout_s:g} s after loading {name!r}, it serves {numbered(ready)} instead of {wanted}"
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
            self._client.unload_model(name, headers=self._control_headers, client_timeout=self._timeout_s)
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
                name, str(version), headers=self._control_headers, client_timeout=ASK_S
            )
        totals = answer.model_stats[0].inference_stats
        return Traffic(int(totals.success.count), int(totals.fail.count))

    def answered(self) -> Mapping[str, int]:
        """Return how many requests each model has answered since it was loaded, all its versions together.

        Raises:
            HostError: It does not answer.
        """
        with self._reported("it does not return its statistics", _LOOK_IN_LOG):
            answer = self._client.get_inference_statistics(headers=self._control_headers, client_timeout=ASK_S)
        counts: dict[str, int] = {}
        for model in answer.model_stats:
            counts[model.name] = counts.get(model.name, 0) + int(model.inference_stats.success.count)
        return counts

    def ask(
        self,
        name: str,
        requests: Sequence[Arrays],
        inputs: Sequence[Tensor],
        outputs: Sequence[Tensor],
        *,
        version: int | None = None,
    ) -> list[Answer]:
        """Send all requests at once, and return their answers in order.

        Args:
            name: The model.
            requests: The inputs of each request by name, in the form of the outputs of `Answer`.
            inputs: The inputs to send.
            outputs: The outputs to ask for.
            version: The version to ask for; None asks for none, as most clients do.

        Raises:
            HostError: The server is gone, or does not answer in time.
        """
        headers = {**self._admin_headers, **self._headers}
        return Asking(self._client, self.address, headers, name, version, inputs, outputs).together(requests)

    def _advice(self, refusal: str) -> str:
        """Return what to do about a server that refuses the key, or wants one."""
        expected = EXPECTED_HEADER.search(refusal)
        header = self._admin.header if self._admin else HEADER
        named = f", and give --admin-header {expected[1]}" if expected and expected[1] != header else ""
        fix = f"set {KEY_VARIABLE} to the server's admin key, or name a file that holds it with --admin-key-file"
        return fix + named

    def _index(self) -> Iterator[Any]:
        with self._reported("it does not list its models", _LOOK_IN_LOG):
            answer = self._client.get_model_repository_index(headers=self._control_headers, client_timeout=ASK_S)
        yield from answer.models

    @contextmanager
    def _reported(self, what: str, fix: str) -> Iterator[None]:
        """Turn an error of the server, or of the connection, into a HostError."""
        try:
            yield
        except InferenceServerException as error:
            raise HostError(self.address, f"{what}: {reason(error)}", fix) from error
