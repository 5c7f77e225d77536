"""What a published version says of itself: `manifest.json`, format 1."""

import json
import types
import typing
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, fields, is_dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from builder import digest
from builder.errors import ModelError, RepositoryError
from builder.tensors import TRITON_TYPES

if TYPE_CHECKING:
    from builder.batching import BatchedModel, BatchedTensor

Content = bytes | Path
"""A file's bytes, or where to copy them from."""

FORMAT = 1
FILE = "manifest.json"


@dataclass(frozen=True, slots=True)
class ServedTensor:
    """An input or output as clients see it.

    Attributes:
        name: In the published graph and in config.pbtxt.
        original: In the source model.
        data_type: Triton's name, such as `TYPE_FP32`.
        dims: The shape of one row, -1 where it varies; with `max_batch_size` 0, of the whole tensor.
    """

    name: str
    original: str
    data_type: str
    dims: tuple[int, ...]

    @classmethod
    def of(cls, tensor: "BatchedTensor") -> "ServedTensor":
        """Describe a tensor of the batched graph.

        Raises:
            ModelError: Triton has no such data type, or the tensor never holds a value.
        """
        data_type = TRITON_TYPES.get(tensor.dtype.name)
        if data_type is None:
            raise ModelError(
                f"tensor {tensor.name!r}",
                f"Triton has no data type for {tensor.dtype.name}",
                "insert a Cast to a type that Triton serves, such as FLOAT or INT32",
            )
        dims = tuple(dim if isinstance(dim, int) else -1 for dim in tensor.dims)
        if 0 in dims:
            raise ModelError(
                f"tensor {tensor.name!r}",
                f"its shape {list(dims)} has a dimension of 0, which Triton refuses",
                "leave this tensor out of the graph's inputs and outputs",
            )
        return cls(tensor.name, tensor.original, data_type, dims)


@dataclass(frozen=True, slots=True)
class Source:
    """The model that was given to publish."""

    file: str
    sha256: str
    bytes: int
    static_batch: int
    producer: str
    opset: Mapping[str, int]


def check_served(batched: "BatchedModel") -> None:
    """Check that Triton can serve all inputs and outputs.

    Raises:
        ModelError: There are no inputs, Triton has no such data type, a tensor never holds a value, or it is a
            scalar in a model without a batch.
    """
    if not batched.inputs:
        raise ModelError(batched.original.path, "the graph has no inputs, which Triton refuses", "give it one")
    for tensor in (*batched.inputs, *batched.outputs):
        if batched.is_static and not tensor.dims:
            raise ModelError(
                f"tensor {tensor.name!r}",
                "it is a scalar, which Triton cannot serve without a batch",
                "give it a dimension of 1, or publish with a batch",
            )
        ServedTensor.of(tensor)


@dataclass(frozen=True, slots=True)
class ModelFile:
    """What Triton loads.

    Attributes:
        file: `model.onnx` or `model.plan`, relative to the version's directory.
        sha256: Of the model file and its weights together.
        bytes: Of all those files together.
        weights: Files of external weights, relative to the version's directory, in order of name.
    """

    file: str
    sha256: str
    bytes: int
    weights: tuple[str, ...] = ()

    @classmethod
    def of(cls, file: str, contents: Mapping[str, Content], *, known: Mapping[Path, str] | None = None) -> "ModelFile":
        """Describe the files of a version, keyed by their paths in its directory; some digests may be `known`."""
        weights = tuple(sorted(path for path in contents if path != file))
        found = [contents[path] for path in (file, *weights)]
        known = known or {}
        digests = [
            known[content] if isinstance(content, Path) and content in known else digest.of(content)
            for content in found
        ]
        size = sum(len(content) if isinstance(content, bytes) else content.stat().st_size for content in found)
        return cls(file, digest.of_model(digests), size, weights)

    @property
    def files(self) -> tuple[str, ...]:
        """The model file, then its weights."""
        return (self.file, *self.weights)

    def at(self, version_dir: Path) -> "ModelFile":
        """Describe these files as they lie in a version's directory.

        Raises:
            OSError: One cannot be read.
        """
        return ModelFile.of(self.file, {path: version_dir / path for path in self.files})


@dataclass(frozen=True, slots=True)
class OutputProof:
    """How near an output came to the original's (None: it was not compared), and how near it had to come."""

    rtol: float
    atol: float
    largest_difference: float | None
    mean_difference: float | None = None


@dataclass(frozen=True, slots=True)
class Proof:
    """The comparison with the original that these bytes passed.

    Attributes:
        batch_sizes: That were run; none for a model that is kept static, and none when the proof was left out.
        rows: Of the reference.
        onnxruntime: The version that ran both.
        outputs: By name.
        effort: `sample`; `full`, every batch size up to the largest; or `off`, no comparison at all.
        other_sizes: Of other axes that were made dynamic, by name, at which batches were held to their rows alone.
    """

    batch_sizes: tuple[int, ...]
    rows: int
    onnxruntime: str
    outputs: Mapping[str, OutputProof]
    effort: str = "sample"
    other_sizes: tuple[Mapping[str, int], ...] = ()


@dataclass(frozen=True, slots=True)
class ReferenceFile:
    """Where the samples and the original's answers lie, relative to the version's directory."""

    file: str
    rows: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What a TensorRT plan was built by and of.

    Attributes:
        tensorrt: Its version.
        cuda: The version that the driver speaks.
        gpu: Its name.
        driver: Its release.
        onnx_sha256: Of the ONNX file that was compiled and its external weights together.
        layers: How many outputs of layers have each data type, as the engine tells.
        profiles: By input, `MIN:OPT:MAX`.
    """

    tensorrt: str
    cuda: str
    gpu: str
    driver: str
    onnx_sha256: str
    layers: Mapping[str, int]
    profiles: tuple[Mapping[str, str], ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """What was published, from what, and how it was proven.

    Attributes:
        builder: The version of this package that published.
        max_batch_size: The largest batch that was proven; 0 when a request is a whole tensor.
        options: The options that shaped the bytes, as given. What only shapes config.pbtxt is not among them.
        rewrites: One mapping of `node`, `op_type`, `what` for each place where the batch was baked in.
        plan: Of a TensorRT plan, how it was built.
    """

    builder: str
    max_batch_size: int
    source: Source
    options: Mapping[str, Any]
    model: ModelFile
    inputs: tuple[ServedTensor, ...]
    outputs: tuple[ServedTensor, ...]
    rewrites: tuple[Mapping[str, str], ...]
    proof: Proof
    reference: ReferenceFile
    plan: Plan | None = None

    def covers(self, other: "Manifest") -> bool:
        """Whether publishing `other` would add nothing: the same files from the same source and options.

        The proof must reach as far: up to the same `max_batch_size` or beyond.
        """

        def identity(manifest: Manifest) -> tuple[object, ...]:
            options = json.loads(json.dumps(manifest.options))
            return manifest.source.sha256, options, manifest.model, manifest.inputs, manifest.outputs

        if (self.max_batch_size == 0) != (other.max_batch_size == 0):
            return False
        return self.max_batch_size >= other.max_batch_size and identity(self) == identity(other)

    def to_json(self) -> str:
        """The text of `manifest.json`."""
        document = {"format": FORMAT, **asdict(self)}
        return json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"

    @classmethod
    def from_json(cls, text: str, *, where: object) -> "Manifest":
        """Read the text of `manifest.json`.

        Raises:
            RepositoryError: It is not a manifest this release can read.
        """
        try:
            document = json.loads(text)
            if not isinstance(document, dict) or "format" not in document:
                raise _ShapeError("it has no format")
            if document["format"] != FORMAT:
                raise _ShapeError(f"its format is {document['format']!r}, this release reads {FORMAT}")
            return typing.cast(Manifest, _decode(cls, document, "manifest"))
        except (json.JSONDecodeError, _ShapeError) as error:
            raise RepositoryError(
                where,
                f"this manifest cannot be read: {error}",
                "restore the file, publish the model again, or update this package",
            ) from error


def read_manifest(version_dir: Path) -> Manifest | None:
    """The manifest of a version, or None when something else put the version there.

    Raises:
        RepositoryError: There is a manifest, but it cannot be read.
    """
    path = version_dir / FILE
    try:
        text = path.read_text("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise RepositoryError(
            path, f"this manifest cannot be read: {error}", "restore the file or publish the model again"
        ) from error
    return Manifest.from_json(text, where=path)


class _ShapeError(Exception):
    """The JSON does not have the manifest's shape."""


def _decode(kind: Any, value: Any, at: str) -> Any:
    """Turn parsed JSON into `kind`: a dataclass, `tuple[X, ...]`, `Mapping[str, X]`, a scalar or Any."""
    if kind is Any:
        return value
    if is_dataclass(kind):
        return _decode_dataclass(typing.cast(type, kind), _expect(dict, value, at), at)
    origin, arguments = typing.get_origin(kind), typing.get_args(kind)
    if origin is types.UnionType:
        return None if value is None else _decode(arguments[0], value, at)
    if origin is tuple:
        items = _expect(list, value, at)
        return tuple(_decode(arguments[0], item, f"{at}[{i}]") for i, item in enumerate(items))
    if isinstance(origin, type) and issubclass(origin, Mapping):
        entries = _expect(dict, value, at)
        return {key: _decode(arguments[1], item, f"{at}.{key}") for key, item in entries.items()}
    if kind is float and type(value) is int:
        return float(value)
    return _expect(kind, value, at)


def _decode_dataclass(kind: type, document: dict[str, Any], at: str) -> Any:
    hints = typing.get_type_hints(kind)
    values = {}
    for field in fields(kind):
        if field.name not in document:
            if field.default is MISSING:
                raise _ShapeError(f"{at}.{field.name} is missing")
            continue
        values[field.name] = _decode(hints[field.name], document[field.name], f"{at}.{field.name}")
    return kind(**values)


def _expect(kind: type, value: Any, at: str) -> Any:
    if type(value) is not kind:
        raise _ShapeError(f"{at} is {value!r}, expected {kind.__name__}")
    return value
