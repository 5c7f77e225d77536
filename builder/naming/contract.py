"""Find out which tensor of a later version is which tensor of the version that is served.

A newly exported model often has other names, because exporters count: the output that was `45` is now `48`. Clients
rely on the served names, so each new tensor has to be matched with a served one, and with certainty. Each side, inputs
and outputs, is matched for itself:

1. Tensors are put into groups of the same data type and dimensions. A tensor alone in its group is certain.
2. In a larger group, a name that a person chose decides, as the served name or as the served version's original name.
3. If one tensor remains in a group, it is certain. If several remain and an exporter numbered them all, their order
   decides. Otherwise nothing does, and the user has to say which is which.

For example, version 1 serves `image` FP32 [3, 224, 224], `boxes` FP32 [4] and `anchors` FP32 [4], where the outputs
were `45` and `48` in the file. Then for the outputs of the next file:

    50 and 53            match boxes and anchors, by their order
    anchors and boxes    match anchors and boxes, by their names
    anchors and 50       match anchors by its name, and so boxes
    48 and 45            are refused: if the numbers mean anything, the order is wrong
    corners and priors   are refused: both names are new
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from builder.errors import Listing, ModelError
from builder.naming.stable import stable_name
from builder.printable import counted
from builder.record import ServedTensor


@dataclass(frozen=True, slots=True)
class Contract:
    """The inputs and outputs that clients of the served version rely on, in order."""

    inputs: tuple[ServedTensor, ...]
    outputs: tuple[ServedTensor, ...]


@dataclass(frozen=True, slots=True)
class Side:
    """The inputs or the outputs of a new model, and of the served version.

    Attributes:
        kind: "input" or "output".
        new: The tensors of the new model, with their original names.
        asked: The name that the user asks for, for each new tensor.
        served: The tensors of the served version.
    """

    kind: str
    new: tuple[ServedTensor, ...]
    asked: tuple[str | None, ...]
    served: tuple[ServedTensor, ...]

    def chosen_name(self, i: int) -> str | None:
        """Return the name that a person chose for a new tensor, or None if an exporter made its name up."""
        return self.asked[i] or stable_name(self.new[i].name, len(self.new))


class _NoMatchError(Exception):
    """The tensors of one side cannot be matched; the message says why, and `fix` what the user can do."""

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what)
        self.fix = fix


_RENAME = "say which is which with --rename OLD=NEW, or publish a new model with --name"
_NEW_MODEL = "publish it as a new model with --name: clients of the served version could not use it"


def served_names(where: object, sides: Sequence[Side]) -> list[list[str]]:
    """Return for each side the served name of each new tensor.

    Raises:
        ModelError: A tensor cannot be matched with certainty. Both versions are shown in a table.
    """
    names: list[list[str]] = []
    faults: list[_NoMatchError] = []
    for side in sides:
        try:
            names.append(_match(side))
        except _NoMatchError as fault:
            faults.append(fault)
    if faults:
        what = f"the model does not match the served version ({'; '.join(map(str, faults))})"
        fixes = {fault.fix for fault in faults}
        raise ModelError(where, Listing(what, _table(sides)), _NEW_MODEL if _NEW_MODEL in fixes else _RENAME)
    return names


def _table(sides: Sequence[Side]) -> Iterator[str]:
    rows = [("", "served version", "this model")]
    for side in sides:
        for i in range(max(len(side.served), len(side.new))):
            left = _as_text(side.served[i]) if i < len(side.served) else "-"
            rows.append((side.kind, left, _as_text(side.new[i]) if i < len(side.new) else "-"))
    widths = [max(len(row[i]) for row in rows) for i in range(2)]
    for kind, left, right in rows:
        yield f"{kind:{widths[0]}}  {left:{widths[1]}}  {right}"


def _as_text(tensor: ServedTensor) -> str:
    return f"{tensor.name} {tensor.data_type} {list(tensor.dims)}"


# ---------------------------------------------------------------- matching one side


_Signature = tuple[str, tuple[int, ...]]


def _signature(tensor: ServedTensor) -> _Signature:
    """Return what may not change. To clients, Triton shows a row without dimensions as one of dims [1]."""
    return tensor.data_type, tensor.dims or (1,)


def _match(side: Side) -> list[str]:
    """Return the served name of each new tensor.

    Raises:
        _NoMatchError: They cannot be matched with certainty.
    """
    if len(side.new) != len(side.served):
        raise _NoMatchError(f"{counted(len(side.new), side.kind)} instead of {len(side.served)}", _NEW_MODEL)
    _check_asked(side)
    if _is_same_export(side):
        return [tensor.name for tensor in side.served]
    names = [""] * len(side.new)
    for ours, theirs in _groups(side):
        for i, j in _pair(side, ours, theirs).items():
            names[i] = side.served[j].name
    _check_names(side, names)
    return names


def _check_asked(side: Side) -> None:
    served = {tensor.name for tensor in side.served}
    unknown = [name for name in side.asked if name and name not in served]
    if unknown:
        raise _NoMatchError(f"the served version has no {side.kind} {unknown[0]!r}", _RENAME)


def _is_same_export(side: Side) -> bool:
    """Return whether the new tensors have the original names, types and dimensions of the served version, in order."""
    new = [(tensor.original, _signature(tensor)) for tensor in side.new]
    served = [(tensor.original, _signature(tensor)) for tensor in side.served]
    return new == served and not any(side.asked)


def _groups(side: Side) -> list[tuple[list[int], list[int]]]:
    """Return the positions of the new and the served tensors with the same data type and dimensions.

    Raises:
        _NoMatchError: There are not as many new tensors of some type and dimensions as served ones.
    """
    groups: dict[_Signature, tuple[list[int], list[int]]] = {}
    for i, tensor in enumerate(side.new):
        groups.setdefault(_signature(tensor), ([], []))[0].append(i)
    for j, tensor in enumerate(side.served):
        groups.setdefault(_signature(tensor), ([], []))[1].append(j)
    if any(len(ours) != len(theirs) for ours, theirs in groups.values()):
        raise _NoMatchError(f"the data type or dimensions of an {side.kind} changed", _NEW_MODEL)
    return list(groups.values())


def _pair(side: Side, ours: Sequence[int], theirs: Sequence[int]) -> dict[int, int]:
    """Pair the tensors of one group: the position of each new tensor to that of a served one.

    Take `new = [anchors, 50]` and `served = [boxes, anchors]`. `_pair_by_name` gives {0: 1}. The new tensor 1 and the
    served tensor 0 remain, and the result is {0: 1, 1: 0}.

    Raises:
        _NoMatchError: Neither their names nor their order tells which is which.
    """
    pairs = _pair_by_name(side, ours, theirs)
    left = [i for i in ours if i not in pairs]
    free = [j for j in theirs if j not in pairs.values()]
    if len(left) > 1 and not _order_decides(side, left, free):
        names = ", ".join(repr(side.new[i].name) for i in left)
        what = f"{names} have the same data type and dimensions, and their names do not show which is which"
        raise _NoMatchError(what, _RENAME)
    return pairs | dict(zip(left, free, strict=True))


def _pair_by_name(side: Side, ours: Sequence[int], theirs: Sequence[int]) -> dict[int, int]:
    """Pair the tensors whose chosen name is a served name, or the original name of a served tensor."""
    pairs: dict[int, int] = {}
    for i in ours:
        name, is_asked = side.chosen_name(i), bool(side.asked[i])
        same = [j for j in theirs if name in _names_of(side.served[j], with_original=not is_asked)]
        if len(same) == 1 and same[0] not in pairs.values():
            pairs[i] = same[0]
    return pairs


def _names_of(served: ServedTensor, *, with_original: bool) -> tuple[str | None, ...]:
    return (served.name, served.original) if with_original else (served.name,)


def _order_decides(side: Side, left: Sequence[int], free: Sequence[int]) -> bool:
    """Return whether tensors with nothing but an exporter's numbers are in the same order as the served ones.

    Numbers that moved on, from 45 and 48 to 48 and 51, say nothing against it. The very numbers of the served version
    in another order, 48 and 45, do.
    """
    new_names = [side.new[i].name for i in left]
    served_originals = [side.served[j].original for j in free]
    is_numbered = all(stable_name(name, len(side.new)) is None for name in new_names)
    is_exchanged = set(new_names) == set(served_originals) and new_names != served_originals
    return is_numbered and not is_exchanged


def _check_names(side: Side, names: Sequence[str]) -> None:
    """Check that no tensor would get another name than the served one that the user or the file gives it.

    Raises:
        _NoMatchError: One would, because the served tensor of that name has another type or other dimensions.
    """
    served = {tensor.name for tensor in side.served}
    for tensor, asked, name in zip(side.new, side.asked, names, strict=True):
        if asked and asked != name:
            what = f"{tensor.name!r} cannot be renamed to {asked!r}, which has another data type or other dimensions"
            raise _NoMatchError(what, _RENAME)
        is_chosen = stable_name(tensor.name, len(side.new)) == tensor.name
        if not asked and is_chosen and tensor.name in served and tensor.name != name:
            raise _NoMatchError(f"{tensor.name!r} has the data type and dimensions of the served {name!r}", _RENAME)
