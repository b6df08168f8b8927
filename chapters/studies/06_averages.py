"""Averages of weights with right labels: moving (EMA) and equal (SWA), at a constant rate and under a cosine.

Rate, batch, length and decay were chosen on other images and other seeds (both from 100); SWA averages the second
half of the epochs. The live model, its EMA and its SWA come from the same run. The wobble is the mean size of the
change of the validation accuracy from one epoch to the next.
"""

from functools import lru_cache, partial

import torch

import cnnlab
from cnnlab.averaging import EMA, SWA, update_bn
from cnnlab.experiment import study


SEEDS = 6
METRIC = "valid_acc"
N_TRAIN, N_VALID, EPOCHS, BATCH, RATE, DECAY = 720, 720, 12, 32, 0.1, 0.98


@lru_cache
def run(seed: int, schedule: str) -> dict[str, dict[str, float]]:
    """Train once; return the measurements of the model and of its averages."""
    data = cnnlab.load("pocket", n_train=N_TRAIN, n_valid=N_VALID)
    torch.manual_seed(seed)
    model = cnnlab.small_resnet(len(data.classes))
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9)
    train = cnnlab.loader(data.train, BATCH, shuffle=True, seed=seed)
    valid = cnnlab.loader(data.valid, 256)
    multiplier = {
        "constant": cnnlab.schedules.constant(),
        "cosine": cnnlab.schedules.cosine(EPOCHS * len(train)),
    }
    swa = SWA(model, start_epoch=EPOCHS // 2)
    trainer = cnnlab.Trainer(
        model,
        optimizer,
        scheduler=cnnlab.attach(optimizer, multiplier[schedule]),
        ema=EMA(model, DECAY),
        callbacks=[swa],
        seed=seed,
        device="cpu",
        progress=False,
    )
    curve = trainer.fit(train, valid, epochs=EPOCHS).frame()
    found = {
        name: {
            "valid_acc": curve[f"{part}valid_acc"].iloc[-1],
            "valid_loss": curve[f"{part}valid_loss"].iloc[-1],
            "wobble": curve[f"{part}valid_acc"].diff().abs().mean(),
        }
        for name, part in (("live", ""), ("EMA", "ema_"))
    }
    for name in ("SWA, statistics of the live model", "SWA"):
        told = trainer.evaluate(valid, model=swa.model)
        found[name] = {f"valid_{k}": v for k, v in told.items()} | {
            "wobble": float("nan")
        }
        update_bn(swa.model, cnnlab.loader(data.train, 256))
    return found


def outcome(seed: int, *, schedule: str, model: str) -> dict[str, float]:
    """Return the measurements of one model of the run."""
    return run(seed, schedule)[model]


MODELS = ("live", "EMA", "SWA", "SWA, statistics of the live model")
VARIANTS = {
    f"{schedule}, {model}": partial(outcome, schedule=schedule, model=model)
    for schedule in ("constant", "cosine")
    for model in MODELS
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    study(__file__, VARIANTS, SEEDS, metric=METRIC)
