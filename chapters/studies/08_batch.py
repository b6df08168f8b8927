"""Compare batches of 32 images with batches of 128.

What varies is the batch size, and what is adjusted for the large batches:
nothing, the learning rate (four times as high), or the number of steps (as
many as with small batches). Everything else is fixed: 600 signs per seed, the
architecture, SGD and, in the first three variants, six epochs. The result is
the validation accuracy after the last epoch.

The learning rate for small batches and the number of epochs were chosen with
seed 100.
"""

from functools import partial

from common import correct_predictions, run_study, seeded_resnet, sgd, train

import cnnlab


SEEDS = 5
METRIC = "valid_acc"
N_TRAIN = 600
EPOCHS = 6  # 18 steps per epoch with batches of 32, and 4 with 128
EPOCHS_FOR_AS_MANY_STEPS = 27  # 27 x 4 = 6 x 18


def run(
    seed: int, *, batch_size: int, lr: float, epochs: int = EPOCHS
) -> float:
    """Train; return the validation accuracy after the last epoch."""
    data = cnnlab.load("pocket", seed=seed, n_train=N_TRAIN, n_test=96)
    model = seeded_resnet(seed, len(data.classes))
    trainer = train(
        model,
        sgd(model, lr),
        data.train,
        batch_size=batch_size,
        epochs=epochs,
        seed=seed,
    )
    return correct_predictions(trainer, data.valid).double().mean().item()


VARIANTS = {
    "32, rate 0.01": partial(run, batch_size=32, lr=0.01),
    "128, rate 0.01": partial(run, batch_size=128, lr=0.01),
    "128, rate 0.04": partial(run, batch_size=128, lr=0.04),
    "128, rate 0.01, as many steps": partial(
        run, batch_size=128, lr=0.01, epochs=EPOCHS_FOR_AS_MANY_STEPS
    ),
}


if __name__ == "__main__":
    run_study(__file__, VARIANTS, SEEDS, METRIC)
