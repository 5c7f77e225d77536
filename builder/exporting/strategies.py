"""Try the ways from a module to an ONNX file, and take the first one whose file is proven.

There are two exporters. Each can make the axes dynamic itself, or export a static graph whose batch is made
dynamic afterwards, as for any static ONNX file. Each of these strategies succeeds for modules where others fail.
"""

import contextlib
import textwrap
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import onnx_ir as ir

from builder import interrupts
from builder.batching import BatchedModel, add_batch_axis, free_axes, keep_static
from builder.errors import BuilderError, ModelError, VerificationError
from builder.exporting import exporters, inputs
from builder.exporting.asking import Asking, ModuleError, other_examples, refuse_varying
from builder.exporting.failures import all_failed
from builder.exporting.finding import find
from builder.exporting.options import EXPORTERS, Completed, ExportedModel, ExportOptions
from builder.exporting.proving import Proof, Trial
from builder.exporting.quiet import as_exported
from builder.exporting.repeating import refuse_changing, refuse_kept
from builder.exporting.sizes import ask_given, with_given_sizes
from builder.exporting.state import Snapshot
from builder.exporting.subject import Subject
from builder.exporting.temporary import Temporary
from builder.exporting.unsupported import UnsupportedError, find_unsupported, fix_for
from builder.exporting.ways import advised
from builder.model import Model, load
from builder.progress import Report
from builder.proof import OriginalRuns
from builder.samples import list_in_words
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
        exporters.run(self.exporter, subject, self.example(options), axes if self.is_dynamic else {}, path, options)
        model = with_given_sizes(load(path), options)
        _check_opset(model, subject, options)
        exported = {spec.name for spec in model.inputs}
        lost = [name for name in axes if name not in exported]
        if lost:
            what = f"the exported model has no input {lost[0]!r}: forward does not use it, or its values were frozen"
            fix = "use it in tensor operations in forward, not as a Python or NumPy value, or remove that --input"
            raise ModelError(subject.where, what, fix)
        if options.is_static:
            return keep_static(model)
        batched = add_batch_axis(model, batch_axes=options.batch_axes, original=OriginalRuns(model))
        return batched if self.is_dynamic or not options.dynamic else free_axes(batched, options.dynamic)


def _check_opset(model: Model, subject: Subject, options: ExportOptions) -> None:
    """Check that the file has the opset that was asked for: an exporter may keep its own, and only logs that it did.

    Raises:
        ModelError: It has another one.
    """
    made = model.ir.graph.opset_imports.get("")
    if options.opset is not None and made is not None and made != options.opset:
        what = f"the exporter cannot write opset {options.opset}; it wrote opset {made}"
        raise ModelError(subject.where, what, f"use --opset {made}, or leave out --opset")


def strategies_for(options: ExportOptions) -> list[Strategy]:
    """Return the strategies to try, in order; a batch that is fixed, or moves to axis 0, requires a static graph."""
    has_fixed_batch = isinstance(options, Completed) and options.has_fixed_batch
    starts_static = has_fixed_batch or any(axis != 0 for axis in options.batch_axes.values())
    if options.is_static:
        afterwards = [STATIC]
    elif starts_static:
        afterwards = [BATCHED]
    else:
        afterwards = ["", BATCHED]
    tried = [options.exporter] if options.exporter else list(EXPORTERS)
    return [Strategy(exporter, after) for after in afterwards for exporter in tried]


def export_proven(source: str, path: Path, folder: Path, options: ExportOptions, report: Report) -> ExportedModel:
    """Put the file of the first strategy whose export is proven at `path`.

    Args:
        source: What the user gives as MODEL.
        path: The file to write.
        folder: A folder on the same filesystem, for the files of all strategies.
        options: What to export.
        report: What is told about each step.

    Raises:
        ModelError: See `export`.
        VerificationError: See `export`.
    """
    with as_exported(is_verbose=options.is_verbose):
        temporary = Temporary(folder, source)
        found = find(source, options)
        are_declared = not options.inputs
        options = found.completed(options)
        found = replace(found, constants=options.constants)
        inputs.check(source, options)
        options = ask_given(source, options, are_declared=are_declared)
        subject = Subject(source, found, options.outputs)
        for line in (subject.describe(), *found.notes):
            report("module", line)
        with temporary.named(), _ways_named(subject, options, path, folder):
            _check_alone(subject, options, path, report)
            exported = _first_proven(subject, options, path, folder, temporary.report(report))
            return replace(exported, labels=found.labels)


def _check_alone(subject: Subject, options: ExportOptions, path: Path, report: Report) -> None:
    """Check what needs no export: that the module runs, and that its answers depend on its inputs alone.

    Raises:
        ModelError: `forward` fails on the inputs that the user describes.
        VerificationError: Its answers change from run to run, or their shapes with the values of the inputs.
    """
    example = inputs.static_example(options)
    fresh = Snapshot(subject.module)
    answers = subject.run(example)
    others = list(other_examples(subject, example))
    for name in refuse_changing(subject, example, answers, others[0]):
        report("module", f"forward changes {name!r} at each call, which the file does not; its answers stay the same")
    refuse_kept(subject, example, answers, others, fresh)
    if not options.is_static:
        refuse_varying(subject, example, answers, others, Path(path.name))


def _first_proven(subject: Subject, options: ExportOptions, path: Path, folder: Path, report: Report) -> ExportedModel:
    """Try the strategies in turn, and put the first file that is proven at `path`.

    Raises:
        ModelError: None of them gives a file.
        VerificationError: None gives the module's answers, or the module itself cannot be batched.
    """
    failures: dict[Strategy, BuilderError] = {}
    for number, strategy in enumerate(strategies_for(options)):
        try:
            proof, notes = _export_with(strategy, subject, options, path, folder / str(number))
        except _StrategyFailed as failed:
            failures[strategy] = failed.error
            report("export", f"{strategy}: {textwrap.shorten(failed.error.what, 140, placeholder=' …')}")
            continue
        with interrupts.held():  # a model beside the weights of another would be half done
            _move(folder / str(number), path)
        for other in failures:
            _failing_batch(path, other).with_suffix(".failed.npz").unlink(missing_ok=True)
        report("export", f"{strategy}: {proof.describe()}")
        if proof.drawn:
            report("export", f"samples: {list_in_words(proof.drawn)}")
        for note in notes:
            report("note", note)
        compared = (proof.batch_sizes, proof.other_sizes, proof.largest_difference, proof.drawn)
        return ExportedModel(path, str(strategy), *compared, sizes=proof.sizes)
    example = next(iter(failures)).example(options)
    named = {str(strategy): error for strategy, error in failures.items()}
    failed_all = all_failed(subject, named, example, is_static=options.is_static)
    if missing := [error.found for error in failures.values() if isinstance(error, UnsupportedError)]:
        fix = fix_for(missing[0], subject, options, partial(_is_exported, path=path, folder=folder))
        raise type(failed_all)(failed_all.where, failed_all.what, fix)
    is_about_batch = any(failure.is_about_batch for failure in failures.values())
    raise _with_ways(failed_all, subject, options, path, folder) if is_about_batch else failed_all


def _is_exported(subject: Subject, options: ExportOptions, *, path: Path, folder: Path) -> bool:
    """Return whether another module can be exported with other options, and proven."""
    for number, strategy in enumerate(strategies_for(options)):
        with contextlib.suppress(_StrategyFailed, BuilderError):
            _export_with(strategy, subject, options, path, folder / f"other{number}", kept_in=folder)
            return True
    return False


@contextlib.contextmanager
def _ways_named(subject: Subject, options: ExportOptions, path: Path, folder: Path) -> Iterator[None]:
    """If the module itself cannot be batched, name the ways in the error that work without a batch."""
    try:
        yield
    except ModuleError as error:
        shown = _with_ways(error, subject, options, path, folder) if error.is_about_batch else error
        if shown is error:
            raise
        raise shown from error


def _with_ways(error: BuilderError, subject: Subject, options: ExportOptions, path: Path, folder: Path) -> BuilderError:
    """Return the error with the ways in its fix that work without a batch."""

    def attempt(asked: ExportOptions) -> Path | None:
        for number, strategy in enumerate(strategies_for(asked)):
            trial = folder / f"static{number}"
            with contextlib.suppress(_StrategyFailed, BuilderError):
                _export_with(strategy, subject, asked, path, trial, kept_in=folder)
                return trial / path.name
        return None

    return advised(error, subject, options, attempt)


class _StrategyFailed(Exception):  # noqa: N818 - not an error: another strategy may succeed
    """This strategy gives no usable export; the error says why."""

    def __init__(self, error: BuilderError) -> None:
        super().__init__(error.what)
        self.error = error


def _export_with(
    strategy: Strategy,
    subject: Subject,
    options: ExportOptions,
    path: Path,
    folder: Path,
    kept_in: Path = Path(),
) -> tuple[Proof, list[str]]:
    """Export into `folder` and prove the file, which stays there with its weights.

    Returns:
        The proof, and what the user should know about its samples.

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
        raise _failed(error, subject, file) from error
    asking = Asking(subject, batched, kept_in / _failing_batch(path, strategy))
    trial = Trial(asking, options, strategy.example(options))
    try:
        reference = trial.reference()
        trial.refuse_mixing(reference)
    except ModuleError:
        raise
    except VerificationError as error:
        raise _StrategyFailed(error) from error
    _drop_stack_traces(batched.ir.graph)
    batched.ir.metadata_props.update(exported_from=subject.origin, exported_by=str(strategy))
    if options.constants:
        batched.ir.metadata_props["exported_constants"] = _listed(options.constants)
    model_bytes = ir.to_proto(batched.ir).SerializeToString(deterministic=True)
    try:
        proof = trial.prove(model_bytes, folder, reference)
    except ModuleError:
        raise
    except (ModelError, VerificationError) as error:
        raise _failed(error, subject, file) from error
    file.write_bytes(model_bytes)
    return proof, asking.notes


def _listed(constants: Mapping[str, object]) -> str:
    """Return the constants in one line; of a file only the name."""
    shown = {name: value.name if isinstance(value, Path) else repr(value) for name, value in constants.items()}
    return ", ".join(f"{name}={value}" for name, value in sorted(shown.items()))


def _failed(error: BuilderError, subject: Subject, file: Path) -> _StrategyFailed:
    found = find_unsupported(error, file)
    return _StrategyFailed(error if found is None else UnsupportedError(subject.where, found))


def _drop_stack_traces(graph: ir.Graph) -> None:
    """Remove the paths of the user's source files, which `torch.export` stores in every node."""
    for node in graph.all_nodes():
        node.metadata_props.pop("pkg.torch.onnx.stack_trace", None)


def _failing_batch(path: Path, strategy: Strategy) -> Path:
    """Return the name that a failing batch is kept under in the working directory, as `publish` does."""
    return Path(f"{path.stem}.{str(strategy).replace(', ', '.').replace(' ', '_')}.onnx")


# ---------------------------------------------------------------- files


def _move(folder: Path, path: Path) -> None:
    """Move the files to their final place: the weights first, and then the model that refers to them."""
    for file in sorted(folder.iterdir(), key=lambda file: file.name == path.name):
        file.replace(path.parent / file.name)
