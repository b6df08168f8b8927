"""Count, from graded submissions, how common each misconception is in each question."""

import csv
import io
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import nbformat
from nbgrader.utils import is_grade, is_solution

from cnnlab import plots
from cnnlab.course.assignments import AssignmentError, graded
from cnnlab.course.check.core import Exercise
from cnnlab.course.check.grading import Judged, exercises
from cnnlab.files import write_whole
from cnnlab.plots.core import finish, new_axes, wrapped


CORRECT, UNWRITTEN, OTHER = "correct", "not written", "another mistake"
_LABEL_WIDTH = 3.2  # inches


@dataclass(frozen=True)
class Item:
    """What the submissions show in one question.

    Attributes:
        question: name of the exercise in the key.
        n: number of submissions.
        counts: `CORRECT`, a known misconception, `UNWRITTEN` or `OTHER` -> how many submissions
            show it, the most common first. One with two misconceptions counts in both.
    """

    question: str
    n: int
    counts: dict[str, int]


def analyse(course: Path, assignment: str) -> list[Item]:
    """Read what `nbgrader autograde` wrote for each student.

    Args:
        course: the folder of the course, with `autograded/` and `keys/`.
        assignment: name of the assignment.

    Raises:
        AssignmentError: nothing is graded yet.
        KeyMissing: the course has no key for the assignment.
    """
    notebooks = sorted(course.glob(f"autograded/*/{assignment}/*.ipynb"))
    if not notebooks:
        raise AssignmentError(
            f"{course / 'autograded'} has no notebooks of {assignment!r}. Run "
            f"`nbgrader autograde {assignment}` in {course} first"
        )
    key = exercises(course / "keys" / f"{assignment}.py")
    found: dict[str, list[list[str]]] = {}
    for path in notebooks:
        for question, feedback in _feedback(path):
            found.setdefault(question, []).append(_shown(key[question], feedback))
    return [
        Item(question, len(shown), dict(Counter(s for one in shown for s in one).most_common()))
        for question, shown in found.items()
    ]


def _feedback(path: Path) -> Iterable[tuple[str, str]]:
    """Yield the name of each graded exercise in a notebook, and its feedback on one line."""
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "code" and is_grade(cell) and not is_solution(cell):
            streams = [output.text for output in cell.outputs if output.output_type == "stream"]
            yield graded(cell.source).exercise, " ".join("".join(streams).split())


def _shown(exercise: Judged, feedback: str) -> list[str]:
    """Return what a feedback says: `CORRECT`, known misconceptions, `UNWRITTEN` or `OTHER`."""
    if feedback.startswith("✔"):
        return [CORRECT]
    if "not written yet" in feedback:
        return [UNWRITTEN]
    known = exercise.mistakes.values() if isinstance(exercise, Exercise) else ()
    return [m.says for m in known if " ".join(m.says.split()) in feedback] or [OTHER]


def table(items: Iterable[Item]) -> str:
    """Return the counts as CSV, with one row per question and outcome."""
    rows = io.StringIO()
    writer = csv.writer(rows)
    writer.writerow(["question", "outcome", "submissions", "of"])
    for item in items:
        writer.writerows([item.question, what, n, item.n] for what, n in item.counts.items())
    return rows.getvalue()


def figure(items: Sequence[Item], assignment: str) -> plots.Plot:
    """Draw the fraction of submissions behind each outcome, with one panel per question."""
    n_bars = sum(len(item.counts) for item in items)
    drawing, axes = new_axes(len(items), height=0.9 * len(items) + 0.35 * n_bars, share="col")
    for item, axis in zip(items, axes[:, 0], strict=True):
        names = list(item.counts)
        fractions = [count / item.n for count in item.counts.values()]
        colours = [plots.COLOURS[2] if name == CORRECT else plots.COLOURS[1] for name in names]
        axis.barh(range(len(names)), fractions, color=colours)
        axis.set_yticks(range(len(names)), [wrapped(name, 9, _LABEL_WIDTH) for name in names])
        axis.tick_params(axis="y", labelsize=9)
        axis.set(xlim=(0, 1), ylim=(len(names) - 0.5, -0.5))
        axis.set_title(item.question, loc="left", fontsize=10)
    axes[-1, 0].set_xlabel("fraction of the submissions")
    values = "; ".join(
        f"{item.question}, {n} of {item.n}: {what}"
        for item in items
        for what, n in item.counts.items()
    )
    return finish(drawing, _message(items, assignment), values)


def _message(items: Sequence[Item], assignment: str) -> str:
    """Return the title: the most common known misconception of all questions."""
    known = [
        (count / item.n, item.question, what)
        for item in items
        for what, count in item.counts.items()
        if what not in (CORRECT, UNWRITTEN, OTHER)
    ]
    if not known:
        return f"No known misconception appears in {assignment}."
    part, question, what = max(known)
    what = re.sub(r"\.$", "", what)
    return (
        f"Most common in {assignment}, {question}, {100 * part:.0f} % of the submissions: {what}."
    )


def write(course: Path, assignment: str) -> list[Item]:
    """Write `items/NAME.csv` and `items/NAME.svg` into a course, and return what they show."""
    items = analyse(course, assignment)
    folder = course / "items"
    folder.mkdir(exist_ok=True)
    write_whole(folder / f"{assignment}.csv", table(items).encode())
    figure(items, assignment).save(folder / f"{assignment}.svg")
    return items
