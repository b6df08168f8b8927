"""Find out what keeps a network without batch norm from diverging.

What varies is the remedy: none, clipping by norm, clipping by value, warm-up,
a quarter of the learning rate, or batch norm. Everything else is fixed: 960
signs, a network without batch norm, SGD at a learning rate of 0.4, batches of
64 and four epochs. Each seed draws its own images for training and
validation. The result is the validation accuracy of the last weights, even if
the run failed.

The learning rate, the length and the clipping limits were chosen on other
images with other seeds (100 and above).
"""

from contextlib import suppress
from functools import partial

from common import (
    correct_predictions,
    cpu_trainer,
    run_study,
    seeded_resnet,
    sgd,
)

import cnnlab
from cnnlab import schedules
from cnnlab.errors import NonFiniteError


SEEDS = 8
METRIC = "valid_acc"
LR, EPOCHS, BATCH_SIZE = 0.4, 4, 64


def run(
    seed: int,
    *,
    lr: float = LR,
    norm: str = "none",
    warmup: bool = False,
    **clipping,
) -> float:
    """Train; return the validation accuracy of the last weights."""
    data = cnnlab.load(
        "pocket", seed=seed, n_train=960, n_valid=480, n_test=96
    )
    model = seeded_resnet(seed, len(data.classes), norm=norm)
    optimizer = sgd(model, lr)
    batches = cnnlab.loader(data.train, BATCH_SIZE, shuffle=True, seed=seed)
    warmup_steps = round(0.3 * EPOCHS * len(batches))
    schedule = schedules.warmup(warmup_steps, schedules.constant())
    scheduler = cnnlab.attach(optimizer, schedule) if warmup else None
    trainer = cpu_trainer(
        model, optimizer, seed, scheduler=scheduler, **clipping
    )
    # After an error, the weights are those from before the failed step.
    with suppress(NonFiniteError):
        trainer.fit(batches, epochs=EPOCHS)
    return correct_predictions(trainer, data.valid).float().mean().item()


VARIANTS = {
    "clip by norm": partial(run, clip_norm=1.0),
    "clip by value": partial(run, clip_value=0.01),
    "no clipping": run,
    "warm-up": partial(run, warmup=True),
    "a quarter of the rate": partial(run, lr=LR / 4),
    "batch norm": partial(run, norm="batch"),
}


if __name__ == "__main__":
    run_study(__file__, VARIANTS, SEEDS, METRIC)
