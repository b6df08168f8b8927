"""Explore schedules: the rate over a run, and the loss that was recorded with it."""

from collections.abc import Callable, Sequence
from functools import partial
from math import ceil
from typing import TYPE_CHECKING

import numpy as np

from cnnlab.course.widgets.core import Explorer
from cnnlab.plots import Plot, schedule_beside_runs
from cnnlab.training import schedules as s


if TYPE_CHECKING:
    from pandas import DataFrame

    from cnnlab.study.experiment import Results

# Name -> function from the steps of a run to its schedule.
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
    """Return an explorer of schedule and peak rate over recorded runs.

    Args:
        runs: results with variants called like `"cosine, 0.1"`, a name of `SHAPES` and a peak rate. Beside the
            metric each run holds its `steps` and its training loss over equal parts: `loss_01`, `loss_02`, ...

    Raises:
        ValueError: there are not two peak rates with a run of every schedule.

    >>> from cnnlab.experiment import Results
    >>> names = [f"{shape}, {rate}" for shape in SHAPES for rate in (0.1, 1)]
    >>> row = {"seed": 0, "steps": 20, "loss_01": 2.0, "loss_02": 1.0, "valid_acc": 0.5}
    >>> schedules(Results([{"variant": name, **row} for name in names], "valid_acc"))
    Explorer of schedule (constant ... one-cycle), peak_rate (0.1 ... 1) with 4 frames
    """
    rates = _rates(runs.names)
    if len(rates) < 2:
        raise ValueError(
            f"two peak rates need a run of each of {', '.join(SHAPES)}; the runs are {', '.join(runs.names)}"
        )
    shown = [(shape, rate) for rate in rates[-2:] for shape in ("constant", "one-cycle")]
    return Explorer(
        partial(draw, runs.frame(), runs.metric),
        {"schedule": list(SHAPES), "peak_rate": rates},
        frames=[{"schedule": shape, "peak_rate": rate} for shape, rate in shown],
    )


def draw(table: "DataFrame", metric: str, *, schedule: str, peak_rate: float) -> Plot:
    """Draw one schedule and its runs, and in grey the means of the other schedules at this rate.

    Args:
        table: a row a run, as `schedules` takes them.
        metric: column of the number to tell.
        schedule: a name of `SHAPES`.
        peak_rate: the base rate.
    """
    parts = sorted(column for column in map(str, table.columns) if column.startswith("loss_"))
    at_rate = {name: table[table["variant"] == f"{name}, {peak_rate:g}"] for name in SHAPES}
    mine = at_rate[schedule]
    steps, score = int(mine["steps"].iloc[0]), mine[metric].mean()
    return schedule_beside_runs(
        peak_rate * s.trace(SHAPES[schedule](steps), steps),
        mine[parts],
        [rows[parts].mean() for name, rows in at_rate.items() if name != schedule],
        title=f"{metric} at the end: {score:.3f} (mean of {len(mine)} runs)",
        message=f"{schedule} with a peak rate of {peak_rate:g} ends at {metric} {score:.3f}.",
        top=1.1 * float(np.quantile(table[parts], 0.95)),
    )


def _rates(names: Sequence[str]) -> list[float]:
    """The peak rates at which there is a run of every schedule."""
    asked = (name.removeprefix("constant, ") for name in names if name.startswith("constant, "))
    return sorted(
        float(rate) for rate in asked if all(f"{shape}, {rate}" in names for shape in SHAPES)
    )
