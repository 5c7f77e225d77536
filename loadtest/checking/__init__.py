"""The requests to send, and the check of each answer.

A published version stores a `Reference`: samples, the right answers, and tolerances; `reference` reads and checks it.
A `View` shows it as the server's config shows the model to clients.
Without one, `input_data` reads rows and right answers from a file, or `draw` makes random rows. `Samples` are the
rows to send; `make_pool` encodes them as `Request`s and `make_order` mixes those of several models
and sizes. Each request knows the `Expected` answer of every version that may reply. `Expected.is_right` compares the
bytes first, which is cheap, and the numbers only if the bytes differ; `Expected.find_fault` says what is wrong.
`wrong_answers` keeps the evidence. `Sequences` are requests in a row to a stateful model.
"""

from loadtest.checking import wrong_answers
from loadtest.checking.expected import Expected, Fault, Wrong, find_mismatch
from loadtest.checking.input_data import InputData, Signature, read_input_data
from loadtest.checking.reference import Reference, Tolerance, find_versions, read_reference
from loadtest.checking.requests import Request, make_order, make_pool, make_request
from loadtest.checking.samples import Samples, draw, from_entries, from_reference
from loadtest.checking.sequences import OpenSequence, Sequences, Streams, draw_ids
from loadtest.checking.view import View, left_out

__all__ = [
    "Expected",
    "Fault",
    "InputData",
    "OpenSequence",
    "Reference",
    "Request",
    "Samples",
    "Sequences",
    "Signature",
    "Streams",
    "Tolerance",
    "View",
    "Wrong",
    "draw",
    "draw_ids",
    "find_mismatch",
    "find_versions",
    "from_entries",
    "from_reference",
    "left_out",
    "make_order",
    "make_pool",
    "make_request",
    "read_input_data",
    "read_reference",
    "wrong_answers",
]
