"""A model at a URL is published only with its digest, over a connection that nobody can change, within limits."""

import hashlib
import http.server
import json
import ssl
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import buckets
from support.gateways import Authority

from builder import api, cli
from builder.bucket import Storage
from builder.errors import HostError, ModelError
from builder.fetching import Address, fetched, transfer
from builder.progress import silent
from builder.publishing import PublishOptions

MODEL = Path(__file__).parents[1] / "models" / "convolution_static.onnx"
CONTENT = MODEL.read_bytes()
DIGEST = hashlib.sha256(CONTENT).hexdigest()
SECRETS = ("topsecret", "sig=", "alice")

Answer = Callable[[http.server.BaseHTTPRequestHandler], None]


def give(content: bytes = CONTENT, *, length: int | None = None) -> Answer:
    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.send_header("Content-Length", str(len(content) if length is None else length))
        request.end_headers()
        request.wfile.write(content)

    return answer


def fail(status: int) -> Answer:
    return lambda request: request.send_error(status)


def send_on(url: str) -> Answer:
    def answer(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(302)
        request.send_header("Location", url)
        request.end_headers()

    return answer


@contextmanager
def server(answer: Answer, context: ssl.SSLContext | None = None, seen: list[str] | None = None) -> Iterator[str]:
    """Yield `127.0.0.1:PORT` of a server that answers every request alike, and note the headers that it got."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if seen is not None:
                seen.append(f"{self.path} {self.headers}")
            answer(self)

        def log_message(self, *_: object) -> None:
            pass

    class Server(http.server.ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, *_: object) -> None:
            pass

    with Server(("127.0.0.1", 0), Handler) as running:
        if context is not None:
            running.socket = context.wrap_socket(running.socket, server_side=True)
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        try:
            yield f"127.0.0.1:{running.server_address[1]}"
        finally:
            running.shutdown()
            thread.join()


def fetch(url: str, sha256: str | None = DIGEST) -> bytes:
    with fetched(url, sha256, silent) as (file, _):
        return file.read_bytes()


@pytest.fixture
def tls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """Trust an authority that exists for this test, and return what a server of it needs."""
    authority = Authority.make(tmp_path, "authority")
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue("server"))
    return context


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


# ---- what is published


def test_a_file_over_https_is_published_and_the_manifest_names_its_url_without_secrets(
    tls: ssl.SSLContext, tmp_path: Path
) -> None:
    seen: list[str] = []
    with server(give(), tls, seen) as address:
        url = f"https://alice:topsecret@{address}/models/net.onnx?sig=topsecret#part"
        done = api.publish(url, tmp_path / "models", sha256=DIGEST, options=PublishOptions(effort="off"))
    assert done.name == "net"
    assert done.manifest.source.download is not None
    assert done.manifest.source.download.url == f"https://{address}/models/net.onnx"
    assert done.manifest.source.download.sha256 == DIGEST == done.manifest.source.sha256
    assert seen[0].startswith("/models/net.onnx?sig=topsecret ")
    assert "Authorization: Basic YWxpY2U6dG9wc2VjcmV0" in seen[0]
    stored = [file.read_bytes() for file in (tmp_path / "models").rglob("*") if file.is_file()]
    assert not any(secret.encode() in content for content in stored for secret in SECRETS)


@pytest.mark.slow
def test_an_object_of_a_bucket_is_fetched() -> None:
    with buckets.s3() as url:
        storage = Storage.connect(url)
        storage.filesystem.pipe_file(f"{storage.path}/nets/net.onnx", CONTENT)
        assert fetch(f"{url}/nets/net.onnx") == CONTENT
        with pytest.raises(ModelError, match="there is no such object"):
            fetch(f"{url}/nets/other.onnx")
        with pytest.raises(ModelError, match="digest"):
            fetch(f"{url}/nets/net.onnx", "0" * 64)


def test_what_is_fetched_is_deleted_afterwards() -> None:
    with server(give()) as address, fetched(f"http://{address}/net.onnx", DIGEST.upper(), silent) as (file, _):
        assert file.exists()
    assert not file.parent.exists()


def test_progress_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(transfer, "_REPORT_EVERY_S", -1)
    told: list[str] = []
    with server(give()) as address, fetched(f"http://{address}/a.onnx", DIGEST, lambda *line: told.append(line[1])):
        pass
    assert told[0].startswith(f"http://{address}/a.onnx, ")
    assert told[-1].endswith("100%")


# ---- what is refused


def test_a_file_with_another_digest_is_refused() -> None:
    with server(give(b"<html>please log in</html>")) as address, pytest.raises(ModelError, match="not the one that"):
        fetch(f"http://{address}/net.onnx")


@pytest.mark.parametrize("sha256", [None, "", "abc", "g" * 64])
def test_nothing_is_fetched_without_a_digest(sha256: str | None) -> None:
    seen: list[str] = []
    with server(give(), seen=seen) as address, pytest.raises(ModelError, match="known beforehand"):
        fetch(f"http://{address}/net.onnx", sha256)
    assert seen == []


@pytest.mark.parametrize(
    ("url", "what"),
    [
        ("http://models.example/net.onnx", "lets anybody on the way"),
        ("http://127.0.0.1.models.example/net.onnx", "lets anybody on the way"),
        ("http://localhost@models.example/net.onnx", "lets anybody on the way"),
        ("ftp://alice:topsecret@host/net.onnx", "not fetched by this protocol"),
        ("file:///etc/passwd", "not fetched by this protocol"),
        ("https://alice:topsecret@host:port/net.onnx?sig=topsecret", "the host or the port"),
        ("https://[::1/net.onnx?sig=topsecret", "the host or the port"),
        ("https:///net.onnx?sig=topsecret", "names no host"),
        ("https://host/models/?sig=topsecret", "does not end in the name of a file"),
        ("https://host/..%2f..%2f?sig=topsecret", "does not end in the name of a file"),
        ("https://host/a b.onnx?sig=topsecret", "characters that no URL may have"),
        ("https://host/a.onnx?sig=topsecret\r\nX-Header: 1", "characters that no URL may have"),
        ("s3://bucket/models/", "does not end in the name of a file"),
    ],
)
def test_a_url_that_is_not_safe_or_names_no_file_is_refused_without_telling_secrets(url: str, what: str) -> None:
    with pytest.raises(ModelError, match=what) as refused:
        Address.parse(url)
    assert not any(secret in str(refused.value) for secret in SECRETS)


def test_the_name_of_a_file_leads_nowhere_else() -> None:
    assert Address.parse("https://host/a/..%2f..%2fnet.onnx").file == "net.onnx"
    assert Address.parse("https://[::1]:8443/net%20a.onnx?x=1").shown == "https://[::1]:8443/net%20a.onnx"


@pytest.mark.parametrize(
    ("answer", "kind", "what"),
    [
        (fail(404), ModelError, "no such file"),
        (fail(403), ModelError, "does not let us read it"),
        (fail(500), HostError, "HTTP 500"),
        (send_on("http://models.example/net.onnx?sig=topsecret"), ModelError, "http://models.example, which is not"),
        (send_on("file:///etc/passwd"), ModelError, "which is not https"),
        (give(length=10**15), ModelError, "at most 20.0 GB are fetched"),
        (give(length=len(CONTENT) + 1), HostError, "it ended after|the connection broke"),
    ],
)
def test_an_answer_that_is_no_file_is_refused_without_telling_secrets(
    answer: Answer, kind: type[Exception], what: str
) -> None:
    with server(answer) as address, pytest.raises(kind, match=what) as refused:
        fetch(f"http://alice:topsecret@{address}/net.onnx?sig=topsecret")
    assert not any(secret in str(refused.value) for secret in SECRETS)


def test_the_user_of_a_url_is_not_sent_to_another_server() -> None:
    seen: list[str] = []
    with server(give(), seen=seen) as target, server(send_on(f"http://{target}/x.onnx")) as address:
        assert fetch(f"http://alice:topsecret@{address}/net.onnx") == CONTENT
    assert "Authorization" not in seen[0]


def test_a_certificate_that_nobody_vouches_for_is_refused(tls: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SSL_CERT_FILE")
    with server(give(), tls) as address, pytest.raises(HostError, match="certificate cannot be checked"):
        fetch(f"https://{address}/net.onnx")


def test_a_server_that_is_not_there_or_says_nothing_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    with server(give()) as address:
        pass
    with pytest.raises(HostError, match="cannot be reached: Connection refused"):
        fetch(f"http://{address}/net.onnx")
    monkeypatch.setattr(transfer, "_SILENCE_S", 0.2)
    done = threading.Event()

    def wait(request: http.server.BaseHTTPRequestHandler) -> None:
        done.wait(10)

    with server(wait) as address:
        with pytest.raises(HostError, match="nothing came"):
            fetch(f"http://{address}/net.onnx")
        done.set()


def test_a_slow_server_and_one_that_never_ends_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    def endless(request: http.server.BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        while True:
            request.wfile.write(b"x" * 1000)

    with server(endless) as address:
        monkeypatch.setattr(transfer, "LARGEST_BYTES", 100_000)
        with pytest.raises(ModelError, match="at most"):
            fetch(f"http://{address}/net.onnx")
        monkeypatch.setattr(transfer, "LARGEST_BYTES", 10**12)
        monkeypatch.setattr(transfer, "LONGEST_S", 0.1)
        with pytest.raises(HostError, match="after 0"):
            fetch(f"http://{address}/net.onnx")


def test_a_model_whose_weights_are_beside_it_says_what_to_do(tmp_path: Path) -> None:
    import onnx

    model = onnx.load(MODEL)
    tensor = model.graph.initializer[0]
    onnx.external_data_helper.set_external_data(tensor, "net.onnx.data")
    tensor.ClearField("raw_data")
    tensor.ClearField("float_data")
    content = model.SerializeToString()
    with server(give(content)) as address, pytest.raises(ModelError) as refused:
        api.publish(f"http://{address}/net.onnx", tmp_path, sha256=hashlib.sha256(content).hexdigest())
    assert refused.value.where == f"http://{address}/net.onnx"
    assert "is in the file 'net.onnx.data', which is missing" in refused.value.what
    assert "only this one file is fetched" in refused.value.fix
    assert "/builder-" not in str(refused.value)


# ---- the command


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["https://host/net.onnx"], "there is no --sha256"),
        (["net.onnx", "--sha256", "0" * 64], "only for models at a URL"),
        (["https://host/net.onnx", "--sha256", "12"], "is not a SHA-256 digest"),
    ],
)
def test_the_command_asks_for_the_digest_of_a_url_and_of_nothing_else(
    arguments: list[str], what: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["builder", "publish", *arguments])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert what in capsys.readouterr().err


def test_the_command_publishes_a_url(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with server(give()) as address:
        arguments = [f"http://{address}/net.onnx", "--sha256", DIGEST, "--repository", str(tmp_path), "--json"]
        monkeypatch.setattr(sys, "argv", ["builder", "publish", *arguments, "--prove", "off"])
        cli.main()
    out, err = capsys.readouterr()
    assert json.loads(out)["manifest"]["source"]["download"] == {
        "url": f"http://{address}/net.onnx",
        "sha256": DIGEST,
    }
    assert f"download http://{address}/net.onnx, " in err
