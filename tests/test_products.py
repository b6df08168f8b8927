"""The copies for students and instructors, made from one source."""

import ast
import inspect
from pathlib import Path

import nbformat
import pytest

from cnnlab import check, cli, course
from cnnlab.course import notebooks, products


CHAPTERS = course.chapters()


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    return products.student(tmp_path_factory.mktemp("out") / "course")


@pytest.fixture(scope="module")
def instructor(tmp_path_factory):
    return products.instructor(tmp_path_factory.mktemp("out") / "course")


def cells(path, tag=None):
    read = nbformat.read(path, as_version=nbformat.NO_CONVERT).cells
    return [cell for cell in read if tag is None or tag in cell.metadata.get("tags", [])]


def functions(source):
    return [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef)]


def body(function):
    """What a function does, without its name, its docstring and the names of its arguments' types."""
    statements = function.body[1:] if ast.get_docstring(function) else function.body
    return "\n".join(ast.dump(statement) for statement in statements)


# --- students -----------------------------------------------------------------------------------------------------


def test_every_chapter_is_there_with_what_it_reads(student):
    assert {p.name for p in student.glob("*.ipynb")} == {p.name for p in CHAPTERS}
    assert list((student / "studies").glob("*.csv"))
    assert "jupyter lab" in (student / "README.md").read_text()


def test_no_word_of_an_answer_is_left(student):
    answers = [cell.source for path in CHAPTERS for cell in cells(path, "solution")]
    assert len(answers) > 35
    bodies = {body(f) for answer in answers for f in functions(answer)}
    for path in sorted(student.rglob("*")):
        if not path.is_file():
            continue
        text = path.read_text(encoding="utf-8")
        if path.suffix == ".ipynb":
            found = cells(path)
            assert not [c for c in found if products.HIDDEN & set(c.metadata.get("tags", []))]
            text = "\n\n".join(c.source for c in found)
            shown = [f for c in found if c.cell_type == "code" for f in functions(c.source)]
            same = [f.name for f in shown if body(f) in bodies]
            assert not same, f"{path.name} shows the answer in {same}"
        assert not [a for a in answers if a in text]


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_a_stub_has_the_signature_of_its_answer_and_raises(path):
    stubs, answers = cells(path, "exercise"), cells(path, "solution")
    assert len(stubs) == len(answers)
    for stub, answer in zip(stubs, answers, strict=True):
        if not functions(stub.source):
            continue  # an answer in words
        left, right = functions(stub.source)[-1], functions(answer.source)[-1]
        right = next(f for f in functions(answer.source) if f.name == left.name)
        assert ast.dump(left.args) == ast.dump(right.args)
        assert ast.get_docstring(left) == ast.get_docstring(right)
        raised = left.body[-1]
        assert isinstance(raised, ast.Raise)
        assert ast.unparse(raised) == "raise NotImplementedError"


@pytest.mark.parametrize("path", CHAPTERS, ids=lambda path: path.stem)
def test_no_other_cell_needs_an_answer(path):
    """So that all of them run in the student copy: they name nothing that an answer makes."""
    tagged = {"exercise", "check", "solution"}
    made = {
        node.id
        for cell in cells(path, "solution")
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    top = {
        node.name
        for cell in cells(path, "solution")
        for node in ast.parse(cell.source).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef)
    }
    inside = {
        node.id
        for cell in cells(path, "solution")
        for f in functions(cell.source)
        for node in ast.walk(f)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store)
    }
    names = top | (made - inside)
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
def test_nothing_ties_a_copy_to_its_source(kind, request):
    for path in request.getfixturevalue(kind).glob("*.ipynb"):
        notebook = nbformat.read(path, as_version=nbformat.NO_CONVERT)
        nbformat.validate(notebook)
        assert set(notebook.metadata) == {"kernelspec"}


# --- instructors --------------------------------------------------------------------------------------------------


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


# --- what is there already ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["student", "instructor"])
def test_work_that_is_there_is_not_touched_without_force_and_kept_with_it(kind, tmp_path, capsys):
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
    assert len(list(out.glob("*.ipynb"))) == len(CHAPTERS)


def test_an_empty_folder_may_be_filled(tmp_path):
    assert products.student(tmp_path).samefile(tmp_path)
    assert (tmp_path / "README.md").exists()


def test_a_copy_that_fails_half_way_leaves_nothing(tmp_path, monkeypatch):
    def fail(notebook):
        raise KeyboardInterrupt

    monkeypatch.setattr(products, "_for_students", fail)
    with pytest.raises(KeyboardInterrupt):
        products.student(tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_a_readers_own_notebook_is_no_chapter(tmp_path, monkeypatch):
    (tmp_path / "chapters").mkdir()
    for name in ("01_mine.ipynb", "A_mine.ipynb", "Untitled.ipynb", "01_mine-Copy1.txt"):
        (tmp_path / "chapters" / name).touch()
    monkeypatch.setattr(notebooks, "root", lambda: tmp_path)
    assert [p.name for p in course.chapters()] == ["01_mine.ipynb", "A_mine.ipynb"]


def test_public_functions_of_the_copies_take_a_folder_and_force():
    for function in (products.student, products.instructor):
        out, force = inspect.signature(function).parameters.values()
        assert (out.name, out.annotation) == ("out", Path)
        assert (force.name, force.kind, force.default) == ("force", force.KEYWORD_ONLY, False)
