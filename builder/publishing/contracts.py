"""Find out what clients of a model rely on before another version is published under its name.

For a version that was published or adopted, the manifest says it. For one that others put there, its file does, which
anybody may have written: it is opened in the child process in which the new model is proven.
"""

from dataclasses import dataclass
from pathlib import Path

from builder.config import backends, completing, pbtxt
from builder.errors import ModelError, RepositoryError
from builder.naming import Contract
from builder.proof import interface, open_original
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


def find_contract(model: ModelDirectory) -> Contract | ForeignVersion | None:
    """Return what clients of the served version rely on, or where to read it; None when there is no such version.

    A damaged manifest counts as none. The interface in config.pbtxt is still checked when the version is installed.

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
        return None if manifest is None else Contract(manifest.inputs, manifest.outputs)
    file = model.version_dir(served) / kind.file
    file = file / backends.ONNX_FILE if file.is_dir() else file
    return ForeignVersion(file, text, model.config_path) if kind.is_onnx and file.is_file() else None


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
