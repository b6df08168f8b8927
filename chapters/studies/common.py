"""Helpers that several studies of this folder share. This file is not a study.

A study is a script next to a table with the same name, such as 02_norms.py
and 02_norms.csv. It defines VARIANTS, a function for each variant that trains
with one seed and returns the results; SEEDS, the number of seeds; METRIC, the
result to compare; and DECLARATION, its question and the claims that it will be
judged by. The table stores the declaration, and a test fails if the script
declares anything else afterwards. Run a study with `python 02_norms.py` to
compute its table again, and all of them with new seeds with `make replicate`.
"""

import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

import cnnlab
from cnnlab.data import DataBundle, ImageSet, logit_adjustment
from cnnlab.experiment import Declaration, study
from cnnlab.schedules import Schedule
from cnnlab.transfer import extract_features


def run_study(
    script: str,
    variants: Mapping[str, Callable[[int], Any]],
    seeds: int,
    metric: str,
    declaration: Declaration | None = None,
    **notes: str,
) -> None:
    """Run a study on one CPU thread and write its table next to the script.

    Args:
        script: `__file__` of the script.
        variants: for each name, a function of the seed.
        seeds: the number of seeds.
        metric: the result to compare.
        declaration: what the study sets out to show, written before it ran.
        notes: further lines for the head of the table.
    """
    # The number of threads changes the order of sums, and so their last bits.
    torch.set_num_threads(1)
    results = study(
        script, variants, seeds, metric=metric, declaration=declaration
    )
    if notes:
        results.notes |= notes
        results.save(Path(script).with_suffix(".csv"))
    print(results)


# --- training -------------------------------------------------------------


def seeded_resnet(
    seed: int, num_classes: int = 12, **options: Any
) -> nn.Module:
    """Seed torch and build a small ResNet with new weights."""
    torch.manual_seed(seed)
    return cnnlab.small_resnet(num_classes, **options)


def sgd(
    model: nn.Module, lr: float, weight_decay: float = 0.0
) -> torch.optim.Optimizer:
    """Return SGD with momentum 0.9 over all parameters of a model."""
    return torch.optim.SGD(
        model.parameters(), lr=lr, momentum=0.9, weight_decay=weight_decay
    )


def cpu_trainer(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    seed: int,
    **options: Any,
) -> cnnlab.Trainer:
    """Return a `Trainer` on the CPU that prints nothing."""
    return cnnlab.Trainer(
        model, optimizer, seed=seed, device="cpu", progress=False, **options
    )


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    dataset: Dataset,
    *,
    batch_size: int,
    epochs: int,
    seed: int,
    schedule: Callable[[int], Schedule] | None = None,
    valid: Any = None,
    **options: Any,
) -> cnnlab.Trainer:
    """Train a model for some epochs and return its trainer.

    Args:
        model: trained in place.
        optimizer: its learning rate is the peak of the schedule.
        dataset: the training set; each epoch has its own random order.
        batch_size: samples per step.
        epochs: number of epochs.
        seed: seed of the order and of everything random in training.
        schedule: takes the number of steps, such as `schedules.cosine`; by
            default the learning rate is constant.
        valid: a loader to validate on after each epoch.
        options: further options of `Trainer`.
    """
    batches = cnnlab.loader(dataset, batch_size, shuffle=True, seed=seed)
    if schedule is not None:
        multiplier = schedule(epochs * len(batches))
        options["scheduler"] = cnnlab.attach(optimizer, multiplier)
    trainer = cpu_trainer(model, optimizer, seed, **options)
    trainer.fit(batches, valid, epochs=epochs)
    return trainer


def fit_linear(layer: nn.Linear, features: Tensor, labels: Tensor) -> None:
    """Train a linear layer with 300 full-batch steps of AdamW.

    Args:
        layer: trained in place.
        features: (N, D).
        labels: class indices, (N,).
    """
    optimizer = torch.optim.AdamW(
        layer.parameters(), lr=0.01, weight_decay=0.01
    )
    for _ in range(300):
        optimizer.zero_grad()
        F.cross_entropy(layer(features), labels).backward()
        optimizer.step()


def fit_head(model: nn.Module, dataset: Dataset) -> None:
    """Train only the head of a pretrained network, on frozen features."""
    features, labels = extract_features(model, cnnlab.loader(dataset, 256))
    fit_linear(model.head.linear, features, labels)


# --- evaluation -----------------------------------------------------------


def correct_predictions(trainer: cnnlab.Trainer, dataset: Dataset) -> Tensor:
    """Return whether each prediction is correct, as booleans (N,)."""
    logits = trainer.predict(cnnlab.loader(dataset, 256))
    return logits.argmax(1) == dataset.labels


def calibration(logits: Tensor, labels: Tensor) -> dict[str, float]:
    """Return accuracy, loss, and mean confidence minus accuracy.

    Args:
        logits: (N, K).
        labels: class indices, (N,).
    """
    accuracy = (logits.argmax(1) == labels).float().mean().item()
    confidence = logits.softmax(1).amax(1).mean().item()
    return {
        "valid_acc": accuracy,
        "valid_loss": F.cross_entropy(logits, labels).item(),
        "overconfidence": confidence - accuracy,
    }


# --- class imbalance (chapter 11) -----------------------------------------

COUNTS = [10, 14, 20, 27, 38, 53, 75, 105, 146, 205, 286, 400]


@lru_cache(maxsize=2)
def imbalanced_signs(seed: int) -> DataBundle:
    """Load signs whose training classes have the sizes of COUNTS.

    The seed draws the images and decides which class gets which size.
    """
    rng = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(COUNTS), generator=rng)
    counts = [COUNTS[i] for i in order.tolist()]
    return cnnlab.load(
        "pocket", seed=seed, counts=counts, n_valid=96, n_test=4800
    )


def imbalance_metrics(
    logits: Tensor, data: DataBundle, tau: float = 0.0
) -> tuple[dict[str, float], Tensor]:
    """Evaluate predictions on the balanced test set.

    Args:
        logits: outputs for the test set, (N, K).
        data: from `imbalanced_signs`.
        tau: strength of the logit adjustment before predicting.

    Returns:
        A dictionary of metrics, and the recall of each class, from the
        rarest class to the most common one.
    """
    # Here, because the other studies don't need scikit-learn.
    from sklearn.metrics import balanced_accuracy_score, recall_score

    labels, counts = data.test.labels, data.train.labels.bincount()
    shift = logit_adjustment(data.train.labels, tau)
    predictions = (logits - shift).argmax(dim=1)
    recalls = torch.from_numpy(
        recall_score(labels, predictions, average=None)
    )
    train_like = recalls @ (counts / counts.sum()).double()
    by_rarity = recalls[counts.argsort()]
    metrics = {
        "balanced_acc": balanced_accuracy_score(labels, predictions),
        "rare_recall": by_rarity[:4].mean().item(),
        "common_recall": by_rarity[-4:].mean().item(),
        "train_like_acc": train_like.item(),
    }
    return metrics, by_rarity


# --- timing (chapter 12) --------------------------------------------------

MACHINE = "two-core CPU with AVX-512, shared with other work; one thread"


def processor_seconds() -> float:
    """Return the CPU time of this process and its finished children.

    Children are, for example, worker processes and the C++ compiler.
    """
    times = os.times()
    own = times.user + times.system
    return own + times.children_user + times.children_system


# --- regularisation (chapter 2) -------------------------------------------


def wide_mlp(dropout: float) -> nn.Module:
    """Build a network of linear layers that can memorise 1,200 signs.

    It has no convolution and no norm, and 660 thousand weights.
    """
    return nn.Sequential(
        nn.AvgPool2d(2),
        nn.Flatten(),
        nn.Linear(3 * 16 * 16, 512),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(512, 512),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(512, 12),
    )


def signs_with_wrong_labels(
    seed: int, wrong: float, n_valid: int
) -> tuple[ImageSet, ImageSet]:
    """Draw 1,200 signs of which a fraction is mislabelled, and clean ones."""
    data = cnnlab.load("pocket", seed=seed, n_train=1200, n_valid=n_valid)
    return cnnlab.data.label_noise(data.train, wrong, seed), data.valid


def train_wide_mlp(
    seed: int,
    noisy: ImageSet,
    *,
    dropout: float = 0.0,
    weight_decay: float = 0.0,
    valid: Any = None,
) -> cnnlab.Trainer:
    """Train the wide network for 60 epochs, whose learning rate decays."""
    torch.manual_seed(seed)
    model = cnnlab.initialise(wide_mlp(dropout))
    decayed = [p for p in model.parameters() if p.ndim > 1]
    spared = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = torch.optim.SGD(
        [
            {"params": decayed, "weight_decay": weight_decay},
            {"params": spared},
        ],
        lr=0.02,
        momentum=0.9,
    )
    return train(
        model,
        optimizer,
        noisy,
        batch_size=64,
        epochs=60,
        seed=seed,
        schedule=cnnlab.schedules.cosine,
        valid=valid,
    )
