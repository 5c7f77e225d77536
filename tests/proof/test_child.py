"""The process in which the original is tried."""

import gc
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from support.serving import eventually

from builder.errors import ModelError
from builder.proof.child import Child, ChildDiedError


def answer(question: Any) -> Any:
    """Answer some questions, and end the process at others."""
    if question == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if question == "refuse":
        raise ModelError("m.onnx", "it is broken", "mend it")
    return question, os.getpid()


def test_a_child_answers_from_one_process_until_it_dies() -> None:
    child = Child(answer)
    (first, pid), (second, same) = child.ask(1), child.ask([2])
    assert (first, second) == (1, [2])
    assert pid == same != os.getpid()
    with pytest.raises(ChildDiedError):
        child.ask("die")
    found, other = child.ask(3)
    assert found == 3
    assert other != pid
    child.close()


def test_an_error_of_the_model_comes_back_as_it_is() -> None:
    child = Child(answer)
    with pytest.raises(ModelError, match="it is broken") as refused:
        child.ask("refuse")
    assert refused.value.fix == "mend it"
    assert child.ask(1)[0] == 1


def test_a_child_that_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builder.proof.child.TIMEOUT_S", 0.05)
    child = Child(lambda question: os.read(os.pipe()[0], 1))
    with pytest.raises(ChildDiedError):
        child.ask("wait for ever")


def test_a_child_leaves_those_alone_that_were_there_before(capfd: pytest.CaptureFixture[str]) -> None:
    first = Child(answer)
    _, pid = first.ask(1)

    def forget(question: Any) -> Any:
        """Close the first child, as a collection of garbage would."""
        first.close()
        gc.collect()
        return question

    second = Child(forget)
    assert second.ask(2) == 2
    assert first.ask(3) == (3, pid), "it is the same process"
    assert capfd.readouterr().err == ""


def test_no_process_is_left_when_the_program_is_killed() -> None:
    script = f"""
import os, sys
sys.path[:0] = {sys.path!r}
from builder.proof.child import Child
children = [Child(lambda question: os.getpid()) for _ in range(3)]
print(*(child.ask(1) for child in children), flush=True)
os.kill(os.getpid(), 9)
"""
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ended.returncode == -9
    pids = [int(pid) for pid in ended.stdout.split()]
    assert len(pids) == 3
    assert eventually(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))


def test_the_process_ends_with_the_child() -> None:
    child = Child(answer)
    _, pid = child.ask(1)
    del child
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_process_of_a_pool_may_ask_too(tmp_path: Path) -> None:
    script = tmp_path / "pool.py"
    script.write_text(f"""
import multiprocessing, sys
sys.path[:0] = {sys.path!r}
from builder.proof.child import Child

def ask(question):
    return Child(lambda question: question).ask(question)

if __name__ == "__main__":
    with multiprocessing.get_context("fork").Pool(1) as pool:
        print(*pool.map(ask, [1, 2]))
""")
    ended = subprocess.run([sys.executable, script], capture_output=True, text=True, check=True)
    assert ended.stdout == "1 2\n"
