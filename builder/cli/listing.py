"""What `list` says of a repository."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from builder.record import Proof
from builder.repository import ListedModel, ListedVersion, Repository


def read(root: Path) -> list[ListedModel]:
    """Every model of the repository.

    Raises:
        RepositoryError: It does not exist or cannot be read.
    """
    return list(Repository(root).list_models())


def to_json(models: Sequence[ListedModel]) -> list[dict[str, Any]]:
    """For scripts."""
    return [
        {"name": m.name, "problem": m.problem, "versions": [_version_to_json(v) for v in m.versions]} for m in models
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
    """Print a table; `→` marks the served version."""
    from rich.console import Console
    from rich.table import Table

    if not models:
        print("no models")
        return
    table = Table("model", "version", "size", "published", "from", "max batch", "proven at batch")
    for model in models:
        for version in model.versions:
            table.add_row(model.name, *_columns(version))
        if model.problem:
            table.add_row(model.name, "", "", "", model.problem)
    console = Console(highlight=False, markup=False)
    console.width = max(console.width, 100)
    console.print(table)


def _columns(version: ListedVersion) -> tuple[str, ...]:
    manifest = version.manifest
    mark = "→ " if version.served else "  "
    size = f"{version.bytes / 1e6:.1f} MB"
    if manifest is None:
        return f"{mark}{version.version}", size, "", version.problem or "not published by builder", "", ""
    assert version.published is not None
    return (
        f"{mark}{version.version}",
        size,
        f"{version.published.astimezone():%Y-%m-%d %H:%M}",
        f"{manifest.source.file} ({manifest.source.sha256[:12]})",
        str(manifest.max_batch_size),
        _proven(manifest.proof),
    )


def _proven(proof: Proof) -> str:
    if proof.effort == "off":
        return "NOT proven"
    if proof.effort == "full" and proof.batch_sizes:
        return f"all to {proof.batch_sizes[-1]}"
    return ", ".join(map(str, proof.batch_sizes)) or "static"
