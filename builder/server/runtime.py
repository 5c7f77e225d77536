"""Prepare the folder that a `tritonserver` runs in, with its backends and a link to the repository.

Triton starts each stub with `bash -c` and does not quote the paths. So it only gets relative paths inside this folder,
its working directory, and never a path that a user chose.
"""

import shutil
from pathlib import Path

from builder.server.installation import Installation

BACKENDS = "backends"
REPOSITORY = "repository"

_OUR_BACKENDS = Path(__file__).parent / BACKENDS


def lay_out(directory: Path, installation: Installation, repository: Path) -> None:
    """Fill `directory` with what `tritonserver` needs to serve `repository`.

    The backend's library is copied, because Triton refuses a link that leads out of the backend's folder.
    """
    python = directory / BACKENDS / "python"
    python.mkdir(parents=True)
    shutil.copy(installation.python_backend / "libtriton_python.so", python)
    utils = "triton_python_backend_utils.py"
    (python / utils).symlink_to(installation.python_backend / utils)
    (python / installation.stub.name).symlink_to(installation.stub)
    onnxruntime = directory / BACKENDS / "onnxruntime"
    onnxruntime.mkdir()
    (onnxruntime / "model.py").symlink_to(_OUR_BACKENDS / "onnxruntime" / "model.py")
    (directory / REPOSITORY).symlink_to(repository.resolve(), target_is_directory=True)
