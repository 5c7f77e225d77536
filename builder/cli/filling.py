"""Fill the option classes of the steps from the command line, by name.

A parameter of a command has the name of the field that it fills. So an option is declared once, and no code copies it.
"""

from collections.abc import Mapping, MutableMapping
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

Options = TypeVar("Options")


def fill(kind: type[Options], given: MutableMapping[str, Any]) -> Options:
    """Make a `kind`, and the option classes inside it, from values by the names of their fields.

    The values used are taken out of `given`; None leaves a field at its default. A name that two classes have fills the
    outer one: `precision` fills `PublishOptions.precision`, and `publish` sets `BuildOptions.precision` from that.

    For example, `{"effort": "full", "instances": 2, "name": "digits"}` makes

        PublishOptions(effort="full", config=ConfigOptions(instances=2))

    and leaves `{"name": "digits"}`.
    """
    inner = inner_classes(kind)
    own = [name for name in field_names(kind) if name not in inner and name in given]
    values = {name: given.pop(name) for name in own}
    chosen = {name: value for name, value in values.items() if value is not None}
    return kind(**chosen, **{name: fill(each, given) for name, each in inner.items()})


def field_names(kind: Any) -> list[str]:
    """Return the names of a dataclass's fields."""
    return [field.name for field in fields(kind)]


def inner_classes(kind: Any) -> Mapping[str, Any]:
    """Return the option classes among the fields of a dataclass: those whose default is a new object of their own."""
    factories: dict[str, Any] = {field.name: field.default_factory for field in fields(kind)}
    return {name: factory for name, factory in factories.items() if is_dataclass(factory)}
