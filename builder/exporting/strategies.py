"""Try the ways from a module to an ONNX file, and take the first one whose file is proven.

There are two exporters. Each can make the axes dynamic itself, or export a static graph whose batch is made
dynamic afterwards, as for any static ONNX file. Each of these strategies succeeds for modules where others fail.
"""

import contextlib
import tempfile
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from builder import interrupts
from builder.batching import BatchedModel, add_batch_axis, free_axes, keep_static
from builder.errors import BuilderError, HostError, Listing, ModelError, VerificationError
from builder.exporting import exporters, inputs
from builder.exporting.finding import find
from builder.exporting.frozen import find_warned
from builder.exporting.options import EXPORTERS, ExportedModel, ExportOptions
from builder.exporting.proving import Proof, Trial
from builder.exporting.sources import Source
from builder.exporting.subject import Subject, as_exported
from builder.model import load
from builder.progress import Report
from builder.proof import OriginalRuns
from builder.tensors import Arrays

STATIC, BATCHED = "static", "static, then batched"
"""What follows the exporter's name in a strategy that exports a static graph."""


@dataclass(frozen=True, slots=True)
class Strategy:
    """One way to export.

    Attributes:
        exporter: One of `EXPORTERS`.
        after: "" if the exporter makes the axes dynamic itself, or else what happens to the static graph:
            `STATIC` keeps it, `BATCHED` makes its batch dynamic.
    """

    exporter: str
    after: str = ""

    def __str__(self) -> str:
        return f"{self.exporter}, {self.after}" if self.after else self.exporter

    @property
    def is_dynamic(self) -> bool:
        """Whether the exporter makes the axes dynamic itself."""
        return not self.after

    def example(self, options: ExportOptions) -> Arrays:
        """Return the inputs to export with."""
        return inputs.dynamic_example(options) if self.is_dynamic else inputs.static_example(options)

    def export(self, subject: Subject, options: ExportOptions, path: Path) -> BatchedModel:
        """Export to `path`, and make the axes dynamic that are not yet.

        Raises:
            ModelError: The exporter fails or drops an input, or the batch cannot be made dynamic.
        """
        axes = {s.name: {0: inputs.BATCH, **options.dynamic.get(s.name, {})} for s in options.inputs}
        exporters.run(
            self.exporter, subject, self.example(options), axes if self.is_dynamic else {}, path, options.opset
        )
        model = load(path)
        exported = {spec.name for spec in model.inputs}
        lost = [name for name in axes if name not in exported]
        if lost:
            what = f"the exported model has no input {lost[0]!r}: forward does not use it, or its values were frozen"
            raise ModelError(subject.where, what, "remove that --input, or use it only in tensor operations in forward")
        if options.is_static:
            return keep_static(model)
        batched = add_batch_axis(model, batch_axes=options.batch_axes, original=OriginalRuns(model))
        return batched if self.is_dynamic or not options.dynamic else free_axes(batched, options.dynamic)


def strategies_for(options: ExportOptions) -> list[Strategy]:
    """Return the strategies to try, in order; moving the batch to axis 0 requires a static graph."""
    moves_batch = any(options.batch_axes.values())
    if options.is_static:
        afterwards = [STATIC]
    elif moves_batch:
        afterwards = [BATCHED]
    else:
        afterwards = ["", BATCHED]
    tried = [options.exporter] if options.exporter else list(EXPORTERS)
    return [Strategy(exporter, after) for after in afterwards for exporter in tried]


def export_proven(source: str, path: Path, options: ExportOptions, report: Report) -> ExportedModel:
    """Put the file of the first strategy whose export is proven at `path`.

    Raises:
        HostError: The file cannot be written.
        ModelError: See `export`.
        VerificationError: See `export`.
    """
    with as_exported(), _folder_beside(path) as folder:
        found = find(source, options)
        options = replace(options, inputs=found.inputs, dynamic=found.dynamic)
        inputs.check(source, options)
        subject = Subject(source, found)
        report("module", subject.describe())
        subject.run(inputs.static_example(options))
        failures: dict[Strategy, BuilderError] = {}
        for number, strategy in enumerate(strategies_for(options)):
            try:
                proof = _export_with(strategy, subject, options, path, folder / str(number))
            except _StrategyFailed as failed:
                failures[strategy] = failed.error
                report("export", f"{strategy}: {textwrap.shorten(failed.error.what, 140, placeholder=' …')}")
                continue
            with interrupts.held():  # a model beside the weights of another would be half done
                _move(folder / str(number), path)
            for other in failures:
                _failing_batch(path, other).with_suffix(".failed.npz").unlink(missing_ok=True)
            report("export", f"{strategy}: {proof.describe()}")
            return ExportedModel(path, str(strategy), proof.batch_sizes, proof.other_sizes, proof.largest_difference)
        raise _all_failed(subject, failures, options)


class _StrategyFailed(Exception):  # noqa: N818 - not an error: another strategy may succeed
    """This strategy gives no usable export; the error says why."""

    def __init__(self, error: BuilderError) -> None:
        super().__init__(error.what)
        self.error = error


def _export_with(strategy: Strategy, subject: Subject, options: ExportOptions, path: Path, folder: Path) -> Proof:
    """Export into `folder` and prove the file, which stays there with its weights.

    Raises:
        _StrategyFailed: The export fails, or is wrong.
        ModelError: The module cannot answer the samples.
        VerificationError: The module mixes the rows of a batch.
    """
    folder.mkdir()
    file = folder / path.name
    try:
        batched = strategy.export(subject, options, file)
    except ModelError as error:
        raise _StrategyFailed(error) from error
    trial = Trial(subject, batched, options, strategy.example(options), _failing_batch(path, strategy))
    reference = trial.reference()
    trial.refuse_mixing(reference)
    _drop_stack_traces(batched.ir.graph)
    batched.ir.metadata_props.update(exported_from=Source.of(subject.where).shown, exported_by=str(strategy))
    model_bytes = ir.to_proto(batched.ir).SerializeToString(deterministic=True)
    try:
        proof = trial.prove(model_bytes, folder, reference)
    except (ModelError, VerificationError) as error:
        raise _StrategyFailed(error) from error
    file.write_bytes(model_bytes)
    return proof


def _drop_stack_traces(graph: ir.Graph) -> None:
    """Remove the paths of the user's source files, which `torch.export` stores in every node."""
    for node in graph.all_nodes():
        node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)


def _failing_batch(path: Path, strategy: Strategy) -> Path:
    """Return the name that a failing batch is kept under in the working directory, as `publish` does."""
    return Path(f"{path.stem}.{str(strategy).replace(', ', '.').replace(' ', '_')}.onnx")


def _all_failed(subject: Subject, failures: Mapping[Strategy, BuilderError], options: ExportOptions) -> BuilderError:
    """Return the error that lists why each strategy failed, strategies with the same reason together."""
    reasons: dict[str, list[str]] = {}
    frozen: dict[str, None] = {}
    for strategy, error in failures.items():
        reason, *lines = error.what.lines if isinstance(error.what, Listing) else (error.what,)
        reasons.setdefault(reason, []).append(str(strategy))
        frozen.update(dict.fromkeys(lines))
    listed = [*(f"{'; '.join(names)}: {reason}" for reason, names in reasons.items()), *frozen]
    if any(isinstance(error, VerificationError) for error in failures.values()):
        fix = "replace Python values in forward by tensor operations such as torch.where and torch.gather"
        return VerificationError(subject.where, Listing("no export gives the module's answers:", listed), fix)
    listed += [f"frozen at {line}" for line in find_warned(subject, next(iter(failures)).example(options))]
    return ModelError(subject.where, Listing("it cannot be exported:", listed), error.fix)


# ---------------------------------------------------------------- files


@contextlib.contextmanager
def _folder_beside(path: Path) -> Iterator[Path]:
    """Make a temporary folder on the filesystem of `path`.

    Raises:
        HostError: The folder cannot be made.
    """
    try:
        folder = tempfile.TemporaryDirectory(prefix=f".{path.name}.", dir=path.parent)
    except OSError as error:
        fix = "choose an output file in a folder that exists and can be written to"
        raise HostError(path, f"cannot be written: {error.strerror}", fix) from error
    with folder:
        yield Path(folder.name)


def _move(folder: Path, path: Path) -> None:
    """Move the files to their final place: the weights first, and then the model that refers to them."""
    for file in sorted(folder.iterdir(), key=lambda file: file.name == path.name):
        file.replace(path.parent / file.name)
