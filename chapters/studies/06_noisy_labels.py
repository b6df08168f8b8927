"""Early stopping with 40 % wrong labels: on the live weights, on their moving average, and under a cosine.

The stop is chosen on the validation part, so it is judged on the test part. Both carry right labels. Rate, batch,
length, decay and patience were chosen on other images and other seeds (both from 100). Each seed draws pictures and
wrong labels of its own. A run with a stop is the beginning of the same run without one, so one run serves both;
the measurements after each epoch are kept in 06_noisy_labels_curves.csv.
"""

from functools import lru_cache, partial
from pathlib import Path

import pandas as pd
import torch

import cnnlab
from cnnlab.averaging import EMA
from cnnlab.experiment import study
from cnnlab.callbacks import replay


SEEDS = 6
METRIC = "test_acc"
N_TRAIN, N_TEST, EPOCHS, BATCH = 960, 480, 16, 32
RATE, DECAY, PATIENCE = 0.05, 0.98, 4


class TestToo(cnnlab.Callback):
    """Measure the test part after each epoch as well, for the model and for its average."""

    def __init__(self, test):
        self.test = test

    def on_epoch_end(self, trainer):
        """Add two columns to the row of the epoch."""
        row = trainer.history.epochs[-1]
        for part, model in (("", trainer.model), ("ema_", trainer.ema.model)):
            row[f"{part}test_acc"] = trainer.evaluate(self.test, model=model)[
                "acc"
            ]


@lru_cache
def run(seed: int, schedule: str) -> pd.DataFrame:
    """Train to the end; return what was measured after each epoch."""
    data = cnnlab.load("pocket", seed=seed, n_train=N_TRAIN, n_test=N_TEST)
    noisy = cnnlab.data.label_noise(data.train, 0.4, seed)
    torch.manual_seed(seed)
    model = cnnlab.small_resnet(len(data.classes))
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9)
    train = cnnlab.loader(noisy, BATCH, shuffle=True, seed=seed)
    multiplier = {
        "constant": cnnlab.schedules.constant(),
        "cosine": cnnlab.schedules.cosine(EPOCHS * len(train)),
    }
    trainer = cnnlab.Trainer(
        model,
        optimizer,
        scheduler=cnnlab.attach(optimizer, multiplier[schedule]),
        ema=EMA(model, DECAY),
        callbacks=[TestToo(cnnlab.loader(data.test, 256))],
        seed=seed,
        device="cpu",
        progress=False,
    )
    valid = cnnlab.loader(data.valid, 256)
    return trainer.fit(train, valid, epochs=EPOCHS).frame()


def outcome(
    seed: int,
    *,
    schedule: str = "constant",
    part: str = "",
    stopped: bool = False,
) -> dict[str, float]:
    """Return the test accuracy at the end, or of what early stopping restores."""
    curve = run(seed, schedule)
    valid, test = curve[f"{part}valid_acc"], curve[f"{part}test_acc"]
    end, best = len(curve) - 1, len(curve) - 1
    if stopped:
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
    "early stopping": partial(outcome, stopped=True),
    "EMA, last epoch": partial(outcome, part="ema_"),
    "EMA, early stopping": partial(outcome, part="ema_", stopped=True),
    "cosine, last epoch": partial(outcome, schedule="cosine"),
    "cosine, early stopping": partial(
        outcome, schedule="cosine", stopped=True
    ),
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    study(__file__, VARIANTS, SEEDS, metric=METRIC)
    curves = pd.concat(
        run(seed, schedule)
        .drop(columns="seconds")
        .assign(seed=seed, schedule=schedule)
        for schedule in ("constant", "cosine")
        for seed in range(SEEDS)
    )
    path = Path(__file__).with_name("06_noisy_labels_curves.csv")
    curves.round(4).to_csv(path, index=False, lineterminator="\n")
