"""Clients that ask the `scale` model all the time, and the answers they got."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tritonclient.grpc as grpc
import tritonclient.http as http
from tritonclient.utils import InferenceServerException

from builder.server import Server
from support.serving import Array

PER_PROTOCOL = 3
PROTOCOLS = (grpc, http)
PAUSE_S = 0.004
"""How long a client waits before it asks again. Without that, what they test gets a fraction of the machine."""

_WORDS = np.array([["a", "b"]], object)


@dataclass(frozen=True, slots=True)
class Seen:
    """One answer: from which version it came, and the factor it was scaled by."""

    version: str
    factor: float


@dataclass(slots=True)
class Clients:
    """What all clients got so far."""

    answers: list[Seen] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)
    is_over: bool = False

    def wait_for(self, count: int) -> None:
        """Wait until `count` more answers have come."""
        target, deadline = len(self.answers) + count, time.monotonic() + 120
        while len(self.answers) < target:
            assert time.monotonic() < deadline, f"{len(self.answers)} of {target} answers, errors: {self.errors[:3]}"
            time.sleep(0.01)

    def factors(self) -> dict[str, set[float]]:
        """By version, the factors its answers were scaled by."""
        found: dict[str, set[float]] = {}
        for answer in self.answers:
            found.setdefault(answer.version, set()).add(answer.factor)
        return found


@contextmanager
def asking(server: Server, name: str) -> Iterator[Clients]:
    """Ask over gRPC and HTTP, naming no version, until the block ends: a request comes every millisecond or so."""
    seen = Clients()
    threads = [
        threading.Thread(target=_ask_on, args=[module, address, name, seen], daemon=True)
        for module, address in zip(PROTOCOLS, (server.grpc_address, server.http_address), strict=True)
        for _ in range(PER_PROTOCOL)
    ]
    for thread in threads:
        thread.start()
    try:
        seen.wait_for(50)
        yield seen
        seen.wait_for(50)
    finally:
        seen.is_over = True
        for thread in threads:
            thread.join(timeout=120)


def _ask_on(module: Any, address: str, name: str, seen: Clients) -> None:
    x = np.arange(1, 4, dtype=np.float32)[np.newaxis]
    inputs = [_input(module, "x", x, "FP32"), _input(module, "n", np.ones((1, 1), np.int64), "INT64")]
    inputs.append(_input(module, "s", _WORDS, "BYTES"))
    with module.InferenceServerClient(address) as client:
        while not seen.is_over:
            time.sleep(PAUSE_S)
            try:
                answer = client.infer(name, inputs)
            except InferenceServerException as error:
                seen.errors.append(str(error))
                continue
            response = answer.get_response()
            version = response["model_version"] if isinstance(response, dict) else response.model_version
            (factor,) = set((answer.as_numpy("y") / x).ravel().tolist())
            seen.answers.append(Seen(str(version), factor))


def _input(module: Any, name: str, array: Array, data_type: str) -> Any:
    given = module.InferInput(name, array.shape, data_type)
    given.set_data_from_numpy(array)
    return given
