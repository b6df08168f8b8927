"""Time what a trainer adds to a bare loop, with the same network, batches and optimizer for each.

Each trainer shows its usual progress bar and the mean loss and accuracy of an epoch; the bare loop
shows nothing. The overhead per step hardly depends on the network, so it is visible for a small
network and hidden for a large one. All trainers read their batches from memory in the same order
and end with the same weights, which a test verifies. `regimes` has the networks and data, and
`loops` the trainers.
"""

from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from io import StringIO

from benchmarks.loops import (
    bare_epoch,
    contestants,
    sgd,
    train_cnnlab,
    train_tutorial_loop,
    tutorial_epoch,
)
from benchmarks.pairs import Pairs, Turns, warmed_up
from benchmarks.regimes import REGIMES, SHORT, Regime
from benchmarks.report import Row, Table, options, write


def time_epochs(
    regime: Regime,
    train: Callable[..., None],
    epochs: int,
    device: str = "cpu",
    clock: Callable[[], float] | None = None,
    reference: Callable[..., None] = bare_epoch,
) -> Pairs:
    """Time epochs of a trainer, in turn with epochs of a loop that is the reference."""
    net, data = regime.net().to(device).train(), regime.data().to(device)
    turns = Turns(partial(reference, net, sgd(net), data), clock)
    with warmed_up(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        train(regime.net().to(device), regime.data().to(device), epochs + 2, turns)
    return turns.pairs


def table(regime: Regime, epochs: int) -> Table:
    """Time every contestant in one regime."""
    rows = []
    for name, train in contestants().items():
        rows.append(_row(regime, name, train, epochs, None if regime.with_metrics else regime.goal))
    return Table(regime.name, "bare loop", "step", rows)


def table_with_metrics(regime: Regime, epochs: int) -> Table:
    """Time cnnlab beside a loop that shows the loss and the accuracy too."""
    names = {"that loop, again": train_tutorial_loop, "**cnnlab**": train_cnnlab}
    rows = [
        _row(regime, name, train, epochs, regime.goal, tutorial_epoch)
        for name, train in names.items()
    ]
    title = f"{regime.name}: beside a loop with loss and accuracy"
    return Table(title, "loop with loss and accuracy", "step", rows)


def _row(
    regime: Regime,
    name: str,
    train: Callable[..., None],
    epochs: int,
    goal: float | None,
    reference: Callable[..., None] = bare_epoch,
) -> Row:
    """Time one contestant; only cnnlab has a goal."""
    pairs = time_epochs(regime, train, epochs, reference=reference)
    print(f"{regime.name}: {name}, {pairs.ratio:.3f} times the reference", flush=True)
    return Row(name, pairs, goal if train is train_cnnlab else None, unit=regime.steps)


DESCRIPTION = (
    "Each ratio is the time of an epoch divided by the time of an epoch of the bare loop right "
    "beside it. The bare loop has no metrics, no progress bar and no checks. Each trainer shows "
    "its progress bar, the loss and the accuracy. All of them read batches from memory and use "
    "SGD with momentum, and each runs in a process that keeps freed memory, as after "
    "`cnnlab.setup()`.\n\n"
    "cnnlab adds the same work to every step, whatever the network: the gradient norm, the checks "
    "of labels and values, the loss and accuracy, and the seeds. The network of 90 weights is "
    "there to make this overhead visible, and `profile.md` shows where its step spends the time. "
    "Its goal is set beside a loop that shows the loss and the accuracy too, in a table of its "
    "own. Where it is missed, the gradient norm, the accuracy and the seed of the step take two "
    "fifths of the time that cnnlab adds to the bare loop, and Python between the calls most of "
    "the rest."
)


def main(arguments: list[str] | None = None) -> list[Table]:
    """Run the benchmark and write its tables."""
    args = options("trainer", arguments)
    packages = ["lightning", "fastai", "accelerate", "skorch", "pytorch-ignite", "keras"]
    tables: list[Table] = []
    for regime in [SHORT] if args.short else REGIMES.values():
        epochs = 2 if args.short else regime.epochs
        tables.append(table(regime, epochs))
        if regime.with_metrics:
            tables.append(table_with_metrics(regime, epochs))
        # after each regime, so that an interrupted run keeps its tables
        write("trainer", "Trainers", DESCRIPTION, tables, packages, args.out)
    return tables


if __name__ == "__main__":
    main()
