"""Where the files of a repository are that is deployed from: on a disk that the servers read, or elsewhere.

A repository in a bucket is changed in a copy on this machine. Whoever deploys from it passes a `Mirror` that keeps the
two the same. On a disk there is nothing to do.
"""

from contextlib import AbstractContextManager, nullcontext
from typing import Protocol


class Mirror(Protocol):
    """Keeps what servers read the same as the folder that is changed."""

    def changing(self) -> AbstractContextManager[None]:
        """Return the block for one change, or for one look at what is there now.

        When it begins, the folder has what servers can read; when it ends, they can read what was changed in it.

        Raises:
            RepositoryError: The files cannot be read or written.
        """
        ...  # pragma: no cover


class OnDisk:
    """The servers read the folder itself."""

    def changing(self) -> AbstractContextManager[None]:
        """Do nothing."""
        return nullcontext()
