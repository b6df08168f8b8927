"""Time CIFAR-10 to 94 % accuracy on a GPU, for chapter 12's recipe and for airbench.

airbench is the fastest public code for this task. The two alternate over the same seeds on the same
GPU, and each run is timed twice. The training clock runs from the first batch to the last and
leaves out one-time preparation such as compiling and loading. The user's clock runs from a new
model to its accuracy on the test set. With `--schedules`, the recipe also runs with one-cycle and
with step decay, for more and more epochs until each of them reaches the accuracy.

`--short` runs the code on any machine, with a few small images instead of CIFAR-10.
"""

import contextlib
import math
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple

import torch

import cnnlab
from benchmarks.pairs import Pairs
from benchmarks.report import Row, Table, options, parser, write
from cnnlab.augment import Augment
from cnnlab.averaging import EMA
from cnnlab.data.images import DataBundle, ImageSet
from cnnlab.data.loaders import Loader


GOAL, ACCURACY = 1.15, 0.94
SEEDS, EPOCHS, WIDTH = 10, 20, 64
EPOCH_COUNTS = (5, 10, 15, 20, 30, 40, 60, 80)  # for `--schedules`


class Run(NamedTuple):
    """A finished run: its accuracy on the test set, and its seconds by the two clocks."""

    accuracy: float
    training: float
    user: float


class Recipe:
    """Chapter 12's recipe, with the public API only; `small` is for machines without a GPU."""

    def __init__(self, data: DataBundle, device: str, *, small: bool = False) -> None:
        self.data, self.device, self.small = data, device, small

    def trainer(self, seed: int, epochs: int, schedule: str) -> tuple[cnnlab.Trainer, Loader]:
        """Return a trainer and its training loader."""
        torch.manual_seed(seed)
        classes = len(self.data.classes)
        model = cnnlab.small_resnet(classes, width=4 if self.small else WIDTH, depth=3)
        model.to(self.device)
        batch_size = 32 if self.small else 512
        train = cnnlab.loader(
            self.data.train, batch_size, shuffle=True, seed=seed, device=self.device
        )
        optimizer = torch.optim.SGD(
            model.parameters(),
            lr=0.4,
            momentum=0.9,
            weight_decay=5e-4,
            nesterov=True,
            fused=self.device != "cpu",  # so that no step waits for the GPU
        )
        steps = epochs * len(train)
        schedules = cnnlab.schedules
        curves = {
            "one-cycle": [schedules.one_cycle(steps), schedules.one_cycle_momentum(steps)],
            "step decay": [schedules.multistep([steps // 2, 3 * steps // 4])],
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
        """Train once and evaluate the averaged weights."""
        start = time.perf_counter()
        trainer, train = self.trainer(seed, epochs, schedule)
        history = trainer.fit(train, epochs=epochs)
        test = cnnlab.loader(self.data.test, 1000, device=self.device)
        accuracy = trainer.evaluate(test, model=trainer.ema.model)["acc"]
        user = time.perf_counter() - start
        seconds = history.frame().seconds.tolist()
        per_epoch = statistics.median(seconds[1:] or seconds)  # without the first, which compiles
        return Run(accuracy, per_epoch * len(seconds), user)


class Airbench:
    """The package airbench 0.1 (Jordan 2024, https://arxiv.org/abs/2404.00498); it needs CUDA.

    It reads the same images as the recipe, from the files that it would make after a download.
    """

    def __init__(self, data: DataBundle) -> None:
        import airbench

        self.bench = airbench
        self.folder = tempfile.TemporaryDirectory(prefix="airbench-")  # with the only name it knows
        root = Path(self.folder.name, "cifar10")
        write_for_airbench(data, root)
        options = {"flip": True, "translate": 2}
        with contextlib.chdir(self.folder.name):
            self.train = airbench.CifarLoader(
                "cifar10", train=True, batch_size=1024, aug=options, altflip=True
            )
            self.test = airbench.CifarLoader("cifar10", train=False, batch_size=2000)
            airbench.warmup94(train_loader=self.train)

    def __call__(self, seed: int, epochs: int) -> Run:
        """Train once, for airbench's own number of epochs, with test-time augmentation.

        airbench averages its predictions over mirrored and shifted copies of each image.
        """
        torch.manual_seed(seed)
        torch.cuda.synchronize()
        start = time.perf_counter()
        with contextlib.chdir(self.folder.name):
            model = self.bench.train94(train_loader=self.train, run=seed, verbose=False)
        torch.cuda.synchronize()
        training = time.perf_counter() - start
        accuracy = float(self.bench.evaluate(model, self.test, 2))
        return Run(accuracy, training, time.perf_counter() - start)


def write_for_airbench(data: DataBundle, root: Path) -> None:
    """Write the training and the test set as airbench stores them, channels last."""
    root.mkdir(parents=True, exist_ok=True)
    assert data.test is not None
    for name, split in {"train": data.train, "test": data.test}.items():
        images = split.pixels(torch.arange(len(split))).permute(0, 2, 3, 1).contiguous()
        content = {"images": images, "labels": split.labels, "classes": list(split.classes)}
        torch.save(content, root / f"{name}.pt")


def race(
    own: Callable[[int, int], Run],
    other: Callable[[int, int], Run],
    seeds: int,
    epochs: int,
    until: float = math.inf,
) -> list[list[Run]]:
    """Run both contestants with each seed, in alternating order, and return the runs of each.

    Args:
        own: trains once with a seed, for a number of epochs.
        other: likewise.
        seeds: the number of seeds.
        epochs: what the contestants get.
        until: no further seed is begun after this time of `time.perf_counter`.
    """
    runs: dict[Callable, list[Run]] = {own: [], other: []}
    for seed in range(seeds):
        if seed and time.perf_counter() > until:
            break
        for contestant in (own, other) if seed % 2 else (other, own):
            runs[contestant].append(contestant(seed, epochs))
    return list(runs.values())


def table(own: Sequence[Run], other: Sequence[Run], reference: str) -> Table:
    """Compare both clocks with those of the reference; the notes give the accuracies."""

    def pairs(clock: str) -> Pairs:
        return Pairs([getattr(run, clock) for run in own], [getattr(run, clock) for run in other])

    notes = [f"accuracy {summary([run.accuracy for run in runs])}" for runs in (own, other)]
    rows = [
        Row("**cnnlab**, training clock", pairs("training"), GOAL, note=notes[0]),
        Row("**cnnlab**, user's clock", pairs("user"), note=f"{reference}: {notes[1]}"),
    ]
    return Table("CIFAR-10 to the end", reference, "run", rows)


def summary(values: Sequence[float]) -> str:
    """Format the mean of some accuracies, with their minimum and maximum.

    >>> summary([0.5, 0.75])
    '0.625 (0.500 to 0.750)'
    """
    return f"{statistics.mean(values):.3f} ({min(values):.3f} to {max(values):.3f})"


def epochs_to(
    recipe: Recipe, schedule: str, accuracy: float, seeds: int, epoch_counts: Sequence[int]
) -> str:
    """Report the first epoch count for which the mean accuracy over the seeds is high enough."""
    accuracies: list[float] = []
    for epochs in epoch_counts:
        accuracies = [recipe(seed, epochs, schedule).accuracy for seed in range(seeds)]
        if statistics.mean(accuracies) >= accuracy:
            return f"{schedule}: {epochs} epochs, {summary(accuracies)}."
    return f"{schedule}: not within {epoch_counts[-1]} epochs, {summary(accuracies)}."


DESCRIPTION = (
    "Each ratio is the time of a run divided by the time of the reference's run with the same "
    "seed, on the same GPU. The training clock leaves out one-time preparation. The user's clock "
    "runs from a new model to its accuracy on the test set."
)


def main(arguments: list[str] | None = None) -> list[Table]:
    """Run the benchmark and write its tables."""
    extended = parser("cifar10")
    extended.add_argument("--root", type=Path, default=Path("cifar10"), help="data folder")
    extended.add_argument("--seeds", type=int, default=SEEDS)
    extended.add_argument("--epochs", type=int, default=EPOCHS)
    extended.add_argument("--schedules", action="store_true", help="also count the epochs to 94 %%")
    args = options("cifar10", arguments, extended)
    if not args.short and not torch.cuda.is_available():
        raise SystemExit(
            "CIFAR-10 against the clock needs a GPU; use --short to try the code without one"
        )
    if args.short:
        data = cnnlab.load("pocket", n_train=96, n_valid=48, n_test=48, level="easy")
        recipe, epoch_counts, accuracy = Recipe(data, "cpu", small=True), (1,), 0.0
        args.seeds, args.epochs = 2, 1
    else:
        data = load_cifar10(args.root)
        recipe, epoch_counts, accuracy = Recipe(data, "cuda"), EPOCH_COUNTS, ACCURACY
    available = find_spec("airbench") is not None and torch.cuda.is_available()
    reference = "airbench" if available else "cnnlab, again"
    other = Airbench(data) if available else Recipe(data, recipe.device, small=recipe.small)
    description = DESCRIPTION
    if args.schedules or args.short:
        description += f" Epochs to an accuracy of {accuracy:g}: "
        description += " ".join(
            epochs_to(recipe, name, accuracy, min(args.seeds, 3), epoch_counts)
            for name in ("one-cycle", "step decay")
        )
    tables = [table(*race(recipe, other, args.seeds, args.epochs), reference)]
    title, conditions = "CIFAR-10 against the clock", f"{gpu_name()}, wall-clock time"
    write("cifar10", title, description, tables, ["airbench"], args.out, conditions)
    return tables


def load_cifar10(folder: Path) -> DataBundle:
    """Load CIFAR-10 from JPEG files in train/ and test/, or from its original files.

    The original files are downloaded if the folder doesn't contain them. Records are made with all
    50,000 training images, so the validation set belongs to the training set again.
    """
    if (folder / "train").is_dir():
        data = cnnlab.from_folder(folder, on_error="skip")
    else:
        data = cnnlab.load("cifar10", root=folder, download=True)
    parts = [split for split in (data.train, data.valid) if split is not None]
    pixels = torch.cat([split.pixels(torch.arange(len(split))) for split in parts])
    labels = torch.cat([split.labels for split in parts])
    return replace(data, train=ImageSet(pixels, labels, data.classes))


def gpu_name() -> str:
    """Return the name of the GPU, or "no GPU"."""
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"


if __name__ == "__main__":
    main()
