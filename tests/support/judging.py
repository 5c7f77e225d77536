"""Run the judge of `../shared/corpus` with a fork for each model, as a script: judging.py JUDGE.PY MANIFEST REPOSITORY.

The judge starts a new Python for each model, so that a crash ends only that one. So does a fork, which does not import
onnx and ONNX Runtime again: that takes longer than judging most models. Prints the verdicts as JSON.
"""

import importlib.util
import json
import os
import signal
import sys
import traceback
from types import SimpleNamespace
from typing import IO, Any

import tritonclient.grpc.model_config_pb2  # noqa: F401 - these are what the judge imports for each model

spec = importlib.util.spec_from_file_location("judge", sys.argv[1])
assert spec is not None
assert spec.loader is not None
judge = importlib.util.module_from_spec(spec)
spec.loader.exec_module(judge)


class Forked:
    """In place of `subprocess.Popen`: the judge's worker in a fork, which writes its errors to the judge's file."""

    returncode: int

    def __init__(self, command: list[str], *, stderr: IO[str], **_: Any) -> None:
        if command[2:] != ["--worker"]:
            raise ValueError(f"the judge starts something else: {command}")
        self.stderr = stderr

    def communicate(self, job: str, timeout: float) -> tuple[str, None]:
        """Judge a model and return what is printed. A fork that takes longer is killed, and prints nothing."""
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            signal.alarm(int(timeout))
            os.dup2(writer, 1)
            os.dup2(self.stderr.fileno(), 2)
            try:
                judge.worker(json.loads(job))
            except SystemExit:
                os._exit(0)
            except BaseException:
                traceback.print_exc()
                sys.stderr.flush()
            os._exit(1)
        os.close(writer)
        with os.fdopen(reader) as pipe:
            printed = pipe.read()
        self.returncode = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        return printed, None


vars(judge)["subprocess"] = SimpleNamespace(Popen=Forked, PIPE=None, TimeoutExpired=TimeoutError)
json.dump(judge.judge(*sys.argv[2:], flat=False, jobs=1), sys.stdout)
