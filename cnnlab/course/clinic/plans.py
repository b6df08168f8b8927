"""The settings of a clinic run, and the training itself: a few hundred signs of six classes.

A run takes a second or two on a CPU.
"""

import copy
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from cnnlab.augment import Augment
from cnnlab.callbacks.loggers import GradNormLog, UpdateRatioLog
from cnnlab.data import load, loader
from cnnlab.data.images import unit
from cnnlab.errors import NonFiniteError
from cnnlab.models import small_resnet
from cnnlab.rng import fork_rng, generator, seed_at
from cnnlab.training.history import History
from cnnlab.training.hooks import Callback, Run
from cnnlab.training.schedules import attach, cosine
from cnnlab.training.trainer import Trainer


POOL = 960  # signs that each seed draws its images from
CLASSES = 6  # per run; each run chooses its own six
# Left out, because a run of a second can't tell them from a similar sign that stays.
LOOK_ALIKE = ("limit 50", "limit 60", "limit 80", "keep right")
FIRST_BATCHES = 10  # training batches whose samples are kept as evidence


class LabelledImages(TensorDataset):
    """Float images (N, 3, H, W) with labels (N,) and the names of their classes."""

    def __init__(self, images: Tensor, labels: Tensor, classes: tuple[str, ...]) -> None:
        super().__init__(images, labels)
        self.images, self.labels, self.classes = images, labels, classes


@dataclass
class Plan:
    """All settings of a run. Planting a fault changes a few of them.

    Attributes:
        rng: generator of the random settings of this run.
        train: training set.
        valid: validation set.
        model: the model before its first step.
        lr: peak learning rate of SGD with momentum 0.9; a cosine lowers it to 0.
        epochs: number of epochs.
        batch_size: samples per step.
        clip_norm: see `Trainer`.
        transforms: applied to each training batch, after the augmentation.
        valid_mode: mode of the model during validation, "eval" or "train".
        valid_batch_size: batch size of the validation.
    """

    rng: torch.Generator
    train: LabelledImages
    valid: LabelledImages
    model: nn.Module
    lr: float
    epochs: int
    batch_size: int
    clip_norm: float | None = None
    transforms: list[Callable[[Tensor, Tensor], Any]] = field(default_factory=list)
    valid_mode: str = "eval"
    valid_batch_size: int = 64

    def map_images(self, change: Callable[[Tensor], Tensor]) -> None:
        """Apply a function to the images of the training and the validation set."""
        self.train, self.valid = (
            LabelledImages(change(split.images), split.labels, split.classes)
            for split in (self.train, self.valid)
        )

    def log_uniform(self, low: float, high: float) -> float:
        """Draw a number between low and high, uniformly on a logarithmic scale."""
        fraction = torch.rand((), generator=self.rng, dtype=torch.float64).item()
        return float(low * (high / low) ** fraction)


def healthy_plan(*counters: int) -> Plan:
    """Draw the settings of a run without a fault.

    Args:
        counters: together they seed everything; the first one alone chooses the pool of signs.
    """
    rng = generator(7, *counters)
    pool = load("pocket", seed=counters[0], n_train=POOL, n_valid=12, n_test=12, level="easy").train
    candidates = [k for k, name in enumerate(pool.classes) if name not in LOOK_ALIKE]
    sample = torch.randperm(len(candidates), generator=rng)[:CLASSES].tolist()
    chosen = [candidates[i] for i in sample]
    images = []
    for k in chosen:
        indices = (pool.labels == k).nonzero().flatten()
        order = torch.randperm(len(indices), generator=rng)
        images.append(unit(pool.pixels(indices[order])))
    train, valid = split_classes(images, tuple(pool.classes[k] for k in chosen), [1.0] * CLASSES)
    with fork_rng():
        seed_at(7, *counters)
        model = small_resnet(CLASSES, width=8)
    plan = Plan(rng, train, valid, model, lr=0.1, epochs=10, batch_size=32)
    plan.lr = plan.log_uniform(0.05, 0.15)
    return plan


def split_classes(
    images: list[Tensor], names: tuple[str, ...], fractions: list[float]
) -> tuple[LabelledImages, LabelledImages]:
    """Split the images of each class into a training set (62 %) and a validation set (38 %).

    Args:
        images: one tensor (N, 3, H, W) per class.
        names: the names of the classes.
        fractions: for each class, the fraction of its images to use.
    """
    split_images: tuple[list[Tensor], list[Tensor]] = ([], [])
    for of_class, fraction in zip(images, fractions, strict=True):
        n_train, n_valid = (max(1, round(p * fraction * len(of_class))) for p in (0.62, 0.38))
        split_images[0].append(of_class[:n_train])
        split_images[1].append(of_class[-n_valid:])
    train, valid = (
        LabelledImages(torch.cat(of_classes), _class_indices(of_classes), names)
        for of_classes in split_images
    )
    return train, valid


def _class_indices(images: list[Tensor]) -> Tensor:
    counts = torch.tensor([len(of_class) for of_class in images])
    return torch.arange(len(images)).repeat_interleave(counts)


@dataclass
class Record:
    """The results of a run.

    Attributes:
        fresh: the model before its first step.
        model: the model after its last step.
        history: history of the trainer, with gradient norms and update ratios.
        ended: the error that stopped the run, or "" if it finished.
        first_samples: the first 320 training samples as the model received them, (images, labels).
    """

    fresh: nn.Module
    model: nn.Module
    history: History
    ended: str
    first_samples: tuple[Tensor, Tensor]


def run_plan(plan: Plan, seed: int) -> Record:
    """Train a model with the settings of a plan, on the CPU."""
    fresh = copy.deepcopy(plan.model)
    optimizer = torch.optim.SGD(plan.model.parameters(), lr=plan.lr, momentum=0.9)
    train = loader(plan.train, plan.batch_size, shuffle=True, seed=seed)
    first_batches: list[tuple[Tensor, Tensor]] = []

    def keep_first_batches(images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if len(first_batches) < FIRST_BATCHES:
            first_batches.append((images.clone(), labels.clone()))
        return images, labels

    trainer = Trainer(
        plan.model,
        optimizer,
        scheduler=attach(optimizer, cosine(plan.epochs * len(train))),
        batch_transform=[Augment(crop_pad=2), *plan.transforms, keep_first_batches],
        clip_norm=plan.clip_norm,
        callbacks=[GradNormLog(), UpdateRatioLog(), _Validation(plan)],
        seed=seed,
        device="cpu",
        progress=False,
    )
    ended = ""
    with warnings.catch_warnings():
        # These warnings of the trainer would give two faults away.
        warnings.filterwarnings("ignore", "pixel values run from", UserWarning)
        warnings.filterwarnings("ignore", "the outputs of the model are prob", UserWarning)
        try:
            trainer.fit(train, epochs=plan.epochs)
        except NonFiniteError as error:
            ended = str(error).split(". ")[0]
    images, labels = (torch.cat(tensors) for tensors in zip(*first_batches, strict=True))
    return Record(fresh, plan.model, trainer.history, ended, (images, labels))


def validate(plan: Plan, model: nn.Module, batch_size: int) -> tuple[float, float]:
    """Evaluate a copy of a model in the validation mode of the plan; return loss and accuracy."""
    model = copy.deepcopy(model).train(plan.valid_mode == "train")
    with fork_rng(), torch.no_grad():
        seed_at(0)
        logits = torch.cat([model(images) for images, _ in loader(plan.valid, batch_size)])
    labels = plan.valid.labels
    accuracy = (logits.argmax(1) == labels).float().mean().item()
    return F.cross_entropy(logits, labels).item(), accuracy


class _Validation(Callback):
    """Validate after each epoch as the plan says, which may be the wrong way."""

    order = -30

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def on_epoch_end(self, trainer: Run) -> None:
        """Add the columns `valid_loss` and `valid_acc` to the history."""
        loss, accuracy = validate(self.plan, trainer.model, self.plan.valid_batch_size)
        trainer.history.epochs[-1] |= {"valid_loss": loss, "valid_acc": accuracy}
