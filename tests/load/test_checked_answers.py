"""Which answers are right, and what is said about a wrong one."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from loadtest.checking import Expected, Reference, Tolerance, Wrong, find_mismatch
from loadtest.checking.expected import ExpectedOutput
from loadtest.wire import Answer, Array, Layout, Slot, TensorSpec, from_wire, to_wire, widen

SCORES = np.array([[0.1, 0.9], [0.8, 0.2], [0.5, 0.5]], np.float32)
LABELS = np.array([["b"], ["a"], ["ä-long"]])


def reference(scores: Array = SCORES, *, datatype: str = "FP32", max_batch_size: int = 8) -> Reference:
    return Reference(
        model="m",
        version=1,
        max_batch_size=max_batch_size,
        inputs=(TensorSpec("x", "FP32", (1,)),),
        outputs=(TensorSpec("scores", datatype, (2,)), TensorSpec("label", "BYTES", (1,))),
        samples={"x": np.arange(3, dtype=np.float32)[:, np.newaxis]},
        answers={"scores": scores, "label": LABELS},
        tolerances={"scores": Tolerance(rtol=1e-3, atol=1e-3)},
    )


def answer(scores: Array, labels: Array, *, datatype: str = "FP32", version: str = "1") -> Answer:
    body, slots = b"", []
    for name, kind, array in (("scores", datatype, scores), ("label", "BYTES", labels)):
        data = to_wire(array, kind)
        slots.append(Slot(name, kind, array.shape, len(body), len(body) + len(data)))
        body += data
    return Answer(Layout("m", version, tuple(slots)), body)


def test_the_references_own_answer_is_right() -> None:
    assert Expected(reference(), (2, 0)).is_right(answer(SCORES[[2, 0]], LABELS[[2, 0]]))


def test_an_answer_within_the_tolerance_is_right_and_its_bits_are_remembered() -> None:
    expected = Expected(reference(), (0,))
    near = answer(SCORES[[0]] + np.float32(5e-4), LABELS[[0]])
    assert expected.is_right(near)
    assert expected.is_right(near)
    assert not expected.is_right(answer(SCORES[[0]] + np.float32(5e-3), LABELS[[0]]))


def test_an_output_without_dims_is_compared_within_the_tolerance() -> None:
    output = ExpectedOutput(TensorSpec("y", "FP32", ()), np.array(1.5, np.float32), Tolerance(rtol=1e-4))
    assert [output.matches(np.float32(value).tobytes(), 0, 4) for value in (1.5, 1.5001, 1.51)] == [True, True, False]


@pytest.mark.parametrize(
    ("scores", "labels", "kind", "row"),
    [
        (SCORES[[1, 0]], LABELS[[0, 1]], Wrong.ROWS_MIXED_UP, 0),
        (SCORES[[0, 1]], LABELS[[0, 2]], Wrong.ROWS_MIXED_UP, 1),
        (SCORES[[0, 1]] + np.array([[0], [0.01]], np.float32), LABELS[[0, 1]], Wrong.TOLERANCE, 1),
        (np.array([[0.1, np.nan], [0.8, 0.2]], np.float32), LABELS[[0, 1]], Wrong.NAN, 0),
        (SCORES[[0]], LABELS[[0, 1]], Wrong.SHAPE_OR_TYPE, None),
        (SCORES[[0, 1]], np.array([["b"], ["other"]]), Wrong.TOLERANCE, 1),
    ],
)
def test_a_wrong_answer_gets_its_kind(scores: Array, labels: Array, kind: Wrong, row: int | None) -> None:
    expected, came = Expected(reference(), (0, 1)), answer(scores, labels)
    assert not expected.is_right(came)
    fault = expected.find_fault(came)
    assert (fault.kind, fault.row) == (kind, row)


CLASSES = np.array([["a"], ["b"], ["b"]])


@pytest.mark.parametrize(
    ("scores", "label", "kind"),
    [
        (SCORES[[0]], "b", Wrong.TOLERANCE),
        (SCORES[[1]], "b", Wrong.ROWS_MIXED_UP),
        (SCORES[[0]] + np.float32(9), "b", Wrong.TOLERANCE),
    ],
)
def test_a_value_that_many_rows_have_does_not_make_an_answer_that_of_another_row(
    scores: Array, label: str, kind: Wrong
) -> None:
    """Here, two rows have the class `b`: only with the scores of one of them is it an answer to that row."""
    two = replace(reference(), answers={"scores": SCORES, "label": CLASSES})
    labels_first = replace(two, outputs=two.outputs[::-1])
    came = answer(scores, np.array([[label]]))
    turned = Answer(replace(came.layout, slots=came.layout.slots[::-1]), came.body)
    assert Expected(labels_first, (0,)).find_fault(turned).kind is kind


def test_an_answer_of_another_type_is_wrong_even_when_its_bytes_are_right() -> None:
    expected = Expected(reference(), (0,))
    came = answer(SCORES[[0]].view(np.int32), LABELS[[0]], datatype="INT32")
    assert not expected.is_right(came)
    assert expected.find_fault(came).what == "expected FP32[1, 2], got INT32[1, 2]"


def test_bytes_that_do_not_fill_the_shape_are_wrong() -> None:
    expected, came = Expected(reference(), (0,)), answer(SCORES[[0]], LABELS[[0]])
    first, second = came.layout.slots
    short = Layout("m", "1", (Slot("scores", "FP32", (1, 2), 0, 4), second))
    assert first.stop == 8
    assert not expected.is_right(Answer(short, came.body))
    assert expected.find_fault(Answer(short, came.body)).kind is Wrong.UNREADABLE


def test_nan_and_infinity_answer_only_themselves() -> None:
    odd = np.array([[np.nan, 1.0], [np.inf, 1.0], [-np.inf, 1.0]], np.float32)
    expected = Expected(reference(odd), (0, 1, 2))
    assert expected.is_right(answer(odd + np.array([0, 1e-4], np.float32), LABELS))
    assert not expected.is_right(answer(np.nan_to_num(odd), LABELS))


def test_bf16_is_shown_as_numbers() -> None:
    bits = np.array([[0x3F80, 0x4000], [0x4080, 0x4100]], np.uint16)
    fault = Expected(reference(bits, datatype="BF16"), (0,)).find_fault(
        answer(np.array([[0x40A0, 0x4000]], np.uint16), LABELS[[0]], datatype="BF16")
    )
    assert fault.what == "expected 1.0 at [0, 0], got 5.0; 1 of 2 values was wrong"


def test_half_precision_is_compared_as_numbers() -> None:
    halves = SCORES.astype(np.float16)
    expected = Expected(reference(halves, datatype="FP16"), (0,))
    near = np.nextafter(halves[[0]], np.float16(1))
    assert expected.is_right(answer(near, LABELS[[0]], datatype="FP16"))
    assert not expected.is_right(answer(halves[[1]], LABELS[[0]], datatype="FP16"))


def test_a_wrong_answer_is_compared_with_a_large_reference_all_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = 10_000
    large = Reference(
        model="m",
        version=1,
        max_batch_size=8,
        inputs=(TensorSpec("x", "FP32", (1,)),),
        outputs=(TensorSpec("y", "FP32", (4,)),),
        samples={"x": np.zeros((rows, 1), np.float32)},
        answers={"y": np.random.default_rng(1).random((rows, 4), np.float32)},
        tolerances={},
    )
    expected = Expected(large, (0,))
    layout = Layout("m", "1", (Slot("y", "FP32", (1, 4), 0, 16),))
    compared = []
    is_right = ExpectedOutput.is_right

    def counting(output: ExpectedOutput, values: Array) -> Array:
        compared.append(values.shape)
        return is_right(output, values)

    monkeypatch.setattr(ExpectedOutput, "is_right", counting)
    fault = expected.find_fault(Answer(layout, large.answers["y"][-1].tobytes()))
    assert fault.kind is Wrong.ROWS_MIXED_UP
    assert len(compared) <= 3, "a comparison for each row would take seconds"


@pytest.mark.parametrize(
    ("datatype", "right", "body", "kind"),
    [
        ("BOOL", True, b"\x02", Wrong.UNREADABLE),
        ("BOOL", True, b"\xff", Wrong.UNREADABLE),
        ("BOOL", True, b"\x00", Wrong.TOLERANCE),
        ("BYTES", "\ufffd", b"\1\0\0\0\xff", Wrong.UNREADABLE),
        ("BYTES", "a", b"\2\0\0\0a\0", Wrong.TOLERANCE),
        ("BYTES", "a", b"\1\0\0\0b", Wrong.TOLERANCE),
        ("BYTES", "a", b"\x41\0\0\0a", Wrong.UNREADABLE),
        ("BYTES", "a", b"\0\0\0\0a", Wrong.UNREADABLE),
        ("BYTES", "a", b"\1\0\0\0", Wrong.UNREADABLE),
        ("BYTES", "a", b"\1\0", Wrong.UNREADABLE),
        ("BYTES", "a", b"", Wrong.UNREADABLE),
        ("BYTES", "a", b"\1\0\0\0a\0\0\0\0", Wrong.UNREADABLE),
    ],
)
def test_other_bytes_are_wrong_though_they_may_read_the_same(
    datatype: str, right: object, body: bytes, kind: Wrong
) -> None:
    odd = Reference("m", 1, 8, (), (TensorSpec("y", datatype, (1,)),), {}, {"y": np.array([[right]])}, {})
    expected, layout = Expected(odd, (0,)), Layout("m", "1", (Slot("y", datatype, (1, 1), 0, len(body)),))
    assert not expected.is_right(Answer(layout, body))
    assert expected.find_fault(Answer(layout, body)).kind is kind


def test_a_value_that_was_written_as_another_type_is_wrong() -> None:
    expected, came = Expected(reference(), (0,)), answer(SCORES[[0]], LABELS[[0]])
    first, second = came.layout.slots
    layout = Layout("m", "1", (replace(first, unreadable="'0.1' is not FP32"), second))
    assert not expected.is_right(Answer(layout, came.body))
    fault = expected.find_fault(Answer(layout, came.body))
    assert (fault.kind, str(fault)) == (Wrong.UNREADABLE, "scores: '0.1' is not FP32")


@pytest.mark.parametrize(
    ("model", "version", "asked", "kind"),
    [
        ("m", "1", "1", None),
        ("m", "", "1", None),
        ("", "1", "", None),
        ("m", "7", "1", Wrong.WRONG_VERSION),
        ("m", "v1", "1", Wrong.WRONG_VERSION),
        ("M", "1", "", Wrong.WRONG_MODEL),
        ("other", "7", "1", Wrong.WRONG_MODEL),
    ],
)
def test_an_answer_of_another_model_or_version_than_was_asked_for_is_wrong(
    model: str, version: str, asked: str, kind: Wrong | None
) -> None:
    expected, came = Expected(reference(), (0,), asked), answer(SCORES[[0]], LABELS[[0]])
    named = Answer(Layout(model, version, came.layout.slots), came.body)
    assert expected.is_right(named) is (kind is None)
    assert kind is None or expected.find_fault(named).kind is kind
    mismatch = find_mismatch("m", asked, named.layout)
    assert (mismatch and mismatch.kind) is kind


def test_an_unbatched_row_is_a_whole_answer() -> None:
    expected = Expected(reference(max_batch_size=0), (1,))
    assert expected.is_right(answer(SCORES[1], LABELS[1]))
    fault = expected.find_fault(answer(SCORES[0], LABELS[1]))
    assert (fault.kind, fault.row) == (Wrong.ROWS_MIXED_UP, None)


@pytest.mark.parametrize(
    ("datatype", "array"),
    [
        ("BOOL", np.array([[True], [False]])),
        ("INT8", np.array([[-1], [5]], np.int8)),
        ("UINT64", np.array([[2**63], [5]], np.uint64)),
        ("FP64", np.array([[1e300], [5]])),
        ("BF16", np.array([[0x3F80], [0xC000]], np.uint16)),
        ("BYTES", np.array([["ä"], [""]])),
    ],
)
def test_tensors_are_received_as_they_were_sent(datatype: str, array: Any) -> None:
    back = from_wire(memoryview(to_wire(array, datatype)), datatype, array.shape)
    assert back.tolist() == array.tolist()


def test_bf16_bits_are_read_as_numbers() -> None:
    assert widen(np.array([0x3F80, 0xC000], np.uint16), "BF16").tolist() == [1.0, -2.0]
