"""Start Locust on the locustfile of this package, from any working directory."""

import ctypes
import json
import logging
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from loadtest.options import Option, grouped

LOCUSTFILE = Path(__file__).with_name("locustfile.py")
_PROGRAM = "python -m loadtest run"

_TABLES = {"--print-stats", "--only-summary"}
"""Locust's options that ask for its tables, also while the load runs and only at the end."""

_PR_SET_PDEATHSIG = 1

_WAITING = {"--web", "--master", "--worker"}
"""Locust's log says where such a process listens, and whom it waits for."""


def start(arguments: Sequence[str]) -> None:
    """Run a load test with Locust's options and ours, and end the process with the exit code of the run.

    The run prints a line for each stage. Locust's tables, with times in whole milliseconds, are printed on request.

    Args:
        arguments: The command line; with `--web` among them, Locust serves its page and waits there for the start.
    """
    from locust import main

    given = {argument.partition("=")[0] for argument in arguments}
    mode = [] if "--web" in given else ["--headless"]
    if "--print-stats" not in given:
        mode.append("--only-summary")
    if not given & _TABLES:
        logging.getLogger("locust.stats_logger").addFilter(lambda _: False)
    if not given & _WAITING:
        mode += ["--loglevel", "WARNING"]
    if "--processes" in given and not any(name.startswith(("--master", "--worker")) for name in given):
        mode += _choose_port()
    mode += _reach_master(arguments)
    passed_on = [argument for argument in arguments if argument != "--web"]
    sys.argv = [_PROGRAM, "--locustfile", str(LOCUSTFILE), *mode, *passed_on]
    locust: Any = main
    locust.main()


def stand_by(descriptor: int) -> None:
    """Import what a run needs, wait for its options on stdin, and run it.

    So a program that makes many runs saves a second in each. The options are one line of JSON, a list of texts. The
    result is written to an open file, as result.json has it. The process ends with the one that started it, however
    that ends.

    Args:
        descriptor: The open file.
    """
    prctl = getattr(ctypes.CDLL(None), "prctl", None)
    if prctl is not None:  # it is Linux; see prctl(2)
        prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    from locust import main  # noqa: F401 - first, because it replaces parts of the standard library

    from loadtest import report

    def hand_over(result: Mapping[str, object]) -> None:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            json.dump(result, file)

    report.heard.append(hand_over)
    if line := sys.stdin.readline():  # otherwise whoever started it has no run for it
        start(json.loads(line))


def _choose_port() -> list[str]:
    """Return a free port for the processes of this run, because those of another one may have Locust's usual port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    return ["--master-bind-port", port, "--master-port", port]


def _reach_master(arguments: Sequence[str]) -> list[str]:
    """Return the port that the processes of this run connect to, if only the one that it listens on is given.

    Locust alone would have them connect to its usual port, and wait for them forever.
    """
    given = dict(pairwise(arguments))
    given |= dict(one.split("=", 1) for one in arguments if "=" in one)
    port = given.get("--master-bind-port")
    is_complete = "--processes" not in given or "--master-port" in given
    return [] if port is None or is_complete else ["--master-port", port]


def list_options() -> dict[str, list[tuple[str, str]]]:
    """Return our options under their headings, each as its form and its help; `--host` and `--web` are among them."""
    groups = {title: [(_show(one), one.help) for one in group] for title, group in grouped().items()}
    host = ("--host, -H URL", "URL of the server, as in --host http://127.0.0.1:8000.")
    web = (
        "--web",
        "Serve Locust's page on http://127.0.0.1:8089, where you start the run, instead of starting it at once.",
    )
    return {**groups, "Server": [host, *groups["Server"]], "Report": [web, *groups["Report"]]}


def _show(option: Option) -> str:
    choices = "|".join(option.choices)
    return f"{option.form} {f'[{choices}]' if option.bare else choices}".rstrip()


def describe_locust() -> str:
    """Return the help of Locust's own options."""
    from locust import argument_parser

    locust: Any = argument_parser
    parser = locust.get_empty_argument_parser(add_help=False, default_config_files=())
    locust.setup_parser_arguments(parser)
    parser.description = parser.epilog = None
    return str(parser.format_help())
