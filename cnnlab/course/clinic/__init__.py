"""A clinic of broken runs: each was planted with one fault, and shows what a practitioner would see.

>>> from cnnlab import clinic
>>> case = clinic.case(3, seed=0)
>>> case
case 3 of seed 0: ...
>>> clinic.diagnose(case, ...)
· case 3 of seed 0: no answer yet; clinic.NAMES lists what it may be

A case is a real, small training run of a second or two, made when it is asked for. Which fault has which number depends
on the seed, and so do the classes, the pictures and the settings.
"""

from dataclasses import dataclass
from types import EllipsisType

import torch

from cnnlab.course.clinic.cases import Case
from cnnlab.course.clinic.faults import FAULTS
from cnnlab.course.clinic.plans import carry_out, healthy_plan
from cnnlab.diagnose import Finding, check_data
from cnnlab.diagnose import diagnose as read_curves
from cnnlab.diagnose.symptoms import judge
from cnnlab.rng import generator


__all__ = ["NAMES", "Case", "Diagnosis", "case", "diagnose", "examine", "example", "healthy"]

NAMES = tuple(FAULTS)  # the answers there are


@dataclass(frozen=True)
class Diagnosis:
    """What the clinic says to an answer.

    Attributes:
        right: whether the answer is the fault that was planted; None without an answer.
        says: the evidence and how to confirm it; after a wrong answer, where to look.
    """

    right: bool | None
    says: str

    def __str__(self) -> str:
        return f"{ {True: '✔', False: '✘', None: '·'}[self.right] } {self.says}"

    __repr__ = __str__


def case(n: int, seed: int = 0) -> Case:
    """Train a network with one planted fault, and return what it leaves on the table.

    Args:
        n: which case, 1 to 12; the seed decides which fault that is.
        seed: chooses everything else too.

    Raises:
        ValueError: there is no such case.

    >>> case(1, seed=5).history.frame().columns[0]
    'epoch'
    """
    if not 1 <= n <= len(NAMES):
        raise ValueError(f"there are cases 1 to {len(NAMES)}, got {n}")
    return _make(_planted(n, seed), n, seed, f"case {n} of seed {seed}")


def example(fault: str, seed: int = 0) -> Case:
    """Train a network with a fault of your choice, to see what it looks like.

    Args:
        fault: one of `NAMES`.
        seed: chooses everything else.

    Raises:
        ValueError: the clinic has no such fault.

    >>> example("softmax before cross-entropy")
    softmax before cross-entropy, seed 0: ...
    """
    _check(fault)
    return _make(fault, 100 + NAMES.index(fault), seed, f"{fault}, seed {seed}")


def healthy(seed: int = 0) -> Case:
    """Train a network without a fault, to compare with.

    >>> healthy().ended
    ''
    """
    return _make(None, 0, seed, f"a healthy run, seed {seed}")


def diagnose(case: Case, answer: str | EllipsisType) -> Diagnosis:
    """Say whether an answer names the planted fault, and why; without an answer nothing is given away.

    Args:
        case: from `case` or `example`.
        answer: one of `NAMES`, or `...` for none.

    Raises:
        ValueError: the answer is none of them, or the run is a healthy one.

    >>> diagnose(example("leak"), "leak").right
    True
    """
    if case.n == 0:
        raise ValueError("this run is healthy, there is nothing to diagnose")
    if isinstance(answer, EllipsisType):
        return Diagnosis(None, f"{case.title}: no answer yet; clinic.NAMES lists what it may be")
    _check(answer)
    planted = NAMES[case.n - 100] if case.n >= 100 else _planted(case.n, case.seed)
    fault, guess = FAULTS[planted], FAULTS[answer]
    if answer == planted:
        says = (
            f"{case.title}: right, {answer}.\n  Evidence: {fault.shows}.\n  To confirm: {fault.confirm}.\n"
            f"  Cure: {fault.cure}."
        )
        return Diagnosis(True, says)
    says = (
        f"{case.title}: not {answer}. There you would see this: {guess.shows}.\n"
        f"  Look again: {fault.look}."
    )
    return Diagnosis(False, says)


def examine(case: Case) -> list[Finding]:
    """Let the library look at a case, at nothing but what is on the table.

    Returns:
        What `check_data` says of the training part, `symptoms.judge` of the vital signs and `diagnose` of the curves.

    >>> [finding.name for finding in examine(healthy())]
    []
    """
    return [*check_data(case.train), *judge(case.vitals()), *read_curves(case.history)]


def _planted(n: int, seed: int) -> str:
    order = torch.randperm(len(NAMES), generator=generator(11, seed)).tolist()
    return NAMES[order[n - 1]]


def _make(fault: str | None, n: int, seed: int, title: str) -> Case:
    plan = healthy_plan(seed, n)
    if fault is not None:
        FAULTS[fault].plant(plan)
    return Case(n, seed, title, plan, carry_out(plan, seed))


def _check(fault: str) -> None:
    if fault not in NAMES:
        raise ValueError(f"no fault is called {fault!r}; there is {', '.join(map(repr, NAMES))}")
