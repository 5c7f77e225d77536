r"""Files with the names of classes, which Triton adds to the answers of the classification extension.

Triton sorts all values of a row, whatever its shape, and names each by its position: the label of the value at position
i, in row-major order, is line i of the file. It reads lines up to each `\n`, takes an empty line for no label, and
ends a label at a NUL.

Source: triton-inference-server/core, src/label_provider.cc; triton-inference-server/server, src/classification.cc and
docs/protocol/extension_classification.md
"""

import hashlib
import math
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder import files
from builder.config.pbtxt import messages
from builder.config.scheduling import is_inside
from builder.errors import ModelError, RepositoryError

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

LABEL_FILE = re.compile(r"labels-[0-9a-f]{64}\.txt")
"""The names of our files, which hold the digest of the content: no file that a server may be reading is replaced."""

_MAX_BYTES = 10_000_000
"""A file of the 21,841 classes of the full ImageNet has 0.7 MB."""

_SORTABLE = ("FP32", "FP64", "INT8", "INT16", "INT32", "INT64", "UINT8", "UINT16", "UINT32", "UINT64")
"""The types that Triton can sort."""


def write(config: "ModelConfig", asked: Mapping[str, Path | None], where: object) -> dict[str, bytes]:
    """Let outputs name files of labels, and return the content of these files by name.

    Raises:
        RepositoryError: There is no such output, or it has no classes.
        ModelError: A file cannot be used, or has another number of labels than the output has values.
    """
    contents: dict[str, bytes] = {}
    for name, file in asked.items():
        output = _find_output(config, name, where)
        if file is None:
            if not output.label_filename:
                what = f"output {name!r} has no labels that --labels {name}= could remove"
                raise RepositoryError(where, what, f"leave out --labels {name}=")
            output.ClearField("label_filename")
            continue
        lines = _read(Path(file))
        _check_count(output, lines, file, where)
        content = "".join(f"{line}\n" for line in lines).encode()
        output.label_filename = f"labels-{hashlib.sha256(content).hexdigest()}.txt"
        contents[output.label_filename] = content
    return contents


def check(asked: Mapping[str, Path | None]) -> None:
    """Read the files, whatever the outputs are.

    Raises:
        ModelError: A file cannot be used.
    """
    for file in asked.values():
        if file is not None:
            _read(Path(file))


def _find_output(config: "ModelConfig", name: str, where: object) -> Any:
    names = [output.name for output in config.output]
    if name not in names:
        close = get_close_matches(name, names, 1)
        fix = f"use --labels {close[0]}=FILE" if close else f"use one of its outputs: {', '.join(names)}"
        raise RepositoryError(where, f"--labels names {name!r}, but there is no such output", fix)
    return config.output[names.index(name)]


def _read(file: Path) -> list[str]:
    """Return the labels in a file, without a mark of the byte order and without empty lines at the end.

    Raises:
        ModelError: The file cannot be read, or a line is no label.
    """
    try:
        text = files.read(file, limit=_MAX_BYTES).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        what = f"it is not UTF-8: {error.reason} at byte {error.start}"
        raise ModelError(file, what, "save the labels as UTF-8 text, one on a line") from error
    except OSError as error:
        what = f"these labels cannot be read: {files.reason(error)}"
        raise ModelError(file, what, "give a text file with one label on each line") from error
    lines = text.replace("\r\n", "\n").replace("\r", "\n").rstrip("\n").split("\n")
    while lines and not lines[-1].strip():
        lines.pop()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            what = f"line {number} is empty, so Triton would give that class no label"
            raise ModelError(file, what, f"write the label of class {number - 1} on that line")
        if re.search(r"[\x00-\x08\x0a-\x1f\x7f]", line):
            what = f"line {number} has a control character"
            raise ModelError(file, what, "save the labels as plain text, one on a line")
    return lines


def _check_count(output: Any, lines: Sequence[str], file: Path, where: object) -> None:
    """Refuse labels for an output that Triton cannot sort, and another number of labels than it has values."""
    kind = messages().DataType.Name(output.data_type).removeprefix("TYPE_")
    if kind not in _SORTABLE:
        what = f"output {output.name!r} is of type {kind}, which Triton cannot sort, so labels would have no effect"
        raise RepositoryError(where, what, "give the model an output of type FP32 with the scores of its classes")
    values = _values(output)
    if values is None or values == len(lines):
        return
    shape = ", ".join(map(str, output.dims))
    what = f"it has {len(lines)} labels, but each row of output {output.name!r} has {values} values (dims [{shape}])"
    fix = f"give a file with {values} labels, one for each value of a row"
    raise ModelError(file, what, fix)


def _values(output: Any) -> int | None:
    """Return how many values each row of an output has; None when that varies."""
    return None if any(dim < 0 for dim in output.dims) else math.prod(output.dims)


def notes(config: "ModelConfig", asked: Mapping[str, Path | None], contents: Mapping[str, bytes]) -> Iterator[str]:
    """Yield what could not be checked about labels, and labels that two classes share; one sentence each."""
    for output in config.output:
        if asked.get(output.name) is None:
            continue
        lines = contents[output.label_filename].decode().split("\n")[:-1]
        if _values(output) is None:
            yield (
                f"the number of values of output {output.name!r} varies, so whether it has {len(lines)} classes "
                "was not checked"
            )
        twice = [label for label, count in Counter(lines).items() if count > 1]
        if twice:
            more = f", and {len(twice) - 3} more" if len(twice) > 3 else ""
            yield f"several classes of output {output.name!r} have the same label: {', '.join(twice[:3])}{more}"


def file_problems(config: "ModelConfig", folder: Path | None, written: Collection[str] = ()) -> Iterator[str]:
    """Yield which files that a config names are not there, so that Triton would not load the model.

    Args:
        config: The config.
        folder: The model's folder; None if there is none yet.
        written: The files that are written with the config, by their paths in the folder.
    """

    def is_there(name: str) -> bool:
        """Return whether a file is there, and also in the folder when links are followed: newer Tritons check that."""
        if name in written or folder is None:
            return name in written
        place = files.real_path(folder / name)
        return place.is_file() and place.is_relative_to(files.real_path(folder))

    for output in config.output:
        name = output.label_filename
        if name and is_inside(name) and not is_there(name):
            yield f"output {output.name!r} names the label file {name!r}, which is not in the model's folder"
    for entry in config.model_warmup:
        if entry.batch_size == 0:
            continue
        for name in sorted({value.input_data_file for value in entry.inputs.values()} - {""}):
            if is_inside(name) and not is_there(f"warmup/{name}"):
                yield f"model_warmup {entry.name!r} names the file {name!r}, which is not in the model's folder warmup"
