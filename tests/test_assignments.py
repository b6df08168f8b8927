"""Graded assignments: the keys, the folder, and real submissions graded by the real nbgrader."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
from nbgrader.api import Gradebook

from cnnlab import cli, course
from cnnlab.check.core import Exercise
from cnnlab.check.grading import exercises
from cnnlab.course import products
from cnnlab.course.autograde import AssignmentError, graded


ASSIGNMENTS = sorted(path.parent.name for path in course.root().glob("assignments/*/key.py"))
KEYS = {name: exercises(course.root() / "assignments" / name / "key.py") for name in ASSIGNMENTS}
FUNCTIONS = [
    (key, name) for key in KEYS for name, e in KEYS[key].items() if isinstance(e, Exercise)
]
WRONG = [(key, name, wrong) for key, name in FUNCTIONS for wrong in KEYS[key][name].mistakes]
SEEDS = range(0, 600, 3)


# --- the keys -------------------------------------------------------------------------------------


def test_there_are_two_assignments():
    assert ASSIGNMENTS == ["few_labels", "techniques"]
    assert len(FUNCTIONS) == 4


@pytest.mark.parametrize(("key", "name"), FUNCTIONS)
def test_the_correct_answer_passes_under_every_seed(key, name):
    exercise = KEYS[key][name]
    assert len(exercise.mistakes) >= 4
    assert all(exercise.judge(exercise.answer, seed).passed for seed in SEEDS[:50])


@pytest.mark.slow
@pytest.mark.parametrize(("key", "name", "wrong"), WRONG)
def test_a_wrong_answer_is_recognised_under_every_seed(key, name, wrong):
    exercise = KEYS[key][name]
    for seed in SEEDS:
        outcome = exercise.judge(exercise.mistakes[wrong].attempt, seed)
        assert not outcome.passed
        assert outcome.mistake == wrong, f"seed {seed}: {outcome}"


@pytest.mark.slow
def test_fine_tuning_earns_points_by_its_lead_over_a_linear_probe():
    learn = KEYS["few_labels"]["learn"]
    frozen = learn.judge(lambda images, labels, others: labels.new_zeros(len(others)))
    assert frozen.earned == 0.0
    assert "below a linear probe" in frozen.says
    shapeless = learn.judge(lambda images, labels, others: labels)
    assert "should return an integer tensor of shape (600,)" in shapeless.says
    assert learn.judge(lambda *arguments: 1 / 0).earned == 0.0

    def probe(images, labels, others):
        """Train the linear probe that the exercise compares with."""
        import cnnlab

        model = cnnlab.pretrained("glyphnet", 12)
        train, test = (
            cnnlab.transfer.extract_features(model, [(x, labels[:1].expand(len(x)))])[0]
            for x in (images, others)
        )
        from sklearn.linear_model import LogisticRegression
        from sklearn.preprocessing import StandardScaler

        scale = StandardScaler().fit(train)
        model = LogisticRegression(max_iter=2000).fit(scale.transform(train), labels)
        return labels.new_tensor(model.predict(scale.transform(test)))

    assert 0.2 < learn.judge(probe).earned < 0.8


# --- the folder -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_the_folder_for_nbgrader_is_the_same_each_time(name, tmp_path, capsys):
    for out in ("a", "b"):
        assert cli.main(["assignment", name, str(tmp_path / out), "--student-seed", "17"]) == 0
    assert "README.md explains how" in capsys.readouterr().out
    files = sorted(
        p.relative_to(tmp_path / "a") for p in (tmp_path / "a").rglob("*") if p.is_file()
    )
    notebook = Path("source", name, f"{name}.ipynb")
    assert files == sorted(
        [Path("README.md"), Path("key.py"), Path("nbgrader_config.py"), notebook]
    )
    assert all(
        (tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files
    )
    assert "NAME" not in (tmp_path / "a" / "README.md").read_text()
    contents = nbformat.read(tmp_path / "a" / notebook, as_version=nbformat.NO_CONVERT)
    nbformat.validate(contents)
    assert set(contents.metadata) == {"kernelspec"}
    assert {key for cell in contents.cells for key in cell.metadata} == {"nbgrader"}
    assert sum("SEED = 17" in cell.source for cell in contents.cells) == 1


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_test_cells_have_the_points_that_the_table_and_the_key_state(name, tmp_path):
    out = products.assignment(name, tmp_path / "out")
    cells = nbformat.read(out / "source" / name / f"{name}.ipynb", nbformat.NO_CONVERT).cells
    table = re.findall(r"^\| \d\. .+? \| (\d+) \|", cells[0].source, re.MULTILINE)
    settings = [cell.metadata.nbgrader for cell in cells if "nbgrader" in cell.metadata]
    assert sorted(map(int, table)) == sorted(s["points"] for s in settings if s["grade"])
    tests = [cell for cell in cells if "BEGIN HIDDEN TESTS" in cell.source]
    assert {graded(cell.source).exercise for cell in tests} == set(KEYS[name])
    for cell in tests:
        assert graded(cell.source).points == cell.metadata.nbgrader["points"]


def test_an_unknown_assignment_and_an_existing_folder_are_refused(tmp_path, capsys):
    assert cli.main(["assignment", "nope", str(tmp_path / "out")]) == 1
    assert "choose one of few_labels, techniques" in capsys.readouterr().err
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "gradebook.db").write_text("a term of grades")
    assert cli.main(["assignment", "techniques", str(tmp_path / "out")]) == 1
    assert "--force" in capsys.readouterr().err
    assert (tmp_path / "out" / "gradebook.db").read_text() == "a term of grades"


def test_a_test_cell_without_a_call_of_grade_is_refused():
    with pytest.raises(AssignmentError, match=r'needs one call check.grade\("exercise"'):
        graded("assert mixup(1) == 2")


# --- real submissions -----------------------------------------------------------------------------


def nbgrader(folder, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", "nbgrader", *arguments],
        cwd=folder,
        # nbgrader starts `alembic` by name, so the scripts of this environment must be in the path.
        env=os.environ
        | {
            "OMP_NUM_THREADS": "1",
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=800,
    )
    return done.returncode, done.stdout + done.stderr


def edited(notebook, change):
    """Return a copy after calling change(grade_id, cell) for each cell."""
    copy = nbformat.from_dict(json.loads(json.dumps(notebook)))
    for cell in copy.cells:
        change(cell.metadata.get("nbgrader", {}).get("grade_id"), cell)
    return copy


def answers(sources):
    def change(grade_id, cell):
        cell.source = sources.get(grade_id, cell.source)

    return change


def scores(folder, name):
    with Gradebook(f"sqlite:///{folder}/gradebook.db") as gradebook:
        return {
            submission.student.id: {
                grade.name: grade.auto_score
                for notebook in submission.notebooks
                for grade in notebook.grades
            }
            for submission in gradebook.assignment_submissions(name)
        }


@pytest.fixture(scope="module")
def course_folder(tmp_path_factory):
    """The assignment on techniques, handed out, submitted by six students, and graded."""
    folder = products.assignment(
        "techniques", tmp_path_factory.mktemp("course") / "t", student_seed=17
    )
    rc, log = nbgrader(folder, "generate_assignment", "techniques")
    assert rc == 0, log
    key = nbformat.read(folder / "source/techniques/techniques.ipynb", as_version=4)
    release = nbformat.read(folder / "release/techniques/techniques.ipynb", as_version=4)
    right = {
        cell.metadata.nbgrader["grade_id"]: re.sub(
            r".*### (BEGIN|END) SOLUTION\n?", "", cell.source
        )
        for cell in key.cells
        if cell.metadata.get("nbgrader", {}).get("solution")
    }
    wrong = {  # one misconception, one function that raises an error, one that isn't written
        "mixup_answer": right["mixup_answer"].replace("torch.maximum(lam, 1 - lam)", "lam"),
        "schedule_answer": "def schedule(step, warmup, hold, steps, final):\n    return 1 / 0",
        "report": "I compared nothing.",
    }
    hostile = {
        "setup": "import cnnlab; cnnlab.check.grade = lambda *a, points, **k: points",
        # Reads the key and the answers, overwrites another submission and the gradebook.
        "mixup_answer": f"""
import os, sys, cnnlab
from cnnlab import check
check.grade = lambda *a, points=0, **k: points
check.core.agree = lambda a, b: True
def mixup(*arguments):
    for path in ("key.py", "source/techniques/techniques.ipynb"):
        try:
            sys.stdout.write(open(f"{folder}/{{path}}").read())
            return "read it"
        except OSError:
            pass
    for path in ("gradebook.db", "submitted/right/techniques/techniques.ipynb", "marker"):
        try:
            open(f"{folder}/{{path}}", "w").write("was here")
        except OSError:
            pass
    return arguments[0], arguments[0]
""",
        "schedule_answer": """
import torch, os, signal
class Payload:
    def __reduce__(self):
        return (os.system, ("touch ../../../marker",))
torch.save(Payload(), "model.pt")
def schedule(*arguments):
    os.kill(os.getppid(), signal.SIGKILL)
try:
    torch.load("model.pt", weights_only=False)
except BaseException:
    pass
""",
        "stopping_answer": "def early_stopping(*a):\n    while True:\n        pass",
    }
    submissions = {
        "right": edited(release, answers(right | {"report": "Two settings, three seeds."})),
        "wrong": edited(release, answers(wrong)),
        "empty": release,
        "hostile": edited(release, answers(hostile)),
    }
    shuffled = edited(release, answers({k: v for k, v in right.items() if k != "runs_answer"}))
    # Reversed cells, one that breaks modules, one test cell removed, and one with an easy test.
    shuffled.cells = [
        nbformat.v4.new_code_cell(
            "import math, torch; math.sqrt = torch.maximum = None; raise SystemExit"
        ),
        *[
            c
            for c in reversed(shuffled.cells)
            if c.metadata.get("nbgrader", {}).get("grade_id") != "schedule_points"
        ],
    ]
    for cell in shuffled.cells:
        if cell.metadata.get("nbgrader", {}).get("grade_id") == "stopping_points":
            cell.source, cell.metadata.nbgrader["points"] = "pass", 400
    submissions["shuffled"] = shuffled
    cheating = edited(release, lambda grade_id, cell: None)
    for cell in cheating.cells:
        if cell.metadata.get("nbgrader", {}).get("grade"):
            cell.source = "100.0"
    submissions["cheating"] = cheating
    for student, notebook in submissions.items():
        place = folder / "submitted" / student / "techniques"
        place.mkdir(parents=True)
        nbformat.write(notebook, place / "techniques.ipynb")
    before = {
        p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file() and p.suffix != ".db"
    }
    with (folder / "nbgrader_config.py").open("a") as settings:
        settings.write("c.Judge.seconds = 15\n")
    before[folder / "nbgrader_config.py"] = (folder / "nbgrader_config.py").read_bytes()
    rc, log = nbgrader(folder, "autograde", "techniques")
    assert rc == 0, log
    return folder, before


@pytest.mark.slow
def test_the_released_notebook_has_no_answers_and_no_link_to_its_source(course_folder):
    folder, _ = course_folder
    text = (folder / "release/techniques/techniques.ipynb").read_text()
    assert "raise NotImplementedError" in text
    for word in ("torch.maximum", "check.grade", "One each:", "jupytext", "BEGIN"):
        assert word not in text
    assert sorted(p.name for p in (folder / "release").rglob("*") if p.is_file()) == [
        "techniques.ipynb"
    ]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("student", "points"),
    [
        ("right", (4, 4, 4)),
        ("wrong", (0, 0, 0)),
        ("empty", (0, 0, 0)),
        ("hostile", (0, 0, 0)),
        ("shuffled", (4, 4, 4)),
        ("cheating", (0, 0, 0)),
    ],
)
def test_the_scores_are_right(course_folder, student, points):
    folder, _ = course_folder
    earned = scores(folder, "techniques")[student]
    assert tuple(earned[f"{n}_points"] for n in ("mixup", "schedule", "stopping")) == points
    assert earned["report"] in (None, 0), "written answers are graded by hand"


@pytest.mark.slow
def test_files_of_the_instructor_and_of_other_students_are_unchanged(course_folder):
    folder, before = course_folder
    assert {p: p.read_bytes() for p in before} == before
    assert not list(folder.rglob("marker"))
    assert "was here" not in (folder / "gradebook.db").read_bytes().decode(errors="replace")


@pytest.mark.slow
def test_the_feedback_names_the_misconception(course_folder):
    folder, _ = course_folder
    rc, log = nbgrader(folder, "generate_feedback", "techniques")
    assert rc == 0, log
    feedback = {
        s: (folder / f"feedback/{s}/techniques/techniques.html").read_text()
        for s in ("wrong", "hostile", "empty")
    }
    assert "gets the smaller weight" in feedback["wrong"]
    assert "ZeroDivisionError" in feedback["wrong"]
    assert "not written yet" in feedback["empty"]
    assert "took longer than 15 seconds" in feedback["hostile"]
    assert "One each:" not in "".join(feedback.values())


@pytest.mark.slow
def test_fine_tuning_is_graded_on_new_signs(tmp_path):
    folder = products.assignment("few_labels", tmp_path / "f", student_seed=3)
    rc, log = nbgrader(folder, "generate_assignment", "few_labels")
    assert rc == 0, log
    place = folder / "submitted" / "right" / "few_labels"
    place.mkdir(parents=True)
    shutil.copy(folder / "source/few_labels/few_labels.ipynb", place)
    rc, log = nbgrader(folder, "autograde", "few_labels")
    assert rc == 0, log
    earned = scores(folder, "few_labels")["right"]
    assert earned["choose_points"] == 4
    assert earned["learn_points"] >= 4
