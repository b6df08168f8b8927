"""Study early stopping when 40 % of the training labels are wrong.

What varies is whether early stopping is used, and on what: the live weights
at a constant learning rate, their moving average (EMA), or the live weights
under a cosine. Everything else is fixed: 960 signs with 40 % wrong labels,
the architecture, SGD, batches of 32 and sixteen epochs. Each seed draws its
own images and its own wrong labels. Early stopping chooses an epoch by the
accuracy on 240 validation signs, so the result to compare is the accuracy on
2,400 test signs. The labels of both splits are correct.

Early stopping needs those 240 labels. In the variants called "all labels",
the validation signs are added to the training set instead, and the last epoch
is evaluated.

The learning rates are the best of 0.005, 0.01, 0.02, 0.05 and 0.1 on the
seeds 100 and 101: 0.05 for the EMA with early stopping, 0.01 for the last
epoch of a cosine, and 0.005 for the live weights at a constant learning rate.
With 0.005, little is memorised within sixteen epochs. So the live weights
also run with 0.05, which shows what early stopping rescues. Batch size,
length, decay of the EMA and patience were chosen on other images with other
seeds (100 and above). Up to its stop, a run with early stopping is the same
as one without, so one run serves both variants. The metrics after each epoch
are in 06_noisy_labels_curves.csv.

The claims were written after a first study (with six seeds, 960 validation
signs, 480 test signs, a learning rate of 0.05 for all variants and none with
all labels) and before this one ran.
"""

from functools import lru_cache, partial
from pathlib import Path

import pandas as pd
import torch
from common import run_study, seeded_resnet, sgd, train, wrong_label_curves

import cnnlab
from cnnlab import schedules
from cnnlab.callbacks import replay
from cnnlab.data import DataBundle, ImageSet
from cnnlab.experiment import Claim, Declaration, budget, fresh_data


SEEDS = 8
METRIC = "test_acc"
N_TRAIN, N_VALID, N_TEST, EPOCHS, BATCH_SIZE = 960, 240, 2400, 16, 32
DECAY, PATIENCE = 0.98, 4
TUNING_RUNS = 10  # five learning rates, two seeds
STOPS = "it ends before the last epoch, and which of its epochs counts is "
STOPS += "decided by the validation labels"
DECLARATION = Declaration(
    "What is early stopping worth when two labels in five are wrong?",
    claims=[
        Claim("early stopping", ">", "last epoch"),
        Claim("EMA, early stopping", ">", "early stopping", by=0.03),
        Claim("EMA, early stopping", ">", "lr 0.005, early stopping"),
        Claim("EMA, early stopping", ">", "cosine, all labels"),
        Claim("cosine, early stopping", "~", "cosine, last epoch", by=0.02),
        Claim("EMA, last epoch", "<", "last epoch", metric="wobble"),
    ],
    unit=fresh_data(),
    fixed="960 signs per seed with 40 % wrong labels, the network, SGD with "
    "momentum 0.9, batches of 32, at most 16 epochs",
    unequal={
        "early stopping": STOPS,
        "lr 0.005, early stopping": STOPS,
        "EMA, early stopping": STOPS,
        "cosine, early stopping": STOPS,
    },
)
# For each kind of run, its peak learning rate and its schedule.
RUNS = {
    "constant": (0.05, lambda steps: schedules.constant()),
    "lr 0.005": (0.005, lambda steps: schedules.constant()),
    "cosine": (0.01, schedules.cosine),
}


@lru_cache(maxsize=1)
def signs(seed: int) -> tuple[DataBundle, ImageSet]:
    """Load the signs of a seed, and its training set with wrong labels."""
    data = cnnlab.load(
        "pocket", seed=seed, n_train=N_TRAIN, n_valid=N_VALID, n_test=N_TEST
    )
    return data, cnnlab.data.label_noise(data.train, 0.4, seed)


@lru_cache
def run(seed: int, kind: str) -> pd.DataFrame:
    """Train to the end; return the metrics after each epoch."""
    data, _ = signs(seed)
    lr, schedule = RUNS[kind]
    return wrong_label_curves(
        data, seed, epochs=EPOCHS, decay=DECAY, lr=lr, schedule=schedule
    )


def outcome(
    seed: int,
    *,
    kind: str = "constant",
    prefix: str = "",
    stopping: bool = False,
) -> dict[str, float]:
    """Return the results of the last epoch, or of the restored epoch."""
    curve = run(seed, kind)
    valid, test = curve[f"{prefix}valid_acc"], curve[f"{prefix}test_acc"]
    end, best = len(curve) - 1, len(curve) - 1
    if stopping:
        end, best = replay(valid, "max", PATIENCE)
    results = {
        "test_acc": test[best],
        "epochs_trained": end + 1,
        "epoch_used": best + 1,
        "wobble": test.diff().abs().mean(),
    }
    labels = N_TRAIN + N_VALID * stopping
    steps = (end + 1) * (N_TRAIN // BATCH_SIZE)
    return results | budget(labels, steps, TUNING_RUNS)


def all_labels(seed: int, *, kind: str = "constant") -> dict[str, float]:
    """Train on both splits to the end; return the results."""
    data, noisy = signs(seed)
    lr, schedule = RUNS[kind]
    both = ImageSet(
        torch.cat([noisy.images, data.valid.images]),
        torch.cat([noisy.labels, data.valid.labels]),
        data.classes,
    )
    model = seeded_resnet(seed, len(data.classes))
    trainer = train(
        model,
        sgd(model, lr),
        both,
        batch_size=BATCH_SIZE,
        epochs=EPOCHS,
        seed=seed,
        schedule=schedule,
    )
    results = {
        "test_acc": trainer.evaluate(cnnlab.loader(data.test, 256))["acc"],
        "epochs_trained": EPOCHS,
        "epoch_used": EPOCHS,
        "wobble": float("nan"),  # it is evaluated only once
    }
    return results | budget(len(both), trainer.step, TUNING_RUNS)


VARIANTS = {
    "last epoch": outcome,
    "early stopping": partial(outcome, stopping=True),
    "last epoch, all labels": all_labels,
    "lr 0.005, last epoch": partial(outcome, kind="lr 0.005"),
    "lr 0.005, early stopping": partial(
        outcome, kind="lr 0.005", stopping=True
    ),
    "EMA, last epoch": partial(outcome, prefix="ema_"),
    "EMA, early stopping": partial(outcome, prefix="ema_", stopping=True),
    "cosine, last epoch": partial(outcome, kind="cosine"),
    "cosine, early stopping": partial(outcome, kind="cosine", stopping=True),
    "cosine, all labels": partial(all_labels, kind="cosine"),
}


if __name__ == "__main__":
    run_study(__file__, VARIANTS, SEEDS, METRIC, DECLARATION)
    curves = pd.concat(
        run(seed, kind)
        .drop(columns="seconds")
        .assign(seed=seed, schedule=kind)
        for kind in RUNS
        for seed in range(SEEDS)
    )
    path = Path(__file__).with_name("06_noisy_labels_curves.csv")
    curves.round(4).to_csv(path, index=False, lineterminator="\n")
