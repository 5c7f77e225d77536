"""Open a bench: check that a model can be measured, and put its candidate on a server for as long as that takes."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from builder.config import pbtxt
from builder.deployment import Address, Candidate, Goal, OnDisk, make_goal
from builder.errors import RepositoryError
from builder.progress import Report, silent
from builder.repository import Repository, Wait, deploying
from builder.server import Server, is_loopback, servers_of
from builder.tuning.bench.access import ServerAccess
from builder.tuning.bench.configuring import read_configuration
from builder.tuning.bench.machine import find_below
from builder.tuning.bench.measuring import Protocol, ServerBench


@contextmanager
def open_bench(
    repository: Repository,
    name: str,
    *,
    version: int | None = None,
    largest_request: int = 1,
    server: ServerAccess | None = None,
    stage_time_s: float = 5.0,
    protocol: Protocol = "http",
    report: Report = silent,
) -> Iterator[ServerBench]:
    """Prepare a server to measure a model's configurations, and leave nothing of it behind.

    Args:
        repository: The repository that has the model.
        name: The model.
        version: The version to measure. Default: the one that config.pbtxt names.
        largest_request: The most rows that a request has.
        server: A server of the user's that reads the repository. Default: an embedded one on this machine, for the
            duration of the block.
        stage_time_s: How long each run measures, in seconds.
        protocol: What the requests are sent over.
        report: Called with each step.

    Raises:
        RepositoryError: The model cannot be measured (see `read_goal`), or the repository cannot be written.
        HostError: There is no server that can be controlled, or it does not load the model as it is.
    """
    with ExitStack() as stack:
        goal = read_goal(repository, name, version, largest_request=largest_request)
        wait = Wait(report, repository.lock_timeout_s)
        stack.enter_context(deploying(repository.root, name, f"tune {name}", wait))
        embedded = None
        if server is None:
            embedded = stack.enter_context(start_server(repository, report))
            server = ServerAccess(
                Address.parse(embedded.grpc_address), http=embedded.http_address, admin=embedded.admin
            )
        live = stack.enter_context(server.connect())
        live.check_control()
        candidate = Candidate(goal, OnDisk())
        stack.enter_context(candidate.placed())
        bench = ServerBench(
            goal,
            candidate,
            live,
            server,
            embedded=embedded,
            process=embedded.pid if embedded is not None else _process_of(server.address, repository.root),
            stage_time_s=stage_time_s,
            protocol=protocol,
            report=report,
        )
        stack.callback(bench.close)
        bench.begin()
        yield bench


def start_server(repository: Repository, report: Report) -> Server:
    """Start a Triton for a tuning, which loads nothing yet."""
    report("bench", "starting a Triton for the tuning")
    return Server.start(
        repository.root, http_port=0, grpc_port=0, metrics_port=0, model_control_mode="explicit", report=report
    )


def read_goal(repository: Repository, name: str, version: int | None = None, *, largest_request: int = 1) -> Goal:
    """Read what is measured, and refuse what a load test cannot check request by request. No server is needed.

    Args:
        repository: The repository that has the model.
        name: The model.
        version: The version to measure. Default: the one that config.pbtxt names.
        largest_request: The most rows that a request has.

    Raises:
        RepositoryError: It is an ensemble, there is no such version, its answers cannot be compared, it has several
            groups of instances, or it does not take requests of so many rows.
    """
    model = repository.model(name)
    if pbtxt.parse(model.read_config(), where=model.config_path).HasField("ensemble_scheduling"):
        what = "it is an ensemble, which has no instances and no batches of its own"
        raise RepositoryError(model.config_path, what, "tune the models that it calls, one after the other")
    goal = make_goal(repository, name, version)
    current = read_configuration(goal.config, where=model.config_path)  # now, because a server starts next
    _refuse_rows(goal, largest_request, max(current.max_batch_size, 1))
    return goal


def _refuse_rows(goal: Goal, rows: int, most: int) -> None:
    """Refuse requests that the model does not take, before anything is measured.

    Raises:
        RepositoryError: A request would have more rows than `max_batch_size`.
    """
    if rows <= most:
        return
    name, fix = goal.model.name, f"give at most {most}"
    manifest = next(proven.manifest for proven in goal.proven if proven.version == goal.version)
    if goal.config.max_batch_size and rows <= manifest.max_batch_size:
        fix += f", or allow them with `python -m builder configure {name} --max-batch-size {rows}`"
    elif goal.config.max_batch_size:
        fix += f", or publish with --max-batch-size {rows}, which proves it"
    what = f"--rows has requests of {rows} rows, and the server refuses more than {most} in one (max_batch_size)"
    raise RepositoryError(name, what, fix)


def _process_of(address: Address, root: Path) -> int | None:
    """Return the process of a Triton that this user runs on this machine at an address; None if it is none of ours."""
    if not is_loopback(address.target):
        return None
    port = address.target.rpartition(":")[2]
    mine = (each for each in servers_of(root) if each.grpc_address.rpartition(":")[2] == port)
    return next((pid for each in mine for pid in find_below(each.pid, "tritonserver")), None)
