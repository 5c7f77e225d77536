"""Wake a greenlet at a given moment, to the microsecond.

gevent's own timers count whole milliseconds and round up: a sleep of 2.3 ms ends after 3 ms or later. At 1,000
requests/s that would send every request of an open loop up to a millisecond late.

Source: https://man7.org/linux/man-pages/man2/timerfd_create.2.html
"""

import ctypes
import os
import time

import gevent
from gevent.socket import wait_read

_CLOCK_MONOTONIC = 1
_TFD_TIMER_ABSTIME = 1
_FLAGS = os.O_NONBLOCK | os.O_CLOEXEC
_EXPIRATIONS_BYTES = 8
_NS_PER_S = 1_000_000_000


class _Timespec(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("it_interval", _Timespec), ("it_value", _Timespec))


_libc = ctypes.CDLL(None, use_errno=True)


class Alarm:
    """A timer of the kernel, or gevent's where the system has none (it is not Linux)."""

    def __init__(self) -> None:
        create = getattr(_libc, "timerfd_create", None)
        self._fd = -1 if create is None else create(_CLOCK_MONOTONIC, _FLAGS)

    def wait_until(self, moment: float) -> None:
        """Sleep until `time.perf_counter()`, which on Linux is the kernel's monotonic clock, shows `moment`.

        The kernel wants whole seconds and nanoseconds: 12.0023 is (12, 2_300_000). A time of 0 would switch the timer
        off, so a moment in the past becomes at least one nanosecond after the clock's start, which has long passed.
        """
        if self._fd < 0:
            gevent.sleep(max(moment - time.perf_counter(), 0))
            return
        seconds, nanoseconds = divmod(max(int(moment * _NS_PER_S), 1), _NS_PER_S)
        value = _Itimerspec(_Timespec(0, 0), _Timespec(seconds, nanoseconds))
        if _libc.timerfd_settime(self._fd, _TFD_TIMER_ABSTIME, ctypes.byref(value), None):
            raise OSError(ctypes.get_errno(), "timerfd_settime failed")
        wait_read(self._fd)
        os.read(self._fd, _EXPIRATIONS_BYTES)

    def close(self) -> None:
        """Return the timer to the kernel."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
