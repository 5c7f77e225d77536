"""Name the ways without a batch that a module which cannot be batched does work with, after trying them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from builder.errors import BuilderError
from builder.exporting.options import ExportOptions
from builder.exporting.subject import Diagnosis, Subject
from builder.publishing import works_per_sample

LARGEST_BYTES = 256 << 20
"""If the weights are larger, no way is tried, because every try exports the module again."""

STATIC = "--static (no batching)"
PER_SAMPLE = "--per-sample of publish (one row after the other, so batching makes it no faster)"

Attempt = Callable[[ExportOptions], Path | None]
"""Exports the module with other options, and returns the file if its answers are the module's."""


def advised(error: BuilderError, subject: Subject, options: ExportOptions, attempt: Attempt) -> BuilderError:
    """Return the error about the batch with the ways that work in its `fix`."""
    if options.is_static:
        return error
    if sum(tensor.nbytes for tensor in (*subject.parameters(), *subject.buffers())) > LARGEST_BYTES:
        fix = f"{error.fix}, or try --static or --per-sample (not tried here, to save time)"
        return type(error)(error.where, error.what, fix, is_about_batch=True)
    asked = replace(options, is_static=True, dynamic={}, batch_axes={}, samples=None)
    ways: list[str] = []
    with Diagnosis():
        file = attempt(asked)
        ways += [] if file is None else [STATIC]
        ways += [PER_SAMPLE] if file is not None and works_per_sample(file) else []
    if not ways:
        return error
    tried = "both tried" if len(ways) == 2 else "tried"
    rest = error.fix.removesuffix(", or use --static").removesuffix("; or use --static")
    return type(error)(error.where, error.what, f"use {', or '.join(ways)}: {tried}; or {rest}", is_about_batch=True)
