"""How a run of the clinic is set up, and the record of one: a few hundred signs of six classes, a second or two."""

import copy
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


POOL = 960  # signs that a seed draws from
CLASSES = 6  # in a run, another six in each
# Left out, for a run of a second cannot tell them from one that stays: another limit, keep left.
LOOK_ALIKE = ("limit 50", "limit 60", "limit 80", "keep right")


class Pictures(TensorDataset):
    """Float images (N, 3, H, W) and labels (N,) that know the names of their classes."""

    def __init__(self, images: Tensor, labels: Tensor, classes: tuple[str, ...]) -> None:
        super().__init__(images, labels)
        self.images, self.labels, self.classes = images, labels, classes


@dataclass
class Plan:
    """Everything that decides a run. A fault changes a little of it.

    Attributes:
        draw: the generator that the numbers of this run come from.
        train: training pictures.
        valid: validation pictures.
        model: fresh.
        rate: learning rate of SGD with momentum 0.9, which follows a cosine to 0.
        epochs: over the training part.
        batch: samples a step.
        clip_norm: as `Trainer` takes it.
        transforms: what is done to a training batch, after the augmentation.
        measured_in: mode of the model while it is validated: "eval", or "train".
        measured_by: batch size of the validation.
    """

    draw: torch.Generator
    train: Pictures
    valid: Pictures
    model: nn.Module
    rate: float
    epochs: int
    batch: int
    clip_norm: float | None = None
    transforms: list[Callable[[Tensor, Tensor], Any]] = field(default_factory=list)
    measured_in: str = "eval"
    measured_by: int = 64

    def change_pixels(self, change: Callable[[Tensor], Tensor]) -> None:
        """Change the images of both parts."""
        self.train, self.valid = (
            Pictures(change(part.images), part.labels, part.classes)
            for part in (self.train, self.valid)
        )

    def between(self, low: float, high: float) -> float:
        """Draw a number from a range, evenly on a logarithmic scale."""
        share = torch.rand((), generator=self.draw, dtype=torch.float64).item()
        return float(low * (high / low) ** share)


def healthy_plan(*counters: int) -> Plan:
    """Draw a plan without a fault.

    Args:
        counters: the first one chooses the pool of signs, all together everything else.
    """
    draw = generator(7, *counters)
    pool = load("pocket", seed=counters[0], n_train=POOL, n_valid=12, n_test=12, level="easy").train
    known = [k for k, name in enumerate(pool.classes) if name not in LOOK_ALIKE]
    chosen = [known[i] for i in torch.randperm(len(known), generator=draw)[:CLASSES].tolist()]
    pictures = []
    for k in chosen:
        of_class = (pool.labels == k).nonzero().flatten()
        order = torch.randperm(len(of_class), generator=draw)
        pictures.append(unit(pool.pixels(of_class[order])))
    train, valid = cut(pictures, tuple(pool.classes[k] for k in chosen), [1.0] * CLASSES)
    with fork_rng():
        seed_at(7, *counters)
        model = small_resnet(CLASSES, width=8)
    plan = Plan(draw, train, valid, model, rate=0.1, epochs=10, batch=32)
    plan.rate = plan.between(0.05, 0.15)
    return plan


def cut(
    pictures: list[Tensor], names: tuple[str, ...], shares: list[float]
) -> tuple[Pictures, Pictures]:
    """Cut the pictures of each class in two, 62 % for training.

    Args:
        pictures: (N, 3, H, W) of each class.
        names: of the classes.
        shares: how many pictures of each class are kept at all.
    """
    parts: tuple[list[Tensor], list[Tensor]] = ([], [])
    for images, share in zip(pictures, shares, strict=True):
        n, m = (max(1, round(part * share * len(images))) for part in (0.62, 0.38))
        parts[0].append(images[:n])
        parts[1].append(images[-m:])
    train, valid = (
        Pictures(torch.cat(part), _numbers([len(images) for images in part]), names)
        for part in parts
    )
    return train, valid


def _numbers(counts: list[int]) -> Tensor:
    return torch.arange(len(counts)).repeat_interleave(torch.tensor(counts))


@dataclass
class Record:
    """What a run leaves on the table.

    Attributes:
        fresh: the model before its first step.
        model: after the last.
        history: of the trainer, with gradient norms and update ratios.
        ended: why the run ended early, or "".
        seen: the first 320 training samples as the model got them, (images, labels).
    """

    fresh: nn.Module
    model: nn.Module
    history: History
    ended: str
    seen: tuple[Tensor, Tensor]


def carry_out(plan: Plan, seed: int) -> Record:
    """Train as the plan says, on the CPU."""
    fresh = copy.deepcopy(plan.model)
    optimizer = torch.optim.SGD(plan.model.parameters(), lr=plan.rate, momentum=0.9)
    train = loader(plan.train, plan.batch, shuffle=True, seed=seed)
    watch = _Watch()
    trainer = Trainer(
        plan.model,
        optimizer,
        scheduler=attach(optimizer, cosine(plan.epochs * len(train))),
        batch_transform=[Augment(crop_pad=2), *plan.transforms, watch.note],
        clip_norm=plan.clip_norm,
        callbacks=[GradNormLog(), UpdateRatioLog(), _Measured(plan)],
        seed=seed,
        device="cpu",
        progress=False,
    )
    ended = ""
    try:
        trainer.fit(train, epochs=plan.epochs)
    except NonFiniteError as error:
        ended = str(error).split(". ")[0]
    images, labels = zip(*watch.seen, strict=True)
    return Record(fresh, plan.model, trainer.history, ended, (torch.cat(images), torch.cat(labels)))


def measure(plan: Plan, model: nn.Module, batch_size: int) -> tuple[float, float]:
    """Validate a copy of a model as the run did, in batches of a size, and return loss and accuracy."""
    model = copy.deepcopy(model).train(plan.measured_in == "train")
    with fork_rng(), torch.no_grad():
        seed_at(0)
        logits = torch.cat([model(images) for images, _ in loader(plan.valid, batch_size)])
    labels = plan.valid.labels
    right = (logits.argmax(1) == labels).float().mean().item()
    return F.cross_entropy(logits, labels).item(), right


class _Measured(Callback):
    """Write down what the run's own validation says."""

    order = -30

    def __init__(self, plan: Plan) -> None:
        self.plan = plan

    def on_epoch_end(self, trainer: Run) -> None:
        """Add the two columns."""
        loss, right = measure(self.plan, trainer.model, self.plan.measured_by)
        trainer.history.epochs[-1] |= {"valid_loss": loss, "valid_acc": right}


class _Watch:
    """Keep the first batches as they come to the model."""

    def __init__(self) -> None:
        self.seen: list[tuple[Tensor, Tensor]] = []

    def note(self, images: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        if len(self.seen) < 10:
            self.seen.append((images.clone(), labels.clone()))
        return images, labels
