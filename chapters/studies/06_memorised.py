"""Measure how many wrong labels a network repeats at each learning rate.

What varies is the run (a constant learning rate of 0.05, one of 0.005, or a
cosine from 0.01) and the epoch after which it is evaluated: the last one, or
epoch 7 of the run at 0.05. There, the recorded curves of 06_noisy_labels.py
show a training accuracy of 0.65, close to the 0.68 that a learning rate of
0.005 reaches in its last epoch. A fifth variant is the moving average of the
run at 0.05 after epoch 5, where early stopping restores it on average.
Everything else is fixed, and as in 06_noisy_labels.py: 960 signs with 40 %
wrong labels, the architecture, SGD, batches of 32 and sixteen epochs. Each
seed draws its own images and its own wrong labels, none of which belong to
the other study. The results are the fraction of wrong labels that the network
predicts for its own training images (in evaluation mode, at the end of the
epoch), and the accuracy on 2,400 test signs with correct labels.

The claims were written when the accuracies of 06_noisy_labels.csv were known,
but before anybody had evaluated the predictions for wrongly labelled images.
"""

from functools import lru_cache

from common import REPEATED, run_study, seeded_resnet, sgd, train

import cnnlab
from cnnlab import schedules
from cnnlab.averaging import EMA
from cnnlab.experiment import Claim, Declaration, budget, fresh_data


SEEDS = 8
METRIC = REPEATED
N_TRAIN, N_VALID, N_TEST, EPOCHS, BATCH_SIZE = 960, 240, 2400, 16, 32
FIRST_SEED = 1000  # the seeds below belong to 06_noisy_labels.py
LARGE, SMALL, COSINE = "lr 0.05", "lr 0.005", "cosine from 0.01"
EARLY, AVERAGE = "lr 0.05, epoch 7", "EMA of lr 0.05, epoch 5"
DECLARATION = Declaration(
    "Is less memorised at a small learning rate?",
    claims=[
        Claim(LARGE, ">", SMALL, by=0.2),
        Claim(LARGE, ">", COSINE, by=0.2),
        Claim(EARLY, "~", SMALL, by=0.1),
        Claim(EARLY, "<", SMALL, by=0.05, metric="test_acc"),
    ],
    unit=fresh_data(),
    fixed="960 signs per seed with 40 % wrong labels, the network, SGD with "
    "momentum 0.9, batches of 32, at most 16 epochs",
    unequal={
        EARLY: "it is the run of lr 0.05, evaluated after seven epochs",
        AVERAGE: "it is the run of lr 0.05, evaluated after five epochs",
    },
)
# For each run, its peak learning rate and its schedule.
RUNS = {
    LARGE: (0.05, lambda steps: schedules.constant()),
    SMALL: (0.005, lambda steps: schedules.constant()),
    COSINE: (0.01, schedules.cosine),
}
# For each variant, its run, its epoch, and whether it is the average.
EVALUATED = {
    LARGE: (LARGE, EPOCHS, False),
    SMALL: (SMALL, EPOCHS, False),
    COSINE: (COSINE, EPOCHS, False),
    EARLY: (LARGE, 7, False),
    AVERAGE: (LARGE, 5, True),
}


class Predictions(cnnlab.Callback):
    """After each epoch, evaluate the model and its average."""

    def __init__(self, noisy, test) -> None:
        self.noisy, self.test = noisy, cnnlab.loader(test, 256)
        self.mislabelled = noisy.labels != noisy.clean_labels
        self.results = {}

    def on_epoch_end(self, trainer) -> None:
        """Store the results of this epoch."""
        for is_average, model in enumerate(
            (trainer.model, trainer.ema.model)
        ):
            batches = cnnlab.loader(self.noisy, 256)
            predicted = trainer.predict(batches, model=model).argmax(1)
            agrees = (predicted == self.noisy.labels).float()
            test_acc = trainer.evaluate(self.test, model=model)["acc"]
            self.results[trainer.epoch, bool(is_average)] = {
                REPEATED: agrees[self.mislabelled].mean().item(),
                "agrees with training labels": agrees.mean().item(),
                "test_acc": test_acc,
            }


@lru_cache(maxsize=3)
def run(seed: int, name: str) -> Predictions:
    """Train to the end; return the results after each epoch."""
    seed = FIRST_SEED + seed
    data = cnnlab.load(
        "pocket", seed=seed, n_train=N_TRAIN, n_valid=N_VALID, n_test=N_TEST
    )
    noisy = cnnlab.data.label_noise(data.train, 0.4, seed)
    lr, schedule = RUNS[name]
    model = seeded_resnet(seed, len(data.classes))
    predictions = Predictions(noisy, data.test)
    train(
        model,
        sgd(model, lr),
        noisy,
        batch_size=BATCH_SIZE,
        epochs=EPOCHS,
        seed=seed,
        schedule=schedule,
        ema=EMA(model, 0.98),
        callbacks=[predictions],
    )
    return predictions


def outcome(seed: int, variant: str) -> dict[str, float]:
    """Return the results of a run after one of its epochs."""
    name, epoch, is_average = EVALUATED[variant]
    results = run(seed, name).results[epoch, is_average]
    steps = epoch * (N_TRAIN // BATCH_SIZE)
    return results | budget(labels=N_TRAIN, steps=steps)


VARIANTS = {
    variant: lambda seed, variant=variant: outcome(seed, variant)
    for variant in EVALUATED
}


if __name__ == "__main__":
    run_study(__file__, VARIANTS, SEEDS, METRIC, DECLARATION)
