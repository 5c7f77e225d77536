"""Deploy versions whose config.pbtxt was edited by hand: what it says is what clients see, and what is checked."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import bare_triton
from support.artifacts import scale, scale_model
from support.load_server import serving

from builder.deployment import Address, LiveServer, deploy, live_check
from builder.deployment.goal import make_goal
from builder.errors import HostError, RepositoryError, VerificationError
from builder.publishing import install, roll_back
from builder.repository import Repository
from builder.server import Server
from builder.server.installation import find_installation

QUEUE = "dynamic_batching { max_queue_delay_microseconds: 20000 default_queue_policy { %s } }"


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "models")


def edit(repository: Repository, name: str, *pairs: tuple[str, str]) -> None:
    """Replace what matches the first text of each pair, once, in config.pbtxt."""
    path = repository.model(name).config_path
    text = path.read_text()
    for pattern, new in pairs:
        text, count = re.subn(pattern, new, text, count=1, flags=re.DOTALL)
        assert count == 1, pattern
    path.write_text(text)


def publish(repository: Repository, name: str, *factors: float) -> None:
    for factor in factors:
        install(repository, name, scale(factor))


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    repository = tmp_path_factory.mktemp("edited") / "models"
    repository.mkdir()
    with serving(repository, model_control_mode="explicit") as server:
        yield server


@pytest.fixture
def live(server: Server) -> Iterator[LiveServer]:
    with LiveServer(Address.parse(server.grpc_address)) as live:
        yield live


@pytest.fixture
def served(server: Server) -> Repository:
    return Repository(server.repository)


@pytest.mark.slow
def test_reshaped_tensors_and_outputs_that_are_left_out_are_checked_as_clients_see_them(
    live: LiveServer, served: Repository
) -> None:
    publish(served, "reshaped", 2.0)
    edit(
        served,
        "reshaped",
        (r"model_warmup.*", ""),
        (r'(name: "x"\s+data_type: TYPE_FP32\s+dims: \[)3\]', r"\1 3, 1 ] reshape { shape: [ 3 ] }"),
        (r'(name: "y"\s+data_type: TYPE_FP32\s+dims: \[)3\]', r"\1 1, 3 ] reshape { shape: [ 3 ] }"),
        (r'output \{\s+name: "t".*?\}\n', ""),
        (r"max_batch_size: 8", "max_batch_size: 3"),
    )
    done = deploy(served, "reshaped", live)

    assert done.largest_difference == {"y": 0.0, "m": 0.0}
    model = served.model("reshaped").version_dir(1) / "model.onnx"
    model.write_bytes(scale_model(7.0).SerializeToString())
    edit(served, "reshaped", (r"max_batch_size: 3", "max_batch_size: 4"))
    with pytest.raises(VerificationError, match="output 'y' differs"):
        deploy(served, "reshaped", live)


@pytest.mark.slow
def test_a_server_that_is_busy_is_asked_again_with_less_at_once(live: LiveServer, served: Repository) -> None:
    publish(served, "queued", 2.0)
    edit(served, "queued", (r"dynamic_batching \{\s*\}", QUEUE % "max_queue_size: 2"))
    said: list[str] = []

    done = deploy(served, "queued", live, report=lambda step, what: said.append(what) if step == "check" else None)

    assert done.is_complete
    assert re.search(r"match the reference; it was busy \d+ times", said[0])


@pytest.mark.slow
def test_a_server_that_refuses_every_request_is_not_called_a_bad_version(
    live: LiveServer, served: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_check, "BUSY_S", 0.3)
    publish(served, "hasty", 2.0)
    policy = "timeout_action: REJECT default_timeout_microseconds: 1000"
    edit(served, "hasty", (r"dynamic_batching \{\s*\}", QUEUE % policy), (r"model_warmup.*", ""))

    with pytest.raises(HostError, match=r"refused every request .* as busy: .*Request timeout expired") as caught:
        deploy(served, "hasty", live)

    assert "the server serves no version, as before" in caught.value.what
    assert "queue policy" in caught.value.fix


@pytest.mark.slow
def test_every_version_that_is_served_is_checked_by_its_number(live: LiveServer, served: Repository) -> None:
    publish(served, "several", 2.0, 3.0, 4.0)
    edit(served, "several", (r"versions: \[3\]", "versions: [1, 3]"))
    done = deploy(served, "several", live)
    assert (done.versions, done.servers[0].after) == ((1, 3), (1, 3))
    alone = done.requests

    (served.model("several").version_dir(1) / "manifest.json").unlink()
    notes: list[str] = []
    done = deploy(served, "several", live, report=lambda step, what: notes.append(what) if step == "note" else None)
    assert notes == ["version 1, which is served beside it, has no stored answers, and is not checked"]
    assert done.requests < alone

    publish(served, "wrong", 2.0, 3.0)
    edit(served, "wrong", (r"versions: \[2\]", "versions: [1, 2]"))
    (served.model("wrong").version_dir(1) / "model.onnx").write_bytes(scale_model(7.0).SerializeToString())
    with pytest.raises(VerificationError, match=r"wrong version 1: .* output 'y' differs"):
        deploy(served, "wrong", live)
    assert live.ready_versions("wrong") == ()


@pytest.mark.slow
def test_a_policy_that_names_no_numbers_is_waited_for_exactly(live: LiveServer, served: Repository) -> None:
    publish(served, "latest", 2.0, 3.0, 4.0)
    edit(served, "latest", (r"specific \{.*?\}", "latest { num_versions: 2 }"))
    assert deploy(served, "latest", live).servers[0].after == (2, 3)


@contextmanager
def caching(repository: Repository) -> Iterator[LiveServer]:
    """Run a server with a response cache."""
    command = ["tritonserver", f"--model-repository={bare_triton.REPOSITORY}", "--model-control-mode=explicit"]
    caches = find_installation().binary.parents[1] / "caches"
    command += ["--cache-config=local,size=4194304", f"--cache-directory={caches}"]
    with (
        bare_triton.running(command, repository=repository.root) as server,
        LiveServer(Address.parse(server.grpc_address)) as live,
    ):
        yield live


@pytest.mark.slow
def test_a_response_cache_does_not_hide_a_bad_version(repository: Repository) -> None:
    publish(repository, "cached", 2.0)
    edit(repository, "cached", (r"max_batch_size: 8", "max_batch_size: 8 response_cache { enable: true }"))
    publish(repository, "cached", 3.0)
    with caching(repository) as live:
        deploy(repository, "cached", live)  # the cache has the right answers of version 2
        deploy(repository, "cached", live, version=1)
        path = repository.model("cached").version_dir(2) / "model.onnx"
        path.write_bytes(scale_model(7.0).SerializeToString())
        with pytest.raises(VerificationError, match=r"output 'y' differs.*still serves version 1"):
            deploy(repository, "cached", live, version=2)
        with pytest.raises(VerificationError, match=r"output 'y' differs.*serves version 1 again"):
            deploy(repository, "cached", live, version=2, rehearse=False)


# ---- what cannot be checked


def test_a_cache_in_front_of_a_single_row_is_not_taken_for_a_check(repository: Repository) -> None:
    publish(repository, "scale", 2.0)
    edit(repository, "scale", (r"max_batch_size: 8", "max_batch_size: 1 response_cache { enable: true }"))
    with (
        LiveServer(Address.parse("127.0.0.1:1")) as nobody,
        pytest.raises(RepositoryError, match="only a rehearsal can check"),
    ):
        deploy(repository, "scale", nobody, rehearse=False)


@pytest.mark.parametrize(
    ("field", "what"),
    [
        ("sequence_batching { }", "sequence_batching lets an answer depend on the requests before"),
        ("model_transaction_policy { decoupled: true }", "it is decoupled"),
    ],
)
def test_answers_that_no_stored_answer_can_be_compared_with_are_refused(
    repository: Repository, field: str, what: str
) -> None:
    publish(repository, "scale", 2.0)
    edit(repository, "scale", (r"dynamic_batching \{\s*\}", field))
    with pytest.raises(RepositoryError, match=what):
        make_goal(repository, "scale", None)


def test_a_config_without_any_output_that_was_proven_is_refused(repository: Repository) -> None:
    publish(repository, "scale", 2.0, 3.0)
    roll_back(repository, "scale", 1)
    edit(repository, "scale", (r'(output \{\s+)name: "y".*$', r'\1name: "z" data_type: TYPE_FP32 dims: [3] }'))
    with pytest.raises(RepositoryError, match="z"):
        make_goal(repository, "scale", None)
    assert make_goal(repository, "scale", 2).version == 2  # with the config that served it, which is kept
