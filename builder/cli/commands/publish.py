"""`publish`: make a model's batch dynamic, compare it with the original, and install it as a new version."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from builder.cli import changes
from builder.cli.arguments import (
    folder_or_bucket,
    name_pair,
    names,
    release,
    speedup,
)
from builder.cli.config_options import config_options
from builder.cli.conflicts import check_module, check_options, check_origin
from builder.cli.filling import fill
from builder.cli.finishing import finishing
from builder.cli.help_pages import Command
from builder.cli.options import (
    REPOSITORY,
    accuracy,
    as_json,
    batch_axes,
    download,
    dry_run,
    dynamic,
    exporter,
    inputs,
    limits,
    lock_timeout,
    mapping_option,
    opset,
    option,
    outputs,
    python_constants,
    revision,
    samples,
    serve_also,
    sha256,
    sizes,
    task,
    verbose,
)
from builder.cli.output import print_diff, print_json, print_path, report
from builder.cli.plan_options import (
    TARGET,
    TENSORRT,
    build_options,
    cuda_graphs,
    effort,
    max_batch_size,
    max_error,
    per_sample,
    static,
    target_options,
)

if TYPE_CHECKING:
    from builder.publishing import Publication

NAMES = "Names of inputs and outputs"


@click.command(
    cls=Command,
    short_help="Make a model's batch dynamic and publish it.",
    examples=(
        "publish digits.onnx --input-names image --output-names scores",
        "publish digits.onnx --max-batch-size 64 --max-queue-delay-us 500",
        "publish detector.onnx --dynamic image:2=height,3=width --samples images.npz",
        "publish nets:classifier --input 'image=float32[1,3,224,224]'",
        "publish hf:my-bert --task text-classification",
        "publish 'nets:make(depth=8)' --input 'ids=int64[1,16]' --dynamic ids:1=length --output logits",
    ),
)
@click.argument(
    "model",
    help="An ONNX file; a PyTorch module as PACKAGE.MODULE:FACTORY with one --input for each of its inputs; a file of "
    "PyTorch, .pt2 or TorchScript; or a Hugging Face model as hf:FOLDER. A file may be at a URL (https://..., "
    "s3://...), with --sha256.",
)
@option(
    "--repository",
    type=folder_or_bucket,
    default=REPOSITORY,
    show_default=True,
    help="Where to publish: the folder of the model repository, or a bucket (s3://BUCKET/PREFIX, gs://..., az://...).",
)
@sha256
@option("--name", metavar="NAME", help="The model's name in the repository. Default: the name of the file.")
@option(
    "--serve/--no-serve",
    default=True,
    show_default=True,
    help="Serve the version at once. Without that it is only installed, and `switch` or `deploy` serves it later.",
)
@serve_also
@dry_run
@max_batch_size
@batch_axes
@python_constants
@outputs
@dynamic
@per_sample
@static
@option(
    "--input-names",
    section=NAMES,
    type=names,
    help="New names for all inputs, in the order of the file. For example, --input-names image,mask.",
)
@option(
    "--output-names",
    section=NAMES,
    type=names,
    help="New names for all outputs, in the order of the file. For example, --output-names scores.",
)
@mapping_option(
    "--rename",
    "renames",
    section=NAMES,
    type=name_pair,
    help="A new name for one input or output. For example, --rename input.1=image. Repeat it for other tensors.",
)
@effort
@samples
@sizes
@max_error
@accuracy
@config_options
@target_options
@option(
    "--min-speedup",
    section=TARGET,
    type=speedup,
    help="The least throughput of a quantized model, as a multiple of fp32's on this CPU; 0 also publishes what is "
    "slower. Default: 1.02.",
)
@option(
    "--triton",
    section=TARGET,
    type=release,
    help="The release of the Triton container that will serve the model. For example, 26.10. A model that is too new "
    "for it is converted to an older opset, or refused. Default: no check.",
)
@option(
    "--format",
    section=TENSORRT,
    type=click.Choice(["onnx", "tensorrt"]),
    default="onnx",
    show_default=True,
    help="What Triton loads: the ONNX file, or a TensorRT plan built from it. Building a plan needs a GPU.",
)
@option(
    "--fallback",
    section=TENSORRT,
    type=click.Choice(["onnx"]),
    help="Store the proven ONNX file beside the plan. Every server can load it, and `deploy` loads the plan on those "
    "that can run it. Default: only the plan.",
)
@option(
    "--keep-plans",
    section=TENSORRT,
    is_flag=True,
    help="Also keep the plans that the served version has for other kinds of GPU. They must have been built from the "
    "same ONNX file. Default: only the plan for the GPU of this machine.",
)
@option(
    "--accelerator",
    section=TENSORRT,
    type=click.Choice(["tensorrt"]),
    help="Keep the ONNX file, and let ONNX Runtime build TensorRT engines when Triton loads it. Default: no engines.",
)
@build_options
@cuda_graphs
@limits
@inputs
@exporter
@opset
@task
@download
@revision
@verbose
@lock_timeout
@as_json
def publish(model: str, repository: Path | str, name: str | None, as_json: bool, **given: Any) -> None:
    """Make the batch of MODEL dynamic, compare it with the original, and install it as a new version.

    Nothing in the repository changes unless every answer matches the original's.
    """
    from builder import api
    from builder.fetching import is_url
    from builder.publishing import PublishOptions

    options = fill(PublishOptions, given)
    exporting = given  # what is left: inputs, exporter, opset and is_verbose
    check_options(options)
    check_origin(model, exporting)
    if not is_url(model):
        check_module(model, options, exporting)
    with finishing():
        done = api.publish(model, repository, name=name, options=options, report=report, **exporting)
        if options.dry_run or not changes.is_new(done.version.config_diff):
            print_diff(done.version.config_diff)
        for note in done.notes:
            report("note", note)
        place = _place(repository, done)
        if as_json:
            print_json(_to_json(done, place))
        else:
            print_path(place)


def _place(repository: Path | str, done: "Publication") -> str:
    """Return the path or the URL of the version."""
    if isinstance(repository, Path):
        return str(done.version.path)
    return f"{repository.rstrip('/')}/{done.name}/{done.version.version}"


def _to_json(done: "Publication", place: str) -> dict[str, Any]:
    return {
        "name": done.name,
        "version": done.version.version,
        "path": place,
        "created": done.version.created,
        "served": done.version.is_served,
        "dry_run": done.version.is_dry_run,
        "config_changed": done.version.config_changed,
        "config_diff": done.version.config_diff,
        "files": list(done.version.files),
        "notes": list(done.notes),
        "manifest": json.loads(done.manifest.to_json()),
    }
