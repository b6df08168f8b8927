"""Mixup, CutMix and label smoothing with twenty right labels a class: accuracy, and whether the confidence is deserved.

Rate, schedule, length and alpha were chosen on other images and other seeds (both from 100); label smoothing has its
usual 0.1. Each seed draws pictures of its own, for training and for validation.
"""

from functools import partial

import torch
import torch.nn.functional as F

import cnnlab
from cnnlab.experiment import study
from cnnlab.mixing import CutMix, MixUp, soft_cross_entropy


SEEDS = 8
METRIC = "valid_loss"
PER_CLASS, EPOCHS, BATCH = 20, 40, 32


def train(seed: int, *, mix=None, smoothing: float = 0.0) -> dict[str, float]:
    """Train on few pictures; return accuracy, loss and overconfidence on others."""
    data = cnnlab.load("pocket", seed=seed, n_train=12 * PER_CLASS, n_test=96)
    torch.manual_seed(seed)
    model = cnnlab.small_resnet(len(data.classes))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    batches = cnnlab.loader(data.train, BATCH, shuffle=True, seed=seed)
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
    accuracy = (logits.argmax(1) == data.valid.labels).float().mean().item()
    confidence = logits.softmax(1).amax(1).mean().item()
    return {
        "valid_acc": accuracy,
        "valid_loss": F.cross_entropy(logits, data.valid.labels).item(),
        "overconfidence": confidence - accuracy,
    }


VARIANTS = {
    "plain": train,
    "mixup": partial(train, mix=MixUp(1.0, num_classes=12)),
    "CutMix": partial(train, mix=CutMix(1.0, num_classes=12)),
    "label smoothing": partial(train, smoothing=0.1),
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    study(__file__, VARIANTS, SEEDS, metric=METRIC)
