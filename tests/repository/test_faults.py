"""The point of no return: before it a failure changes nothing, after it the change is complete and the user is told."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from pathlib import Path

import pytest
from support.artifacts import EMPTY, names, scale, tree
from support.faults import Outcome, failing, interrupted, run

from builder.errors import RepositoryError
from builder.publishing import install, roll_back
from builder.repository import Repository

VERSIONS = {"publish": (2.0,), "rollback": (2.0, 3.0), "prune": (2.0, 4.0, 5.0, 3.0)}
SERVED = {"publish": 2, "rollback": 1, "prune": 4}
"""The version that is served after a command has succeeded."""

ALL = {"publish": (1, 2), "rollback": (1, 2), "prune": (4,)}
"""The versions that are there then."""


def prepared(folder: Path, command: str) -> Repository:
    """Make the repository that the command changes."""
    repository = Repository(folder / "models")
    for factor in VERSIONS[command]:
        install(repository, "scale", scale(factor))
    return repository


def copies(folder: Path, command: str, numbers: Iterable[int]) -> Iterator[tuple[int, Repository]]:
    """Give each number a repository of its own that the command changes."""
    before = prepared(folder / "before", command).root.parent
    for number in numbers:
        yield number, Repository(shutil.copytree(before, folder / str(number)) / "models")


def check(ended: Outcome, command: str, repository: Repository, before: dict[str, bytes]) -> None:
    """Assert that the exit code, what was printed and what is on disk say the same, and that the next change works."""
    model = repository.model("scale")
    assert "Traceback" not in ended.err
    if ended.code == 0 or ended.out:
        assert ended.code == 0
        assert (model.versions(), model.served_version()) == (ALL[command], SERVED[command])
        json.loads(ended.out)
    else:
        assert tree(repository.root) == before
    if ended.code == 5:
        assert ended.err.splitlines()[-1].startswith("fix: ")
    if ended.code == 130:
        assert ended.err.endswith("interrupted; nothing was left half done\n")
    assert ended.code in (0, 5, 130, -signal.SIGTERM)

    versions = model.versions()
    assert install(repository, "scale", scale(9.0)).version == versions[-1] + 1
    assert names(repository.root.parent / ".models.staging") == EMPTY


def an_error(code: int) -> Callable[[], OSError]:
    return lambda: OSError(code, os.strerror(code))


# One fault each, where it matters most


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return prepared(tmp_path, "prune")


def fail_from(monkeypatch: pytest.MonkeyPatch, name: str, is_time: Callable[[], bool], error: BaseException) -> None:
    """Let a function of `os` fail whenever it is called from a certain moment on."""
    function = getattr(os, name)

    def call(*args: object, **kwargs: object) -> object:
        if is_time():
            raise error
        return function(*args, **kwargs)

    monkeypatch.setattr(os, name, call)


@pytest.mark.parametrize("error", [OSError(errno.EIO, os.strerror(errno.EIO)), KeyboardInterrupt()], ids=repr)
def test_what_cannot_be_flushed_after_the_last_rename_is_a_note(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    reason = "interrupted" if isinstance(error, KeyboardInterrupt) else "Input/output error"
    expected = f"could not be flushed to disk: {reason}; it may be lost if this machine loses power now"
    model = repository.model("scale")
    with monkeypatch.context() as patch:
        fail_from(patch, "fsync", lambda: model.served_version() == 5, error)
        published = install(repository, "scale", scale(6.0))
    assert published.version == 5
    assert expected in published.notes[-2]

    with monkeypatch.context() as patch:
        fail_from(patch, "fsync", lambda: model.served_version() == 1, error)
        switch = roll_back(repository, "scale", 1)
    assert (switch.after, model.served_version()) == (1, 1)
    assert expected in switch.notes[0]

    said: list[str] = []
    with monkeypatch.context() as patch:
        fail_from(patch, "fsync", lambda: model.versions() == (1, 5), error)
        assert Repository(repository.root, report=lambda _, what: said.append(what)).prune("scale", keep=1).removed == (
            2,
            3,
            4,
        )
    assert expected in said[0]
    assert install(repository, "scale", scale(7.0)).notes == ()


def test_a_first_publish_that_cannot_be_flushed_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Repository(tmp_path / "models").model("scale")
    fail_from(monkeypatch, "fsync", model.path.exists, OSError(errno.EIO, os.strerror(errno.EIO)))

    published = install(Repository(tmp_path / "models"), "scale", scale())

    assert (published.version, model.served_version()) == (1, 1)
    assert "could not be flushed" in published.notes[0]


@pytest.mark.parametrize("nth", [1, 2, 3])
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("error", [OSError(errno.EIO, os.strerror(errno.EIO)), KeyboardInterrupt()], ids=repr)
def test_prune_that_fails_at_any_rename_has_removed_nothing(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, nth: int, when: str, error: BaseException
) -> None:
    before = tree(repository.root)
    rename, calls = Path.rename, count(1)

    def fail(source: Path, target: Path) -> Path:
        is_hit = next(calls) == nth
        if is_hit and when == "before":
            raise error
        result = rename(source, target)
        if is_hit:
            raise error
        return result

    monkeypatch.setattr(Path, "rename", fail)
    if (nth, when) == (3, "after"):  # the last rename took place, whatever was reported
        assert repository.prune("scale", keep=1).removed == (1, 2, 3)
        return
    with pytest.raises((RepositoryError, KeyboardInterrupt)):
        repository.prune("scale", keep=1)

    assert tree(repository.root) == before
    assert names(repository.root.parent / ".models.staging") == EMPTY


@pytest.mark.parametrize("error", [OSError(errno.EIO, os.strerror(errno.EIO)), KeyboardInterrupt()], ids=repr)
def test_prune_that_cannot_be_undone_says_which_versions_are_gone_and_how_to_keep_them(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    before = tree(repository.root)
    rename, calls = Path.rename, count(1)

    def fail_from_the_third(source: Path, target: Path) -> Path:
        if next(calls) >= 3:
            raise error
        return rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fail_from_the_third)
        with pytest.raises(RepositoryError, match="could not be put back: 1, 2") as caught:
            repository.prune("scale", keep=1)
    assert repository.model("scale").versions() == (3, 4)

    staging = repository.root.parent / ".models.staging"
    assert f"{staging / 'pruned-1'} back to {repository.root / 'scale/1'}" in caught.value.fix
    for version in ("1", "2"):
        (staging / f"pruned-{version}").rename(repository.root / "scale" / version)
    assert tree(repository.root) == before
    assert install(repository, "scale", scale(6.0)).version == 5


def test_a_version_that_cannot_be_removed_again_is_named_and_the_next_change_removes_it(
    repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    rename = Path.rename

    def fail_when_it_is_there(source: Path, target: Path) -> Path:
        if (repository.root / "scale/5").exists():
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return rename(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "rename", fail_when_it_is_there)
        with pytest.raises(RepositoryError, match="5 could not be removed again, but is complete and not served"):
            install(repository, "scale", scale(6.0))
    assert repository.model("scale").versions() == (1, 2, 3, 4, 5)

    assert repository.prune("scale", keep=4).removed == ()
    assert repository.model("scale").versions() == (1, 2, 3, 4)


@pytest.mark.parametrize("command", VERSIONS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_after_the_last_rename_leaves_the_exit_code_at_0_and_the_result_is_printed(
    tmp_path: Path, command: str, number: signal.Signals
) -> None:
    repository = prepared(tmp_path, command)
    model = repository.model("scale")

    def start() -> None:
        fsync = os.fsync

        def signal_and_sync(descriptor: int) -> None:
            if (model.versions(), model.served_version()) == (ALL[command], SERVED[command]):
                os.kill(os.getpid(), number)
            fsync(descriptor)

        os.fsync = signal_and_sync  # type: ignore[assignment]

    ended = run(command, repository.root, start)

    assert ended.code == 0
    assert f"note     {number.name} came too late" in ended.err
    assert (
        ended.out.rstrip("\n")
        == {
            "publish": str(repository.root / "scale/2"),
            "rollback": "scale: version 2 → 1",
            "prune": "scale: removed 1, 2, 3",
        }[command]
    )


@pytest.mark.parametrize("command", VERSIONS)
def test_a_result_that_stdout_does_not_take_is_printed_to_stderr(tmp_path: Path, command: str) -> None:
    repository = prepared(tmp_path, command)

    def start() -> None:
        os.dup2(os.open("/dev/full", os.O_WRONLY), 1)

    ended = run(command, repository.root, start, "--json")

    assert ended.code == 0
    note, result = ended.err[ended.err.index("note ") :].split("\n", 1)
    assert "its result could not be written to stdout: No space left on device" in note
    assert json.loads(result)["name"] == "scale"
    assert (repository.model("scale").versions(), repository.model("scale").served_version()) == (
        ALL[command],
        SERVED[command],
    )


def test_prune_tells_in_json_what_failed_after_it_was_complete(tmp_path: Path) -> None:
    repository = prepared(tmp_path, "prune")
    staging = repository.root.parent / ".models.staging"

    def start() -> None:
        rmdir = os.rmdir

        def fail(path: str, *, dir_fd: int | None = None) -> None:
            if (staging / "pruned-1").exists():
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            rmdir(path, dir_fd=dir_fd)

        os.rmdir = fail  # type: ignore[assignment]

    ended = run("prune", repository.root, start, "--json")

    (note,) = json.loads(ended.out)["notes"]
    assert "could not be deleted: Input/output error" in note
    assert f"note     {note}" in ended.err
    assert ended.code == 0


AT_THE_END = """
import atexit, signal, sys
from builder import interrupts
from builder.cli import main
atexit.register(lambda: [signal.raise_signal(number) for number in reversed(interrupts.SIGNALS)])
main()
"""


@pytest.mark.parametrize(("target", "code"), [(1, 0), (4, -signal.SIGHUP)], ids=["change", "no change"])
def test_a_signal_while_the_program_ends_does_not_change_the_exit_code_of_a_change(
    repository: Repository, target: int, code: int
) -> None:
    arguments = ["rollback", "scale", "--to", str(target), "--repository", str(repository.root)]
    ended = subprocess.run([sys.executable, "-c", AT_THE_END, *arguments], capture_output=True, text=True, check=False)

    assert ended.stdout.startswith("scale: version ")
    assert (ended.returncode, repository.model("scale").served_version()) == (code, target)


# Every fault and every signal, at many places


@pytest.mark.slow
@pytest.mark.parametrize("command", VERSIONS)
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("error", [an_error(errno.ENOSPC), KeyboardInterrupt], ids=["full", "Ctrl-C"])
def test_whichever_call_fails_the_exit_code_the_text_and_the_disk_agree(
    tmp_path: Path, command: str, when: str, error: Callable[[], BaseException]
) -> None:
    codes = []
    for nth, repository in copies(tmp_path, command, range(0, 100, 9)):
        before = tree(repository.root)
        ended = run(command, repository.root, failing(nth, error, when), "--json")
        codes.append(ended.code)
        check(ended, command, repository, before)
    assert set(codes) == {0, 130 if error is KeyboardInterrupt else 5}


@pytest.mark.slow
@pytest.mark.parametrize("command", VERSIONS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_at_whichever_line_a_signal_comes_the_exit_code_the_text_and_the_disk_agree(
    tmp_path: Path, command: str, number: signal.Signals
) -> None:
    codes = []
    for nth, repository in copies(tmp_path, command, range(0, 900, 67)):
        before = tree(repository.root)
        ended = run(command, repository.root, interrupted(nth, number), "--json")
        codes.append(ended.code)
        check(ended, command, repository, before)
    assert set(codes) == {0, 130 if number == signal.SIGINT else -number}
