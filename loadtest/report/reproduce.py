"""Send the request of a kept wrong answer again, and check whether the answer is still wrong."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from loadtest.checking import Expected, Fault, Reference, Samples, from_reference, make_request, wrong_answers
from loadtest.checking.reference import DAMAGE, check_arrays, describe, read_batch_size, read_spec, read_tolerances
from loadtest.errors import ServerError, SettingsError
from loadtest.wire import Address, ExchangeError, Parameters, TensorSpec, is_version, make_client

_TIMEOUT_S = 10.0


def send_again(path: Path, address: Address, protocol: str) -> Fault | None:
    """Send the request kept in `path` to a server; None if the answer is right now.

    Raises:
        SettingsError: The file is not a kept wrong answer.
        ServerError: The server gave no answer.
    """
    reference, samples = _read(path)
    client = make_client(protocol, address, _TIMEOUT_S)
    request = make_request(samples, tuple(range(samples.rows)), client.encode)
    connection = client.connect()
    try:
        answer = connection.infer(request.encoded)
    except ExchangeError as error:
        said = address.conceal(str(error))
        raise ServerError(
            address,
            said,
            "set --address to where the server listens, and send the headers and certificates that it asks for",
        ) from error
    finally:
        connection.close()
    expected = Expected(reference, request.group, samples.version)
    return None if expected.is_right(answer) else expected.find_fault(answer)


def _read(path: Path) -> tuple[Reference, Samples]:
    """Return the kept rows and their right answers as a reference of these rows alone, and the rows to send."""
    about, arrays = wrong_answers.read(path)
    try:
        reference = _kept_reference(about, arrays)
        check_arrays(reference)
        version = about["version_asked"]
        if not (version == "" or is_version(version)):
            raise ValueError(f"{version!r} is not a version")
        parameters = _read_parameters(about.get("parameters", {}))
        samples = replace(from_reference(reference, version), binary=bool(about["binary"]), parameters=parameters)
    except DAMAGE as error:
        what = f"this file is not a kept wrong answer: {describe(error)}"
        raise SettingsError(path, what, wrong_answers.FIX) from error
    if "sequence_id" in parameters:
        what = (
            "it answers a step of a sequence, which depends on the steps before, so that it cannot be sent again alone"
        )
        raise SettingsError(path, what, "run the load test again with the stream in a file of --input-data")
    return reference, samples


def _read_parameters(value: Any) -> Parameters:
    """Return parameters of a request; a ValueError says that they cannot be."""
    for one in (*value.keys(), *value.values()):
        is_whole = isinstance(one, int) and -(1 << 63) <= one < 1 << 64
        if not (is_whole or isinstance(one, str | float)):
            raise ValueError(f"{str(one)[:40]} is not a parameter of a request")
        str(one).encode()  # a ValueError for text that is not Unicode
    parameters: dict[str, Any] = value
    return parameters


def _kept_reference(about: dict[str, Any], arrays: dict[str, Any]) -> Reference:
    max_batch_size = read_batch_size(about["max_batch_size"])
    if not isinstance(about["model"], str):
        raise ValueError(f"{about['model']!r} is not the name of a model")
    about["model"].encode()  # a ValueError for text that is not Unicode

    def side(prefix: str, specs: tuple[TensorSpec, ...]) -> dict[str, Any]:
        found = {spec.name: arrays[f"{prefix}:{spec.name}"] for spec in specs}
        return found if max_batch_size else {name: array[np.newaxis] for name, array in found.items()}

    inputs, outputs = (
        tuple(read_spec(name, datatype, tuple(dims)) for name, datatype, dims in about[key])
        for key in ("inputs", "outputs")
    )
    return Reference(
        model=about["model"],
        version=about["reference_version"],
        max_batch_size=max_batch_size,
        inputs=inputs,
        outputs=outputs,
        samples=side("input", inputs),
        answers=side("expected", outputs),
        tolerances=read_tolerances(about["tolerances"]),
    )
