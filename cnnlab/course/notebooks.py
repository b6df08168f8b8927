"""Find the notebooks of the course, and execute them."""

import multiprocessing
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from cnnlab.course import processors
from cnnlab.errors import CnnlabError


class ChapterError(CnnlabError, RuntimeError):
    """A cell of a chapter raised an error, took too long, or ended its kernel."""


# A reader's own notebooks, such as Untitled.ipynb, are not chapters.
_CHAPTER = re.compile(r"(\d\d|[A-Z])_")


def root() -> Path:
    """Return the folder of the course.

    It's the checkout that this cnnlab is in, else the current folder or the one above its
    `chapters`, else the course in the installed package. A course has a folder `chapters` with
    chapters in it, and beside it a table of contents: `_toc.yml`, or `myst.yml` of Jupyter Book 2.

    Raises:
        FileNotFoundError: there are chapters in none of them.
    """
    for folder in (_checkout(), *_around(), _packaged()):
        if _is_course(folder):
            return folder
    raise FileNotFoundError(
        f"this cnnlab was installed without the chapters, and {Path.cwd()} isn't the folder of a "
        "course, which has chapters in `chapters` and a `_toc.yml` or `myst.yml` beside them; "
        "install its wheel again, run cnnlab in the folder of the course, or open your copy of it "
        "with `cnnlab lab --student DIR`"
    )


def own_root() -> Path:
    """Return the folder of the course as `root` does, if its files are there to be changed.

    Raises:
        FileNotFoundError: there is only the course in the installed package.
    """
    if (folder := root()) != _packaged():
        return folder
    raise FileNotFoundError(
        f"there are no chapters in {Path.cwd()}, and those of the installed package aren't there "
        "to be changed, because an upgrade replaces them. For a copy with solutions run `cnnlab "
        "instructor DIR`; to change the course itself, run this in a folder with its source"
    )


def workplace() -> Path:
    """Return where to build things: the folder of the course, or for an installed one, this one."""
    return folder if (folder := root()) != _packaged() else Path.cwd()


def has_source() -> bool:
    """Return whether `root` finds the course, and not only the library is installed."""
    try:
        root()
    except FileNotFoundError:
        return False
    return True


def _checkout() -> Path:
    """Return the folder that contains the package `cnnlab`: a checkout, or site-packages."""
    return Path(__file__).resolve().parents[2]


def _packaged() -> Path:
    """Return where a wheel has the course; `pyproject.toml` names the same folder."""
    return Path(__file__).resolve().with_name("content")


def _around() -> list[Path]:
    """Return the current folder, and the one above if this one is called `chapters`."""
    here = Path.cwd()
    return [here, here.parent] if here.name == "chapters" else [here]


def _is_course(folder: Path) -> bool:
    """Return whether a folder is a course, and not one that happens to have such a notebook."""
    has_contents = any((folder / name).is_file() for name in ("_toc.yml", "myst.yml"))
    return has_contents and bool(_chapters_in(folder / "chapters"))


def _chapters_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob("*.ipynb") if _CHAPTER.match(path.name))


def chapters(names: Sequence[str] = (), folder: Path | None = None) -> list[Path]:
    """Return the notebooks of the named chapters, or of all chapters, in reading order.

    Args:
        names: each a number (`"1"`), a full name (`"01_training_loop"`) or the path of a notebook.
            Any other notebook beside the chapters has only a name.
        folder: a copy of the chapters; by default, those of the course.

    Raises:
        FileNotFoundError: there is no such chapter.
    """
    known = _chapters_in(root() / "chapters" if folder is None else folder)
    order = numbers() if folder is None else {path.stem: number_in(path) for path in known}
    listed = sorted((p for p in known if p.stem in order), key=lambda p: _place(order[p.stem]))
    others = [path for path in known if path.stem not in order]
    return [_find(name, listed + others, order) for name in names] or listed


def numbers() -> dict[str, str]:
    """Return the number of each chapter in the course, by the name of its file.

    It's the position in `_toc.yml`, or the number in the name where that file is missing. Counting
    begins at 1, or at 0 if the first file has the number 0. An appendix keeps its letter.
    """
    names = [path.stem for path in pages() if _CHAPTER.match(path.name)]
    digits = [name for name in names if name[0].isdigit()]
    letters = {name: name[0] for name in names if name[0].isalpha()}
    if not (root() / "_toc.yml").is_file():
        return {name: str(int(name[:2])) for name in digits} | letters
    first = 0 if digits and digits[0].startswith("00") else 1
    return {name: str(number) for number, name in enumerate(digits, first)} | letters


def number_in(notebook: Path) -> str:
    """Return the number in the heading of a notebook, or else that in the name of its file."""
    found = re.search(r'"# (\d+|[A-Z])\. ', notebook.read_text("utf-8", "replace"))
    return found[1] if found else notebook.stem.partition("_")[0]


def _place(number: str) -> tuple[bool, int, str]:
    """Return a key to sort numbers and letters by."""
    return (False, int(number), "") if number.isdigit() else (True, 0, number)


def pages() -> list[Path]:
    """Return the notebooks and pages that `_toc.yml` lists, or all chapters without such a file.

    Raises:
        FileNotFoundError: a page that it lists isn't there.
    """
    course = root()
    toc = course / "_toc.yml"
    if not toc.is_file():
        return _chapters_in(course / "chapters")
    text = toc.read_text(encoding="utf-8")
    names = re.findall(r"""^[\s-]*(?:root|file):\s*["']?([^\s"']+)""", text, re.MULTILINE)
    return [page(course / name) for name in names]


def shipped() -> Path:
    """Return the folder of the course that came with this cnnlab, whatever `root` finds."""
    return next((f for f in (_checkout(), _packaged()) if _chapters_in(f / "chapters")), root())


def page(path: Path) -> Path:
    """Return the notebook or the page with this name, which may leave out `.ipynb` or `.md`."""
    for candidate in (path, *(path.with_name(path.name + end) for end in (".ipynb", ".md"))):
        if candidate.is_file():
            return candidate
    raise FileNotFoundError(
        f"_toc.yml lists {path.name}, but there is no {path}.ipynb and no {path}.md; correct the "
        "name, or remove the line"
    )


def run(notebook: Path, *, cell_timeout: int = 300) -> float:
    """Execute a notebook as `execute` does, and return only the seconds."""
    return execute(notebook, cell_timeout=cell_timeout)[1]


def execute(
    notebook: Path, *, cell_timeout: int = 300, change: Callable[[Any], Any] | None = None
) -> tuple[Any, float]:
    """Execute a notebook in a fresh kernel and in its own folder; the file isn't changed.

    Args:
        notebook: path of an `.ipynb` file.
        cell_timeout: time limit for one cell, in seconds.
        change: is called with the notebook and returns the one to execute.

    Returns:
        The notebook with its outputs, and the seconds it took, including the start of the kernel.

    Raises:
        ChapterError: a cell raised an error, took too long or ended the kernel.
    """
    require("nbclient", extra="lab")
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    chapter = nbformat.read(notebook, as_version=4)
    chapter = change(chapter) if change else chapter
    started_cells = [0]
    client = NotebookClient(
        chapter,
        timeout=cell_timeout,
        kernel_name="python3",
        resources={"metadata": {"path": str(notebook.parent)}},
        on_cell_execute=lambda cell, cell_index: started_cells.append(cell_index),
    )
    start = time.perf_counter()
    with tempfile.TemporaryFile() as kernel_log:
        try:
            client.execute(stdout=kernel_log, stderr=kernel_log)
        except CellExecutionError as error:
            plain = re.sub(r"\x1b\[[0-9;]*m", "", error.traceback)  # without colours
            reason = plain.rpartition("------\n")[2].strip()
        except TimeoutError:
            reason = (
                f"It took longer than {cell_timeout} s and was stopped; "
                "set a longer limit with --cell-timeout SECONDS."
            )
        except RuntimeError as error:  # the kernel ended, or never started
            kernel_log.seek(0)
            output = kernel_log.read().decode(errors="replace")[-2000:]
            reason = f"{error}. It printed:\n{output}"
        else:
            return chapter, time.perf_counter() - start
    index = started_cells[-1]
    first_line = chapter.cells[index].source.strip().partition("\n")[0]
    raise ChapterError(
        f"{notebook.stem}, cell {index + 1} of {len(chapter.cells)}, `{first_line}`:\n{reason}"
    )


def run_all(
    notebooks: Sequence[Path], jobs: int, cell_timeout: int = 300
) -> Iterator[tuple[Path, float]]:
    """Execute notebooks, several at a time, and yield each with its seconds as soon as it ends.

    The networks are small, so two notebooks at once with one thread each finish sooner than two in
    turn with two threads. The notebooks therefore divide the available processors between them,
    unless OMP_NUM_THREADS is set.

    Args:
        notebooks: paths of `.ipynb` files.
        jobs: notebooks to execute at the same time, each in its own process.
        cell_timeout: time limit for one cell, in seconds.

    Raises:
        ChapterError: a notebook failed; those that have not started are not executed.
    """
    require("nbclient", extra="lab")
    threads = max(1, processors.available() // jobs)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, spawn, _set_kernel_threads, (threads,)) as pool:
        execute = partial(run, cell_timeout=cell_timeout)
        running = {pool.submit(execute, notebook): notebook for notebook in notebooks}
        try:
            for future in as_completed(running):
                yield running[future], future.result()
        finally:
            pool.shutdown(cancel_futures=True)


def require(module: str, *, extra: str) -> None:
    """Raise a `ModuleNotFoundError` that names the extra to install, if `module` is missing."""
    if find_spec(module) is None:
        run = f"run `python -m pip install 'cnnlab[{extra}]'`"
        if (_checkout() / "pyproject.toml").is_file():
            run = f"run `python -m pip install -e '.[{extra}]'` in the folder of the course"
        raise ModuleNotFoundError(
            f"{module} is not installed; it comes with the extra {extra!r}: {run}", name=module
        )


def _set_kernel_threads(threads: int) -> None:
    """Set how many threads the kernels that this process starts compute with."""
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))


def matches(chapter: Path, name: str, number: str) -> bool:
    """Return whether a name is that of a chapter (`01_training_loop`) or its number (`1`, `01`)."""
    return name == chapter.stem or name.lstrip("0") == number.lstrip("0")


def _find(name: str, known: list[Path], order: dict[str, str]) -> Path:
    if name.endswith(".ipynb") and Path(name).is_file():
        return Path(name)
    for path in known:
        if matches(path, name, order.get(path.stem, path.stem)):
            return path
    for folder in {path.parent for path in known}:  # a notebook of one's own
        if (own := folder / f"{name}.ipynb").is_file():
            return own
    names = ", ".join(_with_number(path.stem, order.get(path.stem, "")) for path in known)
    raise FileNotFoundError(
        f"there is no chapter {name!r}; choose from {names}, or give the path of an .ipynb file"
    )


def _with_number(stem: str, number: str) -> str:
    """Return the name of a chapter, after its number if its file has another one."""
    in_name = stem.partition("_")[0].lstrip("0")
    return f"{number} ({stem})" if number and number.lstrip("0") != in_name else stem
