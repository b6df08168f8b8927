"""What a training step costs: ways to load, a layout, a number format, microbatches, each against the plain step.

Times are those of the processor with one thread, for an epoch of the `Trainer`. The variants take turns, and the
median of all turns is kept. The ratio is that to the plain step (pictures in memory, float32, channels first, the
batch as a whole), which makes it 1 for the plain one; "plain, again" is the same thing measured twice and shows how
far to trust the others. Nothing was chosen here, so there was nothing to choose on other seeds.
"""

from functools import lru_cache, partial
from statistics import median
from time import process_time

import torch
from torch.utils.data import Dataset

import cnnlab
from cnnlab.augment import Augment
from cnnlab.experiment import study


SEEDS = 6
METRIC = "ratio"
BATCH, STEPS, TURNS = 64, 4, 9
MACHINE = "two-core CPU with AVX-512, shared with other work; one thread"
LIGHT = Augment(flip=0.5, crop_pad=4)


class OneByOne(Dataset):
    """Gives one picture at a time, as a data set of files does, and changes each by itself if asked to."""

    def __init__(self, part, augment=None):
        self.part, self.augment = part, augment

    def __len__(self):
        return len(self.part)

    def __getitem__(self, index):
        image, label = self.part[index]
        if self.augment is not None:
            image = self.augment(image[None])[0]
        return image, label


def trainer_for(seed: int, data, **options) -> cnnlab.Trainer:
    """A fresh network of the course, wider if asked to, with its trainer."""
    torch.manual_seed(seed)
    model = cnnlab.small_resnet(
        len(data.classes), width=options.pop("width", 16)
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
    return cnnlab.Trainer(
        model, optimizer, seed=seed, device="cpu", progress=False, **options
    )


@lru_cache
def measured(seed: int) -> dict[str, float]:
    """Return milliseconds a step for each variant."""
    data = cnnlab.load(
        "pocket", seed=seed, n_train=BATCH * STEPS, n_valid=12, n_test=12
    )
    train, whole = data.train, {"batch_size": BATCH, "shuffle": True}
    memory = cnnlab.loader(train, **whole)
    make = partial(trainer_for, seed, data)
    runs = {
        "plain": (make(), memory),
        "plain, again": (make(), memory),
        "one image at a time": (
            make(),
            cnnlab.loader(OneByOne(train), **whole),
        ),
        "Augment, whole batches": (make(batch_transform=LIGHT), memory),
        "Augment, one image at a time": (
            make(),
            cnnlab.loader(OneByOne(train, LIGHT), **whole),
        ),
        "channels last": (make(channels_last=True), memory),
        "bf16": (make(precision="bf16"), memory),
        "microbatches of 16": (make(microbatch=16), memory),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(TURNS + 1):
        for name, (trainer, batches) in runs.items():
            start = process_time()
            trainer.fit(batches, epochs=trainer.epoch + 1)
            if turn:  # the first one is for warming up
                times[name].append(1000 * (process_time() - start) / STEPS)
    return {name: median(column) for name, column in times.items()}


def outcome(seed: int, *, name: str) -> dict[str, float]:
    """Return the ratio of a variant, and the milliseconds it was made of."""
    if name == "plain":
        return {"ratio": 1.0}
    ms = measured(seed)
    return {
        "ratio": ms[name] / ms["plain"],
        "ms": ms[name],
        "plain_ms": ms["plain"],
    }


NAMES = (
    "plain",
    "plain, again",
    "one image at a time",
    "Augment, whole batches",
    "Augment, one image at a time",
    "channels last",
    "bf16",
    "microbatches of 16",
)
VARIANTS = {name: partial(outcome, name=name) for name in NAMES}


if __name__ == "__main__":
    torch.set_num_threads(1)
    results = study(__file__, VARIANTS, SEEDS, metric=METRIC)
    results.notes["machine"] = MACHINE
    results.save(__file__.replace(".py", ".csv"))
