"""The process of a load test: what it hands over, how its failures are told, and that nothing of it is left."""

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from support.serving import eventually

from builder.errors import HostError
from builder.tuning.bench import driving
from builder.tuning.bench.driving import LoadTest, load_options
from builder.tuning.measurement import Load

HEAD = """
import json, os, sys, time
result = os.fdopen(int(sys.argv[-1]), "w")
options = json.loads(sys.stdin.readline())
"""


def program(monkeypatch: pytest.MonkeyPatch, code: str) -> None:
    """Put another program in the place of the load test: it has its options, and the file for its result."""
    monkeypatch.setattr(driving, "COMMAND", (sys.executable, "-I", "-S", "-c", HEAD + textwrap.dedent(code)))


def run(*options: str, timeout_s: float = 20.0) -> driving.Ended:
    with LoadTest() as test:
        test.start(options)
        return test.result(timeout_s=timeout_s)


def test_the_options_reach_it_and_its_result_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    program(monkeypatch, "json.dump({'options': options, 'much': 'x' * 300_000}, result)")
    ended = run("--model", "größer\n", "--rows", "1=8,16=1")
    assert ended.result["options"] == ["--model", "größer\n", "--rows", "1=8,16=1"]
    assert len(ended.result["much"]) == 300_000


def test_its_end_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    program(monkeypatch, "json.dump({}, result); result.close(); time.sleep(60)")
    started = time.monotonic()
    run()
    assert time.monotonic() - started < 20


def test_its_processor_time_is_counted_from_the_moment_it_gets_its_options(monkeypatch: pytest.MonkeyPatch) -> None:
    busy = (
        "end = time.process_time() + 0.3\nwhile time.process_time() < end: pass\njson.dump({}, result); result.close()"
    )
    program(monkeypatch, f"{busy}\ntime.sleep(60)")
    assert 0.25 <= run().cpu_s <= 2.0


@pytest.mark.parametrize(
    ("code", "what", "fix"),
    [
        (
            "print('1 stage', 'error: http://h:1: it is down: no', 'fix: start it', sep='\\n', file=sys.stderr)",
            "http://h:1: it is down: no",
            "start it",
        ),
        (
            "print('error: --host: it is no address', 'fix: set --host, as in --host h:1', sep='\\n', file=sys.stderr)",
            "--http-address: it is no address",
            "set --http-address, as in --http-address h:1",
        ),
        ("sys.stderr.write('error: broken\\n'); sys.exit(2)", "broken: it failed", "report it"),
        ("raise KeyError('lost')", "it ended with status 1: KeyError: 'lost'", "report it"),
        ("os.kill(os.getpid(), 9)", "it ended with status -9: it said nothing", "report it"),
        ("result.write('{\"a\": ')", "its result cannot be read: Expecting value", "report it"),
        ("result.write('[1]')", "its result cannot be read: it is not an object", "report it"),
    ],
)
def test_why_there_is_no_result_is_said(monkeypatch: pytest.MonkeyPatch, code: str, what: str, fix: str) -> None:
    program(monkeypatch, code)
    with pytest.raises(HostError) as caught:
        run()
    assert what in f"{caught.value.where}: {caught.value.what}"
    assert fix in caught.value.fix


def test_one_that_ended_before_it_got_its_options_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    code = "import sys; sys.stderr.write('ModuleNotFoundError: locust\\n'); sys.exit(1)"
    monkeypatch.setattr(driving, "COMMAND", (sys.executable, "-I", "-S", "-c", code))
    with LoadTest() as test:
        assert eventually(lambda: test.has_ended)
        with pytest.raises(HostError, match="it did not start: ModuleNotFoundError: locust"):
            test.start(())


def test_one_that_takes_too_long_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    program(monkeypatch, "time.sleep(60)")
    with pytest.raises(HostError, match="it did not end within 0 s"):
        run(timeout_s=0.2)


def test_nothing_is_left_of_it(monkeypatch: pytest.MonkeyPatch) -> None:
    program(monkeypatch, "time.sleep(60)")
    before = {*Path("/proc/self/fd").iterdir()}
    with LoadTest() as test:
        pid = test.pid
    test.stop()
    assert not Path(f"/proc/{pid}").exists()
    assert {*Path("/proc/self/fd").iterdir()} == before


@pytest.mark.slow
def test_the_load_test_says_that_no_server_answers() -> None:
    with pytest.raises(HostError, match="the server does not answer") as caught:
        run("--host", "http://127.0.0.1:9", "--model", "digits", "--scenario", "constant", "--concurrency", "1")
    assert caught.value.fix.startswith("start the server")


OWNER = """
import sys, time
from builder.tuning.bench.driving import LoadTest
test = LoadTest()
if sys.argv[1] == "running":
    test.start(["--host", "http://127.0.0.1:9", "--model", "m", "--request-timeout", "600"])
print(test.pid, flush=True)
time.sleep(60)
"""


@pytest.mark.slow
@pytest.mark.parametrize("state", ["waiting", "running"])
def test_it_ends_with_a_program_that_is_killed(state: str) -> None:
    owner = subprocess.Popen([sys.executable, "-c", OWNER, state], stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    with owner.stdout as said:
        pid = int(said.readline())
        owner.send_signal(signal.SIGKILL)
        owner.wait()
    assert eventually(lambda: not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text())


@pytest.mark.parametrize(
    ("load", "said"),
    [
        (
            Load(users=4),
            "--scenario constant --concurrency 4 --rows 1=1 --stage-time 2.5 --warm-up 1 --min-requests 400",
        ),
        (
            Load.of_all_sizes(4),  # its p99 is of no interest
            "--scenario constant --concurrency 1 --rows 1=1,2=0.707,4=0.5 --stage-time 2.5 --warm-up 1"
            " --min-requests 0",
        ),
        (
            Load(users=1, rows=((1, 8.0), (4, 1.0))),  # what a user asked for
            "--scenario constant --concurrency 1 --rows 1=8,4=1 --stage-time 2.5 --warm-up 1 --min-requests 400",
        ),
        (
            Load(rate=300.0),
            "--scenario rate --rate 300 --arrivals poisson --max-in-flight 150"
            " --rows 1=1 --stage-time 2.5 --warm-up 1 --min-requests 400",
        ),
    ],
)
def test_a_load_is_said_in_the_options_of_a_load_test(load: Load, said: str) -> None:
    assert load_options(load, stage_time_s=2.5) == said.split()
