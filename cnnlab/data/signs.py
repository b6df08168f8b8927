"""Templates of the twelve traffic signs, each in three shapes and in every font."""

import math
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cnnlab.data import scenes


if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw


CLASSES = (
    "limit 30",
    "limit 50",
    "limit 60",
    "limit 80",
    "keep left",
    "keep right",
    "no entry",
    "no stopping",
    "yield",
    "warning",
    "stop",
    "priority",
)
BORDERS = (0.14, 0.17, 0.20)  # border widths of the three shapes, as fractions of the side
# Signs are drawn at 192 pixels without smoothing, and reduced to 64 with smoothing.
_CANVAS, _TEMPLATE = 192, 64
_CENTRE, _RADIUS = _CANVAS / 2, _CANVAS * 0.48
_RED, _BLUE, _WHITE = (196, 30, 40), (25, 80, 170), (240, 240, 235)
_BLACK, _YELLOW = (25, 25, 25), (245, 190, 30)

Colour = tuple[int, int, int]


@cache
def bank(fonts: tuple[str, ...]) -> Tensor:
    """Draw all signs as premultiplied RGBA, float64 (12, fonts * shapes, 4, 64, 64)."""
    signs = [[_draw_sign(name, f, b) for f in fonts for b in BORDERS] for name in CLASSES]
    rgba = torch.from_numpy(np.array(signs)).permute(0, 1, 4, 2, 3).double() / 255
    rgba[:, :, :3] *= rgba[:, :, 3:]
    return rgba.contiguous()


def _draw_sign(name: str, font: str, border: float) -> np.ndarray:
    """Draw one sign, RGBA uint8 (64, 64, 4)."""
    from PIL import Image, ImageDraw

    image = Image.new("RGBA", (_CANVAS, _CANVAS), (0, 0, 0, 0))
    sign = _Sign(ImageDraw.Draw(image), font, border * _CANVAS)
    if name.startswith("limit"):
        sign.limit(name.split()[1])
    else:
        getattr(sign, name.replace(" ", "_") + "_" * (name == "yield"))()
    return np.asarray(image.resize((_TEMPLATE, _TEMPLATE), Image.Resampling.LANCZOS))


@dataclass(frozen=True)
class _Sign:
    """Draws one sign, with one method per class; lengths are in pixels of the canvas."""

    pen: "ImageDraw"
    font: str
    border: float

    def limit(self, number: str) -> None:
        self._disc(_RADIUS, _RED)
        self._disc(_RADIUS - 0.8 * self.border, _WHITE)
        self._text(number, _BLACK, width=0.60, height=0.42)

    def keep_left(self) -> None:
        self._arrow(-1)

    def keep_right(self) -> None:
        self._arrow(1)

    def no_entry(self) -> None:
        self._disc(_RADIUS, _RED)
        self._bar(0.72 * _RADIUS, 0.6 * self.border)

    def no_stopping(self) -> None:
        self._disc(_RADIUS, _RED)
        self._disc(_RADIUS - 0.7 * self.border, _BLUE)
        reach = 0.66 * _RADIUS
        for slope in (-1, 1):
            ends = [(_CENTRE + s * reach, _CENTRE + s * slope * reach) for s in (-1, 1)]
            self.pen.line(ends, fill=_RED, width=round(0.6 * self.border))

    def yield_(self) -> None:
        self._triangle(1)

    def warning(self) -> None:
        self._triangle(-1)
        self._text("!", _BLACK, width=0.30, height=0.34, down=0.08)

    def stop(self) -> None:
        self._polygon(8, 1.04 * _RADIUS, _WHITE, turn=1 / 16)
        self._polygon(8, 0.95 * _RADIUS, _RED, turn=1 / 16)
        self._text("STOP", _WHITE, width=0.74, height=0.40)

    def priority(self) -> None:
        for size, colour in ((1.0, _BLACK), (0.95, _WHITE), (0.68, _YELLOW)):
            self._polygon(4, size * _RADIUS, colour)

    def _disc(self, radius: float, colour: Colour) -> None:
        low, high = _CENTRE - radius, _CENTRE + radius
        self.pen.ellipse((low, low, high, high), fill=colour)

    def _bar(self, half_width: float, half_height: float) -> None:
        x, y = half_width, half_height
        self.pen.rectangle((_CENTRE - x, _CENTRE - y, _CENTRE + x, _CENTRE + y), fill=_WHITE)

    def _arrow(self, side: int) -> None:
        """Draw an arrow to the left (-1) or to the right (1) on a blue disc."""
        self._disc(_RADIUS, _BLUE)
        shaft = sorted(_CENTRE + side * _CANVAS * x for x in (-0.26, 0.20))
        half = 0.28 * self.border  # of the thickness
        self.pen.rectangle((shaft[0], _CENTRE - half, shaft[1], _CENTRE + half), fill=_WHITE)
        tip, neck = _CENTRE + side * 0.31 * _CANVAS, _CENTRE + side * 0.05 * _CANVAS
        wings = [(neck, _CENTRE - 0.2 * _CANVAS), (neck, _CENTRE + 0.2 * _CANVAS)]
        self.pen.polygon([(tip, _CENTRE), *wings], fill=_WHITE)

    def _triangle(self, point: int) -> None:
        """Draw a white triangle with a red border, pointing down (1) or up (-1), and centred."""
        outer = 1.14 * _RADIUS
        for radius, colour in ((outer, _RED), (outer - 1.35 * self.border, _WHITE)):
            self._polygon(3, radius, colour, turn=0 if point == 1 else 1 / 2, down=-0.10 * point)

    def _polygon(
        self, corners: int, radius: float, colour: Colour, turn: float = 0, down: float = 0
    ) -> None:
        """Draw a regular polygon with a corner at the bottom, turned by a fraction of a circle."""
        angles = [2 * math.pi * (turn + k / corners) for k in range(corners)]
        centre = _CENTRE + down * _CANVAS
        points = [(_CENTRE + radius * math.sin(a), centre + radius * math.cos(a)) for a in angles]
        self.pen.polygon(points, fill=colour)

    def _text(
        self, text: str, colour: Colour, *, width: float, height: float, down: float = 0
    ) -> None:
        """Draw centred text as large as fits in a box; its size is given in sides of the canvas."""
        font = scenes.load_font(self.font, 100)
        left, top, right, bottom = self.pen.textbbox((0, 0), text, font=font)
        factor = min(width * _CANVAS / (right - left), height * _CANVAS / (bottom - top))
        font = scenes.load_font(self.font, min(90, int(100 * factor)))
        left, top, right, bottom = self.pen.textbbox((0, 0), text, font=font)
        x, y = _CENTRE - (left + right) / 2, _CENTRE - (top + bottom) / 2 + down * _CANVAS
        self.pen.text((x, y), text, font=font, fill=colour)
