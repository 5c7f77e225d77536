"""Folders that transformers has saved: their config, weights and labels, read as data, and downloaded when asked.

Nothing here imports PyTorch or transformers, and nothing in a folder is run: a config is read as JSON, weights are
looked for by name, and a repository is downloaded only with `--download`.
"""

import json
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from builder import bounded, files
from builder.errors import BuilderError, HostError, ModelError
from builder.exporting.sources import HUGGING_FACE_PREFIX, Source
from builder.installing import install

CONFIG, WEIGHTS, INDEX = "config.json", "model.safetensors", "model.safetensors.index.json"
_PICKLES = ("pytorch_model.bin", "pytorch_model.bin.index.json", "tf_model.h5", "flax_model.msgpack", "model.ckpt")

_MAX_CONFIG_BYTES = 10_000_000
_MAX_INDEX_BYTES = 100_000_000

_REPOSITORY = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")
"""How repositories on the Hub are named."""

_WANTED = ["config.json", "preprocessor_config.json", "tokenizer_config.json", WEIGHTS, INDEX, "model-*.safetensors"]
"""The files that are downloaded: no pickles and no code."""


@dataclass(frozen=True, slots=True)
class Folder:
    """A folder in transformers' format.

    Attributes:
        source: What the user named it, for messages.
        path: The folder.
        origin: What the exported file says about its origin: no path of this machine.
        config: What `config.json` holds.
        preprocessor: What `preprocessor_config.json` holds; empty without one.
        tokenizer: What `tokenizer_config.json` holds; empty without one.
    """

    source: str
    path: Path
    origin: str
    config: Mapping[str, Any]
    preprocessor: Mapping[str, Any]
    tokenizer: Mapping[str, Any]

    @property
    def architectures(self) -> tuple[str, ...]:
        """The classes that the weights were saved from, as the config names them."""
        named = self.config.get("architectures")
        return tuple(str(each) for each in named) if isinstance(named, list) else ()

    @property
    def labels(self) -> tuple[str, ...]:
        """The names of the classes, in order; empty if the config has none, or only the default `LABEL_0` and so on."""
        named = self.config.get("id2label")
        if not isinstance(named, Mapping):
            return ()
        found = [named.get(str(number)) for number in range(len(named))]
        labels = tuple(str(label).strip() for label in found if isinstance(label, str))
        is_usable = len(labels) == len(named) and all(label.isprintable() and label for label in labels)
        return labels if is_usable and labels != tuple(f"LABEL_{n}" for n in range(len(labels))) else ()


def open_folder(source: str, *, revision: str | None, is_download: bool) -> Folder:
    """Find the folder that `hf:…` names, and read its configs.

    Args:
        source: `hf:FOLDER`, or `hf:OWNER/NAME` for a repository on the Hub.
        revision: The branch, tag or commit to download.
        is_download: Whether a repository may be downloaded.

    Raises:
        ModelError: There is no such folder, or it is not one that transformers has saved with safetensors.
        HostError: The download fails, or its package is missing.
    """
    name = source.removeprefix(HUGGING_FACE_PREFIX)
    path, origin = Path(name), Source.of(source).shown
    if path.exists():
        if is_download or revision is not None:
            what = f"{name} is a folder on this machine, so there is nothing to download"
            raise ModelError(source, what, "leave out --download and --revision")
    else:
        path = _fetched(source, name, revision, is_download)
        origin = f"{HUGGING_FACE_PREFIX}{name}@{path.name}"
    config = _read_config(source, path)
    _check_weights(source, path)
    others = (_read_json(source, path / f"{kind}_config.json") for kind in ("preprocessor", "tokenizer"))
    preprocessor, tokenizer = (each or {} for each in others)
    return Folder(source, path, origin, config, preprocessor, tokenizer)


# ---------------------------------------------------------------- the config


def _read_config(source: str, path: Path) -> Mapping[str, Any]:
    if not path.is_dir():
        fix = "name the folder that save_pretrained has written: the one with config.json"
        raise ModelError(source, f"{path} is a file, and hf: needs a folder", fix)
    config = _read_json(source, path / CONFIG)
    if (path / "adapter_config.json").exists():  # transformers would load another model for it
        fix = "merge the adapter into its base model (PeftModel.merge_and_unload), and save that with save_pretrained"
        raise ModelError(source, "it is an adapter (LoRA), which changes the weights of another model", fix)
    if config is None:
        fix = "name the folder that save_pretrained has written: the one with config.json"
        if (path / "model_index.json").exists():
            fix = "name the folder of one of its models through a factory, such as nets:unet with UNet2DConditionModel"
            raise ModelError(source, "it is a pipeline of diffusers, which consists of several models", fix)
        raise ModelError(source, f"there is no {CONFIG} in {path}", fix)
    if not isinstance(config.get("model_type"), str):
        fix = "load the model in a factory of your own, and publish that: nets:make"
        raise ModelError(source, f"{CONFIG} does not say which model it is: it has no model_type", fix)
    if config.get("quantization_config"):
        fix = "publish the model that was quantized; --precision fp16 makes it smaller"
        raise ModelError(source, "its weights are quantized in a format of their own, which has no ONNX form", fix)
    if "transformers_weights" in config:
        what = f"{CONFIG} names another file of weights, which may be a pickle: transformers_weights"
        raise ModelError(source, what, f"put the weights into {WEIGHTS}, and remove that line")
    return config


def _read_json(source: str, file: Path) -> Mapping[str, Any] | None:
    """Return an object of JSON, or None if there is no such file.

    Raises:
        ModelError: It cannot be read, or is something else.
    """
    fix = "save the model again with save_pretrained"
    try:
        content = files.read(file, limit=_MAX_CONFIG_BYTES if file.name != INDEX else _MAX_INDEX_BYTES)
        found = json.loads(content)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise ModelError(source, f"{file.name} cannot be read: {files.reason(error)}", fix) from error
    except (ValueError, RecursionError) as error:
        raise ModelError(source, f"{file.name} is not JSON: {error}", fix) from error
    if not isinstance(found, dict):
        raise ModelError(source, f"{file.name} holds a {type(found).__name__} instead of an object", fix)
    return found


# ---------------------------------------------------------------- the weights


def _check_weights(source: str, path: Path) -> None:
    """Check that every file of weights is a regular one beside the config; pickles are not read.

    Raises:
        ModelError: One is missing, or there are none.
    """
    index = _read_json(source, path / INDEX)
    if index is None and not (path / WEIGHTS).exists():
        raise _without_weights(source, path)
    size = 0
    for shard in [WEIGHTS] if index is None or (path / WEIGHTS).exists() else sorted(set(_shards(source, index))):
        try:
            size += files.size(path / shard)
        except OSError as error:
            why = "is missing" if isinstance(error, FileNotFoundError) else f"cannot be read: {files.reason(error)}"
            fix = "get the folder again, complete; with git, run git lfs pull in it"
            raise ModelError(source, f"the weights are not complete: {shard} {why}", fix) from error
        _check_safetensors(source, path / shard)
    bounded.expect(size)


def _check_safetensors(source: str, file: Path) -> None:
    """Refuse a pointer of Git LFS, which stands where the weights were not downloaded."""
    with files.open_file(file) as stream:
        start = stream.read(40)
    if start.startswith(b"version https://git-lfs"):
        what = f"{file.name} is a pointer of Git LFS: the weights themselves were not downloaded"
        raise ModelError(source, what, "run git lfs pull in the folder")


def _shards(source: str, index: Mapping[str, Any]) -> Iterator[str]:
    named = index.get("weight_map")
    for shard in named.values() if isinstance(named, dict) else [None]:
        if not isinstance(shard, str) or not re.fullmatch(r"[\w.-]+\.safetensors", shard):
            what = f"{INDEX} names {shard!r}, which is not a file of weights in this folder"
            raise ModelError(source, what, "save the model again with save_pretrained")
        yield shard


def _without_weights(source: str, path: Path) -> ModelError:
    pickles = [name for name in _PICKLES if (path / name).exists()]
    if not pickles:
        return ModelError(source, f"there are no weights in {path}: no {WEIGHTS}", "get the folder again, complete")
    what = f"its weights are in {pickles[0]}, and only safetensors are read: other formats can hold code"
    if pickles[0].startswith("pytorch_model"):
        fix = (
            "if you trust the folder, load it with from_pretrained and write it with save_pretrained, "
            "which saves safetensors"
        )
    else:
        fix = "convert the weights to PyTorch's format with transformers 4, and save them with save_pretrained"
    return ModelError(source, what, fix)


# ---------------------------------------------------------------- the Hub


def _fetched(source: str, name: str, revision: str | None, is_download: bool) -> Path:
    """Return the folder of a repository's files in the cache of huggingface_hub; the folder is named after the commit.

    Raises:
        ModelError: There is no such folder, and it may not be downloaded.
        HostError: The download fails.
    """
    if not _REPOSITORY.fullmatch(name):
        fix = "name a folder with config.json, or a repository on the Hub: hf:OWNER/NAME with --download"
        raise ModelError(source, f"there is no folder {name}", fix)
    if not is_download:
        fix = "name a folder with config.json, or add --download to get this repository from the Hugging Face Hub"
        raise ModelError(source, f"there is no folder {name}, and nothing is downloaded without --download", fix)
    if find_spec("huggingface_hub") is None:
        raise HostError(source, "huggingface_hub is not installed", install("transformers"))
    return _download(source, name, revision)


def _download(source: str, name: str, revision: str | None) -> Path:
    import huggingface_hub
    from huggingface_hub import errors

    try:
        with bounded.untimed():
            found = huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=_WANTED)
    except errors.GatedRepoError as error:
        fix = "accept its conditions on the Hub, and log in: hf auth login"
        raise HostError(source, "this repository is open only to those whom its owner lets in", fix) from error
    except errors.RevisionNotFoundError as error:
        fix = "give a branch, a tag or a commit of this repository with --revision"
        raise HostError(source, f"{name} has no revision {revision}", fix) from error
    except errors.RepositoryNotFoundError as error:
        fix = "correct the name; if the repository is private, log in: hf auth login"
        raise HostError(source, f"the Hub has no repository {name}", fix) from error
    except (OSError, ValueError, errors.HfHubHTTPError, *_client_errors()) as error:
        raise _failed(source, error) from error
    return Path(found)


def _client_errors() -> tuple[type[BaseException], ...]:
    """Return the errors of the HTTP client that huggingface_hub uses, which differs by release."""
    names = {"httpx": "HTTPError", "httpx2": "HTTPError", "requests": "RequestException"}
    return tuple(getattr(sys.modules[module], name) for module, name in names.items() if module in sys.modules)


def _failed(source: str, error: Exception) -> BuilderError:
    why = " ".join(str(error).split())[:300] or type(error).__name__
    fix = "check the network and HF_ENDPOINT, or copy the folder here and name it: hf:FOLDER"
    return HostError(source, f"the download fails: {why}", fix)
