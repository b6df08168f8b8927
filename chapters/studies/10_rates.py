"""Ten labelled digits a class, glyphnet's weights, one hundred steps: rates, and ways to begin, with what becomes of the features.

Beside the accuracy two numbers say how far the features have gone: how much they have changed on glyphs that the
network was not trained on, relative to their size, and how well a linear probe still reads the glyphs off them, that is
the old task. The steps and the rate of the ways to begin were chosen with other seeds (from 100). Each seed draws the
digits anew, and a new head.
"""

from functools import lru_cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import cnnlab
from cnnlab import schedules
from cnnlab.callbacks import GradualUnfreeze
from cnnlab.data.balance import imbalance
from cnnlab.experiment import study
from cnnlab.models import stages
from cnnlab.transfer import extract_features, freeze, linear_probe


SEEDS = 5
METRIC = "test_acc"
PER_CLASS, EPOCHS, BATCH = 10, 33, 32  # three batches an epoch
RATE = 3e-3  # of the ways to begin


@lru_cache
def glyphs() -> tuple[list, list]:
    """Loaders of five glyphs a class to fit the old task's probe to, and of five others."""
    data = cnnlab.load("glyphs", seed=1, n_train=485, n_valid=97, n_test=485)
    return cnnlab.loader(data.train, 485), cnnlab.loader(data.test, 485)


def old_features(model: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Features and labels of both parts of the glyphs."""
    return [extract_features(model, part) for part in glyphs()]


def fit_head(model: nn.Module, part) -> None:
    """Train the head alone, on features that are computed once."""
    features, labels = extract_features(model, cnnlab.loader(part, 256))
    linear = model.head.linear
    optimizer = torch.optim.AdamW(
        linear.parameters(), lr=0.01, weight_decay=0.01
    )
    for _ in range(300):
        optimizer.zero_grad()
        F.cross_entropy(linear(features), labels).backward()
        optimizer.step()


def run(
    seed: int,
    *,
    rate: float = RATE,
    head_first: bool = False,
    layer_decay: float | None = None,
    warm_up: int = 0,
    gradual: bool = False,
    frozen_norms: bool = False,
) -> dict[str, float]:
    """Fine-tune all stages in some way; no rate means that only the head is trained."""
    digits = cnnlab.load("digits", seed=seed)
    train = imbalance(digits.train, [PER_CLASS] * 10, seed)
    torch.manual_seed(seed)
    model = cnnlab.pretrained("glyphnet", 10)
    (_, _), (before, _) = old_features(model)
    if head_first:
        fit_head(model, train)
    for module in model.modules() if frozen_norms else ():
        if isinstance(module, nn.BatchNorm2d):
            freeze(module)
    groups = cnnlab.transfer.param_groups(
        model, rate or RATE, 0.01, layer_decay=layer_decay
    )
    optimizer = torch.optim.AdamW(groups)
    batches = cnnlab.loader(train, BATCH, shuffle=True, seed=seed)
    schedule = schedules.cosine(EPOCHS * len(batches) - warm_up)
    if warm_up:
        schedule = schedules.warmup(warm_up, schedule)
    phases = [GradualUnfreeze(stages(model), [8, 16, 24])] if gradual else []
    trainer = cnnlab.Trainer(
        model,
        optimizer,
        scheduler=cnnlab.attach(optimizer, schedule),
        callbacks=phases,
        seed=seed,
        device="cpu",
        progress=False,
    )
    if rate:
        trainer.fit(batches, epochs=EPOCHS)
    fit_part, (after, labels) = old_features(model)
    return {
        "test_acc": trainer.evaluate(cnnlab.loader(digits.test, 300))["acc"],
        "drift": ((after - before).norm() / before.norm()).item(),
        "old_task": linear_probe(fit_part, (after, labels)),
    }


VARIANTS = {
    "head first, rate 0.001": partial(run, head_first=True, rate=1e-3),
    "head first, rate 0.003": partial(run, head_first=True, rate=3e-3),
    "head first, rate 0.01": partial(run, head_first=True, rate=1e-2),
    "head first, rate 0.03": partial(run, head_first=True, rate=3e-2),
    "head only": partial(run, head_first=True, rate=0),
    "random head": run,
    "random head, warm-up": partial(run, warm_up=25),
    "random head, layer-wise rates": partial(run, layer_decay=0.4),
    "random head, gradual": partial(run, gradual=True),
    "head first, frozen norms": partial(
        run, head_first=True, frozen_norms=True
    ),
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    study(__file__, VARIANTS, SEEDS, metric=METRIC)
