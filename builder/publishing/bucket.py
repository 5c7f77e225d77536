"""Publish into a model repository in a bucket: s3://, gs:// or az://.

A bucket has no rename, so the objects are uploaded in an order that is safe at every moment: first the files of the new
version, with its manifest last, then the warmup files, and last config.pbtxt, which names the served version. Whenever
a server loads the model, the version that the config names is complete. Objects of a version are never overwritten.

The upload of config.pbtxt is the point of no return. If anything fails before it, what was uploaded is deleted again.
Ctrl-C waits while it lasts. If it ends with an error, the config is read back, because only its answer may be lost.
"""

import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from builder import interrupts
from builder.config import pbtxt, policy
from builder.errors import HostError, RepositoryError
from builder.progress import Report
from builder.publishing import summary
from builder.publishing.pipeline import Publication
from builder.record import MANIFEST_FILE
from builder.repository import ModelDirectory, check_model_name, transaction

_SCHEMES = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs"}
_WITH_ENDPOINT = re.compile(r"s3://(?P<endpoint>https?://[^/]+)/(?P<path>.+)")
_TIME_STEP_S = 1.0
"""The resolution of an object's time. Source: S3 and compatible services give `Last-Modified` in whole seconds."""
_ATTEMPTS = 3
"""How many times to try when somebody else publishes the same model at the same time."""


def publish(url: str, name: str, publish_to: Callable[[Path, Report], Publication], *, report: Report) -> Publication:
    """Publish a model into a bucket.

    Args:
        url: `s3://bucket/prefix`, `gs://…`, `az://container/prefix`, or, in Triton's notation for other services
            with the S3 protocol, `s3://https://host:port/bucket/prefix`.
        name: The model's name.
        publish_to: Publishes the model under that name into a repository on disk.
        report: Called with each step's name and what it found.

    Raises:
        BuilderError: `publish_to` failed.
        RepositoryError: The bucket cannot be reached, or these credentials may not read or write there.
        HostError: The package for such a bucket is not installed.
    """
    check_model_name(name)
    remote = _RemoteModel.find(url, name)
    for _ in range(_ATTEMPTS):
        try:
            return _publish_once(remote, publish_to, report)
        except _OvertakenError as error:
            report("again", f"{name}: {error}")
    what = f"somebody else published this model during each of {_ATTEMPTS} attempts"
    raise RepositoryError(remote.url, what, "publish again when nobody else is publishing this model")


class _OvertakenError(Exception):
    """Somebody else published the same model at the same time; nothing of ours is left in the bucket."""


def _publish_once(
    remote: "_RemoteModel", publish_to: Callable[[Path, Report], Publication], report: Report
) -> Publication:
    """Publish into a local copy of what is in the bucket, and upload what was added.

    Raises:
        _OvertakenError: The bucket has changed since it was copied.
    """

    def report_all_but_install(step: str, what: str) -> None:
        if step != "install":
            report(step, what)

    with tempfile.TemporaryDirectory(prefix="builder-", ignore_cleanup_errors=True) as folder:
        local = ModelDirectory(Path(folder).resolve() / "models" / remote.name)
        before = remote.download(local)
        with _named(remote.url, local.path), interrupts.apart():
            done = publish_to(local.path.parent, report_all_but_install)
        with interrupts.deferred():
            notes = remote.upload(local, done, before)
    for line in summary.of_upload(remote.url, done.version):
        report("upload", line)
    return replace(done, notes=(*done.notes, *notes))


@contextmanager
def _named(url: str, copy: Path) -> Iterator[None]:
    """Let errors name the model in the bucket, instead of the local copy that will be gone."""
    try:
        yield
    except RepositoryError as error:
        where, what = (text.replace(str(copy), url) for text in (error.where, error.what))
        raise RepositoryError(where, what, error.fix) from error


@dataclass(frozen=True, slots=True)
class _RemoteModel:
    """A model in a bucket.

    Attributes:
        filesystem: fsspec's filesystem for the bucket.
        path: The path of the model's directory in it.
        url: The URL of the model's directory, for messages.
        name: The model's name.
    """

    filesystem: Any
    path: str
    url: str
    name: str

    @classmethod
    def find(cls, url: str, name: str) -> "_RemoteModel":
        """Connect to the bucket.

        Raises:
            RepositoryError: The URL is not one of a bucket.
            HostError: The package for such a bucket is not installed.
        """
        scheme = url.partition("://")[0]
        options: dict[str, Any] = {}
        target = url
        if match := _WITH_ENDPOINT.fullmatch(url):
            options["endpoint_url"], target = match["endpoint"], f"s3://{match['path']}"
        if scheme not in _SCHEMES or not target.partition("://")[2].strip("/"):
            raise RepositoryError(url, "this is not the URL of a bucket", "use s3://BUCKET/PREFIX, gs://… or az://…")
        try:
            import fsspec

            filesystem = fsspec.filesystem(scheme, use_listings_cache=False, skip_instance_cache=True, **options)
        except ImportError as error:
            what = f"{scheme}:// needs the package {_SCHEMES[scheme]}, which is not installed"
            raise HostError(url, what, "run pip install 'triton-repository-builder[cloud]'") from error
        path = f"{filesystem._strip_protocol(target).rstrip('/')}/{name}"
        return cls(filesystem, path, f"{url.rstrip('/')}/{name}", name)

    def download(self, local: ModelDirectory) -> bytes | None:
        """Download what publishing reads: the config, the served version, and an empty folder for each other version.

        Returns:
            The content of the config; None when there is no such model.

        Raises:
            RepositoryError: The bucket cannot be read.
        """
        with self._reported("read"):
            found = (path.removeprefix(f"{self.path}/") for path in self.filesystem.find(self.path))
            files = [file for file in found if _is_path_below(file)]
            before = self._find_config()
            if before is None and all(map(_is_own_warmup, files)):
                return None  # at most what an interrupted first publish left behind
            local.path.mkdir(parents=True)
            for folder in {file.partition("/")[0] for file in files if "/" in file}:
                (local.path / folder).mkdir()
            served = _served(before, files)
            for file in files:
                if file.startswith((f"{served}/", f"{transaction.WARMUP}/")):
                    (local.path / file).parent.mkdir(parents=True, exist_ok=True)
                    self.filesystem.get_file(f"{self.path}/{file}", str(local.path / file))
            if before is not None:
                local.config_path.write_bytes(before)
        return before

    def upload(self, local: ModelDirectory, done: Publication, before: bytes | None) -> list[str]:
        """Upload the new version, then the warmup files, then the config.

        If that fails, the files of the version are deleted again, unless the config may name them. The warmup files
        stay: they are named by their content, so another version may use them by now.

        Returns:
            What the caller should know, one sentence each.

        Raises:
            _OvertakenError: The bucket already has such a version, or its config has changed since it was downloaded.
            RepositoryError: The bucket cannot be written to.
        """
        written: list[str] = []
        try:
            with self._reported("write"):
                if done.version.created:
                    for file in _in_order(done.version.path):
                        self._create(file, f"{done.version.version}/{file.relative_to(done.version.path)}", written)
                if not done.version.config_changed:
                    return []
                for file in sorted((local.path / transaction.WARMUP).glob("*")):
                    self.filesystem.put_file(str(file), f"{self.path}/{transaction.WARMUP}/{file.name}")
                content = local.config_path.read_bytes()
                self._refuse_changed_config(before)
        except BaseException as error:
            self._remove(written, error)
            raise
        with self._reported("write"):
            return self._switch(content, written, is_first=before is None)

    def _create(self, file: Path, name: str, written: list[str]) -> None:
        """Upload an object that must not exist yet."""
        target = f"{self.path}/{name}"
        try:
            self.filesystem.put_file(str(file), target, mode="create")
        except FileExistsError as error:
            raise _OvertakenError("somebody else uploaded a version with this number") from error
        written.append(target)

    def _refuse_changed_config(self, before: bytes | None) -> None:
        """Refuse to replace a config that somebody else changed since it was downloaded.

        A Triton that has loaded the model reloads it only when the newest time of its files has increased. So the
        config has to be newer than everything that such a server may have seen, even the new version's own files.
        Source: triton-inference-server/core, `model_repository_manager.cc`, which compares the newest times.
        """
        if before is not None:
            time.sleep(_TIME_STEP_S)
        if self._find_config() != before:
            raise _OvertakenError("somebody else changed its config.pbtxt")

    def _switch(self, content: bytes, written: Sequence[str], *, is_first: bool) -> list[str]:
        """Upload the config; if that fails, delete what was written before.

        If only the answer is lost, the config is in place although the upload failed, and names the new version.
        Then the version stays, and that it happened is a note.
        """
        failures: tuple[type[BaseException], ...] = (*_storage_errors(), KeyboardInterrupt)
        interrupts.hold()
        try:
            self.filesystem.pipe_file(f"{self.path}/{pbtxt.FILE}", content, mode="create" if is_first else "overwrite")
        except failures as error:
            if self._is_there(content, error):
                return [f"config.pbtxt was uploaded, although the upload ended with an error: {_reason(error)}"]
            self._remove(written, error)
            if isinstance(error, FileExistsError):
                raise _OvertakenError("somebody else created its config.pbtxt") from error
            raise
        return []

    def _is_there(self, config: bytes, error: BaseException) -> bool:
        """Return whether this is the config in the bucket.

        Raises:
            RepositoryError: The one there cannot be read, so nobody knows.
        """
        try:
            return self._find_config() == config
        except _storage_errors() as another:
            what = (
                f"the upload of its config.pbtxt ended with an error ({_reason(error)}), and whether it took place "
                f"is unknown, because the config cannot be read back: {_reason(another)}"
            )
            fix = "publish the model again when the storage answers: that finishes the change, or finds it complete"
            raise RepositoryError(self.url, what, fix) from error

    def _find_config(self) -> bytes | None:
        try:
            content: bytes = self.filesystem.cat_file(f"{self.path}/{pbtxt.FILE}")
        except FileNotFoundError:
            return None
        return content

    def _remove(self, written: Sequence[str], error: BaseException) -> None:
        """Delete what was uploaded before this error.

        Raises:
            RepositoryError: Something cannot be deleted. It does no harm, because no config names it.
        """
        interrupts.hold()
        for index, target in enumerate(written):
            try:
                self.filesystem.rm_file(target)
            except _storage_errors() as another:
                left = ", ".join(each.removeprefix(f"{self.path}/") for each in written[index:])
                what = f"{_reason(error)}; what was uploaded before cannot be deleted again: {_reason(another)}"
                fix = f"delete these objects, which no config names, or leave them, and publish again: {left}"
                raise RepositoryError(self.url, what, fix) from error

    @contextmanager
    def _reported(self, verb: str) -> Iterator[None]:
        """Turn an error of the storage into a RepositoryError."""
        try:
            yield
        except FileNotFoundError as error:
            what = f"there is no such bucket: {error}"
            raise RepositoryError(self.url, what, "create the bucket, or correct its name") from error
        except PermissionError as error:
            fix = f"give these credentials permission to list and {verb} objects there"
            raise RepositoryError(self.url, f"these credentials may not {verb} objects there: {error}", fix) from error
        except _storage_errors() as error:
            what = f"cannot {verb} objects there: {_reason(error)}"
            raise RepositoryError(self.url, what, "check the address, the network and the credentials") from error


def _reason(error: BaseException) -> str:
    """Return why something failed, in one line."""
    return "interrupted" if isinstance(error, KeyboardInterrupt) else " ".join(str(error).split())


def _served(content: bytes | None, files: Sequence[str]) -> int | None:
    """Return the version that a config serves; None when it cannot be read or serves none."""
    if content is None:
        return None
    folders = {file.partition("/")[0] for file in files if "/" in file}
    present = [int(folder) for folder in folders if folder.isascii() and folder.isdigit()]
    try:
        parsed = pbtxt.parse(content.decode("utf-8", errors="replace"), where=pbtxt.FILE)
    except RepositoryError:  # publishing into the local copy raises it again
        return None
    return max(policy.named_versions(parsed, present), default=None)


def _is_path_below(name: str) -> bool:
    """Return whether an object's name is a path that stays in its folder: `1/../../x` and `a//b` are names too."""
    return not any(part in ("", ".", "..") for part in name.split("/")) and "\0" not in name


def _is_own_warmup(name: str) -> bool:
    folder, _, file = name.partition("/")
    return folder == transaction.WARMUP and transaction.OWN_WARMUP_FILE.fullmatch(file) is not None


def _in_order(folder: Path) -> list[Path]:
    """Return the files of a version, the manifest last: once it is there, all of them are."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return sorted(files, key=lambda path: path == folder / MANIFEST_FILE)


_ERRORS = {
    "aiohttp": ("ClientError",),
    "azure.core.exceptions": ("AzureError",),
    "botocore.exceptions": ("BotoCoreError", "ClientError"),
    "gcsfs.retry": ("HttpError",),
    "google.auth.exceptions": ("GoogleAuthError",),
}
"""The errors that storage packages raise besides OSError, by module."""


def _storage_errors() -> tuple[type[BaseException], ...]:
    """Return OSError and the errors of the packages that are imported."""
    return (
        OSError,
        *(getattr(sys.modules[module], name) for module in _ERRORS.keys() & sys.modules for name in _ERRORS[module]),
    )
