"""The key to the assignment on the emergency room: five patients drawn by the seed.

It stays with the instructor; the grader reads `EXERCISES`.
"""

from collections.abc import Callable
from typing import Any

from cnnlab.check import Outcome
from cnnlab.check.remote import AnswerError, Remote
from cnnlab.emergency import CAUSES
from cnnlab.emergency.records import drawn, healthy_script, record
from cnnlab.rng import fold_in
from cnnlab.course.spelling import recognise


PATIENTS = 5
SECONDS = 180.0  # for the healthy twin and the repaired script together; they take about ten
# What runs a script, in the process that is apart from the grader.
EXAMINE = "from cnnlab.emergency.examination import try_script"
FIX, CAUSE = 2 / 3, 1 / 3  # fractions of the points


class Repair:
    """Grade the repair of one patient by what the script does on new seeds, and the cause.

    Attributes:
        name: the name of the exercise, "patient_1" to "patient_5".
        index: which of the patients that the seed draws, from 0.
    """

    def __init__(self, index: int) -> None:
        self.name, self.index = f"patient_{index + 1}", index

    def judge(self, attempt: Callable[..., Any], seed: int = 0) -> Outcome:
        """Grade an answer: two thirds of the points for the repair, one third for the cause."""
        n = drawn(seed, PATIENTS)[self.index]
        try:
            script, cause = _answer(attempt())
        except NotImplementedError:
            hint = "replace the line that raises NotImplementedError"
            return Outcome(self.name, False, "not written yet.", hint)
        except Exception as error:
            described = isinstance(error, AnswerError)
            problem = error if described else f"raised {type(error).__name__}: {error}"
            return Outcome(self.name, False, f"your function {problem}.", "call it yourself")
        fixed, says = examine(n, script, seed, attempt)
        name = recognise(cause, CAUSES)
        named = name == record(n).cause
        about = "The cause is right." if named else f"The cause isn't {cause[:60]!r}."
        hint = "" if named else "which measurement would tell that cause from another?"
        share = round(FIX * fixed + CAUSE * named, 2)
        return Outcome(self.name, fixed and named, f"{says} {about}", hint, share=share)


def _answer(returned: Any) -> tuple[str, str]:
    """Return the script and the cause that a student's function returned."""
    match returned:
        case (str(script), str(cause)):
            return script, cause
    raise AnswerError("should return two strings, the repaired script and its cause")


def examine(n: int, script: str, seed: int, attempt: Callable[..., Any]) -> tuple[bool, str]:
    """Run a script beside its healthy twin, apart from the grader; return whether it is healthy.

    If the attempt runs in a container, the script does too.
    """
    apart = attempt.beside if isinstance(attempt, Remote) else Remote
    seeds = [fold_in(seed, 76, n, i) % 2**31 for i in range(record(n).seeds)]
    try:
        with apart(EXAMINE, "", "try_script", seconds=SECONDS) as try_script:
            twin = try_script(n, healthy_script(n), seeds)
            own = try_script(n, script, seeds)
    except AnswerError as error:
        return False, f"the script of patient {n} {error}."
    if isinstance(own, str):
        return False, f"the script of patient {n} {own}"
    if not isinstance(own, dict) or set(own) != set(twin):
        return False, f"the script of patient {n} can't be examined."
    fixed, says = record(n).judge(own, twin)
    return fixed, f"patient {n}: {says}"


EXERCISES = {exercise.name: exercise for exercise in map(Repair, range(PATIENTS))}
