"""Study early stopping when 40 % of the training labels are wrong.

What varies is whether early stopping is used, and on what: the live weights
at a constant learning rate, their moving average (EMA), or the live weights
under a cosine. Everything else is fixed: 960 signs with 40 % wrong labels,
the architecture, SGD, batches of 32 and sixteen epochs. Each seed draws its
own images and its own wrong labels. Early stopping chooses an epoch by the
validation accuracy, so the result to compare is the test accuracy. The labels
of both splits are correct.

Learning rate, batch size, length, decay of the EMA and patience were chosen
on other images with other seeds (100 and above). Up to its stop, a run with
early stopping is the same as one without, so one run serves both variants.
The metrics after each epoch are in 06_noisy_labels_curves.csv.
"""

from functools import lru_cache, partial
from pathlib import Path

import pandas as pd
from common import run_study, seeded_resnet, sgd, train

import cnnlab
from cnnlab import schedules
from cnnlab.averaging import EMA
from cnnlab.callbacks import replay


SEEDS = 6
METRIC = "test_acc"
N_TRAIN, N_TEST, EPOCHS, BATCH_SIZE = 960, 480, 16, 32
LR, DECAY, PATIENCE = 0.05, 0.98, 4
SCHEDULES = {
    "constant": lambda steps: schedules.constant(),
    "cosine": schedules.cosine,
}


class TestAccuracy(cnnlab.Callback):
    """Evaluate the model and its average on the test set after each epoch."""

    def __init__(self, test):
        self.test = test

    def on_epoch_end(self, trainer):
        """Add two columns to the row of the epoch."""
        row = trainer.history.epochs[-1]
        for prefix, model in (
            ("", trainer.model),
            ("ema_", trainer.ema.model),
        ):
            metrics = trainer.evaluate(self.test, model=model)
            row[f"{prefix}test_acc"] = metrics["acc"]


@lru_cache
def run(seed: int, schedule: str) -> pd.DataFrame:
    """Train to the end; return the metrics after each epoch."""
    data = cnnlab.load("pocket", seed=seed, n_train=N_TRAIN, n_test=N_TEST)
    noisy = cnnlab.data.label_noise(data.train, 0.4, seed)
    model = seeded_resnet(seed, len(data.classes))
    trainer = train(
        model,
        sgd(model, LR),
        noisy,
        batch_size=BATCH_SIZE,
        epochs=EPOCHS,
        seed=seed,
        schedule=SCHEDULES[schedule],
        valid=cnnlab.loader(data.valid, 256),
        ema=EMA(model, DECAY),
        callbacks=[TestAccuracy(cnnlab.loader(data.test, 256))],
    )
    return trainer.history.frame()


def outcome(
    seed: int,
    *,
    schedule: str = "constant",
    prefix: str = "",
    stopping: bool = False,
) -> dict[str, float]:
    """Return the results of the last epoch, or of the restored epoch."""
    curve = run(seed, schedule)
    valid, test = curve[f"{prefix}valid_acc"], curve[f"{prefix}test_acc"]
    end, best = len(curve) - 1, len(curve) - 1
    if stopping:
        end, best = replay(valid, "max", PATIENCE)
    return {
        "test_acc": test[best],
        "valid_acc": valid[best],
        "epochs_trained": end + 1,
        "epoch_used": best + 1,
        "wobble": valid.diff().abs().mean(),
    }


VARIANTS = {
    "last epoch": outcome,
    "early stopping": partial(outcome, stopping=True),
    "EMA, last epoch": partial(outcome, prefix="ema_"),
    "EMA, early stopping": partial(outcome, prefix="ema_", stopping=True),
    "cosine, last epoch": partial(outcome, schedule="cosine"),
    "cosine, early stopping": partial(
        outcome, schedule="cosine", stopping=True
    ),
}


if __name__ == "__main__":
    run_study(__file__, VARIANTS, SEEDS, METRIC)
    curves = pd.concat(
        run(seed, schedule)
        .drop(columns="seconds")
        .assign(seed=seed, schedule=schedule)
        for schedule in SCHEDULES
        for seed in range(SEEDS)
    )
    path = Path(__file__).with_name("06_noisy_labels_curves.csv")
    curves.round(4).to_csv(path, index=False, lineterminator="\n")
