"""Repeat the experiment of Kumar et al. 2022 on a real network, both halves.

What varies is how EfficientNet-Lite0 is trained on 20 photographs per class of
CIFAR-10: only a linear classifier on its frozen features, all layers with a
random head, all layers after the head, or all layers with a random head and a
remedy (warm-up, gradual unfreezing, or layer-wise learning rates). One variant
uses a learning rate that is too large, and is marked as harmful.

Each network is evaluated twice: on 1,000 test photographs like those it was
trained on, and on the same photographs shifted (out of distribution): in grey,
half as bright and blurred. No shifted photograph is used for training.

Everything else is fixed: 96 pixels, AdamW with a cosine schedule, 60 steps of
32 images, batch norm frozen, no augmentation. Each seed draws its own
photographs. The learning rate, 0.0001, is the best one for 20 labels in the
search of 09_photos.py, which was done with the seed 100 and with augmentation.
The claims were written after that study and before this one ran.

The table was computed on a copy of CIFAR-10 in JPEG format, because the
original files weren't on the machine. The script uses such a copy if the
environment variable CNNLAB_PHOTOS names its folder, and the original files
otherwise.
"""

from functools import partial

import torch
from common import (
    accuracy_of,
    imagenet_network,
    photographs,
    run_study,
    train,
    train_new_head,
)
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as tv

from cnnlab import schedules
from cnnlab.callbacks import GradualUnfreeze
from cnnlab.data import ImageSet
from cnnlab.experiment import Claim, Declaration, budget, fresh_data
from cnnlab.models import stages
from cnnlab.transfer import freeze, param_groups


SEEDS = 5
METRIC = "test_acc"
PER_CLASS, N_TEST, EPOCHS = 20, 1000, 10  # of six steps each
GOOD, HARMFUL = 1e-4, 1e-3
DECLARATION = Declaration(
    "What does a random head do to photographs like and unlike the training?",
    claims=[
        Claim("random head", ">", "linear"),
        Claim("random head", "<", "linear", metric="shifted_acc"),
        Claim("head first", ">", "random head", metric="shifted_acc"),
        Claim("head first", ">", "linear"),
        Claim("random head, warm-up", "~", "random head", by=0.02),
        Claim(
            "harmful rate: head first", "<", "linear", metric="shifted_acc"
        ),
    ],
    unit=fresh_data(),
    fixed="EfficientNet-Lite0 with ImageNet's weights at 96 pixels, 20 "
    "photographs per class, 60 steps of AdamW, batch norm frozen",
    unequal={
        "linear": "it shows what fine-tuning adds to a trained head",
        "head first": "300 more steps of its head alone, on features that "
        "are computed once",
        "harmful rate: head first": "likewise",
    },
)


def shifted(images: Tensor) -> Tensor:
    """Return uint8 photographs in grey, half as bright and blurred."""
    grey = tv.rgb_to_grayscale(images, num_output_channels=3)
    return tv.gaussian_blur(tv.adjust_brightness(grey, 0.5), [5, 5], [1.0])


def run(
    seed: int,
    *,
    lr: float = GOOD,
    head_first: bool = False,
    epochs: int = EPOCHS,
    layer_decay: float | None = None,
    warmup_epochs: int = 0,
    gradual: bool = False,
) -> dict[str, float]:
    """Fine-tune on photographs; evaluate on plain and on shifted ones."""
    data = photographs(seed, PER_CLASS, N_TEST)
    model = imagenet_network(seed, 10)
    dark = ImageSet(shifted(data.test.images), data.test.labels, data.classes)
    data = data.transform(model)
    if head_first:
        train_new_head(model, data.train)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            freeze(layer)
    steps = 0
    if epochs:
        steps = train(
            model,
            torch.optim.AdamW(
                param_groups(model, lr, 0.01, layer_decay=layer_decay)
            ),
            data.train,
            batch_size=32,
            epochs=epochs,
            seed=seed,
            schedule=partial(warm_cosine, warmup_epochs=warmup_epochs),
            callbacks=[Unfreeze(model)] if gradual else [],
            channels_last=True,  # faster
        ).step
    enlarged = type(data)("shifted", dark, dark, None).transform(model).train
    results = {
        METRIC: accuracy_of(model, data.test),
        "shifted_acc": accuracy_of(model, enlarged),
    }
    return results | budget(labels=10 * PER_CLASS, steps=steps)


def warm_cosine(steps: int, *, warmup_epochs: int) -> schedules.Schedule:
    """Return a cosine that rises during the first epochs."""
    rise = steps * warmup_epochs // EPOCHS
    shape = schedules.cosine(steps - rise)
    return schedules.warmup(rise, shape) if rise else shape


class Unfreeze(GradualUnfreeze):
    """Unfreeze a stage every second epoch, but never batch norm."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__(stages(model), [2, 4, 5, 6, 7])

    def on_epoch_start(self, trainer) -> None:
        """Unfreeze the stages that are due, then freeze batch norm again."""
        super().on_epoch_start(trainer)
        for layer in trainer.model.modules():
            if isinstance(layer, nn.BatchNorm2d):
                freeze(layer)


VARIANTS = {
    "linear": partial(run, head_first=True, epochs=0),
    "random head": run,
    "head first": partial(run, head_first=True),
    "random head, warm-up": partial(run, warmup_epochs=2),
    "random head, gradual": partial(run, gradual=True),
    "random head, decay 0.5": partial(run, layer_decay=0.5),
    "harmful rate: head first": partial(run, head_first=True, lr=HARMFUL),
}


if __name__ == "__main__":
    run_study(__file__, VARIANTS, SEEDS, METRIC, DECLARATION)
