"""The options that several commands share."""

from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

import click

from builder.cli.arguments import (
    FILE_TO_READ,
    digest,
    drop,
    folder,
    folder_or_bucket,
    header_name,
    metric,
    names,
    seconds,
    size,
    version_or_none,
    whole_number,
)
from builder.cli.faults import BadValue
from builder.cli.help_pages import Option
from builder.cli.tensor_types import axis_sizes, constant, input_axes, module_input, named_axes, python_constant

REPOSITORY = Path("model_repository")
BATCH = "Batch"
PROOF = "Proof that the answers are the original's"
LIMITS = "Limits of time and memory"
PYTORCH = "PyTorch modules"

Function = TypeVar("Function", bound=Callable[..., Any])


def option(*names: str, **attributes: Any) -> Callable[[Function], Function]:
    """Declare an option of the class that knows its section."""
    return click.option(*names, cls=Option, **attributes)


def mapping_option(*names: str, **attributes: Any) -> Callable[[Function], Function]:
    """Declare an option that may be repeated, each time for another tensor; its value is a dictionary."""
    return option(*names, multiple=True, callback=_as_mapping, **attributes)


def _as_mapping(ctx: click.Context, param: click.Parameter, pairs: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    """Turn pairs of a tensor's name and a value into a dictionary."""
    given = [name for name, _ in pairs]
    if twice := [name for name in given if given.count(name) > 1]:
        fix = f"give {max(param.opts, key=len)} once for {twice[0]!r}"
        raise BadValue(f"{twice[0]!r} is named twice", fix, ctx=ctx, param=param)
    return dict(pairs)


def _as_one_mapping(
    ctx: click.Context, param: click.Parameter, given: tuple[tuple[tuple[str, Any], ...], ...]
) -> dict[str, Any]:
    """Turn pairs of a tensor's name and a value, several in each option, into a dictionary."""
    return _as_mapping(ctx, param, tuple(chain.from_iterable(given)))


def _as_axes(
    ctx: click.Context, param: click.Parameter, given: tuple[tuple[tuple[tuple[str, int], str], ...], ...]
) -> dict[str, dict[int, str]]:
    """Turn the names of axes into a dictionary by tensor and axis."""
    axes: dict[str, dict[int, str]] = {}
    for (tensor, axis), name in chain.from_iterable(given):
        if axis in axes.setdefault(tensor, {}):
            fix = f"give axis {axis} of {tensor!r} one name"
            raise BadValue(f"axis {axis} of {tensor!r} is named twice", fix, ctx=ctx, param=param)
        axes[tensor][axis] = name
    return axes


def _as_names(ctx: click.Context, param: click.Parameter, given: tuple[tuple[str, ...], ...]) -> tuple[str, ...]:
    """Turn lists of names into one list without repetitions."""
    return tuple(dict.fromkeys(chain.from_iterable(given)))


repository = option(
    "--repository",
    type=folder_or_bucket,
    default=REPOSITORY,
    show_default=True,
    help="The model repository: its folder, or a bucket (s3://BUCKET/PREFIX, gs://..., az://...).",
)
repository_folder = option(
    "--repository",
    "repository",
    type=folder,
    default=REPOSITORY,
    show_default=True,
    help="The folder of the model repository.",
)
lock_timeout = option(
    "--lock-timeout",
    "lock_timeout_s",
    type=seconds,
    help="How long to wait while another command changes the repository. For example, 30s; 0s does not wait. "
    "Default: until that command is done.",
)
dry_run = option(
    "--dry-run",
    is_flag=True,
    help="Only show what would be changed: the versions, the files, and the diff of config.pbtxt. Nothing is written.",
)
keep_settings = option(
    "--keep-settings",
    is_flag=True,
    help="Serve the version with the settings that config.pbtxt has now, instead of those that it had with it.",
)
kept_config = option(
    "--config",
    "number",
    type=whole_number(1, 999_999_999),
    help="Which of the configs that are kept with the version to bring back: N is that of VERSION/config.N.pbtxt. "
    "Default: the last one.",
)


def _as_versions(ctx: click.Context, param: click.Parameter, given: tuple[int | None, ...]) -> tuple[int, ...] | None:
    """Turn the values into versions: an empty tuple for `none`, None if the option is not given."""
    versions = tuple(dict.fromkeys(version for version in given if version is not None))
    if versions and None in given:
        fix = "leave out --serve-also none, or the other versions"
        raise BadValue("none and a version contradict each other", fix, ctx=ctx, param=param)
    return versions if given else None


serve_also = option(
    "--serve-also",
    multiple=True,
    type=version_or_none,
    callback=_as_versions,
    help="A lower version to serve at the same time, which answers requests that name it by its number. Repeat it for "
    "others; none serves no other one. Default: those that config.pbtxt serves.",
)
as_json = option("--json", "as_json", is_flag=True, help="Print the result as JSON, for scripts.")

batch_axes = option(
    "--batch-axis",
    "batch_axes",
    section=BATCH,
    multiple=True,
    callback=_as_one_mapping,
    type=input_axes,
    help="The axis of an input that holds the batch, if it is not axis 0. For example, --batch-axis tokens=1. "
    "INPUT=none is for an input without a batch axis: each sample then sends its own. Repeat it for other inputs, or "
    "separate them by commas.",
)
constants = mapping_option(
    "--constant",
    "constants",
    section=BATCH,
    type=constant,
    help="Turn an input that never changes into a constant: a number (--constant scale=0.5) or an array from a file "
    "(--constant scale=scale.npy). Repeat it for other inputs.",
)
python_constants = mapping_option(
    "--constant",
    "constants",
    section=BATCH,
    type=python_constant,
    help="Turn an input that never changes into a constant: a number (--constant scale=0.5) or an array from a file "
    "(--constant scale=scale.npy). For a PyTorch module it gives a parameter of forward() its value, which may also be "
    "true, false, none, a text or a list (--constant 'sizes=[8, 16]'). Repeat it for others.",
)
dynamic = option(
    "--dynamic",
    section=BATCH,
    multiple=True,
    callback=_as_axes,
    type=named_axes,
    help="Make other axes dynamic too, and name each one. For example, --dynamic image:2=height,3=width. Axes with the "
    "same name always have the same size. Repeat it for other inputs, or separate them by commas: "
    "--dynamic ids:1=length,mask:1=length.",
)
outputs = option(
    "--output",
    "outputs",
    section=BATCH,
    multiple=True,
    callback=_as_names,
    type=names,
    help="An output to keep. The others are left out, such as a loss or a cache. For example, --output logits. Repeat "
    "it for other outputs, or separate them by commas. Default: all outputs. New names are given by --output-names.",
)


def _as_sizes(ctx: click.Context, param: click.Parameter, given: tuple[dict[str, int], ...]) -> dict[str, int]:
    """Join the sizes of several options."""
    joined: dict[str, int] = {}
    for name, number in (pair for each in given for pair in each.items()):
        if joined.setdefault(name, number) != number:
            what = f"{name!r} is given two sizes, {joined[name]} and {number}"
            raise BadValue(what, f"give {name} once", ctx=ctx, param=param)
    return joined


sizes = option(
    "--size",
    "sizes",
    section=PROOF,
    multiple=True,
    type=axis_sizes,
    callback=_as_sizes,
    help="The sizes of dynamic axes in random inputs: of the stored samples, and near them in the rest of the proof. "
    "For example, --size time=16000 or --size past=7,total=8. NAME is the axis's name in the file or in --dynamic, or "
    "INPUT:AXIS, such as mask:1. Default: the sizes of --input; for a file, sizes at which it runs.",
)
samples = option(
    "--samples",
    section=PROOF,
    type=FILE_TO_READ,
    metavar="FILE.npz",
    help="Compare on your own inputs. The file holds one array for each input, of shape [rows, ...], and can hold the "
    "right answers, as an array label. Default: random inputs.",
)
_metric = option(
    "--metric",
    section=PROOF,
    type=metric,
    help="What judges the answers by the labels of --samples: accuracy, top-1, top-5, f1, mean-iou or r2; accuracy and "
    "f1 also with the score above which an answer is yes, as in f1@0.3. Or a function of yours, as "
    "PACKAGE.MODULE:FUNCTION, which gets (outputs, labels) and returns a number of at most 1, where higher is better. "
    "Default: what fits the labels.",
)
_label_output = option(
    "--label-output",
    section=PROOF,
    metavar="NAME",
    help="The output that the labels are for. Default: the one that they fit.",
)
_max_accuracy_drop = option(
    "--max-accuracy-drop",
    section=PROOF,
    type=drop,
    help="How much lower than the original's the accuracy may be. For example, 0.5% (or 0.005) lets 97.2% become "
    "96.7%, but no less. Default: 0.5% in a lower precision, and no limit otherwise.",
)


def accuracy(function: Function) -> Function:
    """Declare the options for the accuracy on labelled samples."""
    return _metric(_label_output(_max_accuracy_drop(function)))


_timeout = option(
    "--prove-timeout",
    section=LIMITS,
    type=seconds,
    help="Stop when the work on the model takes longer than this. For example, 30m. Default: 10m, and 1m for every "
    "100 MB of the model; with publish --prove full, ten times that. Building a TensorRT plan does not count.",
)
_memory = option(
    "--prove-memory",
    section=LIMITS,
    type=size,
    help="Stop when the work on the model needs more memory than this. For example, 4GB. Default: 90% of the memory "
    "that is free.",
)


def limits(function: Function) -> Function:
    """Declare the options that limit the work on a model, `prove_timeout` and `prove_memory`."""
    return _timeout(_memory(function))


inputs = option(
    "--input",
    "inputs",
    section=PYTORCH,
    multiple=True,
    type=module_input,
    help="The type and shape of one parameter of forward(), batch included. For example, "
    "--input 'image=float32[1,3,224,224]'. A tensor inside a dictionary is written --input 'batch.image=...', and one "
    "inside a tuple, a list or *args --input 'state.0=...'. Repeat it for every tensor, in order.",
)
exporter = option(
    "--exporter",
    section=PYTORCH,
    type=click.Choice(["torch.export", "TorchScript"], case_sensitive=False),
    metavar="[torch.export|TorchScript]",
    help="Use only this exporter. Default: torch.export, then TorchScript if that fails.",
)
opset = option(
    "--opset",
    section=PYTORCH,
    type=whole_number(1),
    help="The ONNX opset to export to. Default: the exporter's own choice.",
)
task = option(
    "--task",
    section=PYTORCH,
    metavar="TASK",
    help="What a Hugging Face model does. For example, text-classification. Default: what its config says.",
)
download = option(
    "--download",
    "is_download",
    section=PYTORCH,
    is_flag=True,
    help="Download hf:OWNER/NAME from the Hugging Face Hub: its configs and safetensors.",
)
revision = option(
    "--revision",
    section=PYTORCH,
    metavar="COMMIT",
    help="The commit, tag or branch to download. Default: the newest commit of the main branch.",
)
sha256 = option(
    "--sha256",
    type=digest,
    help="The SHA-256 digest of a file at a URL: another file is refused. `sha256sum FILE` prints it.",
)


verbose = option(
    "-v",
    "--verbose",
    "is_verbose",
    section=PYTORCH,
    is_flag=True,
    help="Show what PyTorch itself prints, logs and warns about. Your own code's output is shown without it too.",
)


def admin_key_file(default: str) -> Callable[[Function], Function]:
    """Declare the option for the file with the admin key."""
    return option(
        "--admin-key-file",
        type=FILE_TO_READ,
        metavar="FILE",
        help="A file of yours, with mode 600, that holds the admin key: the secret that a client needs to load models "
        f"and to change settings. Default: the environment variable TRITON_ADMIN_KEY, or {default}.",
    )


admin_header = option(
    "--admin-header",
    type=header_name,
    default="admin-key",
    show_default=True,
    help="The header that carries the key, named as in Triton's options. Over gRPC, Triton adds the prefix "
    "triton-grpc-protocol-.",
)
