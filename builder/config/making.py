"""Make config.pbtxt: complete, so that Triton needs to guess nothing, and kind to what was edited by hand."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from builder.config import pbtxt
from builder.config.pbtxt import messages
from builder.config.profiles import Profile
from builder.config.rules import BACKENDS, PLATFORMS, disagreements, problems
from builder.errors import ModelError, RepositoryError
from builder.record import Manifest, ServedTensor, raw_bytes
from builder.tensors import Array

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

FILE = "config.pbtxt"
THREADS = "intra_op_thread_count"
WARMUP_PREFIX = "reference_batch_"
"""Names of the model_warmup entries that belong to this package."""
PROVENANCE_PREFIX = "builder."
"""Keys of the parameters that belong to this package."""


@dataclass(frozen=True, slots=True)
class ConfigOptions:
    """What the caller asked of config.pbtxt; None is "as it stands", or this package's default in a new one.

    Attributes:
        max_batch_size: The largest batch, at most what was proven, which is the default.
        max_queue_delay_us: How long a request may wait for others. Default: not at all.
        preferred_batch_sizes: Batches to send off at once when reached. Default: none.
        instances: Copies of the model that run at the same time. Default: 1.
        kind: Where they run; `auto` is a GPU when the server has one. Default: auto.
        intra_op_thread_count: CPU threads of each instance. Default: one for each core of the server.
        warmup: Run reference samples at load, before the first request is taken. Default: yes.
        accelerator: Let the ONNX Runtime backend build TensorRT engines when it loads the model.
        profiles: For the accelerator the shapes to build for, and for a plan those it has: instances use each.
        cuda_graphs: Of a plan, record the launches at the batch sizes that Triton forms. Default: no.
    """

    max_batch_size: int | None = None
    max_queue_delay_us: int | None = None
    preferred_batch_sizes: tuple[int, ...] | None = None
    instances: int | None = None
    kind: Literal["auto", "cpu", "gpu"] | None = None
    intra_op_thread_count: int | None = None
    warmup: bool | None = None
    accelerator: Literal["tensorrt"] | None = None
    profiles: tuple[Profile, ...] = ()
    cuda_graphs: bool | None = None


@dataclass(frozen=True, slots=True)
class ExistingConfig:
    """The config.pbtxt that is there.

    Attributes:
        text: Its content.
        served: The manifest of the version it serves; None when another's hand put that there.
        path: Where it lies.
    """

    text: str
    served: Manifest | None
    path: Path


@dataclass(frozen=True, slots=True)
class Config:
    """A config.pbtxt, and the files that it names.

    Attributes:
        text: The content of config.pbtxt.
        warmup: The files of the model's `warmup` directory, by name.
        notes: What the operator should know, one sentence each.
    """

    text: str
    warmup: Mapping[str, bytes]
    notes: tuple[str, ...] = ()


def make_config(
    manifest: Manifest,
    *,
    name: str,
    version: int,
    sample: Mapping[str, Array],
    options: ConfigOptions | None = None,
    existing: ExistingConfig | None = None,
) -> Config:
    """Make the config that serves this version, changing in an existing one only what has to change.

    Args:
        manifest: What is served.
        name: The model's name, which is its directory's.
        version: The version to serve, from 1 up.
        sample: One row for each input, `dtype[*dims]`: the data of model_warmup.
        options: What the caller asked for; it wins over what stands in the existing config.
        existing: The config that is there.

    Raises:
        ModelError: Triton cannot serve such a tensor.
        RepositoryError: The existing config cannot be read, or it contradicts the new version or the options.
    """
    options = options or ConfigOptions()
    where = FILE if existing is None else existing.path
    config = _new_config(manifest, name) if existing is None else _parse(existing, manifest, name)
    largest = _max_batch_size(config, manifest, existing, options.max_batch_size)
    warmup_sizes = _warmup_sizes(config, largest, options.warmup, is_new=existing is None)
    config.max_batch_size = largest
    _bind(config, manifest, name, version)
    _apply(config, options, where)
    proven = max(manifest.proof.batch_sizes, default=max(1, largest))
    warmup = _warm_up(config, manifest, sample, {min(size, proven): times for size, times in warmup_sizes.items()})
    _refuse(where, problems(config))
    text = pbtxt.render(config) if existing is None else pbtxt.edit(existing.text, config, where=where)
    return Config(text, warmup, tuple(_notes(config, text, where)))


def served_version(config: "ModelConfig", *, where: object) -> int:
    """The one version that the config serves.

    Raises:
        RepositoryError: Its version_policy leaves the choice to Triton, or names several.
    """
    versions = config.version_policy.specific.versions
    if len(versions) != 1:
        raise RepositoryError(
            where,
            "its version_policy does not name one version, so switching to another is not one step",
            "write version_policy { specific { versions: [N] } } with the version to serve",
        )
    return int(versions[0])


def point_at(existing: str, version: int, *, where: object) -> Config:
    """Serve a version that was not published by this package: only what speaks of another version changes.

    Raises:
        RepositoryError: The existing config cannot be read.
    """
    config = pbtxt.parse(existing, where=where)
    config.version_policy.specific.versions[:] = [version]
    _drop_provenance(config)
    _replace_warmup(config, [])
    return Config(pbtxt.edit(existing, config, where=where), {})


def _parse(existing: ExistingConfig, manifest: Manifest, name: str) -> "ModelConfig":
    """Read the config that is there, and refuse one that the new version cannot fulfil."""
    config = pbtxt.parse(existing.text, where=existing.path)
    served_version(config, where=existing.path)
    _refuse(existing.path, disagreements(config, manifest, name))
    return config


def _max_batch_size(
    config: "ModelConfig", manifest: Manifest, existing: ExistingConfig | None, asked: int | None
) -> int:
    """What was asked for, or set by hand, or else what the version was proven for, which is also the bound."""
    current, proven = config.max_batch_size, manifest.max_batch_size
    set_by_hand = existing is not None and (existing.served is None or existing.served.max_batch_size != current)
    wanted = asked if asked is not None else current if set_by_hand else proven
    if wanted > proven or (wanted == 0) != (proven == 0):
        raise RepositoryError(
            FILE if existing is None else existing.path,
            f"max_batch_size {wanted} was not proven for this version, {proven} was",
            f"publish with --max-batch-size {wanted}, or set {proven} by hand" if proven else "set 0 by hand",
        )
    return wanted


def _refuse(where: object, reasons: Iterator[str]) -> None:
    if found := list(reasons):
        raise RepositoryError(
            where,
            "; ".join(found),
            "correct it by hand or change the options; to change the interface, publish under a new --name",
        )


def _notes(config: "ModelConfig", text: str, where: object) -> Iterator[str]:
    """What loads, but may not be what the operator wants."""
    if (unknown := pbtxt.unknown_fields(text)) is not None:
        yield f"{where} holds a field that this release does not know, and Triton may not either: {unknown}"
    kinds = {group.kind for group in config.instance_group}
    instances = sum(group.count for group in config.instance_group)
    if instances > 1 and kinds != {messages().ModelInstanceGroup.KIND_GPU} and THREADS not in config.parameters:
        yield f"on a CPU each of the {instances} instances starts a thread for every core: give each its share"


def _new_config(manifest: Manifest, name: str) -> "ModelConfig":
    config = messages().ModelConfig(name=name)
    for side, tensors in (("input", manifest.inputs), ("output", manifest.outputs)):
        for tensor in tensors:
            _add_tensor(getattr(config, side), tensor, manifest.max_batch_size)
    if manifest.max_batch_size > 0:
        config.dynamic_batching.SetInParent()
    config.instance_group.add(count=1, kind=messages().ModelInstanceGroup.KIND_AUTO)
    return config


def _add_tensor(target: Any, tensor: ServedTensor, max_batch_size: int) -> None:
    """List a tensor; a scalar per row needs dims [1] and a reshape, since dims may not be empty."""
    if not tensor.dims and max_batch_size == 0:
        raise ModelError(
            f"tensor {tensor.name!r}",
            "it is a scalar, which Triton cannot serve without a batch",
            "give it a dimension of 1, or publish with a batch",
        )
    listed = target.add(name=tensor.name, data_type=tensor.data_type, dims=tensor.dims or [1])
    if not tensor.dims:
        listed.reshape.SetInParent()


def _bind(config: "ModelConfig", manifest: Manifest, name: str, version: int) -> None:
    """Say what depends on the version: which one, its backend, and where it came from."""
    backend = BACKENDS[manifest.model.file]
    config.name = name
    if config.backend or not config.platform:
        config.backend = backend
    if config.platform:
        config.platform = PLATFORMS[backend]
    _suit_precision(config, manifest.options.get("precision"))
    config.version_policy.specific.versions[:] = [version]
    _drop_provenance(config)
    provenance = {
        "version": manifest.builder,
        "source_file": manifest.source.file,
        "source_sha256": manifest.source.sha256,
        "model_sha256": manifest.model.sha256,
    }
    for key, value in provenance.items():
        config.parameters[PROVENANCE_PREFIX + key].string_value = value


def _suit_precision(config: "ModelConfig", precision: str | None) -> None:
    """Keep fp16 from the optimizations of layout, which can crash on a CPU, and bf16 on GPUs, its only home."""
    kinds = messages().ModelInstanceGroup
    if precision == "fp16" and config.backend == "onnxruntime" and not config.optimization.HasField("graph"):
        config.optimization.graph.level = 1
    if precision == "bf16":
        for group in config.instance_group:
            group.kind = kinds.KIND_GPU if group.kind == kinds.KIND_AUTO else group.kind


def _drop_provenance(config: "ModelConfig") -> None:
    for key in [key for key in config.parameters if key.startswith(PROVENANCE_PREFIX)]:
        del config.parameters[key]


def _apply(config: "ModelConfig", options: ConfigOptions, where: object) -> None:
    """Write what the caller asked for."""
    if options.max_queue_delay_us is not None or options.preferred_batch_sizes is not None:
        _apply_batching(config, options, where)
    if options.instances is not None or options.kind is not None:
        _apply_instances(config, options, where)
    if options.intra_op_thread_count is not None:
        config.parameters[THREADS].string_value = str(options.intra_op_thread_count)
    _apply_tensorrt(config, options, where)


def _apply_batching(config: "ModelConfig", options: ConfigOptions, where: object) -> None:
    if config.max_batch_size == 0 or config.HasField("sequence_batching"):
        raise RepositoryError(
            where,
            "a queue delay and preferred batch sizes take dynamic batching, which this model goes without",
            "leave those options out",
        )
    config.dynamic_batching.SetInParent()
    if options.max_queue_delay_us is not None:
        config.dynamic_batching.max_queue_delay_microseconds = options.max_queue_delay_us
    if options.preferred_batch_sizes is not None:
        config.dynamic_batching.preferred_batch_size[:] = options.preferred_batch_sizes


def _apply_instances(config: "ModelConfig", options: ConfigOptions, where: object) -> None:
    if len(config.instance_group) > 1:
        raise RepositoryError(
            where,
            f"it has {len(config.instance_group)} instance groups, and the options speak of one",
            "change the groups by hand, and leave --instances and --kind out",
        )
    group = config.instance_group[0] if config.instance_group else config.instance_group.add()
    if options.instances is not None:
        group.count = options.instances
    if options.kind is not None:
        group.kind = messages().ModelInstanceGroup.Kind.Value(f"KIND_{options.kind.upper()}")


def _apply_tensorrt(config: "ModelConfig", options: ConfigOptions, where: object) -> None:
    """Write what concerns TensorRT, as a plan or inside ONNX Runtime.

    Source: https://github.com/triton-inference-server/onnxruntime_backend, ONNX Runtime with TensorRT optimization;
    https://onnxruntime.ai/docs/execution-providers/TensorRT-ExecutionProvider.html, explicit shapes;
    https://github.com/triton-inference-server/tensorrt_backend, optimization profiles
    """
    if (options.accelerator or options.cuda_graphs) and options.kind == "cpu":
        raise RepositoryError(where, "TensorRT runs on GPUs, and --kind says cpu", "leave one of the two out")
    is_plan = config.backend == "tensorrt" or config.platform == PLATFORMS["tensorrt"]
    if options.accelerator is not None:
        _accelerate(config, options.profiles)
    elif is_plan and options.profiles:
        for group in config.instance_group:
            group.kind = messages().ModelInstanceGroup.KIND_GPU
            group.profile[:] = [str(index) for index in range(len(options.profiles))]
    if options.cuda_graphs is not None:
        if not is_plan:
            raise RepositoryError(where, "CUDA graphs are for a TensorRT plan", "publish with --format tensorrt")
        config.optimization.cuda.graphs = options.cuda_graphs


def _accelerate(config: "ModelConfig", profiles: Sequence[Profile]) -> None:
    """Name the accelerator once, with explicit shapes, so that no engine is built at a request."""
    accelerators = config.optimization.execution_accelerators.gpu_execution_accelerator
    others = [entry for entry in accelerators if entry.name != "tensorrt"]
    del accelerators[:]
    accelerators.extend(others)
    entry = accelerators.add(name="tensorrt")
    for key, corner in (("min", "min"), ("opt", "opt"), ("max", "max")):
        shapes = [f"{name}:{'x'.join(map(str, getattr(found, corner)))}" for p in profiles for name, found in p.items()]
        if shapes:
            entry.parameters[f"trt_profile_{key}_shapes"] = ",".join(shapes)
    for group in config.instance_group:
        group.kind = messages().ModelInstanceGroup.KIND_GPU


def _warmup_sizes(config: "ModelConfig", max_batch_size: int, asked: bool | None, *, is_new: bool) -> dict[int, int]:
    """Which batch sizes to warm up, and how often each (`count`).

    A new config warms up one row and the largest batch. Entries of ours that are already there keep their
    sizes and counts, except that the largest follows max_batch_size.
    """
    largest = max(1, max_batch_size)
    present = {
        largest if 1 < entry.batch_size == config.max_batch_size else min(entry.batch_size, largest): entry.count
        for entry in config.model_warmup
        if entry.name.startswith(WARMUP_PREFIX)
    }
    if present and config.max_batch_size <= 1:
        present.setdefault(largest, 0)
    wanted = asked if asked is not None else (is_new or bool(present))
    if not wanted:
        return {}
    return present or dict.fromkeys((1, largest), 0)


def _warm_up(
    config: "ModelConfig", manifest: Manifest, sample: Mapping[str, Array], sizes: Mapping[int, int]
) -> dict[str, bytes]:
    """Replace our model_warmup entries; return the files they name.

    A file holds one row, whatever the entry's batch_size: Triton makes of it that many requests, one batch.

    Source: GenerateWarmupData in
    https://github.com/triton-inference-server/core/blob/main/src/backend_model_instance.cc
    """
    files: dict[str, bytes] = {}
    entries = []
    for size, count in sorted(sizes.items()):
        entry = messages().ModelWarmup(name=f"{WARMUP_PREFIX}{size}", batch_size=size, count=count)
        for tensor in manifest.inputs:
            content = raw_bytes(sample[tensor.name])
            file = f"{hashlib.sha256(content).hexdigest()}.raw"
            files[file] = content
            data = entry.inputs[tensor.name]
            data.data_type = messages().DataType.Value(tensor.data_type)
            data.dims[:] = sample[tensor.name].shape or [1]
            data.input_data_file = file
        entries.append(entry)
    _replace_warmup(config, entries)
    return files


def _replace_warmup(config: "ModelConfig", entries: Sequence[Any]) -> None:
    """Put these in place of our model_warmup entries; those of others stay."""
    kept = [entry for entry in config.model_warmup if not entry.name.startswith(WARMUP_PREFIX)]
    del config.model_warmup[:]
    config.model_warmup.extend([*kept, *entries])
