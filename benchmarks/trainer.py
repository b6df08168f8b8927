"""What a trainer costs over a bare loop: the same network, batches and optimizer under each of them.

Each shows its usual progress and the mean loss and accuracy of an epoch; the bare loop shows
nothing at all. The overhead of a step hardly depends on the network, so a small network shows it
and a large one hides it. All read batches from memory in the same order and end with the same
weights, which a test verifies. `regimes` says what is trained, `loops` by whom.
"""

from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import partial
from io import StringIO

from benchmarks.loops import bare_epoch, by_cnnlab, contestants, sgd
from benchmarks.pairs import Pairs, Turns, at_work
from benchmarks.regimes import REGIMES, SHORT, Regime
from benchmarks.report import Row, Table, options, write


def measured(regime: Regime, train: Callable[..., None], epochs: int) -> Pairs:
    """Time epochs of a trainer beside epochs of the bare loop."""
    reference = regime.net().train()
    turns = Turns(partial(bare_epoch, reference, sgd(reference), regime.data()))
    with at_work(), redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        train(regime.net(), regime.data(), epochs + 2, turns)
    return turns.pairs


def table(regime: Regime, epochs: int) -> Table:
    """Measure every contestant in one regime."""
    rows = []
    for name, train in contestants().items():
        goal = regime.goal if train is by_cnnlab else None
        rows.append(Row(name, measured(regime, train, epochs), goal, unit=regime.steps))
        print(f"{regime.name}: {name}, {rows[-1].pairs.ratio:.3f} times the bare loop", flush=True)
    return Table(regime.name, "bare loop", "step", rows)


WORDS = (
    "Time of an epoch, over that of a bare loop without metrics, progress or checks, in the epoch "
    "beside it. Batches "
    "in memory, SGD with momentum; every contestant shows its bar, loss and accuracy. What cnnlab "
    "adds to a step is the "
    "same for every network: the norm of the gradient, the checks of labels and numbers, loss and "
    "accuracy, the seeds. "
    "The network of 90 weights is there to show it; about half of it is the norm and the accuracy."
)


def main(arguments: list[str] | None = None) -> list[Table]:
    """Measure and report."""
    chosen = options("trainer", arguments)
    packages = ["lightning", "fastai", "accelerate", "skorch", "pytorch-ignite", "keras"]
    tables: list[Table] = []
    for regime in [SHORT] if chosen.short else REGIMES.values():
        tables.append(table(regime, 2 if chosen.short else regime.epochs))
        write("trainer", "Trainers", WORDS, tables, packages, chosen.out)  # anew after each
    return tables


if __name__ == "__main__":
    main()
