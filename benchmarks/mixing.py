"""What mixup and CutMix cost for a batch, in copies of the batch.

Whoever mixes has to write every pixel once, as a copy does. cnnlab draws parameters for each image;
torchvision, and timm by default, draw them once for the batch. timm writes into the batch it is
given, so it gets a copy.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.pairs import in_turn
from benchmarks.report import Row, Table, installed, options, write
from cnnlab.mixing import CutMix, MixUp


CLASSES = 10
SIZES = {32: 128, 224: 32}  # pixels: images in a batch
GOALS = {"**cnnlab**, mixup": 2, "**cnnlab**, CutMix": 5}
Mix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def by_torchvision() -> dict[str, Mix]:
    """One λ, or one box, for the batch."""
    from torchvision.transforms import v2

    return {
        "torchvision v2, mixup": v2.MixUp(alpha=0.4, num_classes=CLASSES),
        "torchvision v2, CutMix": v2.CutMix(alpha=1.0, num_classes=CLASSES),
    }


def by_timm() -> dict[str, Mix]:
    """One for the batch, or one for each image ("elem")."""
    from timm.data.mixup import Mixup

    mixes: dict[str, Mix] = {}
    for mode in ("batch", "elem"):
        for name, alphas in {"mixup": (0.4, 0.0), "CutMix": (0.0, 1.0)}.items():
            mix = Mixup(*alphas, mode=mode, num_classes=CLASSES, label_smoothing=0.0)
            mixes[f"timm {mode}, {name}"] = partial(_on_a_copy, mix)
    return mixes


def _on_a_copy(mix: Mix, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return mix(images.clone(), labels)


PEERS = {"torchvision": by_torchvision, "timm": by_timm}


def contestants() -> dict[str, Mix]:
    """Return who takes part: cnnlab, and those that are installed."""
    mixes: dict[str, Mix] = {
        "copy, again": lambda images, labels: (images.clone(), labels),
        "**cnnlab**, mixup": MixUp(0.4, CLASSES),
        "**cnnlab**, CutMix": CutMix(1.0, CLASSES),
    }
    for module in installed(list(PEERS), of="mixing"):
        mixes |= PEERS[module]()
    return mixes


def table(size: int, batch: int, rounds: int, times: int) -> Table:
    """Time everybody beside a copy; a turn is the same thing several times, so that it can be timed."""
    draw = torch.Generator().manual_seed(0)
    images = torch.rand(batch, 3, size, size, generator=draw)
    labels = torch.randint(CLASSES, (batch,), generator=draw)
    turns = {
        name: partial(_repeated, times, partial(mix, images, labels))
        for name, mix in contestants().items()
    }
    pairs = in_turn(partial(_repeated, times, images.clone), turns, rounds)
    rows = [Row(name, pairs[name], GOALS.get(name), unit=times) for name in turns]
    return Table(f"{size} px, batches of {batch}", "copy", "batch", rows)


def _repeated(times: int, mix: Callable[[], object]) -> None:
    for _ in range(times):
        mix()


WORDS = (
    "Time to mix a batch, over that of copying it. cnnlab draws λ, or a box, for each image; "
    "torchvision and "
    'timm\'s "batch" draw one for all, timm\'s "elem" one for each. A batch of '
    "small images is copied in the time of some thirty operations on 128 numbers, which drawing "
    "the parameters takes; "
    "at 224 pixels they vanish."
)


def main(arguments: list[str] | None = None) -> list[Table]:
    """Measure and report."""
    chosen = options("mixing", arguments)
    if chosen.short:
        tables = [table(32, 16, rounds=2, times=1)]
    else:
        tables = [table(size, batch, rounds=25, times=10) for size, batch in SIZES.items()]
    write("mixing", "Mixup and CutMix", WORDS, tables, ["torchvision", "timm"], chosen.out)
    return tables


if __name__ == "__main__":
    main()
