"""Graded assignments: the folder that is written, the keys, and real submissions through the real nbgrader."""

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
from cnnlab.course.autograde import AssignmentError, KeepPlain, graded


ASSIGNMENTS = sorted(path.parent.name for path in course.root().glob("assignments/*/key.py"))
KEYS = {name: exercises(course.root() / "assignments" / name / "key.py") for name in ASSIGNMENTS}
FUNCTIONS = [
    (key, name) for key in KEYS for name, e in KEYS[key].items() if isinstance(e, Exercise)
]
WRONG = [(key, name, wrong) for key, name in FUNCTIONS for wrong in KEYS[key][name].mistakes]
SEEDS = range(0, 600, 3)


# --- the keys -----------------------------------------------------------------------------------------------------


def test_there_are_two_assignments():
    assert ASSIGNMENTS == ["few_labels", "techniques"]
    assert len(FUNCTIONS) == 4


@pytest.mark.parametrize(("key", "name"), FUNCTIONS)
def test_the_right_answer_passes_under_every_seed(key, name):
    exercise = KEYS[key][name]
    assert len(exercise.mistakes) >= 4
    assert all(exercise.judge(exercise.answer, seed).passed for seed in SEEDS[:50])


@pytest.mark.slow
@pytest.mark.parametrize(("key", "name", "wrong"), WRONG)
def test_a_wrong_answer_never_passes_and_is_named_under_every_seed(key, name, wrong):
    exercise = KEYS[key][name]
    for seed in SEEDS:
        outcome = exercise.judge(exercise.mistakes[wrong].attempt, seed)
        assert not outcome.passed
        assert outcome.mistake == wrong, f"seed {seed}: {outcome}"


@pytest.mark.slow
def test_learning_earns_by_its_lead_over_the_probe():
    learn = KEYS["few_labels"]["learn"]
    frozen = learn.judge(lambda images, labels, others: labels.new_zeros(len(others)))
    assert frozen.earned == 0.0
    assert "beside a linear probe" in frozen.says
    shapeless = learn.judge(lambda images, labels, others: labels)
    assert "returned (120,); expected whole numbers of shape (600,)" in shapeless.says
    assert learn.judge(lambda *arguments: 1 / 0).earned == 0.0

    def probe(images, labels, others):
        """As good as what it is compared with."""
        import cnnlab

        model = cnnlab.pretrained("glyphnet", 12)
        seen, new = (
            cnnlab.transfer.extract_features(model, [(x, labels[:1].expand(len(x)))])[0]
            for x in (images, others)
        )
        from sklearn.linear_model import LogisticRegression
        from sklearn.preprocessing import StandardScaler

        scale = StandardScaler().fit(seen)
        told = LogisticRegression(max_iter=2000).fit(scale.transform(seen), labels)
        return labels.new_tensor(told.predict(scale.transform(new)))

    assert 0.2 < learn.judge(probe).earned < 0.8


# --- the folder ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_a_folder_for_nbgrader_is_written_the_same_each_time(name, tmp_path, capsys):
    for out in ("a", "b"):
        assert cli.main(["assignment", name, str(tmp_path / out), "--student-seed", "17"]) == 0
    assert "README.md says how" in capsys.readouterr().out
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
    read = nbformat.read(tmp_path / "a" / notebook, as_version=nbformat.NO_CONVERT)
    nbformat.validate(read)
    assert set(read.metadata) == {"kernelspec"}
    assert {key for cell in read.cells for key in cell.metadata} == {"nbgrader"}
    assert sum("SEED = 17" in cell.source for cell in read.cells) == 1


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_every_test_cell_names_its_exercise_and_promises_its_points(name, tmp_path):
    out = products.assignment(name, tmp_path / "out")
    read = nbformat.read(out / "source" / name / f"{name}.ipynb", as_version=nbformat.NO_CONVERT)
    table = dict(re.findall(r"^\| \d\. (.+?) \| (\d+) \|", read.cells[0].source, re.MULTILINE))
    told = [cell.metadata.nbgrader for cell in read.cells if "nbgrader" in cell.metadata]
    assert sorted(int(points) for points in table.values()) == sorted(
        cell["points"] for cell in told if cell["grade"]
    )
    tests = [graded(c.source) for c in read.cells if "BEGIN HIDDEN TESTS" in c.source]
    assert {test.exercise for test in tests} == set(KEYS[name])
    for cell in read.cells:
        if "BEGIN HIDDEN TESTS" in cell.source:
            assert graded(cell.source).points == cell.metadata.nbgrader["points"]


def test_an_unknown_assignment_and_a_full_folder_are_told(tmp_path, capsys):
    assert cli.main(["assignment", "nope", str(tmp_path / "out")]) == 1
    assert "there are few_labels, techniques" in capsys.readouterr().err
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "gradebook.db").write_text("a term of grades")
    assert cli.main(["assignment", "techniques", str(tmp_path / "out")]) == 1
    assert "--force" in capsys.readouterr().err
    assert (tmp_path / "out" / "gradebook.db").read_text() == "a term of grades"


def test_a_test_cell_without_a_call_is_the_instructors_mistake():
    with pytest.raises(AssignmentError, match=r'needs one call check.grade\("exercise"'):
        graded("assert mixup(1) == 2")


def test_of_handed_in_outputs_only_what_cannot_run_stays():
    cell = nbformat.v4.new_code_cell(
        "x",
        outputs=[
            nbformat.v4.new_output("stream", text="hello"),
            nbformat.v4.new_output(
                "display_data", {"text/html": "<script>", "text/plain": "a", "image/png": "aa=="}
            ),
            nbformat.v4.new_output("display_data", {"application/javascript": "steal()"}),
            nbformat.v4.new_output("error", ename="E", evalue="<script>", traceback=[]),
        ],
    )
    kept, _ = KeepPlain().preprocess_cell(cell, {}, 0)
    assert [sorted(out.get("data", [out.get("text")])) for out in kept.outputs] == [
        ["hello"],
        ["image/png", "text/plain"],
    ]


# --- real submissions ---------------------------------------------------------------------------------------------


def nbgrader(folder, *arguments):
    done = subprocess.run(
        [sys.executable, "-m", "nbgrader", *arguments],
        cwd=folder,
        # nbgrader calls `alembic` by its name, as it lies in an environment that is active.
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
    """A copy whose cells went through change(grade_id, cell)."""
    made = nbformat.from_dict(json.loads(json.dumps(notebook)))
    for cell in made.cells:
        change(cell.metadata.get("nbgrader", {}).get("grade_id"), cell)
    return made


def answers(sources, title="YOUR ANSWER HERE"):
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
    """The assignment on techniques, given out, handed in by seven students, and graded."""
    folder = products.assignment(
        "techniques", tmp_path_factory.mktemp("course") / "t", student_seed=17
    )
    rc, log = nbgrader(folder, "generate_assignment", "techniques")
    assert rc == 0, log
    key = nbformat.read(folder / "source/techniques/techniques.ipynb", as_version=4)
    given = nbformat.read(folder / "release/techniques/techniques.ipynb", as_version=4)
    right = {
        cell.metadata.nbgrader["grade_id"]: re.sub(
            r".*### (BEGIN|END) SOLUTION\n?", "", cell.source
        )
        for cell in key.cells
        if cell.metadata.get("nbgrader", {}).get("solution")
    }
    short = {  # two of three right, so that a submission costs one process less to run
        "mixup_answer": right["mixup_answer"].replace("torch.maximum(lam, 1 - lam)", "lam"),
        "schedule_answer": "def schedule(step, warmup, hold, steps, final):\n    return 1 / 0",
        "report": "I compared nothing.",
    }
    hostile = {
        "setup": "import cnnlab; cnnlab.check.grade = lambda *a, points, **k: points",
        # Reads the key and the answers, changes a neighbour's work and the book of grades, forges a grade.
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
    made = {
        "right": edited(given, answers(right | {"report": "Two settings, three seeds."})),
        "wrong": edited(given, answers(short)),
        "empty": given,
        "hostile": edited(given, answers(hostile)),
    }
    shuffled = edited(given, answers({k: v for k, v in right.items() if k != "runs_answer"}))
    shuffled.cells = [  # backwards; a cell that breaks what other cells use; a test cell gone, one made easy
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
    made["shuffled"] = shuffled
    cheating = edited(given, lambda grade_id, cell: None)
    for cell in cheating.cells:
        if cell.metadata.get("nbgrader", {}).get("grade"):
            cell.source = "100.0"
    made["cheating"] = cheating
    for student, notebook in made.items():
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
def test_what_is_given_out_has_no_answer_and_nothing_that_ties_it_to_its_source(course_folder):
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
    found = scores(folder, "techniques")[student]
    assert tuple(found[f"{n}_points"] for n in ("mixup", "schedule", "stopping")) == points
    assert found["report"] in (None, 0), "what is written waits for a reader"


@pytest.mark.slow
def test_nothing_of_the_instructors_and_of_the_neighbours_is_touched(course_folder):
    folder, before = course_folder
    assert {p: p.read_bytes() for p in before} == before
    assert not list(folder.rglob("marker"))
    assert "was here" not in (folder / "gradebook.db").read_bytes().decode(errors="replace")


@pytest.mark.slow
def test_the_feedback_says_which_misconception_it_is(course_folder):
    folder, _ = course_folder
    rc, log = nbgrader(folder, "generate_feedback", "techniques")
    assert rc == 0, log
    told = {
        s: (folder / f"feedback/{s}/techniques/techniques.html").read_text()
        for s in ("wrong", "hostile", "empty")
    }
    assert "keeps the smaller share" in told["wrong"]
    assert "ZeroDivisionError" in told["wrong"]
    assert "not written yet" in told["empty"]
    assert "took longer than 15 seconds" in told["hostile"]
    assert "One each:" not in "".join(told.values())


@pytest.mark.slow
def test_fine_tuning_is_graded_on_signs_that_nobody_has_seen(tmp_path):
    folder = products.assignment("few_labels", tmp_path / "f", student_seed=3)
    rc, log = nbgrader(folder, "generate_assignment", "few_labels")
    assert rc == 0, log
    place = folder / "submitted" / "right" / "few_labels"
    place.mkdir(parents=True)
    shutil.copy(folder / "source/few_labels/few_labels.ipynb", place)
    rc, log = nbgrader(folder, "autograde", "few_labels")
    assert rc == 0, log
    found = scores(folder, "few_labels")["right"]
    assert found["choose_points"] == 4
    assert found["learn_points"] >= 4
