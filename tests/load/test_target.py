"""A load test waits a moment for a server that loads or unloads another model, and no longer."""

from typing import Any, cast

import pytest
from support.load_settings import read

from loadtest.errors import ServerError
from loadtest.server import target
from loadtest.server.control import Control, ControlError


class Busy:
    """A server that is ready when it was asked more than so many times; Triton answers with status 400 until then."""

    def __init__(self, times: int) -> None:
        self.times, self.asked = times, 0

    def fetch_json(self, path: str) -> dict[str, Any]:
        return {"name": "triton", "extensions": ["binary_tensor_data"]}

    def fetch(self, path: str) -> bytes:
        assert path == "/v2/health/ready"
        self.asked += 1
        if self.asked <= self.times:
            raise ControlError("status 400", 400)
        return b""


def test_a_server_that_becomes_ready_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "_POLL_S", 0.001)
    server = Busy(3)
    assert target.check_ready(read("--model", "m"), cast("Control", server))
    assert server.asked == 4


def test_a_server_that_stays_not_ready_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(target, "_POLL_S", 0.001)
    monkeypatch.setattr(target, "_READY_S", 0.05)
    server = Busy(1 << 60)
    with pytest.raises(ServerError, match="the server is not ready"):
        target.check_ready(read("--model", "m"), cast("Control", server))
    assert server.asked > 1
