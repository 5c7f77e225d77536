"""The error for labels that could mean several things."""


class UnclearLabelsError(Exception):
    """The labels do not say how answers are to be judged.

    Args:
        what: What is wrong, as a clause.
        fix: What to do about it, starting with a verb.
    """

    def __init__(self, what: str, fix: str) -> None:
        super().__init__(what)
        self.what = what
        self.fix = fix
