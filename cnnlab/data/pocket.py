"""PocketSigns: twelve traffic signs, pasted over photographs, spoiled by eleven nuisances.

Training and validation share four fonts and the left 60 % of the photographs; the test part has
three other fonts and the right 40 %. Keep left and keep right are mirror images: here a horizontal
flip changes the label.
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
from cnnlab.data.scenes import Draws, between, per_image
from cnnlab.data.signs import CLASSES, bank


SET = 1  # its number among the generated sets, so that their streams differ
VERSION = 1  # raise it with every change that moves a pixel: cached images are then made again
FONTS = ("DejaVuSans-Bold", "DejaVuSansMono-Bold", "STIXGeneralBol", "cmb10")
TEST_FONTS = ("DejaVuSerif-Bold", "cmss10", "DejaVuSans")

Range = tuple[float, float]


@dataclass(frozen=True)
class Nuisances:
    """How far the pictures may stray from a clean sign; a pair is a range to draw from."""

    rotation: float  # degrees, either way
    scale: Range  # side of the sign, in sides of the picture
    shift: float  # of the centre, in half sides of the picture, either way
    shear: float  # either way, and as much for the height
    gain: Range  # brightness
    cast: float  # of each colour channel, either way
    gradient: float  # of the light across the picture
    blur: Range  # sigma, pixels
    noise: Range  # sigma, pixels in [0, 1]
    occlusion: float  # share of the pictures with a patch over them
    fade: float  # of the paint towards grey, at most

    def with_(self, **changes: Any) -> "Nuisances":
        """Return these nuisances with some changed; a number for a pair fixes the value.

        Raises:
            ValueError: a value is out of its bounds.
        """
        given = {name: value for name, value in changes.items() if value is not None}
        checked: dict[str, Any] = {name: _checked(name, value) for name, value in given.items()}
        return replace(self, **checked)


LEVELS = {
    "easy": Nuisances(
        4, (0.80, 1.0), 0.10, 0.05, (0.90, 1.10), 0.03, 0.10, (0.3, 0.4), (0.005, 0.015), 0.0, 0.10
    ),
    "medium": Nuisances(
        8, (0.75, 1.0), 0.12, 0.12, (0.60, 1.12), 0.08, 0.25, (0.3, 0.9), (0.010, 0.050), 0.15, 0.30
    ),
    "wild": Nuisances(
        10,
        (0.70, 1.0),
        0.18,
        0.15,
        (0.55, 1.15),
        0.10,
        0.30,
        (0.3, 1.0),
        (0.010, 0.060),
        0.25,
        0.35,
    ),
}
_LIMITS = {
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
# Numbers in [0, 1) that a picture takes, whatever the nuisances: so each can be changed alone.
_DRAWS = {
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
    """Return the set with its three parts; one seed shows the same pictures at every level.

    Args:
        seed: base seed.
        n_train: training pictures, as many of each class as of any other.
        n_valid: validation pictures.
        n_test: test pictures.
        level: "easy", "medium" or "wild", the nuisances; below, each of them by name.
        label_noise: share of wrong training labels; the true ones stay in `train.clean_labels`.
        counts: training pictures of each class, instead of `n_train`.
        rotation: degrees, either way.
        scale: (low, high), side of the sign in sides of the picture.
        shift: of the centre, in half sides of the picture, either way.
        shear: either way, and as much for the height.
        gain: (low, high), brightness.
        cast: of each colour channel, either way.
        gradient: of the light across the picture, at most.
        blur: (low, high), sigma in pixels.
        noise: (low, high), sigma of the pixels in [0, 1].
        occlusion: share of the pictures with a patch over them.
        fade: of the paint towards grey, at most.

    Raises:
        ValueError: an unknown level, or a number out of its bounds.
    """
    if level not in LEVELS:
        raise ValueError(f"level={level!r}: use {', '.join(LEVELS)}")
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
    chosen = None if counts is None else balance.per_class(counts, CLASSES)
    train, valid, test = (
        scenes.part(
            partial(make, seed=seed, nuisances=nuisances),
            CLASSES,
            part,
            n,
            chosen if part == "train" else None,
            {"set": "pocket", "version": VERSION, "seed": seed, **asdict(nuisances)},
        )
        for part, n in (("train", n_train), ("valid", n_valid), ("test", n_test))
    )
    return DataBundle("pocket", balance.label_noise(train, label_noise, seed), valid, test)


def make(
    part: str, counts: Sequence[int], n: int, seed: int, nuisances: Nuisances
) -> scenes.Pictures:
    """Make the pictures of one part.

    Args:
        part: "train", "valid" or "test".
        counts: pictures of each class, at most.
        n: pictures in all, at most.
        seed: base seed of the set.
        nuisances: how they are spoiled.

    Returns:
        images, uint8 (N, 3, 32, 32), and labels, int64 (N,).

    >>> images, labels = make("train", [1] * 12, 12, 0, LEVELS["easy"])
    >>> images.shape, labels.sort().values.tolist()
    (torch.Size([12, 3, 32, 32]), [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11])
    """
    fonts, half = (TEST_FONTS, "right") if part == "test" else (FONTS, "left")
    render = partial(_render, signs=bank(fonts), half=half, nuisances=nuisances)
    stream = scenes.Stream(len(CLASSES), sum(_DRAWS.values()), (seed, SET, scenes.PARTS[part]))
    return stream.render(render, counts, n)


def _render(labels: Tensor, draws: Draws, signs: Tensor, half: str, nuisances: Nuisances) -> Tensor:
    """Paste, cover, light, blur, add noise: unit-interval draws in, uint8 pictures out."""
    n, u = nuisances, scenes.named(draws.units, _DRAWS)
    background = scenes.backgrounds(u["background"], half)
    templates = signs[labels, (u["variant"] * signs.shape[1]).long()]  # (m, 4, 64, 64)
    theta = scenes.placement(
        rotation=torch.deg2rad(between(u["rotation"], -n.rotation, n.rotation)),
        scale=between(u["scale"], *n.scale),
        shift=between(u["shift"], -n.shift, n.shift),
        shear=between(u["shear"], -n.shear, n.shear),
    )
    images = _paste(scenes.warp(templates, theta), background, between(u["fade"], 0, n.fade))
    images = _cover(images, background, u["covered"] < n.occlusion, u["patch"])
    images = images * _light(u["direction"], between(u["gradient"], 0, n.gradient))
    images = images * per_image(between(u["gain"], *n.gain))
    images = images * (1 + between(u["cast"], -n.cast, n.cast)[:, :, None, None])
    images = scenes.blur(images, between(u["blur"], *n.blur))
    return scenes.to_bytes(images + draws.noise * per_image(between(u["noise"], *n.noise)))


def _paste(signs: Tensor, background: Tensor, fade: Tensor) -> Tensor:
    """Lay faded paint, with premultiplied alpha, over the background."""
    paint, alpha = signs[:, :3], signs[:, 3:]  # (m, 4, H, W) -> (m, 3, H, W), (m, 1, H, W)
    grey = 0.5 * alpha
    return torch.lerp(paint, grey.expand_as(paint), per_image(fade)) + background * (1 - alpha)


def _cover(images: Tensor, background: Tensor, covered: Tensor, patch: Tensor) -> Tensor:
    """Cover a rectangle with the opposite corner of the background, in other colours."""
    x, y = scenes.coordinates()
    middle = between(patch[:, :2], -0.8, 0.8)[:, :, None, None]
    reach = between(patch[:, 2:], 0.15, 0.45)[:, :, None, None]
    inside = ((x - middle[:, 0]).abs() < reach[:, 0]) & ((y - middle[:, 1]).abs() < reach[:, 1])
    hidden = (inside & covered[:, None, None])[:, None]  # (m, 1, H, W)
    return torch.where(hidden, background.flip(2, 3).roll(1, dims=1), images)


def _light(direction: Tensor, gradient: Tensor) -> Tensor:
    """Light that grows across the picture, 1 in its middle: (m, 1, H, W)."""
    x, y = scenes.coordinates()
    angle = (2 * math.pi * direction)[:, None, None]
    return (1 + gradient[:, None, None] * (x * angle.cos() + y * angle.sin()))[:, None]


def _checked(name: str, value: float | Range) -> float | Range:
    """A nuisance within its bounds; a number for a pair becomes a range of no width."""
    is_pair = isinstance(getattr(LEVELS["easy"], name), tuple)
    low, high = value if isinstance(value, Sequence) else (value, value)
    least, most = _LIMITS[name]
    if not least <= low <= high <= most or (isinstance(value, Sequence) and not is_pair):
        wanted = "a number or a pair (low, high)" if is_pair else "a number"
        raise ValueError(f"{name}={value!r}: give {wanted} between {least} and {most}")
    return (float(low), float(high)) if is_pair else float(low)
