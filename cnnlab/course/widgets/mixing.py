"""Explore mixup and CutMix: set λ and the place of the box, see the pictures and their labels."""

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from cnnlab.augment.geometry import box_masks
from cnnlab.augment.mixing import blend, soft_targets
from cnnlab.course.widgets.core import Explorer
from cnnlab.data.images import unit
from cnnlab.plots import Plot, soft_labels


SHOWN = 3  # images, each with the one before it as its partner


def mixing(images: Tensor, labels: Tensor, classes: Sequence[str]) -> Explorer:
    """Return an explorer of λ, the method and the centre of the box on the first three images.

    Each picture is mixed with the one to its left, the first with the last. λ is what the picture keeps of itself;
    for CutMix it is that of the box before clipping, and the title tells what the clipped box makes of it.

    Args:
        images: (N, C, H, W) with N of 2 or more, float in [0, 1] or uint8.
        labels: class numbers int64 (N,).
        classes: the K names.

    Raises:
        ValueError: there is a single image.

    >>> pictures = torch.rand(3, 3, 16, 16)
    >>> mixing(pictures, torch.tensor([0, 1, 2]), ["stop", "yield", "priority"])
    Explorer of method (mixup ... CutMix), lam (0 ... 1), centre_row (0 ... 15), centre_column (0 ... 15) with 4 frames
    """
    if len(images) < 2:
        raise ValueError(f"mixing needs two images or more, got {len(images)}")
    pictures = images[:SHOWN] if images.is_floating_point() else unit(images[:SHOWN])
    rows, columns = (places(size) for size in pictures.shape[2:])
    middle = {"centre_row": rows[2], "centre_column": columns[2]}
    corner = {"centre_row": rows[0], "centre_column": columns[-1]}
    return Explorer(
        partial(draw, pictures, labels[:SHOWN], tuple(classes)),
        {
            "method": ("mixup", "CutMix"),
            "lam": tuple(tenth / 10 for tenth in range(11)),
            "centre_row": rows,
            "centre_column": columns,
        },
        frames=[
            {"method": "mixup", "lam": 1.0},
            {"method": "mixup", "lam": 0.6},
            {"method": "CutMix", "lam": 0.6, **middle},
            {"method": "CutMix", "lam": 0.6, **corner},
        ],
    )


def places(size: int) -> tuple[int, ...]:
    """Return five pixels from the first to the last, for the centre of a box.

    >>> places(32)
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
    """Draw the mixed images with their soft labels.

    Args:
        images: float (N, C, H, W).
        labels: class numbers int64 (N,).
        classes: the K names.
        method: "mixup" or "CutMix".
        lam: what an image keeps of itself, for CutMix before clipping.
        centre_row: of the box, in pixels; mixup has none.
        centre_column: likewise.
    """
    height, width = images.shape[2:]
    if method == "mixup":
        taken = torch.full((1, 1, 1, 1), 1 - lam)
        title = f"mixup: λ = {lam:.2f}"
    else:
        half_height, half_width = (int(0.5 * (1 - lam) ** 0.5 * size) for size in (height, width))
        top, bottom = max(centre_row - half_height, 0), min(centre_row + half_height, height)
        left, right = max(centre_column - half_width, 0), min(centre_column + half_width, width)
        taken = box_masks(torch.tensor([[top, left, bottom, right]]), height, width)
        kept = 1 - taken.mean().item()
        title = f"CutMix: λ asked for {lam:.2f}, λ of the clipped box {kept:.2f}"
    soft = soft_targets(images, labels, len(classes))
    mixed, mixed_soft = blend(images, soft, taken.expand(len(images), -1, -1, -1), 1)
    return soft_labels(mixed, mixed_soft, classes, message=f"{title}.", title=title)
