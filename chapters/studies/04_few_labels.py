"""Compare mixup, CutMix and label smoothing with twenty labels per class.

What varies is the method: none, mixup, CutMix or label smoothing. Everything
else is fixed: twenty correctly labelled signs per class, the architecture,
SGD with a cosine schedule, batches of 32 and forty epochs. Each seed draws
its own images for training and validation. The results are accuracy and loss
on 5,000 validation signs, and by how much the mean confidence exceeds the
accuracy.

Learning rate, schedule, length and alpha were chosen on other images with
other seeds (100 and above). Label smoothing has its usual strength of 0.1.
The claims were written after a first study, with eight seeds and 480
validation signs, and before this one ran.
"""

from functools import partial

from common import calibration, run_study, train_on_few_labels

import cnnlab
from cnnlab.experiment import Claim, Declaration, budget, fresh_data
from cnnlab.mixing import CutMix, MixUp


SEEDS = 10
METRIC = "valid_loss"
PER_CLASS, N_VALID = 20, 5000
DECLARATION = Declaration(
    "Do mixup and CutMix help with twenty labels per class?",
    claims=[
        Claim("mixup", "<", "plain", by=0.1),
        Claim("CutMix", "<", "plain", by=0.1),
        Claim("plain", ">", "mixup", by=0.1, metric="overconfidence"),
        Claim("mixup", ">", "plain", metric="valid_acc"),
        Claim("CutMix", "~", "plain", by=0.01, metric="valid_acc"),
    ],
    unit=fresh_data(),
    fixed="240 correctly labelled signs per seed, the network, SGD with a "
    "cosine schedule from a learning rate of 0.1, batches of 32, 40 epochs",
)


def run(seed: int, *, mix=None, smoothing: float = 0.0) -> dict[str, float]:
    """Train on few images; return accuracy, loss and overconfidence."""
    n_train = 12 * PER_CLASS
    trainer, valid = train_on_few_labels(
        seed, n_train=n_train, n_valid=N_VALID, mix=mix, smoothing=smoothing
    )
    logits = trainer.predict(cnnlab.loader(valid, 256))
    used = budget(labels=n_train, steps=trainer.step)
    return calibration(logits, valid.labels) | used


VARIANTS = {
    "plain": run,
    "mixup": partial(run, mix=MixUp(1.0, num_classes=12)),
    "CutMix": partial(run, mix=CutMix(1.0, num_classes=12)),
    "label smoothing": partial(run, smoothing=0.1),
}


if __name__ == "__main__":
    run_study(__file__, VARIANTS, SEEDS, METRIC, DECLARATION)
