"""Find out from Triton's log, in one sentence, why it failed."""

import json
import re
from collections.abc import Sequence

_ERROR = re.compile(r'[EF]\d{4} \S+ +\d+ \S+:\d+\] (?P<text>".*")\s*')
_NOT_SERVED = re.compile(
    r"(?:failed to (?:load|poll)(?: model)?|Poll failed for model directory) '(?P<model>.+?)'"
    r"(?P<version> version \d+)?(?(version): [\w ]+): (?P<why>.*)",
    re.DOTALL,
)
_PROTOBUF = re.compile(r"\[libprotobuf ERROR .*\] (?P<why>Error parsing text-format .*)")
_FINAL_ERROR = re.compile(r"(?:error:|\s+what\(\):) +(?P<why>.*)")
"""What Triton prints before it exits, and the C++ runtime before it aborts because of an exception."""
_SIGNAL = re.compile(r"Signal \(\d+\) received")
"""What Triton prints when a signal ends it, before its stack."""
_PYTHON_TRACE = re.compile(r"\n+At:\n.*", re.DOTALL)
_NOISE = "CudaDriverHelper has not been initialized."
"""An error that Triton logs on every machine without a GPU."""


def model_faults(lines: Sequence[str]) -> list[str]:
    """Return one sentence for each model that did not load, with the reason."""
    faults: dict[str, str] = {}
    syntax_error = ""
    for line in lines:
        if broken := _PROTOBUF.match(line):
            syntax_error = broken["why"]
        if match := _NOT_SERVED.match(_error_text(line)):
            model = f"model '{match['model']}'{match['version'] or ''}"
            why = _PYTHON_TRACE.sub("", match["why"].removeprefix("TritonModelException: "))
            faults[model] = f"{model}: {syntax_error or why}"
            syntax_error = ""
    return list(faults.values())


def before_the_end(lines: Sequence[tuple[float, str]], *, now: float, newest_s: float) -> list[str]:
    """Return the lines that Triton logged in the last seconds before a signal ended it, or else before now.

    From the signal until somebody asks, a busy machine may take many seconds.

    Args:
        lines: Each with the moment at which it was read.
        now: The present moment, by the same clock.
        newest_s: How many seconds.
    """
    end = next((moment for moment, line in reversed(lines) if _SIGNAL.match(line)), now)
    return [line for moment, line in lines if moment >= end - newest_s]


def last_error(lines: Sequence[str]) -> str:
    """Return the last error in the log; empty if there is none."""
    errors = (match["why"] if (match := _FINAL_ERROR.match(line)) else _error_text(line) for line in reversed(lines))
    return next((text for text in errors if text and text != _NOISE), "").strip()


def _error_text(line: str) -> str:
    """Return the message of an error entry, with its escapes resolved; empty for any other line."""
    match = _ERROR.fullmatch(line)
    if match is None:
        return ""
    try:
        return str(json.loads(match["text"], strict=False))
    except json.JSONDecodeError:
        return match["text"].strip('"')
