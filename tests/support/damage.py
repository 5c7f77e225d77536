"""Damaged files, made from valid ones: for tests that any bytes are refused or read."""

import json
from copy import deepcopy
from typing import Any

from hypothesis import strategies as st

TOKENS = (
    b"", b"\0", b"-1", b"0", b"1e400", b"1" + b"0" * 5000, b"9223372036854775808", b"NaN", b"\xff\xfe", b"\xef\xbb\xbf",
    b"\r\n", b'"', b"[" * 3000, b"{" * 3000, b'{"a":' * 3000, b"a{" * 3000, b"../../", b"\\ud800", b"null",
    b"PK\x01\x02", b"\x93NUMPY", b"\xff\xff\xff\x7f", b"(4611686018427387904,)", b"<U0", b"|O", b"-" * 3000,
)  # fmt: skip
"""Bytes that readers stumble over."""

VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 0.5, 2**31, 2**63, 10**400, float("inf"), float("nan"), "", "a\0b", "\ud800", "../../../out",
    "/dev/zero", "x" * 5000, [], {}, [-1], [0], [None], {"a": None}, [[[]]],
)  # fmt: skip
"""JSON where another value is expected."""


@st.composite
def damaged(draw: st.DrawFn, valid: bytes) -> bytes:
    """Draw any bytes: mostly a valid file with up to four pieces replaced, removed or repeated."""
    if draw(st.integers(0, 9)) == 0:
        return draw(st.binary(max_size=200))
    content = valid
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(content)))
        stop = min(len(content), start + draw(st.sampled_from([0, 0, 1, 1, 2, 8, 64, len(content)])))
        new = draw(st.one_of(st.sampled_from(TOKENS), st.binary(max_size=8), st.just(content[start:stop] * 2)))
        content = content[:start] + new + content[stop:]
    return content


@st.composite
def damaged_json(draw: st.DrawFn, valid: str) -> bytes:
    """Draw a JSON document with one or two of its values replaced or removed."""
    document = json.loads(valid)
    for _ in range(draw(st.integers(1, 2))):
        places = list(_places(document))
        parent, key = draw(st.sampled_from(places))
        if draw(st.integers(0, 4)) == 0:
            del parent[key]
        else:
            parent[key] = deepcopy(draw(st.sampled_from(VALUES)))  # the next damage may be inside it
        if not list(_places(document)):
            break
    return json.dumps(document).encode()


def _places(document: Any) -> Any:
    """Yield every list or dictionary in a document with each of its keys."""
    entries = document.items() if isinstance(document, dict) else enumerate(document)
    for key, value in list(entries):
        yield document, key
        if isinstance(value, dict | list):
            yield from _places(value)
