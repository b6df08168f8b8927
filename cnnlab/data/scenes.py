"""Tools for the three generated data sets: random streams, backgrounds, fonts, warp and blur.

All random numbers of an image are drawn first, always equally many, and applied afterwards. So you
can change one nuisance and keep everything else in the images, and image i doesn't depend on the
number of images. All arithmetic is in float64, because float32 rounds differently on other
processors, which would sometimes change a pixel by one of its 256 levels.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from itertools import count
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cnnlab import rng
from cnnlab.data.cache import cached
from cnnlab.data.images import ImageSet
from cnnlab.errors import holds
from cnnlab.limits import limits


if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont


LabelledImages = tuple[Tensor, Tensor]  # uint8 (N, 3, 32, 32) and int64 (N,)

SIDE = 32  # pixels
BLUR_RADIUS = 6  # pixels: three sigma of the strongest blur that is allowed
SPLITS = {"train": 1, "valid": 2, "test": 3}
# The two photographs that scikit-learn ships are cut at 60 % of their width, and no image contains
# pixels from both sides of the cut. In units of half the width, from the centre.
HALVES = {"left": (-1.0, 0.2), "right": (0.2, 1.0)}


@dataclass(frozen=True)
class Draws:
    """Random numbers of n images: `uniform` (n, width) in [0, 1), normal `noise` (n, 3, H, W)."""

    uniform: Tensor
    noise: Tensor

    def select(self, rows: Tensor) -> "Draws":
        """Return the random numbers of some of the images."""
        return Draws(self.uniform[rows], self.noise[rows])


def draw(n: int, width: int, *counters: int) -> Draws:
    """Draw the random numbers of n images from the stream determined by `counters`.

    PCG64 gives the same numbers on every platform; torch's normal numbers depend on the processor.
    """
    generator = np.random.Generator(np.random.PCG64(rng.fold_in(*counters)))
    uniform = torch.from_numpy(generator.random((n, width)))
    return Draws(uniform, torch.from_numpy(generator.standard_normal((n, 3, SIDE, SIDE))))


@dataclass(frozen=True)
class Stream:
    """An endless stream of labels and random numbers; each run of K images has each class once.

    Args:
        n_classes: K.
        width: uniform random numbers per image.
        counters: seed, data set and split, which determine the numbers.
    """

    n_classes: int
    width: int
    counters: tuple[int, ...]

    def render(
        self, make: Callable[[Tensor, Draws], Tensor], counts: Sequence[int], n: int
    ) -> LabelledImages:
        """Make the first images of the stream, at most `counts[k]` of class k and n in total.

        Args:
            make: (labels (m,), draws) -> uint8 (m, 3, H, W); image i depends only on row i.
            counts: largest number of images of each class.
            n: largest total number of images.
        """
        images, labels = [torch.empty(0, 3, SIDE, SIDE, dtype=torch.uint8)], [torch.empty(0).long()]
        n_left = min(n, sum(counts))
        for chunk in count():
            chunk_labels, draws = self._draw_chunk(chunk)
            rows = self._rows_to_render(chunk, chunk_labels, counts)[:n_left]
            images.append(make(chunk_labels[rows], draws.select(rows)))
            labels.append(chunk_labels[rows])
            n_left -= len(rows)
            if not n_left:
                break
        return torch.cat(images), torch.cat(labels)

    @property
    def _runs_per_chunk(self) -> int:
        """Runs of K images in a chunk; about 240 images fit in the cache of the processor."""
        return max(1, 240 // self.n_classes)

    def _draw_chunk(self, chunk: int) -> tuple[Tensor, Draws]:
        """Draw the labels and the random numbers of a chunk of images."""
        draws = draw(self._runs_per_chunk * self.n_classes, self.width + 1, *self.counters, chunk)
        order = draws.uniform[:, -1].reshape(self._runs_per_chunk, self.n_classes).argsort(dim=1)
        return order.flatten(), draws

    def _rows_to_render(self, chunk: int, labels: Tensor, counts: Sequence[int]) -> Tensor:
        """Return the rows of a chunk that are among the first `counts[k]` images of their class."""
        run = torch.arange(self._runs_per_chunk).repeat_interleave(self.n_classes)
        n_earlier = chunk * self._runs_per_chunk + run  # images of the same class before this one
        return (n_earlier < torch.tensor(counts)[labels]).nonzero().flatten()


def make_split(
    make: Callable[[str, Sequence[int], int], LabelledImages],
    classes: tuple[str, ...],
    name: str,
    n: int,
    counts: Sequence[int] | None,
    key: dict[str, Any],
) -> ImageSet:
    """Return one split of a generated data set, from the cache if it was made before.

    Args:
        make: (split name, counts, n) -> images and labels.
        classes: their names.
        name: "train", "valid" or "test".
        n: number of images, spread over the classes as evenly as possible.
        counts: images of each class, instead of n.
        key: everything else that the images depend on.
    """
    if counts is None and not holds(lambda: index(n) == n):
        raise ValueError(f"n_{name} must be a whole number of images, got {n!r}")
    if n < 1 or (counts is not None and sum(counts) < 1):
        option = f"n_{name}={n}" if n < 1 else f"counts={counts}"
        raise ValueError(f"{option} gives no images for the split {name!r}; use 1 or more")
    if counts is None:
        n = limited(n, len(classes))
        per_class = [math.ceil(n / len(classes))] * len(classes)
    else:
        per_class = [limited(m) for m in counts]
        n = sum(per_class)

    def make_tensors() -> dict[str, Tensor]:
        images, labels = make(name, per_class, n)
        return {"images": images, "labels": labels}

    tensors = cached(make_tensors, f"{key['set']}-{name}", n=n, counts=per_class, **key)
    return ImageSet(tensors["images"], tensors["labels"], classes)


def limited(n: int, n_classes: int = 1) -> int:
    """Return n times `limits.data_fraction`, but at least 4 images per class if n has them."""
    return min(n, max(int(n * limits.data_fraction), 4 * n_classes))


def by_name(uniform: Tensor, columns: dict[str, int]) -> dict[str, Tensor]:
    """Split uniform random numbers by the names of their columns.

    Args:
        uniform: (n, width).
        columns: name -> number of columns, in order.

    Returns:
        name -> (n,) for a single column, (n, k) for k columns.
    """
    pieces = uniform[:, : sum(columns.values())].split(list(columns.values()), dim=1)
    pairs = zip(columns, pieces, strict=True)
    return {name: u[:, 0] if u.shape[1] == 1 else u for name, u in pairs}


def to_range(unit: Tensor, low: float, high: float) -> Tensor:
    """Map numbers in [0, 1) to [low, high)."""
    return low + (high - low) * unit


@cache
def photos() -> Tensor:
    """Return scikit-learn's two photographs, one above the other, float64 (1, 3, 2 * 427, 640)."""
    from PIL import Image

    folder = package_folder("sklearn") / "datasets" / "images"
    pixels = [np.asarray(Image.open(folder / name)) for name in ("china.jpg", "flower.jpg")]
    stacked = torch.from_numpy(np.concatenate(pixels)).permute(2, 0, 1)  # (H, W, 3) -> (3, H, W)
    return stacked[None].double() / 255


def backgrounds(uniform: Tensor, half: str) -> Tensor:
    """Crop a square from a photograph for each image, and permute its colour channels.

    Args:
        uniform: random numbers in [0, 1), (n, 6).
        half: "left" or "right", the region of the photographs.

    Returns:
        float64 (n, 3, H, W) in [0, 1].
    """
    n, stacked = len(uniform), photos()
    which, size, across, down, mirror, colours = uniform.unbind(dim=1)
    left, right = HALVES[half]
    half_width = to_range(size, 0.05, 0.20)
    half_height = half_width * stacked.shape[3] / stacked.shape[2]  # square in pixels
    theta = uniform.new_zeros(n, 2, 3)
    theta[:, 0, 0] = torch.where(mirror < 0.5, -half_width, half_width)
    theta[:, 1, 1] = half_height
    theta[:, 0, 2] = left + half_width + across * (right - left - 2 * half_width)
    top = torch.where(which < 0.5, -1.0, 0.0)  # of the photo; the two together run from -1 to 1
    theta[:, 1, 2] = top + half_height + down * (1 - 2 * half_height)
    crops = warp(stacked.expand(n, -1, -1, -1), theta)
    return crops.gather(1, as_nchw(_channel_orders(colours)).expand_as(crops))


def _channel_orders(uniform: Tensor) -> Tensor:
    """Choose one of the six orders of three channels for each image: (n,) -> int64 (n, 3)."""
    orders = torch.tensor([[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]])
    return orders[(uniform * 6).long()]


def placement(
    rotation: Tensor, scale: Tensor, shift: Tensor, shear: Tensor | None = None
) -> Tensor:
    """Compute the affine maps from image to template that place templates in images.

    Args:
        rotation: radians, (n,).
        scale: size of the template; 1 fills the image. (n,), or (n, 2) for width and height.
        shift: of its centre, in half sides of the image, (n, 2).
        shear: horizontal shear and vertical stretch, (n, 2); none by default.

    Returns:
        theta for `warp`, (n, 2, 3).
    """
    n = len(rotation)
    shear = rotation.new_zeros(n, 2) if shear is None else shear
    cos, sin = rotation.cos(), rotation.sin()
    rotate = torch.stack([cos, -sin, sin, cos], dim=1).reshape(n, 2, 2)
    skew = torch.eye(2, dtype=torch.float64).repeat(n, 1, 1)
    skew[:, 0, 1], skew[:, 1, 1] = shear[:, 0], 1 + shear[:, 1]
    matrix = (rotate @ skew) / scale.reshape(n, 1, -1)
    return torch.cat([matrix, -(matrix @ shift[:, :, None])], dim=2)


def warp(templates: Tensor, theta: Tensor, displacement: Tensor | None = None) -> Tensor:
    """Resample templates through affine maps into images, (n, C, h, w) -> (n, C, H, W).

    Args:
        templates: (n, C, h, w).
        theta: from `placement`, (n, 2, 3).
        displacement: added to the sampling positions, in half sides of the template, (n, 2, H, W).
    """
    n, channels = templates.shape[:2]
    grid = F.affine_grid(theta, [n, channels, SIDE, SIDE], align_corners=False)  # (n, H, W, 2)
    if displacement is not None:
        grid = grid + displacement.permute(0, 2, 3, 1)
    return F.grid_sample(templates, grid, align_corners=False)


def blur(images: Tensor, sigma: Tensor) -> Tensor:
    """Blur each image with its own Gaussian, as a matrix product for rows and one for columns.

    Args:
        images: float64 (n, C, H, H).
        sigma: pixels, (n,); 0 leaves an image unchanged.
    """
    offsets = torch.arange(-BLUR_RADIUS, BLUR_RADIUS + 1, dtype=torch.float64)
    weights = torch.exp(-0.5 * (offsets / sigma[:, None].clamp(min=1e-3)) ** 2)
    weights = weights / weights.sum(dim=1, keepdim=True)  # (n, 13)
    kernel = weights @ _reflected_shifts(images.shape[-1])
    kernel = kernel.reshape(len(images), 1, *images.shape[2:])
    return kernel @ images @ kernel.transpose(2, 3)


@cache
def _reflected_shifts(side: int) -> Tensor:
    """Return the matrix of each shift, with reflection at the borders: (13, side * side)."""
    offsets = torch.arange(-BLUR_RADIUS, BLUR_RADIUS + 1)
    source = (torch.arange(side) + offsets[:, None]).abs()
    source = side - 1 - (side - 1 - source).abs()
    return F.one_hot(source, side).double().flatten(1)


def ensure_contrast(ink: Tensor, background: Tensor) -> Tensor:
    """Make an ink clearly darker or lighter than its background if they are equally bright.

    Args:
        ink: colours in [0, 1], (n, 3).
        background: float64 (n, 3, H, W).

    Returns:
        Colours in [0, 1], (n, 3, 1, 1).
    """
    mean = background.mean(dim=(2, 3))
    too_close = (ink - mean).mean(dim=1, keepdim=True).abs() < 0.35
    away = torch.where(mean.mean(dim=1, keepdim=True) > 0.5, mean - 0.5, mean + 0.5)
    return as_nchw(torch.where(too_close, away, ink).clamp(0, 1))


def pixel_coordinates() -> tuple[Tensor, Tensor]:
    """Return the coordinates x (1, 1, W) and y (1, H, 1) of the pixels, from -1 to 1."""
    line = torch.linspace(-1, 1, SIDE, dtype=torch.float64)
    return line[None, None, :], line[None, :, None]


def to_uint8(images: Tensor) -> Tensor:
    """Round pixels in [0, 1] to 256 levels; values outside are clipped."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8)


def as_nchw(values: Tensor) -> Tensor:
    """Reshape (n,) to (n, 1, 1, 1), or (n, C) to (n, C, 1, 1), to broadcast over pixels."""
    return values.reshape(len(values), -1, 1, 1)


def package_folder(name: str) -> Path:
    """Return the folder of an installed package without importing it, which can take seconds."""
    spec = find_spec(name)
    assert spec is not None, name
    assert spec.origin is not None, name
    return Path(spec.origin).parent


def load_font(name: str, size: int) -> "FreeTypeFont":
    """Load one of matplotlib's fonts, with the basic layout, which is the same on every machine."""
    from PIL import ImageFont

    path = package_folder("matplotlib") / "mpl-data" / "fonts" / "ttf" / f"{name}.ttf"
    return ImageFont.truetype(str(path), size, layout_engine=ImageFont.Layout.BASIC)
