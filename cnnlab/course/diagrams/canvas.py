"""A page to draw on: boxes, arrows, text and volumes, in pixels from the top left corner."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.colors import to_hex, to_rgb
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, FancyBboxPatch, Polygon
from matplotlib.path import Path

from cnnlab.plots import COLOURS, STYLE, Plot


if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.text import Text

DPI = 96  # of `Plot.png`, so that a unit of the canvas is a pixel of the image
WIDTH = 700  # the width of a page of the book
MARGIN = 24  # left and right of everything
BORDER = 0.1 * DPI  # what `Plot` adds around a figure when it crops it
FONT = "DejaVu Sans"  # comes with matplotlib
INK = "#222222"
MUTED = "#595959"
RULE = "#B8B8B8"
BLUE, ORANGE, GREEN = COLOURS[0], COLOURS[1], COLOURS[2]
WARNING = "#A84A00"  # the orange for text, dark enough to read on white

Point = tuple[float, float]


def tint(colour: str, strength: float) -> str:
    """Mix a colour with white; strength 1 is the colour itself, and 0 is white.

    >>> tint("#000000", 0.2)
    '#cccccc'
    """
    red, green, blue = (1 - strength * (1 - value) for value in to_rgb(colour))
    return to_hex((red, green, blue))


@dataclass(frozen=True)
class Box:
    """The place of a box, for arrows that start or end at one of its sides."""

    x: float
    y: float
    width: float
    height: float

    @property
    def centre(self) -> Point:
        """The middle."""
        return self.x + self.width / 2, self.y + self.height / 2

    @property
    def left(self) -> Point:
        """The middle of the left side."""
        return self.x, self.centre[1]

    @property
    def right(self) -> Point:
        """The middle of the right side."""
        return self.x + self.width, self.centre[1]

    @property
    def top(self) -> Point:
        """The middle of the upper side."""
        return self.centre[0], self.y

    @property
    def bottom(self) -> Point:
        """The middle of the lower side."""
        return self.centre[0], self.y + self.height


class Canvas:
    """A drawing with its message as its title.

    Args:
        message: one sentence without its full stop; a line break is where the title breaks.
        height: in pixels, like every length here; y points down.
        note: one line below the title: what is drawn.
        width: in pixels.
        margin: left of the title and the note.
        size: of the title, in points.
    """

    def __init__(
        self,
        message: str,
        height: float,
        *,
        note: str = "",
        width: float = WIDTH,
        margin: float = MARGIN,
        size: float = 12.5,
    ) -> None:
        self.message, self.width, self.height = message, width, height
        # `Plot` crops a figure to its axes and adds a border, which makes it width x height again.
        across, down = BORDER / width, BORDER / height
        with mpl.rc_context(STYLE):
            self.figure = Figure(figsize=(width / DPI, height / DPI))
            self.axis = self.figure.add_axes((across, down, 1 - 2 * across, 1 - 2 * down))
        self.axis.set(xlim=(BORDER, width - BORDER), ylim=(height - BORDER, BORDER))
        self.axis.axis("off")
        self.text(margin, 22, message, size=size, bold=True, ha="left", va="top")
        below = 30 + 1.7 * size * (1 + message.count("\n"))
        self.text(margin, below, note, size=9, colour=MUTED, ha="left", va="top")

    def text(
        self,
        x: float,
        y: float,
        words: str,
        *,
        size: float = 9,
        bold: bool = False,
        mono: bool = False,
        colour: str = INK,
        ha: Any = "center",
        va: Any = "center",
        spacing: float = 1.35,
        rotation: float = 0,
    ) -> "Text":
        """Write words, aligned at (x, y); `spacing` is the distance of the lines."""
        if (
            va == "center" and "\n" not in words and not rotation
        ):  # in the middle of the capitals, not of the "y"
            y, va = y + 0.365 * size * DPI / 72, "baseline"
        return self.axis.text(
            x,
            y,
            words,
            fontsize=size,
            fontweight="bold" if bold else "normal",
            fontfamily="DejaVu Sans Mono" if mono else FONT,
            color=colour,
            ha=ha,
            va=va,
            linespacing=spacing,
            rotation=rotation,
        )

    def box(
        self,
        x: float,
        y: float,
        width: float,
        height: float,
        words: str = "",
        *,
        fill: str = "white",
        edge: str = INK,
        line: float = 1.1,
        hatch: str = "",
        radius: float = 5,
        dashed: bool = False,
        z: float = 1,
        **style: Any,
    ) -> Box:
        """Draw a box with words in its middle; `style` is that of the words."""
        patch = FancyBboxPatch(
            (x, y),
            width,
            height,
            boxstyle=f"round,pad=0,rounding_size={radius}" if radius else "square,pad=0",
            facecolor=fill,
            edgecolor=edge,
            linewidth=line,
            linestyle="--" if dashed else "-",
            hatch=hatch,
            zorder=z,
            gid="box",
        )
        with mpl.rc_context({"hatch.linewidth": 0.6}):
            self.axis.add_patch(patch)
        box = Box(x, y, width, height)
        if words:
            self.text(*box.centre, words, **style)
        return box

    def circle(self, x: float, y: float, radius: float, words: str = "", **style: Any) -> Box:
        """Draw a circle around (x, y), with words in its middle."""
        self.axis.add_patch(
            Circle((x, y), radius, facecolor="white", edgecolor=INK, linewidth=1.1, gid="box")
        )
        if words:
            self.text(x, y, words, **style)
        return Box(x - radius, y - radius, 2 * radius, 2 * radius)

    def arrow(
        self, *points: Point, colour: str = INK, line: float = 1.3, dashed: bool = False
    ) -> None:
        """Draw an arrow along points; the tip is at the last one."""
        self.axis.add_patch(
            FancyArrowPatch(
                path=Path(points),
                arrowstyle="-|>,head_length=0.55,head_width=0.28",
                mutation_scale=12,
                color=colour,
                linewidth=line,
                linestyle=(0, (4, 2)) if dashed else "-",
                joinstyle="miter",
                capstyle="butt",
                zorder=2,
                gid="arrow",
            )
        )

    def line(
        self,
        *points: Point,
        colour: str = RULE,
        line: float = 1,
        dashed: bool = False,
        z: float = 1.1,
    ) -> None:
        """Draw a line along points."""
        xs, ys = zip(*points, strict=True)
        dash = "--" if dashed else "-"
        self.axis.plot(xs, ys, color=colour, linewidth=line, linestyle=dash, zorder=z)

    def volume(self, x: float, y: float, shape: Sequence[float], colour: str) -> Box:
        """Draw a feature map as a block: `shape` is (channels, height, width) in pixels.

        Args:
            x: the middle between its left and its right end.
            y: the middle of its front.
            shape: the channels go to the right, the width to the back.
            colour: of the front; the other two sides are lighter and darker.

        Returns:
            The box around all of it.
        """
        channels, height, depth = shape
        back = 0.36 * depth, -0.26 * depth
        x -= (channels + back[0]) / 2
        top, bottom, right = y - height / 2, y + height / 2, x + channels
        faces = {
            0.22: ((x, top), (right, top), (right + back[0], top + back[1]),
                   (x + back[0], top + back[1])),
            0.8: ((right, top), (right, bottom), (right + back[0], bottom + back[1]),
                  (right + back[0], top + back[1])),
            0.5: ((x, top), (right, top), (right, bottom), (x, bottom)),
        }  # fmt: skip
        for strength, corners in faces.items():
            self.axis.add_patch(
                Polygon(
                    corners,
                    facecolor=tint(colour, strength),
                    edgecolor=INK,
                    linewidth=0.8,
                    joinstyle="round",
                    gid="face",
                )
            )
        return Box(x, top + back[1], channels + back[0], height - back[1])

    def axes(self, box: Box, **options: Any) -> "Axes":
        """Add a chart, whose area between its axes is the box."""
        place = (
            box.x / self.width,
            1 - (box.y + box.height) / self.height,
            box.width / self.width,
            box.height / self.height,
        )
        with mpl.rc_context(STYLE | {"font.size": 8.5, "font.family": FONT}):
            axis = self.figure.add_axes(place)
            axis.set(**options)
            axis.tick_params(labelsize=8.5, labelfontfamily=FONT, color=MUTED)
        return axis

    def plot(self, alt: str) -> Plot:
        """Return the finished figure, whose alt text starts with the message."""
        return Plot(self.figure, f"{' '.join(self.message.split())}. {alt}")
