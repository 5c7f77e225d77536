"""The manifest of a published version: `manifest.json`, format 1."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

from builder import files
from builder.errors import ModelError, RepositoryError
from builder.progress import format_bytes
from builder.record.accuracy import Accuracy
from builder.record.decoding import MisreadError, decode, parse
from builder.record.model_file import ModelFile
from builder.record.plan import PLAN_FILE, Plan, plan_problems
from builder.record.proof import Proof
from builder.record.quantization import Quantization
from builder.record.speed import Speed
from builder.tensors import TRITON_TYPES

if TYPE_CHECKING:
    from builder.batching import BatchedModel, BatchedTensor

FORMAT = 1
FILE = "manifest.json"

_MAX_BYTES = 8_000_000
"""A model with as many inputs and outputs as may be published, and names of 100 characters, has half of that."""

MOST_REWRITTEN = 1_000_000
"""How much text the list of rewritten nodes may have, in characters: 6,000 nodes, usually. More are not listed."""

_LARGEST_BATCH = 2**31 - 1
_LARGEST_DIM = 2**63 - 1


@dataclass(frozen=True, slots=True)
class ServedTensor:
    """An input or output as clients see it.

    Attributes:
        name: Its name in the published model and in config.pbtxt.
        original: Its name in the original model.
        data_type: Triton's name of its type, such as `TYPE_FP32`.
        dims: The shape of one row, -1 where it varies; with `max_batch_size` 0, the shape of the whole tensor.
    """

    name: str
    original: str
    data_type: str
    dims: tuple[int, ...]

    @classmethod
    def of(cls, tensor: "BatchedTensor") -> "ServedTensor":
        """Describe a tensor of the rewritten model.

        Raises:
            ModelError: Triton has no such data type, or a dimension is 0.
        """
        data_type = TRITON_TYPES.get(tensor.dtype.name)
        if data_type is None:
            raise ModelError(
                f"tensor {tensor.name!r}",
                f"Triton has no data type for {tensor.dtype.name}",
                "add a Cast to a type that Triton serves, such as FLOAT or INT32",
            )
        dims = tuple(dim if isinstance(dim, int) else -1 for dim in tensor.dims)
        if 0 in dims:
            raise ModelError(
                f"tensor {tensor.name!r}",
                f"its shape {list(dims)} has a dimension of 0, which Triton does not load",
                "export the model without this tensor among its inputs and outputs",
            )
        return cls(tensor.name, tensor.original, data_type, dims)


@dataclass(frozen=True, slots=True)
class Download:
    """Where a file was fetched from: its URL without user, password and query, and the digest that it had."""

    url: str
    sha256: str


@dataclass(frozen=True, slots=True)
class Source:
    """The original model; with `download` when it was fetched, or was exported from a file that was."""

    file: str
    sha256: str
    bytes: int
    static_batch: int
    producer: str
    opset: Mapping[str, int]
    download: Download | None = None


def check_served(batched: "BatchedModel") -> None:
    """Check that Triton can serve all inputs and outputs.

    Raises:
        ModelError: There are no inputs, or a tensor has a data type that Triton does not have, has a dimension of 0,
            or is a scalar in a model without a batch.
    """
    if not batched.inputs:
        what = "the graph has no inputs, and Triton does not load such a model"
        raise ModelError(batched.original.path, what, "export the model with at least one input")
    for tensor in (*batched.inputs, *batched.outputs):
        if batched.is_static and not tensor.dims:
            raise ModelError(
                f"tensor {tensor.name!r}",
                "it is a scalar, which Triton can serve only with a batch",
                "export the model with the shape [1] there",
            )
        ServedTensor.of(tensor)


@dataclass(frozen=True, slots=True)
class ReferenceFile:
    """The file of samples and of the original's answers to them, relative to the version's directory."""

    file: str
    rows: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What was published, from what, and how it was proven.

    Attributes:
        builder: The version of this package that published it.
        max_batch_size: The largest batch size that may be served; 0 when the model has no batch.
        source: The original model.
        options: The options that shaped the model, as given; those that only shape config.pbtxt are left out.
        model: The files that Triton loads.
        inputs: The inputs, in order.
        outputs: The outputs, in order.
        rewrites: For each rewritten place, a mapping of `node`, `op_type` and `what` was done there; only the first
            ones if there are very many.
        proof: The comparison with the original.
        reference: The file of samples and answers.
        plan: For a TensorRT plan, how it was built; otherwise None.
        adopted: Whether the version was there already, and was proven as it is.
        quantization: For a model that was quantized to int8, how; otherwise None.
        accuracy: How often it is right on the user's data; None if that was not measured.
        speed: How fast it is beside fp32; None if that was not measured.
        other_plans: Plans of the same ONNX file for other kinds of GPU, which were built and proven there.
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
    adopted: bool = False
    quantization: Quantization | None = None
    accuracy: Accuracy | None = None
    speed: Speed | None = None
    other_plans: tuple[Plan, ...] = ()

    @property
    def plans(self) -> tuple[Plan, ...]:
        """All plans: the one that was built when the version was published, then those for other GPUs."""
        return self.other_plans if self.plan is None else (self.plan, *self.other_plans)

    @property
    def has_fallback(self) -> bool:
        """Whether the version has a plan, and beside it the ONNX file that a server loads which cannot run the plan."""
        return self.plan is not None and self.model.file != self.plan.file

    @property
    def backend(self) -> str:
        """The backend of Triton that loads it."""
        return "tensorrt" if self.model.file == PLAN_FILE else "onnxruntime"

    def covers(self, other: "Manifest") -> bool:
        """Return whether publishing `other` would add nothing to this version.

        That is so when it has the same files from the same source and options, and when this version may be served
        with batches as large or larger.
        """

        def identity(manifest: Manifest) -> tuple[object, ...]:
            options = json.loads(json.dumps(manifest.options))
            return manifest.source.sha256, options, manifest.model, manifest.inputs, manifest.outputs

        if (self.max_batch_size == 0) != (other.max_batch_size == 0):
            return False
        return self.max_batch_size >= other.max_batch_size and identity(self) == identity(other)

    def to_json(self) -> str:
        """Return the text of `manifest.json`.

        Raises:
            ModelError: It is longer than what is read.
        """
        document = {"format": FORMAT, **asdict(self)}
        text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        if (size := len(text.encode())) > _MAX_BYTES:
            what = f"its {FILE} would have {format_bytes(size)}, and only {format_bytes(_MAX_BYTES)} are read"
            fix = "export the model with fewer inputs and outputs, or with shorter names"
            raise ModelError(self.source.file, what, fix)
        return text

    @classmethod
    def from_json(cls, text: str, *, where: object) -> "Manifest":
        """Read the text of `manifest.json`.

        Raises:
            RepositoryError: It is not a manifest that this release can read.
        """
        try:
            document = parse(text)
            if not isinstance(document, dict) or "format" not in document:
                raise MisreadError("it has no `format`")
            if document["format"] != FORMAT:
                raise MisreadError(
                    f"its format is {str(document['format'])[:20]}, but this release reads format {FORMAT}"
                )
            manifest = decode(cls, document, "manifest")
            if found := next(_problems(manifest), None):
                raise MisreadError(found)
        except MisreadError as error:
            raise RepositoryError(
                where,
                f"this manifest cannot be read: {error}",
                "restore the file, publish the model again, or upgrade triton-repository-builder",
            ) from error
        return manifest


def read_manifest(version_dir: Path) -> Manifest | None:
    """Read the manifest of a version; None when it has none, because this package did not publish it.

    Raises:
        RepositoryError: There is a manifest, but it cannot be read.
    """
    path = version_dir / FILE
    try:
        text = files.read(path, limit=_MAX_BYTES, inside=version_dir).decode()
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, UnicodeDecodeError) as error:
        what = f"this manifest cannot be read: {files.reason(error)}"
        raise RepositoryError(path, what, "restore the file, or publish the model again") from error
    return Manifest.from_json(text, where=path)


def _problems(manifest: Manifest) -> Iterator[str]:
    """Yield what no manifest that was written here says, one clause each."""
    if not 0 <= manifest.max_batch_size <= _LARGEST_BATCH:
        yield f"max_batch_size is {manifest.max_batch_size}"
    for path in (*manifest.model.files, manifest.reference.file):
        if not _stays_inside(path):
            yield f"it names the file {path[:200]!r}, which is not in the version's folder"
    for side, tensors in (("inputs", manifest.inputs), ("outputs", manifest.outputs)):
        if len({tensor.name for tensor in tensors}) < max(1, len(tensors)):
            yield f"its {side} are missing, or two of them have the same name"
        for tensor in tensors:
            yield from (f"{side} {tensor.name[:200]!r}: {what}" for what in _tensor_problems(tensor))
    yield from _proof_problems(manifest)
    yield from plan_problems(manifest.plan, manifest.other_plans, manifest.model.files)


def _stays_inside(path: str) -> bool:
    """Return whether a path, written with slashes, is that of a file below the folder that it starts from."""
    relative = PurePosixPath(path)
    return relative.name != "" and "\0" not in path and not relative.is_absolute() and ".." not in relative.parts


def _tensor_problems(tensor: ServedTensor) -> Iterator[str]:
    if not tensor.name or "\0" in tensor.name:
        yield "this is not the name of a tensor"
    if tensor.data_type not in TRITON_TYPES.values():
        yield f"{tensor.data_type[:200]!r} is not one of Triton's types"
    if any(dim != -1 and not 1 <= dim <= _LARGEST_DIM for dim in tensor.dims):
        yield f"its dims are {list(tensor.dims[:32])}"


def _proof_problems(manifest: Manifest) -> Iterator[str]:
    if manifest.reference.rows < 1:
        yield f"its reference has {manifest.reference.rows} rows"
    for proof in (manifest.proof, *(plan.proof for plan in manifest.plans if plan.proof is not None)):
        if any(not 1 <= size <= manifest.max_batch_size for size in proof.batch_sizes):
            yield f"proof.batch_sizes has a size that is not from 1 to {manifest.max_batch_size}"
        if proof.outputs.keys() != {tensor.name for tensor in manifest.outputs}:
            yield "proof.outputs are not its outputs"
        for name, output in proof.outputs.items():
            if min(output.rtol, output.atol) < 0:
                yield f"proof.outputs {name[:200]!r}: its tolerance is negative"
