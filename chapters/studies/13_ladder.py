"""Add one technique of the course after the other, with the same labels.

What varies is how many techniques are used: each variant is the one before it
with one thing added, in the order of the chapters. The first is a plain loop:
a small residual network without normalisation, PyTorch's initial weights, and
SGD with momentum at a constant learning rate. Then come batch norm with He's
initial weights and weight decay (chapter 2), flips and shifts (3), CutMix on
half of the batches (4), a warm-up and a cosine (5), a moving average of the
weights (6), and tuned settings (8). The last two use the real network instead:
logistic regression on the frozen features of EfficientNet-Lite0 (chapter 9),
and its two highest stages fine-tuned (10).

Everything else is fixed: 1,000 labelled photographs of CIFAR-10, a hundred per
class, which each seed draws from the 50,000 training photographs. The result
is the accuracy on 2,000 of the 10,000 test photographs, drawn by the seed. By
chance, two seeds share a fiftieth of their training photographs and a fifth of
their test photographs, so the intervals are about photographs of CIFAR-10.

SEARCH_RESULTS

The table was computed on a copy of CIFAR-10 in JPEG format, because the
original files weren't on the machine. The script uses such a copy if the
environment variable CNNLAB_PHOTOS names its folder, and the original files
otherwise.
"""

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch
from common import (
    fine_tune,
    fit_probe,
    new_model,
    photographs,
    resized,
    run_study,
    seeded_resnet,
    train,
)
from torch import nn

import cnnlab
from cnnlab import schedules
from cnnlab.augment import Augment
from cnnlab.averaging import EMA
from cnnlab.data import DataBundle
from cnnlab.experiment import Claim, Declaration, budget, fresh_data
from cnnlab.mixing import CutMix, either


SEEDS = 5
METRIC = "test accuracy"
PER_CLASS, N_TEST, SIZE = 100, 2000, 96  # images per class, and pixels
EPOCHS, BATCH_SIZE = 40, 64


@dataclass(frozen=True)
class Settings:
    """What a network from scratch is trained with.

    Attributes:
        lr: learning rate, at its peak.
        weight_decay: on weights, not on biases and batch-norm parameters.
        norm: "batch", or "none" with PyTorch's initial weights.
        augment: flip and shift by up to four pixels.
        mixed: fraction of the batches with CutMix.
        cosine: warm-up over 5 % of the steps, then a cosine to zero.
        ema: decay of the moving average of the weights; 0 for none.
    """

    lr: float
    weight_decay: float = 0.0
    norm: str = "batch"
    augment: bool = False
    mixed: float = 0.0
    cosine: bool = False
    ema: float = 0.0


def new_network(seed: int, norm: str) -> nn.Module:
    """Return a small ResNet; without norm, with PyTorch's initial weights."""
    model = seeded_resnet(seed, num_classes=10, norm=norm)
    if norm == "none":
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.reset_parameters()
    return model


def warm_up_and_cosine(steps: int) -> Any:
    """Return the schedule of chapter 5."""
    rise = max(1, steps // 20)
    return schedules.warmup(rise, schedules.cosine(steps - rise))


def train_with(
    settings: Settings, data: DataBundle, seed: int, epochs: int = EPOCHS
) -> cnnlab.Trainer:
    """Train a network from scratch."""
    model = new_network(seed, settings.norm)
    groups = cnnlab.transfer.param_groups(
        model, settings.lr, settings.weight_decay
    )
    transforms: list[Any] = []
    if settings.augment:
        transforms.append(Augment(flip=0.5, crop_pad=4))
    if settings.mixed:
        cutmix = CutMix(1.0, num_classes=10)
        transforms.append(either(cutmix, p=(settings.mixed,)))
    return train(
        model,
        torch.optim.SGD(groups, lr=settings.lr, momentum=0.9),
        data.train,
        batch_size=BATCH_SIZE,
        epochs=epochs,
        seed=seed,
        schedule=warm_up_and_cosine if settings.cosine else None,
        batch_transform=transforms or None,
        ema=EMA(model, settings.ema) if settings.ema else None,
    )


def accuracy(trainer: cnnlab.Trainer, dataset: Any) -> float:
    """Return the accuracy of the average of the weights, if there is one."""
    model = trainer.ema.model if trainer.ema else trainer.model
    loader = cnnlab.loader(dataset, 256)
    return trainer.evaluate(loader, model=model)["acc"]


SETTINGS = {}
