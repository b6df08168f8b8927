"""Write an assignment for otter-grader and Gradescope, from the same notebook and the same key.

otter runs a submission in one process, together with its tests. So what `cnnlab.course.autograde`
adds to nbgrader is lost; the README of the export says what.
"""

import re
from pathlib import Path
from typing import Any

from cnnlab.course.assignments import AssignmentError, graded, read
from cnnlab.course.products import new_folder


__all__ = ["write"]

_README = """# NAME for otter-grader, student seed SEED

`NAME.ipynb` and `key.py` contain the answers, so don't share this folder. Install
`otter-grader` 7, and run in this folder

    otter assign NAME.ipynb dist
    otter run -a dist/autograder/NAME-autograder*.zip submission.ipynb

You hand out `dist/student/`. For Gradescope, upload the zip file from `dist/autograder/` as the
autograder of a programming assignment. Its image must have cnnlab: put the wheel that
`python -m pip wheel --no-deps PATH-OF-THE-COURSE` writes into this folder, and name it under
`requirements` in the first cell of the notebook.

## What this loses, compared with nbgrader as `cnnlab assignment NAME` sets it up

- The answer runs in the same process as its tests. One line that replaces the grader's functions
  earns every point, so read the submissions with the best scores.
- A cell that fails, an endless loop or a result that is called like the function can cost points
  elsewhere: the notebook runs from top to bottom, experiments included.
- A question is worth all its points or none; partial credit is lost.
- Everybody has the same seed.
- What you see of a submission is up to Gradescope; nothing is taken out of it first.
- Students need otter (`import otter`), and Gradescope's image needs cnnlab and PyTorch.
"""
_CONFIG = """# ASSIGNMENT CONFIG
name: NAME
init_cell: true
export_cell: true
check_all_cell: false
solutions_pdf: false
template_pdf: false
generate: true
autograder_files:
    - key.py"""
_HIDDEN = '''""" # BEGIN TEST CONFIG
hidden: true
points: {points:g}
""" # END TEST CONFIG
from cnnlab.check.grading import exercises
outcome = exercises("key.py")["{exercise}"].judge({function}, {seed})
assert outcome.passed, str(outcome)'''
_VISIBLE = '''""" # BEGIN TEST CONFIG
points: 0
""" # END TEST CONFIG
'''


_SOLUTION = "# BEGIN SOLUTION.*?# END SOLUTION"


def write(
    name: str,
    out: Path,
    *,
    student_seed: int = 0,
    rules: Path | None = None,
    force: bool = False,
) -> Path:
    """Write the folder from which `otter assign` makes what students and Gradescope get.

    Args:
        name: the name of a folder in `assignments`.
        out: a folder that doesn't exist yet.
        student_seed: as in `assignments.write`.
        rules: as in `assignments.write`.
        force: as in `assignments.write`.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: there is no such assignment.
        ExistsError: `out` exists, and `force` is not set. Nothing is changed.
    """
    notebook, key = read(name, student_seed, rules)
    import nbformat

    notebook.cells = [
        nbformat.v4.new_raw_cell(_CONFIG.replace("NAME", name)),
        *_questions(notebook.cells, student_seed),
    ]
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"
        cell.metadata = {}
    with new_folder(out, force) as folder:
        nbformat.write(notebook, folder / f"{name}.ipynb")
        (folder / "key.py").write_bytes(key.read_bytes())
        text = _README.replace("NAME", name).replace("SEED", str(student_seed))
        (folder / "README.md").write_text(text, encoding="utf-8")
    return out


def _questions(cells: list[Any], seed: int) -> list[Any]:
    """Return the cells of an assignment with otter's marks around the questions.

    A cell with an answer belongs to the question of the test cell that comes next.

    Raises:
        AssignmentError: a test cell has no answer before it.
    """
    from nbformat.v4 import new_code_cell, new_raw_cell

    written: list[Any] = []
    answers: list[Any] = []
    for cell in cells:
        settings = cell.metadata.get("nbgrader", {})
        is_solution, is_graded = settings.get("solution"), settings.get("grade")
        name = settings.get("grade_id", "")
        points = settings.get("points", 0)
        if cell.cell_type == "code" and is_solution:
            cell.source = re.sub("### (BEGIN|END) SOLUTION", r"# \1 SOLUTION", cell.source)
        if is_solution and is_graded:
            answers.append(cell)
            written += [
                new_raw_cell(f"# BEGIN QUESTION\nname: {name}\npoints: {points:g}\nmanual: true"),
                new_raw_cell("# BEGIN SOLUTION"),
                cell,
                new_raw_cell("# END SOLUTION"),
                new_raw_cell("# END QUESTION"),
            ]
        elif is_graded:
            test = graded(cell.source, points)
            visible = cell.source.partition("### BEGIN HIDDEN TESTS")[0].rstrip()
            hidden = _HIDDEN.format(
                points=points, exercise=test.exercise, function=test.function, seed=seed
            )
            place = max(
                (i for i, c in enumerate(written) if _is_answer(c) and c not in answers),
                default=None,
            )
            if place is None:
                raise AssignmentError(f"no cell for an answer comes before the test of {name}")
            answer, *between = written[place:]
            del written[place:]
            answers.append(answer)
            written += [
                new_raw_cell(f"# BEGIN QUESTION\nname: {test.function}\npoints: {points:g}"),
                new_raw_cell("# BEGIN SOLUTION"),
                answer,
                new_raw_cell("# END SOLUTION"),
                *between,
                new_raw_cell("# BEGIN TESTS"),
                *([new_code_cell(_VISIBLE + visible)] if visible else []),
                new_code_cell(hidden),
                new_raw_cell("# END TESTS"),
                new_raw_cell("# END QUESTION"),
            ]
        else:
            written.append(cell)
    for cell in written:
        if _is_answer(cell) and cell not in answers:
            # otter removes answers within questions only.
            cell.source = re.sub(_SOLUTION, "...", cell.source, flags=re.DOTALL)
    return written


def _is_answer(cell: Any) -> bool:
    return bool(cell.metadata.get("nbgrader", {}).get("solution"))
