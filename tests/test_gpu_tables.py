"""What `benchmarks/gpu` will do on a machine with a GPU goes here as far as it goes without one."""

import importlib
import json
import os
import re
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
GPU = ROOT / "benchmarks" / "gpu"
MODEL = "encoder_layer_ts17"
MARKED = re.compile(r"^@pytest\.mark\.gpu$", re.MULTILINE)


@pytest.fixture
def kit(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Import a module of `benchmarks/gpu`."""
    monkeypatch.syspath_prepend(str(GPU))
    return importlib.import_module


def table(kit: Any, folder: Path, *arguments: str) -> tuple[int, dict[str, Any]]:
    """Print a table; return its exit code, and its rows by what was tried."""
    code = kit("gpu_table").main([*arguments, "--out", str(folder / "out")])
    rows = json.loads((folder / "out" / f"{arguments[0]}.json").read_text())
    return code, {row["what"]: row for row in rows}


@pytest.mark.slow
def test_published_files_are_verified_and_timed(kit: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("onnx", "--cpu", "--models", MODEL, "--precisions", "fp32", "fp16", "bf16")
    code, rows = table(kit, tmp_path, *asked)
    assert code == 0
    assert [row["result"] for row in rows.values()] == [
        "verified",
        "verified",
        "published; ONNX Runtime has no bf16 on a CPU",
    ]
    figures = rows[f"{MODEL} fp16"]["details"]
    assert figures["where"] == "CPU"
    assert 1e-5 < float(figures["error here"]) < 1e-2
    assert f"| {MODEL} fp16 | verified | CPU |" in capsys.readouterr().out


@pytest.mark.rtx
@pytest.mark.slow
def test_plans_are_built_without_a_gpu(kit: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    asked = ("plans", "--build-only", "--models", "upscaler_ts12", "--precisions", "bf16", "int8")
    code, rows = table(kit, tmp_path, *asked)
    assert code == 0
    assert rows["compiler"]["result"].startswith("TensorRT")
    assert rows["upscaler_ts12 int8"]["result"] == "built"
    assert "Int8" in rows["upscaler_ts12 int8"]["details"]["layers"]
    assert rows["upscaler_ts12 bf16"]["result"] == "built"
    assert "BFloat16" in rows["upscaler_ts12 bf16"]["details"]["layers"]
    assert capsys.readouterr().out.startswith("| what | result |")


@pytest.mark.slow
def test_a_real_triton_answers(kit: Any, tmp_path: Path) -> None:
    code, rows = table(kit, tmp_path, "triton", "--cpu")
    assert code == 0
    assert [row["result"] for row in rows.values()] == ["answers right"]


def test_what_the_machine_has_is_shown(kit: Any, tmp_path: Path) -> None:
    code, rows = table(kit, tmp_path, "probe")
    assert code == 0
    assert rows["onnx"]["result"][0].isdigit()


@pytest.mark.parametrize("part", ["onnx", pytest.param("plans", marks=pytest.mark.rtx)])
def test_a_missing_gpu_fails_the_table(part: str, kit: Any, tmp_path: Path) -> None:
    from support.on_gpu import missing_gpu

    if not missing_gpu():
        pytest.skip("this machine has a GPU")
    code, rows = table(kit, tmp_path, part)
    assert code == 1
    assert missing_gpu() in [row["result"] for row in rows.values()]


def test_an_error_fails_the_table_and_a_refusal_does_not(kit: Any) -> None:
    errors = importlib.import_module("builder.errors")
    failed = kit("gpu_table").failed
    refused = failed("model", errors.ModelError("here", "nothing can be in bf16", "leave it out"))
    assert (refused.is_fine, refused.result) == (True, "refused: nothing can be in bf16")
    with pytest.raises(errors.ModelError) as without:
        importlib.import_module("builder.tensorrt.checking").check_precision(Path("m.onnx"), "fp16", {"Float": 3})
    told = errors.VerificationError("here", "a row differs", "report it")
    for error in (told, RuntimeError("CUDA error"), without.value):
        assert not failed("model", error).is_fine
    assert "| **NOT FINE** RuntimeError: CUDA error |" in kit("gpu_table").table_of(
        [failed("m", RuntimeError("CUDA error"))]
    )


# ---------------------------------------------------------------- to a machine without a network


def wheel(folder: Path, name: str, size: int) -> Path:
    """Write a wheel whose module is not compressible."""
    path = folder / f"{name}-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr(f"{name}.py", f"SIZE = {size}\nprint('{name} runs')\n")
        archive.writestr(f"{name}.bin", os.urandom(size))
        archive.writestr(f"{name}-1.0.dist-info/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        archive.writestr(
            f"{name}-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr(f"{name}-1.0.dist-info/RECORD", "")
    return path


def machine(kit_folder: Path, *arguments: str | Path) -> "subprocess.CompletedProcess[str]":
    """Call `gpu_machine.py` as the other machine would."""
    command = [sys.executable, str(GPU / "gpu_machine.py"), *map(str, arguments)]
    environment = {**os.environ, "GPU_KIT": str(kit_folder)}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_wheels_arrive_in_pieces_and_are_installed(kit: Any, tmp_path: Path) -> None:
    wheels = [wheel(tmp_path, "small_one", 1000), wheel(tmp_path, "large_one", 25_000)]
    folders = kit("gpu_wheels").lay("rtx", wheels, tmp_path / "laid", 10_000)
    assert [folder.name for folder in folders] == ["rtx1", "rtx2", "rtx3"]
    assert all(sum(file.stat().st_size for file in folder.iterdir()) <= 10_200 for folder in folders)
    for folder in folders:
        assert machine(tmp_path / "there", "take", folder).returncode == 0
    ran = machine(tmp_path / "there", "run", "rtx", "--", "-c", "import small_one, large_one; raise SystemExit(3)")
    assert ran.returncode == 3
    assert ran.stdout.endswith("small_one runs\nlarge_one runs\n")
    again = machine(tmp_path / "there", "run", "rtx", "--", "-c", "import small_one")
    assert again.stdout == "small_one runs\n"


def test_a_piece_that_is_missing_is_noticed(kit: Any, tmp_path: Path) -> None:
    folders = kit("gpu_wheels").lay("rtx", [wheel(tmp_path, "large_one", 25_000)], tmp_path / "laid", 10_000)
    taken = machine(tmp_path / "there", "take", folders[0], folders[2])
    assert taken.returncode == 1
    assert "large_one-1.0-py3-none-any.whl is damaged, or was not sent whole: 2 pieces" in taken.stderr


def test_the_calls_name_what_there_is(kit: Any) -> None:
    """Each part of the table, each folder once, tests that are there, and no command that is too long to be sent."""
    wheels = kit("gpu_wheels")
    laid = {name: [Path(f".gpu-kit/{name}{number}") for number in (1, 2)] for name in wheels.SETS}
    lines = list(wheels.calls(laid))
    sent = [folder for line in lines for folder in line.split(" | ")[0].split()]
    assert sorted(sent) == sorted(str(folder) for folders in laid.values() for folder in folders)
    text = "\n".join(lines)
    assert set(re.findall(r"gpu_table\.py (\w+)", text)) == {"probe", "plans", "onnx", "triton"}
    for path in set(re.findall(r"(?:benchmarks|tests)/\S+\.py", text)):
        assert (ROOT / path).exists()
    marked = {
        str(path.relative_to(ROOT)) for path in ROOT.glob("tests/**/test_*.py") if MARKED.search(path.read_text())
    }
    assert set(re.findall(r"tests/\S+\.py", text)) == marked
    assert max(map(len, lines)) < 1500
    for packages in wheels.SETS.values():
        for package in packages:
            assert wheels.pinned(package, "3.12")[0].isdigit()
