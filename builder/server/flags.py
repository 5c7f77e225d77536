"""The flags of `tritonserver` that a user adds to a server of ours.

Everything is allowed that does not take away what `serve` promises: its addresses, the key to the admin APIs, and the
log in which it finds out what is wrong. Each flag is written out in full and with its value, because `getopt_long`,
which Triton uses, also takes the beginning of a name: `--http-p=80` is `--http-port=80`.

Source: https://github.com/triton-inference-server/server/blob/r24.10/src/command_line_parser.cc
"""

import difflib
import re
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path

from builder.server.installation import find_installation
from builder.server.launch import PLACEHOLDER

_IN_HELP = re.compile(r"^  (--[a-z0-9-]+)( <)?", re.MULTILINE)

_NO_OTHER = "leave it out: {0} would answer on every address, and takes requests to load models without the admin key"
_NEEDED = "leave it out: serve needs this endpoint"
_LOADS = "use --strict to end serve if a model does not load; without it, the other models are served"
_KEY = "use --admin-key-file and --admin-header: serve closes the admin APIs with them"

OWNED = {
    "--model-repository": "use --repository",
    "--model-store": "use --repository",
    "--model-control-mode": "use --model-control-mode before the --",
    "--http-address": "use --host",
    "--grpc-address": "use --host",
    "--metrics-address": "use --host",
    "--http-port": "use --http-port before the --",
    "--grpc-port": "use --grpc-port before the --",
    "--metrics-port": "use --metrics-port before the --",
    "--reuse-http-port": "leave it out: serve sets it",
    "--reuse-grpc-port": "leave it out: serve sets it",
    "--http-restricted-api": _KEY,
    "--grpc-restricted-protocol": _KEY,
    "--allow-http": _NEEDED,
    "--allow-grpc": _NEEDED,
    "--allow-metrics": _NEEDED,
    "--exit-on-error": _LOADS,
    "--strict-readiness": _LOADS,
    "--exit-timeout-secs": "leave it out: serve lets requests finish for 5 s when it stops",
    "--backend-directory": "leave it out: serve brings the backends that it needs",
    "--strict-model-config": "leave it out: Triton has given it up",
    "--log-file": "write what serve prints to a file: serve 2> FILE",
    **{flag: _NO_OTHER.format("SageMaker's endpoint") for flag in ("--allow-sagemaker", "--sagemaker-port")},
    "--sagemaker-safe-port-range": _NO_OTHER.format("SageMaker's endpoint"),
    "--sagemaker-thread-count": _NO_OTHER.format("SageMaker's endpoint"),
    **{flag: _NO_OTHER.format("Vertex AI's endpoint") for flag in ("--allow-vertex-ai", "--vertex-ai-port")},
    "--vertex-ai-thread-count": _NO_OTHER.format("Vertex AI's endpoint"),
    "--vertex-ai-default-model": _NO_OTHER.format("Vertex AI's endpoint"),
}
"""The flags that `serve` sets itself, each with what to do instead."""

_PATHS = {
    "--grpc-server-cert",
    "--grpc-server-key",
    "--grpc-root-cert",
    "--cache-directory",
    "--repoagent-directory",
    "--trace-file",
}
"""The flags whose value is a path. Triton runs in a folder of its own, so a relative path has to be made absolute."""

_TRACE_FILE = re.compile(r"(triton,file=)(.+)", re.DOTALL)
_SHARED_MEMORY = re.compile(r"python,shm-region-prefix-name=.*", re.DOTALL)


class FlagError(ValueError):
    """A flag that `tritonserver` cannot be given.

    Attributes:
        what: What is wrong, as a clause without a full stop.
        fix: What to do about it, starting with a verb.
    """

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(f"{what}: {fix}")
        self.what = what
        self.fix = fix


@cache
def help_text() -> str:
    """Return what `tritonserver --help` prints.

    Raises:
        HostError: No Triton can run on this machine.
    """
    installation = find_installation()
    command = [str(installation.binary), "--help"]
    ended = subprocess.run(
        command, env=installation.environment(), capture_output=True, text=True, errors="replace", check=False
    )
    return ended.stdout or ended.stderr


def read_flags(given: Sequence[str], *, header: str, folder: Path | None = None) -> list[str]:
    """Return flags for `tritonserver`, each in the form `--name=value`, after checking that they may be set.

    Args:
        given: The flags as on a command line: `--name=value`, or `--name` and `value`.
        header: The header that carries the admin key.
        folder: What relative paths are relative to. Default: the working directory.

    Raises:
        FlagError: There is no such flag, its value is missing, or `serve` sets it itself.
        HostError: No Triton can run on this machine.
    """
    if not given:
        return []
    takes_value = {name: bool(value) for name, value in _IN_HELP.findall(help_text())}
    return [_checked(name, value, header, folder or Path.cwd()) for name, value in _pairs(given, takes_value)]


def models_to_load(flags: Iterable[str]) -> list[str]:
    """Return the models that checked flags name with `--load-model`."""
    return [flag.partition("=")[2] for flag in flags if flag.startswith("--load-model=")]


def _pairs(given: Sequence[str], takes_value: Mapping[str, bool]) -> Iterator[tuple[str, str | None]]:
    """Yield the name and the value of each flag."""
    waiting = iter(given)
    for word in waiting:
        name, equals, value = word.partition("=")
        if not name.startswith("--"):
            fix = "write the flags of tritonserver behind --, as in serve -- --log-verbose=1"
            raise FlagError(f"{word!r} is not a flag of tritonserver", fix)
        if name not in takes_value:
            raise _unknown(name, takes_value)
        if not takes_value[name]:
            if equals:
                raise FlagError(f"{name} takes no value", f"write {name}")
            yield name, None
        elif equals:
            yield name, value
        else:
            following = next(waiting, None)
            if following is None or following.partition("=")[0] in takes_value:
                raise FlagError(f"{name} has no value", f"write {name}=VALUE")
            yield name, following


def _unknown(name: str, known: Iterable[str]) -> FlagError:
    close = difflib.get_close_matches(name, known, n=3) or [flag for flag in known if flag.startswith(name)][:3]
    fix = f"use {' or '.join(close)}" if close and name != "--" else "run `serve -- --help` to see the flags"
    return FlagError(f"tritonserver has no flag {name}", fix)


def _checked(name: str, value: str | None, header: str, folder: Path) -> str:
    if name in OWNED:
        raise FlagError(f"serve sets {name} itself", OWNED[name])
    if value is None:
        return name
    if PLACEHOLDER.removeprefix("=") in value:
        raise FlagError(f"{name} has a value that serve uses itself", f"choose another value than {value}")
    if name == "--backend-config" and _SHARED_MEMORY.fullmatch(value):
        raise FlagError("serve names the regions of shared memory itself", f"leave {name}={value} out")
    if name.endswith("-header-forward-pattern") and _may_match(value, header):
        what = f"{name}={value} would hand the header {header}, which carries the admin key, to the models"
        raise FlagError(what, "write a pattern that does not match it")
    return f"{name}={_absolute(name, value, folder)}"


def _absolute(name: str, value: str, folder: Path) -> str:
    """Return the value; if it is a path, or holds one, relative to the user's folder."""
    if name in _PATHS:
        return str(folder / value)
    match = _TRACE_FILE.fullmatch(value) if name == "--trace-config" else None
    return f"{match[1]}{folder / match[2]}" if match else value


def _may_match(pattern: str, header: str) -> bool:
    """Return whether Triton's pattern could match the header, as it is called over HTTP or gRPC."""
    try:
        compiled = re.compile(pattern, re.IGNORECASE)
    except re.error:  # RE2 may take what Python does not
        return True
    return any(compiled.search(name) for name in (header, f"triton-grpc-protocol-{header}"))
