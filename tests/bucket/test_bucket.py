"""Publishing into a real S3 server, and a real Triton that reads the bucket at the same time."""

import itertools
import json
import logging
import re
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import Request, urlopen

import fsspec
import numpy as np
import onnx
import pytest
import tritonclient.grpc as grpc
from moto.server import ThreadedMotoServer
from onnx import parser
from support import bare_triton
from support.artifacts import scale
from support.reserved import unused_address
from support.serving import grpc_inputs

from builder import cli
from builder.bucket import change, commit, wanted
from builder.bucket.storage import Storage
from builder.config import ConfigOptions
from builder.errors import HostError, RepositoryError
from builder.progress import Report
from builder.publishing import Publication, install
from builder.repository import Repository

pytestmark = pytest.mark.slow

BUCKET = "models"
STEP_S = commit._TIME_STEP_S
MODEL = """
<ir_version: 8, opset_import: ["": 17]>
scale (float[1, 3] x) => (float[1, 3] y) {
    factor = Constant <value = float {FACTOR}> ()
    y = Mul (x, factor)
}
"""
ROW: dict[str, Any] = {
    "x": np.ones((1, 3), np.float32),
    "n": np.ones((1, 1), np.int64),
    "s": np.array([["a", "b"]], object),
}
ENVIRONMENT = {"AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret", "AWS_DEFAULT_REGION": "us-east-1"}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A server with the S3 protocol."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(address: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An empty bucket, and credentials that may use it; nobody but a Triton cares for the times of its objects."""
    monkeypatch.setattr(commit, "_TIME_STEP_S", 0.0)
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    storage = fsspec.filesystem("s3", endpoint_url=address, use_listings_cache=False, skip_instance_cache=True)
    storage.mkdir(BUCKET)
    yield storage
    storage.rm(BUCKET, recursive=True)


@pytest.fixture
def url(address: str, bucket: Any) -> str:
    return f"s3://{address}/{BUCKET}/all"


def model(folder: Path, factor: float) -> Path:
    path = folder / "scale.onnx"
    onnx.save(parser.parse_model(MODEL.replace("FACTOR", str(factor))), path)
    return path


def published(root: Path, factor: float, **options: Any) -> Publication:
    """Install a version of `scale` on disk, as publishing would."""
    artifact = scale(factor)
    version = install(Repository(root), "scale", artifact, ConfigOptions(**options))
    return Publication("scale", version, artifact.manifest, ())


def publish(url: str, factor: float, **options: Any) -> Publication:
    """Publish `y = factor * x` into the bucket."""

    def publish_to(root: Path, report: Report) -> Publication:
        return published(root, factor, **options)

    return change(url, "scale", publish_to, wanted=wanted.to_publish, report=lambda *_: None)


def content(bucket: Any) -> dict[str, bytes]:
    """Return the content of every object, by its path below the repository."""
    return {path.removeprefix(f"{BUCKET}/all/"): bucket.cat_file(path) for path in bucket.find(BUCKET)}


def test_versions_are_added_and_the_config_names_the_newest(url: str, bucket: Any) -> None:
    publish(url, 2.0)
    first = content(bucket)
    done = publish(url, 3.0)
    second = content(bucket)

    assert done.version.version == 2
    assert {path for path in first if "warmup" not in path} == {
        "scale/config.pbtxt",
        "scale/1/model.onnx",
        "scale/1/reference.npz",
        "scale/1/manifest.json",
    }
    assert b"versions: [2]" in second["scale/config.pbtxt"]
    assert {path: data for path, data in second.items() if path.startswith("scale/1/")} == {
        **{path: data for path, data in first.items() if path.startswith("scale/1/")},
        "scale/1/config.1.pbtxt": first["scale/config.pbtxt"],
    }


def test_publishing_the_same_again_adds_nothing(url: str, bucket: Any) -> None:
    publish(url, 2.0)
    before = content(bucket)

    done = publish(url, 2.0)

    assert not done.version.created
    assert content(bucket) == before


def test_only_the_config_follows_when_only_an_option_changed(url: str, bucket: Any) -> None:
    publish(url, 2.0)
    before = content(bucket)

    done = publish(url, 2.0, instances=2)

    changed = {path for path, data in content(bucket).items() if before.get(path) != data}
    assert (done.version.created, changed) == (False, {"scale/config.pbtxt", "scale/1/config.1.pbtxt"})


class Uploads(logging.Handler):
    """Return the objects that the server received, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        if match := re.search(r"PUT /models/all/scale/(\S+)", record.getMessage()):
            self.names.append(match[1])


@pytest.fixture
def uploads() -> Iterator[Uploads]:
    log, handler = logging.getLogger("werkzeug"), Uploads()
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    yield handler
    log.setLevel(logging.ERROR)
    log.removeHandler(handler)


def test_the_config_is_written_after_everything_it_names(url: str, uploads: Uploads) -> None:
    publish(url, 2.0)

    version, warmup, config = uploads.names[:3], uploads.names[3:-1], uploads.names[-1]
    assert version == ["1/model.onnx", "1/reference.npz", "1/manifest.json"]
    assert len(warmup) == 3
    assert all(name.startswith("warmup/") for name in warmup)
    assert config == "config.pbtxt"


def test_a_version_that_somebody_else_uploads_at_the_same_time_is_not_overwritten(url: str, bucket: Any) -> None:
    publish(url, 2.0)
    calls: list[Path] = []

    def publish_to(root: Path, report: Report) -> Publication:
        calls.append(root)
        if len(calls) == 1:
            publish(url, 3.0)
        return published(root, 4.0)

    done = change(url, "scale", publish_to, wanted=wanted.to_publish, report=lambda *_: None)

    assert len(calls) == 2
    assert done.version.version == 3
    assert {path.split("/")[1] for path in content(bucket)} == {"1", "2", "3", "config.pbtxt", "warmup"}
    models = [content(bucket)[f"scale/{version}/model.onnx"] for version in (1, 2, 3)]
    assert len(set(models)) == 3


def test_a_config_that_somebody_else_changes_at_the_same_time_is_not_overwritten(url: str, bucket: Any) -> None:
    publish(url, 2.0)
    calls: list[Path] = []

    def publish_to(root: Path, report: Report) -> Publication:
        calls.append(root)
        if len(calls) == 1:
            publish(url, 2.0, max_queue_delay_us=77)
        return published(root, 4.0)

    change(url, "scale", publish_to, wanted=wanted.to_publish, report=lambda *_: None)

    assert len(calls) == 2
    config = content(bucket)["scale/config.pbtxt"]
    assert b"max_queue_delay_microseconds: 77" in config
    assert b"versions: [2]" in config


def test_a_publisher_who_is_overtaken_every_time_gives_up(url: str) -> None:
    factors = iter(range(2, 100))

    def publish_to(root: Path, report: Report) -> Publication:
        publish(url, float(next(factors)))
        return published(root, 0.5)

    with pytest.raises(RepositoryError, match="somebody else changed this model during each of 3 attempts"):
        change(url, "scale", publish_to, wanted=wanted.to_publish, report=lambda *_: None)


# ---- permissions, addresses and packages


@contextmanager
def rights_for(address: str, actions: int) -> Iterator[None]:
    """Allow this many more requests, then none."""

    def allow(count: str) -> None:
        plain = {"Content-Type": "text/plain"}
        urlopen(Request(f"{address}/moto-api/reset-auth", count.encode(), plain)).close()

    allow(str(actions))
    try:
        yield
    finally:
        allow("inf")


def test_a_bucket_without_permission_is_refused_and_the_error_names_the_permission(url: str, address: str) -> None:
    with rights_for(address, 0), pytest.raises(RepositoryError, match="may not read") as caught:
        publish(url, 2.0)

    assert "permission to list and read" in caught.value.fix


def test_whichever_upload_is_not_permitted_the_served_version_stays(url: str, address: str, bucket: Any) -> None:
    publish(url, 2.0)
    before = content(bucket)
    refusals = 0
    for actions in itertools.count(2, 4):
        with rights_for(address, actions):
            try:
                publish(url, 3.0)
                break
            except RepositoryError:
                refusals += 1
        after = content(bucket)
        assert {path: after.get(path) for path in before} == before

    assert refusals > 3
    served = publish(url, 3.0).version.version
    assert f"versions: [{served}]".encode() in content(bucket)["scale/config.pbtxt"]


def test_a_failed_upload_deletes_what_it_uploaded(url: str, bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(url, 2.0)
    before = content(bucket)

    def fail(*_: Any, **__: Any) -> None:
        raise OSError("timed out")

    monkeypatch.setattr(Storage, "replace", fail)
    with pytest.raises(RepositoryError, match="timed out"):
        publish(url, 3.0)

    left = {path for path in content(bucket).keys() - before.keys() if not path.startswith("scale/warmup/")}
    assert left == {"scale/1/config.1.pbtxt"}  # somebody else may have found the config kept, and name it
    assert {path: data for path, data in content(bucket).items() if path in before} == before


def test_a_missing_bucket_is_reported(address: str, url: str) -> None:
    with pytest.raises(RepositoryError, match="no such bucket"):
        publish(f"s3://{address}/nothing/all", 2.0)


def test_a_server_that_is_down_is_reported(bucket: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    with unused_address() as address, pytest.raises(RepositoryError, match="Could not connect"):
        publish(f"s3://http://{address}/{BUCKET}/all", 2.0)


def test_missing_credentials_are_reported(tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ENVIRONMENT:
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("HOME", str(tmp_path))

    with pytest.raises(RepositoryError, match="credentials"):
        publish(url, 2.0)


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "gcsfs", None)

    with pytest.raises(HostError, match="gcsfs"):
        publish("gs://bucket/all", 2.0)


@pytest.mark.parametrize("url", ["ftp://host/all", "s3://", "s3:///"])
def test_a_url_that_is_not_a_buckets_is_refused(url: str) -> None:
    with pytest.raises(RepositoryError, match="not the URL of a bucket"):
        publish(url, 2.0)


def test_the_command_prints_the_versions_url_and_exits_with_5_without_permission(
    tmp_path: Path, url: str, address: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(model(tmp_path, 2.0))

    def run(*arguments: str) -> int:
        monkeypatch.setattr(sys, "argv", ["builder", *arguments])
        try:
            cli.main()
        except SystemExit as ended:
            return int(ended.code or 0)
        return 0

    assert run("publish", path, "--repository", url, "--json") == 0
    assert json.loads(capsys.readouterr().out)["path"] == f"{url}/scale/1"
    with rights_for(address, 0):
        assert run("publish", path, "--repository", url) == 5
    assert run("list", "--repository", url, "--json") == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert (listed["name"], listed["versions"][0]["served"]) == ("scale", True)
    assert run("verify", "scale", "--repository", url) == 0
    assert run("serve", "--repository", url) == 2


# ---- a server that reads the bucket


def test_a_triton_that_reads_the_bucket_never_sees_half_of_a_version(
    tmp_path: Path, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit, "_TIME_STEP_S", STEP_S)
    publish(url, 2.0)
    command = ["tritonserver", f"--model-repository={url}", "--model-control-mode=explicit", "--load-model=scale"]
    command.append("--disable-auto-complete-config")
    seen: dict[str, float] = {}
    is_over = threading.Event()

    def load_and_ask(client: grpc.InferenceServerClient) -> None:
        client.load_model("scale")
        answer = client.infer("scale", grpc_inputs(ROW))
        seen[answer.get_response().model_version] = float(answer.as_numpy("y")[0, 0])

    def keep_loading(client: grpc.InferenceServerClient) -> None:
        while not is_over.is_set():
            load_and_ask(client)

    with (
        bare_triton.running(command, repository=tmp_path, environment=ENVIRONMENT) as server,
        grpc.InferenceServerClient(server.grpc_address) as client,
        ThreadPoolExecutor(1) as pool,
    ):
        loading = pool.submit(keep_loading, client)
        try:
            for factor in (3.0, 4.0):
                publish(url, factor)
        finally:
            is_over.set()
        loading.result(timeout=250)
        load_and_ask(client)

    assert seen["3"] == 4.0
    assert seen.items() <= {"1": 2.0, "2": 3.0, "3": 4.0}.items()
