"""Compare batches of 32 images with batches of 128.

What varies is the batch size, and what is adjusted for the large batches:
nothing, the learning rate (four times as high), or the number of steps (as
many as with small batches). Everything else is fixed: 600 signs, the
architecture, SGD and, in the first three variants, six epochs. Each seed
draws its own signs. The result is the accuracy on 5,000 validation signs
after the last epoch.

The learning rate for small batches and the number of epochs were chosen with
seed 100. The claims were written after a first study (with five seeds and 960
validation signs) and before this one ran.
"""

from functools import partial

from common import correct_predictions, run_study, seeded_resnet, sgd, train

import cnnlab
from cnnlab.experiment import Claim, Declaration, budget, fresh_data


SEEDS = 10
METRIC = "valid_acc"
N_TRAIN, N_VALID = 600, 5000
EPOCHS = 6  # 18 steps per epoch with batches of 32, and 4 with 128
EPOCHS_FOR_AS_MANY_STEPS = 27  # 27 x 4 = 6 x 18
SMALL, LARGE = "batch 32, lr 0.01", "batch 128, lr 0.01"
SCALED, AS_MANY = "batch 128, lr 0.04", "batch 128, lr 0.01, as many steps"
DECLARATION = Declaration(
    "What does a batch four times as large change if nothing else does?",
    claims=[
        Claim(SMALL, ">", LARGE, by=0.1),
        Claim(SCALED, ">", LARGE, by=0.05),
        Claim(SMALL, ">", SCALED),
        Claim(AS_MANY, "~", SMALL, by=0.02),
    ],
    unit=fresh_data(),
    fixed="600 signs per seed, the network, SGD with momentum 0.9",
    unequal={
        LARGE: "the same number of epochs makes fewer steps of larger "
        "batches, which is what the question is about",
        SCALED: "as above; the scaling rule sets its learning rate",
    },
)


def run(
    seed: int, *, batch_size: int, lr: float, epochs: int = EPOCHS
) -> dict[str, float]:
    """Train; return the validation accuracy after the last epoch."""
    data = cnnlab.load(
        "pocket", seed=seed, n_train=N_TRAIN, n_valid=N_VALID, n_test=96
    )
    model = seeded_resnet(seed, len(data.classes))
    trainer = train(
        model,
        sgd(model, lr),
        data.train,
        batch_size=batch_size,
        epochs=epochs,
        seed=seed,
    )
    correct = correct_predictions(trainer, data.valid)
    used = budget(labels=N_TRAIN, steps=trainer.step)
    return {"valid_acc": correct.double().mean().item()} | used


VARIANTS = {
    SMALL: partial(run, batch_size=32, lr=0.01),
    LARGE: partial(run, batch_size=128, lr=0.01),
    SCALED: partial(run, batch_size=128, lr=0.04),
    AS_MANY: partial(
        run, batch_size=128, lr=0.01, epochs=EPOCHS_FOR_AS_MANY_STEPS
    ),
}


if __name__ == "__main__":
    run_study(__file__, VARIANTS, SEEDS, METRIC, DECLARATION)
