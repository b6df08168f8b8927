"""What `cnnlab doctor` looks at: one report on this installation and this machine, to read and to paste.

| verdict | what it means |
|---|---|
| fine | nothing needs to be done |
| look at this | the chapters run, and something costs you time, sliders or a GPU |
| broken | chapters cannot run, or not as they should |

Nothing here raises, and nothing asks the network: what goes wrong in a check is a line of the report.
"""

import contextlib
import getpass
import platform
import re
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

from cnnlab.course.doctor import chapters, environment, machine
from cnnlab.course.doctor.lines import Line, Verdict, fenced


__all__ = ["Line", "Verdict", "examine", "report"]

CHECKS = {
    "system": machine.system,
    "Python": environment.python,
    "packages": environment.packages,
    "torchvision": environment.torchvision,
    "kernel": environment.kernel,
    "sliders": environment.widgets,
    "device": machine.device,
    "memory": machine.memory,
    "disk": machine.disk,
    "data": machine.cached,
    "weights": machine.weights,
    "profile": chapters.chosen_profile,
    "pairing": chapters.pairing,
    "speed": chapters.costs,
}


def examine() -> list[Line]:
    """Run every check, in some ten seconds; a bar shows how far it is where a person watches.

    Returns:
        The lines of the report, at least one for each check.
    """
    return [line for name in _watched(CHECKS) for line in fenced(name, CHECKS[name])]


def report(lines: Sequence[Line]) -> str:
    """Return the lines as text to paste into a question: no user name, no host name, the home folder as `~`.

    >>> print(report([Line("memory", Verdict.LOOK, "1.2 GiB free", "close other programs")]))
    look at this  memory               1.2 GiB free
                                       -> close other programs
    <BLANKLINE>
    Nothing is broken; 1 line deserves a look.
    """
    text = "\n".join(_told(line) for line in lines)
    n_broken, n_look = (
        sum(line.verdict is v for line in lines) for v in (Verdict.BROKEN, Verdict.LOOK)
    )
    end = f"{_count(n_broken)} broken" if n_broken else "Nothing is broken"
    end += (
        f"; {_count(n_look)} {'deserves' if n_look == 1 else 'deserve'} a look." if n_look else "."
    )
    return f"{_anonymous(text)}\n\n{end}"


def _told(line: Line) -> str:
    head = f"{line.verdict:<12}  {line.subject:<20} "
    parts = [line.found, f"-> {line.way_out}"] if line.way_out else [line.found]
    wrapped = [
        textwrap.fill(part, 110, initial_indent=" " * len(head), subsequent_indent=" " * len(head),
                      break_long_words=False, break_on_hyphens=False)
        for part in parts
    ]  # fmt: skip
    return head + "\n".join(wrapped).lstrip()


def _count(n: int) -> str:
    return f"{n} line" if n == 1 else f"{n} lines"


def _anonymous(text: str) -> str:
    """Without the home folder, and without the names of user and host where they stand in a path or alone."""
    home = str(Path.home())
    if len(home) > 1:
        text = re.sub(rf"{re.escape(home)}(?![\w.-])", "~", text)
    with contextlib.suppress(Exception):  # a user without a name
        text = re.sub(rf"(?<=[/\\]){re.escape(getpass.getuser())}(?![\w.-])", "USER", text)
    if host := platform.node():
        text = re.sub(rf"(?<![\w.-]){re.escape(host)}(?![\w.-])", "HOST", text)
    return text


def _watched(names: Iterable[str]) -> Iterable[str]:
    """The names, and a bar on a terminal; without tqdm, which may be what is missing, the names alone."""
    try:
        from tqdm import tqdm
    except ImportError:
        return names
    return tqdm(names, "examining", leave=False, disable=None)
