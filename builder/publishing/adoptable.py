"""Prove one version that is in a repository already, as it is and under the config that serves it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from builder import bounded
from builder.batching import BatchedModel, add_batch_axis, keep_static
from builder.bounded import Limits, during
from builder.config import Interface, check_config, completing, interface, pbtxt
from builder.errors import ModelError, RepositoryError, VerificationError
from builder.model import Model, load
from builder.naming import Contract, rename
from builder.printable import counted, was
from builder.progress import Report
from builder.proof import (
    MOST_TOGETHER,
    AccuracyOptions,
    Batches,
    Effort,
    OriginalRuns,
    Session,
    as_it_is,
    measure_original,
)
from builder.publishing.advice import advised
from builder.publishing.batch import make_batch_dynamic
from builder.publishing.blame import blamed
from builder.publishing.options import PublishOptions
from builder.publishing.version_files import source_of
from builder.record import REFERENCE_FILE, Manifest, ModelFile, OutputProof, Proof, ReferenceFile, ServedTensor
from builder.repository import Kind, ModelDirectory
from builder.samples import ask_sizes, read_samples, refuse_batch_sizes
from builder.tensors import Array
from builder.version import __version__


@dataclass(frozen=True, slots=True)
class AdoptOptions:
    """What the caller of `adopt` can ask for.

    Attributes:
        version: The version to adopt. Default: every version that is served.
        original: The ONNX file that gives the right answers. Default: the version itself, one sample at a time.
        samples: An `.npz` file of inputs to compare on. Default: random inputs.
        sizes: The sizes of dynamic axes in random inputs, by name or by `INPUT:AXIS`. Default: sizes that work.
        max_batch_size: The largest batch to prove. Default: the one that is served.
        effort: `sample` compares a few batch sizes, `full` every one up to the largest.
        accuracy: What the caller asks about the accuracy on `samples` with labels. Default: it is measured, and not
            limited.
        dry_run: Prove the versions, but write nothing.
        lock_timeout_s: How long to wait while somebody else changes the repository, in seconds. Default: until it is
            free.
        limits: How much time and memory the proof may take.
    """

    version: int | None = None
    original: Path | None = None
    samples: Path | None = None
    sizes: Mapping[str, int] = field(default_factory=dict)
    max_batch_size: int | None = None
    effort: Effort = "sample"
    accuracy: AccuracyOptions = field(default_factory=AccuracyOptions)
    dry_run: bool = False
    lock_timeout_s: float | None = None
    limits: Limits = field(default_factory=Limits)

    def to_manifest(self) -> dict[str, Any]:
        """Return what the proof depended on, as `manifest.json` records it; defaults are left out."""
        given: dict[str, Any] = {
            "original": "" if self.original is None else self.original.name,
            "samples": "" if self.samples is None else self.samples.name,
            "size": dict(self.sizes),
            "prove": "" if self.effort == "sample" else self.effort,
        }
        return {option: value for option, value in given.items() if value} | self.accuracy.to_manifest()


@dataclass(frozen=True, slots=True)
class Adoptable:
    """A version that gave the right answers.

    Attributes:
        manifest: What it is, and how it was proven.
        reference: The samples and the right answers: `input:NAME` and `output:NAME`, each `[rows, *dims]`.
        config: The config that says what Triton makes up for the model; None when it has a config.
        notes: What the caller should know, one sentence each.
    """

    manifest: Manifest
    reference: Mapping[str, Array]
    config: str | None
    notes: tuple[str, ...]


def prove_version(
    directory: ModelDirectory,
    version: int,
    text: str | None,
    kind: Kind,
    options: AdoptOptions,
    report: Report,
) -> Adoptable:
    """Prove a version. This is to run in a child process with limits, because it works on a file of others.

    Args:
        directory: The model's folder.
        version: The version's number.
        text: The text of the model's config; None when it has none.
        kind: What the model is.
        options: What the caller asked for.
        report: Called with each step and what it found.

    Raises:
        ModelError: The file cannot be read, or its samples cannot be separated.
        RepositoryError: Triton would not load it with this config.
        VerificationError: An answer is not the right one.
    """
    path = _file_of(directory.version_dir(version), kind)
    options.accuracy.check()
    with during("it is read"):
        model = load(path)
        model = ask_sizes(model, options.sizes if options.original is None else {})
    bounded.expect(sum(file.stat().st_size for file in model.files), all_sizes=options.effort == "full")
    whole = keep_static(model)
    session = as_it_is.open_file(whole)
    config = pbtxt.parse(text or "", where=directory.config_path)
    served = completing.largest_batch(config, session.shapes.values())
    _check_batch(directory, path, session, served)
    with blamed(model), advised(model, PublishOptions(samples=options.samples)):
        batched = keep_static(model) if served == 0 else _kept(model, directory.name)
        refuse_batch_sizes(batched)
        manifest = _manifest(directory, version, batched, session, _largest(served, options.max_batch_size, path))
        seen = interface.interface_of(config, manifest, where=directory.config_path)
        truth = batched if options.original is None else _truth(options, batched, manifest)
        own = None if options.samples is None else read_samples(options.samples, truth)
        tell = partial(report, "accuracy")
        baseline = measure_original(truth, own, options.accuracy, is_lowered=False, report=tell)
        report("verify", "running it at several batch sizes" if served else "running it")
        with during("its answers are compared"):
            proven = as_it_is.prove_file(
                batched,
                session,
                truth=truth,
                max_batch_size=max(1, manifest.max_batch_size),
                pinned=_pinned(truth, seen),
                samples=own,
                effort=options.effort,
            )
        accuracy = None
        if baseline is not None:
            together = min(MOST_TOGETHER, max(proven.proof.batch_sizes, default=1))
            accuracy = baseline.measure(Batches(session.run, batched.is_static, together), report=tell)
            baseline.check(accuracy)
            tell(str(accuracy))
    _check_sizes(directory, seen, proven.reference)
    manifest = replace(
        manifest,
        source=source_of(truth),
        options=options.to_manifest(),
        proof=proven.proof,
        reference=ReferenceFile(REFERENCE_FILE, proven.proof.rows),
        accuracy=accuracy,
    )
    made = None
    if text is not None:
        check_config(text, manifest, name=directory.name, where=directory.config_path)
    else:
        config.backend, config.max_batch_size = manifest.backend, manifest.max_batch_size
        completing.complete(config, manifest)
        made = pbtxt.render(config)
    return Adoptable(manifest, proven.reference, made, tuple(_notes(batched, proven, version)))


def _file_of(folder: Path, kind: Kind) -> Path:
    """Return the .onnx file of a version, which may be in a folder that has the file's name.

    Raises:
        RepositoryError: There is none, or the version is a link.
    """
    if folder.is_symlink():
        fix = "put a real folder there: nothing is written through a link"
        raise RepositoryError(folder, "this version is a link", fix)
    file = folder / kind.file
    file = file / "model.onnx" if file.is_dir() else file
    if not file.is_file():
        raise RepositoryError(folder, f"this version has no {kind.file}", "put its file there, or name another version")
    return file


def _check_batch(directory: ModelDirectory, path: Path, session: Session, served: int) -> None:
    """Refuse a config with a batch for a file whose batch is fixed, which Triton does not load."""
    fixed = [name for name, shape in session.shapes.items() if shape[:1] != (-1,)]
    if served and fixed:
        what = (
            f"max_batch_size is {served}, but the first dimension of {fixed[0]!r} is fixed, so Triton does not load it"
        )
        raise RepositoryError(directory.config_path, what, _publish(path, directory.name))


def _publish(path: Path, name: str) -> str:
    return f"run `python -m builder publish {path} --name {name}`, which makes its batch dynamic in a new version"


def _kept(model: Model, name: str) -> BatchedModel:
    """Return the model as it is, if its body works at every batch size as its file says.

    Raises:
        ModelError: It mixes the samples of a batch, or works at one batch size only.
    """
    with during("its batch is looked for"):
        batched = add_batch_axis(model, original=OriginalRuns(model))
    if not batched.is_kept:
        what = (
            f"its file takes any batch size, but its nodes are made for {counted(batched.static_batch, 'sample')}, "
            "or give one scale to a whole batch"
        )
        raise ModelError(model.path, what, _publish(model.path, name))
    return batched


def _largest(served: int, asked: int | None, path: Path) -> int:
    """Return the largest batch to prove.

    Raises:
        RepositoryError: What was asked for is less than what is served, or there is no batch.
    """
    if asked is None:
        return served
    if served == 0:
        raise RepositoryError(path, "it is served without a batch", "leave out --max-batch-size")
    if asked < served:
        what = f"it is served with batches of up to {served}, so proving {asked} is not enough"
        raise RepositoryError(path, what, f"leave out --max-batch-size, or give {served} or more")
    return asked


def _manifest(
    directory: ModelDirectory, version: int, batched: BatchedModel, session: Session, max_batch_size: int
) -> Manifest:
    """Return the manifest as far as it is known before the proof."""
    model, folder = batched.original, directory.version_dir(version).resolve()
    if model.zipmaps:
        what = f"output {min(model.zipmaps)!r} is a list of dictionaries, which Triton does not load"
        raise ModelError(model.path, what, _publish(model.path, directory.name))
    try:
        paths = {file.resolve().relative_to(folder).as_posix(): file for file in model.files}
    except ValueError as error:
        fix = "copy the files into the version's folder: nothing outside it is proven"
        raise RepositoryError(model.path, "it is a link to a file outside the version's folder", fix) from error
    skipped = 0 if batched.is_static else 1

    def served(tensor_name: str, described: ServedTensor) -> ServedTensor:
        return replace(described, dims=session.shapes[tensor_name][skipped:])  # as Triton compares them with the config

    inputs = tuple(served(tensor.original, ServedTensor.of(tensor)) for tensor in batched.inputs)
    outputs = tuple(served(tensor.original, ServedTensor.of(tensor)) for tensor in batched.outputs)
    nothing = {tensor.name: OutputProof(0.0, 0.0, None) for tensor in outputs}
    return Manifest(
        builder=__version__,
        max_batch_size=max_batch_size,
        source=source_of(batched),
        options={},
        model=ModelFile.of(next(iter(paths)), paths, known=model.digests),
        inputs=inputs,
        outputs=outputs,
        rewrites=(),
        proof=Proof((), 1, "", nothing),
        reference=ReferenceFile(REFERENCE_FILE, 1),
        adopted=True,
    )


def _truth(options: AdoptOptions, batched: BatchedModel, manifest: Manifest) -> BatchedModel:
    """Return the original that the version was made from, with the version's names.

    Raises:
        ModelError: It cannot be read, its batch cannot be made dynamic, or it has other inputs and outputs.
    """
    assert options.original is not None
    with during("the original is read"):
        model = ask_sizes(load(options.original), options.sizes)
    found = make_batch_dynamic(model, PublishOptions(is_static=batched.is_static))
    return rename(found, contract=Contract(manifest.inputs, manifest.outputs))


def _pinned(truth: BatchedModel, seen: Interface) -> dict[str, int]:
    """Return the size of each dynamic dimension for which the config allows only one, by the dimension's name."""
    allowed = {tensor.name: tensor.model_dims for tensor in seen.inputs}
    return {
        dim: size
        for tensor in truth.inputs
        for dim, size in zip(tensor.dims, allowed[tensor.name], strict=False)
        if isinstance(dim, str) and size > 0
    }


def _check_sizes(directory: ModelDirectory, seen: Interface, reference: Mapping[str, Array]) -> None:
    """Refuse samples that no client can send under this config.

    Raises:
        VerificationError: The config fixes a size that they do not have.
    """
    samples = {tensor.name: reference[f"input:{tensor.name}"] for tensor in seen.inputs}
    if (misfit := interface.misfit(seen, samples)) is not None:
        fix = "give samples of that size with --samples FILE.npz, or that size with --size"
        raise VerificationError(directory.config_path, misfit, fix)


def _notes(batched: BatchedModel, proven: as_it_is.ProvenFile, version: int) -> Iterator[str]:
    if batched.undecided:
        yield (
            "the graph does not show whether the samples of a batch are independent, so more batch sizes were run: "
            f"{'; '.join(batched.undecided)}"
        )
    yield from (f"version {version}: {note}" for note in proven.notes)
    if proven.constant_outputs:
        names = ", ".join(proven.constant_outputs)
        yield f"version {version}: all samples give the same {names}, so the proof says little about it"
    if rows := proven.undecided_rows:
        yield f"version {version}: {counted(rows, 'sample')} {was(rows)} left out, because rounding decides the answer"
    if proven.stale_shapes:
        names = ", ".join(proven.stale_shapes[:5])
        yield f"version {version}: its file declares other shapes than {names} have, so servers warn at every request"
    if proven.proof.effort == "off":
        yield f"version {version}: its answers to batches were not compared (--prove off)"
