"""Start a server again whenever it dies, unless it dies too often."""

import time
from collections.abc import Callable
from typing import NoReturn

from builder.errors import HostError

MOST_FAILURES = 5
"""How often a server that dies within `WINDOW_S`, or does not start, is started again."""

WINDOW_S = 60.0
FIRST_DELAY_S = 0.5
LONGEST_DELAY_S = 8.0


def supervise(wait: Callable[[], None], restart: Callable[[], None], say: Callable[[str], None]) -> NoReturn:
    """Wait for the server to die and start it again, each time after a longer delay, until it dies too often.

    Args:
        wait: Raises a HostError once the server has died, and does not return before.
        restart: Starts the server, and returns once it is ready or raises a HostError.
        say: Tells the user in one line that the server died, or serves again.

    Raises:
        HostError: The server died or did not start, and has done so too often.
    """
    failures: list[float] = []
    step = wait
    while True:
        try:
            step()
        except HostError as failure:
            now = time.monotonic()
            if step is wait:
                failures = [moment for moment in failures if now - moment < WINDOW_S]
            failures.append(now)
            if len(failures) > MOST_FAILURES:
                what = f"{failure.what} (after {MOST_FAILURES} other failures in a short time)"
                fix = failure.fix if step is restart else "find in its log above what ends it, then start it again"
                raise HostError(failure.where, what, fix) from failure
            delay = min(FIRST_DELAY_S * 2 ** (len(failures) - 1), LONGEST_DELAY_S)
            say(f"{failure.what}; Triton starts again in {delay:g} s")
            time.sleep(delay)
            step = restart
        else:
            say("Triton serves again, on the same ports")
            step = wait
