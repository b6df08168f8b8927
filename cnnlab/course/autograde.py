"""nbgrader, with every answer judged outside of the process that runs it.

nbgrader executes a submission in one kernel and looks at the outputs of its test cells: what a student's cell does to
the kernel, it does to the tests. `Judge` takes the place of that step. For each test cell it starts one process with
the set-up and the cell that defines the function (`check.remote`), calls the function from here, and writes what the
exercise says and the points into the cell's outputs, where nbgrader reads them.
"""

import ast
import io
import re
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

from nbformat.v4 import new_output
from nbgrader.api import Gradebook
from nbgrader.preprocessors import (
    AssignLatePenalties,
    CheckCellMetadata,
    DeduplicateIds,
    LimitOutput,
    NbGraderPreprocessor,
    OverwriteCells,
    OverwriteKernelspec,
    SaveAutoGrades,
)
from nbgrader.utils import is_grade, is_locked, is_solution
from traitlets import Float, Int, List, Unicode

from cnnlab.course.check.grading import grade
from cnnlab.course.check.remote import MEMORY, Remote
from cnnlab.errors import CnnlabError


__all__ = [
    "AssignmentError",
    "Graded",
    "Judge",
    "KeepPlain",
    "answer",
    "configure",
    "graded",
]


class AssignmentError(CnnlabError, ValueError):
    """A test cell of an assignment does not say which function it grades."""


class Graded(NamedTuple):
    """What a test cell grades.

    Attributes:
        exercise: its name in the key.
        function: the name of the student's function.
        points: for a right answer.
    """

    exercise: str
    function: str
    points: float


class Judge(NbGraderPreprocessor):
    """Grades each test cell by what its function does in a process of its own; no other cell is run."""

    key = Unicode(help="the file with the exercises").tag(config=True)
    seed = Int(0, help="of the problems that are drawn").tag(config=True)
    seconds = Float(120.0, help="that all calls of one function may take").tag(config=True)
    memory = Int(MEMORY, help="bytes that an answer may use").tag(config=True)
    command = List(
        Unicode(),
        help="the Python that runs an answer, such as a container's; this one when empty",
    ).tag(config=True)

    def preprocess(self, nb: Any, resources: Any) -> tuple[Any, Any]:
        """Fill the outputs of the test cells; those of the other cells stay as they were handed in."""
        setup = _setup(resources["nbgrader"])
        code = [cell for cell in nb.cells if cell.cell_type == "code"]
        for cell in code:
            if not is_grade(cell) or is_solution(cell):
                continue
            told = graded(cell.source)
            said = io.StringIO()
            with redirect_stdout(said):
                points = self.points(told, setup, answer(told.function, code))
            cell.outputs = [
                new_output("stream", name="stdout", text=said.getvalue()),
                new_output("execute_result", {"text/plain": str(points)}),
            ]
        return nb, resources

    def points(self, told: Graded, setup: str, source: str) -> float:
        """Start a process for the answer and grade what it does."""
        with Remote(
            setup,
            source,
            told.function,
            command=self.command,
            seconds=self.seconds,
            memory=self.memory,
        ) as attempt:
            return grade(told.exercise, attempt, points=told.points, seed=self.seed, key=self.key)


class KeepPlain(NbGraderPreprocessor):
    """Keeps of the outputs that were handed in what cannot run: text and PNG pictures."""

    def preprocess_cell(self, cell: Any, resources: Any, index: int) -> tuple[Any, Any]:
        """Leave out every output, and every form of one, that a browser would take for more than it is."""
        if cell.cell_type == "code":
            cell.outputs = [told for told in map(_plain, cell.outputs) if told is not None]
        return cell, resources


def configure(config: Any, folder: Path, *, name: str, seed: int) -> None:
    """Set nbgrader up for one assignment; its `nbgrader_config.py` calls this.

    Args:
        config: what nbgrader hands to its configuration, `get_config()`.
        folder: of the course; it holds `key.py` and `source/NAME`.
        name: of the assignment.
        seed: the student seed, from which the grader's problems are drawn as well.
    """
    config.CourseDirectory.root = str(folder.resolve())
    config.CourseDirectory.course_id = name
    config.ClearSolutions.code_stub = {"python": "raise NotImplementedError"}
    config.OverwriteCells.add_missing_cells = True
    config.Autograde.sanitize_preprocessors = [
        KeepPlain,
        DeduplicateIds,
        OverwriteKernelspec,
        OverwriteCells,
        CheckCellMetadata,
    ]
    config.Autograde.autograde_preprocessors = [
        Judge,
        LimitOutput,
        SaveAutoGrades,
        AssignLatePenalties,
        CheckCellMetadata,
    ]
    config.Judge.key = str((folder / "key.py").resolve())
    config.Judge.seed = seed


def graded(test: str) -> Graded:
    """Return what a test cell grades: its one call `check.grade("exercise", function, points=4)`.

    Raises:
        AssignmentError: there is no such call in it.

    >>> graded('cnnlab.check.grade("mixup", mixup, points=4)')
    Graded(exercise='mixup', function='mixup', points=4.0)
    """
    for node in ast.walk(ast.parse(test)):
        match node:
            case ast.Call(
                func=ast.Attribute(attr="grade"),
                args=[ast.Constant(value=str(exercise)), ast.Name(id=function)],
                keywords=[
                    ast.keyword(arg="points", value=ast.Constant(value=float() | int() as points))
                ],
            ):
                return Graded(exercise, function, float(points))
    raise AssignmentError(
        'a test cell needs one call check.grade("exercise", function, points=4) among its hidden tests; '
        f"there is none in:\n{test}"
    )


def answer(function: str, cells: list[Any]) -> str:
    r"""Return the source of the last cell that defines a function, without the lines that only IPython knows.

    >>> from nbformat.v4 import new_code_cell
    >>> answer("f", [new_code_cell("%time\nf = abs"), new_code_cell("g = abs")])
    'pass\nf = abs'
    """
    defines = re.compile(rf"^(def\s+{function}\s*\(|{function}\s*=)", re.MULTILINE)
    found = [cell.source for cell in cells if defines.search(cell.source) and not is_locked(cell)]
    source = found[-1] if found else f"def {function}(*arguments):\n    raise NotImplementedError"
    return re.sub(r"^(\s*)[%!?].*$", r"\1pass", source, flags=re.MULTILINE)


def _setup(where: Any) -> str:
    """The set-up cell as it was given out, whatever became of it in the submission."""
    with Gradebook(where["db_url"]) as gradebook:
        return gradebook.find_source_cell("setup", where["notebook"], where["assignment"]).source


def _plain(output: Any) -> Any | None:
    if output.output_type == "stream":
        return output
    if output.output_type not in ("execute_result", "display_data"):
        return None
    kept = {kind: data for kind, data in output.data.items() if kind in ("text/plain", "image/png")}
    return new_output("display_data", kept) if kept else None
