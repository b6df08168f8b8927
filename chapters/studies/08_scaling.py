"""Scale the learning rate with the batch size, for SGD and for AdamW.

What varies is the optimizer, the batch size (32 or 128) and the factor by
which the learning rate of the small batches is multiplied for the large ones:
1, 2 (the square root of the factor of the batch size) or 4 (that factor
itself). Everything else is fixed: 640 signs, the architecture, twenty epochs,
and a cosine after two epochs of warm-up. Each seed draws its own signs. The
result is the accuracy on 2,400 validation signs after the last epoch.

The learning rates of the small batches were chosen after these runs with the
seeds 100 and 101 (means of the validation accuracy):

    SGD                 0.0125   0.025   0.05    0.1    0.2
    batches of 32        0.729   0.750  0.774  0.806  0.808
    batches of 128       0.606   0.672  0.711  0.740  0.751

    AdamW              0.00075  0.0015  0.003  0.006  0.012
    batches of 32        0.715   0.751  0.767  0.793  0.812
    batches of 128       0.646   0.699  0.729  0.751  0.771

So the first pair, 0.025 and 0.0015, lies well below the best one, where a
larger learning rate still helps. SGD has a second pair, 0.1 and 0.4, near and
above the best. The claims were written after these runs and before this study
ran.
"""

from functools import partial

import torch
from common import correct_predictions, run_study, seeded_resnet, sgd, train

import cnnlab
from cnnlab import schedules
from cnnlab.experiment import Claim, Declaration, budget, fresh_data


SEEDS = 8
METRIC = "valid_acc"
N_TRAIN, N_VALID = 640, 2400
EPOCHS = 20  # 20 steps per epoch with batches of 32, and 5 with 128
SGD_LR, ADAMW_LR, HIGH_SGD_LR = 0.025, 0.0015, 0.1
FEWER = (
    "as many epochs mean four times the steps, which the question is about"
)
DECLARATION = Declaration(
    "Which learning rate makes up for a batch four times as large?",
    claims=[
        Claim("SGD, 128, lr x 4", "~", "SGD, 32", by=0.02),
        Claim("SGD, 128, lr x 4", ">", "SGD, 128, lr x 2", by=0.01),
        Claim("AdamW, 128, lr x 4", "~", "AdamW, 32", by=0.02),
        Claim("AdamW, 128, lr x 4", ">", "AdamW, 128, lr x 2", by=0.01),
        Claim("SGD, 32, high lr", ">", "SGD, 128, high lr x 4", by=0.02),
    ],
    unit=fresh_data(),
    fixed="640 signs per seed, the network, twenty epochs with a cosine",
    unequal=dict.fromkeys(
        ("SGD, 32", "AdamW, 32", "SGD, 32, high lr"), FEWER
    ),
)


def warmup_cosine(steps):
    """Rise for a tenth of the steps, then follow a cosine."""
    n_warmup = steps // 10
    return schedules.warmup(n_warmup, schedules.cosine(steps - n_warmup))


def run(seed, *, make_optimizer, batch_size, lr):
    """Train; return the validation accuracy after the last epoch."""
    data = cnnlab.load(
        "pocket", seed=seed, n_train=N_TRAIN, n_valid=N_VALID, n_test=96
    )
    model = seeded_resnet(seed, len(data.classes))
    trainer = train(
        model,
        make_optimizer(model, lr),
        data.train,
        batch_size=batch_size,
        epochs=EPOCHS,
        seed=seed,
        schedule=warmup_cosine,
    )
    correct = correct_predictions(trainer, data.valid)
    used = budget(labels=N_TRAIN, steps=trainer.step)
    return {"valid_acc": correct.double().mean().item()} | used


def adamw(model, lr):
    """Return AdamW with torch's default weight decay."""
    return torch.optim.AdamW(model.parameters(), lr=lr)


def variant(make_optimizer, batch_size, lr):
    return partial(
        run, make_optimizer=make_optimizer, batch_size=batch_size, lr=lr
    )


VARIANTS = {
    "SGD, 32": variant(sgd, 32, SGD_LR),
    "SGD, 128, lr x 1": variant(sgd, 128, SGD_LR),
    "SGD, 128, lr x 2": variant(sgd, 128, 2 * SGD_LR),
    "SGD, 128, lr x 4": variant(sgd, 128, 4 * SGD_LR),
    "AdamW, 32": variant(adamw, 32, ADAMW_LR),
    "AdamW, 128, lr x 1": variant(adamw, 128, ADAMW_LR),
    "AdamW, 128, lr x 2": variant(adamw, 128, 2 * ADAMW_LR),
    "AdamW, 128, lr x 4": variant(adamw, 128, 4 * ADAMW_LR),
    "SGD, 32, high lr": variant(sgd, 32, HIGH_SGD_LR),
    "SGD, 128, high lr x 4": variant(sgd, 128, 4 * HIGH_SGD_LR),
}


if __name__ == "__main__":
    run_study(__file__, VARIANTS, SEEDS, METRIC, DECLARATION)
