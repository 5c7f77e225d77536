"""Deploy from a bucket to a real Triton that reads it, in S3 and, where its emulator is, in Google Cloud Storage."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import tritonclient.grpc as grpc
from support import bare_triton, buckets
from support.artifacts import scale_model
from support.serving import grpc_inputs

from builder import api
from builder.bucket.storage import Storage
from builder.errors import HostError, VerificationError

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=["s3", "gs"])
def url(request: pytest.FixtureRequest) -> Iterator[str]:
    with buckets.SERVERS[request.param]() as url:
        yield f"{url}/all"


@pytest.fixture(scope="module")
def server(url: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[bare_triton.BareTriton]:
    """A Triton in explicit mode that serves version 1 of `scale` from the bucket."""
    buckets.publish_scale(url, 2.0)
    command = ["tritonserver", f"--model-repository={url}", "--model-control-mode=explicit", "--load-model=scale"]
    command.append("--disable-auto-complete-config")
    folder = tmp_path_factory.mktemp("empty")
    emulator = {"CLOUD_STORAGE_EMULATOR_ENDPOINT": os.environ.get("STORAGE_EMULATOR_HOST", "")}
    environment = emulator if url.startswith("gs:") else buckets.S3_ENVIRONMENT
    with bare_triton.running(command, repository=folder, environment=environment) as server:
        yield server


def names(url: str) -> set[str]:
    """Return the first part of the name of every object."""
    return {name.partition("/")[0] for name in Storage.connect(url).list_objects()}


def content(url: str) -> dict[str, bytes | None]:
    storage = Storage.connect(url)
    return {name: storage.read(name) for name in storage.list_objects() if "/warmup/" not in name}


def answer(server: bare_triton.BareTriton) -> float:
    with grpc.InferenceServerClient(server.grpc_address) as client:
        return float(client.infer("scale", grpc_inputs(buckets.ROW)).as_numpy("y")[0, 0])


def test_versions_are_deployed_and_a_bad_one_changes_nothing(
    url: str, server: bare_triton.BareTriton, tmp_path: Path
) -> None:
    address = f"grpc://{server.grpc_address}"
    buckets.publish_scale(url, 3.0)
    assert answer(server) == 2.0
    said: list[str] = []

    done = api.deploy("scale", address, url, report=lambda step, what: said.append(f"{step}: {what}"))

    assert (done.version, answer(server), names(url)) == (2, 3.0, {"scale"})
    assert any(line.startswith("rehearse") for line in said)
    assert not any("/tmp/" in line or "builder-" in line for line in said)

    assert api.deploy("scale", address, url, version=1).version == 1
    assert (answer(server), api.list_models(url)[0].versions[0].served) == (2.0, True)

    bad = tmp_path / "model.onnx"
    bad.write_bytes(scale_model(5.0).SerializeToString())
    storage = Storage.connect(url)
    storage.put(bad, "scale/2/model.onnx")  # of the same size: only its answers show it
    before = content(url)
    with pytest.raises(VerificationError) as caught:
        api.deploy("scale", address, url, version=2)

    assert "/tmp/" not in str(caught.value)
    assert (answer(server), content(url), names(url)) == (2.0, before, {"scale"})


def test_a_server_that_reads_another_bucket_changes_nothing(url: str, server: bare_triton.BareTriton) -> None:
    other = f"{url}-copy"
    for factor in (2.0, 3.0):
        buckets.publish_scale(other, factor)
    before = content(other)

    with pytest.raises(HostError, match="another repository"):
        api.deploy("scale", f"grpc://{server.grpc_address}", other)

    assert content(other) == before
    assert names(other) == {"scale"}


def test_what_a_killed_deployment_has_left_is_removed(url: str, server: bare_triton.BareTriton) -> None:
    storage = Storage.connect(url)
    mark = b'backend: "onnxruntime" parameters { key: "builder.candidate_of" value { string_value: "scale" } }'
    for name in ("scale.candidate", "scale.probe-0011aabb"):
        storage.filesystem.pipe_file(f"{storage.path}/{name}/config.pbtxt", mark)

    api.deploy("scale", f"grpc://{server.grpc_address}", url, version=1)
    api.deploy("scale", f"grpc://{server.grpc_address}", url, version=1)

    assert not any("probe" in name for name in names(url))
