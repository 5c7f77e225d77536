"""`inspect`: show what publishing a model would change, and whether a plan of it can be built."""

from pathlib import Path
from typing import Any

import click

from builder.cli.arguments import FILE_TO_READ
from builder.cli.conflicts import check_inspection
from builder.cli.filling import fill
from builder.cli.help_pages import Command
from builder.cli.options import accuracy, as_json, batch_axes, constants, dynamic, limits, option, samples, sizes
from builder.cli.output import print_json, report
from builder.cli.plan_options import (
    TENSORRT,
    build_options,
    effort,
    max_batch_size,
    max_error,
    per_sample,
    static,
    target_options,
)


@click.command(
    cls=Command,
    short_help="Show what publishing a model would change.",
    examples=("inspect digits.onnx", "inspect digits.onnx --format tensorrt --precision fp16"),
)
@click.argument("model", type=FILE_TO_READ, help="An ONNX file.")
@max_batch_size
@batch_axes
@constants
@dynamic
@per_sample
@static
@effort
@samples
@sizes
@max_error
@accuracy
@target_options
@option(
    "--format",
    section=TENSORRT,
    type=click.Choice(["onnx", "tensorrt"]),
    default="onnx",
    show_default=True,
    help="With tensorrt, also lower and prove the model as publish does, build a TensorRT plan of it, and throw the "
    "plan away. It is not run, so no GPU is needed if TensorRT for RTX is installed. Its plans are not those of "
    "TensorRT, and Triton does not load them.",
)
@build_options
@limits
@as_json
def inspect(model: Path, as_json: bool, **given: Any) -> None:
    """Show the inputs and outputs of MODEL, where their batch is, and what publishing would change.

    Nothing is written. If the batch cannot be made dynamic, the command says why, tries other options, names those that
    work, and exits with 3. With --format tensorrt, it exits with 3 too if no plan can be built, and with 4 if the
    answers of the lowered model are too far from the original's.
    """
    from builder import api
    from builder.cli import inspection
    from builder.publishing import PublishOptions

    options = fill(PublishOptions, given)
    check_inspection(options)
    if options.format == "tensorrt":
        found = api.check_plan(model, options=options, report=report)
    else:
        found = api.inspect_with(model, options)
    if as_json:
        print_json(inspection.to_json(found))
    else:
        inspection.show(found)
    refusal = found.refusal if found.plan is None else found.plan.refusal
    if refusal is not None:
        raise refusal
