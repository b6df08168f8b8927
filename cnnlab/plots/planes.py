"""Figures of the predictions of a model over a plane."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from cnnlab.plots.core import COLOURS, MARKERS, Plot, finish, new_axes


RESOLUTION = 120  # points per side of the grid


def probability_map(
    models: Mapping[str, Callable[[Tensor], Tensor]],
    points: Tensor,
    labels: Tensor,
    *,
    message: str,
) -> Plot:
    """Show the probability of class 1 over the plane, one panel per model, with the points.

    The line is where a model gives both classes the same probability: its decision boundary.

    Args:
        models: name -> function from points (N, 2) to the probability of class 1, (N,).
        points: (N, 2), drawn in every panel.
        labels: class indices 0 and 1, (N,).
        message: the title, one sentence that states the main point; the alt text starts with it.

    >>> points, labels = torch.tensor([[0.0, 0.0], [1.0, 1.0]]), torch.tensor([0, 1])
    >>> probability_map({"x": lambda p: p[:, 0]}, points, labels, message="It grows with x.")
    Plot: It grows with x. X: between 0.1 and 0.9 on 43 % of the plane.
    """
    low, high = points.amin(0) - 0.4, points.amax(0) + 0.4
    x, y = (torch.linspace(a, b, RESOLUTION) for a, b in zip(low, high, strict=True))
    grid = torch.cartesian_prod(y, x).flip(1)
    figure, axes = new_axes(1, len(models), height=0.4 + 6.0 / max(len(models), 2), share=True)
    notes = []
    for axis, (name, model) in zip(axes[0], models.items(), strict=True):
        values = model(grid).detach().reshape(RESOLUTION, RESOLUTION).numpy()
        shades = axis.contourf(
            x, y, values, levels=np.linspace(0, 1, 11), cmap="cividis", extend="both"
        )
        axis.contour(x, y, values, levels=[0.5], colors="white", linewidths=2)
        for label, marker in enumerate(MARKERS[:2]):
            dots = points[labels == label]
            axis.plot(
                dots[:, 0],
                dots[:, 1],
                linestyle="",
                marker=marker,
                markersize=4.5,
                color=COLOURS[label],
                markeredgecolor="white",
                markeredgewidth=0.5,
                label=f"class {label}",
            )
        axis.set_title(name, fontsize=10)
        axis.grid(visible=False)
        unsure = ((values > 0.1) & (values < 0.9)).mean()
        notes.append(f"{name}: between 0.1 and 0.9 on {unsure:.0%} of the plane".replace("%", " %"))
    figure.colorbar(shades, ax=axes[0, -1], label="probability of class 1")
    return finish(figure, message, "; ".join(notes) + ".")
