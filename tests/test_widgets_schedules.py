import time

import numpy as np
import pytest

from cnnlab.experiment import Results
from cnnlab.schedules import trace
from cnnlab.widgets import schedules
from cnnlab.widgets.schedules import SHAPES, draw


RATES = (0.01, 0.1, 1)


def runs(shapes=SHAPES, rates=RATES, seeds=3):
    """Artificial runs: the rate decides the loss, and the schedule the accuracy."""
    rows = [
        {
            "variant": f"{shape}, {rate:g}",
            "seed": seed,
            "valid_acc": 0.5 + 0.01 * i,
            "steps": 60,
            **{f"loss_{k:02}": 2 - 0.1 * k * rate + 0.01 * seed for k in range(1, 13)},
        }
        for rate in rates
        for i, shape in enumerate(shapes)
        for seed in range(seeds)
    ]
    return Results(rows, "valid_acc")


@pytest.mark.parametrize("schedule", SHAPES)
@pytest.mark.parametrize("rate", [RATES[0], RATES[-1]])
def test_every_corner_of_the_settings_is_drawn_quickly(schedule, rate):
    explorer = schedules(runs())
    start = time.process_time()
    picture = explorer.picture(schedule=schedule, peak_rate=rate)
    assert time.process_time() - start < 5  # measured 0.1 s on a quiet core; a busy one took 1.3
    assert f"{schedule[1:]} with a peak learning rate of {rate:g} ends at" in picture


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("steps", [10, 60, 61])
def test_a_shape_reaches_its_peak_and_stays_between_zero_and_the_peak(shape, steps):
    multipliers = trace(SHAPES[shape](steps), steps + 1)
    assert multipliers.max() == pytest.approx(1, abs=0.03)  # 61 steps: the peak lies between two
    assert multipliers.min() >= 0
    if shape in ("linear", "cosine", "warm-up, cosine", "one-cycle"):
        assert multipliers[-1] == pytest.approx(0, abs=1e-3)


def test_the_alt_text_has_learning_rates_losses_and_accuracy():
    results = runs()
    alt = draw(results.frame(), "valid_acc", schedule="linear", peak_rate=0.1).alt
    assert "Linear with a peak learning rate of 0.1 ends at a validation accuracy of 0.520" in alt
    assert "Learning rate from 0.1 to 0.00167 over 60 steps" in alt
    assert "from 2 to 1.89" in alt  # the mean over the seeds of 2 - 0.01 k


def test_the_other_schedules_are_grey_and_the_loss_axis_is_the_same_in_every_plot():
    results = runs()
    tops = set()
    for rate in RATES:
        _, right = draw(results.frame(), "valid_acc", schedule="step", peak_rate=rate).figure.axes
        grey = [line for line in right.get_lines() if line.get_color() == "#BBBBBB"]
        assert len(grey) == len(SHAPES) - 1
        assert len(right.get_lines()) == len(grey) + 3 + 1  # three runs and their mean
        tops.add(right.get_ylim()[1])
    assert len(tops) == 1
    assert np.isfinite(tops.pop())


def test_only_rates_with_a_run_of_every_schedule_are_offered():
    results = runs()
    extra = [{**results.rows[0], "variant": name} for name in ("constant, 5", "constant, tuned")]
    explorer = schedules(Results(results.rows + extra, "valid_acc"))
    assert explorer.controls["peak_rate"] == RATES
    with pytest.raises(ValueError, match="at least two peak learning rates"):
        schedules(runs(shapes=["constant", "step"]))
