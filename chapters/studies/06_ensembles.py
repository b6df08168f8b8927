"""Ensembles against their members and against one long run, each with its cost in epochs.

A snapshot ensemble takes four cycles of one run, four short runs share the same budget, and four long runs cost four
times as much. Rate, batch and lengths were chosen on other images and other seeds (both from 100). All averages are
of probabilities, except where the name says otherwise.
"""

from functools import lru_cache, partial

import torch
import torch.nn.functional as F
from torch import Tensor

import cnnlab
from cnnlab.averaging import ensemble
from cnnlab.callbacks import SnapshotEnsemble
from cnnlab.experiment import study


SEEDS = 5
METRIC = "valid_acc"
N_TRAIN, N_VALID, BATCH, RATE = 720, 960, 32, 0.1
MEMBERS, CYCLE = (
    4,
    4,
)  # members of an ensemble; epochs of a cycle, or of a short run
LONG = MEMBERS * CYCLE


@lru_cache
def run(seed: int, epochs: int, cycle: int) -> list[Tensor]:
    """Train with a cosine that restarts after each cycle; return the validation logits at the end of each."""
    data = cnnlab.load("pocket", n_train=N_TRAIN, n_valid=N_VALID)
    torch.manual_seed(seed)
    model = cnnlab.small_resnet(len(data.classes))
    optimizer = torch.optim.SGD(model.parameters(), lr=RATE, momentum=0.9)
    train = cnnlab.loader(data.train, BATCH, shuffle=True, seed=seed)
    steps = cycle * len(train)
    snapshots = SnapshotEnsemble(steps)
    trainer = cnnlab.Trainer(
        model,
        optimizer,
        scheduler=cnnlab.attach(
            optimizer, cnnlab.schedules.warm_restarts(steps)
        ),
        callbacks=[snapshots],
        seed=seed,
        device="cpu",
        progress=False,
    )
    trainer.fit(train, epochs=epochs)
    valid = cnnlab.loader(data.valid, 256)
    return [
        trainer.predict(valid, model=member)
        for member in snapshots.models(model)
    ]


def snapshots(seed: int) -> list[Tensor]:
    """Four members from one run with restarts."""
    return run(seed, LONG, CYCLE)


def independent(seed: int, epochs: int) -> list[Tensor]:
    """Four members from four runs, each with weights and an order of its own."""
    return [run(10 * seed + i, epochs, epochs)[0] for i in range(MEMBERS)]


def quality(probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    """Accuracy, and the loss that the probabilities deserve."""
    log = probabilities.clamp_min(1e-12).log()
    return {
        "valid_acc": (probabilities.argmax(1) == labels)
        .float()
        .mean()
        .item(),
        "valid_loss": F.nll_loss(log, labels).item(),
    }


def labels() -> Tensor:
    """The right answers of the validation part."""
    return cnnlab.load(
        "pocket", n_train=N_TRAIN, n_valid=N_VALID
    ).valid.labels


def together(
    seed: int, *, members, newest: int = MEMBERS
) -> dict[str, float]:
    """The members as an ensemble."""
    return quality(ensemble(members(seed)[-newest:]), labels())


def averaged_logits(seed: int, *, members) -> dict[str, float]:
    """The same with logits averaged in place of probabilities."""
    return quality(torch.stack(members(seed)).mean(0).softmax(1), labels())


def each(seed: int, *, members) -> dict[str, float]:
    """The members on their own, on average."""
    told = [quality(logits.softmax(1), labels()) for logits in members(seed)]
    return {name: sum(t[name] for t in told) / len(told) for name in told[0]}


def last(seed: int, *, members) -> dict[str, float]:
    """The last member on its own."""
    return quality(members(seed)[-1].softmax(1), labels())


short_runs, long_runs = (
    partial(independent, epochs=CYCLE),
    partial(independent, epochs=LONG),
)
VARIANTS = {
    "snapshot ensemble": partial(together, members=snapshots),
    "its members": partial(each, members=snapshots),
    "its last member": partial(last, members=snapshots),
    "its last two members": partial(together, members=snapshots, newest=2),
    "one long run": partial(last, members=long_runs),
    "four short runs": partial(together, members=short_runs),
    "a short run": partial(each, members=short_runs),
    "four long runs": partial(together, members=long_runs),
    "a long run": partial(each, members=long_runs),
    "four long runs, logits averaged": partial(
        averaged_logits, members=long_runs
    ),
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    study(__file__, VARIANTS, SEEDS, metric=METRIC)
