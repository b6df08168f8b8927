"""A figure with its alt text, and the common style of all figures."""

import base64
import html
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from cnnlab.files import user_path


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colour-blind readers can tell these colours apart (Okabe & Ito 2008, "Color Universal Design").
# Their yellow is left out because it is too faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (1, 1)), (0, (8, 2)))
GREY = "#767676"  # for the background: stored studies, limits, epochs that were not trained
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
    """A finished figure with its alt text.

    Args:
        figure: a matplotlib figure.
        alt: one or two sentences for readers who can't see the figure, with values from the data.
    """

    def __init__(self, figure: "Figure", alt: str) -> None:
        self.figure, self.alt = figure, alt

    def __repr__(self) -> str:
        return f"Plot: {self.alt}"

    def png(self, dpi: int = 96) -> bytes:
        """Return the figure as the bytes of a PNG file."""
        buffer = io.BytesIO()
        self.figure.savefig(buffer, format="png", dpi=dpi, bbox_inches="tight")
        return buffer.getvalue()

    def save(self, path: str | Path, dpi: int = 150) -> None:
        """Save the figure; the extension of `path` (.png, .svg, .pdf) sets the format.

        A leading `~` in the path is your home folder.
        """
        self.figure.savefig(user_path(path), dpi=dpi, bbox_inches="tight")

    def _repr_html_(self) -> str:
        data = base64.b64encode(self.png()).decode()
        return (
            f'<img src="data:image/png;base64,{data}" alt="{html.escape(self.alt)}" '
            'style="max-width: 100%; background: white">'
        )


def label_axes(axis: "Axes", xlabel: str, ylabel: str, log: str) -> None:
    """Label the axes, make those in `log` logarithmic, and add a legend if there are several lines.

    Args:
        axis: changed in place.
        xlabel: with its unit.
        ylabel: with its unit.
        log: `""`, `"x"`, `"y"` or `"xy"`.
    """
    axis.set(xlabel=xlabel, ylabel=ylabel)
    if "x" in log:
        axis.set_xscale("log")
    if "y" in log:
        axis.set_yscale("log")
    if len(axis.get_lines()) > 1:
        axis.legend()


_WORDS = {
    "train": "training",
    "valid": "validation",
    "test": "test",
    "ema": "EMA",
    "loss": "loss",
    "acc": "accuracy",
}


def readable(name: str) -> str:
    """Return the name of a metric in plain words; other names stay as they are.

    >>> readable("valid_acc"), readable("error rate")
    ('validation accuracy', 'error rate')
    """
    words = name.split("_")
    return " ".join(_WORDS[word] for word in words) if set(words) <= set(_WORDS) else name


def split_style(split: str) -> dict[str, Any]:
    """Return the line style of "train", "valid" or "ema_valid", the same in every figure."""
    i = ("train", "valid", "ema_valid").index(split)
    return {"color": COLOURS[i], "linestyle": LINES[i], "marker": MARKERS[i], "markersize": 4}


def new_axes(
    rows: int = 1, columns: int = 1, *, width: float, height: float
) -> tuple["Figure", np.ndarray]:
    """Return a new figure in the course's style, without pyplot, and its axes, (rows, columns)."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.subplots(rows, columns, squeeze=False)
