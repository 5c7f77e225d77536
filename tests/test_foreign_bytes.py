"""Whatever bytes the files of a repository hold, each reader answers, or refuses them with an error of ours."""

import json
import random
import resource
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from support.artifacts import scale
from support.damage import damaged, damaged_json
from support.load_results import result_of

from builder import arrays
from builder.config import ExistingConfig, make_config
from builder.errors import BuilderError
from builder.publishing import install
from builder.record import Manifest, first_row
from builder.repository import ModelDirectory, Repository, listing
from loadtest.checking import from_reference, make_pool, read_reference
from loadtest.errors import LoadTestError
from loadtest.report.compare import compare, describe, read_run, to_json, to_table
from loadtest.wire import Address, make_client

MEMORY = 500 << 10
"""How much more memory than before the process may need for all files of a test, each of a few kB; in kB."""

QUICK = settings(max_examples=60, derandomize=True, deadline=None, database=None)
LONG = settings(QUICK, max_examples=80)
FAILING = settings(QUICK, max_examples=3000, phases=[Phase.generate])
"""For what will fail: the example need not be made small."""


def repository_in(root: Path) -> ModelDirectory:
    repository = Repository(root)
    install(repository, "scale", scale())
    install(repository, "scale", scale(3.0))
    return repository.model("scale")


@pytest.fixture(autouse=True)
def bounded() -> Iterator[None]:
    """Check that the memory stays bounded."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    yield
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < before + MEMORY


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> ModelDirectory:
    return repository_in(tmp_path_factory.mktemp("damaged") / "models")


def readers(model: ModelDirectory) -> Iterator[Callable[[], object]]:
    """Yield everything that reads a version: `list`, `verify`, `rollback`, `publish` and `deploy` start like this."""
    artifact = scale(4.0)
    yield lambda: model.read_reference(2)
    yield lambda: model.check_complete(2)
    yield lambda: hash_files(model)
    yield lambda: model.read_manifest(2).covers(artifact.manifest)
    yield lambda: model.read_manifest(2).to_json().encode()
    yield lambda: make_config(
        artifact.manifest,
        name="scale",
        version=3,
        sample=first_row(artifact.reference),
        existing=ExistingConfig(model.read_config(), model.find_manifest(model.served_version()), model.config_path),
    )
    yield lambda: make_config(
        model.read_manifest(2), name="scale", version=2, sample=first_row(model.read_reference(2))
    ).text.encode()
    yield lambda: start_load(model)


def hash_files(model: ModelDirectory) -> None:
    """Hash the files that a manifest names. Whoever does that takes an OSError for a damaged version."""
    with suppress(OSError):
        model.read_manifest(2).model.at(model.version_dir(2))


def start_load(model: ModelDirectory) -> None:
    """Do what a load test does before its first request."""
    samples = from_reference(read_reference(model.path.parent, model.name, 2), "")
    for protocol in ("http", "grpc"):
        client = make_client(protocol, Address("127.0.0.1", 1), 1.0)
        for request in make_pool(samples, 1, client.encode, random.Random(0)):
            request.expect("", lambda name, version: None)


def survive(model: ModelDirectory, file: str, content: bytes) -> None:
    """Put bytes in place of a file, run every reader, and put the file back."""
    path = model.path / file
    before = path.read_bytes()
    path.write_bytes(content)
    try:
        listed = listing.read(model)
        assert [version.version for version in listed.versions] == [1, 2]
        for read in readers(model):
            refuse_or_answer(read)
    finally:
        path.write_bytes(before)


def refuse_or_answer(read: Callable[[], object]) -> None:
    try:
        read()
    except (BuilderError, LoadTestError) as error:
        is_helpful = bool(error.what and error.fix)
        if not is_helpful:
            raise


def config_of(version: int) -> bytes:
    made = make_config(scale().manifest, name="scale", version=version, sample=first_row(scale().reference))
    return made.text.encode()


def reference_bytes(folder: Path) -> bytes:
    np.savez(folder / "arrays.npz", **dict(scale().reference))
    return (folder / "arrays.npz").read_bytes()


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return reference_bytes(tmp_path_factory.mktemp("archive"))


MANIFEST = scale(3.0).manifest.to_json()


@QUICK
@given(content=st.one_of(damaged_json(MANIFEST), damaged(MANIFEST.encode())))
def test_any_manifest_is_read_or_refused(model: ModelDirectory, content: bytes) -> None:
    survive(model, "2/manifest.json", content)


@QUICK
@given(content=damaged(config_of(2)))
def test_any_config_is_read_or_refused(model: ModelDirectory, content: bytes) -> None:
    survive(model, "config.pbtxt", content)


@QUICK
@given(data=st.data())
def test_any_reference_is_read_or_refused(model: ModelDirectory, archive: bytes, data: st.DataObject) -> None:
    survive(model, "2/reference.npz", data.draw(damaged(archive)))


@pytest.mark.slow
@LONG
@given(content=st.one_of(damaged_json(MANIFEST), damaged(MANIFEST.encode())))
def test_many_manifests_are_read_or_refused(model: ModelDirectory, content: bytes) -> None:
    survive(model, "2/manifest.json", content)


@pytest.mark.slow
@LONG
@given(content=damaged(config_of(2)))
def test_many_configs_are_read_or_refused(model: ModelDirectory, content: bytes) -> None:
    survive(model, "config.pbtxt", content)


@pytest.mark.slow
@LONG
@given(data=st.data())
def test_many_references_are_read_or_refused(model: ModelDirectory, archive: bytes, data: st.DataObject) -> None:
    survive(model, "2/reference.npz", data.draw(damaged(archive)))


RESULT = json.dumps(result_of((100, 1000), (150, 2000)))


def show_comparison(path: Path) -> None:
    run = read_run(path)
    shown = compare([run], [run])
    json.dumps([to_json(shown), *describe(shown), *to_table(shown)], allow_nan=False)


@QUICK
@given(content=st.one_of(damaged_json(RESULT), damaged(RESULT.encode())))
def test_any_result_of_a_load_test_is_compared_or_refused(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.getbasetemp() / "result.json"
    path.write_bytes(content)
    refuse_or_answer(lambda: show_comparison(path))


# ---- These tests can fail


def naive_archive(path: Path, **more: Any) -> dict[str, Any]:
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


def test_numpys_own_reader_does_not_survive(tmp_path: Path, archive: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builder.record.reference.read_npz", naive_archive)
    assert arrays.read_npz is not naive_archive
    model = repository_in(tmp_path / "models")

    @FAILING
    @given(damaged(archive))
    def check(content: bytes) -> None:
        survive(model, "2/reference.npz", content)

    with pytest.raises(Exception, match=r"\w"):
        check()


def test_a_parser_without_guards_does_not_survive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("builder.record.manifest.parse", json.loads)
    model = repository_in(tmp_path / "models")

    @FAILING
    @given(st.one_of(damaged_json(MANIFEST), damaged(MANIFEST.encode())))
    def check(content: bytes) -> None:
        survive(model, "2/manifest.json", content)

    with pytest.raises(Exception, match=r"\w"):
        check()


def test_a_valid_file_is_not_refused(model: ModelDirectory, archive: bytes) -> None:
    for file, content in (
        ("2/manifest.json", MANIFEST.encode()),
        ("config.pbtxt", config_of(2)),
    ):
        (model.path / file).write_bytes(content)
        for read in readers(model):
            read()
    assert isinstance(model.read_manifest(2), Manifest)
