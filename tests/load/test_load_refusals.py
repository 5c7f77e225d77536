"""Load tests that are refused before their first user, and the reasons that are given."""

from pathlib import Path

import numpy as np
import pytest
from support.load_run import run
from support.load_server import (
    serving,
    write_version,
)
from support.load_settings import read
from support.reserved import unused_address

from builder.server import Server
from loadtest.errors import LoadTestError
from loadtest.server import prepare

pytestmark = pytest.mark.slow


def test_a_model_that_is_not_served_is_refused_before_the_first_user(server: Server, tmp_path: Path) -> None:
    finished = run(server, tmp_path, "--markdown", str(tmp_path / "summary.md"), model="nothing")
    assert (finished.code, finished.result) == (6, {})
    assert "model nothing: the server does not serve this" in finished.stderr
    assert "set --model to one that it serves: classifier" in finished.stderr
    assert "the server does not serve this" in (tmp_path / "summary.md").read_text()
    assert "Traceback" not in finished.stderr


def test_a_file_that_is_not_there_is_refused_before_the_first_user(server: Server, tmp_path: Path) -> None:
    finished = run(server, tmp_path, "--scenario", "replay", "--arrivals-file", str(tmp_path / "none.csv"))
    assert (finished.code, finished.result) == (2, {})
    assert "none.csv: the file cannot be read: No such file or directory" in finished.stderr
    assert "Traceback" not in finished.stderr


def test_a_report_that_cannot_be_written_is_refused_before_the_first_user(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    finished = run(server, tmp_path, "--report-dir", str(tmp_path / "file"))
    assert (finished.code, finished.result) == (2, {})
    assert "the report cannot be written" in finished.stderr
    assert "users" not in finished.stderr


def refusal(http_address: str, *options: str) -> LoadTestError:
    with pytest.raises(LoadTestError) as caught:
        prepare(read("--model", "classifier", *options, host=f"http://{http_address}"))
    return caught.value


def grpc(address: str) -> tuple[str, ...]:
    return ("--protocol", "grpc", "--grpc-address", address)


def test_a_wrong_target_is_refused_with_its_reason(server: Server) -> None:
    with unused_address() as nobody:
        check_refusals(server, nobody)


def check_refusals(server: Server, nobody: str) -> None:
    cases = {
        "model classifier version 9: the server does not": (6, server.http_address, ("--model-version", "9")),
        "model classifier takes at most 16 rows per request, not 64": (2, server.http_address, ("--rows", "64")),
        "the server does not answer": (6, nobody, ()),
        "does not speak KServe v2": (6, server.metrics_address, ()),
        "GET /v2 returned no HTTP response": (6, server.grpc_address, ()),
        "but the gRPC port does not answer: refused": (6, server.http_address, grpc(nobody)),
        "but the gRPC port does not answer: cut": (6, server.http_address, grpc(server.http_address)),
    }
    for said, (code, http_address, options) in cases.items():
        fault = refusal(http_address, *options)
        assert said in str(fault)
        assert fault.exit_code == code


def test_a_server_that_is_not_ready_is_refused(tmp_path: Path) -> None:
    write_version(tmp_path)
    with serving(tmp_path, model_control_mode="explicit") as empty:
        assert "classifier" in str(refusal(empty.http_address))


def test_a_repository_that_is_not_the_one_served_is_refused_naming_both_sides(server: Server, tmp_path: Path) -> None:
    option = ("--repository", str(tmp_path))
    assert "no version of this model has a reference" in str(refusal(server.http_address, *option))
    folder = write_version(tmp_path, version=2)
    assert "the server has version 1, the repository has 2" in str(refusal(server.http_address, *option))
    folder = folder.rename(folder.with_name("1"))
    manifest = folder / "manifest.json"
    manifest.write_text(manifest.read_text().replace("TYPE_INT64", "TYPE_INT32"))
    reference = dict(np.load(folder / "reference.npz"))
    np.savez(folder / "reference.npz", **reference | {"output:label": reference["output:label"].astype(np.int32)})
    fault = refusal(server.http_address, *option)
    assert (
        f"version 1 and the server http://{server.http_address} differ: output label is INT32 in one and INT64 in"
        in (fault.what)
    )
    assert "the repository has image FP32[5] and gives scores FP32[3], label INT32[1]" in fault.what
    assert "the server has image FP32[5] and gives scores FP32[3], label INT64[1]" in fault.what
    (folder / "reference.npz").write_bytes(b"PK damaged")
    assert refusal(server.http_address, *option).exit_code == 2
