"""The options of `publish` that `inspect` shares: how a model is batched, lowered, proven and built as a plan."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from builder.cli.arguments import FILE_TO_READ, fraction, profile, whole_number
from builder.cli.options import BATCH, PROOF, Function, option

TARGET = "Precision and Triton release"
TENSORRT = "TensorRT"

max_batch_size = option(
    "--max-batch-size",
    section=BATCH,
    type=whole_number(1),
    help="The largest batch that Triton may form. Default: the value in config.pbtxt, or 32 for a new model.",
)
cuda_graphs = option(
    "--cuda-graphs/--no-cuda-graphs",
    section=TENSORRT,
    default=None,
    help="Let Triton run a plan with CUDA graphs, which lowers the cost of small batches. Default: no.",
)
per_sample = option(
    "--per-sample",
    "is_per_sample",
    section=BATCH,
    is_flag=True,
    help="Run the rows of a batch one after the other inside the model. This works for models that mix rows, but "
    "batching makes them no faster.",
)
static = option(
    "--static",
    "is_static",
    section=BATCH,
    is_flag=True,
    help="Publish the model as it is, without batching (max_batch_size is 0).",
)
effort = option(
    "--prove",
    "effort",
    section=PROOF,
    type=click.Choice(["sample", "full", "off"]),
    default="sample",
    show_default=True,
    help="How many batch sizes to compare with the original model: a few (sample), all of them (full) or none (off).",
)
max_error = option(
    "--max-error",
    section=PROOF,
    type=fraction,
    help="The largest error to allow, as a fraction of each value plus the same fraction of the output's largest "
    "value. For example, 0.02. Default: by the coarsest numbers in the model, 0.0001 for float32, 0.01 for fp16, "
    "0.02 for bf16, 0.03 for models that come quantized and 0.1 for --precision int8. With --precision int8 the mean "
    "error may be a fifth of that fraction of the largest value.",
)

_TARGET: tuple[Callable[..., Any], ...] = (
    option(
        "--precision",
        section=TARGET,
        type=click.Choice(["fp32", "fp16", "bf16", "int8", "int8-dynamic"]),
        default="fp32",
        show_default=True,
        help="The precision to compute in; inputs and outputs keep their types. fp32 changes nothing, and bf16 needs a "
        "GPU. int8 computes on integers, and needs real inputs: --calibration or --samples. int8-dynamic multiplies "
        "matrices as integers on a CPU, and measures their ranges while it runs.",
    ),
    option(
        "--calibration",
        section=TARGET,
        type=FILE_TO_READ,
        metavar="FILE.npz",
        help="Real inputs, on which --precision int8 measures the ranges of the values inside the model. The file has "
        "one array for each input, of shape [rows, ...]. 100 to 500 rows are usual. Default: the file of --samples.",
    ),
    option(
        "--for",
        "runtime",
        section=TARGET,
        type=click.Choice(["cpu", "tensorrt"]),
        help="What --precision int8 is for: ONNX Runtime on any CPU, or TensorRT. Default: tensorrt with --format "
        "tensorrt or --accelerator tensorrt, otherwise cpu.",
    ),
)

_BUILD: tuple[Callable[..., Any], ...] = (
    option(
        "--profile",
        "profiles",
        section=TENSORRT,
        type=profile,
        multiple=True,
        help="The smallest, usual and largest shape of an input, batch included. For example, "
        "--profile ids=1x16:8x128:32x512. Repeat it for other inputs, or for a second profile of the same input. "
        "Default: every batch size up to the largest one.",
    ),
    option(
        "--timing-cache",
        section=TENSORRT,
        type=click.Path(path_type=Path, dir_okay=False),
        help="A file that keeps the timings of a build, so that later builds are faster. It is made if it does not "
        "exist. Default: a build starts from the timings that are kept with the served version.",
    ),
    option(
        "--builder-optimization-level",
        section=TENSORRT,
        type=whole_number(0, 5, form="LEVEL"),
        help="How long TensorRT looks for fast kernels, from 0 to 5. A higher level builds longer. Default: TensorRT's "
        "own, which is 3.",
    ),
    option(
        "--tiling-optimization-level",
        section=TENSORRT,
        type=click.Choice(["none", "fast", "moderate", "full"]),
        help="How long TensorRT looks for ways to keep data in the cache of the GPU from one layer to the next. "
        "Default: TensorRT's own, which is none.",
    ),
    option(
        "--build-route",
        section=TENSORRT,
        metavar="ROUTE",
        help="Settings of TensorRT's compiler that its Global Performance Tuner (trtexec --tuneBuildRoutes) has found "
        "to be fast: KNOB=VALUE, separated by spaces. Default: TensorRT's own route.",
    ),
    option(
        "--workspace-mb",
        section=TENSORRT,
        type=whole_number(1, form="MIB"),
        help="The most scratch memory that one layer of a plan may use, in MiB. For example, 1024. "
        "Default: all the memory of the GPU.",
    ),
    option(
        "--version-compatible",
        section=TENSORRT,
        is_flag=True,
        help="Build a plan that later versions of TensorRT can run too. Default: only the version that built it.",
    ),
    option(
        "--hardware-compatible",
        section=TENSORRT,
        is_flag=True,
        help="Build a plan that newer kinds of GPU can run too. Default: only the kind that built it.",
    ),
)


def _all(options: Sequence[Callable[..., Any]], function: Function) -> Function:
    for declare in reversed(options):
        function = declare(function)
    return function


def target_options(function: Function) -> Function:
    """Declare what the model computes in, on a command."""
    return _all(_TARGET, function)


def build_options(function: Function) -> Function:
    """Declare how a plan is built: its profiles, and the fields of `BuildOptions`."""
    return _all(_BUILD, function)
