"""Report the phases of a build, and stop it when its time is up or somebody presses Ctrl-C."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from builder import bounded
from builder.tensorrt.library import Library, need_library


def build_time() -> AbstractContextManager[None]:
    """Return a block in which a plan may take its time: TensorRT tries kernels for minutes, or hours.

    TensorRT for RTX leaves that to the machine that runs the plan. What it takes long for is the file's fault.
    """
    return nullcontext() if need_library().is_rtx else bounded.untimed()


class Watch:
    """Watches one build.

    The compiler calls back between its steps, and goes on until it is told to stop. It swallows what its callbacks
    raise, so a Ctrl-C is kept here until the build has ended.

    Args:
        library: The compiler.
        report: Called with the name of each outer phase.

    Source: https://docs.nvidia.com/deeplearning/tensorrt/latest/_static/python-api/infer/Core/ProgressMonitor.html
    """

    def __init__(self, library: Library, report: Callable[[str], None]) -> None:
        self._report = report
        self._interrupt: KeyboardInterrupt | None = None
        self.monitor: Any = self._monitor(library)

    def phase(self, name: str, parent: str | None) -> None:
        """Report a phase that no other one contains."""
        try:
            if parent is None:
                self._report(name)
        except KeyboardInterrupt as interrupt:
            self._interrupt = interrupt

    def goes_on(self) -> bool:
        """Return whether the build may go on after a step."""
        try:
            return self._interrupt is None and bounded.time_left() > 0
        except KeyboardInterrupt as interrupt:
            self._interrupt = interrupt
            return False

    def check(self) -> None:
        """Check that the build did not end because it was stopped.

        Raises:
            KeyboardInterrupt: Somebody pressed Ctrl-C.
            OutOfTimeError: Its time was up.
        """
        if self._interrupt is not None:
            raise self._interrupt
        if (late := bounded.out_of_time()) is not None:
            raise late

    def _monitor(self, library: Library) -> Any:
        base: Any = library.module.IProgressMonitor
        watch = self

        class Monitor(base):  # type: ignore[misc]
            def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
                watch.phase(phase_name, parent_phase)

            def step_complete(self, phase_name: str, step: int) -> bool:
                return watch.goes_on()

            def phase_finish(self, phase_name: str) -> None:
                pass

        return Monitor()
