"""What `list` prints: the models and versions of a repository."""

from collections.abc import Sequence
from typing import Any

from builder.cli.output import print_result, print_table
from builder.progress import format_bytes
from builder.record import Proof
from builder.repository import ListedModel, ListedVersion


def to_json(models: Sequence[ListedModel]) -> list[dict[str, Any]]:
    """Return the list for scripts."""
    return [
        {
            "name": model.name,
            "problem": model.problem,
            "versions": [_version_to_json(version) for version in model.versions],
        }
        for model in models
    ]


def _version_to_json(version: ListedVersion) -> dict[str, Any]:
    manifest = version.manifest
    return {
        "version": version.version,
        "served": version.served,
        "bytes": version.bytes,
        "published": version.published.isoformat() if version.published else None,
        "problem": version.problem,
        "source": {"file": manifest.source.file, "sha256": manifest.source.sha256} if manifest else None,
        "max_batch_size": manifest.max_batch_size if manifest else None,
        "proven": manifest.proof.effort if manifest else None,
        "proven_batch_sizes": list(manifest.proof.batch_sizes) if manifest else None,
    }


def show(models: Sequence[ListedModel]) -> None:
    """Print a table; `→` marks the version that is served."""
    if not models:
        print_result("no models")
        return
    rows: list[tuple[str, ...]] = []
    for model in models:
        rows += [(model.name, *_columns(version)) for version in model.versions]
        if model.problem:
            rows.append((model.name, "", "", "", model.problem))
    print_table(("model", "version", "size", "published", "made from", "max batch", "proven at batch sizes"), rows)


def _columns(version: ListedVersion) -> tuple[str, ...]:
    number = f"{'→' if version.served else ' '} {version.version}"
    size = format_bytes(version.bytes)
    manifest, published = version.manifest, version.published
    if manifest is None or published is None:
        return number, size, "", version.problem or "not published by builder", "", ""
    source = f"{manifest.source.file} ({manifest.source.sha256[:12]})"
    when = f"{published.astimezone():%Y-%m-%d %H:%M}"
    return number, size, when, source, str(manifest.max_batch_size), _proven(manifest.proof)


def _proven(proof: Proof) -> str:
    if proof.effort == "off":
        return "not proven"
    if proof.effort == "full" and proof.batch_sizes:
        return f"1 to {proof.batch_sizes[-1]}, all"
    return ", ".join(map(str, proof.batch_sizes)) or "static"
