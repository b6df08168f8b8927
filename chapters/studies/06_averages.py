"""Compare averages of weights with the live model, at two schedules.

What varies is the model that is evaluated (the live model, its exponential
moving average EMA, its equal average SWA, and SWA with the batch-norm
statistics of the live model) and the schedule (a constant learning rate or a
cosine). All four models of a schedule come from the same run. Everything else
is fixed: 720 signs with correct labels, the architecture, SGD, batches of 32
and twelve epochs, of which SWA averages the last six. Each seed draws its own
signs. The results are accuracy and loss on 2,400 validation signs, and the
wobble: the mean absolute change of the validation accuracy from one epoch to
the next.

Learning rate, batch size, length and decay of the EMA were chosen on other
images with other seeds (100 and above). The claims were written after a first
study, with six seeds on one fixed set of signs, and before this one ran.
"""

from functools import partial

from common import STALE, run_study, train_and_average

from cnnlab import schedules
from cnnlab.experiment import Claim, Declaration, budget, fresh_data


SEEDS = 8
METRIC = "valid_acc"
N_TRAIN, N_VALID = 720, 2400
DECLARATION = Declaration(
    "Is an average of weights better than the weights at the end?",
    claims=[
        Claim("constant, EMA", ">", "constant, live", by=0.01),
        Claim("constant, SWA", ">", "constant, live", by=0.01),
        Claim("constant, SWA", ">", f"constant, {STALE}"),
        Claim("cosine, EMA", "~", "cosine, live", by=0.01),
        Claim("cosine, SWA", "~", "cosine, live", by=0.01),
        Claim("constant, EMA", "<", "constant, live", metric="wobble"),
    ],
    unit=fresh_data(),
    fixed="720 correctly labelled signs per seed, the network, SGD with a "
    "learning rate of 0.1, batches of 32, 12 epochs; one run per schedule and "
    "seed yields all four models",
)
EPOCHS, DECAY = 12, 0.98
SCHEDULES = {
    "constant": lambda steps: schedules.constant(),
    "cosine": schedules.cosine,
}


def outcome(seed: int, *, schedule: str, model: str) -> dict[str, float]:
    """Return the metrics of one model of a run."""
    trainer, metrics = train_and_average(
        seed,
        n_train=N_TRAIN,
        n_valid=N_VALID,
        epochs=EPOCHS,
        decay=DECAY,
        schedule=SCHEDULES[schedule],
    )
    return metrics[model] | budget(labels=N_TRAIN, steps=trainer.step)


MODELS = ("live", "EMA", "SWA", STALE)
VARIANTS = {
    f"{schedule}, {model}": partial(outcome, schedule=schedule, model=model)
    for schedule in SCHEDULES
    for model in MODELS
}


if __name__ == "__main__":
    run_study(__file__, VARIANTS, SEEDS, METRIC, DECLARATION)
