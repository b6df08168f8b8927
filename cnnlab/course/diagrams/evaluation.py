"""A diagram of how to read a confusion matrix."""

from typing import Any

import torch
from torch import Tensor

from cnnlab.course.diagrams.canvas import BLUE, INK, MARGIN, MUTED, ORANGE, Box, Canvas, tint
from cnnlab.plots import Plot


CLASSES = ("cat", "dog", "fox")
COUNTS = ((46, 3, 1), (6, 22, 2), (9, 3, 8))  # true classes down, predicted classes across
FOLLOWED = 1  # the class whose row and column are framed


def confusion() -> Plot:
    """Draw a confusion matrix of three classes, with the recall and the precision of each.

    >>> confusion().alt.partition(". ")[0]
    'Recall reads along a row of the confusion matrix, precision down a column'
    """
    page = Canvas(
        "Recall reads along a row of the confusion matrix,\nprecision down a column",
        note="Each cell counts images, by their true and their predicted class.",
        height=508,
    )
    matrix = torch.tensor(COUNTS)
    accuracy, recalls, precisions = recall_and_precision(matrix)
    k, correct = len(CLASSES), matrix.diag()
    true, predicted = matrix.sum(dim=1), matrix.sum(dim=0)
    grid = Box(118, 170, 3 * 96, 3 * 58)
    wide, tall = grid.width / k, grid.height / k
    page.text(grid.centre[0], 124, "predicted class", colour=MUTED)
    page.text(MARGIN, 150, "true class", colour=MUTED, ha="left")
    _draw_matrix(page, grid, matrix)
    right, below = grid.x + grid.width, grid.y + grid.height
    page.text(right + 60, 150, "recall", size=11, bold=True, ha="left")
    page.text(MARGIN, below + 58, "precision", size=11, bold=True, ha="left")
    for i in range(k):
        row, column = grid.y + (i + 0.5) * tall, grid.x + (i + 0.5) * wide
        words = f"{correct[i]} / {true[i]}  =  {100 * recalls[i]:.0f} %"
        page.text(right + 60, row, words, size=10, bold=i == FOLLOWED, ha="left")
        words = f"{correct[i]} / {predicted[i]}\n= {100 * precisions[i]:.0f} %"
        page.text(column, below + 58, words, size=10, bold=i == FOLLOWED)
    name, row, column = CLASSES[FOLLOWED], FOLLOWED * tall, FOLLOWED * wide
    frame: dict[str, Any] = {"fill": "none", "line": 2.6, "radius": 4, "z": 3}
    along = page.box(grid.x + 1, grid.y + row + 1, grid.width - 2, tall - 2, edge=INK, **frame)
    down = page.box(
        grid.x + column + 1, grid.y + 1, wide - 2, grid.height - 2, edge=ORANGE, **frame
    )
    page.arrow(along.right, (right + 52, along.right[1]), line=1.8)
    page.arrow(down.bottom, (down.bottom[0], below + 34), colour=ORANGE, line=1.8)
    page.text(right + 60, below + 50, "accuracy", size=11, bold=True, ha="left")
    words = f"{correct.sum()} / {matrix.sum()}  =  {100 * accuracy:.0f} %"
    page.text(right + 60, below + 71, words, size=10, ha="left")
    found = f"{correct[FOLLOWED]} of the {true[FOLLOWED]} images of a {name} are found"
    meant = f"{correct[FOLLOWED]} of the {predicted[FOLLOWED]} predictions of “{name}” are correct"
    for i, (colour, words) in enumerate(
        ((INK, f"Recall: {found}."), (ORANGE, f"Precision: {meant}."))
    ):
        y = 456 + 24 * i
        page.box(MARGIN, y - 7, 22, 14, edge=colour, line=2.6, radius=3)
        page.text(MARGIN + 34, y, words, ha="left")
    classes = "; ".join(
        f"{name} recall {100 * recalls[i]:.0f} %, precision {100 * precisions[i]:.0f} %"
        for i, name in enumerate(CLASSES)
    )
    return page.plot(
        f"Of {matrix.sum()} images, {correct.sum()} are classified correctly. {classes}. {found}, "
        f"and {meant}."
    )


def _draw_matrix(page: Canvas, grid: Box, matrix: Tensor) -> None:
    """Draw the cells, darker for larger counts, and the names of the classes."""
    wide, tall = grid.width / len(CLASSES), grid.height / len(CLASSES)
    for i, name in enumerate(CLASSES):
        page.text(grid.x + (i + 0.5) * wide, 150, name, size=10, bold=True)
        page.text(grid.x - 14, grid.y + (i + 0.5) * tall, name, size=10, bold=True, ha="right")
        for j in range(len(CLASSES)):
            strength = 0.06 + 0.9 * float(matrix[i, j] / matrix.max())
            page.box(
                grid.x + j * wide,
                grid.y + i * tall,
                wide,
                tall,
                f"{matrix[i, j]}",
                fill=tint(BLUE, strength),
                edge="white",
                line=2,
                radius=0,
                size=12,
                bold=i == j,
                colour="white" if strength > 0.5 else INK,
            )


def recall_and_precision(matrix: Tensor) -> tuple[float, list[float], list[float]]:
    """Compute the accuracy, and the recall and the precision of each class.

    Args:
        matrix: counts (K, K), true classes down, predicted classes across.

    >>> recall_and_precision(torch.tensor([[3, 1], [0, 4]]))
    (0.875, [0.75, 1.0], [1.0, 0.8])
    """
    matrix = matrix.double()
    correct = matrix.diag()
    return (
        (correct.sum() / matrix.sum()).item(),
        (correct / matrix.sum(dim=1)).tolist(),
        (correct / matrix.sum(dim=0)).tolist(),
    )
