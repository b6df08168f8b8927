"""Try the 2 x 2 table of fine-tuning on a real network.

What varies is the number of labels per class (5 or 100), the target, and how
much of EfficientNet-Lite0 is trained: a linear classifier on its frozen
features, its later layers (the top two of its five stages below the head), or
all layers. Photographs of CIFAR-10 show what ImageNet's classes show, so they
are the similar target. The course's traffic signs are the different one.

Everything else is fixed: the images are enlarged to 96 pixels; the head is
trained first, on frozen features; then AdamW with a cosine schedule takes 60
steps of 32 images, without augmentation, and batch norm stays frozen. Each
seed draws its own training images and 1,000 test images. The result is the
accuracy on these.

The learning rates were chosen by `search`, with the seed 100 and 1,000 other
images, from 0.0001, 0.0003 and 0.001 for each arm of each cell. It found these
accuracies, and the best one of each arm is in RATES:

                       linear      later layers            all layers
                              .0001  .0003   .001    .0001  .0003   .001
    small, similar      0.379 0.415  0.484  0.435    0.446  0.400  0.388
    large, similar      0.663 0.673  0.705  0.100    0.692  0.682  0.100
    small, different    0.559 0.599  0.557  0.698    0.579  0.528  0.667
    large, different    0.717 0.739  0.752  0.682    0.752  0.753  0.575

The claims were written after 09_photos.py, which has the linear classifier
and all layers on photographs, and before the search and this study ran.

The table was computed on a copy of CIFAR-10 in JPEG format, because the
original files weren't on the machine. The script uses such a copy if the
environment variable CNNLAB_PHOTOS names its folder, and the original files
otherwise.
"""

import copy
from functools import lru_cache, partial

import torch
from common import (
    accuracy_of,
    imagenet_network,
    photographs,
    run_study,
    train,
    train_new_head,
)
from torch import nn

import cnnlab
from cnnlab.data import DataBundle, ImageSet
from cnnlab.experiment import Claim, Declaration, budget, fresh_data
from cnnlab.models import stages
from cnnlab.schedules import cosine
from cnnlab.transfer import freeze, param_groups


SEEDS = 5
METRIC = "test_acc"
N_TEST, STEPS = 1000, 60
COUNTS = {"small": 5, "large": 100}  # labels per class
TRAINED = {"linear": 0, "later layers": 3, "all layers": 6}  # stages
CANDIDATES = (1e-4, 3e-4, 1e-3)
# The learning rates that `search` chose.
RATES = {
    "small, similar": {"later layers": 3e-4, "all layers": 1e-4},
    "large, similar": {"later layers": 3e-4, "all layers": 1e-4},
    "small, different": {"later layers": 1e-3, "all layers": 1e-3},
    "large, different": {"later layers": 3e-4, "all layers": 3e-4},
}
DECLARATION = Declaration(
    "Does the 2 x 2 table name the best way to use a real network?",
    claims=[
        Claim(
            "small, similar: linear",
            "~",
            "small, similar: all layers",
            by=0.02,
        ),
        Claim("large, similar: later layers", ">", "large, similar: linear"),
        Claim(
            "large, similar: later layers",
            "~",
            "large, similar: all layers",
            by=0.02,
        ),
        Claim(
            "large, different: all layers",
            ">",
            "large, different: linear",
            by=0.05,
        ),
        Claim(
            "large, different: all layers",
            ">",
            "large, different: later layers",
            by=0.02,
        ),
        Claim(
            "small, different: all layers", ">", "small, different: linear"
        ),
    ],
    unit=fresh_data(),
    fixed="EfficientNet-Lite0 with ImageNet's weights at 96 pixels; the head "
    "is trained first; 60 steps of AdamW with a cosine schedule, batch norm "
    "frozen, no augmentation",
    unequal={
        f"{size}, {target}: linear": "it has no learning rate to choose, and "
        "takes no steps beyond those of the head"
        for size in COUNTS
        for target in ("similar", "different")
    },
)


def images_of(target: str, size: str, seed: int) -> DataBundle:
    """Draw the images of a target: training, validation and test set."""
    if target == "similar":
        return photographs(seed, COUNTS[size], N_TEST)
    return cnnlab.load(
        "pocket",
        seed=seed,
        n_train=12 * COUNTS[size],
        n_valid=N_TEST,
        n_test=N_TEST,
    )


def with_trained_head(
    data: DataBundle, seed: int
) -> tuple[nn.Module, DataBundle]:
    """Return the network with a trained head, and the enlarged images."""
    model = imagenet_network(seed, len(data.classes))
    data = data.transform(model)
    train_new_head(model, data.train)
    return model, data


@lru_cache(maxsize=1)
def start_of(
    target: str, size: str, seed: int
) -> tuple[nn.Module, DataBundle]:
    """Return where the three arms of a cell begin, and their images."""
    return with_trained_head(images_of(target, size, seed), seed)


def train_stages(
    model: nn.Module,
    dataset: ImageSet,
    seed: int,
    *,
    n_stages: int,
    lr: float,
) -> int:
    """Train the top stages, batch norm excepted; return the steps taken."""
    for stage in stages(model)[: len(stages(model)) - n_stages]:
        freeze(stage)
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            freeze(layer)
    per_epoch = max(1, len(dataset) // 32)
    return train(
        model,
        torch.optim.AdamW(param_groups(model, lr, 0.01)),
        dataset,
        batch_size=32,
        epochs=round(STEPS / per_epoch),
        seed=seed,
        schedule=cosine,
        channels_last=True,  # faster
    ).step


def run(seed: int, *, size: str, target: str, arm: str) -> dict[str, float]:
    """Train one arm of one cell; return the test accuracy."""
    start, data = start_of(target, size, seed)
    model, steps = copy.deepcopy(start), 0
    if TRAINED[arm]:
        steps = train_stages(
            model,
            data.train,
            seed,
            n_stages=TRAINED[arm],
            lr=RATES[f"{size}, {target}"][arm],
        )
    used = budget(
        labels=len(data.train),
        steps=steps,
        tuning_runs=len(CANDIDATES) if TRAINED[arm] else 0,
    )
    return {METRIC: accuracy_of(model, data.test)} | used


def search(seed: int = 100) -> None:
    """Print the validation accuracy of each learning rate of each arm."""
    torch.set_num_threads(1)
    for target in ("similar", "different"):
        for size in COUNTS:
            start, data = with_trained_head(
                images_of(target, size, seed), seed
            )
            print(f"{size}, {target}: {accuracy_of(start, data.valid):.3f}")
            for arm in ("later layers", "all layers"):
                for lr in CANDIDATES:
                    model = copy.deepcopy(start)
                    train_stages(
                        model,
                        data.train,
                        seed,
                        n_stages=TRAINED[arm],
                        lr=lr,
                    )
                    accuracy = accuracy_of(model, data.valid)
                    print(f"  {arm}, {lr}: {accuracy:.3f}", flush=True)


VARIANTS = {
    f"{size}, {target}: {arm}": partial(
        run, size=size, target=target, arm=arm
    )
    for target in ("similar", "different")
    for size in COUNTS
    for arm in TRAINED
}


if __name__ == "__main__":
    run_study(__file__, VARIANTS, SEEDS, METRIC, DECLARATION)
