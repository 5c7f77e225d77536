"""Load tests of a server behind a gateway: with TLS, client certificates, headers and a base path."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.gateways import Authority, tls_proxy
from support.load_run import run
from support.load_server import serving
from support.load_settings import read

from builder.server.admin import AdminAccess
from loadtest.errors import LoadTestError
from loadtest.server import prepare
from loadtest.wire import ExchangeError, make_client

pytestmark = pytest.mark.slow

KEY = "very-secret-key"
HEADERS = f"# Triton itself asks for this key\nX-Key: {KEY}\ntriton-grpc-protocol-x-key: {KEY}\n"


class KeyedAccess(AdminAccess):
    """A key to the APIs of clients as well."""

    def options(self) -> list[str]:
        closed = f"inference,metadata,model-config,statistics:{self.header}={self.key}"
        return [f"--http-restricted-api={closed}", f"--grpc-restricted-protocol={closed}"]


class Gateway:
    """The addresses of a gateway in front of a Triton that wants a key, and the files for its clients."""

    def __init__(self, folder: Path, http: str, grpc: str, metrics: str, authority: Authority) -> None:
        self.http_address, self.grpc_address, self.metrics_address = http, grpc, metrics
        self.folder, self.authority = folder, authority
        self.host = f"https://{http}/base"
        cert, key = authority.issue("client")
        (folder / "headers").write_text(HEADERS)
        self.known = ("--client-cert", str(cert), "--client-key", str(key))
        self.keyed = ("--header-file", str(folder / "headers"))
        self.trusting = ("--ca-file", str(authority.file))


@pytest.fixture(scope="module")
def gateway(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    folder: Path = tmp_path_factory.mktemp("gateway")
    authority = Authority.make(folder, "authority")
    with (
        serving(repository, admin=KeyedAccess(KEY, "x-key")) as triton,
        tls_proxy(triton.http_address, authority) as http,
        tls_proxy(triton.grpc_address, authority) as grpc,
    ):
        yield Gateway(folder, http, grpc, triton.metrics_address, authority)


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_a_run_through_a_gateway_is_checked_like_any_other_and_shows_no_secret(
    gateway: Gateway, repository: Path, tmp_path: Path, protocol: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")  # a proxy that nobody can reach, for the control requests
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    options = ("--host", gateway.host, "--repository", str(repository), "--protocol", protocol)
    more = (
        "--scenario",
        "constant",
        "--concurrency",
        "2",
        "--stage-time",
        "1",
        "--warm-up",
        "0.2",
        "--min-requests",
        "20",
        "--header",
        "X-Other: another-secret",
    )
    finished = run(gateway, tmp_path, *options, *more, *gateway.known, *gateway.keyed, *gateway.trusting)
    assert finished.code == 0, finished.stdout + finished.stderr
    (stage,) = finished.result["stages"]
    assert stage["requests"] >= 20
    assert stage["server"]["requests"] > 0
    written = "".join(path.read_text() for path in tmp_path.iterdir())
    assert KEY not in written
    assert "another-secret" not in written
    assert any("https_proxy" in note for note in finished.result["notes"])


def refusal(host: str, *options: str) -> LoadTestError:
    with pytest.raises(LoadTestError) as caught:
        prepare(read("--model", "classifier", *options, host=host))
    return caught.value


def test_a_gateway_that_does_not_let_us_in_is_named_with_what_it_wants(gateway: Gateway) -> None:
    other = Authority.make(gateway.folder, "other")
    cases: list[tuple[str, str, tuple[str, ...]]] = [
        ("--ca-file", "the server's certificate is not accepted", (*gateway.known, *gateway.keyed)),
        ("--ca-file", "the server's certificate is not accepted", ("--ca-file", str(other.file), *gateway.known)),
        ("--client-cert", "the server does not answer", (*gateway.trusting, *gateway.keyed)),
        ("--header-file", "the server refuses to answer", (*gateway.trusting, *gateway.known)),
    ]
    for option, what, options in cases:
        fault = refusal(gateway.host, *options)
        assert what in fault.what
        assert option in fault.fix
        assert fault.exit_code == 6
    prepare(read("--model", "classifier", "--insecure", *gateway.known, *gateway.keyed, host=gateway.host))
    grpc = ("--protocol", "grpc", "--grpc-address", gateway.grpc_address)
    plain = ("--grpc-address", f"grpc://{gateway.grpc_address}")
    inside = (*gateway.trusting, *gateway.known, *gateway.keyed)
    assert "does not answer: cut" in refusal(gateway.host, *inside, *grpc, *plain).what
    with pytest.raises(ExchangeError) as caught:
        make_client("http", read("--insecure", host=gateway.host).http, 5.0).connect().infer(b"GET / HTTP/1.1\r\n\r\n")
    assert caught.value.kind in ("tls", "cut")
    without_base = gateway.host.removesuffix("/base") + "/elsewhere"
    assert "GET /v2" in refusal(without_base, *inside).what
