"""Publish a model: the steps in order, each taking what the one before has proven.

load -> add_batch_axis -> rename -> fit the target -> reduce precision -> verify -> compile -> install

What is not asked for is left out; compile makes a TensorRT plan, and install writes config.pbtxt too.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from builder.batching import BatchedModel, Rewrite, add_batch_axis, free_axes, keep_static, run_one_by_one
from builder.config import ConfigOptions, Shapes, make_profiles
from builder.errors import ModelError, RepositoryError
from builder.lowering import TARGETS, Precision, fit, reduce_precision
from builder.model import Model, fix_inputs, load
from builder.naming import Contract, rename
from builder.progress import Report
from builder.proof import Effort, VerifiedModel, verify
from builder.record import (
    Content,
    Manifest,
    ModelFile,
    Proof,
    ReferenceFile,
    ServedTensor,
    Source,
    check_served,
    manifest,
)
from builder.repository import Artifact, PublishedVersion, Repository
from builder.samples import read_samples
from builder.tensorrt import BuildOptions, CompiledModel, compile_plan, find_host
from builder.version import __version__

MAX_BATCH_SIZE = 32
"""The largest batch to prove where neither the caller nor an existing config says one."""

MODEL_FILE = "model.onnx"
PLAN_FILE = "model.plan"
REFERENCE_FILE = "reference.npz"


@dataclass(frozen=True, slots=True)
class PublishOptions:
    """What the caller asked for; what is left out takes this package's default, or what the served version has.

    Attributes:
        is_static: Keep the model as it is, without a batch.
        is_per_sample: Run each row of a batch by itself.
        input_names: Names for all inputs, in order.
        output_names: Names for all outputs, in order.
        renames: Names for single inputs or outputs, by the name in the file.
        dynamic: Other axes to make dynamic: by input, axis of the file's shape, and name.
        batch_axes: For inputs whose batch is not axis 0, the axis it is on; None where each sample brings its own.
        constants: Inputs to make constants: a number that fills them, or an .npy file.
        samples: An .npz with the caller's own samples.
        effort: How much the proof may cost.
        precision: What the model computes in; its inputs and outputs keep their types.
        max_error: How far floats may be off, as a part of their value and again of the output's largest one.
        triton: The release of the Triton container that will serve it, such as `26.10`.
        format: What Triton loads: the ONNX file, or a TensorRT plan of it.
        profiles: By input, shapes that TensorRT builds for.
        build: How to build a plan.
        config: What to set in config.pbtxt.
    """

    is_static: bool = False
    is_per_sample: bool = False
    input_names: tuple[str, ...] | None = None
    output_names: tuple[str, ...] | None = None
    renames: Mapping[str, str] = field(default_factory=dict)
    batch_axes: Mapping[str, int | None] = field(default_factory=dict)
    constants: Mapping[str, float | Path] = field(default_factory=dict)
    dynamic: Mapping[str, Mapping[int, str]] = field(default_factory=dict)
    samples: Path | None = None
    effort: Effort = "sample"
    precision: Precision = "fp32"
    max_error: float | None = None
    triton: str | None = None
    format: Literal["onnx", "tensorrt"] = "onnx"
    profiles: tuple[tuple[str, Shapes], ...] = ()
    build: BuildOptions = field(default_factory=BuildOptions)
    config: ConfigOptions = field(default_factory=ConfigOptions)


@dataclass(frozen=True, slots=True)
class Publication:
    """What was published.

    Attributes:
        name: The model's name in the repository.
        version: Where it is and whether it is new.
        manifest: What it is and how it was proven.
        notes: What the caller should know, one sentence each.
    """

    name: str
    version: PublishedVersion
    manifest: Manifest
    notes: tuple[str, ...]


def publish(
    path: Path, root: Path, *, name: str | None = None, options: PublishOptions, report: Report = lambda *_: None
) -> Publication:
    """Publish the ONNX model at `path` into the model repository at `root`.

    Raises:
        ModelError: The model is unreadable, cannot be batched or does not fit the served version's interface.
        VerificationError: The batched answers are not the original's.
        RepositoryError: The repository cannot take it. Nothing on disk changed, whatever the error.
        HostError: A plan was asked for, and here is no GPU or no TensorRT.
    """
    host = find_host() if options.format == "tensorrt" else None
    repository = Repository(root)
    name = model_name_of(path) if name is None else name
    contract = _contract(repository, name)
    repository.check_writable(name)
    model = fix_inputs(load(path), options.constants)
    report("load", describe(model))
    for constant in model.constants:
        report("load", f"input {constant!r} is a constant now")
    batched = _batch(model, options)
    check_served(batched)
    report("batch", _describe_batch(batched))
    for output, labels in model.zipmaps.items():
        report("batch", f"output {output!r} was a list of dictionaries; now a tensor, its columns {list(labels)}")
    batched = rename(
        batched,
        input_names=options.input_names,
        output_names=options.output_names,
        renames=options.renames,
        contract=contract,
    )
    report("rename", _describe_names(batched))
    samples = read_samples(options.samples, batched) if options.samples is not None else None
    if options.triton is not None:
        batched = fit(batched, TARGETS[options.triton])
    largest = options.config.max_batch_size or repository.model(name).max_batch_size() or MAX_BATCH_SIZE
    config = options.config
    if host is not None or config.accelerator is not None:
        preferred = config.preferred_batch_sizes or ()
        profiles = make_profiles(batched, options.profiles, max_batch_size=largest, preferred=preferred)
        config = replace(config, profiles=profiles)
    rounded = None
    if options.precision != "fp32":
        reduced = reduce_precision(batched, options.precision, samples=samples)
        batched, rounded = reduced.batched, reduced.rounded
        report("reduce", str(reduced.reduction))
    report("verify", "running the original and the batched model")
    verified = verify(
        batched,
        max_batch_size=largest,
        samples=samples,
        effort=options.effort,
        rounded=rounded,
        max_error=options.max_error,
    )
    report("verify", _describe_proof(verified))
    if verified.proof.other_sizes:
        report("verify", f"batches equal their rows alone at {_describe_sizes(verified.proof.other_sizes)}")
    if rounded is not None:
        for line in _describe_errors(verified):
            report("verify", line)
    compiled = None
    if host is not None:
        report("compile", f"TensorRT {host.tensorrt} on {host.gpu}; this takes minutes")
        build = replace(options.build, precision=options.precision)
        compiled = compile_plan(verified, config.profiles, build, host, report=lambda phase: report("compile", phase))
    artifact = _artifact(verified, options, largest, compiled)
    version = repository.install(name, artifact, config)
    report("install", f"{version.path}" if version.created else f"version {version.version} is this already")
    return Publication(name, version, artifact.manifest, (*version.notes, *_notes(verified, artifact.manifest)))


def _notes(verified: VerifiedModel, described: Manifest) -> Iterator[str]:
    if verified.constant_outputs:
        listed = ", ".join(verified.constant_outputs)
        yield f"the same for every sample, so the proof says little of it: {listed}"
    if verified.undecided_rows:
        yield f"{verified.undecided_rows} samples have two answers as good as equal and are not in the reference"
    if described.options.get("precision") == "bf16":
        yield "proven by its twin, fp32 rounded to bf16: ONNX Runtime runs no bf16 on a CPU, so serve it on a GPU"
    proven = max(described.proof.batch_sizes, default=0)
    if described.proof.effort == "off":
        yield "not proven: --prove off"
    elif proven < described.max_batch_size:
        yield f"proven up to batch {proven}, not {described.max_batch_size}: larger ones cost too much to run"


def model_name_of(path: Path) -> str:
    """The model's name when none is asked for: the file's, in characters that any client can write."""
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", path.stem).strip("._") or "model"


def _contract(repository: Repository, name: str) -> Contract | None:
    """The interface that clients of the served version rely on, where this package published it.

    A manifest that is damaged is no contract; what config.pbtxt says of the interface still is, at the install.
    """
    directory = repository.model(name)
    if directory.find_config() is None:
        return None
    served = directory.served_version()
    if not directory.is_published(served):
        return None
    try:
        found = directory.read_manifest(served)
    except RepositoryError:
        return None
    return Contract(found.inputs, found.outputs)


def _batch(model: Model, options: PublishOptions) -> BatchedModel:
    if options.is_static:
        return keep_static(model)
    if options.is_per_sample:
        return run_one_by_one(model, batch_axes=options.batch_axes)
    batched = add_batch_axis(model, batch_axes=options.batch_axes)
    return free_axes(batched, options.dynamic) if options.dynamic else batched


def _artifact(
    verified: VerifiedModel, options: PublishOptions, max_batch_size: int, compiled: CompiledModel | None
) -> Artifact:
    batched = verified.batched
    model = batched.original
    files: dict[str, Content] = _files(verified) if compiled is None else {PLAN_FILE: compiled.plan}
    described = Manifest(
        builder=__version__,
        max_batch_size=0 if batched.is_static else max_batch_size,
        source=Source(
            file=model.path.name,
            sha256=model.sha256,
            bytes=sum(file.stat().st_size for file in model.files),
            static_batch=batched.static_batch,
            producer=f"{model.ir.producer_name or ''} {model.ir.producer_version or ''}".strip(),
            opset={domain or "ai.onnx": version for domain, version in model.ir.opset_imports.items()},
        ),
        options=_shaping(options),
        model=ModelFile.of(MODEL_FILE if compiled is None else PLAN_FILE, files, known=model.digests),
        inputs=tuple(map(ServedTensor.of, batched.inputs)),
        outputs=tuple(map(ServedTensor.of, batched.outputs)),
        rewrites=tuple({"node": r.node, "op_type": r.op_type, "what": r.what} for r in _rewrites(batched)),
        proof=verified.proof if compiled is None else _proof_of_plan(verified, compiled),
        plan=None if compiled is None else compiled.facts,
        reference=ReferenceFile(REFERENCE_FILE, verified.proof.rows),
    )
    return Artifact(files, described, verified.reference, model.leases)


def _proof_of_plan(verified: VerifiedModel, compiled: CompiledModel) -> Proof:
    """The comparison that the plan passed, in place of the ONNX file's."""
    found = compiled.proven
    outputs = {
        name: replace(proof, largest_difference=found.largest[name], mean_difference=found.mean[name])
        for name, proof in verified.proof.outputs.items()
    }
    return replace(verified.proof, outputs=outputs, batch_sizes=compiled.batch_sizes)


def _rewrites(batched: BatchedModel) -> Iterator[Rewrite]:
    for output, labels in batched.original.zipmaps.items():
        yield Rewrite(output, "ZipMap", f"its dictionaries became a tensor with the columns {list(labels)}")
    for name in batched.original.constants:
        yield Rewrite(name, "Constant", "the input became a constant")
    yield from batched.rewrites


def _files(verified: VerifiedModel) -> dict[str, Content]:
    """`model.onnx`, and the files of its external weights at the same places beside it as in the source."""
    folder = verified.batched.original.path.parent.resolve()
    weights: dict[str, Content] = {file.relative_to(folder).as_posix(): file for file in verified.external_files}
    taken = weights.keys() & {MODEL_FILE, REFERENCE_FILE, manifest.FILE}
    if taken:
        raise ModelError(
            folder / taken.pop(), "a weight file has a name that the version needs", "export with another name for it"
        )
    return {MODEL_FILE: verified.model_bytes, **weights}


def _shaping(options: PublishOptions) -> dict[str, Any]:
    """The options that shape the bytes, as given."""
    given = {
        "static": options.is_static,
        "per_sample": options.is_per_sample,
        "input_names": list(options.input_names or ()),
        "output_names": list(options.output_names or ()),
        "rename": dict(options.renames),
        "batch_axis": dict(options.batch_axes),
        "constant": {
            name: value.name if isinstance(value, Path) else value for name, value in options.constants.items()
        },
        "dynamic": {name: {str(axis): size for axis, size in axes.items()} for name, axes in options.dynamic.items()},
        "samples": options.samples.name if options.samples is not None else None,
        "prove": options.effort if options.effort != "sample" else None,
        "precision": options.precision if options.precision != "fp32" else None,
        "max_error": options.max_error,
        "triton": options.triton,
        "format": options.format if options.format != "onnx" else None,
        "profile": [f"{name}={shapes}" for name, shapes in options.profiles if options.format == "tensorrt"],
        "version_compatible": options.build.version_compatible,
        "hardware_compatible": options.build.hardware_compatible,
    }
    return {key: value for key, value in given.items() if value}


def describe(model: Model) -> str:
    """A model in one line."""
    size = sum(file.stat().st_size for file in model.files)
    opset = model.ir.opset_imports.get("", model.ir.opset_imports.get("ai.onnx"))
    return f"{model.path.name}: {len(model.ir.graph)} nodes, opset {opset}, {size / 1e6:.1f} MB"


def _describe_batch(batched: BatchedModel) -> str:
    if batched.is_static:
        return "kept static on request"
    if any(rewrite.op_type == "Scan" for rewrite in batched.rewrites):
        return "each row runs by itself: right at every batch, and no faster than one at a time"
    if all(spec.shape and isinstance(spec.shape[0], str) for spec in batched.original.inputs) and not batched.rewrites:
        return "the batch is symbolic already"
    plural = "s" if len(batched.rewrites) != 1 else ""
    what = f"static batch {batched.static_batch} made dynamic; {len(batched.rewrites)} baked constant{plural} rewritten"
    others = dict.fromkeys(dim for tensor in batched.inputs for dim in tensor.dims if isinstance(dim, str))
    return f"{what}; dynamic too: {', '.join(others)}" if others else what


def _describe_sizes(sizes: Sequence[Mapping[str, int]]) -> str:
    return "; ".join(", ".join(f"{name}={size}" for name, size in each.items()) for each in sizes)


def _describe_names(batched: BatchedModel) -> str:
    def listed(tensors: Sequence[Any]) -> str:
        return ", ".join(t.name if t.name == t.original else f"{t.original} → {t.name}" for t in tensors)

    return f"{listed(batched.inputs)} | {listed(batched.outputs)}"


def _describe_proof(verified: VerifiedModel) -> str:
    sizes = ", ".join(map(str, verified.proof.batch_sizes))
    if verified.proof.effort == "off":
        return f"{verified.proof.rows} answers of the original kept; NOT compared with, on request"
    worst = max((proof.largest_difference or 0.0 for proof in verified.proof.outputs.values()), default=0.0)
    proven = f"{verified.proof.rows} rows equal the original's at batch {sizes}"
    if verified.batched.is_static:
        proven = f"{verified.proof.rows} answers equal the original's"
    return f"{proven}; largest difference {worst:.1e}"


def _describe_errors(verified: VerifiedModel) -> Iterator[str]:
    """How far each output of a model of lower precision is off, also as a part of its largest value."""
    for name, proof in verified.proof.outputs.items():
        if proof.largest_difference is not None and proof.mean_difference is not None:
            rows = verified.reference[f"output:{name}"]
            scale = float(np.abs(rows[np.isfinite(rows)]).max(initial=0.0)) if rows.dtype.kind == "f" else 0.0
            part = f", {proof.largest_difference / scale:.2%} of its largest value" if scale else ""
            yield f"{name}: largest error {proof.largest_difference:.1e}{part}; mean {proof.mean_difference:.1e}"
