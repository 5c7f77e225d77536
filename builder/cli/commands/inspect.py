"""`inspect`: show what publishing a model would change."""

from collections.abc import Mapping
from pathlib import Path

import click

from builder.cli.arguments import FILE_TO_READ
from builder.cli.help_pages import Command
from builder.cli.options import as_json, batch_axes, constants, limits, sizes
from builder.cli.output import print_json


@click.command(cls=Command, short_help="Show what publishing a model would change.", examples=("inspect digits.onnx",))
@click.argument("model", type=FILE_TO_READ, help="An ONNX file.")
@batch_axes
@constants
@sizes
@limits
@as_json
def inspect(
    model: Path,
    batch_axes: Mapping[str, int | None],
    constants: Mapping[str, float | Path],
    sizes: Mapping[str, int],
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
    found = api.inspect(model, batch_axes=batch_axes, constants=constants, sizes=sizes, limits=limits)
    if as_json:
        print_json(inspection.to_json(found))
    else:
        inspection.show(found)
    if found.refusal is not None:
        raise found.refusal
