"""Bring back a config from before, or one that was prepared, with the files that it names."""

import hashlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from builder.config import Config, ConflictError, check_config, lineage, merge, pbtxt, policy, renew_warmup
from builder.errors import RepositoryError
from builder.record import first_row, raw_bytes
from builder.repository import KeptConfig, ModelDirectory, kept, transaction

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig


@dataclass(frozen=True, slots=True)
class Restored:
    """A kept config that is to serve its version again.

    Attributes:
        config: Its text, and the files that it names and that are gone.
        content: Its content, if it comes back byte for byte.
        notes: What the operator should know, one sentence each.
    """

    config: Config
    content: bytes | None
    notes: tuple[str, ...]


def restore(model: ModelDirectory, source: KeptConfig, beside: Iterable[int] | None) -> Restored:
    """Return a kept config as it was, except that it names other versions if it has to.

    Its warm-up is written anew if Triton would refuse it, because somebody has reshaped an input since.

    Args:
        model: The model.
        source: The kept config.
        beside: The lower versions to serve too. By default those that it names, if they are still there.

    Raises:
        RepositoryError: It is missing, Triton would refuse it, or a file that it names is missing.
    """
    to = source.version
    path = model.path / source.file
    content = kept.read(model, source)
    text = pbtxt.decode(content)
    config = pbtxt.parse(text, where=path)
    present = model.versions()
    # When it was in force, no higher version was there, or `latest` and `all` would not have served this one.
    then = [version for version in present if version <= to]
    named = [version for version in policy.named_versions(config, then) if version < to]
    missing = [version for version in named if version not in present]
    others = beside if beside is not None else set(named) - set(missing)
    policy.serve(config, {*others, to}, present)
    manifest = model.read_manifest(to) if model.is_published(to) else None
    files: dict[str, bytes] = {}
    if manifest is not None:
        files |= renew_warmup(config, manifest, lambda: first_row(model.read_reference(to)), where=path)
    edited = pbtxt.edit(text, config, where=path)
    if manifest is not None:
        model.check_complete(to)
        check_config(edited, manifest, name=model.name, where=path)
    files |= _missing_files(model, config, source)
    notes = [f"version {version}, which it served too, is no longer there" for version in missing]
    return Restored(Config(edited, files), content if edited == text else None, tuple(notes))


def _missing_files(model: ModelDirectory, config: "ModelConfig", source: KeptConfig) -> Iterator[tuple[str, bytes]]:
    """Yield the warm-up files that a config names and that are gone, made again from the version's samples.

    Raises:
        RepositoryError: A file is gone that cannot be made again.
    """
    samples: Mapping[str, bytes] | None = None
    for file in _named_files(config):
        if (model.path / file).exists():
            continue
        if samples is None:
            samples = _samples(model, source.version)
        name = file.removeprefix(f"{transaction.WARMUP}/")
        if name not in samples or name == file:
            what = f"it names the file {file}, which is missing in {model.path}"
            fix = "put that file back, or go back with --keep-settings"
            raise RepositoryError(model.path / source.file, what, fix)
        yield name, samples[name]


def _named_files(config: "ModelConfig") -> Iterator[str]:
    """Yield the files that a config names, as paths in the model's directory."""
    for entry in config.model_warmup:
        for data in entry.inputs.values():
            if data.WhichOneof("input_data_type") == "input_data_file":
                yield f"{transaction.WARMUP}/{data.input_data_file}"
    for output in config.output:
        if output.label_filename:
            yield output.label_filename


def _samples(model: ModelDirectory, version: int) -> dict[str, bytes]:
    """Return the warm-up files of a version by their names, which are digests of their content."""
    if not model.is_published(version):
        return {}
    contents = [raw_bytes(row) for row in first_row(model.read_reference(version)).values()]
    return {f"{hashlib.sha256(content).hexdigest()}.raw": content for content in contents}


def merged_text(model: ModelDirectory, version: int, current: str) -> str | None:
    """Return the config that was prepared for a version, with what people have edited since.

    Args:
        model: The model.
        version: The version, which was published without being served.
        current: The config that is there.

    Returns:
        None if no config was prepared, or the version has served since.

    Raises:
        RepositoryError: People have edited what the prepared config changes.
    """
    prepared = kept.prepared(model, version)
    if prepared is None:
        return None
    path = model.path / prepared.file
    text = pbtxt.decode(kept.read(model, prepared))
    named = lineage.previous(text, where=path)
    base = None if named is None else KeptConfig.parse(named)
    fix = f"serve it with the settings of today: `switch {model.name} --to {version} --keep-settings`"
    if base is None:
        raise RepositoryError(path, "it does not say which config it was made from", fix)
    former = pbtxt.decode(kept.read(model, base))
    if former == current:
        return text
    try:
        return merge(former, text, current, where=path)
    except ConflictError as conflict:
        what = f"version {version} was published with another {conflict}, and config.pbtxt was changed there since"
        raise RepositoryError(model.config_path, what, fix) from conflict
