"""Keep what PyTorch itself prints, logs and warns about off the terminal, unless it was asked for.

Exporters print for every model, also from C++ and in several lines for each operator that they cannot export. What the
user's own code prints or warns about is shown.
"""

import contextlib
import logging
import os
import sys
import tempfile
import warnings
from collections.abc import Iterator

import torch

from builder.user_code import stdout_on_stderr

LIBRARIES = ("torch", "onnxscript", "onnx_ir", "onnxruntime")
"""The packages whose logs and warnings are hidden."""


@contextlib.contextmanager
def as_exported(*, is_verbose: bool) -> Iterator[None]:
    """Run modules with the operators that exporters know, and send what `forward` prints to stderr.

    PyTorch's fast path uses fused encoder layers, which have no ONNX form and give padded tokens other values.
    """
    is_fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        quiet = contextlib.nullcontext() if is_verbose else _libraries_quiet()
        with stdout_on_stderr(), quiet:
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(is_fast)


def eagerly() -> contextlib.AbstractContextManager[object]:
    """Run what `torch.compile` wrapped as it is written: compiling takes far longer than the few runs of a proof.

    Nothing is compiled where `torch._dynamo` was not imported, and importing it takes a second.
    """
    if "torch._dynamo" not in sys.modules:
        return contextlib.nullcontext()
    stance: contextlib.AbstractContextManager[object] = torch.compiler.set_stance("force_eager")
    return stance


@contextlib.contextmanager
def _libraries_quiet() -> Iterator[None]:
    """Hide the logs and warnings of PyTorch, wherever they point to; those of the user's code are shown."""
    loggers = [logging.getLogger(name) for name in LIBRARIES]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            for name in LIBRARIES:
                warnings.filterwarnings("ignore", module=rf"{name}(\.|$)")
            # A warning from C++ points to the line of the user's code that called PyTorch.
            warnings.filterwarnings("ignore", message=r"(?s).*\(Triggered internally at ")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


@contextlib.contextmanager
def exporter_quiet(*, is_verbose: bool) -> Iterator[None]:
    """Hide everything that an exporter prints, logs or warns about; if that `is_verbose`, all of it goes to stderr."""
    # PyTorch 2.13 leaves this log switched on, and writes it to stdout from C++, where the result belongs.
    with contextlib.suppress(AttributeError):
        torch._C._jit_set_onnx_log_output_stream("stderr")
    if is_verbose:
        with contextlib.redirect_stdout(sys.stderr):
            yield
        return
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), _stderr_hidden():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


@contextlib.contextmanager
def _stderr_hidden() -> Iterator[None]:
    """Send file descriptor 2, to which C++ writes, and Python's two streams to a file that nobody reads."""
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile("w") as hidden:
        os.dup2(hidden.fileno(), 2)
        try:
            with contextlib.redirect_stdout(hidden), contextlib.redirect_stderr(hidden):
                yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
