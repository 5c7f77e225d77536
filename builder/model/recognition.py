"""Say what a file is that was given as an ONNX file, by its content: a checkpoint, another format, a failed download.

Only bytes are looked at. Nothing is unpacked, unpickled or run.
"""

import json
import shlex
import zlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from builder.errors import Listing, ModelError
from builder.files import open_file
from builder.model import checkpoints
from builder.model.archives import Archive, archive_with, names_in
from builder.model.checkpoints import Recognized

HEAD_BYTES = 64 << 10
"""How much of the beginning of a file is looked at, and of its end."""

_LFS = b"version https://git-lfs.github.com/spec/"
_TEXT = b"\t\n\r\x0c\x1b" + bytes(range(32, 256))


@dataclass(frozen=True, slots=True)
class _Glance:
    """The path of a file, and its first and last bytes."""

    path: Path
    head: bytes
    tail: bytes

    @property
    def quoted(self) -> str:
        """The path as it is written in a shell."""
        return shlex.quote(str(self.path))

    def starts(self, *magics: bytes) -> bool:
        return self.head.startswith(magics)

    def holds(self, *texts: bytes) -> bool:
        return any(text in self.head or text in self.tail for text in texts)


def refuse_as(path: Path) -> ModelError | None:
    """Return the error that says what a file is and what to do with it; None if that is not known."""
    found = recognize(path)
    if found is None:
        return None
    what = f"it is not an ONNX file but {found.what}"
    return ModelError(path, Listing(what, found.lines) if found.lines else what, found.fix)


def recognize(path: Path) -> Recognized | None:
    """Return what a file or folder is; None if it looks like nothing that is known."""
    if path.is_dir():
        return _folder(path)
    try:
        with open_file(path) as stream:
            head = stream.read(HEAD_BYTES)
            size = stream.seek(0, 2)
            stream.seek(max(0, size - HEAD_BYTES))
            glance = _Glance(path, head, stream.read(HEAD_BYTES))
    except OSError:
        return None
    return next((found for look in _LOOKS if (found := look(glance)) is not None), None)


def _folder(path: Path) -> Recognized | None:
    names = {entry.name for entry in list(path.iterdir())[:1000]}
    if "saved_model.pb" in names:
        return _saved_model(path)
    if "config.json" in names and any(name.endswith((".safetensors", ".bin")) for name in names):
        return Recognized("a folder of Hugging Face", f"run `python -m builder publish {shlex.quote(f'hf:{path}')}`")
    if "com.apple.CoreML" in names or (path / "Data" / "com.apple.CoreML").is_dir():
        return _core_ml()
    if models := sorted(name for name in names if name.endswith(".onnx")):
        return Recognized("a folder", f"give the file in it: {', '.join(str(path / name) for name in models[:5])}")
    return None


def _download(seen: _Glance) -> Recognized | None:
    if not seen.head:
        return Recognized("an empty file", "copy or download it again")
    if seen.starts(_LFS):
        what = "a pointer of Git LFS, which stands for a file that was not downloaded"
        return Recognized(what, "run `git lfs pull` in its repository")
    start = seen.head[:2000].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if start.startswith((b"<!doctype html", b"<html")):
        what = "a web page, such as the page about the model or of a failed login"
        return Recognized(what, "download the file itself, with the link that is called raw or download")
    return None


def _compressed(seen: _Glance) -> Recognized | None:
    if seen.starts(b"\x1f\x8b"):
        unpacker = zlib.decompressobj(wbits=31)
        try:
            inner = unpacker.decompress(seen.head, 1000)
        except zlib.error:
            inner = b""
        if inner[257:262] == b"ustar":
            return Recognized("a tar archive", f"run `tar -xzf {seen.quoted}`, and give the model in it")
        return _unpack(seen, "gzip", "gunzip", ".gz")
    for magic, name, command, suffix in (
        (b"\x28\xb5\x2f\xfd", "zstd", "unzstd", ".zst"),
        (b"BZh", "bzip2", "bunzip2", ".bz2"),
        (b"\xfd7zXZ\x00", "xz", "unxz", ".xz"),
    ):
        if seen.starts(magic):
            return _unpack(seen, name, command, suffix)
    if seen.starts(b"7z\xbc\xaf\x27\x1c"):
        fix = f"run `7z x {seen.quoted}`, and give the file that it writes"
        return Recognized("a file compressed with 7-Zip", fix)
    if seen.head[257:262] == b"ustar":
        return Recognized("a tar archive", f"run `tar -xf {seen.quoted}`, and give the model in it")
    return None


def _unpack(seen: _Glance, name: str, command: str, suffix: str) -> Recognized:
    """Say how to unpack a file. These programs refuse one without their own suffix, unless they write to stdout."""
    run = f"{command} -k {seen.quoted}"
    if seen.path.suffix != suffix:
        run = f"{command} -c {seen.quoted} > {shlex.quote(f'{seen.path.stem}.unpacked{seen.path.suffix}')}"
    return Recognized(f"a file compressed with {name}", f"run `{run}`, and give the file that it writes")


def _zip(seen: _Glance) -> Recognized | None:
    if not seen.starts(b"PK\x03\x04"):
        return None
    names = names_in(seen.path)
    kind = archive_with(names)
    if kind is Archive.CHECKPOINT:
        return checkpoints.in_archive(seen.path)
    if kind is not None:
        inputs = " --input NAME=DTYPE[DIM,...]" if kind is Archive.SCRIPT else ""
        fix = f"run `python -m builder publish {seen.quoted}{inputs}`, or `export` to get an ONNX file"
        return Recognized(f"{kind.value} of PyTorch", fix)
    return _other_archive(seen.path, names)


def _other_archive(path: Path, names: Collection[str]) -> Recognized:
    if "model.weights.h5" in names:
        return _keras(path)
    if any("com.apple.CoreML" in name for name in names):
        return _core_ml()
    if any(name.endswith("saved_model.pb") for name in names):
        return _saved_model(path)
    if names and all(name.endswith(".npy") for name in names):
        return Recognized("a file of NumPy's arrays", "give the model; `--samples` takes such a file with inputs")
    if not names:
        return Recognized("a zip archive that was cut short or is damaged", "copy or download it again")
    models = sorted(name for name in names if name.endswith(".onnx"))
    inside = f" with {', '.join(models[:3])}" if models else ""
    return Recognized(f"a zip archive{inside}", f"run `unzip {shlex.quote(str(path))}`, and give the model in it")


def _weights(seen: _Glance) -> Recognized | None:
    if checkpoints.is_pickle(seen.head):
        return checkpoints.in_pickle(seen.path)
    return checkpoints.in_safetensors(seen.path) if checkpoints.is_safetensors(seen.head) else None


def _other_frameworks(seen: _Glance) -> Recognized | None:
    if seen.starts(b"\x89HDF\r\n\x1a\n"):
        return _keras(seen.path)
    if seen.head[4:8] == b"TFL3":
        what = "a model of TensorFlow Lite"
        return Recognized(what, f"run `python -m tf2onnx.convert --tflite {seen.quoted} --output model.onnx`")
    if seen.starts(b"GGUF", b"ggml", b"lmgg"):
        return Recognized("weights for llama.cpp (GGUF)", "give the model that it was converted from")
    if seen.starts(b"ftrt", b"ptrt"):
        what = "a plan of TensorRT, built for one kind of GPU"
        return Recognized(what, "give the ONNX file that it was built from, with `--format tensorrt`")
    if seen.starts(b"\x7fELF", b"MZ"):
        return Recognized("a program or library", "give the model that it was compiled from")
    return None


def _protobuf(seen: _Glance) -> Recognized | None:
    if seen.holds(b"coremltools", b"com.apple."):
        return _core_ml()
    if seen.holds(b"saved_model_main_op", b"saver_filename", b"__saved_model_init_op"):
        return _saved_model(seen.path.parent)
    if seen.starts(b"\n") and seen.holds(b"Placeholder", b"VarHandleOp") and not _is_text(seen):
        what = "a graph of TensorFlow"
        fix = "run `python -m tf2onnx.convert --graphdef FILE --inputs NAMES --outputs NAMES --output model.onnx`"
        return Recognized(what, fix.replace("FILE", str(seen.path)))
    if seen.starts(b"\n") and seen.holds(b"op_callstack", b"op_namescope"):
        return Recognized("a program of PaddlePaddle", "convert it with paddle2onnx")
    return None


def _text(seen: _Glance) -> Recognized | None:
    if not _is_text(seen):
        return None
    start = seen.head[:4000].lstrip()
    if start.startswith(b"<") and b"<net " in start:
        fix = "give the model that it was converted from: OpenVINO does not write ONNX files"
        return Recognized("a description of a model of OpenVINO", fix)
    if start.startswith(b"tree\n") or b'"learner"' in start[:200]:
        return Recognized("a model of LightGBM or XGBoost", "convert it with onnxmltools")
    if start.startswith((b"{", b"[")):
        return Recognized(f"JSON text: {_shown(start)}", "give the .onnx file that belongs to it")
    return Recognized(f"a text file: {_shown(start)}", "give the path of an .onnx file")


def _shown(text: bytes) -> str:
    words = " ".join(text[:200].decode(errors="replace").split())
    return f"{words[:60]} …" if len(words) > 60 else words


def _is_text(seen: _Glance) -> bool:
    try:
        seen.head[:4000].decode()
    except UnicodeDecodeError as error:
        if error.start < len(seen.head[:4000]) - 4:
            return False
    return not seen.head.translate(None, _TEXT)


_LOOKS: Sequence[Callable[[_Glance], Recognized | None]] = (
    _download, _compressed, _zip, _weights, _other_frameworks, _protobuf, _text,
)  # fmt: skip


def _keras(path: Path) -> Recognized:
    fix = f'in Keras 3: `keras.saving.load_model({json.dumps(str(path))}).export("model.onnx", format="onnx")`'
    return Recognized("a file of Keras (HDF5)" if path.suffix != ".keras" else "a file of Keras", fix)


def _saved_model(folder: Path) -> Recognized:
    fix = f"run `python -m tf2onnx.convert --saved-model {shlex.quote(str(folder))} --output model.onnx`"
    return Recognized("a SavedModel of TensorFlow", fix)


def _core_ml() -> Recognized:
    return Recognized(
        "a model of Core ML", "give the model that it was converted from: Core ML does not write ONNX files"
    )
