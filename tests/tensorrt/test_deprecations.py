"""Warnings are errors in these tests, and Polygraphy uses what several releases of TensorRT warn of."""

import warnings
from pathlib import Path
from typing import Any

import pytest
from support.plans import small

from builder.config import make_profiles
from builder.proof import verify
from builder.tensorrt import BuildOptions, build, need_library
from builder.tensorrt.deprecations import KNOWN, quiet


@pytest.mark.parametrize("text", KNOWN)
def test_the_known_warnings_are_hidden(text: str) -> None:
    with pytest.raises(DeprecationWarning):
        warnings.warn(text, DeprecationWarning, stacklevel=2)
    with quiet():
        warnings.warn(text, DeprecationWarning, stacklevel=2)


@pytest.mark.parametrize("text", ["Use Deprecated in TensorRT 12.0. instead.", "distutils is deprecated"])
def test_others_are_not(text: str) -> None:
    with quiet(), pytest.raises(DeprecationWarning):
        warnings.warn(text, DeprecationWarning, stacklevel=2)


@pytest.mark.rtx
def test_a_plan_is_built_where_warnings_are_errors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a timing cache, and with what TensorRT 10 warns of in every build in place of what this one has."""
    tensorrt = need_library().module
    asked = []

    def warning(value: object, text: str) -> Any:
        def get(_: object) -> object:
            asked.append(text)
            warnings.warn(text, DeprecationWarning, stacklevel=1)
            return value

        return property(get)

    monkeypatch.setattr(tensorrt.IBuilderConfig, "int8_calibrator", warning(None, KNOWN[0]), raising=False)
    monkeypatch.setattr(tensorrt.ILayer, "precision_is_set", warning(False, KNOWN[1]), raising=False)
    verified = verify(small(tmp_path), max_batch_size=4, effort="off")
    profiles = make_profiles(verified.batched, (), max_batch_size=4)
    options = BuildOptions(timing_cache=tmp_path / "timing.cache")
    assert build(verified, profiles, options, lambda _: None).plan
    assert set(asked) == set(KNOWN[:2])
