"""Mixup, CutMix and label smoothing with 40 % wrong labels, and with right ones, at the same budget.

Rate, schedule, batch, alpha and smoothing were chosen on other images and other seeds (both from 100); the validation
labels are always right. The noise is drawn anew for each seed.
"""

from functools import partial

import torch
import torch.nn.functional as F

import cnnlab
from cnnlab.experiment import study
from cnnlab.mixing import CutMix, MixUp, soft_cross_entropy


SEEDS = 5
METRIC = "valid_acc"
N_TRAIN, EPOCHS, BATCH = 1200, 16, 64


def train(
    seed: int, *, wrong: float = 0.4, mix=None, smoothing: float = 0.0
) -> dict[str, float]:
    """Train with a share of wrong labels; return what the network makes of clean pictures, and of its own."""
    data = cnnlab.load("pocket", n_train=N_TRAIN)
    noisy = cnnlab.data.label_noise(data.train, wrong, seed)
    torch.manual_seed(seed)
    model = cnnlab.small_resnet(len(data.classes))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    batches = cnnlab.loader(noisy, BATCH, shuffle=True, seed=seed)
    schedule = cnnlab.schedules.cosine(EPOCHS * len(batches))
    trainer = cnnlab.Trainer(
        model,
        optimizer,
        partial(soft_cross_entropy, smoothing=smoothing),
        scheduler=cnnlab.attach(optimizer, schedule),
        batch_transform=mix,
        seed=seed,
        device="cpu",
        progress=False,
    )
    trainer.fit(batches, epochs=EPOCHS)
    logits = trainer.predict(cnnlab.loader(data.valid, 256))
    told = trainer.predict(cnnlab.loader(noisy, 256)).argmax(1)
    accuracy = (logits.argmax(1) == data.valid.labels).float().mean().item()
    confidence = logits.softmax(1).amax(1).mean().item()
    return {
        "valid_acc": accuracy,
        "valid_loss": F.cross_entropy(logits, data.valid.labels).item(),
        "overconfidence": confidence - accuracy,
        "train_given": (told == noisy.labels).float().mean().item(),
        "train_true": (told == noisy.clean_labels).float().mean().item(),
    }


MIXUP, CUTMIX = MixUp(1.0, num_classes=12), CutMix(1.0, num_classes=12)
VARIANTS = {
    "plain": train,
    "mixup": partial(train, mix=MIXUP),
    "CutMix": partial(train, mix=CUTMIX),
    "label smoothing": partial(train, smoothing=0.2),
    "plain, right labels": partial(train, wrong=0.0),
    "mixup, right labels": partial(train, wrong=0.0, mix=MIXUP),
    "CutMix, right labels": partial(train, wrong=0.0, mix=CUTMIX),
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    study(__file__, VARIANTS, SEEDS, metric=METRIC)
