"""WildDigits: scikit-learn's 1,797 handwritten digits, painted over photographs.

Each digit is painted once; the parts are split by digit. The photographs are cut on the right of
the line that the glyphs stay left of, so a network that has learned from glyphs has not seen these
backgrounds.
"""

import gzip
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cnnlab.data import balance, scenes
from cnnlab.data.cache import cached
from cnnlab.data.images import DataBundle, ImageSet
from cnnlab.data.scenes import Draws, between, per_image


SET = 2  # its number among the generated sets, so that their streams differ
VERSION = 1  # raise it with every change that moves a pixel: cached images are then made again
CLASSES = tuple("0123456789")
N_TEST, N_VALID = 600, 237

_CHUNK = 240  # digits rendered together
_DRAWS = {
    "rotation": 1,
    "scale": 1,
    "shift": 2,
    "tint": 3,
    "ink": 3,
    "blur": 1,
    "noise": 1,
    "background": 6,
}


def load(*, seed: int = 0, half: str = "right", plain: bool = False) -> DataBundle:
    """Return the set: 960 training, 237 validation and 600 test digits, stratified.

    Args:
        seed: chooses the parts, the colours and the backgrounds.
        half: "right" or "left", the region of the photographs.
        plain: the digits as they are, white on black; much easier.

    Raises:
        ValueError: an unknown half.
    """
    if half not in scenes.HALVES:
        raise ValueError(f"half={half!r}: use {', '.join(scenes.HALVES)}")
    strokes, labels = _handwritten()
    key = {"version": VERSION, "seed": seed, "half": half, "plain": plain}
    make = partial(_plain, strokes) if plain else partial(_wild, strokes, seed, half)
    images = cached(lambda: {"images": make()}, "digits", **key)["images"]
    digits = ImageSet(images, labels, CLASSES)
    rest, tested = balance.split(labels, N_TEST, seed)
    chosen, held_out = balance.split(labels[rest], N_VALID, seed)
    train, valid, test = (
        _smaller(digits.select(part)) for part in (rest[chosen], rest[held_out], tested)
    )
    return DataBundle("digits", train, valid, test)


def _smaller(part: ImageSet) -> ImageSet:
    n = scenes.smaller(len(part), len(CLASSES))
    return part if n == len(part) else part.select(balance.split(part.labels, n)[1])


def _handwritten() -> tuple[Tensor, Tensor]:
    """The ink of each digit, float64 (1797, 1, 8, 8) in [0, 1], and the labels."""
    path = scenes.package_folder("sklearn") / "datasets" / "data" / "digits.csv.gz"
    with gzip.open(path) as file:
        table = torch.from_numpy(np.loadtxt(file, delimiter=","))  # 64 pixels and a label
    return table[:, :-1].reshape(-1, 1, 8, 8) / 16, table[:, -1].long()


def _plain(strokes: Tensor) -> Tensor:
    """White on black with a margin of two pixels, uint8 (n, 3, 32, 32)."""
    larger = F.interpolate(strokes, size=(28, 28), mode="bilinear", align_corners=False)
    return scenes.to_bytes(F.pad(larger, (2,) * 4).expand(-1, 3, -1, -1)).contiguous()


def _wild(strokes: Tensor, seed: int, half: str) -> Tensor:
    """The painted digits, uint8 (n, 3, 32, 32)."""
    width = sum(_DRAWS.values())
    painted = [
        _render(
            chunk, scenes.draw(_CHUNK, width, seed, SET, i).take(torch.arange(len(chunk))), half
        )
        for i, chunk in enumerate(_sharp(strokes).split(_CHUNK))
    ]
    return torch.cat(painted)


def _sharp(strokes: Tensor) -> Tensor:
    """Enlarge six times and steepen the edges of the strokes: (n, 1, 8, 8) -> (n, 1, 48, 48)."""
    larger = F.interpolate(
        F.pad(strokes, (2,) * 4), size=(48, 48), mode="bicubic", align_corners=False
    )
    return ((larger - 0.15) / 0.6).clamp(0, 1)


def _render(strokes: Tensor, draws: Draws, half: str) -> Tensor:
    """Tint the background, paint the digit, blur, add noise."""
    u = scenes.named(draws.units, _DRAWS)
    theta = scenes.placement(
        rotation=torch.deg2rad(between(u["rotation"], -12, 12)),
        scale=between(u["scale"], 0.95, 1.30),
        shift=between(u["shift"], -0.10, 0.10),
    )
    alpha = scenes.warp(strokes, theta)  # (n, 1, 48, 48) -> (n, 1, 32, 32)
    tint = u["tint"][:, :, None, None]
    ground = 0.7 * scenes.backgrounds(u["background"], half) + 0.3 * tint
    images = ground + (scenes.legible(u["ink"], ground) - ground) * alpha
    images = scenes.blur(images, between(u["blur"], 0.2, 0.8))
    return scenes.to_bytes(images + draws.noise * per_image(between(u["noise"], 0, 0.05)))
