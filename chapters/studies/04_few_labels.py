"""Compare mixup, CutMix and label smoothing with twenty labels per class.

What varies is the method: none, mixup, CutMix or label smoothing. Everything
else is fixed: twenty correctly labelled signs per class, the architecture,
SGD with a cosine schedule, batches of 32 and forty epochs. Each seed draws
its own images for training and validation. The results are validation
accuracy and loss, and by how much the mean confidence exceeds the accuracy.

Learning rate, schedule, length and alpha were chosen on other images with
other seeds (100 and above). Label smoothing has its usual strength of 0.1.
"""

from functools import partial

from common import calibration, run_study, seeded_resnet, sgd, train

import cnnlab
from cnnlab.mixing import CutMix, MixUp, soft_cross_entropy
from cnnlab.schedules import cosine


SEEDS = 8
METRIC = "valid_loss"
PER_CLASS, EPOCHS, BATCH_SIZE = 20, 40, 32


def run(seed: int, *, mix=None, smoothing: float = 0.0) -> dict[str, float]:
    """Train on few images; return accuracy, loss and overconfidence."""
    data = cnnlab.load("pocket", seed=seed, n_train=12 * PER_CLASS, n_test=96)
    model = seeded_resnet(seed, len(data.classes))
    trainer = train(
        model,
        sgd(model, 0.1),
        data.train,
        batch_size=BATCH_SIZE,
        epochs=EPOCHS,
        seed=seed,
        schedule=cosine,
        loss_fn=partial(soft_cross_entropy, smoothing=smoothing),
        batch_transform=mix,
    )
    logits = trainer.predict(cnnlab.loader(data.valid, 256))
    return calibration(logits, data.valid.labels)


VARIANTS = {
    "plain": run,
    "mixup": partial(run, mix=MixUp(1.0, num_classes=12)),
    "CutMix": partial(run, mix=CutMix(1.0, num_classes=12)),
    "label smoothing": partial(run, smoothing=0.1),
}


if __name__ == "__main__":
    run_study(__file__, VARIANTS, SEEDS, METRIC)
