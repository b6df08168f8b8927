"""Make glyphnet again: the small backbone that ships with the course, trained on printed glyphs.

What ships was made by `cnnlab pretrain` with this recipe. The recipe, the versions, the accuracy and the digest of
the weights stand in a JSON file beside them.
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
from cnnlab.models.backbones import GLYPHNET, WIDTH, packed
from cnnlab.rng import fork_rng, seed_at
from cnnlab.training import schedules
from cnnlab.training.trainer import Trainer


@dataclass(frozen=True)
class Recipe:
    """How glyphnet is trained: SGD with momentum 0.9, one cycle, smoothed labels.

    Attributes:
        seed: of the glyphs, the first weights and the order of the batches.
        n_train: glyphs to learn from.
        epochs: passes over them.
        batch_size: glyphs a step.
        lr: the peak of the cycle.
        weight_decay: on every weight.
        smoothing: share of each label spread over all classes.
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
        The network with its 97-way head, and its accuracy on validation and test glyphs, as the numbers it has when
        its weights are kept in half precision.
    """
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
    model.half().float()  # what is left of the weights in the file
    assert bundle.test is not None
    parts = {"valid": bundle.valid, "test": bundle.test}
    return model, {k: trainer.evaluate(loader(part, 500))["acc"] for k, part in parts.items()}


def pretrain(folder: Path | None = None, recipe: Recipe | None = None) -> dict[str, Any]:
    """Train glyphnet and write its weights, and what is known of them, into a folder.

    Args:
        folder: by default the one in the package, where `pretrained("glyphnet", ...)` looks.
        recipe: by default the one that ships.

    Returns:
        What was written into the JSON file.

    Raises:
        OSError: the folder cannot be written; what was there is untouched.
    """
    recipe = recipe or Recipe()
    weights = GLYPHNET if folder is None else folder / GLYPHNET.name
    weights.parent.mkdir(parents=True, exist_ok=True)
    begun = time.process_time()
    model, accuracy = train(recipe)
    contents = packed(model)
    card = {
        "task": "97 printed letters and symbols, 32 x 32, RGB in [0, 1]",
        "network": f"small_resnet(97, width={WIDTH})",
        "recipe": asdict(recipe),
        "accuracy": {part: round(share, 4) for part, share in accuracy.items()},
        "processor_seconds": round(time.process_time() - begun),
        "versions": {"torch": torch.__version__, "glyphs": glyphs.VERSION},
        "sha256": hashlib.sha256(contents).hexdigest(),
    }
    write_whole(weights, contents)
    write_whole(weights.with_suffix(".json"), (json.dumps(card, indent=2) + "\n").encode())
    return card
