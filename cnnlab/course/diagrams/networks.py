"""Diagrams of what is inside a network: its shapes, its norms, and what is frozen."""

from itertools import pairwise
from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from cnnlab.course.diagrams.canvas import (
    BLUE,
    GREEN,
    INK,
    MARGIN,
    MUTED,
    ORANGE,
    RULE,
    WARNING,
    Box,
    Canvas,
    tint,
)
from cnnlab.models import Block, SmallResNet, small_resnet, stages
from cnnlab.plots import Plot
from cnnlab.rng import fork_rng, generator
from cnnlab.transfer import advise, freeze, unfreeze


SIDE = 32  # of the image, in pixels


def course_network() -> SmallResNet:
    """Return the network of the course, for twelve classes."""
    with fork_rng():
        return small_resnet(12)


def parameter_count(module: nn.Module, trainable: bool = False) -> int:
    """Count the parameters of a module, or only those that are trained."""
    return sum(p.numel() for p in module.parameters() if p.requires_grad or not trainable)


# --- the network ----------------------------------------------------------------------------------


def network(model: SmallResNet | None = None) -> Plot:
    """Draw the network of the course: the shape after each stage, and the inside of a block.

    Args:
        model: with one to three blocks; by default `small_resnet(12)`.

    Raises:
        ValueError: the model is no `SmallResNet`, or has another number of blocks.

    >>> network().alt.partition(". ")[0]
    'Each block halves the side and doubles the channels: a 32 × 32 image becomes 12 scores'
    """
    model = course_network() if model is None else model
    if not isinstance(model, SmallResNet) or not 1 <= len(model.blocks) <= 3:
        blocks = f" with {len(model.blocks)} blocks" if isinstance(model, SmallResNet) else ""
        raise ValueError(
            f"network() draws a small_resnet with 1 to 3 blocks, got a {type(model).__name__}"
            f"{blocks}: small_resnet(12, depth=2)"
        )
    shapes, block = stage_shapes(model), cast("Block", model.blocks[0])
    page = Canvas(
        "Each block halves the side and doubles the channels:\n"
        f"a {SIDE} × {SIDE} image becomes {shapes[-1][0]} scores",
        note=f"Below each arrow: the parameters of that stage, {parameter_count(model):,} in all.",
        height=478,
    )
    counts = [parameter_count(stage) for stage in stages(model)]
    operations = [
        ("stem", counts[0]),
        *((f"block {i + 1}", count) for i, count in enumerate(counts[1:-1])),
        ("mean over\npixels", 0),
        ("linear\nlayer", counts[-1]),
    ]
    _draw_shapes(page, shapes, operations)
    _draw_block(page, block)
    steps = "; ".join(
        f"{name.replace(chr(10), ' ')} ({count:,} parameters) gives {_times(shape)}"
        for (name, count), shape in zip(operations, shapes[1:], strict=True)
    )
    return page.plot(
        f"The image is {_times(shapes[0])}; {steps}. In all {sum(counts):,} parameters. "
        f"Inside a block: {'; '.join(_describe_path(path) for path in _paths(block))}; "
        "the two are added, and a ReLU follows."
    )


def stage_shapes(model: SmallResNet) -> list[tuple[int, ...]]:
    """Return the shapes of an image on its way: image, stem, blocks, features, logits."""
    shapes: list[tuple[int, ...]] = [(cast("nn.Conv2d", model.stem[0]).in_channels, SIDE, SIDE)]

    def note(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        shapes.extend([tuple(inputs[0].shape[1:])] if module is model.head else [])
        shapes.append(tuple(output.shape[1:]))

    handles = [part.register_forward_hook(note) for part in stages(model)]
    training = model.training
    parameter = next(model.parameters())
    with torch.no_grad():
        model.eval()(torch.zeros(1, *shapes[0]).to(parameter))
    model.train(training)
    for handle in handles:
        handle.remove()
    return shapes


def _times(shape: tuple[int, ...]) -> str:
    return " × ".join(map(str, shape))


def _draw_shapes(
    page: Canvas, shapes: list[tuple[int, ...]], operations: list[tuple[str, int]]
) -> None:
    """Draw the feature maps in a row, with an arrow for each operation."""
    middle, tall = 182.0, 92.0
    wide = 62 / max(shapes[-2][0], shapes[-1][0])  # pixels per channel
    volumes = []
    for i, shape in enumerate(shapes):
        sides = (max(5, tall / SIDE * side) for side in (*shape, 1, 1)[1:3])
        size = (max(4, wide * shape[0]), *sides)
        first, last = MARGIN + 38, page.width - MARGIN - 30
        centre = first + i * (last - first) / (len(shapes) - 1)
        colour = ORANGE if i == 0 else GREEN if i == len(shapes) - 1 else BLUE
        volumes.append(page.volume(centre, middle, size, colour))
        names = {0: "image", len(shapes) - 2: "features", len(shapes) - 1: "logits"}
        page.text(centre, 254, _times(shape), bold=True)
        page.text(centre, 271, names.get(i, "feature map"), size=8.5, colour=MUTED)
    for (a, b), (name, count) in zip(pairwise(volumes), operations, strict=True):
        start, end = a.x + a.width + 7, b.x - 7
        page.arrow((start, middle), (end, middle))
        page.text((start + end) / 2, middle - 11, name, size=8.5, va="bottom", spacing=1.15)
        if count:
            words = f"{count:,}"
            page.text((start + end) / 2, middle + 11, words, size=8.5, colour=MUTED, va="top")


def _paths(block: Block) -> list[list[str]]:
    """Return the layers along both ways through a block."""

    def norm(layer: nn.Module) -> list[str]:
        names = {nn.BatchNorm2d: "batch\nnorm", nn.GroupNorm: "layer\nnorm"}
        return [names[type(layer)]] if type(layer) in names else []

    def conv(layer: Any) -> str:
        side, stride = layer.kernel_size[0], layer.stride[0]
        return f"conv {side} × {side}\n" + (f"stride {stride}" if stride > 1 else "stride 1")

    return [
        [conv(block.conv1), *norm(block.norm1), "ReLU", conv(block.conv2), *norm(block.norm2)],
        [conv(block.shortcut[0]), *norm(block.shortcut[1])],
    ]


def _describe_path(path: list[str]) -> str:
    return ", ".join(name.replace("\n", " ") for name in path)


def _draw_block(page: Canvas, block: Block) -> None:
    """Draw the layers of a block, with the shortcut below."""
    panel = page.box(MARGIN, 300, page.width - 2 * MARGIN, 156, fill="#F5F5F5", edge=RULE, radius=8)
    title = "Inside block 1: two convolutions, and a shortcut around them"
    page.text(panel.x + 14, panel.y + 20, title, bold=True, ha="left")
    main, shortcut = _paths(block)
    upper, lower, height = panel.y + 62, panel.y + 122, 38
    widths = [72 if "conv" in name else 48 for name in main]
    start, end, radius, relu = panel.x + 30, panel.x + panel.width - 30, 14, 48
    source = page.circle(start, upper, radius, "x", size=10)
    room = end - start - 4 * radius - sum(widths) - relu  # for the arrows
    gap = room / (len(main) + 3)

    def draw(names: list[str], x: float, y: float, colour: str) -> list[Box]:
        boxes = []
        for name in names:
            fill = tint(colour, 0.3) if "conv" in name else "white"
            width = 72 if "conv" in name else 48
            boxes.append(page.box(x, y - height / 2, width, height, name, fill=fill, size=8.5))
            x += width + gap
        return boxes

    boxes = draw(main, source.right[0] + gap, upper, BLUE)
    total = page.circle(boxes[-1].right[0] + gap + radius, upper, radius, "+", size=11)
    last = page.box(total.right[0] + gap, upper - height / 2, relu, height, "ReLU", size=8.5)
    result = page.circle(end, upper, radius, "y", size=10)
    chain = [source, *boxes, total, last, result]
    for a, b in pairwise(chain):
        page.arrow(a.right, b.left)
    length = 72 + (48 + gap if len(shortcut) > 1 else 0)
    below = draw(shortcut, (source.centre[0] + total.centre[0] - length) / 2, lower, BLUE)
    page.arrow(source.bottom, (source.centre[0], lower), below[0].left)
    for a, b in pairwise(below):
        page.arrow(a.right, b.left)
    page.arrow(below[-1].right, (total.centre[0], lower), total.bottom)


# --- what a norm averages over --------------------------------------------------------------------

IMAGES, CHANNELS, PIXELS = 4, 6, 3
NORMALISED = (1, 2)  # image and channel of the map that the diagram follows


def normalisation() -> Plot:
    """Draw which maps batch, layer and group norm average over to normalise one of them.

    The marked maps are those that change the result, by the gradients of PyTorch's own layers.

    >>> normalisation().alt.partition(". ")[0]
    'Batch norm averages over the images, layer norm and group norm within one image'
    """
    page = Canvas(
        "Batch norm averages over the images,\nlayer norm and group norm within one image",
        note=f"Each square is one channel of one image, a map of {PIXELS} × {PIXELS} pixels.",
        height=424,
    )
    layers: dict[str, nn.Module] = {
        "Batch norm": nn.BatchNorm2d(CHANNELS),
        "Layer norm": nn.GroupNorm(1, CHANNELS),
        "Group norm": nn.GroupNorm(2, CHANNELS),
    }
    cell, pitch = 24.0, 27.0
    wide, left = CHANNELS * pitch - (pitch - cell), MARGIN + 40
    step = (page.width - left - MARGIN - wide) / 2
    described = []
    for i, (name, layer) in enumerate(layers.items()):
        x, y = left + i * step, 172.0
        used = maps_averaged(layer)
        page.text(x, 120, name, size=11, bold=True, ha="left")
        groups = getattr(layer, "num_groups", 1)
        channels = f"channels, in {groups} groups →" if groups > 1 else "channels →"
        page.text(x, 146, channels, size=8.5, colour=MUTED, ha="left")
        for n in range(IMAGES):
            for c in range(CHANNELS):
                _draw_map(page, x + c * pitch, y + n * pitch, cell, (n, c), bool(used[n, c]))
        if i == 0:
            for n in range(IMAGES):
                page.text(
                    x - 8, y + (n + 0.42) * pitch, f"{n + 1}", size=8.5, colour=MUTED, ha="right"
                )
            page.text(x - 8, 146, "image", size=8.5, colour=MUTED, ha="right")
        count = int(used.sum()) * PIXELS**2
        others = bool(used[[n for n in range(IMAGES) if n != NORMALISED[0]]].any())
        facts = f"{int(used.sum())} maps × {PIXELS**2} pixels\n= {count} values in one mean"
        page.text(x, 300, facts, ha="left", va="top")
        verdict = "needs the other images" if others else "works on a single image"
        page.text(
            x, 345, verdict, size=8.5, bold=True, colour=WARNING if others else BLUE, ha="left"
        )
        described.append(f"{name}: {count} values from {int(used.sum())} maps, {verdict}")
    x = left
    for marked, inside, words in (
        (True, True, "the map being normalised"),
        (False, True, "maps averaged with it"),
        (False, False, "not used"),
    ):
        _draw_map(page, x, 384, 18, NORMALISED if marked else None, inside)
        page.text(x + 26, 393, words, size=8.5, ha="left")
        x += 208
    return page.plot(
        f"A batch of {IMAGES} images with {CHANNELS} channels of {PIXELS} × {PIXELS} pixels; "
        f"one map is normalised. {'; '.join(described)}."
    )


def maps_averaged(layer: nn.Module) -> Tensor:
    """Return which maps change the normalised one, a mask (images, channels)."""
    shape = (IMAGES, CHANNELS, PIXELS, PIXELS)
    x = torch.randn(shape, dtype=torch.float64, generator=generator(0)).requires_grad_()
    n, c = NORMALISED
    (gradient,) = torch.autograd.grad(layer.double()(x)[n, c, 0, 0], x)
    return gradient.abs().sum(dim=(2, 3)) > 1e-9


def _draw_map(
    page: Canvas, x: float, y: float, size: float, which: tuple[int, int] | None, used: bool
) -> None:
    """Draw one channel of one image as a square of pixels."""
    marked = which == NORMALISED
    fill = BLUE if marked else tint(BLUE, 0.45) if used else "white"
    page.box(
        x,
        y,
        size,
        size,
        fill=fill,
        edge=INK if used else RULE,
        line=2.2 if marked else 1,
        radius=0,
        z=1.2 if marked else 1,
    )
    for k in range(1, PIXELS):
        shade = "white" if used else RULE
        at = k * size / PIXELS
        page.line((x + at, y + 1.5), (x + at, y + size - 1.5), colour=shade, line=0.6)
        page.line((x + 1.5, y + at), (x + size - 1.5, y + at), colour=shade, line=0.6)


# --- freezing -------------------------------------------------------------------------------------

# From the bottom rung to the top: the data in words, images per class, their similarity to the old
# ones, and how many stages below the head are trained.
RUNGS: tuple[tuple[str, int, Literal["high", "low"], int], ...] = (
    ("a few images,\nsimilar", 10, "high", 0),
    ("a few, different:\nno guarantee", 10, "low", 1),
    ("many images,\nsimilar", 1000, "high", 2),
    ("many images,\ndifferent", 1000, "low", 3),
)


def freezing() -> Plot:
    """Draw the strategies of transfer learning as a ladder: each rung trains more of the network.

    The strategies are those of `transfer.advise`, the guideline of the CS231n notes and of later
    lectures. It leaves open how many layers are "a few of the later ones"; here it's two stages of
    three. The numbers are counted in a model whose stages are really frozen.

    >>> freezing().alt.partition(". ")[0]
    'The more images you have, and the less familiar they are, the more of the network you train'
    """
    page = Canvas(
        "The more images you have, and the less familiar they are,\n"
        "the more of the network you train",
        note="Where the 2 x 2 rule begins. The head is new, all other stages are pretrained.",
        height=462,
    )
    model = course_network()
    parts, total = stages(model), parameter_count(model)
    names = ["stem", *(f"block {i + 1}" for i in range(len(parts) - 2)), "head"]
    rail, width, gap, height, first = 152.0, 70.0, 10.0, 38.0, 342.0
    right = rail + 20 + len(parts) * (width + gap)
    for x in (rail, right):
        page.box(x, 122, 8, 276, fill="#9E9E9E", edge=MUTED, line=0.6, radius=2, z=0)
    page.text(right + 32, 106, "trained parameters", size=8.5, colour=MUTED, ha="left")
    page.text(MARGIN, 106, "your data", size=8.5, colour=MUTED, ha="left")
    described = []
    for i, (data, images, similarity, below) in enumerate(RUNGS):
        y = first - i * 68
        freeze(model)
        for stage in parts[len(parts) - 1 - below :]:
            unfreeze(stage)
        page.line((rail + 8, y + height / 2), (right, y + height / 2), colour=MUTED, line=5, z=0.5)
        for k, (stage, name) in enumerate(zip(parts, names, strict=True)):
            active = parameter_count(stage, trainable=True) > 0
            usual = stage is parts[-1]
            place = rail + 18 + k * (width + gap), y
            _draw_stage(page, *place, (width, height), name, active, usual)
        count = parameter_count(model, trainable=True)
        strategy = advise(images, similarity).strategy
        percent = f"{count:,} ({100 * count / total:.0f} %)"
        page.text(MARGIN, y + height / 2, data, ha="left")
        page.text(right + 32, y + 10, strategy, size=9.5, bold=True, ha="left")
        page.text(right + 32, y + 29, percent, ha="left")
        words = " ".join(data.split())
        described.append(f"{words}: {strategy}, {percent} of the parameters")
    x = rail + 18
    for label, active, usual in (
        ("frozen", False, False),
        ("small learning rate", True, False),
        ("usual learning rate", True, True),
    ):
        _draw_stage(page, x, 422, (26, 18), "", active, usual)
        page.text(x + 34, 431, label, size=8.5, ha="left")
        x += 112 if label == "frozen" else 178
    return page.plot(f"From the lowest rung up, {'; '.join(described)}.")


def _draw_stage(
    page: Canvas,
    x: float,
    y: float,
    size: tuple[float, float],
    name: str,
    active: bool,
    usual: bool,
) -> None:
    """Draw one stage of a network, and whether it is trained."""
    fill = BLUE if usual else tint(BLUE, 0.3) if active else "#EDEDED"
    colour = "white" if usual else INK if active else MUTED
    edge = INK if active else "#8A8A8A"
    page.box(x, y, *size, name, fill=fill, edge=edge, colour=colour, size=8.5, dashed=not active)
