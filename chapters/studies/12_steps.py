"""Time variants of a training step against the plain step.

What varies is one property of the step at a time: how images are loaded and
augmented, the memory layout, the precision, or microbatches. Everything else
is fixed: 256 signs, the network, SGD, batches of 64, and one thread. The
result is the time of an epoch divided by the time of a plain epoch (images in
memory, float32, channels first, whole batches), so it is 1 for the plain one.
"plain, again" measures the same thing twice and shows how accurate the other
ratios are.

Times are processor times of an epoch of the `Trainer`. The variants take
turns, and the median of all turns is kept. Nothing was tuned. The claims were
written after a first study, on a machine that was busy with other work. A
second study had nine turns, in which the plain step and its repetition
differed by up to 21 %, so this one has 45.
"""

from functools import lru_cache, partial
from statistics import median
from time import process_time

from common import MACHINE, cpu_trainer, run_study, seeded_resnet, sgd
from torch.utils.data import Dataset

import cnnlab
from cnnlab.augment import Augment
from cnnlab.experiment import Claim, Declaration, fixed_data


SEEDS = 6
METRIC = "ratio"
BATCH_SIZE, STEPS, TURNS = 64, 4, 45
AUGMENT = Augment(flip=0.5, crop_pad=4)
DECLARATION = Declaration(
    "How much time does each way to prepare and compute a batch take?",
    claims=[
        Claim("plain, again", "~", "plain", by=0.1),
        Claim("one image at a time", ">", "plain, again", by=0.2),
        Claim(
            "Augment, one image at a time",
            ">",
            "Augment, whole batches",
            by=1,
        ),
        Claim("Augment, whole batches", "~", "plain, again", by=0.15),
        Claim("channels last", "<", "plain, again", by=0.05),
        Claim("microbatches of 16", ">", "plain, again", by=0.2),
    ],
    unit=fixed_data("the sentences are about the times of one machine"),
    fixed="256 signs, the network, SGD, batches of 64, one thread",
)


class OneByOne(Dataset):
    """A data set that returns, and may augment, one image at a time.

    Data sets of image files work like this.
    """

    def __init__(self, dataset, augment=None):
        self.dataset, self.augment = dataset, augment

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        image, label = self.dataset[index]
        if self.augment is not None:
            image = self.augment(image[None])[0]
        return image, label


@lru_cache
def step_times(seed: int) -> dict[str, float]:
    """Return the milliseconds per step of each variant."""
    data = cnnlab.load(
        "pocket", seed=seed, n_train=BATCH_SIZE * STEPS, n_valid=12, n_test=12
    )

    def new_trainer(**options):
        model = seeded_resnet(seed, len(data.classes))
        return cpu_trainer(model, sgd(model, 0.01), seed, **options)

    def new_loader(dataset):
        return cnnlab.loader(dataset, BATCH_SIZE, shuffle=True)

    one_by_one = OneByOne(data.train)
    augmented = OneByOne(data.train, AUGMENT)
    memory = new_loader(data.train)
    runs = {
        "plain": (new_trainer(), memory),
        "plain, again": (new_trainer(), memory),
        "one image at a time": (new_trainer(), new_loader(one_by_one)),
        "Augment, whole batches": (
            new_trainer(batch_transform=AUGMENT),
            memory,
        ),
        "Augment, one image at a time": (
            new_trainer(),
            new_loader(augmented),
        ),
        "channels last": (new_trainer(channels_last=True), memory),
        "bf16": (new_trainer(precision="bf16"), memory),
        "microbatches of 16": (new_trainer(microbatch=16), memory),
    }
    times: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(TURNS + 1):
        for name, (trainer, batches) in runs.items():
            start = process_time()
            trainer.fit(batches, epochs=trainer.epoch + 1)
            if turn:  # the first turn is a warm-up
                times[name].append(1000 * (process_time() - start) / STEPS)
    return {name: median(ms) for name, ms in times.items()}


def outcome(seed: int, *, name: str) -> dict[str, float]:
    """Return the ratio of a variant, and the times it was computed from."""
    if name == "plain":
        return {"ratio": 1.0}
    ms = step_times(seed)
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
    run_study(__file__, VARIANTS, SEEDS, METRIC, DECLARATION, machine=MACHINE)
