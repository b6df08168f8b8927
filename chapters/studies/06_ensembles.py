"""Compare ensembles with their members and with one long run.

What varies is the source of the members: four cycles of one run (a snapshot
ensemble), four short runs that take as many epochs in total, or four long
runs that take four times as many. For each source, the ensemble is compared
with its members alone. Everything else is fixed: 720 signs, the architecture,
SGD with a cosine that restarts after each cycle, and batches of 32. Each seed
draws its own signs, and all the members of an ensemble train on the same
ones. The results are accuracy and loss on 5,000 validation signs.

Ensembles average probabilities, unless the name of the variant says
otherwise. Learning rate, batch size and lengths were chosen on other images
with other seeds (100 and above). The claims were written after a first study
(with five seeds on one fixed set of signs, 960 of them for validation) and
before this one ran.
"""

from functools import lru_cache, partial

import torch
import torch.nn.functional as F
from common import cpu_trainer, run_study, seeded_resnet, sgd
from torch import Tensor

import cnnlab
from cnnlab.averaging import ensemble
from cnnlab.callbacks import SnapshotEnsemble
from cnnlab.data import DataBundle
from cnnlab.experiment import Claim, Declaration, budget, fresh_data
from cnnlab.rng import fold_in
from cnnlab.schedules import warm_restarts


SEEDS = 6
METRIC = "valid_acc"
N_TRAIN, N_VALID, BATCH_SIZE, LR = 720, 5000, 32, 0.1
MEMBERS = 4
SHORT = 4  # epochs of a cycle, or of a short run
LONG = MEMBERS * SHORT
LOGITS = "four long runs, logits averaged"
DECLARATION = Declaration(
    "Is an ensemble better than one long run that costs as much?",
    claims=[
        Claim("snapshot ensemble", "~", "one long run", by=0.02),
        Claim("four short runs", "<", "one long run", by=0.03),
        Claim("snapshot ensemble", "<", "one long run", 0.03, "valid_loss"),
        Claim("four long runs", ">", "one long run"),
        Claim("four long runs", "<", "one long run", 0.05, "valid_loss"),
        Claim("four long runs", "~", LOGITS, by=0.01),
    ],
    unit=fresh_data(),
    fixed="720 signs per seed, the network, SGD with momentum 0.9, cosines "
    "from a learning rate of 0.1, batches of 32",
    unequal={
        "four long runs": "they cost four times as much, and the question is "
        "what that buys",
        LOGITS: "the same four long runs",
    },
)


@lru_cache(maxsize=1)
def signs(seed: int) -> DataBundle:
    """Load the signs of a seed."""
    return cnnlab.load(
        "pocket", seed=seed, n_train=N_TRAIN, n_valid=N_VALID, n_test=96
    )


@lru_cache(maxsize=16)
def run(seed: int, member: int, epochs: int, cycle: int) -> list[Tensor]:
    """Train on the signs of a seed, with a restart after each cycle.

    Args:
        seed: draws the signs.
        member: with the seed, determines the weights and the order.
        epochs: number of epochs.
        cycle: number of epochs of each cycle.

    Returns:
        The validation logits (N, K) at the end of each cycle.
    """
    data, member_seed = signs(seed), fold_in(seed, member)
    model = seeded_resnet(member_seed, len(data.classes))
    optimizer = sgd(model, LR)
    train = cnnlab.loader(
        data.train, BATCH_SIZE, shuffle=True, seed=member_seed
    )
    steps = cycle * len(train)
    snapshots = SnapshotEnsemble(steps)
    trainer = cpu_trainer(
        model,
        optimizer,
        member_seed,
        scheduler=cnnlab.attach(optimizer, warm_restarts(steps)),
        callbacks=[snapshots],
    )
    trainer.fit(train, epochs=epochs)
    valid = cnnlab.loader(data.valid, 256)
    members = snapshots.models(model)
    return [trainer.predict(valid, model=member) for member in members]


def snapshots(seed: int) -> list[Tensor]:
    """Return the logits of four members from one run with restarts."""
    return run(seed, 0, LONG, SHORT)


def independent_runs(seed: int, epochs: int) -> list[Tensor]:
    """Return the logits of four runs with different weights and orders."""
    return [run(seed, i, epochs, epochs)[0] for i in range(MEMBERS)]


def evaluate(probabilities: Tensor, labels: Tensor) -> dict[str, float]:
    """Return the accuracy and the cross-entropy of probabilities (N, K)."""
    correct = probabilities.argmax(1) == labels
    log_probabilities = probabilities.clamp_min(1e-12).log()
    return {
        "valid_acc": correct.float().mean().item(),
        "valid_loss": F.nll_loss(log_probabilities, labels).item(),
    }


def used(epochs: int) -> dict[str, int]:
    """Return the budget of a number of epochs."""
    return budget(labels=N_TRAIN, steps=epochs * (N_TRAIN // BATCH_SIZE))


def average_probabilities(
    seed: int, *, members, epochs: int = LONG, newest: int = MEMBERS
) -> dict[str, float]:
    """Evaluate the ensemble of the newest members."""
    labels = signs(seed).valid.labels
    return evaluate(ensemble(members(seed)[-newest:]), labels) | used(epochs)


def average_logits(seed: int, *, members, epochs: int) -> dict[str, float]:
    """Evaluate the ensemble that averages logits, not probabilities."""
    logits = torch.stack(members(seed)).mean(0)
    labels = signs(seed).valid.labels
    return evaluate(logits.softmax(1), labels) | used(epochs)


def mean_member(seed: int, *, members, epochs: int) -> dict[str, float]:
    """Evaluate each member alone, and average the results."""
    labels = signs(seed).valid.labels
    rows = [evaluate(logits.softmax(1), labels) for logits in members(seed)]
    means = {
        name: sum(row[name] for row in rows) / len(rows) for name in rows[0]
    }
    return means | used(epochs)


def last_member(seed: int, *, members) -> dict[str, float]:
    """Evaluate the last member alone."""
    labels = signs(seed).valid.labels
    return evaluate(members(seed)[-1].softmax(1), labels) | used(LONG)


short_runs = partial(independent_runs, epochs=SHORT)
long_runs = partial(independent_runs, epochs=LONG)
VARIANTS = {
    "snapshot ensemble": partial(average_probabilities, members=snapshots),
    "its members": partial(mean_member, members=snapshots, epochs=LONG),
    "its last member": partial(last_member, members=snapshots),
    "its last two members": partial(
        average_probabilities, members=snapshots, newest=2
    ),
    "one long run": partial(last_member, members=long_runs),
    "four short runs": partial(average_probabilities, members=short_runs),
    "a short run": partial(mean_member, members=short_runs, epochs=SHORT),
    "four long runs": partial(
        average_probabilities, members=long_runs, epochs=MEMBERS * LONG
    ),
    "a long run": partial(mean_member, members=long_runs, epochs=LONG),
    LOGITS: partial(average_logits, members=long_runs, epochs=MEMBERS * LONG),
}


if __name__ == "__main__":
    run_study(__file__, VARIANTS, SEEDS, METRIC, DECLARATION)
