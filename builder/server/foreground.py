"""Serve a model repository in the foreground, until a signal, and start Triton again when it dies."""

import contextlib
import ipaddress
import signal
import sys
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from types import FrameType

from builder.printable import counted, printable
from builder.server import ports
from builder.server.admin import AdminAccess
from builder.server.loading import Unserved
from builder.server.serving import ModelControlMode, Server
from builder.server.supervision import supervise

_REACHABLE = (
    "warning: others may reach Triton on {host}, and it has known vulnerabilities: a request can end it or run code "
    "(docs/embedded-server.md). Serve others with NVIDIA's current image"
)


def serve(
    repository: Path,
    *,
    host: str = "127.0.0.1",
    http_port: int = 8000,
    grpc_port: int = 8001,
    metrics_port: int = 8002,
    model_control_mode: ModelControlMode = "explicit",
    admin: AdminAccess | None = None,
    strict: bool = False,
    auto_complete: bool = False,
    flags: Sequence[str] = (),
    ready_timeout_s: float | None = None,
) -> None:
    """Serve `repository` until SIGINT or SIGTERM, with Triton's log on stderr. Call it from the main thread.

    In explicit mode, every model is loaded at the start. Models that do not load are named on stderr, each with the
    reason, and the others are served. Then two lines say where the admin key is, and give the addresses. If Triton or
    a process that runs a model dies, a line says so, and Triton starts again on the same ports, with the same key. A
    second signal ends the server at once.

    Args:
        repository: A model repository. Every directory in it is a model.
        host: The address to listen on.
        http_port: The HTTP port. 0 chooses a free one, as for the two other ports.
        grpc_port: The gRPC port.
        metrics_port: The port of the metrics.
        model_control_mode: Triton's option.
        admin: The key to the closed APIs. Default: a random key.
        strict: End with an error if a model does not load.
        auto_complete: Let Triton add what the config of an ONNX model leaves out, or make one up.
        flags: More flags for `tritonserver`.
        ready_timeout_s: How long the models may take to load, seconds. Default: as long as Triton goes on.

    Raises:
        RepositoryError: There is no such directory.
        FlagError: A flag does not exist, or would change what `serve` sets itself.
        HostError: Triton did not start, none of the models loads, or Triton died too often.
    """
    if not ipaddress.ip_address(ports.resolve(host)).is_loopback:
        _say(_REACHABLE.format(host=host))
    with (
        _stopped_by_signals(),
        Server.start(
            repository,
            host=host,
            http_port=http_port,
            grpc_port=grpc_port,
            metrics_port=metrics_port,
            model_control_mode=model_control_mode,
            load_models=["*"] if model_control_mode == "explicit" else [],
            admin=admin,
            strict=strict,
            auto_complete=auto_complete,
            flags=flags,
            ready_timeout_s=ready_timeout_s,
            log_to=sys.stderr,
            report=lambda step, what: _say(what, step=step),
        ) as server,
    ):
        _tell_unserved(server.unserved)
        _say(f"header {server.admin.header}, key in {server.key_file}", step="admin")
        _say(f"HTTP {server.http_address}, gRPC {server.grpc_address}, metrics {server.metrics_address}")
        supervise(server.wait, partial(_restart, server), _say)


def _restart(server: Server) -> None:
    server.restart()
    _tell_unserved(server.unserved)


def _tell_unserved(unserved: Sequence[Unserved]) -> None:
    """Name what is not served, one line each."""
    for entry in unserved:
        _say(str(entry), step="failed")
    if unserved:
        models = len({entry.model for entry in unserved})
        _say(f"{counted(models, 'model')} did not load, or not in every version; all else is served", step="failed")


def _say(what: str, *, step: str = "serve") -> None:
    with contextlib.suppress(OSError):  # stderr may be closed
        sys.stderr.write(f"{step:<8} {printable(what)}\n")  # in one piece: a thread copies Triton's log to it, too
        sys.stderr.flush()


@contextlib.contextmanager
def _stopped_by_signals() -> Iterator[None]:
    """End the block at SIGINT or SIGTERM, wherever it is, and restore the previous handlers.

    A second signal cuts short what the first one started. More signals do nothing, so that it can clean up.
    """
    signals = iter([_Stopped(), _Stopped()])

    def stop(signum: int, frame: FrameType | None) -> None:
        for stopped in signals:
            raise stopped

    before = {signum: signal.signal(signum, stop) for signum in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    except _Stopped:
        return
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)


class _Stopped(BaseException):
    """A signal asked the server to stop."""
