"""A diagram of why the weights of two independent runs can't simply be averaged."""

from collections.abc import Sequence

import torch
from torch import Tensor

from cnnlab.course.diagrams.canvas import BLUE, INK, MARGIN, MUTED, ORANGE, WARNING, Canvas, tint
from cnnlab.plots import Plot


INPUT = 3.0  # what the drawn networks are given
Layers = tuple[Tensor, Tensor]  # incoming weights (H, 1), outgoing weights (1, H)
FIRST = torch.tensor([[1.0], [-1.0]]), torch.tensor([[1.0, 1.0]])
UNITS = (BLUE, 0.16), (ORANGE, 0.55)  # colour and strength of the fill
AVERAGED = (MUTED, 0.0), (MUTED, 0.0)


def averaged_weights() -> Plot:
    """Draw two networks for |x| that differ in the order of their units, and their average.

    >>> averaged_weights().alt.partition(". ")[0]
    'Two networks compute |x|, but the average of their weights computes 0'
    """
    page = Canvas(
        "Two networks compute |x|,\nbut the average of their weights computes 0",
        note="The numbers are weights: before a hidden unit, which applies a ReLU, and behind it.",
        height=330,
    )
    incoming, outgoing = FIRST
    swapped = incoming.flip(0), outgoing.flip(1)
    average = (incoming + swapped[0]) / 2, (outgoing + swapped[1]) / 2
    panels = {
        "first network": (FIRST, UNITS),
        "the same units, swapped": (swapped, UNITS[::-1]),
        "average of the weights": (average, AVERAGED),
    }
    described = []
    for i, (name, (layers, looks)) in enumerate(panels.items()):
        _draw(page, MARGIN + 226 * i, name, layers, looks)
        described.append(f"{name}: y = {output(layers):g}")
    return page.plot(f"For x = {INPUT:g}, {'; '.join(described)}.")


def output(layers: Layers) -> float:
    """Return y for the input of the diagram.

    >>> output(FIRST)
    3.0
    """
    incoming, outgoing = layers
    return float(outgoing @ (incoming * INPUT).relu())


def _draw(
    page: Canvas, x: float, name: str, layers: Layers, looks: Sequence[tuple[str, float]]
) -> None:
    """Draw one network with its weights, and what it returns."""
    page.text(x, 118, name, size=10, bold=True, ha="left")
    source, sink = page.circle(x + 18, 200, 17, "x"), page.circle(x + 182, 200, 17, "y")
    incoming, outgoing = (part.flatten().tolist() for part in layers)
    for y, side, (colour, strength), w_in, w_out in zip(
        (160, 240), (-1, 1), looks, incoming, outgoing, strict=True
    ):
        page.box(x + 82, y - 16, 36, 32, "ReLU", edge=colour, fill=tint(colour, strength), line=1.6)
        page.arrow(source.right, (x + 81, y), colour=colour)
        page.arrow((x + 119, y), sink.left, colour=colour)
        page.text(x + 50, y + 3 * side, f"{w_in:+g}" if w_in else "0", bold=True, colour=INK)
        page.text(x + 150, y + 3 * side, f"{w_out:+g}", bold=True, colour=INK)
    value = output(layers)
    correct = value == abs(INPUT)
    page.text(
        x,
        298,
        f"x = {INPUT:g} gives y = {value:g}",
        size=10,
        bold=not correct,
        colour=INK if correct else WARNING,
        ha="left",
    )
