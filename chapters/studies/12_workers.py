"""Find out when worker processes make data loading faster.

What varies is the number of workers (0, 1, 2 or 4) and the kind of work per
image: 3 ms of waiting, as for a disk or a network, or 3 ms of computing, as
for augmentation. Everything else is fixed: 256 signs, the network, SGD,
batches of 64 and three epochs. The results are wall time and processor time
of all processes together, each divided by its value without workers.

The machine has two cores and did nothing else meanwhile. The time to start
the workers is included: they are started anew for each measurement, and serve
three epochs. The claims were written after a first study and before this one
ran. In the first one the machine was busy with other work, so it had no wall
times for computing.
"""

import time
from functools import lru_cache, partial
from statistics import median

from common import (
    MACHINE,
    cpu_trainer,
    processor_seconds,
    run_study,
    seeded_resnet,
    sgd,
)
from torch.utils.data import Dataset

import cnnlab
from cnnlab.experiment import Claim, Declaration, fixed_data


SEEDS = 5
METRIC = "wall_ratio"
BATCH_SIZE, N_TRAIN, EPOCHS, TURNS = 64, 256, 3, 3
DELAY = 0.003  # seconds per image
WORKERS = (0, 1, 2, 4)
PROCESSOR = "processor_ratio"
DECLARATION = Declaration(
    "Which kind of work do worker processes make faster?",
    claims=[
        Claim("waits, 1 worker", "<", "waits, 0 workers", by=0.05),
        Claim("waits, 2 workers", "<", "waits, 1 worker", by=0.1),
        Claim("computes, 2 workers", "<", "computes, 0 workers", by=0.1),
        Claim(
            "computes, 4 workers",
            ">",
            "computes, 0 workers",
            metric=PROCESSOR,
        ),
    ],
    unit=fixed_data("the sentences are about the times of one machine"),
    fixed="256 signs, the network, SGD, batches of 64, 3 epochs, one thread",
)


class SlowDataset(Dataset):
    """A data set whose images take a few ms, by waiting or by computing."""

    def __init__(self, dataset, waits):
        self.dataset, self.waits = dataset, waits

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        if self.waits:
            time.sleep(DELAY)
        else:
            end = time.process_time() + DELAY
            while time.process_time() < end:
                pass
        return self.dataset[index]


def time_epochs(seed: int, waits: bool, workers: int) -> tuple[float, float]:
    """Train three epochs; return wall seconds and processor seconds."""
    data = cnnlab.load(
        "pocket", seed=seed, n_train=N_TRAIN, n_valid=12, n_test=12
    )
    model = seeded_resnet(seed, len(data.classes))
    trainer = cpu_trainer(model, sgd(model, 0.01), seed)
    wall_start, processor_start = time.perf_counter(), processor_seconds()
    batches = cnnlab.loader(
        SlowDataset(data.train, waits),
        BATCH_SIZE,
        shuffle=True,
        workers=workers,
    )
    trainer.fit(batches, epochs=EPOCHS)
    del batches  # ends the workers, so their processor time is counted
    wall = time.perf_counter() - wall_start
    return wall, processor_seconds() - processor_start


@lru_cache
def median_times(seed: int, waits: bool) -> dict[int, tuple[float, float]]:
    """Return median wall and processor seconds for each number of workers.

    The numbers of workers take turns.
    """
    times = {n: [] for n in WORKERS}
    for _ in range(TURNS):
        for n in WORKERS:
            times[n].append(time_epochs(seed, waits, n))
    return {
        n: (median(w for w, _ in pairs), median(p for _, p in pairs))
        for n, pairs in times.items()
    }


def outcome(seed: int, *, waits: bool, workers: int) -> dict[str, float]:
    """Return both ratios; without workers they are 1 by definition."""
    if not workers:
        return {"wall_ratio": 1.0, "processor_ratio": 1.0}
    times = median_times(seed, waits)
    wall, processor = (
        a / b for a, b in zip(times[workers], times[0], strict=True)
    )
    return {"wall_ratio": wall, "processor_ratio": processor}


VARIANTS = {
    f"{'waits' if waits else 'computes'}, {n} worker{'s' * (n != 1)}": partial(
        outcome, waits=waits, workers=n
    )
    for waits in (True, False)
    for n in WORKERS
}


if __name__ == "__main__":
    run_study(__file__, VARIANTS, SEEDS, METRIC, DECLARATION, machine=MACHINE)
