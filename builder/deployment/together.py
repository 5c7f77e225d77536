"""Do one step on several servers at once."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Lock

from builder.deployment.server_run import ServerRun
from builder.errors import BuilderError, HostError, Listing
from builder.progress import Report

AT_ONCE = 16
"""The most servers that are worked on at the same moment."""

Fault = tuple[ServerRun, BuilderError]
"""A server on which a step failed, and why."""


def on_each(runs: Sequence[ServerRun], step: Callable[[ServerRun], object]) -> list[Fault]:
    """Do a step on every server at once, and return those on which it failed, in the order of the servers.

    One server alone is worked on in this thread, so that Ctrl-C ends its step at once. With several, Ctrl-C closes
    their connections, which ends their steps.
    """
    if len(runs) == 1:
        return [fault for fault in [_attempt(runs[0], step)] if fault]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        waiting = [pool.submit(_attempt, run, step) for run in runs]
        try:
            return [fault for done in waiting if (fault := done.result())]
        except BaseException:
            for one in waiting:
                one.cancel()
            for run in runs:
                run.server.interrupt()
            pool.shutdown(wait=True)
            for run in runs:
                run.server.resume()
            raise


def raise_first(faults: Sequence[Fault]) -> None:
    """Raise the error of the first server on which something failed.

    Raises:
        BuilderError: There is one.
    """
    for _, error in faults:
        raise error


def raise_all(faults: Sequence[Fault]) -> None:
    """Raise one error for all servers on which something failed, with a line for each.

    Raises:
        BuilderError: There are any.
    """
    if len(faults) > 1:
        lines = [f"{error.where}: {error.what}" for _, error in faults]
        fix = "; ".join(dict.fromkeys(error.fix for _, error in faults))
        raise HostError(f"{len(faults)} servers", Listing("they cannot be deployed to", lines), fix)
    raise_first(faults)


def in_turn(report: Report) -> Report:
    """Return a report that one thread at a time calls."""
    lock = Lock()

    def say(step: str, what: str) -> None:
        with lock:
            report(step, what)

    return say


def naming(address: object, report: Report) -> Report:
    """Return a report that says which server each line is about."""
    return lambda step, what: report(step, what if what.startswith(str(address)) else f"{address} {what}")


def _attempt(run: ServerRun, step: Callable[[ServerRun], object]) -> Fault | None:
    try:
        step(run)
    except BuilderError as error:
        run.reason = run.reason or error.what
        return run, error
    return None
