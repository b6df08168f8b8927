"""Compare normalisation layers at several learning rates.

What varies is the normalisation (batch norm, layer norm, none) and the
learning rate, each norm at each of four rates. Two smaller comparisons come
on top: batch norm and layer norm with batches of two images, and batch norm
with badly scaled initial weights. Everything else is fixed: 1,000 signs (600
for the batches of two), the architecture, SGD with momentum, batches of 64
and four epochs. The result is the validation accuracy at the end.

A run that overflows counts as random guessing. The learning rates and the
sizes were chosen with other seeds (100 and above).
"""

from functools import partial

from common import run_study, seeded_resnet, sgd, train

import cnnlab
from cnnlab.errors import NonFiniteError


SEEDS = 5
METRIC = "valid_acc"
CHANCE = 1 / 12


def run(
    seed: int,
    *,
    norm: str,
    lr: float,
    init: str = "he",
    batch_size: int = 64,
    n_train: int = 1000,
) -> float:
    """Train with one seed; return the validation accuracy."""
    data = cnnlab.load("pocket", n_train=n_train, n_valid=480)
    model = cnnlab.initialise(seeded_resnet(seed, norm=norm), init)
    try:
        trainer = train(
            model,
            sgd(model, lr),
            data.train,
            batch_size=batch_size,
            epochs=4,
            seed=seed,
        )
    except NonFiniteError:
        return CHANCE
    return trainer.evaluate(cnnlab.loader(data.valid, 256))["acc"]


VARIANTS = (
    {
        f"{norm}, rate {lr:g}": partial(run, norm=norm, lr=lr)
        for norm in ("batch", "layer", "none")
        for lr in (0.02, 0.1, 0.4, 1.6)
    }
    | {
        f"{norm}, two images": partial(
            run, norm=norm, lr=0.005, batch_size=2, n_train=600
        )
        for norm in ("batch", "layer")
    }
    | {
        f"batch, {init}": partial(run, norm="batch", lr=0.1, init=init)
        for init in ("tiny", "huge")
    }
)


if __name__ == "__main__":
    run_study(__file__, VARIANTS, SEEDS, METRIC)
