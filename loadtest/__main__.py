"""`python -m loadtest`: work with the results of finished runs. The runs themselves are started with Locust."""

import sys
from pathlib import Path

import click

from loadtest.errors import LoadTestError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Work with the results of load tests.

    To run a load test: locust -f loadtest/locustfile.py
    """


@main.command()
def options() -> None:
    """List the options of a load test; Locust's own --help does not show them."""
    from loadtest.options import all_options

    formatter = click.HelpFormatter()
    with formatter.section("Options of locust -f loadtest/locustfile.py, besides Locust's own"):
        formatter.write_dl(
            [(f"{one.name} {'|'.join(one.choices) or 'TEXT'}", f"{one.help}\n") for one in all_options()], col_max=18
        )
    click.echo(formatter.getvalue(), nl=False)


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
    from rich.console import Console
    from rich.table import Table

    from loadtest.report import compare_stages, draw, read_result

    rows = compare_stages(read_result(first), read_result(second))
    table = Table("load", "rows/s A", "rows/s B", "B / A", "p99 µs A", "p99 µs B", title=f"A = {first}, B = {second}")
    for row in rows:
        ratio = f"{row.ratio:.2f}" + ("" if row.differs else " (within noise)")
        table.add_row(f"{row.load:g}", *map(str, row.throughput), ratio, *map(str, row.p99_us))
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    draw(rows, (str(first), str(second)), picture)
    click.echo(f"picture: {picture}", err=True)


@main.command()
@click.argument("file", type=click.Path(path_type=Path), metavar="FILE.npz")
@click.option("--address", required=True, help="HOST:PORT to send the request to, as in 127.0.0.1:8000.")
@click.option(
    "--protocol",
    type=click.Choice(["http", "grpc"]),
    default="http",
    show_default=True,
    help="Protocol that the server speaks at this address.",
)
def reproduce(file: Path, address: str, protocol: str) -> None:
    """Send the request of a kept wrong answer again.

    FILE.npz is from the wrong/ directory of a report. The exit code is 1 if the answer is still wrong.
    """
    from loadtest.report import send_again
    from loadtest.settings import read_address

    fault = send_again(file, read_address("--address", address), protocol)
    if fault is not None:
        row = "" if fault.row is None else f", row {fault.row}"
        click.echo(f"still wrong: {fault.kind.value}, output {fault.output}{row}: {fault.what}")
        sys.exit(1)
    click.echo("The answer is right now.")


def run() -> None:
    """Run the command. An error the user can fix is printed without a traceback, and gives its exit code."""
    try:
        main()
    except LoadTestError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    run()
