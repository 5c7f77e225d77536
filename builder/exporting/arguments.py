"""The arguments of `forward`, made from a flat list of tensors.

An ONNX model takes a list of named tensors. `forward` may take dictionaries, tuples, lists, named tuples, dataclasses
and `*args` of them, and Python values beside them. `batch.image` is the item `image` of the parameter `batch`, and
`state.0` is the first item of the parameter `state`.
"""

import collections.abc
import dataclasses
import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Union

from builder.errors import ModelError

Path = tuple[str, ...]
"""A parameter, and the keys and positions that lead to a tensor or value inside it."""

_MAPPINGS = (dict, collections.abc.Mapping)
_LISTS = (list, collections.abc.Sequence, collections.abc.MutableSequence, collections.abc.Iterable)

UNREADABLE = (
    ArithmeticError, AttributeError, ImportError, LookupError, NameError, RuntimeError, SyntaxError, TypeError,
    ValueError,
)  # fmt: skip
"""What an annotation may raise when it is evaluated: it is the user's code, and often names what is not imported."""

Fill = Callable[[Sequence[Any]], Any]
"""Makes an argument of the tensors."""


@dataclass(frozen=True, slots=True)
class Arguments:
    """How to call `forward`.

    Attributes:
        positional: Its positional arguments.
        named: Its arguments by name.
    """

    positional: tuple[Fill, ...]
    named: Mapping[str, Fill]

    def fill(self, tensors: Sequence[Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return the positional arguments and those by name."""
        named = {name: fill(tensors) for name, fill in self.named.items()}
        return tuple(fill(tensors) for fill in self.positional), named


def arguments_of(
    where: str, signature: inspect.Signature, tensors: Sequence[Path], constants: Mapping[Path, object]
) -> Arguments:
    """Work out how to call a function of this signature.

    Args:
        where: The factory, for messages.
        signature: The signature of `forward`.
        tensors: Where each tensor of the list goes.
        constants: The Python values of other arguments.

    Raises:
        ModelError: A name is no parameter, a parameter has no value, or a value does not fit into its parameter.
    """
    leaves: dict[Path, Fill] = {path: _from_list(number) for number, path in enumerate(tensors)}
    leaves |= {path: _always(value) for path, value in constants.items()}
    tree = _tree(leaves)
    parameters = signature.parameters
    anything = next((p.name for p in parameters.values() if p.kind is p.VAR_KEYWORD), None)
    if anything in tree and isinstance(tree[anything], dict):
        tree |= tree.pop(anything)
    _check_names(where, parameters, list(tree), tensors, takes_any=anything is not None)
    return _bound(where, parameters, tree)


def signature_of(forward: Callable[..., Any]) -> inspect.Signature:
    """Return the signature of a function, with its annotations as objects where they can be evaluated."""
    try:
        return inspect.signature(forward, eval_str=True)
    except UNREADABLE:
        return inspect.signature(forward)


def _from_list(number: int) -> Fill:
    return lambda tensors: tensors[number]


def _always(value: object) -> Fill:
    return lambda _: value


def _tree(leaves: Mapping[Path, Fill]) -> dict[str, Any]:
    """Return the leaves as nested dictionaries."""
    tree: dict[str, Any] = {}
    for path, fill in leaves.items():
        inside = tree
        for key in path[:-1]:
            inside = inside.setdefault(key, {})
        inside[path[-1]] = fill
    return tree


def _check_names(
    where: str,
    parameters: Mapping[str, inspect.Parameter],
    given: Sequence[str],
    tensors: Sequence[Path],
    *,
    takes_any: bool,
) -> None:
    """Check that every name is a parameter, and every parameter without a default is named."""
    known = {p.name: p for p in parameters.values() if p.kind is not p.VAR_KEYWORD}
    if not takes_any and (unknown := [name for name in given if name not in known]):
        option = "--input" if unknown[0] in {path[0] for path in tensors} else "--constant"
        raise ModelError(where, f"forward has no parameter {unknown[0]!r}", _listed(known, option))
    missing = [name for name, parameter in known.items() if _is_required(parameter) and name not in given]
    if missing:
        fix = "add an --input NAME=DTYPE[DIMS] for each tensor, and a --constant NAME=VALUE for each Python value"
        raise ModelError(where, f"forward also requires {', '.join(missing)}", fix)


def _listed(parameters: Mapping[str, inspect.Parameter], option: str) -> str:
    names = [f"{name}.0" if p.kind is p.VAR_POSITIONAL else name for name, p in parameters.items()]
    return f"name its parameters with {option}: {', '.join(names)}" if names else "give forward a parameter"


def _is_required(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty and parameter.kind is not parameter.VAR_POSITIONAL


def _bound(where: str, parameters: Mapping[str, inspect.Parameter], tree: Mapping[str, Any]) -> Arguments:
    """Return the arguments: by name where that is possible, because a parameter before may keep its default."""
    rest = next((p for p in parameters.values() if p.kind is p.VAR_POSITIONAL and p.name in tree), None)
    positional: list[Fill] = []
    named: dict[str, Fill] = {}
    for parameter in parameters.values():
        name, is_before_rest = parameter.name, rest is not None and parameter.kind is parameter.POSITIONAL_OR_KEYWORD
        if parameter is rest:
            positional += _several(where, name, tree[name])
        elif parameter.kind is parameter.POSITIONAL_ONLY or is_before_rest:
            if name in tree:
                positional.append(_argument(where, (name,), tree[name], parameter))
            elif any(later in tree for later in list(parameters)[list(parameters).index(name) :]):
                positional.append(_always(parameter.default))
        elif name in tree:
            named[name] = _argument(where, (name,), tree[name], parameter)
    extra = {name: _made(where, (name,), node, None, None) for name, node in tree.items() if name not in parameters}
    return Arguments(tuple(positional), named | extra)


def _several(where: str, name: str, node: Any) -> list[Fill]:
    """Return the arguments that `*args` collects."""
    if not isinstance(node, dict) or not all(map(str.isdigit, node)):
        fix = f"number them: --input '{name}.0=DTYPE[DIMS]' --input '{name}.1=DTYPE[DIMS]'"
        raise ModelError(where, f"forward takes any number of arguments as *{name}", fix)
    return [_made(where, (name, key), node[key], None, None) for key in _positions(where, (name,), node)]


def _argument(where: str, path: Path, node: Any, parameter: inspect.Parameter) -> Fill:
    annotation = None if parameter.annotation is parameter.empty else parameter.annotation
    return _made(where, path, node, annotation, parameter.default)


def _made(where: str, path: Path, node: Any, annotation: Any, default: Any) -> Fill:
    """Return how to make a value: a tensor, a constant, or a container of them of the annotated type."""
    if not isinstance(node, dict):
        fill: Fill = node
        return fill
    kind, arguments = _container(annotation)
    if hasattr(kind, "_fields") or dataclasses.is_dataclass(kind):
        return _record(where, path, node, kind)
    if (isinstance(kind, type) and issubclass(kind, _MAPPINGS)) or not all(map(str.isdigit, node)):
        return _mapping(where, path, node, kind, arguments)
    inside = [
        _made(where, (*path, key), node[key], _item(arguments, number, is_tuple=kind is tuple), None)
        for number, key in enumerate(_positions(where, path, node))
    ]
    made = list if kind in _LISTS or isinstance(default, list) else tuple
    return lambda tensors: made(fill(tensors) for fill in inside)


def _container(annotation: Any) -> tuple[Any, tuple[Any, ...]]:
    """Return the container type in an annotation, such as `dict` in `dict[str, Tensor] | None`, and its arguments."""
    choices = typing.get_args(annotation) if _is_union(annotation) else (annotation,)
    for choice in choices:
        kind = typing.get_origin(choice) or choice
        if typing.is_typeddict(kind):
            return dict, ()
        is_record = hasattr(kind, "_fields") or dataclasses.is_dataclass(kind)
        is_sequence = isinstance(kind, type) and issubclass(kind, (*_MAPPINGS, *_LISTS, tuple))
        if is_record or (is_sequence and kind not in (str, bytes)):
            return kind, typing.get_args(choice)
    return None, ()


def _is_union(annotation: Any) -> bool:
    return typing.get_origin(annotation) in (Union, types.UnionType)


def _item(arguments: tuple[Any, ...], number: int, *, is_tuple: bool) -> Any:
    """Return the annotation of one item of a list or tuple."""
    if is_tuple and Ellipsis not in arguments:
        return arguments[number] if number < len(arguments) else None
    return arguments[0] if arguments else None


def _positions(where: str, path: Path, node: Mapping[str, Any]) -> list[str]:
    """Return the keys in the order of their numbers, which have to be 0, 1, 2 and so on."""
    keys = sorted(node, key=int)
    if [int(key) for key in keys] != list(range(len(keys))):
        missing = next(number for number in range(len(keys) + 1) if str(number) not in node)
        name = ".".join(path)
        what = f"{name}.{missing} is missing beside {', '.join(f'{name}.{key}' for key in keys)}"
        raise ModelError(where, what, f"number the items of {name} from 0 without a gap")
    return keys


def _mapping(where: str, path: Path, node: Mapping[str, Any], kind: Any, arguments: tuple[Any, ...]) -> Fill:
    key_type, item = arguments if len(arguments) == 2 else (str, None)
    inside = {
        int(key) if key_type is int and key.isdigit() else key: _made(where, (*path, key), child, item, None)
        for key, child in node.items()
    }
    is_special = isinstance(kind, type) and issubclass(kind, dict) and kind is not dict
    made: Callable[..., Any] = kind if is_special else dict
    return lambda tensors: made({key: fill(tensors) for key, fill in inside.items()})


def _record(where: str, path: Path, node: Mapping[str, Any], kind: Any) -> Fill:
    """Return how to make a named tuple or a dataclass; its fields are given by name or by position."""
    names = list(getattr(kind, "_fields", None) or [f.name for f in dataclasses.fields(kind) if f.init])
    given = {names[int(k)] if k.isdigit() and int(k) < len(names) else k: child for k, child in node.items()}
    try:
        hints = typing.get_type_hints(kind)
    except UNREADABLE:
        hints = {}
    try:
        inspect.signature(kind).bind(**given)
    except TypeError as error:
        name = ".".join(path)
        fix = f"give its fields as {', '.join(f'{name}.{field}' for field in names)}"
        raise ModelError(where, f"{name} is a {kind.__name__}: {error}", fix) from error
    inside = {name: _made(where, (*path, name), child, hints.get(name), None) for name, child in given.items()}
    return lambda tensors: kind(**{name: fill(tensors) for name, fill in inside.items()})
