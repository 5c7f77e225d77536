"""The command line: arguments in, one call, printed lines, an exit code.

Heavy imports happen inside the commands, so that `--help` answers at once.
"""

import contextlib
import json
import re
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from builder import __version__
from builder.cli.arguments import (
    COUNT,
    address,
    batch_sizes,
    constant,
    folder,
    folder_or_bucket,
    input_axis,
    module_input,
    name_pair,
    named_axes,
    names,
    profile,
    release,
    seconds,
)
from builder.errors import BuilderError, HostError

if TYPE_CHECKING:
    from builder.progress import Report
    from builder.publishing import Publication, PublishOptions

REPOSITORY = Path("model_repository")
INTERRUPTED = 130
"""Exit code after Ctrl-C, as a shell reports it."""

Command = TypeVar("Command", bound=Callable[..., Any])

_FILE = click.Path(path_type=Path, readable=False)
"""A file to read. Whether it can be is for the step to find out that reads it, with its own exit code."""


def main() -> None:
    """Run the command line and exit with the code of what went wrong."""
    try:
        cli.main(prog_name="python -m builder", standalone_mode=False)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except BuilderError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except MemoryError as error:
        click.echo(f"error: this machine's memory does not suffice: {error}", err=True)
        sys.exit(HostError.exit_code)
    except (click.Abort, KeyboardInterrupt, ImportError) as error:
        # A compiled module that Ctrl-C cuts off while it is imported makes an ImportError of it.
        if isinstance(error, ImportError) and not isinstance(error.__cause__, KeyboardInterrupt):
            raise
        click.echo("interrupted; nothing is left half done", err=True)
        sys.exit(INTERRUPTED)


def _repository(command: Command) -> Command:
    option = click.option(
        "--repository", type=folder, default=REPOSITORY, show_default=True, help="The model repository."
    )
    return option(command)


_batch_axes = click.option(
    "--batch-axis", "batch_axes", type=input_axis, multiple=True, metavar="INPUT=AXIS", help="Where the batch is."
)
_constants = click.option(
    "--constant",
    "constants",
    type=constant,
    multiple=True,
    metavar="INPUT=VALUE",
    help="Make an input a constant: a number or FILE.npy.",
)
_dynamic = click.option(
    "--dynamic", multiple=True, type=named_axes, metavar="INPUT:AXIS=NAME,…", help="Other axes to make dynamic."
)
_samples = click.option("--samples", type=_FILE, metavar="FILE.npz", help="Prove with these inputs.")
_inputs = click.option(
    "--input",
    "inputs",
    multiple=True,
    type=module_input,
    metavar="x=float32[1,3,…]",
    help="An input of a PyTorch module.",
)
_exporter = click.option(
    "--exporter", type=click.Choice(["torch.export", "TorchScript"], case_sensitive=False), help="PyTorch's; else both."
)
_opset = click.option("--opset", type=click.IntRange(1), help="For the exporter.")


def _json(command: Command) -> Command:
    return click.option("--json", "as_json", is_flag=True, help="Print JSON.")(command)


@click.group()
@click.version_option(__version__, prog_name="builder")
def cli() -> None:
    """Build Triton model repositories from static-batch ONNX models, proven batch by batch.

    Exit codes: 0 done, 2 wrong usage, 3 the model cannot be read or batched, 4 its answers differ,
    5 the repository cannot take it, 6 this machine lacks something, 130 interrupted.
    """


@cli.command()
@click.argument("model", type=_FILE)
@click.option(
    "--repository",
    type=folder_or_bucket,
    default=REPOSITORY,
    show_default=True,
    help="The model repository; also s3://BUCKET/PREFIX, gs://… or az://…",
)
@click.option("--name", help="The model's name in the repository. Default: the file's.")
@click.option("--max-batch-size", type=COUNT, help="Triton's bound. Default: the config's, or 32.")
@click.option("--input-names", type=names, metavar="A,B", help="Names for all inputs, in order.")
@click.option("--output-names", type=names, metavar="C,D", help="Names for all outputs, in order.")
@click.option("--rename", "renames", type=name_pair, multiple=True, metavar="OLD=NEW", help="Name one tensor.")
@_samples
@click.option(
    "--prove", "effort", type=click.Choice(["sample", "full", "off"]), default="sample", help="How far to prove."
)
@_batch_axes
@_constants
@_dynamic
@click.option("--max-queue-delay-us", type=click.IntRange(0, 2**63 - 1), help="How long a request may wait for others.")
@click.option("--preferred-batch-size", type=batch_sizes, metavar="N,N", help="Batches to send off when reached.")
@click.option("--instances", type=COUNT, help="Copies that run at the same time.")
@click.option("--intra-op-thread-count", type=COUNT, help="CPU threads of each copy. Default: all.")
@click.option("--kind", type=click.Choice(["auto", "cpu", "gpu"]), help="Where they run.")
@click.option("--warmup/--no-warmup", default=None, help="Run reference samples when the model loads. Default: yes.")
@click.option("--precision", type=click.Choice(["fp32", "fp16", "bf16"]), default="fp32", help="To compute in.")
@click.option("--max-error", type=click.FloatRange(0, 1, min_open=True), help="Allowed, as a part of the values.")
@click.option("--triton", type=release, metavar="26.10", help="The Triton container that will serve it.")
@click.option("--format", type=click.Choice(["onnx", "tensorrt"]), default="onnx", help="What Triton loads.")
@click.option("--accelerator", type=click.Choice(["tensorrt"]), help="Let ONNX Runtime build engines at load.")
@click.option(
    "--profile", "profiles", type=profile, multiple=True, metavar="INPUT=MIN:OPT:MAX", help="Shapes for TensorRT."
)
@click.option("--timing-cache", type=click.Path(path_type=Path, dir_okay=False), help="Kept and reused by builds.")
@click.option("--workspace-mb", type=click.IntRange(1), help="The most scratch memory a kernel of a plan may take.")
@click.option("--version-compatible", is_flag=True, help="Let later versions of TensorRT run the plan.")
@click.option("--hardware-compatible", is_flag=True, help="Let later architectures of GPUs run the plan.")
@click.option("--cuda-graphs/--no-cuda-graphs", default=None, help="Record a plan's launches at each batch size.")
@click.option("--per-sample", "is_per_sample", is_flag=True, help="Run each row by itself: no gain, but any model.")
@click.option("--static", "is_static", is_flag=True, help="No batching: the model as it is, max_batch_size 0.")
@_inputs
@_exporter
@_opset
@_json
def publish(model: Path, repository: Path | str, name: str | None, as_json: bool, **asked: Any) -> None:
    """Make MODEL's batch dynamic, prove it, and install it as a new version.

    MODEL is an ONNX file, or PACKAGE.MODULE:FACTORY of a PyTorch module, with an --input for each of its inputs.
    """
    from builder.exporting.publishing import publish_module
    from builder.publishing import model_name_of, publish

    exporting = {option: asked.pop(option) for option in ("inputs", "exporter", "opset")}
    options = _publish_options(asked)
    is_module = bool(exporting["inputs"])
    looks_like_module = re.fullmatch(r"[\w.]+:\w+", str(model)) is not None and not model.exists()
    if not is_module and (looks_like_module or any(exporting.values())):
        raise click.UsageError("a PyTorch module needs its inputs named, each with --input NAME=DTYPE[DIM,DIM,…]")

    if is_module and (options.constants or None in options.batch_axes.values()):
        raise click.UsageError("--constant and --batch-axis INPUT=none are for ONNX files: let the module hold its own")

    def publish_to(root: Path, report: "Report") -> "Publication":
        if is_module:
            return publish_module(str(model), root, name=name, options=options, report=report, **exporting)
        return publish(model, root, name=name, options=options, report=report)

    if isinstance(repository, Path):
        done = publish_to(repository, _report)
        place = str(done.version.path)
    else:
        from builder.publishing import bucket as object_store

        name = name or model_name_of(Path(f"{str(model).rpartition(':')[2]}.onnx") if is_module else model)
        done = object_store.publish(repository, name, publish_to, report=_report)
        place = f"{repository.rstrip('/')}/{done.name}/{done.version.version}"
    for note in done.notes:
        _report("note", note)
    if as_json:
        _print_json(
            {
                "name": done.name,
                "version": done.version.version,
                "path": place,
                "created": done.version.created,
                "config_changed": done.version.config_changed,
                "notes": list(done.notes),
                "manifest": json.loads(done.manifest.to_json()),
            }
        )
    else:
        click.echo(place)


def _publish_options(asked: dict[str, Any]) -> "PublishOptions":
    from builder.config import ConfigOptions
    from builder.publishing import PublishOptions
    from builder.tensorrt import BuildOptions

    _check_tensorrt(asked)
    if asked["is_static"] and asked["is_per_sample"]:
        raise click.UsageError("--static and --per-sample exclude each other")
    if asked["dynamic"] and (asked["is_static"] or asked["is_per_sample"]):
        raise click.UsageError("--dynamic needs the batch to be made dynamic too")
    for option in ("preferred_batch_size", "max_batch_size"):
        if asked["is_static"] and asked[option]:
            raise click.UsageError(f"--{option.replace('_', '-')} has no meaning with --static")
    largest, preferred = asked["max_batch_size"], max(asked["preferred_batch_size"] or (0,))
    if largest and preferred > largest:
        raise click.UsageError(f"--preferred-batch-size {preferred} is above --max-batch-size {largest}")
    return PublishOptions(
        is_static=asked["is_static"],
        is_per_sample=asked["is_per_sample"],
        input_names=asked["input_names"],
        output_names=asked["output_names"],
        renames=_mapping(asked["renames"], "--rename"),
        batch_axes=_mapping(asked["batch_axes"], "--batch-axis"),
        constants=_mapping(asked["constants"], "--constant"),
        dynamic=_mapping(asked["dynamic"], "--dynamic"),
        samples=asked["samples"],
        effort=asked["effort"],
        precision=asked["precision"],
        max_error=asked["max_error"],
        triton=asked["triton"],
        format=asked["format"],
        profiles=asked["profiles"],
        build=BuildOptions(
            timing_cache=asked["timing_cache"],
            workspace_mb=asked["workspace_mb"],
            version_compatible=asked["version_compatible"],
            hardware_compatible=asked["hardware_compatible"],
        ),
        config=ConfigOptions(
            max_batch_size=asked["max_batch_size"],
            max_queue_delay_us=asked["max_queue_delay_us"],
            preferred_batch_sizes=asked["preferred_batch_size"],
            instances=asked["instances"],
            kind=asked["kind"],
            intra_op_thread_count=asked["intra_op_thread_count"],
            warmup=asked["warmup"],
            accelerator=asked["accelerator"],
            cuda_graphs=asked["cuda_graphs"],
        ),
    )


def _check_tensorrt(asked: dict[str, Any]) -> None:
    """Options that say nothing without a plan, or contradict one."""
    is_plan = asked["format"] == "tensorrt"
    if is_plan and asked["accelerator"]:
        raise click.UsageError("--accelerator is for the ONNX file, --format tensorrt makes a plan of it")
    if asked["profiles"] and not (is_plan or asked["accelerator"]):
        raise click.UsageError("--profile takes --format tensorrt or --accelerator tensorrt")
    for option in ("timing_cache", "workspace_mb", "version_compatible", "hardware_compatible", "cuda_graphs"):
        if asked[option] and not is_plan:
            raise click.UsageError(f"--{option.replace('_', '-')} takes --format tensorrt")


def _mapping(pairs: Sequence[tuple[str, Any]], option: str) -> dict[str, Any]:
    mapping = dict(pairs)
    if len(mapping) < len(pairs):
        raise click.UsageError(f"{option} names the same tensor twice")
    return mapping


@cli.command()
@click.argument("factory", metavar="PACKAGE.MODULE:FACTORY")
@_inputs
@click.option("-o", "--output", required=True, type=click.Path(dir_okay=False, path_type=Path), metavar="FILE.onnx")
@_batch_axes
@_dynamic
@click.option("--static", "is_static", is_flag=True, help="Make no axis dynamic.")
@_exporter
@_opset
@_samples
@_json
def export(factory: str, output: Path, inputs: Sequence[Any], as_json: bool, **asked: Any) -> None:
    """Export the PyTorch module that FACTORY returns to ONNX, its batch dynamic, proven against the module."""
    from builder.exporting import ExportOptions, export

    if not inputs:
        raise click.UsageError("name the inputs of forward, each with --input NAME=DTYPE[DIM,DIM,…]")
    if asked["is_static"] and (asked["dynamic"] or asked["batch_axes"]):
        raise click.UsageError("--static makes no axis dynamic: leave out --dynamic and --batch-axis")
    asked["batch_axes"] = _mapping(asked["batch_axes"], "--batch-axis")
    if None in asked["batch_axes"].values():
        raise click.UsageError("--batch-axis INPUT=none is for ONNX files: let the module hold its own")
    asked["dynamic"] = _mapping(asked["dynamic"], "--dynamic")
    done = export(factory, output, options=ExportOptions(inputs=tuple(inputs), **asked), report=_report)
    if as_json:
        _print_json({**asdict(done), "path": str(done.path)})
    else:
        click.echo(done.path)


@cli.command()
@click.argument("model", type=_FILE)
@_batch_axes
@_constants
@_json
def inspect(
    model: Path,
    batch_axes: Sequence[tuple[str, int | None]],
    constants: Sequence[tuple[str, float | Path]],
    as_json: bool,
) -> None:
    """Show MODEL's tensors, where the batch is, and what would be rewritten or stands in the way.

    Exits with 3 when the samples of the batch cannot be separated.
    """
    from builder.cli import inspection

    found = inspection.inspect(
        model, batch_axes=_mapping(batch_axes, "--batch-axis"), constants=_mapping(constants, "--constant")
    )
    if as_json:
        _print_json(found.to_json())
    else:
        inspection.show(found)
    if found.refusal is not None:
        raise found.refusal


@cli.command("list")
@_repository
@_json
def list_(repository: Path, as_json: bool) -> None:
    """List models and versions: which is served, sizes, when and from what they were published."""
    from builder.cli import listing

    models = listing.read(repository)
    if as_json:
        _print_json(listing.to_json(models))
    else:
        listing.show(models)


@cli.command()
@click.argument("name")
@click.option("--version", type=click.IntRange(1), help="Default: the served one.")
@_repository
@_json
def verify(name: str, version: int | None, repository: Path, as_json: bool) -> None:
    """Prove the published bytes of NAME again, against the reference stored with them."""
    from builder.proof import verify_published
    from builder.repository import Repository

    model = Repository(repository).model(name)
    chosen = model.served_version() if version is None else version
    model.check_version(chosen)
    manifest = model.read_manifest(chosen)
    _report("verify", f"{name} version {chosen}, {manifest.reference.rows} rows")
    with contextlib.ExitStack() as stack:
        run = None
        if manifest.plan is not None:
            from builder.tensorrt import open_plan

            run = stack.enter_context(open_plan(model.version_dir(chosen) / manifest.model.file))
        proof = verify_published(model.version_dir(chosen), manifest, model.read_reference(chosen), run=run)
    largest = {output: found.largest_difference for output, found in proof.outputs.items()}
    if as_json:
        _print_json({"name": name, "version": chosen, "batch_sizes": proof.batch_sizes, "largest_difference": largest})
    else:
        for output, difference in largest.items():
            click.echo(f"{name} {chosen} {output}: equal, largest difference {difference or 0:.1e}")


@cli.command()
@click.argument("name")
@click.option("--to", type=click.IntRange(1), metavar="V", help="Default: the version before the served one.")
@_repository
@_json
def rollback(name: str, to: int | None, repository: Path, as_json: bool) -> None:
    """Serve an earlier version of NAME again, in one atomic change."""
    from builder.publishing import roll_back
    from builder.repository import Repository

    switch = roll_back(Repository(repository), name, to)
    if as_json:
        _print_json({"name": name, "before": switch.before, "after": switch.after})
    elif switch.before == switch.after:
        click.echo(f"{name}: version {switch.after} is served already")
    else:
        click.echo(f"{name}: version {switch.before} → {switch.after}")


@cli.command()
@click.argument("name")
@click.option("--server", type=address, required=True, metavar="grpc://HOST:PORT", help="A Triton in explicit mode.")
@click.option("--version", type=click.IntRange(1), help="Default: the one that the repository names.")
@click.option(
    "--rehearsal/--no-rehearsal",
    "rehearse",
    default=True,
    show_default=True,
    help="Try it under another name first, so that no client meets a bad version.",
)
@click.option("--watch", "watch_s", type=seconds, default="0s", metavar="30s", help="Go on checking for so long.")
@click.option("--timeout", "timeout_s", type=seconds, default="300s", show_default=True, help="For loading.")
@click.option(
    "--slack",
    type=click.FloatRange(min=1.0),
    default=1.0,
    metavar="FACTOR",
    help="Allow this many times the tolerances of the proof, as for a GPU that rounds more coarsely.",
)
@click.option("--admin-key", envvar="TRITON_ADMIN_KEY", show_envvar=True, help="Of the server's restricted protocols.")
@_repository
@_json
def deploy(name: str, server: Any, repository: Path, as_json: bool, **asked: Any) -> None:
    """Load NAME into a running Triton and check it live, or put the version before back."""
    import signal

    from builder.deployment import LiveServer
    from builder.deployment import rollout as deployment
    from builder.repository import Repository

    signal.signal(signal.SIGTERM, signal.default_int_handler)  # what Ctrl-C puts back, an ended job puts back too
    with LiveServer(server, admin_key=asked.pop("admin_key"), timeout_s=asked.pop("timeout_s")) as live:
        done = deployment.deploy(Repository(repository), name, live, report=_report, **asked)
    if as_json:
        _print_json(asdict(done))
    else:
        click.echo(f"{done.name}: {done.server} serves version {done.version}")


@cli.command()
@click.argument("name")
@click.option("--keep", type=click.IntRange(1), required=True, metavar="N", help="How many of the newest to keep.")
@_repository
@_json
def prune(name: str, keep: int, repository: Path, as_json: bool) -> None:
    """Remove old versions of NAME, never the served one."""
    from builder.repository import Repository

    removed = Repository(repository).prune(name, keep=keep)
    if as_json:
        _print_json({"name": name, "removed": removed})
    else:
        click.echo(f"{name}: removed {', '.join(map(str, removed)) or 'nothing'}")


@cli.command()
@_repository
@click.option("--host", default="127.0.0.1", show_default=True)
@click.option("--http-port", type=click.IntRange(0, 65535), default=8000, show_default=True)
@click.option("--grpc-port", type=click.IntRange(0, 65535), default=8001, show_default=True)
@click.option("--metrics-port", type=click.IntRange(0, 65535), default=8002, show_default=True)
@click.option("--model-control-mode", type=click.Choice(["explicit", "poll", "none"]), default="explicit")
def serve(repository: Path, **where: Any) -> None:
    """Serve the repository with the real Triton, on this machine's CPU."""
    from builder.server import serve

    serve(repository, **where)


@cli.command()
@_repository
@_json
def demo(repository: Path, as_json: bool) -> None:
    """Publish the example, serve it, and check every answer under load."""
    from builder.cli import demo as example

    result = example.run(repository, report=_report)
    if as_json:
        _print_json(result.to_json())
    else:
        example.show(result)


def _report(step: str, what: str) -> None:
    click.echo(f"{step:<8} {what}", err=True)


def _print_json(found: Any) -> None:
    click.echo(json.dumps(found, indent=2, ensure_ascii=False))
