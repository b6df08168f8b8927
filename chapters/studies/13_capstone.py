"""Compare the recipe of the capstone with simpler alternatives.

What varies is the method: the recipe (train the head, then the last block as
well), the recipe without augmentation, the head alone, all stages, a linear
probe, or training from scratch. Everything else is fixed: three classes of
handwritten digits with twenty training images each, and the architecture of
glyphnet. The seed chooses the images, their colours and backgrounds, the
initial weights of the head and the order. The result is the test accuracy.

Learning rates, patience, dropout and augmentation were chosen with other
seeds (100 and above). Training from scratch gets four times as many epochs,
its own learning rate, and a one-cycle schedule.
"""

from functools import lru_cache, partial

import torch
from common import cpu_trainer, run_study, sgd, train
from torch import nn

import cnnlab
from cnnlab import transfer
from cnnlab.augment import Augment
from cnnlab.callbacks import EarlyStopping
from cnnlab.data import DataBundle, ImageSet
from cnnlab.schedules import Plateau, one_cycle


SEEDS = 8
METRIC = "test_acc"
CLASSES, PER_CLASS = ("3", "5", "8"), 20
HEAD_EPOCHS, EPOCHS, SCRATCH_EPOCHS, BATCH_SIZE = 5, 40, 160, 16
AUGMENT = Augment(
    rotate=10, translate=0.1, scale=(0.9, 1.1), brightness=0.2, contrast=0.2
)


@lru_cache
def three_digits(seed: int) -> DataBundle:
    """Load the three classes, with twenty training images per class."""
    digits = cnnlab.load("digits", seed=seed)
    old_labels = [digits.classes.index(name) for name in CLASSES]
    splits = []
    for split in (digits.train, digits.valid, digits.test):
        indices = [
            (split.labels == k).nonzero().flatten() for k in old_labels
        ]
        labels = [k for k, of_class in enumerate(indices) for _ in of_class]
        pixels = split.pixels(torch.cat(indices))
        splits.append(ImageSet(pixels, labels, CLASSES))
    data = DataBundle("3, 5 and 8", *splits)
    return data.subset(per_class=PER_CLASS, seed=seed)


def build(seed: int, weights: str | None = "default") -> nn.Module:
    """Return glyphnet with dropout and a new head for three classes."""
    torch.manual_seed(seed)
    model = cnnlab.pretrained("glyphnet", len(CLASSES), weights=weights)
    return cnnlab.replace_head(model, len(CLASSES), dropout=0.3)


def test_accuracy(trainer: cnnlab.Trainer, data: DataBundle) -> float:
    """Return the accuracy on the test set."""
    return trainer.evaluate(cnnlab.loader(data.test, 256))["acc"]


def recipe(
    seed: int, *, augment: Augment | None = AUGMENT, unfrozen: int = 1
) -> float:
    """Train the head, then some stages as well; restore the best epoch.

    Args:
        seed: draws images, head and order.
        augment: the augmentation, or None.
        unfrozen: number of stages to unfreeze after five epochs, counted
            from the top.
    """
    data, model = three_digits(seed), build(seed)
    stages = cnnlab.stages(model)
    for stage in stages[:-1]:
        transfer.freeze(stage)
    groups = transfer.param_groups(
        model, lr=1e-3, weight_decay=0.01, head_lr=0.01
    )
    optimizer = torch.optim.AdamW(groups)
    stopping = EarlyStopping(
        "valid_loss", "min", patience=8, start_epoch=HEAD_EPOCHS
    )
    trainer = cpu_trainer(
        model,
        optimizer,
        seed,
        plateau=Plateau(optimizer, "min", factor=0.3, patience=4),
        batch_transform=augment,
        callbacks=[stopping],
    )
    batches = cnnlab.loader(data.train, BATCH_SIZE, shuffle=True, seed=seed)
    valid = cnnlab.loader(data.valid, 256)
    trainer.fit(batches, valid, epochs=HEAD_EPOCHS)
    for stage in stages[len(stages) - 1 - unfrozen :]:
        transfer.unfreeze(stage)
    trainer.fit(batches, valid, epochs=EPOCHS)
    return test_accuracy(trainer, data)


def from_scratch(seed: int) -> float:
    """Train the same network from random weights."""
    data, model = three_digits(seed), build(seed, weights=None)
    trainer = train(
        model,
        sgd(model, 0.05, weight_decay=1e-3),
        data.train,
        batch_size=BATCH_SIZE,
        epochs=SCRATCH_EPOCHS,
        seed=seed,
        schedule=one_cycle,
        batch_transform=AUGMENT,
    )
    return test_accuracy(trainer, data)


def probe(seed: int) -> float:
    """Fit logistic regression to the pretrained features."""
    data, model = three_digits(seed), build(seed)
    train_features, test_features = (
        transfer.extract_features(model, cnnlab.loader(split, 256))
        for split in (data.train, data.test)
    )
    return transfer.linear_probe(train_features, test_features)


VARIANTS = {
    "recipe": recipe,
    "without augmentation": partial(recipe, augment=None),
    "head alone": partial(recipe, unfrozen=0),
    "all stages": partial(recipe, unfrozen=3),
    "linear probe": probe,
    "from scratch": from_scratch,
}


if __name__ == "__main__":
    run_study(__file__, VARIANTS, SEEDS, METRIC)
