"""Publish a model: the steps in order, each taking the result of the one before.

load → add_batch_axis → rename → fit → lower → verify → compile_plan → install

`fit`, `lower` and `compile_plan` run only when they are asked for. All but `install` runs in a child process
with limits of time and memory, because what they take depends on the file.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from builder import bounded
from builder.batching import BatchedModel
from builder.bounded import during
from builder.config import ConfigOptions, check_options, make_profiles
from builder.errors import BuilderError, HostError, ModelError, RepositoryError
from builder.lowering import TARGETS, fit
from builder.model import Model, fix_inputs, keep_outputs, load
from builder.naming import Contract, rename
from builder.progress import Report, silent
from builder.publishing import summary
from builder.publishing.advice import advised
from builder.publishing.batch import make_batch_dynamic
from builder.publishing.blame import blamed
from builder.publishing.compiling import compile_proven
from builder.publishing.contracts import ForeignVersion, find_contract, read_contract
from builder.publishing.installing import check_early, install
from builder.publishing.lowered import baseline_of, prove_lowered
from builder.publishing.options import Origin, PublishOptions
from builder.publishing.plan_building import build_plans, find_compiler
from builder.publishing.plan_files import KeptPlans, ServedPlans, find_served
from builder.publishing.version_files import make_artifact
from builder.record import Manifest
from builder.repository import Artifact, PublishedVersion, Repository
from builder.samples import ask_sizes, ask_sizes_of, read_samples
from builder.tensorrt import CompiledModel

MAX_BATCH_SIZE = 32
"""The largest batch size when neither the caller nor an existing config gives one."""


@dataclass(frozen=True, slots=True)
class Publication:
    """What was published.

    Attributes:
        name: The model's name in the repository.
        version: The version that is served now, and whether it is new.
        manifest: What it is, and how it was proven.
        notes: What the caller should know, one sentence each.
    """

    name: str
    version: PublishedVersion
    manifest: Manifest
    notes: tuple[str, ...]


def publish(
    path: Path,
    root: Path,
    *,
    name: str | None = None,
    options: PublishOptions,
    report: Report = silent,
    origin: Origin | None = None,
) -> Publication:
    """Publish the ONNX model at `path` into the model repository at `root`; if a step fails, nothing on disk changes.

    Args:
        path: The .onnx file.
        root: The repository; it is created if there is none.
        name: The model's name in the repository; by default `model_name_of(path)`.
        options: What the caller asked for.
        report: Called with each step's name and what it found.
        origin: Where the file comes from. Default: it was here.

    Raises:
        ModelError: The model cannot be read or batched, or its interface is not the served version's.
        VerificationError: The rewritten model's answers are not the original's.
        RepositoryError: The repository cannot be changed.
        HostError: A TensorRT plan was asked for, but this machine has no GPU or no TensorRT; or the work on the file
            needs more time or memory than it may take.
    """
    repository = Repository(root, report=report, lock_timeout_s=options.lock_timeout_s)
    name = model_name_of(path) if name is None else name
    contract = find_contract(repository.model(name), is_static=options.is_static)
    repository.check_writable(name)
    _check_settings(repository, name, options)
    check_early(repository.model(name), serve=options.serve, beside=options.serve_also)
    model = repository.model(name)
    there = _Present(contract, model.max_batch_size(), model.kind().file, find_served(model))
    ready = bounded.run(
        partial(_prepare, path, options, there, origin or Origin()),
        where=path,
        limits=options.limits,
        report=report,
        has_gpu=options.format == "tensorrt",
    )
    version = install(
        repository,
        name,
        ready.artifact,
        ready.config,
        serve=options.serve,
        beside=options.serve_also,
        dry_run=options.dry_run,
    )
    _tell(report, "install", summary.of_version(version))
    return Publication(name, version, ready.artifact.manifest, (*version.notes, *ready.notes))


@dataclass(frozen=True, slots=True)
class _Present:
    """What a new version has to agree with.

    Attributes:
        interface: What clients of the served version rely on, or where to read it; None when there is none.
        max_batch_size: The one of the config that is there; None when there is none.
        file: The name that Triton looks for in a version's directory.
        plans: The served version, if it has plans; None otherwise.
    """

    interface: Contract | ForeignVersion | None
    max_batch_size: int | None
    file: str
    plans: ServedPlans | None


@dataclass(frozen=True, slots=True)
class _Ready:
    """A proven version: what to install, what to set in its config.pbtxt, and what the caller should know."""

    artifact: Artifact
    config: ConfigOptions
    notes: tuple[str, ...]


def _prepare(
    path: Path,
    options: PublishOptions,
    there: _Present,
    origin: Origin,
    report: Report,
) -> _Ready:
    """Do all steps that work on the file."""
    options.check()
    host = find_compiler(options)
    contract = there.interface
    if isinstance(contract, ForeignVersion):
        contract = read_contract(contract, is_static=options.is_static)
    with during("it is read"):
        loaded = ask_sizes(keep_outputs(load(path), options.outputs), options.sizes)
        if options.samples is not None:
            loaded = ask_sizes_of(loaded, options.samples, options.batch_axes)
        model = fix_inputs(loaded, options.constants)
    bounded.expect(sum(file.stat().st_size for file in model.files), all_sizes=options.effort == "full")
    with blamed(model), _explained(model), advised(loaded, options, is_module=origin.is_module):
        _tell(report, "load", summary.of_model(model))
        batched = _make_batch_dynamic(model, options, report)
        batched = _rename(batched, options, contract, report)
        samples = None if options.samples is None else read_samples(options.samples, batched)
        if options.triton is not None:
            batched = fit(batched, TARGETS[options.triton])
        largest = options.config.max_batch_size or there.max_batch_size or MAX_BATCH_SIZE
        config = _add_profiles(options, batched, largest)
        baseline = baseline_of(batched, options, samples, report)
        compiled: CompiledModel | None = None
        kept = KeptPlans()
        if host is None:
            proven = prove_lowered(batched, options, samples, largest, report, baseline=baseline)
        else:
            profiles, served = config.profiles, there.plans
            proven, (compiled, kept) = compile_proven(
                batched,
                options,
                samples,
                largest,
                report,
                profiles=profiles,
                compile_model=partial(
                    build_plans,
                    served=served,
                    profiles=profiles,
                    options=options,
                    host=host,
                    report=report,
                    baseline=baseline,
                ),
                baseline=baseline,
            )
        artifact = make_artifact(
            proven,
            options,
            max_batch_size=largest,
            compiled=compiled,
            kept=kept,
            file=there.file,
            download=origin.download,
        )
    labelled = _add_labels(config, artifact.manifest, origin.class_labels)
    notes = (*summary.notes(proven.verified, artifact.manifest), *(() if baseline is None else baseline.notes))
    return _Ready(artifact, labelled, notes)


def _add_labels(config: ConfigOptions, manifest: Manifest, files: Mapping[str, Path]) -> ConfigOptions:
    """Return the options with the labels that came with the model, by the names that its outputs have now."""
    own = {output.name: files[output.original] for output in manifest.outputs if output.original in files}
    return replace(config, labels={**own, **config.labels})


def model_name_of(path: Path) -> str:
    """Return the default name of a model: its file's, with every character replaced that a URL would have to quote."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", path.stem).strip("._") or "model"


def _check_settings(repository: Repository, name: str, options: PublishOptions) -> None:
    """Refuse settings that contradict config.pbtxt now, because the proof can take minutes.

    Raises:
        RepositoryError: One of them does.
        ModelError: A file of labels cannot be used.
    """
    directory = repository.model(name)
    backend = "tensorrt" if options.format == "tensorrt" and options.fallback is None else "onnxruntime"
    check_options(
        replace(options.config, fallback=options.fallback),
        directory.find_config(),
        backend=backend,
        has_batch=not options.is_static,
        where=directory.config_path,
    )


@contextmanager
def _explained(model: Model) -> Iterator[None]:
    """If a step fails because somebody wrote to the model's files, or removed them, say that instead.

    To find out takes as long as hashing them, so it is done only for errors that a change may have caused: answers that
    differ, weights that are missing (OSError) or too short for their shape (ValueError), and what looks like a bug.

    Raises:
        RepositoryError: The files changed.
    """
    try:
        yield
    except (BuilderError, OSError, ValueError) as error:
        if isinstance(error, (HostError, ModelError, RepositoryError)) or not model.has_changed():
            raise
        what = "its files changed while it was being published"
        raise RepositoryError(model.path, what, "publish the model again") from error


def _make_batch_dynamic(model: Model, options: PublishOptions, report: Report) -> BatchedModel:
    batched = make_batch_dynamic(model, options)
    _tell(report, "batch", summary.of_batch(batched))
    return batched


def _rename(batched: BatchedModel, options: PublishOptions, contract: Contract | None, report: Report) -> BatchedModel:
    renamed = rename(
        batched,
        input_names=options.input_names,
        output_names=options.output_names,
        renames=options.renames,
        contract=contract,
    )
    _tell(report, "rename", summary.of_names(renamed))
    return renamed


def _add_profiles(options: PublishOptions, batched: BatchedModel, largest: int) -> ConfigOptions:
    """Return the options of config.pbtxt, with the shapes that TensorRT builds for if it is used at all."""
    config = options.config
    if options.format != "tensorrt" and config.accelerator is None:
        return config
    preferred = config.preferred_batch_sizes or ()
    profiles = make_profiles(batched, options.profiles, max_batch_size=largest, preferred=preferred)
    return replace(config, profiles=profiles, fallback=options.fallback)


def _tell(report: Report, step: str, lines: Iterable[str]) -> None:
    for line in lines:
        report(step, line)
