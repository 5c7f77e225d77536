"""What tests share: one real Triton for all of them."""

import importlib.util
import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings
from support.load_server import serving

from builder import interrupts
from builder.proof import OriginalRuns
from builder.server import Server

with pytest.MonkeyPatch.context() as once:
    # A process that is under way would be patched halfway. The load test's modules find this import later.
    once.setenv("LOCUST_SKIP_MONKEY_PATCH", "1")
    import locust  # noqa: F401

# By default, an example that takes more than 200 ms fails, such as on a busy machine. The examples are the same each
# time, so that a failure is that of the change with which it comes.
settings.register_profile("busy", deadline=None, derandomize=True)
settings.load_profile("busy")

# A script's background job ignores Ctrl-C, and what nohup starts ignores a closed terminal. So would whatever the tests
# start, and some of them send these signals to it.
for number, default in ((signal.SIGINT, signal.default_int_handler), (signal.SIGHUP, signal.SIG_DFL)):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, default)


NEEDS = {
    "torch": (("torch", "onnxscript", "transformers"), "pip install -c constraints.txt -e '.[hf,torch]'"),
    "rtx": (("tensorrt_rtx_bindings", "polygraphy"), "pip install -c constraints.txt -e '.[rtx]'"),
}
"""The markers of tests that need packages which are no part of `.[test]`: the modules, and how to install them."""


def not_installed(marker: str, *, but: str = "") -> str:
    """Return which modules of a marker are not installed, and how to install them; nothing if all but one are."""
    modules, install = NEEDS[marker]
    missing = [name for name in modules if name != but and importlib.util.find_spec(name) is None]
    return f"not installed: {' and '.join(missing)}: {install}" if missing else ""


def pytest_configure() -> None:
    """With REQUIRE_TORCH or REQUIRE_RTX, as in CI, a test that needs these packages cannot be skipped."""
    for marker in NEEDS:
        missing = not_installed(marker)
        if missing and os.environ.get(f"REQUIRE_{marker.upper()}"):
            raise pytest.UsageError(missing)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs packages that are not there, and keep the quick tests quick: a Triton makes a test slow."""
    for marker in NEEDS:
        skip_without(marker, items)
    unmarked = [
        item.nodeid
        for item in items
        if "triton" in getattr(item, "fixturenames", ()) and item.get_closest_marker("slow") is None
    ]
    if unmarked:
        raise pytest.UsageError("these tests start a Triton and need @pytest.mark.slow:\n" + "\n".join(unmarked))


def skip_without(marker: str, items: list[pytest.Item]) -> None:
    """Skip the tests with a marker where its packages are not installed. Those of transformers look themselves."""
    if missing := not_installed(marker, but="transformers"):
        for item in items:
            if item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=missing))


@pytest.fixture(autouse=True)
def handlers_as_before() -> Iterator[None]:
    """Restore how signals are handled: a command that ends a program leaves them ignored."""
    before = {number: signal.getsignal(number) for number in interrupts.SIGNALS}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session", autouse=True)
def work_is_forked() -> Iterator[None]:
    """Fork children in spite of the threads of pytest-xdist: they are idle, and a child has to see what was patched."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("builder.bounded.running.may_fork", lambda: True)
        yield


@pytest.fixture(scope="session", autouse=True)
def searches_are_complete() -> Iterator[None]:
    """Give every search the time that it needs: what it finds would otherwise depend on how busy the machine is."""
    with pytest.MonkeyPatch.context() as patched:
        for module, name in (
            ("builder.publishing.advice", "TIME_BUDGET_S"),
            ("builder.publishing.advice", "RUNS_BUDGET_S"),
            ("builder.publishing.blame", "BUDGET_S"),
            ("builder.proof.original_runs", "RETRY_S"),
            ("builder.proof.truth", "TIME_BUDGET_S"),
        ):
            patched.setattr(f"{module}.{name}", 300.0)
        patched.setattr(OriginalRuns.__init__, "__kwdefaults__", {"budget_s": 300.0})
        yield


@pytest.fixture(scope="session")
def triton(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A Triton in explicit mode on a repository that starts empty: a test writes its model there and loads it."""
    repository = tmp_path_factory.mktemp("served")
    with serving(repository, model_control_mode="explicit") as server:
        yield server
