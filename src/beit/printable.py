"""Names from outside (files, classes, labels, requests) as text that is safe to print and log."""

from __future__ import annotations

import reprlib
import unicodedata

_INVISIBLE = ("Cc", "Cf", "Cs", "Zl", "Zp")
"""Unicode categories that are shown as escapes: control, format (bidi marks), unpaired surrogates,
and the separators that break a line."""


def printable(name: object) -> str:
    """The name with every character that does not show itself written as an escape.

    Terminal sequences, line breaks, bidi marks and the bytes of file names that are not UTF-8
    become `\\x1b`, `\\n`, `\\u202e` and `\\udcff`. To print only: files are opened by their true
    name.
    """
    text = str(name)
    if text.isascii() and text.isprintable():
        return text
    return "".join(
        character.encode("unicode_escape").decode("ascii")
        if unicodedata.category(character) in _INVISIBLE
        else character
        for character in text
    )


def printable_lines(text: str) -> str:
    """A text of several lines, each of them printable."""
    return "\n".join(map(printable, text.split("\n")))


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxtuple, _SHORT.maxlist = 3, 20, 20
_SHORT.maxstring = _SHORT.maxother = 100
_SHORT.maxlong = 40


def shown(value: object) -> str:
    """A value in a message: as Python writes it, shortened in the middle if it is long."""
    try:
        return _SHORT.repr(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits
        return f"a value of type {type(value).__name__} that is too long to print"
