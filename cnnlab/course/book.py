"""Build the book: with Jupyter Book 1 or with Sphinx alone, as pages or as a PDF."""

import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path

from cnnlab.course import notebooks
from cnnlab.course.profile import profile
from cnnlab.errors import CnnlabError


class BookError(CnnlabError, RuntimeError):
    """The book could not be built without a warning."""


# For each engine: the module that it needs, the extra that brings it, and its folder in `_build`.
ENGINES = {
    "jupyter-book": ("jupyter_book", "course", "html"),
    "sphinx": ("sphinx_external_toc", "sphinx", "sphinx"),
}
_BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "msedge")
_APPS = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "C:/Program Files/Google/Chrome/Application/chrome.exe",
    "C:/Program Files (x86)/Microsoft/Edge/Application/msedge.exe",
)
# The address of the book leads to its first page.
_REDIRECT = """\
<!DOCTYPE html>
<html lang="en"><head><meta charset="utf-8"><title>The first page of the book</title>
<meta http-equiv="refresh" content="0; url={page}"></head>
<body><main><h1>The book</h1><p><a href="{page}">Go to its first page.</a></p></main></body></html>
"""


def build_book(
    out: Path | None = None, *, engine: str = "jupyter-book", student: bool = False
) -> Path:
    """Execute every chapter and build the book; a warning counts as an error.

    The next build uses the same outputs, unless a chapter, the library or the profile has changed.
    Both engines read the same settings and share the outputs.

    Args:
        out: the folder to create `_build` in; by default the folder of the course, or the current
            folder if the course is the one in the installed package. For students, it's
            `_build/student` in that folder.
        engine: `"jupyter-book"`, which is version 1, or `"sphinx"`, which builds the same pages
            with whatever version of Sphinx is installed.
        student: leave out the solutions and the pages for instructors.

    Returns:
        The path of the first page.

    Raises:
        BookError: a file of settings is missing, or the build failed; the reason has been printed.
    """
    source, build = _prepare(out, engine, student)
    page = build / ENGINES[engine][2] / "index.html"
    _sphinx(source, build, engine, "html", page.parent)
    if (first := _first_page(source)) != page.name:
        page.write_text(_REDIRECT.format(page=first), encoding="utf-8")
    return page


def build_pdf(
    out: Path | None = None, *, engine: str = "jupyter-book", student: bool = False
) -> Path:
    """Execute every chapter and print the whole book to one PDF, with Chromium or Chrome.

    Args:
        out: as in `build_book`.
        engine: as in `build_book`.
        student: as in `build_book`.

    Returns:
        The path of the PDF.

    Raises:
        BookError: as in `build_book`; or there is no such browser, or it couldn't print.
    """
    browser = find_browser()
    if browser is None:
        raise BookError(
            "a PDF is printed by Chromium, Chrome or Edge, and none of them was found. Install "
            "one (on Debian: apt install chromium), or run `cnnlab book` and print single pages "
            "from your own browser"
        )
    source, build = _prepare(out, engine, student)
    pages = build / "singlehtml"
    _sphinx(source, build, engine, "singlehtml", pages)
    page = pages / "index.html"  # to which everything on it is relative, wherever Sphinx put it
    (pages / _first_page(source)).replace(page)
    pdf = build / "book.pdf"
    pdf.unlink(missing_ok=True)
    with tempfile.TemporaryDirectory() as home:
        options = ["--headless", "--disable-gpu", "--no-first-run", f"--user-data-dir={home}"]
        # The time is a virtual one: until the formulas are drawn, and not a second longer.
        options += ["--no-pdf-header-footer", "--virtual-time-budget=1000000"]
        options += ["--generate-pdf-document-outline"]  # bookmarks, from the headings
        if sys.platform == "linux" and os.geteuid() == 0:
            options.append("--no-sandbox")  # Chromium refuses to start for root with it
        command = [browser, *options, f"--print-to-pdf={pdf}", page.as_uri()]
        printed = subprocess.run(command, capture_output=True, text=True, check=False)
    if printed.returncode or not pdf.is_file():
        raise BookError(
            f"the PDF was not printed: {browser} stopped with exit code {printed.returncode} and "
            f"said:\n{printed.stderr[-1000:]}"
        )
    return pdf


def find_browser() -> str | None:
    """Return the path of a browser that can print without a screen, or None."""
    paths = (*map(shutil.which, _BROWSERS), *(app for app in _APPS if Path(app).is_file()))
    return next((path for path in paths if path), None)


def _prepare(out: Path | None, engine: str, student: bool) -> tuple[Path, Path]:
    """Check that the book can be built, and write its source; return its folder and `_build`."""
    if engine not in ENGINES:
        raise BookError(f"there is no engine {engine!r}; choose one of {', '.join(ENGINES)}")
    module, extra, _ = ENGINES[engine]
    notebooks.require(module, extra=extra)
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
    for folder in ("html", "sphinx", "singlehtml", "jupyter_execute") if student else ():
        shutil.rmtree(build / folder, ignore_errors=True)  # of a page that's left out now
    return edition.write(build / "source", student=student), build


def _first_page(source: Path) -> str:
    """Return the address of the page that `_toc.yml` names as root, in the book."""
    toc = (source / "_toc.yml").read_text(encoding="utf-8")
    root = re.search(r"""^root:\s*["']?([^\s"']+)""", toc, re.MULTILINE)
    return f"{root[1].removesuffix('.md') if root else 'index'}.html"


def _sphinx(source: Path, build: Path, engine: str, builder: str, pages: Path) -> None:
    """Run an engine, and let it say what is wrong."""
    strict = ["-W", "-n", "--keep-going"]
    if engine == "sphinx":
        folders = ["-c", source / "_ext", "-d", build / ".doctrees-sphinx", source, pages]
        command = ["-m", "sphinx", *strict, "-b", builder, *map(str, folders)]
    else:
        main = "from jupyter_book.cli.main import main; main()"  # the package has no __main__
        command = ["-c", main, "build", str(source), "--path-output", str(build.parent), *strict]
        command += ["--builder", builder]
    env = os.environ | {"CNNLAB_STATIC": "1"}  # a page has no kernel, so widgets show an image
    process = subprocess.run([sys.executable, *command], env=env, check=False)
    if process.returncode:
        raise BookError(
            f"the book was not built: {engine} stopped with exit code {process.returncode}. "
            f"Fix the errors and warnings printed above, then run `cnnlab book` again. Files in "
            f"{source} are copies, so correct those of the same name in the course. If a cell "
            "timed out, raise `timeout` in _config.yml; chapters that are done come from the cache"
        )


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
    for folder in (".jupyter_cache", ".doctrees", ".doctrees-sphinx"):
        shutil.rmtree(build / folder, ignore_errors=True)
    build.mkdir(parents=True, exist_ok=True)
    stamp.write_text(digest.hexdigest())
