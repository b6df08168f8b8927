"""WildDigits: scikit-learn's 1,797 handwritten digits, painted over photographs.

Each digit is painted once, so no digit is in two splits. The backgrounds come from the right side
of the photographs and those of the glyphs from the left, so a network that was trained on glyphs
has not seen these backgrounds.
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
from cnnlab.data.scenes import Draws, as_nchw, to_range


SET = 2  # the number of this data set, so that each generated set has its own random stream
VERSION = 1  # increase it if any pixel changes, so that cached images are made again
CLASSES = tuple("0123456789")
N_TEST, N_VALID = 600, 237

_CHUNK = 240  # digits that are rendered together
# Uniform random numbers per image.
_COLUMNS = {
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
    """Make the data set: 960 training, 237 validation and 600 test digits, stratified.

    Args:
        seed: determines the splits, the colours and the backgrounds.
        half: "right" or "left", the region of the photographs.
        plain: return the digits white on black, which is much easier.

    Raises:
        ValueError: the half is unknown.
    """
    if half not in scenes.HALVES:
        raise ValueError(f"half must be {' or '.join(map(repr, scenes.HALVES))}, got {half!r}")
    strokes, labels = _handwritten()
    key = {"version": VERSION, "seed": seed, "half": half, "plain": plain}
    make = partial(_plain, strokes) if plain else partial(_painted, strokes, seed, half)
    images = cached(lambda: {"images": make()}, "digits", **key)["images"]
    digits = ImageSet(images, labels, CLASSES)
    rest, in_test = balance.stratified_split(labels, N_TEST, seed)
    in_train, in_valid = balance.stratified_split(labels[rest], N_VALID, seed)
    splits = (rest[in_train], rest[in_valid], in_test)
    train, valid, test = (_limited(digits.select(indices)) for indices in splits)
    return DataBundle("digits", train, valid, test)


def _limited(split: ImageSet) -> ImageSet:
    """Return a stratified subset of the size that `limits.data_fraction` allows."""
    n = scenes.limited(len(split), len(CLASSES))
    if n == len(split):
        return split
    return split.select(balance.stratified_split(split.labels, n)[1])


def _handwritten() -> tuple[Tensor, Tensor]:
    """Return the ink of each digit, float64 (1797, 1, 8, 8) in [0, 1], and the labels."""
    path = scenes.package_folder("sklearn") / "datasets" / "data" / "digits.csv.gz"
    with gzip.open(path) as file:
        table = torch.from_numpy(np.loadtxt(file, delimiter=","))  # 64 pixels and a label
    return table[:, :-1].reshape(-1, 1, 8, 8) / 16, table[:, -1].long()


def _plain(strokes: Tensor) -> Tensor:
    """Return the digits white on black with a margin of two pixels, uint8 (n, 3, 32, 32)."""
    enlarged = F.interpolate(strokes, size=(28, 28), mode="bilinear", align_corners=False)
    return scenes.to_uint8(F.pad(enlarged, (2,) * 4).expand(-1, 3, -1, -1)).contiguous()


def _painted(strokes: Tensor, seed: int, half: str) -> Tensor:
    """Return the digits painted over photographs, uint8 (n, 3, 32, 32)."""
    width = sum(_COLUMNS.values())
    images = []
    for number, chunk in enumerate(_sharpen(strokes).split(_CHUNK)):
        draws = scenes.draw(_CHUNK, width, seed, SET, number)
        images.append(_render(chunk, draws.select(torch.arange(len(chunk))), half))
    return torch.cat(images)


def _sharpen(strokes: Tensor) -> Tensor:
    """Enlarge strokes by interpolation and sharpen their edges: (n, 1, 8, 8) -> (n, 1, 48, 48)."""
    padded = F.pad(strokes, (2,) * 4)
    enlarged = F.interpolate(padded, size=(48, 48), mode="bicubic", align_corners=False)
    return ((enlarged - 0.15) / 0.6).clamp(0, 1)


def _render(strokes: Tensor, draws: Draws, half: str) -> Tensor:
    """Paint digits over tinted backgrounds, blur and add noise, uint8 (m, 3, 32, 32)."""
    u = scenes.by_name(draws.uniform, _COLUMNS)
    theta = scenes.placement(
        rotation=torch.deg2rad(to_range(u["rotation"], -12, 12)),
        scale=to_range(u["scale"], 0.95, 1.30),
        shift=to_range(u["shift"], -0.10, 0.10),
    )
    alpha = scenes.warp(strokes, theta)  # (n, 1, 48, 48) -> (n, 1, 32, 32)
    background = 0.7 * scenes.backgrounds(u["background"], half) + 0.3 * as_nchw(u["tint"])
    images = background + (scenes.ensure_contrast(u["ink"], background) - background) * alpha
    images = scenes.blur(images, to_range(u["blur"], 0.2, 0.8))
    return scenes.to_uint8(images + draws.noise * as_nchw(to_range(u["noise"], 0, 0.05)))
