"""Helpers that several studies of this folder share. This file is not a study.

A study is a script next to a table with the same name, such as 02_norms.py
and 02_norms.csv. It defines VARIANTS, a function for each variant that trains
with one seed and returns the results; SEEDS, the number of seeds; METRIC, the
result to compare; and DECLARATION, its question and the claims that it will be
judged by. The table stores the declaration, and a test fails if the script
declares anything else afterwards. Run a study with `python 02_norms.py` to
compute its table again, and all of them with new seeds with `make replicate`.
"""

import copy
import inspect
import os
import random
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

import cnnlab
from cnnlab import schedules, tune
from cnnlab.augment import Augment
from cnnlab.averaging import EMA, SWA, ensemble, update_bn
from cnnlab.data import (
    DataBundle,
    ImageSet,
    balanced_sampler,
    class_weights,
    imbalance,
    logit_adjustment,
)
from cnnlab.errors import DownloadError, NonFiniteError
from cnnlab.experiment import Declaration, budget, study
from cnnlab.mixing import CutMix, soft_cross_entropy
from cnnlab.rng import fold_in
from cnnlab.schedules import Schedule, cosine, one_cycle
from cnnlab.transfer import (
    extract_features,
    freeze,
    param_groups,
)


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


def in_points(difference: tuple[float, float, float]) -> str:
    """Return a difference of two accuracies in points, with its interval.

    Args:
        difference: from `Results.difference`.
    """
    mean, low, high = (100 * value for value in difference)
    return f"{mean:+.1f} points (95 % CI {low:+.1f} to {high:+.1f})"


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


def fit_linear(
    layer: nn.Linear, features: Tensor, labels: Tensor, steps: int = 300
) -> None:
    """Train a linear layer with full-batch steps of AdamW.

    Args:
        layer: trained in place.
        features: (N, D).
        labels: class indices, (N,).
        steps: number of steps.
    """
    optimizer = torch.optim.AdamW(
        layer.parameters(), lr=0.01, weight_decay=0.01
    )
    for _ in range(steps):
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


def calibration_error(
    logits: Tensor, labels: Tensor, bins: int = 10
) -> float:
    """Return the expected calibration error, with bins of equal size.

    Args:
        logits: (N, K).
        labels: class indices, (N,).
        bins: number of bins; each holds N / bins predictions.
    """
    confidence, predicted = logits.softmax(1).max(1)
    order = confidence.argsort(stable=True)
    correct = (predicted == labels).float()[order]
    gaps = [
        (c.mean() - r.mean()).abs() * len(c)
        for c, r in zip(
            confidence[order].chunk(bins), correct.chunk(bins), strict=True
        )
    ]
    return (torch.stack(gaps).sum() / len(labels)).item()


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature with the lowest loss (Guo et al. 2017).

    Args:
        logits: outputs for images that the network wasn't trained on, (N, K).
        labels: class indices, (N,).
    """
    log_t = torch.zeros((), requires_grad=True)
    optimizer = torch.optim.LBFGS([log_t], max_iter=50)

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(logits / log_t.exp(), labels)
        value.backward()
        return value

    optimizer.step(loss)
    return log_t.exp().item()


# --- mixing (chapter 4) ---------------------------------------------------

REPEATED = "fraction of wrong labels repeated"
CORRECTED = "fraction of wrong labels corrected"


def train_on_wrong_labels(
    seed: int,
    *,
    n_train: int,
    n_valid: int,
    wrong: float = 0.4,
    mix: Any = None,
    smoothing: float = 0.0,
    every_epoch: bool = False,
) -> tuple[cnnlab.Trainer, Dataset, Dataset]:
    """Train for sixteen epochs on signs of which some have a wrong label.

    Args:
        seed: draws the signs and which labels are wrong.
        n_train: number of training images.
        n_valid: number of validation images; their labels are correct.
        wrong: fraction of the training labels that are wrong.
        mix: `MixUp`, `CutMix` or None.
        smoothing: strength of label smoothing.
        every_epoch: also validate after each epoch, for the history.

    Returns:
        The trainer, the training set and the validation set.
    """
    data = cnnlab.load("pocket", seed=seed, n_train=n_train, n_valid=n_valid)
    noisy = cnnlab.data.label_noise(data.train, wrong, seed)
    model = seeded_resnet(seed, len(data.classes))
    trainer = train(
        model,
        sgd(model, 0.1),
        noisy,
        batch_size=64,
        epochs=16,
        seed=seed,
        schedule=cosine,
        valid=cnnlab.loader(data.valid, 256) if every_epoch else None,
        loss_fn=partial(soft_cross_entropy, smoothing=smoothing),
        batch_transform=mix,
    )
    return trainer, noisy, data.valid


def wrong_label_metrics(
    trainer: cnnlab.Trainer, noisy: Dataset, valid: Dataset
) -> dict[str, float]:
    """Evaluate on the validation set and on the training set, unmixed."""
    logits = trainer.predict(cnnlab.loader(valid, 256))
    predictions = trainer.predict(cnnlab.loader(noisy, 256)).argmax(1)
    given = (predictions == noisy.labels).float()
    true = (predictions == noisy.clean_labels).float()
    mislabelled = noisy.labels != noisy.clean_labels
    return calibration(logits, valid.labels) | {
        "train_given": given.mean().item(),
        "train_true": true.mean().item(),
        # NaN if no label is wrong
        REPEATED: given[mislabelled].mean().item(),
        CORRECTED: true[mislabelled].mean().item(),
    }


def train_on_few_labels(
    seed: int,
    *,
    n_train: int,
    n_valid: int,
    mix: Any = None,
    smoothing: float = 0.0,
) -> tuple[cnnlab.Trainer, Dataset]:
    """Train for forty epochs on a few signs.

    Args:
        seed: draws the signs.
        n_train: number of training images.
        n_valid: number of validation images.
        mix: `MixUp`, `CutMix` or None.
        smoothing: strength of label smoothing.

    Returns:
        The trainer and the validation set.
    """
    data = cnnlab.load(
        "pocket", seed=seed, n_train=n_train, n_valid=n_valid, n_test=96
    )
    model = seeded_resnet(seed, len(data.classes))
    trainer = train(
        model,
        sgd(model, 0.1),
        data.train,
        batch_size=32,
        epochs=40,
        seed=seed,
        schedule=cosine,
        loss_fn=partial(soft_cross_entropy, smoothing=smoothing),
        batch_transform=mix,
    )
    return trainer, data.valid


# --- schedules (chapter 5) ------------------------------------------------


def named_schedule(name: str, steps: int) -> tuple[Schedule, Schedule | None]:
    """Return a schedule and that of the momentum, None if it's constant.

    Args:
        name: "constant", "step decay" (divides by ten after a half and after
            three quarters of the run), "cosine" or "one-cycle".
        steps: number of steps of the run.
    """
    shapes = cnnlab.schedules
    if name == "constant":
        return shapes.constant(), None
    if name == "step decay":
        milestones = [steps // 2, 3 * steps // 4]
        return shapes.multistep(milestones, gamma=0.1), None
    if name == "cosine":
        return shapes.cosine(steps), None
    if name == "one-cycle":
        return shapes.one_cycle(steps), shapes.one_cycle_momentum(steps)
    raise ValueError(f"there is no schedule with the name {name!r}")


def train_with_schedule(
    name: str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    dataset: Dataset,
    *,
    batch_size: int,
    epochs: int,
    seed: int,
    **options: Any,
) -> cnnlab.Trainer:
    """Train as `train` does, with a schedule by name; return the trainer.

    One-cycle cycles the momentum as well. Further arguments as in `train`.
    """
    batches = cnnlab.loader(dataset, batch_size, shuffle=True, seed=seed)
    schedule, momentum = named_schedule(name, epochs * len(batches))
    scheduler = cnnlab.attach(optimizer, schedule, momentum)
    trainer = cpu_trainer(
        model, optimizer, seed, scheduler=scheduler, **options
    )
    trainer.fit(batches, epochs=epochs)
    return trainer


def losses_by_part(trainer: cnnlab.Trainer, parts: int) -> dict[str, float]:
    """Return the mean training loss over equal parts of the run."""
    losses = torch.tensor(trainer.history.steps["loss"].to_numpy())
    return {
        f"loss_{i:02}": part.mean().item()
        for i, part in enumerate(losses.chunk(parts), start=1)
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


def train_imbalanced(
    train_set: ImageSet,
    seed: int,
    *,
    batch_size: int,
    epochs: int,
    weighted: bool = False,
    oversampled: bool = False,
    loss_tau: float = 0.0,
    mixed: bool = False,
) -> cnnlab.Trainer:
    """Train a small ResNet with methods against class imbalance.

    SGD with momentum and a cosine schedule from a learning rate of 0.1.

    Args:
        train_set: images whose classes have different sizes.
        seed: draws the weights and the order.
        batch_size: samples per step.
        epochs: number of epochs.
        weighted: whether the loss has class weights.
        oversampled: whether a sampler balances the classes.
        loss_tau: strength of the logit adjustment in the loss.
        mixed: whether to use CutMix.
    """
    labels, num_classes = train_set.labels, len(train_set.classes)
    model = seeded_resnet(seed, num_classes)
    optimizer = sgd(model, 0.1)
    batches = cnnlab.loader(
        train_set,
        batch_size,
        shuffle=not oversampled,
        sampler=balanced_sampler(labels, seed) if oversampled else None,
        seed=seed,
    )
    weight = class_weights(labels) if weighted else None
    adjustment = logit_adjustment(labels, loss_tau)

    def loss_fn(logits: Tensor, targets: Tensor) -> Tensor:
        return soft_cross_entropy(logits + adjustment, targets, weight)

    schedule = cosine(epochs * len(batches))
    trainer = cpu_trainer(
        model,
        optimizer,
        seed,
        loss_fn=loss_fn,
        scheduler=cnnlab.attach(optimizer, schedule),
        batch_transform=CutMix(1.0, num_classes) if mixed else None,
    )
    trainer.fit(batches, epochs=epochs)
    return trainer


# --- timing (chapter 12) --------------------------------------------------

MACHINE = "two-core CPU with AVX-512, idle; one thread"


def processor_seconds() -> float:
    """Return the CPU time of this process and its finished children.

    Children are, for example, worker processes and the C++ compiler.
    """
    times = os.times()
    own = times.user + times.system
    return own + times.children_user + times.children_system


class RandomDraws(Dataset):
    """A data set that draws a random number in four ways for each index.

    It's here and not in the notebook, because on some systems the workers
    have to import it.
    """

    def __init__(self, n: int) -> None:
        self.n = n
        self.own = np.random.default_rng(0)  # every worker gets a copy

    def __len__(self) -> int:
        return self.n

    def __getitem__(self, index: int) -> dict[str, float]:
        return {
            "random": random.random(),
            "np.random": np.random.rand(),  # noqa: NPY002
            "torch": torch.rand(()).item(),
            "own generator": self.own.random(),
        }


# --- several processes (chapter 12) ---------------------------------------

IMPORTS = """
import cnnlab
import torch
import torch.distributed as dist
import torch.nn.functional as F
from studies.common import seeded_resnet, sgd
from torch.nn.parallel import DistributedDataParallel as DDP
from torch.utils.data import DataLoader, DistributedSampler, TensorDataset

cnnlab.setup(seed=0)
"""


def run_in_processes(function: Callable[[str], None], n: int) -> Any:
    """Start n processes with `torchrun` that call a function of a notebook.

    Args:
        function: takes the path of a file, into which the first process saves
            a result.
        n: number of processes.

    Returns:
        What was saved.
    """
    with tempfile.TemporaryDirectory() as folder:
        script, result = Path(folder, "script.py"), Path(folder, "result.pt")
        call = f"{function.__name__}({str(result)!r})"
        parts = [IMPORTS, inspect.getsource(function), call]
        script.write_text("\n\n".join(parts))
        command = [sys.executable, "-m", "torch.distributed.run"]
        command += ["--standalone", "--local-addr=localhost"]
        command += [f"--nproc-per-node={n}", str(script)]
        settings = {
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(sys.path),
        }
        process = subprocess.run(
            command,
            env=os.environ | settings,
            capture_output=True,
            text=True,
            check=False,
            timeout=600,
        )
        if process.returncode:
            raise RuntimeError(f"torchrun failed:\n{process.stderr}")
        return torch.load(result, weights_only=True)


# --- photographs (chapters 3, 5 and 9) ------------------------------------


@lru_cache(maxsize=1)
def all_photographs() -> tuple[ImageSet, ImageSet]:
    """Load CIFAR-10: 50,000 training and 10,000 test images, 3 x 32 x 32.

    The environment variable CNNLAB_PHOTOS names a folder with the images as
    JPEG or PNG files, in train/<class>/ and test/<class>/. Without it, the
    original files are used, from the folder where `cnnlab.load` keeps them.
    """
    folder = os.environ.get("CNNLAB_PHOTOS")
    try:
        data = (
            cnnlab.from_folder(folder, size=32)
            if folder
            else cnnlab.load("cifar10")
        )
    except DownloadError:
        raise FileNotFoundError(
            "this study needs CIFAR-10, which isn't on this machine. Run "
            'cnnlab.load("cifar10", download=True) once, or set '
            "CNNLAB_PHOTOS to a folder that contains the images in "
            "train/<class>/ and test/<class>/"
        ) from None
    pixels = torch.cat([data.train.images, data.valid.images])
    labels = torch.cat([data.train.labels, data.valid.labels])
    return ImageSet(pixels, labels, data.classes), data.test


def photographs(seed: int, per_class: int, n_test: int) -> DataBundle:
    """Draw training, validation and test photographs from CIFAR-10.

    Args:
        seed: draws the photographs of all three splits.
        per_class: training photographs of each of the ten classes.
        n_test: test photographs, drawn from CIFAR-10's own test set.

    Returns:
        A bundle whose validation set has 1,000 photographs of CIFAR-10's
        training set that aren't used for training. All splits contain every
        class equally often.
    """
    official, official_test = all_photographs()
    rng = torch.Generator().manual_seed(seed)
    order = draw_per_class(official.labels, per_class + 100, rng)
    n_each = n_test // len(official.classes)
    tested = draw_per_class(official_test.labels, n_each, rng)
    return DataBundle(
        "photographs",
        official.select(order[:, :per_class].flatten()),
        official.select(order[:, per_class:].flatten()),
        official_test.select(tested.flatten()),
    )


def draw_per_class(labels: Tensor, n: int, rng: torch.Generator) -> Tensor:
    """Return the indices of n random images of each class, (K, n)."""
    chosen = []
    for label in range(int(labels.max()) + 1):
        indices = (labels == label).nonzero().flatten()
        if len(indices) < n:
            raise ValueError(
                f"class {label} has {len(indices)} images, and {n} were asked "
                "for; use fewer images per class"
            )
        chosen.append(
            indices[torch.randperm(len(indices), generator=rng)[:n]]
        )
    return torch.stack(chosen)


# --- signs under shifts (chapter 3) ---------------------------------------

# The test signs differ from the training signs in one property each.
SHIFTS: dict[str, dict[str, Any]] = {
    "clean": {},
    "rotation": {"rotation": 35},
    "zoom and shift": {"scale": (0.5, 0.9), "shift": 0.35},
    "light": {"gain": (0.25, 1.6), "cast": 0.2, "gradient": 0.5},
    "blur": {"blur": (0.9, 1.6)},
    "noise": {"noise": (0.08, 0.15)},
    "occlusion": {"occlusion": 1.0},
    "all": {"level": "wild"},
}


@lru_cache(maxsize=2 * len(SHIFTS))
def shifted_signs(seed: int, shift: str, n_test: int) -> Any:
    """Return the test signs of a seed, of level "easy", under one shift.

    Under every shift these are the same signs: only one property changes.
    """
    settings = {"level": "easy"} | SHIFTS[shift]
    return cnnlab.load(
        "pocket",
        seed=seed,
        n_train=12,
        n_valid=12,
        n_test=n_test,
        **settings,
    ).test


def train_on_easy_signs(
    seed: int, augment: Any = None, *, epochs: int
) -> cnnlab.Trainer:
    """Train a small ResNet on 480 signs of level "easy".

    SGD with momentum, weight decay and a one-cycle schedule, batches of 32.

    Args:
        seed: draws the signs, the initial weights and the order.
        augment: the `batch_transform` of the `Trainer`.
        epochs: number of epochs.
    """
    signs = cnnlab.load(
        "pocket", seed=seed, level="easy", n_train=480, n_valid=12, n_test=12
    )
    model = seeded_resnet(seed)
    return train(
        model,
        sgd(model, 0.1, weight_decay=5e-4),
        signs.train,
        batch_size=32,
        epochs=epochs,
        seed=seed,
        schedule=one_cycle,
        batch_transform=augment,
    )


def accuracies_under_shifts(
    trainer: cnnlab.Trainer, seed: int, shifts: Iterable[str], n_test: int
) -> dict[str, float]:
    """Return the test accuracy under each shift.

    For clean signs, the accuracy of "keep left" and "keep right" and that of
    the other signs are returned as well.
    """
    accuracies = {}
    for shift in shifts:
        test = shifted_signs(seed, shift, n_test)
        correct = correct_predictions(trainer, test).float()
        accuracies[f"{shift} accuracy"] = correct.mean().item()
        if shift == "clean":
            is_arrow = [name.startswith("keep") for name in test.classes]
            arrows = torch.tensor(is_arrow)[test.labels]
            for group, chosen in (
                ("keep left or right", arrows),
                ("other signs", ~arrows),
            ):
                accuracy = correct[chosen].mean().item()
                accuracies[f"{group} accuracy"] = accuracy
    return accuracies


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
    **options: Any,
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
        **options,
    )


# --- clipping (chapter 7) -------------------------------------------------


def train_until_it_fails(
    data: DataBundle,
    seed: int,
    *,
    lr: float,
    norm: str,
    batch_size: int,
    epochs: int,
    warmup: float = 0.0,
    **options: Any,
) -> cnnlab.Trainer:
    """Train a small ResNet until its last epoch or its first infinite loss.

    Args:
        data: its training set is used.
        seed: draws the weights and the order.
        lr: learning rate of SGD with momentum.
        norm: "batch" for batch norm, "none" for a network without it.
        batch_size: samples per step.
        epochs: number of epochs.
        warmup: fraction of the steps in which the learning rate rises.
        options: further options of `Trainer`, such as `clip_norm`.

    Returns:
        The trainer. After a failure, its weights are those from before the
        step that failed.
    """
    model = seeded_resnet(seed, len(data.classes), norm=norm)
    optimizer = sgd(model, lr)
    batches = cnnlab.loader(data.train, batch_size, shuffle=True, seed=seed)
    schedule = schedules.constant()
    if warmup:
        n_warmup = round(warmup * epochs * len(batches))
        schedule = schedules.warmup(n_warmup, schedule)
    scheduler = cnnlab.attach(optimizer, schedule)
    trainer = cpu_trainer(
        model, optimizer, seed, scheduler=scheduler, **options
    )
    with suppress(NonFiniteError):
        trainer.fit(batches, epochs=epochs)
    return trainer


# --- settings of a search (chapter 8) -------------------------------------


def train_with_setting(
    data: DataBundle,
    seed: int,
    *,
    lr: float,
    weight_decay: float,
    epochs: int,
    **options: Any,
) -> cnnlab.Trainer | None:
    """Train a small ResNet with one setting of a search, in batches of 32.

    Args:
        data: its training set is used.
        seed: draws the weights and the order.
        lr: learning rate of SGD with momentum.
        weight_decay: strength of the weight decay.
        epochs: number of epochs.
        options: further options of `train`, such as `valid`.

    Returns:
        The trainer, or None if the loss overflowed.
    """
    model = seeded_resnet(seed, len(data.classes))
    optimizer = sgd(model, lr, weight_decay=weight_decay)
    try:
        return train(
            model,
            optimizer,
            data.train,
            batch_size=32,
            epochs=epochs,
            seed=seed,
            **options,
        )
    except NonFiniteError:
        return None


def correct_or_chance(
    trainer: cnnlab.Trainer | None, dataset: Dataset
) -> Tensor:
    """Return 1 for each correct prediction and 0 for the others, (N,).

    A run that overflowed (None) counts as random guessing, so each of its
    values is 1 / K.
    """
    if trainer is None:
        chance = 1 / len(dataset.classes)
        return torch.full((len(dataset),), chance).double()
    return correct_predictions(trainer, dataset).double()


def value_at(values: Any, u: float) -> Any:
    """Return the value of a parameter at the fraction u of its range.

    Args:
        values: a `LogUniform`, a `Uniform` or a `Choice` of cnnlab.tune.
        u: from 0 to 1, 1 excluded.
    """
    if isinstance(values, tune.Choice):
        return values.options[int(u * len(values.options))]
    if isinstance(values, tune.LogUniform):
        return values.low * (values.high / values.low) ** u
    return values.low + u * (values.high - values.low)


def sobol_settings(
    space: tune.Space, n: int, seed: int
) -> list[dict[str, Any]]:
    """Return n settings that cover a space evenly (scrambled Sobol points).

    Args:
        space: name -> `LogUniform`, `Uniform` or `Choice`.
        n: number of settings; a power of two covers the space best.
        seed: seed of the scrambling.
    """
    sobol = torch.quasirandom.SobolEngine(
        len(space), scramble=True, seed=seed
    )
    return [
        {
            name: value_at(values, u)
            for (name, values), u in zip(space.items(), point, strict=True)
        }
        for point in sobol.draw(n).tolist()
    ]


def train_with_adamw(
    dataset: Dataset,
    seed: int,
    epochs: int,
    *,
    lr: float,
    weight_decay: float,
    dropout: float,
    batch_size: int,
    **options: Any,
) -> cnnlab.Trainer:
    """Train a small ResNet with AdamW and a cosine; return the trainer.

    Args:
        dataset: the training set.
        seed: draws the weights and the order.
        epochs: number of epochs.
        lr: learning rate of AdamW at its peak.
        weight_decay: strength of the weight decay.
        dropout: fraction of the features that is dropped before the head.
        batch_size: samples per step.
        options: further options of `train`, such as `valid`.
    """
    model = seeded_resnet(seed, len(dataset.classes), dropout=dropout)
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=lr, weight_decay=weight_decay
    )
    return train(
        model,
        optimizer,
        dataset,
        batch_size=batch_size,
        epochs=epochs,
        seed=seed,
        schedule=cosine,
        **options,
    )


def search_with_adamw(
    data: DataBundle,
    seed: int,
    settings: Sequence[Mapping[str, Any]],
    epochs: int,
) -> tuple[Any, list[cnnlab.Trainer]]:
    """Train once with each setting; return a table and the trainers.

    Both are sorted by `score`, the validation accuracy, the best first.
    """
    import pandas as pd

    valid = cnnlab.loader(data.valid, 256)
    trainers = [
        train_with_adamw(data.train, seed, epochs, **setting)
        for setting in settings
    ]
    scores = [trainer.evaluate(valid)["acc"] for trainer in trainers]
    order = sorted(range(len(scores)), key=lambda i: -scores[i])
    rows = [{**settings[i], "score": scores[i]} for i in order]
    return pd.DataFrame(rows), [trainers[i] for i in order]


# --- pretrained features (chapters 9 and 10) ------------------------------


def new_glyphnet(
    seed: int, num_classes: int, weights: str | None = "default"
) -> nn.Module:
    """Seed torch and return glyphnet with a new head.

    With weights=None, all its weights are random.
    """
    torch.manual_seed(seed)
    return cnnlab.pretrained("glyphnet", num_classes, weights=weights)


def glyphnet_features(
    train_set: ImageSet,
    test_set: ImageSet,
    seed: int,
    weights: str | None = "default",
) -> list[tuple[Tensor, Tensor]]:
    """Return features and labels of the training and of the test images.

    The features are those of glyphnet, which isn't trained.
    """
    model = new_glyphnet(seed, len(train_set.classes), weights)
    return [
        extract_features(model, cnnlab.loader(split, 300))
        for split in (train_set, test_set)
    ]


def logistic_accuracy(
    train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor], C: float
) -> float:
    """Fit logistic regression and return its accuracy on test features.

    Args:
        train: features (N, D) and labels (N,).
        test: likewise; not used in the fit.
        C: the inverse strength of the regularisation.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    (x, y), (x_test, y_test) = train, test
    classifier = LogisticRegression(C=C, max_iter=5000)
    probe = make_pipeline(StandardScaler(), classifier).fit(x.double(), y)
    return float(probe.score(x_test.double(), y_test))


def train_glyphnet_from_scratch(
    train_set: ImageSet,
    test_set: ImageSet,
    seed: int,
    *,
    evaluate_after: Iterable[int],
) -> dict[int, dict[str, float]]:
    """Train the architecture of glyphnet from random weights.

    SGD at a constant learning rate after 50 steps of warm-up, batches of 32,
    augmentation, and a moving average of the weights, which is evaluated.

    Args:
        train_set: images with labels.
        test_set: the images to evaluate on.
        seed: draws the weights and the order.
        evaluate_after: numbers of steps, in increasing order, each rounded
            up to whole epochs.

    Returns:
        For each number of steps, the test accuracy and the budget.
    """
    model = new_glyphnet(seed, len(train_set.classes), None)
    batches = cnnlab.loader(train_set, 32, shuffle=True, seed=seed)
    optimizer = sgd(model, 0.1, weight_decay=5e-4)
    schedule = schedules.warmup(50, schedules.constant())
    trainer = cpu_trainer(
        model,
        optimizer,
        seed,
        scheduler=cnnlab.attach(optimizer, schedule),
        batch_transform=Augment(rotate=12, translate=0.1, scale=(0.85, 1.15)),
        ema=EMA(model, 0.98),
        channels_last=True,  # 20 % faster
    )
    curve = {}
    for steps in evaluate_after:
        trainer.fit(batches, epochs=-(-steps // len(batches)))
        loader = cnnlab.loader(test_set, 300)
        metrics = trainer.evaluate(loader, model=trainer.ema.model)
        used = budget(labels=len(train_set), steps=trainer.step)
        curve[steps] = {"test_acc": metrics["acc"]} | used
    return curve


# --- fine-tuning (chapter 10) ---------------------------------------------


def fine_tune(
    model: nn.Module,
    dataset: Dataset,
    seed: int,
    *,
    lr: float,
    steps: int,
    layer_decay: float | None = None,
    warmup_steps: int = 0,
    callbacks: Iterable[cnnlab.Callback] = (),
) -> cnnlab.Trainer:
    """Train all layers that aren't frozen, in batches of 32, with AdamW.

    The learning rate follows a cosine.

    Args:
        model: trained in place.
        dataset: the training set.
        seed: seed of the order.
        lr: the learning rate at its peak.
        steps: number of steps, rounded to whole epochs.
        layer_decay: factor of the learning rate from a stage to the one
            below; by default, all stages have the same learning rate.
        warmup_steps: those of the steps in which the learning rate rises.
        callbacks: further callbacks of `Trainer`.
    """
    optimizer = torch.optim.AdamW(
        param_groups(model, lr, 0.01, layer_decay=layer_decay)
    )
    batches = cnnlab.loader(dataset, 32, shuffle=True, seed=seed)
    epochs = round(steps / len(batches))
    schedule = schedules.cosine(epochs * len(batches) - warmup_steps)
    if warmup_steps:
        schedule = schedules.warmup(warmup_steps, schedule)
    scheduler = cnnlab.attach(optimizer, schedule)
    trainer = cpu_trainer(
        model, optimizer, seed, scheduler=scheduler, callbacks=callbacks
    )
    trainer.fit(batches, epochs=epochs)
    return trainer


@torch.no_grad()
def accuracy_of(model: nn.Module, dataset: Dataset) -> float:
    """Return the accuracy of a model, which is put in evaluation mode."""
    model.eval()
    correct = [
        model(images).argmax(dim=1) == labels
        for images, labels in cnnlab.loader(dataset, 300)
    ]
    return torch.cat(correct).double().mean().item()


def drift(before: Tensor, after: Tensor) -> float:
    """Return the change of features relative to their norm.

    Args:
        before: features of some images before training, (N, D).
        after: features of the same images after training, (N, D).
    """
    return ((after - before).norm() / before.norm()).item()


# --- precision (chapter 12) -----------------------------------------------


def round_gradient(layer: nn.Module, inputs: Any, output: Tensor) -> None:
    """Round the gradient that flows back to this output to float16."""
    if output.requires_grad:
        output.register_hook(lambda gradient: gradient.half().float())


def train_in_precision(
    data: DataBundle,
    seed: int,
    *,
    batch_size: int,
    epochs: int,
    precision: str = "fp32",
    half_gradients: bool = False,
    factor: float = 1.0,
) -> cnnlab.Trainer:
    """Train a small ResNet with SGD at a learning rate of 0.05 / factor.

    Args:
        data: its training set is used.
        seed: draws the weights and the order.
        batch_size: samples per step.
        epochs: number of epochs.
        precision: "fp32", or "bf16" for bfloat16 by autocast.
        half_gradients: whether to round the gradients between the layers to
            float16.
        factor: factor of the loss. In exact arithmetic it changes nothing,
            because the learning rate is divided by it.
    """
    model = seeded_resnet(seed, len(data.classes))
    for layer in model.modules():
        kinds = (nn.Conv2d, nn.BatchNorm2d, nn.Linear)
        if half_gradients and isinstance(layer, kinds):
            layer.register_forward_hook(round_gradient)

    def scaled_loss(logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits, labels) * factor

    return train(
        model,
        sgd(model, 0.05 / factor),
        data.train,
        batch_size=batch_size,
        epochs=epochs,
        seed=seed,
        loss_fn=scaled_loss,
        precision=precision,
    )


# --- the capstone (chapter 13) --------------------------------------------


SIGNS = ("keep left", "keep right", "no stopping")


def new_model(name: str, num_classes: int, seed: int = 0) -> nn.Module:
    """Seed torch and return a pretrained network with a random head."""
    torch.manual_seed(seed)
    return cnnlab.pretrained(name, num_classes)


def few_signs(
    seed: int, *, n_labelled: int = 20, n_test: int = 50
) -> DataBundle:
    """Draw labelled and test images of three traffic signs, for a folder.

    Args:
        seed: draws the images.
        n_labelled: labelled images per class.
        n_test: test images per class.

    Returns:
        A bundle with the labelled images as its training set. Its validation
        set is empty.
    """
    # Twice as many, because the smoke profile draws only an eighth of them.
    signs = cnnlab.load(
        "pocket",
        seed=seed,
        n_train=12 * 2 * n_labelled,
        n_valid=12,
        n_test=12 * n_test,
    )
    labelled = first_of_classes(signs.train, SIGNS, n_labelled)
    return DataBundle(
        "three signs",
        labelled,
        labelled.select([]),
        first_of_classes(signs.test, SIGNS, n_test),
    )


def first_of_classes(
    split: ImageSet, classes: Sequence[str], n: int
) -> ImageSet:
    """Return the first n images of each of some classes."""
    old_labels = [split.classes.index(name) for name in classes]
    indices = [
        (split.labels == label).nonzero().flatten()[:n]
        for label in old_labels
    ]
    labels = [k for k, chosen in enumerate(indices) for _ in chosen]
    return ImageSet(split.pixels(torch.cat(indices)), labels, classes)


def run_script(*arguments: Any) -> str:
    """Run train.py in a folder of its own; return what it prints."""
    script = Path("train.py").absolute()
    with tempfile.TemporaryDirectory() as folder:
        done = subprocess.run(
            [sys.executable, str(script), *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            cwd=folder,
        )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout.strip()


def merged(first: Any, second: Any) -> ImageSet:
    """Return the images of two splits as one set."""
    pixels = [
        split.pixels(torch.arange(len(split))) for split in (first, second)
    ]
    labels = torch.cat([first.labels, second.labels])
    return ImageSet(torch.cat(pixels), labels, first.classes)


def fit_probe(model: nn.Module, dataset: Dataset) -> nn.Module:
    """Make the head of a pretrained network a linear probe, and return it.

    The head gets the solution of logistic regression on the frozen features,
    which scikit-learn finds. So there's nothing random and nothing to choose.

    Args:
        model: its head is a linear layer; everything else stays as it is.
        dataset: images and labels; every class occurs.
    """
    # Here, because the other studies don't need scikit-learn.
    from sklearn.linear_model import LogisticRegression

    features, labels = extract_features(model, cnnlab.loader(dataset, 64))
    features = features.double()
    mean, std = features.mean(dim=0), features.std(dim=0) + 1e-6
    fitted = LogisticRegression(max_iter=5000).fit(
        ((features - mean) / std).numpy(), labels.numpy()
    )
    weight = torch.from_numpy(fitted.coef_)
    bias = torch.from_numpy(fitted.intercept_)
    if len(weight) == 1:  # two classes: one logit, for the second of them
        weight = torch.cat([-weight, weight]) / 2
        bias = torch.cat([-bias, bias]) / 2
    weight = weight / std  # the head gets features that aren't standardised
    bias = bias - weight @ mean
    *_, head = (
        layer
        for layer in cnnlab.stages(model)[-1].modules()
        if isinstance(layer, nn.Linear)
    )
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.copy_(bias)
    return model


def fine_tune_top(
    model: nn.Module,
    dataset: Dataset,
    seed: int,
    *,
    lr: float,
    epochs: int,
    augment: Augment | None = None,
    unfrozen: int = 1,
    batch_size: int = 15,
    valid: Any = None,
    device: Any = "cpu",
    **options: Any,
) -> cnnlab.Trainer:
    """Train the top of a network whose head is fitted already.

    AdamW with a cosine that ends at zero, so no validation set is needed. All
    batch-norm layers stay frozen.

    Args:
        model: from `fit_probe`; trained in place.
        dataset: the labelled images.
        seed: of the order and of the augmentation.
        lr: learning rate at the start.
        epochs: number of epochs.
        augment: the augmentation, or None.
        unfrozen: number of stages below the head that are trained with it.
        batch_size: images per step.
        valid: a loader to validate on after each epoch.
        device: where to train.
        options: further options of `Trainer`.
    """
    stages = cnnlab.stages(model)
    lowest = max(0, len(stages) - 1 - unfrozen)
    for stage in stages[:lowest]:
        freeze(stage)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            freeze(layer)
    optimizer = torch.optim.AdamW(param_groups(model, lr, weight_decay=0.01))
    batches = cnnlab.loader(dataset, batch_size, shuffle=True, seed=seed)
    trainer = cnnlab.Trainer(
        model,
        optimizer,
        scheduler=cnnlab.attach(optimizer, cosine(epochs * len(batches))),
        batch_transform=augment,
        seed=seed,
        device=device,
        progress=False,
        **options,
    )
    trainer.fit(batches, valid, epochs=epochs)
    return trainer


@torch.no_grad()
def logits_of(model: nn.Module, dataset: Dataset) -> Tensor:
    """Return a model's logits for a data set, (N, K), on the CPU."""
    device = next(model.parameters()).device
    model.eval()
    batches = cnnlab.loader(dataset, 64)
    return torch.cat(
        [model(images.to(device)).cpu() for images, _ in batches]
    )


# --- stopping and averaging (chapter 6) -----------------------------------


class StopAt(cnnlab.Callback):
    """End the fit cleanly after a step, in place of a power cut."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_step_end(self, trainer: Any) -> None:
        """Stop after the chosen step."""
        if trainer.step == self.step:
            raise cnnlab.StopTraining(f"step {self.step}")


def same_state(model: nn.Module, other: nn.Module) -> bool:
    """Return whether two models have exactly the same state."""
    state, others = model.state_dict(), other.state_dict()
    return all(torch.equal(state[name], others[name]) for name in state)


class TestAccuracy(cnnlab.Callback):
    """Evaluate the model and its average on the test set after each epoch."""

    def __init__(self, test: Any) -> None:
        self.test = test

    def on_epoch_end(self, trainer: Any) -> None:
        """Add two columns to the row of the epoch."""
        row = trainer.history.epochs[-1]
        models = {"": trainer.model, "ema_": trainer.ema.model}
        for prefix, model in models.items():
            metrics = trainer.evaluate(self.test, model=model)
            row[f"{prefix}test_acc"] = metrics["acc"]


def wrong_label_curves(
    data: DataBundle,
    seed: int,
    *,
    epochs: int,
    decay: float,
    lr: float = 0.05,
    schedule: Callable[[int], Schedule] | None = None,
) -> Any:
    """Train on signs of which 40 % have a wrong label; evaluate every epoch.

    Args:
        data: the signs, with correct labels.
        seed: draws the wrong labels, the initial weights and the order.
        epochs: number of epochs.
        decay: of the moving average (EMA) of the weights.
        lr: learning rate of SGD with momentum, at its peak.
        schedule: by default the learning rate is constant.

    Returns:
        A table with one row per epoch: loss and accuracy of the model and of
        its average, on the validation and on the test set.
    """
    model = seeded_resnet(seed, len(data.classes))
    trainer = train(
        model,
        sgd(model, lr),
        cnnlab.data.label_noise(data.train, 0.4, seed),
        batch_size=32,
        epochs=epochs,
        seed=seed,
        schedule=schedule,
        valid=cnnlab.loader(data.valid, 256),
        ema=EMA(model, decay),
        callbacks=[TestAccuracy(cnnlab.loader(data.test, 256))],
    )
    return trainer.history.frame()


STALE = "SWA, statistics of the live model"


@lru_cache
def train_and_average(
    seed: int,
    *,
    n_train: int,
    n_valid: int,
    epochs: int,
    decay: float,
    schedule: Callable[[int], Schedule] | None = None,
) -> tuple[cnnlab.Trainer, dict[str, dict[str, float]]]:
    """Train once with correct labels, and evaluate three averages.

    Args:
        seed: draws the signs, the initial weights and the order.
        n_train: number of training images.
        n_valid: number of validation images.
        epochs: number of epochs; SWA averages the second half of them.
        decay: of the EMA.
        schedule: by default the learning rate is constant.

    Returns:
        The trainer, and the accuracy, the loss and the wobble of the live
        model, its EMA, its SWA, and the SWA without statistics of its own.
        The wobble is the mean absolute change of the accuracy from one epoch
        to the next.
    """
    data = cnnlab.load("pocket", seed=seed, n_train=n_train, n_valid=n_valid)
    model = seeded_resnet(seed, len(data.classes))
    valid = cnnlab.loader(data.valid, 256)
    swa = SWA(model, start_epoch=epochs // 2)
    trainer = train(
        model,
        sgd(model, 0.1),
        data.train,
        batch_size=32,
        epochs=epochs,
        seed=seed,
        schedule=schedule,
        valid=valid,
        ema=EMA(model, decay),
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
    return trainer, metrics


def channel_groups(model: nn.Module) -> list[tuple[list, list, nn.Module]]:
    """List the groups of channels of a small ResNet that have a free order.

    Returns:
        For each group, from the input to the output: the layers that write
        these channels, the layers that read them, and the module whose
        activations (after a ReLU) they are.
    """
    groups: list[tuple[list, list, nn.Module]] = []
    writers, before = [*model.stem[:2]], model.stem
    for block in model.blocks:
        groups.append((writers, [block.conv1, block.shortcut[0]], before))
        inner = [block.conv1, block.norm1]
        groups.append((inner, [block.conv2], block.norm1))
        writers, before = [block.conv2, block.norm2, *block.shortcut], block
    return [*groups, (writers, [model.head.linear], before)]


@torch.no_grad()
def channel_activations(model: nn.Module, images: Tensor) -> list[Tensor]:
    """Return each group's activations, standardised, as (channels, values).

    Args:
        model: a small ResNet.
        images: (N, 3, H, W), float in [0, 1].
    """
    modules = [module for _, _, module in channel_groups(model)]
    kept: list[Tensor] = []
    hooks = [
        module.register_forward_hook(lambda *args: kept.append(args[-1]))
        for module in modules
    ]
    model.eval()(images)
    for hook in hooks:
        hook.remove()
    rows = [x.relu().transpose(0, 1).flatten(1) for x in kept]
    return [
        (x - x.mean(1, keepdim=True)) / (x.std(1, keepdim=True) + 1e-6)
        for x in rows
    ]


@torch.no_grad()
def match_channels(
    model: nn.Module, other: nn.Module, images: Tensor
) -> nn.Module:
    """Reorder the channels of a network so that they match another one's.

    Two channels match if their activations are correlated (Ainsworth et al.
    2022, https://arxiv.org/abs/2209.04836, section 3.1).

    Args:
        model: the network to match with.
        other: a network of the same shape.
        images: what both are shown, (N, 3, H, W).

    Returns:
        A copy of `other` that computes the same function.
    """
    # Here, because the other studies don't need scipy.
    from scipy.optimize import linear_sum_assignment

    matched = copy.deepcopy(other)
    activations = zip(
        channel_activations(model, images),
        channel_activations(other, images),
        strict=True,
    )
    for (writers, readers, _), (mine, theirs) in zip(
        channel_groups(matched), activations, strict=True
    ):
        similarity = (mine @ theirs.T).numpy()
        _, order = linear_sum_assignment(similarity, maximize=True)
        for layer in writers:
            for tensor in (*layer.parameters(), *layer.buffers()):
                if tensor.ndim:  # batch norm's counter has no channels
                    tensor.copy_(tensor[order].clone())
        for layer in readers:
            layer.weight.copy_(layer.weight[:, order].clone())
    return matched


def average_weights(models: Iterable[nn.Module]) -> nn.Module:
    """Return a network whose weights are the mean of those of the models."""
    first, *others = models
    mean = SWA(first)
    for model in (first, *others):
        mean.update(model)
    return mean.model


@lru_cache(maxsize=8)
def train_two(
    seed: int, *, n_train: int, n_valid: int, epochs: int, width: int = 16
) -> tuple[DataBundle, list[nn.Module]]:
    """Train two networks on the same signs, with a seed of their own each.

    Args:
        seed: draws the signs, and decides the seeds of both networks.
        n_train: number of training images.
        n_valid: number of validation images.
        epochs: number of epochs of a cosine.
        width: of the networks.
    """
    data = cnnlab.load(
        "pocket", seed=seed, n_train=n_train, n_valid=n_valid, n_test=12
    )
    models = []
    for member in (0, 1):
        own_seed = fold_in(seed, member)
        model = seeded_resnet(own_seed, len(data.classes), width=width)
        train(
            model,
            sgd(model, 0.1),
            data.train,
            batch_size=32,
            epochs=epochs,
            seed=own_seed,
            schedule=cosine,
        )
        models.append(model)
    return data, models


ALONE, PREDICTIONS = "each alone", "average of predictions"
WEIGHTS, MATCHED = "average of weights", "average of matched weights"
MATCHED_STALE = "average of matched weights, old statistics"


@lru_cache
def merge_two(seed: int, **settings: int) -> dict[str, float]:
    """Train two networks, and return the accuracy of each way to merge them.

    Args:
        seed: as in `train_two`.
        settings: of `train_two`.
    """
    data, (first, second) = train_two(seed, **settings)
    valid = cnnlab.loader(data.valid, 256)
    images = data.train.images.float() / 255
    trainer = cpu_trainer(first, sgd(first, 0.1), seed)

    def accuracy(model: nn.Module) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the statistics are compared
            return trainer.evaluate(valid, model=model)["acc"]

    plain = average_weights([first, second])
    update_bn(plain, cnnlab.loader(data.train, 256))
    matched = average_weights([first, match_channels(first, second, images)])
    stale = accuracy(matched)
    update_bn(matched, cnnlab.loader(data.train, 256))
    probabilities = ensemble([first, second], loader=valid)
    correct = probabilities.argmax(1) == data.valid.labels
    return {
        ALONE: (accuracy(first) + accuracy(second)) / 2,
        WEIGHTS: accuracy(plain),
        MATCHED: accuracy(matched),
        MATCHED_STALE: stale,
        PREDICTIONS: correct.float().mean().item(),
    }


# --- transfer: frozen features and fine-tuning (chapter 9) ----------------


def imagenet_network(
    seed: int, num_classes: int, weights: str | None = "default"
) -> nn.Module:
    """Return EfficientNet-Lite0 with ImageNet's weights and a new head.

    Data sets are resized for it to 96 pixels instead of 224, to save time.
    With weights=None, all its weights are random.
    """
    torch.manual_seed(seed)
    model = cnnlab.pretrained(
        "efficientnet_lite0", num_classes, weights=weights
    )
    model.size = 96
    return model


def train_new_head(model: nn.Module, dataset: Dataset) -> None:
    """Train only the last linear layer of a network, on frozen features."""
    features, labels = extract_features(model, cnnlab.loader(dataset, 64))
    linear = [m for m in model.modules() if isinstance(m, nn.Linear)]
    fit_linear(linear[-1], features, labels)


def fine_tune_all_layers(
    model: nn.Module,
    dataset: Dataset,
    seed: int,
    *,
    lr: float,
    steps: int,
    augment: Augment,
) -> cnnlab.Trainer:
    """Train the new head first, then all layers; batch norm stays frozen.

    AdamW with a cosine schedule, batches of 32.

    Args:
        model: a pretrained network with a new head, trained in place.
        dataset: the training set.
        seed: seed of the order and of the augmentation.
        lr: learning rate of all layers at its peak.
        steps: number of steps, rounded to whole epochs.
        augment: the augmentation.
    """
    train_new_head(model, dataset)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            freeze(layer)
    trainable = [p for p in model.parameters() if p.requires_grad]
    steps_per_epoch = max(1, len(dataset) // 32)
    return train(
        model,
        torch.optim.AdamW(trainable, lr=lr, weight_decay=0.01),
        dataset,
        batch_size=32,
        epochs=max(1, round(steps / steps_per_epoch)),
        seed=seed,
        schedule=cosine,
        batch_transform=augment,
        channels_last=True,  # faster
    )


def fine_tune_glyphnet(
    dataset: ImageSet, test: ImageSet, seed: int
) -> dict[str, float]:
    """Fine-tune glyphnet for about 300 steps; return its test accuracy.

    The learning rate was chosen from three, see 09_finetuning.py.

    Args:
        dataset: the labelled digits.
        test: the digits to evaluate on.
        seed: draws the new head, the order and the augmentation.
    """
    model = new_glyphnet(seed, 10)
    trainer = fine_tune_all_layers(
        model,
        dataset,
        seed,
        lr=1e-3,
        steps=300,
        augment=Augment(rotate=12, translate=0.1, scale=(0.85, 1.15)),
    )
    used = budget(labels=len(dataset), steps=trainer.step, tuning_runs=3)
    return {"test_acc": accuracy_of(model, test)} | used


# --- losses for a long tail (chapter 11) ----------------------------------


def tailed_photographs(seed: int, largest: int, n_test: int) -> DataBundle:
    """Draw photographs of which some classes have many and others few.

    Args:
        seed: draws the photographs, and decides which class gets which size.
        largest: training photographs of the most common class; the rarest
            class has a fiftieth of that.
        n_test: test photographs, equally many of each class.
    """
    data = photographs(seed, largest, n_test)
    sizes = [round(largest / 50 ** (k / 9)) for k in range(10)]
    order = torch.randperm(10, generator=torch.Generator().manual_seed(seed))
    counts = [sizes[k] for k in order.tolist()]
    tail = imbalance(data.train, counts, seed)
    return DataBundle("photographs", tail, data.valid, data.test)


class FocalLoss(nn.Module):
    """Mean of (1 - p) ** gamma times the cross-entropy of a sample.

    With gamma = 0 it is cross-entropy. A larger gamma damps the samples whose
    correct class already has a high probability p.
    """

    def __init__(self, gamma: float = 2.0) -> None:
        super().__init__()
        self.gamma = gamma

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        loss = F.cross_entropy(logits, labels, reduction="none")
        return ((1 - (-loss).exp()) ** self.gamma * loss).mean()


class BalancedSoftmax(nn.Module):
    """Cross-entropy of the logits plus the log of the class counts."""

    def __init__(self, counts: Tensor) -> None:
        super().__init__()
        self.log_counts = counts.log()

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        return F.cross_entropy(logits + self.log_counts, labels)


class DeferredWeights(nn.Module):
    """Cross-entropy whose class weights are switched on late in the run."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.weight, self.active = weight, False

    def forward(self, logits: Tensor, labels: Tensor) -> Tensor:
        weight = self.weight if self.active else None
        return F.cross_entropy(logits, labels, weight)


def tail_loss(name: str, labels: Tensor) -> nn.Module:
    """Return a loss by name, made for the labels of a training set."""
    if name == "class weights":
        return nn.CrossEntropyLoss(class_weights(labels))
    if name == "deferred weights":
        return DeferredWeights(class_weights(labels))
    if name == "balanced softmax":
        return BalancedSoftmax(labels.bincount())
    if name == "focal loss":
        return FocalLoss()
    return nn.CrossEntropyLoss()


def train_on_tail(
    train_set: ImageSet, seed: int, loss: str, epochs: int
) -> cnnlab.Trainer:
    """Train a small ResNet on photographs with flips and shifts.

    Args:
        train_set: photographs whose classes have different sizes.
        seed: draws the weights, the order and the augmentation.
        loss: a name that `tail_loss` knows, or "plain".
        epochs: number of epochs; deferred weights start after four fifths.
    """
    loss_fn = tail_loss(loss, train_set.labels)
    model = seeded_resnet(seed, len(train_set.classes))
    optimizer = sgd(model, 0.1, weight_decay=5e-4)
    batches = cnnlab.loader(train_set, 64, shuffle=True, seed=seed)
    schedule = cosine(epochs * len(batches))
    trainer = cpu_trainer(
        model,
        optimizer,
        seed,
        loss_fn=loss_fn,
        scheduler=cnnlab.attach(optimizer, schedule),
        batch_transform=Augment(flip=0.5, crop_pad=4),
    )
    if loss == "deferred weights":
        trainer.fit(batches, epochs=round(0.8 * epochs))
        loss_fn.active = True
    trainer.fit(batches, epochs=epochs)
    return trainer
