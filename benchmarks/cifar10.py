"""CIFAR-10 against the clock, on a GPU: the recipe of chapter 12 beside airbench, the fastest public code to 94 %.

Both take turns over the same seeds on the same card, and each is timed twice. The training clock
runs from the first batch to the last, without what is prepared once (compiling, loading); the
user's clock runs from an empty model to the accuracy on the test part. With `--schedules` the
recipe runs with one-cycle and with step decay for more and more epochs, until each reaches the
accuracy.

`--short` runs the code on any machine, with a few small images in the place of CIFAR-10.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch

import cnnlab
from benchmarks.pairs import Pairs
from benchmarks.report import Row, Table, options, parser, write
from cnnlab.augment import Augment
from cnnlab.averaging import EMA
from cnnlab.data.images import DataBundle
from cnnlab.data.loaders import Loader


GOAL, ACCURACY = 1.15, 0.94
SEEDS, EPOCHS, WIDTH = 10, 20, 64
TRIED = (5, 10, 15, 20, 30, 40, 60, 80)  # epochs, for the schedules


class Run(NamedTuple):
    """A finished run: accuracy on the test part, and seconds by the two clocks."""

    accuracy: float
    training: float
    user: float


class Course:
    """The recipe of chapter 12 through the public API; `small` is for machines without a GPU."""

    def __init__(self, photos: DataBundle, device: str, *, small: bool = False) -> None:
        self.photos, self.device, self.small = photos, device, small

    def trainer(self, seed: int, epochs: int, schedule: str) -> tuple[cnnlab.Trainer, Loader]:
        """Return a trainer and its batches."""
        torch.manual_seed(seed)
        classes = len(self.photos.classes)
        model = cnnlab.small_resnet(classes, width=4 if self.small else WIDTH, depth=3)
        train = cnnlab.loader(
            self.photos.train,
            32 if self.small else 512,
            shuffle=True,
            seed=seed,
            device=self.device,
        )
        optimizer = torch.optim.SGD(
            model.parameters(), lr=0.4, momentum=0.9, weight_decay=5e-4, nesterov=True
        )
        steps = epochs * len(train)
        curves = {
            "one-cycle": [
                cnnlab.schedules.one_cycle(steps),
                cnnlab.schedules.one_cycle_momentum(steps),
            ],
            "step decay": [cnnlab.schedules.multistep([steps // 2, 3 * steps // 4])],
        }
        trainer = cnnlab.Trainer(
            model,
            optimizer,
            torch.nn.CrossEntropyLoss(label_smoothing=0.1),
            scheduler=cnnlab.attach(optimizer, *curves[schedule]),
            batch_transform=Augment(flip=0.5, crop_pad=4),
            precision="fp32" if self.small else "bf16",
            ema=EMA(model, decay=0.99),
            channels_last=True,
            compile=not self.small,
            seed=seed,
            device=self.device,
            progress=False,
        )
        return trainer, train

    def __call__(self, seed: int, epochs: int, schedule: str = "one-cycle") -> Run:
        """Train once; the accuracy is that of the averaged weights."""
        start = time.perf_counter()
        trainer, train = self.trainer(seed, epochs, schedule)
        history = trainer.fit(train, epochs=epochs)
        test = cnnlab.loader(self.photos.test, 1000, device=self.device)
        accuracy = trainer.evaluate(test, model=trainer.ema.model)["acc"]
        user = time.perf_counter() - start
        seconds = history.frame().seconds.tolist()
        steady = statistics.median(seconds[1:] or seconds)  # the first epoch compiles
        return Run(accuracy, steady * len(seconds), user)


class Airbench:
    """airbench 0.1 (Jordan 2024, https://arxiv.org/abs/2404.00498) as its package offers it; it needs CUDA."""

    def __init__(self, root: Path) -> None:
        import airbench

        self.bench = airbench
        options = {"flip": True, "translate": 2}
        self.train = airbench.CifarLoader(
            str(root), train=True, batch_size=1024, aug=options, altflip=True
        )
        self.test = airbench.CifarLoader(str(root), train=False, batch_size=2000)
        airbench.warmup94(train_loader=self.train)

    def __call__(self, seed: int, epochs: int) -> Run:
        """Train once with its own number of epochs; the accuracy is that with mirrored and shifted copies."""
        torch.manual_seed(seed)
        torch.cuda.synchronize()
        start = time.perf_counter()
        model = self.bench.train94(train_loader=self.train, run=seed, verbose=False)
        torch.cuda.synchronize()
        training = time.perf_counter() - start
        accuracy = float(self.bench.evaluate(model, self.test, 2))
        return Run(accuracy, training, time.perf_counter() - start)


def race(
    own: Callable[[int, int], Run], other: Callable[[int, int], Run], seeds: int, epochs: int
) -> list[list[Run]]:
    """Run both for each seed, who goes first changing from seed to seed; return the runs of each."""
    runs: dict[Callable, list[Run]] = {own: [], other: []}
    for seed in range(seeds):
        for contestant in (own, other) if seed % 2 else (other, own):
            runs[contestant].append(contestant(seed, epochs))
    return list(runs.values())


def table(own: Sequence[Run], other: Sequence[Run], reference: str) -> Table:
    """Return the seconds of both clocks over those of the reference; the notes tell the accuracies."""
    notes = [f"accuracy {summary([run.accuracy for run in runs])}" for runs in (own, other)]
    rows = [
        Row("**cnnlab**, training clock", Pairs([r.training for r in own], [r.training for r in other]), GOAL, note=notes[0]),
        Row("**cnnlab**, user's clock", Pairs([r.user for r in own], [r.user for r in other]), note=f"{reference}: {notes[1]}"),
    ]  # fmt: skip
    return Table("CIFAR-10 to the end", reference, "run", rows)


def summary(values: Sequence[float]) -> str:
    """Write the mean of some accuracies, and their spread.

    >>> summary([0.5, 0.75])
    '0.625 (0.500 to 0.750)'
    """
    return f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def epochs_to(
    course: Course, schedule: str, accuracy: float, seeds: int, tried: Sequence[int]
) -> str:
    """Say after how many epochs, of those tried, the mean accuracy over the seeds is reached."""
    reached: list[float] = []
    for epochs in tried:
        reached = [course(seed, epochs, schedule).accuracy for seed in range(seeds)]
        if statistics.mean(reached) >= accuracy:
            return f"{schedule}: {epochs} epochs, {summary(reached)}."
    return f"{schedule}: not in {tried[-1]} epochs, {summary(reached)}."


WORDS = (
    "Seconds of a run on the same card, over those of a run of the reference beside it. The "
    "training clock leaves out what "
    "is prepared once, the user's clock runs from an empty model to the accuracy on the test part."
)


def main(arguments: list[str] | None = None) -> list[Table]:
    """Measure and report."""
    extended = parser("cifar10")
    extended.add_argument("--root", type=Path, default=Path("cifar10"), help="folder of the data")
    extended.add_argument("--seeds", type=int, default=SEEDS)
    extended.add_argument("--epochs", type=int, default=EPOCHS)
    extended.add_argument("--schedules", action="store_true", help="also count epochs to 94 %%")
    chosen = options("cifar10", arguments, extended)
    if not chosen.short and not torch.cuda.is_available():
        raise SystemExit(
            "CIFAR-10 against the clock needs a GPU; --short tries the code without one"
        )
    if chosen.short:
        photos = cnnlab.load("pocket", n_train=96, n_valid=48, n_test=48, level="easy")
        course, tried, accuracy = Course(photos, "cpu", small=True), (1,), 0.0
        chosen.seeds, chosen.epochs = 2, 1
    else:
        photos = cnnlab.load("cifar10", root=chosen.root, download=True)
        course, tried, accuracy = Course(photos, "cuda"), TRIED, ACCURACY
    beside = find_spec("airbench") is not None and torch.cuda.is_available()
    reference = "airbench" if beside else "cnnlab, again"
    other = Airbench(chosen.root) if beside else Course(photos, course.device, small=course.small)
    words = WORDS
    if chosen.schedules or chosen.short:
        words += f" Epochs to an accuracy of {accuracy:g}: "
        words += " ".join(
            epochs_to(course, name, accuracy, min(chosen.seeds, 3), tried)
            for name in ("one-cycle", "step decay")
        )
    tables = [table(*race(course, other, chosen.seeds, chosen.epochs), reference)]
    write(
        "cifar10",
        "CIFAR-10 against the clock",
        words,
        tables,
        ["airbench"],
        chosen.out,
        f"{card()}; seconds by the clock",
    )
    return tables


def card() -> str:
    """Return the name of the GPU, or that there is none."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"


if __name__ == "__main__":
    main()
