"""A line of the report: what was looked at, what was found, and whether that is well."""

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """How a line ends: all is well, something costs you time or pictures, or the chapters cannot run."""

    FINE = "fine"
    LOOK = "look at this"
    BROKEN = "broken"


@dataclass(frozen=True)
class Line:
    """One finding.

    Attributes:
        subject: what was looked at.
        verdict: whether it is well.
        found: what was found, in a few words.
        way_out: what to do about it, in one sentence; empty where all is well.
    """

    subject: str
    verdict: Verdict
    found: str
    way_out: str = ""


def fine(subject: str, found: str) -> Line:
    """Return a line of which nothing needs to be done."""
    return Line(subject, Verdict.FINE, found)


def look(subject: str, found: str, way_out: str) -> Line:
    """Return a line about what works, but not as well as it could."""
    return Line(subject, Verdict.LOOK, found, way_out)


def broken(subject: str, found: str, way_out: str) -> Line:
    """Return a line about what keeps the chapters from running."""
    return Line(subject, Verdict.BROKEN, found, way_out)


def fenced(subject: str, check: Callable[[], Iterable[Line]]) -> list[Line]:
    """Return the lines of a check, whatever it raises: its error becomes its last line."""
    lines: list[Line] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            lines.extend(check())
        except (Exception, SystemExit) as error:  # noqa: BLE001 - a doctor that falls ill helps nobody
            way_out = (
                "mend what is broken in the other lines first, then call `cnnlab doctor` again"
            )
            lines.append(look(subject, f"could not be examined: {told(error)}", way_out))
    return lines


def told(error: BaseException) -> str:
    r"""Return an error in one line.

    >>> told(ValueError("a\nb"))
    'ValueError: a'
    >>> told(PermissionError(13, "Permission denied", "/etc/x"))
    'Permission denied'
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    first = (str(error).strip().splitlines() or [""])[0][:300]
    return f"{type(error).__name__}: {first}"


def size(n_bytes: float) -> str:
    """Return bytes as a person says them.

    >>> size(3 * 2**20), size(1.5 * 2**30)
    ('3 MiB', '1.5 GiB')
    """
    mebibytes = n_bytes / 2**20
    return f"{mebibytes:.0f} MiB" if mebibytes < 1000 else f"{mebibytes / 1024:.1f} GiB"
