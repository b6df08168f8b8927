"""What `channels_last=True` changes for the models that cnnlab ships: a training step beside the default layout's."""

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.pairs import in_turn
from benchmarks.report import Row, Table, options, write
from cnnlab.models import pretrained, small_resnet


CLASSES, BATCH, SIZE = 12, 64, 32
GOAL = 1.03
MODELS: dict[str, Callable[[], nn.Module]] = {
    "small_resnet": partial(small_resnet, CLASSES),
    "small_resnet, width 8": partial(small_resnet, CLASSES, width=8),
    "small_resnet, width 32": partial(small_resnet, CLASSES, width=32),
    "small_resnet, depth 1": partial(small_resnet, CLASSES, depth=1),
    "small_resnet, depth 3": partial(small_resnet, CLASSES, depth=3),
    "small_resnet, layer norm": partial(small_resnet, CLASSES, norm="layer"),
    "small_resnet, no norm": partial(small_resnet, CLASSES, norm="none"),
    "small_resnet, one channel": partial(small_resnet, CLASSES, in_channels=1),
    "glyphnet": partial(pretrained, "glyphnet", CLASSES),
}


def steps(
    make: Callable[[], nn.Module], layout: torch.memory_format, count: int
) -> Callable[[], None]:
    """Return a function that takes training steps of a new model in that layout."""
    model = make().to(memory_format=layout).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, 0.9)
    draw = torch.Generator().manual_seed(0)
    channels = next(m for m in model.modules() if isinstance(m, nn.Conv2d)).in_channels
    batch = torch.rand(BATCH, channels, SIZE, SIZE, generator=draw)
    labels = torch.randint(CLASSES, (BATCH,), generator=draw)

    def turn() -> None:
        for _ in range(count):
            images = batch.to(memory_format=layout)  # as the Trainer does it, at each step
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()

    return turn


def rows_of(name: str, make: Callable[[], nn.Module], rounds: int, count: int) -> list[Row]:
    """Time both layouts of a model; for the first model also the default against itself."""
    turns = {name: steps(make, torch.channels_last, count)}
    if make is MODELS["small_resnet"]:
        turns = {"default layout, again": steps(make, torch.contiguous_format, count)} | turns
    pairs = in_turn(steps(make, torch.contiguous_format, count), turns, rounds)
    return [Row(n, pairs[n], GOAL if n == name else None, unit=count) for n in turns]


WORDS = (
    f"Time of a training step with channels last, over one with the default layout; {BATCH} images "
    f"of {SIZE} pixels, "
    "SGD with momentum. Below 1, channels last is faster."
)


def main(arguments: list[str] | None = None) -> list[Table]:
    """Measure and report."""
    chosen = options("channels_last", arguments)
    names = ("small_resnet", "glyphnet") if chosen.short else tuple(MODELS)
    rounds, count = (1, 1) if chosen.short else (15, 3)
    rows = [r for name in names for r in rows_of(name, MODELS[name], rounds, count)]
    tables = [Table("Models that ship", "default layout", "step", rows)]
    write("channels_last", "Channels last", WORDS, tables, [], chosen.out)
    return tables


if __name__ == "__main__":
    main()
