"""What the book is built from: no notes for instructors, and for students no solutions either."""

import shutil

import nbformat
import pytest
import yaml

from cnnlab import course
from cnnlab.course import edition, notebooks, products


TOC = """format: jb-book
root: syllabus
parts:
- caption: Week 1
  chapters:
  - file: chapters/05_schedules
  - file: chapters/mine
- caption: For us
  chapters:
  - file: chapters/instructor/notes
"""


@pytest.fixture
def own_course(tmp_path, monkeypatch):
    shipped, own = course.root(), tmp_path / "instructor" / "course"  # only the name of a folder
    (own / "chapters" / "instructor").mkdir(parents=True)
    for name in ("05_schedules.ipynb", "04_mixing.ipynb", "index.md"):
        shutil.copy(shipped / "chapters" / name, own / "chapters")
    shutil.copy(shipped / "_config.yml", own)
    (own / "_toc.yml").write_text(TOC)
    (own / "syllabus.md").write_text("# Syllabus\n\nOur chapter 4 is ours.\n")
    (own / "chapters" / "instructor" / "notes.md").write_text("# Notes\n")
    (own / "tests").mkdir()
    (own / "tests" / "left_out.md").touch()
    (own / "venv").mkdir()
    (own / "venv" / "pyvenv.cfg").touch()
    cell = "```{code-cell}\n:tags: [solution]\nsecret = 42\n```\n"
    (own / "chapters" / "mine.md").write_text(f"# Mine\n\n{cell}")
    monkeypatch.setattr(notebooks, "_checkout", lambda: tmp_path / "site-packages")
    monkeypatch.setattr(notebooks, "_packaged", lambda: shipped)
    monkeypatch.chdir(own)
    return own


def files(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def test_an_edition_has_the_files_of_the_course_and_nothing_else(own_course):
    out = edition.write(own_course / "_build" / "source")
    pages = {"chapters/05_schedules.ipynb", "chapters/04_mixing.ipynb", "chapters/index.md"}
    pages |= {"chapters/mine.md", "syllabus.md", "_toc.yml", "_config.yml"}
    assert files(out) == pages | {"chapters/instructor/notes.md"}
    (out / "chapters" / "old.md").touch()
    dates = {name: (out / name).stat().st_mtime_ns for name in pages}
    edition.write(out)
    assert dates == {name: (out / name).stat().st_mtime_ns for name in pages}
    assert not (out / "chapters" / "old.md").exists()


def test_no_edition_has_notes_for_instructors_and_that_for_students_no_solutions(own_course):
    source = nbformat.read(own_course / "chapters" / "05_schedules.ipynb", as_version=4)
    by_tag = {
        tag: [c.source for c in source.cells if tag in c.metadata.get("tags", ())]
        for tag in products.HIDDEN
    }
    for student in (False, True):
        out = edition.write(own_course / "_build" / f"source-{student}", student=student)
        text = "\n".join((out / name).read_text() for name in files(out))
        made = nbformat.read(out / "chapters" / "05_schedules.ipynb", as_version=4)
        sources = [cell.source.replace("Section 1.", "Section 5.") for cell in made.cells]
        assert made.cells[0].source.startswith("# 1. ")
        assert by_tag["instructor"]
        assert not [x for x in by_tag["instructor"] if x in sources]
        assert all((x in sources) is not student for x in by_tag["solution"])
        assert ("secret = 42" in text) is not student
        assert "Our chapter 4 is ours." in text
    toc = yaml.safe_load((out / "_toc.yml").read_text())
    assert [part["caption"] for part in toc["parts"]] == ["Week 1"]
    assert "chapters/instructor/notes.md" not in files(out)
