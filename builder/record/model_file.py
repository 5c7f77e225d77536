"""The files of a version."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from builder import digest, files

Content = bytes | memoryview | Path
"""The content of a file: its bytes, or the file to copy."""


@dataclass(frozen=True, slots=True)
class ModelFile:
    """The files that Triton loads.

    Attributes:
        file: `model.onnx`, `model.plan` or the name that the config gives to an ONNX file, relative to the version's
            directory. In a version that was adopted it may be in a folder, such as `model.onnx/model.onnx`.
        sha256: The digest of the model file and its weights together.
        bytes: The size of all these files together.
        weights: The files of external weights, relative to the version's directory, sorted by name.
        others: Further files of the version, sorted by name: plans that a server with another GPU loads in place of
            `file`, and what TensorRT measured when it built a plan.
    """

    file: str
    sha256: str
    bytes: int
    weights: tuple[str, ...] = ()
    others: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        file: str,
        contents: Mapping[str, Content],
        *,
        others: Collection[str] = (),
        known: Mapping[Path, str] | None = None,
    ) -> "ModelFile":
        """Describe the files of a version.

        Args:
            file: The model file.
            contents: All files, by path in the version's directory.
            others: Those that are neither the model file nor its weights.
            known: Digests of files that were hashed before.

        Raises:
            OSError: A file cannot be read.
        """
        weights = tuple(sorted(path for path in contents if path != file and path not in others))
        found = [contents[path] for path in (file, *weights, *sorted(others))]
        known = known or {}
        digests = [
            known[content] if isinstance(content, Path) and content in known else digest.of(content)
            for content in found
        ]
        size = sum(content.stat().st_size if isinstance(content, Path) else len(content) for content in found)
        return cls(file, digest.of_model(digests), size, weights, tuple(sorted(others)))

    @property
    def files(self) -> tuple[str, ...]:
        """The model file, then its weights, then the others."""
        return (self.file, *self.weights, *self.others)

    def at(self, version_dir: Path) -> "ModelFile":
        """Describe the files with these names that are in a version's directory now.

        If their size is not the one recorded here, they are other files, and are not hashed: the digest is empty.

        Raises:
            OSError: A file cannot be read, is not a regular one, or is outside the directory.
        """
        if (size := self.size(version_dir)) != self.bytes:
            return replace(self, sha256="", bytes=size)
        found = [version_dir / path for path in self.files]
        digests = [digest.of(path, inside=version_dir) for path in found]
        return replace(self, sha256=digest.of_model(digests), bytes=size)

    def size(self, version_dir: Path) -> int:
        """Return the size of the files with these names that are in a version's directory now.

        Raises:
            OSError: A file is missing, not a regular one, or outside the directory.
        """
        return sum(files.size(version_dir / path, inside=version_dir) for path in self.files)
