"""The machinery of a check: run a student's function on random problems and name its mistake.

An exercise holds one correct function (the reference) and several known mistakes. A check runs the
student's function and the reference on the same problem and compares what can be observed, fact by
fact: the values that they return, and what they do to the model or to their inputs. The most
upstream fact that differs is judged. If a known mistake explains it, the check says so; otherwise
it states the fact.
"""

import re
import textwrap
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from itertools import permutations
from typing import Any

from cnnlab.course.check.attempt import (
    LONGEST,
    Attempt,
    Raised,
    describe_error,
    error_hint,
    is_unwritten,
    parameters,
)
from cnnlab.course.check.compare import (
    NOTHING,
    RETURN,
    VALUE,
    Difference,
    agree,
    describe,
    difference,
    short,
)
from cnnlab.rng import fork_rng


# What was observed, by name: "your value for u=0.5" -> 0.5. See `Exercise.observe`.
Observation = Mapping[str, Any]
MISSING = object()  # the value of a fact that an observer left out, since the result made no sense
PROBLEMS = 3  # random problems per check
CHANGES = "you change `{}` in place, but it belongs to the caller: make a new one."
DRAWS = "you change the state of a global random generator: {}."


@dataclass(frozen=True)
class Mistake:
    """A known mistake: a wrong function and the feedback for it.

    Attributes:
        attempt: the wrong function.
        says: a sentence that names the misconception. It must be true beside another mistake too,
            so it doesn't claim that anything else is correct.
        hint: where to look; it never gives the solution away.
    """

    attempt: Callable[..., Any]
    says: str
    hint: str


@dataclass(frozen=True)
class Outcome:
    """The result of a check.

    Attributes:
        exercise: name of the exercise.
        passed: whether the attempt is correct.
        says: what the attempt does well, or which misconception it shows.
        hint: where to look; empty if the attempt is correct.
        mistake: name of the known mistake that explains the attempt, if there is one.
        share: fraction of the points, for an exercise that gives partial credit.
        left_out: a hint that is too long for a notebook; graded feedback has room for it.
    """

    exercise: str
    passed: bool
    says: str
    hint: str = ""
    mistake: str | None = None
    share: float | None = None
    left_out: str = ""

    @property
    def earned(self) -> float:
        """Return the fraction of the points that the attempt earns, between 0 and 1."""
        return float(self.passed) if self.share is None else self.share

    def __str__(self) -> str:
        lines = [f"{'✔' if self.passed else '✘'} {self.exercise}: {self.says}"]
        return "\n".join(map(wrapped, [*lines, f"  Hint: {self.hint}"] if self.hint else lines))


@dataclass(frozen=True)
class Prediction:
    """A prediction of a chapter, with the answer that its experiment gave.

    Attributes:
        question: the question, as the chapter's call of `check.prediction` has it.
        text: the same question for somebody who doesn't have the chapter open.
        answer: the result: a number, or one of the options.
        why: the reason for the result, in a sentence or two.
        section: title of the section that shows it.
        within: how far a predicted number may be from the result and still count as correct.
        options: the words to choose from; none if the answer is a number.
        unit: of the result, such as "points"; empty for a fraction or a plain number.
    """

    question: str
    text: str
    answer: float | str
    why: str
    section: str
    within: float = 0.1
    options: tuple[str, ...] = ()
    unit: str = ""


# (function, problem) -> the function with its calls, and what was observed
Memory = dict[tuple[Callable[..., Any], int], tuple[Attempt, Observation]]


@dataclass(frozen=True)
class Exercise:
    """An exercise with its reference solution, its known mistakes and a way to observe an attempt.

    Attributes:
        name: name of the exercise, as in the chapter.
        observe: a function (attempt, seed) -> observation; it draws its problem from the seed, and
            calls the attempt with arguments by position. It returns the facts in the order in
            which they should be judged: modes and gradients before values, small problems before
            large ones. A name completes the sentence "... is 3, expected 5"; a name that ends in a
            full stop is a complaint, said as it is where it is True and should be False.
        answer: the reference solution.
        praise: a sentence about what a correct attempt does.
        mistakes: name -> known mistake.
        hint: where to look after a mistake that isn't among the known ones.
        task: what to write: the call and what it returns; it completes "Check chapter 5, ...".
        worth: fraction of the points for each group of facts, by a pattern that their names
            contain. A group counts if all its facts are right; without groups, all facts must be.
    """

    name: str
    observe: Callable[[Callable[..., Any], int], Observation]
    answer: Callable[..., Any]
    praise: str
    mistakes: Mapping[str, Mistake] = field(default_factory=dict)
    hint: str = "try your function on an example that you can work out by hand"
    task: str = ""
    worth: Mapping[str, float] = field(default_factory=dict)

    def judge(
        self, attempt: Callable[..., Any], seed: int = 0, *, memory: Memory | None = None
    ) -> Outcome:
        """Run an attempt on a few random problems and describe it.

        An exception that the attempt raises becomes part of the outcome.

        Args:
            attempt: the student's function.
            seed: seed of the problems.
            memory: keeps what the solution and the known mistakes do on each problem. Give the same
                dictionary to several calls that pose the same problems, and they take less time.
        """
        memory = {} if memory is None else memory
        if not callable(attempt):
            return self._failed(
                f"expected your function, got {short(attempt)}.",
                "pass the function itself, by its name and without brackets",
            )
        with fork_rng():
            for problem in range(seed, seed + PROBLEMS):
                outcome = self._judge_problem(attempt, problem, memory)
                if outcome is not None:
                    share = self._share(attempt, seed, memory) if self.worth else None
                    return replace(outcome, share=share)
        return Outcome(self.name, True, f"correct. {self.praise}")

    def _share(self, attempt: Callable[..., Any], seed: int, memory: Memory) -> float:
        """Return the fraction of the points that the groups of right facts earn.

        A wrong fact in no group, such as a changed argument, halves it.
        """
        wrong: set[str] = set()
        for problem in range(seed, seed + PROBLEMS):
            _, expected = self._remembered(self.answer, problem, memory)
            try:
                observed = self.facts(Attempt(attempt, parameters(self.answer)), problem)
            except Exception:  # noqa: BLE001 - an attempt that fails earns nothing
                return 0.0
            wrong |= {name for name in expected if _difference(name, observed, expected[name])}
        groups = {group: {name for name in wrong if re.search(group, name)} for group in self.worth}
        earned = sum(self.worth[group] for group, names in groups.items() if not names)
        return earned if wrong <= set().union(*groups.values()) else earned / 2

    def _judge_problem(
        self, attempt: Callable[..., Any], problem: int, memory: Memory
    ) -> Outcome | None:
        """Return what is wrong on one problem; None if nothing is."""
        student = Attempt(attempt, parameters(self.answer))
        reference, expected = self._remembered(self.answer, problem, memory)
        try:
            observed = self.facts(student, problem)
        except Raised as raised:
            if is_unwritten(raised.error):
                hint = "replace the line that raises NotImplementedError"
                return self._failed("not written yet.", hint)
            return self._failed(describe_error(raised, student), error_hint(raised.error))
        except Exception:  # noqa: BLE001 - a result of the wrong type can break any observer
            return self._misfit(student, reference)
        wrong = {
            name: found
            for name, value in expected.items()
            if (found := _difference(name, observed, value))
        }
        if not wrong:
            return None
        known = self._recognise(observed, expected, wrong, problem, memory)
        if known:
            says = " Besides, ".join(self.mistakes[name].says for name in known)
            return Outcome(self.name, False, says, self.mistakes[known[0]].hint, known[0])
        there = {name: found for name, found in wrong.items() if name in observed}
        if not there:
            return self._misfit(student, reference)
        stated = self._state(there)
        if min(found.level for found in there.values()) == NOTHING:
            return stated
        return self._nothing(student, reference) or stated

    def facts(self, attempt: Attempt, problem: int) -> Observation:
        """Observe an attempt; its side effects on arguments and random numbers come first."""
        observed = {
            name: bool(value) if name.endswith(".") else value
            for name, value in self.observe(attempt, problem).items()
        }
        effects = {CHANGES.format(name): name in attempt.changed for name in attempt.parameters}
        if {"seed", "generator"} & {*attempt.parameters}:
            own = "make one of your own, such as `torch.Generator().manual_seed(seed)`"
            if "generator" in attempt.parameters:
                own = "draw from `generator`"
            effects[DRAWS.format(own)] = attempt.draws
        return {**effects, **observed}

    def _remembered(
        self, function: Callable[..., Any], problem: int, memory: Memory
    ) -> tuple[Attempt, Observation]:
        """Observe the solution or a known mistake, once per problem."""
        key = function, problem
        if key not in memory:
            attempt = Attempt(function, parameters(self.answer))
            memory[key] = attempt, self.facts(attempt, problem)
        return memory[key]

    def _recognise(
        self,
        observed: Observation,
        expected: Observation,
        wrong: Mapping[str, Difference],
        problem: int,
        memory: Memory,
    ) -> tuple[str, ...]:
        """Return the known mistake that explains the first wrong fact, or two that explain all.

        The best is a mistake with exactly these facts. Beside a second mistake, the first one still
        shows its own wrong facts, or most of them, and no fact is wrong that the attempt has right.
        """
        first = _most_upstream(wrong)
        candidates = {}
        explained = {}  # the wrong facts that a mistake has in the same way
        n_with_first = 0  # mistakes that have the first wrong fact wrong too
        for name, mistake in self.mistakes.items():
            _, facts = self._remembered(mistake.attempt, problem, memory)
            own = {key for key in expected if _difference(key, facts, expected[key])}
            shared = {
                key
                for key in own & wrong.keys()
                if agree(observed.get(key, MISSING), facts.get(key, MISSING))
            }
            if shared == own == wrong.keys():
                return (name,)
            if shared and own <= wrong.keys():
                explained[name] = shared
            n_with_first += first in own
            if first in shared and own <= wrong.keys() and 2 * len(shared) > len(own):
                candidates[name] = (len(shared) == len(own), len(shared))
        # A value is like a fingerprint, but a type or a complaint can have several causes.
        telling = wrong[first].level == VALUE and (not first.endswith(".") or n_with_first == 1)
        whole = {name: found for name, found in candidates.items() if found[0] or telling}
        if whole:
            return (max(whole, key=lambda name: whole[name]),)
        if any(
            found.level < VALUE or isinstance(expected[key], bool) for key, found in wrong.items()
        ):
            return ()
        for one, another in permutations(explained, 2):
            pair = explained[one], explained[another]
            if first in pair[0] and pair[0] | pair[1] == wrong.keys() and pair[1] - pair[0]:
                return one, another
        return ()

    def _state(self, wrong: Mapping[str, Difference]) -> Outcome:
        """Say the first wrong fact."""
        name = _most_upstream(wrong)
        found = wrong[name]
        if name.endswith("."):
            return self._failed(name)
        task = f"the task is {self.task}" if self.task else self.hint
        hint = found.hint or (task if found.level < VALUE else self.hint)
        return self._failed(f"{found.where}{name} {found.says}.", hint)

    def _nothing(self, student: Attempt, reference: Attempt) -> Outcome | None:
        """Say for which arguments an attempt returned None by accident, if it did."""
        for (given, got), (_, want) in zip(student.calls, reference.calls, strict=False):
            if got is None and want is not None:
                says = f"your function returned None for {student.given(given)}, expected "
                return self._failed(f"{says}{describe(want)}.", RETURN)
        return None

    def _misfit(self, student: Attempt, reference: Attempt) -> Outcome:
        """Describe a result that the observer can't read, by comparing it with the reference's."""
        nothing = self._nothing(student, reference)
        if nothing is not None:
            return nothing
        for (given, got), (_, want) in zip(student.calls, reference.calls, strict=False):
            found = difference(got, want)
            if found is not None:
                return self._state({f"your result ({student.given(given, 60)})": found})
        return self._failed("the check can't read the results of your function.", self.hint)

    def _failed(self, says: str, hint: str = "") -> Outcome:
        says = says if len(says) <= LONGEST else f"{says[: LONGEST - 3]}..."
        fits = len(says) + len(hint) <= LONGEST
        return Outcome(self.name, False, says, hint if fits else "", left_out="" if fits else hint)


def _difference(name: str, observed: Observation, expected: Any) -> Difference | None:
    """Compare one fact; a complaint is wrong only where it is True and shouldn't be."""
    got = observed.get(name, MISSING)
    if name.endswith(".") and got is not MISSING and (expected or not got):
        return None
    return difference(got, expected)


def _most_upstream(wrong: Mapping[str, Difference]) -> str:
    return min(wrong, key=lambda name: wrong[name].level)  # the first of several


def wrapped(line: str) -> str:
    """Wrap a line, but not inside `code`."""
    glued = re.sub("`[^`]*`", lambda code: code[0].replace(" ", "\0"), line)
    filled = textwrap.fill(
        glued, 88, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
    return filled.replace("\0", " ")
