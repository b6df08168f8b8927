"""Test and measure on a GPU everything that needs one, within eight minutes, offline.

`make gpu CIFAR10=folder` runs, in this order: the tests marked `gpu`, the augmentation beside
kornia's, the trainer beside a bare loop and Lightning, and CIFAR-10 beside airbench. The folder has
CIFAR-10 as JPEG files, in one folder per class in `train` and `test`, or its original files.
Without the folder the last part is left out.

`--short --device cpu` runs the code on any machine; its numbers mean nothing.
"""

import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch

import cnnlab
from benchmarks import augment, cifar10, loops, regimes, trainer
from benchmarks.pairs import in_turn
from benchmarks.regimes import Regime
from benchmarks.report import Row, Table, installed, options, parser, write


ROOT = Path(__file__).parents[1]
# Only the files that have such tests, because collecting all of them takes long.
TESTS = [
    *("-m", "gpu"),
    *(
        str(path)
        for path in sorted((ROOT / "tests").glob("test_*.py"))
        if "mark.gpu" in path.read_text("utf-8")
    ),
]
LIMIT = 8 * 60.0  # seconds for everything
LAST_SEED = LIMIT - 90  # no further run with CIFAR-10 is begun after this many seconds
SEEDS, ROUNDS = 5, 15

LARGE = Regime(
    name="small_resnet of 11 million weights, 32 px, batches of 512",
    network=partial(cnnlab.small_resnet, regimes.CLASSES, width=64, depth=3),
    shape=(3, 32, 32),
    batch_size=512,
    steps=20,
    epochs=ROUNDS,
    goal=1.02,
)
REGIMES = [
    replace(regimes.REGIMES["Z"], epochs=ROUNDS),
    replace(regimes.REGIMES["R"], steps=50, epochs=ROUNDS),
    LARGE,
]
SETTINGS = [
    augment.Setting(size=32, pad=4, batch=512, full=True, rounds=ROUNDS),
    augment.Setting(size=32, pad=4, batch=512, full=False, rounds=ROUNDS),
    augment.Setting(size=224, pad=16, batch=64, full=True, rounds=ROUNDS),
]


def run_tests() -> tuple[bool, str]:
    """Run the tests that need a GPU; return whether all passed, and pytest's last line."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    print(done.stdout, done.stderr, flush=True)
    lines = done.stdout.strip().splitlines() or ["no output"]
    return done.returncode == 0, lines[-1].strip("= ")


def waiting_clock(device: str) -> Callable[[], float]:
    """Return a clock that waits for the device before it is read."""

    def clock() -> float:
        if device != "cpu":
            torch.cuda.synchronize()
        return time.perf_counter()

    return clock


def augment_table(setting: augment.Setting, device: str) -> Table:
    """Time cnnlab's augmentation on the device, in turn with kornia's and with none."""
    images = setting.images().to(device)
    peers = {"kornia": augment.kornia_pipeline} if installed(["kornia"], of="gpu") else {}
    factories = {
        "cnnlab, again": augment.cnnlab_pipeline,
        "no augmentation: index and normalise": augment.no_augmentation,
        **peers,
    }
    turns = {
        name: augment.random_batch(setting, factory(setting, images), device)
        for name, factory in factories.items()
    }
    reference = augment.random_batch(setting, augment.cnnlab_pipeline(setting, images), device)
    times = in_turn(reference, turns, setting.rounds, waiting_clock(device))
    rows = [Row(name, times[name], unit=setting.batch) for name in turns]
    return Table(f"Augmentation, {setting.title}", "cnnlab", "image", rows)


def trainer_table(regime: Regime, device: str) -> Table:
    """Time cnnlab and Lightning on the device, each in turn with the bare loop."""
    contestants = {"bare loop, again": loops.train_bare_loop, "**cnnlab**": loops.train_cnnlab}
    if installed(["lightning"], of="gpu"):
        contestants["Lightning"] = loops.train_lightning
    rows = []
    for name, train in contestants.items():
        pairs = trainer.time_epochs(regime, train, regime.epochs, device, waiting_clock(device))
        goal = regime.goal if train is loops.train_cnnlab and not regime.with_metrics else None
        rows.append(Row(name, pairs, goal, unit=regime.steps))
    return Table(f"Trainer, {regime.name}", "bare loop", "step", rows)


def cifar10_table(folder: Path | None, device: str, short: bool, until: float) -> Table | None:
    """Race chapter 12's recipe with airbench; None without the data."""
    if short:
        data = cnnlab.load("pocket", n_train=96, n_valid=48, n_test=48, level="easy")
    elif folder is None:
        return None
    else:
        data = cifar10.load_cifar10(folder)
    recipe = cifar10.Recipe(data, device, small=short)
    available = device != "cpu" and installed(["airbench"], of="gpu")
    other = cifar10.Airbench(data) if available else cifar10.Recipe(data, device, small=short)
    seeds, epochs = (2, 1) if short else (SEEDS, cifar10.EPOCHS)
    runs = cifar10.race(recipe, other, seeds, epochs, until)
    return cifar10.table(*runs, "airbench" if available else "cnnlab, again")


DESCRIPTION = (
    "Each ratio is the time of a contestant divided by the time of the reference in the turn next "
    "to it, by a clock that waits for the GPU. Images are on the GPU from the beginning, and every "
    "trainer uses the fused form of SGD with momentum. The tests: {tests}. {cifar10}"
)


def main(arguments: list[str] | None = None) -> list[Table]:
    """Run the tests and the benchmarks, and write their tables.

    Raises:
        SystemExit: there is no GPU, or a test failed; in the second case after writing.
    """
    start = time.perf_counter()
    extended = parser("gpu")
    extended.add_argument("--cifar10", type=Path, help="folder of CIFAR-10, JPEG or original files")
    extended.add_argument("--device", choices=("cuda", "cpu"), help="cpu only with --short")
    args = options("gpu", arguments, extended)
    found = torch.cuda.is_available()
    device = args.device or ("cpu" if args.short and not found else "cuda")
    if device == "cpu" and not args.short:
        raise SystemExit("--device cpu only tries the code: add --short.")
    if device == "cuda" and not found:
        raise SystemExit("torch finds no CUDA GPU on this machine, so nothing was measured.")
    passed, summary = run_tests()
    settings, chosen = ([augment.SHORT], [regimes.SHORT]) if args.short else (SETTINGS, REGIMES)
    tables = [augment_table(setting, device) for setting in settings]
    tables += [trainer_table(replace(r, epochs=2) if args.short else r, device) for r in chosen]
    race = cifar10_table(args.cifar10, device, args.short, start + LAST_SEED)
    tables += [] if race is None else [race]
    about = "" if race is not None else "CIFAR-10 was left out, because its folder wasn't given."
    description = DESCRIPTION.format(tests=summary, cifar10=about).strip()
    seconds = time.perf_counter() - start
    conditions = f"{cifar10.gpu_name()}, wall-clock time, {seconds:.0f} s in all"
    packages = ["kornia", "lightning", "airbench"]
    write("gpu", "On a GPU", description, tables, packages, args.out, conditions)
    if not passed:
        raise SystemExit(f"some tests failed: {summary}")
    return tables


if __name__ == "__main__":
    main()
