import itertools
import math

import pandas as pd
import pytest

from cnnlab import widgets


def table(epochs, start=2.0):
    falling = [start * 0.7**k for k in range(epochs)]
    return pd.DataFrame(
        {
            "epoch": range(1, epochs + 1),
            "train_loss": falling,
            "valid_loss": falling,
            "train_acc": [1 - v / 3 for v in falling],
            "valid_acc": [1 - v / 3 for v in falling],
            "grad_norm_max": falling,
            "log10_update_ratio": [math.log10(v / 100) for v in falling],
        }
    )


RECORDED = {"slow": table(6, 2.5), "short": table(2, 1e8), "broken at once": pd.DataFrame()}


def test_every_setting_can_be_drawn():
    every = widgets.sick_curves(RECORDED, table(6))
    for fault, measure in itertools.product(*every.controls.values()):
        assert "<img" in every.picture(fault=fault, measure=measure)


def test_a_run_that_broke_off_is_told_of():
    every = widgets.sick_curves(RECORDED, table(6))
    assert "broke off after 2 of them" in every.picture(fault="short", measure="loss")
    assert "broke off after 0 of them" in every.picture(fault="broken at once", measure="loss")
    assert "broke off" not in every.picture(fault="slow", measure="loss")


def test_the_healthy_run_stands_beside_each():
    page = widgets.sick_curves(RECORDED, table(6)).picture(fault="slow", measure="update ratio")
    assert "slow, median" in page
    assert "healthy, median" in page


def test_one_recorded_run_is_no_choice():
    with pytest.raises(ValueError, match="two or more values"):
        widgets.sick_curves({"slow": table(6)}, table(6))
