"""Options of `tune` that contradict each other, or that have no effect."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from builder.cli.conflicts import Conflict
from builder.cli.faults import WrongUsage
from builder.cli.help_pages import PROGRAM

if TYPE_CHECKING:
    from builder.tuning import TuneOptions

LONGEST_STAGE_S = 600
_LONGEST_S = 12 * 3600
"""How long a tuning may take, so that it is over the next morning."""


def check_tuning(names: Sequence[str], given: Mapping[str, Any]) -> None:
    """Refuse options of `tune` that contradict each other, or that have no effect.

    Raises:
        WrongUsage: The first of them.
    """
    conflicts = (
        [*_undo_conflicts(names, given)] if given["undo"] else [*_goal_conflicts(given), *_name_conflicts(names, given)]
    )
    conflicts += _access_conflicts(given)
    if conflicts:
        raise WrongUsage(*conflicts[0])


_FOR_TUNING = {
    "max_p99_s": "--max-p99-ms",
    "users": "--concurrency",
    "rate": "--rate",
    "rows": "--rows",
    "version": "--version",
    "runs": "--runs",
    "stage_time_s": "--stage-time",
    "protocol": "--protocol",
    "share": "--share",
    "is_fresh": "--fresh",
    "apply": "--apply",
    "report_dir": "--report-dir",
    "cores": "--cores",
    "http_address": "--http-address",
}
"""What has no effect with --undo, which measures nothing."""


def _undo_conflicts(names: Sequence[str], given: Mapping[str, Any]) -> Iterator[Conflict]:
    for parameter, name in _FOR_TUNING.items():
        if given[parameter] not in (None, False, ()):
            yield f"{name} has no effect with --undo, which measures nothing", f"leave out {name} or --undo"
    if len(names) > 1:
        fix = f"name one, as in `{PROGRAM} tune {names[0]} --undo`"
        yield f"--undo is for one model, and {len(names)} are named", fix


def _goal_conflicts(given: Mapping[str, Any]) -> Iterator[Conflict]:
    if given["max_p99_s"] is None:
        yield (
            "no limit is given, and the highest throughput without one has the longest latency",
            "add --max-p99-ms, for example --max-p99-ms 20; --undo alone needs none",
        )
    if given["users"] is not None and given["rate"] is not None:
        what = "--concurrency is for users who wait for each answer, and --rate for requests that wait for none"
        yield what, "leave out --concurrency or --rate"
    if given["stage_time_s"] is not None and not 1 <= given["stage_time_s"] <= LONGEST_STAGE_S:
        yield f"--stage-time {given['stage_time_s']:g}s is not from 1s to 10m", "use 5s, for example"


def _name_conflicts(names: Sequence[str], given: Mapping[str, Any]) -> Iterator[Conflict]:
    if twice := [name for name in names if names.count(name) > 1]:
        yield f"{twice[0]} is named twice", f"name {twice[0]} once"
    if len(names) > 1 and not given["share"]:
        yield (
            f"{len(names)} models are named, and each is tuned as if it had the server to itself",
            "add --share to tune them on one server together, or name one model",
        )
    if len(names) > 1 and given["version"] is not None:
        yield f"--version is for one model, and {len(names)} are named", "leave out --version, or name one model"
    if given["share"] and given["users"] is None and given["rate"] is None:
        what = "--share compares settings at one load of all models, and none is given"
        yield what, "add --concurrency USERS or --rate REQUESTS_PER_S, for each model"
    if given["share"] and given["is_fresh"]:
        yield "--fresh has no effect with --share, which measures everything anew each time", "leave out --fresh"
    if len(names) == 1 and given["share"]:
        fix = "name the other models on the server, or leave out --share"
        yield "--share is for several models, and one is named", fix


def check_duration(options: "TuneOptions", models: int) -> None:
    """Refuse what nobody would wait for.

    Args:
        options: How the models are tuned.
        models: How many there are.

    Raises:
        WrongUsage: It would take too long.
    """
    from builder.tuning import wording

    longest = options.longest(models)
    if longest.seconds > _LONGEST_S:
        what = f"up to {longest.runs:,} runs of {options.stage_time_s:g} s take {wording.say_duration(longest.seconds)}"
        most = wording.say_duration(_LONGEST_S)
        fix = f"use fewer --runs or a shorter --stage-time, so that it takes at most {most}"
        raise WrongUsage(what, f"{fix}; or name fewer models" if models > 1 else fix)


_FOR_SERVER = {
    "admin_key_file": "--admin-key-file",
    "header_file": "--header-file",
    "ca_file": "--ca-file",
    "client_cert": "--client-cert",
    "client_key": "--client-key",
    "http_address": "--http-address",
    "cores": "--cores",
}


def _access_conflicts(given: Mapping[str, Any]) -> Iterator[Conflict]:
    if len(given["servers"]) > 1 and not given["undo"]:
        what = f"one server is measured, and {len(given['servers'])} are named"
        yield what, "name one; `deploy` brings the result to the others"
    for parameter, name in _FOR_SERVER.items():
        if given[parameter] is not None and not given["servers"] and not given["undo"]:
            yield (
                f"{name} is for a server of yours, and there is no --server",
                f"add --server grpc://HOST:8001, or leave out {name}",
            )
