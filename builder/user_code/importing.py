"""Import what the user names in their own Python code."""

import importlib
import sys
from operator import attrgetter
from pathlib import Path
from typing import Any

from builder.errors import ModelError
from builder.user_code.calls import Call
from builder.user_code.guarding import UserCode


def import_from(source: str, call: Call) -> Any:
    """Import the object that a call names, without calling it.

    Its Python module may be in the working directory, which from now on is the last place that modules are imported
    from.

    Raises:
        ModelError: The module cannot be imported, or does not have it.
    """
    home, name = call.home, call.name
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    try:
        with UserCode(source, f"importing {home} fails", "correct that Python module"):
            module = importlib.import_module(home)
    except ModelError as error:
        raise _not_imported(source, home, error) from error
    try:
        return attrgetter(name)(module)
    except AttributeError as error:
        offered = [key for key, value in vars(module).items() if callable(value) and not key.startswith("_")]
        fix = f"use one of {', '.join(sorted(offered)[:20])}" if offered else f"define {name} there"
        raise ModelError(source, f"{home} does not define {name!r}", fix) from error


def _not_imported(source: str, home: str, error: ModelError) -> ModelError:
    """Return the error of a Python module that cannot be imported, with the fix for its cause."""
    cause = error.__cause__
    missing = cause.name if isinstance(cause, ModuleNotFoundError) else None
    if missing and f"{home}.".startswith(f"{missing}."):
        fix = "run the command in the folder that contains it, or add that folder to PYTHONPATH"
        if home.endswith(".py") and Path(*home.split(".")[:-1]).with_suffix(".py").is_file():
            fix = f"leave out .py: {home.removesuffix('.py')}:{source.partition(':')[2]}"
        return ModelError(source, f"there is no Python module {missing!r}", fix)
    if missing:
        fix = f"install the package that has {missing} beside this one, or add the folder that holds it to PYTHONPATH"
        return ModelError(source, error.what, fix)
    if isinstance(cause, SystemExit):
        fix = 'put what it does as a program below `if __name__ == "__main__":`'
        return ModelError(source, error.what, fix)
    return error
