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

from benchmarks.loops import bare_epoch, contestants, sgd, train_cnnlab
from benchmarks.pairs import Pairs, Turns, warmed_up
from benchmarks.regimes import REGIMES, SHORT, Regime
from benchmarks.report import Row, Table, options, write


def time_epochs(
    regime: Regime,
    train: Callable[..., None],
    epochs: int,
    device: str = "cpu",
    clock: Callable[[], float] | None = None,
) -> Pairs:
    """Time epochs of a trainer, in turn with epochs of the bare loop."""
    reference, data = regime.net().to(device).train(), regime.data().to(device)
    turns = Turns(partial(bare_epoch, reference, sgd(reference), data), clock)
    with warmed_up(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        train(regime.net().to(device), regime.data().to(device), epochs + 2, turns)
    return turns.pairs


def table(regime: Regime, epochs: int) -> Table:
    """Time every contestant in one regime."""
    rows = []
    for name, train in contestants().items():
        goal = regime.goal if train is train_cnnlab else None
        rows.append(Row(name, time_epochs(regime, train, epochs), goal, unit=regime.steps))
        print(f"{regime.name}: {name}, {rows[-1].pairs.ratio:.3f} times the bare loop", flush=True)
    return Table(regime.name, "bare loop", "step", rows)


DESCRIPTION = (
    "Each ratio is the time of an epoch divided by the time of an epoch of the bare loop right "
    "beside it. The bare loop has no metrics, no progress bar and no checks. Each trainer shows "
    "its progress bar, the loss and the accuracy. All of them read batches from memory and use "
    "SGD with momentum, and each runs in a process that keeps freed memory, as after "
    "`cnnlab.setup()`.\n\n"
    "cnnlab adds the same work to every step, whatever the network: the gradient norm, the checks "
    "of labels and values, the loss and accuracy, and the seeds. The network of 90 weights is "
    "there to make this overhead visible, and `profile.md` shows where its step spends the time. "
    "Where a goal is missed, a third of the difference goes to the gradient norm, the accuracy "
    "and the seed of the step, and most of the rest to Python between the calls."
)


def main(arguments: list[str] | None = None) -> list[Table]:
    """Run the benchmark and write its tables."""
    args = options("trainer", arguments)
    packages = ["lightning", "fastai", "accelerate", "skorch", "pytorch-ignite", "keras"]
    tables: list[Table] = []
    for regime in [SHORT] if args.short else REGIMES.values():
        tables.append(table(regime, 2 if args.short else regime.epochs))
        # after each regime, so that an interrupted run keeps its tables
        write("trainer", "Trainers", DESCRIPTION, tables, packages, args.out)
    return tables


if __name__ == "__main__":
    main()
