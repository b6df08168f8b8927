import ast
import os
import re
import runpy
import signal
import subprocess
import sys
import time
from functools import cache
from pathlib import Path

import psutil
import pytest

from cnnlab import emergency
from cnnlab.course.emergency import process, records
from cnnlab.course.emergency.causes import CAUSES
from cnnlab.course.emergency.examination import Unfit, examine, examine_twin, hidden_seeds
from cnnlab.course.emergency.records import edited, healthy_script, record, sick_script


NUMBERS = records.NUMBERS


# --- every patient --------------------------------------------------------------------------------


@cache
def twin_run(n, seed):
    return examine_twin(n, [seed])


def twin_facts(n, seeds):
    runs = [twin_run(n, seed) for seed in hidden_seeds(n)[:seeds]]
    return {name: sum(run[name] for run in runs) / seeds for name in runs[0]}


def judge(n, script, expected):
    """Judge a script by its first hidden seed, and by all of them if that isn't as expected."""
    for seeds in (1, record(n).seeds):
        facts = examine(n, script, hidden_seeds(n)[:seeds])
        fixed, says = record(n).judge(facts, twin_facts(n, seeds))
        if fixed == expected:
            break
    return fixed, says


def variants(kind, part):
    return [(n, name) for n in NUMBERS[part::2] for name in getattr(record(n), kind)]


@pytest.mark.slow
class Patients:
    """What is true of every patient; one half each, because a worker of pytest runs a class."""

    def test_the_sick_script_is_refused_and_its_twin_passes(self, n):
        twin = twin_facts(n, record(n).seeds)
        fixed, says = record(n).judge(examine(n, sick_script(n), hidden_seeds(n)), twin)
        assert not fixed, says
        assert len(says) < 160
        assert all(rule.holds(twin, twin) for rule in record(n).rules), twin

    def test_what_only_hides_the_symptom_is_refused(self, n, wrong):
        fixed, says = judge(n, edited(sick_script(n), record(n).wrong[wrong]), False)
        assert not fixed, says

    def test_what_cures_in_another_way_passes(self, n, right):
        fixed, says = judge(n, edited(sick_script(n), record(n).right[right]), True)
        assert fixed, says

    def test_the_script_runs_as_a_student_runs_it(self, n, tmp_path, capsys, monkeypatch):
        monkeypatch.chdir(tmp_path)
        path = emergency.admit(n)
        capsys.readouterr()
        runpy.run_path(str(path), run_name="__main__")
        assert re.search(r"\d", capsys.readouterr().out)
        assert [file.name for file in tmp_path.iterdir()] == ["emergency"]


class TestOddPatients(Patients):
    part = 0


class TestEvenPatients(Patients):
    part = 1


def pytest_generate_tests(metafunc):
    """Give the tests of `Patients` the patients of their half."""
    part = getattr(metafunc.cls, "part", None)
    if part is None:
        return
    for kind in ("wrong", "right"):
        if kind in metafunc.fixturenames:
            metafunc.parametrize(("n", kind), variants(kind, part))
            return
    metafunc.parametrize("n", NUMBERS[part::2])


@pytest.mark.parametrize("n", NUMBERS)
def test_a_patient_is_a_short_script_of_torch_without_a_word_about_its_cause(n):
    script, chart = sick_script(n), record(n)
    twin = healthy_script(n)
    for lines in map(str.splitlines, (script, twin)):
        assert 30 <= len(lines) <= 50, f"{len(lines)} lines, blank ones included"
    compile(twin, "<twin>", "exec")
    assert 'if __name__ == "__main__":' in script
    imported = {
        alias.name.split(".")[0] if isinstance(node, ast.Import) else node.module.split(".")[0]
        for node in ast.walk(ast.parse(script))
        if isinstance(node, ast.Import | ast.ImportFrom)
        for alias in node.names
    }
    standard = {"copy", "math", "random"}
    assert imported <= {"torch", "torchvision", "numpy", "sklearn", "cnnlab"} | standard
    told = f"{chart.complaint} {chart.contract}".casefold()
    assert chart.cause not in told
    assert chart.cause in CAUSES
    assert len(chart.complaint) <= 120


@pytest.mark.parametrize("n", NUMBERS)
def test_a_record_has_repairs_and_wrong_and_other_right_ones(n):
    chart = record(n)
    assert len(chart.wrong) >= 2
    assert len(chart.right) >= 1
    every = [chart.repairs, *chart.wrong.values(), *chart.right.values()]
    scripts = [edited(sick_script(n), edits) for edits in every]
    assert len({ast.dump(ast.parse(script)) for script in scripts}) == len(every)


def test_the_patients_are_numbered_without_gaps_and_differ_in_cause_and_complaint():
    assert tuple(range(1, len(NUMBERS) + 1)) == NUMBERS
    assert len({record(n).cause for n in NUMBERS}) == len(NUMBERS)
    assert len({record(n).complaint for n in NUMBERS}) == len(NUMBERS)
    assert len(CAUSES) > len(NUMBERS)


def test_no_hidden_seed_is_in_a_script():
    for n in NUMBERS:
        assert not set(map(str, hidden_seeds(n))) & set(re.findall(r"\d+", sick_script(n)))
        assert len(set(hidden_seeds(n)) | set(hidden_seeds(n, 1))) == 2 * record(n).seeds


# --- what a student meets -------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path / "emergency"


def write(n, script):
    path = Path("emergency") / f"patient_{n:02}.py"
    path.parent.mkdir(exist_ok=True)
    path.write_text(script)


@pytest.mark.slow
def test_from_admission_to_discharge(folder, capsys):
    assert "waiting" in repr(emergency.ward())
    path = emergency.admit(1)
    assert path == Path("emergency/patient_01.py")
    assert emergency.patient(1).complaint[:30] in path.read_text()
    assert "admitted" in repr(emergency.ward())

    verdict = emergency.discharge(1, "softmax before crossentropy")
    assert (verdict.fixed, verdict.named, verdict.passed) == (False, False, False)
    assert re.search(r"new images it gets 0\.\d\d, a healthy one gets 0\.9\d", str(verdict))
    assert "sum the outputs" in str(verdict)
    assert "zero_grad" not in str(verdict)
    assert emergency.twin(1).startswith("First repair your own")

    path.write_text(
        path.read_text().replace("optimizer.step()", "optimizer.step(); model.zero_grad()")
    )
    verdict = emergency.discharge(1)
    assert (verdict.fixed, verdict.named, verdict.passed) == (True, None, False)
    assert "CAUSES" in str(verdict)
    assert "zero_grad" not in str(verdict)
    assert emergency.twin(1).startswith("First repair your own and name the cause")
    verdict = emergency.discharge(1, "Missing zero_grad")
    assert verdict.passed
    assert "emergency.twin(1)" in str(verdict)
    assert emergency.twin(1) == healthy_script(1)
    assert "discharged, try 2" in repr(emergency.ward())
    assert "discharged, try 2" in emergency.ward()._repr_html_()
    assert sorted(file.name for file in folder.iterdir()) == ["patient_01.py", "ward.json"]
    assert capsys.readouterr().out == ""


def test_a_file_that_exists_is_never_overwritten(folder, capsys):
    write(2, "mine")
    assert emergency.admit(2).read_text() == "mine"
    assert "stays as it is" in capsys.readouterr().out


def test_a_missing_file_is_explained_at_once(folder):
    verdict = emergency.discharge(2)
    assert str(verdict) == (
        "✘ patient 2: there is no emergency/patient_02.py. emergency.admit(2) writes it."
    )


@pytest.mark.parametrize("n", [0, 999, "1", None])
def test_an_unknown_number_names_the_known_ones(n):
    for function in (emergency.patient, emergency.admit, emergency.discharge, emergency.twin):
        with pytest.raises(ValueError, match=r"numbered 1 to \d+"):
            function(n)


def test_an_unknown_cause_is_not_a_wrong_one(folder):
    named, says = emergency._judge_cause(1, "mising zero grad")
    assert named is None
    assert "Did you mean 'missing zero_grad'?" in says
    assert emergency._judge_cause(1, ...)[0] is None


NO_PREDICT = "import torch\ndef train(seed):\n    return torch.nn.Linear(1, 1), 0.5\n"


def test_causes_tried_in_turn_are_counted_and_the_twin_waits_for_the_second(folder, monkeypatch):
    report = process.Report({}, {})
    monkeypatch.setattr(emergency, "run_file", lambda *_: report)
    monkeypatch.setattr(records.Record, "judge", lambda *_: (True, "it is healthy."))
    write(9, "repaired")
    first = emergency.discharge(9, "overfitting")
    assert (first.fixed, first.named) == (True, False)
    assert "emergency.twin" not in str(first)
    assert "measure first" not in str(first)
    assert emergency.twin(9).startswith("First repair")
    emergency.discharge(9, "Overfitting")  # the same one again is no new try
    assert emergency.twin(9).startswith("First repair")
    second = emergency.discharge(9, "network too small")
    assert "Of 2 causes so far none was right" in " ".join(str(second).split())
    assert "emergency.twin(9)" in str(second)
    assert emergency.twin(9) == healthy_script(9)
    assert " 9 fixed " in repr(emergency.ward())
    assert emergency.discharge(9, record(9).cause).passed
    emergency.discharge(9, "noisy labels")  # afterwards nothing is counted any more
    assert " 9 discharged, try 3 " in repr(emergency.ward())


BROKEN = {
    "a syntax error": ("def train(seed)\n", "syntax error in line 1: `def train(seed)`"),
    "an error": ("def train(seed):\n    return 1 / 0\n", "ZeroDivisionError in line 2, `return 1"),
    "an import": ("import nonsense\n", "ModuleNotFoundError in line 1, `import nonsense`"),
    "no train": ("model = None\n", "defines no function `train`"),
    "nothing returned": ("def train(seed):\n    pass\n", "returns nothing from train"),
    "an exit": ("def train(seed):\n    raise SystemExit(3)\n", "SystemExit in line 2"),
    "no predict": (NO_PREDICT, "defines no function `predict`"),
    "a wrong shape": (
        NO_PREDICT + "def predict(model, images):\n    return torch.zeros(3, 4)\n",
        "returns shape (3, 4) from predict(model, images)",
    ),
}


@pytest.mark.parametrize("kind", BROKEN)
def test_a_script_that_does_not_run_is_described_with_its_line(kind, folder):
    script, says = BROKEN[kind]
    with pytest.raises(Unfit, match=re.escape(says)):
        examine(1, script, hidden_seeds(1)[:1], "patient_01.py")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("def train(seed):\n    while True:\n        pass\n", "was stopped after"),
        ("import os\ndef train(seed):\n    os._exit(7)\n", "ended its process (exit status 7)"),
        ("def train(seed)\n", "your script has a syntax error in line 1"),
    ],
)
def test_the_process_of_a_script_ends_and_says_why(folder, monkeypatch, script, says):
    monkeypatch.setattr(process, "PATIENCE", 0)
    monkeypatch.setattr(process, "GRACE", 1.0)
    write(1, script)
    verdict = emergency.discharge(1, "missing zero_grad")
    assert (verdict.fixed, verdict.named) == (False, True)
    assert says in " ".join(str(verdict).split())


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="Windows has no signals for one process")
@pytest.mark.parametrize("name", ["SIGINT", "SIGKILL"])
def test_the_process_of_the_script_ends_when_its_parent_is_stopped_or_killed(folder, name):
    write(1, "import time\ndef train(seed):\n    time.sleep(600)\n")
    call = (  # a shell that runs pytest in the background ignores SIGINT, and children inherit it
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "from cnnlab import emergency; emergency.discharge(1)"
    )
    with subprocess.Popen([sys.executable, "-c", call], stderr=subprocess.PIPE) as student:
        children, deadline = [], time.monotonic() + 240
        while not children and time.monotonic() < deadline:
            time.sleep(0.2)
            children = psutil.Process(student.pid).children(recursive=True)
        student.send_signal(getattr(signal, name))
        told = student.communicate(timeout=60)[1]
    assert (b"KeyboardInterrupt" in told) == (name == "SIGINT")
    assert children
    deadline = time.monotonic() + 120  # it notices once torch is imported
    while any(map(lives, children)) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(map(lives, children))


def lives(child):
    try:
        return child.status() != psutil.STATUS_ZOMBIE  # dead, but nobody has waited for it
    except psutil.NoSuchProcess:
        return False
