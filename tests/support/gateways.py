"""What may stand between a client and servers: a gateway with TLS, and a balancer. Also the certificates for it."""

import datetime
import ipaddress
import itertools
import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID


@dataclass(frozen=True)
class Authority:
    """A certificate authority that exists for one test: its own certificate is in `file`."""

    name: x509.Name
    key: ec.EllipticCurvePrivateKey
    file: Path

    @classmethod
    def make(cls, folder: Path, name: str) -> "Authority":
        made = cls(_name(name), ec.generate_private_key(ec.SECP256R1()), folder / f"{name}.pem")
        made._write(made.file, made.name, made.key, x509.BasicConstraints(ca=True, path_length=0))
        return made

    def issue(self, name: str) -> tuple[Path, Path]:
        """Write a certificate for 127.0.0.1 and its key, and return their paths."""
        key = ec.generate_private_key(ec.SECP256R1())
        cert_file, key_file = (self.file.with_name(f"{name}.{end}") for end in ("crt", "key"))
        there = x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))])
        self._write(cert_file, _name(name), key, there)
        form = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
        key_file.write_bytes(key.private_bytes(*form))
        return cert_file, key_file

    def _write(
        self, file: Path, name: x509.Name, key: ec.EllipticCurvePrivateKey, extension: x509.ExtensionType
    ) -> None:
        now, day = datetime.datetime.now(datetime.timezone.utc), datetime.timedelta(days=1)
        builder = x509.CertificateBuilder(self.name, name, key.public_key(), x509.random_serial_number())
        known_by = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        for value, critical in ((extension, isinstance(extension, x509.BasicConstraints)), (known_by, False)):
            builder = builder.add_extension(value, critical)
        signed = builder.not_valid_before(now - day).not_valid_after(now + day).sign(self.key, hashes.SHA256())
        file.write_bytes(signed.public_bytes(serialization.Encoding.PEM))


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


@dataclass(frozen=True)
class Gateway:
    """Where servers are reached that stand behind something."""

    http_address: str
    grpc_address: str
    metrics_address: str


@contextmanager
def tls_proxy(upstream: str, authority: Authority, *, ask_client: bool = True) -> Iterator[str]:
    """Speak TLS on a free port and pass everything on to `upstream`; the base path `/base` is removed.

    Clients must have a certificate of the same authority, unless `ask_client` is false.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*authority.issue(f"server-{upstream.rpartition(':')[2]}"))
    context.set_alpn_protocols(["h2", "http/1.1"])
    if ask_client:
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(authority.file)

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            host, _, port = upstream.rpartition(":")
            with (
                suppress(OSError),
                context.wrap_socket(self.request, server_side=True) as client,
                socket.create_connection((host, int(port))) as server,
            ):
                back = threading.Thread(target=pass_on, args=(server, client))
                back.start()
                pass_on(client, server)
                back.join()

    with listening(Handler) as address:
        yield address


@contextmanager
def balancer(*upstreams: str) -> Iterator[str]:
    """Pass the connections to a free port on to several servers in turn, as a Kubernetes Service does."""
    with forwarder(itertools.cycle(upstreams)) as address:
        yield address


@contextmanager
def forwarder(upstreams: Iterator[str]) -> Iterator[str]:
    """Pass each connection to a free port on to the next of some servers."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            host, _, port = next(upstreams).rpartition(":")
            with suppress(OSError), socket.create_connection((host, int(port))) as server:
                self.request.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                server.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                back = threading.Thread(target=pass_on, args=(server, self.request))
                back.start()
                pass_on(self.request, server)
                back.join()

    with listening(Handler) as address:
        yield address


def pass_on(source: socket.socket, target: socket.socket) -> None:
    """Pass on all bytes until one side closes."""
    with suppress(OSError):
        while data := source.recv(1 << 16):
            target.sendall(data.replace(b" /base/v2", b" /v2", 1))
    for link in (source, target):
        with suppress(OSError):
            link.shutdown(socket.SHUT_RDWR)


@contextmanager
def listening(handler: type[socketserver.BaseRequestHandler]) -> Iterator[str]:
    """Listen on a free port, each connection in a thread, and yield the address."""

    class Listener(socketserver.ThreadingTCPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, request: object, client_address: object) -> None:
            """Say nothing: clients that give up are part of the tests."""

    with Listener(("127.0.0.1", 0), handler) as listener:
        thread = threading.Thread(target=listener.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"127.0.0.1:{listener.server_address[1]}"
        finally:
            listener.shutdown()
            thread.join()
