"""The commands on models and repositories: `inspect`, `list`, `verify`, `rollback` and `prune`."""

from collections.abc import Mapping
from pathlib import Path

import click

from builder.cli.arguments import FILE_TO_READ, VERSION, whole_number
from builder.cli.finishing import finishing
from builder.cli.help_pages import Command
from builder.cli.options import as_json, batch_axes, constants, limits, lock_timeout, option, repository
from builder.cli.output import print_json, print_result, report


@click.command(cls=Command, short_help="Show what publishing a model would change.", examples=("inspect digits.onnx",))
@click.argument("model", type=FILE_TO_READ, help="An ONNX file.")
@batch_axes
@constants
@limits
@as_json
def inspect(
    model: Path,
    batch_axes: Mapping[str, int | None],
    constants: Mapping[str, float | Path],
    prove_timeout: float | None,
    prove_memory: int | None,
    as_json: bool,
) -> None:
    """Show the inputs and outputs of MODEL, where their batch is, and what publishing would change.

    Nothing is written. If the batch cannot be made dynamic, the command says why, tries other options, names those that
    work, and exits with 3.
    """
    from builder import api
    from builder.bounded import Limits
    from builder.cli import inspection

    limits = Limits(prove_timeout, prove_memory)
    found = api.inspect(model, batch_axes=batch_axes, constants=constants, limits=limits)
    if as_json:
        print_json(inspection.to_json(found))
    else:
        inspection.show(found)
    if found.refusal is not None:
        raise found.refusal


@click.command(
    "list",
    cls=Command,
    short_help="List the models and versions of a repository.",
    examples=("list --repository model_repository",),
)
@repository
@as_json
def list_(repository: Path, as_json: bool) -> None:
    """List the models and versions of a repository: which one is served, its size, and when and how it was made."""
    from builder import api
    from builder.cli import listing

    models = api.list_models(repository)
    if as_json:
        print_json(listing.to_json(models))
    else:
        listing.show(models)


@click.command(
    cls=Command,
    short_help="Check that a published version is still right.",
    examples=("verify digits", "verify digits --version 2"),
)
@click.argument("name", help="The model's name in the repository.")
@option("--version", type=VERSION, help="The version to check. Default: the one that is served.")
@repository
@limits
@as_json
def verify(
    name: str,
    version: int | None,
    repository: Path,
    prove_timeout: float | None,
    prove_memory: int | None,
    as_json: bool,
) -> None:
    """Run a published version of NAME again, and compare its answers with those stored when it was published."""
    from builder import api
    from builder.bounded import Limits

    limits = Limits(prove_timeout, prove_memory)
    found = api.verify(name, repository, version=version, limits=limits, report=report)
    largest = {output: proof.largest_difference for output, proof in found.proof.outputs.items()}
    if as_json:
        sizes = found.proof.batch_sizes
        print_json({"name": name, "version": found.version, "batch_sizes": sizes, "largest_difference": largest})
    else:
        for output, difference in largest.items():
            print_result(f"{name} {found.version} {output}: equal, largest difference {difference or 0:.1e}")


@click.command(
    cls=Command, short_help="Serve an earlier version again.", examples=("rollback digits", "rollback digits --to 1")
)
@click.argument("name", help="The model's name in the repository.")
@option("--to", type=VERSION, help="The version to serve. Default: the one before the version that is served.")
@repository
@lock_timeout
@as_json
def rollback(name: str, to: int | None, repository: Path, lock_timeout_s: float | None, as_json: bool) -> None:
    """Serve an earlier version of NAME again, in one atomic change of its config.pbtxt."""
    from builder import api

    with finishing():
        switch = api.rollback(name, repository, to=to, lock_timeout_s=lock_timeout_s, report=report)
        for note in switch.notes:
            report("note", note)
        if as_json:
            print_json({"name": name, "before": switch.before, "after": switch.after, "notes": list(switch.notes)})
        elif switch.before == switch.after:
            print_result(f"{name}: version {switch.after} is already served")
        else:
            print_result(f"{name}: version {switch.before} → {switch.after}")


@click.command(cls=Command, short_help="Remove old versions of a model.", examples=("prune digits --keep 3",))
@click.argument("name", help="The model's name in the repository.")
@option("--keep", type=whole_number(1, None), required=True, help="How many of the newest versions to keep.")
@repository
@lock_timeout
@as_json
def prune(name: str, keep: int, repository: Path, lock_timeout_s: float | None, as_json: bool) -> None:
    """Remove old versions of NAME, all of them or none. The version that is served always stays."""
    from builder import api

    notes: list[str] = []

    def tell(step: str, what: str) -> None:
        report(step, what)
        if step == "note":
            notes.append(what)

    with finishing():
        removed = api.prune(name, repository, keep=keep, lock_timeout_s=lock_timeout_s, report=tell)
        if as_json:
            print_json({"name": name, "removed": removed, "notes": notes})
        else:
            print_result(f"{name}: removed {', '.join(map(str, removed)) or 'nothing'}")
