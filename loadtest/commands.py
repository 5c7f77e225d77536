"""The commands of `python -m loadtest`: run a load test, and work with the results of finished runs."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from loadtest.console import print_error, print_line, print_note, print_table
from loadtest.errors import LoadTestError

if TYPE_CHECKING:
    from loadtest.report.compare import Row


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


@main.command()
def schema() -> None:
    """Print the JSON Schema of result.json."""
    from loadtest.report import read_schema

    for line in read_schema().splitlines():
        print_line(line)


@main.command()
@click.argument("first", type=click.Path(path_type=Path), metavar="FIRST.json")
@click.argument("second", type=click.Path(path_type=Path), metavar="SECOND.json")
@click.option(
    "--picture",
    type=click.Path(path_type=Path),
    default=Path("compare.png"),
    show_default=True,
    help="File to draw throughput and p99 to. Its extension gives the format, such as .png or .svg.",
)
def compare(first: Path, second: Path, picture: Path) -> None:
    """Compare two result.json files: print a table, draw a picture.

    Each figure is followed by its 95 % confidence interval (±). A difference smaller than the intervals is marked as
    within the noise.
    """
    from loadtest.report import compare_stages, draw, read_result

    rows = compare_stages(read_result(first), read_result(second))
    heads = ("load", "rows/s A", "rows/s B", "B / A", "p99 µs A", "p99 µs B")
    print_table(heads, map(_columns, rows), title=f"A = {first}, B = {second}")
    draw(rows, (str(first), str(second)), picture)
    print_note(f"picture: {picture}")


def _columns(row: "Row") -> tuple[object, ...]:
    ratio = f"{row.ratio:.2f}" + ("" if row.differs else " (within noise)")
    return f"{row.load:g}", *row.throughput, ratio, *row.p99_us


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

    more = {"header": "\n".join(header), "insecure": str(insecure).lower(), **files}
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
