"""Build the Jupyter Book."""

import hashlib
import os
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from cnnlab.course import notebooks
from cnnlab.course.profile import profile
from cnnlab.errors import CnnlabError


class BookError(CnnlabError, RuntimeError):
    """The book could not be built without a warning."""


def build_book(out: Path | None = None, *, student: bool = False) -> Path:
    """Execute every chapter and build the Jupyter Book; a warning counts as an error.

    The next build uses the same outputs, unless a chapter, the library or the profile has changed.

    Args:
        out: the folder to create `_build` in; by default the folder of the course, or the current
            folder if the course is the one in the installed package. For students, it's
            `_build/student` in that folder.
        student: leave out the solutions and the pages for instructors.

    Returns:
        The path of the first page.

    Raises:
        BookError: a file of settings is missing, or the build failed; Jupyter Book has printed why.
    """
    notebooks.require("jupyter_book", extra="course")
    from cnnlab.course import edition

    source = notebooks.root()
    for name, purpose in (("_toc.yml", "lists the pages"), ("_config.yml", "has the settings")):
        if not (source / name).is_file():
            raise BookError(
                f"there is no {name} in {source}, which {purpose} of the book. If `jupyter-book "
                f"init` of version 2 has been run there, rename .{name}.bak to {name}; or copy "
                "the one that the course came with"
            )
    place = notebooks.workplace() / ("_build/student" if student else "")
    build = (out or place).resolve() / "_build"
    _drop_outdated_outputs(build)
    for folder in ("html", "jupyter_execute") if student else ():
        shutil.rmtree(build / folder, ignore_errors=True)  # of a page that's left out now
    copy = edition.write(build / "source", student=student)
    main = "from jupyter_book.cli.main import main; main()"  # the package has no __main__
    options = ["build", str(copy), "--path-output", str(build.parent), "-W", "-n", "--keep-going"]
    env = os.environ | {"CNNLAB_STATIC": "1"}  # a page has no kernel, so widgets show an image
    process = subprocess.run([sys.executable, "-c", main, *options], env=env, check=False)
    if process.returncode:
        raise BookError(
            f"the book was not built: Jupyter Book stopped with exit code {process.returncode}. "
            f"Fix the errors and warnings printed above, then run `cnnlab book` again. Files in "
            f"{copy} are copies, so correct those of the same name in {source}"
        )
    return build / "html" / "index.html"


def _drop_outdated_outputs(build: Path) -> None:
    """Delete outputs cached with another library; the cache itself only compares chapters."""
    package = Path(__file__).parents[1]
    digest = hashlib.sha256(f"{profile()} {version('torch')}".encode())
    for path in sorted(package.rglob("*")):
        if path.is_file() and path.suffix != ".pyc":
            digest.update(path.read_bytes())
    stamp = build / ".library"
    if stamp.is_file() and stamp.read_text() == digest.hexdigest():
        return
    if stamp.is_file():
        print("cnnlab, torch or the profile has changed, so every chapter is executed again")  # noqa: T201
    for folder in (".jupyter_cache", ".doctrees"):
        shutil.rmtree(build / folder, ignore_errors=True)
    build.mkdir(parents=True, exist_ok=True)
    stamp.write_text(digest.hexdigest())
