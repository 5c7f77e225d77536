"""Keep what code of the user's prints off stdout, which is for the result."""

import contextlib
import ctypes
import os
import sys
from collections.abc import Iterator


@contextlib.contextmanager
def stdout_on_stderr() -> Iterator[None]:
    """Send what is printed to stderr, also what C++ and other programs write to file descriptor 1."""
    with contextlib.redirect_stdout(sys.stderr), _descriptor_on_stderr():
        yield


@contextlib.contextmanager
def _descriptor_on_stderr() -> Iterator[None]:
    try:
        kept = os.dup(1)
    except OSError:  # it is closed
        yield
        return
    try:
        with contextlib.suppress(OSError):
            os.dup2(2, 1)
        yield
    finally:
        with contextlib.suppress(AttributeError, OSError):
            ctypes.CDLL(None).fflush(None)  # what C keeps back would reach stdout later
        os.dup2(kept, 1)
        os.close(kept)
