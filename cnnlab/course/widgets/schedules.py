"""Explore schedules: the learning rate over a run, next to the losses of recorded runs."""

from collections.abc import Callable, Sequence
from functools import partial
from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from cnnlab.course.widgets.core import Explorer
from cnnlab.plots import Plot, schedule_beside_runs
from cnnlab.plots.core import readable
from cnnlab.training import schedules as s


if TYPE_CHECKING:
    from pandas import DataFrame

    from cnnlab.study.experiment import Results

# For each name, a function from the number of steps of a run to its schedule.
SHAPES: dict[str, Callable[[int], s.Schedule]] = {
    "constant": lambda steps: s.constant(),
    "step": lambda steps: s.step(ceil(steps / 3)),
    "linear": lambda steps: s.linear(steps),
    "cosine": lambda steps: s.cosine(steps),
    "inverse sqrt": lambda steps: s.inverse_sqrt(ceil(steps / 10)),
    "warm restarts": lambda steps: s.warm_restarts(ceil(steps / 3)),
    "warm-up, cosine": lambda steps: s.warmup(ceil(steps / 10), s.cosine(steps - ceil(steps / 10))),
    "one-cycle": lambda steps: s.one_cycle(steps),
}


def schedules(runs: "Results") -> Explorer:
    """Return an explorer of the schedule and its peak learning rate, based on recorded runs.

    Args:
        runs: results with variants named like `"cosine, 0.1"`: a key of `SHAPES` and a peak
            learning rate. Besides the metric, each run has the column `steps` and its mean training
            loss over equal parts of the run: `loss_01`, `loss_02`, ...

    Raises:
        ValueError: there are fewer than two peak learning rates with a run of every schedule.

    >>> from cnnlab.experiment import Results
    >>> row = {"seed": 0, "steps": 20, "loss_01": 2.0, "loss_02": 1.0, "valid_acc": 0.5}
    >>> names = [f"{shape}, {lr}" for shape in SHAPES for lr in (0.1, 1)]
    >>> runs = Results([{"variant": name, **row} for name in names], "valid_acc")
    >>> schedules(runs)
    Explorer of schedule (constant ... one-cycle), peak_rate (0.1 ... 1) with 4 frames
    """
    peaks = _complete_peaks(runs.names)
    if len(peaks) < 2:
        raise ValueError(
            f"there must be at least two peak learning rates with runs of every schedule, "
            f"{', '.join(SHAPES)}; the runs are {', '.join(runs.names)}"
        )
    settings = [(shape, peak) for peak in peaks[-2:] for shape in ("constant", "one-cycle")]
    return Explorer(
        partial(draw, runs.frame(), runs.metric),
        {"schedule": list(SHAPES), "peak_rate": peaks},
        frames=[{"schedule": shape, "peak_rate": peak} for shape, peak in settings],
        labels={"peak_rate": "peak learning rate"},
    )


def draw(table: "DataFrame", metric: str, *, schedule: str, peak_rate: float) -> Plot:
    """Plot one schedule and its runs; the mean losses of the other schedules are grey.

    Args:
        table: one row per run, as described in `schedules`.
        metric: name of the column with the final score of a run.
        schedule: a key of `SHAPES`.
        peak_rate: the peak learning rate.
    """
    losses = sorted(column for column in map(str, table.columns) if column.startswith("loss_"))
    runs = {name: table[table["variant"] == f"{name}, {peak_rate:g}"] for name in SHAPES}
    chosen = runs[schedule]
    steps, score = int(chosen["steps"].iloc[0]), chosen[metric].mean()
    metric = readable(metric)
    message = (
        f"{schedule} with a peak learning rate of {peak_rate:g} ends at a {metric} of {score:.3f}."
    )
    return schedule_beside_runs(
        peak_rate * s.trace(SHAPES[schedule](steps), steps),
        chosen[losses],
        [rows[losses].mean() for name, rows in runs.items() if name != schedule],
        title=f"mean final {metric}: {score:.3f}",
        message=message,
        top=1.1 * float(np.quantile(table[losses], 0.95)),
    )


def _complete_peaks(variants: Sequence[str]) -> list[float]:
    """Return the peak learning rates for which there is a run of every schedule."""
    constant = [name for name in variants if name.startswith("constant, ")]
    peaks = [name.removeprefix("constant, ") for name in constant]
    return sorted(
        float(peak) for peak in peaks if all(f"{shape}, {peak}" in variants for shape in SHAPES)
    )
