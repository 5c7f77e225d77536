"""Publish into a model repository in a bucket: s3://, gs:// or az://.

A bucket has no rename, so the order has to do: first the files of the new version, its manifest last among them,
then the warmup files, and config.pbtxt, which alone says which version is served, at the very end. A server that
loads the model at any instant finds a config whose version is complete. No object of a version is ever written over.
"""

import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.config import making as config
from builder.config import pbtxt
from builder.errors import HostError, RepositoryError
from builder.progress import Report
from builder.publishing.pipeline import Publication
from builder.record import manifest
from builder.repository import ModelDirectory, check_model_name, staging

_SCHEMES = {"s3": "s3fs", "gs": "gcsfs", "az": "adlfs"}
_WITH_ENDPOINT = re.compile(r"s3://(?P<endpoint>https?://[^/]+)/(?P<path>.+)")
_TIME_STEP_S = 1.0
"""How finely a store keeps an object's time. Source: S3 and its kin give `Last-Modified` in whole seconds."""
_ATTEMPTS = 3
"""How often to start over when somebody else publishes the same model at the same time."""


def publish(url: str, name: str, publish_to: Callable[[Path, Report], Publication], *, report: Report) -> Publication:
    """Publish a model into the bucket.

    Args:
        url: `s3://bucket/prefix`, `gs://…`, `az://container/prefix`, or as Triton writes it for other services
            that speak S3, `s3://https://host:port/bucket/prefix`.
        name: The model's name.
        publish_to: Publishes under that name into a repository on disk.
        report: Told of every step.

    Raises:
        BuilderError: As `publish_to` does.
        RepositoryError: The bucket cannot be reached, or these credentials may not read or write there.
        HostError: The package that speaks to such a bucket is not installed.
    """
    check_model_name(name)
    remote = _RemoteModel.find(url, name)
    for _ in range(_ATTEMPTS):
        try:
            return _publish_once(remote, publish_to, report)
        except _OvertakenError as error:
            report("again", f"{name}: {error}")
    raise RepositoryError(remote.url, f"{_ATTEMPTS} times somebody else published at the same time", "publish again")


class _OvertakenError(Exception):
    """Somebody else published the same model in the meantime; nothing of ours is left in the bucket."""


def _publish_once(
    remote: "_RemoteModel", publish_to: Callable[[Path, Report], Publication], report: Report
) -> Publication:
    """Publish into a copy of what is in the bucket, and upload what that added.

    Raises:
        _OvertakenError: The bucket is no longer what was copied.
    """

    def report_but_where(step: str, what: str) -> None:
        if step != "install":
            report(step, what)

    with tempfile.TemporaryDirectory(prefix="builder-") as folder:
        local = ModelDirectory(Path(folder).resolve() / "models" / remote.name)
        before = remote.download(local)
        done = publish_to(local.path.parent, report_but_where)
        remote.upload(local, done, before)
    version = done.version.version
    report("upload", f"{remote.url}/{version}" if done.version.created else f"version {version} is this already")
    return done


@dataclass(frozen=True, slots=True)
class _RemoteModel:
    """A model in a bucket.

    Attributes:
        filesystem: fsspec's.
        path: The model's, as `filesystem` wants it.
        url: The model's, for messages.
        name: The model's.
    """

    filesystem: Any
    path: str
    url: str
    name: str

    @classmethod
    def find(cls, url: str, name: str) -> "_RemoteModel":
        """Connect to the bucket.

        Raises:
            RepositoryError: It is no such URL.
            HostError: The package that speaks to such a bucket is not installed.
        """
        scheme = url.partition("://")[0]
        options: dict[str, Any] = {}
        target = url
        if match := _WITH_ENDPOINT.fullmatch(url):
            options["endpoint_url"], target = match["endpoint"], f"s3://{match['path']}"
        if scheme not in _SCHEMES or not target.partition("://")[2].strip("/"):
            raise RepositoryError(url, "it is not a bucket", "write it as s3://bucket/prefix, gs://… or az://…")
        try:
            import fsspec

            filesystem = fsspec.filesystem(scheme, use_listings_cache=False, skip_instance_cache=True, **options)
        except ImportError as error:
            what = f"{scheme}:// takes the package {_SCHEMES[scheme]}, which is not installed"
            raise HostError(url, what, "install triton-repository-builder[cloud]") from error
        path = f"{filesystem._strip_protocol(target).rstrip('/')}/{name}"
        return cls(filesystem, path, f"{url.rstrip('/')}/{name}", name)

    def download(self, local: ModelDirectory) -> bytes | None:
        """Fetch what publishing looks at: the config, the numbers of all versions, and the served one whole.

        Returns:
            The config's content; None when there is no such model.

        Raises:
            RepositoryError: The bucket cannot be read.
        """
        with self._reported("read"):
            files = [path.removeprefix(f"{self.path}/") for path in self.filesystem.find(self.path)]
            before = self._find_config()
            if not files:
                return None
            local.path.mkdir(parents=True)
            for folder in {file.partition("/")[0] for file in files if "/" in file}:
                (local.path / folder).mkdir()
            for file in files:
                if file.startswith((f"{_served(before)}/", f"{staging.WARMUP}/")):
                    (local.path / file).parent.mkdir(parents=True, exist_ok=True)
                    self.filesystem.get_file(f"{self.path}/{file}", str(local.path / file))
            if before is not None:
                local.config_path.write_bytes(before)
        return before

    def upload(self, local: ModelDirectory, done: Publication, before: bytes | None) -> None:
        """Put the new version, then the warmup files, then the config; no version stays when that fails.

        A warmup file does: it is called after its content, so that somebody else may rely on it by now.

        Raises:
            _OvertakenError: The version or the config is not what was there when it was downloaded.
            RepositoryError: The bucket cannot be written to.
        """
        written: list[str] = []
        try:
            with self._reported("write"):
                if done.version.created:
                    for file in _in_order(done.version.path):
                        self._create(file, f"{done.version.version}/{file.relative_to(done.version.path)}", written)
                if done.version.config_changed:
                    for file in sorted((local.path / staging.WARMUP).glob("*")):
                        self.filesystem.put_file(str(file), f"{self.path}/{staging.WARMUP}/{file.name}")
                    self._switch(local.config_path.read_bytes(), before)
        except BaseException:
            self._remove(written)
            raise

    def _create(self, file: Path, name: str, written: list[str]) -> None:
        """Put an object that must not be there yet."""
        target = f"{self.path}/{name}"
        try:
            self.filesystem.put_file(str(file), target, mode="create")
        except FileExistsError as error:
            raise _OvertakenError("its version was taken meanwhile") from error
        written.append(target)

    def _switch(self, content: bytes, before: bytes | None) -> None:
        """Put the config, unless somebody else did meanwhile.

        A Triton that has loaded the model looks again only when something in it is newer, so the config has to be
        newer than all that such a server may have seen, the files of its own version among them.
        Source: triton-inference-server/core, `model_repository_manager.cc`: modified is what has a newer newest time.
        """
        if before is not None:
            time.sleep(_TIME_STEP_S)
        if self._find_config() != before:
            raise _OvertakenError("its config.pbtxt changed meanwhile")
        try:
            self.filesystem.pipe_file(
                f"{self.path}/{config.FILE}", content, mode="create" if before is None else "overwrite"
            )
        except FileExistsError as error:
            raise _OvertakenError("its config.pbtxt was written meanwhile") from error

    def _find_config(self) -> bytes | None:
        try:
            content: bytes = self.filesystem.cat_file(f"{self.path}/{config.FILE}")
        except FileNotFoundError:
            return None
        return content

    def _remove(self, written: Sequence[str]) -> None:
        """Take back what was put; what cannot be is named by no config, and does no harm."""
        for target in written:
            try:
                self.filesystem.rm_file(target)
            except _storage_errors():
                return

    @contextmanager
    def _reported(self, verb: str) -> Iterator[None]:
        """Turn the storage's refusals into a RepositoryError."""
        try:
            yield
        except FileNotFoundError as error:
            what = f"there is no such bucket: {error}"
            raise RepositoryError(self.url, what, "create it, or correct its name") from error
        except PermissionError as error:
            fix = f"give these credentials the right to list and {verb} objects there"
            raise RepositoryError(self.url, f"these credentials may not {verb} it: {error}", fix) from error
        except _storage_errors() as error:
            what = f"it cannot be {'read' if verb == 'read' else 'written'}: {' '.join(str(error).split())}"
            raise RepositoryError(self.url, what, "check the address, the network and the credentials") from error


def _served(content: bytes | None) -> int | None:
    """The version that a config names; None when it names none that can be told."""
    if content is None:
        return None
    try:
        parsed = pbtxt.parse(content.decode("utf-8", errors="replace"), where=config.FILE)
        return config.served_version(parsed, where=config.FILE)
    except RepositoryError:  # said again, with its place, when publishing comes to it
        return None


def _in_order(folder: Path) -> list[Path]:
    """A version's files, the manifest last: where it is, all of them are."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return sorted(files, key=lambda path: path == folder / manifest.FILE)


_ERRORS = {
    "aiohttp": ("ClientError",),
    "azure.core.exceptions": ("AzureError",),
    "botocore.exceptions": ("BotoCoreError", "ClientError"),
    "gcsfs.retry": ("HttpError",),
    "google.auth.exceptions": ("GoogleAuthError",),
}
"""What the storage packages raise beside OSError."""


def _storage_errors() -> tuple[type[BaseException], ...]:
    """Those of the packages that are in use."""
    return (
        OSError,
        *(getattr(sys.modules[module], name) for module in _ERRORS.keys() & sys.modules for name in _ERRORS[module]),
    )
