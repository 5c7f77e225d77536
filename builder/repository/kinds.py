"""Say what a model of a repository is, whoever put it there and whatever its backend is."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from builder.config import backends, interface, pbtxt

CONFIGS = "configs"
"""The folder of a model's other configs, which `tritonserver --model-config-name` chooses from."""


@dataclass(frozen=True, slots=True)
class Kind:
    """What a model is.

    Attributes:
        backend: The backend that Triton loads it with; `ensemble` for an ensemble, empty when nothing tells.
        has_config: Whether it has a config.pbtxt. If not, Triton makes one up from the model's file.
        is_complete: Whether Triton has nothing to add to the config: it lists inputs and outputs.
        members: For an ensemble, the models of its steps, each once.
        file: The name of its file in a version's directory, or of the folder with it.
        is_sequence: Whether its requests belong to sequences, so that an answer depends on earlier requests.
        is_decoupled: Whether a request may get any number of answers.
        other_configs: The names that `--model-config-name` can choose, sorted.
    """

    backend: str
    has_config: bool
    is_complete: bool
    members: tuple[str, ...] = ()
    file: str = backends.ONNX_FILE
    is_sequence: bool = False
    is_decoupled: bool = False
    other_configs: tuple[str, ...] = ()

    @property
    def is_onnx(self) -> bool:
        """Whether ONNX Runtime runs it, so that it can be adopted."""
        return self.backend == backends.ONNX

    @property
    def is_ensemble(self) -> bool:
        """Whether it only passes requests on to other models."""
        return self.backend == backends.ENSEMBLE

    def how_to_add_a_version(self, folder: Path) -> str:
        """Return what to do when a version is missing, as a fix."""
        if self.is_onnx or not self.backend:
            return "publish the model first"
        if self.is_ensemble:
            return f"make an empty folder {folder / '1'}: an ensemble, too, has at least one version"
        return f"put the model's files into {folder / '1'}: only ONNX models can be published"

    def __str__(self) -> str:
        """Return a noun for it, such as `an ensemble of a and b`."""
        if self.is_ensemble:
            *others, last = self.members or ("no models",)
            return f"an ensemble of {' and '.join([', '.join(others), last] if others else [last])}"
        if self.is_onnx:
            return "an ONNX model"
        return f"a model of the backend {self.backend!r}" if self.backend else "a model of an unknown backend"


def describe(folder: Path, text: str | None) -> Kind:
    """Find out what a model is.

    Args:
        folder: The model's folder; its name is the model's.
        text: The text of its config; None when it has none.

    Raises:
        RepositoryError: The config cannot be read.
    """
    config = pbtxt.parse(text or "", where=folder / pbtxt.FILE)
    return Kind(
        backend=backends.backend_of(config, _first_version_files(folder), folder.name),
        has_config=text is not None,
        is_complete=not interface.is_partial(config),
        members=tuple(dict.fromkeys(step.model_name for step in config.ensemble_scheduling.step)),
        file=config.default_model_filename or backends.ONNX_FILE,
        is_sequence=config.HasField("sequence_batching"),
        is_decoupled=config.model_transaction_policy.decoupled,
        other_configs=_other_configs(folder),
    )


def _first_version_files(folder: Path) -> set[str]:
    """Return what is in the first folder of the model, by name: Triton looks at no other one."""
    with suppress(OSError):
        folders = sorted(entry for entry in folder.iterdir() if entry.is_dir())
        return {entry.name for first in folders[:1] for entry in first.iterdir()}
    return set()


def _other_configs(folder: Path) -> tuple[str, ...]:
    with suppress(OSError):
        return tuple(sorted(path.stem for path in (folder / CONFIGS).glob("*.pbtxt")))
    return ()
