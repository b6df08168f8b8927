"""The explorer of early stopping; and the exercises of chapter 6 agree with the library."""

import copy
import itertools
import math

import pytest
import torch
from torch import nn

from cnnlab import widgets
from cnnlab.averaging import EMA
from cnnlab.callbacks import replay
from cnnlab.check import chapter06


CURVE = [0.3, 0.5, 0.62, 0.6, 0.65, 0.61, 0.58, 0.66, 0.5, 0.5]
JUDGED = [value - 0.02 for value in CURVE]


def test_every_corner_of_the_settings_can_be_drawn():
    every = widgets.early_stopping(CURVE, judged=JUDGED)
    ends = {name: (values[0], values[-1]) for name, values in every.controls.items()}
    for corner in itertools.product(*ends.values()):
        assert "<img" in every.picture(**dict(zip(ends, corner, strict=True)))


def test_the_static_page_shows_four_settings():
    pages = widgets.early_stopping(CURVE).grid()
    assert pages.count("<img") == pages.count("alt=") == 4


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"patience": 1},
            "stops after epoch 4 of 10 and restores epoch 3. There, validation accuracy is 0.62",
        ),
        (
            {"patience": 3},
            "stops after epoch 10 of 10 and restores epoch 8. There, validation accuracy is 0.66",
        ),
        (
            {"patience": 3, "min_delta": 0.05},
            "stops after epoch 6 of 10 and restores epoch 5. There, validation accuracy is 0.65",
        ),
    ],
)
def test_the_explorer_stops_where_early_stopping_does(settings, sentence):
    assert sentence in widgets.early_stopping(CURVE).picture(**settings)


def test_the_judged_value_belongs_to_the_restored_epoch():
    page = widgets.early_stopping(CURVE, judged=JUDGED).picture(patience=1)
    assert "and 0.6 on other images" in page


def test_a_loss_should_be_small_and_a_curve_of_nan_restores_nothing():
    page = widgets.early_stopping([2.0, 1.0, 1.5], "min", label="loss").picture(patience=1)
    assert "restores epoch 2. There, loss is 1." in page
    assert "restores" not in widgets.early_stopping([math.nan] * 3).picture(patience=2)


@pytest.mark.parametrize(("values", "judged"), [([], None), ([0.5, 0.6], [0.5])])
def test_an_empty_curve_or_one_with_too_few_judged_values_is_refused(values, judged):
    with pytest.raises(ValueError, match="one value per epoch"):
        widgets.early_stopping(values, judged=judged)


def test_the_mode_is_min_or_max():
    with pytest.raises(ValueError, match="'min' or 'max'"):
        widgets.early_stopping(CURVE, "auto")


# --- the exercises of chapter 6 -------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["min", "max"])
@pytest.mark.parametrize(("patience", "min_delta"), [(2, 0.0), (2, 0.05), (3, 0.1), (9, 0.0)])
@pytest.mark.parametrize("values", [CURVE, [math.nan, *CURVE], [*CURVE[:3], math.nan, *CURVE[3:]]])
def test_the_answer_on_early_stopping_is_what_the_callback_does(values, patience, min_delta, mode):
    answer = chapter06.early_stopping(values, patience, min_delta, mode)
    assert answer == replay(values, mode, patience, min_delta)


def test_the_answer_on_the_moving_average_is_what_ema_does():
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    ema = EMA(model, decay=0.9)
    average = copy.deepcopy(model)
    for step in range(120):
        for p in model.parameters():
            p.data = torch.randn(p.shape)
        model(torch.randn(5, 3))  # new statistics
        chapter06.ema_update(average, model, step, 0.9)
        ema.update()
    for name, theirs in ema.model.state_dict().items():
        torch.testing.assert_close(average.state_dict()[name], theirs)


def test_the_answer_on_matching_finds_a_planted_order_and_keeps_the_function():
    first = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3, bias=False))
    layers = [p.detach() for p in first.parameters()]
    order = torch.randperm(6)
    second = [layers[0][order], layers[1][order], layers[2][:, order]]
    matched = chapter06.match_units(layers, second)
    for mine, theirs in zip(matched, layers, strict=True):
        assert torch.equal(mine, theirs)
