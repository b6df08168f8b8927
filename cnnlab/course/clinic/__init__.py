"""A clinic of broken training runs: each has one planted fault for you to diagnose.

>>> from cnnlab import clinic
>>> case = clinic.case(3, seed=0)
>>> case
case 3 of seed 0: ...
>>> clinic.diagnose(case, ...)
· case 3 of seed 0: no answer yet; clinic.NAMES lists the possible answers

A case is a real training run. It is small, takes a second or two, and starts when you ask for it.
The seed decides which fault gets which number. It also chooses the classes, the images and the
settings.
"""

import difflib
from dataclasses import dataclass
from types import EllipsisType

import torch

from cnnlab.course.check.core import wrapped
from cnnlab.course.clinic.cases import Case, Vitals
from cnnlab.course.clinic.faults import FAULTS
from cnnlab.course.clinic.plans import healthy_plan, run_plan
from cnnlab.course.spelling import recognise
from cnnlab.data import loader
from cnnlab.diagnose import Finding, check_data
from cnnlab.diagnose import diagnose as diagnose_curves
from cnnlab.diagnose.symptoms import judge
from cnnlab.rng import generator


__all__ = [
    "NAMES",
    "Case",
    "Diagnosis",
    "Vitals",
    "case",
    "diagnose",
    "examine",
    "example",
    "healthy",
]

NAMES = tuple(FAULTS)  # the possible answers
EXAMPLE = 100  # examples are numbered from here, in the order of NAMES


@dataclass(frozen=True)
class Diagnosis:
    """The feedback on an answer.

    Attributes:
        right: whether the answer names the planted fault; None if there is no answer, or one that
            isn't among `NAMES`.
        says: the evidence and how to confirm it or, after a wrong answer, where to look next.
    """

    right: bool | None
    says: str

    def __str__(self) -> str:
        mark = {True: "✔", False: "✘", None: "·"}[self.right]
        return "\n".join(map(wrapped, f"{mark} {self.says}".splitlines()))

    __repr__ = __str__


def case(n: int, seed: int = 0) -> Case:
    """Train a network with one planted fault and return the run for you to examine.

    Args:
        n: number of the case, 1 to 12; the seed decides which fault that is.
        seed: also chooses the classes, the images and the settings.

    Raises:
        ValueError: there is no case with this number.

    >>> case(1, seed=5).history.frame().columns[0]
    'epoch'
    """
    if not 1 <= n <= len(NAMES):
        raise ValueError(
            f"there is no case {n}: the cases are numbered 1 to {len(NAMES)}; use another seed to "
            "get more of them"
        )
    return _train_case(_planted_fault(n, seed), n, seed, f"case {n} of seed {seed}")


def example(fault: str, seed: int = 0) -> Case:
    """Train a network with a fault of your choice, to see what that fault looks like.

    Args:
        fault: one of `NAMES`, in British or American spelling.
        seed: chooses the classes, the images and the settings.

    Raises:
        ValueError: the fault is not one of `NAMES`.

    >>> example("softmax before cross-entropy")
    softmax before cross-entropy, seed 0: ...
    """
    name = recognise(fault, NAMES)
    if name is None:
        raise ValueError(_unknown(fault))
    return _train_case(name, EXAMPLE + NAMES.index(name), seed, f"{name}, seed {seed}")


def healthy(seed: int = 0) -> Case:
    """Train a network without a fault, for comparison.

    >>> healthy().ended
    ''
    """
    return _train_case(None, 0, seed, f"a healthy run, seed {seed}")


def diagnose(case: Case, answer: str | EllipsisType) -> Diagnosis:
    """Check whether an answer names the planted fault, and explain why or why not.

    Args:
        case: from `case` or `example`.
        answer: one of `NAMES`, in British or American spelling; or `...` if you have no answer yet,
            which gives nothing away.

    Raises:
        ValueError: the run is a healthy one.

    >>> diagnose(example("leak"), "leak").right
    True
    """
    if case.n == 0:
        raise ValueError(
            "this is the healthy run, so it has no fault to diagnose; get a broken one with "
            "clinic.case(1)"
        )
    if isinstance(answer, EllipsisType):
        hint = f"{case.title}: no answer yet; clinic.NAMES lists the possible answers"
        return Diagnosis(None, hint)
    name = recognise(answer, NAMES)
    if name is None:
        return Diagnosis(None, f"{case.title}: {_unknown(answer)}")
    is_example = case.n >= EXAMPLE
    planted = NAMES[case.n - EXAMPLE] if is_example else _planted_fault(case.n, case.seed)
    fault, guess = FAULTS[planted], FAULTS[name]
    if name == planted:
        evidence = (
            f"{case.title}: correct, the fault is {name!r}.\n  Evidence: {fault.shows}.\n"
            f"  To confirm: {fault.confirm}.\n  Cure: {fault.cure}."
        )
        return Diagnosis(True, evidence)
    correction = (
        f"{case.title}: not {name!r}. With that fault you would see this: {guess.shows}.\n"
        f"  Look next at: {fault.look}."
    )
    return Diagnosis(False, correction)


def examine(case: Case) -> list[Finding]:
    """Run the library's own checks on a case; they see only the evidence, not the planted fault.

    Returns:
        The findings of `check_data` on the training set, of `symptoms.judge` on the vital signs and
        of `diagnose` on the learning curves.

    >>> [finding.name for finding in examine(healthy())]
    []
    """
    shuffled = loader(case.train, 32, shuffle=True)  # as in the run
    return [*check_data(shuffled), *judge(case.vitals()), *diagnose_curves(case.history)]


def _planted_fault(n: int, seed: int) -> str:
    order = torch.randperm(len(NAMES), generator=generator(11, seed)).tolist()
    return NAMES[order[n - 1]]


def _train_case(fault: str | None, n: int, seed: int, title: str) -> Case:
    plan = healthy_plan(seed, n)
    if fault is not None:
        FAULTS[fault].plant(plan)
    return Case(n, seed, title, plan, run_plan(plan, seed))


def _unknown(name: object) -> str:
    similar = difflib.get_close_matches(str(name), NAMES, 1)
    guess = f"did you mean {similar[0]!r}? " if similar else ""
    return f"there is no fault called {name!r}; {guess}clinic.NAMES lists them"
