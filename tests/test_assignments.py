"""Graded assignments: the keys, the folder, and real submissions graded by the real nbgrader."""

import csv
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import nbformat
import pytest
import torch
import torch.nn.functional as F
from nbgrader.api import Gradebook
from nbgrader.preprocessors import AssignLatePenalties
from traitlets.config import Config

from cnnlab import cli, course
from cnnlab.check.core import Exercise
from cnnlab.check.grading import exercises, grade
from cnnlab.course import assignments
from cnnlab.course.assignments import AssignmentError, Seed, graded, hand_out, seed_of
from cnnlab.course.autograde import Judge, answer, configure
from cnnlab.course.check.remote import GraderError, Remote


ASSIGNMENTS = sorted(path.parent.name for path in course.root().glob("assignments/*/key.py"))
KEYS = {name: exercises(course.root() / "assignments" / name / "key.py") for name in ASSIGNMENTS}
FUNCTIONS = [
    (key, name) for key in KEYS for name, e in KEYS[key].items() if isinstance(e, Exercise)
]
PARTIAL = [(key, name) for key, name in FUNCTIONS if KEYS[key][name].worth]
WRONG = [(key, name, wrong) for key, name in FUNCTIONS for wrong in KEYS[key][name].mistakes]
SEEDS = range(0, 600, 3)
# How many of 600 signs more than fine-tuning, the fraction of the points, a word of the feedback.
SCALE = [(18, 0.225, "above"), (60, 0.75, "above"), (90, 0.875, "above"), (120, 1.0, "above")]


# --- the keys -------------------------------------------------------------------------------------


@pytest.mark.parametrize(("key", "name"), FUNCTIONS)
def test_the_correct_answer_passes_under_every_seed(key, name):
    exercise = KEYS[key][name]
    assert len(exercise.mistakes) >= 3
    assert all(exercise.judge(exercise.answer, seed).passed for seed in SEEDS[:50])


@pytest.mark.slow
@pytest.mark.parametrize(("key", "name", "wrong"), WRONG)
def test_a_wrong_answer_is_recognised_under_every_seed(key, name, wrong):
    exercise = KEYS[key][name]
    for seed in SEEDS:
        outcome = exercise.judge(exercise.mistakes[wrong].attempt, seed)
        assert not outcome.passed
        assert outcome.mistake == wrong, f"seed {seed}: {outcome}"


@pytest.mark.parametrize(("key", "name"), PARTIAL)
def test_each_fact_counts_for_one_group_of_the_points(key, name):
    exercise = KEYS[key][name]
    assert sum(exercise.worth.values()) == 1.0
    for fact in exercise.observe(exercise.answer, 5):
        assert len([group for group in exercise.worth if re.search(group, fact)]) == 1, fact


@pytest.mark.parametrize(
    ("name", "wrong", "share"),
    [
        ("mixup", "hard targets", 0.5),
        ("mixup", "swapped", 0.0),
        ("mixup", "in place", 0.5),
        ("schedule", "from zero", 0.5),
        ("schedule", "straight", 0.5),
        ("early_stopping", "best needs the margin", 0.5),
        ("early_stopping", "mode forgotten", 0.0),
    ],
)
def test_an_answer_that_is_half_right_earns_half_of_the_points(name, wrong, share, capsys):
    exercise = KEYS["techniques"][name]
    attempt = exercise.mistakes[wrong].attempt
    assert exercise.judge(attempt, 17).earned == share
    key = course.root() / "assignments" / "techniques" / "key.py"
    assert grade(name, attempt, points=4, seed=17, key=key) == 4 * share
    assert ("That earns 2 of 4 points." in capsys.readouterr().out) == (share == 0.5)


def test_constants_earn_nothing():
    techniques = KEYS["techniques"]
    assert techniques["schedule"].judge(lambda *arguments: 1.0).earned == 0.0
    assert techniques["mixup"].judge(lambda images, labels, k, *rest: (images, labels)).earned == 0
    assert techniques["early_stopping"].judge(lambda values, *rest: (0, 0)).earned == 0.0
    assert KEYS["few_labels"]["choose"].judge(lambda scores, seconds: "probe").earned == 0.0


@pytest.fixture
def small_signs(monkeypatch):
    """Signs without pixels: the class of one is its only pixel, and fine-tuning knows a half."""
    settings = KEYS["few_labels"]["learn"].judge.__func__.__globals__
    hidden = torch.arange(600) % 12

    def fine_tune(images, labels, unlabelled):
        return guesses(unlabelled, 300)

    monkeypatch.setitem(settings, "signs", lambda seed: (hidden, hidden, hidden, hidden))
    monkeypatch.setitem(settings, "fine_tune", fine_tune)


def guesses(unlabelled, n_right):
    """The right class for n images, and a wrong one for the others."""
    return torch.where(torch.arange(600) < n_right, unlabelled, (unlabelled + 1) % 12)


@pytest.mark.parametrize(
    ("gain", "share", "side"),
    [(-60, 0.0, "below"), (0, 0.0, "above"), *SCALE],
)
def test_learning_earns_points_by_its_gain_over_fine_tuning(small_signs, gain, share, side):
    learn = KEYS["few_labels"]["learn"]
    outcome = learn.judge(lambda images, labels, unlabelled: guesses(unlabelled, 300 + gain))
    assert outcome.earned == pytest.approx(share, abs=0.006)
    assert f"{abs(gain) / 600:.3f} {side} that of chapter 10's fine-tuning" in outcome.says


@pytest.mark.parametrize(
    ("attempt", "says"),
    [
        (lambda *arguments: 1 / 0, "raised ZeroDivisionError"),
        (lambda images, labels, unlabelled: labels[:3], "integer tensor of shape (600,)"),
        (lambda images, labels, unlabelled: labels.float(), "a torch.float32 tensor"),
        (lambda images, labels, unlabelled: labels.tolist(), "a list"),
    ],
)
def test_predictions_of_another_form_earn_nothing(small_signs, attempt, says):
    outcome = KEYS["few_labels"]["learn"].judge(attempt)
    assert outcome.earned == 0.0
    assert says in outcome.says


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "body", "says"),
    [
        ("learn", "while True:\n        pass", "took longer than"),
        ("learn", "raise NotImplementedError", "not written yet"),
        ("learn", "return open('KEY').read()", "is not allowed in an answer"),
        ("choose", "return open('KEY').read()", "is not allowed in an answer"),
        ("choose", "return 'probe'", "choose: "),
    ],
)
def test_slow_empty_and_cheating_answers_on_few_labels_earn_nothing(
    small_signs, function, body, says, capsys
):
    key = course.root() / "assignments" / "few_labels" / "key.py"
    tricks = "import cnnlab\ncnnlab.check.grade = lambda *a, **k: 8\n"
    source = f"{tricks}def {function}(*arguments):\n    {body.replace('KEY', str(key))}"
    with Remote("", source, function, seconds=3) as attempt:
        outcome = KEYS["few_labels"][function].judge(attempt, 3)
    assert outcome.earned == 0.0
    assert says in str(outcome).replace("\n  ", " ")


def test_two_known_mistakes_at_once_are_both_named():
    mixup = KEYS["techniques"]["mixup"]

    def two(images, labels, num_classes, lam, permutation):
        mixed, _ = mixup.mistakes["one share"].attempt(
            images, labels, num_classes, lam, permutation
        )
        return mixed, F.one_hot(labels, num_classes).float()

    for seed in SEEDS[:50]:
        outcome = mixup.judge(two, seed)
        assert outcome.mistake == "one share"
        assert mixup.mistakes["one share"].says in outcome.says
        assert f"Besides, {mixup.mistakes['hard targets'].says}" in outcome.says


@pytest.mark.parametrize(("key", "name"), FUNCTIONS)
def test_feedback_on_an_unknown_mistake_is_one_case_that_can_be_read(key, name, capsys):
    exercise = KEYS[key][name]

    def unknown(*arguments):
        right = exercise.answer(*arguments)
        return {
            float: lambda: right + 0.37,
            str: lambda: "nothing",
            tuple: lambda: (*right[:-1], right[-1] + 3),
        }.get(type(right), lambda: "nothing")()

    folder = course.root() / "assignments" / key
    for seed in range(20):
        assert grade(name, unknown, key=folder / "key.py", seed=seed) <= 0.5
        feedback = capsys.readouterr().out
        assert feedback.count("expected") <= 1
        assert "Hint: " in feedback
        assert len(feedback) <= 400
        assert max(map(len, feedback.splitlines())) <= 100
    assert grade(name, lambda *arguments: 1 / 0, key=folder / "key.py") == 0.0
    assert "Hint: " not in capsys.readouterr().out, "a hint on values doesn't help with an error"


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
    expected = ("README.md", "LICENSE", "LICENSE-TEXT.md", "nbgrader_config.py", "seeds.json")
    assert files == sorted([*map(Path, (*expected, f"keys/{name}.py")), notebook])
    assert all(
        (tmp_path / "a" / f).read_bytes() == (tmp_path / "b" / f).read_bytes() for f in files
    )
    contents = nbformat.read(tmp_path / "a" / notebook, as_version=nbformat.NO_CONVERT)
    nbformat.validate(contents)
    assert set(contents.metadata) == {"kernelspec"}
    assert {key for cell in contents.cells for key in cell.metadata} == {"nbgrader"}
    seeds = re.findall(r"(?m)^SEED = .*", "\n".join(cell.source for cell in contents.cells))
    assert set(seeds) <= {"SEED = 17"}


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_test_cells_have_the_points_that_the_table_and_the_key_state(name, tmp_path):
    out = assignments.write(name, tmp_path / "out")
    cells = nbformat.read(out / "source" / name / f"{name}.ipynb", nbformat.NO_CONVERT).cells
    table = re.findall(r"^\| \d\. .+? \| (\d+) \|", cells[0].source, re.MULTILINE)
    settings = [cell.metadata.nbgrader for cell in cells if "nbgrader" in cell.metadata]
    assert sorted(map(int, table)) == sorted(s["points"] for s in settings if s["grade"]), (
        "the table in the first cell has a row `| 1. name | points |` for each question"
    )
    tests = [cell for cell in cells if "BEGIN HIDDEN TESTS" in cell.source]
    assert {graded(cell.source).exercise for cell in tests} == set(KEYS[name])
    for cell in tests:
        graded(cell.source, cell.metadata.nbgrader["points"])


def test_an_unknown_assignment_and_an_existing_folder_are_refused(tmp_path, capsys):
    assert cli.main(["assignment", "nope", str(tmp_path / "out")]) == 1
    assert "choose one of emergency, few_labels, techniques" in capsys.readouterr().err
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "gradebook.db").write_text("a term of grades")
    assert cli.main(["assignment", "techniques", str(tmp_path / "out")]) == 1
    assert "--force" in capsys.readouterr().err
    assert (tmp_path / "out" / "gradebook.db").read_text() == "a term of grades"


def test_a_test_cell_without_a_call_of_grade_is_refused():
    with pytest.raises(AssignmentError, match=r'needs one call check.grade\("exercise"'):
        graded("assert mixup(1) == 2")


def test_points_that_differ_from_the_metadata_are_refused():
    assert graded('check.grade("mixup", mixup, points=4)', 4.0).exercise == "mixup"
    with pytest.raises(AssignmentError, match=r"says points=3, but its metadata say 5"):
        graded('check.grade("mixup", mixup, points=3)', 5.0)


def test_a_course_has_many_assignments_each_with_its_key_and_seed(tmp_path, capsys):
    course_folder = tmp_path / "course"
    for seed, name in enumerate(ASSIGNMENTS):
        into = ["--into", str(course_folder), "--student-seed", str(seed)]
        assert cli.main(["assignment", name, *into]) == 0
        assert seed_of(course_folder, name) == Seed(seed)
        assert (course_folder / "keys" / f"{name}.py").is_file()
    (course_folder / "nbgrader_config.py").write_text("# mine")
    assert cli.main(["assignment", ASSIGNMENTS[0], "--into", str(course_folder)]) == 1
    said = capsys.readouterr().err
    assert "it may have been handed out" in said
    assert f"nbgrader generate_assignment {ASSIGNMENTS[0]} --force" in said
    assert (course_folder / "nbgrader_config.py").read_text() == "# mine"
    assert cli.main(["assignment", ASSIGNMENTS[0]]) == 1
    assert "say where to write" in capsys.readouterr().err
    with pytest.raises(AssignmentError, match=r"cnnlab assignment nope --into"):
        seed_of(course_folder, "nope")


def test_each_student_of_a_list_gets_an_own_seed(tmp_path, capsys):
    folder = assignments.write("techniques", into=tmp_path / "course", student_seed=17)
    (tmp_path / "list.csv").write_text("username,group\nada,1\n\nalan-2,1\n")
    call = [
        "assignment",
        "techniques",
        "--into",
        str(folder),
        "--roster",
        str(tmp_path / "list.csv"),
    ]
    assert cli.main(call) == 1
    assert "run `nbgrader generate_assignment techniques`" in capsys.readouterr().err
    released = folder / "release" / "techniques" / "techniques.ipynb"
    released.parent.mkdir(parents=True)
    shutil.copy(folder / "source/techniques/techniques.ipynb", released)
    assert cli.main(call) == 0
    assert "2 notebooks" in capsys.readouterr().out
    seeds = {name: seed_of(folder, "techniques").of(name) for name in ("ada", "alan-2")}
    assert len(set(seeds.values()) - {17}) == 2
    for name, seed in seeds.items():
        notebook = folder / "handout" / name / "techniques" / "techniques.ipynb"
        cells = nbformat.read(notebook, nbformat.NO_CONVERT).cells
        assert sum(f"SEED = {seed}" in cell.source for cell in cells) == 1
    (tmp_path / "list.csv").write_text("=cmd(),1\n")
    with pytest.raises(AssignmentError, match="can't be the name of a student"):
        hand_out("techniques", folder, tmp_path / "list.csv")


def test_a_student_whose_name_is_html_is_refused(tmp_path):
    (tmp_path / "submitted" / "zoë.o-neill_2@uni+x").mkdir(parents=True)
    configure(Config(), tmp_path)
    (tmp_path / "submitted" / "<img src=x onerror=alert(1)>").mkdir()
    with pytest.raises(AssignmentError, match="can't be the name of a student"):
        configure(Config(), tmp_path)


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_the_export_for_otter_has_the_same_questions_and_key(name, tmp_path, capsys, monkeypatch):
    """`otter assign` and `otter run` were tried with otter-grader 7.0.0; they aren't run here."""
    assert (
        cli.main(["assignment", name, str(tmp_path / "o"), "--otter", "--student-seed", "3"]) == 0
    )
    cells = nbformat.read(tmp_path / "o" / f"{name}.ipynb", nbformat.NO_CONVERT).cells
    marks = [cell.source for cell in cells if cell.cell_type == "raw"]
    settings = [
        cell.metadata.nbgrader
        for cell in nbformat.read(
            assignments.write(name, tmp_path / "n") / "source" / name / f"{name}.ipynb",
            nbformat.NO_CONVERT,
        ).cells
        if "nbgrader" in cell.metadata
    ]
    points = [float(re.search(r"points: (\d+)", m)[1]) for m in marks if "BEGIN QUESTION" in m]
    assert points == [cell["points"] for cell in settings if cell["grade"]]
    for kind in ("QUESTION", "SOLUTION", "TESTS"):
        assert sum(m.startswith(f"# BEGIN {kind}") for m in marks) == marks.count(f"# END {kind}")
    inside = False
    for cell in cells:  # an answer is removed within these marks only
        inside = cell.source.startswith("# BEGIN SOLUTION") if cell.cell_type == "raw" else inside
        assert inside or "SOLUTION" not in cell.source or cell.cell_type == "raw"
    monkeypatch.chdir(tmp_path / "o")
    for test in (cell.source for cell in cells if "hidden: true" in cell.source):
        exercise, function = re.search(r'\["(\w+)"\]\.judge\((\w+), 3\)', test).groups()
        if isinstance(KEYS[name][exercise], Exercise):
            exec(test, {function: KEYS[name][exercise].answer})  # noqa: S102 - our own test
            with pytest.raises(AssertionError, match=r"raised\s+ZeroDivisionError"):
                exec(test, {function: lambda *a: 1 / 0})  # noqa: S102
    readme = (tmp_path / "o" / "README.md").read_text()
    assert "same process as its tests" in readme
    assert "what otter can't do" in capsys.readouterr().out


def test_a_course_takes_off_a_tenth_of_the_points_per_day_as_the_rules_say(tmp_path):
    folder = assignments.write("techniques", tmp_path / "t")
    config = Config()
    path = folder / "nbgrader_config.py"
    names = {"get_config": lambda: config, "__file__": str(path), "__name__": "settings"}
    exec(path.read_text(), names)  # noqa: S102 - our own file
    late = AssignLatePenalties(config=config)
    late.init_plugin()
    plugin = late.plugin_inst
    day = 86_400
    penalties = [plugin.late_submission_penalty("ada", 8.0, s) for s in (1, day + 1, 30 * day)]
    assert penalties == pytest.approx([0.8, 1.6, 8.0])


@pytest.mark.parametrize("name", ASSIGNMENTS)
def test_rubric_and_rules_are_in_the_notebook_of_the_students(name, tmp_path):
    own = tmp_path / "rules.md"
    own.write_text("## Rules\n\nThere are none.\n")
    for out, options in (("default", []), ("own", ["--rules", str(own)])):
        assert cli.main(["assignment", name, str(tmp_path / out), *options]) == 0
        path = tmp_path / out / "source" / name / f"{name}.ipynb"
        cells = nbformat.read(path, nbformat.NO_CONVERT).cells
        released = [c for c in cells if not c.metadata.get("nbgrader", {}).get("solution")]
        text = "\n".join(cell.source for cell in released)
        rules = ("Deadline", "Resubmission", "AI assistants", "Working together")
        assert [rule in text for rule in rules] == [out == "default"] * 4
        assert ("There are none." in text) == (out == "own")
        assert "RULES" not in text
        written = [c for c in cells if c.metadata.get("nbgrader", {}).get("grade")]
        for cell in written:
            if cell.metadata.nbgrader["solution"]:
                before = cells[cells.index(cell) - 1].source
                stated = map(int, re.findall(r"\((\d)(?: points?)?\)", before))
                points = cell.metadata.nbgrader["points"]
                assert sum(stated) == points or f"\n{points}. " in before, (
                    f"the rubric above has one line or (1) per point, of {points} in all: {before}"
                )


def test_archives_of_moodle_are_understood(tmp_path):
    config = Config()
    configure(config, tmp_path)
    pattern = config.FileNameCollectorPlugin.named_regexp
    for name in (
        "/c/extracted/Course-1-123/Ada O'Neill_45_assignsubmission_file/techniques.ipynb",
        "/c/extracted/Course-1-123/Ada O'Neill_45_assignsubmission_file_techniques.ipynb",
    ):
        found = re.match(pattern, name)
        assert (found["student_id"], found["file_id"]) == ("45", "techniques")


# --- which cell is the answer ---------------------------------------------------------------------

STUB = "def mixup(a):\n    raise NotImplementedError"
RIGHT = "def mixup(a):\n    return a"


def cell(source, grade_id=None):
    settings = {"nbgrader": {"grade_id": grade_id, "solution": True}} if grade_id else {}
    return nbformat.v4.new_code_cell(source, metadata=settings)


@pytest.mark.parametrize(
    "others",
    [
        ["mixup = mixup(3)"],
        ["mixup = [train(seed) for seed in range(5)]", "print(mixup)"],
        ["def mixup(b):\n    return 1 / 0"],
        ["mixup == 3"],
    ],
)
def test_the_cell_that_was_handed_out_is_graded_whatever_others_call_their_results(others):
    cells = [cell(RIGHT, "mixup_answer"), *map(cell, others)]
    assert answer("mixup", cells, {"mixup_answer": STUB}) == RIGHT
    assert answer("mixup", cells[::-1], {"mixup_answer": STUB}) == RIGHT


def test_an_answer_in_another_cell_is_found_if_its_own_is_gone_or_untouched():
    for cells in ([cell(STUB, "mixup_answer"), cell(RIGHT)], [cell(RIGHT), cell("mixup = 3")]):
        assert answer("mixup", cells, {"mixup_answer": STUB}) == RIGHT
    assert answer("mixup", [cell("mixup = torch.lerp")], {"mixup_answer": STUB}) == (
        "mixup = torch.lerp"
    )
    assert "NotImplementedError" in answer("mixup", [cell(STUB, "m")], {"m": STUB})


@pytest.mark.parametrize(
    ("source", "line"),
    [
        ("%%time\ndef f(): pass", "pass"),
        ("%matplotlib inline\ndef f(): pass", "pass"),
        ("def f(): pass\nx = !ls", "x = get_ipython().getoutput('ls')"),
        ("def f(a, b):\n    return (a\n    % b)", "    % b)"),
    ],
)
def test_commands_of_ipython_are_taken_out_and_python_is_left_alone(source, line):
    python = answer("f", [cell(source)])
    compile(python, "", "exec")
    assert line in python.splitlines()


def test_a_fault_of_the_grader_is_not_counted_even_if_a_key_catches_it(tmp_path):
    key = tmp_path / "key.py"
    key.write_text(
        "from cnnlab.check.core import Outcome\n"
        "class Catches:\n"
        "    def judge(self, attempt, seed=0):\n"
        "        try:\n"
        "            attempt()\n"
        "        except Exception:\n"
        "            return Outcome('f', False, 'your function raised an error.')\n"
        "EXERCISES = {'f': Catches()}"
    )
    package = tmp_path / "site-packages"
    package.mkdir()
    (package / "library_of_this_test.py").write_text(
        f"def load():\n    return open({str(tmp_path / 'data')!r}).read()"
    )
    setup = f"import sys; sys.path.append({str(package)!r}); import library_of_this_test"
    judge, test = Judge(), graded('check.grade("f", f)')
    source = "def f():\n    return library_of_this_test.load()"
    with pytest.raises(GraderError, match=r"c.Judge.readable"):
        judge.points(test, setup, source, 4, 0, key)


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


# What JupyterLab leaves when a student copies or splits a cell: each piece has the same grade_id.
COPIES = {
    "setup": "pass",
    "mixup_answer": "def mixup(*arguments):\n    return 0  # a first attempt, above the answer",
    "schedule_answer": None,  # the copy below is as it was handed out
    "stopping_answer": "early_stopping([3, 2, 1], 1, 0)  # what was below the function",
    "stopping_points": "pass",
    "report": "A first report.",
}


LOCKED = ("setup", "stopping_points")


def with_copies(notebook, release):
    """Return a notebook in which the cells of COPIES occur twice."""
    handed_out = {c.metadata.nbgrader["grade_id"]: c for c in release.cells if c.metadata}
    cells = []
    for cell in notebook.cells:
        grade_id = cell.metadata.get("nbgrader", {}).get("grade_id")
        cells.append(cell)
        if grade_id in COPIES:
            copy = edited(nbformat.v4.new_notebook(cells=[handed_out[grade_id]]), answers({}))
            copy.cells[0].source = COPIES[grade_id] or copy.cells[0].source
            copy.cells[0].id = f"{cell.id}-copy"
            above = grade_id in ("mixup_answer", "report")
            cells.insert(len(cells) - above, copy.cells[0])
    return nbformat.v4.new_notebook(cells=cells, metadata=notebook.metadata)


@pytest.fixture(scope="module")
def course_folder(tmp_path_factory):
    """The assignment on techniques, handed out, submitted by nine students, and graded."""
    folder = assignments.write(
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
        "setup": "import cnnlab; cnnlab.check.grade = lambda *a, **k: 4",
        # Reads the key and the answers, overwrites another submission and the gradebook.
        "mixup_answer": f"""
import os, sys, cnnlab
from cnnlab import check
check.grade = lambda *a, **k: 4
check.core.agree = lambda a, b: True
def mixup(*arguments):
    for path in ("keys/techniques.py", "source/techniques/techniques.ipynb"):
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
        "right": edited(release, answers(right | {"report": "Two settings, eight seeds."})),
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
    submissions["tries"] = edited(
        release,
        answers(
            {
                "mixup_answer": f"%matplotlib inline\nplot(3)\n{right['mixup_answer']}\n"
                "mixup = mixup(three_images)\nassert mixup == 3",
                "schedule_answer": f"import math\n{right['schedule_answer']}\n"
                "for step in range(10**9):\n    schedule(step, 1, 1, 10**9, 0.1)",
                "stopping_answer": right["stopping_answer"],
                "runs_answer": "mixup = [1, 2]\nschedule = early_stopping = mixup",
            }
        ),
    )
    cheating = edited(release, lambda grade_id, cell: None)
    for cell in cheating.cells:
        if cell.metadata.get("nbgrader", {}).get("grade"):
            cell.source = "100.0"
    submissions["cheating"] = cheating
    answered = edited(release, answers(right | {"report": "A longer report."}))
    submissions["gaps"] = nbformat.v4.new_notebook(
        cells=[
            nbformat.v4.new_markdown_cell("All I kept:"),
            nbformat.v4.new_code_cell(right["mixup_answer"]),
        ]
    )
    submissions["copied"] = with_copies(answered, release)
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
    for word in ("torch.maximum", "check.grade", "Reasons that fit", "jupytext", "BEGIN"):
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
        ("tries", (4, 4, 4)),
        ("cheating", (0, 0, 0)),
        ("copied", (4, 4, 4)),
        ("gaps", (4, 0, 0)),
    ],
)
def test_the_scores_are_right(course_folder, student, points):
    folder, _ = course_folder
    earned = scores(folder, "techniques")[student]
    assert tuple(earned[f"{n}_points"] for n in ("mixup", "schedule", "stopping")) == points
    assert {earned["report"], earned["explain"]} <= {None, 0}, "these are graded by hand"


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
    assert "took longer than" in feedback["hostile"]  # by processor time, or by a busy clock
    assert "Reasons that fit" not in "".join(feedback.values())


@pytest.mark.slow
def test_students_and_instructor_are_told_which_copy_of_a_cell_is_graded(course_folder):
    folder, _ = course_folder
    graded = nbformat.read(folder / "autograded/copied/techniques/techniques.ipynb", as_version=4)
    said = {cell.source.partition("\n")[0]: cell for cell in graded.cells}
    for grade_id, source in COPIES.items():
        note = f"A copy of the cell {grade_id}. Only the other one counts."
        copy = said.get(f"# {note}") or said[f"*{note}*"]
        assert "nbgrader" not in copy.metadata
        if grade_id not in LOCKED:  # there, the changed cell counts, and gets its source back
            assert (source or "NotImplementedError") in copy.source
    counting = [cell for cell in graded.cells if cell.metadata]
    sources = {cell.metadata.nbgrader["grade_id"]: cell.source for cell in counting}
    assert len(sources) == len(counting)
    assert sources["report"] == "A longer report."


@pytest.mark.slow
def test_the_points_of_each_question_are_exported(course_folder):
    folder, _ = course_folder
    exporter = "--exporter=cnnlab.course.autograde.PerQuestion"
    rc, log = nbgrader(folder, "export", exporter, "--to=questions.csv")
    assert rc == 0, log
    with (folder / "questions.csv").open(newline="") as stream:
        rows = {row["student"]: row for row in csv.DictReader(stream)}
    assert rows["right"]["techniques: mixup_points (of 4)"] == "4.0"
    assert rows["right"]["techniques: total"] == "12.0"
    assert rows["cheating"]["techniques: total"] == "0.0"


@pytest.mark.slow
def test_the_misconceptions_of_a_class_are_counted(course_folder, capsys):
    folder, _ = course_folder
    assert cli.main(["items", "techniques", str(folder)]) == 0
    printed = capsys.readouterr().out
    with (folder / "items" / "techniques.csv").open(newline="") as stream:
        rows = {(row["question"], row["outcome"]): row for row in csv.DictReader(stream)}
    students = len(list((folder / "autograded").glob("*/techniques")))
    key = exercises(folder / "keys" / "techniques.py")
    smaller = next(m.says for m in key["mixup"].mistakes.values() if "smaller weight" in m.says)
    assert rows["mixup", smaller] == {
        "question": "mixup",
        "outcome": smaller,
        "submissions": "1",
        "of": str(students),
    }
    assert int(rows["mixup", "correct"]["submissions"]) >= 2
    assert int(rows["mixup", "not written"]["submissions"]) >= 1
    for question in key:
        shown = [int(row["submissions"]) for (q, _), row in rows.items() if q == question]
        assert sum(shown) >= students
    assert f"mixup ({students} submissions)" in printed
    assert f"{100 / students:.0f} %  an image with λ" in printed
    assert (folder / "items" / "techniques.svg").read_text().startswith("<?xml")


@pytest.mark.slow
def test_the_page_for_teachers_leads_to_grades(tmp_path, monkeypatch):
    page = (course.root() / "chapters/instructor/own_exercise.md").read_text("utf-8")
    key, facts, *_, script = re.findall(r"(?s)```python\n(.*?)```", page)
    own = tmp_path / "assignments" / "week_3"
    own.mkdir(parents=True)
    observed = '    return {f"your mean of {values}": attempt(values)}\n'
    (own / "key.py").write_text(key.replace(observed, facts))
    (own / "week_3.py").write_text(script)
    monkeypatch.setattr(assignments.notebooks, "workplace", lambda: tmp_path)
    folder = tmp_path / "my-course"
    assert cli.main(["assignment", "week_3", "--into", str(folder)]) == 0
    rc, log = nbgrader(folder, "generate_assignment", "week_3")
    assert rc == 0, log
    release = nbformat.read(folder / "release/week_3/week_3.ipynb", as_version=4)
    for student, function in (("right", "sum(values) / len(values)"), ("wrong", "sum(values)")):
        place = folder / "submitted" / student / "week_3"
        place.mkdir(parents=True)
        written = {"mean_answer": f"def mean(values):\n    return {function}", "why": "Outliers."}
        nbformat.write(edited(release, answers(written)), place / "week_3.ipynb")
    (place / "timestamp.txt").write_text("2027-01-05 12:00:00 UTC")
    nbformat.write(
        edited(release, answers(written | {"mean_points": "pass"})), place / "week_3.ipynb"
    )
    rc, log = nbgrader(folder, "db", "assignment", "add", "week_3", "--duedate=2027-01-04 12:00")
    assert rc == 0, log
    rc, log = nbgrader(folder, "autograde", "week_3")
    assert rc == 0, log
    assert log.count("mean_points was changed") == 1, "an untouched test cell isn't reported"
    assert "checksum" not in log
    earned = scores(folder, "week_3")
    assert {student: grades["mean_points"] for student, grades in earned.items()} == {
        "right": 4,
        "wrong": 0,
    }
    assert earned["right"]["why"] is None  # a person reads it
    with Gradebook(f"sqlite:///{folder}/gradebook.db") as gradebook:
        gradebook.find_grade("why", "week_3", "week_3", "wrong").manual_score = 3
        gradebook.db.commit()
    rc, log = nbgrader(folder, "generate_feedback", "week_3")
    assert rc == 0, log
    with Gradebook(f"sqlite:///{folder}/gradebook.db") as gradebook:
        penalty = gradebook.find_submission("week_3", "wrong").late_submission_penalty
    assert penalty == pytest.approx(0.3), "a tenth of the points that were given by hand, too"


@pytest.mark.slow
def test_fine_tuning_is_graded_on_new_signs(tmp_path):
    folder = assignments.write("few_labels", tmp_path / "f", student_seed=3)
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
