"""The twelve signs of PocketSigns as templates: each in three shapes and in every font."""

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
BORDERS = (0.14, 0.17, 0.20)  # three shapes of each sign, as fractions of its side
# Drawn without smoothing at 192 pixels, reduced with smoothing to 64.
_CANVAS, _TEMPLATE = 192, 64
_MIDDLE, _RADIUS = _CANVAS / 2, _CANVAS * 0.48
_RED, _BLUE, _WHITE = (196, 30, 40), (25, 80, 170), (240, 240, 235)
_BLACK, _YELLOW = (25, 25, 25), (245, 190, 30)

Colour = tuple[int, int, int]


@cache
def bank(fonts: tuple[str, ...]) -> Tensor:
    """Return the signs as premultiplied RGBA, float64 (12, fonts * shapes, 4, 64, 64)."""
    signs = [[_sign(name, f, b) for f in fonts for b in BORDERS] for name in CLASSES]
    bank = torch.from_numpy(np.array(signs)).permute(0, 1, 4, 2, 3).double() / 255
    bank[:, :, :3] *= bank[:, :, 3:]
    return bank.contiguous()


def _sign(name: str, font: str, border: float) -> np.ndarray:
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
    """Draws one sign: a method a class; lengths in pixels of the canvas."""

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
            ends = [(_MIDDLE + s * reach, _MIDDLE + s * slope * reach) for s in (-1, 1)]
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
        low, high = _MIDDLE - radius, _MIDDLE + radius
        self.pen.ellipse((low, low, high, high), fill=colour)

    def _bar(self, half_width: float, half_height: float) -> None:
        x, y = half_width, half_height
        self.pen.rectangle((_MIDDLE - x, _MIDDLE - y, _MIDDLE + x, _MIDDLE + y), fill=_WHITE)

    def _arrow(self, side: int) -> None:
        """An arrow to the left (-1) or to the right (1) on a blue disc."""
        self._disc(_RADIUS, _BLUE)
        shaft = sorted(_MIDDLE + side * _CANVAS * x for x in (-0.26, 0.20))
        thick = 0.28 * self.border
        self.pen.rectangle((shaft[0], _MIDDLE - thick, shaft[1], _MIDDLE + thick), fill=_WHITE)
        tip, neck = _MIDDLE + side * 0.31 * _CANVAS, _MIDDLE + side * 0.05 * _CANVAS
        wings = [(neck, _MIDDLE - 0.2 * _CANVAS), (neck, _MIDDLE + 0.2 * _CANVAS)]
        self.pen.polygon([(tip, _MIDDLE), *wings], fill=_WHITE)

    def _triangle(self, point: int) -> None:
        """White with a red border, pointing down (1) or up (-1), its box in the middle."""
        for radius, colour in (
            (1.14 * _RADIUS, _RED),
            (1.14 * _RADIUS - 1.35 * self.border, _WHITE),
        ):
            self._polygon(3, radius, colour, turn=0 if point == 1 else 1 / 2, down=-0.10 * point)

    def _polygon(
        self, corners: int, radius: float, colour: Colour, turn: float = 0, down: float = 0
    ) -> None:
        """A regular polygon, its first corner below the middle, turned by a part of a circle."""
        angles = [2 * math.pi * (turn + k / corners) for k in range(corners)]
        middle = _MIDDLE + down * _CANVAS
        points = [(_MIDDLE + radius * math.sin(a), middle + radius * math.cos(a)) for a in angles]
        self.pen.polygon(points, fill=colour)

    def _text(
        self, text: str, colour: Colour, *, width: float, height: float, down: float = 0
    ) -> None:
        """Text as large as fits the box, given in sides of the canvas; its ink in the middle."""
        left, top, right, bottom = self.pen.textbbox((0, 0), text, font=scenes.font(self.font, 100))
        grow = min(width * _CANVAS / (right - left), height * _CANVAS / (bottom - top))
        font = scenes.font(self.font, min(90, int(100 * grow)))
        left, top, right, bottom = self.pen.textbbox((0, 0), text, font=font)
        x, y = _MIDDLE - (left + right) / 2, _MIDDLE - (top + bottom) / 2 + down * _CANVAS
        self.pen.text((x, y), text, font=font, fill=colour)
