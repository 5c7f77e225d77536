"""The ways from a module to an ONNX file: two exporters, with the batch dynamic from the start or made so after."""

import contextlib
import itertools
import tempfile
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from builder.batching import BatchedModel, add_batch_axis, free_axes, keep_static
from builder.errors import BuilderError, HostError, ModelError, VerificationError
from builder.exporting import exporters
from builder.exporting.export import EXPORTERS, ExportedModel, ExportOptions, InputSpec
from builder.exporting.frozen import find_warned
from builder.exporting.proving import Proof, Trial
from builder.exporting.subject import Subject, as_exported
from builder.model import load, stored_dtype
from builder.progress import Report
from builder.tensors import Array, Arrays

STATIC, BATCHED = "static", "static, then batched"
BATCH = "batch"
"""The name of the dynamic batch."""


@dataclass(frozen=True, slots=True)
class Road:
    """One way to export.

    Attributes:
        exporter: One of `EXPORTERS`.
        after: What is made of what it exports: nothing, if it is told which axes are dynamic.
    """

    exporter: str
    after: str = ""

    def __str__(self) -> str:
        return f"{self.exporter}, {self.after}" if self.after else self.exporter

    @property
    def is_dynamic(self) -> bool:
        """Whether the exporter is told which axes are dynamic."""
        return not self.after

    def example(self, options: ExportOptions) -> Arrays:
        """The inputs to export with."""
        if not self.is_dynamic:
            return {spec.name: _example(spec, spec.shape) for spec in options.inputs}
        batch = _batch_to_trace(options.inputs)
        return {spec.name: _example(spec, (batch, *spec.shape[1:])) for spec in options.inputs}

    def take(self, subject: Subject, options: ExportOptions, path: Path) -> BatchedModel:
        """Export to `path`, and make dynamic what is not yet.

        Raises:
            ModelError: The exporter does not take it, dropped an input, or left a batch that cannot be freed.
        """
        axes = {s.name: {0: BATCH, **options.dynamic.get(s.name, {})} for s in options.inputs}
        exporters.run(
            self.exporter, subject, self.example(options), axes if self.is_dynamic else {}, path, options.opset
        )
        model = load(path)
        lost = [name for name in axes if name not in {spec.name for spec in model.inputs}]
        if lost:
            what = f"input {lost[0]!r} is gone: its values are frozen, or forward makes no use of them"
            raise ModelError(subject.where, what, "leave the input out, or let forward use it as a tensor")
        if options.is_static:
            return keep_static(model)
        batched = add_batch_axis(model, batch_axes=options.batch_axes)
        return batched if self.is_dynamic or not options.dynamic else free_axes(batched, options.dynamic)


def roads(options: ExportOptions) -> list[Road]:
    """The roads to try, in order; one that moves the batch to axis 0 starts from a static graph."""
    afterwards = [STATIC] if options.is_static else [BATCHED] if any(options.batch_axes.values()) else ["", BATCHED]
    tried = [options.exporter] if options.exporter else list(EXPORTERS)
    return [Road(exporter, after) for after in afterwards for exporter in tried]


def export_proven(factory: str, path: Path, options: ExportOptions, report: Report) -> ExportedModel:
    """Take the first road whose export is proven, and put the file at `path`.

    Raises:
        HostError: The file cannot be written.
        ModelError: See `export`.
        VerificationError: See `export`.
    """
    _check_axes(factory, options)
    with as_exported(), _folder_beside(path) as folder:
        subject = Subject(factory, options.inputs)
        report("module", subject.describe())
        subject.run(Road("", STATIC).example(options))
        failures: dict[Road, BuilderError] = {}
        for number, road in enumerate(roads(options)):
            try:
                proof = _export_on(road, subject, options, path, folder / str(number))
            except _RoadClosed as closed:
                failures[road] = closed.error
                report("export", f"{road}: {textwrap.shorten(closed.error.what, 140, placeholder=' …')}")
                continue
            _move(folder / str(number), path)
            for other in failures:
                _failing_batch(path, other).with_suffix(".failed.npz").unlink(missing_ok=True)
            report("export", f"{road}: {proof.describe()}")
            return ExportedModel(path, str(road), proof.batch_sizes, proof.other_sizes, proof.largest_difference)
        raise _no_road(subject, failures, options)


class _RoadClosed(Exception):  # noqa: N818 - not an error: another road may be open
    """This road leads nowhere; the error says why."""

    def __init__(self, error: BuilderError) -> None:
        super().__init__(error.what)
        self.error = error


def _export_on(road: Road, subject: Subject, options: ExportOptions, path: Path, folder: Path) -> Proof:
    """Export and prove; the file and its weights are then in `folder`.

    Raises:
        _RoadClosed: There is no export, or it is wrong.
        ModelError: The module answers no samples.
        VerificationError: The module mixes the rows of a batch.
    """
    folder.mkdir()
    file = folder / path.name
    try:
        batched = road.take(subject, options, file)
    except ModelError as error:
        raise _RoadClosed(error) from error
    trial = Trial(subject, batched, options, road.example(options), _failing_batch(path, road))
    reference = trial.reference()
    trial.refuse_mixing(reference)
    _drop_stack_traces(batched.ir.graph)
    batched.ir.metadata_props.update(exported_from=subject.where, exported_by=str(road))
    model_bytes = ir.to_proto(batched.ir).SerializeToString(deterministic=True)
    try:
        proof = trial.prove(model_bytes, folder, reference)
    except (ModelError, VerificationError) as error:
        raise _RoadClosed(error) from error
    file.write_bytes(model_bytes)
    return proof


def _drop_stack_traces(graph: ir.Graph) -> None:
    """Remove the paths of the user's sources, which `torch.export` notes on every node."""
    for node in graph.all_nodes():
        node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)


def _failing_batch(path: Path, road: Road) -> Path:
    """What a failing batch is called after; it is kept in the working directory, as `publish` does."""
    return Path(f"{path.stem}.{str(road).replace(', ', '.').replace(' ', '_')}.onnx")


def _no_road(subject: Subject, failures: Mapping[Road, BuilderError], options: ExportOptions) -> BuilderError:
    reasons: dict[str, list[str]] = {}
    frozen: dict[str, None] = {}
    for road, error in failures.items():
        reason, *lines = error.what.splitlines()
        reasons.setdefault(reason, []).append(str(road))
        frozen.update(dict.fromkeys(lines))
    listed = "\n".join(["", *(f"    {'; '.join(names)}: {reason}" for reason, names in reasons.items()), *frozen])
    if any(isinstance(error, VerificationError) for error in failures.values()):
        fix = "let tensors decide what Python decides in forward: torch.where, torch.gather, sizes left as they come"
        return VerificationError(subject.where, f"no export of it answers as the module does:{listed}", fix)
    warned = "".join(f"\n    frozen at {line}" for line in find_warned(subject, next(iter(failures)).example(options)))
    return ModelError(subject.where, f"there is no export of it that can be used:{listed}{warned}", error.fix)


# ---------------------------------------------------------------- inputs


def _check_axes(factory: str, options: ExportOptions) -> None:
    """Every axis that is named is there and named once, and all inputs have the same batch.

    Raises:
        ModelError: Not so.
    """
    shapes = {spec.name: spec.shape for spec in options.inputs}
    if len(shapes) < len(options.inputs):
        raise ModelError(factory, "--input names the same input twice", "name each once")
    for name, axis in options.batch_axes.items():
        _check_axis(factory, "--batch-axis", axis, name, shapes)
    sizes = {BATCH: 0}
    for name, axis, called in (
        (n, axis, called) for n, axes in options.dynamic.items() for axis, called in axes.items()
    ):
        _check_axis(factory, "--dynamic", axis, name, shapes)
        if axis == options.batch_axes.get(name, 0):
            raise ModelError(factory, f"--dynamic names axis {axis} of {name!r}", "leave it out: it is the batch")
        if sizes.setdefault(called, shapes[name][axis]) != shapes[name][axis]:
            raise ModelError(factory, f"--dynamic calls different sizes {called!r}", "give each a name of its own")
    if not options.is_static:
        _check_batch(factory, options)


def _check_axis(factory: str, option: str, axis: int, name: str, shapes: Mapping[str, Sequence[int]]) -> None:
    if not 0 <= axis < len(shapes.get(name, ())):
        listed = ", ".join(f"{known} {list(shape)}" for known, shape in shapes.items())
        raise ModelError(factory, f"{option} names axis {axis} of {name!r}, which is not there", f"inputs are {listed}")


def _check_batch(factory: str, options: ExportOptions) -> None:
    axes = {spec.name: options.batch_axes.get(spec.name, 0) for spec in options.inputs}
    batches = {spec.shape[axes[spec.name]] if spec.shape else None for spec in options.inputs}
    if len(batches) != 1 or None in batches:
        listed = ", ".join(f"{spec.name} {list(spec.shape)} (axis {axes[spec.name]})" for spec in options.inputs)
        fix = "give all the same batch, name its axis with --batch-axis INPUT=AXIS, or use --static"
        raise ModelError(factory, f"the inputs have different batches: {listed}", fix)


def _batch_to_trace(inputs: Sequence[InputSpec]) -> int:
    """The batch given, if it is above 1; else one that is no other dimension, so that no axis is taken for it.

    `torch.export` takes a size of 1 for a constant.
    """
    given = inputs[0].shape[0]
    dimensions = {dim for spec in inputs for dim in spec.shape}
    return given if given > 1 else next(n for n in itertools.count(2) if n not in dimensions)


def _example(spec: InputSpec, shape: tuple[int, ...]) -> Array:
    """Normal floats; ones for anything else: inside every table, and neither an empty mask nor a length of 0."""
    values: Array = np.ones(shape)
    if spec.dtype.is_floating_point():
        values = np.random.default_rng(len(spec.name)).standard_normal(shape)
    if spec.dtype == ir.DataType.BFLOAT16:
        return values.astype(spec.dtype.numpy()).view(np.uint16)
    return values.astype(stored_dtype(spec.dtype))


# ---------------------------------------------------------------- files


@contextlib.contextmanager
def _folder_beside(path: Path) -> Iterator[Path]:
    """A folder on the filesystem of `path`, gone at the end.

    Raises:
        HostError: It cannot be made.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        raise HostError(path, f"cannot be written: {error.strerror}", "name a file in a writable folder") from error
    with folder:
        yield Path(folder.name)


def _move(folder: Path, path: Path) -> None:
    """Put weights beside `path` first, the model that names them last."""
    for file in sorted(folder.iterdir(), key=lambda file: file.name == path.name):
        file.replace(path.parent / file.name)
