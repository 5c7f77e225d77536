"""`tune`: find the settings with the highest throughput under a latency limit."""

from pathlib import Path
from typing import Any

import click

from builder import interrupts
from builder.cli.arguments import (
    VERSION,
    address,
    folder_or_bucket,
    milliseconds,
    rate,
    row_mix,
    seconds,
    whole_number,
)
from builder.cli.finishing import finishing
from builder.cli.help_pages import Command
from builder.cli.options import REPOSITORY, as_json, lock_timeout, option
from builder.cli.servers import ACCESS, server_access
from builder.cli.tuning_conflicts import check_tuning

LOAD = "Load and limit"
MEASURING = "Measuring"
RESULT = "Result"


@click.command(
    cls=Command,
    short_help="Find the fastest settings under a latency limit.",
    examples=(
        "tune digits --max-p99-ms 20",
        "tune digits --max-p99-ms 20 --concurrency 16 --apply --report-dir tuning",
        "tune digits --undo",
        "tune digits ranker --share --max-p99-ms 20 --concurrency 8",
    ),
)
@click.argument("names", nargs=-1, required=True, metavar="NAME...", help="The model; several with --share.")
@option(
    "--repository",
    type=folder_or_bucket,
    metavar="FOLDER",
    default=REPOSITORY,
    show_default=True,
    help="The folder of the model repository. A bucket cannot be tuned.",
)
@option("--version", type=VERSION, help="The version to measure. Default: the one that config.pbtxt names.")
@option(
    "--max-p99-ms",
    "max_p99_s",
    section=LOAD,
    type=milliseconds,
    help="The limit: 99% of the requests must be answered within this time. For example, 20.",
)
@option(
    "--concurrency",
    "users",
    section=LOAD,
    type=whole_number(1, 4096, form="USERS"),
    help="Find the highest throughput with this many users, each of whom sends one request after the other. For "
    "example, 16. Default: the number of users is part of the answer.",
)
@option(
    "--rate",
    section=LOAD,
    type=rate,
    help="Find the lowest p99 at this many requests each second, however slow the answers are. For example, 300.",
)
@option(
    "--rows",
    section=LOAD,
    type=row_mix,
    help="How many rows a request has. Several numbers are mixed by their weights, as in 1=8,16=1. Default: 1.",
)
@option(
    "--runs",
    section=MEASURING,
    type=whole_number(4, 100),
    help="The most load tests that are run, from 4 to 100; with --share, in each turn of a model. Fewer are run if "
    "nothing better is to be expected. Default: 10.",
)
@option(
    "--stage-time",
    "stage_time_s",
    section=MEASURING,
    type=seconds,
    help="How long each load test is measured, from 1s to 10m. All of them together may take 12 hours at most. "
    "Default: 5s.",
)
@option(
    "--protocol",
    section=MEASURING,
    type=click.Choice(["http", "grpc"]),
    metavar="[http|grpc]",
    help="How the load test talks to the server. Default: http.",
)
@option(
    "--share",
    section=MEASURING,
    is_flag=True,
    help="Tune several models that share one server, one after the other, while the others are under load too.",
)
@option(
    "--fresh",
    "is_fresh",
    section=MEASURING,
    is_flag=True,
    help="Measure everything anew. Without it, a tuning that was interrupted goes on, and one that was finished is not "
    "repeated, if everything is as it was then.",
)
@option(
    "--apply",
    section=RESULT,
    is_flag=True,
    help="Write the best settings to config.pbtxt if they are better than the current ones, and check them live. "
    "With --server, deploy them there.",
)
@option(
    "--undo",
    section=RESULT,
    is_flag=True,
    help="Bring back the settings that the last --apply replaced, also on the servers that it deployed to.",
)
@option(
    "--report-dir",
    section=RESULT,
    type=click.Path(path_type=Path, file_okay=False),
    metavar="FOLDER",
    help="Write report.html, a page with charts, and tune.json, all that was measured, to this folder; with --share, "
    "to a folder in it for each model, beside together.json.",
)
@option(
    "--server",
    "servers",
    section=ACCESS,
    type=address,
    multiple=True,
    help="The gRPC address of a Triton that serves the repository with --model-control-mode=explicit, to measure on "
    "it. For example, grpc://127.0.0.1:8001. Default: a Triton that is started on this machine for the tuning. With "
    "--undo, a server that --apply deployed to and that may get your key; those on this machine always may.",
)
@option(
    "--cores",
    section=ACCESS,
    type=whole_number(1, 1024),
    help="How many cores --server may use: more instances, or more threads of one, are not tried. For example, 8. "
    "Default: as many as this machine has.",
)
@option(
    "--http-address",
    section=ACCESS,
    metavar="HOST:PORT",
    help="The HTTP address of --server. Default: that of a server that you run there with serve, or else the port "
    "before that of gRPC.",
)
@server_access
@lock_timeout
@as_json
def tune(
    names: tuple[str, ...],
    repository: Path | str,
    as_json: bool,
    **given: Any,
) -> None:
    """Find the settings of NAME with the highest throughput that keeps a latency limit.

    Settings are instances, threads, batch sizes and the queue delay. They are measured by short load tests, in which
    every answer is checked, under another name beside the served model, which stays as it is. The exit code is 0 if
    better settings were found, or if none are better than the current ones, and 6 if none keep the limit. It is 4 if an
    answer is wrong with the current settings.
    """
    check_tuning(names, given)
    interrupts.end_as_ctrl_c()
    from builder.cli import tuning

    with finishing():
        if given["undo"]:
            tuning.undo(names[0], repository, given, as_json=as_json)
        elif given["share"]:
            tuning.run_together(names, repository, given, as_json=as_json)
        else:
            tuning.run(names[0], repository, given, as_json=as_json)
