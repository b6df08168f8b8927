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


def build_book(out: Path | None = None) -> Path:
    """Execute every chapter and build the Jupyter Book; a warning is an error.

    Outputs are kept for the next build until a chapter, the library or the profile changes.

    Args:
        out: folder to put `_build` into; that of the course when not given.

    Returns:
        The first page of the book.

    Raises:
        BookError: the build failed, for the reason it wrote to the terminal.
    """
    notebooks.require("jupyter_book", extra="course")
    source = notebooks.root()
    build = (out or source).resolve() / "_build"
    _drop_outdated_outputs(build)
    main = "from jupyter_book.cli.main import main; main()"  # the package has no __main__
    options = ["build", str(source), "--path-output", str(build.parent), "-W", "-n", "--keep-going"]
    env = os.environ | {"CNNLAB_STATIC": "1"}  # no kernel stands behind a page: widgets show frames
    done = subprocess.run([sys.executable, "-c", main, *options], env=env, check=False)
    if done.returncode:
        raise BookError(
            f"no book: Jupyter Book stopped with exit code {done.returncode}, see above"
        )
    return build / "html" / "index.html"


def _drop_outdated_outputs(build: Path) -> None:
    """Forget cached outputs made with another library: the cache itself compares chapters alone."""
    package = Path(__file__).parents[1]
    state = hashlib.sha256(f"{profile()} {version('torch')}".encode())
    for path in sorted(package.rglob("*")):
        if path.is_file() and path.suffix != ".pyc":
            state.update(path.read_bytes())
    stamp = build / ".library"
    if stamp.is_file() and stamp.read_text() == state.hexdigest():
        return
    if stamp.is_file():
        print("cnnlab, torch or the profile has changed: every chapter is executed again")  # noqa: T201
    for folder in (".jupyter_cache", ".doctrees"):
        shutil.rmtree(build / folder, ignore_errors=True)
    build.mkdir(parents=True, exist_ok=True)
    stamp.write_text(state.hexdigest())
