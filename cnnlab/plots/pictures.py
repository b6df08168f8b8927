"""Figures of images, with or without soft labels."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from torch import Tensor

from cnnlab.plots.core import COLOURS, WIDTH, Plot, finish, new_axes, text_width, wrapped


MAX_IMAGES = 500  # in one figure, so that it appears within a few seconds


def image_grid(
    images: Tensor,
    titles: Sequence[str] = (),
    *,
    columns: int = 8,
    alt: str = "A grid of images",
    message: str | None = None,
) -> Plot:
    """Show a grid of images, each with its title above.

    Args:
        images: (N, C, H, W), either uint8 or float in [0, 1]; C is 1 or 3. At most 500 images.
        titles: one per image, or none at all.
        columns: images per row.
        alt: what the grid shows; the titles are appended to it.
        message: the title of the figure, one sentence that states the main point; the alt text
            starts with it. By default, it is `alt`.

    Without an image, the figure says that there is nothing to show.

    Raises:
        ValueError: there are more images than a figure holds.

    >>> import torch
    >>> images = torch.rand(2, 1, 8, 8)
    >>> image_grid(images, ["cat", "dog"], alt="two animals", message="They differ in size.")
    Plot: They differ in size. Two animals: cat, dog.
    """
    if not len(images):
        figure, axes = new_axes(width=1.1 * columns, height=0.5)
        axes[0, 0].axis("off")
        axes[0, 0].text(0.5, 0.5, "no images", ha="center", va="center")
        return finish(figure, message or alt, "There are no images to show.")
    if len(images) > MAX_IMAGES:
        raise ValueError(
            f"a figure holds {MAX_IMAGES} images, got {len(images):,}; pass fewer of them, such as "
            "images[:64]"
        )
    rows, places = math.ceil(len(images) / columns), max(columns, 5)
    cell = min(1.1, WIDTH / places)
    texts = [wrapped(title, 8, 0.85 * cell) for title in titles]
    widest = max((text_width(text, 8) for text in texts), default=0)
    size = 8 * min(1, 0.85 * cell / max(widest, cell / 2))  # smaller only for a very long word
    above = 0.05 + 0.14 * max((text.count("\n") + 1 for text in texts), default=0)
    box = cell * min(1, images.shape[2] / images.shape[3])  # its height
    figure, axes = new_axes(width=cell * places, height=(box + above) * rows)
    axis = axes.item()  # one for all images, in inches: an axis per image takes ten times as long
    axis.axis("off")
    for k, image in enumerate(_to_arrays(images)):
        row, column = divmod(k, columns)
        x, y = (column + 0.5) * cell, (row + 1) * (box + above) - box / 2  # of its centre
        high, wide = (0.475 * cell * n / max(image.shape[:2]) for n in image.shape[:2])
        axis.imshow(image, cmap="gray", extent=(x - wide, x + wide, y + high, y - high))
        if k < len(texts):
            axis.text(x, y - high - 0.03, texts[k], fontsize=size, ha="center", va="bottom")
    axis.set(xlim=(0, places * cell), ylim=(rows * (box + above), 0), anchor="NW")
    names = f": {', '.join(dict.fromkeys(titles))}" if titles else ""
    if message is None:
        return finish(figure, alt, f"From the top left{names}." if titles else "")
    return finish(figure, message, f"{alt}{names}.")


def soft_labels(
    images: Tensor, targets: Tensor, classes: Sequence[str], *, message: str, title: str = ""
) -> Plot:
    """Show images side by side, at most six per row, each with its soft label as bars below.

    Args:
        images: (N, C, H, W), either uint8 or float in [0, 1]; C is 1 or 3.
        targets: soft targets (N, K), each row with a sum of 1; a class with weight 0 gets no bar.
        classes: the K class names.
        message: the title, one sentence that states the main point; the alt text starts with it.
        title: a smaller line below the images, such as the settings.
    """
    labels = [
        sorted(((weight, classes[k]) for k, weight in enumerate(row) if weight > 0), reverse=True)
        for row in targets.tolist()
    ]
    bars, columns = max(map(len, labels)), 5 if len(images) <= 5 else 6
    rows = math.ceil(len(images) / columns)
    figure, axes = new_axes(2 * rows, columns, height=rows * (1.5 + 0.22 * bars))
    axes[0, 0].get_gridspec().set_height_ratios([1.4, 0.22 * bars] * rows)
    for axis in axes.flat:
        axis.axis("off")
    for axis, image in zip(axes[::2].flat, _to_arrays(images), strict=False):
        axis.imshow(image, cmap="gray")
    texts = [f"{weight:.2f} {name}" for label in labels for weight, name in label]
    size = 8 * min(1, 0.85 * WIDTH / columns / max(text_width(text, 8) for text in texts))
    for axis, label in zip(axes[1::2].flat, labels, strict=False):
        for row, (weight, name) in enumerate(label):
            axis.barh(row, weight, height=0.85, color=COLOURS[5])
            axis.text(0.03, row, f"{weight:.2f} {name}", va="center", fontsize=size)
        axis.set(xlim=(0, 1), ylim=(bars - 0.5, -0.5))
    figure.supxlabel(title, x=0.1 / WIDTH, ha="left", fontsize=9)
    values = "; ".join(" + ".join(f"{w:.2f} {name}" for w, name in label) for label in labels)
    return finish(figure, message, f"{len(images)} images with their labels: {values}.")


def prediction(image: Tensor, probabilities: Mapping[str, float], *, message: str) -> Plot:
    """Show an image beside the probabilities of its most probable classes, as horizontal bars.

    Args:
        image: (C, H, W), either uint8 or float in [0, 1]; C is 1 or 3.
        probabilities: class name -> probability, the most probable class first.
        message: the title, one sentence that states the main point; the alt text starts with it.

    >>> import torch
    >>> prediction(torch.rand(3, 8, 8), {"mug": 0.9, "plate": 0.1}, message="A mug.")
    Plot: A mug. An image of 8 x 8 pixels beside its most probable classes: mug 0.900, plate 0.100.
    """
    figure, axes = new_axes(1, 2, height=max(1.9, 0.5 + 0.35 * len(probabilities)))
    axes[0, 0].get_gridspec().set_width_ratios([1, 2])
    picture, bars = axes[0]
    picture.axis("off")
    picture.imshow(_to_arrays(image[None])[0], cmap="gray")
    names = [wrapped(name, 10, 0.3 * WIDTH) for name in probabilities]
    bars.barh(range(len(names)), list(probabilities.values()), height=0.6, color=COLOURS[5])
    for row, value in enumerate(probabilities.values()):
        bars.text(0.02, row, f"{value:.3f}", va="center", fontsize=9)
    bars.set_yticks(range(len(names)), names)
    bars.set(xlim=(0, 1), ylim=(len(names) - 0.4, -0.6), xlabel="probability")
    values = ", ".join(f"{name} {value:.3f}" for name, value in probabilities.items())
    height, width = image.shape[-2:]
    return finish(
        figure,
        message,
        f"An image of {width} x {height} pixels beside its most probable classes: {values}.",
    )


def _to_arrays(images: Tensor) -> list[np.ndarray]:
    """Return images (N, C, H, W) as matplotlib needs them: (H, W, 3), or (H, W) if C is 1."""
    pixels = images.detach().cpu()
    if pixels.is_floating_point():
        pixels = pixels.float().clamp(0, 1)
    return [image.permute(1, 2, 0).squeeze(2).numpy() for image in pixels]
