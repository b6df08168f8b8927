import inspect
import sys
import time
from functools import lru_cache
from itertools import combinations

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from cnnlab import plots
from cnnlab.plots import core
from cnnlab.schedules import constant, cosine, inverse_sqrt, linear, multistep, step, warmup


LONG = (
    "Somebody who has a great deal to say about a figure still wants readers to see all of it, so "
    "the title is broken into as many lines as it takes, and the axes stay as high as they were."
)
NAMES = (
    "plain",
    "a variant with a name that is far too long for the left side of a small figure",
    "SWA, batch-norm statistics of the live model",
    "mixup",
    "CutMix",
    "label smoothing",
    "all of them",
)


def all_plots():
    history = pd.DataFrame(
        {"epoch": [1, 2, 3], "train_loss": [2.0, 1.0, 0.5], "valid_acc": [0.3, 0.5, 0.625]}
    )
    runs = {"plain": np.array([0.7, 0.75]), "mixup <b>": np.array([0.8, 0.78])}
    return {
        "prediction": plots.prediction(
            torch.rand(3, 8, 8), {"mug": 0.9, "plate": 0.1}, message="A mug."
        ),
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
        "probability_map": plots.probability_map(
            {"plain": lambda p: p[:, 0].sigmoid(), "mixup <b>": lambda p: p[:, 1].sigmoid()},
            torch.randn(20, 2), torch.arange(20) % 2, message="They turn.",
        ),
        "parts": plots.parts(
            {"quick <b>": {"data": 1.0, "step": 9.0}, "slow": {"data": 20.0, "step": 9.0}},
            label="time", unit="ms", message="Only loading takes longer.",
        ),
        "stopping": plots.stopping(
            [0.5, 0.75, 0.6, 0.625], 2, 1, label="accuracy", judged=[0.5, 0.7, 0.6, 0.6]
        ),
    }  # fmt: skip


def hard_plots():
    """Figures with long names, long messages, many series and numbers without a range."""
    epochs = range(1, 31)
    history = pd.DataFrame({"epoch": epochs})
    for split in ("train", "valid", "ema_valid"):
        history[f"{split}_loss"] = [2 / n for n in epochs]
        history[f"{split}_acc"] = [0.9 + 1e-4 * n for n in epochs]
        history[f"{split}_balanced_acc"] = [0.9 + 1e-4 * n for n in epochs]
    seven = {name: np.linspace(0.50, 0.51 + k / 1000, 30) for k, name in enumerate(NAMES)}
    both = {"training": seven["plain"], "validation": seven["mixup"]}
    texts = {"xlabel": "optimizer steps from scratch, in batches of 32 images", "message": LONG}
    close = {name: np.array([0.501, 0.502]) for name in NAMES}
    return {
        "image_grid": plots.image_grid(
            torch.rand(12, 3, 8, 8), ["no overtaking, not yield (0.92)"] * 12, columns=12,
            message=LONG,
        ),
        "prediction": plots.prediction(
            torch.rand(1, 8, 8), {f"{name}, but not another one": 0.1 for name in NAMES},
            message=LONG,
        ),
        "soft_labels": plots.soft_labels(
            torch.rand(8, 1, 8, 8), torch.tensor([[0.25, 0.75]] * 8), ["no overtaking", "yield"],
            message=LONG, title="CutMix: λ = 0.60, after clipping the box λ = 0.71",
        ),
        "curves": plots.curves(history, message=LONG),
        "lines, small multiples": plots.lines(epochs, seven, ylabel="valid_acc", **texts),
        "lines, panels": plots.lines(
            epochs, dict.fromkeys(NAMES[:2], both), ylabel="loss (nats)", **texts
        ),
        "lines, six panels": plots.lines(
            epochs, dict.fromkeys(NAMES[:6], both), ylabel="loss (nats)", **texts
        ),
        "lines, stacked": plots.lines(
            epochs, dict(list(seven.items())[:3]), ylabel="", stacked=True, **texts
        ),
        "lines, words": plots.lines(
            ["least confident", "2nd fifth", "3rd fifth", "most confident"],
            {name: [0, 1, 2, 3] for name in NAMES[:3]},
            ylabel="confidence minus accuracy of the predictions in a bin", **texts,
        ),
        "intervals": plots.intervals(
            close, {k: (v.mean(), v.min(), v.max()) for k, v in close.items()}, label="test_acc",
            stored={NAMES[1]: (0.5, 0.499, 0.501)}, message=LONG,
        ),
        "trend": plots.trend(
            [5, 10, 50], {name: [(0.5, 0.49, 0.51)] * 3 for name in NAMES[:4]},
            ylabel="test_acc", log="x", **texts,
        ),
        "trend, small multiples": plots.trend(
            [5, 10, 50], {name: [(0.5, 0.49, 0.51)] * 3 for name in NAMES}, ylabel="test_acc",
            log="x", **texts,
        ),
        "schedules": plots.schedules(
            {
                "step": step(20), "constant": constant(), "cosine": cosine(90),
                "inverse square root": inverse_sqrt(10), "linear": linear(90),
                "warm-up": warmup(10, constant()), "multistep": multistep([20, 80]),
            },
            100, message=LONG,
        ),
        "heatmap": plots.heatmap(
            np.linspace(0.50, 0.51, 144).reshape(12, 12), ["no overtaking (12)"] * 12,
            ["no overtaking"] * 12, label="fraction of the true class", message=LONG,
            xlabel="prediction", ylabel="true class",
        ),
        "histogram": plots.histogram(
            {name: np.arange(5) for name in NAMES[:5]}, label="activation", message=LONG
        ),
        "layers": plots.layers(
            {f"blocks.{k}.conv.weight": 10.0**-k for k in range(12)},
            label="gradient norm of the fresh model (0 is drawn at 1e-12)", message=LONG,
        ),
        "schedule_beside_runs": plots.schedule_beside_runs(
            [0.1] * 20 + [0.01] * 20, [[2.0, 1.0], [2.0, 1.5]], [[2.5, 2.0]] * 7,
            title="final validation accuracy: 0.520 (mean of 2 runs)", message=LONG, top=3.0,
        ),
        "arrows": plots.arrows(dict.fromkeys(NAMES[:3], (3, 4)), limit=1, message=LONG),
        "trials": plots.trials(
            pd.DataFrame({"lr": [0.1, 1], "decay": [1e-4, 1e-3], "score": [0.5, 0.5]}), "lr",
            "decay", message=LONG, label="valid_acc", ylabel="weight decay",
            known=pd.DataFrame({"lr": [0.1], "decay": [1e-4], "score": [0.5]}),
        ),
        "parts": plots.parts(
            {name: dict.fromkeys(NAMES[:4], 1.0) for name in NAMES[:3]},
            label="time of a step", unit="ms", message=LONG,
        ),
        "stopping": plots.stopping(
            [0.5] * 40, 20, 10, label="valid_acc", judged=[0.5] * 40, message=LONG
        ),
    }  # fmt: skip


@lru_cache
def drawn():
    return all_plots() | {f"{name}, hard": plot for name, plot in hard_plots().items()}


EVERY = [*all_plots(), *(f"{name}, hard" for name in hard_plots())]


@pytest.mark.parametrize("name", all_plots())
def test_every_figure_is_an_image_with_alt_text(name, tmp_path):
    plot = drawn()[name]
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
    plot = drawn()
    assert "0.75 dog + 0.25 cat <b>; 1.00 cat" in plot["soft_labels"].alt
    assert "training loss from 2 to 0.5" in plot["curves"].alt
    assert "validation accuracy from 0.3 to 0.625" in plot["curves"].alt
    assert "up from 1 to 3" in plot["lines"].alt
    assert "Test accuracy of 2 variants" in plot["intervals"].alt
    assert "plain 0.725" in plot["intervals"].alt
    assert "best validation accuracy 0.5 at learning rate 0.1" in plot["trials"].alt
    assert "cosine from 1 to 0" in plot["schedules"].alt
    assert "largest 0.9 at cat, as cat; smallest 0.1 at cat, as dog" in plot["heatmap"].alt
    assert "tiny mean 0, standard deviation 0" in plot["histogram"].alt
    assert "1 at stem and 0.0001 at head" in plot["layers"].alt
    assert plot["stopping"].alt == (
        "Early stopping stops after epoch 3 of 4 and restores epoch 2. There, accuracy is 0.75, "
        "and 0.7 on other images. In the last recorded epoch, accuracy is 0.625."
    )


def test_many_panels_with_several_lines_each_have_a_legend_and_fit_the_largest_line():
    panels = {f"panel {k}": {"training": [1, 1], "validation": [k, -k]} for k in range(7)}
    plot = plots.lines([1, 2], panels, xlabel="epoch", ylabel="value", message="Seven panels.")
    assert [text.get_text() for text in plot.figure.legends[0].get_texts()] == [
        "training",
        "validation",
    ]
    low, high = plot.figure.axes[0].get_ylim()
    assert low < -6 < 6 < high


def test_every_public_plot_is_tested_here():
    public = {
        name
        for name, value in vars(plots).items()
        if inspect.isfunction(value) and name in plots.__all__
    }
    assert public == set(all_plots())


@lru_cache
def on_700_pixels(name):
    """Draw a figure 700 pixels wide or less; return it and its renderer."""
    figure = drawn()[name].figure
    figure.set_dpi(min(700 / figure.get_figwidth(), 96))
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return figure, canvas.get_renderer()


def texts_of(figure):
    """Return every text that is drawn; matplotlib also keeps texts that it doesn't draw."""
    texts = [figure._suptitle, *(text for legend in figure.legends for text in legend.get_texts())]
    for axis in figure.axes:
        texts += [axis.title, axis._left_title, *axis.texts]
        for side in (axis.xaxis, axis.yaxis) if axis.axison else ():
            texts += [side.label, side.get_offset_text()]
            texts += [
                label for tick in side._update_ticks() for label in (tick.label1, tick.label2)
            ]
    return [text for text in texts if text.get_visible() and text.get_text().strip()]


@pytest.mark.parametrize("name", EVERY)
def test_the_message_is_the_title_and_opens_the_alt_text(name):
    plot = drawn()[name]
    title = " ".join(plot.figure.get_suptitle().split())
    assert title.endswith(".")
    assert (plot.alt + " ").startswith(f"{title} ")
    assert plot.figure._suptitle.get_ha() == "left"
    assert plot.figure._suptitle.get_fontweight() == "normal"
    if "hard" in name:
        assert title == LONG


@pytest.mark.parametrize("name", EVERY)
def test_no_text_is_cut_off_at_700_pixels(name):
    figure, renderer = on_700_pixels(name)
    assert figure.bbox.width <= 701
    inside = figure.bbox.padded(0.5)
    for text in texts_of(figure):
        box = text.get_window_extent(renderer)
        assert inside.contains(box.x0, box.y0), (text.get_text(), box)
        assert inside.contains(box.x1, box.y1), (text.get_text(), box)


@pytest.mark.parametrize("name", EVERY)
def test_title_labels_and_legend_do_not_overlap(name):
    figure, renderer = on_700_pixels(name)
    boxes = {"title": figure._suptitle.get_window_extent(renderer)}
    boxes |= {
        f"legend {i}": legend.get_window_extent(renderer) for i, legend in enumerate(figure.legends)
    }
    for i, axis in enumerate(figure.axes):
        if axis.axison:
            boxes[f"axes {i}"] = axis.get_window_extent(renderer)
            for text in (axis.xaxis.label, axis.yaxis.label, axis.title, axis._left_title):
                if text.get_text():
                    boxes[text.get_text() + str(i)] = text.get_window_extent(renderer)
    for (a, one), (b, other) in combinations(boxes.items(), 2):
        assert not one.padded(-1).overlaps(other.padded(-1)), (a, b)


@pytest.mark.parametrize("name", EVERY)
def test_a_figure_has_at_most_one_legend(name):
    figure = drawn()[name].figure
    legends = [axis for axis in figure.axes if axis.get_legend() is not None]
    assert len(figure.legends) + len(legends) <= 1


@pytest.mark.parametrize("name", EVERY)
def test_entries_of_a_legend_differ_without_their_colours(name):
    figure = drawn()[name].figure
    entries = {
        label: handle[0] if isinstance(handle, tuple) else handle  # a line with its error bars
        for axis in figure.axes
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    for legend in figure.legends:
        looks = [
            [
                type(handle).__name__,
                handle.get_linewidth(),
                getattr(handle, "_unscaled_dash_pattern", handle.get_linestyle()),
                handle.get_marker() if hasattr(handle, "get_marker") else "",
                handle.get_hatch() if hasattr(handle, "get_hatch") else "",
            ]
            for handle in entries.values() or legend.legend_handles
        ]
        assert all(one != other for one, other in combinations(looks, 2)), looks


@pytest.mark.parametrize("name", EVERY)
def test_labels_are_words(name):
    figure = drawn()[name].figure
    for axis in figure.axes:
        for text in (axis.get_xlabel(), axis.get_ylabel()):
            assert "_" not in text
            assert text not in ("lr", "acc")


def test_lines_of_a_figure_differ_in_colour_and_in_dash_pattern():
    series = {str(k): [k, k + 1] for k in range(5)}
    figure = plots.lines([0, 1], series, xlabel="x", ylabel="y", message="m").figure
    lines = figure.axes[0].get_lines()
    assert len({line.get_color() for line in lines}) == 5
    assert len({str(line._unscaled_dash_pattern) for line in lines}) == 5
    assert len({line.get_marker() for line in lines}) == 5


def test_the_styles_of_a_set_are_the_same_in_all_figures():
    names = ["plain", "EMA", "validation, clean labels", "test", "training loss"]
    styles = core.styles(names)
    for name, split in zip(names[1:], ("ema_valid", "valid", "test", "train"), strict=True):
        assert styles[name].items() <= core.split_style(split).items()
    assert len({style["color"] for style in styles.values()}) == 5
    twice = core.styles(["validation a", "validation b"])
    assert len({style["color"] for style in twice.values()}) == 2


def test_six_curves_are_small_multiples_with_the_same_axes():
    series = {f"curve {k}": [k, k + 1.0] for k in range(6)}
    figure = plots.lines([0, 1], series, xlabel="x", ylabel="y", message="m").figure
    assert len(figure.axes) == 6
    assert not figure.legends
    for k, axis in enumerate(figure.axes):
        assert axis.get_title(loc="left") == f"curve {k}"
        assert axis.get_ylim() == figure.axes[0].get_ylim()
        (own,) = [line for line in axis.get_lines() if line.get_color() == core.COLOURS[0]]
        assert list(own.get_ydata()) == [k, k + 1]
        assert len(axis.get_lines()) == 6
    five = plots.lines([0, 1], dict(list(series.items())[:5]), xlabel="x", ylabel="y", message="m")
    assert len(five.figure.axes) == 1


def test_panels_share_their_axes_and_one_legend():
    panel = {"training": [2.0, 1.0], "validation": [2.0, 1.5]}
    plot = plots.lines(
        [1, 2], {"plain": panel, "mixup": panel}, xlabel="x", ylabel="y", message="m"
    )
    left, right = plot.figure.axes
    assert left.get_title(loc="left") == "plain"
    assert left.get_ylim() == right.get_ylim()
    colours = [[line.get_color() for line in axis.get_lines()] for axis in (left, right)]
    assert colours[0] == colours[1]
    (legend,) = plot.figure.legends
    assert [text.get_text() for text in legend.get_texts()] == ["training", "validation"]
    assert "mixup, validation from 2 to 1.5" in plot.alt


def test_stacked_panels_have_their_own_y_axes():
    series = {"loss": [2.0, 1.0], "learning rate": [0.1, 0.01]}
    plot = plots.lines([1, 2], series, xlabel="x", ylabel="", message="m", stacked=True)
    assert [axis.get_ylabel() for axis in plot.figure.axes] == ["loss", "learning rate"]
    assert plot.figure.axes[0].get_ylim()[1] > 1.5 > plot.figure.axes[1].get_ylim()[1]
    assert not plot.figure.legends


def test_stairs_are_drawn_as_stairs():
    named = {
        "step": step(10),
        "cosine": cosine(50),
        "constant": constant(),
        "per epoch": lambda t: cosine(5)(t // 10),
    }
    (axis,) = plots.schedules(named, 51).figure.axes
    styles = {line.get_label(): line.get_drawstyle() for line in axis.get_lines()}
    assert styles["step"] == styles["per epoch"] == "steps-post"
    assert styles["cosine"] == "default"
    series = {"rate": [1, 1, 0.1], "loss": [3, 2, 1]}
    (axis,) = plots.lines(
        [1, 2, 3], series, xlabel="x", ylabel="y", message="m", stairs=["rate"]
    ).figure.axes
    assert [line.get_drawstyle() for line in axis.get_lines()] == ["steps-post", "default"]
    left = plots.schedule_beside_runs([1] * 5 + [0.1] * 5, [[1.0]], title="t", message="m")
    assert left.figure.axes[0].get_lines()[0].get_drawstyle() == "steps-post"


def test_no_range_is_so_narrow_that_noise_looks_like_an_effect():
    series = {"a": [0.501, 0.502], "b": [0.502, 0.501]}
    summary = dict.fromkeys(series, (0.5015, 0.501, 0.502))
    history = pd.DataFrame({"epoch": [1, 2], "valid_acc": [0.501, 0.502]})
    points = {name: [(0.5015, 0.501, 0.502)] * 2 for name in series}
    texts = {"xlabel": "step", "ylabel": "accuracy", "message": "m"}
    ranges = [
        plots.lines([1, 2], series, **texts).figure.axes[0].get_ylim(),
        plots.trend([1, 2], points, **texts).figure.axes[0].get_ylim(),
        plots.curves(history).figure.axes[0].get_ylim(),
        plots.stopping([0.501, 0.502], 1, 1, label="valid_acc").figure.axes[0].get_ylim(),
        plots.intervals(series, summary, label="test_acc").figure.axes[0].get_xlim(),
        plots.heatmap([[0.501, 0.502]], ["r"], ["c", "d"], label="test_acc", message="m")
        .figure.axes[0].images[0].get_clim(),
    ]  # fmt: skip
    assert all(high - low >= 0.05 - 1e-9 for low, high in ranges), ranges
    low, high = plots.lines([1, 2], series, **texts | {"log": "y"}).figure.axes[0].get_ylim()
    assert high - low < 0.05
    assert core.widened(70.0, 71.0, "accuracy (%)") == (68.0, 73.0)
    assert core.widened(0.2, 0.8, "accuracy") == (0.2, 0.8)
    assert core.widened(2.00, 2.01, "loss (nats)") == pytest.approx((1.95475, 2.05525))
    assert core.widened(0, 0.01, "valid_loss") == pytest.approx((-0.02, 0.03))
    assert core.widened(70, 71, "time (ms)") == pytest.approx((68.725, 72.275))


def test_messages_are_computed_from_the_data_if_none_is_given():
    both = pd.DataFrame({"epoch": [1, 2, 3], "valid_loss": [2.0, 1.0, 1.5], "valid_acc": [1, 0, 0]})
    title = {"message": lambda plot: " ".join(plot.figure.get_suptitle().split())}["message"]
    assert title(plots.curves(both)) == "Validation loss is lowest after epoch 2."
    assert title(plots.curves(both.drop(columns="valid_loss"))) == (
        "Validation accuracy is highest after epoch 1."
    )
    training = pd.DataFrame({"epoch": [1, 2], "train_loss": [2.0, 1.0]})
    assert title(plots.curves(training)) == "Training loss goes from 2 to 1."
    assert title(plots.curves(both, message="it wobbles")) == "It wobbles."
    runs = {"a": [0.5], "b": [0.6]}
    for summary, message in (
        ({"a": (0.5, 0.4, 0.59), "b": (0.6, 0.595, 0.7)},
         "Mean test accuracy is highest for b (0.600) and lowest for a (0.500)."),
        ({"a": (0.5, 0.4, 0.6), "b": (0.6, 0.5, 0.7)},
         "Mean test accuracy goes from a (0.500) to b (0.600), but their intervals overlap."),
        ({"a": (0.5, np.nan, np.nan), "b": (0.6, np.nan, np.nan)},
         "Mean test accuracy goes from a (0.500) to b (0.600)."),
        ({"a": (np.nan,) * 3, "b": (0.6, 0.5, 0.7)}, "Mean test accuracy: b (0.600)."),
        ({"a": (np.nan,) * 3, "b": (np.nan,) * 3}, "No variant has a finite test accuracy."),
    ):  # fmt: skip
        assert title(plots.intervals(runs, summary, label="test_acc")) == message
    assert title(plots.schedules({"cosine": cosine(10)}, 11)) == (
        "After 10 steps, cosine multiplies the learning rate by 0."
    )


def test_uint8_and_float_images_look_the_same_and_grey_ones_are_drawn():
    levels = torch.randint(0, 256, (2, 3, 4, 4), dtype=torch.uint8)
    assert plots.image_grid(levels).png() == plots.image_grid(levels.float() / 255).png()
    assert plots.image_grid(levels[:, :1]).png().startswith(b"\x89PNG")


def test_a_grid_without_images_says_so():
    grid = plots.image_grid(torch.rand(0, 3, 8, 8), [], columns=4, alt="Incorrect predictions")
    assert grid.alt == "Incorrect predictions. There are no images to show."
    assert grid.figure.axes[0].texts[0].get_text() == "no images"
    assert grid.png().startswith(b"\x89PNG")


def test_a_grid_of_thousands_of_images_is_refused_and_of_hundreds_is_quick():
    with pytest.raises(ValueError, match=r"holds 500 images, got 3,000; .* images\[:64\]"):
        plots.image_grid(torch.rand(3000, 3, 8, 8))
    start = time.process_time()
    plots.image_grid(torch.rand(400, 3, 32, 32), ["sign"] * 400, columns=20)
    assert time.process_time() - start < 2


def test_a_figure_is_saved_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    plots.image_grid(torch.rand(2, 3, 4, 4)).save("~/grid.png")
    assert (tmp_path / "grid.png").is_file()


def test_one_epoch_is_no_epochs():
    alt = plots.curves(pd.DataFrame({"epoch": [1], "train_loss": [0.5]})).alt
    assert " 1 epoch: training loss" in alt


def test_figures_change_no_global_state():
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    all_plots()
    assert dict(mpl.rcParams) == before
    assert (
        "matplotlib.pyplot" not in sys.modules or not sys.modules["matplotlib.pyplot"].get_fignums()
    )


def test_the_alt_text_of_arrows_gives_the_vectors_and_the_limit():
    plot = plots.arrows({"g": (3, 4), "clipped": (0.6, 0.8)}, limit=1, message="Shorter.")
    assert plot.alt == "Shorter. Limit 1. g (3, 4); clipped (0.6, 0.8)."
    assert len(plot.figure.axes[0].get_lines()) == 4
