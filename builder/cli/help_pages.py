"""Help as a newcomer needs it: options in sections, plain placeholders, and the exit codes at the end."""

from collections.abc import Mapping, Sequence
from typing import Any

import click
from click.types import OptionHelpExtra

from builder.cli.exit_codes import exit_codes

PROGRAM = "python -m builder"

WIDTH = 100
"""The most columns that help fills; a narrower terminal gets narrower help."""

OPTIONS = "Options"
"""The section of an option that names no other."""


class Option(click.Option):
    """An option that belongs to a section of the help.

    Args:
        section: The heading that it is listed under.
    """

    def __init__(self, *names: Any, section: str = OPTIONS, **attributes: Any) -> None:
        super().__init__(*names, **attributes)
        self.section = section

    def get_help_record(self, ctx: click.Context) -> tuple[str, str] | None:
        """Return the name and the help, which ends with the default as a sentence."""
        record = super().get_help_record(ctx)
        default = super().get_help_extra(ctx).get("default")
        return (record[0], f"{record[1]} Default: {default}.") if record and default else record

    def get_help_extra(self, ctx: click.Context) -> OptionHelpExtra:
        """Leave out the default, which the help text already shows."""
        extra = super().get_help_extra(ctx)
        extra.pop("default", None)
        return extra


class Command(click.Command):
    """A command that lists its options by section, in the order in which they are declared, and then gives examples.

    Args:
        examples: Command lines, without `python -m builder`.
    """

    def __init__(self, *arguments: Any, examples: Sequence[str] = (), **attributes: Any) -> None:
        attributes.setdefault("context_settings", {"max_content_width": WIDTH})
        super().__init__(*arguments, **attributes)
        self.examples = tuple(f"{PROGRAM} {example}" for example in examples)

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Set the command on every error of the parser; click does not set it on all of them."""
        try:
            return super().parse_args(ctx, args)
        except click.UsageError as error:
            error.ctx = error.ctx or ctx
            raise

    def sections(self, ctx: click.Context) -> Mapping[str, list[tuple[str, str]]]:
        """Return the name and the help of every option, by section; the general section is the first one."""
        found: dict[str, list[tuple[str, str]]] = {OPTIONS: []}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx)
            if record is not None and not isinstance(param, click.Argument):
                found.setdefault(getattr(param, "section", OPTIONS), []).append(record)
        return found

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write every section."""
        for section, records in self.sections(ctx).items():
            with formatter.section(section):
                formatter.write_dl(records)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the examples, each on one line, so that it can be copied."""
        if self.examples:
            with formatter.section("Examples"):
                formatter.write("".join(f"  {example}\n" for example in self.examples))


class Program(click.Group):
    """The group of all commands; its help ends with the exit codes."""

    command_class = Command

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the commands in the order in which they were added, not in alphabetical order."""
        return list(self.commands)

    def format_epilog(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the exit codes."""
        with formatter.section("Exit codes"):
            formatter.write_dl([(str(code), meaning) for code, meaning in exit_codes().items()])
