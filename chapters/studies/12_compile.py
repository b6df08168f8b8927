"""Does `torch.compile` pay? A training step with and without it, and what compiling costs.

Times are those of the processor, one thread. Each seed is a measurement in a process of its own with an empty cache
of the compiler, so that nothing is compiled already; the steps of the two take turns there, and the median of all is
kept. The first two steps do not count: the first one compiles. The ratio is that of the compiled step to the plain one,
which makes it 1 for the plain one.
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

import cnnlab
from cnnlab.experiment import study


SEEDS = 5
METRIC = "ratio"
BATCH, STEPS = 64, 25
MACHINE = "two-core CPU with AVX-512, shared with other work; one thread"


def stepper(seed: int, compiled: bool):
    """Return a function that takes one training step on the same batch and tells its seconds."""
    torch.manual_seed(seed)
    data = cnnlab.load("pocket", n_train=BATCH, n_valid=12, n_test=12)
    images, labels = next(iter(cnnlab.loader(data.train, BATCH)))
    model = cnnlab.small_resnet(len(data.classes))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    if compiled:
        model.compile()

    def step() -> float:
        start = process_time()
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        return process_time() - start

    return step


def processor_seconds() -> float:
    """Return what this process and its finished children have used: the C++ compiler is one of them."""
    used = os.times()
    return used.user + used.system + used.children_user + used.children_system


def measured(seed: int) -> None:
    """Print milliseconds of the plain step, of the compiled one, and the seconds that compiling took."""
    plain, compiled = stepper(seed, False), stepper(seed, True)
    plain(), plain()
    start = processor_seconds()
    compiled(), compiled()
    first = processor_seconds() - start
    pairs = [(plain(), compiled()) for _ in range(STEPS)]
    ms = [1000 * median(column) for column in zip(*pairs, strict=True)]
    print(*ms, first - 2 * ms[1] / 1000)


@lru_cache
def in_a_fresh_process(seed: int) -> list[float]:
    """Measure with nothing compiled before."""
    with tempfile.TemporaryDirectory() as cache:
        settings = {
            "TORCHINDUCTOR_CACHE_DIR": cache,
            "TORCHINDUCTOR_COMPILE_THREADS": "1",
            "OMP_NUM_THREADS": "1",
        }
        done = subprocess.run(
            [sys.executable, __file__, str(seed)],
            env=os.environ | settings,
            capture_output=True,
            text=True,
            check=True,
        )
    return [float(number) for number in done.stdout.split()[-3:]]


def outcome(seed: int, *, compiled: bool) -> dict[str, float]:
    """Return the ratio, and what it was made of."""
    if not compiled:
        return {"ratio": 1.0}
    plain, fast, seconds = in_a_fresh_process(seed)
    return {
        "ratio": fast / plain,
        "plain_ms": plain,
        "compiled_ms": fast,
        "seconds_to_compile": seconds,
    }


VARIANTS = {
    "plain": partial(outcome, compiled=False),
    "compiled": partial(outcome, compiled=True),
}


if __name__ == "__main__":
    torch.set_num_threads(1)
    if len(sys.argv) > 1:
        measured(int(sys.argv[1]))
    else:
        results = study(__file__, VARIANTS, SEEDS, metric=METRIC)
        results.notes["machine"] = MACHINE
        results.save(__file__.replace(".py", ".csv"))
