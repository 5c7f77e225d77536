"""Names as a hostile model could have them, and what must never come out of the program."""

import unicodedata

_CONTROLS = "\x1b[31mRED\x1b]0;title\x07 \b\t\r\nerror: forged: x\nfix: run it\x7f \x80\x85\x9b0m"
_MARKS = (
    "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u2028\u2029\u200b\u200d\ufeff\u00ad\U000e0041"
)
_MARKUP = "[red]:boom: $x_$ <b onmouseover='alert(1)'> </script><!--<script> =cmd()"
READABLE = "é 漢字 🎉"

HOSTILE = f"a{_CONTROLS}{_MARKS}{_MARKUP}{READABLE}"
"""A name of a node or a tensor in a model."""

HOSTILE_FILE = HOSTILE.replace("/", "_")
"""A name of a file."""


def unsafe(output: bytes) -> set[str]:
    """Return the characters in what a program printed that a terminal would obey, or that nobody can see."""
    characters = set(output.decode(errors="surrogateescape")) - {"\n"}
    return {c for c in characters if not (c.isprintable() or unicodedata.category(c) == "Zs")}


def forged(output: bytes) -> list[str]:
    """Return the lines that pass for our own, but come from a name."""
    return [
        line
        for line in output.decode(errors="replace").splitlines()
        if line.startswith(("error: forged", "fix: run it"))
    ]
