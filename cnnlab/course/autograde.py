"""Grade nbgrader assignments with each answer in its own process, apart from the grader.

nbgrader itself executes a submission in one kernel and reads the outputs of its test cells, so a
student's cell can tamper with the tests. `Judge` replaces that step. For each test cell it starts
one process that runs the set-up cell and the cell that defines the function (`check.remote`), and
calls the function from outside. It then writes the feedback and the points to the outputs of the
test cell, where nbgrader finds them.
"""

import ast
import csv
import io
import re
from collections.abc import Mapping
from contextlib import redirect_stdout
from copy import deepcopy
from pathlib import Path
from typing import Any

from IPython.core.inputtransformer2 import TransformerManager
from nbconvert.preprocessors import CSSHTMLHeaderPreprocessor
from nbformat.v4 import new_output
from nbgrader.api import Gradebook, MissingEntry
from nbgrader.plugins import ExportPlugin
from nbgrader.preprocessors import (
    AssignLatePenalties,
    CheckCellMetadata,
    ClearHiddenTests,
    GetGrades,
    LimitOutput,
    NbGraderPreprocessor,
    OverwriteCells,
    OverwriteKernelspec,
    SaveAutoGrades,
)
from nbgrader.utils import is_grade, is_locked, is_solution
from traitlets import Float, Int, List, Unicode

from cnnlab.course.assignments import Graded, graded, seed_of, student_name, with_seed
from cnnlab.course.check.grading import grade
from cnnlab.course.check.remote import MEMORY, Remote
from cnnlab.course.markdown import markdown_to_html
from cnnlab.course.plain import KeepPlain


__all__ = ["Judge", "KeepPlain", "PerQuestion", "RestoreCells", "answer", "configure"]


class Judge(NbGraderPreprocessor):
    """Grade the function of each test cell in its own process; no other cell is run."""

    folder = Unicode(help="the folder of the course, with keys/ and seeds.json").tag(config=True)
    seconds = Float(120.0, help="processor time for all calls of one function").tag(config=True)
    memory = Int(MEMORY, help="bytes of memory that one function may use").tag(config=True)
    readable = List(
        Unicode(), help="files and folders that an answer may read, beside the libraries"
    ).tag(config=True)
    command = List(
        Unicode(),
        help="command that starts the Python for an answer, for example in a container; "
        "by default the Python that runs nbgrader",
    ).tag(config=True)

    def preprocess(self, nb: Any, resources: Any) -> tuple[Any, Any]:
        """Replace the outputs of the test cells; all other outputs stay as submitted."""
        submission = resources["nbgrader"]
        name = submission["assignment"]
        seed = seed_of(Path(self.folder), name).of(submission["student"])
        sources = _handed_out(submission)
        setup = with_seed(sources.get("setup", ""), seed)
        code = [cell for cell in nb.cells if cell.cell_type == "code"]
        for cell in code:
            settings = cell.metadata.get("nbgrader", {})
            if settings.get("grade_id") == "setup":
                cell.source = setup
            if not is_grade(cell) or is_solution(cell):
                continue
            test = graded(cell.source, settings["points"])
            source = answer(test.function, code, sources)
            feedback = io.StringIO()
            with redirect_stdout(feedback):
                key = Path(self.folder, "keys", f"{name}.py")
                points = self.points(test, setup, source, settings["points"], seed, key)
            cell.outputs = [
                new_output("stream", name="stdout", text=feedback.getvalue()),
                new_output("execute_result", {"text/plain": str(points)}),
            ]
        return nb, resources

    def points(
        self, test: Graded, setup: str, source: str, points: float, seed: int, key: Path
    ) -> float:
        """Grade an answer in a new process, print the feedback, and return the points.

        Raises:
            GraderError: the answer couldn't be run, for a reason that isn't the student's.
        """
        with Remote(
            setup,
            source,
            test.function,
            command=self.command,
            seconds=self.seconds,
            memory=self.memory,
            readable=self.readable,
        ) as attempt:
            earned = grade(test.exercise, attempt, points=points, seed=seed, key=key)
            if attempt.fault is not None:  # a key may have taken it for an error of the student's
                raise attempt.fault
            return earned


class RestoreCells(OverwriteCells):
    """Put back the cells that were handed out, and report the test cells that were changed.

    nbgrader compares with the source, whose hidden tests no student has, so it would report each
    test cell of each submission.
    """

    def report_change(self, name: str, attr: str, old: Any, new: Any) -> None:
        """Report a change of the metadata; `preprocess_cell` reports one of the source."""
        if attr != "checksum":
            super().report_change(name, attr, old, new)

    def preprocess_cell(self, cell: Any, resources: Any, cell_index: int) -> tuple[Any, Any]:
        """Put one cell back."""
        submitted = cell.source
        cell, resources = super().preprocess_cell(cell, resources, cell_index)
        if is_grade(cell) and is_locked(cell):
            clear = ClearHiddenTests(parent=self.parent)
            handed_out, _ = clear.preprocess_cell(deepcopy(cell), resources, cell_index)
            if submitted.strip() != handed_out.source.strip():
                self.log.warning(
                    "The test cell %s was changed or deleted in the submission; yours is graded",
                    cell.metadata.nbgrader["grade_id"],
                )
        return cell, resources


class PerQuestion(ExportPlugin):
    """Write one row per student with one column per question, for a learning-management system."""

    def export(self, gradebook: Gradebook) -> None:
        """Write the file given with `--to`; by default `questions.csv`."""
        chosen = [
            assignment
            for assignment in gradebook.assignments
            if not self.assignment or assignment.name in map(str, self.assignment)
        ]
        rows = [
            {"student": student.id} | _points(gradebook, chosen, student.id)
            for student in gradebook.students
            if not self.student or student.id in map(str, self.student)
        ]
        titles = list(dict.fromkeys(title for row in rows for title in row))
        with Path(self.to or "questions.csv").open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, titles or ["student"])
            writer.writeheader()
            writer.writerows(rows)


def _points(gradebook: Gradebook, assignments: list[Any], student: str) -> dict[str, float | str]:
    """Return the points of a student by question, with their sum; empty if nothing is submitted."""
    row: dict[str, float | str] = {}
    for assignment in assignments:
        cells = [
            cell
            for notebook in assignment.notebooks
            for cell in (*notebook.grade_cells, *notebook.task_cells)
        ]
        titles = {
            cell.name: f"{assignment.name}: {cell.name} (of {cell.max_score:g})"
            for cell in sorted(cells, key=lambda cell: cell.name)
        }
        row |= dict.fromkeys(titles.values(), "")
        late, total = (f"{assignment.name}: {word}" for word in ("late penalty", "total"))
        row |= {late: "", total: ""}
        try:
            submission = gradebook.find_submission(assignment.name, student)
        except MissingEntry:
            continue
        for notebook in submission.notebooks:
            row |= {titles[grade.name]: grade.score for grade in notebook.grades}
        penalty = submission.late_submission_penalty or 0.0
        row |= {late: penalty, total: max(0.0, submission.score - penalty)}
    return row


def configure(config: Any, folder: Path) -> None:
    """Configure nbgrader for a course; its `nbgrader_config.py` calls this.

    Args:
        config: nbgrader's configuration, as returned by `get_config()`.
        folder: the folder of the course, as `cnnlab assignment` writes it.

    Raises:
        AssignmentError: a folder in `submitted` has a name that could be read as HTML.
    """
    for student in (folder / "submitted").glob("*"):
        student_name(student.name)
    root = str(folder.resolve())
    config.CourseDirectory.root = root
    config.CourseDirectory.course_id = folder.resolve().name
    config.ClearSolutions.code_stub = {"python": "raise NotImplementedError"}
    config.Autograde.sanitize_preprocessors = [
        KeepPlain,
        OverwriteKernelspec,
        RestoreCells,
        CheckCellMetadata,
    ]
    config.Autograde.autograde_preprocessors = [
        Judge,
        LimitOutput,
        SaveAutoGrades,
        AssignLatePenalties,
        CheckCellMetadata,
    ]
    # The penalty once more, because it's a fraction of the points, and some were given by hand.
    config.GenerateFeedback.preprocessors = [
        AssignLatePenalties,
        GetGrades,
        CSSHTMLHeaderPreprocessor,
    ]
    # `nbgrader zip_collect` reads Moodle's archives, with and without a folder for each student.
    config.FileNameCollectorPlugin.named_regexp = (
        r".*_(?P<student_id>\d+)_assignsubmission_file[_/]+(?P<file_id>\w+)"
    )
    config.KeepPlain.folder = root
    config.Judge.folder = root
    # Once more when Formgrader or the feedback shows a notebook: others may have written it.
    config.HTMLExporter.preprocessors = [KeepPlain]
    config.HTMLExporter.filters = {"markdown2html": markdown_to_html}
    config.HTMLExporter.sanitize_html = True
    config.HTMLExporter.extra_template_paths = [str(Path(__file__).parent / "formgrader")]


def answer(function: str, cells: list[Any], handed_out: Mapping[str, str] | None = None) -> str:
    r"""Return the source of the cell that defines a function, without IPython commands.

    It is the cell in which the function was to be written. If that cell is gone or as it was
    handed out, it's the last other cell with a `def`, or else the last that assigns to the name.

    Args:
        function: name of the function.
        cells: the code cells of the submission.
        handed_out: the sources that were handed out, by grade_id.

    >>> from nbformat.v4 import new_code_cell
    >>> answer("f", [new_code_cell("%time\nf = abs"), new_code_cell("g = abs")])
    'pass\nf = abs'
    >>> answer("f", [new_code_cell("def f(): pass"), new_code_cell("f = f()")])
    'def f(): pass'
    """
    handed_out = handed_out or {}
    definition = rf"^(async +def|def|class)\s+{function}\b"
    assignment = rf"^{function}\s*(:[^=]+)?=(?!=)"
    own: list[str] = []
    stubs: list[str] = []
    others: list[str] = []
    for cell in cells:
        if is_locked(cell):
            continue
        stub = handed_out.get(cell.metadata.get("nbgrader", {}).get("grade_id", ""), "")
        is_place = re.search(definition, stub, re.MULTILINE) is not None
        unchanged = is_place and cell.source.strip() == stub.strip()
        (stubs if unchanged else own if is_place else others).append(cell.source)
    for sources, pattern in (
        (own, f"{definition}|{assignment}"),
        (others, definition),
        (others, assignment),
    ):
        found = [source for source in sources if re.search(pattern, source, re.MULTILINE)]
        if found:
            return _plain_python(found[-1])
    return f"def {function}(*arguments):\n    raise NotImplementedError"


def _plain_python(source: str) -> str:
    """Return the source of a cell without what only IPython understands."""
    commands = re.sub(r"^(\s*)[%!?].*$", r"\1pass", source, flags=re.MULTILINE)
    # A line can begin with % in plain Python, too.
    for text in (source, commands, TransformerManager().transform_cell(commands)):
        try:
            ast.parse(text)
        except SyntaxError:
            continue
        return text
    return source


def _handed_out(submission: Mapping[str, str]) -> dict[str, str]:
    """Return the sources of the cells that were handed out, by grade_id."""
    with Gradebook(submission["db_url"]) as gradebook:
        notebook = gradebook.find_notebook(submission["notebook"], submission["assignment"])
        return {cell.name: cell.source for cell in notebook.source_cells}
