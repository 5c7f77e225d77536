"""Waking a greenlet at a moment, to the microsecond: gevent's own timers are rounded up to whole milliseconds.

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


class _Timespec(ctypes.Structure):
    _fields_ = (("tv_sec", ctypes.c_long), ("tv_nsec", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("it_interval", _Timespec), ("it_value", _Timespec))


_libc = ctypes.CDLL(None, use_errno=True)


class Alarm:
    """A timer of the kernel's; where there is none (not Linux), gevent's."""

    def __init__(self) -> None:
        create = getattr(_libc, "timerfd_create", None)
        self._fd = -1 if create is None else create(_CLOCK_MONOTONIC, _FLAGS)

    def wait_until(self, moment: float) -> None:
        """Sleep until `time.perf_counter()` is `moment`, which on Linux is the monotonic clock."""
        if self._fd < 0:
            gevent.sleep(max(moment - time.perf_counter(), 0))
            return
        seconds, nanoseconds = divmod(max(int(moment * 1e9), 1), 1_000_000_000)
        value = _Itimerspec(_Timespec(0, 0), _Timespec(seconds, nanoseconds))
        if _libc.timerfd_settime(self._fd, _TFD_TIMER_ABSTIME, ctypes.byref(value), None):
            raise OSError(ctypes.get_errno(), "timerfd_settime")
        wait_read(self._fd)
        os.read(self._fd, _EXPIRATIONS_BYTES)

    def close(self) -> None:
        """Give the timer back."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
