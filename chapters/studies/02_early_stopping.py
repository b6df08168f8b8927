"""Compare dropout and weight decay with choosing the best epoch.

02_noisy_labels.py compares networks at the end of training, when the one
without regularisation has memorised the wrong labels. Here the same three
networks (plain, dropout, weight decay) may also choose their best epoch by
the accuracy on 240 validation signs with correct labels, which is early
stopping with unlimited patience. What varies is the regularisation and
whether the last or the best epoch counts. Everything else is as in that
study: 1,200 signs of which 40 % are mislabelled, SGD with momentum and a
cosine from 0.02, batches of 64 and 60 epochs. One run serves both epochs.
The result is the accuracy on 5,000 test signs.

All variants called "best epoch" use the same 1,440 labels. Those called
"last epoch" use 1,200, because the validation labels decide nothing there.

The claims were written before this study ran, but knowing 02_noisy_labels
and the curves of four plain runs (seeds 0 to 3): the best of their epochs
had a validation accuracy of about 0.70, against 0.72 for dropout and weight
decay at the end. So this study draws other signs, with the seeds 200 to 207.
"""

import copy
from functools import lru_cache, partial

from common import run_study, train_wide_mlp

import cnnlab
from cnnlab.experiment import Claim, Declaration, budget, fresh_data


SEEDS = 8
METRIC = "test_acc"
N_TRAIN, N_VALID, N_TEST = 1200, 240, 5000
FIRST_SEED = 200
CHOICE = "240 more labels, with which it chooses one of its 60 epochs"
DECLARATION = Declaration(
    "Is there anything left for dropout and weight decay to gain if the best "
    "epoch is chosen?",
    claims=[
        Claim("plain, best epoch", ">", "plain, last epoch", by=0.05),
        Claim("dropout 0.5, best epoch", ">", "plain, best epoch"),
        Claim("decay 1e-2, best epoch", ">", "plain, best epoch"),
        Claim("dropout 0.5, last epoch", ">", "plain, best epoch"),
        Claim("decay 1e-2, last epoch", ">", "plain, best epoch"),
    ],
    unit=fresh_data(),
    fixed="1,200 signs per seed with 40 % wrong labels, three linear layers, "
    "SGD with momentum 0.9 and a cosine schedule from a learning rate of "
    "0.02, batches of 64, 60 epochs",
    unequal={
        "plain, best epoch": CHOICE,
        "dropout 0.5, best epoch": CHOICE,
        "decay 1e-2, best epoch": CHOICE,
    },
)


class BestEpoch(cnnlab.Callback):
    """Copy the network whenever its validation accuracy is the best yet."""

    def __init__(self):
        self.accuracy, self.epoch, self.model = 0.0, 0, None

    def on_epoch_end(self, trainer):
        """Compare the epoch with the best one."""
        row = trainer.history.epochs[-1]
        if row["valid_acc"] > self.accuracy:
            self.accuracy, self.epoch = row["valid_acc"], row["epoch"]
            self.model = copy.deepcopy(trainer.model)


@lru_cache(maxsize=1)
def signs(seed: int) -> cnnlab.data.DataBundle:
    """Load the signs of a seed."""
    return cnnlab.load(
        "pocket",
        seed=FIRST_SEED + seed,
        n_train=N_TRAIN,
        n_valid=N_VALID,
        n_test=N_TEST,
    )


@lru_cache
def run(
    seed: int, dropout: float, weight_decay: float
) -> dict[str, dict[str, float]]:
    """Train to the end; return the results of the last and the best epoch."""
    data = signs(seed)
    noisy = cnnlab.data.label_noise(data.train, 0.4, FIRST_SEED + seed)
    best = BestEpoch()
    trainer = train_wide_mlp(
        FIRST_SEED + seed,
        noisy,
        dropout=dropout,
        weight_decay=weight_decay,
        valid=cnnlab.loader(data.valid, 256),
        callbacks=[best],
    )
    test = cnnlab.loader(data.test, 256)
    return {
        "last": {
            "test_acc": trainer.evaluate(test)["acc"],
            "epoch_used": trainer.epoch,
        }
        | budget(labels=N_TRAIN, steps=trainer.step),
        "best": {
            "test_acc": trainer.evaluate(test, model=best.model)["acc"],
            "epoch_used": best.epoch,
        }
        | budget(labels=N_TRAIN + N_VALID, steps=trainer.step),
    }


def outcome(
    seed: int, *, epoch: str, dropout: float = 0.0, weight_decay: float = 0.0
) -> dict[str, float]:
    """Return the results of the last or of the best epoch of a run."""
    return run(seed, dropout, weight_decay)[epoch]


VARIANTS = {
    f"{name}, {epoch} epoch": partial(outcome, epoch=epoch, **options)
    for name, options in (
        ("plain", {}),
        ("dropout 0.5", {"dropout": 0.5}),
        ("decay 1e-2", {"weight_decay": 1e-2}),
    )
    for epoch in ("last", "best")
}


if __name__ == "__main__":
    run_study(__file__, VARIANTS, SEEDS, METRIC, DECLARATION)
