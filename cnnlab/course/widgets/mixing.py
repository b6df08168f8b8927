"""Explore mixup and CutMix: set λ and the position of the box, see the mixed images and labels."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from cnnlab.augment.geometry import box_masks
from cnnlab.augment.mixing import blend, soft_targets
from cnnlab.course.widgets.core import Explorer
from cnnlab.data.images import unit
from cnnlab.plots import Plot, soft_labels


MAX_IMAGES = 3  # each is mixed with the one before it


def mixing(images: Tensor, labels: Tensor, classes: Sequence[str]) -> Explorer:
    """Return an explorer of λ, the method and the box position, shown on the first three images.

    Each image is mixed with the one to its left, and the first image with the last. It starts with
    CutMix, λ = 0.5 and the box in the middle, so that every slider shows an effect. λ is the
    fraction of the mixture that comes from the image itself. CutMix clips its box at the border of
    the image, so the title of the plot shows λ before and after clipping.

    Args:
        images: (N, C, H, W) with N of 2 or more, float in [0, 1] or uint8.
        labels: class indices int64 (N,).
        classes: the names of the K classes.

    Raises:
        ValueError: there are fewer than two images.

    >>> images = torch.rand(3, 3, 16, 16)
    >>> explorer = mixing(images, torch.tensor([0, 1, 2]), ["stop", "yield", "priority"])
    >>> list(explorer.controls)
    ['method', 'lam', 'centre_row', 'centre_column']
    """
    if len(images) < 2:
        raise ValueError(f"mixing needs at least two images, got {len(images)}")
    images = images[:MAX_IMAGES]
    rows, columns = (positions(size) for size in images.shape[2:])
    middle = {"centre_row": rows[2], "centre_column": columns[2]}
    corner = {"centre_row": rows[0], "centre_column": columns[-1]}
    float_images = images if images.is_floating_point() else unit(images)
    return Explorer(
        partial(draw, float_images, labels[:MAX_IMAGES], tuple(classes)),
        {
            "method": ("mixup", "CutMix"),
            "lam": tuple(tenth / 10 for tenth in range(11)),
            "centre_row": rows,
            "centre_column": columns,
        },
        frames=[
            {"method": "CutMix", "lam": 0.5, **middle},
            {"method": "CutMix", "lam": 0.5, **corner},
            {"method": "mixup", "lam": 0.5, **middle},
            {"method": "mixup", "lam": 0.8, **middle},
        ],
        labels={"lam": "λ", "centre_row": "row of the box", "centre_column": "column of the box"},
        words={"lam": "{:g} of the image itself".format},
        still={"method": ("mixup",), "lam": (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)},
    )


def positions(size: int) -> tuple[int, ...]:
    """Return five positions for the centre of a box, from the first pixel to the last.

    >>> positions(32)
    (0, 8, 16, 24, 31)
    """
    return tuple(sorted({min(size * quarter // 4, size - 1) for quarter in range(5)}))


def draw(
    images: Tensor,
    labels: Tensor,
    classes: tuple[str, ...],
    *,
    method: str,
    lam: float,
    centre_row: int,
    centre_column: int,
) -> Plot:
    """Plot the mixed images with their soft labels.

    Args:
        images: float (N, C, H, W).
        labels: class indices int64 (N,).
        classes: the names of the K classes.
        method: "mixup" or "CutMix".
        lam: the fraction of each mixture that comes from the image itself; for CutMix, before its
            box is clipped.
        centre_row: row of the centre of the box, in pixels; mixup ignores it.
        centre_column: column of the centre of the box, in pixels; mixup ignores it.
    """
    height, width = images.shape[2:]
    if method == "mixup":
        partner_weight = torch.full((1, 1, 1, 1), 1 - lam)
        title = f"mixup: λ = {lam:.2f}"
    else:
        half_height, half_width = (int(0.5 * (1 - lam) ** 0.5 * size) for size in (height, width))
        top, bottom = max(centre_row - half_height, 0), min(centre_row + half_height, height)
        left, right = max(centre_column - half_width, 0), min(centre_column + half_width, width)
        partner_weight = box_masks(torch.tensor([[top, left, bottom, right]]), height, width)
        clipped_lam = 1 - partner_weight.mean().item()
        title = f"CutMix: λ = {lam:.2f}, after clipping the box λ = {clipped_lam:.2f}"
    soft = soft_targets(images, labels, len(classes))
    mixed, mixed_soft = blend(images, soft, partner_weight.expand(len(images), -1, -1, -1), 1)
    return soft_labels(mixed, mixed_soft, classes, message=title)
