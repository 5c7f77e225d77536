"""Where a running server leaves its key for the other commands of the same user.

Each server has a file in a folder of its user: in $XDG_RUNTIME_DIR, or else in the folder for temporary files, where
others may write too. So the folder is opened without following a link, it must belong to this user, and nobody else
may enter it. The files are then opened relative to the open folder.
"""

import contextlib
import ipaddress
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

from builder.errors import HostError
from builder.server.admin import AdminAccess

_NAME = "triton-repository-builder"
_CANNOT = "the admin key cannot be left here for other commands"
_FIX = "set XDG_RUNTIME_DIR to a folder of yours that nobody else may enter (mode 700)"

_TABLES = ("/proc/net/tcp", "/proc/net/tcp6")
_ADDRESS, _STATE, _OWNER = 1, 3, 7
"""Columns of these tables. Source: proc(5)."""
_LISTENING = "0A"


@dataclass(frozen=True, slots=True)
class FoundServer:
    """A server of this user on this machine.

    Attributes:
        address: `host:port` of the endpoint that was asked for. The host is a number.
        admin: The key to its administrative APIs.
        http_address: `host:port` of its HTTP endpoint.
    """

    address: str
    admin: AdminAccess
    http_address: str


@dataclass(frozen=True, slots=True)
class LocalServer:
    """A server that this user runs on this machine.

    Attributes:
        http_address: `host:port` of its HTTP endpoint.
        grpc_address: `host:port` of its gRPC endpoint.
        admin: The key to its administrative APIs.
        pid: The process that runs it.
        key_file: The file that says so.
        is_answering: Whether it listens at its HTTP port now, and nobody else does. Otherwise do not send it the key.
    """

    http_address: str
    grpc_address: str
    admin: AdminAccess
    pid: int
    key_file: Path
    is_answering: bool


@dataclass(frozen=True, slots=True)
class _Content:
    """What is in a file: the process that serves, its `host:port` addresses, its key and its repository."""

    pid: int
    http: str
    grpc: str
    header: str
    key: str = field(repr=False)
    repository: str = ""


class KeyFile:
    """The file in which a running server leaves its key.

    Attributes:
        path: Where it is.
    """

    def __init__(
        self, http_address: str, grpc_address: str, admin: AdminAccess, repository: Path | None = None
    ) -> None:
        """Write it, over the one that an earlier server at this address has left behind.

        Raises:
            HostError: It cannot be written, or others could read it.
        """
        served = "" if repository is None else os.path.realpath(repository)
        content = _Content(os.getpid(), http_address, grpc_address, admin.header, admin.key, served)
        self.path = _places()[0] / f"{grpc_address}.json"
        try:
            with contextlib.suppress(FileExistsError):
                self.path.parent.mkdir(mode=0o700)
            with _opened(self.path.parent) as folder:
                _remove_old(folder, self.path.name)
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                with os.fdopen(os.open(self.path.name, flags, 0o600, dir_fd=folder), "w") as file:
                    json.dump(asdict(content), file)
        except OSError as error:
            raise HostError(self.path.parent, f"{_CANNOT}: {error.strerror or error}", _FIX) from error
        self._content = content

    def remove(self) -> None:
        """Remove it, unless a later server at this address has written its own."""
        with contextlib.suppress(OSError, HostError), _opened(self.path.parent) as folder:
            if _read(folder, self.path.name) == self._content:
                os.unlink(self.path.name, dir_fd=folder)


def find_server(address: str) -> FoundServer | None:
    """Return the server of this user that listens at a loopback address, with its key; None if there is none.

    A process of another user must not get the key. So whatever listens at this port has to belong to this user, and
    the caller must connect to the address that is returned: a name such as `localhost` can stand for several.

    Args:
        address: `host:port` of the server's gRPC or HTTP endpoint. The host is `localhost` or a loopback address.
    """
    host, _, port = address.rpartition(":")
    if not (is_loopback(address) and port.isdigit() and _is_ours(int(port))):
        return None
    wanted = f"{'127.0.0.1' if host == 'localhost' else host}:{port}"
    for content in _all_contents():
        if wanted in (content.grpc, content.http) and _is_running(content):
            return FoundServer(wanted, AdminAccess(content.key, content.header), content.http)
    return None


def servers_of(repository: Path) -> list[LocalServer]:
    """Return the running servers of this user on this machine that serve a repository.

    Args:
        repository: The repository; links are followed.
    """
    served = os.path.realpath(repository)
    return [
        LocalServer(
            http_address=content.http,
            grpc_address=content.grpc,
            admin=AdminAccess(content.key, content.header),
            pid=content.pid,
            key_file=path,
            is_answering=_is_ours(int(content.http.rpartition(":")[2])),
        )
        for path, content in _all_files()
        if content.repository == served and _is_running(content)
    ]


def is_loopback(address: str) -> bool:
    """Return whether only this machine can reach `host:port`."""
    host = address.rpartition(":")[0].strip("[]")
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_ours(port: int) -> bool:
    """Return whether something listens at a port, and all that does belongs to this user."""
    owners = set()
    for table in _TABLES:
        with contextlib.suppress(OSError):
            for line in Path(table).read_text().splitlines()[1:]:
                columns = line.split()
                if columns[_STATE] == _LISTENING and int(columns[_ADDRESS].rpartition(":")[2], 16) == port:
                    owners.add(int(columns[_OWNER]))
    return owners == {os.geteuid()}


def _is_running(content: _Content) -> bool:
    return Path(f"/proc/{content.pid}").exists()


def _places() -> list[Path]:
    """Return the folders that may hold the files. A new file goes to the first one."""
    temporary = Path(tempfile.gettempdir()) / f"{_NAME}-{os.geteuid()}"
    around = Path(os.environ.get("XDG_RUNTIME_DIR", ""))
    with contextlib.suppress(OSError):
        if around.is_absolute() and _fault_of(around.lstat()) is None:
            return [around / _NAME, temporary]
    return [temporary]


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[int]:
    """Open a folder, for as long as the block lasts.

    Raises:
        HostError: It is not a folder that only this user may enter.
        OSError: It cannot be opened.
    """
    try:
        folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except NotADirectoryError:
        raise HostError(path, f"{_CANNOT}: it is a link or a file", _FIX) from None
    try:
        if fault := _fault_of(os.fstat(folder)):
            raise HostError(path, f"{_CANNOT}: {fault}", _FIX)
        yield folder
    finally:
        os.close(folder)


def _fault_of(folder: os.stat_result) -> str | None:
    """Return why a folder is not this user's alone; None if it is."""
    if not stat.S_ISDIR(folder.st_mode):
        return "it is not a folder"
    if folder.st_uid != os.geteuid():
        return "it belongs to another user"
    if folder.st_mode & 0o077:
        return f"others may enter it (mode {stat.S_IMODE(folder.st_mode):o})"
    return None


def _read(folder: int, name: str) -> _Content | None:
    """Return what is in a file; None if no server wrote it."""
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
        with os.fdopen(os.open(name, flags, dir_fd=folder), "rb") as file:
            content = _Content(**json.load(file))
        AdminAccess(content.key, content.header)
    except (OSError, ValueError, TypeError, AttributeError, RecursionError):
        return None
    return content


def _remove_old(folder: int, replaced: str) -> None:
    """Remove the file that is to be replaced, and those of processes that have ended."""
    for name in _names(folder):
        content = _read(folder, name)
        if name == replaced or (content and not _is_running(content)):
            with contextlib.suppress(FileNotFoundError):  # another server has removed it
                os.unlink(name, dir_fd=folder)


def _names(folder: int) -> list[str]:
    with os.scandir(folder) as entries:
        return [entry.name for entry in entries]


def _all_contents() -> Iterator[_Content]:
    for _, content in _all_files():
        yield content


def _all_files() -> Iterator[tuple[Path, _Content]]:
    for place in _places():
        with contextlib.suppress(OSError, HostError), _opened(place) as folder:
            for name in _names(folder):
                if content := _read(folder, name):
                    yield place / name, content
