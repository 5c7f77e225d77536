"""Read files that anybody may have written: regular files only, inside a folder where it matters, and JSON to a size.

A named pipe blocks whoever opens it, /dev/zero never ends, and a link leads anywhere. So a path is first opened with
O_PATH, which neither waits nor wakes a device, and the file that was checked there is then opened for reading.
"""

import errno
import json
import os
import stat
from pathlib import Path
from typing import Any, BinaryIO


def open_file(path: Path, *, inside: Path | None = None) -> BinaryIO:
    """Open a regular file for reading.

    Args:
        path: The file, or a link to it.
        inside: The folder that the file must be in, even when links are followed. The folder itself may not be a link.

    Raises:
        OSError: It cannot be opened, is not a regular file, or is outside the folder.
    """
    found = os.open(path, os.O_PATH | os.O_CLOEXEC)
    try:
        if not stat.S_ISREG(os.fstat(found).st_mode):
            raise OSError(errno.EINVAL, "it is a folder, a pipe or a device, not a file", str(path))
        place = Path(f"/proc/self/fd/{found}").readlink()
        if inside is not None and not place.is_relative_to(Path(os.path.realpath(inside.parent), inside.name)):
            raise OSError(errno.EXDEV, f"it leads out of {inside}, to {place}", str(path))
        return open(path, "rb", opener=lambda _, flags: os.open(f"/proc/self/fd/{found}", flags))
    finally:
        os.close(found)


def read_json(path: Path, *, limit_mb: int = 128, inside: Path | None = None) -> Any:
    """Read a JSON file of at most `limit_mb` megabytes; the other arguments are those of `open_file`.

    Raises:
        OSError: It cannot be read.
        ValueError: It is not JSON, or is too large.
    """
    with open_file(path, inside=inside) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit_mb * 1_000_000:
            raise ValueError(f"it is larger than {limit_mb} MB")
        text = file.read(size or 1_000_000)  # a file in /proc says that it is empty
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
