"""Explore hyperparameter search: a grid and random trials, replayed on recorded runs."""

import random
from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

from cnnlab.course.widgets.core import Explorer
from cnnlab.plots import Plot
from cnnlab.plots import trials as plot_trials
from cnnlab.rng import fold_in


if TYPE_CHECKING:
    from pandas import DataFrame

    from cnnlab.study.experiment import Results

SIDES = (1, 2, 3, 4, 5)  # points per side of a grid; a random search gets as many trials in all
LR, DECAY = "learning rate", "weight decay"  # columns of a search, and labels of its plot


def search_space(results: "Results") -> Explorer:
    """Return an explorer of the search strategy, the number of trials and the random seed.

    No network is trained: each trial gets the score of the recorded run that is closest to its
    settings on a logarithmic scale. Every value of `draw` is a different search, with its own
    offset of the grid, its own random settings and its own seed of the recorded runs.

    Args:
        results: recorded runs with the columns `log_rate` and `log_decay` (learning rate and weight
            decay, base-10 logarithms) and a metric for which higher is better.

    Raises:
        ValueError: a column is missing, or there are runs of fewer than two seeds.

    >>> from cnnlab.experiment import Results
    >>> row = {"log_decay": -4, "valid_acc": 0.5}
    >>> rows = [{"seed": s, "log_rate": r, **row} for s in (0, 1) for r in (-2, -1)]
    >>> search_space(Results(rows, "valid_acc"))
    Explorer of strategy (grid ... random), trials (1 ... 25), draw (0 ... 1) with 4 frames
    """
    table = results.frame()
    missing = sorted({"log_rate", "log_decay", "seed", results.metric} - set(table))
    if missing:
        columns = ", ".join(map(str, table))
        raise ValueError(
            f"the runs have no column {', '.join(missing)}; their columns are {columns}"
        )
    seeds = sorted(table["seed"].unique().tolist())
    counts = [side**2 for side in SIDES]
    return Explorer(
        partial(draw, table, results.metric),
        {"strategy": ("grid", "random"), "trials": counts, "draw": seeds},
        frames=[
            {"strategy": strategy, "trials": n, "draw": seeds[0]}
            for n in (9, 25)
            for strategy in ("grid", "random")
        ],
        labels={"draw": "random seed"},
    )


def draw(table: "DataFrame", metric: str, *, strategy: str, trials: int, draw: int) -> Plot:
    """Plot one search over the recorded runs of one seed.

    Args:
        table: one row per run, as described in `search_space`.
        metric: name of the column with the score.
        strategy: "grid" or "random".
        trials: number of trials, a square number.
        draw: seed of the search, and of the recorded runs that it uses.
    """
    runs = table[table["seed"] == draw].reset_index(drop=True)
    searched = replay(runs, metric, strategy, trials, draw)
    lrs, decays = 10.0 ** runs["log_rate"], 10.0 ** runs["log_decay"]
    n_lrs = searched[LR].nunique()
    return plot_trials(
        searched,
        LR,
        DECAY,
        known=runs.assign(**{LR: lrs, DECAY: decays, "score": runs[metric]}),
        label=metric,
        message=f"{strategy}: {trials} trials try {n_lrs} learning rate{'s' * (n_lrs != 1)}.",
    )


def replay(runs: "DataFrame", metric: str, strategy: str, n: int, seed: int) -> "DataFrame":
    """Search the recorded runs; return learning rate, weight decay and score of each trial.

    Args:
        runs: one row per run, with `log_rate`, `log_decay` and the metric.
        metric: name of the column with the score.
        strategy: "grid" or "random".
        n: number of trials; a square number for a grid.
        seed: seed of the search.
    """
    import pandas as pd

    ranges = [(runs[c].min(), runs[c].max()) for c in ("log_rate", "log_decay")]
    rows = []
    for point in _unit_square_points(strategy, n, random.Random(fold_in(seed, n))):
        log_lr, log_decay = (
            low + fraction * (high - low)
            for fraction, (low, high) in zip(point, ranges, strict=True)
        )
        distances = (runs["log_rate"] - log_lr).abs() + (runs["log_decay"] - log_decay).abs()
        score = runs[metric][distances.idxmin()]
        rows.append({LR: 10.0**log_lr, DECAY: 10.0**log_decay, "score": score})
    return pd.DataFrame(rows)


def _unit_square_points(strategy: str, n: int, rng: random.Random) -> Iterator[tuple[float, float]]:
    """Yield points of the unit square; all points of a grid are shifted by one random offset."""
    if strategy == "random":
        yield from ((rng.random(), rng.random()) for _ in range(n))
        return
    side = round(n**0.5)
    x_offset, y_offset = rng.random(), rng.random()
    for i in range(side):
        for j in range(side):
            yield (i + x_offset) / side, (j + y_offset) / side
