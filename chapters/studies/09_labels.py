"""Find out how many labels a pretrained network saves.

What varies is the number of labelled digits per class and the method. One
method trains from scratch; the others train a linear classifier on frozen
features, either those of glyphnet or those of a random network. Everything
else is fixed: all methods use the architecture of glyphnet, and each seed has
its own split, labels and initial weights. The result is the accuracy on 600
test digits. 09_labels_signs.py does the same with signs.

Training from scratch uses augmentation, a constant learning rate after a
warm-up, and a moving average of the weights, which is evaluated on the test
set at several steps. Its learning rate and augmentation were chosen with
other seeds (100 and above). For ten and twenty labels, its number of steps
was doubled repeatedly, because the curves were still rising. The claims were
written after a first study and before this one ran. The first one used other
splits, and its intervals didn't take into account that splits share digits.
"""

from functools import lru_cache, partial

from common import (
    fit_linear,
    glyphnet_features,
    new_glyphnet,
    run_study,
    train_glyphnet_from_scratch,
)

import cnnlab
from cnnlab.experiment import Claim, Declaration, budget, splits
from cnnlab.transfer import linear_probe


SEEDS = 5
FIRST = 1000  # added to every seed: the first study used 0 to 4
METRIC = "test_acc"
LINEAR = "its features are frozen, and only a linear classifier is fitted"
DECLARATION = Declaration(
    "How many labels do frozen features save on digits?",
    claims=[
        Claim(
            "digits, 10: logistic regression",
            ">",
            "digits, 10: scratch",
            by=0.1,
        ),
        Claim("digits, 20: logistic regression", ">", "digits, 20: scratch"),
        Claim("digits, 96: scratch", ">", "digits, 96: logistic regression"),
        Claim(
            "digits, 10: logistic regression",
            ">",
            "digits, 10: random features",
            by=0.2,
        ),
        Claim(
            "digits, 10: scratch", ">", "digits, 10: scratch after 1200 steps"
        ),
        Claim(
            "digits, 10: new head",
            "~",
            "digits, 10: logistic regression",
            by=0.02,
        ),
    ],
    unit=splits(960, 600),
    fixed="the architecture of glyphnet; labels, split and initial weights "
    "are those of the seed",
    unequal={
        f"digits, {n}: logistic regression": LINEAR for n in (10, 20, 96)
    }
    | {"digits, 10: scratch after 1200 steps": "it is half of the same run"},
)
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
        "pocket", seed=seed, n_train=600, n_valid=48, n_test=5000
    )


def labelled(target: str, n: int, seed: int):
    """Return training images with n labels per class, and test images."""
    data = full_data(target, seed)
    subset = data if n == ALL else data.subset(per_class=n, seed=seed)
    return subset.train, data.test


@lru_cache
def scratch_curve(seed: int, target: str, n: int) -> dict[int, dict]:
    """Train from scratch; return accuracy and budget after some steps."""
    total = STEPS[target][n]
    moments = [*(s for s in EVALUATED_AT if s < total), total]
    train, test = labelled(target, n, seed)
    return train_glyphnet_from_scratch(
        train, test, seed, evaluate_after=moments
    )


def scratch(
    seed: int, *, target: str, n: int, steps: int | None = None
) -> dict[str, float]:
    """Return the accuracy of a run from scratch; by default, at its end."""
    curve = scratch_curve(FIRST + seed, target, n)
    return curve[steps or max(curve)]


@lru_cache(maxsize=4)
def frozen_features(seed: int, target: str, n: int, weights: str | None):
    """Return features and labels of the training and the test images."""
    train, test = labelled(target, n, seed)
    return glyphnet_features(train, test, seed, weights)


def probe(
    seed: int,
    *,
    target: str,
    n: int,
    kind: str,
    weights: str | None = "default",
) -> dict[str, float]:
    """Return the accuracy of a scikit-learn classifier on the features."""
    train, test = frozen_features(FIRST + seed, target, n, weights)
    accuracy = linear_probe(train, test, kind)
    return {"test_acc": accuracy} | budget(labels=len(train[1]), steps=0)


def new_head(seed: int, *, target: str, n: int) -> dict[str, float]:
    """Return the accuracy of a new linear layer on the features."""
    seed += FIRST
    (x, y), (x_test, y_test) = frozen_features(seed, target, n, "default")
    head = new_glyphnet(seed, int(y.max()) + 1).head.linear
    fit_linear(head, x, y)
    accuracy = (head(x_test).argmax(1) == y_test).float().mean().item()
    return {"test_acc": accuracy} | budget(labels=len(y), steps=300)


METHODS = {
    "logistic regression": partial(probe, kind="logistic"),
    "SVM": partial(probe, kind="svm"),
    "new head": new_head,
    "random features": partial(probe, kind="logistic", weights=None),
    "scratch": scratch,
}


def variants(target: str) -> dict:
    """Return every method with every number of labels."""
    return {
        f"{target}, {n}: {name}": partial(method, target=target, n=n)
        for n in LABELS[target]
        for name, method in METHODS.items()
    }


VARIANTS = variants("digits") | {
    f"digits, {n}: scratch after {steps} steps": partial(
        scratch, target="digits", n=n, steps=steps
    )
    for n in (10, 20)
    for steps in EVALUATED_AT
    if steps < STEPS["digits"][n]
}


if __name__ == "__main__":
    run_study(__file__, VARIANTS, SEEDS, METRIC, DECLARATION)
