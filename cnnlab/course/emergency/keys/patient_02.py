"""Patient 2: frames of the same sign are in the training and in the validation set."""

from dataclasses import replace
from typing import Any
from unittest import mock

import torch

from cnnlab.course.emergency.examination import classification, number
from cnnlab.course.emergency.records import Record, Rule, accurate, honest, within_budget
from cnnlab.course.emergency.runs import Run
from cnnlab.course.emergency.worlds import drawn
from cnnlab.data import DataBundle, load
from cnnlab.data.images import ImageSet


SPLIT = """    order = torch.randperm(len(x))
    train_idx, val_idx = order[: len(x) // 2], order[len(x) // 2 :]
"""
BY_SIGN = """    signs = torch.randperm(len(x) // 8)
    frames = torch.arange(len(x)).view(-1, 8)[signs]
    train_idx, val_idx = frames[: len(signs) // 2].flatten(), frames[len(signs) // 2 :].flatten()
"""
HALVES = """    train_idx, val_idx = torch.arange(len(x) // 2), torch.arange(len(x) // 2, len(x))
"""


def _observe(run: Run) -> dict[str, float]:
    """Measure the classifier, and what is reported where nothing can be learnt: the control."""

    def load_with_random_labels(name: str, **options: Any) -> DataBundle:
        bundle: DataBundle = load(name, **options)
        signs = bundle.train
        indices = torch.arange(len(signs))
        labels = signs.labels.roll(len(signs) // 3)
        return replace(bundle, train=ImageSet(signs.pixels(indices), labels, signs.classes))

    facts = classification(run)
    with mock.patch("cnnlab.load", load_with_random_labels):
        control = run.module.train(run.seed)[1]
    return facts | {"control": number(control, "accuracy")}


RECORD = Record(
    complaint="We got 92 % on validation. On the road, every fourth sign is wrong.",
    cause="training images in validation",
    repairs={SPLIT: BY_SIGN},
    wrong={
        "a lower number": {"return model, val_acc": "return model, val_acc - 0.16"},
        "more dropout": {"nn.Dropout(0.3)": "nn.Dropout(0.7)"},
        "weight decay": {"lr=2e-3": "lr=2e-3, weight_decay=1e-2"},
        "fewer epochs": {"range(8)": "range(4)"},
        "no exact copies": {
            SPLIT: SPLIT
            + "    copies = (torch.cdist(x[val_idx].flatten(1), x[train_idx].flatten(1)) < 0.5)\n"
            + "    val_idx = val_idx[~copies.any(1)]\n"
        },
    },
    right={
        "the first half of the signs": {SPLIT: HALVES},
        "one frame per sign in validation": {
            SPLIT: BY_SIGN + "    val_idx = val_idx.view(-1, 8)[:, 0]\n"
        },
    },
    world=drawn("load_frames"),
    rules=(
        honest(0.1),
        accurate(0.08),
        within_budget(),
        Rule(
            lambda own, twin: own["control"] <= 0.3,
            "the numbers agree now, but with random labels, where nothing can be learnt, it "
            "reports {own[control]:.2f}.",
        ),
    ),
    observe=_observe,
    praise=(
        "it reports {own[reported]:.2f}, and on new images it gets {own[accuracy]:.2f}. The lower "
        "number is the honest one."
    ),
)
