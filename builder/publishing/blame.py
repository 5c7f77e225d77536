"""Say whether an error that nobody expected comes from a model that cannot run, or from this program."""

from collections.abc import Iterator
from contextlib import contextmanager

from builder.errors import BuilderError, ModelError, bug
from builder.model import Model
from builder.proof import OriginalRuns

BUDGET_S = 5.0
"""The longest time to look for sizes at which the model runs, seconds."""


@contextmanager
def blamed(model: Model) -> Iterator[None]:
    """If the block fails in a way that nobody expected, find out whether ONNX Runtime can run the model at all.

    Files can be wrong in more ways than the checks of `load` know: for example, ONNX has no definitions of the
    operators of com.microsoft.

    Raises:
        ModelError: It cannot, so the file is wrong.
        BuilderError: It can, so this program is wrong. The error names the file, and the node if it is known.
    """
    try:
        yield
    except (ImportError, MemoryError, OSError, RecursionError):
        raise  # a problem of this machine, or a limit that the caller explains
    except Exception as error:
        if isinstance(error, BuilderError) and error.exit_code != BuilderError.exit_code:
            raise
        if reason := OriginalRuns(model, budget_s=BUDGET_S).why_not():
            fix = "check that ONNX Runtime can run the file, or export it again"
            raise ModelError(model.path, f"ONNX Runtime cannot run it: {reason}", fix) from error
        if isinstance(error, BuilderError):
            raise BuilderError(f"{model.path}: {error.where}", error.what, error.fix) from error
        raise bug(model.path, error) from error
