"""Load test settings, read as Locust's command line reads them."""

import argparse
from typing import Any

from loadtest import options, settings
from loadtest.settings import Settings


class Parser(argparse.ArgumentParser):
    """Accepts the extra argument of Locust's parser, which says whether the start form shows an option."""

    def add_argument(self, *names: str, **more: Any) -> argparse.Action:
        more.pop("include_in_web_ui", None)
        return super().add_argument(*names, **more)


def read(*arguments: str, host: str = "http://127.0.0.1:8000") -> Settings:
    """Read the options of a command line; `--model m` is given unless the arguments say otherwise."""
    parser = Parser()
    options.declare(parser)
    parsed = parser.parse_args(arguments if "--model" in arguments else ["--model", "m", *arguments])
    return settings.from_text(options.to_text(parsed, host))
