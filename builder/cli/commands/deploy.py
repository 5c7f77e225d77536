"""`deploy`: load a version into a running Triton, and check its answers there."""

import signal
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from builder.cli.arguments import VERSION, address, factor, seconds
from builder.cli.finishing import finishing
from builder.cli.help_pages import Command
from builder.cli.options import admin_header, admin_key_file, as_json, lock_timeout, option, repository
from builder.cli.output import print_json, print_result, report


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
