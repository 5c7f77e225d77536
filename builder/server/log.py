"""Find out from Triton's log how far it is with loading models and, in one sentence, why something failed."""

import itertools
import json
import re
from collections.abc import Sequence

_ENTRY = r'(?:[{0}]\d{{4}} \S+|\S+Z [{0}]) +\d+ \S+:\d+\] (?P<text>".*")\s*'
"""An entry of one of the levels {0}, in the format `default` or `ISO8601` of Triton's option --log-format."""
_ERROR = re.compile(_ENTRY.format("EF"))
_INFO = re.compile(_ENTRY.format("I"))
_NOT_SERVED = re.compile(
    r"(?:failed to (?:load|poll)(?: model)?|Poll failed for model directory) '(?P<model>.+?)'"
    r"(?P<version> version \d{1,19})?(?(version): [\w ]+): (?P<why>.*)",
    re.DOTALL,
)
_PROTOBUF = re.compile(r"\[libprotobuf ERROR .*\] (?P<why>Error parsing text-format .*)")
_ENSEMBLE_NOT_SERVED = re.compile(r"(?P<why>[\w ]+: ensemble '(?P<model>.+?)' (?:depends on|contains) .*)", re.DOTALL)
_LOADING = re.compile(r"loading: (?P<model>.+):\d+")
_LOADED = re.compile(r"successfully loaded '(?P<model>.+)'")
_INSTANCE = "TRITONBACKEND_ModelInstanceInitialize: "
_BAD_OPTION = re.compile(r"Bad option: ")
"""What Triton prints below its usage; the reason is on the next line."""
_FINAL_ERROR = re.compile(r"(?:error:|\s+what\(\):) +(?P<why>.*)")
"""What Triton prints before it exits, and the C++ runtime before it aborts because of an exception."""
_SIGNAL = re.compile(r"Signal \(\d+\) received")
"""What Triton prints when a signal ends it, before its stack."""
_KIND = re.compile(r"^(?:Internal|Invalid argument|Not found|Unavailable|Unsupported|Unknown|Already exists): ")
_PYTHON_TRACE = re.compile(r"\n+At:\n.*", re.DOTALL)
_NOISE = "CudaDriverHelper has not been initialized."
"""An error that Triton logs on every machine without a GPU."""


class Loads:
    """What Triton has logged about loading models so far.

    One thread reads the log, and others may ask at any time.

    Attributes:
        begun: The models that Triton has begun to load.
        ready: The models that were loaded.
        faults: Why a model (with the version None), or one version of it, did not load.
        steps: How many signs of progress there were: a model or an instance that began, was loaded or failed.
    """

    def __init__(self) -> None:
        self.begun: dict[str, None] = {}
        self.ready: dict[str, None] = {}
        self.faults: dict[tuple[str, int | None], str] = {}
        self.steps = 0
        self._instances: dict[str, None] = {}
        self._syntax_error = ""

    def read(self, line: str) -> None:
        """Take notice of one line of the log."""
        if broken := _PROTOBUF.match(line):
            self._syntax_error = broken["why"]
            return
        if error := _text(_ERROR, line):
            self._read_error(error)
        elif info := _text(_INFO, line):
            self._read_info(info)

    def _read_error(self, text: str) -> None:
        if match := _NOT_SERVED.match(text):
            version = int(match["version"].split()[-1]) if match["version"] else None
            self.faults[match["model"], version] = self._syntax_error or reason(match["why"])
            self._syntax_error = ""
        elif match := _ENSEMBLE_NOT_SERVED.match(text):
            self.faults[match["model"], None] = reason(match["why"])
        else:
            return
        self.steps += 1

    def _read_info(self, text: str) -> None:
        if match := _LOADING.fullmatch(text):
            self.begun[match["model"]] = None
        elif match := _LOADED.fullmatch(text):
            self.ready[match["model"]] = None
        elif text.startswith(_INSTANCE):
            self._instances[text.removeprefix(_INSTANCE)] = None
        else:
            return
        self.steps += 1

    def under_way(self) -> list[str]:
        """Return the models of which an instance has begun to load, and that are neither loaded nor given up."""
        done = {*self.ready, *(model for model, _ in self.faults)}
        begun = {self._model_of(instance) for instance in list(self._instances)}
        return [model for model in list(self.begun) if model in begun and model not in done]

    def _model_of(self, instance: str) -> str:
        """Return the model of an instance, which is called `MODEL_GROUP_NUMBER` unless the config names it."""
        return max((model for model in list(self.begun) if instance.startswith(f"{model}_")), key=len, default="")


def reason(text: str) -> str:
    """Return why a model did not load, without the kind of the error and without Python's stack."""
    text = _KIND.sub("", text.removeprefix("TritonModelException: ")).removeprefix("TritonModelException: ")
    return _PYTHON_TRACE.sub("", text).strip()


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
    for bad, why in itertools.pairwise(lines):
        if _BAD_OPTION.match(bad):
            return f"{bad.strip().removesuffix('.')}: {why.strip()}"
    errors = (match["why"] if (match := _FINAL_ERROR.match(line)) else _text(_ERROR, line) for line in reversed(lines))
    return next((text for text in errors if text and text != _NOISE), "").strip()


def _text(entry: re.Pattern[str], line: str) -> str:
    """Return the message of an entry, with its escapes resolved; empty for any other line."""
    match = entry.fullmatch(line)
    if match is None:
        return ""
    try:
        return str(json.loads(match["text"], strict=False))
    except json.JSONDecodeError:
        return match["text"].strip('"')
