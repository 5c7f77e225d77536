"""Load an ONNX file and check that it is one this project can work with."""

import math
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import google.protobuf.message
import onnx
import onnx_ir as ir

from builder import digest
from builder.errors import ModelError
from builder.model import external_data, lease, soundness, zipmap
from builder.model.lease import Lease
from builder.model.types import TensorSpec
from builder.tensors import Array

LARGEST_BYTES = 2**31 - 1
"""No protobuf message can be larger, and so no .onnx file, and no request."""


@dataclass(frozen=True, slots=True)
class Model:
    """A checked ONNX model as it came; nothing ever changes it.

    Attributes:
        path: The .onnx file.
        external_files: The external data files, all inside the model's folder, in order of name.
        digests: The SHA-256 of each of its files.
        leases: Of its large external data files: unbroken, they still have that digest.
        ir: The parsed model; external weights stay mapped on disk.
        inputs: What a caller feeds (initializers that are also listed as inputs are left out).
        outputs: What the graph returns.
        zipmaps: Outputs that are lists of dictionaries in the file and tensors here: the labels of their columns.
        constants: Inputs of the file that are constants here: what to feed the file.
    """

    path: Path
    external_files: tuple[Path, ...]
    digests: Mapping[Path, str]
    leases: Mapping[Path, Lease]
    ir: ir.Model
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    zipmaps: Mapping[str, zipmap.Labels] = field(default_factory=dict)
    constants: Mapping[str, Array] = field(default_factory=dict)

    @property
    def files(self) -> Iterator[Path]:
        """The .onnx file, then its external data files."""
        yield self.path
        yield from self.external_files

    @property
    def sha256(self) -> str:
        """Of all its files."""
        return digest.of_model(self.digests[file] for file in self.files)


def load(path: Path) -> Model:
    """Read and check the model at `path`.

    External data is located and measured, never read; a location outside the model's folder is refused.

    Raises:
        ModelError: It is not a readable ONNX model, or one that cannot be served.
    """
    proto = _parse(path)
    soundness.check_operators(path, proto)
    zipmaps = zipmap.take_out(proto)
    _check_types(path, proto.graph)
    _complete_outputs(path, proto)
    soundness.check_form(path, proto)
    _refuse_sparse(path, proto.graph)
    external = external_data.locate(path, soundness.tensors_of(proto))
    model = _deserialize(path, proto)
    inputs = [v for v in model.graph.inputs if v.name not in model.graph.initializers]
    if not model.graph.outputs:
        raise ModelError(path, "the graph has no outputs", "export it with outputs")
    leases = _leases(path, external)  # before the digests
    return Model(
        path=path,
        external_files=external,
        digests=_digests(path, [path, *external]),
        leases=leases,
        ir=model,
        inputs=tuple(_spec(path, v, "input") for v in inputs),
        outputs=tuple(_spec(path, v, "output") for v in model.graph.outputs),
        zipmaps=zipmaps,
    )


def _parse(path: Path) -> onnx.ModelProto:
    again = "export the model to a single .onnx file and give its path"
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise ModelError(path, "a directory" if path.is_dir() else "not a regular file", again)
        if status.st_size > LARGEST_BYTES:
            what = f"{status.st_size / 1e9:.1f} GB, and an .onnx file cannot be larger than 2 GiB"
            raise ModelError(path, what, "export it with its weights in an external data file")
        proto = onnx.load(path, load_external_data=False)
    except FileNotFoundError as error:
        raise ModelError(path, "no such file", "check the path") from error
    except OSError as error:
        raise ModelError(path, f"cannot be read: {error.strerror}", "check the path and its permissions") from error
    except google.protobuf.message.DecodeError as error:
        raise ModelError(path, "not an ONNX file, or a truncated one", again) from error
    if not proto.ir_version or (not proto.graph.node and not proto.graph.output):
        raise ModelError(path, "not an ONNX file: it holds no graph", again)
    return proto


def _deserialize(path: Path, proto: onnx.ModelProto) -> ir.Model:
    """Parse the message into the representation that all further steps work on."""
    try:
        model = ir.from_proto(proto)
    except ir.serde.SerdeError as error:
        raise ModelError(path, f"not a valid ONNX model: {_root(error)}", "export it again") from error
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        ir.external_data.set_base_dir(graph, path.parent)
    return model


def _root(error: BaseException) -> BaseException:
    """What an error comes from in the first place."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _refuse_sparse(path: Path, graph: onnx.GraphProto) -> None:
    """Sparse weights would be lost: they cannot be written again."""
    if graph.sparse_initializer:
        name = graph.sparse_initializer[0].values.name
        raise ModelError(path, f"weight {name!r} is stored sparse, which is not supported", "export it dense")


def _check_types(path: Path, graph: onnx.GraphProto) -> None:
    """Every graph input and output is a tensor."""
    for kind, values in (("input", graph.input), ("output", graph.output)):
        for value in values:
            found = value.type.WhichOneof("value")
            if found != "tensor_type":
                what = found.removesuffix("_type").replace("_", " ") if found else "value without a type"
                what = f"{kind} {value.name!r} is not a tensor but of kind {what!r}, and Triton serves tensors only"
                raise ModelError(path, what, "export it with a tensor there (scikit-learn: options={'zipmap': False})")
            if value.type.tensor_type.elem_type == onnx.TensorProto.UNDEFINED:
                raise ModelError(path, f"{kind} {value.name!r} has no element type", "export it again")


def _complete_outputs(path: Path, proto: onnx.ModelProto) -> None:
    """Fill in output shapes that the exporter left out.

    Raises:
        ModelError: One cannot be inferred.
    """
    if all(v.type.tensor_type.HasField("shape") for v in proto.graph.output):
        return
    with suppress(onnx.shape_inference.InferenceError):
        inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
        for value, found in zip(proto.graph.output, inferred.graph.output, strict=True):
            value.CopyFrom(found)
    for value in proto.graph.output:
        if not value.type.tensor_type.HasField("shape"):
            what = f"output {value.name!r} has no shape, and none can be inferred from the graph"
            raise ModelError(path, what, "declare it in the file, or export it with static shapes")


def _spec(path: Path, value: ir.Value, kind: str) -> TensorSpec:
    assert isinstance(value.type, ir.TensorType)
    if value.shape is None:
        raise ModelError(path, f"{kind} {value.name!r} has no shape", "export with static shapes")
    dims = tuple(d if isinstance(d, int) else str(d.value or f"{value.name}_{i}") for i, d in enumerate(value.shape))
    fixed = [dim for dim in dims if isinstance(dim, int)]
    if min(fixed, default=1) < 1:
        what = f"{kind} {value.name!r} {list(dims)} has a dimension below 1, which Triton refuses"
        raise ModelError(path, what, "export it with sizes of 1 and more, or with named symbolic dimensions")
    bits = 8 if value.type.dtype == ir.DataType.STRING else value.type.dtype.bitwidth
    if (size := math.prod(fixed) * bits // 8) > LARGEST_BYTES:
        what = f"{kind} {value.name!r} {list(dims)} takes {size / 1e9:,.0f} GB, and a request holds 2 GiB at most"
        raise ModelError(path, what, "export it with a smaller shape")
    return TensorSpec(str(value.name), value.type.dtype, dims)


def _leases(path: Path, files: Sequence[Path]) -> dict[Path, Lease]:
    with _readable(path):
        return {file: Lease(file) for file in files if file.stat().st_size >= lease.MIN_BYTES}


def _digests(path: Path, files: Sequence[Path]) -> dict[Path, str]:
    with _readable(path):
        return {file: digest.of(file) for file in files}


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ModelError(path, f"{error.filename} cannot be read: {error.strerror}", "check its permissions") from error
