"""How a function of the user's is named and called: `nets:make`, `nets:make(depth=8)`, `nets:Net.small("wide")`."""

import ast
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from builder.errors import ModelError

FORM = "package.module:factory"
EXAMPLE = "nets:make_model or 'nets:make_model(depth=8)'"


@dataclass(frozen=True, slots=True)
class Call:
    """A factory and its arguments.

    Attributes:
        text: The call as it is stored with the model: the same for every way to write the same arguments.
        home: The Python module.
        name: The factory in it; a class method has the class before it, as in `Net.small`.
        args: The positional arguments.
        kwargs: The arguments by name.
    """

    text: str
    home: str
    name: str
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def shown(self) -> str:
        """The factory without its arguments."""
        return f"{self.home}:{self.name}"

    @property
    def has_arguments(self) -> bool:
        """Whether it has arguments."""
        return bool(self.args or self.kwargs)

    def check(self, factory: Callable[..., Any]) -> None:
        """Check that the factory takes these arguments, and needs no others.

        Raises:
            ModelError: It does not.
        """
        try:
            signature = inspect.signature(factory)
        except (TypeError, ValueError):
            return  # it is written in C, and says itself what it needs
        try:
            signature.bind(*self.args, **self.kwargs)
        except TypeError as error:
            raise ModelError(self.text, self._fault(signature, error), self._fix(signature)) from error

    def _fault(self, signature: inspect.Signature, error: TypeError) -> str:
        given = signature.bind_partial if _takes(signature, self) else None
        taken = given(*self.args, **self.kwargs).arguments if given else {}
        missing = [p.name for p in signature.parameters.values() if _is_required(p) and p.name not in taken]
        if given and missing:
            return f"{self.name} needs {'the argument' if len(missing) == 1 else 'the arguments'} {', '.join(missing)}"
        return f"{self.name} does not take these arguments: {error}"

    def _fix(self, signature: inspect.Signature) -> str:
        parameters = signature.parameters.values()
        shown = [f"{p.name}=…" for p in parameters if _is_required(p)] or [f"{p.name}=…" for p in parameters][:1]
        if not shown:
            return f"write {self.shown}: it takes no arguments"
        names = ", ".join(p.name for p in parameters)
        return (
            f"give them in parentheses, in quotes for the shell: '{self.shown}({', '.join(shown)})'; it takes {names}"
        )


def _takes(signature: inspect.Signature, call: Call) -> bool:
    try:
        signature.bind_partial(*call.args, **call.kwargs)
    except TypeError:
        return False
    return True


def _is_required(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty and parameter.kind not in (
        parameter.VAR_POSITIONAL,
        parameter.VAR_KEYWORD,
    )


def parse(text: str, *, form: str = FORM, example: str = EXAMPLE) -> Call:
    """Read `package.module:factory` or `package.module:factory(ARGUMENT, NAME=ARGUMENT)`; arguments are literals.

    Nothing in the text is run: an argument is a number, a string, true or false, None, or a list, tuple, set or
    dictionary of these.

    Args:
        text: What the user wrote.
        form: How it should be written, for messages.
        example: What the user could write, for messages.

    Raises:
        ModelError: It has another form, or an argument is not a literal.
    """
    home, colon, called = text.strip().partition(":")
    if not (colon and all(part.isidentifier() for part in home.split("."))):
        raise ModelError(text, f"not of the form {form}", f"name a Python module and a function in it: {example}")
    node = _expression(text, called.strip(), form, example)
    name = node.func if isinstance(node, ast.Call) else node
    dotted = ast.unparse(name)
    if not all(part.isidentifier() for part in dotted.split(".")):
        raise ModelError(text, f"not of the form {form}", f"name a Python module and a function in it: {example}")
    if not isinstance(node, ast.Call):
        return Call(f"{home}:{dotted}", home, dotted)
    args = tuple(_literal(text, argument) for argument in node.args)
    kwargs = {str(_keyword(text, given)): _literal(text, given.value) for given in node.keywords}
    written = [
        *map(ast.unparse, node.args),
        *sorted(f"{given.arg}={ast.unparse(given.value)}" for given in node.keywords),
    ]
    shown = f"{home}:{dotted}" + (f"({', '.join(written)})" if written else "")
    return Call(shown, home, dotted, args, kwargs)


def _expression(text: str, called: str, form: str, example: str) -> ast.expr:
    try:
        return ast.parse(called, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        if "(" not in called:
            fix = f"name a Python module and a function in it: {example}"
            raise ModelError(text, f"not of the form {form}", fix) from error
        what = f"its arguments cannot be read: {error.msg if isinstance(error, SyntaxError) else error}"
        fix = "write them as in Python, and quote them for the shell: 'nets:make(\"small\", depth=8)'"
        raise ModelError(text, what, fix) from error


def _keyword(text: str, given: ast.keyword) -> str:
    if given.arg is None:
        raise ModelError(text, "** is not supported in the arguments", "write each argument as NAME=VALUE")
    return given.arg


def _literal(text: str, node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError) as error:
        shown = ast.unparse(node)
        quoted = f"; for a text write {shown!r}" if isinstance(node, ast.Name) else ""
        what = f"the argument {shown} is not a literal, and nothing else is run"
        fix = f"use numbers, texts in quotes, True, False, None, lists or dictionaries{quoted}"
        raise ModelError(text, what, fix) from error
