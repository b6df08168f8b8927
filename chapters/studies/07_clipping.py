"""A network without batch norm at a rate that makes it diverge: what rescues it.

The rate, the length and the limits were chosen on other images and other seeds (both from 100). Each seed draws
pictures of its own, for training and for validation.
"""

from contextlib import suppress
from functools import partial

import torch

import cnnlab
from cnnlab.errors import NonFiniteError
from cnnlab.experiment import study


SEEDS = 8
METRIC = "valid_acc"
RATE, EPOCHS, BATCH = 0.4, 4, 64


def train(
    seed: int,
    *,
    rate: float = RATE,
    norm: str = "none",
    warmup: bool = False,
    **clipping,
) -> float:
    """Train, whatever becomes of it; return the validation accuracy of the last weights."""
    data = cnnlab.load(
        "pocket", seed=seed, n_train=960, n_valid=480, n_test=96
    )
    torch.manual_seed(seed)
    model = cnnlab.small_resnet(len(data.classes), norm=norm)
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    batches = cnnlab.loader(data.train, BATCH, shuffle=True, seed=seed)
    steps = EPOCHS * len(batches)
    rise = cnnlab.schedules.warmup(
        round(0.3 * steps), cnnlab.schedules.constant()
    )
    trainer = cnnlab.Trainer(
        model,
        optimizer,
        scheduler=cnnlab.attach(optimizer, rise) if warmup else None,
        seed=seed,
        device="cpu",
        progress=False,
        **clipping,
    )
    with suppress(
        NonFiniteError
    ):  # the weights are then those before the step that broke
        trainer.fit(batches, epochs=EPOCHS)
    answers = trainer.predict(cnnlab.loader(data.valid, 256)).argmax(dim=1)
    return (answers == data.valid.labels).float().mean().item()


VARIANTS = {
    "clip by norm": partial(train, clip_norm=1.0),
    "clip by value": partial(train, clip_value=0.01),
    "no clipping": train,
    "warm-up": partial(train, warmup=True),
    "a quarter of the rate": partial(train, rate=RATE / 4),
    "batch norm": partial(train, norm="batch"),
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    study(__file__, VARIANTS, SEEDS, metric=METRIC)
