"""Train glyphnet, the small backbone that comes with the course, on printed glyphs.

The weights in the package were made by `cnnlab pretrain` with this recipe. A JSON file beside them
records the recipe, the versions, the accuracy and the digest of the weights.
"""

import hashlib
import json
import time
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from cnnlab.data import glyphs, loader
from cnnlab.files import write_whole
from cnnlab.models import small_resnet
from cnnlab.models.backbones import GLYPHNET, WIDTH, half_precision_bytes
from cnnlab.rng import fork_rng, seed_at
from cnnlab.training import schedules
from cnnlab.training.progress import long_work
from cnnlab.training.trainer import Trainer


@dataclass(frozen=True)
class Recipe:
    """How glyphnet is trained: SGD with momentum 0.9, one cycle, smoothed labels.

    Attributes:
        seed: seed of the glyphs, the initial weights and the order of the batches.
        n_train: number of training glyphs.
        epochs: passes over the training glyphs.
        batch_size: glyphs per step.
        lr: the learning rate at the peak of the cycle.
        weight_decay: applied to every weight.
        smoothing: fraction of each label that is spread over all classes.
    """

    seed: int = 0
    n_train: int = 16_000
    epochs: int = 10
    batch_size: int = 128
    lr: float = 0.3
    weight_decay: float = 1e-4
    smoothing: float = 0.05


def train(recipe: Recipe) -> tuple[nn.Module, dict[str, float]]:
    """Train the network of a recipe.

    Returns:
        The network with its 97-way head, and its accuracy on validation and test glyphs, both after
        the weights were rounded to half precision, as in the file.
    """
    with long_work(f"drawing {recipe.n_train} glyphs"):
        bundle = glyphs.load(seed=recipe.seed, n_train=recipe.n_train)
    with fork_rng():
        seed_at(recipe.seed)
        model = small_resnet(len(bundle.classes), width=WIDTH)
    batches = loader(bundle.train, recipe.batch_size, seed=recipe.seed, shuffle=True)
    optimizer = torch.optim.SGD(
        model.parameters(), recipe.lr, momentum=0.9, weight_decay=recipe.weight_decay
    )
    one_cycle = schedules.one_cycle(recipe.epochs * len(batches))
    trainer = Trainer(
        model,
        optimizer,
        partial(F.cross_entropy, label_smoothing=recipe.smoothing),
        scheduler=schedules.attach(optimizer, one_cycle),
        seed=recipe.seed,
    )
    trainer.fit(batches, epochs=recipe.epochs)
    model.half().float()  # round the weights as the file does
    assert bundle.test is not None
    splits = {"valid": bundle.valid, "test": bundle.test}
    with long_work("evaluating"):
        accuracy = {n: trainer.evaluate(loader(split, 500))["acc"] for n, split in splits.items()}
    return model, accuracy


def pretrain(folder: Path | None = None, recipe: Recipe | None = None) -> dict[str, Any]:
    """Train glyphnet and write its weights and their description into a folder.

    Args:
        folder: by default the one in the package, from which `pretrained("glyphnet", ...)` loads.
        recipe: by default the one that the weights in the package were made with.

    Returns:
        The description, as written to the JSON file.

    Raises:
        OSError: the folder isn't writable; files that exist there are unchanged.
    """
    recipe = recipe or Recipe()
    weights = GLYPHNET if folder is None else folder / GLYPHNET.name
    weights.parent.mkdir(parents=True, exist_ok=True)
    start = time.process_time()
    model, accuracy = train(recipe)
    contents = half_precision_bytes(model)
    card = {
        "task": "97 printed letters and symbols, 32 x 32, RGB in [0, 1]",
        "network": f"small_resnet(97, width={WIDTH})",
        "recipe": asdict(recipe),
        "accuracy": {split: round(value, 4) for split, value in accuracy.items()},
        "processor_seconds": round(time.process_time() - start),
        "versions": {"torch": torch.__version__, "glyphs": glyphs.VERSION},
        "sha256": hashlib.sha256(contents).hexdigest(),
    }
    write_whole(weights, contents)
    write_whole(weights.with_suffix(".json"), (json.dumps(card, indent=2) + "\n").encode())
    return card
