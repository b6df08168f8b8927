"""A fine table of short runs, 20 learning rates by 3 weight decays, which any search can be played on.

Each seed has pictures, a network and an order of batches of its own. A run that overflows counts as guessing.
Number of images, batch and epochs were chosen on seed 100, for runs that are short and yet tell rates apart.
"""

from functools import partial

import torch

import cnnlab
from cnnlab.errors import NonFiniteError
from cnnlab.experiment import study


SEEDS = 5
METRIC = "valid_acc"
N_TRAIN, EPOCHS, BATCH = 600, 3, 32
FEW = 60  # validation images of a small validation part, five a class
LOG_RATES = [
    -4 + k / 4 for k in range(20)
]  # 1e-4 to 5.6, a quarter decade apart
LOG_DECAYS = [-5, -4, -3]


def train(seed: int, log_rate: float, log_decay: float) -> dict[str, float]:
    """Train with one setting; return its accuracy on many, few, and all the other validation images."""
    data = cnnlab.load("pocket", seed=seed, n_train=N_TRAIN, n_test=96)
    torch.manual_seed(seed)
    model = cnnlab.small_resnet(len(data.classes))
    optimizer = torch.optim.SGD(
        model.parameters(),
        lr=10**log_rate,
        momentum=0.9,
        weight_decay=10**log_decay,
    )
    trainer = cnnlab.Trainer(
        model, optimizer, seed=seed, device="cpu", progress=False
    )
    batches = cnnlab.loader(data.train, BATCH, shuffle=True, seed=seed)
    labels = data.valid.labels
    try:
        trainer.fit(batches, epochs=EPOCHS)
        right = trainer.predict(cnnlab.loader(data.valid, 256)).argmax(1)
        right = (right == labels).double()
    except NonFiniteError:
        right = torch.full(labels.shape, 1 / len(data.classes)).double()
    few, others = right[:FEW], right[FEW:]
    return {
        "valid_acc": right.mean().item(),
        "few_acc": few.mean().item(),
        "others_acc": others.mean().item(),
        "log_rate": log_rate,
        "log_decay": log_decay,
    }


VARIANTS = {
    f"rate {10**log_rate:.2g}, decay 1e{log_decay}": partial(
        train, log_rate=log_rate, log_decay=log_decay
    )
    for log_rate in LOG_RATES
    for log_decay in LOG_DECAYS
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    study(__file__, VARIANTS, SEEDS, metric=METRIC)
