"""A branch that no sample takes is found, unless the user's own samples say what inputs there are."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from builder.errors import VerificationError
from builder.exporting import ExportOptions, InputSpec, export

with_torch = pytest.mark.torch
X, IDS = "x=float32[1,4]", "x=int64[1,4]"


@pytest.fixture(autouse=True)
def working_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "support")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def exported(name: str, *specs: str, **others: Any) -> Path:
    asked = ExportOptions(tuple(map(InputSpec.parse, specs)), exporter="TorchScript", **others)
    return export(f"torch_branches:{name}", Path("m.onnx"), options=asked).path


@with_torch
@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "specs"),
    [
        ("Bytes", [X]),
        ("Saturates", [X]),
        ("Percentile", [X]),
        ("Empty", [X]),
        ("Cleans", [X]),
        ("FirstHidden", [X, "mask=int64[1,4]"]),
        ("FirstHidden", [X, "mask=float32[1,4]"]),
        ("AllPadding", [IDS]),
    ],
)
def test_a_branch_that_no_sample_takes_is_found(name: str, specs: list[str]) -> None:
    with pytest.raises(VerificationError, match=r"torch_branches\.py:\d+") as caught:
        exported(name, *specs)
    assert "frozen at" in caught.value.what
    assert not Path("m.onnx").exists()


@with_torch
@pytest.mark.parametrize("name", ["Asserts", "SameEitherWay"])
def test_a_branch_that_changes_no_answer_is_none(name: str) -> None:
    assert exported(name, X).exists()
    assert not list(Path().glob("*.npz"))


@with_torch
def test_own_samples_say_what_inputs_there_are() -> None:
    np.savez("own.npz", x=np.random.default_rng(0).random((8, 4), np.float32))
    assert exported("Bytes", X, samples=Path("own.npz")).exists()
