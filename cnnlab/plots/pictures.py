"""Pictures: what goes into a network."""

import math
from collections.abc import Sequence

import numpy as np
from torch import Tensor

from cnnlab.plots.core import COLOURS, Plot, new_axes


def image_grid(
    images: Tensor, titles: Sequence[str] = (), *, columns: int = 8, alt: str = "A grid of images"
) -> Plot:
    """Show images side by side, each under its title.

    Args:
        images: (N, C, H, W), either uint8 or float in [0, 1]; C is 1 or 3.
        titles: one a picture, or none at all.
        columns: pictures in a row.
        alt: what the grid shows; the titles are added to it.
    """
    rows = math.ceil(len(images) / columns)
    figure, axes = new_axes(
        rows, columns, width=1.1 * columns, height=(1.35 if titles else 1.1) * rows
    )
    for axis in axes.flat:
        axis.axis("off")
    for axis, picture in zip(axes.flat, _pixels(images), strict=False):
        axis.imshow(picture, cmap="gray")
    for axis, title in zip(axes.flat, titles, strict=False):
        axis.set_title(title, fontsize=8, pad=2)
    named = f": {', '.join(dict.fromkeys(titles))}" if titles else ""
    return Plot(figure, f"{alt}{named}.")


def soft_labels(
    images: Tensor, targets: Tensor, classes: Sequence[str], *, message: str, title: str = ""
) -> Plot:
    """Show images side by side, each above the bars of its soft label.

    Args:
        images: (N, C, H, W), either uint8 or float in [0, 1]; C is 1 or 3.
        targets: shares (N, K), each row with a sum of 1; a class without a share gets no bar.
        classes: the K names.
        message: what the reader should see; begins the alt text.
        title: above the whole figure.
    """
    shares = [
        sorted(((share, classes[k]) for k, share in enumerate(row) if share > 0), reverse=True)
        for row in targets.tolist()
    ]
    bars = max(map(len, shares))
    figure, axes = new_axes(2, len(images), width=1.4 * len(images), height=1.8 + 0.22 * bars)
    axes[0, 0].get_gridspec().set_height_ratios([1.4, 0.22 * bars])
    for axis in axes.flat:
        axis.axis("off")
    for axis, picture in zip(axes[0], _pixels(images), strict=True):
        axis.imshow(picture, cmap="gray")
    for axis, parts in zip(axes[1], shares, strict=True):
        for row, (share, name) in enumerate(parts):
            axis.barh(row, share, height=0.85, color=COLOURS[5])
            axis.text(0.03, row, f"{share:.2f} {name}", va="center", fontsize=8)
        axis.set(xlim=(0, 1), ylim=(bars - 0.5, -0.5))
    figure.suptitle(title, fontsize=9)
    told = "; ".join(" + ".join(f"{share:.2f} {name}" for share, name in row) for row in shares)
    return Plot(figure, f"{message} {len(images)} images with their labels: {told}.")


def _pixels(images: Tensor) -> list[np.ndarray]:
    """Images (N, C, H, W) as matplotlib draws them: (H, W, 3), or (H, W) where C is 1."""
    pixels = images.detach().cpu()
    if pixels.is_floating_point():
        pixels = pixels.float().clamp(0, 1)
    return [picture.permute(1, 2, 0).squeeze(2).numpy() for picture in pixels]
