"""Ask again what once got a wrong answer, and say whether it is still wrong."""

from pathlib import Path
from typing import Any

import numpy as np

from loadtest.checking import examples
from loadtest.checking.answers import Expected, Fault
from loadtest.checking.reference import Reference, Tensor, Tolerance
from loadtest.checking.samples import Request, from_reference
from loadtest.errors import ServerError, SettingsError
from loadtest.wire.exchange import Address, ExchangeError
from loadtest.wire.grpc import GrpcWire
from loadtest.wire.http import HttpWire

_TIMEOUT_S = 10.0


def reproduce(path: Path, address: Address, protocol: str) -> Fault | None:
    """Send the request kept in `path` to a server; None when it answers right now.

    Raises:
        SettingsError: The file is no kept wrong answer.
        ServerError: The server gave no answer.
    """
    request = _kept_request(path)
    wire = GrpcWire(address, _TIMEOUT_S) if protocol == "grpc" else HttpWire(address, _TIMEOUT_S)
    request.wire = wire.encode(request.samples, request.inputs())
    connection = wire.connect()
    try:
        answer = connection.ask(request.wire)
    except ExchangeError as error:
        raise ServerError(address, str(error), "start the server, or name its address") from error
    finally:
        connection.close()
    assert request.samples.reference is not None
    expected = Expected(request.samples.reference, request.group)
    return None if expected.is_right(answer) else expected.fault(answer)


def _kept_request(path: Path) -> Request:
    about, arrays = examples.read(path)
    try:
        reference = _kept_reference(about, arrays)
        samples = from_reference(reference, about["version_asked"], binary=about["binary"])
    except (KeyError, TypeError, ValueError) as error:
        mend = "name a file from the wrong/ directory of a report"
        raise SettingsError(path, f"it is not a kept wrong answer: {error!r}", mend) from error
    return Request(samples, tuple(range(samples.rows)), b"")


def _kept_reference(about: dict[str, Any], arrays: dict[str, Any]) -> Reference:
    """The kept rows and their right answers, as a reference of just these rows."""
    batched = about["max_batch_size"] > 0

    def side(prefix: str, tensors: tuple[Tensor, ...]) -> dict[str, Any]:
        found = {tensor.name: arrays[f"{prefix}:{tensor.name}"] for tensor in tensors}
        return found if batched else {name: array[np.newaxis] for name, array in found.items()}

    inputs, outputs = (
        tuple(Tensor(name, datatype, tuple(dims)) for name, datatype, dims in about[key])
        for key in ("inputs", "outputs")
    )
    return Reference(
        model=about["model"],
        version=about["reference_version"],
        max_batch_size=about["max_batch_size"],
        inputs=inputs,
        outputs=outputs,
        samples=side("input", inputs),
        answers=side("expected", outputs),
        tolerances={name: Tolerance(**tolerance) for name, tolerance in about["tolerances"].items()},
    )
