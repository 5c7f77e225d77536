"""`python -m loadtest`: what is done with results after a run; the runs themselves are Locust's."""

import sys
from pathlib import Path

import click

from loadtest.errors import LoadTestError


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
def main() -> None:
    """Compare load tests, and ask wrong answers again. To run one: locust -f loadtest/locustfile.py --help."""


@main.command()
@click.argument("first", type=click.Path(path_type=Path))
@click.argument("second", type=click.Path(path_type=Path))
@click.option("--picture", type=click.Path(path_type=Path), default=Path("compare.png"), show_default=True)
def compare(first: Path, second: Path, picture: Path) -> None:
    """Put two result.json side by side, as a table and a picture; ± is a 95 % confidence interval."""
    from rich.console import Console
    from rich.table import Table

    from loadtest.report import compare as comparing

    rows = comparing.compare(comparing.read_result(first), comparing.read_result(second))
    table = Table("load", "rows/s A", "rows/s B", "B / A", "p99 µs A", "p99 µs B", title=f"A = {first}, B = {second}")
    for row in rows:
        ratio = f"{row.ratio:.2f}" + ("" if row.differs else " (within noise)")
        table.add_row(f"{row.load:g}", *map(str, row.throughput), ratio, *map(str, row.p99_us))
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    comparing.draw(rows, (str(first), str(second)), picture)
    click.echo(f"picture: {picture}", err=True)


@main.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--address", required=True, help="HOST:PORT of the protocol's own port")
@click.option("--protocol", type=click.Choice(["http", "grpc"]), default="http", show_default=True)
def reproduce(file: Path, address: str, protocol: str) -> None:
    """Send the request of a kept wrong answer again; exit code 1 when the answer is still wrong."""
    from loadtest.report import reproduce as reproducing
    from loadtest.settings import read_address

    fault = reproducing.reproduce(file, read_address("--address", address), protocol)
    if fault is not None:
        click.echo(f"still wrong: {fault.kind.value}, output {fault.output}, row {fault.row}: {fault.what}")
        sys.exit(1)
    click.echo("right now")


def run() -> None:
    """Run the command; a fault of the user's is said in words and gives its exit code."""
    try:
        main()
    except LoadTestError as error:
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    run()
