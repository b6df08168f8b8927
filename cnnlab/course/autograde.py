"""Grade nbgrader assignments with each answer in its own process, apart from the grader.

nbgrader itself executes a submission in one kernel and reads the outputs of its test cells, so a
student's cell can tamper with the tests. `Judge` replaces that step. For each test cell it starts
one process that runs the set-up cell and the cell that defines the function (`check.remote`), and
calls the function from outside. It then writes the feedback and the points to the outputs of the
test cell, where nbgrader finds them.
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
from cnnlab.course.plain import KeepPlain, check_names, markdown_to_html
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
    """A test cell of an assignment doesn't say which function it grades."""


class Graded(NamedTuple):
    """The function that a test cell grades.

    Attributes:
        exercise: name of the exercise in the key.
        function: name of the student's function.
        points: points for a correct function.
    """

    exercise: str
    function: str
    points: float


class Judge(NbGraderPreprocessor):
    """Grade the function of each test cell in its own process; no other cell is run."""

    key = Unicode(help="path of the file with the exercises").tag(config=True)
    seed = Int(0, help="seed of the problems that the grader draws").tag(config=True)
    seconds = Float(120.0, help="time limit for all calls of one function").tag(config=True)
    memory = Int(MEMORY, help="bytes of memory that one function may use").tag(config=True)
    command = List(
        Unicode(),
        help="command that starts the Python for an answer, for example in a container; "
        "by default the Python that runs nbgrader",
    ).tag(config=True)

    def preprocess(self, nb: Any, resources: Any) -> tuple[Any, Any]:
        """Replace the outputs of the test cells; all other outputs stay as submitted."""
        setup = _setup(resources["nbgrader"])
        code = [cell for cell in nb.cells if cell.cell_type == "code"]
        for cell in code:
            if not is_grade(cell) or is_solution(cell):
                continue
            test = graded(cell.source)
            feedback = io.StringIO()
            with redirect_stdout(feedback):
                points = self.points(test, setup, answer(test.function, code))
            cell.outputs = [
                new_output("stream", name="stdout", text=feedback.getvalue()),
                new_output("execute_result", {"text/plain": str(points)}),
            ]
        return nb, resources

    def points(self, test: Graded, setup: str, source: str) -> float:
        """Grade an answer in a new process, print the feedback, and return the points."""
        with Remote(
            setup,
            source,
            test.function,
            command=self.command,
            seconds=self.seconds,
            memory=self.memory,
        ) as attempt:
            return grade(test.exercise, attempt, points=test.points, seed=self.seed, key=self.key)


def configure(config: Any, folder: Path, *, name: str, seed: int) -> None:
    """Configure nbgrader for one assignment; `nbgrader_config.py` of the assignment calls this.

    Args:
        config: nbgrader's configuration, as returned by `get_config()`.
        folder: the folder of the assignment, with `key.py` and `source/NAME`.
        name: the name of the assignment.
        seed: the student seed, which is also the seed of the problems that the grader draws.
    """
    check_names(folder / "submitted")
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
    config.KeepPlain.folder = str(folder.resolve())
    # Once more when Formgrader or the feedback shows a notebook, whoever wrote that file.
    config.HTMLExporter.preprocessors = [KeepPlain]
    config.HTMLExporter.filters = {"markdown2html": markdown_to_html}
    config.HTMLExporter.sanitize_html = True
    config.HTMLExporter.extra_template_paths = [str(Path(__file__).parent / "formgrader")]
    config.Judge.key = str((folder / "key.py").resolve())
    config.Judge.seed = seed


def graded(test: str) -> Graded:
    """Return what a test cell grades, from its call `check.grade("exercise", function, points=4)`.

    Raises:
        AssignmentError: the test cell contains no such call.

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
        'a test cell needs one call check.grade("exercise", function, points=4) in its hidden '
        f"tests, but there is none in:\n{test}"
    )


def answer(function: str, cells: list[Any]) -> str:
    r"""Return the source of the last cell that defines a function, without IPython commands.

    A cell that only assigns to its name, such as `f = make_f()`, counts if no cell has a `def`.

    >>> from nbformat.v4 import new_code_cell
    >>> answer("f", [new_code_cell("%time\nf = abs"), new_code_cell("g = abs")])
    'pass\nf = abs'
    >>> answer("f", [new_code_cell("def f(): pass"), new_code_cell("f = f()")])
    'def f(): pass'
    """
    sources = [cell.source for cell in cells if not is_locked(cell)]
    for definition in (rf"^def\s+{function}\s*\(", rf"^{function}\s*="):
        found = [source for source in sources if re.search(definition, source, re.MULTILINE)]
        if found:
            return re.sub(r"^(\s*)[%!?].*$", r"\1pass", found[-1], flags=re.MULTILINE)
    return f"def {function}(*arguments):\n    raise NotImplementedError"


def _setup(resources: Any) -> str:
    """Return the set-up cell as it was handed out, even if the submission changed it."""
    notebook, name = resources["notebook"], resources["assignment"]
    with Gradebook(resources["db_url"]) as gradebook:
        return gradebook.find_source_cell("setup", notebook, name).source
