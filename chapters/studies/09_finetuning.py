"""Compare training from scratch, frozen features and fine-tuning on digits.

What varies is the number of labelled digits per class and the method:
training the architecture of glyphnet from scratch, logistic regression on the
frozen features of glyphnet, or fine-tuning all its layers. Everything else is
fixed: each seed has its own split, labels and initial weights. The result is
the accuracy on 600 test digits.

Training from scratch is that of 09_labels.py, with twice as many steps for 50
labels and for all of them. Fine-tuning trains the head first, then all
layers, with the same augmentation, for about 300 steps. Its learning rate of
0.001 was the best of 0.0003, 0.001 and 0.003 on the validation digits of seed
100, with ten labels per class (0.878, 0.886, 0.869) and with all (0.907,
0.937, 0.937).

The claims were written after that search and after 09_labels.py, which has
the first two methods on other splits, and before this study ran.
"""

from functools import partial
from importlib import import_module

from common import (
    fine_tune_glyphnet,
    run_study,
    train_glyphnet_from_scratch,
)

from cnnlab.experiment import Claim, Declaration, budget, splits
from cnnlab.transfer import linear_probe


labels = import_module("09_labels")

SEEDS = 5
FIRST = 2000  # added to every seed, for splits that 09_labels.py hasn't used
METRIC = "test_acc"
REASONS = {
    "frozen features": labels.LINEAR,
    "fine-tuned": "it starts from pretrained weights and takes fewer steps, "
    "and its learning rate was chosen from three",
}
DECLARATION = Declaration(
    "What does fine-tuning gain over frozen features, and over scratch?",
    claims=[
        Claim("digits, 10: fine-tuned", ">", "digits, 10: frozen features"),
        Claim(
            "digits, 10: fine-tuned", ">", "digits, 10: from scratch", by=0.1
        ),
        Claim("digits, 96: fine-tuned", ">", "digits, 96: frozen features"),
        Claim("digits, 96: from scratch", ">", "digits, 96: frozen features"),
        Claim(
            "digits, 96: from scratch", "~", "digits, 96: fine-tuned", by=0.02
        ),
    ],
    unit=splits(960, 600),
    fixed="the architecture of glyphnet; labels, split and initial weights "
    "are those of the seed",
    unequal={
        f"digits, {n}: {name}": reason
        for n in (10, 96)
        for name, reason in REASONS.items()
    },
)
COUNTS = labels.LABELS["digits"]  # per class; 96 stands for all digits
STEPS = {5: 300, 10: 2400, 20: 2400, 50: 1200, 96: 1200}  # from scratch


def from_scratch(seed: int, *, n: int) -> dict[str, float]:
    """Train the architecture of glyphnet from random weights."""
    train, test = labels.labelled("digits", n, FIRST + seed)
    curve = train_glyphnet_from_scratch(
        train, test, FIRST + seed, evaluate_after=[STEPS[n]]
    )
    return curve[STEPS[n]] | {"tuning_runs": 1}


def frozen_features(seed: int, *, n: int) -> dict[str, float]:
    """Fit logistic regression to the frozen features of glyphnet."""
    train, test = labels.frozen_features(FIRST + seed, "digits", n, "default")
    used = budget(labels=len(train[1]), steps=0, tuning_runs=1)
    return {METRIC: linear_probe(train, test)} | used


def fine_tuned(seed: int, *, n: int) -> dict[str, float]:
    """Train a new head on glyphnet, then all its layers."""
    train, test = labels.labelled("digits", n, FIRST + seed)
    return fine_tune_glyphnet(train, test, FIRST + seed)


METHODS = {
    "from scratch": from_scratch,
    "frozen features": frozen_features,
    "fine-tuned": fine_tuned,
}
VARIANTS = {
    f"digits, {n}: {name}": partial(method, n=n)
    for n in COUNTS
    for name, method in METHODS.items()
}


if __name__ == "__main__":
    run_study(__file__, VARIANTS, SEEDS, METRIC, DECLARATION)
