"""Find out what clients of a model rely on before another version is published under its name.

For a version that was published or adopted, the manifest says it. For one that others put there, its file does, which
anybody may have written: it is opened in the child process in which the new model is proven.
"""

from dataclasses import dataclass, replace
from pathlib import Path

from builder.config import backends, completing, pbtxt
from builder.errors import ModelError, RepositoryError
from builder.naming import Contract
from builder.proof import interface, open_original
from builder.record import Manifest
from builder.repository import ModelDirectory

_OURS = (backends.ONNX, "tensorrt", "")
"""The backends of models that can be published here; nothing may tell yet which one it is."""


@dataclass(frozen=True, slots=True)
class ForeignVersion:
    """A version that was neither published nor adopted.

    Attributes:
        path: Its .onnx file.
        config: The text of the model's config; None when Triton makes one up.
        config_path: Where the config is.
    """

    path: Path
    config: str | None
    config_path: Path


def find_contract(model: ModelDirectory, *, is_static: bool) -> Contract | ForeignVersion | None:
    """Return what clients of the served version rely on, or where to read it; None when there is no such version.

    A damaged manifest counts as none. The interface in config.pbtxt is still checked when the version is installed.

    Args:
        model: The model.
        is_static: Whether the new version is served without a batch.

    Raises:
        RepositoryError: The model is of another kind than those that are published here, or its config serves no
            version.
    """
    text = model.find_config()
    if text is None and not model.versions():
        return None
    kind = model.kind()
    if kind.backend not in _OURS:
        fix = "publish under another name with --name; this model stays as it is"
        raise RepositoryError(model.path, f"it is {kind}", fix)
    served = model.served_versions()[-1] if text is None else model.served_version()
    if model.is_published(served):
        manifest = model.find_manifest(served)
        return None if manifest is None else _contract(manifest, is_static=is_static)
    file = model.version_dir(served) / kind.file
    file = file / backends.ONNX_FILE if file.is_dir() else file
    return ForeignVersion(file, text, model.config_path) if kind.is_onnx and file.is_file() else None


def _contract(manifest: Manifest, *, is_static: bool) -> Contract:
    """Return the interface of a manifest. A first dimension of 1 of an adopted version can become the batch."""
    inputs, outputs = manifest.inputs, manifest.outputs
    gets_batch = manifest.adopted and manifest.max_batch_size == 0 and not is_static
    if gets_batch and all(tensor.dims[:1] == (1,) for tensor in (*inputs, *outputs)):
        inputs, outputs = (tuple(replace(t, dims=t.dims[1:]) for t in side) for side in (inputs, outputs))
    return Contract(inputs, outputs)


def read_contract(version: ForeignVersion, *, is_static: bool) -> Contract | None:
    """Read what clients of a version rely on; None when ONNX Runtime cannot open it, so that nobody uses it.

    Args:
        version: The version.
        is_static: Whether the new version is served without a batch. If not, and the old one is, then a request of
            one sample stays as it is: what was `[1, 3]` in the file is one row of `[3]`.
    """
    try:
        session = open_original(version.path)
    except ModelError:
        return None
    config = pbtxt.parse(version.config or "", where=version.config_path)
    has_batch = completing.largest_batch(config, session.shapes.values()) > 0
    tensors = interface.tensors_of(session, has_batch=has_batch or not is_static)
    return None if tensors is None else Contract(*tensors)
