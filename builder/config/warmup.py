"""The requests that Triton runs when it loads a model (`model_warmup`): a sample that the version was proven with."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from builder.config.interface import Interface, to_client
from builder.config.pbtxt import messages
from builder.record import raw_bytes
from builder.tensors import Array

if TYPE_CHECKING:
    from tritonclient.grpc.model_config_pb2 import ModelConfig

PREFIX = "reference_batch_"
"""Entries of model_warmup whose name starts with this belong to this package; all others are kept as they are."""


def sizes(config: "ModelConfig", max_batch_size: int, asked: bool | None, *, is_new: bool) -> dict[int, int]:
    """Return the batch sizes to warm up, each with how often to run it (`count`; 0 means once).

    A new config warms up one row and the largest batch. In an existing one our entries keep their sizes and counts,
    except that the entry for the largest batch follows `max_batch_size`.

    Example: the config says max_batch_size 8 and has our entries for batch 1 and 8. At `max_batch_size` 16 that gives
    {1: 0, 16: 0}; at 4, {1: 0, 4: 0}. An entry for batch 6 that somebody added becomes 4 at `max_batch_size` 4.

    Args:
        config: The new or existing config, whose max_batch_size has not been changed yet.
        max_batch_size: The new max_batch_size.
        asked: Whether the caller asked for a warmup (True) or for none (False); None keeps what is there.
        is_new: Whether there was no config before.
    """
    largest = max(1, max_batch_size)
    present = {
        largest if 1 < entry.batch_size == config.max_batch_size else min(entry.batch_size, largest): entry.count
        for entry in config.model_warmup
        if entry.name.startswith(PREFIX)
    }
    if present and config.max_batch_size <= 1:
        present.setdefault(largest, 0)
    is_wanted = asked if asked is not None else (is_new or bool(present))
    if not is_wanted:
        return {}
    return present or dict.fromkeys((1, largest), 0)


def write(
    config: "ModelConfig", seen: Interface, sample: Mapping[str, Array], sizes: Mapping[int, int]
) -> dict[str, bytes]:
    """Replace our entries of model_warmup, and return the files that the new ones name.

    A file contains one row whatever the entry's batch_size: Triton sends it that many times, as one batch. Triton takes
    these rows as it takes those of a client, so they have the dims that clients send.

    Args:
        config: The config to write into.
        seen: What clients see under this config.
        sample: One row for each input, `dtype[*model dims]`.
        sizes: How often to run each batch size.

    Source: GenerateWarmupData in
    https://github.com/triton-inference-server/core/blob/main/src/backend_model_instance.cc
    """
    files: dict[str, bytes] = {}
    entries = []
    for size, count in sorted(sizes.items()):
        entry = messages().ModelWarmup(name=f"{PREFIX}{size}", batch_size=size, count=count)
        for tensor in seen.inputs:
            row = to_client(tensor, sample[tensor.name][np.newaxis])[0]
            content = raw_bytes(row)
            file = f"{hashlib.sha256(content).hexdigest()}.raw"
            files[file] = content
            data = entry.inputs[tensor.name]
            data.data_type = messages().DataType.Value(tensor.data_type)
            data.dims[:] = row.shape
            data.input_data_file = file
        entries.append(entry)
    replace(config, entries)
    return files


def own_entries(config: "ModelConfig") -> list[Any]:
    """Return our entries of model_warmup."""
    return [entry for entry in config.model_warmup if entry.name.startswith(PREFIX)]


def replace(config: "ModelConfig", entries: Sequence[Any]) -> None:
    """Put these entries in place of ours; those of others stay."""
    kept = [entry for entry in config.model_warmup if not entry.name.startswith(PREFIX)]
    del config.model_warmup[:]
    config.model_warmup.extend([*kept, *entries])


def reduce(config: "ModelConfig") -> None:
    """Take out what is larger than `max_batch_size` in our entries of model_warmup: 1 and 32 become 1 and 8 at 8."""
    largest, kept = max(1, config.max_batch_size), dict[int, Any]()
    for entry in own_entries(config):
        fitting = messages().ModelWarmup()
        fitting.CopyFrom(entry)
        fitting.batch_size = min(entry.batch_size, largest)
        fitting.name = f"{PREFIX}{fitting.batch_size}"
        kept.setdefault(fitting.batch_size, fitting)
    replace(config, [kept[size] for size in sorted(kept)])
