"""A repository with one small model and a Triton that serves it, for each module that asks for them."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.load_run import end_started
from support.load_server import serving, write_version
from support.reserved import reserved_ports

from builder.server import Server


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with the model `classifier`; a module may define its own with more models."""
    path: Path = tmp_path_factory.mktemp("repository")
    write_version(path)
    return path


@pytest.fixture(scope="module")
def server(repository: Path) -> Iterator[Server]:
    with serving(repository) as running:
        yield running


@pytest.fixture(autouse=True)
def no_run_is_left() -> Iterator[None]:
    yield
    end_started()


@pytest.fixture
def master_port() -> Iterator[tuple[str, ...]]:
    """The options of a run of several processes with a port of its own."""
    with reserved_ports(1) as (port,):
        yield "--master-bind-port", str(port), "--master-port", str(port)
