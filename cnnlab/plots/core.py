"""A finished figure with its alt text, and how every figure of the course looks."""

import base64
import html
import io
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

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


def finish(axis: "Axes", xlabel: str, ylabel: str, log: str) -> None:
    """Name the axes, make those in `log` (`"x"`, `"y"`, `"xy"`) logarithmic, and tell lines apart where there are some."""
    axis.set(xlabel=xlabel, ylabel=ylabel)
    if "x" in log:
        axis.set_xscale("log")
    if "y" in log:
        axis.set_yscale("log")
    if len(axis.get_lines()) > 1:
        axis.legend()


def look_of(part: str) -> dict[str, Any]:
    """A part of the data looks the same in every figure of the course."""
    i = ("train", "valid", "ema_valid").index(part)
    return {"color": COLOURS[i], "linestyle": LINES[i], "marker": MARKERS[i], "markersize": 4}


def new_axes(
    rows: int = 1, columns: int = 1, *, width: float, height: float
) -> tuple["Figure", np.ndarray]:
    """A figure in the course's style that belongs to no global state, and its axes, (rows, columns)."""
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.subplots(rows, columns, squeeze=False)
