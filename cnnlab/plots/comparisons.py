"""Figures that compare variants, trials, layers, or the parts of a whole."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnlab.plots.core import (
    COLOURS,
    GREY,
    MARKERS,
    WIDTH,
    Plot,
    finish,
    label_axes,
    new_axes,
    readable,
    styles,
    text_width,
    widened,
    wrapped,
)


if TYPE_CHECKING:
    from pandas import DataFrame


def intervals(
    runs: dict[str, Any],
    summary: dict[str, tuple[float, float, float]],
    *,
    label: str,
    stored: Mapping[str, tuple[float, float, float]] | None = None,
    message: str | None = None,
) -> Plot:
    """Draw one row per variant: a tick for each run, and a bar for the mean and its interval.

    Args:
        runs: name -> one value per seed.
        summary: name -> (mean, low, high). Where low and high are NaN, because there are too few
            runs for an interval, only the mean is drawn.
        label: what the values are, with their unit; a column such as "test_acc" is spelt out.
        stored: name -> (mean, low, high) from a longer study, drawn in grey below the same name.
        message: the title, one sentence that states the main point; by default, it names the
            variants with the highest and the lowest mean, and says if their intervals overlap.

    >>> runs = {"plain": [0.7, 0.74], "mixup": [0.8, 0.82]}
    >>> means = {"plain": (0.72, 0.70, 0.74), "mixup": (0.81, 0.80, 0.82)}
    >>> intervals(runs, means, label="test_acc").figure.get_suptitle()
    'Mean test accuracy is highest for mixup (0.810) and lowest for plain (0.720).'
    """
    from matplotlib.lines import Line2D

    stored, label = stored or {}, readable(label)
    names = [wrapped(name, 10, 0.33 * WIDTH) for name in runs]
    rows = np.cumsum([0.0, *(max(1.0, 0.4 * (name.count("\n") + 1)) for name in names)])[:-1]
    figure, axes = new_axes(height=0.8 + 0.45 * (rows[-1] + 1))
    axis = axes.item()
    for i, (row, (name, values)) in enumerate(zip(rows, runs.items(), strict=True)):
        axis.plot(values, [row - 0.2] * len(values), "|", color=_colour(i), markersize=9)
        _bar(axis, row + 0.05, summary[name], color=_colour(i), marker=_marker(i), capsize=4)
        if name in stored:
            _bar(axis, row + 0.3, stored[name], color=GREY, marker=".", capsize=3)
    axis.set_yticks(rows, names)
    axis.set_ylim(rows[-1] + 0.6, -0.6)  # the first variant on top
    low, high = axis.get_xlim()
    axis.set_xlim(widened(low, high, label))
    axis.set_xlabel(label)
    has_intervals = any(np.isfinite(ends).all() for _, *ends in summary.values())
    mean = "mean, 95 % confidence interval" if has_intervals else "mean"
    line: Any = "-" if has_intervals else "none"
    key = [
        Line2D([], [], color="black", marker="|", linestyle="none", label="one run"),
        Line2D([], [], color="black", marker="o", linestyle=line, label=mean),
    ]
    if stored:
        key.append(Line2D([], [], color=GREY, marker=".", label="the same in the stored study"))
    means = "; ".join(
        f"{name} {m:.3f}" + (f" ({lo:.3f} to {hi:.3f})" if np.isfinite(lo) else "")
        for name, (m, lo, hi) in summary.items()
    )
    means += "".join(f"; {name} in the stored study {m:.3f}" for name, (m, _, _) in stored.items())
    return finish(
        figure,
        message or _message_of_intervals(summary, label),
        f"{label} of {len(runs)} variants, {mean.replace(', 9', ' and 9')}: {means}.",
        key=key,
    )


def _bar(axis: Any, y: float, summary: tuple[float, float, float], **style: Any) -> None:
    mean, low, high = summary
    ends = [[mean - low], [high - mean]] if np.isfinite([low, high]).all() else None
    axis.errorbar(mean, y, xerr=ends, **style)


def _colour(i: int) -> str:
    return COLOURS[i % len(COLOURS)]


def _marker(i: int) -> str:
    return MARKERS[i % len(MARKERS)]


def _number(value: float) -> str:
    """Return a mean for a sentence: three decimals, but two digits at least.

    >>> _number(0.81), _number(0.00012)
    ('0.810', '0.00012')
    """
    return f"{value:.2g}" if 0 < abs(value) < 0.01 else f"{value:.3f}"


def _message_of_intervals(summary: Mapping[str, tuple[float, float, float]], label: str) -> str:
    known = {name: values for name, values in summary.items() if np.isfinite(values[0])}
    if not known:
        return f"No variant has a finite {label}."
    worst = min(known, key=lambda name: known[name][0])
    best = max(known, key=lambda name: known[name][0])
    low, high = (f"{name} ({_number(known[name][0])})" for name in (worst, best))
    if worst == best:
        return f"Mean {label}: {low}."
    if known[worst][2] < known[best][1]:
        return f"Mean {label} is highest for {high} and lowest for {low}."
    overlap = ", but their intervals overlap" if known[worst][2] >= known[best][1] else ""
    return f"Mean {label} goes from {low} to {high}{overlap}."


def trials(
    results: "DataFrame",
    x: str,
    y: str,
    *,
    message: str,
    label: str = "score",
    log: str = "xy",
    known: "DataFrame | None" = None,
    xlabel: str | None = None,
    ylabel: str | None = None,
) -> Plot:
    """Draw the trials of a search: their parameters on the left, their scores on the right.

    A shade stands for the same score on both sides. Ticks along the axes show which values of each
    parameter were tried. Trials that diverged are crosses.

    Args:
        results: one row per trial in order, with `score` (higher is better, NaN if the trial
            diverged) and both parameters.
        x: column of the parameter on the x axis.
        y: column of the parameter on the y axis.
        message: the title, one sentence that states the main point; the alt text starts with it.
        label: what the score is, with its unit; a column such as "valid_acc" is spelt out.
        log: which axes on the left are logarithmic: `""`, `"x"`, `"y"` or `"xy"`.
        known: a table with the same columns, of scores that were known before; drawn as pale
            squares in the background.
        xlabel: words for the parameter on the x axis; by default, the name of its column.
        ylabel: words for the parameter on the y axis; by default, the name of its column.
    """
    label, xlabel, ylabel = readable(label), readable(xlabel or x), readable(ylabel or y)
    figure, axes = new_axes(1, 2, height=3.0)
    plane, right = axes.flat
    plane.set(**{f"{axis}scale": "log" for axis in log})
    scores = results["score"].to_numpy(dtype=float)
    all_scores = scores if known is None else np.concatenate([scores, known["score"]])
    finite = all_scores[np.isfinite(all_scores)]
    low, high = widened(finite.min(), finite.max(), label) if len(finite) else (0.0, 1.0)
    shades: dict[str, Any] = {"cmap": "cividis", "vmin": low, "vmax": high}
    if known is not None:
        before = {"marker": "s", "s": 60, "alpha": 0.35, "lw": 0, "label": "known before"}
        plane.scatter(known[x], known[y], c=known["score"], **before, **shades)
    converged = np.isfinite(scores)
    shades |= {"s": 45, "edgecolors": "black"}
    plane.scatter(results[x][converged], results[y][converged], c=scores[converged], **shades)
    if not converged.all():
        failed = {"marker": "x", "linestyle": "none", "color": COLOURS[1], "label": "diverged"}
        plane.plot(results[x][~converged], results[y][~converged], **failed)
    plane.plot(results[x], [0.02] * len(results), "|k", transform=plane.get_xaxis_transform())
    plane.plot([0.015] * len(results), results[y], "_k", transform=plane.get_yaxis_transform())
    label_axes(plane, xlabel, ylabel, log)
    plane.minorticks_off()  # drawing dozens of minor ticks takes time

    numbers = np.arange(1, len(scores) + 1)
    so_far = np.fmax.accumulate(scores)
    right.step(numbers, so_far, where="post", color=COLOURS[1], label="best so far", zorder=1)
    right.scatter(numbers, scores, c=scores, label="trial (lighter: better)", **shades)
    label_axes(right, "trial", label)
    right.set_ylim(low - 0.05 * (high - low), None)
    right.xaxis.get_major_locator().set_params(integer=True)
    summary = f"{len(scores)} trials, {results[x].nunique()} values of {xlabel}"
    if converged.any():
        i = int(np.nanargmax(scores))
        best = results.iloc[i]
        star = {"marker": "*", "color": "white", "markeredgecolor": "black", "markersize": 15}
        star |= {"linestyle": "none", "label": "best trial"}
        for axis, point in ((plane, (best[x], best[y])), (right, (numbers[i], scores[i]))):
            axis.plot(*point, **star)
        summary += f"; best {label} {so_far[-1]:.3g} at {xlabel} {best[x]:.2g}, "
        summary += f"{ylabel} {best[y]:.2g}"
    return finish(figure, message, f"{summary}.")


def heatmap(
    values: Any,
    rows: Sequence[str],
    columns: Sequence[str],
    *,
    label: str,
    message: str,
    xlabel: str = "",
    ylabel: str = "",
) -> Plot:
    """Draw a table of values, such as a confusion matrix, with a shade and a value in each cell.

    Args:
        values: (rows, columns).
        rows: names of the rows, top to bottom.
        columns: names of the columns, left to right.
        label: what the values are, with their unit.
        message: the title, one sentence that states the main point; the alt text starts with it.
        xlabel: what the columns are, such as "prediction".
        ylabel: what the rows are, such as "true class".
    """
    table, label = np.asarray(values, dtype=float), readable(label)
    width = float(np.clip(2.6 + 0.7 * len(columns), 5.2, WIDTH))
    cell = (width - 1.2 - max(text_width(name, 10) for name in rows)) / len(columns)
    figure, axes = new_axes(width=width, height=0.9 + 0.4 * len(rows))
    axis = axes.item()
    low, high = widened(table.min(), table.max(), label)
    shades: dict[str, Any] = {"cmap": "cividis", "vmin": low, "vmax": high}
    image = axis.imshow(table, aspect="auto", **shades)  # legible without colour vision
    figure.colorbar(image, label=wrapped(label, 10, 0.4 * len(rows)))
    axis.grid(visible=False)
    if max(text_width(name, 10) for name in columns) > 0.9 * cell:
        axis.set_xticks(range(len(columns)), list(columns), rotation=45, ha="right")
    else:
        axis.set_xticks(range(len(columns)), list(columns))
    axis.set_yticks(range(len(rows)), list(rows))
    axis.set(xlabel=xlabel, ylabel=ylabel)
    size = min(9.0, 8 * 0.9 * cell / max(text_width(f"{v:.3g}", 8) for v in table.flat))
    for (i, j), value in np.ndenumerate(table):
        shade = "black" if value > (low + high) / 2 else "white"
        axis.text(j, i, f"{value:.3g}", ha="center", va="center", color=shade, fontsize=size)
    extremes = {"largest": int(table.argmax()), "smallest": int(table.argmin())}
    summary = "; ".join(
        f"{word} {table.flat[k]:.3g} at {rows[k // len(columns)]}, {columns[k % len(columns)]}"
        for word, k in extremes.items()
    )
    return finish(figure, message, f"{label}, {len(rows)} by {len(columns)}: {summary}.")


def histogram(
    series: dict[str, Any],
    *,
    label: str,
    message: str,
    bins: int = 40,
    limits: Sequence[float] = (),
) -> Plot:
    """Draw one histogram per series, as an outline, over a common range.

    Args:
        series: name -> values.
        label: what the values are, with their unit.
        message: the title, one sentence that states the main point; the alt text starts with it.
        bins: number of bins of equal width.
        limits: thresholds on the values, drawn as vertical lines.

    >>> plot = histogram({"a": [1, 2], "b": [4, 5]}, label="loss", message="Apart.", limits=[3])
    >>> plot.alt.rpartition("; ")[2]
    'limit 3.'
    """
    figure, axes = new_axes(height=2.9)
    axis, label = axes.item(), readable(label)
    arrays = {name: np.asarray(values, dtype=float).ravel() for name, values in series.items()}
    ends = min(a.min() for a in arrays.values()), max(a.max() for a in arrays.values())
    for name, style in styles(arrays).items():
        counts, edges = np.histogram(arrays[name], bins, range=ends)
        axis.stairs(counts, edges, label=name, **style)
    for i, limit in enumerate(limits):
        axis.axvline(limit, color=GREY, linestyle=":", label="" if i else "limit")
    label_axes(axis, label, "count")
    summary = [
        f"{name} mean {a.mean():.3g}, standard deviation {a.std():.3g}"
        for name, a in arrays.items()
    ]
    if limits:
        summary.append("limit " + " and ".join(f"{limit:.3g}" for limit in limits))
    return finish(figure, message, f"Histogram of {label}: {'; '.join(summary)}.")


def layers(numbers: dict[str, float], *, label: str, message: str) -> Plot:
    """Draw one positive value per layer on a logarithmic axis: gradient norms, update ratios.

    Args:
        numbers: layer -> value, in the order of the network; drawn from bottom to top.
        label: what the values are, with their unit.
        message: the title, one sentence that states the main point; the alt text starts with it.
    """
    figure, axes = new_axes(height=0.7 + 0.25 * len(numbers))
    axis, label = axes.item(), readable(label)
    axis.plot(list(numbers.values()), list(numbers), "o", color=COLOURS[0])
    values = np.array([value for value in numbers.values() if 0 < value < np.inf] or [1.0])
    low, high = np.floor(np.log10(values.min())), np.ceil(np.log10(values.max()))
    axis.set(xscale="log", xlabel=label, ylim=(-0.5, len(numbers) - 0.5))
    axis.set_xlim(0.8 * 10**low, 1.25 * 10 ** max(high, low + 1))  # whole powers of ten
    names = list(numbers)
    ends = " and ".join(f"{numbers[name]:.2g} at {name}" for name in (names[0], names[-1]))
    return finish(figure, message, f"{label} of {len(names)} layers, bottom to top: {ends}.")


def arrows(vectors: Mapping[str, Sequence[float]], *, limit: float, message: str) -> Plot:
    """Draw two-dimensional gradients, with the circle and the square that clipping allows.

    Args:
        vectors: name -> (x, y).
        limit: radius of the circle (clipping by norm) and half the side of the square (clipping by
            value).
        message: the title, one sentence that states the main point; the alt text starts with it.
    """
    figure, axes = new_axes(height=3.6)
    axis = axes.item()
    angle = np.linspace(0, 2 * np.pi, 200)
    circle = limit * np.cos(angle), limit * np.sin(angle)
    axis.plot(*circle, ":", color=GREY, label="largest norm")
    square = limit * np.array([[-1, -1], [1, -1], [1, 1], [-1, 1], [-1, -1]])
    axis.plot(*square.T, "--", color=GREY, label="largest value of each entry")
    for name, style in styles(vectors, markers=True).items():
        x, y = vectors[name]
        axis.plot([0, x], [0, y], markevery=[1], label=name, **style | {"markersize": 7})
    axis.set(xlabel="first entry", ylabel="second entry", aspect="equal", anchor="W")
    entries = "; ".join(f"{name} ({x:.3g}, {y:.3g})" for name, (x, y) in vectors.items())
    return finish(figure, message, f"Limit {limit:.3g}. {entries}.")


def parts(bars: Mapping[str, Mapping[str, float]], *, label: str, unit: str, message: str) -> Plot:
    """Draw one stacked bar per row, such as the time that each part of a training step takes.

    Args:
        bars: row -> part -> size; every row has the same parts.
        label: what the sizes are, without their unit.
        unit: unit of the sizes, such as `"ms"`.
        message: the title, one sentence that states the main point; the alt text starts with it.

    >>> step = {"forward": 10.0, "backward": 20.0}
    >>> parts({"plain": step}, label="time", unit="ms", message="Backward takes longest.")
    Plot: Backward takes longest. Parts of the time: plain (forward 10.0 ms, backward 20.0 ms).
    """
    figure, axes = new_axes(height=0.8 + 0.4 * len(bars))
    axis = axes.item()
    start = np.zeros(len(bars))
    hatches = ("", "//", "..", "xx", "\\\\", "++", "oo")  # to tell parts apart in greyscale
    for i, name in enumerate(next(iter(bars.values()))):
        sizes = np.array([row[name] for row in bars.values()])
        style = {"color": _colour(i), "hatch": hatches[i % len(hatches)], "edgecolor": "white"}
        axis.barh(range(len(bars)), sizes, left=start, label=name, **style)
        start += sizes
    axis.set(xlabel=f"{label} ({unit})", ylim=(len(bars) - 0.5, -0.5))
    axis.set_yticks(range(len(bars)), [wrapped(name, 10, 0.33 * WIDTH) for name in bars])
    summary = "; ".join(
        f"{row} ({', '.join(f'{name} {size:.1f} {unit}' for name, size in sizes.items())})"
        for row, sizes in bars.items()
    )
    return finish(figure, message, f"Parts of the {label}: {summary}.")
