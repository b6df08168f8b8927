"""Figures of images, with or without soft labels."""

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from cnnlab.plots.core import COLOURS, Plot, new_axes


def image_grid(
    images: Tensor, titles: Sequence[str] = (), *, columns: int = 8, alt: str = "A grid of images"
) -> Plot:
    """Show a grid of images, each with its title above.

    Args:
        images: (N, C, H, W), either uint8 or float in [0, 1]; C is 1 or 3.
        titles: one per image, or none at all.
        columns: images per row.
        alt: what the grid shows; the titles are appended to it.

    Without an image, the figure says that there is nothing to show.
    """
    if not len(images):
        figure, axes = new_axes(width=1.1 * columns, height=0.5)
        axes[0, 0].axis("off")
        axes[0, 0].text(0.5, 0.5, "no images", ha="center", va="center")
        return Plot(figure, f"{alt}: there are no images to show.")
    rows = math.ceil(len(images) / columns)
    figure, axes = new_axes(
        rows, columns, width=1.1 * columns, height=(1.35 if titles else 1.1) * rows
    )
    for axis in axes.flat:
        axis.axis("off")
    for axis, image in zip(axes.flat, _to_arrays(images), strict=False):
        axis.imshow(image, cmap="gray")
    for axis, title in zip(axes.flat, titles, strict=False):
        axis.set_title(title, fontsize=8, pad=2)
    names = f": {', '.join(dict.fromkeys(titles))}" if titles else ""
    return Plot(figure, f"{alt}{names}.")


def soft_labels(
    images: Tensor, targets: Tensor, classes: Sequence[str], *, message: str, title: str = ""
) -> Plot:
    """Show images side by side, each with its soft label as bars below.

    Args:
        images: (N, C, H, W), either uint8 or float in [0, 1]; C is 1 or 3.
        targets: soft targets (N, K), each row with a sum of 1; a class with weight 0 gets no bar.
        classes: the K class names.
        message: what the reader should see; the alt text starts with it.
        title: above the whole figure.
    """
    labels = [
        sorted(((weight, classes[k]) for k, weight in enumerate(row) if weight > 0), reverse=True)
        for row in targets.tolist()
    ]
    bars = max(map(len, labels))
    figure, axes = new_axes(2, len(images), width=1.4 * len(images), height=1.8 + 0.22 * bars)
    axes[0, 0].get_gridspec().set_height_ratios([1.4, 0.22 * bars])
    for axis in axes.flat:
        axis.axis("off")
    for axis, image in zip(axes[0], _to_arrays(images), strict=True):
        axis.imshow(image, cmap="gray")
    for axis, label in zip(axes[1], labels, strict=True):
        for row, (weight, name) in enumerate(label):
            axis.barh(row, weight, height=0.85, color=COLOURS[5])
            axis.text(0.03, row, f"{weight:.2f} {name}", va="center", fontsize=8)
        axis.set(xlim=(0, 1), ylim=(bars - 0.5, -0.5))
    figure.suptitle(title, fontsize=9)
    values = "; ".join(" + ".join(f"{w:.2f} {name}" for w, name in label) for label in labels)
    return Plot(figure, f"{message} {len(images)} images with their labels: {values}.")


def _to_arrays(images: Tensor) -> list[np.ndarray]:
    """Return images (N, C, H, W) as matplotlib needs them: (H, W, 3), or (H, W) if C is 1."""
    pixels = images.detach().cpu()
    if pixels.is_floating_point():
        pixels = pixels.float().clamp(0, 1)
    return [image.permute(1, 2, 0).squeeze(2).numpy() for image in pixels]
