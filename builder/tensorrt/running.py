"""Run a TensorRT plan."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from builder import files
from builder.errors import HostError, RepositoryError
from builder.tensorrt.diagnosis import diagnosed
from builder.tensorrt.host import find_host
from builder.tensorrt.kinds import REBUILD, Asked, Complaint
from builder.tensorrt.layers import count_formats
from builder.tensorrt.library import Library, need_library
from builder.tensorrt.messages import listening, reasons
from builder.tensors import Arrays

_LARGEST_PLAN = 64 << 30
"""More than any GPU has room for today, in bytes. The plan is hashed only after it was opened."""

Run = Callable[[Arrays], Arrays]
"""Answers a batch, from inputs by name to outputs by name."""


@contextmanager
def open_plan(path: Path) -> Iterator[Run]:
    """Open a published plan: yield a function from inputs by name, each `[batch, *dims]`, to outputs by name.

    Raises:
        HostError: The GPU or TensorRT is missing, or cannot run this plan.
        RepositoryError: The file is missing, or is not a regular one of its version.
    """
    find_host()
    try:
        plan = files.read(path, limit=_LARGEST_PLAN, inside=path.parent)
    except OSError as error:
        what = f"the plan cannot be read: {files.reason(error)}"
        raise RepositoryError(path, what, "restore the file, or publish the model again") from error
    with runners(plan, path, 1) as (_, runs):
        yield runs[0]


@contextmanager
def runners(plan: bytes, where: Path, profiles: int) -> Iterator[tuple[Any, list[Run]]]:
    """Yield the engine, and a function for each profile that runs it."""
    library = need_library()
    from polygraphy.backend.trt import EngineFromBytes, TrtRunner
    from polygraphy.exception import PolygraphyException

    doing = "cannot load the plan"
    with listening() as log:
        try:
            engine = EngineFromBytes(plan)()
            with TrtRunner(engine) as runner:
                doing = "cannot run the plan"
                yield engine, [_run(runner, index) for index in range(profiles)]
        except PolygraphyException as error:
            complaints = [Complaint(text) for text in log.errors or reasons([str(error)])]
            found = diagnosed(where, doing, complaints, Asked(compiler=library.name), unknown_fix=REBUILD)
            raise HostError(where, found.what, found.fix) from error


def _run(runner: Any, profile: int) -> Run:
    def run(feeds: Arrays) -> Arrays:
        runner.set_profile(profile)
        answers = runner.infer({name: np.ascontiguousarray(array) for name, array in feeds.items()})
        return {name: np.array(answer) for name, answer in answers.items()}  # the runner reuses its buffers

    return run


def engine_formats(plan: bytes, library: Library) -> Counter[str]:
    """Count the outputs of layers by data type in a plan that was just built, if it can be loaded here; else none."""
    from polygraphy.backend.trt import EngineFromBytes
    from polygraphy.exception import PolygraphyException

    with listening():
        try:
            return count_formats(EngineFromBytes(plan)(), library)
        except PolygraphyException:
            return Counter()
