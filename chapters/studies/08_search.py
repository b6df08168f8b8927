"""Train on a fine grid of settings, so that searches can be replayed on it.

What varies is the learning rate (twenty values) and the weight decay (three
values), in all sixty combinations. Everything else is fixed: 600 signs, the
architecture, SGD, batches of 32 and three epochs. Each seed has its own
images, its own initial weights and its own order of batches. The results are
the accuracies on 480 validation images, by which a search chooses, on the
first sixty of them, and on 2,400 other images of the same kind, which judge
the network that was chosen.

A run that overflows counts as random guessing. The number of images, the
batch size and the number of epochs were chosen with seed 100: the runs are
short, but long enough to tell learning rates apart. The claims, and those
about searches in section 8.4, were written after a first study (with five
seeds, all of which were used by forty searches each) and before this one ran.
"""

from functools import lru_cache, partial

from common import correct_or_chance, run_study, train_with_setting

import cnnlab
from cnnlab.data import DataBundle
from cnnlab.experiment import Claim, Declaration, budget, fresh_data


SEEDS = 12
METRIC = "valid_acc"
N_TRAIN, EPOCHS = 600, 3
BATCH_SIZE = 32  # that of train_with_setting
N_VALID, N_OTHERS = 480, 2400
FEW = 60  # images of a small validation set, five per class
# From 1e-4 to 5.6, a quarter of a decade apart.
LOG_LRS = [-4 + k / 4 for k in range(20)]
LOG_DECAYS = [-5, -4, -3]
DECLARATION = Declaration(
    "Which of two hyperparameters decides the accuracy of a short run?",
    claims=[
        Claim("lr 0.056, decay 1e-4", ">", "lr 0.001, decay 1e-4", by=0.2),
        Claim("lr 0.056, decay 1e-4", ">", "lr 1, decay 1e-4", by=0.05),
        Claim("lr 0.056, decay 1e-3", "~", "lr 0.056, decay 1e-5", by=0.02),
    ],
    unit=fresh_data(),
    fixed="600 signs per seed, the network, SGD with momentum 0.9, batches of "
    "32, three epochs",
)


@lru_cache(maxsize=1)
def signs(seed: int) -> DataBundle:
    """Load the signs of a seed."""
    return cnnlab.load(
        "pocket",
        seed=seed,
        n_train=N_TRAIN,
        n_valid=N_VALID + N_OTHERS,
        n_test=96,
    )


def run(seed: int, *, log_lr: float, log_decay: float) -> dict[str, float]:
    """Train; return the accuracy on all, few and the other images."""
    data = signs(seed)
    trainer = train_with_setting(
        data, seed, lr=10**log_lr, weight_decay=10**log_decay, epochs=EPOCHS
    )
    correct = correct_or_chance(trainer, data.valid)
    results = {
        "valid_acc": correct[:N_VALID].mean().item(),
        "few_acc": correct[:FEW].mean().item(),
        "others_acc": correct[N_VALID:].mean().item(),
        "log_rate": log_lr,
        "log_decay": log_decay,
    }
    steps = EPOCHS * (N_TRAIN // BATCH_SIZE)
    return results | budget(labels=N_TRAIN, steps=steps)


VARIANTS = {
    f"lr {10**log_lr:.2g}, decay 1e{log_decay}": partial(
        run, log_lr=log_lr, log_decay=log_decay
    )
    for log_lr in LOG_LRS
    for log_decay in LOG_DECAYS
}


if __name__ == "__main__":
    run_study(__file__, VARIANTS, SEEDS, METRIC, DECLARATION)
