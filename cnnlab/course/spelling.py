"""Recognise a name however it is typed: case, hyphens, British or American spelling."""

import re
import unicodedata
from collections.abc import Iterable


_SPELLINGS = (  # British and American; both sides are rewritten, so odd results do no harm
    (r"is(e|es|ed|er|ing|ation)\b", r"iz\1"),
    (r"ys(e|es|ed|ing)\b", r"yz\1"),
    (r"([a-z]{2})our(s|ed|ing)?\b", r"\1or\2"),
    (r"ll(ed|ing)\b", r"l\1"),
    (r"\b(cent|met)re(s?)\b", r"\1er\2"),
    (r"\bcentred\b", "centered"),
    (r"grey", "gray"),
    (r"\blearnt\b", "learned"),
    (r"^(the|an?) ", ""),
)


def recognise(typed: object, names: Iterable[str]) -> str | None:
    """Return the name that was meant, or None if there is no such name.

    >>> recognise("Not-normalized ", ["leak", "not normalised"])
    'not normalised'
    """
    wanted = fold(str(typed))
    return next((name for name in names if fold(name) == wanted), None)


def fold(text: str) -> str:
    """Return text without what doesn't matter: case, spaces, punctuation, a variant of spelling.

    >>> fold("The Early-Stopping.") == fold("early stopping")
    True
    >>> fold("Normalised") == fold("normalized")
    True
    >>> fold("1e-3") == fold("0.001"), fold("-1") == fold("1")
    (True, False)
    """
    text = re.sub(r"\s+", " ", tidy(text).strip(" .,;:!?\"'`"))
    for pattern, new in _SPELLINGS:
        text = re.sub(pattern, new, text)
    text = re.sub(
        r"(?<![\w.])-?\d+(\.\d+)?(e[+-]?\d+)?(?!\w)", lambda n: f"{float(n[0]):.12g}", text
    )
    return re.sub(r"(?<=[^\W\d])-|(?<=\w)-(?=[^\W\d])|[\s_\"'`,;:!?]", "", text)


def tidy(text: str) -> str:
    """Return text in lower case, with plain minus signs and digits."""
    return unicodedata.normalize("NFKC", text).casefold().replace("−", "-").strip()
