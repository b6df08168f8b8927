"""Explore augmentation: set the strengths and see how eight images change."""

from collections.abc import Callable, Sequence
from functools import partial

from torch import Tensor

from cnnlab.augment import Augment
from cnnlab.course.widgets.core import Explorer
from cnnlab.data.images import unit
from cnnlab.plots import Plot, image_grid
from cnnlab.rng import generator


MAX_IMAGES = 8


def augmentation(images: Tensor, titles: Sequence[str] = ()) -> Explorer:
    """Return an explorer of six augmentation strengths, shown on the first eight images.

    Every setting uses the same random draws. A slider changes how far each image goes in its random
    direction, and the direction stays the same.

    Args:
        images: (N, C, H, W), float in [0, 1] or uint8; C is 1 or 3.
        titles: one per image, such as the name of its class, or none at all.

    Raises:
        ValueError: there is no image, or the number of titles is a different one.

    >>> import torch
    >>> explorer = augmentation(torch.rand(8, 3, 16, 16))
    >>> list(explorer.controls)
    ['rotate', 'translate', 'zoom', 'brightness', 'blur', 'erase']
    """
    if not len(images):
        raise ValueError(
            f"augmentation needs at least one image to show, got shape {tuple(images.shape)}"
        )
    if titles and len(titles) < min(len(images), MAX_IMAGES):
        raise ValueError(
            f"{min(len(images), MAX_IMAGES)} images are shown, but there are {len(titles)} titles: "
            "give one per image, or none"
        )
    images, titles = images[:MAX_IMAGES], tuple(titles[:MAX_IMAGES])
    float_images = images if images.is_floating_point() else unit(images)
    return Explorer(
        partial(draw, float_images, titles),
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
        labels={"rotate": "rotation", "translate": "shift", "erase": "random erasing"},
        words={
            "rotate": _unless_off("up to {}°".format),
            "translate": _unless_off(lambda part: f"up to {100 * part:g} % of the image"),
            "zoom": _unless_off(_factors),
            "brightness": _unless_off(_factors),
            "blur": _unless_off("up to {:g} pixels".format),
            "erase": _unless_off(lambda part: f"in {100 * part:g} % of the images"),
        },
        still={"rotate": (20, 180), "translate": (0.4,), "brightness": (0.6,), "erase": (1.0,)},
    )


def _unless_off(words: Callable[[float], str]) -> Callable[[float], str]:
    return lambda strength: words(strength) if strength else "off"


def _factors(strength: float) -> str:
    return f"{1 - strength:.2g} to {1 + strength:.3g} times"


def draw(
    images: Tensor,
    titles: Sequence[str] = (),
    *,
    rotate: float,
    translate: float,
    zoom: float,
    brightness: float,
    blur: float,
    erase: float,
) -> Plot:
    """Plot the augmented images.

    Args:
        images: float (N, C, H, W) in [0, 1].
        titles: one per image, or none at all.
        rotate: largest angle, in degrees.
        translate: largest shift, as a fraction of the image size.
        zoom: the scale is drawn between 1 - zoom and 1 + zoom.
        brightness: the brightness factor is drawn between 1 - brightness and 1 + brightness.
        blur: largest standard deviation of the blur, in pixels.
        erase: probability of a black rectangle.
    """
    # Each step has its own generator, so a slider doesn't change the random draws of the others.
    steps = (
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
    augmented = images
    for number, augment in enumerate(steps):
        augmented = augment(augmented, generator(0, number))
    changes = (
        (rotate, f"rotation up to {rotate} degrees"),
        (translate, f"shift up to {translate:g} of the side"),
        (zoom, f"zoom up to {zoom:g}"),
        (brightness, f"brightness up to {brightness:g}"),
        (blur, f"blur up to {blur:g} pixels"),
        (erase, f"random erasing with probability {erase:g}"),
    )
    made = ", ".join(text for strength, text in changes if strength)
    return image_grid(
        augmented, titles, alt=f"{len(images)} images with {made or 'no augmentation'}"
    )
