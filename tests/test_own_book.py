"""Test an instructor's own book: some chapters and an extra page, by editing only `_toc.yml`."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cnnlab import course
from cnnlab.course.book import find_browser


pytestmark = pytest.mark.slow
TOC = """format: jb-book
root: chapters/welcome
parts:
- caption: Week 1
  chapters:
  - file: chapters/01_training_loop
- caption: Week 2
  chapters:
  - file: chapters/09_transfer
"""
WELCOME = """# Our course

Begin with [the loop](01_training_loop.ipynb). We leave out [schedules](05_schedules.ipynb).
"""
LAUNCH = (
    "repository",
    "  url",
    "  branch",
    "launch_buttons",
    "  notebook_interface",
    "  binderhub_url",
    "  colab_url",
)


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """Copy the repository as an instructor would, with another `_toc.yml` and an extra page."""
    folder = tmp_path_factory.mktemp("own") / "course"
    folder.mkdir()
    caches = shutil.ignore_patterns("__pycache__", ".ipynb_checkpoints")
    for name in ("cnnlab", "chapters", "_ext", "_static"):
        shutil.copytree(course.root() / name, folder / name, ignore=caches)
    shutil.copy(course.root() / "_config.yml", folder)
    (folder / "_toc.yml").write_text(TOC)
    (folder / "chapters" / "welcome.md").write_text(WELCOME)
    return folder


def build(folder: Path, *options: str) -> subprocess.CompletedProcess:
    paths = f"{folder}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    env = os.environ | {"CNNLAB_PROFILE": "smoke", "PYTHONPATH": paths, "NO_COLOR": "1"}
    return subprocess.run(
        [sys.executable, "-m", "cnnlab", "book", *options],
        cwd=folder, env=env, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_book_of_two_chapters_and_an_extra_page(copy):
    result = build(copy)
    assert result.returncode == 0, (result.stdout + result.stderr)[-5000:]
    executed = re.findall(r"(\w+)\.ipynb: Executed notebook", result.stdout + result.stderr)
    assert executed == ["01_training_loop", "09_transfer"]
    pages = copy / "_build" / "html" / "chapters"
    names = ["01_training_loop.html", "09_transfer.html", "welcome.html"]
    assert sorted(path.name for path in pages.glob("*.html")) == names
    text = (pages / "welcome.html").read_text()
    assert re.search(r'href="01_training_loop.html"[^>]*><span[^>]*>the loop', text)
    assert "We leave out <span" in text, "a chapter that is not in the book becomes plain text"
    assert "05_schedules.html" not in text

    config = copy / "_config.yml"
    lines = config.read_text().splitlines()
    commented = tuple(f"# {line}" for line in LAUNCH)
    config.write_text("\n".join(x[2:] if x.startswith(commented) else x for x in lines))
    result = build(copy)  # the outputs of the first build are reused
    assert result.returncode == 0, (result.stdout + result.stderr)[-5000:]
    assert "Executed notebook" not in result.stdout + result.stderr
    text = (pages / "09_transfer.html").read_text()
    notebook, binder = "chapters/09_transfer.ipynb", "https://mybinder.org/v2/gh"
    assert f"{binder}/YOUR-GROUP/YOUR-COPY/main?urlpath=lab/tree/{notebook}" in text
    assert f"/github/YOUR-GROUP/YOUR-COPY/blob/main/{notebook}" in text


@pytest.mark.browser
@pytest.mark.skipif(find_browser() is None, reason="Chromium is not installed")
def test_the_same_book_as_a_pdf_with_bookmarks_and_tags(copy):
    result = build(copy, "--pdf")
    assert result.returncode == 0, (result.stdout + result.stderr)[-5000:]
    assert "Executed notebook" not in result.stdout + result.stderr
    pdf = (copy / "_build" / "book.pdf").read_bytes()
    assert pdf.startswith(b"%PDF")
    assert b"/Outlines" in pdf
    assert b"/StructTreeRoot" in pdf  # a screen reader reads the tags
    assert pdf.count(b"/Type /Page\n") > 30


def test_a_broken_link_stops_the_build(copy):
    page = copy / "chapters" / "welcome.md"
    page.write_text(WELCOME.replace("05_schedules.ipynb", "05_schedule.ipynb"))
    result = build(copy)
    assert result.returncode == 1
    assert "05_schedule.ipynb" in result.stderr


def test_a_cell_over_the_time_limit_stops_the_build_which_names_the_setting(copy):
    page = "---\nfile_format: mystnb\nkernelspec:\n  name: python3\n---\n\n# Slow\n\n"
    slow = copy / "chapters" / "slow.md"
    slow.write_text(page + "```{code-cell} python\nimport time\ntime.sleep(60)\n```\n")
    (copy / "_toc.yml").write_text("format: jb-book\nroot: chapters/slow\n")
    config = copy / "_config.yml"
    text, found = re.subn(r"timeout: \d+", "timeout: 2", config.read_text())
    assert found == 1
    config.write_text(text)
    result = build(copy)
    assert result.returncode == 1
    assert "timed out" in result.stdout + result.stderr
    assert "raise `timeout` in _config.yml" in result.stderr
