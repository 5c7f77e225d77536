"""Find the name that was probably meant, for one that does not exist."""

import difflib
import re
from collections.abc import Iterable

from google.protobuf import descriptor_pool

_ALIKE = 0.8
"""How alike two names have to be, from 0 to 1: `dynamic_batchng` and `dynamic_batching` are 0.97."""

_FIELD = re.compile(r'Message type "([\w.]+)" has no field named "([^"]+)"')
_VALUE = re.compile(r'Enum type "([\w.]+)" has no value named "?(\w+)"?')


def closest(name: str, names: Iterable[str]) -> str | None:
    """Return the name that was probably meant; None when no name is similar enough.

    It may also be a part of exactly one name, as `max_queue_delay` is of `max_queue_delay_microseconds`.
    A name that only continues another one by a word is not taken for a misspelling, because new fields have such names:
    `max_queue_size_bytes` is not `max_queue_size`.
    """
    candidates = [other for other in names if not name.startswith(f"{other}_")]
    plain = {_plain(other): other for other in candidates}
    alike = [plain[match] for match in difflib.get_close_matches(_plain(name), plain, n=1, cutoff=_ALIKE)]
    swapped = [other for other in candidates if sorted(other) == sorted(name)]
    part = name.lower()
    longer = [other for other in candidates if f"_{other.lower()}_".find(f"_{part}_") >= 0]
    return next(iter([*alike, *swapped, *(longer if len(longer) == 1 else [])]), None)


def meant_in(complaint: str) -> str | None:
    """Return the field or the value that was probably meant, from the parser's complaint about one that is unknown."""
    pool = descriptor_pool.Default()
    if (field := _FIELD.search(complaint)) is not None:
        return closest(field[2], pool.FindMessageTypeByName(field[1]).fields_by_name)
    if (value := _VALUE.search(complaint)) is not None:
        return closest(value[2], pool.FindEnumTypeByName(value[1]).values_by_name)
    return None


def _plain(name: str) -> str:
    """Return a name without what people vary: `maxBatchSize` and `max-batch-size` become `maxbatchsize`."""
    return re.sub(r"[^a-z0-9]", "", name.lower())
