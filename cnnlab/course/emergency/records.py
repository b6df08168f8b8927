"""A patient's record: complaint, cause, repairs, and the rules that a repaired script must keep."""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import cache
from importlib import import_module
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from cnnlab.course.emergency.runs import Run
from cnnlab.rng import generator


FOLDER = Path(__file__).parent
NUMBERS = tuple(sorted(int(path.stem[-2:]) for path in FOLDER.glob("sick/patient_*.py")))

Edits = Mapping[str, str]  # text of a script -> what replaces it; the text occurs exactly once
Facts = Mapping[str, float]  # what was measured, by name; the mean over the hidden seeds
# (script as admitted, hidden seed) -> images and labels that the script never sees
World = Callable[[ModuleType, int], AbstractContextManager[tuple[Tensor, Tensor]]]

CONTRACT = (
    "train(seed) returns the model and the accuracy it reports. predict(model, images) returns "
    "the classes of new images. Keep both, and the number of training steps."
)


@dataclass(frozen=True)
class Rule:
    """A condition on the measurements of a repaired script.

    Attributes:
        holds: whether the facts of the student's script are good enough, beside those of the
            healthy twin: holds(own, twin).
        says: what to say if not, a format string with `own` and `twin`, such as
            "on new images it gets {own[accuracy]:.2f}, a healthy one {twin[accuracy]:.2f}".
    """

    holds: Callable[[Facts, Facts], bool]
    says: str


@dataclass(frozen=True)
class Record:
    """Everything about a patient except its script.

    Attributes:
        complaint: what its owner reports, in their words; never the cause.
        cause: one of `causes.CAUSES`.
        repairs: the edits that turn the sick script into its healthy twin.
        wrong: name -> edits of the sick script that hide the symptom at best; they are refused.
        right: name -> edits of the sick script that cure it in another way; they pass.
        world: where the script's data and the checker's own images come from; see `worlds`.
        rules: what a repaired script must keep. Only the first broken one is shown, so those that
            give the cause away come last.
        observe: measures a finished run; see `examination.classification`.
        seeds: number of hidden seeds over which the facts are averaged.
        contract: what `train` returns, and what else the student must keep.
        praise: what to say of a healthy script, a format string with `own` and `twin`.
    """

    complaint: str
    cause: str
    repairs: Edits
    wrong: Mapping[str, Edits]
    right: Mapping[str, Edits]
    world: World
    rules: tuple[Rule, ...]
    observe: Callable[[Run], dict[str, float]]
    seeds: int = 2
    contract: str = CONTRACT
    praise: str = "it reports {own[reported]:.2f}, and on new images it gets {own[accuracy]:.2f}."

    def judge(self, own: Facts, twin: Facts) -> tuple[bool, str]:
        """Return whether a script with these facts is healthy, and what was measured.

        A rule that the twin breaks too says nothing on these seeds, so it isn't applied.
        """
        applied = [rule for rule in self.rules if rule.holds(twin, twin)]
        broken = [rule.says for rule in applied if not rule.holds(own, twin)]
        return not broken, (broken or [self.praise])[0].format(own=own, twin=twin)


def drawn(seed: int, k: int) -> list[int]:
    """Return the numbers of k different patients, drawn from a seed, in ascending order.

    >>> len(set(drawn(17, 3)))
    3
    """
    order = torch.randperm(len(NUMBERS), generator=generator(seed, 75))
    return sorted(NUMBERS[i] for i in order[:k].tolist())


@cache
def record(n: int) -> Record:
    """Return the record of a patient, the constant `RECORD` of its file in `keys`."""
    found: Record = import_module(f"cnnlab.course.emergency.keys.patient_{n:02}").RECORD
    return found


def sick_script(n: int) -> str:
    """Return the source of a patient's script, as it is admitted."""
    return (FOLDER / "sick" / f"patient_{n:02}.py").read_text(encoding="utf-8")


def edited(script: str, edits: Edits) -> str:
    """Return a script with some of its text replaced.

    Raises:
        ValueError: a text to replace doesn't occur exactly once.

    >>> edited("lr = 1.0", {"1.0": "0.1"})
    'lr = 0.1'
    """
    for old, new in edits.items():
        if script.count(old) != 1:
            raise ValueError(f"{old!r} occurs {script.count(old)} times in the script, not once")
        script = script.replace(old, new)
    return script


def healthy_script(n: int) -> str:
    """Return the source of the healthy twin of a patient."""
    return edited(sick_script(n), record(n).repairs)


# --- rules that many patients share ---------------------------------------------------------------


def honest(tolerance: float = 0.04) -> Rule:
    """Demand that the reported accuracy agrees with the accuracy on new images."""
    return Rule(
        lambda own, twin: abs(own["reported"] - own["accuracy"]) <= tolerance,
        "it reports {own[reported]:.2f}, but on new images it gets {own[accuracy]:.2f}.",
    )


def accurate(margin: float = 0.04) -> Rule:
    """Demand the accuracy of the healthy twin on new images, up to a margin."""
    return Rule(
        lambda own, twin: own["accuracy"] >= twin["accuracy"] - margin,
        "on new images it gets {own[accuracy]:.2f}, a healthy one gets {twin[accuracy]:.2f}.",
    )


def within_budget() -> Rule:
    """Demand no more optimizer steps and backward passes than the healthy twin."""
    return Rule(
        lambda own, twin: all(
            own[name] <= 1.02 * twin[name] + 1 for name in ("steps", "backwards")
        ),
        "keep the number of training steps: it takes {own[steps]:.0f} optimizer steps and "
        "{own[backwards]:.0f} backward passes, a healthy one {twin[steps]:.0f} and "
        "{twin[backwards]:.0f}.",
    )


def current_gradients() -> Rule:
    """Demand that no step uses gradients that an earlier step has used already."""
    return Rule(
        lambda own, twin: own["stale"] == 0,
        "the accuracy is fine now, but {own[stale]:.0f} of its {own[steps]:.0f} steps don't follow "
        "the gradient of their own batch.",
    )
