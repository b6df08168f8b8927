"""Worker processes for pictures that must be waited for, and for pictures that must be computed.

An epoch is trained on pictures that each take 3 ms to arrive, in one case by waiting (a disk, a network), in the other
by computing. Wall time and processor time of all processes together, both as ratios to no workers in the same case. The
machine was shared with other work, so the wall time of the case that computes says nothing and is not kept; waiting is
not in the way of others. The workers' start is counted: they are started for each measurement, and serve three epochs.
"""

import os
import time
from functools import lru_cache, partial
from statistics import median

import torch
from torch.utils.data import Dataset

import cnnlab
from cnnlab.experiment import study


SEEDS = 5
METRIC = "wall_ratio"
BATCH, N_TRAIN, EPOCHS, TURNS = 64, 256, 3, 3
DELAY = 0.003  # seconds a picture
WORKERS = (0, 1, 2, 4)
MACHINE = "two-core CPU with AVX-512, shared with other work; one thread"


class Slow(Dataset):
    """Gives one picture at a time, after some milliseconds of waiting or of computing."""

    def __init__(self, part, waits):
        self.part, self.waits = part, waits

    def __len__(self):
        return len(self.part)

    def __getitem__(self, index):
        if self.waits:
            time.sleep(DELAY)
        else:
            end = time.process_time() + DELAY
            while time.process_time() < end:
                pass
        return self.part[index]


def processor_seconds() -> float:
    """Return what this process and its finished children have used."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def epoch(seed: int, waits: bool, workers: int) -> tuple[float, float]:
    """Train three epochs; return wall seconds and processor seconds, the workers' included."""
    data = cnnlab.load(
        "pocket", seed=seed, n_train=N_TRAIN, n_valid=12, n_test=12
    )
    torch.manual_seed(seed)
    model = cnnlab.small_resnet(len(data.classes))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    trainer = cnnlab.Trainer(
        model, optimizer, seed=seed, device="cpu", progress=False
    )
    wall, used = time.perf_counter(), processor_seconds()
    batches = cnnlab.loader(
        Slow(data.train, waits), BATCH, shuffle=True, workers=workers
    )
    trainer.fit(batches, epochs=EPOCHS)
    del batches  # ends the workers
    return time.perf_counter() - wall, processor_seconds() - used


@lru_cache
def measured(seed: int, waits: bool) -> dict[int, tuple[float, float]]:
    """Return the medians of wall and processor seconds for each number of workers, which take turns."""
    times = {n: [] for n in WORKERS}
    for _ in range(TURNS):
        for n in WORKERS:
            times[n].append(epoch(seed, waits, n))
    return {
        n: (median(w for w, _ in rows), median(u for _, u in rows))
        for n, rows in times.items()
    }


def outcome(seed: int, *, waits: bool, workers: int) -> dict[str, float]:
    """Return both ratios to no workers; no workers are 1 by definition."""
    if not workers:
        return {"wall_ratio": 1.0, "processor_ratio": 1.0}
    found = measured(seed, waits)
    wall, used = (
        a / b for a, b in zip(found[workers], found[0], strict=True)
    )
    return {
        "wall_ratio": wall if waits else float("nan"),
        "processor_ratio": used,
    }


VARIANTS = {
    f"{'waits' if waits else 'computes'}, {n} worker{'s' * (n != 1)}": partial(
        outcome, waits=waits, workers=n
    )
    for waits in (True, False)
    for n in WORKERS
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    results = study(__file__, VARIANTS, SEEDS, metric=METRIC)
    results.notes["machine"] = MACHINE
    results.save(__file__.replace(".py", ".csv"))
