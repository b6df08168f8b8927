"""Three handwritten digits from twenty pictures each: the recipe of the capstone beside what it has to beat.

The seed chooses the pictures, their colours and backgrounds, the first weights and the order. Rates, patience,
dropout and the augmentation were chosen with seeds from 100. From scratch the network gets four times the epochs, and
a one-cycle schedule.
"""

from functools import lru_cache, partial

import torch
from torch import nn

import cnnlab
from cnnlab import transfer
from cnnlab.augment import Augment
from cnnlab.callbacks import EarlyStopping
from cnnlab.data import DataBundle, ImageSet
from cnnlab.experiment import study
from cnnlab.schedules import Plateau, one_cycle


SEEDS = 8
METRIC = "test_acc"
CLASSES, PER_CLASS = ("3", "5", "8"), 20
FROZEN, EPOCHS, SCRATCH_EPOCHS, BATCH = 5, 40, 160, 16
AUGMENT = Augment(
    rotate=10, translate=0.1, scale=(0.9, 1.1), brightness=0.2, contrast=0.2
)


@lru_cache
def three_digits(seed: int) -> DataBundle:
    """The three classes alone, with twenty training pictures each."""
    digits = cnnlab.load("digits", seed=seed)
    numbers = [digits.classes.index(name) for name in CLASSES]
    parts = []
    for part in (digits.train, digits.valid, digits.test):
        where = [(part.labels == k).nonzero().flatten() for k in numbers]
        labels = [k for k, found in enumerate(where) for _ in found]
        parts.append(ImageSet(part.pixels(torch.cat(where)), labels, CLASSES))
    return DataBundle("3, 5 and 8", *parts).subset(
        per_class=PER_CLASS, seed=seed
    )


def build(seed: int, weights: str | None = "default") -> nn.Module:
    """Glyphnet with a new head for three classes, behind dropout."""
    torch.manual_seed(seed)
    model = cnnlab.pretrained("glyphnet", len(CLASSES), weights=weights)
    return cnnlab.replace_head(model, len(CLASSES), dropout=0.3)


def test_accuracy(trainer: cnnlab.Trainer, data: DataBundle) -> float:
    """The share of right answers on the test part."""
    return trainer.evaluate(cnnlab.loader(data.test, 256))["acc"]


def recipe(
    seed: int, *, augment: Augment | None = AUGMENT, unfrozen: int = 1
) -> float:
    """The head for five epochs, then the last block as well, or nothing, or all; the best epoch is kept."""
    data, model = three_digits(seed), build(seed)
    stages = cnnlab.stages(model)
    for stage in stages[:-1]:
        transfer.freeze(stage)
    groups = transfer.param_groups(
        model, lr=1e-3, weight_decay=0.01, head_lr=0.01
    )
    optimizer = torch.optim.AdamW(groups)
    trainer = cnnlab.Trainer(
        model,
        optimizer,
        plateau=Plateau(optimizer, "min", factor=0.3, patience=4),
        batch_transform=augment,
        callbacks=[
            EarlyStopping("valid_loss", "min", patience=8, start_epoch=FROZEN)
        ],
        seed=seed,
        device="cpu",
        progress=False,
    )
    train = cnnlab.loader(data.train, BATCH, shuffle=True, seed=seed)
    valid = cnnlab.loader(data.valid, 256)
    trainer.fit(train, valid, epochs=FROZEN)
    for stage in stages[len(stages) - 1 - unfrozen :]:
        transfer.unfreeze(stage)
    trainer.fit(train, valid, epochs=EPOCHS)
    return test_accuracy(trainer, data)


def from_scratch(seed: int) -> float:
    """The same network with random weights, with four times the epochs at rates of its own."""
    data, model = three_digits(seed), build(seed, weights=None)
    train = cnnlab.loader(data.train, BATCH, shuffle=True, seed=seed)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-3
    )
    trainer = cnnlab.Trainer(
        model,
        optimizer,
        scheduler=cnnlab.attach(
            optimizer, one_cycle(SCRATCH_EPOCHS * len(train))
        ),
        batch_transform=AUGMENT,
        seed=seed,
        device="cpu",
        progress=False,
    )
    trainer.fit(train, epochs=SCRATCH_EPOCHS)
    return test_accuracy(trainer, data)


def probe(seed: int) -> float:
    """Logistic regression on the features as they are."""
    data, model = three_digits(seed), build(seed)
    train, test = (
        transfer.extract_features(model, cnnlab.loader(part, 256))
        for part in (data.train, data.test)
    )
    return transfer.linear_probe(train, test)


VARIANTS = {
    "recipe": recipe,
    "without augmentation": partial(recipe, augment=None),
    "head alone": partial(recipe, unfrozen=0),
    "all stages": partial(recipe, unfrozen=3),
    "linear probe": probe,
    "from scratch": from_scratch,
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    study(__file__, VARIANTS, SEEDS, metric=METRIC)
