"""Write graded assignments into an nbgrader course: one key and one seed for each assignment.

| in the folder of a course | |
|---|---|
| `source/NAME/NAME.ipynb` | the notebook with its solutions |
| `keys/NAME.py` | the exercises by which the grader judges |
| `seeds.json` | the student seed of each assignment, and whether each student has their own |
| `handout/STUDENT/NAME/NAME.ipynb` | what a student gets, if each has their own seed |
| `nbgrader_config.py`, `README.md` | settings, and what to do next |

How many points a function earns stands in one place, the nbgrader metadata of its test cell.
"""

import ast
import csv
import hashlib
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from cnnlab.course import notebooks
from cnnlab.course.products import ExistsError, copy_licences, is_occupied, new_folder, unpair
from cnnlab.errors import CnnlabError
from cnnlab.files import write_whole
from cnnlab.rng import fold_in


__all__ = [
    "AssignmentError",
    "Graded",
    "Seed",
    "graded",
    "hand_out",
    "read",
    "seed_of",
    "student_name",
    "with_seed",
    "write",
]

SEEDS = "seeds.json"
RULES = "RULES"  # the whole text of the cell in which a notebook has the rules of the course
_SETTINGS = """# nbgrader reads this file when you run it in this folder.
from math import ceil
from pathlib import Path

from cnnlab.course.autograde import configure
from nbgrader.plugins import LateSubmissionPlugin


c = get_config()  # noqa: F821 - nbgrader defines it
configure(c, Path(__file__).parent)

# Limits for one function: processor time in seconds, and memory in bytes:
# c.Judge.seconds = 120
# c.Judge.memory = 4 * 2**30
# Run the students' code in a container:
# c.Judge.command = [
#     "docker", "run", "--rm", "-i", "--init", "--network=none", "--memory=8g", "--pids-limit=256",
#     "--cap-drop=ALL", "--read-only", "--tmpfs=/tmp", "--user=65534", "--workdir=/tmp",
#     "cnnlab-grader", "python",
# ]


# A tenth of the points for each day of delay that has begun. The notebooks announce this rule:
# with rules of your own (`--rules FILE`), change it here, too.
class TenthPerDay(LateSubmissionPlugin):
    def late_submission_penalty(self, student_id, score, total_seconds_late):
        return min(score, 0.1 * score * ceil(total_seconds_late / 86_400))


c.AssignLatePenalties.plugin_class = TenthPerDay
"""
_README = """# A course for nbgrader

`source/` and `keys/` contain the answers, so don't share this folder. `nbgrader` puts what you hand
out into `release/`.

Install the tools once:

    python -m pip install "cnnlab[course,instructor]"

Then, in this folder, with the name of an assignment for NAME:

    nbgrader generate_assignment NAME                writes release/NAME/NAME.ipynb to hand out
    (save each submission as submitted/STUDENT/NAME/NAME.ipynb)
    nbgrader autograde NAME                          grades the functions
    (grade the written answers in JupyterLab, started in this folder: Nbgrader, Formgrader)
    nbgrader generate_feedback NAME                  writes feedback/STUDENT/NAME/NAME.html
    nbgrader export                                  writes grades.csv, one row per submission
    nbgrader export --exporter=cnnlab.course.autograde.PerQuestion --to=questions.csv
                                                     writes one column per question

nbgrader skips what it has done already; with `--force`, it does it again.

The grader runs each function alone, in its own restricted process. The restrictions stop accidents,
but not a determined attack. Before you grade submissions from people you don't know, read the page
on grading in the instructor copy. It explains how to run that process in a container without a
network, which takes one setting in `nbgrader_config.py`.

Another assignment for the same course, then the same one with other data for each student:

    cnnlab assignment OTHER --into .
    cnnlab assignment NAME --into . --roster students.csv

The first column of `students.csv` has the names of the students' folders. Each student's notebook
is then in `handout/STUDENT/NAME/`.
"""


class AssignmentError(CnnlabError, ValueError):
    """The notebook of an assignment, or a list of students, isn't as the grader needs it."""


class Graded(NamedTuple):
    """The function that a test cell grades.

    Attributes:
        exercise: name of the exercise in the key.
        function: name of the student's function.
    """

    exercise: str
    function: str


class Seed(NamedTuple):
    """The seed of an assignment.

    Attributes:
        seed: the student seed.
        own: whether each student has their own seed, derived from this one and their name.
    """

    seed: int
    own: bool = False

    def of(self, student: str) -> int:
        """Return the seed of one student.

        >>> Seed(17).of("ada"), Seed(17, own=True).of("ada") == Seed(17, own=True).of("alan")
        (17, False)
        """
        if not self.own:
            return self.seed
        digest = hashlib.sha256(student.encode()).digest()
        return fold_in(self.seed, int.from_bytes(digest[:4], "big")) % 1_000_000


def write(
    name: str,
    out: Path | None = None,
    *,
    into: Path | None = None,
    student_seed: int = 0,
    rules: Path | None = None,
    force: bool = False,
) -> Path:
    """Write a graded assignment into an nbgrader course.

    Args:
        name: the name of a folder in `assignments` of your course or the current folder, or of one
            that comes with cnnlab.
        out: the folder of a new course, which doesn't exist yet.
        into: or the folder of a course, which is created if it doesn't exist; the assignment must
            not be in it yet.
        student_seed: seed of the data in the notebook and of the problems that the grader draws.
        rules: a Markdown file with your rules on deadlines, resubmission, collaboration and AI
            assistants, for the cell that says RULES; by default `assignments/rules.md` of your
            course, or else of cnnlab.
        force: if `out` exists, rename it to `OUT.1`, `OUT.2`, ...; nothing is ever deleted.

    Returns:
        The folder of the course.

    Raises:
        FileNotFoundError: there is no such assignment.
        AssignmentError: a test cell states other points than its metadata.
        ExistsError: `out` exists, or the assignment is in the course already.
    """
    notebook, key = read(name, student_seed, rules)
    if into is None:
        if out is None:
            raise TypeError("write needs a folder: `out` for a new course, or `into`")
        with new_folder(out, force) as folder:
            _add(name, notebook, key, student_seed, folder)
        return out
    if is_occupied(into / "source" / name) or name in _seeds(into):
        raise ExistsError(
            f"the course {into} has the assignment {name} already; it may have been handed out, so "
            f"it isn't replaced. To change it, edit {into}/source/{name}/{name}.ipynb and run "
            f"`nbgrader generate_assignment {name} --force` in {into}. To give each student their "
            "own seed, add --roster FILE"
        )
    into.mkdir(parents=True, exist_ok=True)
    _add(name, notebook, key, student_seed, into)
    return into


def hand_out(name: str, course: Path, roster: Path) -> int:
    """Write each student's notebook with their own seed, and tell the grader so.

    Args:
        name: the assignment, for which `nbgrader generate_assignment` has been run.
        course: the folder of the course.
        roster: a CSV file; its first column has the names of the students, and a first row with
            `id`, `student_id` or `username` is a title.

    Returns:
        How many notebooks were written.

    Raises:
        AssignmentError: the assignment isn't released yet, or a name can't be that of a folder.
    """
    released = course / "release" / name / f"{name}.ipynb"
    if not released.is_file():
        raise AssignmentError(
            f"there is no {released}; run `nbgrader generate_assignment {name}` in {course} first"
        )
    with roster.open(newline="", encoding="utf-8-sig") as stream:
        students = [row[0].strip() for row in csv.reader(stream) if row and row[0].strip()]
    if students and students[0].lower() in ("id", "student_id", "student", "username"):
        del students[0]
    for student in students:
        student_name(student)
    seed = Seed(_seeds(course)[name].seed, own=True)
    content = json.loads(released.read_text(encoding="utf-8"))
    for student in students:
        for cell in content["cells"]:
            source = cell["source"]
            text = source if isinstance(source, str) else "".join(source)
            cell["source"] = with_seed(text, seed.of(student))
        place = course / "handout" / student / name / released.name
        place.parent.mkdir(parents=True, exist_ok=True)
        write_whole(place, (json.dumps(content, indent=1, ensure_ascii=False) + "\n").encode())
    _note_seed(course, name, seed)
    return len(students)


def seed_of(course: Path, name: str) -> Seed:
    """Return the seed of an assignment of a course.

    Raises:
        AssignmentError: `seeds.json` doesn't have the assignment.
    """
    seeds = _seeds(course)
    if name not in seeds:
        raise AssignmentError(
            f"{course / SEEDS} has no assignment {name!r}; it has {', '.join(seeds) or 'none'}. "
            f"`cnnlab assignment {name} --into {course}` adds it"
        )
    return seeds[name]


def student_name(name: str) -> str:
    """Return a name if it can be that of a student's folder.

    nbgrader puts it into its pages as it is, and spreadsheets take a first `=` for a formula.

    Raises:
        AssignmentError: it has other characters than letters, digits and ``. _ @ + -``.
    """
    if not re.fullmatch(r"\w[\w.@+-]*", name):
        raise AssignmentError(
            f"{name!r} can't be the name of a student: use only letters, digits and . _ @ + -, and "
            "begin with a letter or a digit"
        )
    return name


def with_seed(source: str, seed: int) -> str:
    r"""Return the source of a cell with another seed in its line `SEED = ...`.

    >>> with_seed("import torch\nSEED = 0", 17)
    'import torch\nSEED = 17'
    """
    return re.sub(r"^SEED = \d+$", f"SEED = {seed}", source, flags=re.MULTILINE)


def graded(test: str, points: float | None = None) -> Graded:
    """Return what a test cell grades, from its call `check.grade("exercise", function)`.

    Args:
        test: the source of the test cell.
        points: what the metadata of the cell say; the call needn't repeat them.

    Raises:
        AssignmentError: the test cell contains no such call, or states other points.

    >>> graded('cnnlab.check.grade("mixup", mixup)', 4)
    Graded(exercise='mixup', function='mixup')
    """
    for node in ast.walk(ast.parse(test)):
        match node:
            case ast.Call(
                func=ast.Attribute(attr="grade"),
                args=[ast.Constant(value=str(exercise)), ast.Name(id=function)],
                keywords=keywords,
            ):
                for keyword in keywords:
                    stated = ast.literal_eval(keyword.value)
                    if keyword.arg == "points" and points is not None and stated != points:
                        raise AssignmentError(
                            f"the test cell of {function} says points={stated}, but its metadata "
                            f"say {points:g}. Remove points= from the call: the metadata count"
                        )
                return Graded(exercise, function)
    raise AssignmentError(
        'a test cell needs one call check.grade("exercise", function) in its hidden tests, but '
        f"there is none in:\n{test}"
    )


def read(name: str, seed: int, rules: Path | None = None) -> tuple[Any, Path]:
    """Return the notebook of an assignment, with its seed and the rules, and the path of its key.

    Raises:
        FileNotFoundError: there is no such assignment.
        AssignmentError: a test cell states other points than its metadata.
    """
    shipped = notebooks.shipped()
    known = {
        path.parent.name: path.parent
        for course in (shipped, notebooks.workplace())  # one of your own wins
        for path in sorted(course.glob("assignments/*/key.py"))
        if path.with_name(f"{path.parent.name}.py").is_file()
    }
    if name not in known:
        raise FileNotFoundError(
            f"there is no assignment {name!r}; choose one of {', '.join(known)}"
        )
    source = known[name]
    notebooks.require("jupytext", extra="course")
    import jupytext

    if rules is None:
        own = notebooks.workplace() / "assignments" / "rules.md"
        rules = own if own.is_file() else shipped / "assignments" / "rules.md"
    text = rules.read_text(encoding="utf-8").strip()
    notebook = unpair(jupytext.read(source / f"{name}.py"))
    # Without it, JupyterLab asks the students which kernel they want.
    python = {"name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python"}
    notebook.metadata.setdefault("kernelspec", python)
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"  # jupytext would choose another one each time
        cell.source = text if cell.source == RULES else with_seed(cell.source, seed)
        settings = cell.metadata.get("nbgrader", {})
        if settings.get("grade") and not settings.get("solution"):
            graded(cell.source, settings["points"])
    return notebook, source / "key.py"


def _add(name: str, notebook: Any, key: Path, seed: int, course: Path) -> None:
    """Add an assignment to a folder; settings and README that are there stay as they are."""
    import nbformat

    (course / "source" / name).mkdir(parents=True)
    (course / "keys").mkdir(exist_ok=True)
    nbformat.write(notebook, course / "source" / name / f"{name}.ipynb")
    shutil.copy(key, course / "keys" / f"{name}.py")
    _note_seed(course, name, Seed(seed))
    copy_licences(course)
    for path, text in (("nbgrader_config.py", _SETTINGS), ("README.md", _README)):
        if not (course / path).exists():
            (course / path).write_text(text, encoding="utf-8")


def _seeds(course: Path) -> Mapping[str, Seed]:
    path = course / SEEDS
    stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    return {name: Seed(**seed) for name, seed in stored.items()}


def _note_seed(course: Path, name: str, seed: Seed) -> None:
    seeds = {**_seeds(course), name: seed}
    stored = {name: seeds[name]._asdict() for name in sorted(seeds)}
    write_whole(course / SEEDS, (json.dumps(stored, indent=1) + "\n").encode())
