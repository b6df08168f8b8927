"""Glyphs: 97 printed letters, Greek and symbols, no digits: the source task of transfer.

A few classes can hardly be told apart (o and O, c and C, l and I), so no network reaches 100 %.
"""

from collections.abc import Sequence
from functools import cache, partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cnnlab.data import scenes
from cnnlab.data.images import DataBundle
from cnnlab.data.scenes import Draws, between, per_image


SET = 3  # its number among the generated sets, so that their streams differ
VERSION = 1  # raise it with every change that moves a pixel: cached images are then made again
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

_DRAWS = {
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
    """Return the set with its three parts: the same fonts and photographs, each glyph drawn anew.

    Args:
        seed: base seed.
        n_train: training pictures, as many of each class as of any other.
        n_valid: validation pictures.
        n_test: test pictures.
    """
    key = {"set": "glyphs", "version": VERSION, "seed": seed}
    train, valid, test = (
        scenes.part(partial(make, seed=seed), CLASSES, part, n, None, key)
        for part, n in (("train", n_train), ("valid", n_valid), ("test", n_test))
    )
    return DataBundle("glyphs", train, valid, test)


def make(part: str, counts: Sequence[int], n: int, seed: int) -> scenes.Pictures:
    """Make the pictures of one part.

    Args:
        part: "train", "valid" or "test".
        counts: pictures of each class, at most.
        n: pictures in all, at most.
        seed: base seed of the set.

    Returns:
        images, uint8 (N, 3, 32, 32), and labels, int64 (N,).
    """
    stream = scenes.Stream(len(CLASSES), sum(_DRAWS.values()), (seed, SET, scenes.PARTS[part]))
    return stream.render(_render, counts, n)


def _render(labels: Tensor, draws: Draws) -> Tensor:
    """Bend the glyph, paint it on its ground, blur, add noise."""
    u = scenes.named(draws.units, _DRAWS)
    alpha = _glyphs(labels, u)  # (m, 1, 32, 32)
    ground = _grounds(u)
    ink = scenes.legible(_greyed(u["ink"], u["grey"]), ground)
    images = ground + (ink - ground) * alpha
    images = scenes.blur(images, between(u["blur"], 0.2, 1.0))
    return scenes.to_bytes(images + draws.noise * per_image(between(u["noise"], 0, 0.06)))


def _glyphs(labels: Tensor, u: dict[str, Tensor]) -> Tensor:
    """The share of ink in each pixel, float64 (m, 1, 32, 32)."""
    bank = _bank()
    weight = (u["weight"] > 0.33).long() + (u["weight"] > 0.80).long()  # bold, plain, thin
    strokes = bank[labels, (u["font"] * bank.shape[1]).long(), weight].double() / 255
    scale = between(u["scale"], 0.75, 1.10)
    theta = scenes.placement(
        rotation=torch.deg2rad(between(u["rotation"], -15, 15)),
        scale=torch.stack([scale * between(u["stretch"], 0.75, 1.15), scale], dim=1),
        shift=between(u["shift"], -0.12, 0.12),
        shear=torch.stack([between(u["shear"], -0.35, 0.35), torch.zeros_like(scale)], dim=1),
    )
    alpha = scenes.warp(strokes, theta, _bend(u["bend"]))  # (m, 1, 48, 48) -> (m, 1, 32, 32)
    return torch.where(per_image(u["coarse"] < 0.5), _coarse(alpha), alpha)


def _bend(units: Tensor) -> Tensor:
    """A smooth field of small shifts from a 4 x 4 grid of them: (m, 32) -> (m, 2, 32, 32)."""
    knots = between(units.reshape(-1, 2, 4, 4), -0.10, 0.10)
    size = (scenes.SIDE, scenes.SIDE)
    return F.interpolate(knots, size=size, mode="bicubic", align_corners=True)


def _coarse(alpha: Tensor) -> Tensor:
    """What is left of the strokes at 8 x 8 pixels, the resolution of the handwritten digits."""
    small = F.avg_pool2d(alpha, 4)
    return F.interpolate(small, scale_factor=4, mode="bilinear", align_corners=False)


def _grounds(u: dict[str, Tensor]) -> Tensor:
    """A plain colour, or in three of ten pictures a photograph tinted with it: (m, 3, 32, 32)."""
    plain = _greyed(u["ground"], u["grey"])[:, :, None, None]
    photo = 0.6 * scenes.backgrounds(u["background"], "left") + 0.4 * plain
    return torch.where(per_image(u["photo"] < 0.3), photo, plain)


def _greyed(colours: Tensor, grey: Tensor) -> Tensor:
    """Half of the pictures are grey: (m, 3) in, (m, 3) out."""
    return torch.where((grey < 0.5)[:, None], colours[:, :1], colours)


_CANVAS, _TEMPLATE, _INK = 96, 48, 76  # pixels: where a glyph is drawn, kept, and its longer side


@cache
def _bank() -> Tensor:
    """Every glyph in every font, bold, as it is and thin: uint8 (97, 9, 3, 1, 48, 48)."""
    drawn = [[_glyph(text, name) for name in FONTS] for text in CLASSES]
    plain = torch.from_numpy(np.array(drawn)).flatten(0, 1)[:, None].float()
    bold, thin = F.max_pool2d(plain, 3, 1, 1), -F.max_pool2d(-plain, 3, 1, 1)
    weights = torch.stack([bold, plain, thin], dim=1).to(torch.uint8)
    return weights.reshape(len(CLASSES), len(FONTS), *weights.shape[1:])


def _glyph(text: str, name: str) -> np.ndarray:
    """One glyph in white on black, its ink in the middle: uint8 (48, 48)."""
    from PIL import Image, ImageDraw

    image = Image.new("L", (_CANVAS, _CANVAS))
    pen = ImageDraw.Draw(image)
    left, top, right, bottom = pen.textbbox((0, 0), text, font=scenes.font(name, 64))
    size = int(64 * min(2.2, _INK / max(right - left, bottom - top)))
    font = scenes.font(name, size)
    left, top, right, bottom = pen.textbbox((0, 0), text, font=font)
    middle = _CANVAS / 2 - (left + right) / 2, _CANVAS / 2 - (top + bottom) / 2
    pen.text(middle, text, font=font, fill=255)
    return np.asarray(image.resize((_TEMPLATE, _TEMPLATE), Image.Resampling.LANCZOS))
