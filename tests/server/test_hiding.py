"""A program gets its secret options, and other users of the machine cannot read them."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from builder.server import hiding
from builder.server.installation import find_installation

SECRETS = ("--first=one,two:key=open sesame", "--second=three")
ENVIRONMENT = {"PLAIN": "yes", "PATH": "/usr/bin:/bin"}

PROGRAM = """
import subprocess, sys
print(sys.argv[1:], flush=True)
print("HIDDEN" in subprocess.run(["env"], capture_output=True, text=True).stdout, flush=True)
sys.stdin.read()
"""


@contextmanager
def started(*hidden: str, code: str = PROGRAM) -> "Iterator[tuple[subprocess.Popen[str], bool]]":
    """Run `code` with hidden options, until the block ends."""
    process, is_hidden = hiding.start(
        [sys.executable, "-S", "-c", code, "--plain"],
        hidden,
        environment=ENVIRONMENT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with process:
        try:
            yield process, is_hidden
        finally:
            process.kill()


def next_line(process: "subprocess.Popen[str]") -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def command_line(process: "subprocess.Popen[str]") -> str:
    return Path(f"/proc/{process.pid}/cmdline").read_text()


def change_launch(monkeypatch: pytest.MonkeyPatch, folder: Path, old: str, new: str) -> None:
    source = hiding._LAUNCH.read_text()
    assert old in source
    path = folder / "launch.py"
    path.write_text(source.replace(old, new))
    monkeypatch.setattr(hiding, "_LAUNCH", path)


@pytest.mark.parametrize("count", [1, 2])
def test_a_program_gets_options_that_its_command_line_does_not_show(count: int) -> None:
    with started(*SECRETS[:count]) as (process, is_hidden):
        assert next_line(process) == str(["--plain", *SECRETS[:count]])
        assert is_hidden
        shown = command_line(process)
        assert "--first=$HIDDEN_OPTION_0" in shown
        assert "sesame" not in shown


def test_the_programs_children_do_not_inherit_the_options() -> None:
    with started(*SECRETS) as (process, _):
        next_line(process)
        assert next_line(process) == "False"


def test_a_signal_before_the_program_starts_changes_nothing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run = "    os.execv(command[0], command)"
    change_launch(monkeypatch, tmp_path, run, f"    os.kill(os.getpid(), signal.SIGWINCH)\n{run}")
    with started(*SECRETS) as (process, is_hidden):
        assert next_line(process) == str(["--plain", *SECRETS])
        assert is_hidden


def test_where_tracing_is_forbidden_the_options_are_erased_afterwards(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    change_launch(monkeypatch, tmp_path, "PTRACE_TRACEME = 0", "PTRACE_TRACEME = -1")
    with started(*SECRETS) as (process, is_hidden):
        assert next_line(process) == str(["--plain", *SECRETS])
        assert next_line(process) == "False"
        assert not is_hidden
        assert "sesame" in command_line(process)
        assert hiding.overwrite(process.pid, SECRETS)
        assert "sesame" not in command_line(process)
        assert f"--first={'*' * len(SECRETS[0].partition('=')[2])}\0--second=*****\0" in command_line(process)


def test_options_of_a_process_that_has_ended_cannot_be_erased() -> None:
    with started(*SECRETS, code="") as (process, _):
        process.wait()
    assert not hiding.overwrite(process.pid, SECRETS)


def test_a_program_that_cannot_be_started_ends_with_an_error() -> None:
    process, is_hidden = hiding.start(["/no/such/program"], SECRETS, environment=ENVIRONMENT, stderr=subprocess.PIPE)
    with process:
        assert process.stderr is not None
        assert "No such file" in process.stderr.read()
    assert (process.returncode, is_hidden) == (1, False)


@pytest.mark.slow
@pytest.mark.parametrize("option", ["--http-restricted-api", "--grpc-restricted-protocol"])
def test_triton_refuses_the_placeholder_instead_of_taking_it_for_a_key(option: str) -> None:
    installation = find_installation()
    command = [str(installation.binary), "--model-repository=/", f"{option}=$HIDDEN_OPTION_0"]
    done = subprocess.run(command, env=installation.environment(), capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "option format is" in done.stderr
