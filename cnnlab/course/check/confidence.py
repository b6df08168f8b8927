"""Remember predictions with a confidence, and draw how well the confidence was founded."""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from cnnlab.files import write_whole


if TYPE_CHECKING:
    from cnnlab.plots import Plot


FOLDER = Path(
    ".cnnlab", "predictions"
)  # in the folder of the notebook; one small file per question
EDGES = (0.0, 0.3, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95, 1.0)  # round confidences are mid-bin
ENOUGH = 20  # with fewer predictions, the title says that they tell little
EXAMPLE = 'my_guess = "lower", 0.8'


@dataclass(frozen=True)
class Entry:
    """A judged prediction: the question, how sure the student was, and whether it was correct."""

    question: str
    sure: float
    correct: bool


_unsaved: dict[Path, Entry] = {}  # where the folder can't be written to


def remember(question: str, sure: float | None, correct: bool) -> None:
    """Write down a prediction with a confidence; it replaces an earlier one for the same question.

    Each has its own file, so two notebooks that write at the same time can't lose anything. A
    prediction without a confidence only removes the earlier one.
    """
    path = FOLDER / f"{hashlib.sha256(question.encode()).hexdigest()[:16]}.json"
    key = path.absolute()
    _unsaved.pop(key, None)
    try:
        if sure is None:
            path.unlink(missing_ok=True)
            return
        entry = Entry(question, sure, correct)
        _unsaved[key] = entry
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, json.dumps(asdict(entry)).encode())
        del _unsaved[key]
    except OSError as error:
        if sure is not None:
            print(f"  (Your confidence is kept for this session only: {error}.)")


def entries() -> list[Entry]:
    """Return the predictions with a confidence that were made in this folder."""
    found = {path.absolute(): _read(path) for path in sorted(FOLDER.glob("*.json"))}
    own = {key: entry for key, entry in _unsaved.items() if key.parent == FOLDER.absolute()}
    return [entry for entry in (found | own).values() if entry is not None]


def _read(path: Path) -> Entry | None:
    """Return an entry, or None if the file isn't one."""
    try:
        entry = Entry(**json.loads(path.read_bytes()))
        return entry if 0 <= entry.sure <= 1 and isinstance(entry.correct, bool) else None
    except (OSError, ValueError, TypeError):
        return None


def calibration() -> "Plot | None":
    """Draw how often your predictions were correct, against how sure you were of them.

    Only predictions with a confidence count, such as `my_guess = "lower", 0.8`. They are kept in
    the folder of the notebooks, in `.cnnlab`, so those of all chapters are drawn together. Of the
    predictions that you were 80 % sure of, about 80 % should be correct; the bars are 95 %
    intervals (Wilson), and wide for few predictions. The Brier score is the mean squared difference
    between confidence and outcome: 0 is perfect, and 0.25 is what always saying 50 % gives (Brier
    1950, "Verification of forecasts expressed in terms of probability").

    Returns:
        The plot, or None if there is no such prediction yet; a line then says how to make one.

    >>> calibration()
    None of your predictions here has a confidence yet. Write one behind the next guess, such as
    my_guess = "lower", 0.8
    """
    made = entries()
    if not made and os.environ.get("CNNLAB_STATIC"):
        return None  # a page of the book, where nobody can predict
    if not made:
        print(
            "None of your predictions here has a confidence yet. "
            f"Write one behind the next guess, such as\n{EXAMPLE}"
        )
        return None
    return _draw(made)


def _draw(made: Sequence[Entry]) -> "Plot":
    from scipy.stats import binomtest  # installed with scikit-learn

    from cnnlab.plots.core import COLOURS, GREY, finish, label_axes, new_axes

    figure, axes = new_axes(height=4.0)
    axis = axes.item()
    axis.plot([0, 100], [0, 100], color=GREY, linestyle="--")
    values = []
    for group in _groups(made):
        right = sum(entry.correct for entry in group)
        sure = 100 * sum(entry.sure for entry in group) / len(group)
        interval = binomtest(right, len(group)).proportion_ci(method="wilson")
        low, high = 100 * interval.low, 100 * interval.high
        axis.plot([sure, sure], [low, high], color=COLOURS[0], linewidth=1.5)
        axis.plot(sure, 100 * right / len(group), "o", color=COLOURS[0], markersize=6)
        where = {"xytext": (7, 0), "textcoords": "offset points", "va": "center", "fontsize": 9}
        axis.annotate(f"{right} of {len(group)}", (sure, 100 * right / len(group)), **where)
        values.append(f"{right} of {len(group)} ({low:.0f} to {high:.0f} %) at {sure:.0f} % sure")
    axis.set(xlim=(0, 108), ylim=(-4, 104))
    label_axes(axis, "how sure you were (%)", "correct predictions (%)")
    return finish(
        figure,
        _message(made),
        f"Correct predictions against how sure you were: {'; '.join(values)}. On the dashed "
        "diagonal, confidence and outcome agree.",
    )


def _groups(made: Sequence[Entry]) -> list[list[Entry]]:
    """Return the entries with similar confidence together, by `EDGES`, without empty groups."""
    groups = [[e for e in made if low < e.sure <= high] for low, high in pairwise(EDGES)]
    groups[0] += [entry for entry in made if entry.sure == 0]
    return [group for group in groups if group]


def _message(made: Sequence[Entry]) -> str:
    """Return the title: the Brier score, and both means."""
    n, right = len(made), sum(entry.correct for entry in made)
    brier = sum((entry.sure - entry.correct) ** 2 for entry in made) / n
    mean = sum(entry.sure for entry in made) / n
    few = " So few of them say little." if n < ENOUGH else ""
    return (
        (
            f"{n} prediction{'s' if n > 1 else ''} with a confidence: you were {mean:.0%} sure on "
            f"average, and {right} of {n} ({right / n:.0%}) were correct. Brier score {brier:.2f}; "
            f"always saying 50 % gives 0.25.{few}"
        )
        .replace("%", " %")
        .replace("  %", " %")
    )
