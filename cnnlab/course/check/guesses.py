"""Read a student's guess: numbers in any unit, words in any spelling, and a confidence."""

import re
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from numbers import Integral, Real
from types import EllipsisType
from typing import Any

from cnnlab.course.spelling import fold, recognise, tidy


POINTS = {"point", "points", "percentage point", "percentage points", "pp"}
PERCENT = {"%", "percent", "per cent", *POINTS}
YES_NO = ("yes", "no")
_SAME = {"true": "yes", "y": "yes", "false": "no", "n": "no"}
_NUMBER = re.compile(
    r"(?:about|around|roughly|approximately|ca\.?|~|≈)?\s*"
    r"([+-]?(?:\d[\d,]*(?:\.\d*)?|[.,]\d+)(?:e[+-]?\d+)?)\s*(?:/\s*(\d+(?:\.\d+)?))?\s*([^\d\s]\D*)?"
)
_WITH_CONFIDENCE = re.compile(r"(.+),\s*(0?\.\d+|\d+\s*%)\s*")  # all of it in quotes


@dataclass(frozen=True)
class Number:
    """A number as it was typed: its value, and its unit if there is one."""

    value: float
    unit: str = ""


def plain(value: Any) -> Any:
    """Return a tensor, an array or a numpy scalar as a plain Python value.

    >>> import torch
    >>> plain(torch.tensor(3)), plain(torch.tensor([0.5])), plain("lower")
    (3, 0.5, 'lower')
    """
    if not hasattr(value, "tolist") or isinstance(value, type):
        return value
    listed = value.tolist()
    return listed[0] if isinstance(listed, list) and len(listed) == 1 else listed


def is_number(value: Any) -> bool:
    """Return whether a plain value is a number; a truth value isn't one."""
    return isinstance(value, Real | Decimal) and not isinstance(value, bool)


def is_missing(guess: Any) -> bool:
    """Return whether nothing was guessed: `...`, `None`, or a text without a word.

    >>> [is_missing(guess) for guess in (..., None, " ", "...", "?", 0, "no")]
    [True, True, True, True, True, False, False]
    """
    if isinstance(guess, str):
        return not re.search(r"\w", guess)
    return guess is None or isinstance(guess, EllipsisType)


def read_number(guess: Any) -> Number | None:
    """Return the number in a guess, or None if it isn't one number.

    >>> read_number("40 %"), read_number("1/4"), read_number("0,4")
    (Number(value=40.0, unit='%'), Number(value=0.25, unit=''), Number(value=0.4, unit=''))
    >>> read_number("0.3 to 0.5")
    >>> read_number(True)
    """
    if is_number(guess):
        with suppress(OverflowError, ValueError):
            return Number(float(guess))
        return None
    found = isinstance(guess, str) and _NUMBER.fullmatch(tidy(guess).rstrip("."))
    if not found:
        return None
    digits, divisor, unit = found.groups()
    if re.fullmatch(r"[+-]?[1-9]\d{0,2}(,\d{3})+", digits):  # 1,000
        digits = digits.replace(",", "")
    with suppress(ValueError, ZeroDivisionError):
        number = float(digits.replace(",", "."))
        if divisor is not None:
            number = float(Fraction(digits.replace(",", ".")) / Fraction(divisor))
        return Number(number, (unit or "").strip())
    return None


def split_confidence(guess: Any, number: bool) -> tuple[Any, float | None, str]:
    """Separate a guess from the confidence behind it, as in `"lower", 0.8`.

    Args:
        guess: as the student wrote it.
        number: whether the prediction is a number. Then `0, 4` may be 0.4 with a decimal comma.

    Returns:
        The guess, the confidence from 0 to 1 or None, and what is wrong with it or "".

    >>> split_confidence(("lower", 0.8), number=False)
    ('lower', 0.8, '')
    >>> split_confidence((0.3, "80%"), number=True)
    (0.3, 0.8, '')
    """
    if isinstance(guess, str) and (found := _WITH_CONFIDENCE.fullmatch(guess)):
        guess = found.groups()
    if not isinstance(guess, tuple):
        single = isinstance(guess, list | set | frozenset) and len(guess) == 1
        return plain(next(iter(guess)) if single else guess), None, ""
    if number and (len(guess) != 2 or all(isinstance(plain(g), Integral) for g in guess)):
        return guess, None, "Decimals take a point, and a confidence follows them: 0.4, 0.8"
    given = plain(guess[1]) if len(guess) == 2 else None
    sure = read_number(given)
    if sure is None:
        return (guess, None, "") if not number else (guess, None, "One number is needed")
    value = sure.value / 100 if sure.unit in PERCENT or 1 < sure.value <= 100 else sure.value
    if not 0 <= value <= 1:
        return plain(guess[0]), None, f"A confidence is a number from 0 to 1, not {given}"
    return plain(guess[0]), value, ""


def words(guess: Any) -> list[str]:
    """Return the words of a guess for a collection: of a set, a list or a text with commas.

    >>> words("flip, crop"), words(("a", 2)), words({True})
    (['flip', 'crop'], ['a', '2'], ['yes'])
    """
    if isinstance(guess, str):
        return [part.strip() for part in re.split(r"[,;]|\band\b", guess) if part.strip()]
    if isinstance(guess, list | tuple | set | frozenset):
        return [word(plain(item)) for item in guess]
    return [word(guess)]


def word(value: Any) -> str:
    """Return a value as a word: True is "yes", and 0.30 is "0.3"."""
    if isinstance(value, bool):
        return YES_NO[not value]
    return f"{value:g}" if isinstance(value, float) else str(value).strip()


def choose(guess: str, options: Sequence[str]) -> tuple[str | None, bool]:
    """Return the option that a word means, and whether it was spelled as one of them.

    Case, spaces, hyphens, punctuation, and British or American spelling never matter. A word that
    is spelled like none of the options means the nearest one, if it is near and no other is.

    >>> options = ["lower", "higher"]
    >>> choose(" Lower.", options), choose("lowr", options), choose("equal", options)
    (('lower', True), ('lower', False), (None, False))
    """
    folded = {option: fold(option) for option in options}
    wanted = _SAME.get(fold(guess), fold(guess)) if set(YES_NO) & {*options} else fold(guess)
    same = recognise(wanted, options)
    if same is not None:
        return same, True
    for near in (_begins, _has_typo):
        found = [option for option, text in folded.items() if near(wanted, text)]
        named = [option for option, text in folded.items() if text in wanted]  # "this or that"
        if len(found) == 1 and not {*named} - {*found}:
            return found[0], False
    return None, False


def _begins(guess: str, option: str) -> bool:
    """Return whether one is the beginning of the other: "full" of "full training"."""
    short, long = sorted((guess, option), key=len)
    return len(short) >= 3 and long.startswith(short) and _digits(guess) == _digits(option)


def _has_typo(guess: str, option: str) -> bool:
    """Return whether a guess is an option with a typo: one in a short word, two in a long one."""
    allowed = 0 if len(option) < 3 else 1 if len(option) < 6 else 2
    # The first letter must be the same, or "frozen" would be "unfrozen" with two typos.
    alike = guess[:1] == option[:1] and _digits(guess) == _digits(option)
    return alike and _typos(guess, option) <= allowed


def _digits(text: str) -> list[str]:
    return re.findall(r"\d+", text)


def _typos(a: str, b: str) -> int:
    """Return the edit distance: letters that are missing, added, replaced or swapped.

    >>> _typos("lowr", "lower"), _typos("hihger", "higher"), _typos("lower", "higher")
    (1, 1, 4)
    """
    rows = [list(range(len(b) + 1))]
    for i, letter in enumerate(a, 1):
        row = [i]
        for j, other in enumerate(b, 1):
            cost = min(rows[-1][j] + 1, row[-1] + 1, rows[-1][j - 1] + (letter != other))
            if i > 1 and j > 1 and (letter, other) == (b[j - 2], a[i - 2]):
                cost = min(cost, rows[-2][j - 2] + 1)
            row.append(cost)
        rows.append(row)
    return rows[-1][-1]
