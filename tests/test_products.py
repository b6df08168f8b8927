"""The copies for students and instructors, which are written from one source."""

import ast
import inspect
import re
import shutil
from pathlib import Path

import nbformat
import pytest

from cnnlab import check, cli, course
from cnnlab.course import assignments, copies, notebooks, products


CHAPTERS = course.chapters()


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    return products.student(tmp_path_factory.mktemp("out") / "course")


@pytest.fixture(scope="module")
def instructor(tmp_path_factory):
    return products.instructor(tmp_path_factory.mktemp("out") / "course")


def cells(path, tag=None):
    notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
    return [c for c in notebook.cells if tag is None or tag in c.metadata.get("tags", [])]


def functions(source):
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]


def body(function):
    """Return the statements of a function, without its signature and its docstring."""
    statements = function.body[1:] if ast.get_docstring(function) else function.body
    return "\n".join(ast.dump(statement) for statement in statements)


# --- students -------------------------------------------------------------------------------------


def test_the_copy_has_every_chapter_and_the_files_they_read(student):
    names = {p.name for p in student.glob("*.ipynb")}
    assert names == {p.name for p in CHAPTERS} | {products.START}
    assert list((student / "studies").glob("*.csv"))
    assert "cnnlab lab" in (student / "README.md").read_text()


def test_the_start_page_explains_the_work_and_links_to_what_is_there(student):
    first, code, rest = cells(student / products.START)
    assert [first.cell_type, code.cell_type, rest.cell_type] == ["markdown", "code", "markdown"]
    exec(code.source, {})  # noqa: S102 - our own code
    assert "Shift + Enter" in first.source
    for word in ("Predict", "NotImplementedError", "!cnnlab doctor", "--restore 3", "?`"):
        assert word in rest.source
    links = re.findall(r"\]\((.*?)\)", first.source + rest.source)
    assert links.count("00_first_network.ipynb") == 2
    assert all((student / link).is_file() for link in links)


def test_nothing_in_the_copy_leads_to_the_answers(student):
    pattern = r"(?i).{0,60}\b(?:repositor|git clone|key\.py|--source).{0,40}"
    for path in sorted(student.rglob("*")):
        if path.suffix in {".ipynb", ".md"}:
            text = path.read_text(encoding="utf-8")
            found = re.findall(pattern, text)
            assert not found, f"{path.name}: {found}"


def test_the_student_copy_contains_no_answer(student):
    answers = [cell.source for path in CHAPTERS for cell in cells(path, "solution")]
    assert len(answers) > 35
    bodies = {body(f) for answer in answers for f in functions(answer)}
    for path in sorted(student.rglob("*")):
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            remaining = cells(path)
            assert not [c for c in remaining if products.HIDDEN & set(c.metadata.get("tags", []))]
            text = "\n\n".join(c.source for c in remaining)
            visible = [f for c in remaining if c.cell_type == "code" for f in functions(c.source)]
            same = [f.name for f in visible if body(f) in bodies]
            assert not same, f"{path.name} shows the answer in {same}"
        assert not [a for a in answers if a in text]


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_stub_has_the_signature_of_its_answer_and_raises(path):
    stubs, answers = cells(path, "exercise"), cells(path, "solution")
    assert len(stubs) == len(answers)
    for stub, answer in zip(stubs, answers, strict=True):
        if not functions(stub.source):
            continue  # an answer in words
        function = functions(stub.source)[-1]
        solution = next(f for f in functions(answer.source) if f.name == function.name)
        assert ast.dump(function.args) == ast.dump(solution.args)
        assert ast.get_docstring(function) == ast.get_docstring(solution)
        assert isinstance(function.body[-1], ast.Raise)
        assert ast.unparse(function.body[-1]) == "raise NotImplementedError"


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_no_other_cell_needs_an_answer(path):
    """All other cells run in the student copy, because they use no name that an answer defines."""
    tagged = {"exercise", "check", "solution"}
    assigned = {
        node.id
        for cell in cells(path, "solution")
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    defined = {
        node.name
        for cell in cells(path, "solution")
        for node in ast.parse(cell.source).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    local = {
        node.id
        for cell in cells(path, "solution")
        for f in functions(cell.source)
        for node in ast.walk(f)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    names = defined | (assigned - local)
    for cell in cells(path):
        if cell.cell_type == "code" and not tagged & set(cell.metadata.get("tags", [])):
            tree = ast.parse(cell.source)
            own = {f.name for f in functions(cell.source)}
            used = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)} - own
            assert not used & names, f"{path.stem}: {used & names} in\n{cell.source}"


@pytest.mark.slow
def test_the_student_copy_of_a_chapter_runs(student, monkeypatch):
    monkeypatch.setenv("CNNLAB_PROFILE", "smoke")
    assert course.run(student / "05_schedules.ipynb") > 0


@pytest.mark.parametrize("kind", ["student", "instructor"])
def test_a_copy_has_no_link_to_its_source(kind, request):
    for path in request.getfixturevalue(kind).glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
        nbformat.validate(notebook)
        assert set(notebook.metadata) == {"kernelspec"}


# --- instructors ----------------------------------------------------------------------------------


def test_the_instructor_copy_has_the_answers_and_a_page_for_each_chapter(instructor):
    for path in CHAPTERS:
        assert [c.source for c in cells(instructor / path.name)] == [c.source for c in cells(path)]
        page = (instructor / "instructor" / f"{path.stem}.md").read_text()
        assert page.startswith("# ")
        assert "?" not in page.splitlines()[2], "minutes"
    everything = "\n".join(p.read_text() for p in (instructor / "instructor").glob("*.md"))
    for name, exercise in check.EXERCISES.items():
        assert f"### `{name}`" in everything
        assert all(mistake.says in everything for mistake in exercise.mistakes.values()), name


# --- existing folders -----------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["student", "instructor"])
def test_existing_work_is_refused_without_force_and_renamed_with_force(kind, tmp_path, capsys):
    out = tmp_path / "mine"
    out.mkdir()
    (out / "05_schedules.ipynb").write_text("hours of work")
    assert cli.main([kind, str(out)]) == 1
    assert "--force" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]
    for number in (1, 2):
        assert cli.main([kind, str(out), "--force"]) == 0
        assert (tmp_path / f"mine.{number}").is_dir()
    assert (tmp_path / "mine.1" / "05_schedules.ipynb").read_text() == "hours of work"
    assert {path.name for path in CHAPTERS} <= {path.name for path in out.glob("*.ipynb")}


def test_an_empty_folder_may_be_filled(tmp_path):
    assert products.student(tmp_path).samefile(tmp_path)
    assert (tmp_path / "README.md").exists()


def test_a_copy_that_fails_halfway_leaves_nothing(tmp_path, monkeypatch):
    def fail(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(products, "without_cells", fail)
    with pytest.raises(KeyboardInterrupt):
        products.student(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_readers_own_notebook_is_not_a_chapter(tmp_path, monkeypatch):
    (tmp_path / "chapters").mkdir()
    for name in ("01_mine.ipynb", "A_mine.ipynb", "Untitled.ipynb", "01_mine-Copy1.txt"):
        (tmp_path / "chapters" / name).touch()
    monkeypatch.setattr(notebooks, "root", lambda: tmp_path)
    assert [p.name for p in course.chapters()] == ["01_mine.ipynb", "A_mine.ipynb"]


# --- a course of one's own ------------------------------------------------------------------------


@pytest.fixture
def own_course(tmp_path, monkeypatch):
    """A folder with two of the chapters, in another order, and pages of one's own; no checkout."""
    chapters = tmp_path / "repository" / "chapters"
    (chapters / "images").mkdir(parents=True)
    for path in CHAPTERS[4], CHAPTERS[1], CHAPTERS[2]:
        shutil.copy(path, chapters)
    (chapters / "images" / "campus.png").write_bytes(b"a photograph")
    (chapters / "welcome.md").write_text("# Welcome\n\n![Our campus](images/campus.png)\n")
    (chapters / "index.md").write_text("# The book\n")
    new_cell = nbformat.v4.new_code_cell
    answer = new_cell("secret = 42", metadata={"tags": ["solution"]})
    notebook = nbformat.v4.new_notebook(cells=[new_cell("secret = ..."), answer])
    nbformat.write(notebook, chapters / "my_campus.ipynb")
    (tmp_path / "repository" / "syllabus.md").write_text("# Syllabus\n")
    names = ["welcome", CHAPTERS[4].stem, "my_campus.ipynb", CHAPTERS[1].stem]
    files = "\n".join(f"  - file: chapters/{name}" for name in names)
    toc = (
        f"format: jb-book\nroot: chapters/index\nparts:\n- chapters:\n  - file: syllabus\n{files}\n"
    )
    (tmp_path / "repository" / "_toc.yml").write_text(toc)
    shipped = course.root()
    monkeypatch.setattr(notebooks, "_checkout", lambda: tmp_path / "site-packages")
    monkeypatch.setattr(notebooks, "_packaged", lambda: shipped)
    monkeypatch.chdir(tmp_path / "repository")
    return tmp_path / "repository"


def visible_files(folder):
    paths = [path.relative_to(folder) for path in folder.rglob("*") if path.is_file()]
    return {path.as_posix() for path in paths if path.parts[0] != products.STATE}


def test_a_copy_has_what_the_table_of_contents_lists_and_pages_of_ones_own(own_course, tmp_path):
    listed = {CHAPTERS[4].name, CHAPTERS[1].name, "my_campus.ipynb", "welcome.md", "syllabus.md"}
    expected = listed | {"images/campus.png", "README.md", "LICENSE", "LICENSE-TEXT.md"}
    out = products.student(tmp_path / "student")
    assert visible_files(out) == expected | {products.START}
    assert [cell.source for cell in cells(out / "my_campus.ipynb")] == ["secret = ..."]
    out = products.instructor(tmp_path / "instructor")
    pages = {path for path in visible_files(out) if path.startswith("instructor/")}
    assert visible_files(out) == expected | pages
    assert {f"instructor/{CHAPTERS[n].stem}.md" for n in (1, 4)} | {
        "instructor/grading.md"
    } <= pages
    assert f"instructor/{CHAPTERS[2].stem}.md" not in pages


def test_a_start_page_and_notes_of_ones_own_win(own_course, tmp_path):
    (own_course / "chapters" / "START_HERE.md").write_text("# Begin in room 3\n")
    (own_course / "chapters" / "instructor").mkdir()
    (own_course / "chapters" / "instructor" / "grading.md").write_text("# As we grade\n")
    (first,) = cells(products.student(tmp_path / "student") / products.START)
    assert first.source == "# Begin in room 3"
    out = products.instructor(tmp_path / "instructor")
    assert (out / "instructor" / "grading.md").read_text() == "# As we grade\n"


def test_assignments_that_ship_and_those_of_ones_own_are_found(own_course, tmp_path):
    shipped, _ = assignments.read("few_labels", 0)
    (own_course / "assignments").mkdir()
    folder = course.root() / "assignments" / "mine"
    shutil.copytree(notebooks.shipped() / "assignments" / "few_labels", folder)
    (folder / "few_labels.py").rename(folder / "mine.py")
    own, key = assignments.read("mine", 0)
    assert [cell.source for cell in own.cells] == [cell.source for cell in shipped.cells]
    assert key == folder / "key.py"
    with pytest.raises(FileNotFoundError, match=r"choose one of emergency, few_labels, .*mine"):
        assignments.read("yours", 0)


def test_a_copy_has_the_modules_and_files_that_a_notebook_uses_and_no_page_for_instructors(
    own_course, tmp_path
):
    chapters = own_course / "chapters"
    (chapters / "campus_key.py").write_text("MEAN = 3\n")
    (chapters / "unused.py").write_text("")
    (chapters / "data").mkdir()
    (chapters / "data" / "rooms.csv").write_text("a,b\n")
    (chapters / "instructor").mkdir()
    (chapters / "instructor" / "secret.md").write_text("# For us\n")
    (chapters / "week.md").write_text(
        "# Week\n\n```{code-cell}\n:tags: [solution, hide-cell]\nfortytwo\n```\n\nEnd.\n"
    )
    with (own_course / "_toc.yml").open("a") as toc:
        toc.write("  - file: chapters/instructor/secret\n  - file: chapters/week\n")
    notebook = nbformat.read(chapters / "my_campus.ipynb", as_version=4)
    code = "from campus_key import MEAN\nrows = open('data/rooms.csv').read()"
    notebook.cells.append(nbformat.v4.new_code_cell(code))
    nbformat.write(notebook, chapters / "my_campus.ipynb")
    files = visible_files(out := products.student(tmp_path / "student"))
    assert {"campus_key.py", "data/rooms.csv", "week.md"} <= files
    assert not {"unused.py", "instructor/secret.md"} & files
    assert (out / "week.md").read_text() == "# Week\n\n\nEnd.\n"
    files = visible_files(out := products.instructor(tmp_path / "instructor"))
    assert {"campus_key.py", "instructor/secret.md"} <= files
    assert "fortytwo" in (out / "week.md").read_text()
    assert course.run(tmp_path / "student" / "my_campus.ipynb") > 0


def test_a_copy_has_the_numbers_of_the_list_and_finds_chapters_by_them(own_course, tmp_path):
    out = products.student(tmp_path / "student")
    assert cells(out / CHAPTERS[4].name)[0].source.startswith("# 1. Mixup and CutMix")
    assert cells(out / CHAPTERS[1].name)[0].source.startswith("# 2. The training loop")
    assert [path.name for path in course.chapters(["1", "02", "my_campus"])] == [
        CHAPTERS[4].name, CHAPTERS[1].name, "my_campus.ipynb",
    ]  # fmt: skip
    assert [path.name for path in notebooks.chapters(["1", "2"], out)] == [
        CHAPTERS[4].name, CHAPTERS[1].name,
    ]  # fmt: skip
    with pytest.raises(FileNotFoundError, match=r"'3'; choose from 1 \(04_mixing\), 2 \(01_"):
        course.chapters(["3"])
    (sentence,) = copies.restore(out, ["1"])
    assert sentence.startswith(CHAPTERS[4].name)
    start = "\n".join(c.source for c in cells(out / products.START))
    assert "[Open chapter 1: Mixup and CutMix](04_mixing.ipynb)" in start
    assert "00_first_network" not in start
    assert "- [2. The training loop](01_training_loop.ipynb)" in start


def test_a_wheel_goes_into_the_copy_with_requirements(own_course, tmp_path, capsys):
    wheel = tmp_path / "cnnlab-0.2.0-py3-none-any.whl"
    out = tmp_path / "student"
    assert cli.main(["student", str(out), "--wheel", str(wheel)]) == 1
    assert "isn't a wheel of cnnlab" in capsys.readouterr().err
    wheel.write_bytes(b"wheel")
    assert cli.main(["student", str(out), "--force", "--wheel", str(wheel)]) == 0
    assert (out / "requirements.txt").read_text() == f"./{wheel.name}[lab]\n"
    assert (out / wheel.name).read_bytes() == b"wheel"


def test_a_page_that_is_listed_but_not_there_is_named(own_course, tmp_path):
    (own_course / "chapters" / "welcome.md").unlink()
    with pytest.raises(FileNotFoundError, match=r"_toc\.yml lists welcome, but there is no .*\.md"):
        products.student(tmp_path / "student")
    assert not (tmp_path / "student").exists()


def test_student_and_instructor_take_a_folder_and_force():
    for function in (products.student, products.instructor):
        out, force = inspect.signature(function).parameters.values()
        assert (out.name, out.annotation) == ("out", Path)
        assert (force.name, force.kind, force.default) == ("force", force.KEYWORD_ONLY, False)
