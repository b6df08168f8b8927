"""Time a training step with `channels_last=True` for the models that come with cnnlab."""

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


def training_steps(
    make: Callable[[], nn.Module], layout: torch.memory_format, count: int
) -> Callable[[], None]:
    """Return a function that takes `count` training steps of a new model in a memory layout."""
    model = make().to(memory_format=layout).train()
    optimizer = torch.optim.SGD(model.parameters(), 0.01, 0.9)
    generator = torch.Generator().manual_seed(0)
    channels = next(m for m in model.modules() if isinstance(m, nn.Conv2d)).in_channels
    batch = torch.rand(BATCH, channels, SIZE, SIZE, generator=generator)
    labels = torch.randint(CLASSES, (BATCH,), generator=generator)

    def turn() -> None:
        for _ in range(count):
            images = batch.to(memory_format=layout)  # at each step, as in the Trainer
            optimizer.zero_grad(set_to_none=True)
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()

    return turn


def model_rows(name: str, make: Callable[[], nn.Module], rounds: int, count: int) -> list[Row]:
    """Time a model in both layouts, and the first model's default layout also against itself."""
    default = partial(training_steps, make, torch.contiguous_format, count)
    turns = {name: training_steps(make, torch.channels_last, count)}
    if make is MODELS["small_resnet"]:
        turns = {"default layout, again": default()} | turns
    pairs = in_turn(default(), turns, rounds)
    return [Row(n, pairs[n], GOAL if n == name else None, unit=count) for n in turns]


DESCRIPTION = (
    "Each ratio is the time of a training step with channels last divided by its time with the "
    f"default layout, for batches of {BATCH} images of {SIZE} pixels and SGD with momentum. Below "
    "1, channels last is faster."
)


def main(arguments: list[str] | None = None) -> list[Table]:
    """Run the benchmark and write its tables."""
    args = options("channels_last", arguments)
    names = ("small_resnet", "glyphnet") if args.short else tuple(MODELS)
    rounds, count = (1, 1) if args.short else (15, 3)
    rows = [r for name in names for r in model_rows(name, MODELS[name], rounds, count)]
    tables = [Table("Models that ship", "default layout", "step", rows)]
    write("channels_last", "Channels last", DESCRIPTION, tables, [], args.out)
    return tables


if __name__ == "__main__":
    main()
