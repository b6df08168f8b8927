"""Average the weights of two independent runs, before and after matching.

What varies is how two networks become one: not at all (each is evaluated
alone), by averaging their weights, by averaging them after the channels of
one network were reordered to match those of the other, or by averaging their
predictions; and the width of the networks. Everything else is fixed: 720
signs, SGD with momentum and a cosine, batches of 32 and sixteen epochs. Each
seed draws its own signs. Both networks train on them, with initial weights
and an order of their own. The result is the accuracy on 2,400 validation
signs. The gap is the accuracy minus that of each network alone.

Averages get new batch-norm statistics from the training signs; in one variant
they keep the old ones. The claims were written after a trial with a single
pair of networks per width (seed 100) and before this study ran. In the trial,
matching brought the average from 0.25 to 0.73 at width 16 and from 0.35 to
0.78 at width 32, where each network alone had about 0.80 and 0.81.
"""

from functools import partial

from common import (
    ALONE,
    MATCHED,
    MATCHED_STALE,
    PREDICTIONS,
    WEIGHTS,
    merge_two,
    run_study,
)

from cnnlab.experiment import Claim, Declaration, budget, fresh_data


SEEDS = 8
METRIC = "valid_acc"
N_TRAIN, N_VALID, EPOCHS = 720, 2400, 16
WIDTHS = (16, 32)
WIDE = "width 32, "
DECLARATION = Declaration(
    "Can the weights of two independent runs be averaged?",
    claims=[
        Claim(MATCHED, ">", WEIGHTS, by=0.2),
        Claim(MATCHED, "<", ALONE),
        Claim(PREDICTIONS, ">", MATCHED, by=0.02),
        Claim(MATCHED, ">", MATCHED_STALE),
        Claim(WIDE + MATCHED, ">", MATCHED, metric="gap"),
    ],
    unit=fresh_data(),
    fixed="720 signs per seed, two networks, SGD with momentum 0.9 and a "
    "cosine from a learning rate of 0.1, batches of 32, 16 epochs",
)


def outcome(seed: int, *, width: int, merge: str) -> dict[str, float]:
    """Return the accuracy of one way to merge two networks."""
    accuracies = merge_two(
        seed, n_train=N_TRAIN, n_valid=N_VALID, epochs=EPOCHS, width=width
    )
    results = {
        "valid_acc": accuracies[merge],
        "gap": accuracies[merge] - accuracies[ALONE],
    }
    steps = 2 * EPOCHS * (N_TRAIN // 32)
    return results | budget(labels=N_TRAIN, steps=steps)


VARIANTS = {
    prefix + merge: partial(outcome, width=width, merge=merge)
    for width, prefix in zip(WIDTHS, ("", WIDE), strict=True)
    for merge in (ALONE, WEIGHTS, MATCHED, MATCHED_STALE, PREDICTIONS)
}


if __name__ == "__main__":
    run_study(__file__, VARIANTS, SEEDS, METRIC, DECLARATION)
