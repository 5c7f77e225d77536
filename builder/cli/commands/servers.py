"""The commands on running servers: `serve`, `deploy` and `demo`."""

import signal
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from builder.cli.arguments import PORT, VERSION, address, factor, seconds
from builder.cli.help_pages import Command
from builder.cli.options import as_json, lock_timeout, option, repository
from builder.cli.output import print_json, report


@click.command(
    cls=Command,
    short_help="Serve a repository with Triton on this machine.",
    examples=("serve", "serve --host 0.0.0.0 --http-port 9000"),
)
@repository
@option(
    "--host",
    metavar="ADDRESS",
    default="127.0.0.1",
    show_default=True,
    help="The address to listen on; 0.0.0.0 is every address.",
)
@option("--http-port", type=PORT, default=8000, show_default=True, help="The port for HTTP; 0 takes any free port.")
@option("--grpc-port", type=PORT, default=8001, show_default=True, help="The port for gRPC; 0 takes any free port.")
@option(
    "--metrics-port", type=PORT, default=8002, show_default=True, help="The port for metrics; 0 takes any free one."
)
@option(
    "--model-control-mode",
    type=click.Choice(["explicit", "poll", "none"]),
    default="explicit",
    show_default=True,
    help="How Triton follows changes in the repository: it loads a model when a client asks for it (explicit), looks "
    "for changes regularly (poll), or ignores them (none). In every mode it starts with all models loaded.",
)
def serve(repository: Path, **where: Any) -> None:
    """Serve the repository with a real Triton on this machine's CPU, until Ctrl-C."""
    from builder.server import serve

    serve(repository, **where)


@click.command(
    cls=Command,
    short_help="Load a version into a running Triton and check it.",
    examples=("deploy digits --server grpc://127.0.0.1:8001 --watch 30s",),
)
@click.argument("name", help="The model's name in the repository.")
@option(
    "--server",
    type=address,
    required=True,
    help="The gRPC address of a Triton that runs with --model-control-mode=explicit. For example, "
    "grpc://127.0.0.1:8001; grpcs:// uses TLS.",
)
@option("--version", type=VERSION, help="The version to deploy. Default: the one that config.pbtxt names.")
@option(
    "--rehearsal/--no-rehearsal",
    "rehearse",
    default=True,
    show_default=True,
    help="Load and check the version under another name first, so that no client gets an answer from a bad version.",
)
@option(
    "--watch",
    "watch_s",
    type=seconds,
    default="0s",
    show_default=True,
    help="How long to go on checking after the version is loaded. For example, 30s or 5m.",
)
@option(
    "--timeout",
    "timeout_s",
    type=seconds,
    default="300s",
    show_default=True,
    help="How long the server may take to load the version. For example, 10m.",
)
@option(
    "--slack",
    type=factor,
    default=1.0,
    show_default=True,
    help="Multiply the allowed differences by this factor. For example, 10 for a GPU that rounds more coarsely than "
    "the CPU that the version was proven on.",
)
@option(
    "--admin-key",
    envvar="TRITON_ADMIN_KEY",
    show_envvar=True,
    metavar="SECRET",
    help="The secret of a server that restricts who may load models.",
)
@repository
@lock_timeout
@as_json
def deploy(name: str, server: Any, repository: Path, as_json: bool, **given: Any) -> None:
    """Load a version of NAME into a running Triton, and check its answers there.

    If it does not load or answers differently, the version that was served before is restored.
    """
    from builder import api

    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # so that `kill` restores the previous version, as Ctrl-C does
    done = api.deploy(name, server, repository, report=report, **given)
    if as_json:
        print_json(asdict(done))
    else:
        click.echo(f"{done.name}: {done.server} serves version {done.version}")


@click.command(cls=Command, short_help="Publish, serve and check the example model.", examples=("demo",))
@repository
@as_json
def demo(repository: Path, as_json: bool) -> None:
    """Publish the example model, serve it with Triton, and check every answer under load."""
    from builder.cli import demo as example

    result = example.run(repository, report=report)
    if as_json:
        print_json(result.to_json())
    else:
        example.show(result)
