"""What `list` prints: the models and versions of a repository."""

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from builder.cli.output import print_result, print_table
from builder.printable import counted
from builder.progress import format_bytes
from builder.record import Manifest, Plan, Proof
from builder.repository import Kind, ListedModel, ListedVersion

HEADS = (
    "model",
    "backend",
    "version",
    "size",
    "published",
    "made from",
    "precision",
    "max batch",
    "proven at batch sizes",
)


def to_json(models: Sequence[ListedModel]) -> list[dict[str, Any]]:
    """Return the list for scripts."""
    return [
        {
            "name": model.name,
            "backend": model.kind.backend or None if model.kind else None,
            "has_config": model.kind.has_config if model.kind else True,
            "is_complete": model.kind.is_complete if model.kind else None,
            "members": list(model.kind.members) if model.kind else [],
            "missing_members": list(model.missing_members),
            "other_configs": list(model.kind.other_configs) if model.kind else [],
            "problem": model.problem,
            "max_batch_size": model.max_batch_size,
            "config_changed": model.config_changed.isoformat() if model.config_changed else None,
            "versions": [_version_to_json(version) for version in model.versions],
        }
        for model in models
    ]


def _version_to_json(version: ListedVersion) -> dict[str, Any]:
    return {
        "version": version.version,
        "served": version.served,
        "is_default": version.is_default,
        "is_prepared": version.is_prepared,
        "kept_configs": list(version.kept_configs),
        "origin": version.origin,
        "bytes": version.bytes,
        "published": version.published.isoformat() if version.published else None,
        "problem": version.problem,
        **(_UNKNOWN if version.manifest is None else _manifest_to_json(version.manifest)),
    }


_UNKNOWN: dict[str, Any] = {
    **dict.fromkeys(("source", "max_batch_size", "proven", "proven_batch_sizes", "precision", "quantization")),
    "plans": [],
    "has_fallback": False,
    **dict.fromkeys(("accuracy", "speed")),
}
"""What there is to say about a version that was neither published nor adopted."""


def _manifest_to_json(manifest: Manifest) -> dict[str, Any]:
    return {
        "source": {"file": manifest.source.file, "sha256": manifest.source.sha256},
        "max_batch_size": manifest.max_batch_size,
        "proven": manifest.proof.effort,
        "proven_batch_sizes": list(manifest.proof.batch_sizes),
        "precision": manifest.options.get("precision", "fp32"),
        "quantization": asdict(manifest.quantization) if manifest.quantization else None,
        "plans": [_plan_to_json(plan) for plan in manifest.plans],
        "has_fallback": manifest.has_fallback,
        "accuracy": asdict(manifest.accuracy) if manifest.accuracy else None,
        "speed": asdict(manifest.speed) if manifest.speed else None,
    }


def _plan_to_json(plan: Plan) -> dict[str, str]:
    return {
        "file": plan.file,
        "gpu": plan.gpu,
        "compute_capability": plan.compute_capability,
        "tensorrt": plan.tensorrt,
    }


def show(models: Sequence[ListedModel]) -> None:
    """Print a table, and below it what concerns a whole model.

    `→` marks the version that answers, and `+` others that are served beside it. Columns without content are left out.
    """
    if not models:
        print_result("no models")
        return
    rows = [_row(version, model) for model in models for version in model.versions]
    used = [at for at, _ in enumerate(HEADS) if any(row[at] for row in rows)]
    if rows:
        print_table([HEADS[at] for at in used], [tuple(row[at] for at in used) for row in rows])
    for model in models:
        for note in _notes(model):
            print_result(f"{model.name}: {note}")


def _row(version: ListedVersion, model: ListedModel) -> tuple[str, ...]:
    return model.name, model.kind.backend if model.kind else "", *_columns(version, model)


def _notes(model: ListedModel) -> Iterator[str]:
    """Yield what concerns all versions of a model."""
    if model.problem:
        yield model.problem
    earlier = sum(len(version.kept_configs) for version in model.versions)
    if model.config_changed is not None and earlier:
        when = f"{model.config_changed.astimezone():%Y-%m-%d %H:%M}"
        yield f"its config.pbtxt was last changed at {when}, with {counted(earlier, 'earlier config')} kept"
    for version in model.versions:
        yield from _version_notes(version)
    if model.kind is None:
        return
    if not model.kind.has_config and not model.problem:
        yield "no config.pbtxt: Triton makes one up from the model's file"
    elif not model.kind.is_complete and not model.problem:
        yield "its config lists no inputs or no outputs: Triton adds them from the model's file"
    if model.kind.other_configs:
        yield f"other configs: {', '.join(model.kind.other_configs)}"
    for name in model.missing_members:
        yield f"its member {name} is not in this repository"


def _version_notes(version: ListedVersion) -> Iterator[str]:
    if version.is_prepared:
        yield f"version {version.version} is not served yet"
    if version.manifest is not None and version.manifest.plans:
        yield f"version {version.version} {_plans(version.manifest)}"


def _plans(manifest: Manifest) -> str:
    """Say for which GPUs a version has plans, and what else there is."""
    plans = [f"{plan.gpu} (TensorRT {plan.tensorrt})" for plan in manifest.plans]
    beside = " beside its ONNX file" if manifest.has_fallback else ""
    return f"has {'a plan' if len(plans) == 1 else 'plans'} for {' and '.join(plans)}{beside}"


def _columns(version: ListedVersion, model: ListedModel) -> tuple[str, ...]:
    mark = "→" if version.is_default else "+" if version.served else " "
    first = f"{mark} {version.version}", format_bytes(version.bytes)
    manifest, published = version.manifest, version.published
    if manifest is None or published is None:
        return *first, "", version.problem or _described(model.kind), "", _largest(version, model), ""
    source = f"{manifest.source.file} ({manifest.source.sha256[:8]})"
    if manifest.adopted:
        source = f"adopted: {source}"
    when = f"{published.astimezone():%Y-%m-%d %H:%M}"
    return *first, when, source, _precision(manifest), _largest(version, model), _proven(manifest.proof)


def _precision(manifest: Manifest) -> str:
    """Return the precision, with what an int8 model is for; empty for fp32, which is that of the file."""
    runtime = manifest.quantization.runtime if manifest.quantization else ""
    return " for ".join(filter(None, (str(manifest.options.get("precision", "")), runtime)))


def _largest(version: ListedVersion, model: ListedModel) -> str:
    """Return the max_batch_size in force, or that of the proof for a version that is not served."""
    proven = version.manifest.max_batch_size if version.manifest else None
    if not version.served or model.max_batch_size is None:
        return "" if proven is None else str(proven)
    is_lower = proven is not None and proven != model.max_batch_size
    return f"{model.max_batch_size} (proven: {proven})" if is_lower else str(model.max_batch_size)


def _described(kind: Kind | None) -> str:
    """Say what a version is that was neither published nor adopted."""
    return str(kind) if kind is not None and kind.is_ensemble else "not published here"


def _proven(proof: Proof) -> str:
    if proof.effort == "off":
        return "not proven"
    if proof.effort == "full" and proof.batch_sizes:
        return f"1 to {proof.batch_sizes[-1]}, all"
    return ", ".join(map(str, proof.batch_sizes)) or "static"
