"""Figures of values over the steps or epochs of training."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnlab.plots.core import (
    COLOURS,
    GREY,
    PALE,
    WIDTH,
    Plot,
    finish,
    label_axes,
    new_axes,
    readable,
    split_style,
    styles,
    wrapped,
)


if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from pandas import DataFrame

MOST = 5  # curves in one axis; more become small multiples
FEW = 25  # points of a curve that are still marked


def curves(history: "DataFrame", *, message: str | None = None) -> Plot:
    """Draw the loss on the left, and the accuracy and every other metric beside it.

    Args:
        history: a table with the columns of `History.to_pandas`.
        message: the title, one sentence that states the main point; by default, it says after
            which epoch the validation loss (or else the validation accuracy) is best.

    >>> import pandas as pd
    >>> table = pd.DataFrame({"epoch": [1, 2, 3], "valid_loss": [2.0, 1.5, 1.75]})
    >>> curves(table)
    Plot: Validation loss is lowest after epoch 2. 3 epochs: validation loss from 2 to 1.75.
    """
    metrics = _metrics_in(history)
    rows = math.ceil(len(metrics) / 3)
    figure, axes = new_axes(rows, math.ceil(len(metrics) / rows), height=2.9 * rows)
    unit = " (nats)" if "acc" in metrics else ""  # without an accuracy, it is no cross-entropy
    values = []
    for axis, metric in zip(axes.flat, metrics, strict=False):
        for split, name in CURVES.items():
            column = f"{split}_{metric}"
            if column in history and history[column].notna().any():
                curve = history[column]
                axis.plot(history["epoch"], curve, label=name, **split_style(split))
                values.append(f"{name} {readable(metric)} {_ends(curve)}")
        label_axes(axis, "finished epochs", f"loss{unit}" if metric == "loss" else metric)
        axis.xaxis.get_major_locator().set_params(integer=True)
    for axis in axes.flat[len(metrics) :]:
        axis.set_axis_off()
    epochs = f"{len(history)} epoch{'s' * (len(history) != 1)}"
    text = f"{epochs}: {'; '.join(values)}."
    return finish(figure, message or _message_of_curves(history), text)


CURVES = {"train": "training", "valid": "validation", "ema_valid": "EMA"}


def _metrics_in(history: "DataFrame") -> list[str]:
    """Return the metrics of a history, the loss first; each has a column for one split or more."""
    names = [
        column.removeprefix(f"{split}_")
        for column in map(str, history)
        for split in CURVES
        if column.startswith(f"{split}_") and history[column].notna().any()
    ]
    return sorted(dict.fromkeys(names), key=lambda name: name != "loss") or ["loss"]


def _message_of_curves(history: "DataFrame") -> str:
    for column, best in (("valid_loss", "lowest"), ("valid_acc", "highest")):
        if column in history and history[column].notna().any():
            curve = history[column]
            row = (curve.argmin if best == "lowest" else curve.argmax)()
            return f"{readable(column)} is {best} after epoch {history['epoch'].iloc[row]}."
    if "train_loss" in history:
        return f"training loss goes {_ends(history['train_loss'])}."
    n = len(history)
    return f"The run has {n} finished epoch{'s' * (n != 1)}."


def _ends(values: Any) -> str:
    """Return the first and the last value that is a number, as text."""
    array = np.asarray(values, dtype=float)
    known = array[~np.isnan(array)]
    return f"from {known[0]:.3g} to {known[-1]:.3g}" if len(known) else "without a value"


def lines(
    x: Sequence[float] | Any,
    series: Mapping[str, Any],
    *,
    xlabel: str,
    ylabel: str,
    message: str,
    log: str = "",
    stairs: Collection[str] = (),
    stacked: bool = False,
) -> Plot:
    """Draw one line per series, each with its own colour and dash pattern.

    More than five lines become small multiples: each has its own panel, in which the others are
    grey. Series named after a split ("validation", "test, clean labels") have the split's colour.

    Args:
        x: the x values of all series.
        series: name -> y values; or name of a panel -> name -> y values, for panels beside each
            other with the same axes.
        xlabel: with its unit.
        ylabel: with its unit; not used if `stacked`.
        message: the title, one sentence that states the main point; the alt text starts with it.
        log: which axes are logarithmic: `""`, `"x"`, `"y"` or `"xy"`.
        stairs: names of series that keep each value until the next, such as a stepped schedule.
        stacked: whether each series has its own y axis, labelled with its name, in panels above
            each other, because their units differ.
    """

    def draw(axis: Any, name: str, values: Any, style: dict[str, Any]) -> None:
        axis.plot(x, values, drawstyle="steps-post" if name in stairs else "default", **style)

    figure = _panels(series, draw, xlabel, ylabel, log, markers=len(x) <= FEW, stacked=stacked)
    if "x" not in log and np.asarray(x).dtype.kind in "iu":
        for axis in figure.axes:
            axis.locator_params(axis="x", integer=True)
    ends = "; ".join(f"{name} {_ends(values)}" for name, values in _flat(series).items())
    what = "Values" if stacked else readable(ylabel)
    return finish(figure, message, f"{what} against {readable(xlabel)}: {ends}.")


def _flat(series: Mapping[str, Any]) -> dict[str, Any]:
    """Return name -> values, also for series in panels: "panel, name"."""
    flat: dict[str, Any] = {}
    for name, values in series.items():
        if isinstance(values, Mapping):
            flat |= {f"{name}, {inner}": inner_values for inner, inner_values in values.items()}
        else:
            flat[name] = values
    return flat


def _panels(
    series: Mapping[str, Any],
    draw: Callable[[Any, str, Any, dict[str, Any]], None],
    xlabel: str,
    ylabel: str,
    log: str,
    *,
    markers: bool,
    stacked: bool = False,
) -> "Figure":
    """Draw series in one axis, or in panels if they are too many, stacked, or given in panels.

    Args:
        series: name -> values, or panel -> name -> values.
        draw: draws one series, given its axis, name, values and keyword arguments for the line.
        xlabel: of the lowest panels.
        ylabel: of the leftmost panels.
        log: which axes are logarithmic.
        markers: whether lines have markers.
        stacked: whether each series has its own y axis.
    """
    nested = any(isinstance(values, Mapping) for values in series.values())
    single = (len(series) > MOST and not nested) or stacked  # one series per panel
    panels = dict(series) if nested else {name: {name: v} for name, v in series.items()}
    if not (nested or single):
        panels = {"": dict(series)}
    columns = 1 if stacked else 2 if len(panels) in (2, 4) else min(3, len(panels))
    rows = math.ceil(len(panels) / columns)
    figure, axes = new_axes(
        rows,
        columns,
        height=3.0 if rows == 1 else (1.4 if stacked else 1.9) * rows,
        share="col" if stacked else True,
    )
    style = styles(
        dict.fromkeys(name for panel in panels.values() for name in panel), markers=markers
    )
    background = {"color": PALE, "linewidth": 1, "zorder": 1}
    for axis, panel in zip(axes.flat, panels.values(), strict=False):
        if single and not stacked:
            for name, values in series.items():
                if name not in panel:
                    draw(axis, name, values, background)
        for name, values in panel.items():
            alone = {"linestyle": "-", "linewidth": 2}  # dark, to stand out from the grey
            alone |= {} if stacked else {"color": COLOURS[0]}
            draw(axis, name, values, style[name] | (alone if single else {"label": name}))
    # Only now, because the panels share an axis, which has to fit all of them.
    for i, (axis, title) in enumerate(zip(axes.flat, panels, strict=False)):
        if title and not stacked:
            axis.set_title(wrapped(title, 9, 0.85 * WIDTH / columns), loc="left", fontsize=9)
        lowest = i + columns >= len(panels)
        axis.tick_params(labelbottom=lowest)
        label = title if stacked else ylabel if i % columns == 0 else ""
        label_axes(axis, xlabel if lowest else "", label, log)
    for axis in axes.flat[len(panels) :]:
        axis.set_axis_off()
    return figure


def trend(
    x: Sequence[float],
    series: Mapping[str, Sequence[tuple[float, float, float]]],
    *,
    xlabel: str,
    ylabel: str,
    message: str,
    log: str = "",
) -> Plot:
    """Draw one line per series through mean values, each with its confidence interval.

    More than five lines become small multiples: each has its own panel, in which the others are
    grey.

    Args:
        x: the x values of all series; each gets a tick on the axis.
        series: name -> one (mean, low, high) per x value.
        xlabel: with its unit.
        ylabel: with its unit.
        message: the title, one sentence that states the main point; the alt text starts with it.
        log: which axes are logarithmic: `""`, `"x"`, `"y"` or `"xy"`.

    >>> accuracy = {"probe": [(0.7, 0.6, 0.8), (0.8, 0.75, 0.85)]}
    >>> plot = trend([5, 10], accuracy, xlabel="labels", ylabel="accuracy", message="It rises.")
    >>> plot.alt.partition(": ")[0]
    'It rises. Accuracy against labels, mean and 95 % confidence interval'
    >>> plot.alt.partition(": ")[2]
    'probe 0.7 (0.6 to 0.8) at 5 to 0.8 (0.75 to 0.85) at 10.'
    """

    def draw(axis: Any, name: str, points: Any, style: dict[str, Any]) -> None:
        mean, low, high = np.asarray(points, dtype=float).T
        axis.errorbar(x, mean, yerr=[mean - low, high - mean], capsize=3, **style)

    figure = _panels(series, draw, xlabel, ylabel, log, markers=True)
    for axis in figure.axes:
        axis.set_xticks(x, [f"{tick:g}" for tick in x])
        axis.minorticks_off()
    values = []
    for name, points in series.items():
        ends = (
            f"{points[i][0]:.3g} ({points[i][1]:.3g} to {points[i][2]:.3g}) at {x[i]:g}"
            for i in (0, -1)
        )
        values.append(f"{name} {' to '.join(ends)}")
    return finish(
        figure,
        message,
        f"{readable(ylabel)} against {readable(xlabel)}, mean and 95 % confidence interval: "
        f"{'; '.join(values)}.",
    )


def schedules(
    named: dict[str, Callable[[int], float]], steps: int, *, message: str | None = None
) -> Plot:
    """Draw learning-rate schedules over the first `steps` optimizer steps.

    A schedule that stays constant between jumps is drawn as stairs.

    Args:
        named: name -> function from the step to a multiplier of the base learning rate.
        steps: number of optimizer steps.
        message: the title, one sentence that states the main point; by default, it says how the
            schedules end.
    """
    traces = {name: [float(f(t)) for t in range(steps)] for name, f in named.items()}
    if message is None:
        last = {name: trace[-1] for name, trace in traces.items()}
        low, high = min(last, key=last.__getitem__), max(last, key=last.__getitem__)
        message = f"After {steps - 1} steps, {low} multiplies the learning rate by {last[low]:.3g}"
        message += f" and {high} by {last[high]:.3g}." if last[low] < last[high] else "."
    return lines(
        range(steps),
        traces,
        xlabel="optimizer step",
        ylabel="multiplier of the base learning rate",
        message=message,
        stairs=[name for name, trace in traces.items() if _is_stairs(trace)],
    )


def _is_stairs(values: Sequence[float] | Any) -> bool:
    """Return whether values change only in jumps, before and after which they stay the same.

    >>> _is_stairs([1, 1, 1, 0.1, 0.1, 0.1]), _is_stairs([1, 0.9, 0.8, 0.7])
    (True, False)
    """
    jumps = np.flatnonzero(np.diff(np.asarray(values, dtype=float)))
    return 0 < len(jumps) <= len(values) / 3 and bool((np.diff(jumps) > 1).all())


def schedule_beside_runs(
    rates: Sequence[float] | Any,
    runs: Any,
    others: Any = (),
    *,
    title: str,
    message: str,
    top: float | None = None,
) -> Plot:
    """Draw a learning rate over the steps on the left, and the losses of runs with it on the right.

    Args:
        rates: one learning rate per step.
        runs: training losses (R, P) of R runs, each averaged over P equal pieces of the run; a bold
            line shows the mean over the runs.
        others: (Q, P), drawn in grey for comparison.
        title: above the losses.
        message: the title of the figure, one sentence that states the main point; the alt text
            starts with it.
        top: upper end of the loss axis, to compare several figures.

    >>> runs = [[2.0, 1.0], [2.0, 1.5]]
    >>> plot = schedule_beside_runs([0.2, 0.1], runs, title="two runs", message="The loss falls.")
    >>> plot.alt.partition("; ")[0]
    'The loss falls. Learning rate from 0.2 to 0.1 over 2 steps'
    """
    steps, losses = len(rates), np.asarray(runs, dtype=float)
    centres = (np.arange(losses.shape[1]) + 0.5) * steps / losses.shape[1]  # of the pieces
    figure, axes = new_axes(1, 2, height=2.7)
    left, right = axes.flat
    drawstyle = "steps-post" if _is_stairs(rates) else "default"
    left.plot(range(steps), rates, color=COLOURS[6], drawstyle=drawstyle)
    label_axes(left, "optimizer step", "learning rate")
    left.set_ylim(0, None)
    training = COLOURS[0]
    for i, loss in enumerate(others):
        label = "_" if i else "other schedules"
        right.plot(centres, loss, color=PALE, linewidth=1, linestyle="--", label=label)
    for i, loss in enumerate(losses):
        label = "_" if i else "single runs"
        right.plot(centres, loss, color=training, linewidth=0.7, alpha=0.6, label=label)
    mean = losses.mean(axis=0)
    right.plot(centres, mean, color=training, linewidth=2.2, label=f"mean of {len(losses)} runs")
    label_axes(right, "optimizer step", "training loss (nats)")
    right.set_ylim(0, top)
    right.set_title(wrapped(title, 9, 0.4 * WIDTH), loc="left", fontsize=9)
    for axis in axes.flat:
        axis.locator_params(nbins=5)
    return finish(
        figure,
        message,
        f"learning rate from {rates[0]:.3g} to {rates[-1]:.3g} over {steps} steps; "
        f"mean training loss from {mean[0]:.3g} to {mean[-1]:.3g}.",
    )


def stopping(
    values: Sequence[float],
    stop: int,
    best: int,
    *,
    label: str,
    judged: Sequence[float] | None = None,
    message: str | None = None,
) -> Plot:
    """Draw a curve that early stopping would cut off, and the epoch that it would restore.

    Args:
        values: one value per epoch, including the epochs after the stop.
        stop: index of the last epoch that is trained.
        best: index of the epoch whose weights are restored; -1 for none.
        label: what the values are, with their unit; a column such as "valid_acc" is spelt out.
        judged: one value per epoch on other images; only the restored epoch is drawn.
        message: the title; by default, it says where the run stops and what is restored.
    """
    figure, axes = new_axes(height=3.0)
    axis, label = axes.item(), readable(label)
    epochs = range(1, len(values) + 1)
    axis.plot(epochs[stop:], values[stop:], ":.", color=GREY, label="after the stop")
    style = split_style("valid")
    axis.plot(epochs[: stop + 1], values[: stop + 1], **style, label="trained")
    axis.axvline(stop + 1, color=COLOURS[6], label=f"stop after epoch {stop + 1}")
    result = f"Early stopping stops after epoch {stop + 1} of {len(values)}"
    text = ""
    if best >= 0:
        hollow = {"color": COLOURS[6], "linestyle": "none", "markersize": 11, "fillstyle": "none"}
        axis.plot(best + 1, values[best], **hollow, marker="o", label=f"restored: epoch {best + 1}")
        result += f" and restores epoch {best + 1}"
        text = f"There, {label} is {values[best]:.3g}"
        if judged is not None:
            other = split_style("test") | {"linestyle": "none", "markersize": 8}
            axis.plot(best + 1, judged[best], **other, label="restored, on other images")
            text += f", and {judged[best]:.3g} on other images"
        text += ". "
    label_axes(axis, "finished epochs", label)
    axis.xaxis.get_major_locator().set_params(integer=True)
    text += f"In the last recorded epoch, {label} is {values[-1]:.3g}."
    return finish(figure, message or f"{result}.", text)
