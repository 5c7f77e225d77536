"""Start Locust on the locustfile of this package, from any working directory."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from loadtest.options import grouped

LOCUSTFILE = Path(__file__).with_name("locustfile.py")
_PROGRAM = "python -m loadtest run"


def start(arguments: Sequence[str]) -> None:
    """Run a load test with Locust's options and ours, and end the process with the exit code of the run.

    Args:
        arguments: The command line; with `--web` among them, Locust serves its page and waits there for the start.
    """
    from locust import main

    mode = [] if "--web" in arguments else ["--headless"]
    passed_on = [argument for argument in arguments if argument != "--web"]
    sys.argv = [_PROGRAM, "--locustfile", str(LOCUSTFILE), *mode, *passed_on]
    locust: Any = main
    locust.main()


def list_options() -> dict[str, list[tuple[str, str]]]:
    """Return our options under their headings, each as its form and its help; `--host` and `--web` are among them."""
    groups = {
        title: [(f"{one.name} {'|'.join(one.choices) or 'TEXT'}", one.help) for one in group]
        for title, group in grouped().items()
    }
    host = ("--host, -H URL", "URL of the server, as in --host http://127.0.0.1:8000.")
    web = (
        "--web",
        "Serve Locust's page on http://127.0.0.1:8089, where you start the run, instead of starting it at once.",
    )
    return {**groups, "Server": [host, *groups["Server"]], "Report": [web, *groups["Report"]]}


def describe_locust() -> str:
    """Return the help of Locust's own options."""
    from locust import argument_parser

    locust: Any = argument_parser
    parser = locust.get_empty_argument_parser(add_help=False, default_config_files=())
    locust.setup_parser_arguments(parser)
    parser.description = parser.epilog = None
    return str(parser.format_help())
