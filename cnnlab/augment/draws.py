"""Draw parameters, one for each image of a batch, from the distributions of torchvision's v2."""

import math

import torch
from torch import Generator, Tensor

from cnnlab.augment.geometry import Affine, Window


TRIES = 10  # rectangles drawn until one fits, as in torchvision


class Draw:
    """Draws for a batch of n images; every method takes n new numbers from the generator.

    Args:
        n: images in the batch.
        generator: of the CPU; torch's global one when None.

    >>> Draw(3, None).uniform(2.0, 2.0)
    tensor([2., 2., 2.])
    """

    def __init__(self, n: int, generator: Generator | None) -> None:
        self.n, self.generator = n, generator

    def uniform(self, low: float, high: float) -> Tensor:
        """Draw from [low, high), float (n,)."""
        return low + (high - low) * torch.rand(self.n, generator=self.generator)

    def chance(self, p: float) -> Tensor:
        """Draw True with probability p, bool (n,)."""
        return torch.rand(self.n, generator=self.generator) < p

    def factor(self, spread: float) -> Tensor:
        """Draw a factor from 1 - spread (but not below 0) to 1 + spread, float (n,)."""
        return self.uniform(max(0.0, 1 - spread), 1 + spread)

    def below(self, count: Tensor) -> Tensor:
        """Draw a whole number from 0 to count - 1 for each image, int64 (n,)."""
        return (torch.rand(self.n, generator=self.generator) * count).long()

    def seed(self) -> int:
        """Draw one seed."""
        return int(torch.randint(2**62, (), generator=self.generator))

    def shifted(self, pad: int, height: int, width: int) -> Window:
        """Draw a window of the size of the image, up to `pad` pixels from its place."""
        whole, places = Window.whole(self.n, height, width), torch.tensor(2 * pad + 1)
        return whole._replace(top=self.below(places) - pad, left=self.below(places) - pad)

    def resized(self, area: tuple[float, float], height: int, width: int) -> Window:
        """Draw a window by its share of the area, sides 3 : 4 to 4 : 3, anywhere in the image.

        Where no try fits: the largest window of such sides, in the middle.
        """
        h, w, fits = self._rectangles(area, (3 / 4, 4 / 3), height, width, spare=0)
        largest_h, largest_w = min(height, round(width * 4 / 3)), min(width, round(height * 4 / 3))
        h, w = torch.where(fits, h, largest_h), torch.where(fits, w, largest_w)
        top, left = self.below(height - h + 1), self.below(width - w + 1)
        top = torch.where(fits, top, (height - h) // 2)
        return Window(top, torch.where(fits, left, (width - w) // 2), h, w)

    def affine(
        self,
        rotate: float,
        shear: float,
        scale: tuple[float, float],
        translate: float,
        height: int,
        width: int,
    ) -> Affine:
        """Draw an affine map; its shift is rounded to whole pixels."""
        return Affine(
            angle=self.uniform(-rotate, rotate),
            shear=self.uniform(-shear, shear),
            scale=self.uniform(*scale),
            right=self.uniform(-translate * width, translate * width).round(),
            down=self.uniform(-translate * height, translate * height).round(),
        )

    def boxes(self, p: float, height: int, width: int) -> Tensor:
        """Draw a rectangle with probability p, else an empty one, int64 (n, 4)."""
        h, w, fits = self._rectangles((0.02, 0.33), (0.3, 3.3), height, width, spare=1)
        top, left = self.below(height - h + 1), self.below(width - w + 1)
        box = torch.stack([top, left, top + h, left + w], dim=1)
        return box * (fits & self.chance(p))[:, None]

    def _rectangles(
        self,
        area: tuple[float, float],
        ratio: tuple[float, float],
        height: int,
        width: int,
        *,
        spare: int,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Draw height and width by share of the area and log-uniform ratio, int64 (n,) each.

        The first of several tries that leaves `spare` pixels of each side; bool (n,) if there is one.
        """
        area_draw, ratio_draw = torch.rand(2, TRIES, self.n, generator=self.generator)
        pixels = height * width * (area[0] + (area[1] - area[0]) * area_draw)
        low, high = math.log(ratio[0]), math.log(ratio[1])
        stretch = torch.exp(0.5 * (low + (high - low) * ratio_draw))
        side = pixels.sqrt()
        sides = torch.stack([side * stretch, side / stretch]).round_().long()  # (2, TRIES, n)
        fits = (sides[0] <= height - spare) & (sides[1] <= width - spare)
        first = fits.byte().argmax(dim=0)[None]  # the first of several maxima
        h, w = sides.gather(1, first.expand(2, 1, -1))[:, 0]
        return h, w, fits.any(dim=0)
