"""Say what a checkpoint holds, and write the factory that makes a module of it. The weights themselves are not read."""

import json
import pickletools
import shlex
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from builder.files import open_file
from builder.model import pickles
from builder.model.archives import record_of

SHOWN = 4
"""How many tensors are listed."""

LONGEST_HEADER = 16 << 20
"""The longest header of a .safetensors file that is read, bytes."""

_LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
"""How `torch.save` began its files before PyTorch 1.6: the pickle of a magic number."""

_PREFIXES = ("module.", "_orig_mod.")
"""What DataParallel and torch.compile put before the names of weights."""


@dataclass(frozen=True, slots=True)
class Recognized:
    """What a file is, and what to do with it.

    Attributes:
        what: A noun with its article: `a checkpoint of PyTorch`.
        fix: What to do, beginning with a verb.
        lines: More about it, one line each.
    """

    what: str
    fix: str
    lines: Sequence[str] = ()


def is_pickle(head: bytes) -> bool:
    """Return whether a file begins as pickles do, in protocol 2 or later."""
    return len(head) > 2 and head[0] == 0x80 and 2 <= head[1] <= 5


def is_safetensors(head: bytes) -> bool:
    """Return whether a file begins with the length of a JSON header, and that header."""
    return len(head) > 9 and 2 <= int.from_bytes(head[:8], "little") <= 100 << 20 and head[8:9] == b"{"


def in_archive(path: Path) -> Recognized:
    """Describe what `torch.save` wrote."""
    content = record_of(path, "data.pkl", pickles.MOST_BYTES)
    return _torch(path, pickles.describe(content))


def in_pickle(path: Path) -> Recognized:
    """Describe a file that is a pickle: an old one of PyTorch, or of another library."""
    with open_file(path) as stream:
        content = stream.read(pickles.MOST_BYTES)
    if content.startswith(_LEGACY):
        return _torch(path, _after_three(content))
    found = pickles.describe(content)
    if any(name.startswith("torch.") for name in found.names):
        return _torch(path, found)
    homes = {name.partition(".")[0] for name in found.names}
    for home, converter in _CONVERTERS.items():
        if home in homes:
            return Recognized(f"a pickle of {home}", f"convert it with {converter}, in the program that made it")
    named = f" of {found.names[0]}" if found.names else ""
    return Recognized(f"a pickle{named}", "write a program that loads it, if you trust it, and exports an ONNX file")


_CONVERTERS = {
    "sklearn": "skl2onnx (`skl2onnx.to_onnx(model, rows)`)",
    "xgboost": "onnxmltools (`onnxmltools.convert_xgboost`)",
    "lightgbm": "onnxmltools (`onnxmltools.convert_lightgbm`)",
    "catboost": "CatBoost itself (`model.save_model(FILE, format='onnx')`)",
    "keras": "Keras itself (`model.export(FILE, format='onnx')`)",
}


def _after_three(content: bytes) -> pickles.Described:
    """Describe the fourth pickle of an old file of PyTorch: after a magic number, a version and facts of the system."""
    for _ in range(3):
        end = _length(content)
        if not end:
            return pickles.Described()
        content = content[end:]
    return pickles.describe(content)


def _length(content: bytes) -> int:
    """Return how many bytes the first pickle has; 0 if it has no end."""
    try:
        positions = (position for code, _, position in pickletools.genops(content) if code.name == "STOP")
        return 1 + (next(positions) or 0)
    except (ValueError, StopIteration):
        return 0


def in_safetensors(path: Path) -> Recognized:
    """Describe a .safetensors file by its header."""
    try:
        with open_file(path) as stream:
            length = int.from_bytes(stream.read(8), "little")
            header = json.loads(stream.read(min(length, LONGEST_HEADER)))
        tensors = {
            str(name): pickles.Tensor(_SAFE_TYPES.get(str(entry["dtype"]), str(entry["dtype"])), tuple(entry["shape"]))
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError):
        return Recognized("weights in safetensors, damaged or cut short", "copy or download the file again")
    load = f"safetensors.torch.load_file({_quoted(path)})"
    return _weights(path, "weights alone (safetensors)", tensors, load, ["import safetensors.torch"])


_SAFE_TYPES = {
    "F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32",
    "I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool",
}  # fmt: skip


def _torch(path: Path, found: pickles.Described) -> Recognized:
    """Describe what `torch.save` wrote, a dict of weights or a module."""
    module = next(_modules(found.value), None)
    if module is not None:
        return _whole(path, *module)
    keys, tensors = pickles.tensors_in(found.value)
    inner = "".join(f"[{_quoted(key)}]" for key in keys)
    if not tensors:
        what = "a file that torch.save wrote, without a dict of weights"
        return Recognized(what, "load it in a factory of yours, and give that: `publish nets:make --input …`")
    if any(key.startswith("pytorch-lightning") for key in found.value if isinstance(key, str)):
        lines = [
            *_listed(tensors),
            *_factory(
                ["from my_project import LitNet  # the class that was trained"],
                [f'return LitNet.load_from_checkpoint({_quoted(path)}, map_location="cpu")'],
            ),
        ]
        return Recognized("a checkpoint of Lightning: weights, without the code that uses them", _publish(path), lines)
    load = f'torch.load({_quoted(path)}, map_location="cpu", weights_only=True){inner}'
    return _weights(path, "a checkpoint of PyTorch: weights", tensors, load, ["import torch"])


def _modules(value: Any) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yield the classes of pickled modules, each with the key that leads to it."""
    if isinstance(value, pickles.Made) and isinstance(value.state, Mapping) and "_modules" in value.state:
        yield value.origin, ()
    elif isinstance(value, Mapping):
        for key, item in value.items():
            if isinstance(item, pickles.Made) and isinstance(item.state, Mapping) and "_modules" in item.state:
                yield item.origin, (str(key),)


def _whole(path: Path, origin: str, keys: tuple[str, ...]) -> Recognized:
    what = f"a pickled PyTorch module, of the class {origin}"
    if origin.startswith("ultralytics."):
        return Recognized(
            what, f"run `yolo export {shlex.quote(f'model={path}')} format=onnx`, and give the file that it writes"
        )
    home, _, name = origin.rpartition(".")
    inner = "".join(f"[{_quoted(key)}]" for key in keys)
    body = [f'return torch.load({_quoted(path)}, map_location="cpu", weights_only=False){inner}']
    imports = ["import torch"]
    if home == "__main__":
        imports += ["import __main__", f"from my_script import {name}", "", f"__main__.{name} = {name}"]
    lines = ["loading it runs what its author put into it, so do this only if you trust the file:"]
    return Recognized(what, _publish(path), [*lines, *_factory(imports, body, says_so=False)])


def _weights(
    path: Path, what: str, tensors: Mapping[str, pickles.Tensor], load: str, imports: Sequence[str]
) -> Recognized:
    prefix = next((p for p in _PREFIXES if all(name.startswith(p) for name in tensors)), "")
    body = ["model = Net()"]
    if prefix:
        body += [f"weights = {load}", f'weights = {{name.removeprefix("{prefix}"): w for name, w in weights.items()}}']
        body += ["model.load_state_dict(weights)"]
    else:
        body += [f"model.load_state_dict({load})"]
    body += ["return model"]
    lines = [*_listed(tensors), *_factory([*imports, "from my_project import Net  # the class that was trained"], body)]
    return Recognized(f"{what}, without the code that uses them", _publish(path), lines)


def _listed(tensors: Mapping[str, pickles.Tensor]) -> Iterator[str]:
    for name, tensor in list(tensors.items())[:SHOWN]:
        yield f"{name} {tensor}"
    if len(tensors) > SHOWN:
        yield f"and {len(tensors) - SHOWN:,} more"


def _factory(imports: Sequence[str], body: Sequence[str], *, says_so: bool = True) -> Iterator[str]:
    if says_so:
        yield "a factory makes the module that has them, in nets.py:"
    for line in (*imports, "", "def make():", *(f"    {line}" for line in body)):
        yield f"    {line}".rstrip()


def _quoted(text: object) -> str:
    """Return a text in double quotes, as Python code."""
    return json.dumps(str(text))


def _publish(path: Path) -> str:
    """Return the command, and the shorter way for a folder of Hugging Face."""
    fix = "write nets.py, and run `python -m builder publish nets:make --input NAME=DTYPE[DIM,...]`"
    if (path.parent / "config.json").is_file():
        fix += f"; if the folder is one of Hugging Face, `python -m builder publish {shlex.quote(f'hf:{path.parent}')}`"
    return fix
