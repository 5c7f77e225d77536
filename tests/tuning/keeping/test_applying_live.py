"""A real server proves the best configuration before it is written, and gets it if it is named."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.artifacts import scale, scale_model, tree
from support.tuned import apply_to, entries, undo_in

from builder.deployment import Address, LiveServer, deploy
from builder.deployment.server_run import ServerRun
from builder.errors import HostError, VerificationError
from builder.publishing import install
from builder.repository import Repository
from builder.server import Server

pytestmark = pytest.mark.slow


@pytest.fixture
def live(triton: Server) -> Iterator[LiveServer]:
    with LiveServer(Address.parse(triton.grpc_address)) as live:
        yield live


def instances(live: LiveServer, name: str) -> int:
    return int(live.config(name).instance_group[0].count)


def break_answers(repository: Repository, name: str) -> None:
    """Replace the model by one of the same size that gives other answers than those that are stored."""
    path = repository.model(name).version_dir(1) / "model.onnx"
    path.write_bytes(scale_model(7.0).SerializeToString())


def test_it_is_deployed_to_the_server_and_undo_brings_back_every_byte_there_too(
    triton: Server, live: LiveServer
) -> None:
    repository, name = Repository(triton.repository), "tuned_live"
    install(repository, name, scale())
    deploy(repository, name, live)
    before = tree(repository.root)

    done = apply_to(repository, servers=[live], name=name)

    assert (done.servers, instances(live, name)) == ((str(live.address),), 2)
    assert entries(repository, name)[0].servers == done.servers
    asked: list[tuple[str, ...]] = []

    @contextmanager
    def connect(addresses: Sequence[str]) -> Iterator[Sequence[LiveServer]]:
        asked.append(tuple(addresses))
        yield [live]

    back = undo_in(repository, connect, name)

    assert back.is_changed
    assert asked == [(str(live.address),)]
    assert instances(live, name) == 1
    after = tree(repository.root)
    assert {file: after[file] for file in before} == before
    assert after.keys() - before.keys() == {f"{name}/1/config.1.pbtxt", f"{name}/1/config.2.pbtxt"}
    live.unload(name)


@pytest.mark.parametrize("when", ["as the candidate", "once it is loaded"])
def test_a_server_that_answers_wrongly_keeps_what_it_had_and_so_does_the_repository(
    triton: Server, live: LiveServer, when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository, name = Repository(triton.repository), f"tuned_wrong_{when.split()[0]}"
    install(repository, name, scale())
    deploy(repository, name, live)
    break_answers(repository, name)
    if when == "once it is loaded":
        monkeypatch.setattr(ServerRun, "rehearse", lambda run, candidate: None)
    before = tree(repository.root)

    with pytest.raises(VerificationError, match=r"still serves version 1|serves version 1 again"):
        apply_to(repository, servers=[live], name=name)

    assert tree(repository.root) == before
    assert entries(repository, name) == ()
    assert instances(live, name) == 1
    live.unload(name)


def test_without_a_server_an_embedded_one_proves_it_first(tmp_path: Path) -> None:
    repository = Repository(tmp_path / "models")
    install(repository, "scale", scale())

    assert apply_to(repository, prove=None).is_changed
    undo_in(repository)
    break_answers(repository, "scale")
    before = tree(repository.root)

    with pytest.raises(VerificationError):
        apply_to(repository, prove=None)

    assert tree(repository.root) == before
    assert sorted(path.name for path in repository.root.iterdir()) == ["scale"]


def test_an_undo_whose_server_is_gone_changes_nothing_and_names_another_way(triton: Server, live: LiveServer) -> None:
    repository, name = Repository(triton.repository), "tuned_gone"
    install(repository, name, scale())
    apply_to(repository, servers=[live], name=name)
    there = repository.model(name).read_config()

    @contextmanager
    def connect(addresses: Sequence[str]) -> Iterator[Sequence[LiveServer]]:
        with LiveServer(Address.parse("grpc://127.0.0.1:1")) as gone:
            yield [gone]

    with pytest.raises(HostError) as caught:
        undo_in(repository, connect, name)

    assert repository.model(name).read_config() == there
    assert "or run `python -m builder rollback tuned_gone --to 1 --config 1`" in caught.value.fix
    assert [entry.state for entry in entries(repository, name)] == ["applied"]
    live.unload(name)
