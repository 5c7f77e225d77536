"""Models that do not load are named, and the others are served; a start may take as long as it goes on."""

import os
import shutil
import signal
import time
from pathlib import Path

import pytest
from support.served import AGAIN, Served, served
from support.serving import DOUBLE, DOUBLE_CONFIG, parse, write_model

from builder.errors import HostError
from builder.server import Server
from builder.server.index import IndexEntry
from builder.server.loading import PATIENCE_S, Progress, Unserved, find_unserved
from builder.server.log import Loads

ENSEMBLE = """
platform: "ensemble" max_batch_size: 8
input { name: "X" data_type: TYPE_FP32 dims: 2 }
output { name: "Y" data_type: TYPE_FP32 dims: 2 }
ensemble_scheduling { step {
  model_name: "types" model_version: -1 input_map { key: "X" value: "X" } output_map { key: "Y" value: "Y" }
} }
"""

REASONS = {
    "types": "model 'types' version 1: unable to load model 'types', configuration expects datatype TYPE_FP64",
    "syntax": "model 'syntax': Error parsing text-format",
    "versionless": "model 'versionless': at least one version must be available",
    "bare": "model 'bare': failed to open text file for read bare/config.pbtxt",
    "chain": "model 'chain': ensemble 'chain' depends on 'types' which has no loaded version",
    "raises": "model 'raises' version 1: RuntimeError: no weights",
    "ends": "model 'ends' version 1: Stub process 'ends_0_0' is not healthy",
    "other": "model 'other' version 1: unable to find backend library for backend 'tensorflow'",
}
"""How the line about each bad model of `repository` begins."""


WARMUP = """
model_warmup { name: "w" batch_size: 1 inputs { key: "X" value { data_type: TYPE_FP32 dims: 2 zero_data: true } } }
"""


def write_python_model(root: Path, name: str, statement: str, *, method: str = "initialize", more: str = "") -> None:
    config = write_model(root, name, DOUBLE_CONFIG + more, None).parent / "config.pbtxt"
    config.write_text(config.read_text().replace("onnxruntime", "python"))
    code = f"import os\n\nclass TritonPythonModel:\n    def {method}(self, given):\n        {statement}\n"
    (config.parent / "1" / "model.py").write_text(code)


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with two good models, and one for each way not to load."""
    root = tmp_path / "models"
    for name in ("double", "again"):
        write_model(root, name, DOUBLE_CONFIG, parse(DOUBLE))
    write_model(root, "types", DOUBLE_CONFIG.replace("TYPE_FP32", "TYPE_FP64"), parse(DOUBLE))
    write_model(root, "syntax", DOUBLE_CONFIG + "max_bath_size: 8", parse(DOUBLE))
    shutil.rmtree(write_model(root, "versionless", DOUBLE_CONFIG, None))
    (root / "bare").mkdir()
    (root / "chain/1").mkdir(parents=True)
    (root / "chain/config.pbtxt").write_text(ENSEMBLE)
    write_python_model(root, "raises", "raise RuntimeError('no weights')")
    write_python_model(root, "ends", "os._exit(3)")
    (root / "other/1").mkdir(parents=True)
    (root / "other/config.pbtxt").write_text('platform: "tensorflow_savedmodel"' + DOUBLE_CONFIG)
    return root


def check_named(printed: str) -> None:
    """Check that every bad model is named once since the last start, and no good one."""
    lines = [line.removeprefix("failed   ") for line in printed.splitlines() if line.startswith("failed   model")]
    assert {name: [line for line in lines if line.startswith(start)] and name for name, start in REASONS.items()} == {
        name: name for name in REASONS
    }
    assert len(lines) == len(REASONS)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["explicit", "poll"])
def test_models_that_do_not_load_are_named_and_the_others_are_served(
    repository: Path, tmp_path: Path, mode: str
) -> None:
    with served(repository, tmp_path, "--model-control-mode", mode) as running:
        check_named(running.printed)
        assert "failed   8 models did not load" in running.printed
        assert running.double(1, 2) == [2, 4]
        assert running.double(3, 4, model="again") == [6, 8]
        running.ask("/v2/health/ready")  # raises an error for any status but 200
        if mode == "explicit":
            os.kill(running.triton(), signal.SIGKILL)
            running.wait_for(AGAIN)
            check_named(running.printed.split("Triton starts again")[1])
            assert running.double(1, 2) == [2, 4]
        running.triton()
        running.process.send_signal(signal.SIGINT)
        running.ends_with(0)


@pytest.mark.slow
def test_a_model_that_ends_triton_as_it_loads_is_left_out(tmp_path: Path) -> None:
    """A warm-up whose stub dies ends Triton 2.51, but not always; two of them, among others that load meanwhile."""
    root = tmp_path / "models"
    for name in ("double", "more", "ready"):
        write_model(root, name, DOUBLE_CONFIG, parse(DOUBLE))
    for name in ("bad", "worse"):
        write_python_model(root, name, "os._exit(3)", method="execute", more=WARMUP)
    with served(root, tmp_path) as running:
        for name in ("bad", "worse"):
            assert f"failed   model '{name}'" in running.printed
        for name in ("double", "more", "ready"):
            assert running.double(1, 2, model=name) == [2, 4]
            assert f"failed   model '{name}'" not in running.printed
        running.process.send_signal(signal.SIGINT)
        running.ends_with(0)


@pytest.mark.slow
def test_an_onnx_model_without_a_config_is_completed_and_named(tmp_path: Path) -> None:
    root = tmp_path / "models"
    for name in ("double", "full"):
        write_model(root, name, DOUBLE_CONFIG, parse(DOUBLE))
    with served(root, tmp_path) as running:
        assert not running.printed.startswith("config   ")
        assert b"--disable-auto-complete-config" in Path(f"/proc/{running.triton()}/cmdline").read_bytes()
    (root / "double/config.pbtxt").unlink()
    (tmp_path / "again").mkdir()
    with served(root, tmp_path / "again") as running:
        assert running.printed.startswith("config   double: no complete config.pbtxt")
        assert running.double(1, 2) == running.double(1, 2, model="full") == [2, 4]


@pytest.mark.slow
def test_a_strict_server_ends_and_names_all_of_them(repository: Path, tmp_path: Path) -> None:
    running = Served(repository, tmp_path / "temporary", ["-m", "builder"], ["--strict"])
    running.ends_with(6)
    listed = running.printed.partition("error: ")[2]
    assert "8 of 10 models did not load:" in listed
    for start in REASONS.values():
        assert f"\n    {start}" in listed
    assert "or serve the others without --strict" in listed


@pytest.mark.slow
def test_a_repository_of_which_nothing_loads_is_an_error(tmp_path: Path) -> None:
    root = tmp_path / "models"
    for name in ("a", "b"):
        write_model(root, name, DOUBLE_CONFIG, None)
    for strict in (False, True):
        with pytest.raises(HostError) as caught:
            Server.start(root, http_port=0, grpc_port=0, metrics_port=0, strict=strict)
        assert "model 'a' version 1: unable to find 'a/1/model.onnx'" in caught.value.what
        assert "model 'b' version 1: " in caught.value.what


# ---- without a Triton


def loads(*lines: str) -> Loads:
    found = Loads()
    for line in lines:
        found.read(line)
    return found


def info(text: str) -> str:
    return f'I1127 15:04:55.994741 15176 model_lifecycle.cc:472] "{text}"\n'


def error(text: str) -> str:
    return f'2026-11-27T15:06:40Z E 16743 model_lifecycle.cc:642] "{text}"\n'


def test_a_version_that_does_not_load_is_named_beside_one_that_does() -> None:
    found = loads(error("failed to load 'a' version 2: Internal: no memory\\n\\nAt:\\n  /x/model.py(3): y"))
    index = [IndexEntry("a", 1, "READY", ""), IndexEntry("a", 2, "UNAVAILABLE", "Internal: no memory")]
    assert find_unserved(found, index, all_wanted=True) == (Unserved("a", 2, "no memory"),)


def test_a_model_that_loads_at_the_second_try_is_served() -> None:
    found = loads(error("failed to load 'a' version 1: Internal: no memory"))
    assert find_unserved(found, [IndexEntry("a", 1, "READY", "")], all_wanted=True) == ()


def test_what_only_the_index_knows_is_named_too() -> None:
    """Triton's log may be switched off."""
    index = [
        IndexEntry("a", 1, "UNAVAILABLE", "Invalid argument: no backend"),
        IndexEntry("b", None, "", ""),
        IndexEntry("c", 3, "UNAVAILABLE", "unloaded"),
        IndexEntry("c", 4, "READY", ""),
    ]
    named = find_unserved(Loads(), index, all_wanted=True)
    assert [(entry.model, entry.version) for entry in named] == [("a", 1), ("b", None)]
    assert named[0].why == "no backend"
    assert [entry.model for entry in find_unserved(Loads(), index, all_wanted=False)] == ["a"]


class Clock:
    """A clock that only moves when it is told."""

    now = 1000.0


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(time, "monotonic", lambda: clock.now)
    return clock


def test_a_start_may_take_any_time_as_long_as_it_goes_on(clock: Clock) -> None:
    """130 models that take 20 s each are ready after 43 minutes."""
    found, said, stubs = Loads(), list[str](), list[int]()
    progress = Progress(
        found, lambda: stubs, expected=130, timeout_s=None, report=lambda step, what: said.append(f"{step} {what}")
    )
    for number in range(130):
        clock.now += 20
        found.read(info(f"loading: m{number}:1"))
        found.read(info(f"successfully loaded 'm{number}'"))
        assert progress.fault() is None
    assert said[0] == "load 1 of 130 models ready"
    assert said[-1] == "load 130 of 130 models ready"

    found.read(info("loading: last:1"))
    clock.now += PATIENCE_S
    assert progress.fault() is None
    stubs.append(5)  # a process that begins is progress, too
    clock.now += PATIENCE_S
    assert progress.fault() is None
    clock.now += PATIENCE_S + 1
    fault = progress.fault()
    assert fault is not None
    assert "has not gone on with loading for 120 s" in fault
    assert "it is still loading 'last'" in fault


def test_a_time_for_the_whole_start_counts_whether_it_goes_on_or_not(clock: Clock) -> None:
    found = Loads()
    progress = Progress(found, lambda: (), expected=2, timeout_s=300, report=lambda step, what: None)
    found.read(info("loading: big:1"))
    clock.now += 299
    assert progress.fault() is None  # longer than PATIENCE_S without a sign
    clock.now += 2
    fault = progress.fault()
    assert fault is not None
    assert "Triton was not ready after 300 s; 0 of 2 models ready; it is still loading 'big'" in fault


def test_what_is_loading_is_what_has_an_instance_and_no_result() -> None:
    begun = [info(f"loading: {name}:1") for name in ("a", "a_b", "c", "d", "waits")]
    instances = [
        info(f"TRITONBACKEND_ModelInstanceInitialize: {name}_0_0 (CPU device 0)") for name in ("a_b", "c", "d")
    ]
    over = [info("successfully loaded 'c'"), error("failed to load 'd' version 1: Internal: no")]
    assert loads(*begun, *instances, *over).under_way() == ["a_b"]


def test_models_that_failed_are_counted_apart(clock: Clock) -> None:
    said = list[str]()
    found = loads(info("successfully loaded 'a'"), error("failed to load 'b' version 1: Internal: no"))
    progress = Progress(found, lambda: (), expected=3, timeout_s=None, report=lambda step, what: said.append(what))
    clock.now += 6
    assert progress.fault() is None
    assert said == ["1 of 3 models ready, 1 failed"]
