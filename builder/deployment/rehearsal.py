"""Try a version on a server under another name, so that no client meets it before it is seen to answer rightly.

`NAME.candidate` is a model of its own in the same repository: the same config, and as its version 1 a link to the
version that is tried. It is always version 1, because a Triton that failed to load a version calls itself not
ready until that very version of that very name has loaded: a candidate's failure is made good by loading something
harmless in its place, a real version's could not be.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from onnx import parser

from builder.config import PROVENANCE_PREFIX, pbtxt
from builder.deployment.live_server import LiveServer
from builder.errors import HostError, RepositoryError
from builder.repository import ModelDirectory, staging
from builder.repository.staging import Staging

VERSION = 1
"""Of every candidate."""

_MARK = f"{PROVENANCE_PREFIX}candidate_of"

_HARMLESS_CONFIG = """
backend: "onnxruntime"
max_batch_size: 0
input { name: "x" data_type: TYPE_FP32 dims: 1 }
output { name: "y" data_type: TYPE_FP32 dims: 1 }
instance_group { kind: KIND_CPU count: 1 }
"""
_HARMLESS_MODEL = '<ir_version: 8, opset_import: ["": 13]> g (float[1] x) => (float[1] y) { y = Identity (x) }'


@contextmanager
def rehearsed(model: ModelDirectory, version: int, server: LiveServer) -> Iterator[str]:
    """Serve a version of `model`, with the config that is there now, under the name that is yielded.

    Raises:
        RepositoryError: A model that is not ours has that name, or the repository cannot be written to.
        HostError: The server reads another repository, or does not load the version.
    """
    candidate = ModelDirectory(model.path.with_name(f"{model.name}.candidate"))
    _place(candidate, model, lambda folder: _write_candidate(folder, candidate, model, version))
    try:
        if not server.knows(candidate.name):
            what = f"it does not see what is written to {model.path.parent}: it reads another repository"
            raise HostError(server.address, what, "give --repository the one that the server reads")
        try:
            _load(server, candidate, model, version)
            yield candidate.name
        finally:
            server.unload(candidate.name)
    finally:
        _place(candidate, model, None)


def _load(server: LiveServer, candidate: ModelDirectory, model: ModelDirectory, version: int) -> None:
    try:
        server.load(candidate.name, VERSION, called=f"version {version} of {model.name!r}")
    except HostError:
        with suppress(HostError):
            _place(candidate, model, lambda folder: _write_harmless(folder, candidate, model))
            server.load(candidate.name, VERSION)
        raise


def _place(candidate: ModelDirectory, model: ModelDirectory, write: Callable[[Path], None] | None) -> None:
    """Put what `write` writes in place of what is there; without it, only take that away."""
    root = candidate.path.parent
    area = Staging(root)
    with area.change(candidate.name):
        if candidate.path.exists():
            _check_ours(candidate, model)
            staging.rename(candidate.path, area.path / "taken-away")
        if write is not None:
            staged = area.path / "candidate"
            staged.mkdir()
            write(staged)
            staging.rename(staged, candidate.path)


def _check_ours(candidate: ModelDirectory, model: ModelDirectory) -> None:
    there = pbtxt.parse(candidate.read_config(), where=candidate.config_path)
    if _MARK not in there.parameters:
        what = f"version candidates of {model.name!r} are tried under this name, but somebody's model has it"
        raise RepositoryError(candidate.path, what, "rename that model, or deploy with --no-rehearsal")


def _write_candidate(folder: Path, candidate: ModelDirectory, model: ModelDirectory, version: int) -> None:
    _write_config(folder, candidate, model, model.read_config())
    (folder / str(VERSION)).symlink_to(Path("..", model.name, str(version)))
    (folder / staging.WARMUP).symlink_to(Path("..", model.name, staging.WARMUP))


def _write_harmless(folder: Path, candidate: ModelDirectory, model: ModelDirectory) -> None:
    _write_config(folder, candidate, model, _HARMLESS_CONFIG)
    (folder / str(VERSION)).mkdir()
    staging.write(folder / str(VERSION) / "model.onnx", parser.parse_model(_HARMLESS_MODEL).SerializeToString())


def _write_config(folder: Path, candidate: ModelDirectory, model: ModelDirectory, text: str) -> None:
    parsed = pbtxt.parse(text, where=model.config_path)
    parsed.name = candidate.name
    parsed.version_policy.specific.versions[:] = [VERSION]
    parsed.parameters[_MARK].string_value = model.name
    staging.write(folder / pbtxt.FILE, pbtxt.render(parsed).encode())
