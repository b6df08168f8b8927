"""A figure with its alt text, and the common style and layout of all figures."""

import base64
import html
import io
import math
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from cnnlab.files import user_path


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Colour-blind readers can tell these colours apart (Okabe & Ito 2008, "Color Universal Design").
# Their yellow is left out because it is too faint on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", ":", (0, (9, 2)), (0, (5, 1, 1, 1, 1, 1)), (0, (1, 4)))
GREY = "#767676"  # for the background: stored studies, limits, epochs that were not trained
PALE = "#BBBBBB"  # for curves behind the one that is meant
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
PAGE = 700  # pixels: the width of a page
WIDTH = 7.0  # inches; 672 pixels on a screen, so a page shows all of a figure
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
        # A figure for a larger sheet, such as a poster, is shrunk to the width of a page.
        dpi = min(96, int(PAGE / self.figure.get_size_inches()[0]))
        data = base64.b64encode(self.png(dpi)).decode()
        return (
            f'<img src="data:image/png;base64,{data}" alt="{html.escape(self.alt)}" '
            'style="max-width: 100%; background: white">'
        )


def ipython_shell() -> Any:
    """Return the running IPython, of a notebook or a prompt; None outside of it."""
    ipython = sys.modules.get("IPython")
    return None if ipython is None else ipython.get_ipython()


def in_ipython() -> bool:
    """Return whether this is a notebook or an IPython prompt."""
    return ipython_shell() is not None


_WORDS = {
    "train": "training",
    "valid": "validation",
    "ema": "EMA",
    "acc": "accuracy",
    "lr": "learning rate",
    "grad": "gradient",
}


def readable(name: str) -> str:
    """Return the name of a metric or a column in plain words; other text stays as it is.

    >>> readable("valid_acc"), readable("lr"), readable("test_acc of the best trial")
    ('validation accuracy', 'learning rate', 'test accuracy of the best trial')
    >>> readable("train mode")
    'train mode'
    """
    if name in _WORDS:
        return _WORDS[name]
    parts = [part.split("_") for part in name.split(" ")]
    return " ".join(
        " ".join(_WORDS.get(word, word) for word in words) if len(words) > 1 else words[0]
        for words in parts
    )


SPLITS = ("train", "valid", "ema_valid", "test")
_SPLIT_NAMES = {
    name: split
    for split, names in zip(
        SPLITS,
        (("train", "training"), ("valid", "validation"), ("ema", "ema_valid"), ("test",)),
        strict=True,
    )
    for name in names
}


def split_style(split: str) -> dict[str, Any]:
    """Return the style of "train", "valid", "ema_valid" or "test", the same in every figure."""
    return _style(SPLITS.index(split)) | {"marker": MARKERS[SPLITS.index(split)], "markersize": 4}


def _style(i: int) -> dict[str, Any]:
    return {"color": COLOURS[i % len(COLOURS)], "linestyle": LINES[i % len(LINES)]}


def styles(names: Iterable[str], *, markers: bool = False) -> dict[str, dict[str, Any]]:
    """Return a colour, a dash pattern and perhaps a marker for each name, all different.

    A name that begins with a split, such as "validation loss", has the style of `split_style`,
    unless two of the names begin with the same split. The others have the styles that are left.

    Args:
        names: up to seven different names.
        markers: whether to add markers, which suit lines through a few points.
    """
    names = list(names)
    fixed = {
        name: SPLITS.index(_SPLIT_NAMES[word])
        for name in names
        if (word := name.replace(",", " ").split(" ")[0].lower()) in _SPLIT_NAMES
    }
    if len(set(fixed.values())) < len(fixed):
        fixed = {}
    free = iter(i for i in range(len(names) + len(SPLITS)) if i not in fixed.values())
    numbers = {name: fixed[name] if name in fixed else next(free) for name in names}
    marked = (
        {
            name: {"marker": MARKERS[i % len(MARKERS)], "markersize": 4}
            for name, i in numbers.items()
        }
        if markers
        else {}
    )
    return {name: _style(i) | marked.get(name, {}) for name, i in numbers.items()}


def new_axes(
    rows: int = 1,
    columns: int = 1,
    *,
    height: float,
    width: float = WIDTH,
    share: bool | Literal["col"] = False,
) -> tuple["Figure", np.ndarray]:
    """Return a new figure in the course's style, without pyplot, and its axes, (rows, columns).

    Args:
        rows: rows of axes.
        columns: columns of axes.
        height: in inches, without the title and the legend, for which `finish` makes room.
        width: in inches.
        share: whether all axes have the same ranges; with "col" only the x axes of a column do.
    """
    import matplotlib as mpl
    from matplotlib.figure import Figure

    with mpl.rc_context(STYLE):
        figure = Figure(figsize=(width, height), layout="constrained")
        return figure, figure.subplots(
            rows, columns, squeeze=False, sharex=share, sharey=share is True
        )


def label_axes(axis: "Axes", xlabel: str, ylabel: str, log: str = "") -> None:
    """Label the axes, make those in `log` logarithmic, and widen a y axis that is too narrow.

    Args:
        axis: changed in place.
        xlabel: with its unit; a column such as "lr" is spelt out.
        ylabel: with its unit; a column such as "valid_acc" is spelt out.
        log: `""`, `"x"`, `"y"` or `"xy"`.
    """
    figure: Any = axis.figure
    grid: Any = axis.get_subplotspec()
    width, height = figure.get_size_inches()
    place = grid.get_position(figure)
    axis.set_xlabel(wrapped(readable(xlabel), 10, width * place.width))
    axis.set_ylabel(wrapped(readable(ylabel), 10, height * place.height))
    if "x" in log:
        axis.set_xscale("log")
    if "y" in log:
        axis.set_yscale("log")
    else:
        low, high = axis.get_ylim()
        axis.set_ylim(widened(low, high, ylabel))


_AT_LEAST = ("loss", "accuracy", "recall", "precision", "fraction", "share", "probability")


def widened(low: float, high: float, label: str) -> tuple[float, float]:
    """Widen the range of an axis if it is so narrow that noise would look like an effect.

    The range of a loss, of an accuracy or of another fraction is at least 0.05 (5 for per cent),
    the range of another value 5 % of its size.

    >>> low, high = widened(0.50, 0.52, "test accuracy")
    >>> f"{low:.3f} to {high:.3f}"
    '0.485 to 0.535'
    """
    least = 0.05 * max(abs(low), abs(high))
    if "%" in label:
        least = 5.0
    elif any(word in readable(label).split() for word in _AT_LEAST):
        least = max(least if "loss" in label else 0.0, 0.05)
    missing = max(0.0, least - (high - low))
    return low - missing / 2, high + missing / 2


def finish(
    figure: "Figure", message: str, values: str, *, key: Sequence[Any] = (), scale: float = 1.0
) -> Plot:
    """Add the title and the legend, and return the plot with its alt text.

    The legend is below the axes. It has one entry per label, and there is none for a single label.

    Args:
        figure: from `new_axes`, with everything drawn; it grows by the title and the legend.
        message: the title, one sentence or a few; the alt text starts with it.
        values: what else the alt text says, such as the values that are drawn.
        key: artists for the legend instead of those that are drawn.
        scale: the height of the figure, as a multiple of its height from `new_axes`.
    """
    import matplotlib as mpl

    message = sentence(message)
    width, height = figure.get_size_inches()
    entries = {artist.get_label(): artist for artist in key} or {
        label: handle
        for axis in figure.axes
        for handle, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    with mpl.rc_context(STYLE):
        title = wrapped(message, 11, width - 0.25)
        figure.suptitle(title, x=0.1 / width, ha="left", fontsize=11)
        # Room for two lines is always there, so a plot doesn't jump when its numbers change.
        height = scale * height + 0.2 * max(2, title.count("\n") + 1)
        if len(entries) > 1:
            names = [wrapped(label, 9, width - 1) for label in entries]
            columns = _legend_columns(names, width - 0.2)
            style: dict[str, Any] = {"loc": "outside lower left", "fontsize": 9, "handlelength": 3}
            figure.legend(list(entries.values()), names, ncols=columns, **style)
            height += 0.1 + 0.2 * math.ceil(len(names) / columns)
    figure.set_size_inches(width, height)
    return Plot(figure, f"{message} {values[:1].upper()}{values[1:]}".strip())


def _legend_columns(names: Sequence[str], width: float) -> int:
    """Return into how many columns a legend of that width in inches can be divided."""
    widths = [text_width(name, 9) + 0.8 for name in names]  # with the line and the gap
    for columns in range(len(names), 1, -1):
        if sum(column.max() for column in np.array_split(widths, columns)) <= width:
            return columns
    return 1


def sentence(text: str) -> str:
    """Return text that begins with a capital letter and ends with a full stop.

    >>> sentence("two of 12 images"), sentence("Why?")
    ('Two of 12 images.', 'Why?')
    """
    text = text.strip()
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def text_width(text: str, size: float) -> float:
    """Return the width of the longest line in inches.

    Args:
        text: one or more lines.
        size: of the font, in points.
    """
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    font = FontProperties(size=size)
    return max(
        text_to_path.get_text_width_height_descent(line, font, ismath=False)[0] / 72
        for line in text.split("\n")
    )


def wrapped(text: str, size: float, width: float) -> str:
    """Break text into lines that are at most `width` inches wide, unless a word is wider.

    >>> print(wrapped("a sentence of many words", 10, 1.0))
    a sentence of
    many words
    """
    lines: list[str] = []
    for word in text.split():
        if lines and text_width(f"{lines[-1]} {word}", size) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return "\n".join(lines)
