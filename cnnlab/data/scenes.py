"""What the three generated sets share: random streams, photo backgrounds, fonts, warp and blur.

Everything is drawn first, in unit intervals and always the same number of draws, and applied after.
So two sets made from one seed show the same images with one nuisance changed, and image i does not
depend on how many there are. Sums run in float64: float32 rounds differently on other processors,
which would now and then move a pixel by one of its 256 levels.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cnnlab import rng
from cnnlab.data.cache import cached
from cnnlab.data.images import ImageSet
from cnnlab.limits import limits


if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont


Pictures = tuple[Tensor, Tensor]  # uint8 (N, 3, 32, 32) and int64 (N,)

SIDE = 32  # pixels
BLUR_REACH = 6  # pixels: three sigma of the widest blur that is allowed
PARTS = {"train": 1, "valid": 2, "test": 3}
# The two photographs that scikit-learn ships, cut at 60 % of their width: what is left of the cut
# and what is right of it are never in one picture. In units of the half width, from the middle.
HALVES = {"left": (-1.0, 0.2), "right": (0.2, 1.0)}


@dataclass(frozen=True)
class Draws:
    """The random numbers of n images: uniform `units` (n, width), normal `noise` (n, 3, H, W)."""

    units: Tensor
    noise: Tensor

    def take(self, rows: Tensor) -> "Draws":
        """Return the draws of those images only."""
        return Draws(self.units[rows], self.noise[rows])


def draw(n: int, width: int, *counters: int) -> Draws:
    """Draw the random numbers of n images from the stream that belongs to `counters`.

    PCG64 gives the same stream on every platform; torch's normal numbers depend on the processor.
    """
    stream = np.random.Generator(np.random.PCG64(rng.fold_in(*counters)))
    units = torch.from_numpy(stream.random((n, width)))
    return Draws(units, torch.from_numpy(stream.standard_normal((n, 3, SIDE, SIDE))))


@dataclass(frozen=True)
class Stream:
    """An endless stream of labels and draws, in which each run of K images holds each class once.

    Args:
        n_classes: K.
        width: uniform numbers an image.
        counters: seed, set and part, from which the numbers are derived.
    """

    n_classes: int
    width: int
    counters: tuple[int, ...]

    def render(
        self, make: Callable[[Tensor, Draws], Tensor], counts: Sequence[int], n: int
    ) -> Pictures:
        """Make the earliest images of the stream, at most `counts[k]` of class k, and n in all.

        Args:
            make: uint8 (m, 3, H, W) from labels (m,) and draws; image i depends on row i alone.
            counts: one number a class.
            n: images in all, at most.
        """
        images, labels = [torch.empty(0, 3, SIDE, SIDE, dtype=torch.uint8)], [torch.empty(0).long()]
        n_left = min(n, sum(counts))
        for chunk in count():
            drawn_labels, draws = self._chunk(chunk)
            keep = self._wanted(chunk, drawn_labels, counts)[:n_left]
            images.append(make(drawn_labels[keep], draws.take(keep)))
            labels.append(drawn_labels[keep])
            n_left -= len(keep)
            if not n_left:
                break
        return torch.cat(images), torch.cat(labels)

    @property
    def _rounds(self) -> int:
        """Runs of K in a chunk; about 240 images together fit in the processor's cache."""
        return max(1, 240 // self.n_classes)

    def _chunk(self, chunk: int) -> tuple[Tensor, Draws]:
        draws = draw(self._rounds * self.n_classes, self.width + 1, *self.counters, chunk)
        order = draws.units[:, -1].reshape(self._rounds, self.n_classes).argsort(dim=1)
        return order.flatten(), draws

    def _wanted(self, chunk: int, labels: Tensor, counts: Sequence[int]) -> Tensor:
        """Which images of the chunk are among the first `counts[k]` of their class."""
        run = torch.arange(self._rounds).repeat_interleave(self.n_classes)
        nth = chunk * self._rounds + run
        return (nth < torch.tensor(counts)[labels]).nonzero().flatten()


def part(
    make: Callable[[str, Sequence[int], int], Pictures],
    classes: tuple[str, ...],
    name: str,
    n: int,
    counts: Sequence[int] | None,
    key: dict[str, Any],
) -> ImageSet:
    """Return one part of a generated set, from the cache where it has been made before.

    Args:
        make: (part, counts, n) -> images and labels.
        classes: their names.
        name: "train", "valid" or "test".
        n: images, as even as can be among the classes.
        counts: images of each class, instead of n.
        key: all else that the images depend on.
    """
    if n < 1 or (counts is not None and sum(counts) < 1):
        raise ValueError(f"n_{name}={n}, counts={counts}: ask for one image or more")
    if counts is None:
        n = smaller(n, len(classes))
        wanted = [math.ceil(n / len(classes))] * len(classes)
    else:
        wanted = [smaller(m) for m in counts]
        n = sum(wanted)

    def made() -> dict[str, Tensor]:
        return dict(zip(("images", "labels"), make(name, wanted, n), strict=True))

    found = cached(made, f"{key['set']}-{name}", n=n, counts=wanted, **key)
    return ImageSet(found["images"], found["labels"], classes)


def smaller(n: int, n_classes: int = 1) -> int:
    """Return n times `limits.data_fraction`, but at least 4 images per class if n has them."""
    return min(n, max(int(n * limits.data_fraction), 4 * n_classes))


def named(units: Tensor, layout: dict[str, int]) -> dict[str, Tensor]:
    """Give the columns of the uniform numbers their names.

    Args:
        units: (n, width).
        layout: name -> how many columns, in order.

    Returns:
        name -> (n,) for a single column, (n, k) for more.
    """
    used = units[:, : sum(layout.values())].split(list(layout.values()), dim=1)
    return {name: u[:, 0] if u.shape[1] == 1 else u for name, u in zip(layout, used, strict=True)}


def between(unit: Tensor, low: float, high: float) -> Tensor:
    """Stretch unit-interval numbers to [low, high)."""
    return low + (high - low) * unit


@cache
def photos() -> Tensor:
    """Return scikit-learn's two photographs on top of each other, float64 (1, 3, 2 * 427, 640)."""
    from PIL import Image

    folder = package_folder("sklearn") / "datasets" / "images"
    pictures = [np.asarray(Image.open(folder / name)) for name in ("china.jpg", "flower.jpg")]
    wall = torch.from_numpy(np.concatenate(pictures)).permute(2, 0, 1)  # (H, W, 3) -> (3, H, W)
    return wall[None].double() / 255


def backgrounds(units: Tensor, half: str) -> Tensor:
    """Cut a square out of a photograph for each image, and shuffle its colour channels.

    Args:
        units: (n, 6) in [0, 1).
        half: "left" or "right", the region of the photographs.

    Returns:
        float64 (n, 3, H, W) in [0, 1].
    """
    n, wall = len(units), photos()
    which, size, across, down, mirror, colours = units.unbind(dim=1)
    left, right = HALVES[half]
    half_width = between(size, 0.05, 0.20)
    half_height = half_width * wall.shape[3] / wall.shape[2]  # square in pixels
    theta = units.new_zeros(n, 2, 3)
    theta[:, 0, 0] = torch.where(mirror < 0.5, -half_width, half_width)
    theta[:, 1, 1] = half_height
    theta[:, 0, 2] = left + half_width + across * (right - left - 2 * half_width)
    top = torch.where(
        which < 0.5, -1.0, 0.0
    )  # of the photo within the wall, which runs from -1 to 1
    theta[:, 1, 2] = top + half_height + down * (1 - 2 * half_height)
    crops = warp(wall.expand(n, -1, -1, -1), theta)
    return crops.gather(1, _channel_orders(colours)[:, :, None, None].expand_as(crops))


def _channel_orders(units: Tensor) -> Tensor:
    orders = torch.tensor([[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]])
    return orders[(units * 6).long()]


def placement(
    rotation: Tensor, scale: Tensor, shift: Tensor, shear: Tensor | None = None
) -> Tensor:
    """Return the maps from picture to template that place a template in a picture.

    Args:
        rotation: radians, (n,).
        scale: size of the template in the picture, 1 fills it, (n,) or (n, 2) for width and height.
        shift: of its centre, in half sides of the picture, (n, 2).
        shear: (n, 2); the second stretches the height.

    Returns:
        theta for `warp`, (n, 2, 3).
    """
    n = len(rotation)
    shear = rotation.new_zeros(n, 2) if shear is None else shear
    cos, sin = rotation.cos(), rotation.sin()
    turn = torch.stack([cos, -sin, sin, cos], dim=1).reshape(n, 2, 2)
    slant = torch.eye(2, dtype=torch.float64).repeat(n, 1, 1)
    slant[:, 0, 1], slant[:, 1, 1] = shear[:, 0], 1 + shear[:, 1]
    matrix = (turn @ slant) / scale.reshape(n, 1, -1)
    return torch.cat([matrix, -(matrix @ shift[:, :, None])], dim=2)


def warp(templates: Tensor, theta: Tensor, bend: Tensor | None = None) -> Tensor:
    """Sample (n, C, h, w) templates through maps, bent by (n, 2, H, W), into (n, C, H, W)."""
    n, channels = templates.shape[:2]
    grid = F.affine_grid(theta, [n, channels, SIDE, SIDE], align_corners=False)  # (n, H, W, 2)
    if bend is not None:
        grid = grid + bend.permute(0, 2, 3, 1)
    return F.grid_sample(templates, grid, align_corners=False)


def blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur each image with a Gaussian of its own, as two small matrix products.

    Args:
        images: float64 (n, C, H, H).
        sigma: pixels, (n,); 0 leaves the image as it is.
    """
    offsets = torch.arange(-BLUR_REACH, BLUR_REACH + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (offsets / sigma[:, None].clamp(min=1e-3)) ** 2)
    weights = weights / weights.sum(dim=1, keepdim=True)  # (n, 13)
    rows = (weights @ _reflected_shifts(images.shape[-1])).reshape(
        len(images), 1, *images.shape[2:]
    )
    return rows @ images @ rows.transpose(2, 3)


@cache
def _reflected_shifts(side: int) -> Tensor:
    """For each offset the matrix that shifts by it, mirrored at the ends: (13, side * side)."""
    offsets = torch.arange(-BLUR_REACH, BLUR_REACH + 1)
    source = (torch.arange(side) + offsets[:, None]).abs()
    source = side - 1 - (side - 1 - source).abs()
    return F.one_hot(source, side).double().flatten(1)


def legible(ink: Tensor, ground: Tensor) -> Tensor:
    """Make an ink that is too close to the ground's brightness darker or lighter than the ground.

    Args:
        ink: colours in [0, 1], (n, 3).
        ground: float64 (n, 3, H, W).

    Returns:
        Colours in [0, 1], (n, 3, 1, 1).
    """
    mean = ground.mean(dim=(2, 3))
    too_close = (ink - mean).mean(dim=1, keepdim=True).abs() < 0.35
    away = torch.where(mean.mean(dim=1, keepdim=True) > 0.5, mean - 0.5, mean + 0.5)
    return torch.where(too_close, away, ink).clamp(0, 1)[:, :, None, None]


def coordinates() -> tuple[Tensor, Tensor]:
    """Return x (1, 1, W) and y (1, H, 1) of the pixels, from -1 to 1."""
    line = torch.linspace(-1, 1, SIDE, dtype=torch.float64)
    return line[None, None, :], line[None, :, None]


def to_bytes(images: Tensor) -> Tensor:
    """Round pixels in [0, 1] to the 256 levels; what lies outside is clipped."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def per_image(values: Tensor) -> Tensor:
    """Give (n,) the shape (n, 1, 1, 1), so that it multiplies whole images."""
    return values[:, None, None, None]


def package_folder(name: str) -> Path:
    """Return where an installed package lives, without the seconds that importing it takes."""
    spec = find_spec(name)
    assert spec is not None, name
    assert spec.origin is not None, name
    return Path(spec.origin).parent


def font(name: str, size: int) -> "FreeTypeFont":
    """Return one of matplotlib's fonts; the basic layout, which does not depend on the machine."""
    from PIL import ImageFont

    path = package_folder("matplotlib") / "mpl-data" / "fonts" / "ttf" / f"{name}.ttf"
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)
