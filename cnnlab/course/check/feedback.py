"""Show the outcome of a check: in colour in a notebook, with progress and which version it judged.

Which exercises are done is remembered as long as the session lasts.
"""

import ast
import html
import inspect
import linecache
import os
import re
import sys
from collections.abc import Callable, Collection, Iterator
from types import CodeType, FunctionType
from typing import Any

from cnnlab.course.check.core import Exercise, Outcome
from cnnlab.plots.core import ipython_shell as _shell


COLOURS = {True: "var(--jp-success-color1, #1a7f37)", False: "var(--jp-error-color1, #cf222e)"}
_done: set[str] = set()


def report(exercise: Exercise, attempt: Callable[..., Any], chapter: Collection[str]) -> None:
    """Judge an attempt and show the outcome.

    Args:
        exercise: what to judge it by.
        attempt: the student's function.
        chapter: the names of all exercises of the chapter.
    """
    outcome = exercise.judge(attempt)
    notes = [note] if (note := version_note(attempt, _shell())) else []
    if outcome.passed:
        _done.add(exercise.name)
        n_done = len(_done.intersection(chapter))
        notes.append(
            f"{n_done} of {len(chapter)} exercises in this chapter done. "
            f'`check.solution("{exercise.name}")` shows another way to write it.'
        )
    show(outcome, notes)


def show(outcome: Outcome, notes: Collection[str] = ()) -> None:
    """Print an outcome and notes, in a notebook as HTML."""
    text = "\n".join((str(outcome), *(f"  {note}" for note in notes)))
    if not hasattr(_shell(), "kernel"):
        print(text)
        return
    from IPython.display import display

    display({"text/plain": text, "text/html": _html(outcome, notes)}, raw=True)


def _html(outcome: Outcome, notes: Collection[str]) -> str:
    colour, mark = COLOURS[outcome.passed], "✔" if outcome.passed else "✘"
    hint = [f"<i>Hint:</i> {rich(outcome.hint)}"] if outcome.hint else []
    lines = "<br>".join((rich(outcome.says), *hint, *map(rich, notes)))
    return (
        f'<div style="border-left: 4px solid {colour}; padding: 2px 12px; max-width: 44em">'
        f'<b><span style="color: {colour}">{mark}</span> {outcome.exercise}</b>: {lines}</div>'
    )


def rich(text: str) -> str:
    """Write text with `code` between backticks as HTML.

    >>> rich("`x < 1` & more")
    '<code>x &lt; 1</code> &amp; more'
    """
    return re.sub("`([^`]*)`", r"<code>\1</code>", html.escape(text, quote=False))


def solution(name: str | Callable[..., Any]) -> None:
    """Print one way to write an exercise, once its check has passed in this session.

    Args:
        name: name of the exercise, or your function.
    """
    from cnnlab.course.check import EXERCISES

    name = name if isinstance(name, str) else getattr(name, "__name__", repr(name))
    if name not in EXERCISES:
        print(f"There is no exercise {name!r}. The exercises are {', '.join(EXERCISES)}.")
    elif name not in _done or "CNNLAB_KEY" in os.environ:
        print(f"First write your own: when check.{name}({name}) has passed, this shows another.")
    else:
        print("\n\n".join(_sources(EXERCISES[name].answer)))


def _sources(function: Callable[..., Any], seen: set[str] | None = None) -> list[str]:
    """Return the source of a function, after those of the helpers and constants that it uses."""
    seen = seen if seen is not None else set()
    namespace, sources = sys.modules[function.__module__].__dict__, []
    for name in _names(inspect.unwrap(function).__code__):
        value = namespace.get(name)
        if name in seen or value is None:
            continue
        seen.add(name)
        if isinstance(value, FunctionType) and value.__module__ == function.__module__:
            sources += _sources(value, seen)
        elif isinstance(value, int | float | str):
            sources.append(f"{name} = {value!r}")
    return [*sources, inspect.getsource(function).rstrip()]


def _names(code: CodeType) -> Iterator[str]:
    """Yield the names that a function looks up, also in the functions inside it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def version_note(attempt: Any, shell: Any) -> str:
    """Say that a newer version of a function in the notebook never ran; "" if there is none.

    Args:
        attempt: the function that was judged.
        shell: the running IPython, whose history holds the cells.
    """
    if shell is None or not isinstance(attempt, FunctionType):
        return ""
    name = attempt.__name__
    define = re.compile(rf"^(async )?def\s+{re.escape(name)}\b", re.MULTILINE)
    cells = [(i, cell) for i, cell in enumerate(shell.user_ns.get("In", [])) if define.search(cell)]
    judged_cell = "".join(linecache.getlines(attempt.__code__.co_filename))
    if not cells or not judged_cell or not define.search(judged_cell):
        return ""
    number, newest = cells[-1]
    try:
        if _definition(newest, name) == _definition(judged_cell, name):
            return ""
        problem = f"stopped before it defined `{name}`"
    except SyntaxError as error:
        problem = f"has a syntax error in line {error.lineno}"
    return (
        f"This judges the version of `{name}` that last ran: your newest cell [{number}] {problem}."
    )


def _definition(cell: str, name: str) -> str:
    """Return the code of the last function with a name in a cell, without comments."""
    found = [
        ast.dump(node)
        for node in ast.parse(cell).body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name == name
    ]
    return found[-1] if found else ""
