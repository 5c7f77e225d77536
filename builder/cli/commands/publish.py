"""`publish`: make a model's batch dynamic, compare it with the original, and install it as a new version."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from builder.cli import changes
from builder.cli.arguments import (
    folder_or_bucket,
    fraction,
    name_pair,
    names,
    profile,
    release,
    whole_number,
)
from builder.cli.config_options import config_options
from builder.cli.conflicts import check_module, check_options, check_origin
from builder.cli.filling import fill
from builder.cli.finishing import finishing
from builder.cli.help_pages import Command
from builder.cli.options import (
    BATCH,
    PROOF,
    REPOSITORY,
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

if TYPE_CHECKING:
    from builder.publishing import Publication

NAMES = "Names of inputs and outputs"
TARGET = "Precision and Triton release"
TENSORRT = "TensorRT"


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
@option(
    "--max-batch-size",
    section=BATCH,
    type=whole_number(1),
    help="The largest batch that Triton may form. Default: the value in config.pbtxt, or 32 for a new model.",
)
@batch_axes
@python_constants
@outputs
@dynamic
@option(
    "--per-sample",
    "is_per_sample",
    section=BATCH,
    is_flag=True,
    help="Run the rows of a batch one after the other inside the model. This works for models that mix rows, but "
    "batching makes them no faster.",
)
@option(
    "--static",
    "is_static",
    section=BATCH,
    is_flag=True,
    help="Publish the model as it is, without batching (max_batch_size is 0).",
)
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
@option(
    "--prove",
    "effort",
    section=PROOF,
    type=click.Choice(["sample", "full", "off"]),
    default="sample",
    show_default=True,
    help="How many batch sizes to compare with the original model: a few (sample), all of them (full) or none (off).",
)
@samples
@sizes
@option(
    "--max-error",
    section=PROOF,
    type=fraction,
    help="The largest error to allow, as a fraction of each value plus the same fraction of the output's largest "
    "value. For example, 0.02. Default: by the coarsest numbers in the model, 0.0001 for float32, 0.01 for fp16, "
    "0.02 for bf16 and 0.03 for quantized ones.",
)
@config_options
@option(
    "--precision",
    section=TARGET,
    type=click.Choice(["fp32", "fp16", "bf16"]),
    default="fp32",
    show_default=True,
    help="The precision to compute in; inputs and outputs keep their types. fp32 changes nothing, and bf16 needs a "
    "GPU.",
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
    "--accelerator",
    section=TENSORRT,
    type=click.Choice(["tensorrt"]),
    help="Keep the ONNX file, and let ONNX Runtime build TensorRT engines when Triton loads it. Default: no engines.",
)
@option(
    "--profile",
    "profiles",
    section=TENSORRT,
    type=profile,
    multiple=True,
    help="The smallest, usual and largest shape of an input, batch included. For example, "
    "--profile ids=1x16:8x128:32x512. Repeat it for other inputs, or for a second profile of the same input. "
    "Default: every batch size up to the largest one.",
)
@option(
    "--timing-cache",
    section=TENSORRT,
    type=click.Path(path_type=Path, dir_okay=False),
    help="A file that keeps the timings of a build, so that later builds are faster. It is made if it does not exist.",
)
@option(
    "--workspace-mb",
    section=TENSORRT,
    type=whole_number(1, form="MIB"),
    help="The most scratch memory that one layer of a plan may use, in MiB. For example, 1024. "
    "Default: all the memory of the GPU.",
)
@option(
    "--version-compatible",
    section=TENSORRT,
    is_flag=True,
    help="Build a plan that later versions of TensorRT can run too. Default: only the version that built it.",
)
@option(
    "--hardware-compatible",
    section=TENSORRT,
    is_flag=True,
    help="Build a plan that newer kinds of GPU can run too. Default: only the kind that built it.",
)
@option(
    "--cuda-graphs/--no-cuda-graphs",
    section=TENSORRT,
    default=None,
    help="Let Triton run a plan with CUDA graphs, which lowers the cost of small batches. Default: no.",
)
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
