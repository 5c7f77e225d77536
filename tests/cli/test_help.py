"""Help that a newcomer understands: sentences, sections, plain placeholders, and examples that work."""

import re
import shlex

import click
import pytest

from builder.cli import cli
from builder.cli.help_pages import Command, Option

COMMANDS = {name: command for name, command in cli.commands.items() if isinstance(command, Command)}
OPTIONS = [
    pytest.param(option, id=f"{name} {option.opts[-1]}")
    for name, command in COMMANDS.items()
    for option in command.params
    if isinstance(option, click.Option)
]


def shown(command: click.Command, name: str, width: int) -> str:
    """Return the help as a terminal of this width shows it."""
    with click.Context(command, info_name=name, terminal_width=width) as ctx:
        return command.get_help(ctx)


def is_cut_off(line: str) -> bool:
    return line.rstrip().endswith("...")


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_is_explained_in_sentences(option: click.Option) -> None:
    text = option.help or ""
    assert re.fullmatch(r"[A-Z].*\.", text, re.DOTALL)
    assert len(text.split()) >= 4


@pytest.mark.parametrize("name", COMMANDS)
def test_every_argument_is_explained_in_a_sentence(name: str) -> None:
    for argument in COMMANDS[name].params:
        assert not isinstance(argument, click.Argument) or re.fullmatch(r"[A-Z].*\.", argument.help or "", re.DOTALL)


@pytest.mark.parametrize("option", OPTIONS)
def test_every_option_knows_its_section(option: click.Option) -> None:
    assert isinstance(option, Option)


@pytest.mark.parametrize("width", [50, 78, 100, 200])
@pytest.mark.parametrize("name", COMMANDS)
def test_no_help_shows_ranges_or_the_names_of_types(name: str, width: int) -> None:
    text = shown(COMMANDS[name], name, width)
    assert not re.search(r"<=|>=|RANGE|INTEGER|FLOAT|\bTEXT\b|\bx<", text)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_short_help_that_is_not_cut_off(name: str) -> None:
    listed = shown(cli, "python -m builder", 78)
    (line,) = [line for line in listed.splitlines() if line.startswith(f"  {name} ")]
    assert line.split(maxsplit=1)[1] == COMMANDS[name].short_help
    assert not is_cut_off(line)


def test_a_short_help_that_is_cut_off_is_found() -> None:
    group = click.Group(commands={"x": click.Command("x", help=" ".join(["long"] * 40))})
    assert any(map(is_cut_off, shown(group, "x", 78).splitlines()))


def test_the_options_of_publish_are_in_sections() -> None:
    headings = re.findall(r"^(\S.*):$", shown(COMMANDS["publish"], "publish", 100), re.MULTILINE)
    assert [heading.partition(" (")[0] for heading in headings] == [
        "Positional arguments",
        "Options",
        "Batch",
        "Names of inputs and outputs",
        "Proof that the answers are the original's",
        "Settings in config.pbtxt",
        "Queue and priorities",
        "Instances",
        "Precision and Triton release",
        "TensorRT",
        "Limits of time and memory",
        "PyTorch modules",
        "Examples",
    ]


def test_a_default_is_the_last_sentence_of_the_help() -> None:
    text = " ".join(shown(COMMANDS["serve"], "serve", 200).split())
    assert "--http-port PORT The port for HTTP; 0 takes any free port. Default: 8000." in text


@pytest.mark.parametrize("name", COMMANDS)
def test_every_example_is_a_command_line_that_can_be_read(name: str) -> None:
    examples = [shlex.split(example) for example in COMMANDS[name].examples]
    assert examples
    for python, dash, module, command, *arguments in examples:
        assert (python, dash, module, command) == ("python", "-m", "builder", name)
        COMMANDS[name].make_context(name, arguments)


def test_the_commands_are_listed_in_the_order_of_a_models_life() -> None:
    with click.Context(cli) as ctx:
        assert cli.list_commands(ctx)[:3] == ["publish", "export", "inspect"]
