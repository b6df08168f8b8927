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


RECORDED = {"slow": table(6, 2.5), "short": table(2, 1e8), "failed at once": pd.DataFrame()}


def test_every_setting_can_be_drawn():
    curves = widgets.sick_curves(RECORDED, table(6))
    for fault, measure in itertools.product(*curves.controls.values()):
        assert "<img" in curves.picture(fault=fault, measure=measure)


def test_the_alt_text_says_after_how_many_epochs_a_run_failed():
    curves = widgets.sick_curves(RECORDED, table(6))
    assert "run failed after 2 of them" in curves.picture(fault="short", measure="loss")
    assert "run failed after 0 of them" in curves.picture(fault="failed at once", measure="loss")
    assert "run failed" not in curves.picture(fault="slow", measure="loss")


def test_each_plot_shows_the_healthy_run_as_well():
    page = widgets.sick_curves(RECORDED, table(6)).picture(fault="slow", measure="update ratio")
    assert "slow, median" in page
    assert "healthy, median" in page


def test_a_single_recorded_run_is_refused():
    with pytest.raises(ValueError, match="at least two values"):
        widgets.sick_curves({"slow": table(6)}, table(6))
