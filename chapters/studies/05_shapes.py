"""Compare all schedules at three peak learning rates, in short runs.

What varies is the schedule and its peak learning rate. Two more variants have
a constant learning rate: 0.001, and the one that the LR range test suggests.
Everything else is fixed: 960 signs, the architecture, SGD, and four epochs of
15 steps, as in the cells of the chapter. Each seed draws its own signs. The
results are the accuracy on 5,000 validation signs and, for the explorer of
the chapter, the mean training loss over each twelfth of the run.

Nothing was tuned, and the range test uses training images only. The claims
were written after a first study (with five seeds on one fixed set of signs,
480 of them for validation) and before this one ran.
"""

from functools import lru_cache, partial

import torch
import torch.nn.functional as F
from common import cpu_trainer, run_study, seeded_resnet, sgd

import cnnlab
from cnnlab import tune
from cnnlab.data import DataBundle
from cnnlab.experiment import Claim, Declaration, budget, fresh_data
from cnnlab.widgets.schedules import SHAPES


SEEDS = 6
METRIC = "valid_acc"
N_TRAIN, N_VALID = 960, 5000
EPOCHS, BATCH_SIZE, N_LOSSES, TEST_STEPS = 4, 64, 12, 60
PEAKS = (0.01, 0.1, 1.0)
DECLARATION = Declaration(
    "Which peak learning rate does a schedule need in a run of sixty steps?",
    claims=[
        Claim("one-cycle, 1", ">", "constant, 1"),
        Claim("constant, 0.01", ">", "one-cycle, 0.01", by=0.03),
        Claim("constant, suggested", ">", "constant, 0.001", by=0.2),
        Claim("constant, 0.1", ">", "constant, suggested"),
    ],
    unit=fresh_data(),
    fixed="960 signs per seed, the network, SGD with momentum 0.9, batches of "
    "64, four epochs of 15 steps",
    unequal={
        "constant, suggested": "the 60 steps of the range test are the price "
        "of a learning rate that nobody has to know"
    },
)


@lru_cache(maxsize=1)
def signs(seed: int) -> DataBundle:
    """Load the signs of a seed."""
    return cnnlab.load(
        "pocket", seed=seed, n_train=N_TRAIN, n_valid=N_VALID, n_test=96
    )


def run(seed: int, *, lr: float | None, shape: str) -> dict[str, float]:
    """Train with a schedule; lr=None takes the peak from the range test."""
    data = signs(seed)
    train = cnnlab.loader(data.train, BATCH_SIZE, shuffle=True, seed=seed)
    model = seeded_resnet(seed, len(data.classes))
    optimizer = sgd(model, lr or 0.1)
    steps = EPOCHS * len(train)
    used = budget(labels=N_TRAIN, steps=steps)
    if lr is None:
        curve = tune.lr_find(
            model,
            optimizer,
            F.cross_entropy,
            train,
            low=1e-4,
            steps=TEST_STEPS,
        )
        lr = optimizer.param_groups[0]["lr"] = curve.suggest()
        used = budget(labels=N_TRAIN, steps=steps + TEST_STEPS)
    scheduler = cnnlab.attach(optimizer, SHAPES[shape](steps))
    trainer = cpu_trainer(model, optimizer, seed, scheduler=scheduler)
    history = trainer.fit(train, epochs=EPOCHS)
    losses = torch.tensor(history.steps["loss"].to_numpy())
    metrics = trainer.evaluate(cnnlab.loader(data.valid, 256))
    results = {
        "valid_acc": metrics["acc"],
        "peak_rate": lr,
        **{
            f"loss_{i:02}": chunk.mean().item()
            for i, chunk in enumerate(losses.chunk(N_LOSSES), start=1)
        },
    }
    return results | used


VARIANTS = {
    f"{shape}, {lr:g}": partial(run, lr=lr, shape=shape)
    for lr in PEAKS
    for shape in SHAPES
} | {
    "constant, 0.001": partial(run, lr=0.001, shape="constant"),
    "constant, suggested": partial(run, lr=None, shape="constant"),
}


if __name__ == "__main__":
    run_study(__file__, VARIANTS, SEEDS, METRIC, DECLARATION)
