"""Send requests to a server over gRPC, and read its answers."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from queue import SimpleQueue
from typing import Any, Protocol

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException

from builder.errors import HostError
from builder.tensors import Array, Arrays

ASK_S = 60.0
"""How long a call that changes nothing may take, in seconds."""

_GONE = ("StatusCode.UNAVAILABLE", "StatusCode.DEADLINE_EXCEEDED", "StatusCode.CANCELLED")

_BUSY = ("exceeds maximum queue size", "request timeout expired")
"""What Triton answers with UNAVAILABLE when its queue is full, or a request has waited in it for too long.

Source: Enqueue in https://github.com/triton-inference-server/core/blob/main/src/scheduler_utils.cc and
FinishSkippedRequests in https://github.com/triton-inference-server/core/blob/main/src/dynamic_batch_scheduler.cc
"""


PROTOCOL_HEADER = "triton-grpc-protocol-"
"""What Triton puts in front of the name that its options give to a header, over gRPC."""

EXPECTED_HEADER = re.compile(rf"expecting header '(?:{PROTOCOL_HEADER})?([^']+)'")
"""What Triton says to a client without the key to a restricted protocol."""


class Tensor(Protocol):
    """An input or output as clients see it."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def data_type(self) -> str:
        """Triton's name of its type, such as `TYPE_FP32`."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one request.

    Attributes:
        version: The version of the model that answered.
        outputs: The outputs by name, `dtype[*shape]`. Strings are NumPy unicode, and BF16 is float32.
        refusal: The server's error message if it did not answer. There are no outputs then.
        is_busy: Whether it refused because it has too much to do, so that it may answer later.
    """

    version: int
    outputs: Arrays
    refusal: str | None = None
    is_busy: bool = False


@dataclass(frozen=True, slots=True)
class Asking:
    """How to ask one model of one server.

    Attributes:
        client: The connection.
        where: The server, for messages.
        headers: What is sent with each request.
        name: The model.
        version: The version to ask for; None asks for none, as most clients do.
        inputs: The inputs to send.
        outputs: The outputs to ask for.
    """

    client: Any
    where: object
    headers: Mapping[str, str]
    name: str
    version: int | None
    inputs: Sequence[Tensor]
    outputs: Sequence[Tensor]

    def together(self, requests: Sequence[Arrays]) -> list[Answer]:
        """Send all requests at once, and return their answers in order.

        Args:
            requests: The inputs of each request by name, in the form of the outputs of `Answer`.

        Raises:
            HostError: The server is gone, or does not answer in time.
        """
        answers: SimpleQueue[tuple[int, Any, InferenceServerException | None]] = SimpleQueue()
        wanted = [triton.InferRequestedOutput(tensor.name) for tensor in self.outputs]
        for position, arrays in enumerate(requests):
            self.client.async_infer(
                self.name,
                [_input(tensor, arrays[tensor.name]) for tensor in self.inputs],
                partial(_keep, answers, position),
                model_version="" if self.version is None else str(self.version),
                outputs=wanted,
                client_timeout=ASK_S,
                headers=self.headers,
            )
        arrived = {position: (result, error) for position, result, error in (answers.get() for _ in requests)}
        return [self._answer(*arrived[position]) for position in range(len(requests))]

    def _answer(self, result: Any, error: InferenceServerException | None) -> Answer:
        if error is None:
            response = result.get_response()
            outputs = {output.name: _array(result.as_numpy(output.name)) for output in response.outputs}
            return Answer(int(response.model_version), outputs)
        if _is_busy(error):
            return Answer(0, {}, reason(error), is_busy=True)
        if expected := EXPECTED_HEADER.search(reason(error)):
            fix = f"write a line `{PROTOCOL_HEADER}{expected[1]}: KEY` into a file, and name it with --header-file"
            raise HostError(self.where, f"it restricts inference: {reason(error)}", fix) from error
        if error.status() in _GONE:
            fix = "check that the server is still running, then deploy again"
            raise HostError(self.where, f"it does not answer: {reason(error)}", fix) from error
        return Answer(0, {}, reason(error))


def reason(error: InferenceServerException) -> str:
    """Return the error message of the server, or of gRPC, in one line."""
    return " ".join(str(error.message()).split())


def _is_busy(error: InferenceServerException) -> bool:
    said = reason(error).lower()
    if error.status() == "StatusCode.RESOURCE_EXHAUSTED":  # a gateway that limits the rate
        return "larger than max" not in said
    return error.status() == "StatusCode.UNAVAILABLE" and any(text in said for text in _BUSY)


def _keep(
    answers: "SimpleQueue[tuple[int, Any, InferenceServerException | None]]",
    position: int,
    result: Any,
    error: InferenceServerException | None,
) -> None:
    answers.put((position, result, error))


def _input(tensor: Tensor, array: Array) -> Any:
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
