"""Time a training step with and without `torch.compile`.

What varies is whether the model is compiled. Everything else is fixed: the
network, one batch of 64 signs, SGD, and one thread. The result is the time of
the compiled step divided by the time of the plain step, so it is 1 for the
plain step. The table also has the seconds that compiling took.

Times are processor times. Each seed is one measurement in a new process with
an empty compiler cache, so nothing is compiled in advance. Plain and compiled
steps alternate, and the median of each is kept. The first two steps don't
count, because compiling happens there. The claim was written after a first
study, on a machine that was busy with other work, and before this one ran.
"""

import os
import subprocess
import sys
import tempfile
from functools import lru_cache, partial
from statistics import median
from time import process_time

import torch
import torch.nn.functional as F
from common import MACHINE, processor_seconds, run_study, sgd

import cnnlab
from cnnlab.experiment import Claim, Declaration, fixed_data


SEEDS = 5
METRIC = "ratio"
BATCH_SIZE, STEPS = 64, 25
DECLARATION = Declaration(
    "How much faster is a compiled step?",
    claims=[Claim("compiled", "<", "plain", by=0.2)],
    unit=fixed_data("the sentences are about the times of one machine"),
    fixed="the network, one batch of 64 signs, SGD, one thread",
)


def make_step(seed: int, compiled: bool):
    """Return a function that takes a training step and returns its seconds.

    Every step uses the same batch.
    """
    torch.manual_seed(seed)
    data = cnnlab.load("pocket", n_train=BATCH_SIZE, n_valid=12, n_test=12)
    images, labels = next(iter(cnnlab.loader(data.train, BATCH_SIZE)))
    model = cnnlab.small_resnet(len(data.classes))
    optimizer = sgd(model, 0.01)
    if compiled:
        model.compile()

    def step() -> float:
        start = process_time()
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        return process_time() - start

    return step


def print_times(seed: int) -> None:
    """Print ms of the plain and the compiled step, and s to compile."""
    plain, compiled = make_step(seed, False), make_step(seed, True)
    plain(), plain()
    start = processor_seconds()
    compiled(), compiled()
    first_two = processor_seconds() - start
    pairs = [(plain(), compiled()) for _ in range(STEPS)]
    ms = [1000 * median(times) for times in zip(*pairs, strict=True)]
    print(*ms, first_two - 2 * ms[1] / 1000)


@lru_cache
def time_in_new_process(seed: int) -> list[float]:
    """Return the three numbers of `print_times`, with an empty cache."""
    with tempfile.TemporaryDirectory() as cache:
        settings = {
            "TORCHINDUCTOR_CACHE_DIR": cache,
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        }
        process = subprocess.run(
            [sys.executable, __file__, str(seed)],
            env=os.environ | settings,
            capture_output=True,
            text=True,
            check=True,
        )
    return [float(number) for number in process.stdout.split()[-3:]]


def outcome(seed: int, *, compiled: bool) -> dict[str, float]:
    """Return the ratio, and the times that it was computed from."""
    if not compiled:
        return {"ratio": 1.0}
    plain_ms, compiled_ms, seconds = time_in_new_process(seed)
    return {
        "ratio": compiled_ms / plain_ms,
        "plain_ms": plain_ms,
        "compiled_ms": compiled_ms,
        "seconds_to_compile": seconds,
    }


VARIANTS = {
    "plain": partial(outcome, compiled=False),
    "compiled": partial(outcome, compiled=True),
}


if __name__ == "__main__":
    if len(sys.argv) > 1:
        torch.set_num_threads(1)
        print_times(int(sys.argv[1]))
    else:
        run_study(
            __file__, VARIANTS, SEEDS, METRIC, DECLARATION, machine=MACHINE
        )
