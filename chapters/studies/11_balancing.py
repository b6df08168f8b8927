"""Class weights, oversampling, both, and logit adjustment, where one class has forty times the images of another.

Each seed draws images of its own and deals the counts to the classes anew, so that no sign is always the rare one.
Rate, schedule, length, batch and strength (tau = 1) were chosen on other images and other seeds (both from 100). The
test part has as many images of each class; `train_like_acc` weighs its recalls by the shares of the training part.
The adjusted logits are those of the plain run.
"""

from functools import lru_cache, partial

import torch
from sklearn.metrics import balanced_accuracy_score, recall_score
from torch import Tensor

import cnnlab
from cnnlab.data import (
    balanced_sampler,
    class_weights,
    logit_adjustment,
)
from cnnlab.experiment import study
from cnnlab.mixing import CutMix, soft_cross_entropy


SEEDS = 8
METRIC = "balanced_acc"
COUNTS = [10, 14, 20, 27, 38, 53, 75, 105, 146, 205, 286, 400]
K, N_TEST, EPOCHS, BATCH, RATE = len(COUNTS), 960, 10, 64, 0.1


@lru_cache(maxsize=2)
def signs(seed: int) -> cnnlab.data.DataBundle:
    """Images of the seed, and counts in the order of the seed."""
    deal = torch.randperm(K, generator=torch.Generator().manual_seed(seed))
    counts = [COUNTS[i] for i in deal.tolist()]
    return cnnlab.load(
        "pocket", seed=seed, counts=counts, n_valid=96, n_test=N_TEST
    )


@lru_cache
def logits(
    seed: int,
    *,
    weighted: bool = False,
    sampled: bool = False,
    added: float = 0.0,
    mixed: bool = False,
) -> tuple[Tensor, float]:
    """Train once; return the logits of the test part, and the accuracy on the training images."""
    data = signs(seed)
    labels = data.train.labels
    torch.manual_seed(seed)
    model = cnnlab.small_resnet(K)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9)
    batches = cnnlab.loader(
        data.train,
        BATCH,
        shuffle=not sampled,
        sampler=balanced_sampler(labels, seed) if sampled else None,
        seed=seed,
    )
    weight = class_weights(labels) if weighted else None
    head_start = logit_adjustment(labels, added)
    trainer = cnnlab.Trainer(
        model,
        optimizer,
        lambda out, wanted: soft_cross_entropy(
            out + head_start, wanted, weight
        ),
        scheduler=cnnlab.attach(
            optimizer, cnnlab.schedules.cosine(EPOCHS * len(batches))
        ),
        batch_transform=CutMix(1.0, num_classes=K) if mixed else None,
        seed=seed,
        device="cpu",
        progress=False,
    )
    trainer.fit(batches, epochs=EPOCHS)
    fitted = trainer.evaluate(cnnlab.loader(data.train, 256))["acc"]
    return trainer.predict(cnnlab.loader(data.test, 256)), fitted


def outcome(seed: int, *, tau: float = 0.0, **how) -> dict[str, float]:
    """Judge the answers of a run, adjusted by tau."""
    data = signs(seed)
    shift = logit_adjustment(data.train.labels, tau)
    told, fitted = logits(seed, **how)
    answers = (told - shift).argmax(dim=1)
    recall = torch.from_numpy(
        recall_score(data.test.labels, answers, average=None)
    )
    counts = data.train.labels.bincount()
    rank = counts.argsort()  # the rarest class first
    return {
        "balanced_acc": balanced_accuracy_score(data.test.labels, answers),
        "rare_recall": recall[rank[:4]].mean().item(),
        "common_recall": recall[rank[-4:]].mean().item(),
        "train_like_acc": (recall @ (counts / counts.sum()).double()).item(),
        "fitted": fitted,
    } | {f"recall_{i + 1}": recall[k].item() for i, k in enumerate(rank)}


VARIANTS = {
    "plain": outcome,
    "class weights": partial(outcome, weighted=True),
    "oversampling": partial(outcome, sampled=True),
    "both": partial(outcome, weighted=True, sampled=True),
    "logit adjustment": partial(outcome, tau=1.0),
    "adjusted in the loss": partial(outcome, added=1.0),
    "CutMix": partial(outcome, mixed=True),
    "CutMix, class weights": partial(outcome, mixed=True, weighted=True),
    "CutMix, logit adjustment": partial(outcome, mixed=True, tau=1.0),
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    study(__file__, VARIANTS, SEEDS, metric=METRIC)
