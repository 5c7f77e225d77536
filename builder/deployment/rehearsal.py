"""Try a version on the server under another name, before clients get its answers.

`NAME.candidate` is a separate model in the same repository. It has the same config, and its version 1 is a link to
the version that is tried.

The version is always 1 for a reason: a Triton that failed to load a version reports itself as not ready until that
version of that model has loaded. When version 7 of `digits` does not load as `digits.candidate` version 1, a trivial
model is loaded as `digits.candidate` version 1, and the server is ready again. If it had failed as `digits` version 7,
nothing but a version 7 that works could do that.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from onnx import parser

from builder import interrupts
from builder.config import PROVENANCE_PREFIX, pbtxt
from builder.deployment.live_server import LiveServer
from builder.errors import HostError, RepositoryError
from builder.repository import ModelDirectory, Staging, disk, transaction

VERSION = 1
"""The version of every candidate."""

ANOTHER_REPOSITORY = "set --repository to the repository that the server reads"
"""What to do when the server reads another repository than this one."""

_MARK = f"{PROVENANCE_PREFIX}candidate_of"
"""The config parameter that marks a candidate, so that no other model is ever replaced."""

_TRIVIAL_CONFIG = """
backend: "onnxruntime"
max_batch_size: 0
input { name: "x" data_type: TYPE_FP32 dims: 1 }
output { name: "y" data_type: TYPE_FP32 dims: 1 }
instance_group { kind: KIND_CPU count: 1 }
"""
_TRIVIAL_MODEL = '<ir_version: 8, opset_import: ["": 13]> g (float[1] x) => (float[1] y) { y = Identity (x) }'


@contextmanager
def rehearsed(model: ModelDirectory, version: int, server: LiveServer) -> Iterator[str]:
    """Serve a version of `model`, with its current config, under the name that is yielded; remove it at the end.

    Raises:
        RepositoryError: Another model has that name, or the repository cannot be written to.
        HostError: The server reads another repository, or does not load the version.
    """
    candidate = ModelDirectory(model.path.with_name(f"{model.name}.candidate"))
    _place(candidate, model, lambda folder: _write_candidate(folder, candidate, model, version))
    try:
        if not server.knows(candidate.name):
            what = f"it does not see the files in {model.path.parent}, so it reads another repository"
            raise HostError(server.address, what, ANOTHER_REPOSITORY)
        try:
            _load(server, candidate, model, version)
            yield candidate.name
        finally:
            server.unload(candidate.name)
    finally:
        _place(candidate, model, None)


def _load(server: LiveServer, candidate: ModelDirectory, model: ModelDirectory, version: int) -> None:
    try:
        server.load(candidate.name, VERSION, label=f"version {version} of {model.name!r}")
    except HostError:
        with suppress(HostError):  # otherwise the server would stay "not ready"
            _place(candidate, model, lambda folder: _write_trivial(folder, candidate, model))
            server.load(candidate.name, VERSION)
        raise


def _place(candidate: ModelDirectory, model: ModelDirectory, write: Callable[[Path], None] | None) -> None:
    """Replace the candidate by what `write` writes into a folder; without `write`, only remove it."""
    root = candidate.path.parent
    with interrupts.apart(), Staging(root).change(candidate.name, f"deploy {model.name}") as area:
        if candidate.path.exists():
            _check_is_candidate(candidate, model)
            disk.rename(candidate.path, area.path / "removed")
        if write is not None:
            staged = area.path / "candidate"
            staged.mkdir()
            write(staged)
            disk.rename(staged, candidate.path)


def _check_is_candidate(candidate: ModelDirectory, model: ModelDirectory) -> None:
    existing = pbtxt.parse(candidate.read_config(), where=candidate.config_path)
    if _MARK not in existing.parameters:
        what = f"this name is needed to try versions of {model.name!r}, but another model has it"
        raise RepositoryError(candidate.path, what, "rename that model, or deploy with --no-rehearsal")


def _write_candidate(folder: Path, candidate: ModelDirectory, model: ModelDirectory, version: int) -> None:
    _write_config(folder, candidate, model, model.read_config())
    (folder / str(VERSION)).symlink_to(Path("..", model.name, str(version)))
    (folder / transaction.WARMUP).symlink_to(Path("..", model.name, transaction.WARMUP))


def _write_trivial(folder: Path, candidate: ModelDirectory, model: ModelDirectory) -> None:
    _write_config(folder, candidate, model, _TRIVIAL_CONFIG)
    (folder / str(VERSION)).mkdir()
    disk.write(folder / str(VERSION) / "model.onnx", parser.parse_model(_TRIVIAL_MODEL).SerializeToString())


def _write_config(folder: Path, candidate: ModelDirectory, model: ModelDirectory, text: str) -> None:
    parsed = pbtxt.parse(text, where=model.config_path)
    parsed.name = candidate.name
    parsed.version_policy.specific.versions[:] = [VERSION]
    parsed.parameters[_MARK].string_value = model.name
    disk.write(folder / pbtxt.FILE, pbtxt.render(parsed).encode())
