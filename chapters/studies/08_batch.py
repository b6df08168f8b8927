"""Batches of 32 and of 128 pictures: at one rate, at a rate that grows with the batch, and with as many steps.

The small rate and the number of epochs were chosen on seed 100.
"""

from functools import partial

import torch

import cnnlab
from cnnlab.experiment import study


SEEDS = 5
METRIC = "valid_acc"
N_TRAIN, EPOCHS = 600, 6  # 18 steps an epoch with batches of 32, 4 with 128
AS_MANY_STEPS = 27  # epochs: 27 x 4 = 6 x 18


def train(seed: int, batch: int, rate: float, epochs: int = EPOCHS) -> float:
    """Return the validation accuracy after the last epoch."""
    data = cnnlab.load("pocket", seed=seed, n_train=N_TRAIN, n_test=96)
    torch.manual_seed(seed)
    model = cnnlab.small_resnet(len(data.classes))
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    trainer = cnnlab.Trainer(
        model, optimizer, seed=seed, device="cpu", progress=False
    )
    trainer.fit(
        cnnlab.loader(data.train, batch, shuffle=True, seed=seed),
        epochs=epochs,
    )
    right = trainer.predict(cnnlab.loader(data.valid, 256)).argmax(1)
    return (right == data.valid.labels).double().mean().item()


VARIANTS = {
    "32, rate 0.01": partial(train, batch=32, rate=0.01),
    "128, rate 0.01": partial(train, batch=128, rate=0.01),
    "128, rate 0.04": partial(train, batch=128, rate=0.04),
    "128, rate 0.01, as many steps": partial(
        train, batch=128, rate=0.01, epochs=AS_MANY_STEPS
    ),
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    study(__file__, VARIANTS, SEEDS, metric=METRIC)
