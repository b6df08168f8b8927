"""One line of the report: what was examined, what was found, and whether it is fine."""

import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import StrEnum


class Verdict(StrEnum):
    """Whether all is well, something costs you time or features, or chapters cannot run."""

    FINE = "fine"
    LOOK = "look at this"
    BROKEN = "broken"


@dataclass(frozen=True)
class Line:
    """One line of the report.

    Attributes:
        subject: what was examined.
        verdict: whether it is fine.
        found: what was found, in a few words.
        way_out: how to fix it, in one sentence; empty where nothing needs fixing.
    """

    subject: str
    verdict: Verdict
    found: str
    way_out: str = ""


def ok(subject: str, finding: str) -> Line:
    """Return a line about something that works."""
    return Line(subject, Verdict.FINE, finding)


def warning(subject: str, finding: str, fix: str) -> Line:
    """Return a line about something that works less well than it could."""
    return Line(subject, Verdict.LOOK, finding, fix)


def failure(subject: str, finding: str, fix: str) -> Line:
    """Return a line about something that keeps chapters from running."""
    return Line(subject, Verdict.BROKEN, finding, fix)


def run_check(subject: str, check: Callable[[], Iterable[Line]]) -> list[Line]:
    """Return the lines of a check; if it raises an error, the last line reports that error."""
    lines: list[Line] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            lines.extend(check())
        except (Exception, SystemExit) as error:  # noqa: BLE001 - the rest of the report must appear
            fix = "fix the lines marked broken first, then run `cnnlab doctor` again"
            lines.append(warning(subject, f"could not be examined: {summarise(error)}", fix))
    return lines


def summarise(error: BaseException) -> str:
    r"""Return an error as one line of text.

    >>> summarise(ValueError("a\nb"))
    'ValueError: a'
    >>> summarise(PermissionError(13, "Permission denied", "/etc/x"))
    'Permission denied'
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    first_line = (str(error).strip().splitlines() or [""])[0][:300]
    return f"{type(error).__name__}: {first_line}"


def count(n: int, noun: str) -> str:
    """Return a number with its noun, in the plural where needed.

    >>> count(1, "line"), count(2, "line")
    ('1 line', '2 lines')
    """
    return f"{n} {noun}" if n == 1 else f"{n} {noun}s"


def size(n_bytes: float) -> str:
    """Return a number of bytes in MiB or GiB.

    >>> size(3 * 2**20), size(1.5 * 2**30)
    ('3 MiB', '1.5 GiB')
    """
    mebibytes = n_bytes / 2**20
    return f"{mebibytes:.0f} MiB" if mebibytes < 1000 else f"{mebibytes / 1024:.1f} GiB"
