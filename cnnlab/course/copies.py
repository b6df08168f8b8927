"""Keep a student's copy of the chapters: create it, add what an update brings, restore a chapter.

A copy has a folder `.cnnlab/originals` with every file as it was handed out. A file that is still
equal to its original has no work in it, so a new version may replace it. Any other file belongs to
the student, and nothing here writes to it.
"""

import filecmp
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

from cnnlab.course import notebooks, products
from cnnlab.errors import CnnlabError
from cnnlab.files import user_path, write_whole


_ADDED = "Added to your copy"
_REPLACED = "New versions of files that you hadn't changed"
_BESIDE = "New versions, beside the files that you have changed"


class NoCopyError(CnnlabError, FileNotFoundError):
    """A folder contains no copy of the course, or not the chapter that was asked for."""


def default_folder() -> Path:
    """Return the copy that the current folder is, or else `cnnlab-course` in the home folder."""
    here = Path.cwd()
    return here if is_copy(here) else user_path("~/cnnlab-course")


def is_copy(folder: Path) -> bool:
    """Return whether a folder is a copy that `prepare` or `cnnlab student` has written."""
    return (folder / products.ORIGINALS).is_dir()


def prepare(out: Path) -> list[str]:
    """Create a student's copy, or bring an existing one up to date with the course.

    A file that is new or missing is added, and a file without work in it is replaced by its new
    version. If a file has work in it, its new version is written beside it, as `NAME_new.ipynb`.

    Args:
        out: a folder that doesn't exist yet, or that contains a copy already.

    Returns:
        Sentences that tell the student what has been done.

    Raises:
        products.ExistsError: something else is there. Nothing is changed.
        FileNotFoundError: there is no copy, and no course from which to make one.
    """
    if not products.is_occupied(out):
        products.student(out)
        return [f"Created {out}, your own copy of the course."]
    if not is_copy(out):
        _require_chapters(out)
    elif not notebooks.has_source():
        return []  # only the library is installed, so there is nothing to compare with
    (out / products.ORIGINALS).parent.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".cnnlab-") as scratch:
        new = Path(scratch, "new")
        products.write_student_files(new)
        sentences = _update(out, new)
        _replace_folder(out / products.ORIGINALS, new, Path(scratch, "old"))
    return sentences


def restore(out: Path, names: Sequence[str]) -> list[str]:
    """Bring chapters back as they were handed out; what is there now is renamed, never deleted.

    Args:
        out: the folder of a copy.
        names: each a number (`"03"`), a full name (`"03_augmentation"`) or the name of a notebook.

    Returns:
        A sentence for each chapter, with the new name of the student's own version.

    Raises:
        NoCopyError: `out` is no copy, or it has no such chapter. Nothing is changed.
    """
    if not is_copy(out):
        raise NoCopyError(
            f"{out} is no copy of the course, so nothing can be restored in it; give the folder "
            "that `cnnlab lab` or `cnnlab student` has created"
        )
    originals = [_find_original(out, name) for name in names]
    return [_restore_file(out / original.name, original) for original in originals]


def _restore_file(path: Path, original: Path) -> str:
    if _is_untouched(path, original):
        return f"{path.name} is still as it was handed out."
    kept = ""
    if path.exists() or path.is_symlink():
        kept = f" Your version is now {path.rename(_free_name(path, 'old')).name}."
    write_whole(path, original.read_bytes())
    return f"{path.name} is back as it was handed out.{kept}"


def _find_original(out: Path, name: str) -> Path:
    paths = sorted((out / products.ORIGINALS).glob("*.ipynb"))
    for path in paths:
        if notebooks.matches(path, name.removesuffix(".ipynb"), notebooks.number_in(path)):
            return path
    known = ", ".join(path.stem for path in paths)
    raise NoCopyError(f"the copy in {out} has no chapter {name!r}; choose from {known}")


def _update(out: Path, new: Path) -> list[str]:
    """Add each file of `new` to a copy that doesn't have this version; return what was done."""
    names: dict[str, list[str]] = {_ADDED: [], _REPLACED: [], _BESIDE: []}
    for version in sorted(path for path in new.rglob("*") if path.is_file()):
        name = version.relative_to(new)
        path, original = out / name, out / products.ORIGINALS / name
        if not path.exists():
            place, done = path, _ADDED
        elif _has_same_bytes(path, version) or _has_same_bytes(original, version):
            continue
        elif _is_untouched(path, original):
            place, done = path, _REPLACED
        else:
            place, done = _free_name(path, "new", unless=version), _BESIDE
        place.parent.mkdir(parents=True, exist_ok=True)
        write_whole(place, version.read_bytes())
        names[done].append(place.relative_to(out).as_posix())
    return [f"{done}: {', '.join(files)}." for done, files in names.items() if files]


def _is_untouched(path: Path, original: Path) -> bool:
    """Return whether a file has no work in it: neither changed text nor outputs of a cell."""
    if not path.is_file() or not original.is_file():
        return False
    if path.suffix != ".ipynb":
        return _has_same_bytes(path, original)
    try:
        return _contents(path) == _contents(original)
    except (ValueError, KeyError, AttributeError):  # the student's file is no notebook any more
        return False


def _contents(path: Path) -> list[tuple[object, ...]]:
    """Return what can be work in a notebook. JupyterLab rewrites the rest when it opens one."""
    cells = products.read_notebook(path).cells
    return [(c.cell_type, c.source, c.get("outputs", []), c.get("attachments", {})) for c in cells]


def _has_same_bytes(path: Path, other: Path) -> bool:
    return path.is_file() and other.is_file() and filecmp.cmp(path, other, shallow=False)


def _free_name(path: Path, word: str, unless: Path | None = None) -> Path:
    """Return the first of NAME_word, NAME_word2, ... that is free, or has the bytes of `unless`."""
    number = 1
    while True:
        suffix = word if number == 1 else f"{word}{number}"
        place = path.with_name(f"{path.stem}_{suffix}{path.suffix}")
        taken = place.exists() or place.is_symlink()
        if not taken or (unless is not None and _has_same_bytes(place, unless)):
            return place
        number += 1


def _replace_folder(folder: Path, new: Path, old: Path) -> None:
    if folder.is_dir():
        folder.rename(old)
    shutil.move(new, folder)


def _require_chapters(out: Path) -> None:
    """Raise unless a folder has chapters in it, as copies of earlier versions have."""
    paths = [out / path.name for path in notebooks.chapters()]
    if any(path.with_suffix(".py").is_file() for path in paths):
        contents = "is the source of the course, with its answers"
    elif not any(path.is_file() for path in paths):
        contents = "contains something other than a copy of the chapters"
    else:
        return
    raise products.ExistsError(
        f"{out} {contents}; choose a folder that doesn't exist yet, and your copy is created in "
        "it, for example `cnnlab lab --student ~/my-course`"
    )
