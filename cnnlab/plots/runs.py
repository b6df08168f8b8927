"""Figures of values over the steps or epochs of training."""

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnlab.plots.core import COLOURS, GREY, LINES, MARKERS, Plot, label_axes, new_axes, split_style


if TYPE_CHECKING:
    from pandas import DataFrame


def curves(history: "DataFrame") -> Plot:
    """Draw the loss on the left, and the accuracy and every other metric beside it.

    Args:
        history: a table with the columns of `History.to_pandas`.
    """
    names = _metrics_in(history)
    figure, axes = new_axes(1, len(names), width=4.5 * max(2, len(names)), height=3.2)
    values = []
    for axis, metric in zip(axes.flat, names, strict=True):
        label = {"loss": "loss (nats)", "acc": "accuracy"}.get(metric, metric)
        for split, name in SPLITS.items():
            column = f"{split}_{metric}"
            if column in history and history[column].notna().any():
                curve = history[column]
                axis.plot(history["epoch"], curve, label=name, **split_style(split))
                quantity = f"{name} {label.split()[0]}"
                values.append(f"{quantity} from {curve.iloc[0]:.3g} to {curve.iloc[-1]:.3g}")
        axis.set(xlabel="finished epochs", ylabel=label)
        axis.xaxis.get_major_locator().set_params(integer=True)
        if axis.get_lines():
            axis.legend()
    epochs = f"{len(history)} epoch{'s' * (len(history) != 1)}"
    return Plot(figure, f"Learning curves over {epochs}: {'; '.join(values)}.")


SPLITS = {"train": "training", "valid": "validation", "ema_valid": "EMA"}


def _metrics_in(history: "DataFrame") -> list[str]:
    """Return the metrics of a history, the loss first; each has a column for one split or more."""
    names = ["loss"]
    for column in map(str, history):
        for split in SPLITS:
            if column.startswith(f"{split}_") and history[column].notna().any():
                names.append(column.removeprefix(f"{split}_"))
    return list(dict.fromkeys(names))


def lines(
    x: Sequence[float] | Any,
    series: dict[str, Any],
    *,
    xlabel: str,
    ylabel: str,
    message: str,
    log: str = "",
) -> Plot:
    """Draw one line per series, each with its own colour and dash pattern.

    Args:
        x: the x values of all series.
        series: name -> y values.
        xlabel: with its unit.
        ylabel: with its unit.
        message: what the reader should see; the alt text starts with it.
        log: which axes are logarithmic: `""`, `"x"`, `"y"` or `"xy"`.
    """
    figure, axes = new_axes(width=6.5, height=3.2)
    axis = axes.item()
    for (name, values), colour, dash in zip(series.items(), cycle(COLOURS), cycle(LINES)):
        axis.plot(x, values, label=name, color=colour, linestyle=dash)
    label_axes(axis, xlabel, ylabel, log)
    ends = "; ".join(f"{name} from {v[0]:.3g} to {v[-1]:.3g}" for name, v in series.items())
    return Plot(figure, f"{message} {ylabel} against {xlabel}: {ends}.")


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

    Args:
        x: the x values of all series; each gets a tick on the axis.
        series: name -> one (mean, low, high) per x value.
        xlabel: with its unit.
        ylabel: with its unit.
        message: what the reader should see; the alt text starts with it.
        log: which axes are logarithmic: `""`, `"x"`, `"y"` or `"xy"`.

    >>> accuracy = {"probe": [(0.7, 0.6, 0.8), (0.8, 0.75, 0.85)]}
    >>> plot = trend([5, 10], accuracy, xlabel="labels", ylabel="accuracy", message="It rises.")
    >>> plot.alt.partition(": ")[0]
    'It rises. accuracy against labels, mean and 95 % confidence interval'
    >>> plot.alt.partition(": ")[2]
    'probe 0.7 (0.6 to 0.8) at 5 to 0.8 (0.75 to 0.85) at 10.'
    """
    figure, axes = new_axes(width=6.5, height=3.4)
    axis = axes.item()
    values = []
    for (name, points), colour, dash, marker in zip(
        series.items(), cycle(COLOURS), cycle(LINES), cycle(MARKERS)
    ):
        mean, low, high = np.asarray(points, dtype=float).T
        axis.errorbar(
            x,
            mean,
            yerr=[mean - low, high - mean],
            color=colour,
            linestyle=dash,
            marker=marker,
            markersize=5,
            capsize=3,
            label=name,
        )
        ends = (f"{mean[i]:.3g} ({low[i]:.3g} to {high[i]:.3g}) at {x[i]:g}" for i in (0, -1))
        values.append(f"{name} {' to '.join(ends)}")
    label_axes(axis, xlabel, ylabel, log)
    axis.set_xticks(x, [f"{tick:g}" for tick in x])
    axis.minorticks_off()
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return Plot(
        figure,
        f"{message} {ylabel} against {xlabel}, mean and 95 % confidence interval: "
        f"{'; '.join(values)}.",
    )


def schedules(named: dict[str, Callable[[int], float]], steps: int) -> Plot:
    """Draw learning-rate schedules over the first `steps` optimizer steps.

    Args:
        named: name -> function from the step to a multiplier of the base learning rate.
        steps: number of optimizer steps.
    """
    traces = {name: [f(t) for t in range(steps)] for name, f in named.items()}
    return lines(
        range(steps),
        traces,
        xlabel="optimizer step",
        ylabel="multiplier of the base learning rate",
        message=f"{len(named)} schedules over {steps} steps.",
    )


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
        message: what the reader should see; the alt text starts with it.
        top: upper end of the loss axis, to compare several figures.

    >>> runs = [[2.0, 1.0], [2.0, 1.5]]
    >>> plot = schedule_beside_runs([0.2, 0.1], runs, title="two runs", message="The loss falls.")
    >>> plot.alt.partition("; ")[0]
    'The loss falls. Learning rate from 0.2 to 0.1 over 2 steps'
    """
    steps, losses = len(rates), np.asarray(runs, dtype=float)
    centres = (np.arange(losses.shape[1]) + 0.5) * steps / losses.shape[1]  # of the pieces
    figure, axes = new_axes(1, 2, width=7.5, height=2.8)
    left, right = axes.flat
    left.plot(range(steps), rates, color=COLOURS[0])
    left.set(xlabel="optimizer step", ylabel="learning rate", ylim=(0, None))
    for loss in others:
        right.plot(centres, loss, color="#BBBBBB", linewidth=1)
    for loss in losses:
        right.plot(centres, loss, color=COLOURS[1], linewidth=0.7, alpha=0.6)
    mean = losses.mean(axis=0)
    right.plot(centres, mean, color=COLOURS[1], linewidth=2.2)
    right.set(xlabel="optimizer step", ylabel="training loss (nats)", ylim=(0, top))
    right.set_title(title, fontsize=9)
    for axis in axes.flat:
        axis.locator_params(nbins=5)
    return Plot(
        figure,
        f"{message} Learning rate from {rates[0]:.3g} to {rates[-1]:.3g} over {steps} steps; "
        f"mean training loss from {mean[0]:.3g} to {mean[-1]:.3g}.",
    )


def stopping(
    values: Sequence[float],
    stop: int,
    best: int,
    *,
    label: str,
    judged: Sequence[float] | None = None,
) -> Plot:
    """Draw a curve that early stopping would cut off, and the epoch that it would restore.

    Args:
        values: one value per epoch, including the epochs after the stop.
        stop: index of the last epoch that is trained.
        best: index of the epoch whose weights are restored; -1 for none.
        label: what the values are, with their unit.
        judged: one value per epoch on other images; only the restored epoch is drawn.
    """
    figure, axes = new_axes(width=6.5, height=3.2)
    axis = axes.item()
    epochs = range(1, len(values) + 1)
    trained = {"color": COLOURS[0], "linestyle": LINES[0], "marker": MARKERS[0], "markersize": 4}
    axis.plot(epochs[stop:], values[stop:], ":.", color=GREY, label="after the stop")
    axis.plot(epochs[: stop + 1], values[: stop + 1], **trained, label="trained")
    axis.axvline(stop + 1, color=COLOURS[6], linestyle=LINES[1], label=f"stop: epoch {stop + 1}")
    result = f"stops after epoch {stop + 1} of {len(values)}"
    if best >= 0:
        hollow = {"color": COLOURS[1], "linestyle": "none", "markersize": 11, "fillstyle": "none"}
        name = f"restored: epoch {best + 1}, {values[best]:.3g}"
        axis.plot(best + 1, values[best], **hollow, marker=MARKERS[1], label=name)
        result += f" and restores epoch {best + 1} with {values[best]:.3g}"
        if judged is not None:
            name = f"on other images: {judged[best]:.3g}"
            filled = hollow | {"color": COLOURS[2], "fillstyle": "full", "markersize": 8}
            axis.plot(best + 1, judged[best], **filled, marker=MARKERS[2], label=name)
            result += f", which reaches {judged[best]:.3g} on other images"
    axis.set(xlabel="finished epochs", ylabel=label)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return Plot(
        figure, f"Early stopping {result}. In the last recorded epoch, {label} is {values[-1]:.3g}."
    )
