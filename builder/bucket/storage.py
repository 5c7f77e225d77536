"""The objects of a bucket: list, read, create, replace, copy and delete them, with fsspec, for every kind of storage.

A conditional write makes sure that nobody's change is lost: an object is created only if there is none of that name,
and replaced only if it is still the one that was read. S3, Google Cloud Storage and Azure can do both. A service with
the S3 protocol that ignores the second condition replaces the object; then only the comparison just before it protects
others.
"""

import errno
import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from builder.errors import HostError, RepositoryError
from builder.installing import install

AT_ONCE = 16
"""How many requests for objects are under way at once: the time of each is mostly that of waiting for the answer."""

_PACKAGES = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs"}
_WITH_ENDPOINT = re.compile(r"s3://(?P<endpoint>https?://[^/]+)/(?P<path>.+)")

Item = TypeVar("Item")
Result = TypeVar("Result")


class OvertakenError(Exception):
    """Somebody else changed the same model at the same time; nothing of ours is left in the bucket."""


@dataclass(frozen=True, slots=True)
class StoredObject:
    """An object as the bucket lists it.

    Attributes:
        size: Its size in bytes.
        time: When it was written, in seconds since 1970.
        tag: What changes with its content: its ETag, or its generation in Google Cloud Storage.
    """

    size: int
    time: float
    tag: str


@dataclass(frozen=True, slots=True)
class Storage:
    """The objects below one path of a bucket.

    Attributes:
        filesystem: fsspec's filesystem for the bucket.
        path: The path in it.
        url: Its URL, for messages.
    """

    filesystem: Any
    path: str
    url: str

    @classmethod
    def connect(cls, url: str) -> "Storage":
        """Connect to a bucket.

        Args:
            url: `s3://bucket/prefix`, `gs://…`, `az://container/prefix`, or, in Triton's notation for other services
                with the S3 protocol, `s3://https://host:port/bucket/prefix`.

        Raises:
            RepositoryError: The URL is not one of a bucket.
            HostError: The package for such a bucket is not installed.
        """
        scheme = url.partition("://")[0]
        options: dict[str, Any] = {}
        target = url
        if scheme == "gs" and os.environ.get("STORAGE_EMULATOR_HOST"):
            options["token"] = "anon"  # an emulator has no accounts
        if match := _WITH_ENDPOINT.fullmatch(url):
            options["endpoint_url"], target = match["endpoint"], f"s3://{match['path']}"
        if scheme not in _PACKAGES or not target.partition("://")[2].strip("/"):
            raise RepositoryError(url, "this is not the URL of a bucket", "use s3://BUCKET/PREFIX, gs://… or az://…")
        shown = url.rstrip("/")
        try:
            with reported(shown, "read"):
                filesystem = _filesystem(scheme)(use_listings_cache=False, skip_instance_cache=True, **options)
        except ImportError as error:
            what = f"{scheme}:// needs the package {_PACKAGES[scheme]}, which is not installed"
            raise HostError(url, what, install(_PACKAGES[scheme])) from error
        except ValueError as error:  # adlfs: no account is named
            fix = "set AZURE_STORAGE_CONNECTION_STRING, or AZURE_STORAGE_ACCOUNT_NAME and the account's credentials"
            raise RepositoryError(shown, f"cannot connect to the account: {reason(error)}", fix) from error
        return cls(filesystem, filesystem._strip_protocol(target).rstrip("/"), shown)

    def below(self, name: str) -> "Storage":
        """Return the objects of a folder."""
        return Storage(self.filesystem, f"{self.path}/{name}", f"{self.url}/{name}")

    def above(self) -> "Storage":
        """Return the objects of the folder around this one."""
        return Storage(self.filesystem, self.path.rpartition("/")[0], self.url.rpartition("/")[0])

    def list_objects(self) -> dict[str, StoredObject]:
        """Return every object by its path below this one. Names that are no path in a folder are left out."""
        start = f"{self.path}/"
        found = {
            path.removeprefix(start): _described(facts)
            for path, facts in self.filesystem.find(self.path, detail=True).items()
            if facts.get("type") != "directory" and path.startswith(start)
        }
        usable = {name: each for name, each in found.items() if _is_path_below(name)}
        folders = {name[:place] for name in usable for place, letter in enumerate(name) if letter == "/"}
        return {name: each for name, each in usable.items() if name not in folders}

    def folders(self) -> list[str]:
        """Return the names of the folders directly below this path."""
        try:
            found = self.filesystem.ls(self.path, detail=True)
        except FileNotFoundError:
            return []
        names = (facts["name"].rstrip("/") for facts in found if facts.get("type") == "directory")
        return sorted(name.rpartition("/")[2] for name in names)

    def read(self, name: str) -> bytes | None:
        """Return the content of an object, or None when there is none."""
        try:
            content: bytes = self.filesystem.cat_file(f"{self.path}/{name}")
        except FileNotFoundError:
            return None
        return content

    def find(self, name: str) -> StoredObject | None:
        """Return what the bucket says about an object, or None when there is none."""
        try:
            return _described(self.filesystem.info(f"{self.path}/{name}"))
        except FileNotFoundError:
            return None

    def download(self, files: Mapping[str, Path]) -> set[str]:
        """Download objects, several at once, and return the names of those that are gone.

        Args:
            files: The place of each object on disk, by its name; the folders are there.
        """

        def get(name: str) -> bool:
            try:
                self.filesystem.get_file(f"{self.path}/{name}", str(files[name]))
            except FileNotFoundError:
                return False
            return True

        return {name for name, is_there in zip(files, at_once(get, files), strict=True) if not is_there}

    def create(self, file: Path, name: str) -> None:
        """Upload a file as an object that must not exist yet.

        Raises:
            FileExistsError: It exists.
        """
        self.filesystem.put_file(str(file), f"{self.path}/{name}", mode="create")

    def put(self, file: Path, name: str) -> None:
        """Upload a file as an object, whether it exists or not."""
        self.filesystem.put_file(str(file), f"{self.path}/{name}")

    def replace(self, name: str, content: bytes, *, tag: str | None) -> None:
        """Write an object, if it is still the one with this tag, or if there is none when that is None.

        A storage that lists no tags, an empty text, writes it in any case.

        Raises:
            FileExistsError: It is another one by now.
        """
        path = f"{self.path}/{name}"
        if tag is None:
            self.filesystem.pipe_file(path, content, mode="create")
            return
        if not tag:
            self.filesystem.pipe_file(path, content)
            return
        try:
            _replace(self.filesystem, path, content, tag)
        except storage_errors() as error:
            if _is_failed_condition(error):
                raise FileExistsError(errno.EEXIST, "it has changed", name) from error
            raise

    def copy(self, source: "Storage", name: str, target: str) -> None:
        """Copy an object inside the bucket, from below another path."""
        self.filesystem.cp_file(f"{source.path}/{name}", f"{self.path}/{target}")

    def delete(self, name: str) -> None:
        """Delete an object. One that is gone already is deleted."""
        try:
            self.filesystem.rm_file(f"{self.path}/{name}")
        except FileNotFoundError:
            return

    @contextmanager
    def reported(self, verb: str) -> Iterator[None]:
        """Turn an error of the storage into one that names the URL; `verb` is what was done to the objects."""
        with reported(self.url, verb):
            yield


@contextmanager
def reported(url: str, verb: str) -> Iterator[None]:
    """Turn an error of the storage into one that a user can fix.

    Raises:
        RepositoryError: The bucket is missing, out of reach, or closed to these credentials.
        HostError: This machine has no room for the files.
    """
    try:
        yield
    except FileNotFoundError as error:
        what = f"there is no such bucket: {error}"
        raise RepositoryError(url, what, "create the bucket, or correct its name") from error
    except PermissionError as error:
        fix = f"give these credentials permission to list and {verb} objects there"
        raise RepositoryError(url, f"these credentials may not {verb} objects there: {error}", fix) from error
    except storage_errors() as error:
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            what = "there is no room for the files to download"
            raise HostError(error.filename or url, what, "free some, or set TMPDIR to a larger folder") from error
        what = f"cannot {verb} objects there: {reason(error)}"
        raise RepositoryError(url, what, "check the address, the network and the credentials") from error


def at_once(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Call a function for each item, several at once, and return the results in order. The first error ends it."""
    pool = ThreadPoolExecutor(AT_ONCE)
    try:
        waiting: list[Future[Result]] = [pool.submit(work, item) for item in items]
        return [each.result() for each in waiting]
    finally:
        pool.shutdown(cancel_futures=True)


def reason(error: BaseException) -> str:
    """Return why something failed, in one line."""
    return "interrupted" if isinstance(error, KeyboardInterrupt) else " ".join(str(error).split())


def _filesystem(scheme: str) -> Callable[..., Any]:
    """Return what makes fsspec's filesystem for such URLs.

    Raises:
        ImportError: The package is not installed.
    """
    if scheme == "gs":
        from gcsfs.core import GCSFileSystem  # gcsfs' own choice first asks another service, by gRPC, for the bucket

        return GCSFileSystem  # type: ignore[no-any-return]
    import fsspec

    return partial(fsspec.filesystem, scheme)


def _described(facts: Mapping[str, Any]) -> StoredObject:
    """Read what a package tells about an object; each has its own names for the same facts."""
    times = ("LastModified", "last_modified", "updated", "mtime", "created")
    time = next((facts[key] for key in times if facts.get(key)), 0.0)
    tag = next((facts[key] for key in ("generation", "ETag", "etag") if facts.get(key)), "")
    return StoredObject(int(facts.get("size") or 0), _seconds(time), str(tag))


def _seconds(time: Any) -> float:
    """Return the seconds since 1970 of a time: a number, a `datetime`, or text in ISO format."""
    if isinstance(time, str):
        try:
            time = datetime.fromisoformat(time.replace("Z", "+00:00"))
        except ValueError:
            return 0.0
    if isinstance(time, datetime):
        return (time if time.tzinfo else time.replace(tzinfo=timezone.utc)).timestamp()
    return float(time)


def _is_path_below(name: str) -> bool:
    """Return whether an object's name is a path that stays in its folder: `1/../../x` and `a//b` are names too."""
    parts = name.split("/")
    return "\0" not in name and not any(part in ("", ".", "..") or len(part.encode()) > 255 for part in parts)


def _replace(filesystem: Any, path: str, content: bytes, tag: str) -> None:
    """Replace an object if it still has this tag."""
    protocol = filesystem.protocol if isinstance(filesystem.protocol, str) else filesystem.protocol[0]
    if protocol == "s3":
        filesystem.pipe_file(path, content, IfMatch=tag)
    elif protocol == "abfs":
        from azure.core import MatchConditions

        filesystem.pipe_file(path, content, overwrite=True, etag=tag, match_condition=MatchConditions.IfNotModified)
    elif protocol in ("gs", "gcs"):
        bucket, key, _ = filesystem.split_path(path)
        target = f"{filesystem._location}/upload/storage/v1/b/{bucket}/o"
        filesystem.call(
            "POST",
            target,
            uploadType="multipart",
            ifGenerationMatch=tag,
            headers={"Content-Type": f'multipart/related; boundary="{_BOUNDARY}"'},
            data=_multipart(key, content),
        )
    else:
        filesystem.pipe_file(path, content)


_BOUNDARY = "==part=="


def _multipart(key: str, content: bytes) -> bytes:
    """Return an upload in two parts: the name of the object, and its content.

    Source: https://cloud.google.com/storage/docs/uploading-objects#uploading-an-object
    """
    name = f"--{_BOUNDARY}\nContent-Type: application/json; charset=UTF-8\n\n{json.dumps({'name': key})}\n"
    start = f"--{_BOUNDARY}\nContent-Type: application/octet-stream\n\n"
    return f"{name}{start}".encode() + content + f"\n--{_BOUNDARY}--".encode()


def _is_failed_condition(error: BaseException) -> bool:
    """Return whether the storage answered that the condition of a write does not hold (HTTP status 409 or 412)."""
    if isinstance(error, FileExistsError):
        return True
    chain = [each for each in (error, error.__cause__) if each is not None]
    status = {str(getattr(each, name, "")) for each in chain for name in ("status_code", "code")}
    return bool(status & {"409", "412"}) or any(code in str(each) for each in chain for code in _FAILED_CONDITION)


_FAILED_CONDITION = ("PreconditionFailed", "ConditionalRequestConflict")
"""The codes with which S3 answers. Source: https://docs.aws.amazon.com/AmazonS3/latest/userguide/conditional-writes.html"""

_ERRORS = {
    "aiohttp": ("ClientError",),
    "azure.core.exceptions": ("AzureError",),
    "botocore.exceptions": ("BotoCoreError", "ClientError"),
    "gcsfs.retry": ("HttpError",),
    "google.auth.exceptions": ("GoogleAuthError",),
}
"""The errors that storage packages raise besides OSError, by module."""


def storage_errors() -> tuple[type[BaseException], ...]:
    """Return OSError and the errors of the packages that are imported."""
    return (
        OSError,
        *(getattr(sys.modules[module], name) for module in _ERRORS.keys() & sys.modules for name in _ERRORS[module]),
    )
