"""A student's copy: created once, brought up to date, never overwritten."""

import json
import shutil
from pathlib import Path

import nbformat
import pytest

from cnnlab import cli, course
from cnnlab.course import copies, notebooks, products


ROOT = course.root()
WORK = "hours of work"
FIRST, SECOND = "01_training_loop.ipynb", "02_normalisation.ipynb"


@pytest.fixture(scope="module")
def handed_out(tmp_path_factory):
    return products.student(tmp_path_factory.mktemp("handed-out") / "course")


@pytest.fixture
def mine(handed_out, tmp_path):
    """A copy of one's own."""
    return Path(shutil.copytree(handed_out, tmp_path / "mine"))


@pytest.fixture
def source(tmp_path, monkeypatch):
    """A checkout of the course with the first two chapters, which a test may update."""
    root = tmp_path / "checkout"
    shutil.copytree(ROOT / "chapters", root / "chapters", ignore=keep_two_chapters)
    (root / "myst.yml").touch()
    for licence in products.LICENCES:
        shutil.copy(ROOT / licence, root)
    monkeypatch.setattr(notebooks, "__file__", str(root / "cnnlab" / "course" / "notebooks.py"))
    return root / "chapters"


def keep_two_chapters(folder, names):
    first = {FIRST, SECOND}
    return [name for name in names if name.endswith(".ipynb") and name not in first]


def edit(path, source=WORK, cell=-1):
    """Change the text of a cell, as a student or an author does."""
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    notebook.cells[cell].source = source
    nbformat.write(notebook, path)


def snapshot(folder):
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def changed(before, after):
    return {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}


def visible(names):
    return {name for name in names if not name.startswith(".")}


# --- create and open again ------------------------------------------------------------------------


def test_a_copy_is_created_with_its_originals(tmp_path):
    out = tmp_path / "a" / "mine"
    (sentence,) = copies.prepare(out)
    assert str(out) in sentence
    assert copies.is_copy(out)
    originals = snapshot(out / products.ORIGINALS)
    assert originals == {n: d for n, d in snapshot(out).items() if not n.startswith(".")}
    assert {FIRST, products.START, "README.md", "C_glossary.md"} <= originals.keys()


def test_without_an_update_nothing_is_written(mine):
    edit(mine / FIRST)
    (mine / "my_own.ipynb").write_text(WORK)
    before = snapshot(mine)
    assert copies.prepare(mine) == []
    assert snapshot(mine) == before


@pytest.mark.parametrize("kind", ["thesis", "file", "link", "source"])
def test_another_folder_is_refused_and_left_alone(kind, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text(WORK)
    (tmp_path / "file").write_text(WORK)
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    before = snapshot(tmp_path)
    folder = ROOT / "chapters" if kind == "source" else tmp_path / kind
    with pytest.raises(products.ExistsError, match="--student"):
        copies.prepare(folder)
    assert snapshot(tmp_path) == before
    assert not (folder / products.STATE).exists()


def test_the_default_is_the_current_copy_and_else_in_the_home_folder(mine, tmp_path, monkeypatch):
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert copies.default_folder() == tmp_path / "cnnlab-course"
    monkeypatch.chdir(mine)
    assert copies.default_folder() == mine


# --- updates of the course ------------------------------------------------------------------------


@pytest.fixture
def out(source, tmp_path):
    copies.prepare(tmp_path / "out")
    return tmp_path / "out"


def test_a_new_chapter_is_added(out, source):
    shutil.copy(ROOT / "chapters" / "03_augmentation.ipynb", source)
    before = snapshot(out)
    assert copies.prepare(out) == ["Added to your copy: 03_augmentation.ipynb."]
    assert visible(changed(before, snapshot(out))) == {"03_augmentation.ipynb"}


def test_a_deleted_chapter_is_added_again(out):
    (out / FIRST).unlink()
    assert copies.prepare(out) == [f"Added to your copy: {FIRST}."]
    assert (out / FIRST).read_bytes() == (out / products.ORIGINALS / FIRST).read_bytes()


def test_a_file_without_work_gets_its_new_version(out, source):
    edit(source / FIRST, "a better beginning", cell=0)
    # JupyterLab adds this to a notebook that was only opened.
    notebook = json.loads((out / FIRST).read_text(encoding="utf-8"))
    notebook["metadata"]["language_info"] = {"name": "python"}
    (out / FIRST).write_text(json.dumps(notebook), encoding="utf-8")
    (source / "C_glossary.md").write_text("a better glossary")
    (sentence,) = copies.prepare(out)
    assert sentence == f"New versions of files that you hadn't changed: {FIRST}, C_glossary.md."
    new = products.read_notebook(out / FIRST)
    assert "language_info" not in new.metadata
    assert (out / "C_glossary.md").read_text() == "a better glossary"
    assert copies.prepare(out) == []


@pytest.mark.parametrize("work", ["text", "outputs", "attachment", "new cell", "no notebook"])
def test_a_file_with_work_stays_and_its_new_version_lies_beside_it(work, out, source):
    notebook = products.read_notebook(out / FIRST)
    code = next(cell for cell in notebook.cells if cell.cell_type == "code")
    if work == "text":
        code.source = WORK
    elif work == "outputs":
        code.outputs = [nbformat.v4.new_output("stream", text=WORK)]
    elif work == "attachment":
        notebook.cells[0].attachments = {"sketch.png": {"image/png": "aGVsbG8="}}
    elif work == "new cell":
        notebook.cells.append(nbformat.v4.new_code_cell(WORK))
    nbformat.write(notebook, out / FIRST)
    if work == "no notebook":
        (out / FIRST).write_text(WORK)
    before = snapshot(out)
    for number in (1, 2, 3):
        suffix = "" if number == 1 else str(number)
        beside = f"01_training_loop_new{suffix}.ipynb"
        # An instructor cell ends the chapter; it isn't handed out.
        edit(source / FIRST, f"version {number}", cell=0)
        (sentence,) = copies.prepare(out)
        assert sentence == f"New versions, beside the files that you have changed: {beside}."
        assert products.read_notebook(out / beside).cells[0].source == f"version {number}"
        assert copies.prepare(out) == []
    assert (out / FIRST).read_bytes() == before[FIRST]
    assert visible(changed(before, snapshot(out))) == {
        f"01_training_loop_new{n}.ipynb" for n in ("", "2", "3")
    }


def test_an_update_that_stops_halfway_is_completed_by_the_next(out, source, monkeypatch):
    edit(out / FIRST)
    for name in (FIRST, SECOND):
        edit(source / name, "a new beginning", cell=0)

    def fail(*arguments):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(copies, "_replace_folder", fail)
        with pytest.raises(KeyboardInterrupt):
            copies.prepare(out)
    copies.prepare(out)
    names = {path.name for path in out.iterdir()} - {products.STATE}
    assert {name for name in names if "_new" in name} == {"01_training_loop_new.ipynb"}
    assert not [name for name in names if name.startswith(".")]
    assert products.read_notebook(out / SECOND).cells[0].source == "a new beginning"
    assert products.read_notebook(out / FIRST).cells[-1].source == WORK
    assert copies.prepare(out) == []


def test_a_copy_of_an_earlier_version_without_originals_is_taken_over(out):
    shutil.rmtree(out / products.STATE)
    (out / products.START).unlink()
    edit(out / FIRST)
    before = (out / FIRST).read_bytes()
    assert copies.prepare(out) == [
        f"Added to your copy: {products.START}.",
        "New versions, beside the files that you have changed: 01_training_loop_new.ipynb.",
    ]
    assert (out / FIRST).read_bytes() == before
    assert copies.is_copy(out)


# --- bring a chapter back -------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["2", "02", "02_normalisation", SECOND])
def test_restore_brings_one_chapter_back_and_renames_what_is_there(name, mine, handed_out, capsys):
    for path in mine.glob("*.ipynb"):
        edit(path)
    before = snapshot(mine)
    for old in ("02_normalisation_old.ipynb", "02_normalisation_old2.ipynb"):
        work = (mine / SECOND).read_bytes()
        assert cli.main(["student", str(mine), "--restore", name]) == 0
        assert f"Your version is now {old}." in capsys.readouterr().out
        assert (mine / old).read_bytes() == work
        assert (mine / SECOND).read_bytes() == (handed_out / SECOND).read_bytes()
        edit(mine / SECOND, "more work")
    assert {p for p in changed(before, snapshot(mine)) if "02_" not in p} == set()


def test_restore_brings_several_lost_chapters_back(mine, handed_out, capsys):
    (mine / FIRST).unlink()
    (mine / products.START).unlink()
    (mine / SECOND).write_text("")
    arguments = [part for name in ("1", "START_HERE", "02") for part in ("--restore", name)]
    assert cli.main(["student", str(mine), *arguments]) == 0
    assert capsys.readouterr().out.count("is back as it was handed out") == 3
    assert (mine / "02_normalisation_old.ipynb").read_text() == ""
    (mine / "02_normalisation_old.ipynb").unlink()
    assert snapshot(mine) == snapshot(handed_out)


def test_a_chapter_without_work_is_left_as_it_is(mine, handed_out, capsys):
    assert cli.main(["student", str(mine), "--restore", "03"]) == 0
    assert "03_augmentation.ipynb is still as it was handed out" in capsys.readouterr().out
    assert snapshot(mine) == snapshot(handed_out)


def test_if_one_name_is_unknown_nothing_is_restored(mine, capsys):
    edit(mine / FIRST)
    before = snapshot(mine)
    assert cli.main(["student", str(mine), "--restore", "1", "--restore", "99"]) == 1
    err = capsys.readouterr().err
    assert "no chapter '99'" in err
    assert "03_augmentation" in err
    assert snapshot(mine) == before


def test_restore_refuses_a_folder_that_is_no_copy(tmp_path, capsys):
    for folder in (tmp_path / "nowhere", tmp_path, ROOT / "chapters"):
        assert cli.main(["student", str(folder), "--restore", "1"]) == 1
        assert f"{folder} is no copy of the course" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_instructor_copy_cannot_be_restored(tmp_path, capsys):
    with pytest.raises(SystemExit):
        cli.main(["instructor", str(tmp_path), "--restore", "1"])
    assert "unrecognized arguments: --restore" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["lab", "student", "run", "doctor"])
def test_the_help_leads_nobody_to_the_answers(command, capsys):
    with pytest.raises(SystemExit):
        cli.main([command, "--help"])
    out = capsys.readouterr().out.lower()
    assert "usage" in out
    assert "repository" not in out
    assert "clone" not in out
