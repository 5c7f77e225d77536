"""Run a load test against each lie of the lying servers, and print what the proxy told beside what the run counted.

    python benchmarks/load_faults.py [--only TEXT]

Every lie is told in one of 20 answers of a real Triton, to four users. The table is in docs/load-testing-figures.md
under "What was tried".
"""

import argparse
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from support.load_run import run  # noqa: E402
from support.load_server import serving, write_version, write_words  # noqa: E402
from support.lying_grpc import GRPC_LIES, lying_grpc  # noqa: E402
from support.lying_http import JSON_NUMBERS, JSON_STRINGS, NEXT, NUMBERS, STRINGS, TRANSPORT, lying  # noqa: E402

from builder.server import Server  # noqa: E402

EVERY = 20
USERS = 4
LOAD = ("--scenario", "constant", "--concurrency", str(USERS), "--stage-time", "1.5", "--warm-up", "0.3")
MORE = ("--model-version", "1", "--request-timeout", "1.5", "--min-requests", "200")


@dataclass(frozen=True)
class Case:
    """A lie, how it is told, and the options that the run needs."""

    over: str
    lie: Any
    tell: Callable[[], Any]
    model: str
    options: tuple[str, ...] = ()


def cases(server: Server) -> Iterator[Case]:
    http, grpc = server.http_address, server.grpc_address
    groups = [
        ("HTTP", True, "classifier", (*NUMBERS, *TRANSPORT)),
        ("HTTP", True, "words", STRINGS),
        ("JSON", False, "classifier", JSON_NUMBERS),
        ("JSON", False, "words", JSON_STRINGS),
    ]
    for over, binary, model, lies in groups:
        for lie in lies:
            yield Case(over, lie, partial(lying, http, [lie], every=EVERY, binary=binary), model)
    for one in GRPC_LIES:
        tell = partial(lying_grpc, grpc, [one], every=EVERY, http_address=http)
        yield Case("gRPC", one, tell, "classifier", ("--protocol", "grpc"))


def report(case: Case, repository: Path) -> tuple[str, bool]:
    """Run a load test; return a line of the table, and whether the run counted what the proxy told."""
    options = ("--repository", str(repository), *LOAD, *MORE, *case.options)
    with tempfile.TemporaryDirectory() as folder, case.tell() as proxy:
        finished = run(proxy, Path(folder) / "out", *options, model=case.model)
    totals = finished.result["totals"]
    counted = {**totals["wrong"], **totals["failures"]}
    kinds = ", ".join(f"`{kind}`" for kind in counted) or "right"
    told, number = proxy.told[case.lie.name], sum(counted.values())
    answers = proxy.told.total()
    line = f"| {case.over} | {case.lie.name} | {told} of {answers:,} | {number} | {kinds} | {finished.code} |"
    expected = {case.lie.counted_as: told} if case.lie.counted_as else {}
    is_exact = counted == expected or (case.lie is NEXT and told - USERS <= number <= told)  # the last may be unseen
    return line, is_exact and bool(finished.code) == bool(expected)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="run only the lies whose names contain this")
    only = parser.parse_args().only
    print("| over | the server's lie | told | counted | as | exit code |\n|---|---|---|---|---|---|")
    missed = []
    with tempfile.TemporaryDirectory() as folder:
        repository = Path(folder)
        write_version(repository)
        write_words(repository)
        with serving(repository) as server:
            for case in cases(server):
                if only in case.lie.name:
                    line, is_exact = report(case, repository)
                    print(line, flush=True)
                    missed += [] if is_exact else [case.lie.name]
    if missed:
        raise SystemExit(f"not counted exactly: {', '.join(missed)}")


if __name__ == "__main__":
    main()
