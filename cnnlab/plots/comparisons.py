"""Figures that compare variants, trials, layers, or the parts of a whole."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnlab.plots.core import COLOURS, GREY, LINES, MARKERS, Plot, new_axes, readable


if TYPE_CHECKING:
    from pandas import DataFrame


def intervals(
    runs: dict[str, Any],
    summary: dict[str, tuple[float, float, float]],
    *,
    label: str,
    stored: Mapping[str, tuple[float, float, float]] | None = None,
) -> Plot:
    """Draw one row per variant: a tick for each run, and a bar for the mean and its interval.

    Args:
        runs: name -> one value per seed.
        summary: name -> (mean, low, high).
        label: what the values are, with their unit; a column such as "test_acc" is spelt out.
        stored: name -> (mean, low, high) from a longer study, drawn in grey below the same name.
    """
    stored, label = stored or {}, readable(label)
    figure, axes = new_axes(width=6.5, height=1.0 + 0.45 * len(runs))
    axis = axes.item()
    for row, (name, values) in enumerate(runs.items()):
        mean, low, high = summary[name]
        colour = COLOURS[row % len(COLOURS)]
        axis.plot(values, [row - 0.15] * len(values), "|", color=colour, markersize=9)
        axis.errorbar(
            mean,
            row + 0.1,
            xerr=[[mean - low], [high - mean]],
            color=colour,
            marker=MARKERS[row % len(MARKERS)],
            capsize=4,
        )
        if name in stored:
            mean, low, high = stored[name]
            axis.errorbar(
                mean,
                row + 0.3,
                xerr=[[mean - low], [high - mean]],
                color=GREY,
                marker=".",
                capsize=3,
            )
    grey = "; grey: stored study" if stored else ""
    axis.set(xlabel=f"{label}\n(bar: mean and 95 % confidence interval; ticks: runs{grey})")
    axis.set_yticks(range(len(runs)), list(runs))
    axis.set_ylim(len(runs) - 0.5, -0.5)  # the first variant on top
    means = "; ".join(
        f"{name} {m:.3f} ({lo:.3f} to {hi:.3f})" for name, (m, lo, hi) in summary.items()
    )
    means += "".join(f"; {name} in the stored study {m:.3f}" for name, (m, _, _) in stored.items())
    return Plot(
        figure, f"{label} of {len(runs)} variants, mean and 95 % confidence interval: {means}."
    )


def trials(
    results: "DataFrame",
    x: str,
    y: str,
    *,
    message: str,
    label: str = "score",
    log: str = "xy",
    known: "DataFrame | None" = None,
) -> Plot:
    """Draw the trials of a search: their parameters on the left, their scores on the right.

    A shade stands for the same score on both sides. Ticks along the axes show which values of each
    parameter were tried. Trials that diverged are crosses.

    Args:
        results: one row per trial in order, with `score` (higher is better, NaN if the trial
            diverged) and both parameters.
        x: column of the parameter on the x axis.
        y: column of the parameter on the y axis.
        message: what the reader should see; the alt text starts with it.
        label: what the score is, with its unit; a column such as "valid_acc" is spelt out.
        log: which axes on the left are logarithmic: `""`, `"x"`, `"y"` or `"xy"`.
        known: a table with the same columns, of scores that were known before; drawn as pale
            squares in the background.
    """
    label = readable(label)
    figure, axes = new_axes(1, 2, width=8.5, height=3.2)
    plane, right = axes.flat
    scores = results["score"].to_numpy(dtype=float)
    all_scores = scores if known is None else np.concatenate([scores, known["score"]])
    finite = all_scores[np.isfinite(all_scores)]
    low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 1.0)
    shades: dict[str, Any] = {"cmap": "cividis", "vmin": low, "vmax": high}
    if known is not None:
        plane.scatter(
            known[x], known[y], c=known["score"], marker="s", s=60, alpha=0.35, lw=0, **shades
        )
    converged = np.isfinite(scores)
    plane.scatter(
        results[x][converged],
        results[y][converged],
        c=scores[converged],
        s=45,
        edgecolors="black",
        **shades,
    )
    plane.plot(results[x][~converged], results[y][~converged], "x", color=COLOURS[1])
    plane.plot(results[x], [0.02] * len(results), "|k", transform=plane.get_xaxis_transform())
    plane.plot([0.015] * len(results), results[y], "_k", transform=plane.get_yaxis_transform())
    plane.set(xlabel=x, ylabel=y)
    plane.set(**{f"{axis}scale": "log" for axis in log})
    plane.minorticks_off()  # drawing dozens of minor ticks takes time

    numbers = np.arange(1, len(scores) + 1)
    so_far = np.fmax.accumulate(scores)
    right.step(numbers, so_far, where="post", color=COLOURS[1], label="best so far", zorder=1)
    right.scatter(numbers, scores, c=scores, s=45, edgecolors="black", **shades)
    right.set(xlabel="trial", ylabel=label, ylim=(low - 0.05 * (high - low), None))
    right.xaxis.get_major_locator().set_params(integer=True)
    right.legend()
    summary = f"{len(scores)} trials, {results[x].nunique()} values of {x}"
    if converged.any():
        i = int(np.nanargmax(scores))
        best = results.iloc[i]
        for axis, point in ((plane, (best[x], best[y])), (right, (numbers[i], scores[i]))):
            axis.plot(*point, marker="*", color="white", markeredgecolor="black", markersize=15)
        summary += f"; best {label} {so_far[-1]:.3g} at {x} {best[x]:.2g}, {y} {best[y]:.2g}"
    return Plot(figure, f"{message} {summary}.")


def heatmap(
    values: Any, rows: Sequence[str], columns: Sequence[str], *, label: str, message: str
) -> Plot:
    """Draw a table of values, such as a confusion matrix, with a shade and a value in each cell.

    Args:
        values: (rows, columns).
        rows: names of the rows, top to bottom.
        columns: names of the columns, left to right.
        label: what the values are, with their unit.
        message: what the reader should see; the alt text starts with it.
    """
    table = np.asarray(values, dtype=float)
    figure, axes = new_axes(width=1.8 + 0.55 * len(columns), height=1.4 + 0.4 * len(rows))
    axis = axes.item()
    image = axis.imshow(table, cmap="cividis", aspect="auto")  # legible without colour vision
    figure.colorbar(image, label=label)
    axis.grid(visible=False)
    axis.set_xticks(range(len(columns)), list(columns), rotation=45, ha="right")
    axis.set_yticks(range(len(rows)), list(rows))
    middle = (table.min() + table.max()) / 2
    for (i, j), value in np.ndenumerate(table):
        shade = "black" if value > middle else "white"
        axis.text(j, i, f"{value:.3g}", ha="center", va="center", color=shade, fontsize=8)
    extremes = {"largest": int(table.argmax()), "smallest": int(table.argmin())}
    summary = "; ".join(
        f"{word} {table.flat[k]:.3g} at {rows[k // len(columns)]}, {columns[k % len(columns)]}"
        for word, k in extremes.items()
    )
    return Plot(figure, f"{message} {label}, {len(rows)} by {len(columns)}: {summary}.")


def histogram(series: dict[str, Any], *, label: str, message: str, bins: int = 40) -> Plot:
    """Draw one histogram per series, as an outline, over a common range.

    Args:
        series: name -> values.
        label: what the values are, with their unit.
        message: what the reader should see; the alt text starts with it.
        bins: number of bins of equal width.
    """
    figure, axes = new_axes(width=6.5, height=3.2)
    axis = axes.item()
    arrays = {name: np.asarray(values, dtype=float).ravel() for name, values in series.items()}
    low, high = min(a.min() for a in arrays.values()), max(a.max() for a in arrays.values())
    for (name, array), colour, dash in zip(arrays.items(), cycle(COLOURS), cycle(LINES)):
        axis.hist(
            array,
            bins,
            range=(low, high),
            histtype="step",
            label=name,
            color=colour,
            linestyle=dash,
        )
    axis.set(xlabel=label, ylabel="count")
    axis.legend()
    summary = "; ".join(
        f"{name} mean {a.mean():.3g}, standard deviation {a.std():.3g}"
        for name, a in arrays.items()
    )
    return Plot(figure, f"{message} Histogram of {label}: {summary}.")


def layers(numbers: dict[str, float], *, label: str, message: str) -> Plot:
    """Draw one positive value per layer on a logarithmic axis: gradient norms, update ratios.

    Args:
        numbers: layer -> value, in the order of the network; drawn from bottom to top.
        label: what the values are, with their unit.
        message: what the reader should see; the alt text starts with it.
    """
    figure, axes = new_axes(width=6.5, height=1 + 0.25 * len(numbers))
    axis = axes.item()
    axis.plot(list(numbers.values()), list(numbers), "o", color=COLOURS[0])
    axis.set(xscale="log", xlabel=label)
    names = list(numbers)
    ends = " and ".join(f"{numbers[name]:.2g} at {name}" for name in (names[0], names[-1]))
    return Plot(figure, f"{message} {label} of {len(numbers)} layers, bottom to top: {ends}.")


def arrows(vectors: Mapping[str, Sequence[float]], *, limit: float, message: str) -> Plot:
    """Draw two-dimensional gradients, with the circle and the square that clipping allows.

    Args:
        vectors: name -> (x, y).
        limit: radius of the circle (clipping by norm) and half the side of the square (clipping by
            value).
        message: what the reader should see; the alt text starts with it.
    """
    figure, axes = new_axes(width=4.6, height=4.2)
    axis = axes.item()
    angle = np.linspace(0, 2 * np.pi, 200)
    axis.plot(limit * np.cos(angle), limit * np.sin(angle), ":", color=GREY)
    corners = limit * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1], [-1, -1]])
    axis.plot(corners[:, 0], corners[:, 1], "--", color=GREY)
    for (name, (x, y)), colour, dash, marker in zip(
        vectors.items(), cycle(COLOURS), cycle(LINES), cycle(MARKERS)
    ):
        axis.plot(
            [0, x], [0, y], color=colour, linestyle=dash, marker=marker, markevery=[1], label=name
        )
    axis.set(xlabel="first entry", ylabel="second entry", aspect="equal")
    axis.legend()
    entries = "; ".join(f"{name} ({x:.3g}, {y:.3g})" for name, (x, y) in vectors.items())
    return Plot(figure, f"{message} Limit {limit:.3g}. {entries}.")


def parts(bars: Mapping[str, Mapping[str, float]], *, label: str, unit: str, message: str) -> Plot:
    """Draw one stacked bar per row, such as the time that each part of a training step takes.

    Args:
        bars: row -> part -> size; every row has the same parts.
        label: what the sizes are, without their unit.
        unit: unit of the sizes, such as `"ms"`.
        message: what the reader should see; the alt text starts with it.

    >>> step = {"forward": 10.0, "backward": 20.0}
    >>> parts({"plain": step}, label="time", unit="ms", message="Backward takes longest.")
    Plot: Backward takes longest. Parts of the time: plain (forward 10.0 ms, backward 20.0 ms).
    """
    figure, axes = new_axes(width=6.5, height=1.2 + 0.4 * len(bars))
    axis = axes.item()
    names = list(next(iter(bars.values())))
    start = np.zeros(len(bars))
    hatches = ("", "//", "..", "xx", "\\\\", "++", "oo")  # to tell parts apart in greyscale
    for name, colour, hatch in zip(names, cycle(COLOURS), cycle(hatches)):
        sizes = np.array([row[name] for row in bars.values()])
        axis.barh(
            range(len(bars)),
            sizes,
            left=start,
            color=colour,
            hatch=hatch,
            edgecolor="white",
            label=name,
        )
        start += sizes
    axis.set(xlabel=f"{label} ({unit})", ylim=(len(bars) - 0.5, -0.5))
    axis.set_yticks(range(len(bars)), list(bars))
    axis.legend(fontsize=8, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=len(names))
    summary = "; ".join(
        f"{row} ({', '.join(f'{name} {size:.1f} {unit}' for name, size in sizes.items())})"
        for row, sizes in bars.items()
    )
    return Plot(figure, f"{message} Parts of the {label}: {summary}.")
