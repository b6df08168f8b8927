"""Diagrams of several processes: those that train one model, and those that load its data."""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch

from cnnlab.course.diagrams.canvas import BLUE, MARGIN, MUTED, ORANGE, RULE, Box, Canvas, tint
from cnnlab.course.diagrams.steps import TARGETS, draw_images, mean_gradient, minus
from cnnlab.plots import Plot


# --- all-reduce -----------------------------------------------------------------------------------

PROCESSES = 3


def all_reduce() -> Plot:
    """Draw how several processes add up their gradients, for the batch of `accumulation`.

    Li et al. 2020, https://arxiv.org/abs/2006.15704.

    >>> all_reduce().alt.partition(". ")[0]
    'All-reduce gives every process the same gradient, so all of them take the same step'
    """
    targets, n = torch.tensor(TARGETS), len(TARGETS)
    page = Canvas(
        "All-reduce gives every process the same gradient,\nso all of them take the same step",
        note=f"Each square is one of {n} images, with the gradient of its loss. The images are "
        "dealt out in turn.",
        height=496,
    )
    shards = [targets[rank::PROCESSES] for rank in range(PROCESSES)]
    sums = [mean_gradient(shard) * len(shard) / n for shard in shards]
    width, top = 196.0, 112.0
    gap = (page.width - 2 * MARGIN - PROCESSES * width) / (PROCESSES - 1)
    terms = f"{' + '.join(map(minus, sums))}  =  {minus(sum(sums))}"
    band = Box(MARGIN, top + 186, page.width - 2 * MARGIN, 46)
    look: dict[str, Any] = {"fill": tint(BLUE, 0.3), "spacing": 1.45}
    for rank, (shard, share) in enumerate(zip(shards, sums, strict=True)):
        x = MARGIN + rank * (width + gap)
        middle = x + width / 2
        page.box(x, top, width, 364, fill="#F3F3F3", edge=RULE, radius=8, z=0.5)
        page.text(x + 16, top + 21, f"process {rank}", bold=True, ha="left")
        images = draw_images(page, middle, top + 44, shard)
        words = f"gradient × {len(shard)}/{n}\n{minus(share)}"
        own = page.box(middle - 64, top + 104, 128, 46, words, **look)
        page.arrow((middle, images.bottom[1] + 4), own.top)
        page.arrow(own.bottom, (middle, band.y))
        words = f"gradient\n{minus(sum(sums))}"
        step = page.box(middle - 64, top + 268, 128, 46, words, **look)
        page.arrow((middle, band.y + band.height), step.top)
        page.text(middle, top + 340, "same step, same weights", size=8.5)
    page.box(
        band.x, band.y, band.width, band.height, f"all-reduce:  {terms}", fill=BLUE,
        colour="white", bold=True, size=10.5,
    )  # fmt: skip
    shares = "; ".join(
        f"process {rank} has {len(shard)} images and contributes {minus(share)}"
        for rank, (shard, share) in enumerate(zip(shards, sums, strict=True))
    )
    return page.plot(
        f"{shares[0].upper()}{shares[1:]}. The sum, {minus(sum(sums))}, goes back to all "
        f"{PROCESSES}, and it is the gradient of the whole batch, "
        f"{minus(mean_gradient(targets))}."
    )


# --- worker processes -----------------------------------------------------------------------------

LOAD, TRAIN, BATCHES = 3, 1, 6
PREFETCH = 2  # batches per worker that may wait, as in `torch.utils.data.DataLoader`


@dataclass(frozen=True)
class Task:
    """What a process does from `start` to `end`: it loads a batch, or trains on it."""

    row: int  # 0 is the main process, 1 the first worker
    loads: bool
    batch: int
    start: int
    end: int


def simulate(workers: int) -> list[Task]:
    """Return who loads and who trains when, for a number of worker processes.

    Batch i is loaded by worker i modulo their number, and requested once the main process has taken
    the batch that is `PREFETCH` rounds before it.

    >>> max(task.end for task in simulate(0)), max(task.end for task in simulate(3))
    (24, 9)
    """
    tasks: list[Task] = []
    free = [0] * (workers + 1)  # when each process has finished its last task
    taken: list[int] = []  # when the main process took each batch
    for batch in range(BATCHES):
        row = 1 + batch % workers if workers else 0
        ahead = batch - PREFETCH * workers
        start = max(free[row], taken[ahead] if workers and ahead >= 0 else 0)
        loaded = free[row] = start + LOAD
        tasks.append(Task(row, True, batch, start, loaded))
        taken.append(max(free[0], loaded))
        free[0] = taken[-1] + TRAIN
        tasks.append(Task(0, False, batch, taken[-1], free[0]))
    return tasks


def workers() -> Plot:
    """Draw when batches are loaded and trained on, with 0, 1 and 3 worker processes.

    >>> workers().alt.partition(". ")[0]
    'With three workers the network waits only for its first batch'
    """
    page = Canvas(
        "With three workers the network waits only for its first batch",
        note=f"Loading a batch takes {LOAD} times as long as training on it. Each bar carries the "
        "number of its batch.",
        height=484,
    )
    left, unit, height, pitch = MARGIN + 76.0, 24.0, 24.0, 30.0
    y, described = 100.0, []
    longest = max(task.end for task in simulate(0))
    for count in (0, 1, 3):
        tasks = simulate(count)
        end = max(task.end for task in tasks)
        name = {0: "no worker", 1: "1 worker"}.get(count, f"{count} workers")
        page.text(MARGIN, y, name, size=10, bold=True, ha="left")
        y += 14
        for row in range(count + 1):
            label = "main" if row == 0 else f"worker {row}"
            middle = y + row * pitch + height / 2
            page.text(MARGIN, middle, label, size=8.5, colour=MUTED, ha="left")
        for begin, stop in waits(tasks):
            _draw_bar(page, left + begin * unit, y, (stop - begin) * unit, height, "waits")
        for task in tasks:
            kind, length = "loads" if task.loads else "trains", task.end - task.start
            at = left + task.start * unit, y + task.row * pitch
            _draw_bar(page, *at, length * unit, height, kind, f"{task.batch + 1}")
        x, words = left + end * unit, f"done at {end}"
        if end == longest:  # no room to the right of it
            page.text(x, y - 14, words, bold=True, ha="right")
        else:
            page.text(x + 8, y + height / 2, words, bold=True, ha="left")
        y += (count + 1) * pitch + 24
        waiting = sum(stop - begin for begin, stop in waits(tasks))
        described.append(f"{name}: done at {end}, the main process waits for {waiting}")
    y -= 18
    page.line((left, y), (left + longest * unit, y), colour=MUTED)
    for k in range(0, longest + 1, 3):
        page.line((left + k * unit, y), (left + k * unit, y + 4), colour=MUTED)
        page.text(left + k * unit, y + 15, f"{k}", size=8.5, colour=MUTED)
    page.text(left, y + 38, "time, in training steps", size=8.5, colour=MUTED, ha="left")
    for i, (kind, words) in enumerate(LABELS.items()):
        x = left + 236 + i * 124
        _draw_bar(page, x, y + 29, 26, 18, kind)
        page.text(x + 33, y + 38, words, size=8.5, ha="left")
    return page.plot(
        f"{BATCHES} batches; training on one takes {TRAIN} and loading it {LOAD}. "
        f"{'; '.join(described).capitalize()}."
    )


def waits(tasks: list[Task]) -> list[tuple[int, int]]:
    """Return when the main process waits: (start, end) of each gap before one of its tasks.

    >>> waits(simulate(3))
    [(0, 3)]
    """
    main = sorted((task.start, task.end) for task in tasks if task.row == 0)
    gaps = pairwise([(0, 0), *main])
    return [(before[1], after[0]) for before, after in gaps if before[1] < after[0]]


LABELS = {"loads": "loads a batch", "trains": "trains on it", "waits": "waits"}


def _draw_bar(
    page: Canvas, x: float, y: float, width: float, height: float, kind: str, words: str = ""
) -> None:
    """Draw what a process does for a while."""
    looks: dict[str, dict[str, Any]] = {
        "loads": {"fill": tint(ORANGE, 0.3), "edge": ORANGE},
        "trains": {"fill": BLUE, "colour": "white", "bold": True},
        "waits": {"edge": "#8A8A8A", "dashed": True, "line": 0.8},
    }
    page.box(x + 0.5, y, width - 1, height, words, radius=2, **looks[kind])
