"""From easy signs to wild ones: a network that has learnt the easy level, and a few labels from the wild.

The source network sees easy signs only. Then it is used on wild ones as it is; with batch-norm statistics measured on
wild images without labels; with a new head, or with all stages fine-tuned, on five wild labels a class. The last arm
trains from scratch on the same few labels. The accuracy on easy signs afterwards tells what was forgotten. Rates and
lengths were tried with two other seeds (100 and 101); they looked fine there, and no alternatives were tried.
"""

import copy
from functools import lru_cache, partial

import torch
from torch import nn

import cnnlab
from cnnlab import averaging, schedules
from cnnlab.data import DataBundle
from cnnlab.data.balance import imbalance
from cnnlab.experiment import study
from cnnlab.models import stages
from cnnlab.transfer import freeze


SEEDS = 5
METRIC = "test_acc"
N_SOURCE, SOURCE_EPOCHS, N_WILD = 1200, 8, 600  # wild: images without labels
PER_CLASS, EPOCHS, BATCH = 5, 40, 30  # two batches an epoch


@lru_cache
def signs(level: str, seed: int) -> DataBundle:
    """The signs of one level; a seed shows other pictures at each of them."""
    seed = 2 * seed + (level == "wild")
    return cnnlab.load(
        "pocket",
        seed=seed,
        level=level,
        n_train=N_SOURCE,
        n_valid=120,
        n_test=600,
    )


def fit(
    model: nn.Module, part, *, rate: float, epochs: int, seed: int
) -> cnnlab.Trainer:
    """AdamW with a cosine down to zero."""
    batches = cnnlab.loader(part, BATCH, shuffle=True, seed=seed)
    optimizer = torch.optim.AdamW(
        cnnlab.transfer.param_groups(model, rate, 0.01)
    )
    trainer = cnnlab.Trainer(
        model,
        optimizer,
        scheduler=cnnlab.attach(
            optimizer, schedules.cosine(epochs * len(batches))
        ),
        seed=seed,
        device="cpu",
        progress=False,
    )
    trainer.fit(batches, epochs=epochs)
    return trainer


@lru_cache(maxsize=2)
def source(seed: int) -> cnnlab.Trainer:
    """A network that has learnt the easy signs."""
    torch.manual_seed(seed)
    model = cnnlab.small_resnet(12)
    return fit(
        model,
        signs("easy", seed).train,
        rate=1e-2,
        epochs=SOURCE_EPOCHS,
        seed=seed,
    )


def adapt(
    seed: int,
    *,
    norms: str = "",
    rate: float = 0,
    head_only: bool = False,
    new: bool = False,
) -> dict[str, float]:
    """Adapt the source network in some way; its accuracy on wild and on easy test signs."""
    trainer, wild = source(seed), signs("wild", seed)
    unlabelled = cnnlab.loader(wild.train.select(range(N_WILD)), 300)
    model = copy.deepcopy(trainer.model)
    if new:
        torch.manual_seed(seed)
        model = cnnlab.small_resnet(12)
    if norms == "first":
        averaging.update_bn(model, unlabelled)
    if rate:
        for stage in stages(model)[:-1] if head_only else ():
            freeze(stage)
        few = imbalance(wild.train, [PER_CLASS] * 12, seed)
        fit(model, few, rate=rate, epochs=EPOCHS, seed=seed)
    if norms == "last":
        averaging.update_bn(model, unlabelled)
    tests = {"test_acc": wild.test, "easy_acc": signs("easy", seed).test}
    return {
        name: trainer.evaluate(cnnlab.loader(part, 300), model=model)["acc"]
        for name, part in tests.items()
    }


VARIANTS = {
    "as it is": adapt,
    "statistics from wild images": partial(adapt, norms="first"),
    "head on five labels": partial(adapt, head_only=True, rate=1e-2),
    "statistics, then head": partial(
        adapt, norms="first", head_only=True, rate=1e-2
    ),
    "everything on five labels": partial(adapt, rate=1e-3),
    "everything, then statistics": partial(adapt, norms="last", rate=1e-3),
    "from scratch on five labels": partial(adapt, new=True, rate=1e-2),
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    study(__file__, VARIANTS, SEEDS, metric=METRIC)
