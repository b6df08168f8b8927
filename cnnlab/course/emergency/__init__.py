"""An emergency room for training scripts that run, look right and are silently wrong.

>>> from cnnlab import emergency
>>> emergency.patient(1)
patient 1: ...

`admit` writes a patient's script to a file for you to run, read and repair. `discharge` runs your
file on seeds that you don't know, compares it with a healthy twin, and judges whether you named the
cause.
"""

import difflib
import json
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path
from types import EllipsisType
from typing import Any

from cnnlab.course.check.core import wrapped
from cnnlab.course.emergency.causes import CAUSES, TESTS
from cnnlab.course.emergency.process import run_file
from cnnlab.course.emergency.records import NUMBERS, healthy_script, record, sick_script
from cnnlab.course.spelling import recognise
from cnnlab.files import output_folder, write_whole


__all__ = [
    "CAUSES",
    "Patient",
    "Script",
    "Verdict",
    "Ward",
    "admit",
    "discharge",
    "patient",
    "twin",
    "ward",
]

_MARKS = {True: "✔", False: "✘", None: "·"}


class Script(str):
    """The source of a script; a notebook shows it line by line."""

    __slots__ = ()

    def __repr__(self) -> str:
        return str(self)


@dataclass(frozen=True)
class Patient:
    """A training script that is silently wrong.

    Attributes:
        n: number of the patient.
        complaint: what its owner reports.
        script: the source of the script.
    """

    n: int
    complaint: str
    script: Script

    def __repr__(self) -> str:
        return (
            f"{wrapped(f'patient {self.n}: “{self.complaint}”')}\n"
            f"  emergency.admit({self.n}) writes its script, and "
            f'emergency.discharge({self.n}, cause="...") judges your repair.'
        )


@dataclass(frozen=True)
class Verdict:
    """The judgement on a repaired script and on the cause you named.

    Attributes:
        n: number of the patient.
        fixed: whether the script is healthy.
        named: whether the cause is right; None if you named none, or one that isn't in `CAUSES`.
        says: what was measured, and what to do next.
    """

    n: int
    fixed: bool
    named: bool | None
    says: str

    @property
    def passed(self) -> bool:
        """Whether the script is healthy and the cause is named."""
        return self.fixed and self.named is True

    def __str__(self) -> str:
        return "\n".join(map(wrapped, self.says.splitlines()))

    __repr__ = __str__


@dataclass(frozen=True)
class Ward:
    """All patients and how far you are with them; it prints as a table.

    Attributes:
        rows: for each patient, its number, its complaint, whether it is admitted, fixed and its
            cause named, and how many wrong causes you named for it.
    """

    rows: tuple[Mapping[str, Any], ...]

    def __repr__(self) -> str:
        lines = [
            wrapped(f"{row['n']:>2} {self._state(row):18} {row['complaint']}") for row in self.rows
        ]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        cells = "".join(
            f"<tr><td>{row['n']}</td><td style='text-align: left'>{escape(row['complaint'])}</td>"
            f"<td style='text-align: left'>{self._state(row)}</td></tr>"
            for row in self.rows
        )
        return (
            "<table><thead><tr><th>patient</th><th style='text-align: left'>complaint</th>"
            f"<th style='text-align: left'>state</th></tr></thead><tbody>{cells}</tbody></table>"
        )

    @staticmethod
    def _state(row: Mapping[str, Any]) -> str:
        if row["named"]:
            tries = f", try {row['wrong'] + 1}" if row["wrong"] else ""
            return ("discharged" if row["fixed"] else "cause named") + tries
        if row["fixed"]:
            return "fixed"
        return "admitted" if row["admitted"] else "waiting"


def patient(n: int) -> Patient:
    """Return a patient: its complaint and its script.

    Args:
        n: number of the patient, from 1.

    Raises:
        ValueError: there is no patient with this number.

    >>> "def train(seed" in patient(1).script
    True
    """
    if n not in NUMBERS:
        raise ValueError(
            f"there is no patient {n!r}: they are numbered {NUMBERS[0]} to {NUMBERS[-1]}; "
            "emergency.ward() lists them"
        )
    return Patient(n, record(n).complaint, Script(sick_script(n)))


def admit(n: int, folder: str | Path = "emergency") -> Path:
    """Write a patient's script to a file for you to run and repair.

    A file that is there already is yours: it stays as it is.

    Args:
        n: number of the patient.
        folder: where to write it; created if it doesn't exist.

    Returns:
        The path of the file.

    Raises:
        ValueError: there is no patient with this number, or the folder is a file.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     admit(1, folder).name
    'patient_01.py'
    """
    admitted = patient(n)
    path = _file(n, folder)
    if path.exists():
        print(f"{path} is there already, so it stays as it is. Delete it to start again.")
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    complaint, contract = (
        textwrap.fill(text, 88)
        for text in (f"Patient {n}: “{admitted.complaint}”", record(n).contract)
    )
    write_whole(path, f'"""{complaint}\n\n{contract}\n"""\n\n{admitted.script}'.encode())
    return path


def discharge(
    n: int, cause: str | EllipsisType | None = None, folder: str | Path = "emergency"
) -> Verdict:
    """Judge your repair of a patient, and the cause you name.

    Your file runs in a process of its own, on seeds that you don't know, beside its healthy twin.
    Every repair that works is accepted, because only what the script does is compared. Wrong causes
    are counted, and `ward` shows how many tries you needed.

    Args:
        n: number of the patient.
        cause: one of `CAUSES`, in British or American spelling; without it, only the repair is
            judged.
        folder: the folder that you gave to `admit`.

    Raises:
        ValueError: there is no patient with this number.

    >>> discharge(1, folder="nowhere")
    ✘ patient 1: there is no nowhere...
    """
    patient(n)
    path = _file(n, folder)
    if not path.is_file():
        says = f"✘ patient {n}: there is no {path}. emergency.admit({n}) writes it."
        return Verdict(n, False, None, says)
    named, about_cause = _judge_cause(n, cause)
    report = run_file(n, path, _seeds(n))
    fixed, says = False, f"your script {report.problem}"
    if not report.problem:
        fixed, says = record(n).judge(report.own, report.twin)
    state = _remember(n, folder, fixed, named, cause)
    if named is False and len(state["wrong"]) > 1:
        about_cause += f" Of {len(state['wrong'])} causes so far none was right, so measure first."
    lines = [f"{_MARKS[fixed]} patient {n}: {says}", f"{_MARKS[named]} {about_cause}"]
    if fixed and _shows_twin(state):
        lines.append(f"  emergency.twin({n}) shows a healthy version.")
    return Verdict(n, fixed, named, "\n".join(lines))


def twin(n: int, folder: str | Path = "emergency") -> Script:
    """Return the healthy version of a script, once yours is fixed and its cause named.

    After two wrong causes it is shown too, because you learn more by comparing than by guessing.

    Args:
        n: number of the patient.
        folder: the folder that you gave to `admit`.

    Returns:
        The source of the script; before that, a sentence that says what is missing.

    >>> twin(1, folder="nowhere")
    First repair your own and name the cause: emergency.discharge(1, cause="...") judges both.
    """
    patient(n)
    if not _shows_twin(_state(n, folder)):
        return Script(
            "First repair your own and name the cause: "
            f'emergency.discharge({n}, cause="...") judges both.'
        )
    return Script(healthy_script(n))


def ward(folder: str | Path = "emergency") -> Ward:
    """List all patients and how far you are with each.

    Args:
        folder: the folder that you gave to `admit`.

    >>> len(ward().rows) >= 3
    True
    """
    return Ward(
        tuple(
            {
                "n": n,
                "complaint": record(n).complaint,
                "admitted": _file(n, folder).is_file(),
                "fixed": state["fixed"],
                "named": state["named"],
                "wrong": len(state["wrong"]),
            }
            for n in NUMBERS
            for state in [_state(n, folder)]
        )
    )


def _judge_cause(n: int, cause: str | EllipsisType | None) -> tuple[bool | None, str]:
    """Return whether a cause is right, and the feedback."""
    if cause is None or isinstance(cause, EllipsisType):
        return None, "Name the cause too: cause=... is one of emergency.CAUSES."
    name = recognise(cause, CAUSES)
    if name is None:
        similar = difflib.get_close_matches(str(cause), CAUSES, 1)
        guess = f"Did you mean {similar[0]!r}? " if similar else ""
        return None, f"There is no cause called {cause!r}. {guess}emergency.CAUSES lists them."
    if name == record(n).cause:
        return True, f"The cause is right: {name}."
    return False, f"The cause isn't {name!r}. To rule it out, {TESTS[name]}."


def _file(n: int, folder: str | Path) -> Path:
    return output_folder(folder, "emergency") / f"patient_{n:02}.py"


def _seeds(n: int) -> list[int]:
    from cnnlab.course.emergency.examination import hidden_seeds  # which imports scikit-learn

    return hidden_seeds(n)


def _states(folder: str | Path) -> dict[str, dict[str, Any]]:
    """Read what is written down about each patient."""
    try:
        states = json.loads((output_folder(folder, "emergency") / "ward.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return states if isinstance(states, dict) else {}


def _state(n: int, folder: str | Path) -> dict[str, Any]:
    """Return whether a patient is fixed, whether its cause is named, and the wrong causes."""
    state = _states(folder).get(str(n), {})
    return {
        "fixed": bool(state.get("fixed")),
        "named": bool(state.get("named")),
        "wrong": list(state.get("wrong", [])),
    }


def _shows_twin(state: Mapping[str, Any]) -> bool:
    """Return whether a student may see the healthy version."""
    return state["fixed"] and (state["named"] or len(state["wrong"]) > 1)


def _remember(
    n: int, folder: str | Path, fixed: bool, named: bool | None, cause: Any
) -> dict[str, Any]:
    """Write down a verdict and return the state; what was achieved once stays achieved."""
    state = _state(n, folder)
    state["fixed"] |= fixed
    wrong = recognise(cause, CAUSES)
    if named is False and not state["named"] and wrong not in state["wrong"]:
        state["wrong"].append(wrong)
    state["named"] |= named is True
    path = output_folder(folder, "emergency") / "ward.json"
    write_whole(path, json.dumps({**_states(folder), str(n): state}, indent=1).encode())
    return state
