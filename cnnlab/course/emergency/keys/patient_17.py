"""Patient 17: the generator is made again for every epoch, so all epochs distort alike."""

from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType

import numpy as np
import torch
from torch import Tensor

from cnnlab.course.emergency.examination import classification
from cnnlab.course.emergency.records import Record, accurate, honest, within_budget
from cnnlab.course.emergency.worlds import withheld_digits
from cnnlab.rng import fold_in


@contextmanager
def _distorted(admitted: ModuleType, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield withheld digits, distorted like those of the script."""
    with withheld_digits(admitted, seed) as (images, labels):
        distorted = admitted.distort(images.numpy(), np.random.default_rng(fold_in(seed, 74)))
        yield torch.tensor(distorted, dtype=torch.float32), labels


MADE = "    rng = np.random.default_rng(seed)\n"
EPOCH = "        for x, y in batches(digits.images[:200], digits.target[:200], seed):\n"

RECORD = Record(
    complaint="The augmentation is strong, but the loss goes to zero as if there were none.",
    cause="random numbers repeated",
    repairs={
        MADE: "",
        "def batches(images, labels, seed)": "def batches(images, labels, rng)",
        "    digits = load_digits()\n": f"    digits = load_digits()\n{MADE}",
        EPOCH: EPOCH.replace("seed", "rng"),
    },
    wrong={
        "another seed": {EPOCH: EPOCH.replace("seed", "7 * seed + 1")},
        "stronger augmentation": {"SHIFT, NOISE = 25, 40, 1, 3.0": "SHIFT, NOISE = 25, 40, 1, 5.0"},
        "weight decay": {"lr=2e-3": "lr=2e-3, weight_decay=1e-3"},
        "fewer epochs": {"EPOCHS, SHIFT, NOISE = 25, 40": "EPOCHS, SHIFT, NOISE = 25, 12"},
        "shuffled anew": {
            "rng.permutation(len(images))": "torch.randperm(len(images)).numpy()",
            "distort(images[index], rng)": ("distort(images, np.random.default_rng(seed))[index]"),
        },
    },
    right={
        "a seed that moves on": {EPOCH: f"        seed += 1\n{EPOCH}"},
        "the seed of the epoch": {EPOCH: EPOCH.replace("seed", "seed + epoch")},
        "fresh entropy": {"default_rng(seed)": "default_rng(torch.randint(9**9, ()).item())"},
    },
    world=_distorted,
    rules=(honest(0.06), accurate(0.08), within_budget()),
    observe=classification,
    seeds=3,
)
