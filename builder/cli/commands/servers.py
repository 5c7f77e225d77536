"""The commands on running servers: `serve`, `deploy` and `demo`."""

import signal
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from builder.cli.arguments import FILE_TO_READ, PORT, VERSION, address, factor, header_name, seconds
from builder.cli.finishing import finishing
from builder.cli.help_pages import Command
from builder.cli.options import Function, as_json, lock_timeout, option, repository
from builder.cli.output import print_json, print_result, report


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


@click.command(
    cls=Command,
    short_help="Serve a repository with Triton on this machine.",
    examples=("serve", "serve --http-port 9000 --model-control-mode poll"),
)
@repository
@option(
    "--host",
    metavar="ADDRESS",
    default="127.0.0.1",
    show_default=True,
    help="The address to listen on; 0.0.0.0 is every address. This Triton has known vulnerabilities, so do not let "
    "others reach it.",
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
@admin_key_file("a random key")
@admin_header
def serve(repository: Path, admin_key_file: Path | None, admin_header: str, **where: Any) -> None:
    """Serve the repository with a real Triton on this machine's CPU, until Ctrl-C.

    Clients need the admin key to load and unload models, to list the repository, to register shared memory, and to
    change the settings of traces and logs. They need none for inference, metadata and statistics.

    If Triton or the process of a model dies, Triton is started again, unless it dies too often (exit code 6).
    """
    from builder.server import AdminAccess, given_access, serve

    admin = given_access(admin_key_file, admin_header) or AdminAccess(header=admin_header)
    serve(repository, admin=admin, **where)
    for signum in (signal.SIGINT, signal.SIGTERM):  # a second signal would spoil the exit code: everything has ended
        signal.signal(signum, signal.SIG_IGN)


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
@admin_key_file("the key of the server that you run at this address with serve")
@admin_header
@repository
@lock_timeout
@as_json
def deploy(
    name: str,
    server: Any,
    repository: Path,
    admin_key_file: Path | None,
    admin_header: str,
    as_json: bool,
    **given: Any,
) -> None:
    """Load a version of NAME into a running Triton, and check its answers there.

    If it does not load or answers differently, the version that was served before is restored.
    """
    from builder import api
    from builder.server import given_access

    admin = given_access(admin_key_file, admin_header)
    signal.signal(
        signal.SIGTERM, signal.default_int_handler
    )  # so that `kill` restores the previous version, as Ctrl-C does
    with finishing():
        done = api.deploy(name, server, repository, admin=admin, report=report, **given)
        if as_json:
            print_json(asdict(done))
        else:
            print_result(f"{done.name}: {done.server} serves version {done.version}")


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
