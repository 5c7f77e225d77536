"""One change at a time, and whoever waits learns for whom."""

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.artifacts import EMPTY, names, scale

from builder.errors import RepositoryError
from builder.publishing import install, roll_back
from builder.repository import Repository, lock

OURS = f"`publish another` (process {os.getpid()} on {socket.gethostname()}, since "


@pytest.fixture
def root(tmp_path: Path) -> Path:
    install(Repository(tmp_path / "models"), "scale", scale())
    return tmp_path / "models"


@contextmanager
def publishing(root: Path) -> Iterator[Path]:
    """Let another thread hold the lock; yield the path of the file that says so."""
    has_it, is_over = threading.Event(), threading.Event()

    def hold() -> None:
        with Repository(root).changing("another", "publish another"):
            has_it.set()
            is_over.wait(250)

    thread = threading.Thread(target=hold)
    thread.start()
    try:
        assert has_it.wait(250)
        yield root.parent / ".models.staging/lock.holder"
    finally:
        is_over.set()
        thread.join()


def test_a_change_that_may_not_wait_says_who_is_in_the_way(root: Path) -> None:
    repository = Repository(root, lock_timeout_s=0.0)
    with publishing(root):
        for change in (
            lambda: install(repository, "scale", scale(3.0)),
            lambda: roll_back(repository, "scale", 1),
            lambda: repository.prune("scale", keep=1),
        ):
            with pytest.raises(RepositoryError, match="was not free within 0 s") as caught:
                change()
            assert OURS in caught.value.what
            assert "--lock-timeout" in caught.value.fix
    assert repository.model("scale").versions() == (1,)

    assert install(repository, "scale", scale(3.0)).version == 2
    assert names(root.parent / ".models.staging") == EMPTY


def test_a_change_that_waits_says_for_whom_and_then_goes_on(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "PATIENCE_S", 0.0)
    said: list[tuple[str, str]] = []
    was_told = threading.Event()

    def report(step: str, what: str) -> None:
        said.append((step, what))
        was_told.set()

    with publishing(root):
        thread = threading.Thread(target=lambda: install(Repository(root, report=report), "scale", scale(3.0)))
        thread.start()
        assert was_told.wait(250)
    thread.join()

    ((step, what),) = said
    assert step == "wait"
    assert OURS in what
    assert Repository(root).model("scale").versions() == (1, 2)


@pytest.mark.parametrize(
    "content",
    [
        None,
        b"",
        b"\xff",
        b"[" * 4000,
        b"[]",
        b"x" * 100_000,
        b"{}",
        {"pid": "1"},
        {"pid": 10**30},
        {"pid": -1},
        {"pid": True},
        {"command": 5},
        {"command": "\x1b[31mred\nfix: run something"},
        {"host": "a\u202eb"},
        {"since": "\u2028"},
        {"pid": 2**31 - 2},
    ],
    ids=lambda content: str(content)[:30],
)
def test_what_is_not_the_note_of_a_running_holder_is_not_shown(root: Path, content: object) -> None:
    with publishing(root) as holder:
        facts = json.loads(holder.read_bytes())
        holder.unlink()
        if isinstance(content, bytes):
            holder.write_bytes(content)
        elif isinstance(content, dict):
            holder.write_text(json.dumps(facts | content))

        with pytest.raises(RepositoryError, match=r"in use by another command, and"):
            install(Repository(root, lock_timeout_s=0.0), "scale", scale(3.0))


def test_the_note_of_a_holder_is_read_through_no_link_and_a_pipe_does_not_block(root: Path) -> None:
    with publishing(root) as holder:
        secret = root.parent / "secret"
        holder.rename(secret)
        plants: list[Callable[[], object]] = [
            lambda: holder.symlink_to(secret),
            lambda: os.mkfifo(holder),
            lambda: holder.mkdir(),
        ]
        for number, plant in enumerate(plants):
            plant()
            with pytest.raises(RepositoryError, match=r"in use by another command, and"):
                install(Repository(root, lock_timeout_s=0.0), "scale", scale(3.0))
            holder.rename(root.parent / f"planted-{number}")


@pytest.mark.slow
def test_the_lock_of_a_killed_process_is_free_and_its_note_is_replaced(root: Path) -> None:
    script = """
import os, signal, sys
from pathlib import Path
from builder.repository import Repository
with Repository(Path(sys.argv[1])).changing("scale", "publish scale"):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", script, str(root)], env={"PYTHONPATH": str(Path(__file__).parents[2])})
    assert "lock.holder" in names(root.parent / ".models.staging")

    assert install(Repository(root, lock_timeout_s=0.0), "scale", scale(3.0)).version == 2
    assert names(root.parent / ".models.staging") == EMPTY


def test_a_lock_that_somebody_deletes_while_it_is_held_is_not_taken_twice(root: Path) -> None:
    path = root.parent / ".models.staging/lock"
    caught: list[RepositoryError] = []

    def wait() -> None:
        try:
            install(Repository(root), "scale", scale(3.0))
        except RepositoryError as error:
            caught.append(error)

    with publishing(root):
        thread = threading.Thread(target=wait)
        thread.start()
        while not is_open_twice(path):
            pass
        path.unlink()
    thread.join()

    assert "deleted this lock" in caught[0].what
    assert install(Repository(root), "scale", scale(3.0)).version == 2


def is_open_twice(path: Path) -> bool:
    """Return whether this process has a file open twice."""
    links = []
    for link in Path("/proc/self/fd").iterdir():
        try:
            links.append(str(link.readlink()))
        except FileNotFoundError:
            continue
    return links.count(str(path)) == 2
