"""Servers with TLS, and servers that restrict inference."""

from pathlib import Path

import pytest
from support import bare_triton
from support.artifacts import scale, tree
from support.gateways import Authority

from builder.deployment import Address, Certificates, LiveServer, deploy, read_headers
from builder.errors import HostError
from builder.publishing import install
from builder.repository import Repository
from builder.server import AdminAccess

SECRET = "open sesame"


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    repository = Repository(tmp_path / "models")
    install(repository, "scale", scale(2.0))
    return repository


@pytest.mark.slow
def test_a_server_with_mutual_tls_is_deployed_to_with_the_right_certificates_only(
    repository: Repository, tmp_path: Path
) -> None:
    ours, theirs = (Authority.make(tmp_path, name) for name in ("ours", "theirs"))
    server_cert, server_key = ours.issue("server")
    cert, key = ours.issue("client")
    command = [
        "tritonserver",
        f"--model-repository={bare_triton.REPOSITORY}",
        "--model-control-mode=explicit",
        "--grpc-use-ssl-mutual=true",
        f"--grpc-server-cert={server_cert}",
        f"--grpc-server-key={server_key}",
        f"--grpc-root-cert={ours.file}",
    ]
    before = tree(repository.root)
    with bare_triton.running(command, repository=repository.root) as server:
        address = Address.parse(f"grpcs://{server.grpc_address}")
        for wrong in (
            Certificates(),
            Certificates.read(theirs.file, cert, key),
            Certificates.read(ours.file, None, None),
            Certificates.read(ours.file, *theirs.issue("stranger")),
        ):
            with LiveServer(address, certificates=wrong) as live, pytest.raises(HostError, match="no inference server"):
                deploy(repository, "scale", live)
        assert tree(repository.root) == before
        with LiveServer(address, certificates=Certificates.read(ours.file, cert, key)) as live:
            assert deploy(repository, "scale", live).servers[0].after == (1,)


@pytest.mark.slow
def test_a_server_that_restricts_inference_with_a_key_of_its_own_gets_both_keys(
    repository: Repository, tmp_path: Path
) -> None:
    command = [
        "tritonserver",
        f"--model-repository={bare_triton.REPOSITORY}",
        "--model-control-mode=explicit",
        f"--grpc-restricted-protocol=inference:infer-key={SECRET}",
        "--grpc-restricted-protocol=model-repository,model-config,statistics:admin-key=other",
    ]
    admin, file = AdminAccess("other", "admin-key"), tmp_path / "headers"
    file.write_text(f"# for inference\ntriton-grpc-protocol-infer-key: {SECRET}\n")
    with bare_triton.running(command, repository=repository.root) as server:
        address = Address.parse(server.grpc_address)
        with LiveServer(address, admin=admin) as live, pytest.raises(HostError) as caught:
            deploy(repository, "scale", live)
        assert "--header-file" in caught.value.fix
        assert "triton-grpc-protocol-infer-key" in caught.value.fix
        with LiveServer(address, admin=admin, headers=read_headers(file)) as live:
            assert deploy(repository, "scale", live).servers[0].after == (1,)


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (b"no header", "line 1: this is not a header"),
        (b"ok: 1\nspace here: 1", "line 2: this is not a header"),
        (b"te: x", "line 1: gRPC itself sets"),
        (b"data-bin: x", "line 1: gRPC itself sets"),
        (b"key:", "line 1: the value of header key is empty"),
        ("key: größe".encode(), "not ASCII"),
        (b"x" * 70_000, "only 65.5 kB are read"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_holds_no_headers_is_refused_without_its_values(
    tmp_path: Path, content: bytes | None, what: str
) -> None:
    file = tmp_path / "headers"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(HostError, match=what):
        read_headers(file)


def test_names_of_headers_are_written_as_grpc_needs_them(tmp_path: Path) -> None:
    file = tmp_path / "headers"
    file.write_text("Authorization: Bearer a:b\n\n# comment: 1\nX-Tenant:  7 \n")
    assert read_headers(file) == {"authorization": "Bearer a:b", "x-tenant": "7"}


def test_certificates_that_cannot_be_used_are_refused(tmp_path: Path) -> None:
    authority = Authority.make(tmp_path, "authority")
    cert, key = authority.issue("client")
    der = tmp_path / "der"
    der.write_bytes(b"\x30\x82")
    with pytest.raises(HostError, match="needs --client"):
        Certificates.read(None, cert, None)
    with pytest.raises(HostError, match="needs --client"):
        Certificates.read(None, None, key)
    with pytest.raises(HostError, match="not in the PEM format"):
        Certificates.read(der, None, None)
    with pytest.raises(HostError, match="cannot be read"):
        Certificates.read(tmp_path / "missing", None, None)
    assert "PRIVATE" not in repr(Certificates.read(None, cert, key))
