"""Uploads whose answer is lost, and buckets with strange objects, on a filesystem in memory."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest
from support.artifacts import scale
from support.buckets import MemoryBucket as Bucket

from builder.bucket import change, commit, wanted
from builder.config import ConfigOptions
from builder.errors import RepositoryError
from builder.progress import Report
from builder.publishing import Publication, install
from builder.repository import Repository

URL = "s3://bucket/all"
MODEL = "/bucket/all/scale"


@pytest.fixture
def storage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    monkeypatch.setattr(fsspec, "filesystem", lambda scheme, **options: Bucket())
    monkeypatch.setattr(commit, "_TIME_STEP_S", 0.0)
    Bucket.store.clear()
    Bucket.pseudo_dirs[:] = [""]
    yield Bucket()
    Bucket.store.clear()


def publish(factor: float, *, said: list[str] | None = None, **options: Any) -> int:
    """Publish `y = factor * x` and return its version; add the notes to `said`."""

    def publish_to(root: Path, report: Report) -> Publication:
        artifact = scale(factor)
        version = install(Repository(root), "scale", artifact, ConfigOptions(**options))
        return Publication("scale", version, artifact.manifest, ())

    done = change(URL, "scale", publish_to, wanted=wanted.to_publish, report=lambda *_: None)
    if said is not None:
        said += done.notes
    return done.version.version


def served(storage: Bucket) -> int:
    """Return the served version, after checking that all its files and all warmup files are there."""
    config = storage.cat_file(f"{MODEL}/config.pbtxt").decode()
    (version,) = re.findall(r"versions: \[(\d+)\]", config)
    needed = [f"{version}/{file}" for file in ("model.onnx", "reference.npz", "manifest.json")]
    needed += [f"warmup/{file}" for file in re.findall(r"[0-9a-f]{64}\.raw", config)]
    assert [file for file in needed if not storage.exists(f"{MODEL}/{file}")] == []
    return int(version)


def failing_at(call: int, error: BaseException) -> Callable[[str], None]:
    """Return a function that raises the error when it is called for the n-th time."""
    calls = iter(range(1000))

    def fail(name: str) -> None:
        if next(calls) == call:
            raise error

    return fail


@pytest.mark.slow
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("error", [OSError("timed out"), PermissionError("denied"), KeyboardInterrupt()], ids=repr)
@pytest.mark.parametrize("is_first", [False, True])
def test_whichever_upload_fails_before_or_after_it_took_place_the_served_version_is_complete(
    storage: Bucket, monkeypatch: pytest.MonkeyPatch, when: str, error: BaseException, is_first: bool
) -> None:
    failures = 0
    for call in range(20):
        Bucket.store.clear()
        Bucket.pseudo_dirs[:] = [""]
        if not is_first:
            publish(2.0)
        with monkeypatch.context() as patch:
            patch.setattr(Bucket, when, staticmethod(failing_at(call, error)))
            try:
                publish(3.0)
                break
            except (RepositoryError, KeyboardInterrupt):
                failures += 1
        if storage.exists(f"{MODEL}/config.pbtxt"):
            assert served(storage) in (1, 2)
        is_left_behind = is_first and when == "after"  # an object whose creator cannot be told is never deleted
        if not is_left_behind:
            publish(4.0)
            served(storage)

    assert failures >= 3


@pytest.mark.parametrize("error", [OSError("timed out"), KeyboardInterrupt()], ids=repr)
def test_an_upload_of_the_config_that_took_place_is_a_success_whatever_was_reported(
    storage: Bucket, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    publish(2.0)

    def fail(name: str) -> None:
        if name.endswith("config.pbtxt"):
            raise error

    monkeypatch.setattr(Bucket, "after", staticmethod(fail))
    said: list[str] = []

    assert publish(3.0, said=said) == 2
    assert served(storage) == 2
    assert "config.pbtxt was uploaded, although the upload ended with an error" in said[0]


def test_when_nobody_knows_whether_the_config_was_uploaded_the_error_says_so(
    storage: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(2.0)

    def cut_off(name: str) -> None:
        if name.endswith("config.pbtxt"):
            monkeypatch.setattr(Bucket, "cat_file", unreachable)
            raise OSError("timed out")

    def unreachable(storage: Bucket, path: str) -> bytes:
        raise OSError("no route to host")

    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "before", staticmethod(cut_off))
        with pytest.raises(RepositoryError, match=r"whether it took place is unknown, .*: no route to host") as caught:
            publish(3.0)

    monkeypatch.undo()
    assert "run the command again" in caught.value.fix


@pytest.mark.parametrize("error", [OSError("timed out"), KeyboardInterrupt()], ids=repr)
def test_what_cannot_be_deleted_again_is_named(
    storage: Bucket, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    publish(2.0)

    def fail(name: str) -> None:
        if name.endswith("manifest.json"):
            raise error

    def refuse(storage: Bucket, path: str) -> None:
        raise PermissionError("denied")

    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "before", staticmethod(fail))
        patch.setattr(Bucket, "rm_file", refuse)
        with pytest.raises(RepositoryError, match="cannot be deleted again: denied") as caught:
            publish(3.0)

    assert caught.value.fix.endswith("run the command again: 2/model.onnx, 2/reference.npz")
    assert served(storage) == 1
    assert publish(3.0) == 3


def test_an_error_names_the_object_in_the_bucket(storage: Bucket) -> None:
    publish(2.0)
    config = storage.cat_file(f"{MODEL}/config.pbtxt")
    storage.pipe_file(f"{MODEL}/config.pbtxt", config.replace(b"dims: [3]", b"dims: [4]"))

    with pytest.raises(RepositoryError, match="dims") as caught:
        publish(3.0)

    assert caught.value.where == f"{URL}/scale/config.pbtxt"


def test_an_upload_that_the_storage_package_repeats_after_its_answer_was_lost_is_a_success(
    storage: Bucket, monkeypatch: pytest.MonkeyPatch
) -> None:
    def repeat(name: str) -> None:
        if name.endswith("config.pbtxt"):
            raise FileExistsError(name)

    monkeypatch.setattr(Bucket, "after", staticmethod(repeat))

    assert publish(2.0) == 1
    assert served(storage) == 1


@pytest.mark.parametrize(
    "name", ["1/../../../../escaped", "warmup/../../../../escaped", "../escaped", "..", "/", "a//b", "1/"]
)
def test_an_object_whose_name_leaves_the_folder_is_not_downloaded(
    storage: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    deep = tmp_path / "a/b/c"
    deep.mkdir(parents=True)
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    publish(2.0)
    storage.put(f"{MODEL}/{name}", b"from the bucket")

    assert publish(3.0) == 2
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
