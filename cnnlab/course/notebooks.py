"""Find the notebooks of the course, and execute them."""

import multiprocessing
import os
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from cnnlab.errors import CnnlabError


class ChapterError(CnnlabError, RuntimeError):
    """A cell of a chapter raised an error, took too long, or took its kernel down."""


def root() -> Path:
    """Return the folder of the course: the checkout cnnlab is imported from, or else the current folder.

    Raises:
        FileNotFoundError: neither holds a folder `chapters` and a `_toc.yml`.
    """
    for folder in (Path(__file__).resolve().parents[2], Path.cwd()):
        if (folder / "chapters").is_dir() and (folder / "_toc.yml").is_file():
            return folder
    raise FileNotFoundError(
        f"no chapters beside the installed cnnlab, and none in {Path.cwd()}; "
        "clone the repository of the course and call cnnlab in its folder"
    )


def chapters(names: Sequence[str] = ()) -> list[Path]:
    """Return the notebooks of the named chapters, or of all, in reading order.

    Args:
        names: each a number (`"1"`), a full name (`"01_training_loop"`) or the path of a notebook.

    Raises:
        FileNotFoundError: there is no such chapter.
    """
    named = re.compile(r"(\d\d|[A-Z])_")  # and not a reader's own Untitled.ipynb
    every = sorted(p for p in (root() / "chapters").glob("*.ipynb") if named.match(p.name))
    return [_find(name, every) for name in names] or every


def run(notebook: Path, *, cell_timeout: int = 300) -> float:
    """Execute a notebook in a fresh kernel and in its own folder; its file stays as it is.

    Args:
        notebook: path of an `.ipynb` file.
        cell_timeout: seconds that one cell may take.

    Returns:
        The seconds it took, start of the kernel included.

    Raises:
        ChapterError: a cell raised, took too long or ended the kernel; the message names the cell.
    """
    require("nbclient", extra="lab")
    import nbformat
    from nbclient import NotebookClient
    from nbclient.exceptions import CellExecutionError

    chapter = nbformat.read(notebook, as_version=4)
    reached = [0]
    client = NotebookClient(
        chapter,
        timeout=cell_timeout,
        kernel_name="python3",
        resources={"metadata": {"path": str(notebook.parent)}},
        on_cell_execute=lambda cell, cell_index: reached.append(cell_index),
    )
    start = time.perf_counter()
    with tempfile.TemporaryFile() as kernel_log:
        try:
            client.execute(stdout=kernel_log, stderr=kernel_log)
        except CellExecutionError as error:
            story = re.sub(r"\x1b\[[0-9;]*m", "", error.traceback).rpartition("------\n")[2].strip()
        except TimeoutError:
            story = f"It took longer than {cell_timeout} s and was stopped."
        except RuntimeError as error:  # the kernel ended, or never came up
            kernel_log.seek(0)
            story = f"{error}. It wrote:\n{kernel_log.read().decode(errors='replace')[-2000:]}"
        else:
            return time.perf_counter() - start
    where = reached[-1]
    begins = chapter.cells[where].source.strip().partition("\n")[0]
    raise ChapterError(
        f"{notebook.stem}, cell {where + 1} of {len(chapter.cells)}, `{begins}`:\n{story}"
    )


def run_all(
    notebooks: Sequence[Path], jobs: int, cell_timeout: int = 300
) -> Iterator[tuple[Path, float]]:
    """Execute notebooks, several at a time, and yield each with its seconds when it ends.

    The networks are small: two notebooks with one thread each are done before one after the other with
    two. So the cores are shared out among the notebooks, unless OMP_NUM_THREADS says otherwise.

    Args:
        notebooks: paths of `.ipynb` files.
        jobs: notebooks at a time, each in a process of its own.
        cell_timeout: seconds that one cell may take.

    Raises:
        ChapterError: of the first notebook that fails; those that have not begun are left out.
    """
    require("nbclient", extra="lab")
    threads = max(1, (os.cpu_count() or 1) // jobs)
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, spawn, _share_cores, (threads,)) as pool:
        work = partial(run, cell_timeout=cell_timeout)
        running = {pool.submit(work, notebook): notebook for notebook in notebooks}
        try:
            for done in as_completed(running):
                yield running[done], done.result()
        finally:
            pool.shutdown(cancel_futures=True)


def require(module: str, *, extra: str) -> None:
    """Raise a `ModuleNotFoundError` that names the extra to install, unless `module` is there."""
    if find_spec(module) is None:
        raise ModuleNotFoundError(
            f"{module} is not installed; it belongs to the extra {extra!r}: "
            f"call `python -m pip install -e '.[{extra}]'` in the folder of the course",
            name=module,
        )


def _share_cores(threads: int) -> None:
    """Let the kernels that this process starts compute with so many threads."""
    os.environ.setdefault("OMP_NUM_THREADS", str(threads))


def _find(name: str, every: list[Path]) -> Path:
    if name.endswith(".ipynb") and Path(name).is_file():
        return Path(name)
    for path in every:
        number = path.stem.partition("_")[0]
        if name == path.stem or name.lstrip("0") == number.lstrip("0"):
            return path
    known = ", ".join(path.stem for path in every)
    raise FileNotFoundError(f"no chapter {name!r}; there are {known}; a path to an .ipynb does too")
