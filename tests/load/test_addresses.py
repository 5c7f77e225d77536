"""Where the server listens and how it is reached, as read from the options."""

from pathlib import Path

import pytest
from support.load_settings import read

from loadtest.errors import SettingsError
from loadtest.wire import Address, GrpcClient, HttpClient, InferRequest

SECRET = "Bearer very-secret-token"


def test_addresses_follow_from_the_host() -> None:
    made = read()
    assert (made.http, made.grpc) == (Address("127.0.0.1", 8000), Address("127.0.0.1", 8001))
    assert made.metrics == ()


@pytest.mark.parametrize(
    ("host", "url", "port", "path"),
    [
        ("localhost:8000", "http://localhost:8000", 8000, ""),
        ("http://localhost", "http://localhost", 80, ""),
        ("https://triton.example/team/triton/", "https://triton.example/team/triton", 443, "/team/triton"),
        ("[::1]:9000", "http://[::1]:9000", 9000, ""),
        ("HTTP://Triton:8000/", "http://triton:8000", 8000, ""),
    ],
)
def test_a_host_may_leave_out_what_follows(host: str, url: str, port: int, path: str) -> None:
    made = read(host=host)
    assert (made.host, made.http.port, made.http.path) == (url, port, path)
    assert (made.http.tls is not None) == url.startswith("https")


@pytest.mark.parametrize(
    "host",
    ["", "ftp://a", "http://a:notaport", "http://a:0", "http://a:70000", "http://a/?x=1", "http://a/#x", "http:///a",
     "http://a b", "http://\u00fc.example"],
)  # fmt: skip
def test_a_host_that_is_not_an_http_address_is_refused(host: str) -> None:
    with pytest.raises(SettingsError, match="--host"):
        read(host=host)


def test_a_password_in_an_address_is_refused_without_being_shown() -> None:
    for address in ("http://ann:hunter2@triton:8000", "ann:hunter2@triton", "http://ann:hunter2@[bad"):
        with pytest.raises(SettingsError, match="--header-file") as caught:
            read(host=address)
        assert "hunter2" not in str(caught.value)


def test_grpc_is_reached_as_http_is_unless_it_is_said_otherwise() -> None:
    def grpc(*arguments: str, host: str = "https://triton:8000") -> tuple[str, bool]:
        address = read(*arguments, host=host).grpc
        return str(address), address.tls is not None

    assert grpc(host="https://[::1]:9000") == ("[::1]:9001", True)
    assert grpc("--grpc-address", "triton:443") == ("triton:443", True)
    assert grpc("--grpc-address", "grpc://triton:8001") == ("triton:8001", False)
    assert grpc("--grpc-address", "grpcs://[::1]:8001", host="http://triton:8000") == ("[::1]:8001", True)


@pytest.mark.parametrize("address", ["nowhere", "::1:8001", "ftp://a:1", "grpc://a:8001/path", "a:b"])
def test_a_grpc_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(SettingsError, match="--grpc-address"):
        read("--grpc-address", address)


def test_a_grpc_port_that_does_not_follow_from_the_host_has_to_be_given() -> None:
    for host in ("https://triton.example", "http://triton:65535"):
        assert read(host=host).protocol == "http"
        with pytest.raises(SettingsError, match="no gRPC port follows"):
            read("--protocol", "grpc", host=host)


def test_each_server_has_metrics_of_its_own() -> None:
    made = read(
        "--server-metrics", "10.0.0.1:8002, 10.0.0.2:9000/other,10.0.0.1:8002", "--header", f"Authorization: {SECRET}"
    )
    assert made.metrics == (Address("10.0.0.1", 8002, path="/metrics"), Address("10.0.0.2", 9000, path="/other"))
    assert read("--server-metrics", "none").metrics is None


# ---- headers


def test_headers_come_from_the_environment_a_file_and_options_and_the_last_one_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_HEADERS", "Authorization: Bearer environment\nX-First: 1")
    assert dict(read().http.headers) == {"Authorization": "Bearer environment", "X-First": "1"}
    file = tmp_path / "headers"
    file.write_text(f"# a comment\n\nauthorization:{SECRET} \r\nX-Second: a: b\n")
    options = ("--header-file", str(file), "--header", "X-Third: 3", "--header", "x-second: 2")
    given = {"authorization": SECRET, "X-First": "1", "x-second": "2", "X-Third": "3"}
    made = read(*options)
    assert dict(made.http.headers) == dict(made.grpc.headers) == given
    assert SECRET not in repr(made)


@pytest.mark.parametrize(
    ("header", "what"),
    [
        (SECRET, "this is not a header"),
        (f"Author ization: {SECRET}", "this is not a header"),
        ("Authorization: ", "header Authorization has no value"),
        (f"Authorization: {SECRET}\x00", "not printable ASCII"),
        (f"Authorization: {SECRET}\rX: y", "not printable ASCII"),
        (f"Authorization: {SECRET}\u00e9", "not printable ASCII"),
        ("Content-Length: 3", "the load generator sets header Content-Length itself"),
        ("grpc-timeout: 1S", "the load generator sets header grpc-timeout itself"),
    ],
)
def test_what_is_no_header_is_refused_without_being_shown(header: str, what: str) -> None:
    with pytest.raises(SettingsError, match=what) as caught:
        read("--header", header)
    assert caught.value.where == "--header"
    assert "very-secret" not in str(caught.value)


def test_a_file_of_headers_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    binary, large = tmp_path / "binary", tmp_path / "large"
    binary.write_bytes(b"Authorization: \xff")
    large.write_bytes(b"#" * 100_000)
    for path, what in ((tmp_path / "none", "No such file"), (binary, "not ASCII"), (large, "larger than")):
        with pytest.raises(SettingsError, match=what):
            read("--header-file", str(path))


def test_headers_and_the_base_path_are_sent_with_every_request_over_both_protocols() -> None:
    made = read("--header", f"Authorization: {SECRET}", "--header", "host: a.example", host="http://b:8000/base")
    request = InferRequest("m", "", (), ("y",))
    head = HttpClient(made.http, 1.0).encode(request).partition(b"\r\n\r\n")[0].decode().split("\r\n")
    assert head[0] == "POST /base/v2/models/m/infer HTTP/1.1"
    assert [line for line in head if line.lower().startswith("host:")] == ["host: a.example"]
    assert f"Authorization: {SECRET}" in head
    fields = dict(GrpcClient(made.grpc, 1.0).fields)
    assert fields[":authority"] == "a.example"
    assert (fields["authorization"], fields.get("host")) == (SECRET, None)


def test_what_a_server_repeats_of_a_header_is_not_shown() -> None:
    address = read("--header", f"Authorization: {SECRET}", "--header", "X-Short: 1").http
    said = address.conceal("token very-secret-token of 'Bearer very-secret-token' is invalid, 1")
    assert said == "token *** of '***' is invalid, 1"


# ---- TLS


@pytest.mark.parametrize(
    ("arguments", "host", "where", "what"),
    [
        (["--insecure"], "http://a:1", "--insecure", "no address has TLS"),
        (["--ca-file", "a.pem"], "a:1", "--ca-file", "no address has TLS"),
        (["--ca-file", "a.pem", "--insecure"], "https://a:1", "--insecure", "--ca-file would not be used"),
        (["--client-key", "a.pem"], "https://a:1", "--client-key", "no certificate for this key"),
        (["--ca-file", "/no/such.pem"], "https://a:1", "--ca-file", "No such file"),
        (["--client-cert", "/no/such.pem"], "https://a:1", "--client-cert", "No such file"),
        (["--ca-file", __file__], "https://a:1", "--ca-file", "no certificate that can be read"),
        (["--client-cert", __file__], "https://a:1", "--client-cert", "cannot be used"),
    ],
)
def test_options_of_tls_that_cannot_be_used_are_refused(arguments: list[str], host: str, where: str, what: str) -> None:
    with pytest.raises(SettingsError, match=what) as caught:
        read(*arguments, host=host)
    assert caught.value.where == where


def test_options_of_tls_are_used_for_metrics_alone() -> None:
    made = read("--insecure", "--server-metrics", "https://a:8443/metrics,10.0.0.2:8002", host="http://a:1")
    assert made.http.tls is None
    assert made.metrics is not None
    assert [address.tls is not None for address in made.metrics] == [True, False]
