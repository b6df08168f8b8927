"""Compare a tuned network with the defaults, on a test set.

What varies is where the settings come from, and how long a network trains.
The defaults are those of `torch.optim.AdamW` with batches of 32 and no
dropout. They need no validation set, so they train on its images as well. The
tuned network comes from a search in two rounds: sixteen Sobol points over
learning rate, weight decay, dropout and batch size for three epochs each, and
four more in the range of the best three for twelve epochs each. The best of
these four by validation accuracy is the tuned network. Averaging the
probabilities of the best three gives the ensemble. The search trains for 96
epochs in all, so two more variants train one network for 96 epochs, with the
default and with the tuned setting, on all labelled images.

Everything else is fixed: 840 labelled signs, the architecture, AdamW and a
cosine. Each seed draws its own signs. The result is the accuracy on 2,400
test signs, whose fonts are new. No decision looks at them.

The ranges and the numbers of trials and epochs were chosen with seeds 100 and
101, where the tuned network was five to six points better than the default.
The claims were written after these runs and before this study ran.
"""

from functools import lru_cache, partial

import torch
from common import (
    run_study,
    search_with_adamw,
    sobol_settings,
    train_with_adamw,
)

import cnnlab
from cnnlab import tune
from cnnlab.data import ImageSet
from cnnlab.experiment import Claim, Declaration, budget, fresh_data


SEEDS = 8
METRIC = "test_acc"
N_TRAIN, N_VALID, N_TEST = 600, 240, 2400
COARSE, COARSE_EPOCHS = 16, 3
FINE, FINE_EPOCHS = 4, 12
SEARCH_EPOCHS = COARSE * COARSE_EPOCHS + FINE * FINE_EPOCHS  # 96
SPACE = {
    "lr": tune.LogUniform(1e-4, 1e-1),
    "weight_decay": tune.LogUniform(1e-3, 1.0),
    "dropout": tune.Uniform(0.0, 0.5),
    "batch_size": tune.Choice([16, 32, 64]),
}
DEFAULT = {
    "lr": 1e-3,
    "weight_decay": 1e-2,
    "dropout": 0.0,
    "batch_size": 32,
}
SHORT, LONG = "default", "default, 96 epochs"
TUNED, ENSEMBLE = "tuned", "tuned, best three averaged"
TUNED_LONG = "tuned setting, 96 epochs"
SEARCHED = "a search of twenty runs, because the question is what it buys"
DECLARATION = Declaration(
    "What does a search buy, compared with the default settings?",
    claims=[
        Claim(TUNED, ">", SHORT, by=0.03),
        Claim(LONG, ">", SHORT, by=0.03),
        Claim(TUNED, "~", LONG, by=0.02),
        Claim(ENSEMBLE, ">", TUNED),
        Claim(TUNED_LONG, ">", LONG, by=0.01),
    ],
    unit=fresh_data(),
    fixed="840 labelled signs per seed, the network, AdamW with a cosine",
    unequal={
        TUNED: SEARCHED,
        ENSEMBLE: SEARCHED,
        TUNED_LONG: f"{SEARCHED}, and then 96 epochs more",
        LONG: "as many epochs as the whole search, to see what else they buy",
    },
)


@lru_cache(maxsize=1)
def signs(seed):
    """Load the signs of a seed."""
    return cnnlab.load(
        "pocket", seed=seed, n_train=N_TRAIN, n_valid=N_VALID, n_test=N_TEST
    )


def probabilities(trainer, seed):
    """Return the predicted probabilities on the test set, (N, K)."""
    return trainer.predict(cnnlab.loader(signs(seed).test, 256)).softmax(1)


def accuracy(predicted, seed):
    """Return the test accuracy of probabilities (N, K)."""
    correct = predicted.argmax(dim=1) == signs(seed).test.labels
    return correct.double().mean().item()


@lru_cache(maxsize=1)
def search(seed):
    """Search in two rounds; return the table and trainers of the second."""
    data = signs(seed)
    wide = sobol_settings(SPACE, COARSE, seed)
    coarse, _ = search_with_adamw(data, seed, wide, COARSE_EPOCHS)
    narrow = tune.refine(SPACE, coarse, top=3)
    fine = sobol_settings(narrow, FINE, seed)
    return search_with_adamw(data, seed, fine, FINE_EPOCHS)


def tuned(seed, *, n_averaged):
    """Return the test accuracy of the best network, or of the best few."""
    table, trainers = search(seed)
    best = trainers[:n_averaged]
    predicted = torch.stack([probabilities(t, seed) for t in best]).mean(0)
    winner = table.iloc[0]
    return {
        "test_acc": accuracy(predicted, seed),
        "valid_acc": winner["score"],
        "lr": winner["lr"],
        "weight_decay": winner["weight_decay"],
        "dropout": winner["dropout"],
        "batch_size": winner["batch_size"],
    } | budget(
        labels=N_TRAIN + N_VALID,
        steps=sum(trainer.step for trainer in best),
        tuning_runs=COARSE + FINE,
    )


def train_on_all(seed, setting, epochs, tuning_runs):
    """Train on the training and the validation set, and test."""
    data = signs(seed)
    labelled = ImageSet(
        torch.cat([data.train.images, data.valid.images]),
        torch.cat([data.train.labels, data.valid.labels]),
        data.classes,
    )
    trainer = train_with_adamw(labelled, seed, epochs, **setting)
    return {
        "test_acc": accuracy(probabilities(trainer, seed), seed)
    } | budget(
        labels=N_TRAIN + N_VALID, steps=trainer.step, tuning_runs=tuning_runs
    )


def default(seed, *, epochs):
    """Train with the default setting."""
    return train_on_all(seed, DEFAULT, epochs, tuning_runs=0)


def tuned_for_longer(seed, *, epochs):
    """Train with the setting that the search chose."""
    table, _ = search(seed)
    setting = {name: table.iloc[0][name] for name in SPACE}
    setting["batch_size"] = int(setting["batch_size"])
    return train_on_all(seed, setting, epochs, tuning_runs=COARSE + FINE)


VARIANTS = {
    SHORT: partial(default, epochs=FINE_EPOCHS),
    LONG: partial(default, epochs=SEARCH_EPOCHS),
    TUNED: partial(tuned, n_averaged=1),
    ENSEMBLE: partial(tuned, n_averaged=3),
    TUNED_LONG: partial(tuned_for_longer, epochs=SEARCH_EPOCHS),
}


if __name__ == "__main__":
    run_study(__file__, VARIANTS, SEEDS, METRIC, DECLARATION)
