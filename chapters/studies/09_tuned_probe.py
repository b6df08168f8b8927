"""Compare fine-tuning with a probe that's tuned with equal care, on digits.

In 09_finetuning.py, the learning rate of fine-tuning was chosen from three,
but logistic regression on the frozen features kept scikit-learn's default,
C = 1. Here its C is chosen too. What varies is the number of labelled digits
per class and the method: logistic regression on the frozen features of
glyphnet, or fine-tuning all its layers. Everything else is fixed: each seed
has its own split, labels and initial weights of the head. The result is the
accuracy on 600 test digits.

Both settings were chosen on the validation digits of seed 100, with ten
labels per class and with all. The learning rate of 0.001 is that of
09_finetuning.py. For logistic regression, `python -c "import common;
print(__import__('09_tuned_probe').search())"` prints the accuracies of four
values of C:

    C            0.001    0.01     0.1       1
    10 labels    0.789   0.814   0.823   0.814
    all labels   0.848   0.873   0.886   0.865

One difference stays: fine-tuning has augmentation, and the probe, which sees
each digit once, has none. The claims were written after that search and after
09_finetuning.py, which used other splits, and before this study ran.
"""

from functools import partial
from importlib import import_module

from common import (
    fine_tune_glyphnet,
    glyphnet_features,
    logistic_accuracy,
    run_study,
)

import cnnlab
from cnnlab.experiment import Claim, Declaration, budget, splits


labels = import_module("09_labels")

SEEDS = 5
FIRST = 3000  # added to every seed, for splits that no other study has used
METRIC = "test_acc"
CANDIDATES = (0.001, 0.01, 0.1, 1.0)
C = 0.1  # the best of the candidates, see above
DECLARATION = Declaration(
    "What does fine-tuning gain over a probe whose C was tuned?",
    claims=[
        Claim("digits, 10: fine-tuned", ">", "digits, 10: frozen features"),
        Claim("digits, 96: fine-tuned", ">", "digits, 96: frozen features"),
    ],
    unit=splits(960, 600),
    fixed="the architecture and weights of glyphnet; labels, split and new "
    "head are those of the seed",
    unequal={
        f"digits, {n}: fine-tuned": "it trains all layers for about 300 "
        "steps with augmentation; its learning rate was chosen from three, "
        "and the probe's C from four"
        for n in (10, 96)
    },
)
COUNTS = labels.LABELS["digits"]  # per class; 96 stands for all digits


def search() -> dict[int, list[float]]:
    """Return the validation accuracies of seed 100, one per candidate."""
    scores = {}
    for n in (10, labels.ALL):
        train, _ = labels.labelled("digits", n, 100)
        valid = cnnlab.load("digits", seed=100).valid
        features = glyphnet_features(train, valid, 100)
        scores[n] = [logistic_accuracy(*features, c) for c in CANDIDATES]
    return scores


def frozen_features(seed: int, *, n: int) -> dict[str, float]:
    """Fit logistic regression to the frozen features of glyphnet."""
    train, test = labels.frozen_features(FIRST + seed, "digits", n, "default")
    used = budget(labels=len(train[1]), steps=0, tuning_runs=len(CANDIDATES))
    return {METRIC: logistic_accuracy(train, test, C)} | used


def fine_tuned(seed: int, *, n: int) -> dict[str, float]:
    """Train a new head on glyphnet, then all its layers."""
    train, test = labels.labelled("digits", n, FIRST + seed)
    return fine_tune_glyphnet(train, test, FIRST + seed)


METHODS = {"frozen features": frozen_features, "fine-tuned": fine_tuned}
VARIANTS = {
    f"digits, {n}: {name}": partial(method, n=n)
    for n in COUNTS
    for name, method in METHODS.items()
}


if __name__ == "__main__":
    run_study(__file__, VARIANTS, SEEDS, METRIC, DECLARATION)
