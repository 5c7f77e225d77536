"""Einsum: axes have letters, and so has the batch."""

import string
from collections.abc import Mapping, Sequence
from dataclasses import replace

from builder.batching.layout import DROPPED, Batch, Placed
from builder.batching.rule import Op, Plan, Wanted, per_sample
from builder.batching.rules.registry import ai_onnx, table

ELLIPSIS = "..."


def einsum(op: Op) -> Plan:
    """Einsum: the batch keeps its letter, or gets one of its own in every batched term.

    `bij,jk->bik` stays as it is; of samples without an axis for the batch `ij,jk->ik` becomes `Zij,jk->Zik`.

    Source: https://onnx.ai/onnx/operators/onnx__Einsum.html
    """
    terms, output = _letters(op)
    places = {i: terms[i][b.axis] if isinstance(b, Placed) else None for i, _, b in op.batched()}
    return _in_place(op, terms, output, places) or _lifted(op, terms, output, places)


def _letters(op: Op) -> tuple[list[str], str]:
    """The terms of the equation and its output, with letters in place of an ellipsis."""
    equation = str(op.attribute("equation")).replace(" ", "")
    left, arrow, output = equation.partition("->")
    terms = left.split(",")
    if not arrow:
        letters = left.replace(".", "").replace(",", "")
        output = ELLIPSIS * (ELLIPSIS in left) + "".join(sorted(c for c in set(letters) if letters.count(c) == 1))
    if ELLIPSIS not in equation:
        return terms, output
    free = (c for c in string.ascii_letters if c not in equation)
    hidden = {i: op.operand(i).rank - len(t) + len(ELLIPSIS) for i, t in enumerate(terms) if ELLIPSIS in t}
    sizes = {i: op.operand(i).shape[t.index(ELLIPSIS) :][: hidden[i]] for i, t in enumerate(terms) if i in hidden}
    depth = max(hidden.values(), default=0)
    shared = [next(free) for _ in range(depth)]
    largest = [max((s[k - depth] for s in sizes.values() if len(s) >= depth - k), default=1) for k in range(depth)]
    for i, size in sizes.items():
        first = depth - len(size)
        spelled = (shared[first + k] if d == largest[first + k] else next(free) for k, d in enumerate(size))
        terms[i] = terms[i].replace(ELLIPSIS, "".join(spelled))
    return terms, output.replace(ELLIPSIS, "".join(shared))


def _in_place(op: Op, terms: Sequence[str], output: str, places: Mapping[int, str | None]) -> Plan | None:
    """Every batched term has the batch at one letter, which no other term has and the output keeps."""
    batches = [b for *_, b in op.batched()]
    letter, first = next(iter(places.values())), batches[0]
    if letter is None or set(places.values()) != {letter} or letter not in output:
        return None
    if first.lifted or any(b.lifted or b.order != first.order for b in batches):
        return None
    if any(letter in t for i, t in enumerate(terms) if i not in places) or any(t.count(letter) > 1 for t in terms):
        return None
    return Plan([replace(first, axis=output.index(letter), certain=all(b.certain for b in batches))])


def _lifted(op: Op, terms: Sequence[str], output: str, places: Mapping[int, str | None]) -> Plan:
    """The batch gets a letter of its own, in front of every batched term and of the output."""
    _refuse_mixing(op, terms, output, places)
    result: Batch = DROPPED
    inputs: dict[int, Wanted] = {i: b.lift() for i, _, b in op.batched()}
    held = [(terms[i][b.axis], b) for i, _, b in op.batched() if isinstance(b, Placed)]
    kept = [(letter, b) for letter, b in held if letter in output]
    if kept:
        letter, first = kept[0]
        certain = first.certain and len(set(places.values())) == 1
        result = replace(first.lift(), axis=output.index(letter), certain=certain)
        for i, term in enumerate(terms):
            if op.static_batch > 1 and i not in places and letter in term:
                inputs[i] = per_sample(op, op.operand(i), term.index(letter), result)
    free = next(c for c in reversed(string.ascii_letters) if c not in "".join(terms))
    spelled = ",".join(free + t if i in places else t for i, t in enumerate(terms))
    return Plan([result], inputs, {"equation": f"{spelled}->{free}{output}"})


def _refuse_mixing(op: Op, terms: Sequence[str], output: str, places: Mapping[int, str | None]) -> None:
    equation = str(op.attribute("equation"))
    certain = {places[i]: b for i, _, b in op.batched() if places[i] is not None and b.certain and b.rows == 1}
    if any(letter not in output for letter in certain if letter is not None):
        op.refuse(f"equation {equation!r} sums over the samples of the batch")
    if len(certain) > 1:
        op.refuse(f"equation {equation!r} pairs every sample of the batch with every other")
    if op.static_batch == 1:
        return
    letter = next(iter(places.values()))
    kept = letter is not None and letter in output and all(t.count(letter) <= 1 for t in terms)
    if not kept or len({(places[i], b.order) for i, _, b in op.batched()}) > 1:
        op.refuse(f"equation {equation!r} mixes the samples of the batch")


OPERATORS = table(ai_onnx("Einsum", rule=einsum))
