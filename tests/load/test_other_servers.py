"""Load tests of KServe v2 servers that are not Triton: JSON over HTTP, typed contents over gRPC, empty metadata."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from support.answers import check_answers
from support.kserve_server import serving_kserve
from support.load_run import run
from support.load_server import ROWS as STORED_ROWS
from support.load_server import classifier, write_model, write_version
from support.mlserver import install, serving_mlserver

from loadtest.checking import Wrong
from loadtest.errors import ServerError

ROWS = np.random.default_rng(1).standard_normal((8, 4)).astype(np.float32)
SUMS = ROWS.sum(axis=1, keepdims=True)


pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Addresses:
    """Where a server that is not Triton listens."""

    http_address: str
    grpc_address: str
    metrics_address: str = ""


@pytest.mark.parametrize("protocol", ["http", "grpc"])
def test_answers_that_name_no_version_are_compared_with_the_repository(tmp_path: Path, protocol: str) -> None:
    folder = write_version(tmp_path / "repository")
    options = ("--model", "classifier", "--repository", str(tmp_path / "repository"))
    with serving_kserve(folder / "model.onnx") as addresses:
        assert check_answers(Addresses(*addresses), protocol, *options) == [True] * STORED_ROWS
    write_model(folder, classifier(5))
    with serving_kserve(folder / "model.onnx") as addresses:
        assert set(check_answers(Addresses(*addresses), protocol, *options)) <= {Wrong.TOLERANCE, Wrong.ROWS_MIXED_UP}


def test_answers_of_mlserver_are_checked_even_if_it_does_not_say_what_its_models_take(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    cache = getattr(request.config, "cache", None)
    program = install(Path(cache.mkdir("mlserver")) if cache else tmp_path / "mlserver")
    np.savez(tmp_path / "rows.npz", **{"input:x": ROWS, "output:y": SUMS})
    rows = ("--input-data", str(tmp_path / "rows.npz"))
    described = {"datatype": "FP32", "shape": [1, 4], "content": [1, 2, 3, 4.5]}
    name = {"datatype": "BYTES", "shape": [1], "content": ["ä"]}
    sums = {"datatype": "FP32", "shape": [1, 1], "content": [10.5]}
    answers = {"y": sums, "NAME": {**name, "shape": [1, 1], "content": ["Ä"]}}
    document = {"data": [{"x": described, "name": name}], "validation_data": [answers]}
    (tmp_path / "one.json").write_text(json.dumps(document))
    (tmp_path / "models").mkdir()
    with serving_mlserver(program, tmp_path / "models") as server:
        for protocol in ("http", "grpc"):
            assert check_answers(server, protocol, "--model", "bare", *rows) == [True] * 8
            assert check_answers(server, protocol, "--model", "listed", *rows, "--rows", "1") == [True] * 8
            assert check_answers(server, protocol, "--model", "wrong", *rows) == [Wrong.TOLERANCE] * 8
            assert check_answers(server, protocol, "--model", "listed") == [None] * 32
            one = ("--input-data", str(tmp_path / "one.json"))
            assert check_answers(server, protocol, "--model", "bare", *one) == [True]
        with pytest.raises(ServerError, match="its metadata lists no inputs"):
            check_answers(server, "http", "--model", "bare")
        options = (*rows, "--rows", "1,3", "--concurrency", "2", "--stage-time", "1.2", "--warm-up", "0.2")
        finished = run(server, tmp_path / "report", *options, model="bare")
        assert finished.code == 0, finished.stdout + finished.stderr
        assert finished.result["run"]["checked"]
        assert finished.result["totals"]["unchecked"] == 0
        assert finished.result["totals"]["requests"] > 20
        assert finished.result["stages"][0]["server"] is None
        refused = run(server, tmp_path / "refused", model="bare")
        assert (refused.code, "Traceback" in refused.stderr) == (6, False), refused.stderr
