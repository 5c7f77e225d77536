"""`deploy`: load a version into running Tritons, and check its answers there."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from builder import interrupts
from builder.cli.arguments import VERSION, address, factor, seconds, waves
from builder.cli.faults import WrongUsage
from builder.cli.finishing import finishing
from builder.cli.help_pages import Command
from builder.cli.options import as_json, lock_timeout, option, repository
from builder.cli.output import print_json, print_result, print_table, report
from builder.cli.servers import server_access, servers_file, take_access, take_servers
from builder.errors import BuilderError

if TYPE_CHECKING:
    from builder.deployment import Deployment, ServerOutcome

INTERRUPTED = 130
"""The exit code of a command that Ctrl-C or SIGTERM has ended."""


@click.command(
    cls=Command,
    short_help="Load a version into running Tritons and check it.",
    examples=(
        "deploy digits --server grpc://127.0.0.1:8001 --watch 30s",
        "deploy digits --servers-file servers.txt --wave 1,25%,100% --json",
    ),
)
@click.argument("name", help="The model's name in the repository.")
@option(
    "--server",
    "servers",
    type=address,
    multiple=True,
    help="The gRPC address of a Triton that runs with --model-control-mode=explicit. For example, "
    "grpc://127.0.0.1:8001; grpcs:// uses TLS. Repeat it for other servers. A name with several addresses in the DNS "
    "stands for a server at each of them.",
)
@servers_file
@option("--version", type=VERSION, help="The version to deploy. Default: the one that config.pbtxt names.")
@option(
    "--wave",
    "waves",
    type=waves,
    default="1,100%",
    show_default=True,
    help="How many servers have the version after each wave. Each number or percentage includes the servers of the "
    "waves before; the last wave always takes all that are left. For example, 1,25%,100%.",
)
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
    help="How long to go on checking after each wave. For example, 30s or 5m.",
)
@option(
    "--timeout",
    "timeout_s",
    type=seconds,
    default="300s",
    show_default=True,
    help="How long a server may take to load the version. For example, 10m.",
)
@option(
    "--slack",
    type=factor,
    default=1.0,
    show_default=True,
    help="Multiply the allowed differences by this factor. For example, 10 for a GPU that rounds more coarsely than "
    "the CPU that the version was proven on.",
)
@server_access
@repository
@lock_timeout
@as_json
def deploy(
    name: str,
    repository: Path | str,
    as_json: bool,
    **given: Any,
) -> None:
    """Load a version of NAME into running Tritons, and check its answers there.

    If a server does not load it or answers differently, the repository and all servers are put back as they were.
    """
    from builder import api

    servers, access = _servers(given), take_access(given)
    interrupts.end_as_ctrl_c()
    done: list[Deployment] = []
    with finishing(), _told(name, done, as_json=as_json):
        api.deploy(name, servers, repository, **access, report=report, finished=done.append, **given)


def _servers(given: dict[str, Any]) -> list[Any]:
    """Take the options that name servers out of those that were given, and return the servers."""
    servers = take_servers(given)
    if not servers:
        fix = "add --server grpc://HOST:8001, or name a file of addresses with --servers-file"
        raise WrongUsage("no server is given", fix)
    return servers


@contextmanager
def _told(name: str, done: "list[Deployment]", *, as_json: bool) -> Iterator[None]:
    """Run a deployment, and print what it did, also when it fails."""
    try:
        yield
    except (BuilderError, KeyboardInterrupt) as error:
        if as_json:
            print_json(_json(name, done[0] if done else None, error))
        elif done and len(done[0].servers) > 1:
            _print_servers(done[0])
        raise
    if as_json:
        print_json(_json(name, done[0], None))
    elif len(done[0].servers) > 1:
        _print_servers(done[0])
    else:
        server = done[0].servers[0]
        runs = f", with {_RUNS[server.runs]}" if server.runs else ""
        print_result(f"{name}: {server.address} serves version {done[0].version}{runs}")


_RUNS = {"plan": "the TensorRT plan", "onnx": "the ONNX file"}


def _print_servers(done: "Deployment") -> None:
    """Print how every server was left."""
    heads = ("server", "served before", "serves now", "state", "load s", "requests", "runs")
    shown = len(heads) if any(server.runs for server in done.servers) else len(heads) - 1
    rows = [_row(server)[:shown] for server in done.servers]
    print_table(heads[:shown], rows, title=f"{done.name} version {done.version}")


def _row(server: "ServerOutcome") -> tuple[str, ...]:
    load = f"{server.load_s:.1f}" if server.load_s else "-"
    return (
        server.address,
        _versions(server.before),
        _versions(server.after),
        server.state,
        load,
        str(server.requests),
        _RUNS[server.runs] if server.runs else "",
    )


def _versions(versions: tuple[int, ...] | None) -> str:
    if versions is None:
        return "not known"
    return ", ".join(map(str, versions)) or "none"


def _json(name: str, done: "Deployment | None", error: BaseException | None) -> Mapping[str, Any]:
    """Return what a deployment did, for scripts; little of it where it failed before it knew its servers."""
    return {
        "name": name,
        "version": done and done.version,
        "versions": done and done.versions,
        "complete": done is not None and done.is_complete,
        "repository": done and {"before": done.named_before, "after": done.named_after},
        "config_diff": done.config_diff if done else "",
        "servers": [asdict(server) for server in done.servers] if done else [],
        "requests": done.requests if done else 0,
        "rows": done.rows if done else 0,
        "largest_difference": done.largest_difference if done else {},
        "error": error and _error(error),
    }


def _error(error: BaseException) -> dict[str, Any]:
    if isinstance(error, BuilderError):
        return {"where": error.where, "what": str(error.what), "fix": error.fix, "exit_code": error.exit_code}
    return {"where": "", "what": "the deployment was interrupted", "fix": "deploy again", "exit_code": INTERRUPTED}
