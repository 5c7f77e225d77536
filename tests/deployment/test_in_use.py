"""`prune` asks real servers which versions are in use."""

import os
import signal
from pathlib import Path

import pytest
from support.artifacts import scale, tree
from support.load_server import serving
from support.reserved import unused_address
from support.serving import eventually

from builder import api
from builder.errors import HostError
from builder.publishing import install
from builder.repository import Repository
from builder.server import AdminAccess, Server, servers_of

pytestmark = pytest.mark.slow


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "models"
    install(Repository(root), "scale", scale(1.0))
    return root


def test_what_a_server_answers_with_between_publish_and_deploy_stays(root: Path) -> None:
    with serving(root, model_control_mode="explicit", load_models=["scale"]) as server:
        address = f"grpc://{server.grpc_address}"
        for factor in (2.0, 3.0, 4.0):
            install(Repository(root), "scale", scale(factor))

        found = api.prune("scale", root, keep=1, dry_run=True)  # the server of this user is asked by itself
        assert {kept.version: kept.reasons for kept in found.kept}[1] == (f"{address} answers with it",)
        done = api.prune("scale", root, keep=1, servers=[address])
        assert done.removed == (2, 3)
        assert Repository(root).model("scale").versions() == (1, 4)

        api.deploy("scale", address, root)
        assert api.prune("scale", root, keep=1).removed == (1,)

        install(Repository(root), "scale", scale(5.0))
        install(Repository(root), "scale", scale(6.0))
        kept = {kept.version: kept.reasons for kept in api.prune("scale", root, keep=1).kept}
        assert f"{address} answers with it" in kept[4]
        assert set(kept) == {4, 5, 6}  # what was deployed last, and what is newer
    # A server that has ended answers with nothing, although the record says that version 4 was deployed there.
    assert 4 in api.prune("scale", root, keep=1).removed


def test_a_named_server_that_does_not_answer_keeps_everything(root: Path) -> None:
    install(Repository(root), "scale", scale(2.0))
    before = tree(root)
    with unused_address() as address, pytest.raises(HostError, match="nothing was removed"):
        api.prune("scale", root, keep=1, servers=[f"grpc://{address}"])
    assert tree(root) == before


def test_a_named_server_that_wants_a_key_is_told_what_to_give(root: Path) -> None:
    install(Repository(root), "scale", scale(2.0))
    with (
        serving(root, model_control_mode="poll", admin=AdminAccess("right", "x-key")) as server,
        pytest.raises(HostError, match="nothing was removed") as caught,
    ):
        api.prune("scale", root, keep=1, servers=[server.grpc_address], admin=AdminAccess("wrong"))
    assert "--admin-key-file" in caught.value.fix
    assert "--admin-header x-key" in caught.value.fix


def test_a_server_of_this_user_whose_triton_is_gone_keeps_everything(root: Path) -> None:
    install(Repository(root), "scale", scale(2.0))
    before = tree(root)
    with Server.start(root, http_port=0, grpc_port=0, metrics_port=0) as server:
        assert [found.http_address for found in servers_of(root)] == [server.http_address]
        assert servers_of(root.parent) == []
        os.kill(server.pid, signal.SIGKILL)
        assert eventually(lambda: not servers_of(root)[0].is_answering)
        with pytest.raises(HostError, match="nothing was removed"):
            api.prune("scale", root, keep=1)
        assert tree(root) == before
    assert servers_of(root) == []


def test_a_server_of_another_repository_is_noted(root: Path, tmp_path: Path) -> None:
    for factor in (2.0, 3.0):
        install(Repository(root), "scale", scale(factor))
    other = tmp_path / "other"
    install(Repository(other), "different", scale(1.0))
    said = list[str]()
    with serving(other, model_control_mode="none") as server:
        done = api.prune(
            "scale", root, keep=1, servers=[server.grpc_address], report=lambda step, what: said.append(what)
        )
    assert done.removed == (1, 2)
    assert "has no model 'scale' in its repository" in said[0]
