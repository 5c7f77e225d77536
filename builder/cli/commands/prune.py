"""`prune`: remove old versions of a model."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from builder.cli.arguments import address, whole_number
from builder.cli.finishing import finishing
from builder.cli.help_pages import Command
from builder.cli.options import as_json, lock_timeout, option, repository
from builder.cli.output import print_json, print_result, report
from builder.cli.servers import server_access, servers_file, take_access, take_servers


@click.command(
    cls=Command,
    short_help="Remove old versions of a model.",
    examples=("prune digits --keep 3", "prune digits --keep 1 --server grpc://10.0.0.5:8001 --dry-run"),
)
@click.argument("name", help="The model's name in the repository.")
@option("--keep", type=whole_number(1, None), required=True, help="How many of the newest versions to keep.")
@option(
    "--server",
    "servers",
    type=address,
    multiple=True,
    help="The gRPC address of a Triton whose versions are in use. For example, grpc://127.0.0.1:8001. Repeat it for "
    "other servers. Those that you run on this machine with serve are asked without it. If a server does not answer, "
    "nothing is removed.",
)
@option(
    "--gone",
    type=address,
    multiple=True,
    help="The address of a server that exists no more: what deploy left there is no longer in use. Repeat it for "
    "other servers.",
)
@servers_file
@option(
    "--no-other-servers",
    is_flag=True,
    help="No server answers with the model but those that are asked, or that it was deployed to. Without this option, "
    "and without --server, the version that was served before the last change stays: a server may not have loaded the "
    "new one yet.",
)
@option("--dry-run", is_flag=True, help="Show what would be removed, and why the rest stays. Nothing is changed.")
@server_access
@repository
@lock_timeout
@as_json
def prune(name: str, repository: Path | str, as_json: bool, **given: Any) -> None:
    """Remove old versions of NAME, all of them or none.

    A version that is in use stays, however old it is: what a config of the repository or an ensemble names, what a
    server answers with, what deploy has left on a server, and what is newer than that.
    """
    from builder import api

    notes: list[str] = []

    def tell(step: str, what: str) -> None:
        report(step, what)
        if step == "note":
            notes.append(what)

    servers, access = take_servers(given), take_access(given)
    with finishing():
        done = api.prune(name, repository, servers=servers, **access, report=tell, **given)
        for kept in done.kept:
            report("keep", f"version {kept.version}: {', '.join(kept.reasons)}")
        if as_json:
            result = {"name": name, "removed": done.removed, "kept": [asdict(kept) for kept in done.kept]}
            print_json({**result, "dry_run": given["dry_run"], "notes": notes})
        else:
            verb = "would remove" if given["dry_run"] else "removed"
            print_result(f"{name}: {verb} {', '.join(map(str, done.removed)) or 'nothing'}")
