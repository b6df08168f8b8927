"""PocketSigns: twelve traffic signs, pasted over photographs, with eleven nuisances.

The training and validation sets use four fonts and the left 60 % of the photographs, the test set
three other fonts and the right 40 %. Keep left and keep right are mirror images of each other, so
here a horizontal flip changes the label.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from cnnlab.data import balance, scenes
from cnnlab.data.images import DataBundle
from cnnlab.data.scenes import Draws, as_nchw, to_range
from cnnlab.data.signs import CLASSES, bank


SET = 1  # the number of this data set, so that each generated set has its own random stream
VERSION = 1  # increase it if any pixel changes, so that cached images are made again
FONTS = ("DejaVuSans-Bold", "DejaVuSansMono-Bold", "STIXGeneralBol", "cmb10")
TEST_FONTS = ("DejaVuSerif-Bold", "cmss10", "DejaVuSans")

Range = tuple[float, float]


@dataclass(frozen=True)
class Nuisances:
    """How much the images differ from a clean sign; a pair is a range to draw from."""

    rotation: float  # largest rotation in degrees, in both directions
    scale: Range  # side of the sign, as a fraction of the side of the image
    shift: float  # largest shift of the centre, in half sides of the image, in both directions
    shear: float  # largest shear, in both directions; the height changes by as much
    gain: Range  # factor of the brightness
    cast: float  # largest change of each colour channel, in both directions
    gradient: float  # largest change of brightness across the image
    blur: Range  # sigma in pixels
    noise: Range  # sigma, for pixels in [0, 1]
    occlusion: float  # fraction of the images that are partly covered
    fade: float  # largest fading of the paint towards grey

    def with_(self, **changes: Any) -> "Nuisances":
        """Return a copy with some values changed; None keeps a value, and a number x means (x, x).

        Raises:
            ValueError: a value is out of bounds.
        """
        changes = {name: value for name, value in changes.items() if value is not None}
        checked: dict[str, Any] = {name: _check(name, value) for name, value in changes.items()}
        return replace(self, **checked)


LEVELS = {
    "easy": Nuisances(
        rotation=4, scale=(0.80, 1.0), shift=0.10, shear=0.05, gain=(0.90, 1.10), cast=0.03,
        gradient=0.10, blur=(0.3, 0.4), noise=(0.005, 0.015), occlusion=0.0, fade=0.10,
    ),
    "medium": Nuisances(
        rotation=8, scale=(0.75, 1.0), shift=0.12, shear=0.12, gain=(0.60, 1.12), cast=0.08,
        gradient=0.25, blur=(0.3, 0.9), noise=(0.010, 0.050), occlusion=0.15, fade=0.30,
    ),
    "wild": Nuisances(
        rotation=10, scale=(0.70, 1.0), shift=0.18, shear=0.15, gain=(0.55, 1.15), cast=0.10,
        gradient=0.30, blur=(0.3, 1.0), noise=(0.010, 0.060), occlusion=0.25, fade=0.35,
    ),
}  # fmt: skip
_BOUNDS = {
    "rotation": (0, 180),
    "scale": (0.05, 10),
    "shift": (0, 2),
    "shear": (0, 0.9),
    "gain": (0, 10),
    "cast": (0, 1),
    "gradient": (0, 1),
    "blur": (0, 2),
    "noise": (0, 10),
    "occlusion": (0, 1),
    "fade": (0, 1),
}
# Uniform random numbers per image. They are always drawn, so each nuisance can be changed alone.
_COLUMNS = {
    "variant": 1,
    "rotation": 1,
    "scale": 1,
    "shift": 2,
    "shear": 2,
    "fade": 1,
    "covered": 1,
    "patch": 4,
    "gain": 1,
    "direction": 1,
    "gradient": 1,
    "cast": 3,
    "blur": 1,
    "noise": 1,
    "background": 6,
}


def load(
    *,
    seed: int = 0,
    n_train: int = 3000,
    n_valid: int = 960,
    n_test: int = 960,
    level: str = "medium",
    label_noise: float = 0.0,
    counts: Sequence[int] | Mapping[str, int] | None = None,
    rotation: float | None = None,
    scale: float | Range | None = None,
    shift: float | None = None,
    shear: float | None = None,
    gain: float | Range | None = None,
    cast: float | None = None,
    gradient: float | None = None,
    blur: float | Range | None = None,
    noise: float | Range | None = None,
    occlusion: float | None = None,
    fade: float | None = None,
) -> DataBundle:
    """Make the data set; the same seed gives the same signs and backgrounds at every level.

    Args:
        seed: base seed.
        n_train: number of training images, the same for each class.
        n_valid: number of validation images.
        n_test: number of test images.
        level: "easy", "medium" or "wild" sets all nuisances; the arguments below change one each.
        label_noise: fraction of wrong training labels; `train.clean_labels` has the correct ones.
        counts: number of training images of each class, instead of `n_train`.
        rotation: largest rotation in degrees, in both directions.
        scale: (low, high) of the side of the sign, as a fraction of the side of the image.
        shift: largest shift of the centre, in half sides of the image, in both directions.
        shear: largest shear, in both directions; the height changes by as much.
        gain: (low, high) of the factor of the brightness.
        cast: largest change of each colour channel, in both directions.
        gradient: largest change of brightness across the image.
        blur: (low, high) of sigma in pixels.
        noise: (low, high) of sigma, for pixels in [0, 1].
        occlusion: fraction of the images that are partly covered.
        fade: largest fading of the paint towards grey, in [0, 1].

    Raises:
        ValueError: the level is unknown, or a number is out of bounds.
    """
    if level not in LEVELS:
        raise ValueError(f"level must be one of {', '.join(map(repr, LEVELS))}; got {level!r}")
    nuisances = LEVELS[level].with_(
        rotation=rotation,
        scale=scale,
        shift=shift,
        shear=shear,
        gain=gain,
        cast=cast,
        gradient=gradient,
        blur=blur,
        noise=noise,
        occlusion=occlusion,
        fade=fade,
    )
    train_counts = None if counts is None else balance.counts_per_class(counts, CLASSES)
    train, valid, test = (
        scenes.make_split(
            partial(make, seed=seed, nuisances=nuisances),
            CLASSES,
            split,
            n,
            train_counts if split == "train" else None,
            {"set": "pocket", "version": VERSION, "seed": seed, **asdict(nuisances)},
        )
        for split, n in (("train", n_train), ("valid", n_valid), ("test", n_test))
    )
    return DataBundle("pocket", balance.label_noise(train, label_noise, seed), valid, test)


def make(
    split: str, counts: Sequence[int], n: int, seed: int, nuisances: Nuisances
) -> scenes.LabelledImages:
    """Make the images of one split.

    Args:
        split: "train", "valid" or "test".
        counts: largest number of images of each class.
        n: largest total number of images.
        seed: base seed of the data set.
        nuisances: how much the images differ from clean signs.

    Returns:
        images, uint8 (N, 3, 32, 32), and labels, int64 (N,).

    >>> images, labels = make("train", [1] * 12, 12, 0, LEVELS["easy"])
    >>> images.shape, labels.sort().values.tolist()
    (torch.Size([12, 3, 32, 32]), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11])
    """
    fonts, half = (TEST_FONTS, "right") if split == "test" else (FONTS, "left")
    render = partial(_render, signs=bank(fonts), half=half, nuisances=nuisances)
    stream = scenes.Stream(len(CLASSES), sum(_COLUMNS.values()), (seed, SET, scenes.SPLITS[split]))
    return stream.render(render, counts, n)


def _render(labels: Tensor, draws: Draws, signs: Tensor, half: str, nuisances: Nuisances) -> Tensor:
    """Paste signs over backgrounds and apply every nuisance, uint8 (m, 3, 32, 32)."""
    n, u = nuisances, scenes.by_name(draws.uniform, _COLUMNS)
    background = scenes.backgrounds(u["background"], half)
    templates = signs[labels, (u["variant"] * signs.shape[1]).long()]  # (m, 4, 64, 64)
    theta = scenes.placement(
        rotation=torch.deg2rad(to_range(u["rotation"], -n.rotation, n.rotation)),
        scale=to_range(u["scale"], *n.scale),
        shift=to_range(u["shift"], -n.shift, n.shift),
        shear=to_range(u["shear"], -n.shear, n.shear),
    )
    images = _paste(scenes.warp(templates, theta), background, to_range(u["fade"], 0, n.fade))
    images = _cover(images, background, u["covered"] < n.occlusion, u["patch"])
    images = images * _light(u["direction"], to_range(u["gradient"], 0, n.gradient))
    images = images * as_nchw(to_range(u["gain"], *n.gain))
    images = images * (1 + as_nchw(to_range(u["cast"], -n.cast, n.cast)))
    images = scenes.blur(images, to_range(u["blur"], *n.blur))
    return scenes.to_uint8(images + draws.noise * as_nchw(to_range(u["noise"], *n.noise)))


def _paste(signs: Tensor, background: Tensor, fade: Tensor) -> Tensor:
    """Fade the signs, which have premultiplied alpha, and paste them over the background."""
    paint, alpha = signs[:, :3], signs[:, 3:]  # (m, 4, H, W) -> (m, 3, H, W), (m, 1, H, W)
    grey = 0.5 * alpha
    return torch.lerp(paint, grey.expand_as(paint), as_nchw(fade)) + background * (1 - alpha)


def _cover(images: Tensor, background: Tensor, covered: Tensor, patch: Tensor) -> Tensor:
    """Cover a rectangle of some images with the opposite corner of the background, recoloured.

    Args:
        images: (m, 3, H, W).
        background: (m, 3, H, W); the cover is flipped both ways, with rotated channels.
        covered: which images, bool (m,).
        patch: centre and half size of the rectangle, in [0, 1), (m, 4).
    """
    x, y = scenes.pixel_coordinates()
    centre = as_nchw(to_range(patch[:, :2], -0.8, 0.8))
    reach = as_nchw(to_range(patch[:, 2:], 0.15, 0.45))
    inside = ((x - centre[:, 0]).abs() < reach[:, 0]) & ((y - centre[:, 1]).abs() < reach[:, 1])
    hidden = (inside & covered[:, None, None])[:, None]  # (m, 1, H, W)
    return torch.where(hidden, background.flip(2, 3).roll(1, dims=1), images)


def _light(direction: Tensor, gradient: Tensor) -> Tensor:
    """Return a brightness that changes linearly across the image, 1 in the centre: (m, 1, H, W)."""
    x, y = scenes.pixel_coordinates()
    angle = (2 * math.pi * direction)[:, None, None]
    return (1 + gradient[:, None, None] * (x * angle.cos() + y * angle.sin()))[:, None]


def _check(name: str, value: float | Range) -> float | Range:
    """Return a nuisance that is within its bounds; a number instead of a pair becomes (x, x)."""
    is_pair = isinstance(getattr(LEVELS["easy"], name), tuple)
    low, high = value if isinstance(value, Sequence) else (value, value)
    lower, upper = _BOUNDS[name]
    if not lower <= low <= high <= upper or (isinstance(value, Sequence) and not is_pair):
        kind = "a number or a pair (low, high)" if is_pair else "a number"
        raise ValueError(f"{name} must be {kind} between {lower} and {upper}, got {value!r}")
    return (float(low), float(high)) if is_pair else float(low)
