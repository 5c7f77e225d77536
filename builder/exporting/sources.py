"""What MODEL may be: an ONNX file, a factory in Python code, a file of PyTorch, or a Hugging Face model."""

import re
import stat
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from builder.model import Archive, archive_of
from builder.user_code import parse

HUGGING_FACE_PREFIX = "hf:"

_FACTORY = re.compile(r"(?P<home>[^\W\d]\w*(\.[^\W\d]\w*)*):(?P<name>[^\W\d][\w.]*)\s*(\(.*\))?", re.DOTALL)


class Kind(Enum):
    """What MODEL is, which decides how it is read."""

    ONNX = "an ONNX file"
    FACTORY = "a PyTorch module"
    TORCH_FILE = "a file of PyTorch"
    HUGGING_FACE = "a Hugging Face model"


@dataclass(frozen=True, slots=True)
class Source:
    """What the user gives as MODEL.

    Attributes:
        text: As it was given.
        kind: What it is. A file that is nothing else counts as an ONNX file, and the step that reads it says what is
            wrong with it.
    """

    text: str
    kind: Kind

    @classmethod
    def of(cls, text: str) -> "Source":
        """Look at the text, and at the beginning of the file if it names one."""
        return cls(text, kind_of(text))

    @property
    def needs_inputs(self) -> bool:
        """Whether the types and shapes of its inputs have to be given."""
        return self.kind is Kind.FACTORY

    @property
    def name(self) -> str:
        """The default name of the model: that of the factory, or of the file or folder without its suffix."""
        match self.kind:
            case Kind.FACTORY:
                return factory_name(self.text)
            case Kind.HUGGING_FACE:
                return Path(self.text.removeprefix(HUGGING_FACE_PREFIX)).absolute().name or "model"
            case _:
                return Path(self.text).stem

    @property
    def shown(self) -> str:
        """What is stored with the model about where it came from: without the folders of this machine.

        Raises:
            ModelError: The arguments of a factory cannot be read.
        """
        match self.kind:
            case Kind.FACTORY:
                return parse(self.text).text
            case Kind.HUGGING_FACE:
                return f"{HUGGING_FACE_PREFIX}{self.name}"
            case _:
                return Path(self.text).name


def kind_of(text: str) -> Kind:
    """Return what MODEL is. A file that exists is a file, whatever its name looks like."""
    mode = mode_of(text)
    if stat.S_ISREG(mode):
        return Kind.TORCH_FILE if archive_of(Path(text)) in (Archive.PROGRAM, Archive.SCRIPT) else Kind.ONNX
    if text.startswith(HUGGING_FACE_PREFIX):
        return Kind.HUGGING_FACE
    if mode:
        return Kind.ONNX
    return Kind.FACTORY if _FACTORY.fullmatch(text.strip()) else Kind.ONNX


def mode_of(text: str) -> int:
    """Return the mode of what a path leads to; 0 if there is nothing, or the text cannot be a path at all."""
    try:
        return Path(text).stat().st_mode
    except (OSError, ValueError):  # too long for a name, say
        return 0


def factory_name(text: str) -> str:
    """Return the name of the function in `package.module:function(arguments)`."""
    match = _FACTORY.fullmatch(text.strip())
    return match["name"] if match else text.rpartition(":")[2]
