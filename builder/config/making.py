"""Make the config.pbtxt of a version: a new one, or the existing one with only the necessary changes."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from builder.config import batching, pbtxt, policy, settings, warmup
from builder.config.completing import complete, list_tensor
from builder.config.interface import Interface, batch_contradictions, interface_of, is_partial, misfit
from builder.config.lineage import PREVIOUS
from builder.config.options import PROVENANCE_PREFIX, THREADS, ConfigOptions
from builder.config.pbtxt import FILE, messages
from builder.config.plans import PLATFORMS, forget_plans, leave_plans, name_plans, unread
from builder.config.rules import disagreements, problems
from builder.config.unknown import check_spelling, unknown_fields
from builder.errors import ModelError, RepositoryError
from builder.record import Manifest, ServedTensor
from builder.tensors import Array

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

_MOST_REASONS = 10


@dataclass(frozen=True, slots=True)
class ExistingConfig:
    """The config.pbtxt that is there.

    Attributes:
        text: Its content.
        served: The manifest of the version it serves; None when this package did not publish that version.
        path: The file.
    """

    text: str
    served: Manifest | None
    path: Path


@dataclass(frozen=True, slots=True)
class Config:
    """A finished config.pbtxt, and the files that it names.

    Attributes:
        text: The content of config.pbtxt.
        warmup: The content of the files in the model's `warmup` folder, by name.
        notes: What the operator should know, one sentence each.
        labels: The content of the label files in the model's folder, by name.
    """

    text: str
    warmup: Mapping[str, bytes]
    notes: tuple[str, ...] = ()
    labels: Mapping[str, bytes] = field(default_factory=dict)


def make_config(
    manifest: Manifest,
    *,
    name: str,
    version: int,
    sample: Mapping[str, Array],
    options: ConfigOptions | None = None,
    existing: ExistingConfig | None = None,
    present: Iterable[int] = (),
    beside: Iterable[int] | None = None,
) -> Config:
    """Make the config that serves a version. In an existing config, change only what has to change.

    Args:
        manifest: The manifest of the version.
        name: The model's name, which is also its directory's.
        version: The version's number, from 1 up.
        sample: One row for each input, `dtype[*dims]`, to run when the model is loaded.
        options: What the caller asked for; an option wins over what the existing config says.
        existing: The config that is there; None makes a new one.
        present: The versions in the model's directory.
        beside: The versions to serve beside this one. By default the lower ones that the existing config serves.

    Raises:
        ModelError: Triton cannot serve one of the tensors.
        RepositoryError: The existing config cannot be read, it contradicts the version or the options, or the new one
            would be too long to be read again.
    """
    options = options or ConfigOptions()
    where = FILE if existing is None else existing.path
    config = _new_config(manifest, name) if existing is None else _parse(existing, manifest, name)
    largest = _max_batch_size(config, manifest, existing, options.max_batch_size)
    warmup_sizes = warmup.sizes(config, largest, options.warmup, is_new=existing is None)
    config.max_batch_size = largest
    if existing is not None:
        complete(config, manifest)
    _bind(config, manifest, name)
    if existing is None:
        policy.serve(config, {*(beside or ()), version}, ())
    else:
        policy.switch_to(config, version, present, beside=beside)
    labels = settings.apply(config, options, where=where)
    fix = "change the options" if existing is None else "correct this file, or change the options of publish"
    _refuse(where, _contradictions(config, manifest, name), fix)
    seen = interface_of(config, manifest, where=where)
    unfit = _check_warmup(seen, sample, options.warmup, where)
    # Not more than was proven: with --prove sample, a larger batch may not fit on this machine.
    proven = max(manifest.proof.batch_sizes, default=max(1, largest))
    fitting = {} if unfit else {min(size, proven): count for size, count in warmup_sizes.items()}
    files = warmup.write(config, seen, sample, fitting)
    written = (*labels, *(f"warmup/{file}" for file in files))
    _refuse(where, [*problems(config), *_missing(config, existing, written)], fix)
    text = pbtxt.render(config) if existing is None else pbtxt.edit(existing.text, config, where=where)
    pbtxt.check_length(text, where=where)
    notes = [*settings.notes(config, options, labels), *_notes(config, text, existing, where)]
    if unfit and warmup_sizes:
        notes.append(f"the model is not warmed up when it is loaded: {unfit}")
    return Config(text, files, tuple(notes), labels)


def _contradictions(config: "ModelConfig", manifest: Manifest, name: str) -> Iterator[str]:
    """Yield where a config contradicts the version."""
    yield from disagreements(config, manifest, name)
    why = _why_gpu(manifest)
    cpu = messages().ModelInstanceGroup.KIND_CPU
    if why is not None and any(group.kind == cpu for group in config.instance_group):
        yield f"an instance_group is KIND_CPU, but {why}"


def _why_gpu(manifest: Manifest) -> str | None:
    """Return why a version must not run on a CPU; None if it may."""
    if manifest.options.get("precision") == "bf16":
        return "ONNX Runtime computes in bf16 only on GPUs"
    if manifest.quantization is not None and manifest.quantization.runtime == "tensorrt":
        return "the model is quantized for TensorRT, and sums of its products can overflow on a CPU"
    return None


def _missing(config: "ModelConfig", existing: ExistingConfig | None, written: Iterable[str]) -> Iterator[str]:
    """Yield which files a finished config names that are neither in the model's folder nor written with the config."""
    if existing is None or existing.path.is_file():
        folder = None if existing is None else existing.path.parent
        yield from settings.file_problems(config, folder, set(written))


def check_config(text: str, manifest: Manifest, *, name: str, where: object, folder: Path | None = None) -> None:
    """Check that Triton would load a version with this config.

    Args:
        text: The config.
        manifest: The manifest of the version that it serves.
        name: The model's name, which is also its directory's.
        where: The file, for messages.
        folder: The model's folder, to check that the files are there which the config names; None leaves that out.

    Raises:
        RepositoryError: The config cannot be read, Triton would refuse it, or it contradicts the version.
    """
    config = pbtxt.parse(text, where=where)
    check_spelling(text, where=where)
    fix = "correct this file, or publish the model again under another name with --name"
    reasons = [*disagreements(config, manifest, name), *batch_contradictions(config, manifest)]
    _refuse(where, reasons, fix)
    complete(config, manifest)
    missing = () if folder is None else settings.file_problems(config, folder)
    if own := _warmup_problems(config):
        _refuse(where, own, "publish the model again, which writes its warm-up anew, or remove these entries")
    _refuse(where, [*problems(config), *missing], fix)
    if config.max_batch_size > manifest.max_batch_size:
        what, fix = _unproven(config.max_batch_size, manifest.max_batch_size, is_asked=False)
        raise RepositoryError(where, f"max_batch_size is {config.max_batch_size}, but {what}", fix)


def _warmup_problems(config: "ModelConfig") -> list[str]:
    """Return what is wrong with our entries of model_warmup."""
    return [what for what in problems(config) if what.startswith(f"model_warmup '{warmup.PREFIX}")]


def renew_warmup(
    config: "ModelConfig", manifest: Manifest, sample: Callable[[], Mapping[str, Array]], *, where: object
) -> Mapping[str, bytes]:
    """Write our entries of model_warmup again if Triton would refuse them, as after an edit of the dims by hand.

    Args:
        config: The config, which is changed.
        manifest: The manifest of the version that it serves.
        sample: Reads one row for each input, `dtype[*model dims]`.
        where: The file, for messages.

    Returns:
        The files that the new entries name.

    Raises:
        RepositoryError: The config contradicts the version.
    """
    if not _warmup_problems(config):
        return {}
    seen, row = interface_of(config, manifest, where=where), sample()
    if misfit(seen, {name: value[np.newaxis] for name, value in row.items()}) is not None:
        warmup.replace(config, [])
        return {}
    sizes = {entry.batch_size: entry.count for entry in warmup.own_entries(config)}
    return warmup.write(config, seen, row, sizes)


def point_at(
    existing: str, version: int, present: Iterable[int], *, where: object, beside: Iterable[int] | None = None
) -> Config:
    """Make the config that serves a version which this package did not publish.

    Of the existing config only the version_policy changes, and what describes another version is removed.

    Raises:
        RepositoryError: The existing config cannot be read.
    """
    config = pbtxt.parse(existing, where=where)
    check_spelling(existing, where=where)
    policy.switch_to(config, version, present, beside=beside)
    _drop_provenance(config)
    forget_plans(config)
    warmup.replace(config, [])
    text = pbtxt.edit(existing, config, where=where)
    pbtxt.check_length(text, where=where)
    return Config(text, {})


def _parse(existing: ExistingConfig, manifest: Manifest, name: str) -> "ModelConfig":
    """Read the existing config, and refuse one that contradicts the new version."""
    config = pbtxt.parse(existing.text, where=existing.path)
    check_spelling(existing.text, where=existing.path)
    name_plans(config, manifest)
    is_of_others = existing.served is None or existing.served.adopted
    if is_of_others and manifest.max_batch_size > 0 and batching.can_get_batch(config):
        batching.give_batch(config, manifest.max_batch_size)
    fix = "correct this file, or publish the model under another name with --name"
    _refuse(existing.path, disagreements(config, manifest, name), fix)
    return config


def _max_batch_size(
    config: "ModelConfig", manifest: Manifest, existing: ExistingConfig | None, asked: int | None
) -> int:
    """Return what was asked for, or else what was set by hand, or else what the version was proven for.

    "Set by hand" means that the config says something else than the manifest of the version it serves. Examples, for
    a new version that was proven up to batch 32:

        asked   config says   served version proven for   result
        -       (none yet)    -                           32
        -       8             8                           32: the config just followed the served version
        -       4             8                           4: somebody chose 4
        16      4             8                           16
        -       64            8                           refused: 64 was not proven
        -       0             8                           refused: the version has a batch, the config none
        -       0, no inputs  8                           32: the config left it to Triton
        -       0, dims [1,…] (not published here)        32: the first dimension becomes the batch

    Raises:
        RepositoryError: The result was not proven, or only one of the two sides has a batch.
    """
    current, proven = config.max_batch_size, manifest.max_batch_size
    is_left_to_triton = current == 0 and is_partial(config)
    is_set_by_hand = existing is not None and (existing.served is None or existing.served.max_batch_size != current)
    is_set_by_hand = is_set_by_hand and not is_left_to_triton
    wanted = asked if asked is not None else current if is_set_by_hand else proven
    has_same_kind = (wanted == 0) == (proven == 0)
    if has_same_kind and wanted <= proven:
        return wanted
    what, fix = _unproven(wanted, proven, is_asked=asked is not None)
    raise RepositoryError(FILE if existing is None else existing.path, f"max_batch_size is {wanted}, but {what}", fix)


def _unproven(wanted: int, proven: int, *, is_asked: bool) -> tuple[str, str]:
    """Say why a version that was proven up to one batch size cannot be served with another, and what to do."""
    if proven == 0:
        fix = "leave out --max-batch-size" if is_asked else "set max_batch_size to 0 in this file"
        return "this version has no batch", fix
    if wanted == 0:
        return "this version has a batch", f"set max_batch_size to {proven} in this file, or publish with --static"
    prove = f"publish with --max-batch-size {wanted}, which proves it"
    fix = prove if is_asked else f"set max_batch_size to {proven} or less in this file, or {prove}"
    return f"this version was proven only up to {proven}", fix


def _refuse(where: object, reasons: Iterable[str], fix: str) -> None:
    if found := list(reasons):
        more = f"; and {len(found) - _MOST_REASONS:,} more" if len(found) > _MOST_REASONS else ""
        raise RepositoryError(where, "; ".join(found[:_MOST_REASONS]) + more, fix)


def _notes(config: "ModelConfig", text: str, existing: ExistingConfig | None, where: object) -> Iterator[str]:
    """Yield what does not stop Triton from loading the model, but may not be what the operator wants."""
    before = None if existing is None else pbtxt.parse(existing.text, where=where)
    if before is not None and config.max_batch_size > 0 and batching.can_get_batch(before):
        yield "the first dimension of every input and output, which was 1, is the batch now"
    yield from unread(config)
    for unknown in unknown_fields(text):
        yield f"{where}, {unknown}; Triton may not know it either, and then it does not load the model"
    kinds = {group.kind for group in config.instance_group}
    instances = sum(group.count for group in config.instance_group)
    runs_only_on_gpus = kinds == {messages().ModelInstanceGroup.KIND_GPU}
    if instances > 1 and not runs_only_on_gpus and THREADS not in config.parameters:
        yield (
            f"on a CPU each of the {instances} instances starts a thread for every core; "
            "limit them with --intra-op-thread-count"
        )


def _new_config(manifest: Manifest, name: str) -> "ModelConfig":
    config = messages().ModelConfig(name=name)
    for side, tensors in (("input", manifest.inputs), ("output", manifest.outputs)):
        for tensor in tensors:
            _add_tensor(getattr(config, side), tensor, manifest.max_batch_size)
    if manifest.max_batch_size > 0:
        config.dynamic_batching.SetInParent()
    config.instance_group.add(count=1, kind=messages().ModelInstanceGroup.KIND_AUTO)
    return config


def _check_warmup(seen: Interface, sample: Mapping[str, Array], asked: bool | None, where: object) -> str | None:
    """Say why the sample cannot warm the model up, because no client could send it; None when it can.

    Raises:
        RepositoryError: It cannot, and the caller asked for a warmup.
    """
    what = misfit(seen, {name: value[np.newaxis] for name, value in sample.items()})
    if what is not None and asked:
        fix = "publish with samples of that size with --samples FILE.npz, or without --warmup"
        raise RepositoryError(where, f"no stored sample can warm the model up: {what}", fix)
    return what


def _add_tensor(target: Any, tensor: ServedTensor, max_batch_size: int) -> None:
    """Add a tensor to the inputs or outputs."""
    if not tensor.dims and max_batch_size == 0:
        raise ModelError(
            f"tensor {tensor.name!r}",
            "it is a scalar, which Triton can serve only with a batch",
            "export the model with the shape [1] there",
        )
    list_tensor(target, tensor, has_batch=max_batch_size > 0)


def _bind(config: "ModelConfig", manifest: Manifest, name: str) -> None:
    """Write what depends on the version: its backend, and where it came from."""
    backend = manifest.backend
    config.name = name
    name_plans(config, manifest)
    if backend != "tensorrt":
        leave_plans(config)
    if config.backend or not config.platform:
        config.backend = backend
    if config.platform:
        config.platform = PLATFORMS[backend]
    _suit_precision(config, manifest)
    _drop_provenance(config)
    provenance = {
        "version": manifest.builder,
        "source_file": manifest.source.file,
        "source_sha256": manifest.source.sha256,
        "model_sha256": manifest.model.sha256,
    }
    for key, value in provenance.items():
        config.parameters[PROVENANCE_PREFIX + key].string_value = value


def _suit_precision(config: "ModelConfig", manifest: Manifest) -> None:
    """Turn off layout optimizations for fp16, which can crash on a CPU, and put on GPUs what is right only there."""
    kinds = messages().ModelInstanceGroup
    precision = manifest.options.get("precision")
    if precision == "fp16" and config.backend == "onnxruntime" and not config.optimization.HasField("graph"):
        config.optimization.graph.level = 1
    if _why_gpu(manifest) is not None:
        for group in config.instance_group:
            group.kind = kinds.KIND_GPU if group.kind == kinds.KIND_AUTO else group.kind


def _drop_provenance(config: "ModelConfig") -> None:
    for key in [key for key in config.parameters if key.startswith(PROVENANCE_PREFIX) and key != PREVIOUS]:
        del config.parameters[key]
