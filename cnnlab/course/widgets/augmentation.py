"""Explore augmentation: set the strengths, see what becomes of eight pictures."""

from functools import partial

from torch import Tensor

from cnnlab.augment import Augment
from cnnlab.course.widgets.core import Explorer
from cnnlab.data.images import unit
from cnnlab.plots import Plot, image_grid
from cnnlab.rng import generator


SHOWN = 8  # images


def augmentation(images: Tensor) -> Explorer:
    """Return an explorer of six strengths on the first eight images.

    Every setting uses the same random draws: a slider changes how far each picture goes, not which way.

    Args:
        images: (N, C, H, W), float in [0, 1] or uint8; C is 1 or 3.

    Raises:
        ValueError: there is no image.

    >>> import torch
    >>> augmentation(torch.rand(8, 3, 16, 16))
    Explorer of rotate (0 ... 180), translate (0 ... 0.4), zoom (0 ... 0.6), brightness (0 ... 0.9), blur (0 ... 2), erase (0 ... 1) with 4 frames
    """
    if not len(images):
        raise ValueError("augmentation needs an image to show, got none")
    pictures = images[:SHOWN] if images.is_floating_point() else unit(images[:SHOWN])
    return Explorer(
        partial(draw, pictures),
        {
            "rotate": (0, 10, 20, 35, 60, 90, 180),
            "translate": (0.0, 0.1, 0.2, 0.3, 0.4),
            "zoom": (0.0, 0.15, 0.3, 0.45, 0.6),
            "brightness": (0.0, 0.15, 0.3, 0.45, 0.6, 0.9),
            "blur": (0.0, 0.5, 1.0, 1.5, 2.0),
            "erase": (0.0, 0.25, 0.5, 0.75, 1.0),
        },
        frames=[
            {},
            {"rotate": 20, "translate": 0.1, "zoom": 0.15},
            {"brightness": 0.6, "blur": 1.5, "erase": 0.5},
            {"rotate": 180, "translate": 0.4, "zoom": 0.6},
        ],
    )


def draw(
    images: Tensor,
    *,
    rotate: float,
    translate: float,
    zoom: float,
    brightness: float,
    blur: float,
    erase: float,
) -> Plot:
    """Draw the augmented images.

    Args:
        images: float (N, C, H, W) in [0, 1].
        rotate: largest angle, degrees.
        translate: largest shift, as a share of the side.
        zoom: z draws a size from 1 - z to 1 + z.
        brightness: b draws a factor from 1 - b to 1 + b.
        blur: largest standard deviation, pixels.
        erase: chance of a black rectangle.
    """
    # One Augment and one generator each, so that no slider shifts the draws of another.
    parts = (
        Augment(brightness=brightness),
        Augment(
            rotate=rotate,
            translate=translate,
            scale=(1 - zoom, 1 + zoom) if zoom else None,
            interpolation="bilinear",
        ),
        Augment(blur=blur),
        Augment(erase=erase),
    )
    changed = images
    for number, augment in enumerate(parts):
        changed = augment(changed, generator(0, number))
    return image_grid(
        changed,
        alt=f"{len(images)} images at rotation up to {rotate} degrees, shift {translate:g}, zoom {zoom:g}, "
        f"brightness {brightness:g}, blur {blur:g} pixels, erasing with chance {erase:g}",
    )
