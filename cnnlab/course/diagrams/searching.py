"""Diagrams of a search for hyperparameters: which values its trials try."""

import math
from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch

from cnnlab.course.diagrams.canvas import BLUE, INK, MARGIN, MUTED, ORANGE, RULE, Box, Canvas, tint
from cnnlab.plots import Plot
from cnnlab.rng import generator


Point = tuple[float, float]
N = 9  # trials of each strategy, a square number
PEAK, WIDTH = 0.44, 0.075  # of the score, as a function of the first parameter


def search() -> Plot:
    """Draw nine trials of a grid, of a random search and of Sobol points.

    >>> search().alt.partition(". ")[0]
    'Nine trials of a grid try three learning rates, nine random or Sobol trials try nine'
    """
    page = Canvas(
        "Nine trials of a grid try three learning rates,\nnine random or Sobol trials try nine",
        note="The score (above) depends on the learning rate alone. Circles are trials, ticks are "
        "the values they try.",
        height=392,
    )
    side, gap = 192.0, 32.0
    left = MARGIN + 18
    described = []
    for i, (name, points) in enumerate(strategies().items()):
        x = left + i * (side + gap)
        page.text(x, 104, name, size=9.5, bold=True, ha="left")
        scores = [score(u) for u, _ in points]
        _draw_scores(page, Box(x, 116, side, 56), points, scores)
        _draw_points(page, Box(x, 178, side, 146), points, first=i == 0)
        values = sorted({u for u, _ in points})
        hole = max(b - a for a, b in pairwise([0.0, *values, 1.0]))
        words = f"{len(values)} values, best score {max(scores):.2f}"
        page.text(x, 352, words, colour=MUTED, ha="left")
        page.text(x, 370, f"largest gap {hole:.2f} of the range", colour=MUTED, ha="left")
        described.append(f"{name}: {words}, largest gap {hole:.2f} of the range")
    return page.plot(f"{'; '.join(described)}.")


def strategies() -> dict[str, list[Point]]:
    """Return the trials of each strategy, as points of the unit square."""
    side = math.isqrt(N)
    middles = [(i + 0.5) / side for i in range(side)]
    sobol = torch.quasirandom.SobolEngine(2, scramble=True, seed=0)
    return {
        "grid, 3 x 3": [(u, v) for u in middles for v in middles],
        "random": [(u, v) for u, v in torch.rand(N, 2, generator=generator(0)).tolist()],
        "Sobol": [(u, v) for u, v in sobol.draw(N).tolist()],
    }


def score(u: float) -> float:
    """Return the score of the first parameter, 1 at its peak."""
    return math.exp(-(((u - PEAK) / WIDTH) ** 2))


def _draw_scores(page: Canvas, box: Box, points: Sequence[Point], scores: Sequence[float]) -> None:
    """Draw the score as a curve, with a dot for each trial."""
    axis = page.axes(box, xlim=(-0.03, 1.03), ylim=(-0.08, 1.15))
    axis.axis("off")
    grid = np.linspace(0, 1, 200)
    axis.fill_between(grid, [score(u) for u in grid], color=tint(ORANGE, 0.3), linewidth=0)
    axis.plot(grid, [score(u) for u in grid], color=ORANGE, linewidth=1.5)
    axis.plot([u for u, _ in points], scores, "o", color=BLUE, markersize=4.5, zorder=3)


def _draw_points(page: Canvas, box: Box, points: Sequence[Point], *, first: bool) -> None:
    """Draw the trials in the plane of both parameters, with ticks at the values of the first."""
    axis = page.axes(box, xlim=(-0.03, 1.03), ylim=(-0.05, 1.05), xlabel="learning rate")
    axis.set_xticks([])
    axis.set_yticks([])
    axis.grid(visible=False)
    for spine in axis.spines.values():
        spine.set(visible=True, color=RULE)
    if first:
        axis.set_ylabel("weight decay")
    for u, v in points:
        axis.plot([u, u], [-0.05, 0.02], color=INK, linewidth=1.2)
        axis.plot([u, u], [v, 1.05], color=RULE, linewidth=0.7, zorder=1)
    axis.plot(*zip(*points, strict=True), "o", color="white", markeredgecolor=INK, zorder=3)
