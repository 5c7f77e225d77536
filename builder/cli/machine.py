"""What can be missing on a machine at any moment: memory, disk space, permissions.

No step expects these errors, so they are turned into a HostError at the end. Any other OSError is a bug.
"""

import errno
from collections.abc import Mapping

from builder.errors import HostError

_FREE_SPACE = "free some disk space, then run the command again"
_ALLOW = "give this user permission for it, run the command in another folder, or set TMPDIR for temporary files"

_FIXES: Mapping[int, str] = {
    errno.ENOSPC: _FREE_SPACE,
    errno.EDQUOT: _FREE_SPACE,
    errno.EACCES: _ALLOW,
    errno.EPERM: _ALLOW,
    errno.EROFS: "run the command where files can be written",
    errno.ENAMETOOLONG: "use a shorter path",
    errno.ELOOP: "use a path without links that lead in a circle",
    errno.EMFILE: "raise the limit of open files with `ulimit -n`",
    errno.ENFILE: "close other programs, then run the command again",
}


def find_fault(error: MemoryError | OSError) -> HostError | None:
    """Return what is missing on this machine and how to fix it; None for an OSError that is a bug."""
    if isinstance(error, MemoryError):
        what = f"there is not enough memory: {error}" if str(error) else "there is not enough memory"
        return HostError("this machine", what, "close other programs, or use a machine with more memory")
    fix = _FIXES.get(error.errno or 0)
    return HostError(error.filename or "this machine", error.strerror or str(error), fix) if fix else None
