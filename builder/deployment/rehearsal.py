"""Try a version on the server under another name, before clients get its answers.

`NAME.candidate` is a separate model in the same repository. It has the config that the model is to get, and its version
1 is a link to the version that is tried.

The version is always 1 for a reason: a Triton that failed to load a version reports itself as not ready until that
version of that model has loaded. When version 7 of `digits` does not load as `digits.candidate` version 1, a trivial
model is loaded as `digits.candidate` version 1, and the server is ready again. If it had failed as `digits` version 7,
nothing but a version 7 that works could do that.
"""

import secrets
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING

from onnx import parser

from builder import files, interrupts
from builder.config import PROVENANCE_PREFIX, pbtxt
from builder.deployment.goal import Goal
from builder.deployment.live_server import LiveServer
from builder.deployment.mirror import Mirror
from builder.errors import HostError, RepositoryError
from builder.repository import ModelDirectory, Staging, disk, transaction

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

VERSION = 1
"""The version of every candidate."""

SEE_S = 5.0
"""How long a server may take to see a new folder in its repository, in seconds."""

_MOST_BYTES = 1 << 28
"""The most bytes of a label or warm-up file that is copied."""

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


@dataclass(frozen=True, slots=True)
class Candidate:
    """A version of a model under another name, in the same repository.

    Attributes:
        goal: What is tried.
        mirror: What lets servers read what is written here.
    """

    goal: Goal
    mirror: Mirror

    @property
    def name(self) -> str:
        """Its name."""
        return f"{self.goal.model.name}.candidate"

    @property
    def _folder(self) -> ModelDirectory:
        return ModelDirectory(self.goal.model.path.with_name(self.name))

    @contextmanager
    def placed(self) -> Iterator[None]:
        """Put it into the repository for the block.

        Raises:
            RepositoryError: Another model has that name, or the repository cannot be written to.
        """
        self._place(self._write)
        try:
            yield
        finally:
            with interrupts.apart():
                interrupts.hold()  # a second Ctrl-C must not leave it there
                self._place(None)

    def config(self, *, plan: bool = False) -> "ModelConfig":
        """Return the config that it is loaded with: what config.pbtxt serves, or the TensorRT plan beside it."""
        config = pbtxt.parse(self.goal.plan.text, where=self.goal.model.config_path)
        if plan and self.goal.plan_config is not None:
            config.CopyFrom(self.goal.plan_config)
        self._rename(config)
        return config

    def load(self, server: LiveServer, *, plan: bool = False, config: "ModelConfig | None" = None) -> None:
        """Load it: what config.pbtxt serves, or the TensorRT plan beside it.

        Args:
            server: The server.
            plan: Whether to load the plan, if there is one.
            config: Another config to load it with, made from that of `config()`.

        Raises:
            HostError: The server does not load the version.
        """
        if config is None and plan and self.goal.plan_config is not None:
            config = self.config(plan=True)
        label = f"version {self.goal.version} of {self.goal.model.name!r}"
        server.load(self.name, [VERSION], label=label, config=config)

    def replace(self) -> None:
        """Put a trivial model in its place, which any server loads.

        Raises:
            RepositoryError: The repository cannot be written to.
        """
        self._place(lambda folder: _write_trivial(folder, self.name, self.goal.model.name))

    def reload(self, server: LiveServer) -> None:
        """Load the trivial model on a server that could not load the version: else it would stay "not ready"."""
        with suppress(HostError):
            server.load(self.name, [VERSION])

    def unload(self, server: LiveServer) -> None:
        """Unload whatever is loaded under its name.

        Raises:
            HostError: The server refuses, or is not done in time.
        """
        server.unload(self.name)

    def _place(self, write: Callable[[Path], None] | None) -> None:
        with self.mirror.changing():
            _place(self._folder, self.goal.model.name, write)

    def _write(self, folder: Path) -> None:
        """Write the config, copies of the files that it names, and a link to the version."""
        model, config = self.goal.model, pbtxt.parse(self.goal.plan.text, where=self.goal.model.config_path)
        for file in _named_files(config):
            _copy(file, model.path, folder, self.goal)
        self._rename(config)
        disk.write(folder / pbtxt.FILE, pbtxt.render(config).encode())
        (folder / str(VERSION)).symlink_to(Path("..", model.name, str(self.goal.version)))

    def _rename(self, config: "ModelConfig") -> None:
        config.name = self.name
        config.version_policy.specific.versions[:] = [VERSION]
        config.ClearField("response_cache")  # it would answer what it answered in an earlier rehearsal
        config.parameters[_MARK].string_value = self.goal.model.name


def find_strangers(servers: Iterable[LiveServer], goal: Goal, mirror: Mirror) -> list[LiveServer]:
    """Return the servers that do not see a folder which is put into the repository for a moment.

    They read another repository, perhaps a copy of this one. The folder has a name that was never there before, and
    holds a model that any server could load. A server may see a folder on a network only after some time.

    Raises:
        RepositoryError: The repository cannot be written to.
        HostError: A server does not answer.
    """
    name = f"{goal.model.name}.probe-{secrets.token_hex(4)}"
    folder = ModelDirectory(goal.model.path.with_name(name))
    with mirror.changing():
        _remove_old_probes(goal.model)
        _place(folder, goal.model.name, lambda staged: _write_trivial(staged, name, goal.model.name))
    try:
        return [server for server in servers if not server.sees(name, wait_s=SEE_S)]
    finally:
        with interrupts.apart(), mirror.changing():
            interrupts.hold()
            _place(folder, goal.model.name, None)


def _remove_old_probes(model: ModelDirectory) -> None:
    """Remove the folders that a killed deployment of this model has left."""
    for path in model.path.parent.glob(f"{model.name}.probe-????????"):
        with suppress(RepositoryError):  # it is not ours
            _place(ModelDirectory(path), model.name, None)


def _named_files(config: "ModelConfig") -> Iterator[str]:
    """Yield the files that a config names, by their path in the model's folder."""
    for output in config.output:
        if output.label_filename:
            yield output.label_filename
    for request in config.model_warmup:
        for given in request.inputs.values():
            if given.input_data_file:
                yield f"{transaction.WARMUP}/{given.input_data_file}"


def _copy(file: str, source: Path, folder: Path, goal: Goal) -> None:
    """Copy one file that the config names. A server complains about one that is missing, as it would about the model's.

    It is a copy, because Triton takes no label file that is a link to another model's folder.
    """
    target = PurePosixPath(file)
    if target.is_absolute() or ".." in target.parts:
        return
    is_warmup = target.parts[0] == transaction.WARMUP
    planned = goal.plan.warmup.get(target.name) if is_warmup else goal.plan.labels.get(file)
    with suppress(OSError):
        content = planned if planned is not None else files.read(source / file, limit=_MOST_BYTES, inside=source)
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        disk.write(folder / file, content)


def _place(placed: ModelDirectory, model: str, write: Callable[[Path], None] | None) -> None:
    """Replace a folder of ours by what `write` writes into a folder; without `write`, only remove it."""
    root = placed.path.parent
    with interrupts.apart(), Staging(root).change(placed.name, f"deploy {model}") as area:
        if placed.path.exists():
            _check_is_ours(placed, model)
            disk.rename(placed.path, area.path / "removed")
        if write is not None:
            staged = area.path / "candidate"
            staged.mkdir()
            write(staged)
            disk.rename(staged, placed.path)


def _check_is_ours(placed: ModelDirectory, model: str) -> None:
    existing = pbtxt.parse(placed.read_config(), where=placed.config_path)
    if _MARK not in existing.parameters:
        what = f"this name is needed to try versions of {model!r}, but another model has it"
        fix = "rename that model; only `deploy` can do without it, with --no-rehearsal"
        raise RepositoryError(placed.path, what, fix)


def _write_trivial(folder: Path, name: str, model: str) -> None:
    config = pbtxt.parse(_TRIVIAL_CONFIG, where=name)
    config.name = name
    config.version_policy.specific.versions[:] = [VERSION]
    config.parameters[_MARK].string_value = model
    disk.write(folder / pbtxt.FILE, pbtxt.render(config).encode())
    (folder / str(VERSION)).mkdir()
    disk.write(folder / str(VERSION) / "model.onnx", parser.parse_model(_TRIVIAL_MODEL).SerializeToString())
