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

import warnings
from functools import lru_cache, partial

from common import run_study, seeded_resnet, sgd, train

import cnnlab
from cnnlab import schedules
from cnnlab.averaging import EMA, SWA, update_bn
from cnnlab.experiment import Claim, Declaration, budget, fresh_data


SEEDS = 8
METRIC = "valid_acc"
N_TRAIN, N_VALID = 720, 2400
STALE = "SWA, statistics of the live model"
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
EPOCHS, BATCH_SIZE, LR, DECAY = 12, 32, 0.1, 0.98
SCHEDULES = {
    "constant": lambda steps: schedules.constant(),
    "cosine": schedules.cosine,
}


@lru_cache
def run(seed: int, schedule: str) -> dict[str, dict[str, float]]:
    """Train once; return the metrics of the live model and its averages."""
    data = cnnlab.load("pocket", seed=seed, n_train=N_TRAIN, n_valid=N_VALID)
    model = seeded_resnet(seed, len(data.classes))
    valid = cnnlab.loader(data.valid, 256)
    swa = SWA(model, start_epoch=EPOCHS // 2)
    trainer = train(
        model,
        sgd(model, LR),
        data.train,
        batch_size=BATCH_SIZE,
        epochs=EPOCHS,
        seed=seed,
        schedule=SCHEDULES[schedule],
        valid=valid,
        ema=EMA(model, DECAY),
        callbacks=[swa],
    )
    curve = trainer.history.frame()
    metrics = {
        name: {
            "valid_acc": curve[f"{prefix}valid_acc"].iloc[-1],
            "valid_loss": curve[f"{prefix}valid_loss"].iloc[-1],
            "wobble": curve[f"{prefix}valid_acc"].diff().abs().mean(),
        }
        for name, prefix in (("live", ""), ("EMA", "ema_"))
    }
    for name in (STALE, "SWA"):
        with warnings.catch_warnings():
            # cnnlab warns about the statistics, which are what is compared.
            warnings.simplefilter("ignore")
            swa_metrics = trainer.evaluate(valid, model=swa.model)
        metrics[name] = {f"valid_{k}": v for k, v in swa_metrics.items()}
        metrics[name]["wobble"] = float("nan")  # it has only one value
        update_bn(swa.model, cnnlab.loader(data.train, 256))
    used = budget(labels=N_TRAIN, steps=trainer.step)
    return {name: results | used for name, results in metrics.items()}


def outcome(seed: int, *, schedule: str, model: str) -> dict[str, float]:
    """Return the metrics of one model of a run."""
    return run(seed, schedule)[model]


MODELS = ("live", "EMA", "SWA", STALE)
VARIANTS = {
    f"{schedule}, {model}": partial(outcome, schedule=schedule, model=model)
    for schedule in SCHEDULES
    for model in MODELS
}


if __name__ == "__main__":
    run_study(__file__, VARIANTS, SEEDS, METRIC, DECLARATION)
