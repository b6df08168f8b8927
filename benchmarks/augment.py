"""What it costs to augment a batch with parameters of its own for each image.

The full pipeline is a crop after padding, a flip, brightness, contrast and saturation, a rotation
by up to 15 degrees (the nearest pixel), normalisation, and an erased rectangle in half of the
images; the light one is crop, flip and normalisation. All start from uint8 images in memory, or
from what they prefer to be given, and end with a float batch. cnnlab keeps torchvision's meaning to
the pixel: what a crop has cut away stays black after a rotation.
"""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from benchmarks.pairs import in_turn
from benchmarks.report import Row, Table, installed, options, write
from cnnlab.augment import Augment
from cnnlab.data.images import unit
from cnnlab.models.resnet import Normalize


MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
LIGHT, DEGREES, ERASED = 0.2, 15.0, 0.5  # spread of a colour factor, largest angle, share of images
Change = Callable[[Tensor], Tensor]  # indices of a batch -> the batch


@dataclass(frozen=True)
class Setting:
    """A size of image, and how many of them are augmented in a turn."""

    size: int
    pad: int
    batch: int
    full: bool
    rounds: int

    def images(self) -> Tensor:
        """Return two batches of smooth images, uint8 (N, 3, size, size)."""
        draw = torch.Generator().manual_seed(0)
        coarse = torch.rand(2 * self.batch, 3, 8, 8, generator=draw)
        smooth = torch.nn.functional.interpolate(coarse, size=self.size, mode="bilinear")
        return (smooth * 255).round().to(torch.uint8)

    @property
    def title(self) -> str:
        """What the table is about."""
        return (
            f"{self.size} px, {'full' if self.full else 'light'} pipeline, batches of {self.batch}"
        )


def by_nobody(setting: Setting, images: Tensor) -> Change:
    """Index and normalise; no augmentation."""
    normalize = Normalize(MEAN, STD)
    return lambda chosen: normalize(unit(images.index_select(0, chosen)))


def by_cnnlab(setting: Setting, images: Tensor, interpolation: str = "nearest") -> Change:
    """cnnlab: the whole batch at once."""
    colours = dict.fromkeys(
        ("brightness", "contrast", "saturation"), LIGHT if setting.full else 0.0
    )
    augment = Augment(
        flip=0.5,
        crop_pad=setting.pad,
        rotate=DEGREES if setting.full else 0.0,
        erase=ERASED if setting.full else 0.0,
        interpolation=interpolation,
        **colours,
    )
    normalize = Normalize(MEAN, STD)
    return lambda chosen: normalize(augment(unit(images.index_select(0, chosen))))


def by_torchvision(setting: Setting, images: Tensor, pil: bool) -> Change:
    """The transforms v2 of torchvision, one image after the other."""
    from torchvision.transforms import v2

    steps: list[Any] = [v2.RandomCrop(setting.size, padding=setting.pad), v2.RandomHorizontalFlip()]
    if setting.full:
        steps += [v2.ColorJitter(LIGHT, LIGHT, LIGHT), v2.RandomRotation(DEGREES)]
    steps += [v2.ToImage()] if pil else []
    steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    steps += [v2.RandomErasing(ERASED)] if setting.full else []
    change = v2.Compose(steps)
    sources = [v2.functional.to_pil_image(image) for image in images] if pil else list(images)
    return lambda chosen: torch.stack([change(sources[i]) for i in chosen.tolist()])


def by_kornia(setting: Setting, images: Tensor) -> Change:
    """kornia: the whole batch, one operation after the other."""
    import kornia.augmentation as K

    steps: list[Any] = [
        K.RandomCrop((setting.size, setting.size), padding=setting.pad),
        K.RandomHorizontalFlip(p=0.5),
    ]
    if setting.full:
        steps += [K.ColorJitter(LIGHT, LIGHT, LIGHT, 0.0, p=1.0)]
        steps += [K.RandomRotation(DEGREES, resample="nearest", p=1.0)]
    steps += [K.Normalize(torch.tensor(MEAN), torch.tensor(STD))]
    steps += [K.RandomErasing(p=ERASED)] if setting.full else []
    change = K.AugmentationSequential(*steps, data_keys=["input"])
    return lambda chosen: change(unit(images.index_select(0, chosen)))


def by_albumentations(setting: Setting, images: Tensor) -> Change:
    """albumentations: one image after the other, in OpenCV."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # it would ask the network
    import albumentations as A
    import cv2

    cv2.setNumThreads(1)
    side = setting.size + 2 * setting.pad
    steps: list[Any] = [
        A.PadIfNeeded(side, side, border_mode=cv2.BORDER_CONSTANT),
        A.RandomCrop(setting.size, setting.size),
        A.HorizontalFlip(p=0.5),
    ]
    if setting.full:
        steps += [A.ColorJitter(LIGHT, LIGHT, LIGHT, 0.0, p=1.0)]
        steps += [A.Rotate(DEGREES, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT, p=1.0)]
    steps += [A.Normalize(MEAN, STD)]
    steps += [A.Erasing(p=ERASED)] if setting.full else []
    change = A.Compose([*steps, A.ToTensorV2()])
    sources = list(images.permute(0, 2, 3, 1).contiguous().numpy())
    return lambda chosen: torch.stack([change(image=sources[i])["image"] for i in chosen.tolist()])


def by_fastai(setting: Setting, images: Tensor) -> Change:
    """fastai: the whole batch; it shifts by a share of the side where the others crop."""
    from fastai.data.transforms import Normalize as Normalise
    from fastai.vision.augment import RandomErasing, aug_transforms
    from fastai.vision.core import TensorImage

    steps = aug_transforms(
        size=setting.size,
        max_rotate=DEGREES if setting.full else 0.0,
        min_zoom=1.0,
        max_zoom=1.0001,
        max_lighting=LIGHT if setting.full else 0.0,
        max_warp=0.0,
        p_affine=1.0,
        p_lighting=1.0,
        mode="nearest",
    )
    steps += [Normalise.from_stats(MEAN, STD, cuda=False)]
    steps += [RandomErasing(p=ERASED)] if setting.full else []
    steps = sorted(steps, key=lambda step: getattr(step, "order", 0))

    def change(chosen: Tensor) -> Tensor:
        batch = TensorImage(unit(images.index_select(0, chosen)))
        for step in steps:
            batch = step(batch, split_idx=0)
        return batch.as_subclass(Tensor)

    return change


PEERS = {  # the module it needs, who changes the batch, and the goal: how many times cnnlab's time (32 px, 224 px)
    "torchvision v2, PIL, one by one": ("torchvision", partial(by_torchvision, pil=True), (30, 3)),
    "torchvision v2, tensors, one by one": (
        "torchvision",
        partial(by_torchvision, pil=False),
        (30, 3),
    ),
    "kornia": ("kornia", by_kornia, (4, 3)),
    "fastai": ("fastai", by_fastai, (3, None)),
    "albumentations, one by one": ("albumentations", by_albumentations, (None, 1.5)),
}


def contestants(setting: Setting) -> dict[str, tuple[Callable[..., Change], float | None]]:
    """Return the peers that are installed, each with the goal for this size."""
    there = installed(sorted({module for module, _, _ in PEERS.values()}), of="augment")
    own: dict[str, tuple[Callable[..., Change], float | None]] = {
        "cnnlab, again": (by_cnnlab, None),
        "no augmentation: index and normalise": (by_nobody, None),
    }
    if setting.full:
        own["cnnlab, bilinear"] = (partial(by_cnnlab, interpolation="bilinear"), None)
    goals = {name: goal[setting.size > 32] for name, (_, _, goal) in PEERS.items()}
    return own | {n: (by, goals[n]) for n, (module, by, _) in PEERS.items() if module in there}


def turn(setting: Setting, change: Change) -> Callable[[], Tensor]:
    """Return a function that augments a batch of images chosen anew each time."""
    return lambda: change(torch.randperm(2 * setting.batch)[: setting.batch])


def table(setting: Setting) -> Table:
    """Time everybody beside cnnlab."""
    images = setting.images()
    others = contestants(setting)
    turns = {name: turn(setting, by(setting, images)) for name, (by, _) in others.items()}
    times = in_turn(turn(setting, by_cnnlab(setting, images)), turns, setting.rounds)
    rows = [
        Row(name, times[name], goal, at_least=True, unit=setting.batch)
        for name, (_, goal) in others.items()
    ]
    return Table(setting.title, "cnnlab", "image", rows)


def against_nothing(setting: Setting) -> Table:
    """Time cnnlab beside no augmentation at all."""
    images = setting.images()
    nothing = by_nobody(setting, images)
    turns = {
        "index and normalise, again": turn(setting, nothing),
        "**cnnlab**": turn(setting, by_cnnlab(setting, images)),
    }
    times = in_turn(turn(setting, nothing), turns, max(setting.rounds, 15))
    goal = {"**cnnlab**": 1.6} if setting.size == 32 and not setting.full else {}
    rows = [Row(name, times[name], goal.get(name), unit=setting.batch) for name in turns]
    return Table(f"{setting.title}: beside none", "index and normalise", "image", rows)


SETTINGS = (
    Setting(size=32, pad=4, batch=128, full=True, rounds=9),
    Setting(size=32, pad=4, batch=128, full=False, rounds=9),
    Setting(size=224, pad=16, batch=32, full=True, rounds=9),
)
SHORT = Setting(size=32, pad=4, batch=8, full=True, rounds=2)

WORDS = (
    "Time to make an augmented batch, over cnnlab's for the same pipeline. Every contestant draws "
    "its own parameters "
    "for each image: full is crop, flip, colours, rotation, normalisation and erasing, light is "
    "crop, flip and "
    "normalisation. fastai warps by one grid where the others crop, and jitters less of the "
    "colour. cnnlab changes float "
    "images that a loader has made already, with a clamp after each colour as torchvision has it. "
    "At 32 pixels the "
    "look-up of the turned pixels takes a quarter of its time, the colours a quarter, two masks, "
    "the draws and the "
    "normalisation the rest; at 224 the memory that is written once and given back adds as much "
    "again. albumentations "
    "changes bytes, a quarter of the memory."
)


def main(arguments: list[str] | None = None) -> list[Table]:
    """Measure and report."""
    chosen = options("augment", arguments)
    settings = [SHORT] if chosen.short else SETTINGS
    tables = [table(setting) for setting in settings]
    if not chosen.short:
        tables += [against_nothing(setting) for setting in settings]
    packages = ["torchvision", "kornia", "fastai", "albumentations"]
    write("augment", "Augmentation", WORDS, tables, packages, chosen.out)
    return tables


if __name__ == "__main__":
    main()
