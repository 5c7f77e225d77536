"""The commands of `python -m loadtest`: run a load test, and work with the results of finished runs."""

import sys
from pathlib import Path

import click

from loadtest.console import print_error, print_json, print_line, print_note, print_table
from loadtest.errors import LoadTestError, SettingsError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Run load tests, and work with their results."""


@main.command("run", add_help_option=False, context_settings={"ignore_unknown_options": True})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def run_load_test(arguments: tuple[str, ...]) -> None:
    """Run a load test; `run --help` lists its options."""
    from loadtest import launch

    if not {"-h", "--help"} & {*arguments}:
        launch.start(arguments)
        return
    formatter = click.HelpFormatter()
    formatter.write_usage("python -m loadtest run", "--host URL --model NAME [OPTIONS]")
    for title, group in launch.list_options().items():
        with formatter.section(title):
            formatter.write_dl([(form, f"{text}\n") for form, text in group], col_max=18)
    heading = "Locust's own options (--users, --spawn-rate and --run-time have no effect: the scenario says it)"
    for line in [*formatter.getvalue().splitlines(), "", heading, "", *launch.describe_locust().splitlines()]:
        print_line(line)


@main.command(hidden=True)
@click.option("--result", "descriptor", type=int, required=True, help="The number of an open file for the result.")
def standby(descriptor: int) -> None:
    """Wait for the options of a run on stdin, and run it."""
    from loadtest import launch

    launch.stand_by(descriptor)


@main.command(short_help="Print the JSON Schema of result.json, of a comparison or of a tuning.")
@click.argument("of", type=click.Choice(["result", "comparison", "tuning", "sharing"]), default="result")
def schema(of: str) -> None:
    """Print the JSON Schema of result.json, of what `compare --json` prints, of tune.json, or of together.json."""
    from loadtest.report import read_schema

    for line in read_schema(of).splitlines():
        print_line(line)


_BETWEEN = "\0"
"""Stands for `--` among the arguments of `compare`; no file has this name."""


class TwoSided(click.Command):
    """A command that gets `--` as an argument, `_BETWEEN`; click would leave it out."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Read the command line."""
        return super().parse_args(ctx, [_BETWEEN if argument == "--" else argument for argument in args])


@main.command(
    cls=TwoSided,
    short_help="Compare two results, or repeated runs.",
    options_metavar="[OPTIONS] A.json B.json | A1.json A2.json ... -- B1.json B2.json ...",
)
@click.argument("files", nargs=-1, metavar="")
@click.option("--picture", type=click.Path(path_type=Path), help="Draw throughput and p99 to this .png or .svg file.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; `schema comparison` prints its schema.")
@click.option(
    "--fail-if-slower",
    metavar="SHARE",
    help="Exit with 1 if throughput or p99 of a stage is worse in B by more than this share, as in --fail-if-slower "
    "5%, and by more than the noise; also if a stage could not be compared, or a run of B did not pass.",
)
def compare(files: tuple[str, ...], picture: Path | None, as_json: bool, fail_if_slower: str | None) -> None:
    """Compare two results, or repeated runs of both sides, stage by stage.

    Each figure and each ratio B / A is followed by its 95 % interval. Within the noise means that the interval of the
    ratio contains 1. Repeated runs show how much runs differ from each other, which a single run cannot know.
    """
    from loadtest.report import compare as comparing

    share = None if fail_if_slower is None else _share(fail_if_slower)
    first, second = ([comparing.read_run(Path(file)) for file in side] for side in _sides(files))
    compared = comparing.compare(first, second)
    if as_json:
        print_json(comparing.to_json(compared))
    else:
        for line in comparing.describe(compared):
            print_line(line)
        print_table(comparing.HEADS, comparing.to_table(compared))
    if picture is not None:
        comparing.draw(compared, picture)
        print_note(f"picture: {picture}")
    slower = [] if share is None else comparing.find_slower(compared, share)
    for reason in slower:
        print_note(f"FAILED: {reason}")
    sys.exit(1 if slower else 0)


def _share(text: str) -> float:
    """Read a percentage: 0.05 for `5%`."""
    try:
        share = float(text.removesuffix("%")) / 100
    except ValueError:
        share = -1
    if not text.endswith("%") or not 0 <= share < 100:
        what = f"{text!r} is not a percentage from 0 up"
        raise SettingsError("--fail-if-slower", what, "give one, as in --fail-if-slower 5%")
    return share


def _sides(files: tuple[str, ...]) -> tuple[list[str], list[str]]:
    """Return the files of both sides: those before and after `--`, or two files without it."""
    if _BETWEEN not in files and len(files) == 2:
        return [files[0]], [files[1]]
    place = files.index(_BETWEEN) if _BETWEEN in files else len(files)
    first, second = [*files[:place]], [*files[place + 1 :]]
    if not first or not second or _BETWEEN in second:
        fix = (
            "name two files, as in compare A.json B.json, or separate the sides by --, as in A1.json A2.json -- B1.json"
        )
        raise SettingsError("compare", "these names do not say which files are to be compared", fix)
    return first, second


@main.command()
@click.argument("file", type=click.Path(path_type=Path), metavar="tune.json")
@click.option(
    "--output",
    type=click.Path(path_type=Path),
    required=True,
    metavar="FILE.html",
    help="The page to write, as in --output report.html.",
)
def tuning(file: Path, output: Path) -> None:
    """Make a page of a tuning.

    tune.json is what `python -m builder tune` writes into its --report-dir, or prints with --json.
    """
    from loadtest.report import tuning as pages

    pages.write(pages.read_document(file), output)
    print_note(f"page: {output}")


@main.command()
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE.npz")
@click.option("--address", required=True, help="Where to send the request: HOST:PORT, as in 127.0.0.1:8000, or a URL.")
@click.option(
    "--protocol",
    type=click.Choice(["http", "grpc"]),
    default="http",
    show_default=True,
    help="Protocol that the server speaks at this address.",
)
@click.option("--header", multiple=True, help="Header to send; can be given several times.")
@click.option("--header-file", default="", help="File with headers to send, one on each line.")
@click.option("--ca-file", default="", help="PEM file of the authorities that sign the server's certificate.")
@click.option("--client-cert", default="", help="PEM file with the client's certificate.")
@click.option("--client-key", default="", help="PEM file with the key of --client-cert.")
@click.option("--insecure", is_flag=True, help="Use TLS without checking the server's certificate.")
def reproduce(
    file: Path, address: str, protocol: str, header: tuple[str, ...], *, insecure: bool, **files: str
) -> None:
    """Send the request of a kept wrong answer again.

    FILE.npz is from the wrong/ directory of a report. The exit code is 1 if the answer is still wrong.
    """
    from loadtest.report import send_again
    from loadtest.settings import read_address

    more = {"header": "\n".join(header), "insecure": "yes" if insecure else "no", **files}
    fault = send_again(file, read_address("--address", address, protocol, more), protocol)
    if fault is not None:
        row = "" if fault.row is None else f", row {fault.row}"
        print_line(f"still wrong: {fault.kind.value}, output {fault.output}{row}: {fault.what}")
        sys.exit(1)
    print_line("The answer is right now.")


def run() -> None:
    """Run the command. An error the user can fix is printed without a traceback, and gives its exit code."""
    try:
        main()
    except LoadTestError as error:
        print_error(error)
        sys.exit(error.exit_code)
