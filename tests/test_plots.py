import inspect
import sys

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from cnnlab import plots
from cnnlab.schedules import cosine, step


def all_plots():
    history = pd.DataFrame(
        {"epoch": [1, 2, 3], "train_loss": [2.0, 1.0, 0.5], "valid_acc": [0.3, 0.5, 0.625]}
    )
    runs = {"plain": np.array([0.7, 0.75]), "mixup <b>": np.array([0.8, 0.78])}
    return {
        "image_grid": plots.image_grid(torch.rand(5, 3, 8, 8), list("abcde"), columns=3),
        "soft_labels": plots.soft_labels(
            torch.rand(2, 1, 8, 8), torch.tensor([[0.25, 0.75], [1, 0]]), ["cat <b>", "dog"],
            message="Mixed.",
        ),
        "curves": plots.curves(history),
        "lines": plots.lines(
            [1, 10, 100], {"up": [1, 2, 3], "down": [3, 2, 1.5]}, xlabel="step", ylabel="value",
            message="They cross.", log="x",
        ),
        "intervals": plots.intervals(
            runs, {k: (v.mean(), v.min(), v.max()) for k, v in runs.items()}, label="test_acc"
        ),
        "trend": plots.trend(
            [5, 50],
            {
                "probe <b>": [(0.7, 0.6, 0.8), (0.9, 0.85, 0.95)],
                "scratch": [(0.2, 0.1, 0.3), (0.9, 0.8, 1)],
            },
            xlabel="labels per class", ylabel="accuracy", message="They meet.", log="x",
        ),
        "schedules": plots.schedules({"cosine": cosine(50), "step": step(10)}, 51),
        "heatmap": plots.heatmap(
            [[0.9, 0.1], [0.3, 0.7]], ["cat", "dog"], ["as cat", "as dog"],
            label="fraction", message="Dogs are confused with cats.",
        ),
        "histogram": plots.histogram(
            {"he": torch.randn(200), "tiny": torch.zeros(200)},
            label="activation", message="They vanish.",
        ),
        "layers": plots.layers(
            {"stem": 1.0, "head": 1e-4}, label="gradient norm", message="It vanishes."
        ),
        "schedule_beside_runs": plots.schedule_beside_runs(
            [0.1, 0.05], [[2.0, 1.0], [2.0, 1.5]], [[2.5, 2.0]],
            title="two runs", message="The loss falls.", top=3.0,
        ),
        "arrows": plots.arrows(
            {"gradient": (3, 4), "clipped": (0.6, 0.8)}, limit=1, message="Shorter."
        ),
        "trials": plots.trials(
            pd.DataFrame({"lr": [0.1, 0.01], "decay": [1e-4, 1e-3], "score": [0.5, np.nan]}),
            "lr", "decay", message="One diverged.", label="valid_acc",
        ),
        "parts": plots.parts(
            {"quick <b>": {"data": 1.0, "step": 9.0}, "slow": {"data": 20.0, "step": 9.0}},
            label="time", unit="ms", message="Only loading takes longer.",
        ),
        "stopping": plots.stopping(
            [0.5, 0.75, 0.6, 0.625], 2, 1, label="accuracy", judged=[0.5, 0.7, 0.6, 0.6]
        ),
    }  # fmt: skip


@pytest.mark.parametrize("name", all_plots())
def test_every_figure_is_an_image_with_alt_text(name, tmp_path):
    plot = all_plots()[name]
    assert plot.png().startswith(b"\x89PNG")
    assert plot.alt.endswith(".")
    assert plot.alt in repr(plot)
    page = plot._repr_html_()
    assert page.startswith("<img")
    assert "alt=" in page
    assert "<b>" not in page
    plot.save(tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as image:
        assert image.width > 200


def test_alt_texts_quote_values_from_the_data():
    plot = all_plots()
    assert "0.75 dog + 0.25 cat <b>; 1.00 cat" in plot["soft_labels"].alt
    assert "training loss from 2 to 0.5" in plot["curves"].alt
    assert "validation accuracy from 0.3 to 0.625" in plot["curves"].alt
    assert "up from 1 to 3" in plot["lines"].alt
    assert "test accuracy of 2 variants" in plot["intervals"].alt
    assert "plain 0.725" in plot["intervals"].alt
    assert "best validation accuracy 0.5 at lr 0.1" in plot["trials"].alt
    assert "cosine from 1 to 0" in plot["schedules"].alt
    assert "largest 0.9 at cat, as cat; smallest 0.1 at cat, as dog" in plot["heatmap"].alt
    assert "tiny mean 0, standard deviation 0" in plot["histogram"].alt
    assert "1 at stem and 0.0001 at head" in plot["layers"].alt
    assert plot["stopping"].alt == (
        "Early stopping stops after epoch 3 of 4 and restores epoch 2 with 0.75, which reaches 0.7 "
        "on other images. In the last recorded epoch, accuracy is 0.625."
    )


def test_every_public_plot_is_tested_here():
    public = {
        name
        for name, value in vars(plots).items()
        if inspect.isfunction(value) and name in plots.__all__
    }
    assert public == set(all_plots())


def test_lines_of_a_figure_differ_in_colour_and_in_dash_pattern():
    series = {str(k): [k, k + 1] for k in range(7)}
    figure = plots.lines([0, 1], series, xlabel="x", ylabel="y", message="m").figure
    lines = figure.axes[0].get_lines()
    assert len({line.get_color() for line in lines}) == 7
    dashes = {str(line.get_linestyle()) + str(line._unscaled_dash_pattern) for line in lines}
    assert len(dashes) == 7


def test_uint8_and_float_images_look_the_same_and_grey_ones_are_drawn():
    levels = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    assert plots.image_grid(levels).png() == plots.image_grid(levels.float() / 255).png()
    assert plots.image_grid(levels[:, :1]).png().startswith(b"\x89PNG")


def test_a_grid_without_images_says_so():
    grid = plots.image_grid(torch.rand(0, 3, 8, 8), [], columns=4, alt="Incorrect predictions")
    assert grid.alt == "Incorrect predictions: there are no images to show."
    assert grid.figure.axes[0].texts[0].get_text() == "no images"
    assert grid.png().startswith(b"\x89PNG")


def test_a_figure_is_saved_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    plots.image_grid(torch.rand(2, 3, 4, 4)).save("~/grid.png")
    assert (tmp_path / "grid.png").is_file()


def test_one_epoch_is_no_epochs():
    alt = plots.curves(pd.DataFrame({"epoch": [1], "train_loss": [0.5]})).alt
    assert alt.startswith("Learning curves over 1 epoch: training loss")


def test_figures_change_no_global_state():
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    all_plots()
    assert dict(mpl.rcParams) == before
    assert (
        "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
    )


def test_the_alt_text_of_arrows_gives_the_vectors_and_the_limit():
    shown = plots.arrows({"g": (3, 4), "clipped": (0.6, 0.8)}, limit=1, message="Shorter.")
    assert shown.alt == "Shorter. Limit 1. g (3, 4); clipped (0.6, 0.8)."
    assert len(shown.figure.axes[0].get_lines()) == 4
