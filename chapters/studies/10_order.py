"""Separate the learning rate from the order of training, on few signs.

In 10_strategies_signs.py, "full training" did best on ten signs per class. It
differs from "fine-tuning" in two things: its learning rate is ten times as
large, and it starts with a random head. Here both vary independently: three
learning rates, and a head that is trained first or not. Everything else is as
in that study: glyphnet's weights, ten labelled signs per class, AdamW with a
cosine schedule and a hundred steps. Each seed draws its own signs, 5,000 of
them for the test.

Another variant answers a question of the CS231n notes: a linear classifier on
the features of an earlier stage (block 1) instead of the last one.

Nothing was chosen anew. The claims were written after 10_strategies_signs.py
and before this study ran, on other seeds.
"""

from functools import partial
from importlib import import_module

import torch
import torch.nn.functional as F
from common import fit_linear, new_glyphnet, run_study
from torch import Tensor, nn

import cnnlab
from cnnlab.data import ImageSet
from cnnlab.experiment import Claim, Declaration, budget, fresh_data
from cnnlab.models import stages


strategies = import_module("10_strategies")

SEEDS = 8
FIRST = 1000  # on top of what 10_strategies.py adds
METRIC = "test_acc"
LINEAR = "the head takes 300 steps, on features that are computed once"
DECLARATION = Declaration(
    "Is it the learning rate or the order that decides on few signs?",
    claims=[
        Claim("head first, 0.01", ">", "head first, 0.001", by=0.02),
        Claim("random head, 0.01", ">", "random head, 0.001", by=0.02),
        Claim("head first, 0.01", "~", "random head, 0.01", by=0.02),
        Claim("head first, 0.01", ">", "classifier on block 2", by=0.02),
        Claim("classifier on block 1", ">", "classifier on block 2"),
    ],
    unit=fresh_data(),
    fixed="glyphnet's weights, ten labelled signs per class, AdamW with a "
    "cosine schedule, batches of 32, 100 steps",
    unequal={
        "classifier on block 1": LINEAR,
        "classifier on block 2": LINEAR,
        **{
            f"head first, {lr}": "300 more steps of its head alone"
            for lr in (0.001, 0.003, 0.01)
        },
    },
)


@torch.no_grad()
def block_1_features(model: nn.Module, images: ImageSet) -> Tensor:
    """Return the features of block 1, a grid of 2 x 2 means, (N, 4 C)."""
    model.eval()
    stem, block_1, *_ = stages(model)
    return torch.cat(
        [
            F.adaptive_avg_pool2d(
                block_1(stem(model.normalize(batch))), 2
            ).flatten(1)
            for batch, _ in cnnlab.loader(images, 300)
        ]
    )


def classifier(seed: int, *, block: int) -> dict[str, float]:
    """Train a linear classifier on the frozen features of a block."""
    seed += FIRST
    if block == 2:
        return strategies.run(seed, target="signs", per_class=10, n_stages=0)
    seed += strategies.FIRST
    train, test = strategies.load("signs", 10, seed)
    model = new_glyphnet(seed, 12)
    x, x_test = (block_1_features(model, split) for split in (train, test))
    head = nn.Linear(x.shape[1], 12)
    fit_linear(head, x, train.labels)
    correct = head(x_test).argmax(dim=1) == test.labels
    used = budget(labels=len(train), steps=0)
    return {"test_acc": correct.double().mean().item()} | used


def fine_tuned(seed: int, **options) -> dict[str, float]:
    """Fine-tune all layers as in 10_strategies.py."""
    return strategies.run(
        FIRST + seed, target="signs", per_class=10, **options
    )


VARIANTS = {
    f"{name}, {lr}": partial(fine_tuned, head_first=head_first, lr=lr)
    for name, head_first in (("head first", True), ("random head", False))
    for lr in (0.001, 0.003, 0.01)
} | {
    f"classifier on block {block}": partial(classifier, block=block)
    for block in (1, 2)
}


if __name__ == "__main__":
    run_study(__file__, VARIANTS, SEEDS, METRIC, DECLARATION)
