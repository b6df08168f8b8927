"""Compare ensembles with their members and with one long run.

What varies is the source of the members: four cycles of one run (a snapshot
ensemble), four short runs that take as many epochs in total, or four long
runs that take four times as many. For each source, the ensemble is compared
with its members alone. Everything else is fixed: 720 signs, the architecture,
SGD with a cosine that restarts after each cycle, and batches of 32. The
results are validation accuracy and loss.

Ensembles average probabilities, unless the name of the variant says
otherwise. Learning rate, batch size and lengths were chosen on other images
with other seeds (100 and above).
"""

from functools import lru_cache, partial

import torch
import torch.nn.functional as F
from common import cpu_trainer, run_study, seeded_resnet, sgd
from torch import Tensor

import cnnlab
from cnnlab.averaging import ensemble
from cnnlab.callbacks import SnapshotEnsemble
from cnnlab.schedules import warm_restarts


SEEDS = 5
METRIC = "valid_acc"
N_TRAIN, N_VALID, BATCH_SIZE, LR = 720, 960, 32, 0.1
MEMBERS = 4
SHORT = 4  # epochs of a cycle, or of a short run
LONG = MEMBERS * SHORT


@lru_cache
def run(seed: int, epochs: int, cycle: int) -> list[Tensor]:
    """Train with a restart after each cycle.

    Returns:
        The validation logits (N, K) at the end of each cycle.
    """
    data = cnnlab.load("pocket", n_train=N_TRAIN, n_valid=N_VALID)
    model = seeded_resnet(seed, len(data.classes))
    optimizer = sgd(model, LR)
    train = cnnlab.loader(data.train, BATCH_SIZE, shuffle=True, seed=seed)
    steps = cycle * len(train)
    snapshots = SnapshotEnsemble(steps)
    trainer = cpu_trainer(
        model,
        optimizer,
        seed,
        scheduler=cnnlab.attach(optimizer, warm_restarts(steps)),
        callbacks=[snapshots],
    )
    trainer.fit(train, epochs=epochs)
    valid = cnnlab.loader(data.valid, 256)
    members = snapshots.models(model)
    return [trainer.predict(valid, model=member) for member in members]


def snapshots(seed: int) -> list[Tensor]:
    """Return the logits of four members from one run with restarts."""
    return run(seed, LONG, SHORT)


def independent_runs(seed: int, epochs: int) -> list[Tensor]:
    """Return the logits of four runs with different seeds."""
    return [run(10 * seed + i, epochs, epochs)[0] for i in range(MEMBERS)]


def evaluate(probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    """Return the accuracy and the cross-entropy of probabilities (N, K)."""
    correct = probabilities.argmax(1) == labels
    log_probabilities = probabilities.clamp_min(1e-12).log()
    return {
        "valid_acc": correct.float().mean().item(),
        "valid_loss": F.nll_loss(log_probabilities, labels).item(),
    }


def valid_labels() -> Tensor:
    """Return the labels of the validation set, (N,)."""
    data = cnnlab.load("pocket", n_train=N_TRAIN, n_valid=N_VALID)
    return data.valid.labels


def average_probabilities(
    seed: int, *, members, newest: int = MEMBERS
) -> dict[str, float]:
    """Evaluate the ensemble of the newest members."""
    return evaluate(ensemble(members(seed)[-newest:]), valid_labels())


def average_logits(seed: int, *, members) -> dict[str, float]:
    """Evaluate the ensemble that averages logits, not probabilities."""
    logits = torch.stack(members(seed)).mean(0)
    return evaluate(logits.softmax(1), valid_labels())


def mean_member(seed: int, *, members) -> dict[str, float]:
    """Evaluate each member alone, and average the results."""
    labels = valid_labels()
    rows = [evaluate(logits.softmax(1), labels) for logits in members(seed)]
    return {
        name: sum(row[name] for row in rows) / len(rows) for name in rows[0]
    }


def last_member(seed: int, *, members) -> dict[str, float]:
    """Evaluate the last member alone."""
    return evaluate(members(seed)[-1].softmax(1), valid_labels())


short_runs = partial(independent_runs, epochs=SHORT)
long_runs = partial(independent_runs, epochs=LONG)
VARIANTS = {
    "snapshot ensemble": partial(average_probabilities, members=snapshots),
    "its members": partial(mean_member, members=snapshots),
    "its last member": partial(last_member, members=snapshots),
    "its last two members": partial(
        average_probabilities, members=snapshots, newest=2
    ),
    "one long run": partial(last_member, members=long_runs),
    "four short runs": partial(average_probabilities, members=short_runs),
    "a short run": partial(mean_member, members=short_runs),
    "four long runs": partial(average_probabilities, members=long_runs),
    "a long run": partial(mean_member, members=long_runs),
    "four long runs, logits averaged": partial(
        average_logits, members=long_runs
    ),
}


if __name__ == "__main__":
    run_study(__file__, VARIANTS, SEEDS, METRIC)
