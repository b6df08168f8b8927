"""Glyphs: 97 printed Latin letters, Greek letters and symbols, the source task of transfer.

There are no digits. A few classes look almost the same (o and O, c and C, l and I), so no network
reaches an accuracy of 100 %.
"""

from collections.abc import Sequence
from functools import cache, partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cnnlab.data import scenes
from cnnlab.data.images import DataBundle
from cnnlab.data.scenes import Draws, as_nchw, to_range


SET = 3  # the number of this data set, so that each generated set has its own random stream
VERSION = 1  # increase it if any pixel changes, so that cached images are made again
CLASSES = tuple(
    "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
    "abcdefghijklmnopqrstuvwxyz"
    "&%$#@?!+=<>{}[]/*~"
    "αβγδεζηθλμξπρσφψωΓΔΘΛΞΠΣΦΨΩ"
)
FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSansMono",
    "DejaVuSerif",
    "DejaVuSerif-Italic",
    "STIXGeneral",
    "STIXGeneralBol",
    "STIXGeneralItalic",
)

# Uniform random numbers per image.
_COLUMNS = {
    "font": 1,
    "weight": 1,
    "rotation": 1,
    "scale": 1,
    "stretch": 1,
    "shear": 1,
    "shift": 2,
    "bend": 2 * 4 * 4,
    "coarse": 1,
    "ground": 3,
    "ink": 3,
    "grey": 1,
    "photo": 1,
    "blur": 1,
    "noise": 1,
    "background": 6,
}


def load(
    *, seed: int = 0, n_train: int = 16000, n_valid: int = 1500, n_test: int = 1500
) -> DataBundle:
    """Make the data set; its three splits have the same fonts and photographs.

    Args:
        seed: base seed.
        n_train: number of training images, the same for each class.
        n_valid: number of validation images.
        n_test: number of test images.
    """
    key = {"set": "glyphs", "version": VERSION, "seed": seed}
    train, valid, test = (
        scenes.make_split(partial(make, seed=seed), CLASSES, split, n, None, key)
        for split, n in (("train", n_train), ("valid", n_valid), ("test", n_test))
    )
    return DataBundle("glyphs", train, valid, test)


def make(split: str, counts: Sequence[int], n: int, seed: int) -> scenes.LabelledImages:
    """Make the images of one split.

    Args:
        split: "train", "valid" or "test".
        counts: largest number of images of each class.
        n: largest total number of images.
        seed: base seed of the data set.

    Returns:
        images, uint8 (N, 3, 32, 32), and labels, int64 (N,).
    """
    stream = scenes.Stream(len(CLASSES), sum(_COLUMNS.values()), (seed, SET, scenes.SPLITS[split]))
    return stream.render(_render, counts, n)


def _render(labels: Tensor, draws: Draws) -> Tensor:
    """Paint distorted glyphs on their backgrounds, blur and add noise, uint8 (m, 3, 32, 32)."""
    u = scenes.by_name(draws.uniform, _COLUMNS)
    alpha = _glyphs(labels, u)  # (m, 1, 32, 32)
    background = _backgrounds(u)
    ink = scenes.ensure_contrast(_make_half_grey(u["ink"], u["grey"]), background)
    images = background + (ink - background) * alpha
    images = scenes.blur(images, to_range(u["blur"], 0.2, 1.0))
    return scenes.to_uint8(images + draws.noise * as_nchw(to_range(u["noise"], 0, 0.06)))


def _glyphs(labels: Tensor, u: dict[str, Tensor]) -> Tensor:
    """Return the fraction of ink in each pixel, float64 (m, 1, 32, 32)."""
    bank = _bank()
    weight = (u["weight"] > 0.33).long() + (u["weight"] > 0.80).long()  # bold, regular, thin
    strokes = bank[labels, (u["font"] * bank.shape[1]).long(), weight].double() / 255
    scale = to_range(u["scale"], 0.75, 1.10)
    theta = scenes.placement(
        rotation=torch.deg2rad(to_range(u["rotation"], -15, 15)),
        scale=torch.stack([scale * to_range(u["stretch"], 0.75, 1.15), scale], dim=1),
        shift=to_range(u["shift"], -0.12, 0.12),
        shear=torch.stack([to_range(u["shear"], -0.35, 0.35), torch.zeros_like(scale)], dim=1),
    )
    # (m, 1, 48, 48) -> (m, 1, 32, 32)
    alpha = scenes.warp(strokes, theta, _displacement(u["bend"]))
    return torch.where(as_nchw(u["coarse"] < 0.5), _coarse(alpha), alpha)


def _displacement(uniform: Tensor) -> Tensor:
    """Interpolate a 4 x 4 grid of small shifts to a smooth field: (m, 32) -> (m, 2, 32, 32)."""
    grid = to_range(uniform.reshape(-1, 2, 4, 4), -0.10, 0.10)
    size = (scenes.SIDE, scenes.SIDE)
    return F.interpolate(grid, size=size, mode="bicubic", align_corners=True)


def _coarse(alpha: Tensor) -> Tensor:
    """Reduce the strokes to 8 x 8 pixels, the resolution of the handwritten digits, and enlarge."""
    small = F.avg_pool2d(alpha, 4)
    return F.interpolate(small, scale_factor=4, mode="bilinear", align_corners=False)


def _backgrounds(u: dict[str, Tensor]) -> Tensor:
    """Return plain colours, and in 30 % of the images a tinted photograph: (m, 3, 32, 32)."""
    plain = as_nchw(_make_half_grey(u["ground"], u["grey"]))
    photo = 0.6 * scenes.backgrounds(u["background"], "left") + 0.4 * plain
    return torch.where(as_nchw(u["photo"] < 0.3), photo, plain)


def _make_half_grey(colours: Tensor, grey: Tensor) -> Tensor:
    """Replace the colours of half of the images by grey: (m, 3) -> (m, 3)."""
    return torch.where((grey < 0.5)[:, None], colours[:, :1], colours)


_CANVAS, _TEMPLATE = 96, 48  # pixels: glyphs are drawn at the first size and reduced to the second
_INK = 76  # pixels of the longer side of a glyph on the canvas


@cache
def _bank() -> Tensor:
    """Draw every glyph in every font, bold, regular and thin: uint8 (97, 9, 3, 1, 48, 48)."""
    glyphs = [[_draw_glyph(text, name) for name in FONTS] for text in CLASSES]
    regular = torch.from_numpy(np.array(glyphs)).flatten(0, 1)[:, None].float()
    bold, thin = F.max_pool2d(regular, 3, 1, 1), -F.max_pool2d(-regular, 3, 1, 1)
    weights = torch.stack([bold, regular, thin], dim=1).to(torch.uint8)
    return weights.reshape(len(CLASSES), len(FONTS), *weights.shape[1:])


def _draw_glyph(text: str, name: str) -> np.ndarray:
    """Draw one glyph, white on black and centred: uint8 (48, 48)."""
    from PIL import Image, ImageDraw

    image = Image.new("L", (_CANVAS, _CANVAS))
    pen = ImageDraw.Draw(image)
    left, top, right, bottom = pen.textbbox((0, 0), text, font=scenes.load_font(name, 64))
    size = int(64 * min(2.2, _INK / max(right - left, bottom - top)))
    font = scenes.load_font(name, size)
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    position = _CANVAS / 2 - (left + right) / 2, _CANVAS / 2 - (top + bottom) / 2
    pen.text(position, text, font=font, fill=255)
    return np.asarray(image.resize((_TEMPLATE, _TEMPLATE), Image.Resampling.LANCZOS))
