"""What is handed out: the chapters for students and for instructors, made by tags, and graded assignments.

| tag | in the student copy | in the instructor copy |
|---|---|---|
| `solution` | left out | stays |
| `instructor` | left out | stays |
| all others | stay | stay |

A copy is made beside its place and moved there whole; a folder that is there already is never written into.
"""

import copy
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cnnlab.course import check, notebooks
from cnnlab.errors import CnnlabError


HIDDEN = {"solution", "instructor"}
PAGES = ("B_checklist.md", "C_glossary.md")  # what is no notebook and needs no book

_WELCOME = """# cnnlab: the chapters

Install the library once, with Python 3.11 or newer, in the folder of the course's repository:

    python -m pip install ".[lab]"

Then, in this folder:

    jupyter lab

and begin with `01_training_loop.ipynb`. Your answers go into the cells that end in `raise NotImplementedError`; the
cell below each of them checks what you wrote. No cell needs a network or a GPU.
"""


_SETTINGS = """# nbgrader reads this file when it is called in its folder.
from pathlib import Path

from cnnlab.course.autograde import configure


c = get_config()  # noqa: F821 - nbgrader brings it
configure(c, Path(__file__).parent, name="NAME", seed=SEED)

# c.Judge.seconds = 120  # that one function may take
# c.Judge.command = ["docker", "run", "--rm", "-i", "--init", "--network=none", "--memory=8g", "--pids-limit=256",
#                    "--read-only", "--tmpfs=/tmp", "cnnlab-grader", "python"]
"""

_GRADING = """# NAME, student seed SEED

`source/` and `key.py` hold the answers: keep this folder to yourself. What you hand out comes into `release/`.

    python -m pip install ".[course,instructor]"     once, in the folder of the course's repository

Then, in this folder:

    nbgrader generate_assignment NAME                hand out release/NAME/NAME.ipynb
    (collect each answer as submitted/STUDENT/NAME/NAME.ipynb)
    nbgrader autograde NAME                          points for the functions
    nbgrader formgrader, in JupyterLab               read and grade what is written
    nbgrader generate_feedback NAME                  feedback/STUDENT/NAME/NAME.html
    nbgrader export                                  grades.csv

The grader runs each function alone in a process of its own, behind a fence that is no wall. Before you grade people
you do not know, read the page on grading in the instructors' copy: it says how to put that process into a container
without network, which takes one line of `nbgrader_config.py`.

Other data for other students: `cnnlab assignment NAME OTHER-FOLDER --student-seed N`, one folder a seed.
"""


class ExistsError(CnnlabError, FileExistsError):
    """There is something where a copy should go."""


def student(out: Path, *, force: bool = False) -> Path:
    """Write the copy for students: no answers, no notes for instructors, nothing that ties it to the source.

    Args:
        out: a folder that is not there yet.
        force: move what is there out of the way, to `OUT.1`, `OUT.2`, ...; it is never deleted.

    Returns:
        The folder.

    Raises:
        ExistsError: something is there, and `force` is not set. Nothing is touched.
    """
    return _copy(out, force, _for_students, {"README.md": _WELCOME})


def kept(out: Path) -> Path:
    """Return the student's copy in a folder: made there at first, and from then on never written to again.

    Args:
        out: a folder that is not there yet, or that holds a copy already.

    Returns:
        The folder.

    Raises:
        ExistsError: something else is there. Nothing is touched.
    """
    if not _taken(out):
        return student(out)
    names = [out / path.name for path in notebooks.chapters()]
    if any(name.with_suffix(".py").is_file() for name in names):
        held = "is the source of the course, with its answers"
    elif not any(name.is_file() for name in names):
        held = "holds something else than a copy of the chapters"
    else:
        return out
    raise ExistsError(
        f"{out} {held}; name a folder that is not there yet, and your copy is made in it"
    )


def instructor(out: Path, *, force: bool = False) -> Path:
    """Write the copy for instructors: answers and notes in, and a page for each chapter.

    Args:
        out: a folder that is not there yet.
        force: as in `student`.

    Returns:
        The folder.

    Raises:
        ExistsError: as in `student`.
    """
    kit = {f"instructor/{path.stem}.md": chapter_page(path) for path in notebooks.chapters()}
    for page in sorted((notebooks.root() / "chapters" / "instructor").glob("*.md")):
        kit[f"instructor/{page.name}"] = page.read_text(encoding="utf-8")
    return _copy(out, force, _unpaired, {"README.md": _WELCOME, **kit})


def assignment(name: str, out: Path, *, student_seed: int = 0, force: bool = False) -> Path:
    """Write a graded assignment as a folder for nbgrader: notebook with solutions, key, settings, what to do.

    Args:
        name: of a folder in `assignments`.
        out: a folder that is not there yet.
        student_seed: decides which data the notebook has, and which problems the grader draws.
        force: as in `student`.

    Returns:
        The folder.

    Raises:
        FileNotFoundError: there is no such assignment.
        ExistsError: as in `student`.
    """
    source = notebooks.root() / "assignments" / name
    if not (source / f"{name}.py").is_file():
        known = ", ".join(sorted(path.parent.name for path in source.parent.glob("*/key.py")))
        raise FileNotFoundError(f"no assignment {name!r}; there are {known}")
    notebooks.require("jupytext", extra="course")
    import jupytext
    import nbformat

    notebook = _unpaired(jupytext.read(source / f"{name}.py"))
    for number, cell in enumerate(notebook.cells):
        cell.id = f"cell-{number}"  # the same at every call
        cell.source = re.sub(
            "^SEED = 0$", f"SEED = {student_seed}", cell.source, flags=re.MULTILINE
        )
    with _placed(out, force) as folder:
        (folder / "source" / name).mkdir(parents=True)
        nbformat.write(notebook, folder / "source" / name / f"{name}.ipynb")
        shutil.copy(source / "key.py", folder)
        for path, text in (("nbgrader_config.py", _SETTINGS), ("README.md", _GRADING)):
            told = text.replace("NAME", name).replace("SEED", str(student_seed))
            (folder / path).write_text(told, encoding="utf-8")
    return out


def chapter_page(notebook: Path) -> str:
    """Return what an instructor wants to know of a chapter, in Markdown, taken from the chapter and its checks."""
    cells = _read(notebook).cells
    text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    title = text.partition("\n")[0].removeprefix("# ")
    aims = re.search(r"\*\*Afterwards you can\*\* (.*?)\n\n", text, re.DOTALL)
    reading, running = (_minutes(text, what) for what in ("read", "run"))
    exercises = _exercises(text)
    parts = [
        f"# {title}",
        f"To read {reading}, to run {running}; exercises {sum(m for *_, m in exercises)} minutes.",
        "## Aims",
        " ".join(aims[1].split()) if aims else "",
        "## Exercises, and the misconceptions that their checks know",
        *(_exercise(name, level, minutes) for name, level, minutes in exercises),
        "## To discuss",
        "The reader commits to an answer before each experiment. Let the room vote first, then run the cell.",
        "\n".join(f"- {question}" for question in _questions(cells)),
        *(cell.source for cell in cells if "instructor" in _tags(cell)),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _exercise(name: str, level: str, minutes: int) -> str:
    told = check.EXERCISES[name]
    known = "\n".join(f"- *{key}*: {mistake.says}" for key, mistake in told.mistakes.items())
    return f"### `{name}` ({level}, {minutes} minutes)\n\n{known}"


def _exercises(text: str) -> list[tuple[str, str, int]]:
    """Name, difficulty and minutes of each exercise that has a check."""
    found = re.findall(r"### Exercise \d+: `(\w+)` \((\w+), (\d+) minutes\)", text)
    return [(name, level, int(m)) for name, level, m in found if name in check.EXERCISES]


def _minutes(text: str, what: str) -> str:
    found = re.search(rf"\| to {what} \| (\d+ \w+)", text)
    return found[1] if found else "?"


def _questions(cells: list[Any]) -> Iterator[str]:
    """What is asked before each cell for a prediction."""
    for before, cell in pairwise(cells):
        if "predict" in _tags(cell) and before.cell_type == "markdown":
            asked = before.source.rpartition("### Predict")[2].strip()
            yield " ".join(asked.split())


def _for_students(notebook: Any) -> Any:
    """Without the hidden cells, and without what ties it to a script."""
    told = _unpaired(notebook)
    told.cells = [cell for cell in told.cells if not HIDDEN & _tags(cell)]
    return told


def _unpaired(notebook: Any) -> Any:
    told = copy.deepcopy(notebook)
    told.metadata.pop("jupytext", None)
    for cell in told.cells:
        cell.metadata.pop("lines_to_next_cell", None)
    return told


def _tags(cell: Any) -> set[str]:
    return set(cell.metadata.get("tags", ()))


def _read(path: Path) -> Any:
    notebooks.require("nbformat", extra="lab")
    import nbformat

    return nbformat.read(path, as_version=nbformat.NO_CONVERT)


def _copy(out: Path, force: bool, change: Callable[[Any], Any], texts: dict[str, str]) -> Path:
    import nbformat

    with _placed(out, force) as folder:
        for path in tqdm(notebooks.chapters(), "copying", leave=False, disable=None):
            nbformat.write(change(_read(path)), folder / path.name)
        source = notebooks.root() / "chapters"
        shutil.copytree(
            source / "studies", folder / "studies", ignore=shutil.ignore_patterns("__pycache__")
        )
        for name in PAGES:
            shutil.copy(source / name, folder)
        for name, text in texts.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text, encoding="utf-8")
    return out


@contextmanager
def _placed(out: Path, force: bool) -> Iterator[Path]:
    """A folder to fill; it comes to its place when all went well, and is gone when not."""
    taken = _taken(out)
    if taken and not force:
        raise ExistsError(
            f"{out} is there already, perhaps with somebody's work in it; choose another folder, or call it with "
            f"--force, which moves {out.name} aside and deletes nothing"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        made = Path(scratch, out.name)
        made.mkdir()
        yield made
        if taken:
            out.rename(_aside(out))
        elif out.is_dir():
            out.rmdir()  # it is empty
        made.replace(out)


def _taken(out: Path) -> bool:
    """Whether something is there; an empty folder is nothing."""
    return out.is_symlink() or (any(out.iterdir()) if out.is_dir() else out.exists())


def _aside(out: Path) -> Path:
    """The first of OUT.1, OUT.2, ... that is free."""
    number = 1
    while (free := out.with_name(f"{out.name}.{number}")).exists():
        number += 1
    return free
