"""Four strategies for two targets and two numbers of labels: what the rule of the 2 x 2 table says, measured.

The target is similar to what glyphnet has learnt on (handwritten digits, printed letters before) or different (traffic
signs). The rates, and the hundred steps for few labels, were chosen with other seeds (from 100); the hundred and fifty
for many were what there was time for. Every strategy starts from the same weights, and each that trains takes the same
steps. Each seed draws the images anew, and a new head.
"""

import itertools
from functools import lru_cache, partial

import torch
import torch.nn.functional as F
from torch import nn

import cnnlab
from cnnlab import schedules
from cnnlab.data import ImageSet
from cnnlab.data.balance import imbalance
from cnnlab.experiment import study
from cnnlab.models import stages
from cnnlab.transfer import extract_features, freeze


SEEDS = 5
METRIC = "test_acc"
USUAL, SMALL = 1e-2, 1e-3  # rates of AdamW
BATCH, STEPS = 32, {10: 100, 100: 150}  # steps by labels a class


@lru_cache(maxsize=2)
def pictures(
    target: str, per_class: int, seed: int
) -> tuple[ImageSet, ImageSet]:
    """Training images, so many of each class, and 600 test images."""
    if target == "signs":
        signs = cnnlab.load(
            "pocket", seed=seed, n_train=12 * per_class, n_test=600
        )
        return signs.train, signs.test
    digits = cnnlab.load("digits", seed=seed)
    parts = (digits.train, digits.valid)  # either alone is too small
    every = ImageSet(
        torch.cat([part.images for part in parts]),
        torch.cat([part.labels for part in parts]),
        digits.classes,
    )
    return imbalance(every, [per_class] * 10, seed), digits.test


def fit_head(model: nn.Module, part: ImageSet) -> None:
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
    target: str,
    per_class: int,
    weights: str | None = "default",
    head_first: bool = True,
    trained: int = 4,
    rate: float = SMALL,
) -> float:
    """Test accuracy after one strategy; `trained` counts stages from the top, 0 stops at the head."""
    train, test = pictures(target, per_class, seed)
    torch.manual_seed(seed)
    model = cnnlab.pretrained("glyphnet", len(train.classes), weights=weights)
    if head_first:
        fit_head(model, train)
    for stage in stages(model)[: 4 - trained]:
        freeze(stage)
    optimizer = torch.optim.AdamW(
        cnnlab.transfer.param_groups(model, rate, 0.01)
    )
    batches = cnnlab.loader(train, BATCH, shuffle=True, seed=seed)
    epochs = round(STEPS[per_class] / len(batches))
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
    if trained:
        trainer.fit(batches, epochs=epochs)
    return trainer.evaluate(cnnlab.loader(test, 300))["acc"]


STRATEGIES = {
    "feature extraction": {"trained": 0},
    "top layers": {"trained": 2},
    "fine-tuning": {},
    "full training": {"head_first": False, "rate": USUAL},
    "from scratch": {"head_first": False, "rate": USUAL, "weights": None},
}
CELLS = list(itertools.product(("digits", "signs"), (10, 100)))
VARIANTS = {
    f"{name}, {per_class} {target} a class": partial(
        run, target=target, per_class=per_class, **options
    )
    for target, per_class in CELLS
    for name, options in STRATEGIES.items()
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    study(__file__, VARIANTS, SEEDS, metric=METRIC)
