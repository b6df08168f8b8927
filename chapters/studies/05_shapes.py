"""Every schedule at three peak rates, and a constant rate chosen by the LR range test, in short runs.

The runs are those of the chapter's cells: 960 signs, four epochs of 15 steps. Each keeps its training loss over
twelve equal parts of the run, for the explorer. Nothing was tuned; the range test sees training images alone.
"""

import torch
import torch.nn.functional as F

import cnnlab
from cnnlab import tune
from cnnlab.experiment import study
from cnnlab.widgets.schedules import SHAPES

SEEDS = 5
METRIC = "valid_acc"
EPOCHS, BATCH, PARTS = 4, 64, 12
RATES = (0.01, 0.1, 1.0)


def run(seed, rate, shape):
    """Train with a schedule; a rate of None is chosen by the range test."""
    data = cnnlab.load("pocket", n_train=960, n_valid=480)
    train = cnnlab.loader(data.train, BATCH, shuffle=True, seed=seed)
    torch.manual_seed(seed)
    model = cnnlab.small_resnet(num_classes=len(data.classes))
    optimizer = torch.optim.SGD(
        model.parameters(), lr=rate or 0.1, momentum=0.9
    )
    if rate is None:
        curve = tune.lr_find(
            model, optimizer, F.cross_entropy, train, low=1e-4, steps=60
        )
        rate = optimizer.param_groups[0]["lr"] = curve.suggest()
    steps = EPOCHS * len(train)
    trainer = cnnlab.Trainer(
        model,
        optimizer,
        scheduler=cnnlab.attach(optimizer, SHAPES[shape](steps)),
        seed=seed,
        device="cpu",
        progress=False,
    )
    history = trainer.fit(train, epochs=EPOCHS)
    losses = torch.tensor(history.steps["loss"].to_numpy())
    measured = trainer.evaluate(cnnlab.loader(data.valid, 256))
    return {
        "valid_acc": measured["acc"],
        "peak_rate": rate,
        "steps": steps,
        **{
            f"loss_{i:02}": part.mean().item()
            for i, part in enumerate(losses.chunk(PARTS), start=1)
        },
    }


VARIANTS = {
    f"{shape}, {rate:g}": lambda seed, rate=rate, shape=shape: run(
        seed, rate, shape
    )
    for rate in RATES
    for shape in SHAPES
} | {
    "constant, 0.001": lambda seed: run(seed, 0.001, "constant"),
    "constant, suggested": lambda seed: run(seed, None, "constant"),
}

if __name__ == "__main__":
    torch.set_num_threads(1)
    study(__file__, VARIANTS, SEEDS, metric=METRIC)
