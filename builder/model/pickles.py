"""Read what a pickle describes without making any of its objects: no code of it is run, whatever it asks for.

A pickle is a program that calls functions by their names. Here every function is replaced by a record of its name and
arguments, so that the names and shapes of the tensors in a checkpoint can be shown.

Source: pickle.py and torch/_utils.py (`_rebuild_tensor_v2`).
"""

import io
import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

MOST_BYTES = 8 << 20
"""The most bytes of a pickle that are read."""

DEEPEST = 4
"""How many dicts deep a tensor is looked for."""


class Made:
    """What a call would have made: an object of the class, or the result of the function, that `origin` names."""

    origin = ""

    def __init__(self, *args: Any, **_: Any) -> None:
        self.args, self.state = args, None

    def __new__(cls, *_: Any, **__: Any) -> "Made":
        """Take any arguments."""
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        """Keep the state as it is described."""
        self.state = state

    def append(self, item: Any) -> None:
        """Forget an item."""

    def extend(self, items: Any) -> None:
        """Forget some items."""

    def add(self, item: Any) -> None:
        """Forget an item."""

    def update(self, items: Any) -> None:
        """Forget some items."""

    def __setitem__(self, key: Any, value: Any) -> None:
        """Forget an item."""


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor that a pickle describes: its element type, and its shape."""

    dtype: str
    shape: tuple[int, ...]

    def __str__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


@dataclass(slots=True)
class Described:
    """What a pickle describes.

    Attributes:
        value: The object, with `Made` for what calls would have made. None if it cannot be read to its end.
        names: The functions and classes that it names, in order.
    """

    value: Any = None
    names: list[str] = field(default_factory=list)


class _Dict(dict[Any, Any]):
    """An OrderedDict, whose attributes are forgotten."""

    def __setstate__(self, state: Any) -> None: ...


class _Reader(pickle._Unpickler):
    """Python's own unpickler, not that of C, which reserves memory for what a pickle only announces."""

    dispatch = {code: load for code, load in pickle._Unpickler.dispatch.items() if code != pickle.BYTEARRAY8[0]}  # noqa: RUF012

    def __init__(self, stream: io.BytesIO, names: list[str]) -> None:
        super().__init__(stream)
        self._names = names

    def find_class(self, module: str, name: str) -> Any:
        origin = f"{module}.{name}"
        self._names.append(origin)
        if origin == "collections.OrderedDict":
            return _Dict
        return type("Made", (Made,), {"origin": origin})

    def persistent_load(self, pid: Any) -> Any:
        """Return the description of a storage, or a class, which PyTorch before 1.6 wrote with its source."""
        return pid[1] if isinstance(pid, tuple) and len(pid) > 1 and pid[0] == "module" else pid


def describe(content: bytes) -> Described:
    """Describe the first pickle in some bytes, which may be cut short."""
    found = Described()
    try:
        found.value = _Reader(io.BytesIO(content[:MOST_BYTES]), found.names).load()
    except Exception:  # a damaged or hostile pickle may fail in any way, and the names found so far are enough
        return found
    return found


def tensors_in(value: Any) -> tuple[tuple[str, ...], dict[str, Tensor]]:
    """Find the dict of a described object that holds the most tensors.

    Returns:
        The keys that lead to it, and its tensors by name.
    """
    return max(_dicts(value, ()), key=lambda found: len(found[1]), default=((), {}))


def _dicts(value: Any, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], dict[str, Tensor]]]:
    if not isinstance(value, Mapping):
        return
    yield path, {key: found for key, item in value.items() if isinstance(key, str) and (found := tensor(item))}
    if len(path) < DEEPEST:
        for key, item in value.items():
            if isinstance(key, str):
                yield from _dicts(item, (*path, key))


def tensor(value: Any) -> Tensor | None:
    """Return the tensor that a call would make: `_rebuild_tensor_v2(storage, offset, size, …)`, or a parameter."""
    if not isinstance(value, Made) or not value.args:
        return None
    if value.origin in ("torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"):
        return tensor(value.args[0])
    if value.origin not in ("torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor") or len(value.args) < 3:
        return None
    storage, _, shape = value.args[:3]
    if not (isinstance(shape, tuple) and all(isinstance(size, int) for size in shape)):
        return None
    is_storage = isinstance(storage, tuple) and len(storage) > 1
    kind = str(getattr(storage[1], "origin", "")).rpartition(".")[2].removesuffix("Storage") if is_storage else ""
    return Tensor(_DTYPES.get(kind, kind.lower()), shape)


def untagged(value: Any) -> Any:
    """Return what TorchScript tagged with a type: `restore_type_tag(value, "List[Tensor]")`."""
    is_tagged = isinstance(value, Made) and value.origin == "torch.jit._pickle.restore_type_tag" and value.args
    return value.args[0] if is_tagged else value


_DTYPES = {
    "Float": "float32", "Double": "float64", "Half": "float16", "BFloat16": "bfloat16", "Long": "int64",
    "Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool",
}  # fmt: skip
