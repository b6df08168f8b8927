"""Time mixup and CutMix of a batch, compared with copying the batch.

Mixing has to write every pixel once, and so does a copy. cnnlab draws its parameters for each
image; torchvision draws them once per batch, and so does timm by default. timm changes the batch in
place, so it gets a copy.
"""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from benchmarks.pairs import in_turn
from benchmarks.report import Row, Table, installed, options, write
from cnnlab.mixing import CutMix, MixUp


CLASSES = 10
SIZES = {32: 128, 224: 32}  # side of an image in pixels -> images per batch
GOALS = {"**cnnlab**, mixup": 2, "**cnnlab**, CutMix": 5}
Mix = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


def torchvision_mixes() -> dict[str, Mix]:
    """Return torchvision's mixup and CutMix, which draw one λ or one box per batch."""
    from torchvision.transforms import v2

    return {
        "torchvision v2, mixup": v2.MixUp(alpha=0.4, num_classes=CLASSES),
        "torchvision v2, CutMix": v2.CutMix(alpha=1.0, num_classes=CLASSES),
    }


def timm_mixes() -> dict[str, Mix]:
    """Return timm's mixup and CutMix, with one draw per batch and with one per image ("elem")."""
    from timm.data.mixup import Mixup

    mixes: dict[str, Mix] = {}
    for mode in ("batch", "elem"):
        for name, alphas in {"mixup": (0.4, 0.0), "CutMix": (0.0, 1.0)}.items():
            mix = Mixup(*alphas, mode=mode, num_classes=CLASSES, label_smoothing=0.0)
            mixes[f"timm {mode}, {name}"] = partial(_mix_copy, mix)
    return mixes


def _mix_copy(mix: Mix, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    return mix(images.clone(), labels)


PEERS = {"torchvision": torchvision_mixes, "timm": timm_mixes}


def contestants() -> dict[str, Mix]:
    """Return the contestants: cnnlab, and the other libraries that are installed."""
    mixes: dict[str, Mix] = {
        "copy, again": lambda images, labels: (images.clone(), labels),
        "**cnnlab**, mixup": MixUp(0.4, CLASSES),
        "**cnnlab**, CutMix": CutMix(1.0, CLASSES),
    }
    for module in installed(list(PEERS), of="mixing"):
        mixes |= PEERS[module]()
    return mixes


def table(size: int, batch: int, rounds: int, repeats: int) -> Table:
    """Time every contestant, in turn with a copy of the batch.

    Args:
        size: side of an image, in pixels.
        batch: images per batch.
        rounds: pairs per contestant.
        repeats: calls per turn; a single call would be too short for the clock.
    """
    generator = torch.Generator().manual_seed(0)
    images = torch.rand(batch, 3, size, size, generator=generator)
    labels = torch.randint(CLASSES, (batch,), generator=generator)
    turns = {
        name: partial(_repeat, repeats, partial(mix, images, labels))
        for name, mix in contestants().items()
    }
    pairs = in_turn(partial(_repeat, repeats, images.clone), turns, rounds)
    rows = [Row(name, pairs[name], GOALS.get(name), unit=repeats) for name in turns]
    return Table(f"{size} px, batches of {batch}", "copy", "batch", rows)


def _repeat(repeats: int, function: Callable[[], object]) -> None:
    for _ in range(repeats):
        function()


DESCRIPTION = (
    "Each ratio is the time to mix a batch divided by the time to copy it. cnnlab draws a "
    "separate λ or box for each image. torchvision draws one per batch, and so does timm in its "
    'mode "batch"; in its mode "elem", timm draws one per image.\n\n'
    "Drawing the parameters takes about thirty small operations, whatever the size of the images. "
    "Copying a batch of images of 32 pixels takes about as long, so the ratios there are high. At "
    "224 pixels these operations no longer matter."
)


def main(arguments: list[str] | None = None) -> list[Table]:
    """Run the benchmark and write its tables."""
    args = options("mixing", arguments)
    if args.short:
        tables = [table(32, 16, rounds=2, repeats=1)]
    else:
        tables = [table(size, batch, rounds=25, repeats=10) for size, batch in SIZES.items()]
    write("mixing", "Mixup and CutMix", DESCRIPTION, tables, ["torchvision", "timm"], args.out)
    return tables


if __name__ == "__main__":
    main()
