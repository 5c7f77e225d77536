"""Collect what TensorRT and Polygraphy log, and make one readable line of each message.

TensorRT says why it refuses a model in its log and in the errors of its parser, and Polygraphy raises an exception that
only says "see the log". A message looks like this:

    ITensor::getDimensions: Error Code 4: API Usage Error (/r/LSTM: ISelectLayer must have `thenInput` and `elseInput`
    of same types but has Half and Float. In validateTypes at /_src/optimizer/common/nodes/selectNode.cpp:27)

Of it, `plain` keeps "ISelectLayer must have `thenInput` and `elseInput` of same types but has Half and Float".
"""

import logging
import os
import re
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

_COLOUR = re.compile(r"\x1b\[[0-9;]*m|(?<=; )\[m(?=\)$)")
"""A code that colours a terminal. TensorRT's compiler leaves out the first character at the end of a message."""

_PLACE = re.compile(r"[ ,]*\bIn [\w:~<>&*,() ]{1,200}? at \S+\.(?:cpp|cu|h|hpp|inl|c):\d+")
"""Where in NVIDIA's sources a message comes from: ` In validateTypes at /_src/optimizer/selectNode.cpp:27`."""

_PREFIXES = re.compile(
    r"^(?:\[(?:E|W|!|TRT|TensorRT|\d+)\] |\[[\w./]+\.(?:cpp|cu|h)[^\]]*\] |[\w./]+\.(?:cpp|cu|h):\d+(?::? |:?$)|ERROR: "
    r"|In function \w+:(?: |$)|\d+: |(?:\w+::)+\w+: )+"
)
_WRAPPED = re.compile(r"^Error Code \d+: (?P<kind>[\w ]+) \((?P<what>.*)\)\.?$", re.DOTALL)
_NESTED = re.compile(r"^.*\bIn node -?\d+ with name:.{0,200}?\(\w+\): [A-Z_]+: ", re.DOTALL)
_COMPILER = re.compile(r"^Myelin\w*: [\w.]+:\d+: (?:CHECK\(.*?\) failed\. )?(?=\S)", re.DOTALL)
"""What TensorRT's compiler of fused layers puts in front of a reason."""

_CHECKS = re.compile(r"^The following checks failed: (?:Error during .*?\bError is: )?", re.DOTALL)
"""What it puts in front of a reason that it only finds in its own form of the graph."""

_UNNAMED = re.compile(r"\(Unnamed Layer\* \d+\) \[\w+\](?:_output)?(?:: ?)?")
_ASSERTED = re.compile(r'^(?:Assertion failed: )?.*&& "(?P<what>.+)"$', re.DOTALL)
_NOTED = re.compile(r"^Assertion failed: .*?[)\w\]\"]: (?P<what>\S.*)$", re.DOTALL)
_FAILED = re.compile(r"^(?:\w+ )?[Aa]ssertion \S.*? failed\. ?(?P<what>\S.*)$", re.DOTALL)
_OTHER_HARDWARE = re.compile(r" (?:Please set|For UINT8 quantization, the) k[A-Z0-9_]+\b.*$", re.DOTALL)
"""Advice to set a flag of the parser, for hardware that Triton does not serve on."""

_LONGEST = 10_000
"""How many characters of a message are read. It may have names from a file, which may be of any length."""

_NODE = re.compile(r"\S{0,200}--- Begin node ---.*?(?:--- End node ---|$)", re.DOTALL)
"""The text of a node, which the parser adds to the message about it."""

_NO_KERNEL = re.compile(r"could not find any implementation|no runners that implement", re.IGNORECASE)
_TOO_LITTLE = re.compile(r"insuff?icient memory|memory is insufficient", re.IGNORECASE)

_CONSEQUENCES = (
    "While parsing node number",
    "Node name: ",
    "--- End node ---",
    "Invalid Node - ",
    "Could not parse ONNX correctly",
    "Failed to parse ONNX model.",
    "Invalid Engine. Please ensure",
    "Profile is not valid, please provide",
    "Note: ",
    "Could not deserialize engine. See log",
    "Engine deserialization failed",
)
"""How messages begin that only say that there was another one before."""


@dataclass(frozen=True, slots=True)
class Line:
    """One message: its level, as in Python's logging, and its text as it was logged."""

    level: int
    text: str


@dataclass(slots=True)
class Log:
    """What TensorRT and Polygraphy have logged so far."""

    lines: list[Line] = field(default_factory=list)

    @property
    def errors(self) -> tuple[str, ...]:
        """What went wrong, each message once and readable, without those that only follow from others.

        If no kernel was found for a layer, warnings before that say whether there was too little memory for them all.
        """
        errors = reasons(line.text for line in self.lines if line.level >= logging.ERROR)
        if not any(_NO_KERNEL.search(error) for error in errors):
            return errors
        warnings = (line.text for line in self.lines if line.level == logging.WARNING)
        return (*errors, *reasons(text for text in warnings if _TOO_LITTLE.search(text)))


class _Handler(logging.Handler):
    def __init__(self, log: Log, also: str) -> None:
        super().__init__(level=0)
        self._log = log
        self._also = also

    def emit(self, record: logging.LogRecord) -> None:
        text = str(record.msg)
        if record.levelno >= logging.WARNING or text.startswith(self._also):
            self._log.lines.append(Line(record.levelno, text))


@contextmanager
def listening(*, also: str | None = None) -> Iterator[Log]:
    """Collect what TensorRT and Polygraphy warn about during the block, instead of printing it.

    That includes what TensorRT's compiler writes to file descriptor 1 itself, past its own logger: "WARNING: in op
    clamp, operand beta payload type requires precision-lose casting". On standard output it would be in front of JSON.

    Args:
        also: Collect other messages too if they begin with this.

    Source: `use_python_logging_system` in polygraphy/logger/logger.py
    """
    from polygraphy.logger import G_LOGGER

    log, lines = Log(), list[str]()
    handler, logger = _Handler(log, also or "\0"), logging.getLogger("Polygraphy")
    level = logging.WARNING if also is None else G_LOGGER.EXTRA_VERBOSE
    settings = ("module_severity", "colors", "letter", "use_python_logging_system")
    before = {name: getattr(G_LOGGER, name) for name in settings}
    propagated, own_level = logger.propagate, logger.level
    G_LOGGER.module_severity, G_LOGGER.colors, G_LOGGER.letter = level, False, False
    G_LOGGER.use_python_logging_system = True
    G_LOGGER.once_logged = set()  # a warning of an earlier build may explain this one too
    logger.propagate = False
    logger.setLevel(1)
    logger.addHandler(handler)
    try:
        with printed(1) as lines:
            yield log
    finally:
        log.lines.extend(Line(logging.WARNING, line) for line in lines)
        logger.removeHandler(handler)
        logger.propagate = propagated
        logger.setLevel(own_level)
        for name, value in before.items():
            setattr(G_LOGGER, name, value)


@contextmanager
def printed(descriptor: int) -> Iterator[list[str]]:
    """Collect the lines that are written to a file descriptor during the block; they are in the list at its end."""
    lines: list[str] = []
    sys.stdout.flush()
    sys.stderr.flush()
    with tempfile.TemporaryFile() as stream:
        kept = os.dup(descriptor)
        os.dup2(stream.fileno(), descriptor)
        try:
            yield lines
        finally:
            os.dup2(kept, descriptor)
            os.close(kept)
            stream.seek(0)
            lines.extend(stream.read().decode(errors="replace").splitlines())


def reasons(texts: Iterator[str] | Sequence[str]) -> tuple[str, ...]:
    """Return messages as readable lines, each once, without those that only follow from another one.

    That CUDA fails is itself a consequence, of an error before it, unless it is the only message.
    """
    found = dict.fromkeys(plain(line) for text in texts for line in _split(text))
    found.pop("", None)
    causes = [line for line in found if not line.startswith(("cudaError", "CUDA error", "Cuda Runtime"))]
    return tuple(causes or found)


def _split(text: str) -> list[str]:
    """Return the messages that are joined in one, without those that only say that there was another.

    One that begins with "Error Code 1: Myelin (" ends with the parenthesis, which may be some lines further down.
    """
    lines = [_COLOUR.sub("", line).strip() for line in _NODE.sub("", text)[:_LONGEST].splitlines()]
    whole = " ".join(filter(None, lines))
    if lines and not lines[0].endswith((")", ").")) and _WRAPPED.match(_PREFIXES.sub("", whole)):
        lines = [whole]
    stripped = [_PREFIXES.sub("", line) for line in lines]
    return [line for line, bare in zip(lines, stripped, strict=True) if bare and not bare.startswith(_CONSEQUENCES)]


def plain(text: str) -> str:
    """Return a message in one line, without places in NVIDIA's sources, error codes and names of NVIDIA's own."""
    line = _PREFIXES.sub("", " ".join(_COLOUR.sub("", text[:_LONGEST]).split()))
    if wrapped := _WRAPPED.match(line):
        kind, line = wrapped["kind"], _PREFIXES.sub("", wrapped["what"])
        if kind == "OutOfMemory":
            line = f"out of memory: {line}"
    line = _CHECKS.sub("", _COMPILER.sub("", _NESTED.sub("", _PLACE.sub("", line).strip())))
    if line.startswith("(cudaError"):
        line = line.strip("()")
    if asserted := _ASSERTED.match(line):
        line = asserted["what"].replace('" "', "")
    elif noted := _NOTED.match(line) or _FAILED.match(line):
        line = noted["what"]
    return _UNNAMED.sub("", _OTHER_HARDWARE.sub("", line)).rstrip(" ;.!").lstrip()
