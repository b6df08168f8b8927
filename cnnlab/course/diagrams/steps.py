"""Diagrams of what happens in a training step: its length, its parts, and its number formats."""

import math
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cnnlab.course.diagrams.canvas import (
    BLUE,
    INK,
    MARGIN,
    MUTED,
    ORANGE,
    RULE,
    Box,
    Canvas,
    tint,
)
from cnnlab.models import small_resnet
from cnnlab.plots import Plot
from cnnlab.rng import fork_rng, generator, seed_at


# --- learning rates -------------------------------------------------------------------------------

RATES = (0.1, 0.5, 1.8, 2.1)
START, STEPS = 4.0, 5


def learning_rates() -> Plot:
    """Draw five steps of gradient descent on w²/2 at four learning rates.

    >>> learning_rates().alt.partition(". ")[0]
    'Too small a learning rate crawls, too large a one overshoots, and above 2 the loss grows'
    """
    page = Canvas(
        "Too small a learning rate crawls, too large a one overshoots,\nand above 2 the loss grows",
        note=f"{STEPS} steps on the loss w²/2 from w = {START:g}. Its slope at w is w, so each "
        "step multiplies w by 1 − learning rate.",
        height=394,
    )
    left, width, gap = MARGIN + 36, 143.0, 16.0
    grid = np.linspace(-7, 7, 200)
    described = []
    for i, rate in enumerate(RATES):
        path = descend(rate)
        losses = [w**2 / 2 for w in path]
        place = Box(left + i * (width + gap), 158, width, 146)
        axis = page.axes(place, xlim=(-7.4, 7.4), ylim=(-1, 25), xlabel="weight w")
        axis.set_xticks([-4, 0, 4])
        axis.set_yticks([0, 10, 20], ["0", "10", "20"] if i == 0 else ["", "", ""])
        axis.plot(grid, grid**2 / 2, color=RULE, linewidth=2, zorder=1)
        for a, b in pairwise(zip(path, losses, strict=True)):
            long = math.dist(a, b) > 2
            axis.annotate(
                "",
                b,
                a,
                arrowprops={
                    "arrowstyle": "-|>,head_length=0.4,head_width=0.2" if long else "-",
                    "color": BLUE,
                    "mutation_scale": 10,
                    "shrinkA": 2,
                    "shrinkB": 2,
                },
            )
        axis.plot(path[1:], losses[1:], "o", color=BLUE, markersize=5, zorder=3)
        axis.plot(path[0], losses[0], "o", color="white", markeredgecolor=INK, zorder=4)
        if i == 0:
            axis.set_ylabel("loss", labelpad=2)
        page.text(place.x, 112, f"learning rate {rate:g}", size=9.5, bold=True, ha="left")
        page.text(place.x, 131, verdict(path), colour=MUTED, ha="left")
        page.text(place.x, 366, f"loss {losses[0]:g} → {losses[-1]:.2g}", ha="left")
        described.append(f"{rate:g} {verdict(path)}, from {losses[0]:g} to {losses[-1]:.2g}")
    return page.plot(
        f"Loss w²/2 before and after {STEPS} steps from w = {START:g}, by learning rate: "
        f"{'; '.join(described)}."
    )


def descend(rate: float) -> list[float]:
    """Return the weight before and after each step of gradient descent on w²/2."""
    w = torch.tensor(START, dtype=torch.float64, requires_grad=True)
    path = [w.item()]
    for _ in range(STEPS):
        (gradient,) = torch.autograd.grad(w**2 / 2, w)
        with torch.no_grad():
            w -= rate * gradient
        path.append(w.item())
    return path


def verdict(path: list[float]) -> str:
    """Say how a descent towards 0 went."""
    if abs(path[-1]) > abs(path[0]):
        return "diverges"
    if path[0] * path[1] < 0:
        return "overshoots"
    return "crawls" if abs(path[-1]) > abs(path[0]) / 2 else "arrives"


# --- gradient accumulation ------------------------------------------------------------------------

# One weight w = 0 and one target per image: the loss of an image is (w - target)²/2, and its
# gradient is minus the target.
TARGETS = (-2.0, 1.0, -5.0, -6.0, -6.0, -3.0, -7.0, -4.0, 0.0, -2.0)
MICROBATCH = 4


def mean_gradient(targets: Tensor) -> float:
    """Return the gradient of the mean loss of some images."""
    w = torch.zeros((), requires_grad=True)
    return torch.autograd.grad(((w - targets) ** 2 / 2).mean(), w)[0].item()


def accumulation() -> Plot:
    """Draw how the gradients of microbatches add up to the gradient of the whole batch.

    >>> accumulation().alt.partition(". ")[0]
    'Gradient accumulation adds up small pieces to exactly the gradient of the whole batch'
    """
    targets = torch.tensor(TARGETS)
    n = len(targets)
    # Not `microbatches`, which would divide ten images into 4, 3 and 3: unequal pieces show why
    # each counts by its size.
    parts = targets.split(MICROBATCH)
    page = Canvas(
        "Gradient accumulation adds up small pieces\nto exactly the gradient of the whole batch",
        note=f"Each square is one of {n} images, with the gradient of its loss. Only {MICROBATCH} "
        "of them are in memory at a time.",
        height=432,
    )
    columns = {"microbatch": 24.0, "mean gradient": 200.0, "weight": 306.0, "contribution": 376.0}
    for name, x in columns.items():
        page.text(x, 120, name, size=8.5, colour=MUTED, ha="left")
    sums = [mean_gradient(part) * len(part) / n for part in parts]
    total = page.box(506, 176, 72, 52, f"sum\n{minus(sum(sums))}", fill=BLUE, colour="white")
    step = page.box(604, 176, 72, 52, "one step")
    page.arrow(total.right, step.left)
    for i, (part, share) in enumerate(zip(parts, sums, strict=True)):
        y = 140 + i * 48.0
        images = draw_images(page, MARGIN + (31 * len(part) - 3) / 2, y, part)
        mean = page.box(columns["mean gradient"], y, 60, 28, minus(mean_gradient(part)))
        page.arrow((images.right[0] + 5, mean.left[1]), mean.left)
        page.text(columns["weight"], mean.left[1], f"× {len(part)}/{n}", ha="left")
        out = page.box(columns["contribution"], y, 60, 28, minus(share), fill=tint(BLUE, 0.3))
        if out.right[1] == total.left[1]:
            page.arrow(out.right, total.left)
        else:
            side = total.bottom if out.right[1] > total.left[1] else total.top
            page.arrow(out.right, (side[0], out.right[1]), side)
    page.line((MARGIN, 302), (page.width - MARGIN, 302))
    page.text(MARGIN, 326, "whole batch", size=8.5, colour=MUTED, ha="left")
    images = draw_images(page, MARGIN + (31 * n - 3) / 2, 344, targets)
    whole = page.box(
        506, 332, 72, 52, f"mean\n{minus(mean_gradient(targets))}", fill=BLUE, colour="white"
    )
    page.arrow((images.right[0] + 5, whole.left[1]), whole.left)
    page.text(604, whole.left[1], "the same\ngradient", bold=True, ha="left")
    equal = sum(map(mean_gradient, parts)) / len(parts)
    page.text(
        MARGIN,
        406,
        f"A weight of 1/{len(parts)} for each piece would give {minus(equal)} instead: the last "
        "piece is smaller, so it has to count less.",
        colour=MUTED,
        ha="left",
    )
    terms = ", ".join(
        f"{len(part)} images with mean {minus(mean_gradient(part))} contribute {minus(share)}"
        for part, share in zip(parts, sums, strict=True)
    )
    return page.plot(
        f"{n} images in pieces of {', '.join(str(len(part)) for part in parts)}: {terms}; the sum "
        f"is {minus(sum(sums))}, and so is the mean gradient of the whole batch, "
        f"{minus(mean_gradient(targets))}. Then comes one step."
    )


def minus(number: float) -> str:
    """Write a number with one digit after the point and a real minus sign."""
    return f"{number:.1f}".replace("-", "−")


def draw_images(page: Canvas, x: float, y: float, targets: Tensor) -> Box:
    """Draw images as a row of squares with the gradients of their losses; x is its middle."""
    size, pitch = 28.0, 31.0
    row = Box(x - (len(targets) * pitch - 3) / 2, y, len(targets) * pitch - 3, size)
    for i, target in enumerate(targets):
        gradient = f"{mean_gradient(target[None]):.0f}".replace("-", "−")
        page.box(row.x + i * pitch, y, size, size, gradient, radius=0, edge=MUTED)
    return row


# --- number formats and loss scaling --------------------------------------------------------------

FORMATS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
SCALE = 2.0**16  # where `torch.amp.GradScaler` starts
WINDOW = (-13.0, 7.0)  # of the lower part, in powers of ten


def loss_scaling() -> Plot:
    """Draw the ranges of three number formats, and gradients before and after loss scaling.

    The gradients are those of a fresh `small_resnet(12)`, with respect to the outputs of its
    convolutions and batch-norm layers, for a batch of 64 random images.

    Micikevicius et al. 2018, https://arxiv.org/abs/1710.03740.

    >>> loss_scaling().alt.partition(". ")[0]
    'Loss scaling moves small gradients to where fp16 has all its digits'
    """
    page = Canvas(
        "Loss scaling moves small gradients\nto where fp16 has all its digits",
        note="Top: the numbers above 0 that each format can represent; hatched, with fewer digits.",
        height=566,
    )
    line = Box(MARGIN + 44, 126, page.width - 2 * MARGIN - 44, 126)
    _draw_ticks(page, line, FULL, range(-40, 40, 10), line.y - 12)
    formats = [_draw_format(page, line, i, name) for i, name in enumerate(FORMATS)]
    zoom = Box(MARGIN, 316, page.width - 2 * MARGIN, 190)
    left, right = (_place(line, FULL, power) for power in WINDOW)
    bottom = line.y + line.height - 10
    page.line((left, line.y), (left, bottom), (zoom.x, zoom.y), dashed=True, colour=MUTED, z=3)
    end = zoom.x + zoom.width
    page.line((right, line.y), (right, bottom), (end, zoom.y), dashed=True, colour=MUTED, z=3)
    page.text(zoom.centre[0], 290, "gradients of a small_resnet in fp16", bold=True)
    _draw_zones(page, zoom)
    gradients = layer_gradients()
    rows = [
        _draw_gradients(page, zoom, zoom.y + 100, gradients, 1.0),
        _draw_gradients(page, zoom, zoom.y + 186, gradients, SCALE),
    ]
    _draw_ticks(page, zoom, WINDOW, range(-12, 6, 2), zoom.y + zoom.height + 14)
    page.text(zoom.centre[0], 544, "size of a gradient in the network", size=8.5, colour=MUTED)
    return page.plot(
        f"{'; '.join(formats)}. Gradients of a small_resnet in fp16: {'; '.join(rows)}."
    )


FULL = (-46.0, 39.0)  # of the upper part
ZERO = math.log10(torch.finfo(torch.half).smallest_normal * torch.finfo(torch.half).eps / 2)


def layer_gradients() -> Tensor:
    """Return the absolute gradients of a fresh network in front of each layer, without zeros."""
    seen: list[Tensor] = []

    def keep(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        output.register_hook(lambda gradient: seen.append(gradient.flatten()))

    draws = generator(0)
    images = torch.rand(64, 3, 32, 32, generator=draws)
    labels = torch.randint(12, (64,), generator=draws)
    with fork_rng(), torch.enable_grad():
        seed_at(0)
        model = small_resnet(12)
        for layer in model.modules():
            if isinstance(layer, nn.Conv2d | nn.BatchNorm2d):
                layer.register_forward_hook(keep)
        F.cross_entropy(model(images), labels).backward()
    gradients = torch.cat(seen).abs()
    return gradients[gradients > 0]


def _place(box: Box, window: tuple[float, float], power: float) -> float:
    """Return where a power of ten is on a number line."""
    return box.x + box.width * (power - window[0]) / (window[1] - window[0])


def _draw_ticks(
    page: Canvas, box: Box, window: tuple[float, float], powers: range, y: float
) -> None:
    for power in powers:
        words = "1" if power == 0 else f"$10^{{{power}}}$"
        page.text(_place(box, window, power), y, words, size=8.5, colour=MUTED)


def _draw_format(page: Canvas, box: Box, row: int, name: str) -> str:
    """Draw the range of a number format as a bar, and describe it."""
    info = torch.finfo(FORMATS[name])
    smallest = info.smallest_normal * info.eps  # with a single digit left
    y = box.y + 12 + row * 34
    ends = (math.log10(value) for value in (smallest, info.smallest_normal, info.max))
    a, b, c = (_place(box, FULL, power) for power in ends)
    style: dict[str, Any] = {"edge": BLUE, "radius": 0, "line": 0.9}
    page.box(a, y, b - a, 22, hatch="//////", **style)
    page.box(b, y, c - b, 22, fill=tint(BLUE, 0.3), **style)
    digits = math.floor(-math.log10(info.eps / 2))
    page.text(box.x - 12, y + 11, name, bold=True, ha="right")
    words = f"{digits} digits, up to {_short(info.max)}"
    page.text(_place(box, FULL, WINDOW[1]) + 10, y + 11, words, size=8.5, ha="left")
    return f"{name} has about {digits} digits from {info.smallest_normal:.0e} to {info.max:.0e}"


def _short(number: float) -> str:
    """Write a number as a reader would: 65,504 or 3 · 10^38."""
    if number < 1e6:
        return f"{number:,.0f}"
    power = math.floor(math.log10(number))
    return f"{number / 10**power:.1f} · $10^{{{power}}}$"


def _draw_zones(page: Canvas, box: Box) -> None:
    """Draw what fp16 makes of a number, by its size."""
    info = torch.finfo(torch.half)
    edges = [WINDOW[0], ZERO, math.log10(info.smallest_normal), math.log10(info.max), WINDOW[1]]
    looks: list[tuple[str, dict[str, Any]]] = [
        ("rounded to 0", {"fill": "#E4E4E4"}),
        ("fewer digits", {"hatch": "//////"}),
        ("all digits", {"fill": tint(BLUE, 0.3)}),
        ("infinite", {"fill": "#E4E4E4"}),
    ]
    for (a, b), (words, look) in zip(pairwise(edges), looks, strict=True):
        x, end = _place(box, WINDOW, a), _place(box, WINDOW, b)
        page.box(x, box.y, end - x, 14, edge=BLUE, radius=0, line=0.9, **look)
        page.text((x + end) / 2, box.y + 25, words, size=8.5)
        if b != WINDOW[1]:
            page.line((end, box.y + 14), (end, box.y + box.height), dashed=True)


def _draw_gradients(page: Canvas, box: Box, y: float, gradients: Tensor, scale: float) -> str:
    """Draw a histogram of scaled gradients, and say what fp16 makes of them."""
    scaled = gradients * scale
    half, normal = scaled.half(), torch.finfo(torch.half).smallest_normal
    counts = torch.histc(scaled.log10(), 95, *WINDOW)
    heights = (58 * counts / counts.max()).tolist()
    width = box.width / len(heights)
    xs = [box.x + width * (i + 0.5) for i in range(len(heights))]
    page.axis.fill_between(
        xs, [y - height for height in heights], y, color=ORANGE if scale == 1 else BLUE, zorder=2
    )
    page.line((box.x, y), (box.x + box.width, y), colour=INK, line=0.8)
    zero = (half == 0).float().mean().item()
    few = ((half > 0) & (half < normal)).float().mean().item()
    name = "without scaling" if scale == 1 else f"loss × {scale:,.0f}"
    for k, words in enumerate((name, f"{_percent(zero)} become 0", f"{_percent(few)} lose digits")):
        page.text(box.x, y - 46 + 17 * k, words, size=8.5, bold=k == 0, ha="left")
    return f"{name} {_percent(zero)} become 0 and {_percent(few)} lose digits"


def _percent(fraction: float) -> str:
    return f"{100 * fraction:.1f} %" if fraction < 0.1 else f"{100 * fraction:.0f} %"
