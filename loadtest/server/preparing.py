"""Decide before the first request what to send, and check that the server serves what the settings say."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path

from loadtest.checking import (
    Reference,
    Samples,
    Signature,
    Streams,
    Tolerance,
    View,
    draw,
    find_versions,
    from_entries,
    from_reference,
    left_out,
    read_input_data,
    read_reference,
)
from loadtest.errors import ServerError, SettingsError
from loadtest.printable import counted, was
from loadtest.server.control import Control
from loadtest.server.stateful import Places, is_stateful, make_streams
from loadtest.server.target import Served, check_grpc, check_ready, find_served
from loadtest.settings import ModelChoice, Settings
from loadtest.wire import Array, TensorSpec, is_version

_NAME_REPOSITORY = "set --repository to the repository that the server serves"


@dataclass(frozen=True, slots=True)
class Prepared:
    """What is sent.

    Attributes:
        samples: The rows, each with its weight.
        streams: For a stateful model, the sequences in which they are sent; None for other models.
    """

    samples: tuple[Samples, ...]
    streams: Streams | None = None

    @property
    def notes(self) -> list[str]:
        """What a reader of the result has to know about the check of the answers."""
        return [
            f"{', '.join(one.left_out)} of {one.model} {was(len(one.left_out))} not checked: the server does not give "
            f"{'it' if len(one.left_out) == 1 else 'them'}"
            for one in self.samples
            if one.left_out
        ]


def prepare(settings: Settings) -> Prepared:
    """Return what to send, once the server was checked.

    Raises:
        ServerError: The server is not ready, or does not serve what the settings or the repository say.
        SettingsError: A reference or a file of inputs is missing or damaged, or does not fit the model.
    """
    with Control(settings.http) as control:
        binary = check_ready(settings, control)
        served = [find_served(settings, control, choice) for choice in settings.models]
    said = zip(settings.models, served, strict=True)
    made = [_prepare_model(settings, *pair, binary=binary) for pair in said]
    samples = tuple(one for prepared in made for one in prepared.samples)
    _check_shapes(settings, samples)
    streams = next((prepared.streams for prepared in made if prepared.streams), None)
    if streams is not None and len(made) > 1:
        what = "a stateful model cannot be mixed with other models"
        raise SettingsError("--model", what, "name one model")
    return Prepared(samples, streams)


def _prepare_model(settings: Settings, choice: ModelChoice, served: Served, *, binary: bool) -> Prepared:
    _check_rows(settings, served)
    stateful = is_stateful(settings, served)
    if settings.protocol == "grpc":
        check_grpc(settings, choice)
    made, streams = _find_samples(settings, choice, served)
    if settings.protocol == "http" and not binary:
        for one in made:
            _check_json(settings, one)
    rows, parameters = sum(one.rows for one in made), settings.contents.parameters
    samples = tuple(
        replace(one, binary=binary, parameters=parameters, weight=choice.weight * one.rows / rows) for one in made
    )
    return Prepared(samples, make_streams(settings.contents, samples, streams) if stateful else None)


def _find_samples(settings: Settings, choice: ModelChoice, served: Served) -> tuple[list[Samples], list[Places]]:
    """Return the rows to send, and where in them the rows of each stream are."""
    if settings.contents.file is not None:
        return _read_samples(settings, choice, served)
    if settings.repository is not None:
        reference = find_reference(settings.repository, choice, served.versions)
        view = _view(served, reference)
        seen = reference if view is None else _see(settings, reference, served, view)
        samples = replace(from_reference(seen, choice.version), view=view, left_out=tuple(left_out(reference, seen)))
    else:
        samples = _draw(settings, choice, served)
    return [samples], [[(0, row) for row in range(samples.rows)]]


def _draw(settings: Settings, choice: ModelChoice, served: Served) -> Samples:
    contents = settings.contents
    if not served.inputs:
        what = "the server does not say what the model takes: its metadata lists no inputs"
        fix = "give the inputs in a file with their types and shapes, as in --input-data inputs.npz"
        raise ServerError(f"{settings.host}, model {choice.name}", what, fix)
    return draw(
        choice.name,
        choice.version,
        max_batch_size=_batch_size(served),
        signature=Signature(served.inputs, served.outputs, contents.shapes),
        seed=settings.load.seed,
        zero=contents.zero,
    )


def _batch_size(served: Served) -> int:
    return (served.max_batch_size or 1) if served.batched else 0


def _read_samples(settings: Settings, choice: ModelChoice, served: Served) -> tuple[list[Samples], list[Places]]:
    """Return the rows of the file that --input-data names.

    A server that does not say what the model takes does not say either whether it takes batches. The rows of an array
    are then taken for a batch, and an entry of a JSON file for a whole request, as its shape says.
    """
    contents = settings.contents
    assert contents.file is not None
    data = read_input_data(contents.file, Signature(served.inputs, served.outputs, contents.shapes))
    batch_size = _batch_size(served) if served.inputs else int(data.is_batch)
    if not batch_size and max(rows for rows, _ in settings.rows) > 1:
        what = f"each entry of {contents.file.name} is a whole request, so that several rows cannot be joined"
        raise SettingsError("--rows", what, "give 1, or save the rows as arrays in an .npz file")
    samples, places = from_entries(
        choice.name,
        choice.version,
        max_batch_size=batch_size,
        entries=[entry for stream in data.streams for entry in stream],
        tolerance=None if contents.tolerance is None else Tolerance(*contents.tolerance),
    )
    rest = iter(places)
    return samples, [[*islice(rest, len(stream))] for stream in data.streams]


def _check_json(settings: Settings, samples: Samples) -> None:
    """Check that a server that takes no binary tensors over HTTP can be sent these as JSON."""
    for spec in samples.inputs:
        if spec.datatype == "BF16" or _has_bytes(samples.arrays[spec.name]):
            kind = "BF16" if spec.datatype == "BF16" else "bytes that are not text"
            what = f"the server takes tensors over HTTP as JSON only, which cannot hold the {kind} of {spec.name}"
            raise ServerError(f"{settings.host}, model {samples.model}", what, "send them with --protocol grpc")


def _has_bytes(array: Array) -> bool:
    return array.dtype == object and any(isinstance(value, bytes) for value in array.ravel().tolist())


def _check_shapes(settings: Settings, samples: Sequence[Samples]) -> None:
    known = {spec.name for one in samples for spec in one.inputs}
    unknown = sorted(settings.contents.shapes.keys() - known)
    if unknown:
        what = f"no model has an input {unknown[0]}"
        raise SettingsError("--shape", what, f"name one of {', '.join(sorted(known))}")


# ---- does it agree with the settings and the repository


def _check_rows(settings: Settings, served: Served) -> None:
    limit = served.max_batch_size
    most = max(rows for rows, _ in settings.rows)
    if limit is not None and most > max(limit, 1):
        what = f"model {served.name} takes at most {counted(max(limit, 1), 'row')} per request, not {most}"
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
    numbered = [version for version in served if is_version(version)] or [str(version) for version in stored]
    wanted = [choice.version] if choice.version else numbered
    common = [version for version in stored if str(version) in wanted]
    if not common:
        what = f"the server has version {', '.join(wanted)}, the repository has {', '.join(map(str, stored))}"
        raise ServerError(f"model {choice.name}", what, _NAME_REPOSITORY)
    return read_reference(repository, choice.name, common[-1])


def _view(served: Served, reference: Reference) -> View | None:
    """Return what the server shows of the model, or None if it does not say. Optional inputs may be missing."""
    if not served.inputs:
        return None
    stored = {spec.name for spec in reference.inputs}
    inputs = tuple(spec for spec in served.inputs if spec.name in stored or spec.name not in served.optional)
    return View(inputs, served.outputs, served.max_batch_size, served.input_dims, served.output_dims)


def _see(settings: Settings, reference: Reference, served: Served, view: View) -> Reference:
    """Return the reference as the server shows the model.

    Raises:
        ServerError: The server shows something else than the version of the repository.
    """
    where, fix = f"model {reference.model}", f"{_NAME_REPOSITORY}, or reload the server"
    if served.batched != (reference.max_batch_size > 0):
        what = (
            f"max_batch_size is {reference.max_batch_size} in the repository, but the server {settings.host} "
            f"{'takes' if served.batched else 'does not take'} batches"
        )
        raise ServerError(where, what, fix)
    try:
        return view.of(reference)
    except ValueError as error:
        what = (
            f"the repository's version {reference.version} and the server {settings.host} differ: {error}; "
            f"the repository has {_describe(reference.inputs)} and gives {_describe(reference.outputs)}, "
            f"the server has {_describe(view.inputs)} and gives {_describe(view.outputs)}"
        )
        raise ServerError(where, what, f"{fix}; or send rows of your own with --input-data FILE") from error


def _describe(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{spec.name} {spec.datatype}{list(spec.dims)}" for spec in specs) or "none"
