"""Read an ONNX file, and check that the following steps can work with it."""

import math
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import google.protobuf.message
import onnx
import onnx_ir as ir

from builder import digest
from builder.errors import BuilderError, ModelError, cause
from builder.model import external_data, file_state, nodes, size, soundness, weights, zipmap
from builder.model.file_state import FileState
from builder.model.ordering import sort_nodes
from builder.model.recognition import refuse_as
from builder.model.types import TensorSpec, own_domain
from builder.progress import format_bytes
from builder.tensors import Array

INITIALIZERS_ALONE = 4
"""Since this IR version an initializer does not have to be listed as an input too."""

LARGEST_BYTES = 2**31 - 1
"""The largest protobuf message, and so the largest .onnx file and the largest request."""


@dataclass(frozen=True, slots=True)
class Model:
    """The original model: read, checked, and never changed afterwards.

    Attributes:
        path: The .onnx file.
        external_files: The files of external weights, all inside the model's folder, sorted by name.
        digests: The SHA-256 of each file.
        states: The state of each large file of external weights before it was hashed; while it holds, so does the
            digest.
        ir: The parsed model. External weights stay on disk and are mapped when they are read.
        inputs: The inputs that a caller feeds. Initializers that the file lists as inputs too are not among them.
        outputs: The outputs of the graph.
        zipmaps: For each output that is a list of dictionaries in the file and a tensor here, the labels of the
            tensor's columns.
        constants: For each input of the file that is a constant here, its value: what to feed the file.
        sizes: The sizes that its samples are to have on dynamic axes, by the name of the axis in `inputs`, where the
            caller asked for some.
        optional: The inputs that ONNX Runtime need not be fed, because an initializer of the same name holds a value.
            Before IR version 4, every initializer had to be listed as an input, so that says nothing there.
        left_out: Outputs of the file that are left out here.
    """

    path: Path
    external_files: tuple[Path, ...]
    digests: Mapping[Path, str]
    states: Mapping[Path, FileState]
    ir: ir.Model
    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    zipmaps: Mapping[str, zipmap.Labels] = field(default_factory=dict)
    constants: Mapping[str, Array] = field(default_factory=dict)
    sizes: Mapping[str, int] = field(default_factory=dict)
    optional: tuple[TensorSpec, ...] = ()
    left_out: tuple[str, ...] = ()

    @property
    def output_names(self) -> tuple[str, ...]:
        """The names of the outputs, in the order of the file."""
        return tuple(spec.name for spec in self.outputs)

    @property
    def files(self) -> Iterator[Path]:
        """The .onnx file, then the files of its external weights."""
        yield self.path
        yield from self.external_files

    @property
    def sha256(self) -> str:
        """The digest of all files together."""
        return digest.of_model(self.digests[file] for file in self.files)

    def has_changed(self) -> bool:
        """Return whether a file no longer has the content that was read. This hashes all files again."""
        try:
            return any(digest.of(file) != self.digests[file] for file in self.files)
        except OSError:
            return True


def load(path: Path) -> Model:
    """Read and check the model at `path`.

    Files of external weights must be inside the model's folder. They are hashed, but not read into memory.

    Raises:
        ModelError: The file is not a readable ONNX model, or Triton cannot serve it.
    """
    with _understood(path):
        return _load(path)


def weights_of(path: Path) -> tuple[Path, ...]:
    """Return the files of external weights that an ONNX file names, after checking their place and size.

    Raises:
        ModelError: It is not an ONNX file, or such a file is outside its folder, missing, unreadable or too short.
    """
    with _understood(path):
        return external_data.locate(path, soundness.tensors_of(_parse(path)))


def _load(path: Path) -> Model:
    proto = _parse(path)
    size.check_size(path, proto)
    soundness.check_operators(path, proto)
    sort_nodes(path, proto.graph)
    _free_dims(proto)
    _drop_devices(proto)
    zipmaps = zipmap.take_out(proto)
    _check_types(path, proto.graph)
    nodes.check(path, proto)  # before ONNX infers shapes, which takes for ever with some invalid equations
    _complete_outputs(path, proto)
    soundness.check_form(path, proto)
    _refuse_sparse(path, proto)
    weights.check(path, soundness.tensors_of(proto))
    external = external_data.locate(path, soundness.tensors_of(proto))
    model = _deserialize(path, proto)
    inputs = [v for v in model.graph.inputs if v.name not in model.graph.initializers]
    if not model.graph.outputs:
        raise ModelError(path, "the graph has no outputs", "export the model with at least one output")
    size.check_interface(path, len(inputs), len(model.graph.outputs))
    named = _named_dims([*inputs, *model.graph.outputs])
    states = _states(path, external)  # must come before the digests
    digests = _digests(path, [path, *external])
    external_data.locate(path, soundness.tensors_of(proto))  # again: what was hashed must not have been cut short
    return Model(
        path=path,
        external_files=external,
        digests=digests,
        states=states,
        ir=model,
        inputs=tuple(_spec(path, v, "input", named) for v in inputs),
        outputs=tuple(_spec(path, v, "output", named) for v in model.graph.outputs),
        zipmaps=zipmaps,
        optional=tuple(_optional(model)),
    )


def _optional(model: ir.Model) -> Iterator[TensorSpec]:
    """Yield the inputs that have a value in the file."""
    initializers = model.graph.initializers
    for value in model.graph.inputs if model.ir_version >= INITIALIZERS_ALONE else ():
        held = initializers[str(value.name)].const_value if value.name in initializers else None
        if held is not None:
            yield TensorSpec(str(value.name), held.dtype, tuple(map(int, held.shape.numpy())))


@contextmanager
def _understood(path: Path) -> Iterator[None]:
    """Turn an error that nobody expected into one that the user can act on: a damaged file may cause it.

    Raises:
        ModelError: The block failed in such a way.
    """
    try:
        yield
    except (BuilderError, MemoryError, OSError):
        raise
    except Exception as error:
        fix = "export the model again; if ONNX Runtime can run the file, report this message"
        raise ModelError(path, f"it cannot be read: {cause(error)}", fix) from error


def _parse(path: Path) -> onnx.ModelProto:
    fix = "give the path of an .onnx file"
    _refuse_other_encoding(path)
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            what = "it is a directory" if path.is_dir() else "it is not a regular file"
            raise refuse_as(path) or ModelError(path, what, fix)
        if status.st_size > LARGEST_BYTES:
            what = f"the file has {format_bytes(status.st_size)}, but an .onnx file cannot be larger than 2 GiB"
            external = "export the model with its weights in a separate file (external data)"
            raise refuse_as(path) or ModelError(path, what, external)
        proto = onnx.load(path, load_external_data=False)
    except FileNotFoundError as error:
        raise ModelError(path, "there is no such file", "check the path") from error
    except OSError as error:
        what = f"the file cannot be read: {error.strerror}"
        raise ModelError(path, what, "check the path and the file's permissions") from error
    except google.protobuf.message.DecodeError as error:
        raise refuse_as(path) or ModelError(path, "it is not an ONNX file, or it was cut short", fix) from error
    if not proto.ir_version or (not proto.graph.node and not proto.graph.output):
        raise refuse_as(path) or ModelError(path, "it is not an ONNX file: it contains no graph", fix)
    return proto


def _refuse_other_encoding(path: Path) -> None:
    """Refuse a path that ONNX Runtime cannot be given."""
    try:
        str(path).encode()
    except UnicodeEncodeError as error:
        what = "this path is not valid UTF-8, so ONNX Runtime cannot open the file"
        raise ModelError(path, what, "rename the file or its folder") from error


def _deserialize(path: Path, proto: onnx.ModelProto) -> ir.Model:
    """Turn the message into the representation that all following steps work on."""
    for imports in (proto.opset_import, *(function.opset_import for function in proto.functions)):
        for opset in imports:
            opset.domain = own_domain(opset.domain)  # as the domains of nodes are: ONNX's own is also "ai.onnx"
    try:
        model = ir.from_proto(proto)
    except ir.serde.SerdeError as error:
        raise ModelError(path, f"it is not a valid ONNX model: {_root(error)}", "export the model again") from error
    for graph in (model.graph, *(function.graph for function in model.functions.values())):
        external_data.attach(graph, path.parent)
    return model


def _root(error: BaseException) -> BaseException:
    """Return the error that caused this one, directly or through others."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


def _free_dims(proto: onnx.ModelProto) -> None:
    """Make dimensions dynamic that the file writes as a number below 0, or as `?`.

    Paddle and others write either for a size that may vary; two of them need not be equal. ONNX Runtime, too, reads any
    number below 0 like that.

    Source: RemoveInvalidValues in https://github.com/microsoft/onnxruntime/blob/main/onnxruntime/core/graph/graph.cc
    """
    for value in soundness.values_of(proto):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_value < 0 or dim.dim_param == "?":
                dim.Clear()


def _drop_devices(proto: onnx.ModelProto) -> None:
    """Leave out how the nodes are spread over several accelerators: one session runs the whole model here."""
    del proto.configuration[:]
    for node in soundness.all_nodes(proto):
        if node.device_configurations:
            del node.device_configurations[:]


def _refuse_sparse(path: Path, proto: onnx.ModelProto) -> None:
    """Refuse sparse weights: the following steps cannot write them, so they would be lost."""
    for sparse in soundness.sparse_of(proto):
        name = sparse.values.name
        raise ModelError(
            path, f"weight {name!r} is a sparse tensor, which is not supported", "export it as a dense tensor"
        )


def _check_types(path: Path, graph: onnx.GraphProto) -> None:
    """Check that every graph input and output is a tensor with an element type."""
    for kind, values in (("input", graph.input), ("output", graph.output)):
        for value in values:
            found = value.type.WhichOneof("value")
            if found != "tensor_type":
                type_name = found.removesuffix("_type").replace("_", " ") if found else "unknown"
                what = f"{kind} {value.name!r} has the type {type_name!r}, but Triton serves only tensors"
                fix = "export the model with a tensor there (with skl2onnx: options={'zipmap': False})"
                raise ModelError(path, what, fix)
            if value.type.tensor_type.elem_type == onnx.TensorProto.UNDEFINED:
                raise ModelError(path, f"{kind} {value.name!r} has no element type", "export the model again")


def _complete_outputs(path: Path, proto: onnx.ModelProto) -> None:
    """Fill in the output shapes that the exporter left out.

    Raises:
        ModelError: The shape of an output cannot be inferred.
    """
    if all(v.type.tensor_type.HasField("shape") for v in proto.graph.output):
        return
    with suppress(onnx.shape_inference.InferenceError, onnx.checker.ValidationError):
        inferred = onnx.shape_inference.infer_shapes(proto, data_prop=True)
        for value, found in zip(proto.graph.output, inferred.graph.output, strict=True):
            value.CopyFrom(found)
    for value in proto.graph.output:
        if not value.type.tensor_type.HasField("shape"):
            what = f"output {value.name!r} has no shape, and it cannot be inferred from the graph"
            raise ModelError(path, what, "declare the shape in the file, or export the model with static shapes")


def _named_dims(values: Sequence[ir.Value]) -> set[str]:
    """Return the names that the file gives to dynamic dimensions."""
    shapes = [value.shape for value in values if value.shape is not None]
    return {dim.value for shape in shapes for dim in shape if not isinstance(dim, int) and dim.value}


def _free_dim(value: ir.Value, axis: int, named: Collection[str]) -> str:
    """Return a name for a dynamic dimension without one; no other dimension has this name."""
    name = f"{value.name}_{axis}"
    while name in named:
        name += "_"
    return name


def _spec(path: Path, value: ir.Value, kind: str, named: Collection[str]) -> TensorSpec:
    assert isinstance(value.type, ir.TensorType)
    if value.shape is None:
        raise ModelError(path, f"{kind} {value.name!r} has no shape", "export the model with static shapes")
    dims = tuple(
        dim if isinstance(dim, int) else str(dim.value or _free_dim(value, axis, named))
        for axis, dim in enumerate(value.shape)
    )
    if fault := weights.too_many_axes(len(dims)):
        raise ModelError(path, f"{kind} {value.name!r} {fault}", "export the model with fewer axes")
    fixed = [dim for dim in dims if isinstance(dim, int)]
    if min(fixed, default=1) < 1:
        what = f"{kind} {value.name!r} {list(dims)} has a dimension of 0, which Triton does not load"
        raise ModelError(path, what, "export the model with dimensions of at least 1, or with named dynamic ones")
    bits = 8 if value.type.dtype == ir.DataType.STRING else value.type.dtype.bitwidth
    if (taken := math.prod(fixed) * bits // 8) > LARGEST_BYTES:
        what = f"{kind} {value.name!r} {list(dims)} takes {format_bytes(taken)}, but a request is at most 2 GiB"
        raise ModelError(path, what, "export the model with a smaller shape")
    return TensorSpec(str(value.name), value.type.dtype, dims)


def _states(path: Path, files: Sequence[Path]) -> dict[Path, FileState]:
    with _readable(path):
        return {file: file_state.read_state(file) for file in files if file.stat().st_size >= file_state.MIN_BYTES}


def _digests(path: Path, files: Sequence[Path]) -> dict[Path, str]:
    with _readable(path):
        return {file: digest.of(file) for file in files}


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        what = f"{error.filename} cannot be read: {error.strerror}"
        raise ModelError(path, what, "check the permissions of that file") from error
