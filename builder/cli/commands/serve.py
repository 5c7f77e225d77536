"""`serve`: run a real Triton on this machine."""

import signal
from pathlib import Path
from typing import Any

import click

from builder.cli.arguments import PORT, seconds
from builder.cli.faults import BadValue
from builder.cli.help_pages import Command
from builder.cli.options import admin_header, admin_key_file, option, repository_folder
from builder.cli.output import print_result, report


@click.command(
    cls=Command,
    short_help="Serve a repository with Triton on this machine.",
    examples=(
        "serve",
        "serve --http-port 9000 --model-control-mode poll",
        "serve -- --log-verbose=1 --cache-config=local,size=104857600",
    ),
)
@click.argument(
    "flags",
    nargs=-1,
    metavar="[-- FLAG ...]",
    type=click.UNPROCESSED,
    help="Flags of tritonserver, behind --. serve refuses those that it sets itself, and names the option instead. "
    "serve -- --help lists all flags.",
)
@repository_folder
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
@option(
    "--strict",
    is_flag=True,
    help="End with exit code 6 if a model does not load. Without it, that model is named, and the others are served.",
)
@option(
    "--ready-timeout",
    "ready_timeout_s",
    type=seconds,
    help="How long the models may take to load in all. For example, 10m. Default: as long as Triton goes on, with at "
    "most 2 minutes from one model to the next.",
)
@admin_key_file("a random key")
@admin_header
def serve(repository: Path, flags: tuple[str, ...], admin_key_file: Path | None, admin_header: str, **how: Any) -> None:
    """Serve the repository with a real Triton on this machine's CPU, until Ctrl-C.

    A model that does not load is named with the reason, and the others are served. If none loads, the exit code is 6.

    Clients need the admin key to load and unload models, to list the repository, to register shared memory, and to
    change the settings of traces and logs. They need none for inference, metadata and statistics.

    If Triton or the process of a model dies, Triton is started again, unless it dies too often (exit code 6).
    """
    from builder import api
    from builder.server import AdminAccess, FlagError, given_access, help_text, serve

    if "--help" in flags:
        for line in help_text().splitlines():
            print_result(line.expandtabs(4))
        return
    admin = given_access(admin_key_file, admin_header) or AdminAccess(header=admin_header)
    incomplete = api.incomplete_models(repository) if repository.is_dir() else ()
    if incomplete:
        what = "no complete config.pbtxt, so Triton makes up what is missing (adopt NAME proves the model)"
        report("config", f"{', '.join(incomplete)}: {what}")
    if beside := api.models_with_unused_plans(repository) if repository.is_dir() else ():
        report("plan", f"{', '.join(beside)}: the ONNX file is served, because a TensorRT plan needs a GPU")
    try:
        serve(repository, admin=admin, flags=flags, auto_complete=bool(incomplete), **how)
    except FlagError as error:
        raise BadValue(error.what, error.fix) from error
    for signum in (signal.SIGINT, signal.SIGTERM):  # a second signal would spoil the exit code: everything has ended
        signal.signal(signum, signal.SIG_IGN)
