"""Compare transfer strategies for two targets and two numbers of labels.

What varies is the strategy (features with a new head, fine-tuning the top
layers, fine-tuning all layers, fine-tuning all layers at a high learning rate
with a random head, training from scratch), the target (handwritten digits,
which are similar to glyphnet's printed letters, or traffic signs, which are
not) and the number of labels per class (10 or 100). These are the four cells
of the rule of thumb in the chapter. Everything else is fixed: all strategies
but the last start from glyphnet's weights, and each that trains more than the
head takes the same number of steps of AdamW with a cosine schedule. Each seed
draws its own images and a new head. The result is the test accuracy.

The learning rates, and the hundred steps for few labels, were chosen with
other seeds (100 and above). The hundred and fifty steps for many labels were
set by the computing time, not tuned.
"""

import itertools
from functools import lru_cache, partial

import torch
from common import cpu_trainer, fit_head, run_study

import cnnlab
from cnnlab import schedules
from cnnlab.data import ImageSet
from cnnlab.data.balance import imbalance
from cnnlab.models import stages
from cnnlab.transfer import freeze, param_groups


SEEDS = 5
METRIC = "test_acc"
HIGH_LR, LOW_LR = 1e-2, 1e-3
BATCH_SIZE = 32
STEPS = {10: 100, 100: 150}  # for each number of labels per class


@lru_cache(maxsize=2)
def splits(
    target: str, per_class: int, seed: int
) -> tuple[ImageSet, ImageSet]:
    """Return per_class training images of each class, and 600 test images."""
    if target == "signs":
        signs = cnnlab.load(
            "pocket", seed=seed, n_train=12 * per_class, n_test=600
        )
        return signs.train, signs.test
    digits = cnnlab.load("digits", seed=seed)
    # Neither of the two splits has enough images alone.
    both = (digits.train, digits.valid)
    pool = ImageSet(
        torch.cat([split.images for split in both]),
        torch.cat([split.labels for split in both]),
        digits.classes,
    )
    return imbalance(pool, [per_class] * 10, seed), digits.test


def run(
    seed: int,
    *,
    target: str,
    per_class: int,
    weights: str | None = "default",
    head_first: bool = True,
    n_stages: int = 4,
    lr: float = LOW_LR,
) -> float:
    """Train with one strategy; return the test accuracy.

    Args:
        seed: draws images, head and order.
        target: "digits" or "signs".
        per_class: training images per class.
        weights: "default" for glyphnet's weights, None for random ones.
        head_first: whether to train the head on frozen features first.
        n_stages: number of stages to fine-tune, counted from the top; 0
            stops after the head.
        lr: learning rate of fine-tuning.
    """
    train, test = splits(target, per_class, seed)
    torch.manual_seed(seed)
    model = cnnlab.pretrained("glyphnet", len(train.classes), weights=weights)
    if head_first:
        fit_head(model, train)
    for stage in stages(model)[: 4 - n_stages]:
        freeze(stage)
    optimizer = torch.optim.AdamW(param_groups(model, lr, 0.01))
    batches = cnnlab.loader(train, BATCH_SIZE, shuffle=True, seed=seed)
    epochs = round(STEPS[per_class] / len(batches))
    schedule = schedules.cosine(epochs * len(batches))
    scheduler = cnnlab.attach(optimizer, schedule)
    trainer = cpu_trainer(model, optimizer, seed, scheduler=scheduler)
    if n_stages:
        trainer.fit(batches, epochs=epochs)
    return trainer.evaluate(cnnlab.loader(test, 300))["acc"]


STRATEGIES = {
    "feature extraction": {"n_stages": 0},
    "top layers": {"n_stages": 2},
    "fine-tuning": {},
    "full training": {"head_first": False, "lr": HIGH_LR},
    "from scratch": {"head_first": False, "lr": HIGH_LR, "weights": None},
}
CELLS = list(itertools.product(("digits", "signs"), (10, 100)))
VARIANTS = {
    f"{name}, {per_class} {target} a class": partial(
        run, target=target, per_class=per_class, **options
    )
    for target, per_class in CELLS
    for name, options in STRATEGIES.items()
}


if __name__ == "__main__":
    run_study(__file__, VARIANTS, SEEDS, METRIC)
