"""The emergency room as a graded assignment: what each kind of answer earns."""

import re
import sys

import jupytext
import pytest

from cnnlab import course
from cnnlab.check.grading import exercises
from cnnlab.check.remote import Remote
from cnnlab.emergency.records import drawn, edited, healthy_script, record, sick_script


NAME = "emergency"
SEED = 17
KEY = exercises(course.root() / "assignments" / NAME / "key.py")
N = drawn(SEED, 5)[0]


def judge(script, cause):
    return KEY["patient_1"].judge(lambda: (script, cause), SEED)


def test_the_seed_draws_five_different_patients():
    draws = {tuple(drawn(seed, 5)) for seed in range(20)}
    assert all(len(set(numbers)) == 5 for numbers in draws)
    assert len(draws) > 10
    assert list(KEY) == [f"patient_{i}" for i in range(1, 6)]


@pytest.mark.slow
def test_a_repair_earns_two_points_and_the_cause_one():
    cause = record(N).cause
    healthy, sick = healthy_script(N), sick_script(N)
    assert judge(healthy, cause).earned == 1.0
    assert judge(healthy, "overfitting").earned == 0.67
    assert judge(sick, cause.upper()).earned == 0.33
    hidden = edited(sick, next(iter(record(N).wrong.values())))
    assert judge(hidden, "no such cause").earned == 0.0


@pytest.mark.slow
@pytest.mark.parametrize(
    ("script", "says"),
    [
        ("import os\nos._exit(0)", "ended its process"),
        ("def train(seed):\n    open('/etc/passwd')", "is not allowed in an answer"),
        ("def train(seed):\n    while True:\n        pass", "took longer than 40 seconds"),
        ("def train(seed)", "syntax error in line 1"),
    ],
)
def test_a_script_that_harms_or_hangs_earns_nothing_for_the_repair(script, says):
    key = KEY["patient_1"]
    settings = key.judge.__func__.__globals__
    before, settings["SECONDS"] = settings["SECONDS"], 40.0
    try:
        outcome = judge(script, "overfitting")
    finally:
        settings["SECONDS"] = before
    assert outcome.earned == 0.0
    assert says in outcome.says


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="the command is a shell script")
def test_the_script_of_an_answer_runs_in_the_container_of_the_answer(tmp_path):
    command = tmp_path / "container"
    command.write_text(f'#!/bin/sh\necho started >> {tmp_path}/log\nexec {sys.executable} "$@"\n')
    command.chmod(0o755)
    source = f"def patient_1():\n    return 'def train(seed)', {record(N).cause!r}"
    with Remote("", source, "patient_1", command=[str(command)]) as attempt:
        assert KEY["patient_1"].judge(attempt, SEED).earned == 0.33
    assert (tmp_path / "log").read_text().split() == ["started", "started"]


def test_an_answer_of_another_kind_is_described():
    outcome = KEY["patient_1"].judge(lambda: "only a script", SEED)
    assert outcome.earned == 0.0
    assert "two strings" in outcome.says

    def unwritten():
        raise NotImplementedError

    assert "not written yet" in KEY["patient_1"].judge(unwritten, SEED).says


def test_every_answer_cell_of_the_source_returns_a_healthy_script(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = jupytext.read(course.root() / "assignments" / NAME / f"{NAME}.py").cells
    sources = {c.metadata.get("nbgrader", {}).get("grade_id"): c.source for c in cells}
    namespace = {}
    exec(sources["setup"].replace("SEED = 0", f"SEED = {SEED}"), namespace)  # noqa: S102 - the notebook is ours
    for i, n in enumerate(drawn(SEED, 5), 1):
        exec(sources[f"patient_{i}_answer"], namespace)  # noqa: S102
        assert namespace[f"patient_{i}"]() == (healthy_script(n), record(n).cause)
        solution = re.compile(r"### BEGIN SOLUTION.*### END SOLUTION", re.DOTALL)
        assert "healthy" not in solution.sub("", sources[f"patient_{i}_answer"])
