"""`verify`: run a published version again, and compare its answers with the stored ones."""

from dataclasses import asdict
from pathlib import Path

import click

from builder.cli.arguments import VERSION
from builder.cli.help_pages import Command
from builder.cli.options import as_json, limits, option, repository
from builder.cli.output import print_json, print_result, report


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
    repository: Path | str,
    prove_timeout: float | None,
    prove_memory: int | None,
    as_json: bool,
) -> None:
    """Run a published version of NAME again, and compare its answers with those stored when it was published."""
    from builder import api
    from builder.bounded import Limits

    limits = Limits(prove_timeout, prove_memory)
    found = api.verify(name, repository, version=version, limits=limits, report=report)
    for note in found.notes:
        report("note", note)
    largest = {output: proof.largest_difference for output, proof in found.proof.outputs.items()}
    if as_json:
        sizes = found.proof.batch_sizes
        result = {"name": name, "version": found.version, "batch_sizes": sizes, "largest_difference": largest}
        accuracy = None if found.accuracy is None else asdict(found.accuracy)
        print_json({**result, "notes": list(found.notes), "accuracy": accuracy})
    else:
        if found.accuracy is not None:
            report("accuracy", f"when it was published: {found.accuracy}")
        for output, difference in largest.items():
            print_result(f"{name} {found.version} {output}: equal, largest difference {difference or 0:.1e}")
