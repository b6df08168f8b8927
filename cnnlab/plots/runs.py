"""Runs and schedules: a number over the steps of training."""

from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnlab.plots.core import COLOURS, GREY, LINES, MARKERS, Plot, finish, look_of, new_axes


if TYPE_CHECKING:
    from pandas import DataFrame


def curves(history: "DataFrame") -> Plot:
    """Draw loss and accuracy over the epochs, training and validation side by side.

    Args:
        history: a table with the columns of `History.frame`.
    """
    figure, axes = new_axes(1, 2, width=9, height=3.2)
    told = []
    for axis, metric, label in zip(
        axes.flat, ("loss", "acc"), ("loss (nats)", "accuracy"), strict=True
    ):
        for part, name in (("train", "training"), ("valid", "validation"), ("ema_valid", "EMA")):
            column = f"{part}_{metric}"
            if column in history and history[column].notna().any():
                values = history[column]
                axis.plot(history["epoch"], values, label=name, **look_of(part))
                told.append(
                    f"{name} {label.split()[0]} {values.iloc[0]:.3g} to {values.iloc[-1]:.3g}"
                )
        axis.set(xlabel="epochs finished", ylabel=label)
        axis.xaxis.get_major_locator().set_params(integer=True)
        axis.legend()
    return Plot(figure, f"Learning curves over {len(history)} epochs: {'; '.join(told)}.")


def lines(
    x: Sequence[float] | Any,
    series: dict[str, Any],
    *,
    xlabel: str,
    ylabel: str,
    message: str,
    log: str = "",
) -> Plot:
    """Draw one line a series, each with a colour and a dash of its own.

    Args:
        x: the common horizontal values.
        series: name -> vertical values.
        xlabel: with its unit.
        ylabel: with its unit.
        message: what the reader should see; begins the alt text.
        log: which axes are logarithmic: `""`, `"x"`, `"y"` or `"xy"`.
    """
    figure, axes = new_axes(width=6.5, height=3.2)
    axis = axes.item()
    for (name, values), colour, dash in zip(series.items(), cycle(COLOURS), cycle(LINES)):
        axis.plot(x, values, label=name, color=colour, linestyle=dash)
    finish(axis, xlabel, ylabel, log)
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
    """Draw one line a series through means, each point with its interval: accuracy against labels, for one.

    Args:
        x: the common horizontal values; each is marked on the axis.
        series: name -> (mean, low, high) for each of them.
        xlabel: with its unit.
        ylabel: with its unit.
        message: what the reader should see; begins the alt text.
        log: which axes are logarithmic: `""`, `"x"`, `"y"` or `"xy"`.

    >>> trend([5, 10], {"probe": [(0.7, 0.6, 0.8), (0.8, 0.75, 0.85)]}, xlabel="labels", ylabel="acc", message="Up.")
    Plot: Up. acc against labels, mean and 95 % interval: probe 0.7 (0.6 to 0.8) at 5 to 0.8 (0.75 to 0.85) at 10.
    """
    figure, axes = new_axes(width=6.5, height=3.4)
    axis = axes.item()
    told = []
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
        told.append(f"{name} {' to '.join(ends)}")
    finish(axis, xlabel, ylabel, log)
    axis.set_xticks(x, [f"{value:g}" for value in x])
    axis.minorticks_off()
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return Plot(
        figure, f"{message} {ylabel} against {xlabel}, mean and 95 % interval: {'; '.join(told)}."
    )


def schedules(named: dict[str, Callable[[int], float]], steps: int) -> Plot:
    """Draw learning-rate schedules, each over the first `steps` updates.

    Args:
        named: name -> function from the step to a multiplier.
        steps: updates to draw.
    """
    traces = {name: [f(t) for t in range(steps)] for name, f in named.items()}
    return lines(
        range(steps),
        traces,
        xlabel="optimizer step",
        ylabel="multiplier of the base rate",
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
        rates: one a step.
        runs: (R, P) training losses, a row a run, each over P equal parts of the steps; the bold line is their mean.
        others: (Q, P) likewise, drawn in grey to compare with.
        title: above the losses.
        message: what the reader should see; begins the alt text.
        top: upper end of the loss axis, when pictures are to be compared.

    >>> schedule_beside_runs([0.2, 0.1], [[2.0, 1.0], [2.0, 1.5]], title="two runs", message="The loss falls.")
    Plot: The loss falls. Learning rate from 0.2 to 0.1 over 2 steps; mean training loss from 2 to 1.25.
    """
    steps, losses = len(rates), np.asarray(runs, dtype=float)
    middles = (np.arange(losses.shape[1]) + 0.5) * steps / losses.shape[1]
    figure, axes = new_axes(1, 2, width=7.5, height=2.8)
    left, right = axes.flat
    left.plot(range(steps), rates, color=COLOURS[0])
    left.set(xlabel="optimizer step", ylabel="learning rate", ylim=(0, None))
    for loss in others:
        right.plot(middles, loss, color="#BBBBBB", linewidth=1)
    for loss in losses:
        right.plot(middles, loss, color=COLOURS[1], linewidth=0.7, alpha=0.6)
    mean = losses.mean(axis=0)
    right.plot(middles, mean, color=COLOURS[1], linewidth=2.2)
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
    """Draw a curve of epochs that was stopped: what was seen, what was not, and the epoch that is kept.

    Args:
        values: one number an epoch, those after the stop too.
        stop: index of the epoch after which training ended.
        best: index of the epoch whose weights are restored; -1 for none.
        label: what the values are, with their unit.
        judged: the same epochs measured on other images; drawn at the restored epoch alone.
    """
    figure, axes = new_axes(width=6.5, height=3.2)
    axis = axes.item()
    epochs = range(1, len(values) + 1)
    seen = {"color": COLOURS[0], "linestyle": LINES[0], "marker": MARKERS[0], "markersize": 4}
    axis.plot(epochs[stop:], values[stop:], ":.", color=GREY, label="never trained")
    axis.plot(epochs[: stop + 1], values[: stop + 1], **seen, label="seen")
    axis.axvline(stop + 1, color=COLOURS[6], linestyle=LINES[1], label=f"stop: epoch {stop + 1}")
    told = f"stops after epoch {stop + 1} of {len(values)}"
    if best >= 0:
        kept = {"color": COLOURS[1], "linestyle": "none", "markersize": 11, "fillstyle": "none"}
        name = f"restored: epoch {best + 1}, {values[best]:.3g}"
        axis.plot(best + 1, values[best], **kept, marker=MARKERS[1], label=name)
        told += f", restores epoch {best + 1} with {values[best]:.3g}"
        if judged is not None:
            name = f"the same weights judged: {judged[best]:.3g}"
            filled = kept | {"color": COLOURS[2], "fillstyle": "full", "markersize": 8}
            axis.plot(best + 1, judged[best], **filled, marker=MARKERS[2], label=name)
            told += f", judged on other images {judged[best]:.3g}"
    axis.set(xlabel="epochs finished", ylabel=label)
    axis.xaxis.get_major_locator().set_params(integer=True)
    axis.legend(fontsize=8, loc="center left", bbox_to_anchor=(1, 0.5))
    return Plot(figure, f"Early stopping {told}. {label} ends at {values[-1]:.3g}.")
