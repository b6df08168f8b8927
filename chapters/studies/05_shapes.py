"""Compare all schedules at three peak learning rates, in short runs.

What varies is the schedule and its peak learning rate. Two more variants have
a constant learning rate: 0.001, and the one that the LR range test suggests.
Everything else is fixed: 960 signs, the architecture, SGD, and four epochs of
15 steps, as in the cells of the chapter. The results are the validation
accuracy and, for the explorer of the chapter, the mean training loss over
each twelfth of the run.

Nothing was tuned, and the range test uses training images only.
"""

from functools import partial

import torch
import torch.nn.functional as F
from common import cpu_trainer, run_study, seeded_resnet, sgd

import cnnlab
from cnnlab import tune
from cnnlab.widgets.schedules import SHAPES


SEEDS = 5
METRIC = "valid_acc"
EPOCHS, BATCH_SIZE, N_LOSSES = 4, 64, 12
PEAKS = (0.01, 0.1, 1.0)


def run(seed, *, lr, shape):
    """Train with a schedule; lr=None takes the peak from the range test."""
    data = cnnlab.load("pocket", n_train=960, n_valid=480)
    train = cnnlab.loader(data.train, BATCH_SIZE, shuffle=True, seed=seed)
    model = seeded_resnet(seed, len(data.classes))
    optimizer = sgd(model, lr or 0.1)
    if lr is None:
        curve = tune.lr_find(
            model, optimizer, F.cross_entropy, train, low=1e-4, steps=60
        )
        lr = optimizer.param_groups[0]["lr"] = curve.suggest()
    steps = EPOCHS * len(train)
    scheduler = cnnlab.attach(optimizer, SHAPES[shape](steps))
    trainer = cpu_trainer(model, optimizer, seed, scheduler=scheduler)
    history = trainer.fit(train, epochs=EPOCHS)
    losses = torch.tensor(history.steps["loss"].to_numpy())
    metrics = trainer.evaluate(cnnlab.loader(data.valid, 256))
    return {
        "valid_acc": metrics["acc"],
        "peak_rate": lr,
        "steps": steps,
        **{
            f"loss_{i:02}": chunk.mean().item()
            for i, chunk in enumerate(losses.chunk(N_LOSSES), start=1)
        },
    }


VARIANTS = {
    f"{shape}, {lr:g}": partial(run, lr=lr, shape=shape)
    for lr in PEAKS
    for shape in SHAPES
} | {
    "constant, 0.001": partial(run, lr=0.001, shape="constant"),
    "constant, suggested": partial(run, lr=None, shape="constant"),
}


if __name__ == "__main__":
    run_study(__file__, VARIANTS, SEEDS, METRIC)
