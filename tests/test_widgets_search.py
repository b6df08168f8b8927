import itertools
import math
import re

import pandas as pd
import pytest

from cnnlab import plots, widgets
from cnnlab.experiment import Results
from cnnlab.widgets.search import DECAY, LR, SIDES, replay


def recorded(seeds=3):
    """Runs whose accuracy peaks at a rate of 0.1 and doesn't depend on the decay."""
    rows = [
        {
            "variant": f"{rate} {decay}",
            "seed": seed,
            "log_rate": rate / 2,
            "log_decay": decay,
            "valid_acc": 0.9 - abs(rate / 2 + 1) / 10 - seed / 100,
        }
        for seed in range(seeds)
        for rate in range(-8, 3)
        for decay in (-5, -4, -3)
    ]
    return Results(rows, "valid_acc")


def test_every_setting_can_be_drawn_at_its_corners():
    every = widgets.search_space(recorded())
    ends = {name: (values[0], values[-1]) for name, values in every.controls.items()}
    for corner in itertools.product(*ends.values()):
        assert "<img" in every.picture(**dict(zip(ends, corner, strict=True)))
    assert every.grid().count("<img") == 4


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("seed", range(5))
def test_a_grid_tries_few_learning_rates_and_a_random_search_one_per_trial(side, seed):
    runs = recorded(1).frame()
    grid = replay(runs, "valid_acc", "grid", side**2, seed)
    randomly = replay(runs, "valid_acc", "random", side**2, seed)
    assert len(grid) == len(randomly) == side**2
    assert grid[LR].nunique() == grid[DECAY].nunique() == side
    assert randomly[LR].nunique() == randomly[DECAY].nunique() == side**2
    for table in (grid, randomly):
        assert table[LR].between(1e-4, 10).all()
        assert table[DECAY].between(1e-5, 1e-3).all()


def test_a_trial_gets_the_score_of_the_nearest_run():
    runs = recorded(1).frame()
    table = replay(runs, "valid_acc", "random", 25, 0)
    for rate, score in zip(table[LR], table["score"], strict=True):
        nearest = round(2 * math.log10(rate)) / 2
        assert score == pytest.approx(0.9 - abs(nearest + 1) / 10)


def test_each_draw_uses_the_runs_of_its_own_seed_and_is_reproducible():
    every = widgets.search_space(recorded())
    pages = [every.picture(strategy="grid", trials=25, draw=draw) for draw in (0, 1, 2)]
    assert pages[0] == widgets.search_space(recorded()).picture(strategy="grid", trials=25, draw=0)
    best = [float(re.search(r"best validation accuracy ([\d.]+)", page)[1]) for page in pages]
    assert all(score <= 0.9 - draw / 100 for draw, score in enumerate(best))
    assert "Grid: 25 trials try 5 learning rates" in pages[0]


def test_runs_without_a_needed_column_are_refused():
    rows = [{"variant": "a", "seed": s, "valid_acc": 0.5, "log_rate": -1} for s in (0, 1)]
    with pytest.raises(ValueError, match="no column log_decay"):
        widgets.search_space(Results(rows, "valid_acc"))


def test_the_plot_of_trials_tells_the_best_and_bears_diverged_ones():
    table = pd.DataFrame(
        {"rate": [0.1, 0.01, 1.0], "decay": [1e-4, 1e-3, 1e-5], "score": [0.5, 0.75, math.nan]},
        index=[4, 4, 4],
    )
    plot = plots.trials(table, "rate", "decay", message="A search.", label="accuracy")
    assert plot.alt == (
        "A search. 3 trials, 3 values of rate; best accuracy 0.75 at rate 0.01, decay 0.001."
    )
    assert plot.png()
    none = plots.trials(table.assign(score=math.nan), "rate", "decay", message="All diverged.")
    assert "best" not in none.alt
    assert none.png()
