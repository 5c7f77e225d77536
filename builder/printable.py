"""Show text from files, servers and command lines: nothing in it can control the terminal or pass for our own output.

A model names its nodes and tensors as it likes. Printed as they are, such names could move the cursor, change the
window's title, reverse the direction of the text, or end the line and begin another one that reads `error:`.
"""

import re
import unicodedata

_LONG_WORD, _KEPT_OF_WORD = 500, 200
_LONG_TEXT, _KEPT_OF_TEXT = 20_000, 1_000
_WORD = re.compile(rf"\S{{{_LONG_WORD + 1},}}")


def printable(text: object) -> str:
    r"""Return text in one line, safe to print: control and invisible characters are written as escapes, `\x1b`.

    Those are the control characters, line breaks of every kind, marks of the direction of text, characters without a
    width, lone surrogates, private and unassigned characters. Letters, signs and emoji of every language stay. A word
    of more than 500 characters, or a text of more than 20,000, is cut short and its length given.
    """
    short = _WORD.sub(lambda word: _cut(word[0], _KEPT_OF_WORD), str(text))
    return escape(_cut(short, _KEPT_OF_TEXT) if len(short) > _LONG_TEXT else short)


def escape(text: str) -> str:
    """Return text in one line, safe to print, however long it is: a path that a script reads must be complete."""
    return text if text.isprintable() else "".join(map(_escape, text))


def counted(number: int, noun: str) -> str:
    """Return a count with its noun: `1 request`, `2,000 requests`."""
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def was(number: int) -> str:
    """Return the verb of a count, as in `1 of 3 answers was wrong`."""
    return "was" if number == 1 else "were"


def _cut(text: str, kept: int) -> str:
    return f"{text[:kept]}… ({len(text):,} characters)"


def _escape(character: str) -> str:
    is_safe = character.isprintable() or unicodedata.category(character) == "Zs"  # spaces of every width
    return character if is_safe else character.encode("unicode_escape").decode()
