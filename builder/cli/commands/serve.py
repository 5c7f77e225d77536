"""`serve`: run a real Triton on this machine."""

import signal
from pathlib import Path
from typing import Any

import click

from builder.cli.arguments import PORT
from builder.cli.help_pages import Command
from builder.cli.options import admin_header, admin_key_file, option, repository


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
