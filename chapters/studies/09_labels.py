"""Find out how many labels a pretrained network saves.

What varies is the target (digits or signs), the number of labels per class,
and the method. One method trains from scratch; the others train a linear
classifier on frozen features, either those of glyphnet or those of a random
network. Everything else is fixed: all methods use the architecture of
glyphnet, and each seed draws its own images, labels and initial weights. The
result is the accuracy on 600 test images.

Training from scratch uses augmentation, a constant learning rate after a
warm-up, and a moving average of the weights, which is evaluated on the test
set at several steps. Its learning rate and augmentation were chosen with
other seeds (100 and above). For ten and twenty labels, its number of steps
was doubled repeatedly, because the curves were still rising.
"""

from functools import lru_cache, partial

import torch
from common import cpu_trainer, fit_linear, run_study, sgd

import cnnlab
from cnnlab import schedules
from cnnlab.augment import Augment
from cnnlab.averaging import EMA
from cnnlab.transfer import extract_features, linear_probe


SEEDS = 5
METRIC = "test_acc"
BATCH_SIZE, LR, DECAY = 32, 0.1, 0.98
ALL = 96  # stands for all digits; the rarest one has 93 images
LABELS = {"digits": (5, 10, 20, 50, ALL), "signs": (10, 50)}  # per class
# Steps of training from scratch, for each number of labels per class.
STEPS = {
    "digits": {5: 300, 10: 2400, 20: 2400, 50: 600, ALL: 600},
    "signs": {10: 300, 50: 450},
}
# Steps after which training from scratch is evaluated.
EVALUATED_AT = (60, 150, 300, 600, 1200, 2400)


@lru_cache(maxsize=1)
def full_data(target: str, seed: int):
    """Load all images of a target for one seed."""
    if target == "digits":
        return cnnlab.load("digits", seed=seed)
    return cnnlab.load(
        "pocket", seed=seed, n_train=600, n_valid=48, n_test=600
    )


def splits(target: str, n: int, seed: int):
    """Return training images with n labels per class, and test images."""
    data = full_data(target, seed)
    subset = data if n == ALL else data.subset(per_class=n, seed=seed)
    return subset.train, data.test


def glyphnet(seed: int, classes: int, weights: str | None):
    """Return glyphnet; with weights=None, its weights are random."""
    torch.manual_seed(seed)
    return cnnlab.pretrained("glyphnet", classes, weights=weights)


@lru_cache
def scratch_curve(seed: int, target: str, n: int) -> dict[int, float]:
    """Train from scratch; return the test accuracy after some steps."""
    train, test = splits(target, n, seed)
    model = glyphnet(seed, len(train.classes), None)
    batches = cnnlab.loader(train, BATCH_SIZE, shuffle=True, seed=seed)
    optimizer = sgd(model, LR, weight_decay=5e-4)
    schedule = schedules.warmup(50, schedules.constant())
    trainer = cpu_trainer(
        model,
        optimizer,
        seed,
        scheduler=cnnlab.attach(optimizer, schedule),
        batch_transform=Augment(rotate=12, translate=0.1, scale=(0.85, 1.15)),
        ema=EMA(model, DECAY),
        channels_last=True,  # 20 % faster
    )
    total = STEPS[target][n]
    curve = {}
    for steps in [*(s for s in EVALUATED_AT if s < total), total]:
        trainer.fit(batches, epochs=-(-steps // len(batches)))
        loader = cnnlab.loader(test, 300)
        metrics = trainer.evaluate(loader, model=trainer.ema.model)
        curve[steps] = metrics["acc"]
    return curve


def scratch(
    seed: int, *, target: str, n: int, steps: int | None = None
) -> float:
    """Return the accuracy of a run from scratch; by default, at its end."""
    curve = scratch_curve(seed, target, n)
    return curve[steps or max(curve)]


@lru_cache(maxsize=4)
def frozen_features(seed: int, target: str, n: int, weights: str | None):
    """Return features and labels of the training and the test images."""
    train, test = splits(target, n, seed)
    model = glyphnet(seed, len(train.classes), weights)
    return [
        extract_features(model, cnnlab.loader(split, 300))
        for split in (train, test)
    ]


def probe(
    seed: int,
    *,
    target: str,
    n: int,
    kind: str,
    weights: str | None = "default",
) -> float:
    """Return the accuracy of a scikit-learn classifier on the features."""
    return linear_probe(*frozen_features(seed, target, n, weights), kind)


def new_head(seed: int, *, target: str, n: int) -> float:
    """Return the accuracy of a new linear layer on the features."""
    (x, y), (x_test, y_test) = frozen_features(seed, target, n, "default")
    head = glyphnet(seed, int(y.max()) + 1, "default").head.linear
    fit_linear(head, x, y)
    return (head(x_test).argmax(1) == y_test).float().mean().item()


METHODS = {
    "logistic regression": partial(probe, kind="logistic"),
    "SVM": partial(probe, kind="svm"),
    "new head": new_head,
    "random features": partial(probe, kind="logistic", weights=None),
    "scratch": scratch,
}
VARIANTS = {
    f"{target}, {n}: {name}": partial(method, target=target, n=n)
    for target, counts in LABELS.items()
    for n in counts
    for name, method in METHODS.items()
} | {
    f"digits, {n}: scratch after {steps} steps": partial(
        scratch, target="digits", n=n, steps=steps
    )
    for n in (10, 20)
    for steps in EVALUATED_AT
    if steps < STEPS["digits"][n]
}


if __name__ == "__main__":
    run_study(__file__, VARIANTS, SEEDS, METRIC)
