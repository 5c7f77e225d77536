"""Keep Python from importing modules that lie in the working directory.

`python -m` looks there first, but the working directory may be a folder of downloads with a `numpy.py` in it. The
package does not need that folder, because its own modules are found beside this one.

Only modules that are loaded already may be imported here.
"""

import os
import sys


def leave_out_working_directory() -> None:
    """Remove the working directory from the folders that modules are imported from, unless PYTHONPATH names it."""
    try:
        here = os.getcwd()  # noqa: PTH109 - pathlib would be imported from there
    except FileNotFoundError:  # it was deleted
        return
    is_safe = getattr(sys.flags, "safe_path", False)  # since Python 3.11; then only PYTHONPATH can have named it
    if sys.path[0] == here and not is_safe:
        del sys.path[0]
