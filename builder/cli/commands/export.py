"""`export`: write a PyTorch module, or a file of PyTorch, as an ONNX file whose batch is dynamic."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from builder.cli.conflicts import check_origin
from builder.cli.faults import WrongUsage
from builder.cli.filling import fill
from builder.cli.finishing import finishing
from builder.cli.help_pages import Command
from builder.cli.options import (
    as_json,
    batch_axes,
    download,
    dynamic,
    exporter,
    inputs,
    opset,
    option,
    outputs,
    python_constants,
    revision,
    samples,
    sha256,
    sizes,
    task,
    verbose,
)
from builder.cli.output import print_json, print_path, report

if TYPE_CHECKING:
    from builder.exporting import ExportedModel, ExportOptions


@click.command(
    cls=Command,
    short_help="Export a PyTorch module to an ONNX file.",
    examples=(
        "export nets:classifier --input 'image=float32[1,3,224,224]' -o classifier.onnx",
        "export classifier.pt2 -o classifier.onnx",
    ),
)
@click.argument(
    "model",
    help="A PyTorch module as PACKAGE.MODULE:FACTORY, with one --input for each of its inputs, or a file of PyTorch: "
    "an exported program (.pt2) or TorchScript (.pt). Arguments of the factory are literals in parentheses, in quotes "
    "for the shell: 'nets:make(depth=8)'. Or a Hugging Face model as hf:FOLDER. A file may be at a URL (https://..., "
    "s3://...), with --sha256.",
)
@option(
    "-o",
    "--file",
    type=click.Path(dir_okay=False, path_type=Path),
    metavar="FILE.onnx",
    help="The file to write; required. A file that exists is replaced.",
)
@inputs
@exporter
@opset
@task
@download
@revision
@sha256
@batch_axes
@python_constants
@outputs
@dynamic
@option("--static", "is_static", section="Batch", is_flag=True, help="Keep every axis as --input gives it.")
@samples
@sizes
@verbose
@as_json
def export(model: str, file: Path | None, as_json: bool, **given: Any) -> None:
    """Export MODEL, a module of PyTorch, to an ONNX file with a dynamic batch.

    The file is written only if ONNX Runtime gives the answers that the module gives in PyTorch.
    """
    from builder import api
    from builder.exporting import ExportOptions

    file, given["outputs"] = _to_write(file, given["outputs"])
    options, sha256 = fill(ExportOptions, given), given["sha256"]
    check_origin(model, {**asdict(options), "sha256": sha256})
    _check(model, options)
    with finishing():
        done = api.export(model, file, options=options, sha256=sha256, report=report)
        if as_json:
            print_json(_to_json(done))
        else:
            print_path(done.path)


def _to_write(file: Path | None, outputs: tuple[str, ...]) -> tuple[Path, tuple[str, ...]]:
    """Return the file to write and the outputs to keep. `--output FILE.onnx` was the long form of `-o FILE.onnx`.

    Raises:
        WrongUsage: There is no file.
    """
    if file is None and len(outputs) == 1 and outputs[0].endswith(".onnx"):
        return Path(outputs[0]), ()
    if file is None:
        raise WrongUsage("-o is missing", "add -o FILE.onnx, the file to write")
    return file, outputs


def _to_json(done: "ExportedModel") -> dict[str, Any]:
    return {
        "path": str(done.path),
        "road": done.road,
        "batch_sizes": list(done.batch_sizes),
        "sizes": dict(done.sizes),
        "other_sizes": [dict(sizes) for sizes in done.other_sizes],
        "largest_difference": done.largest_difference,
        "labels": list(done.labels),
    }


def _check(model: str, options: "ExportOptions") -> None:
    """Refuse a module without inputs, and options that contradict each other.

    Raises:
        WrongUsage: The first of them.
    """
    from builder.exporting import Source

    if Source.of(model).needs_inputs and not options.inputs:
        what, fix = "--input is missing", "add --input NAME=DTYPE[DIM,...] for each parameter of forward()"
        raise WrongUsage(what, fix)
    if options.is_static and (options.dynamic or options.batch_axes):
        raise WrongUsage(
            "--static keeps every axis, so --dynamic and --batch-axis have no effect",
            "leave out --static, or leave out the other two",
        )
    if options.sizes and options.samples is not None:
        raise WrongUsage("--size is for random inputs, and --samples gives others", "leave out --size or --samples")
