"""Einsum: each axis has a letter, and so has the batch."""

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from builder.batching.layout import DROPPED, Batch, Placed, Shape
from builder.batching.rule import Op, Plan, Wanted, per_sample
from builder.batching.rules.registry import ai_onnx, table

ELLIPSIS = "..."

LETTERS = string.ascii_lowercase + string.ascii_uppercase
"""ONNX allows both cases, and TensorRT only small letters: capitals are used when all small ones are taken."""

NEW_LETTERS = string.ascii_lowercase[::-1] + string.ascii_uppercase
"""The letters for the batch, from the end of the alphabet."""


@dataclass(frozen=True, slots=True)
class _Equation:
    """An equation without ellipses, and the batch in it.

    Attributes:
        text: As the model spells it.
        terms: The letters of every input's axes.
        output: The letters of the output's axes.
        letters: For every input that holds samples, the letter of the axis they are on; None where it was dropped.
    """

    text: str
    terms: Sequence[str]
    output: str
    letters: Mapping[int, str | None]

    def is_kept(self, letter: str | None) -> bool:
        """Return whether the output has an axis of that letter, so that nothing is summed over it."""
        return letter is not None and letter in self.output


def einsum(op: Op) -> Plan:
    """Einsum: the batch keeps its letter, or gets a new one in front of every term that holds samples.

    `bij,jk->bik` stays as it is. `ij,jk->ik`, with samples whose batch was dropped on the left, becomes `zij,jk->zik`.

    Source: https://onnx.ai/onnx/operators/onnx__Einsum.html
    """
    text = str(op.attribute("equation")).replace(" ", "")
    terms, output = _spelled_out(op, *_sides(text))
    letters = {i: terms[i][b.axis] if isinstance(b, Placed) else None for i, _, b in op.batched()}
    equation = _Equation(str(op.attribute("equation")), terms, output, letters)
    return _in_place(op, equation) or _lifted(op, equation)


def _sides(equation: str) -> tuple[list[str], str]:
    """Split an equation into its terms and its output.

    Where the output is left out, it has the letters that occur once, in alphabetical order: `ab,bc` is `ab,bc->ac`.
    """
    left, arrow, output = equation.partition("->")
    if not arrow:
        letters = left.replace(".", "").replace(",", "")
        once = sorted(c for c in set(letters) if letters.count(c) == 1)
        output = ELLIPSIS * (ELLIPSIS in left) + "".join(once)
    return left.split(","), output


def _spelled_out(op: Op, terms: list[str], output: str) -> tuple[list[str], str]:
    """Put letters in place of every ellipsis.

    The axes behind an ellipsis broadcast, aligned at the right. For `...i,...i->...i` with inputs `[2, 1, 5]` and
    `[7, 5]` they are `[2, 1]` and `[7]`, which gives `[2, 7]`; let these be called a and b. An axis of another size
    than the output's, here the 1, gets a letter that no other term has, and is summed over: `aci,bi->abi`.
    """
    if not any(ELLIPSIS in text for text in (*terms, output)):
        return terms, output
    taken = set("".join((*terms, output)))
    free = (c for c in LETTERS if c not in taken)
    hidden = {i: _behind_ellipsis(op.operand(i).shape, term) for i, term in enumerate(terms) if ELLIPSIS in term}
    depth = max(map(len, hidden.values()), default=0)
    shared = [next(free) for _ in range(depth)]
    largest = [max((s[k] for s in hidden.values() if len(s) >= -k), default=1) for k in range(-depth, 0)]
    for i, sizes in hidden.items():
        first = depth - len(sizes)
        letters = [shared[first + k] if d == largest[first + k] else next(free) for k, d in enumerate(sizes)]
        terms[i] = terms[i].replace(ELLIPSIS, "".join(letters))
    return terms, output.replace(ELLIPSIS, "".join(shared))


def _behind_ellipsis(shape: Shape, term: str) -> Shape:
    """Return the sizes of the axes that a term's ellipsis stands for: `...ij` of `[2, 3, 4, 5]` hides `[2, 3]`."""
    count = len(shape) - (len(term) - len(ELLIPSIS))
    return shape[term.index(ELLIPSIS) :][:count]


def _in_place(op: Op, equation: _Equation) -> Plan | None:
    """Keep the equation, if all samples are at one letter that the output keeps and no constant has."""
    batches = [b for *_, b in op.batched()]
    first, letter = batches[0], next(iter(equation.letters.values()))
    if letter is None or set(equation.letters.values()) != {letter} or not equation.is_kept(letter):
        return None
    if first.lifted or any(b.lifted or b.order != first.order for b in batches):
        return None
    is_in_a_constant = any(letter in t for i, t in enumerate(equation.terms) if i not in equation.letters)
    is_a_diagonal = any(term.count(letter) > 1 for term in equation.terms)
    if is_in_a_constant or is_a_diagonal:
        return None
    return Plan([replace(first, axis=equation.output.index(letter), certain=all(b.certain for b in batches))])


def _lifted(op: Op, equation: _Equation) -> Plan:
    """Give the batch a letter of its own, in front of every term that holds samples and of the output.

    `ij,kj->ik` of samples on both sides becomes `zij,zkj->zik`: sample by sample.
    """
    _refuse_mixing(op, equation)
    result = _output_batch(op, equation)
    inputs: dict[int, Wanted] = {i: b.lift() for i, _, b in op.batched()}
    if op.static_batch > 1 and isinstance(result, Placed):
        letter = equation.output[result.axis]
        for i, term in enumerate(equation.terms):
            if i not in equation.letters and letter in term:
                inputs[i] = per_sample(op, op.operand(i), term.index(letter), result)
    new = next(c for c in NEW_LETTERS if not any(c in term for term in equation.terms))
    spelled = ",".join(new + term if i in equation.letters else term for i, term in enumerate(equation.terms))
    return Plan([result], inputs, {"equation": f"{spelled}->{new}{equation.output}"})


def _output_batch(op: Op, equation: _Equation) -> Batch:
    """Return where the output has its batch: at the first input's letter that it keeps."""
    for i, _, batch in op.batched():
        letter = equation.letters[i]
        if isinstance(batch, Placed) and letter is not None and equation.is_kept(letter):
            is_certain = batch.certain and len(set(equation.letters.values())) == 1
            return replace(batch.lift(), axis=equation.output.index(letter), certain=is_certain)
    return DROPPED


def _refuse_mixing(op: Op, equation: _Equation) -> None:
    """Refuse an equation that combines samples: by a sum over their letter, or by two letters for the batch."""
    batches = {i: b for i, _, b in op.batched()}
    certain = {equation.letters[i] for i, b in batches.items() if isinstance(b, Placed) and b.certain and b.rows == 1}
    if not all(map(equation.is_kept, certain)):
        op.refuse(f"equation {equation.text!r} sums over the samples of the batch")
    if len(certain) > 1:
        op.refuse(f"equation {equation.text!r} combines every sample of the batch with every other sample")
    if op.static_batch == 1:
        return
    letter = next(iter(equation.letters.values()))
    is_a_diagonal = letter is not None and any(term.count(letter) > 1 for term in equation.terms)
    are_together = len({(equation.letters[i], b.order) for i, b in batches.items()}) == 1
    if is_a_diagonal or not equation.is_kept(letter) or not are_together:
        op.refuse(f"equation {equation.text!r} mixes the samples of the batch")


OPERATORS = table(ai_onnx("Einsum", rule=einsum))
