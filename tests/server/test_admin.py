"""Without the admin key, nobody can load a model or change what the embedded Triton does."""

import base64
import http.client
import json
import socket
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import pytest
from support.load_server import serving
from support.serving import (
    DOUBLE,
    DOUBLE_CONFIG,
    folder_of,
    infer,
    parse,
    processes_of,
    shared_memory_of,
    write_model,
)
from tritonclient.grpc import service_pb2, service_pb2_grpc

from builder.server import AdminAccess, Server

pytestmark = pytest.mark.slow

KEY = "it's a key: with = , and spaces"
HEADER = "x-admin"
REGION = "triton-test-region"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    repository = tmp_path_factory.mktemp("closed")
    write_model(repository, "double", DOUBLE_CONFIG, parse(DOUBLE))
    access = AdminAccess(KEY, HEADER)
    with serving(repository, model_control_mode="explicit", load_models=["double"], admin=access) as server:
        yield server


# ---- over HTTP

HTTP_APIS = {
    "/v2/repository/index": "POST",
    "/v2/repository/some/index": "POST",
    "/v2/repository/models/double/load": "POST",
    "/v2/repository/some/models/double/load": "POST",
    "/v2/repository/models/absent/unload": "POST",
    "/v2/repository/some/models/absent/unload": "POST",
    "/v2/systemsharedmemory/status": "GET",
    "/v2/systemsharedmemory/region/r/status": "GET",
    "/v2/systemsharedmemory/region/r/register": "POST",
    "/v2/systemsharedmemory/region/r/unregister": "POST",
    "/v2/systemsharedmemory/unregister": "POST",
    "/v2/cudasharedmemory/status": "GET",
    "/v2/cudasharedmemory/region/r/status": "GET",
    "/v2/cudasharedmemory/region/r/register": "POST",
    "/v2/cudasharedmemory/region/r/unregister": "POST",
    "/v2/cudasharedmemory/unregister": "POST",
    "/v2/trace/setting": "POST",
    "/v2/models/double/trace/setting": "POST",
    "/v2/logging": "POST",
}
"""Every path of the closed APIs, and the method that it takes.

Source: https://github.com/triton-inference-server/server/blob/r24.10/src/http_server.cc, HTTPAPIServer::Handle
"""

NOT_THE_KEY: dict[str, dict[str, str]] = {
    "no key": {},
    "a wrong key": {HEADER: "wrong"},
    "an empty key": {HEADER: ""},
    "the key and more": {HEADER: f"{KEY}!"},
    "a part of the key": {HEADER: KEY[:-1]},
    "the key in capitals": {HEADER: KEY.upper()},
    "the default header": {"admin-key": KEY},
    "the header of gRPC": {f"triton-grpc-protocol-{HEADER}": KEY},
    "another header": {"authorization": KEY},
}


def ask(server: Server, method: str, path: str, headers: Mapping[str, str], body: str = "{}") -> tuple[int, str]:
    connection = http.client.HTTPConnection(server.http_address, timeout=120)
    try:
        connection.request(method, path, body, dict(headers))
        answer = connection.getresponse()
        return answer.status, answer.read().decode()
    finally:
        connection.close()


@pytest.mark.parametrize("path", HTTP_APIS)
def test_http_refuses_a_closed_api_without_the_key_and_takes_it_with_the_key(server: Server, path: str) -> None:
    for headers in NOT_THE_KEY.values():
        for method in ("GET", "POST", "PUT", "DELETE"):
            status, text = ask(server, method, path, headers)
            assert (status, "This API is restricted" in text) == (403, True), (method, headers, text)
    status, text = ask(server, HTTP_APIS[path], path, server.admin.http_headers)
    assert status != 403, text
    assert "restricted" not in text


ODD_PATHS = [
    "//v2/repository/index",
    "/v2//repository/index",
    "/v2/repository/index/",
    "/v2/repository//index",
    "/v2/repository/index?a=b",
    "/v2/repository/index%00",
    "/v2/repository/%69ndex",
    "/%76%32/repository/index",
    "/v2/./repository/index",
    "/a/../v2/repository/index",
    "/v2/models/../repository/index",
    "/v2/models/double/../../repository/index",
    "/v2/repository/index;a",
    "/v2/repository/index#a",
    "/V2/Repository/Index",
    "/v2%2Frepository%2Findex",
    "http://127.0.0.1/v2/repository/index",
    "\\v2\\repository\\index",
    "v2/repository/index",
]


@pytest.mark.parametrize("path", ODD_PATHS)
def test_no_other_way_to_write_the_path_avoids_the_key(server: Server, path: str) -> None:
    host, port = server.http_address.split(":")
    with socket.create_connection((host, int(port)), timeout=120) as connection:
        head = f"POST {path} HTTP/1.1\r\nHost: {server.http_address}\r\nContent-Length: 2\r\nConnection: close\r\n\r\n"
        connection.sendall(f"{head}{{}}".encode())
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    assert not answer.startswith(b"HTTP/1.1 200"), answer
    assert b"double" not in answer


def test_a_second_header_with_the_key_does_not_help_one_without(server: Server) -> None:
    connection = http.client.HTTPConnection(server.http_address, timeout=120)
    connection.putrequest("POST", "/v2/repository/index")
    for value in ("wrong", KEY):
        connection.putheader(HEADER, value)
    connection.endheaders()
    assert connection.getresponse().status == 403
    connection.close()


def test_the_name_of_the_header_may_have_capitals(server: Server) -> None:
    assert ask(server, "POST", "/v2/repository/index", {"X-ADMIN": KEY})[0] == 200


# ---- over gRPC

GRPC_APIS = {
    "RepositoryIndex": service_pb2.RepositoryIndexRequest(),
    "RepositoryModelLoad": service_pb2.RepositoryModelLoadRequest(model_name="double"),
    "RepositoryModelUnload": service_pb2.RepositoryModelUnloadRequest(model_name="absent"),
    "SystemSharedMemoryStatus": service_pb2.SystemSharedMemoryStatusRequest(),
    "SystemSharedMemoryRegister": service_pb2.SystemSharedMemoryRegisterRequest(name="r", key=REGION, byte_size=8),
    "SystemSharedMemoryUnregister": service_pb2.SystemSharedMemoryUnregisterRequest(name="r"),
    "CudaSharedMemoryStatus": service_pb2.CudaSharedMemoryStatusRequest(),
    "CudaSharedMemoryRegister": service_pb2.CudaSharedMemoryRegisterRequest(name="r", byte_size=8),
    "CudaSharedMemoryUnregister": service_pb2.CudaSharedMemoryUnregisterRequest(name="r"),
    "TraceSetting": service_pb2.TraceSettingRequest(),
    "LogSettings": service_pb2.LogSettingsRequest(),
}
OPEN_TO_ALL = {
    "ServerLive",
    "ServerReady",
    "ServerMetadata",
    "ModelReady",
    "ModelMetadata",
    "ModelConfig",
    "ModelStatistics",
    "ModelInfer",
    "ModelStreamInfer",
}


def call(server: Server, method: str, headers: Mapping[str, str]) -> str:
    """Call one method, and return the error, or nothing."""
    with grpc.insecure_channel(server.grpc_address) as channel:
        stub = service_pb2_grpc.GRPCInferenceServiceStub(channel)
        try:
            getattr(stub, method)(GRPC_APIS[method], metadata=tuple(headers.items()), timeout=120)
        except grpc.RpcError as error:
            return str(error.details())
    return ""


def test_every_method_of_grpc_is_closed_or_known_to_be_open() -> None:
    methods = service_pb2.DESCRIPTOR.services_by_name["GRPCInferenceService"].methods_by_name
    assert set(methods) == GRPC_APIS.keys() | OPEN_TO_ALL


@pytest.mark.parametrize("method", GRPC_APIS)
def test_grpc_refuses_a_closed_method_without_the_key_and_takes_it_with_the_key(server: Server, method: str) -> None:
    prefix = "triton-grpc-protocol-"
    wrong = [{f"{prefix}{name}": value for name, value in headers.items()} for headers in NOT_THE_KEY.values()]
    for headers in [*wrong, {HEADER: KEY}, {"admin-key": KEY}]:
        assert "This protocol is restricted" in call(server, method, headers), headers
    assert "restricted" not in call(server, method, server.admin.grpc_headers)


# ---- what the key protects


def attack(marker: Path) -> str:
    """A request to load a model that brings its own code, which creates the file `marker` when it runs."""
    code = f"open({str(marker)!r}, 'w')\nclass TritonPythonModel:\n    def execute(self, requests): return []\n"
    config = {
        "backend": "python",
        "max_batch_size": 0,
        "input": [{"name": "x", "data_type": "TYPE_FP32", "dims": [1]}],
        "output": [{"name": "y", "data_type": "TYPE_FP32", "dims": [1]}],
        "instance_group": [{"kind": "KIND_CPU"}],
    }
    file = base64.b64encode(code.encode()).decode()
    return json.dumps({"parameters": {"config": json.dumps(config), "file:1/model.py": file}})


FROM_A_PAGE = {"Content-Type": "text/plain", "Origin": "https://attacker.example", "Sec-Fetch-Site": "cross-site"}
LOAD = "/v2/repository/models/brought/load"


def test_a_page_in_a_browser_cannot_run_code_but_whoever_has_the_key_can(server: Server, tmp_path: Path) -> None:
    marker = tmp_path / "ran"
    assert ask(server, "POST", LOAD, FROM_A_PAGE, attack(marker))[0] == 403
    assert not marker.exists()
    assert len(processes_of(server.pid)) == 2
    status, text = ask(server, "POST", LOAD, FROM_A_PAGE | server.admin.http_headers, attack(marker))
    assert (status, marker.exists()) == (200, True), text


@pytest.mark.parametrize("mode", ["poll", "none"])
def test_the_other_modes_are_closed_too(tmp_path: Path, mode: Any) -> None:
    write_model(tmp_path, "double", DOUBLE_CONFIG, parse(DOUBLE))
    with serving(tmp_path, model_control_mode=mode) as server:
        for path, method in HTTP_APIS.items():
            assert ask(server, method, path, {})[0] == 403
        for name in GRPC_APIS:
            assert "This protocol is restricted" in call(server, name, {})
        assert ask(server, "GET", "/v2/systemsharedmemory/status", server.admin.http_headers)[0] == 200


def test_what_clients_and_load_tests_use_needs_no_key(server: Server) -> None:
    x = np.ones((1, 2), np.float32)
    assert infer(server, "double", {"X": x})["Y"].tolist() == [[2, 2]]
    for path in (
        "",
        "/health/ready",
        "/models/double",
        "/models/double/config",
        "/models/double/stats",
        "/models/stats",
    ):
        assert ask(server, "GET", f"/v2{path}", {})[0] == 200


def test_other_users_cannot_change_what_passes_through_shared_memory(server: Server) -> None:
    regions = shared_memory_of(folder_of(server))
    assert regions
    assert {region.stat().st_mode & 0o022 for region in regions} == {0}


def test_triton_listens_at_its_three_addresses_and_nowhere_else(server: Server) -> None:
    sockets = set()
    for pid in processes_of(server.pid):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(FileNotFoundError):  # a connection that has just been closed
                sockets.add(str(link.readlink()).removeprefix("socket:[").removesuffix("]"))
    rows = [line.split() for name in ("tcp", "tcp6") for line in Path(f"/proc/net/{name}").read_text().splitlines()]
    listening = [row[1].split(":") for row in rows if row[3] == "0A" and row[9] in sockets]
    addresses = (server.http_address, server.grpc_address, server.metrics_address)
    assert {int(port, 16) for _, port in listening} == {int(text.split(":")[1]) for text in addresses}
    assert all(host.endswith("0100007F") for host, _ in listening)
    named = [row for line in Path("/proc/net/unix").read_text().splitlines() if len(row := line.split()) > 7]
    assert [row for row in named if row[6] in sockets] == []


# ---- where the key is


def test_no_command_line_has_the_key_and_no_child_inherits_it(server: Server) -> None:
    processes = processes_of(server.pid)
    assert len(processes) >= 2
    for pid, command in processes.items():
        assert KEY not in "\0".join(command)
        environment = Path(f"/proc/{pid}/environ").read_bytes()
        assert (KEY.encode() in environment) is (pid == server.pid)
    assert (Path(f"/proc/{server.pid}/environ").stat().st_mode & 0o077) == 0


def test_variables_that_would_give_the_key_away_or_open_another_port_are_not_passed_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_ADMIN_KEY", "of another server")
    monkeypatch.setenv("AIP_MODE", "PREDICTION")
    write_model(tmp_path, "double", DOUBLE_CONFIG, parse(DOUBLE))
    with serving(tmp_path) as server:
        for pid in processes_of(server.pid):
            environment = Path(f"/proc/{pid}/environ").read_bytes()
            assert b"of another server" not in environment
            assert b"AIP_MODE" not in environment
        assert ask(server, "GET", "/v2/health/ready", {})[0] == 200
