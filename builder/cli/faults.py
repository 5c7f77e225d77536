"""Usage errors, shown like all others: where and what on one line, how to fix it on the next."""

from collections.abc import Sequence

import click

from builder.printable import printable


class WrongUsage(click.UsageError):
    """Options that contradict each other, or one that is missing.

    Args:
        what: What is wrong, as a clause without a full stop.
        fix: What to do about it, starting with a verb.
    """

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what)
        self.fix = fix


class BadValue(click.BadParameter):
    """A value that an option or an argument does not accept.

    Args:
        what: What is wrong, as a clause without a full stop.
        fix: What to do about it, starting with a verb.
        param: The option or argument.
        ctx: The command it belongs to.
    """

    def __init__(
        self, what: str, fix: str, *, param: click.Parameter | None = None, ctx: click.Context | None = None
    ) -> None:
        super().__init__(what, ctx, param)
        self.fix = fix


def describe(error: click.UsageError) -> str:
    """Write the two lines that say what is wrong with the command line and how to fix it.

    For example:

        error: --kind: 'tpu' is not one of 'auto', 'cpu', 'gpu'
        fix: use auto, cpu or gpu
    """
    where, what, fix = map(printable, (_where(error), _what(error), _fix(error)))
    return f"error: {where}: {what}\nfix: {fix}"


def _where(error: click.UsageError) -> str:
    match error:
        case click.MissingParameter():
            pass
        case click.BadParameter(param=click.Parameter() as param):
            return _name(param)
    return error.ctx.command_path if error.ctx else "the command line"


def _what(error: click.UsageError) -> str:
    match error:
        case click.MissingParameter(param=click.Parameter() as param):
            return f"{_name(param)} is missing"
        case click.NoSuchOption():
            return f"there is no option {error.option_name}"
        case click.NoSuchCommand():
            return f"there is no command {error.command_name!r}"
        case WrongUsage() | BadValue():
            return error.message
    return f"{error.message[:1].lower()}{error.message[1:].rstrip('.')}"


def _fix(error: click.UsageError) -> str:
    program = error.ctx.command_path if error.ctx else "python -m builder"
    see_help = f"run `{program} --help` to see the arguments and options"
    match error:
        case WrongUsage() | BadValue():
            return error.fix
        case click.MissingParameter(param=click.Parameter() as param):
            return f"add {_name(param)}, or {see_help}"
        case click.BadParameter(param=click.Parameter(type=click.Choice() as choice)):
            return f"use {_listed(list(map(str, choice.choices)))}"
        case click.NoSuchOption(possibilities=[_, *_] as close):
            return f"use {_listed(close)}, or {see_help}"
        case click.NoSuchCommand(possibilities=[_, *_] as close):
            return f"use {_listed(close)}, or run `{program} --help` to see the commands"
        case click.NoSuchCommand():
            return f"run `{program} --help` to see the commands"
    return see_help


def _name(param: click.Parameter) -> str:
    """Return an option's long name, or an argument's name as the usage line shows it."""
    return max(param.opts, key=len) if isinstance(param, click.Option) else param.human_readable_name


def _listed(words: Sequence[str]) -> str:
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last
