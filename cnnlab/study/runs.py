"""Run many independent runs, one after another or in several processes, and keep what finishes.

A run that raises an error doesn't end the others. A run that is cut short by Ctrl-C, or by the stop
button of a notebook, never counts, and no further run starts.
"""

import copy
import pickle
import sys
import traceback
import warnings
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager, closing, contextmanager
from dataclasses import dataclass
from operator import index
from typing import Any

from cnnlab.limits import Limits, limits
from cnnlab.training.progress import long_work


@dataclass(frozen=True)
class Outcome:
    """What a finished run returned, or the error that it raised."""

    value: Any = None
    error: Exception | None = None


@dataclass
class Loop:
    """A loop over runs: how many of them have finished, and whether an interrupt has ended it."""

    finished: int = 0
    interrupted: bool = False


_loops: list[Loop] = []  # the loops that this process is in, the outermost one first


def run_all(
    calls: Sequence[Callable[[], Any]],
    jobs: int,
    fatal: type[Exception] | tuple[()] = (),
    take: Callable[[int, Outcome], object] | None = None,
) -> list[Outcome | None]:
    """Call every function, and return the outcomes in the same order.

    A bar in a notebook or a terminal shows how many have finished and how much time is left.

    Args:
        calls: functions without arguments.
        jobs: the number of parallel processes.
        fatal: the type of an error that does end the others, because they would all raise it.
        take: called with the number and the outcome of each call as soon as it has finished.

    Returns:
        One outcome per call, or None for a call that didn't finish because of an interrupt.

    Raises:
        KeyboardInterrupt: after an interrupt, if no call has returned anything; or if the call is
            part of a run of an outer loop, which must not count either.
    """
    outcomes: list[Outcome | None] = [None] * len(calls)
    finished = _in_turn(calls) if jobs == 1 else _in_parallel(calls, jobs)
    with (
        keep_finished() as loop,
        closing(finished),
        runs_bar("runs", len(calls), "run") as show_done,
    ):
        for n, (number, outcome) in enumerate(finished, 1):
            if isinstance(outcome.error, fatal):
                raise outcome.error
            outcomes[number] = outcome
            if take is not None:
                take(number, outcome)
            loop.finished += outcome.error is None
            show_done(n)
    if loop.interrupted:
        done = sum(outcome is not None for outcome in outcomes)
        say(f"Interrupted: {done} of {len(calls)} runs are finished and kept")
    return outcomes


@contextmanager
def keep_finished() -> Iterator[Loop]:
    """End a `with` block without an error at an interrupt, if there is a finished run to return.

    A loop inside a run of another loop raises the interrupt in any case: what it could return is
    incomplete, and the outer loop would count it.
    """
    loop = Loop()
    _loops.append(loop)
    try:
        yield loop
    except KeyboardInterrupt:
        if not loop.finished or len(_loops) > 1:
            raise
        loop.interrupted = True
    finally:
        _loops.pop()


def runs_bar(what: str, total: int, unit: str) -> AbstractContextManager[Callable[[int], None]]:
    """Return the bar of a loop; a loop inside a run of another one has none."""
    return long_work(what, total, unit, show=len(_loops) == 1)


def number_of_jobs(jobs: Any) -> int:
    """Return the number of processes as an int, also if it is one of numpy's.

    Raises:
        ValueError: it isn't an integer, or 0.
    """
    try:
        number = index(jobs)
    except TypeError:
        number = 0
    if number == 0:
        raise ValueError(
            "jobs must be the number of parallel processes, such as 4, or -1 for all cores; got "
            f"{jobs!r}"
        )
    return number


def describe_error(error: BaseException) -> str:
    """Return the type and the message of an error, as tables of results state it."""
    return f"{type(error).__name__}: {error}"


def say(line: str) -> None:
    """Print a line about what happened to the runs."""
    sys.stdout.write(f"{line}.\n")


Finished = Generator[tuple[int, Outcome], None, None]


def _in_turn(calls: Sequence[Callable[[], Any]]) -> Finished:
    for number, call in enumerate(calls):
        yield number, _call(call)


def _in_parallel(calls: Sequence[Callable[[], Any]], jobs: int) -> Finished:
    """Yield (number, outcome) of each call in the order in which they finish."""
    from joblib import Parallel, delayed  # installed with scikit-learn

    tasks = (delayed(_in_worker)(number, call, limits) for number, call in enumerate(calls))
    results = Parallel(n_jobs=jobs, return_as="generator_unordered")(tasks)
    remaining = set(range(len(calls)))
    try:
        for number, outcome in results:
            if outcome is None:
                raise KeyboardInterrupt
            remaining.remove(number)
            yield number, outcome
    except Exception as error:  # noqa: BLE001 - such as a worker that was killed
        for number in sorted(remaining):
            yield number, Outcome(error=error)
    finally:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # joblib says that it cancels what hasn't finished
            results.close()


def _in_worker(number: int, call: Callable[[], Any], parent: Limits) -> tuple[int, Outcome | None]:
    """Make a call in a worker process, with the limits of the parent; None if it is interrupted."""
    vars(limits).update(vars(parent))
    _loops.append(Loop())  # the one of the parent
    try:
        outcome = _call(call)
        try:
            pickle.dumps(copy.deepcopy(outcome))
        except Exception:  # noqa: BLE001 - an error may need more arguments than it has kept
            what = outcome.value if outcome.error is None else describe_error(outcome.error)
            outcome = Outcome(
                error=RuntimeError(f"can't be sent to another process: {what!r:.200}")
            )
    except KeyboardInterrupt:
        return number, None
    finally:
        _loops.pop()
    return number, outcome


def _call(call: Callable[[], Any]) -> Outcome:
    try:
        return Outcome(call())
    except Exception as error:  # noqa: BLE001 - one failed run must not end an overnight study
        _free_memory(error)
        return Outcome(error=error)


def _free_memory(error: BaseException | None) -> None:
    """Clear the variables that a traceback holds, because they include the model and its data."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        traceback.clear_frames(error.__traceback__)
        seen.add(id(error))
        error = error.__cause__ or error.__context__
