"""Class weights and logit adjustment in a run three times as long, until nearly every training image is learnt.

Images, counts, batch and the kind of schedule are those of 11_balancing.py, so that the runs with the same seed can
be compared. The rate and both lengths were chosen on other images and other seeds (both from 100).
"""

from functools import lru_cache, partial

import torch
from sklearn.metrics import balanced_accuracy_score, recall_score
from torch import Tensor, nn

import cnnlab
from cnnlab.data import class_weights, logit_adjustment
from cnnlab.experiment import study


SEEDS = 6
METRIC = "balanced_acc"
COUNTS = [10, 14, 20, 27, 38, 53, 75, 105, 146, 205, 286, 400]
K, N_TEST, EPOCHS, BATCH, RATE = len(COUNTS), 960, 30, 64, 0.1


@lru_cache(maxsize=2)
def signs(seed: int) -> cnnlab.data.DataBundle:
    """Images of the seed, and counts in the order of the seed."""
    deal = torch.randperm(K, generator=torch.Generator().manual_seed(seed))
    counts = [COUNTS[i] for i in deal.tolist()]
    return cnnlab.load(
        "pocket", seed=seed, counts=counts, n_valid=96, n_test=N_TEST
    )


@lru_cache
def logits(seed: int, *, weighted: bool = False) -> tuple[Tensor, float]:
    """Train once; return the logits of the test part, and the accuracy on the training images."""
    data = signs(seed)
    labels = data.train.labels
    torch.manual_seed(seed)
    model = cnnlab.small_resnet(K)
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9)
    batches = cnnlab.loader(data.train, BATCH, shuffle=True, seed=seed)
    trainer = cnnlab.Trainer(
        model,
        optimizer,
        nn.CrossEntropyLoss(class_weights(labels) if weighted else None),
        scheduler=cnnlab.attach(
            optimizer, cnnlab.schedules.cosine(EPOCHS * len(batches))
        ),
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
    }


VARIANTS = {
    "plain, long": outcome,
    "class weights, long": partial(outcome, weighted=True),
    "logit adjustment, long": partial(outcome, tau=1.0),
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    study(__file__, VARIANTS, SEEDS, metric=METRIC)
