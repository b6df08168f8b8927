"""Compare training with and without CutMix on photographs (CIFAR-10).

What varies is CutMix and whether 40 % of the training labels are wrong or
none. Everything else is fixed: 500 photographs per class, `small_resnet` with
a width of 24, flips and shifts by up to four pixels, SGD with momentum 0.9, a
weight decay of 5e-4 and a cosine schedule from 0.2, batches of 64 and 20
epochs. Each seed draws its own photographs and decides which of their labels
are wrong. The result is accuracy on 3,000 photographs of CIFAR-10's test set.

The table was computed from a copy of CIFAR-10 as JPEG files. Everything but
CutMix was taken over from chapter 3's study. The claims were written after a
pilot with seed 100.
"""

from functools import partial

import torch
from common import REPEATED, photographs, run_study, seeded_resnet, train

import cnnlab
from cnnlab.augment import Augment
from cnnlab.experiment import Claim, Declaration, budget, fresh_data
from cnnlab.mixing import CutMix
from cnnlab.schedules import cosine


SEEDS = 5
METRIC = "test_acc"
PER_CLASS, N_TEST, EPOCHS = 500, 3000, 20


def run(seed: int, *, wrong: float = 0.4, mix: bool) -> dict[str, float]:
    """Train with a fraction of wrong labels; evaluate on correct ones."""
    data = photographs(seed, PER_CLASS, N_TEST)
    noisy = cnnlab.data.label_noise(data.train, wrong, seed)
    transforms = [Augment(flip=0.5, crop_pad=4)]
    if mix:
        transforms.append(CutMix(1.0, num_classes=10))
    model = seeded_resnet(seed, 10, width=24)
    optimizer = torch.optim.SGD(
        model.parameters(), lr=0.2, momentum=0.9, weight_decay=5e-4
    )
    trainer = train(
        model,
        optimizer,
        noisy,
        batch_size=64,
        epochs=EPOCHS,
        seed=seed,
        schedule=cosine,
        batch_transform=transforms,
    )
    metrics = trainer.evaluate(cnnlab.loader(data.test, 500))
    predictions = trainer.predict(cnnlab.loader(noisy, 500)).argmax(1)
    mislabelled = noisy.labels != noisy.clean_labels
    repeated = (predictions == noisy.labels)[mislabelled].float().mean()
    return {
        "test_acc": metrics["acc"],
        "test_loss": metrics["loss"],
        REPEATED: repeated.item(),  # NaN if no label is wrong
    } | budget(labels=len(noisy), steps=trainer.step)


VARIANTS = {
    "plain": partial(run, mix=False),
    "CutMix": partial(run, mix=True),
    "plain, correct labels": partial(run, wrong=0.0, mix=False),
    "CutMix, correct labels": partial(run, wrong=0.0, mix=True),
}
