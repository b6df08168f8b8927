"""Every figure of the course: colour-blind safe, with alt text made from the data.

A plotting function takes plain arrays or tables and returns a `Plot`, which a notebook shows by itself. The
figures never touch `pyplot`: nothing is drawn twice, and no style of yours is changed.
"""

import base64
import html
import io
import math
from collections.abc import Callable, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from torch import Tensor


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from pandas import DataFrame

# Okabe & Ito 2008, "Color Universal Design": told apart by colour-blind readers. Yellow is left out: too faint.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))
GREY = "#767676"  # what stands behind: other studies, limits, what was not trained
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
STYLE: dict[Any, Any] = {
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.alpha": 0.3,
    "legend.frameon": False,
    "image.interpolation": "nearest",
    "svg.hashsalt": "cnnlab",
}


class Plot:
    """A finished figure and the sentence that says what is to be seen in it.

    Args:
        figure: a matplotlib figure.
        alt: one or two sentences for a reader who does not see the picture, with numbers from the data.
    """

    def __init__(self, figure: "Figure", alt: str) -> None:
        self.figure, self.alt = figure, alt

    def __repr__(self) -> str:
        return f"Plot: {self.alt}"

    def png(self, dpi: int = 96) -> bytes:
        """Return the picture as the bytes of a PNG file."""
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight")
        return buffer.getvalue()

    def save(self, path: str | Path, dpi: int = 150) -> None:
        """Write the picture to `path`; the ending (.png, .svg, .pdf) chooses the format."""
        self.figure.savefig(path, dpi=dpi, bbox_inches="tight")

    def _repr_html_(self) -> str:
        data = base64.b64encode(self.png()).decode()
        return (
            f'<img src="data:image/png;base64,{data}" alt="{html.escape(self.alt)}" '
            'style="max-width: 100%; background: white">'
        )


def image_grid(
    images: Tensor, titles: Sequence[str] = (), *, columns: int = 8, alt: str = "A grid of images"
) -> Plot:
    """Show images side by side, each under its title.

    Args:
        images: (N, C, H, W), either uint8 or float in [0, 1]; C is 1 or 3.
        titles: one a picture, or none at all.
        columns: pictures in a row.
        alt: what the grid shows; the titles are added to it.
    """
    rows = math.ceil(len(images) / columns)
    figure, axes = _axes(
        rows, columns, width=1.1 * columns, height=(1.35 if titles else 1.1) * rows
    )
    for axis in axes.flat:
        axis.axis("off")
    for axis, picture in zip(axes.flat, _pixels(images), strict=False):
        axis.imshow(picture, cmap="gray")
    for axis, title in zip(axes.flat, titles, strict=False):
        axis.set_title(title, fontsize=8, pad=2)
    named = f": {', '.join(dict.fromkeys(titles))}" if titles else ""
    return Plot(figure, f"{alt}{named}.")


def soft_labels(
    images: Tensor, targets: Tensor, classes: Sequence[str], *, message: str, title: str = ""
) -> Plot:
    """Show images side by side, each above the bars of its soft label.

    Args:
        images: (N, C, H, W), either uint8 or float in [0, 1]; C is 1 or 3.
        targets: shares (N, K), each row with a sum of 1; a class without a share gets no bar.
        classes: the K names.
        message: what the reader should see; begins the alt text.
        title: above the whole figure.
    """
    shares = [
        sorted(((share, classes[k]) for k, share in enumerate(row) if share > 0), reverse=True)
        for row in targets.tolist()
    ]
    bars = max(map(len, shares))
    figure, axes = _axes(2, len(images), width=1.4 * len(images), height=1.8 + 0.22 * bars)
    axes[0, 0].get_gridspec().set_height_ratios([1.4, 0.22 * bars])
    for axis in axes.flat:
        axis.axis("off")
    for axis, picture in zip(axes[0], _pixels(images), strict=True):
        axis.imshow(picture, cmap="gray")
    for axis, parts in zip(axes[1], shares, strict=True):
        for row, (share, name) in enumerate(parts):
            axis.barh(row, share, height=0.85, color=COLOURS[5])
            axis.text(0.03, row, f"{share:.2f} {name}", va="center", fontsize=8)
        axis.set(xlim=(0, 1), ylim=(bars - 0.5, -0.5))
    figure.suptitle(title, fontsize=9)
    told = "; ".join(" + ".join(f"{share:.2f} {name}" for share, name in row) for row in shares)
    return Plot(figure, f"{message} {len(images)} images with their labels: {told}.")


def curves(history: "DataFrame") -> Plot:
    """Draw loss and accuracy over the epochs, training and validation side by side.

    Args:
        history: a table with the columns of `History.frame`.
    """
    figure, axes = _axes(1, 2, width=9, height=3.2)
    told = []
    for axis, metric, label in zip(
        axes.flat, ("loss", "acc"), ("loss (nats)", "accuracy"), strict=True
    ):
        for part, name in (("train", "training"), ("valid", "validation"), ("ema_valid", "EMA")):
            column = f"{part}_{metric}"
            if column in history and history[column].notna().any():
                values = history[column]
                axis.plot(history["epoch"], values, label=name, **_line(part))
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
    figure, axes = _axes(width=6.5, height=3.2)
    axis = axes.item()
    for (name, values), colour, dash in zip(series.items(), cycle(COLOURS), cycle(LINES)):
        axis.plot(x, values, label=name, color=colour, linestyle=dash)
    _finish(axis, xlabel, ylabel, log)
    ends = "; ".join(f"{name} from {v[0]:.3g} to {v[-1]:.3g}" for name, v in series.items())
    return Plot(figure, f"{message} {ylabel} against {xlabel}: {ends}.")


def intervals(
    runs: dict[str, Any],
    summary: dict[str, tuple[float, float, float]],
    *,
    label: str,
    stored: Mapping[str, tuple[float, float, float]] | None = None,
) -> Plot:
    """Draw one row a variant: each run as a stroke, mean and interval as a bar.

    Args:
        runs: name -> values, one a seed.
        summary: name -> (mean, low, high).
        label: what is measured, with its unit.
        stored: name -> (mean, low, high) of a longer study, in grey under the row of that name.
    """
    stored = stored or {}
    figure, axes = _axes(width=6.5, height=0.8 + 0.45 * len(runs))
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
    axis.set(xlabel=f"{label} (bar: mean and 95 % interval; strokes: runs{grey})")
    axis.set_yticks(range(len(runs)), list(runs))
    axis.set_ylim(len(runs) - 0.5, -0.5)  # the first variant on top
    told = "; ".join(
        f"{name} {m:.3f} ({lo:.3f} to {hi:.3f})" for name, (m, lo, hi) in summary.items()
    )
    told += "".join(f"; {name} in the stored study {m:.3f}" for name, (m, _, _) in stored.items())
    return Plot(figure, f"{label} of {len(runs)} variants, mean and 95 % interval: {told}.")


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
    figure, axes = _axes(width=6.5, height=3.4)
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
    _finish(axis, xlabel, ylabel, log)
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
    figure, axes = _axes(1, 2, width=7.5, height=2.8)
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
    """Draw the trials of a search: where they lie on the left, how good they were on the right.

    A shade means the same score on both sides. Strokes at the axes show which values of each parameter were tried. Trials that diverged are crosses.

    Args:
        results: a row a trial in the order of trying, with `score` (higher is better, NaN: diverged) and both parameters.
        x: column of the parameter on the horizontal axis.
        y: column of the parameter on the vertical axis.
        message: what the reader should see; begins the alt text.
        label: what the score is, with its unit.
        log: which axes of the plane are logarithmic: `""`, `"x"`, `"y"` or `"xy"`.
        known: likewise, drawn as pale squares behind: scores known from elsewhere.
    """
    figure, axes = _axes(1, 2, width=8.5, height=3.2)
    plane, right = axes.flat
    scores = results["score"].to_numpy(dtype=float)
    pool = scores if known is None else np.concatenate([scores, known["score"]])
    finite = pool[np.isfinite(pool)]
    low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 1.0)
    shades: dict[str, Any] = {"cmap": "cividis", "vmin": low, "vmax": high}
    if known is not None:
        plane.scatter(
            known[x], known[y], c=known["score"], marker="s", s=60, alpha=0.35, lw=0, **shades
        )
    done = np.isfinite(scores)
    plane.scatter(
        results[x][done], results[y][done], c=scores[done], s=45, edgecolors="black", **shades
    )
    plane.plot(results[x][~done], results[y][~done], "x", color=COLOURS[1])
    plane.plot(results[x], [0.02] * len(results), "|k", transform=plane.get_xaxis_transform())
    plane.plot([0.015] * len(results), results[y], "_k", transform=plane.get_yaxis_transform())
    plane.set(xlabel=x, ylabel=y)
    plane.set(**{f"{axis}scale": "log" for axis in log})
    plane.minorticks_off()  # a log axis draws dozens of them, each time

    numbers = np.arange(1, len(scores) + 1)
    so_far = np.fmax.accumulate(scores)
    right.step(numbers, so_far, where="post", color=COLOURS[1], label="best so far", zorder=1)
    right.scatter(numbers, scores, c=scores, s=45, edgecolors="black", **shades)
    right.set(xlabel="trial", ylabel=label, ylim=(low - 0.05 * (high - low), None))
    right.xaxis.get_major_locator().set_params(integer=True)
    right.legend()
    told = f"{len(scores)} trials, {results[x].nunique()} values of {x}"
    if done.any():
        i = int(np.nanargmax(scores))
        best = results.iloc[i]
        for axis, place in ((plane, (best[x], best[y])), (right, (numbers[i], scores[i]))):
            axis.plot(*place, marker="*", color="white", markeredgecolor="black", markersize=15)
        told += f"; best {label} {so_far[-1]:.3g} at {x} {best[x]:.2g}, {y} {best[y]:.2g}"
    return Plot(figure, f"{message} {told}.")


def heatmap(
    values: Any, rows: Sequence[str], columns: Sequence[str], *, label: str, message: str
) -> Plot:
    """Draw a table of numbers as shades, each number written into its cell: a confusion matrix, for one.

    Args:
        values: (rows, columns) numbers.
        rows: their names, top to bottom.
        columns: their names, left to right.
        label: what the numbers are, with their unit.
        message: what the reader should see; begins the alt text.
    """
    table = np.asarray(values, dtype=float)
    figure, axes = _axes(width=1.8 + 0.55 * len(columns), height=1.4 + 0.4 * len(rows))
    axis = axes.item()
    image = axis.imshow(table, cmap="cividis", aspect="auto")  # legible without colour vision
    figure.colorbar(image, label=label)
    axis.grid(visible=False)
    axis.set_xticks(range(len(columns)), list(columns), rotation=45, ha="right")
    axis.set_yticks(range(len(rows)), list(rows))
    middle = (table.min() + table.max()) / 2
    for (i, j), number in np.ndenumerate(table):
        shade = "black" if number > middle else "white"
        axis.text(j, i, f"{number:.3g}", ha="center", va="center", color=shade, fontsize=8)
    extremes = {"largest": int(table.argmax()), "smallest": int(table.argmin())}
    told = "; ".join(
        f"{word} {table.flat[k]:.3g} at {rows[k // len(columns)]}, {columns[k % len(columns)]}"
        for word, k in extremes.items()
    )
    return Plot(figure, f"{message} {label}, {len(rows)} by {len(columns)}: {told}.")


def histogram(series: dict[str, Any], *, label: str, message: str, bins: int = 40) -> Plot:
    """Draw how often values occur, one outline a series, over a common range.

    Args:
        series: name -> values.
        label: what the values are, with their unit.
        message: what the reader should see; begins the alt text.
        bins: of equal width.
    """
    figure, axes = _axes(width=6.5, height=3.2)
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
    told = "; ".join(f"{n} mean {a.mean():.3g}, deviation {a.std():.3g}" for n, a in arrays.items())
    return Plot(figure, f"{message} Histogram of {label}: {told}.")


def layers(numbers: dict[str, float], *, label: str, message: str) -> Plot:
    """Draw one positive number a layer on a logarithmic axis, bottom to top: gradient norms, update ratios.

    Args:
        numbers: layer -> value, in the order of the network.
        label: what the values are, with their unit.
        message: what the reader should see; begins the alt text.
    """
    figure, axes = _axes(width=6.5, height=1 + 0.25 * len(numbers))
    axis = axes.item()
    axis.plot(list(numbers.values()), list(numbers), "o", color=COLOURS[0])
    axis.set(xscale="log", xlabel=label)
    names = list(numbers)
    told = " and ".join(f"{numbers[name]:.2g} at {name}" for name in (names[0], names[-1]))
    return Plot(figure, f"{message} {label} of {len(numbers)} layers, bottom to top: {told}.")


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
    figure, axes = _axes(width=6.5, height=3.2)
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


def arrows(
    vectors: Mapping[str, Sequence[float]],
    *,
    limit: float,
    message: str,
) -> Plot:
    """Draw vectors of a plane from the origin, with the circle and the square of a limit: gradients and clipping.

    Args:
        vectors: name -> (x, y).
        limit: radius of the circle, and half the side of the square.
        message: what the reader should see; begins the alt text.
    """
    figure, axes = _axes(width=4.6, height=4.2)
    axis = axes.item()
    turn = np.linspace(0, 2 * np.pi, 200)
    axis.plot(limit * np.cos(turn), limit * np.sin(turn), ":", color=GREY)
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
    told = "; ".join(f"{name} ({x:.3g}, {y:.3g})" for name, (x, y) in vectors.items())
    return Plot(figure, f"{message} Limit {limit:.3g}. {told}.")


def parts(bars: Mapping[str, Mapping[str, float]], *, label: str, unit: str, message: str) -> Plot:
    """Draw one bar a row, cut into its parts: where the time of a step goes, for one.

    Args:
        bars: row -> part -> size; every row has the same parts.
        label: what the sizes are, without their unit.
        unit: of the sizes, such as `"ms"`.
        message: what the reader should see; begins the alt text.

    >>> parts({"plain": {"data": 1.0, "step": 30.0}}, label="time", unit="ms", message="Hardly any data.")
    Plot: Hardly any data. Parts of the time: plain: data 1.0 ms, step 30.0 ms.
    """
    figure, axes = _axes(width=6.5, height=1.2 + 0.4 * len(bars))
    axis = axes.item()
    names = list(next(iter(bars.values())))
    start = np.zeros(len(bars))
    hatches = ("", "//", "..", "xx", "\\\\", "++", "oo")  # told apart in grey, too
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
    told = "; ".join(
        f"{row}: {', '.join(f'{name} {size:.1f} {unit}' for name, size in sizes.items())}"
        for row, sizes in bars.items()
    )
    return Plot(figure, f"{message} Parts of the {label}: {told}.")


def _pixels(images: Tensor) -> list[np.ndarray]:
    """Images (N, C, H, W) as matplotlib draws them: (H, W, 3), or (H, W) where C is 1."""
    pixels = images.detach().cpu()
    if pixels.is_floating_point():
        pixels = pixels.float().clamp(0, 1)
    return [picture.permute(1, 2, 0).squeeze(2).numpy() for picture in pixels]


def _finish(axis: "Axes", xlabel: str, ylabel: str, log: str) -> None:
    axis.set(xlabel=xlabel, ylabel=ylabel)
    if "x" in log:
        axis.set_xscale("log")
    if "y" in log:
        axis.set_yscale("log")
    if len(axis.get_lines()) > 1:
        axis.legend()


def _line(part: str) -> dict[str, Any]:
    """A part of the data looks the same in every figure of the course."""
    i = ("train", "valid", "ema_valid").index(part)
    return {"color": COLOURS[i], "linestyle": LINES[i], "marker": MARKERS[i], "markersize": 4}


def _axes(
    rows: int = 1, columns: int = 1, *, width: float, height: float
) -> tuple["Figure", np.ndarray]:
    """A figure in the course's style that belongs to no global state, and its axes, (rows, columns)."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.subplots(rows, columns, squeeze=False)
