"""Compare class weights and logit adjustment in a run three times as long.

What varies is the method: none, class weights, or logit adjustment after
training. Everything else is fixed, as in 11_balancing.py: images, class
sizes, batches of 64 and a cosine schedule. So you can compare runs of the two
studies that have the same seed. The only difference is the length of thirty
epochs, after which nearly every training image is classified correctly.

The learning rate and both lengths were chosen on other images with other
seeds (100 and above). The claims were written after a first study, with six
other seeds and 960 test signs instead of 4,800, and before this one ran.
"""

from functools import lru_cache, partial

from common import (
    COUNTS,
    imbalance_metrics,
    imbalanced_signs,
    run_study,
    seeded_resnet,
    sgd,
    train,
)
from torch import Tensor, nn

import cnnlab
from cnnlab.data import class_weights
from cnnlab.experiment import Claim, Declaration, budget, fresh_data
from cnnlab.schedules import cosine


SEEDS = 6
FIRST = 1000  # added to every seed: the first study used 0 to 5
METRIC = "balanced_acc"
DECLARATION = Declaration(
    "Do corrections still help a network that has fitted all its images?",
    claims=[
        Claim("logit adjustment, long", ">", "plain, long"),
        Claim("class weights, long", ">", "plain, long"),
        Claim(
            "logit adjustment, long",
            ">",
            "class weights, long",
            metric="rare_recall",
        ),
    ],
    unit=fresh_data(),
    fixed="signs of twelve classes per seed, from 10 to 400 per class; the "
    "network, SGD with a cosine schedule, batches of 64, 30 epochs",
)
K, EPOCHS, BATCH_SIZE, LR = len(COUNTS), 30, 64, 0.1


@lru_cache
def run(
    seed: int, *, weighted: bool = False
) -> tuple[Tensor, float, dict[str, int]]:
    """Train once; return test logits, training accuracy and budget."""
    data = imbalanced_signs(seed)
    model = seeded_resnet(seed, K)
    weight = class_weights(data.train.labels) if weighted else None
    trainer = train(
        model,
        sgd(model, LR),
        data.train,
        batch_size=BATCH_SIZE,
        epochs=EPOCHS,
        seed=seed,
        schedule=cosine,
        loss_fn=nn.CrossEntropyLoss(weight),
    )
    train_metrics = trainer.evaluate(cnnlab.loader(data.train, 256))
    logits = trainer.predict(cnnlab.loader(data.test, 256))
    used = budget(labels=len(data.train), steps=trainer.step)
    return logits, train_metrics["acc"], used


def outcome(seed: int, *, tau: float = 0.0, **options) -> dict[str, float]:
    """Evaluate a run, with its logits adjusted by tau after training."""
    seed += FIRST
    logits, train_acc, used = run(seed, **options)
    metrics, _ = imbalance_metrics(logits, imbalanced_signs(seed), tau)
    return metrics | {"fitted": train_acc} | used


VARIANTS = {
    "plain, long": outcome,
    "class weights, long": partial(outcome, weighted=True),
    "logit adjustment, long": partial(outcome, tau=1.0),
}


if __name__ == "__main__":
    run_study(__file__, VARIANTS, SEEDS, METRIC, DECLARATION)
