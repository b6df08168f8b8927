"""Draw the random parameters of a batch, from the same distributions as torchvision's v2."""

import math

import torch
from torch import Generator, Tensor

from cnnlab.augment.geometry import Affine, Window


TRIES = 10  # rectangles to draw until one fits, as in torchvision


class ParamSampler:
    """Draw one value per image of a batch; every call draws new ones.

    Args:
        n: images in the batch.
        generator: a CPU generator; None for torch's global one.

    >>> ParamSampler(3, None).uniform(2.0, 2.0)
    tensor([2., 2., 2.])
    """

    def __init__(self, n: int, generator: Generator | None) -> None:
        self.n, self.generator = n, generator

    def uniform(self, low: float, high: float) -> Tensor:
        """Draw from [low, high), float (n,)."""
        return self.uniforms((low, high))[0]

    def uniforms(self, *ranges: tuple[float, float]) -> Tensor:
        """Draw from several ranges [low, high) in a few operations, float (ranges, n)."""
        low = torch.tensor([low for low, _ in ranges])[:, None]
        width = torch.tensor([high - low for low, high in ranges])[:, None]
        return low + width * torch.rand(len(ranges), self.n, generator=self.generator)

    def named(self, ranges: dict[str, tuple[float, float]]) -> dict[str, Tensor]:
        """Draw from several ranges [low, high), each with a name, float (n,) each."""
        if not ranges:
            return {}
        return dict(zip(ranges, self.uniforms(*ranges.values()), strict=True))

    def bernoulli(self, p: float) -> Tensor:
        """Draw True with probability p, bool (n,)."""
        return torch.rand(self.n, generator=self.generator) < p

    def corners(self, count: Tensor | int) -> Tensor:
        """Draw top and left, each an integer from 0 to count - 1, int64 (2, n)."""
        return (torch.rand(2, self.n, generator=self.generator) * count).long()

    def seed(self) -> int:
        """Draw one seed for the whole batch."""
        return int(torch.randint(2**62, (), generator=self.generator))

    def padded_crop(self, pad: int, height: int, width: int) -> Window:
        """Draw a window of the image's size, shifted by up to `pad` pixels in each direction."""
        top, left = self.corners(2 * pad + 1) - pad
        return Window.whole(self.n, height, width)._replace(top=top, left=left)

    def resized_crop(self, area: tuple[float, float], height: int, width: int) -> Window:
        """Draw a window that covers a random fraction of the area, anywhere in the image.

        Its aspect ratio is 3 : 4 to 4 : 3. If no try fits, the window is the largest one with such
        a ratio, in the middle of the image.
        """
        image = torch.tensor([[height], [width]])
        sides, fits = self._rectangles(area, (3 / 4, 4 / 3), image, image)
        largest = min(height, round(width * 4 / 3)), min(width, round(height * 4 / 3))
        sides = torch.where(fits, sides, torch.tensor(largest)[:, None])
        free = image - sides
        return Window(*torch.where(fits, self.corners(free + 1), free // 2), *sides)

    def affine(
        self,
        rotate: float,
        shear: float,
        scale: tuple[float, float],
        translate: float,
        height: int,
        width: int,
    ) -> Affine:
        """Draw an affine map whose shift is a whole number of pixels."""
        right, down = translate * width, translate * height
        ranges = (-rotate, rotate), (-shear, shear), scale, (-right, right), (-down, down)
        angle, shears, scales, rights, downs = self.uniforms(*ranges)
        return Affine(angle, shears, scales, rights.round(), downs.round())

    def erase_boxes(self, p: float, height: int, width: int) -> Tensor:
        """Draw a rectangle with probability p, otherwise an empty one, int64 (n, 4)."""
        image = torch.tensor([[height], [width]])
        sides, fits = self._rectangles((0.02, 0.33), (0.3, 3.3), image, image - 1)
        corners = self.corners(image - sides + 1)
        boxes = torch.cat([corners, corners + sides])
        return (boxes * (fits & self.bernoulli(p))).T

    def _rectangles(
        self, area: tuple[float, float], ratio: tuple[float, float], image: Tensor, largest: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Draw rectangles with a uniform fraction of the area and a log-uniform aspect ratio.

        Args:
            area: smallest and largest fraction of the image.
            ratio: smallest and largest aspect ratio.
            image: height and width of the image, int64 (2, 1).
            largest: the largest height and width that a rectangle may have, int64 (2, 1).

        Returns:
            Height and width, int64 (2, n), of the first try that isn't too large; and whether there
            was one, bool (n,).
        """
        height, width = image.flatten().tolist()
        area_draw, ratio_draw = torch.rand(2, TRIES, self.n, generator=self.generator)
        pixels = height * width * (area[0] + (area[1] - area[0]) * area_draw)
        low, high = math.log(ratio[0]), math.log(ratio[1])
        root_ratio = torch.exp(0.5 * (low + (high - low) * ratio_draw))
        side = pixels.sqrt()
        sides = torch.stack([side * root_ratio, side / root_ratio]).round_().long()  # (2, TRIES, n)
        fits = (sides <= largest[:, None]).all(dim=0)
        first = fits.byte().argmax(dim=0)[None]  # argmax returns the first of several maxima
        return sides.gather(1, first.expand(2, 1, -1))[:, 0], fits.any(dim=0)
