"""Write what the book is built from: the course with the numbers of its table of contents.

Notes for instructors are left out, because each page of the book offers its source for download.
The edition for students has no solutions and no pages for instructors either.
"""

import shutil
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from cnnlab.course import notebooks, numbering, products
from cnnlab.files import write_whole


def write(folder: Path, *, student: bool = False) -> Path:
    """Write the source of the book; a file that hasn't changed is left alone.

    Args:
        folder: where to write. What else is there is deleted.
        student: leave out solutions and pages for instructors.

    Returns:
        The folder.
    """
    course, names = notebooks.root(), numbering.of_course()
    hidden = products.HIDDEN if student else {"instructor"}
    written = set()
    for path in _files(course, folder):
        place = path.relative_to(course)
        if student and products.is_for_instructors(place):
            continue
        target = folder / place
        written.add(target)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".ipynb":
            _update(target, _notebook(path, hidden, names, student=student))
        elif path.suffix == ".md":
            text = names.page(path.read_text(encoding="utf-8"), path)
            _update(target, products.without_code_cells(text, hidden))
        elif path.name == "_toc.yml" and student:
            _update(target, _without_instructor_pages(path.read_text(encoding="utf-8")))
        elif not _is_same(path, target):
            shutil.copy2(path, target)
    for path in folder.rglob("*"):
        if path.is_file() and path not in written:
            path.unlink()
    return folder


def _files(course: Path, folder: Path) -> Iterator[Path]:
    """Yield the files of the course that `_config.yml` doesn't exclude from the book."""
    import yaml

    config = course / "_config.yml"
    settings = yaml.safe_load(config.read_text(encoding="utf-8")) if config.is_file() else {}
    excluded = {"_build", ".*", *((settings or {}).get("exclude_patterns") or ())}

    def walk(place: Path) -> Iterator[Path]:
        for path in sorted(place.iterdir()):
            name = path.relative_to(course).as_posix()
            if path == folder or path.name in ("__pycache__", "node_modules"):
                continue
            if any(fnmatch(name, pattern) for pattern in excluded) or path.name.startswith("."):
                continue
            if path.is_file():
                yield path
            elif path.is_dir() and not (path / "pyvenv.cfg").is_file():
                yield from walk(path)

    return walk(course)


def _notebook(path: Path, hidden: set[str], names: numbering.Numbering, *, student: bool) -> str:
    import nbformat

    notebook = names.notebook(products.read_notebook(path), path)
    notebook = products.unpair(notebook) if student else notebook
    notebook = products.without_cells(notebook, hidden)
    return str(nbformat.writes(notebook)) + "\n"


def _without_instructor_pages(toc: str) -> str:
    """Return a table of contents without the pages for instructors, and without empty parts."""
    import yaml

    def prune(entry: Any) -> Any:
        if isinstance(entry, list):
            return [kept for kept in map(prune, entry) if kept]
        if not isinstance(entry, dict):
            return entry
        if products.is_for_instructors(Path(str(entry.get("file", "")))):
            return None
        kept = {key: prune(value) for key, value in entry.items()}
        lists = [key for key, value in entry.items() if isinstance(value, list)]
        kept = {key: value for key, value in kept.items() if key not in lists or value}
        return kept if not lists or kept.keys() - {"caption", "numbered"} else None

    return yaml.safe_dump(prune(yaml.safe_load(toc)), sort_keys=False, allow_unicode=True)


def _update(path: Path, text: str) -> None:
    """Write a file, unless it has this text already; a new date would have its page read again."""
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        write_whole(path, text.encode())


def _is_same(path: Path, other: Path) -> bool:
    """Return whether a copy has the size and the date of its source."""
    if not other.is_file():
        return False
    ours, theirs = path.stat(), other.stat()
    return (ours.st_size, ours.st_mtime_ns) == (theirs.st_size, theirs.st_mtime_ns)
