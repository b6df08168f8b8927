"""The report of `cnnlab doctor` on this installation and this machine.

It can be pasted into a question as it is. Each line starts with a verdict:

| verdict | meaning |
|---|---|
| fine | there is nothing to do |
| look at this | the chapters run, but something costs you time, sliders or a GPU |
| broken | chapters don't run, or don't run as they should |

Nothing here raises an error or goes online: if a check fails, a line of the report says so.
"""

import contextlib
import getpass
import platform
import re
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

from cnnlab.course.doctor import chapters, environment, machine
from cnnlab.course.doctor.lines import Line, Verdict, count, run_check


__all__ = ["Line", "Verdict", "examine", "report"]

CHECKS = {
    "system": machine.system,
    "Python": environment.python,
    "packages": environment.packages,
    "torchvision": environment.torchvision,
    "kernel": environment.kernel,
    "sliders": environment.widgets,
    "device": machine.device,
    "PyTorch build": machine.pytorch_build,
    "memory": machine.memory,
    "disk": machine.disk,
    "data": machine.cached,
    "weights": machine.weights,
    "profile": chapters.chosen_profile,
    "pairing": chapters.pairing,
    "speed": chapters.costs,
}


def examine() -> list[Line]:
    """Run every check, which takes about ten seconds; a terminal shows a progress bar.

    Returns:
        The lines of the report, at least one for each check.
    """
    return [line for name in _with_progress(CHECKS) for line in run_check(name, CHECKS[name])]


def report(lines: Sequence[Line]) -> str:
    """Return the lines as text, with `~` for the home folder and without user name and host name.

    >>> print(report([Line("memory", Verdict.LOOK, "1.2 GiB free", "close other programs")]))
    look at this  memory               1.2 GiB free
                                       -> close other programs
    <BLANKLINE>
    Nothing is broken; 1 line deserves a look.
    """
    text = "\n".join(_format(line) for line in lines)
    n_broken = sum(line.verdict is Verdict.BROKEN for line in lines)
    n_look = sum(line.verdict is Verdict.LOOK for line in lines)
    end = f"{count(n_broken, 'line')} broken" if n_broken else "Nothing is broken"
    if n_look:
        end += f"; {count(n_look, 'line')} {'deserves' if n_look == 1 else 'deserve'} a look"
    return f"{_anonymise(text)}\n\n{end}."


def _format(line: Line) -> str:
    """Return a line with its verdict and subject in columns and the rest wrapped beside them."""
    head = f"{line.verdict:<12}  {line.subject:<20} "
    indent = " " * len(head)
    wrapper = textwrap.TextWrapper(
        110,
        initial_indent=indent,
        subsequent_indent=indent,
        break_long_words=False,
        break_on_hyphens=False,
    )
    texts = [line.found, f"-> {line.way_out}"] if line.way_out else [line.found]
    return head + "\n".join(wrapper.fill(text) for text in texts).lstrip()


def _anonymise(text: str) -> str:
    """Replace the home folder, the user name in paths, and the host name."""
    home = str(Path.home())
    if len(home) > 1:
        text = re.sub(rf"{re.escape(home)}(?![\w.-])", "~", text)
    with contextlib.suppress(Exception):  # some users have no name
        text = re.sub(rf"(?<=[/\\]){re.escape(getpass.getuser())}(?![\w.-])", "USER", text)
    if host := platform.node():
        text = re.sub(rf"(?<![\w.-]){re.escape(host)}(?![\w.-])", "HOST", text)
    return text


def _with_progress(names: Iterable[str]) -> Iterable[str]:
    """Show a progress bar over the names, unless tqdm is missing."""
    try:
        from tqdm import tqdm
    except ImportError:
        return names
    return tqdm(names, "examining", leave=False, disable=None)
