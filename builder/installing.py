"""The commands that install what is missing, as they work in this very Python."""

import importlib.util
import shlex
import shutil
import sys
from pathlib import Path

REQUIREMENTS = {
    "adlfs": ">=2024.7",
    "gcsfs": ">=2024.9",
    "nvidia-pytriton": ">=0.7",
    "onnxscript": ">=0.5",
    "polygraphy": ">=0.53",
    "s3fs": ">=2024.9",
    "tensorrt-rtx-cu13-bindings": ">=1.7",
    "tensorrt-rtx-cu13-libs": ">=1.7",
    "torch": ">=2.7",
    "transformers": ">=5",
}
"""What the fix of an error may install, with the versions that pyproject.toml asks for."""

_CONSTRAINTS = Path(__file__).parents[1] / "constraints.txt"
"""The versions that the tests pass with. Only a clone has them."""


def install(*packages: str) -> str:
    """Return how to install some packages of `REQUIREMENTS`, as the fix of an error."""
    fix = "run " + pip_install(*(package + REQUIREMENTS[package] for package in packages))
    if "torch" in packages:
        fix += " (docs/pytorch.md says how to get PyTorch's smaller build for CPUs)"
    return fix


def pip_install(*arguments: str) -> str:
    """Return the command that installs requirements into the environment of this process.

    The project's own package is on no index, so `package[extra]` would find nothing. A clone has pinned versions, and
    they are used.
    """
    python = _python()
    pip = [python, "-m", "pip", "install"]
    if importlib.util.find_spec("pip") is None:  # as in the environments that uv makes
        pip = ["uv", "pip", "install", "--python", python]
    pinned = ["-c", _shown(_CONSTRAINTS)] if _CONSTRAINTS.is_file() else []
    return shlex.join([*pip, *pinned, *arguments])


def _python() -> str:
    """Return what starts this interpreter from the working directory."""
    for name in ("python", "python3"):
        if shutil.which(name) == sys.executable:
            return name
    return _shown(Path(sys.executable))


def _shown(path: Path) -> str:
    """Return a path as a command in the working directory may name it."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (OSError, ValueError):  # elsewhere, or the working directory was removed
        return str(path)
