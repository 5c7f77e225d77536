"""Every fault a user can fix, as one tree.

BuilderError                 1
├─ (usage, from click)       2
├─ ModelError                3   unreadable, unsupported or not batchable
├─ VerificationError         4   answers differ from the original's
├─ RepositoryError           5   and nothing on disk changed
└─ HostError                 6   no GPU, no TensorRT, port in use, server not ready

The number is the process's exit code. A bug is none of these: it keeps its traceback.
"""


class BuilderError(Exception):
    """A fault the user can fix.

    Args:
        where: The file, node, model or address the fault is at.
        what: What is wrong with it, as one sentence without a full stop.
        fix: What to do about it, as one sentence without a full stop.
    """

    exit_code = 1

    def __init__(self, where: object, what: str, fix: str) -> None:
        super().__init__(f"{where}: {what}\nfix: {fix}")
        self.where = str(where)
        self.what = what
        self.fix = fix


class ModelError(BuilderError):
    """The model is unreadable, unsupported or cannot be batched."""

    exit_code = 3


class VerificationError(BuilderError):
    """The published answers would differ from the original's."""

    exit_code = 4


class RepositoryError(BuilderError):
    """The model repository cannot take the change; nothing on disk changed."""

    exit_code = 5


class HostError(BuilderError):
    """This machine lacks what was asked for: a GPU, TensorRT, a free port, a ready server."""

    exit_code = 6
