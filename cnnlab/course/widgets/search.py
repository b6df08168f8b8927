"""Explore a search: as many trials on a grid or at random, over runs that were recorded."""

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

SIDES = (1, 2, 3, 4, 5)  # of a grid; a random search gets as many trials as the grid has points


def search_space(results: "Results") -> Explorer:
    """Return an explorer of the strategy, the number of trials and the luck of the draw.

    Each trial takes the recorded run that lies nearest, in logarithms, to the setting it asks for. A draw is a
    search of its own: the offset of the grid, the random settings, and the seed of the runs.

    Args:
        results: recorded runs with `log_rate` and `log_decay` (of base ten) beside the metric, higher is better.

    Raises:
        ValueError: the runs do not hold these columns, or fewer than two seeds.

    >>> from cnnlab.experiment import Results
    >>> rows = [{"seed": s, "log_rate": r, "log_decay": -4, "valid_acc": 0.5} for s in (0, 1) for r in (-2, -1)]
    >>> search_space(Results(rows, "valid_acc"))
    Explorer of strategy (grid ... random), trials (1 ... 25), draw (0 ... 1) with 4 frames
    """
    table = results.frame()
    missing = {"log_rate", "log_decay", "seed", results.metric} - set(table)
    if missing:
        raise ValueError(f"the runs have no column {', '.join(sorted(missing))}")
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
    )


def draw(table: "DataFrame", metric: str, *, strategy: str, trials: int, draw: int) -> Plot:
    """Draw one search over the runs of a seed.

    Args:
        table: a row a run, as `search_space` takes them.
        metric: column of the score.
        strategy: "grid" or "random".
        trials: a square number.
        draw: seed of the search, and of the runs it gets to see.
    """
    runs = table[table["seed"] == draw].reset_index(drop=True)
    searched = play(runs, metric, strategy, trials, draw)
    known = runs.assign(
        rate=10.0 ** runs["log_rate"], decay=10.0 ** runs["log_decay"], score=runs[metric]
    )
    rates = searched["rate"].nunique()
    return plot_trials(
        searched,
        "rate",
        "decay",
        known=known,
        label=metric,
        message=f"{strategy}, {trials} trials see {rates} rates.",
    )


def play(runs: "DataFrame", metric: str, strategy: str, n: int, seed: int) -> "DataFrame":
    """Search recorded runs: return rate, decay and score of each trial.

    Args:
        runs: `log_rate`, `log_decay` and the metric, a row a run.
        metric: column of the score.
        strategy: "grid" or "random".
        n: trials; a square number for a grid.
        seed: of the search.
    """
    import pandas as pd

    spans = [(runs[c].min(), runs[c].max()) for c in ("log_rate", "log_decay")]
    rows = []
    for shares in _shares(strategy, n, random.Random(fold_in(seed, n))):
        rate, decay = (
            low + share * (high - low) for share, (low, high) in zip(shares, spans, strict=True)
        )
        away = (runs["log_rate"] - rate).abs() + (runs["log_decay"] - decay).abs()
        score = runs[metric][away.idxmin()]
        rows.append({"rate": 10.0**rate, "decay": 10.0**decay, "score": score})
    return pd.DataFrame(rows)


def _shares(strategy: str, n: int, draw: random.Random) -> Iterator[tuple[float, float]]:
    """Places in the unit square; a grid is shifted by a random offset, the same for all its points."""
    if strategy == "random":
        yield from ((draw.random(), draw.random()) for _ in range(n))
        return
    side = round(n**0.5)
    right, up = draw.random(), draw.random()
    for i in range(side):
        for j in range(side):
            yield (i + right) / side, (j + up) / side
