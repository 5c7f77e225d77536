"""Find NVIDIA's compiler: TensorRT, or TensorRT for RTX, which also builds plans on machines without a GPU.

Both have the same Python interface, and Polygraphy drives either. They make different plans: Triton's backend loads
those of TensorRT only. So TensorRT for RTX is here to check that a model can be built.
"""

import ctypes
import importlib
import importlib.util
import sys
from dataclasses import dataclass
from typing import Any, Literal

from builder.errors import HostError
from builder.installing import install
from builder.proof import one_line

Name = Literal["TensorRT", "TensorRT for RTX"]

_MODULES: tuple[tuple[str, Name], ...] = (
    ("tensorrt", "TensorRT"),
    ("tensorrt_rtx", "TensorRT for RTX"),
    ("tensorrt_rtx_bindings", "TensorRT for RTX"),
)
"""The modules to look for, in order. PyPI has the last one, without the package `tensorrt_rtx` that names it."""

RTX_PACKAGES = ("tensorrt-rtx-cu13-libs", "tensorrt-rtx-cu13-bindings", "polygraphy")
"""The packages of the extra `rtx`."""


@dataclass(frozen=True, slots=True)
class Library:
    """A compiler that is installed here.

    Attributes:
        name: Its name, as NVIDIA writes it.
        version: Its version, such as `11.1.0.35`.
        module: Its Python module.
    """

    name: Name
    version: str
    module: Any

    @property
    def is_rtx(self) -> bool:
        """Whether it is TensorRT for RTX, whose plans Triton does not load."""
        return self.name == "TensorRT for RTX"

    def __str__(self) -> str:
        """Return its name and version."""
        return f"{self.name} {self.version}"


def find_library() -> Library | None:
    """Return the compiler that is installed, and let Polygraphy use the same; None if there is none.

    TensorRT builds nothing without a GPU, so where there is no driver, TensorRT for RTX comes before it.

    Raises:
        HostError: It is installed, but cannot be imported.
    """
    found = [(module, name) for module, name in _MODULES if is_installed(module)]
    if not found:
        return None
    if found[0][1] == "TensorRT" and len(found) > 1 and not has_driver():
        return _load(*found[1])
    return _load(*found[0])


def need_library() -> Library:
    """Return the compiler that is installed, where Polygraphy is there too.

    Raises:
        HostError: One of them is missing, or cannot be imported.
    """
    library = find_library()
    if library is None:
        what = "to build a plan, TensorRT or TensorRT for RTX has to be installed"
        raise HostError("this machine", what, f"{install(*RTX_PACKAGES)} (TensorRT for RTX, which needs no GPU)")
    if not is_installed("polygraphy"):
        raise HostError("this machine", f"to build a plan with {library}, Polygraphy is needed", install("polygraphy"))
    return library


def has_driver() -> bool:
    """Return whether there is a driver for an NVIDIA GPU."""
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


def is_installed(module: str) -> bool:
    """Return whether a module is there. A folder of that name that holds no package does not count."""
    try:
        found = importlib.util.find_spec(module)
    except ValueError:  # it stands in `sys.modules`, without a spec
        return True
    return found is not None and found.origin is not None


def _load(module: str, name: Name) -> Library:
    try:
        loaded = importlib.import_module(module)
        library = Library(name, str(loaded.__version__), loaded)
    except (ImportError, OSError, RuntimeError, AttributeError) as error:
        what = f"{name} is installed, but its module {module} cannot be imported: {one_line(error)}"
        raise HostError("this machine", what, "repair that installation, or uninstall it") from error
    _tell_polygraphy(library)
    return library


def _tell_polygraphy(library: Library) -> None:
    """Let Polygraphy use the library. It reads this setting once, when its loaders are imported.

    Source: polygraphy/mod/trt_importer.py of Polygraphy 0.53.6
    """
    if library.is_rtx:
        sys.modules.setdefault("tensorrt_rtx", library.module)  # the name that Polygraphy imports
    if is_installed("polygraphy"):
        from polygraphy import config

        config.USE_TENSORRT_RTX = library.is_rtx
