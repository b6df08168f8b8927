"""Recognise a name however it is typed: case, hyphens, British or American spelling."""

import re
from collections.abc import Iterable


def recognise(typed: object, names: Iterable[str]) -> str | None:
    """Return the name that was meant, or None if there is no such name.

    >>> recognise("Not-normalized ", ["leak", "not normalised"])
    'not normalised'
    """
    wanted = _simplified(str(typed))
    return next((name for name in names if _simplified(name) == wanted), None)


def _simplified(name: str) -> str:
    words = " ".join(re.split(r"[\s_-]+", name.casefold())).strip(" .!'\"")
    return re.sub(r"iz(e|ed|es|ing|ation)\b", r"is\1", words)
