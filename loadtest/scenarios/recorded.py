"""Read recorded times of requests from a file, and refuse a replay that would take unreasonably long."""

import csv
import io
from itertools import pairwise
from pathlib import Path

from loadtest.errors import SettingsError, reason
from loadtest.files import open_file
from loadtest.scenarios.durations import describe_seconds

UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}
_LONGEST_S = 86_400.0
_LONGEST_GAP_S = 3600.0
_LATEST_S = 1e10
"""In the year 2286, as seconds since 1970."""

_FIX = "write one time per line, in ascending order, in the unit that --arrivals-unit names (seconds by default)"

Line = tuple[int, float]
"""The number of a line, and the time in it."""


def read_arrivals(path: Path, unit: str = "s") -> tuple[float, ...]:
    """Read times from the first column of a CSV; return them in seconds, counted from the first one.

    The times may be seconds since 1970, or since any other moment: 1764190000.25 and 1764190000.75 are 0 and 0.5. The
    first line may be a heading, which does not begin with a digit.

    Raises:
        SettingsError: The file cannot be read, a line is not a time or is out of order, or the replay would take more
            than a day, or would send nothing for more than an hour.
    """
    lines = _read_lines(path)
    if not lines:
        raise SettingsError(path, "the file has no times", _FIX)
    first = lines[0][1]
    _check_first(path, first, unit)
    seconds = [(number, (time - first) * UNITS[unit]) for number, time in lines]
    _check_length(path, seconds, unit)
    return tuple(time_s for _, time_s in seconds)


def _read_lines(path: Path) -> list[Line]:
    try:
        # Excel writes a byte order mark, which belongs to no cell.
        with open_file(path) as stream, io.TextIOWrapper(stream, encoding="utf-8-sig", newline="") as file:
            cells = [(number, row[0].strip()) for number, row in enumerate(csv.reader(file), 1) if row]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        name_another = "name a CSV file of times that can be read, as in --arrivals-file times.csv"
        raise SettingsError(path, f"the file cannot be read: {reason(error)}", name_another) from error
    if cells and not cells[0][1][:1].isdigit() and not cells[0][1].startswith(("-", "+", ".")):
        del cells[0]
    lines: list[Line] = []
    for number, cell in cells:
        time = _read_time(cell, f"{path}, line {number}")
        if lines and time < lines[-1][1]:
            what = f"{time:.15g} is earlier than the time before it, {lines[-1][1]:.15g}"
            raise SettingsError(f"{path}, line {number}", what, "sort the lines by time, as sort -n does")
        lines.append((number, time))
    return lines


def _read_time(cell: str, where: str) -> float:
    try:
        time = float(cell.replace("_", "x"))  # Python alone would read 1_000
    except ValueError as error:
        raise SettingsError(where, f"{cell!r} is not a number", _FIX) from error
    if not 0 <= time < float("inf"):
        raise SettingsError(where, f"{time:g} is not a time from 0 up", _FIX)
    return time


def _check_first(path: Path, first: float, unit: str) -> None:
    """Refuse a first time that is centuries after any moment that people count from, as milliseconds since 1970 are."""
    if first * UNITS[unit] <= _LATEST_S:
        return
    smaller = [name for name in UNITS if first * UNITS[name] <= _LATEST_S]
    fix = f"add --arrivals-unit {smaller[0]}, if the times are in {smaller[0]}" if smaller else _FIX
    raise SettingsError(path, f"its first time, {first:.15g} {unit}, is more than 300 years", fix)


def _check_length(path: Path, lines: list[Line], unit: str) -> None:
    """Refuse what nobody would wait for; most often, the times are in a smaller unit."""
    total_s = lines[-1][1]
    gaps = ((later_s - time_s, number, later) for (number, time_s), (later, later_s) in pairwise(lines))
    gap_s, before, after = max(gaps, default=(0.0, 0, 0))
    day = describe_seconds(_LONGEST_S)
    if total_s > _LONGEST_S:
        what = f"its replay would take {describe_seconds(total_s)}, but may take {day} at most"
        fix = f"keep only lines that are within {day}"
    elif gap_s > _LONGEST_GAP_S:
        what = f"nothing would be sent for {describe_seconds(gap_s)} between lines {before} and {after}"
        fix = f"subtract {gap_s / UNITS[unit]:.15g} from the times from line {after} on"
    else:
        return
    smaller = [name for name in UNITS if UNITS[name] < UNITS[unit] and _fits(total_s, gap_s, UNITS[name] / UNITS[unit])]
    if smaller:
        fix = f"add --arrivals-unit {smaller[0]} if the times are in {smaller[0]}, or {fix}"
    raise SettingsError(path, what, fix)


def _fits(total_s: float, gap_s: float, factor: float) -> bool:
    return total_s * factor <= _LONGEST_S and gap_s * factor <= _LONGEST_GAP_S
