"""Time the augmentation of a batch with separate random parameters for each image.

The full pipeline pads and crops, flips, changes brightness, contrast and saturation, rotates by up
to 15 degrees (nearest pixel), normalises, and erases a rectangle in half of the images. The light
pipeline crops, flips and normalises. Every library starts from uint8 images in memory, or from the
format it prefers, and ends with a float batch. With the same parameters, cnnlab gives the same
pixels as torchvision: for example, what a crop has cut away stays black after a rotation.
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
# The range of a colour factor (1 ± 0.2), the largest angle, and the fraction of images erased.
JITTER, DEGREES, ERASE_PROBABILITY = 0.2, 15.0, 0.5
Pipeline = Callable[[Tensor], Tensor]  # image indices (N,) -> augmented batch (N, 3, H, W)


@dataclass(frozen=True)
class Setting:
    """An image size and a pipeline.

    Attributes:
        size: side of an image, in pixels.
        pad: padding before the crop, in pixels.
        batch: images per batch; a turn is one batch.
        full: whether to use the full pipeline instead of the light one.
        rounds: pairs per contestant.
    """

    size: int
    pad: int
    batch: int
    full: bool
    rounds: int

    def images(self) -> Tensor:
        """Return two batches of smooth images, uint8 (2 · batch, 3, size, size)."""
        generator = torch.Generator().manual_seed(0)
        coarse = torch.rand(2 * self.batch, 3, 8, 8, generator=generator)
        smooth = torch.nn.functional.interpolate(coarse, size=self.size, mode="bilinear")
        return (smooth * 255).round().to(torch.uint8)

    @property
    def title(self) -> str:
        """The title of the table."""
        return (
            f"{self.size} px, {'full' if self.full else 'light'} pipeline, batches of {self.batch}"
        )


def no_augmentation(setting: Setting, images: Tensor) -> Pipeline:
    """Index and normalise only."""
    normalize = Normalize(MEAN, STD).to(images.device)
    return lambda indices: normalize(unit(images.index_select(0, indices)))


def cnnlab_pipeline(setting: Setting, images: Tensor, interpolation: str = "nearest") -> Pipeline:
    """Use cnnlab on the whole batch at once."""
    colours = dict.fromkeys(
        ("brightness", "contrast", "saturation"), JITTER if setting.full else 0.0
    )
    augment = Augment(
        flip=0.5,
        crop_pad=setting.pad,
        rotate=DEGREES if setting.full else 0.0,
        erase=ERASE_PROBABILITY if setting.full else 0.0,
        interpolation=interpolation,
        **colours,
    )
    normalize = Normalize(MEAN, STD).to(images.device)
    return lambda indices: normalize(augment(unit(images.index_select(0, indices))))


def torchvision_pipeline(setting: Setting, images: Tensor, pil: bool) -> Pipeline:
    """Use torchvision's v2 transforms, image by image."""
    from torchvision.transforms import v2

    steps: list[Any] = [v2.RandomCrop(setting.size, padding=setting.pad), v2.RandomHorizontalFlip()]
    if setting.full:
        steps += [v2.ColorJitter(JITTER, JITTER, JITTER), v2.RandomRotation(DEGREES)]
    steps += [v2.ToImage()] if pil else []
    steps += [v2.ToDtype(torch.float32, scale=True), v2.Normalize(MEAN, STD)]
    steps += [v2.RandomErasing(ERASE_PROBABILITY)] if setting.full else []
    transform = v2.Compose(steps)
    sources = [v2.functional.to_pil_image(image) for image in images] if pil else list(images)
    return lambda indices: torch.stack([transform(sources[i]) for i in indices.tolist()])


def kornia_pipeline(setting: Setting, images: Tensor) -> Pipeline:
    """Use kornia on the whole batch, one operation after another."""
    import kornia.augmentation as K

    steps: list[Any] = [
        K.RandomCrop((setting.size, setting.size), padding=setting.pad),
        K.RandomHorizontalFlip(p=0.5),
    ]
    if setting.full:
        steps += [K.ColorJitter(JITTER, JITTER, JITTER, 0.0, p=1.0)]
        steps += [K.RandomRotation(DEGREES, resample="nearest", p=1.0)]
    steps += [K.Normalize(torch.tensor(MEAN), torch.tensor(STD))]
    steps += [K.RandomErasing(p=ERASE_PROBABILITY)] if setting.full else []
    transform = K.AugmentationSequential(*steps, data_keys=["input"])
    return lambda indices: transform(unit(images.index_select(0, indices)))


def albumentations_pipeline(setting: Setting, images: Tensor) -> Pipeline:
    """Use albumentations, which works image by image with OpenCV."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # no look-up of its newest version on import
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
        steps += [A.ColorJitter(JITTER, JITTER, JITTER, 0.0, p=1.0)]
        steps += [A.Rotate(DEGREES, cv2.INTER_NEAREST, cv2.BORDER_CONSTANT, p=1.0)]
    steps += [A.Normalize(MEAN, STD)]
    steps += [A.Erasing(p=ERASE_PROBABILITY)] if setting.full else []
    transform = A.Compose([*steps, A.ToTensorV2()])
    sources = list(images.permute(0, 2, 3, 1).contiguous().numpy())
    return lambda indices: torch.stack(
        [transform(image=sources[i])["image"] for i in indices.tolist()]
    )


def fastai_pipeline(setting: Setting, images: Tensor) -> Pipeline:
    """Use fastai on the whole batch; an affine warp takes the place of the padded crop."""
    from fastai.data.transforms import Normalize as FastaiNormalize
    from fastai.vision.augment import RandomErasing, aug_transforms
    from fastai.vision.core import TensorImage

    steps = aug_transforms(
        size=setting.size,
        max_rotate=DEGREES if setting.full else 0.0,
        min_zoom=1.0,
        max_zoom=1.0001,
        max_lighting=JITTER if setting.full else 0.0,
        max_warp=0.0,
        p_affine=1.0,
        p_lighting=1.0,
        mode="nearest",
    )
    steps += [FastaiNormalize.from_stats(MEAN, STD, cuda=False)]
    steps += [RandomErasing(p=ERASE_PROBABILITY)] if setting.full else []
    steps = sorted(steps, key=lambda step: getattr(step, "order", 0))

    def pipeline(indices: Tensor) -> Tensor:
        batch = TensorImage(unit(images.index_select(0, indices)))
        for step in steps:
            batch = step(batch, split_idx=0)
        return batch.as_subclass(Tensor)

    return pipeline


PIL = partial(torchvision_pipeline, pil=True)
TENSORS = partial(torchvision_pipeline, pil=False)
# name -> (module, factory, goals); a goal is the least multiple of cnnlab's time for the full
# pipeline, at 32 and at 224 px.
PEERS = {
    "torchvision v2, PIL, one by one": ("torchvision", PIL, (40, 4)),
    "torchvision v2, tensors, one by one": ("torchvision", TENSORS, (40, 4)),
    "kornia": ("kornia", kornia_pipeline, (6, 5)),
    "fastai": ("fastai", fastai_pipeline, (3.5, None)),
    "albumentations, one by one": ("albumentations", albumentations_pipeline, (15, 1.5)),
}


def contestants(setting: Setting) -> dict[str, tuple[Callable[..., Pipeline], float | None]]:
    """Return the contestants that are installed: name -> (factory, goal at this size)."""
    available = installed(sorted({module for module, _, _ in PEERS.values()}), of="augment")
    own: dict[str, tuple[Callable[..., Pipeline], float | None]] = {
        "cnnlab, again": (cnnlab_pipeline, None),
        "no augmentation: index and normalise": (no_augmentation, None),
    }
    if setting.full:
        own["cnnlab, bilinear"] = (partial(cnnlab_pipeline, interpolation="bilinear"), None)
    return own | {
        name: (factory, goals[setting.size > 32] if setting.full else None)
        for name, (module, factory, goals) in PEERS.items()
        if module in available
    }


def random_batch(setting: Setting, pipeline: Pipeline, device: str = "cpu") -> Callable[[], Tensor]:
    """Return a function that augments a batch of random images, different ones in each call."""
    return lambda: pipeline(torch.randperm(2 * setting.batch)[: setting.batch].to(device))


def table(setting: Setting) -> Table:
    """Time every contestant, in turn with cnnlab."""
    images = setting.images()
    others = contestants(setting)
    turns = {
        name: random_batch(setting, factory(setting, images))
        for name, (factory, _) in others.items()
    }
    reference = random_batch(setting, cnnlab_pipeline(setting, images))
    times = in_turn(reference, turns, setting.rounds)
    rows = [
        Row(name, times[name], goal, at_least=True, unit=setting.batch)
        for name, (_, goal) in others.items()
    ]
    return Table(setting.title, "cnnlab", "image", rows)


def overhead_table(setting: Setting) -> Table:
    """Time cnnlab, in turn with no augmentation."""
    images = setting.images()
    nothing = no_augmentation(setting, images)
    turns = {
        "index and normalise, again": random_batch(setting, nothing),
        "**cnnlab**": random_batch(setting, cnnlab_pipeline(setting, images)),
    }
    times = in_turn(random_batch(setting, nothing), turns, max(setting.rounds, 15))
    goal = {"**cnnlab**": 1.6} if setting.size == 32 and not setting.full else {}
    rows = [Row(name, times[name], goal.get(name), unit=setting.batch) for name in turns]
    return Table(f"{setting.title}: beside none", "index and normalise", "image", rows)


SETTINGS = (
    Setting(size=32, pad=4, batch=128, full=True, rounds=9),
    Setting(size=32, pad=4, batch=128, full=False, rounds=9),
    Setting(size=224, pad=16, batch=32, full=True, rounds=9),
)
SHORT = Setting(size=32, pad=4, batch=8, full=True, rounds=2)

DESCRIPTION = (
    "Each ratio is the time to make an augmented batch divided by cnnlab's time for the same "
    "pipeline. Every contestant draws separate parameters for each image. The full pipeline is "
    "crop, flip, colours, rotation, normalisation and erasing; the light one is crop, flip and "
    "normalisation. fastai has an affine warp instead of the padded crop, and doesn't change the "
    "saturation. cnnlab starts from float images, which a loader has already made, and clamps "
    "after each colour operation, as torchvision does. Every contestant runs in a process that "
    "keeps freed memory, as after `cnnlab.setup()`.\n\n"
    "Why goals are missed: at 32 pixels, a third of cnnlab's time goes to the rotation, which "
    "needs a matrix for each image, masks the pixels outside the crop and looks up every pixel. A "
    "sixth goes to the colours. Much of the rest is a fixed cost, because drawing the parameters "
    "and making the matrices takes over a hundred operations on 128 numbers each. In the light "
    "pipeline, cnnlab pads, copies and mirrors floats, which take four bytes per value, while the "
    "reference only reads bytes.\n\n"
    "At 224 pixels, looking up the rotated pixels takes a third of the time and the colours take "
    "a fifth. albumentations works on bytes, so it moves a quarter of the memory. There are "
    "faster ways, but they would change the results: a single colour matrix clamps only once, and "
    "a rotation before the colours changes the corners."
)


def main(arguments: list[str] | None = None) -> list[Table]:
    """Run the benchmark and write its tables."""
    args = options("augment", arguments)
    settings = [SHORT] if args.short else SETTINGS
    tables = [table(setting) for setting in settings]
    if not args.short:
        tables += [overhead_table(setting) for setting in settings]
    packages = ["torchvision", "kornia", "fastai", "albumentations"]
    write("augment", "Augmentation", DESCRIPTION, tables, packages, args.out)
    return tables


if __name__ == "__main__":
    main()
