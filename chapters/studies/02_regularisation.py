"""Dropout and weight decay on 300 signs, thirty epochs: validation accuracy and loss at the end.

The values were chosen with seeds from 100 on.
"""

from collections.abc import Callable

import torch

import cnnlab
from cnnlab.experiment import study
from cnnlab.transfer import param_groups


SEEDS = 6
METRIC = "valid_acc"


def regularised(
    dropout: float = 0.0,
    decay: float = 0.0,
    *,
    everywhere: bool = False,
    epochs: int = 30,
) -> Callable[[int], dict[str, float]]:
    """Return a variant: train with one seed, return validation accuracy and loss."""

    def run(seed: int) -> dict[str, float]:
        data = cnnlab.load("pocket", n_train=300, n_valid=480)
        torch.manual_seed(seed)
        model = cnnlab.small_resnet(12, dropout=dropout)
        groups = param_groups(model, lr=0.1, weight_decay=decay)
        optimizer = torch.optim.SGD(
            model.parameters() if everywhere else groups,
            lr=0.1,
            momentum=0.9,
            weight_decay=decay,
        )
        trainer = cnnlab.Trainer(
            model, optimizer, seed=seed, device="cpu", progress=False
        )
        loader = cnnlab.loader(data.train, 64, shuffle=True, seed=seed)
        trainer.fit(loader, epochs=epochs)
        measured = trainer.evaluate(cnnlab.loader(data.valid, 256))
        return {"valid_acc": measured["acc"], "valid_loss": measured["loss"]}

    return run


VARIANTS = {
    "plain": regularised(),
    "dropout 0.3": regularised(dropout=0.3),
    "dropout 0.5": regularised(dropout=0.5),
    "decay 5e-4": regularised(decay=5e-4),
    "decay 5e-3": regularised(decay=5e-3),
    "decay 5e-3 everywhere": regularised(decay=5e-3, everywhere=True),
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(study(__file__, VARIANTS, SEEDS, metric=METRIC))
