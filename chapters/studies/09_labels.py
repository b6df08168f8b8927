"""How many labels a pretrained network saves: scratch against frozen features, on digits and on signs.

All arms use one architecture, that of glyphnet. Scratch trains all of it, with augmentation, a constant rate after a
warm-up, and a moving average of the weights, whose test accuracy is measured on the way; rate and augmentation were
chosen with other seeds (from 100), and the steps with ten and twenty labels were doubled again and again, because the
curves still rose. The other arms train a linear classifier on features that stand still:
of glyphnet, or of the random network that scratch begins with. Each seed draws images, labels and weights anew.
"""

from functools import lru_cache, partial

import torch
import torch.nn.functional as F

import cnnlab
from cnnlab import schedules
from cnnlab.augment import Augment
from cnnlab.averaging import EMA
from cnnlab.experiment import study
from cnnlab.transfer import extract_features, linear_probe


SEEDS = 5
METRIC = "test_acc"
BATCH, RATE, DECAY = 32, 0.1, 0.98
ALL = 96  # the rarest digit has 93 images
LABELS = {"digits": (5, 10, 20, 50, ALL), "signs": (10, 50)}  # a class
STEPS = {5: 300, 10: 2400, 20: 2400, 50: 600, ALL: 600}
SIGNS_STEPS = {10: 300, 50: 450}
MOMENTS = (
    60,
    150,
    300,
    600,
    1200,
    2400,
)  # steps after which scratch is measured


@lru_cache(maxsize=1)
def everything(target: str, seed: int):
    """The whole set of a seed."""
    if target == "digits":
        return cnnlab.load("digits", seed=seed)
    return cnnlab.load(
        "pocket", seed=seed, n_train=600, n_valid=48, n_test=600
    )


def pictures(target: str, n: int, seed: int):
    """Training images with n labels a class, and 600 test images; ALL means every digit, some 96 a class."""
    data = everything(target, seed)
    few = data if n == ALL else data.subset(per_class=n, seed=seed)
    return few.train, data.test


def network(seed: int, classes: int, weights: str | None):
    """Glyphnet, or the same network with random weights."""
    torch.manual_seed(seed)
    return cnnlab.pretrained("glyphnet", classes, weights=weights)


@lru_cache
def training(seed: int, target: str, n: int) -> dict[int, float]:
    """Train everything from random weights; return steps -> accuracy of the average after them."""
    train, test = pictures(target, n, seed)
    model = network(seed, len(train.classes), None)
    batches = cnnlab.loader(train, BATCH, shuffle=True, seed=seed)
    optimizer = torch.optim.SGD(
        model.parameters(), RATE, momentum=0.9, weight_decay=5e-4
    )
    warm = schedules.warmup(50, schedules.constant())
    trainer = cnnlab.Trainer(
        model,
        optimizer,
        scheduler=cnnlab.attach(optimizer, warm),
        batch_transform=Augment(rotate=12, translate=0.1, scale=(0.85, 1.15)),
        ema=EMA(model, DECAY),
        seed=seed,
        device="cpu",
        channels_last=True,  # a fifth faster
        progress=False,
    )
    steps = (STEPS if target == "digits" else SIGNS_STEPS)[n]
    found = {}
    for moment in sorted({m for m in MOMENTS if m < steps} | {steps}):
        trainer.fit(batches, epochs=-(-moment // len(batches)))
        told = trainer.evaluate(
            cnnlab.loader(test, 300), model=trainer.ema.model
        )
        found[moment] = told["acc"]
    return found


def scratch(
    seed: int, *, target: str, n: int, steps: int | None = None
) -> float:
    """Accuracy after some steps of a run from random weights, or at its end."""
    curve = training(seed, target, n)
    return curve[steps or max(curve)]


@lru_cache(maxsize=4)
def frozen(seed: int, target: str, n: int, weights: str | None):
    """Features and labels of both parts."""
    parts = pictures(target, n, seed)
    model = network(seed, len(parts[0].classes), weights)
    return [
        extract_features(model, cnnlab.loader(part, 300)) for part in parts
    ]


def probe(
    seed: int,
    *,
    target: str,
    n: int,
    kind: str,
    weights: str | None = "default",
) -> float:
    """A linear classifier of scikit-learn on frozen features."""
    return linear_probe(*frozen(seed, target, n, weights), kind)


def new_head(seed: int, *, target: str, n: int) -> float:
    """The new linear layer of the network itself, 300 steps of AdamW on frozen features."""
    (x, y), (x_test, y_test) = frozen(seed, target, n, "default")
    head = network(seed, int(y.max()) + 1, "default").head.linear
    optimizer = torch.optim.AdamW(
        head.parameters(), lr=0.01, weight_decay=0.01
    )
    for _ in range(300):
        optimizer.zero_grad()
        F.cross_entropy(head(x), y).backward()
        optimizer.step()
    return (head(x_test).argmax(1) == y_test).float().mean().item()


ARMS = {
    "logistic regression": partial(probe, kind="logistic"),
    "SVM": partial(probe, kind="svm"),
    "new head": new_head,
    "random features": partial(probe, kind="logistic", weights=None),
    "scratch": scratch,
}
VARIANTS = {
    f"{target}, {n}: {name}": partial(arm, target=target, n=n)
    for target, numbers in LABELS.items()
    for n in numbers
    for name, arm in ARMS.items()
} | {
    f"digits, {n}: scratch after {steps} steps": partial(
        scratch, target="digits", n=n, steps=steps
    )
    for n in (10, 20)
    for steps in MOMENTS
    if steps < STEPS[n]
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    study(__file__, VARIANTS, SEEDS, metric=METRIC)
