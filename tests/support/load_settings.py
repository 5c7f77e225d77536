"""Load test settings, read as Locust's command line reads them."""

import argparse
from typing import Any

from loadtest import settings
from loadtest.settings import Settings


class Parser(argparse.ArgumentParser):
    """Takes the option of Locust's parser that says whether the start form shows the argument."""

    def add_argument(self, *names: str, **more: Any) -> argparse.Action:
        more.pop("include_in_web_ui", None)
        return super().add_argument(*names, **more)


def read(*arguments: str, host: str = "http://127.0.0.1:8000") -> Settings:
    parser = Parser()
    settings.declare(parser)
    options = parser.parse_args(["--model", "m", *arguments])
    return settings.from_text(settings.to_text(options, host))
