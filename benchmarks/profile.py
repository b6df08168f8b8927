"""Time the parts of a training step: where the milliseconds go, and what cnnlab adds to them.

Each part is a function that the `Trainer` calls once per step. The script replaces it by one that
also notes how long the call took. The time of a part in an epoch is its median over the steps,
which a process that interrupts a few of them doesn't change.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, redirect_stderr, redirect_stdout
from functools import wraps
from io import StringIO
from statistics import median
from time import perf_counter
from typing import Any
from unittest.mock import patch

import cnnlab
from benchmarks.loops import train_cnnlab
from benchmarks.pairs import Pairs, warmed_up
from benchmarks.regimes import REGIMES, SHORT, Regime
from benchmarks.report import Row, Table, options, write
from cnnlab.training import trainer as loop
from cnnlab.training.intake import Intake


WHOLE = "the whole step"
REST = "everything else: the loss, Python between the calls, the stopwatch"
training_batches = loop.training_batches
# A part of the step -> where the trainer finds its function.
PARTS: dict[str, tuple[Any, str]] = {
    "seed of the step": (loop, "seed_at"),
    "check of the batch": (Intake, "training_batch"),
    "check of the labels": (loop, "check_targets"),
    "backward pass": (loop.Tensor, "backward"),
    "accuracy": (cnnlab.Trainer, "_measure"),
    "norm of the gradient, and whether it is finite": (cnnlab.Trainer, "_check_and_clip"),
    "optimizer": (cnnlab.Trainer, "_step_optimizer"),
    "row of the history": (cnnlab.Trainer, "_record"),
    "callbacks: the progress bar": (cnnlab.Trainer, "_emit"),
}


class Stopwatch:
    """The seconds of each part, one list per epoch."""

    def __init__(self) -> None:
        self.epochs: list[dict[str, list[float]]] = []

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, which also notes how long each of its calls takes."""

        @wraps(function)
        def call(*args: Any, **kwargs: Any) -> Any:
            start = perf_counter()
            result = function(*args, **kwargs)
            if self.epochs:  # not before the first epoch
                self.epochs[-1][part].append(perf_counter() - start)
            return result

        return call

    def batches(self, loader: Any, *args: Any) -> Iterator[Any]:
        """Yield the batches of an epoch; note how long each of them and each whole step takes."""
        self.epochs.append(defaultdict(list))
        iterator, parts = training_batches(loader, *args), self.epochs[-1]
        start = perf_counter()
        for batch in iterator:
            parts["batch from the loader"].append(perf_counter() - start)
            yield batch
            now = perf_counter()
            parts[WHOLE].append(now - start)
            start = now

    def rows(self) -> list[Row]:
        """Return a row per part, whose pairs are epochs: its seconds, and those of the step."""
        seconds = [{name: median(v) for name, v in epoch.items()} for epoch in self.epochs[1:]]
        for parts in seconds:
            parts[REST] = 2 * parts[WHOLE] - sum(parts.values())
        wholes = [parts[WHOLE] for parts in seconds]
        names = sorted(seconds[0], key=lambda name: -median(parts[name] for parts in seconds))
        return [Row(name, Pairs([parts[name] for parts in seconds], wholes)) for name in names]


def table(regime: Regime, epochs: int) -> Table:
    """Time the parts of a step in one regime."""
    net, stopwatch = regime.net(), Stopwatch()
    with ExitStack() as stack:
        for part, (owner, name) in PARTS.items():
            timed = stopwatch.timed(part, getattr(owner, name))
            stack.enter_context(patch.object(owner, name, timed))
        stack.enter_context(patch.object(loop, "training_batches", stopwatch.batches))
        forward = stopwatch.timed("forward pass", net.forward)
        stack.enter_context(patch.object(net, "forward", forward))
        stack.enter_context(warmed_up())
        for redirect in (redirect_stdout, redirect_stderr):
            stack.enter_context(redirect(StringIO()))
        train_cnnlab(net, regime.data(), epochs + 1, lambda: None)
    return Table(regime.name, "step", "step", stopwatch.rows())


DESCRIPTION = (
    "Each ratio is the fraction of the time of a training step that one part of it takes, in a "
    "run with the progress bar, loss and accuracy, as in `trainer.md`. Every training loop has to "
    "get a batch, compute the forward pass, the loss and the backward pass, and call the "
    "optimizer. The other rows are what cnnlab adds.\n\n"
    "The network has 90 weights, which is the worst case, because what cnnlab adds takes as long "
    "for every network. The stopwatch itself costs a few microseconds per step: it reads the "
    "clock some twenty times."
)


def main(arguments: list[str] | None = None) -> list[Table]:
    """Run the benchmark and write its tables."""
    args = options("profile", arguments)
    tables = [table(SHORT, 2) if args.short else table(REGIMES["Z"], REGIMES["Z"].epochs)]
    conditions = "one thread, wall-clock time"
    write("profile", "A training step", DESCRIPTION, tables, [], args.out, conditions)
    return tables


if __name__ == "__main__":
    main()
