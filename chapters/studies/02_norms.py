"""Norms against learning rates: four epochs on 1,000 signs, validation accuracy at the end.

Beside the grid: batches of two images, and wrong initial weights under batch norm. A run that overflows counts as
guessing. The rates and sizes were chosen with seeds from 100 on.
"""

from collections.abc import Callable

import torch

import cnnlab
from cnnlab.errors import NonFiniteError
from cnnlab.experiment import study


SEEDS = 5
METRIC = "valid_acc"


def accuracy(
    norm: str, rate: float, scheme: str = "he", batch: int = 64, n: int = 1000
) -> Callable[[int], float]:
    """Return a variant: train with one seed, return the validation accuracy."""

    def run(seed: int) -> float:
        data = cnnlab.load("pocket", n_train=n, n_valid=480)
        torch.manual_seed(seed)
        model = cnnlab.initialise(cnnlab.small_resnet(12, norm=norm), scheme)
        optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
        trainer = cnnlab.Trainer(
            model, optimizer, seed=seed, device="cpu", progress=False
        )
        loader = cnnlab.loader(data.train, batch, shuffle=True, seed=seed)
        try:
            trainer.fit(loader, epochs=4)
        except NonFiniteError:
            return 1 / 12
        return trainer.evaluate(cnnlab.loader(data.valid, 256))["acc"]

    return run


VARIANTS = (
    {
        f"{norm}, rate {rate:g}": accuracy(norm, rate)
        for norm in ("batch", "layer", "none")
        for rate in (0.02, 0.1, 0.4, 1.6)
    }
    | {
        f"{norm}, two images": accuracy(norm, 0.005, batch=2, n=600)
        for norm in ("batch", "layer")
    }
    | {
        f"batch, {scheme}": accuracy("batch", 0.1, scheme)
        for scheme in ("tiny", "huge")
    }
)


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(study(__file__, VARIANTS, SEEDS, metric=METRIC))
