"""Sixteen bits in training: bfloat16 by autocast, and gradients kept in float16, with and without loss scaling.

float16 in earnest needs a GPU. Here the part of it that loss scaling is about is done on a CPU: after each layer the
gradient that flows back is rounded to float16, all else is float32. "loss / 4096" stands for a loss that is a mean over a
map of 64 x 64 places; its rate is 4096 times as large, so that in exact numbers it is the same run. Rate, length and the
factors were chosen on seeds 100 and 101. Each seed draws pictures of its own.
"""

from functools import partial

import torch
import torch.nn.functional as F
from torch import nn

import cnnlab
from cnnlab.experiment import study


SEEDS = 6
METRIC = "valid_acc"
N_TRAIN, EPOCHS, BATCH, RATE = 960, 6, 64, 0.05
LAYERS = (nn.Conv2d, nn.BatchNorm2d, nn.Linear)


def rounds_gradients(layer, inputs, output) -> None:
    """Round the gradient that comes back through this output to float16."""
    if output.requires_grad:
        output.register_hook(lambda gradient: gradient.half().float())


def train(
    seed: int, *, half: bool = False, factor: float = 1.0, **options
) -> float:
    """Return the validation accuracy after training on factor * loss at rate / factor."""
    data = cnnlab.load("pocket", seed=seed, n_train=N_TRAIN, n_test=96)
    torch.manual_seed(seed)
    model = cnnlab.small_resnet(len(data.classes))
    for layer in model.modules():
        if half and isinstance(layer, LAYERS):
            layer.register_forward_hook(rounds_gradients)
    rate = RATE / factor
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    trainer = cnnlab.Trainer(
        model,
        optimizer,
        lambda logits, labels: F.cross_entropy(logits, labels) * factor,
        seed=seed,
        device="cpu",
        progress=False,
        **options,
    )
    batches = cnnlab.loader(data.train, BATCH, shuffle=True, seed=seed)
    trainer.fit(batches, epochs=EPOCHS)
    right = trainer.predict(cnnlab.loader(data.valid, 256)).argmax(1)
    return (right == data.valid.labels).double().mean().item()


VARIANTS = {
    "float32": train,
    "bfloat16": partial(train, precision="bf16"),
    "float16 gradients": partial(train, half=True),
    "float16 gradients, loss / 4096": partial(
        train, half=True, factor=2**-12
    ),
    # The scale undoes the division, and goes four bits beyond.
    "float16 gradients, loss / 4096, scaled by 65536": partial(
        train, half=True, factor=2**4
    ),
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    study(__file__, VARIANTS, SEEDS, metric=METRIC)
