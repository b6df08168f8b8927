"""Train on a fine grid of settings, so that searches can be replayed on it.

What varies is the learning rate (twenty values) and the weight decay (three
values), in all sixty combinations. Everything else is fixed: 600 signs, the
architecture, SGD, batches of 32 and three epochs. Each seed has its own
images, its own initial weights and its own order of batches. The results are
the accuracies on all validation images, on the first sixty, and on the rest.

A run that overflows counts as random guessing. The number of images, the
batch size and the number of epochs were chosen with seed 100: the runs are
short, but long enough to tell learning rates apart.
"""

from functools import partial

import torch
from common import correct_predictions, run_study, seeded_resnet, sgd, train

import cnnlab
from cnnlab.errors import NonFiniteError


SEEDS = 5
METRIC = "valid_acc"
N_TRAIN, EPOCHS, BATCH_SIZE = 600, 3, 32
FEW = 60  # images of a small validation set, five per class
# From 1e-4 to 5.6, a quarter of a decade apart.
LOG_LRS = [-4 + k / 4 for k in range(20)]
LOG_DECAYS = [-5, -4, -3]


def run(seed: int, *, log_lr: float, log_decay: float) -> dict[str, float]:
    """Train; return the accuracy on all, few and the other images."""
    data = cnnlab.load("pocket", seed=seed, n_train=N_TRAIN, n_test=96)
    model = seeded_resnet(seed, len(data.classes))
    try:
        trainer = train(
            model,
            sgd(model, 10**log_lr, weight_decay=10**log_decay),
            data.train,
            batch_size=BATCH_SIZE,
            epochs=EPOCHS,
            seed=seed,
        )
        correct = correct_predictions(trainer, data.valid).double()
    except NonFiniteError:
        chance = 1 / len(data.classes)
        correct = torch.full(data.valid.labels.shape, chance).double()
    few, others = correct[:FEW], correct[FEW:]
    return {
        "valid_acc": correct.mean().item(),
        "few_acc": few.mean().item(),
        "others_acc": others.mean().item(),
        "log_rate": log_lr,
        "log_decay": log_decay,
    }


VARIANTS = {
    f"rate {10**log_lr:.2g}, decay 1e{log_decay}": partial(
        run, log_lr=log_lr, log_decay=log_decay
    )
    for log_lr in LOG_LRS
    for log_decay in LOG_DECAYS
}


if __name__ == "__main__":
    run_study(__file__, VARIANTS, SEEDS, METRIC)
