"""Compare three uses of a budget that trains one network four times.

What varies is what the budget buys: the average of the probabilities of four
networks with different seeds, one network that trains four times as long, or
one network that is twice as wide, which makes a step about four times as
expensive. One network with a single budget is there to compare with.
Everything else is fixed, and as in 06_ensembles.py: 720 signs, SGD with a
cosine from a learning rate of 0.1, batches of 32, and sixteen epochs per
budget. Each seed draws its own signs, none of which belong to the other
study. The results are accuracy and loss on 5,000 validation signs.

The claims were written when the results of 06_ensembles.csv (the ensemble
gains 2.4 points on one run) and 06_matching.csv (networks of twice the width
gain about one point) were known. Nobody had trained for 64 epochs.
"""

from functools import lru_cache

from common import run_study, seeded_resnet, sgd, train
from torch import Tensor
from torch.nn import functional as F

import cnnlab
from cnnlab.averaging import ensemble
from cnnlab.data import DataBundle
from cnnlab.experiment import Claim, Declaration, budget, fresh_data
from cnnlab.rng import fold_in
from cnnlab.schedules import cosine


SEEDS = 6
METRIC = "valid_acc"
N_TRAIN, N_VALID, BATCH_SIZE, LR = 720, 5000, 32, 0.1
FIRST_SEED = 1000  # the seeds below belong to 06_ensembles.py
MEMBERS, EPOCHS = 4, 16
ENSEMBLE, LONGER = "four networks", "one network, 64 epochs"
WIDER, ONE = "one network of twice the width", "one network"
DECLARATION = Declaration(
    "Is an ensemble of four better than one larger or longer run?",
    claims=[
        Claim(ENSEMBLE, ">", LONGER),
        Claim(ENSEMBLE, ">", WIDER),
        Claim(ENSEMBLE, "<", LONGER, by=0.05, metric="valid_loss"),
        Claim(ENSEMBLE, "<", WIDER, by=0.05, metric="valid_loss"),
    ],
    unit=fresh_data(),
    fixed="720 signs per seed, SGD with momentum 0.9, cosines from a "
    "learning rate of 0.1, batches of 32",
    unequal={
        WIDER: "it takes as many steps as one network, but each step costs "
        "about four times as much"
    },
)


@lru_cache(maxsize=1)
def signs(seed: int) -> DataBundle:
    """Load the signs of a seed."""
    return cnnlab.load(
        "pocket",
        seed=FIRST_SEED + seed,
        n_train=N_TRAIN,
        n_valid=N_VALID,
        n_test=96,
    )


@lru_cache(maxsize=MEMBERS)
def logits(
    seed: int, member: int = 0, epochs: int = EPOCHS, width: int = 16
) -> Tensor:
    """Train a network; return its logits for the validation set."""
    data, own_seed = signs(seed), fold_in(FIRST_SEED + seed, member)
    model = seeded_resnet(own_seed, len(data.classes), width=width)
    trainer = train(
        model,
        sgd(model, LR),
        data.train,
        batch_size=BATCH_SIZE,
        epochs=epochs,
        seed=own_seed,
        schedule=cosine,
    )
    return trainer.predict(cnnlab.loader(data.valid, 256))


def evaluate(seed: int, members: list[Tensor], epochs: int) -> dict:
    """Return the metrics of the mean probabilities, and the budget."""
    labels = signs(seed).valid.labels
    probabilities = ensemble(members)
    correct = probabilities.argmax(1) == labels
    loss = F.nll_loss(probabilities.clamp_min(1e-12).log(), labels)
    return {
        "valid_acc": correct.float().mean().item(),
        "valid_loss": loss.item(),
    } | budget(labels=N_TRAIN, steps=epochs * (N_TRAIN // BATCH_SIZE))


def one(seed: int) -> dict[str, float]:
    """Evaluate one network."""
    return evaluate(seed, [logits(seed)], EPOCHS)


def four(seed: int) -> dict[str, float]:
    """Evaluate an ensemble of four networks."""
    members = [logits(seed, member) for member in range(MEMBERS)]
    return evaluate(seed, members, MEMBERS * EPOCHS)


def longer(seed: int) -> dict[str, float]:
    """Evaluate one network that trained four times as long."""
    epochs = MEMBERS * EPOCHS
    return evaluate(seed, [logits(seed, epochs=epochs)], epochs)


def wider(seed: int) -> dict[str, float]:
    """Evaluate one network of twice the width."""
    return evaluate(seed, [logits(seed, width=32)], EPOCHS)


VARIANTS = {ONE: one, ENSEMBLE: four, LONGER: longer, WIDER: wider}


if __name__ == "__main__":
    run_study(__file__, VARIANTS, SEEDS, METRIC, DECLARATION)
