"""A command that is killed at any of its writes leaves a bucket in which the served version is complete."""

import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import buckets
from support.buckets import MemoryBucket
from support.buckets import publish_scale as publish

from builder import api
from builder.bucket import commit
from builder.bucket.storage import Storage
from builder.errors import RepositoryError


class Killed(BaseException):
    """The process has ended: nothing that comes after it is done."""


@pytest.fixture
def url(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    monkeypatch.setattr(commit, "_TIME_STEP_S", 0.0)
    with buckets.memory() as url:
        yield f"{url}/all"


def dead_from(call: int, happened: list[str]) -> Callable[[str], None]:
    """Return a function that lets this many writes or deletes take place, and from then on none."""

    def write(name: str) -> None:
        if len(happened) >= call:
            raise Killed
        happened.append(name)

    return write


def check_served(url: str) -> int:
    """Return the version that the config names, after checking that all that a server needs is there."""
    storage = Storage.connect(f"{url}/scale")
    config = (storage.read("config.pbtxt") or b"").decode()
    (version,) = re.findall(r"versions: \[(\d+)\]", config)
    needed = {f"{version}/{file}" for file in ("model.onnx", "reference.npz", "manifest.json")}
    needed |= {f"warmup/{file}" for file in re.findall(r"[0-9a-f]{64}\.raw", config)}
    assert needed - storage.list_objects().keys() == set()
    return int(version)


COMMANDS: dict[str, Callable[[str], Any]] = {
    "publish": lambda url: publish(url, 9.0),
    "publish with another option": lambda url: publish(url, 5.0, instances=2),
    "rollback": lambda url: api.rollback("scale", url),
    "rollback to 1": lambda url: api.rollback("scale", url, to=1),
    "prune": lambda url: api.prune("scale", url, keep=1),
}


@pytest.mark.slow
@pytest.mark.parametrize("command", COMMANDS)
def test_wherever_a_command_is_killed_the_served_version_is_complete_and_the_command_can_be_repeated(
    url: str, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = COMMANDS[command]
    for factor in (2.0, 3.0, 4.0, 5.0):
        publish(url, factor)
    before = dict(MemoryBucket.store)
    for call in range(100):
        MemoryBucket.empty().store.update(before)
        with monkeypatch.context() as patch:
            patch.setattr(MemoryBucket, "before", staticmethod(dead_from(call, [])))
            try:
                run(url)
            except Killed:
                pass
            else:
                break
        check_served(url)
        run(url)
        check_served(url)
    assert call > 0


def test_what_is_left_of_a_version_whose_removal_was_cut_short_is_not_served_and_removed_next_time(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for factor in (2.0, 3.0, 4.0, 5.0):
        publish(url, factor)
    with monkeypatch.context() as patch:
        patch.setattr(MemoryBucket, "before", staticmethod(dead_from(1, [])))
        with pytest.raises(Killed):
            api.prune("scale", url, keep=1)
    left = {name for name in Storage.connect(f"{url}/scale").list_objects() if name.startswith("1/")}
    assert "1/manifest.json" in left
    assert "1/model.onnx" not in left

    with pytest.raises(RepositoryError):
        api.rollback("scale", url, to=1)
    api.prune("scale", url, keep=1)

    assert not any(name.startswith("1/") for name in Storage.connect(f"{url}/scale").list_objects())


def test_an_object_that_cannot_be_deleted_is_told_and_the_rest_is_deleted_next_time(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for factor in (2.0, 3.0, 4.0, 5.0):
        publish(url, factor)

    def refuse(name: str) -> None:
        raise PermissionError("denied")

    with monkeypatch.context() as patch:
        patch.setattr(MemoryBucket, "before", staticmethod(refuse))
        with pytest.raises(RepositoryError, match="objects could not be deleted: denied") as caught:
            api.prune("scale", url, keep=1)
    assert caught.value.where == f"{url}/scale"

    api.prune("scale", url, keep=1)
    assert not any(name.startswith("1/") for name in Storage.connect(f"{url}/scale").list_objects())
