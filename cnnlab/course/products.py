"""Write what is handed out: copies of the chapters for students and instructors.

| tag of a cell | student copy | instructor copy |
|---|---|---|
| `solution` | removed | kept |
| `instructor` | removed | kept |
| any other | kept | kept |

A copy has the chapters that `_toc.yml` lists and an instructor's own pages in that list.

It is written to a temporary folder and moved into place when it is complete. A folder that
exists already is never written to here; `cnnlab.course.copies` brings a student's copy up to date.
"""

import copy
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

from tqdm import tqdm

from cnnlab.course import notebooks, numbering
from cnnlab.errors import CnnlabError
from cnnlab.files import write_whole
from cnnlab.version import __version__


HIDDEN = {"solution", "instructor"}
# What the plain code of the chapters adds up to; `cnnlab.course.script` writes it.
SCRIPT = "train.py"
# The files that are useful outside the book, and the pages that aren't.
FILES = ("B_checklist.md", "C_glossary.md", SCRIPT)
# The licences of code and text, which go with every copy.
LICENCES = ("LICENSE", "LICENSE-TEXT.md")
BOOK_ONLY = {
    "index.md", "D_library.md", "E_timings.md", "F_machines.md", "G_evidence.md",
    "H_accessibility.md", "references.md",
}  # fmt: skip
# What a student sees first.
START = "START_HERE.ipynb"

# In a student's copy: what belongs to the program, and every file as it was handed out.
STATE = ".cnnlab"
ORIGINALS = f"{STATE}/originals"

_STUDENT_README = """# Your copy of the course

Run this command in this folder. JupyterLab opens on `START_HERE.ipynb`, which explains the rest.

    cnnlab lab

If you set the course up with `make lab`, the same command opens this folder again. If your terminal
doesn't know `cnnlab`, install it from its wheel. That file lies in this folder, or the person who
gave you the folder has it:

    python -m pip install "cnnlab-{version}-py3-none-any.whl[lab]"

Everything you write here is yours, and an update of the course never overwrites it. To get a
chapter back as it was, run `cnnlab student . --restore 03`. Your own version is kept under another
name. No cell needs an internet connection or a GPU.
"""

_INSTRUCTOR_README = """# The chapters for instructors

The notebooks have solutions and notes in them, so don't share this folder. `cnnlab student OUT`
writes the copy for your students. In `instructor/` you find a page about each chapter, with a plan
for a session, answers and exam questions. You also find two syllabuses there, and how to hand out
the course, grade, write quizzes, run a study as a class, and make exercises, assignments and a book
of your own. Open the folder with

    jupyter lab
"""


# Links of the start page: to the first chapter, and to the second for those who may skip it.
_OPEN = re.compile(r"\[([Oo])pen chapter 0(: [^]]*)?\]\(00_first_network\.ipynb\)")
_SHORTCUT = re.compile(r" If you've trained a network before,[^.]*\.ipynb\)\.", re.DOTALL)
_CODE_CELL = re.compile(r"^(`{3,})\{code-cell\}.*?^\1[ \t]*$\n?", re.DOTALL | re.MULTILINE)
_TAGS = re.compile(r"^:?tags: *(.*(?:\n- .*)*)", re.MULTILINE)
_AIMS = r"\*\*(?:Afterwards you can|You will be able to)\*\* (.*?)\n\n"


class ExistsError(CnnlabError, FileExistsError):
    """The place for a copy is already occupied."""


class NoWheelError(CnnlabError, FileNotFoundError):
    """A file is not the wheel of cnnlab."""


def student(out: Path, *, force: bool = False) -> Path:
    """Write the copy for students, without answers, instructor notes and links to the source.

    Args:
        out: a folder that doesn't exist yet.
        force: if `out` exists, rename it to `OUT.1`, `OUT.2`, ...; nothing is ever deleted.

    Returns:
        The folder.

    Raises:
        ExistsError: `out` exists, and `force` is not set. Nothing is changed.
    """
    with new_folder(out, force) as folder:
        write_student_files(folder / ORIGINALS)
        shutil.copytree(folder / ORIGINALS, folder, dirs_exist_ok=True)
    return out


def add_wheel(out: Path, wheel: Path) -> None:
    """Put the wheel of cnnlab into a student's copy, and a `requirements.txt` that installs it.

    Args:
        out: the folder of the copy.
        wheel: a file such as `cnnlab-0.2.0-py3-none-any.whl`.

    Raises:
        NoWheelError: `wheel` is no such file.
    """
    if not wheel.is_file() or not re.fullmatch(r"cnnlab-.+\.whl", wheel.name):
        raise NoWheelError(
            f"{wheel} isn't a wheel of cnnlab; give the file `cnnlab-VERSION-py3-none-any.whl` "
            "that `python -m build --wheel` writes to dist/"
        )
    shutil.copy(wheel, out)
    write_whole(out / "requirements.txt", f"./{wheel.name}[lab]\n".encode())


def write_student_files(folder: Path) -> None:
    """Write all that a student gets into a folder, which is created."""
    readme = _STUDENT_README.format(version=__version__)
    _write_files(folder, HIDDEN, {"README.md": readme})
    _write_start_page(folder)


def instructor(out: Path, *, force: bool = False) -> Path:
    """Write the copy for instructors, with answers, notes, and a page about each chapter.

    Args:
        out: a folder that doesn't exist yet.
        force: as in `student`.

    Returns:
        The folder.

    Raises:
        ExistsError: as in `student`.
    """
    names = numbering.of_course()
    pages = {
        f"instructor/{path.stem}.md": _chapter_page(names.notebook(read_notebook(path), path).cells)
        for path in notebooks.chapters()
    }
    for course in (notebooks.shipped(), notebooks.root()):  # pages of one's own win
        for path in sorted((course / "chapters" / "instructor").glob("*.md")):
            text = path.read_text(encoding="utf-8")
            pages[f"instructor/{path.name}"] = names.guide(text, path)
    with new_folder(out, force) as folder:
        _write_files(folder, set(), {"README.md": _INSTRUCTOR_README, **pages})
    return out


def _chapter_page(cells: list[Any]) -> str:
    """Return a page in Markdown that sums up a chapter and its exercises for instructors."""
    text = "\n\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    title = text.partition("\n")[0].removeprefix("# ")
    aims = re.search(_AIMS, text, re.DOTALL)
    reading, running = _duration(text, "read"), _duration(text, "run")
    exercises = _exercises(text)
    total = sum(minutes for _, _, minutes in exercises)
    sections = [
        f"# {title}",
        f"Reading: {reading}. Running: {running}. Exercises: {total} minutes.",
        "## Aims",
        " ".join(aims[1].split()) if aims else "",
        "## Exercises, and the misconceptions that their checks recognise",
        *(_exercise_section(name, level, minutes) for name, level, minutes in exercises),
        "## To discuss",
        "Students write a prediction before each experiment. Let the class vote, then run it.",
        "\n".join(f"- {question}" for question in _prediction_questions(cells)),
        *(cell.source for cell in cells if "instructor" in _tags(cell)),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def _exercise_section(name: str, level: str, minutes: int) -> str:
    from cnnlab.course import check  # imports torch, which a student's copy doesn't need

    mistakes = check.EXERCISES[name].mistakes
    items = "\n".join(f"- *{key}*: {mistake.says}" for key, mistake in mistakes.items())
    return f"### `{name}` ({level}, {minutes} minutes)\n\n{items}"


def _exercises(text: str) -> list[tuple[str, str, int]]:
    """Return name, difficulty and minutes of each exercise in a chapter that has a check."""
    from cnnlab.course import check

    headings = re.findall(r"### Exercise \d+: `(\w+)` \((\w+), (\d+) minutes\)", text)
    return [(name, level, int(m)) for name, level, m in headings if name in check.EXERCISES]


def _duration(text: str, activity: str) -> str:
    """Return how long it takes to read or to run a chapter, from the table at its top."""
    row = re.search(rf"\| to {activity} \| (\d+ \w+)", text)
    return row[1] if row else "?"


def _prediction_questions(cells: list[Any]) -> Iterator[str]:
    """Yield the question before each cell in which students write a prediction."""
    for previous, cell in pairwise(cells):
        if "predict" in _tags(cell) and previous.cell_type == "markdown":
            question = previous.source.rpartition("### Predict")[2]
            yield " ".join(question.split())


def without_cells(notebook: Any, tags: set[str]) -> Any:
    """Return a copy of a notebook without the cells that have one of the tags."""
    changed = copy.copy(notebook)
    changed.cells = [cell for cell in notebook.cells if not tags & _tags(cell)]
    return changed


def without_code_cells(text: str, tags: set[str]) -> str:
    r"""Return a page in MyST Markdown without the code cells that have one of the tags.

    >>> without_code_cells("A.\n\n```{code-cell}\n:tags: [solution]\n42\n```\n", {"solution"})
    'A.\n\n'
    """

    def keep(cell: re.Match[str]) -> str:
        found = _TAGS.search(cell[0])
        return "" if found and tags & set(re.findall(r"[\w-]+", found[1])) else cell[0]

    return _CODE_CELL.sub(keep, text)


def is_for_instructors(page: Path) -> bool:
    """Return whether a page lies in a folder `instructor`, and so isn't for students."""
    return "instructor" in page.parent.parts


def unpair(notebook: Any) -> Any:
    """Return a copy that jupytext doesn't link to a script."""
    unpaired = copy.deepcopy(notebook)
    unpaired.metadata.pop("jupytext", None)
    for cell in unpaired.cells:
        cell.metadata.pop("lines_to_next_cell", None)
    return unpaired


def _tags(cell: Any) -> set[str]:
    return set(cell.metadata.get("tags", ()))


def read_notebook(path: Path) -> Any:
    """Read a notebook as it is, without bringing it to another version of the format."""
    notebooks.require("nbformat", extra="lab")
    import nbformat

    return nbformat.read(path, as_version=nbformat.NO_CONVERT)


def _write_files(folder: Path, hidden: set[str], pages: dict[str, str]) -> None:
    """Write the chapters without hidden cells, the files they read, and further pages of text."""
    import nbformat

    names = numbering.of_course()
    folder.mkdir(parents=True, exist_ok=True)
    for place, path in tqdm(_contents().items(), "copying", leave=False, disable=None):
        if hidden and is_for_instructors(Path(place)):
            continue
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".ipynb":
            visible = without_cells(unpair(read_notebook(path)), hidden)
            notebook = names.notebook(visible, path)
            nbformat.write(notebook, folder / place)
            text = "\n".join(c.source for c in notebook.cells if c.cell_type == "markdown")
            code = "\n".join(c.source for c in notebook.cells if c.cell_type == "code")
            _copy_used(code, path.parent, (folder / place).parent)
        else:
            text = path.read_text(encoding="utf-8")
            text = names.code(text) if path.suffix == ".py" else names.page(text, path)
            text = without_code_cells(text, hidden)
            write_whole(folder / place, text.encode())
        _copy_images(text, path, folder / place)
    studies = notebooks.root() / "chapters" / "studies"
    if studies.is_dir():
        caches = shutil.ignore_patterns("__pycache__")
        shutil.copytree(studies, folder / "studies", ignore=caches, dirs_exist_ok=True)
    copy_licences(folder)
    for name, text in pages.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def copy_licences(folder: Path) -> None:
    """Copy the licences of code and text into a folder that is handed out."""
    for name in LICENCES:
        shutil.copy(notebooks.shipped() / name, folder)


def _contents() -> dict[str, Path]:
    """Return the chapters and pages of a copy, by their place in it."""
    chapters = notebooks.root() / "chapters"
    paths = [path for path in notebooks.pages() if path.name not in BOOK_ONLY]
    paths += [path for name in FILES if (path := chapters / name).is_file()]
    return {
        path.relative_to(chapters).as_posix() if path.is_relative_to(chapters) else path.name: path
        for path in paths
    }


def _copy_used(code: str, source: Path, target: Path) -> None:
    """Copy the modules beside a notebook which it imports, and the files that it names."""
    modules = re.findall(r"^\s*(?:from|import) (\w+)", code, re.MULTILINE)
    files = re.findall(r"""["']([\w./ -]+\.\w+)["']""", code)
    for name in [*(f"{module}.py" for module in modules), *files]:
        path = source / name
        if path.is_file() and path.resolve().is_relative_to(source.resolve()):
            place = target / path.relative_to(source)
            if path.suffix not in (".ipynb", ".md") and not place.exists():
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(path, place)


def _copy_images(text: str, page: Path, place: Path) -> None:
    """Copy the image files below the folder of a page which its Markdown shows."""
    for found in re.findall(r"""!\[[^]]*\]\(([^\s():]+)|<img[^>]*\bsrc=["']([^"':]+)""", text):
        image = page.parent / (found[0] or found[1])
        if image.is_file() and image.resolve().is_relative_to(page.parent.resolve()):
            target = place.parent / image.relative_to(page.parent)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(image, target)


def _write_start_page(folder: Path) -> None:
    """Write `chapters/START_HERE.md` as a notebook, in which the blocks of Python are cells."""
    import nbformat

    own, ours = (f / "chapters" / "START_HERE.md" for f in (notebooks.root(), notebooks.shipped()))
    shipped = ours.read_text(encoding="utf-8")
    source = own.read_text(encoding="utf-8") if own.is_file() else shipped
    if source == shipped and not numbering.of_course().is_identity:
        source = _for_this_course(source, folder)
    # The pattern has a group, so every second piece is the inside of a block.
    pieces = re.split(r"^```python\n(.*?)^```\n", source, flags=re.DOTALL | re.MULTILINE)
    new_cell = (nbformat.v4.new_markdown_cell, nbformat.v4.new_code_cell)
    cells = [
        new_cell[number % 2](piece.strip(), id=f"start-{number}")
        for number, piece in enumerate(pieces)
    ]
    kernel = {"display_name": "Python 3 (ipykernel)", "language": "python", "name": "python3"}
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": kernel})
    nbformat.write(notebook, folder / START)


def _for_this_course(start: str, folder: Path) -> str:
    """Let the start page lead to the first chapter of a copy, and list what the copy has."""
    pages = [place for place in _contents() if (folder / place).suffix in (".ipynb", ".md")]
    titles = {place: _title(folder / place) for place in pages if (folder / place).is_file()}
    first = next((place for place in titles if place.endswith(".ipynb")), "")
    number, dot, title = titles.get(first, "").partition(". ")
    short, long = (f"chapter {number}", f": {title}") if dot else (number, "")
    start = _OPEN.sub(
        lambda link: f"[{link[1]}pen {short}{long if link[2] else ''}]({first})" if first else "",
        start,
    )
    links = "\n".join(f"- [{title}]({place})" for place, title in titles.items())
    return f"{_SHORTCUT.sub('', start)}\n## What is in this course\n\n{links}\n"


def _title(page: Path) -> str:
    """Return the first heading of a notebook or a page of Markdown."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".ipynb":
        text = "\n".join(c.source for c in read_notebook(page).cells if c.cell_type == "markdown")
    heading = re.search(r"^# (.+)$", text, re.MULTILINE)
    return heading[1] if heading else page.stem


@contextmanager
def new_folder(out: Path, force: bool) -> Iterator[Path]:
    """Yield a temporary folder; move it to `out` if the block succeeds, and delete it if not."""
    occupied = is_occupied(out)
    if occupied and not force:
        raise ExistsError(
            f"{out} exists already and may contain someone's work; choose another folder, or add "
            f"--force, which renames it to {_backup_path(out).name} and deletes nothing. To get "
            "one chapter of a student's copy back, add --restore and its number instead"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as scratch:
        folder = Path(scratch, out.name)
        folder.mkdir()
        yield folder
        if occupied:
            out.rename(_backup_path(out))
        elif out.is_dir():
            out.rmdir()  # it is empty
        folder.replace(out)


def is_occupied(out: Path) -> bool:
    """Return whether something is there, other than an empty folder."""
    return out.is_symlink() or (any(out.iterdir()) if out.is_dir() else out.exists())


def _backup_path(out: Path) -> Path:
    """Return the first of OUT.1, OUT.2, ... that doesn't exist."""
    number = 1
    while (path := out.with_name(f"{out.name}.{number}")).exists():
        number += 1
    return path
