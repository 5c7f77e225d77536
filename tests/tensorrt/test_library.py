"""Which compiler is found."""

import sys
from pathlib import Path
from types import ModuleType

import pytest

from builder.errors import HostError
from builder.tensorrt import find_library, library, need_library


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of modules, with nothing of NVIDIA's beside them."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(library, "_MODULES", (("tensorrt_of_tests", "TensorRT"), ("rtx_of_tests", "TensorRT for RTX")))
    for name in ("tensorrt_of_tests", "rtx_of_tests"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    monkeypatch.setattr(library, "_tell_polygraphy", lambda _: None)
    monkeypatch.setattr(library, "has_driver", lambda: True)
    return tmp_path


def test_tensorrt_comes_before_tensorrt_for_rtx(modules: Path) -> None:
    assert find_library() is None
    (modules / "rtx_of_tests.py").write_text("__version__ = '1.7'")
    found = find_library()
    assert found is not None
    assert (str(found), found.is_rtx) == ("TensorRT for RTX 1.7", True)
    (modules / "tensorrt_of_tests.py").write_text("__version__ = '11.1'")
    found = find_library()
    assert found is not None
    assert (str(found), found.is_rtx) == ("TensorRT 11.1", False)


def test_without_a_driver_the_one_that_needs_no_gpu_comes_first(modules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "has_driver", lambda: False)
    (modules / "tensorrt_of_tests.py").write_text("__version__ = '11.1'")
    assert str(find_library()) == "TensorRT 11.1"
    (modules / "rtx_of_tests.py").write_text("__version__ = '1.7'")
    assert str(find_library()) == "TensorRT for RTX 1.7"


def test_a_folder_of_that_name_is_no_library(modules: Path) -> None:
    """As `tests/tensorrt` is, when `tests` is on the path."""
    (modules / "tensorrt_of_tests").mkdir()
    assert find_library() is None


def test_a_library_that_cannot_be_imported_is_not_passed_over(modules: Path) -> None:
    (modules / "tensorrt_of_tests.py").write_text("raise ImportError('libnvinfer.so.11: cannot open shared object')")
    (modules / "rtx_of_tests.py").write_text("__version__ = '1.7'")
    with pytest.raises(HostError, match=r"TensorRT is installed, but .*cannot be imported: .*libnvinfer\.so\.11"):
        find_library()


def test_without_a_library_the_command_that_installs_one_is_named(modules: Path) -> None:
    with pytest.raises(HostError, match=r"pip install .*tensorrt-rtx-cu13-libs.*which needs no GPU") as caught:
        need_library()
    assert caught.value.exit_code == 6


@pytest.mark.rtx
def test_polygraphy_uses_the_library_that_is_found() -> None:
    found = need_library()
    from polygraphy.backend.trt import util

    assert util.trt.__version__ == found.version
    assert isinstance(found.module, ModuleType)
