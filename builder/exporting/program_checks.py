"""Check what an exported program says before PyTorch reads it: reading one can run code that the file contains.

`torch.export.load` unpickles, evaluates the expressions of symbolic sizes with sympy (which is `eval`), looks operators
up by any dotted name under `torch`, imports the modules that an enum names, and makes Python source of the names of
nodes and of guards. So only those parts of its format are let through that programs are made of: operators of PyTorch,
arithmetic, names, numbers. What this package has not seen is refused rather than read.

Source: torch/_export/serde/serialize.py, torch/export/pt2_archive/_package.py and torch/export/_unlift.py of
PyTorch 2.13.
"""

import ast
import json
import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from builder.errors import ModelError

_RUNS = ", which could run code of the file"

FIX = "if you trust the file, load it in a factory of yours: `return torch.export.load(FILE).module()`"

_NAME = re.compile(r"[\w.+\-@:]*")
_OPERATOR = re.compile(
    r"torch\.ops\.(aten|prims|quantized|quantized_decomposed|torchvision)\.(?!from_file\b|save\b)\w+(\.\w+)?"
    r"|torch\.ops\.higher_order\.(cond|while_loop|scan|map_impl|associative_scan|wrap_with_set_grad_enabled"
    r"|wrap_with_autocast|out_dtype|flex_attention|invoke_subgraph)"
    r"|_operator\.(add|sub|mul|truediv|floordiv|mod|pow|neg|pos|abs|eq|ne|lt|le|gt|ge|and_|or_|xor|not_|invert|lshift"
    r"|rshift|getitem)"
    r"|math\.(trunc|ceil|floor|sqrt|pow)"
    r"|torch\.sym_\w+|torch\._sym_sqrt"
)
_CONTAINERS = ("builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict", "collections.namedtuple")
_FUNCTION = re.compile(
    r"Symbol|Integer|Float|Rational|Add|Mul|Pow|Max|Min|Abs|Mod|floor|ceiling|sqrt|Eq|Ne|Lt|Le|Gt|Ge|Equality|Unequality"
    r"|StrictLessThan|LessThan|StrictGreaterThan|GreaterThan|And|Or|Not|FloorDiv|ModularIndexing|Where|PythonMod"
    r"|CleanDiv|CeilToInt|FloorToInt|CeilDiv|LShift|RShift|PowByNatural|FloatPow|FloatTrueDiv|IntTrueDiv|TruncToFloat"
    r"|TruncToInt|RoundToInt|RoundDecimal|ToFloat|Identity|IsNonOverlappingAndDenseIndicator"
)
_SYMBOL = re.compile(r"[a-z]{1,9}\d+")
OUTPUTS = "transformers.modeling_outputs."
"""What models of transformers return. Their names are known to PyTorch once that module is imported."""

_IN_GUARDS = ("L", "max", "min", "abs", "math")
_ARITHMETIC = (
    ast.Expression, ast.BinOp, ast.UnaryOp, ast.BoolOp, ast.Compare, ast.operator, ast.unaryop, ast.boolop, ast.cmpop,
    ast.Load,
)  # fmt: skip


def check(where: str, program: object) -> None:
    """Check the description of a program, `models/NAME.json` of its archive.

    Raises:
        ModelError: It holds something that programs are not made of.
    """
    for path, value in _leaves(program, ()):
        if fault := _fault(path, value):
            raise ModelError(where, f"this exported program {fault}", FIX)


def check_payload(where: str, config: object) -> None:
    """Check which files of the archive hold the weights or constants, `data/weights/NAME_weights_config.json`.

    Raises:
        ModelError: One of them is a pickled object rather than a tensor.
    """
    entries = config.get("config") if isinstance(config, Mapping) else None
    for name, entry in (entries or {}).items():
        file = str(entry.get("path_name")) if isinstance(entry, Mapping) else ""
        if not re.fullmatch(r"(weight|tensor)_\d+", file):
            raise ModelError(where, f"the constant {name!r} of this exported program is a pickled Python object", FIX)


def _leaves(value: object, path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], object]]:
    """Yield every value that is neither a list nor a dict, and every key as a value of its own, with the path to it."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield (*path, "name"), key
            if key != "metadata":  # texts about the source code, which PyTorch only keeps
                yield from _leaves(item, (*path, str(key)))
    elif isinstance(value, list):
        for item in value:
            yield from _leaves(item, path)
    else:
        yield path, value


def _fault(path: tuple[str, ...], value: object) -> str:
    """Return what is wrong with one value; empty if nothing is."""
    if not isinstance(value, str):
        return ""
    key = path[-1] if path else ""
    if path[-2:] == ("range_constraints", "name"):
        return _expression_fault(value)
    if key in ("as_string", "as_strings"):
        return ""  # an argument, which PyTorch writes in quotes
    return _FAULTS.get(key, _name_fault)(value)


def _name_fault(text: str) -> str:
    return "" if _NAME.fullmatch(text) else f"has the name {text[:80]!r}{_RUNS}"


def _operator_fault(text: str) -> str:
    return "" if _OPERATOR.fullmatch(text) else f"calls {text[:80]!r}{_RUNS}"


def _tree_fault(text: str) -> str:
    """Look at the containers that inputs or outputs are in."""
    if not text:
        return ""
    try:
        stack = [json.loads(text)]
    except ValueError:
        return "does not describe its inputs and outputs as JSON"
    while stack:
        node = stack.pop()
        if isinstance(node, list):
            stack += node
        elif isinstance(node, Mapping):
            if (kind := node.get("type")) is not None and not _is_known(str(kind)):
                return f"takes or returns objects of the type {str(kind)[:80]!r}, which only your code knows"
            if not _is_plain(node.get("context")):
                return "has inputs or outputs whose keys are objects"
            stack += node.get("children_spec", ())
    return ""


def _is_known(kind: str) -> bool:
    return kind in _CONTAINERS or kind.startswith(OUTPUTS)


def _is_plain(context: object) -> bool:
    """Return whether the keys of a container are texts and numbers."""
    try:
        keys = json.loads(context) if isinstance(context, str) else context
    except ValueError:
        return bool(re.fullmatch(r"[\w.]*", str(context)))  # the name of a named tuple
    return not isinstance(keys, Mapping) and all(
        key is None or isinstance(key, str | int) for key in (keys if isinstance(keys, list) else [keys])
    )


def _expression_fault(text: str) -> str:
    return "" if _is_made_of(text, _is_size) else f"has the size {text[:80]!r}{_RUNS}"


def _guard_fault(text: str) -> str:
    is_one_line = not set(text) & set("#\n\r\\;")
    return "" if is_one_line and _is_made_of(text, _is_guard) else f"has the condition {text[:80]!r}{_RUNS}"


def _is_made_of(text: str, allows: Callable[[ast.AST], bool]) -> bool:
    try:
        tree = ast.parse(text.strip(), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    strings = {
        id(node.args[0])
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Symbol" and node.args
    } | {id(node.slice) for node in ast.walk(tree) if isinstance(node, ast.Subscript)}
    return all(
        isinstance(node, _ARITHMETIC)
        or (isinstance(node, ast.Constant) and (not isinstance(node.value, str | bytes) or _is_key(node, strings)))
        or allows(node)
        for node in ast.walk(tree)
    )


def _is_key(node: ast.Constant, keys: set[int]) -> bool:
    return id(node) in keys and isinstance(node.value, str) and bool(re.fullmatch(r"\w*", node.value))


def _is_size(node: ast.AST) -> bool:
    """Return whether a part of an expression only calculates with sizes."""
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and bool(_FUNCTION.fullmatch(node.func.id))
    if isinstance(node, ast.Name):
        return bool(_FUNCTION.fullmatch(node.id)) or node.id in ("oo", "int_oo") or bool(_SYMBOL.fullmatch(node.id))
    return isinstance(node, ast.keyword) and node.arg in ("positive", "integer", "negative", "nonnegative", "evaluate")


def _is_guard(node: ast.AST) -> bool:
    """Return whether a part of a condition only compares the sizes of inputs: `L['x'].size()[0] >= 2`."""
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Attribute | ast.Name) and not node.keywords
    if isinstance(node, ast.Attribute):
        return node.attr in ("size", "shape", "stride", "storage_offset", "floor", "ceil", "trunc")
    return isinstance(node, ast.Subscript) or (isinstance(node, ast.Name) and node.id in _IN_GUARDS)


_FAULTS: Mapping[str, Callable[[str], str]] = {
    "target": _operator_fault,
    "as_operator": _operator_fault,
    "expr_str": _expression_fault,
    "guards_code": _guard_fault,
    "in_spec": _tree_fault,
    "out_spec": _tree_fault,
    "as_custom_obj": lambda text: f"holds the object {text[:80]!r}{_RUNS}",
    "class_fqn": lambda text: f"holds an object of the class {text[:80]!r}{_RUNS}",
}


def parsed(where: str, content: bytes) -> Any:
    """Parse a JSON file of the archive, as PyTorch does.

    Raises:
        ModelError: It is no JSON.
    """
    try:
        return json.loads(content.decode())
    except (ValueError, RecursionError) as error:
        raise ModelError(where, "a description in this exported program is not JSON", "save it again") from error
