"""How the outcome of a check is shown: colour, progress, solutions, and the version it judges."""

import re

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config

from cnnlab import check
from cnnlab.check import EXERCISES, feedback
from cnnlab.check.core import Outcome
from cnnlab.course.check import chapter05, chapter06


@pytest.fixture(autouse=True)
def new_session(monkeypatch):
    monkeypatch.setattr(feedback, "_done", set())
    monkeypatch.delenv("CNNLAB_KEY", raising=False)


@pytest.fixture
def shell(monkeypatch, tmp_path):
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    shell = InteractiveShell(config=Config({"HistoryManager": {"enabled": False}}))
    monkeypatch.setattr(feedback, "_shell", lambda: shell)
    return shell


def run(shell, *cells):
    for cell in cells:
        shell.run_cell(cell, store_history=True)


# --- colour and progress --------------------------------------------------------------------------


def test_progress_counts_the_exercises_of_the_chapter_that_are_done_in_this_session(capsys):
    for attempt, done in (
        ("warmup_cosine", 1),
        ("range_test", 2),
        ("warmup_cosine", 2),
        ("match_units", 1),
    ):
        getattr(check, attempt)(EXERCISES[attempt].answer)
        n = len(chapter06.EXERCISES if attempt == "match_units" else chapter05.EXERCISES)
        assert f"{done} of {n} exercises in this chapter done." in capsys.readouterr().out
    check.extended_cosine(lambda step, steps, change, new_steps: 0.0)
    assert "done" not in capsys.readouterr().out


def test_a_notebook_gets_colour_and_the_same_as_plain_text(monkeypatch, capsys):
    shown = []
    monkeypatch.setattr(feedback, "_shell", lambda: type("Shell", (), {"kernel": 1, "user_ns": {}}))
    monkeypatch.setattr("IPython.display.display", lambda data, raw: shown.append(data))
    check.warmup_cosine(EXERCISES["warmup_cosine"].answer)
    check.warmup_cosine(lambda step, warmup, steps: "<b>")
    assert capsys.readouterr().out == ""
    passed, failed = shown
    assert passed["text/plain"].startswith("✔ warmup_cosine: correct.")
    assert "✔</span> warmup_cosine</b>: correct." in passed["text/html"]
    assert "success-color" in passed["text/html"]
    assert '<code>check.solution("warmup_cosine")</code>' in passed["text/html"]
    assert failed["text/plain"].startswith("✘ warmup_cosine:")
    assert "error-color" in failed["text/html"]
    assert "<i>Hint:</i>" in failed["text/html"]


def test_what_a_student_wrote_is_escaped_in_the_notebook():
    assert "&lt;b&gt;" in feedback._html(Outcome("f", False, "it is <b>."), [])


# --- solutions ------------------------------------------------------------------------------------


def test_a_solution_is_shown_only_after_a_pass_and_never_while_grading(capsys, monkeypatch):
    check.solution("warmup_cosine")
    assert "First write your own" in capsys.readouterr().out
    check.grade("warmup_cosine", EXERCISES["warmup_cosine"].answer)
    capsys.readouterr()
    check.solution("warmup_cosine")
    assert "First write your own" in capsys.readouterr().out
    check.warmup_cosine(EXERCISES["warmup_cosine"].answer)
    capsys.readouterr()
    monkeypatch.setenv("CNNLAB_KEY", "key.py")
    check.solution("warmup_cosine")
    assert "First write your own" in capsys.readouterr().out
    monkeypatch.delenv("CNNLAB_KEY")
    check.solution(EXERCISES["warmup_cosine"].answer)
    assert "def warmup_cosine" in capsys.readouterr().out
    check.solution("nonsense")
    assert "There is no exercise 'nonsense'. The exercises are to_batch" in (
        capsys.readouterr().out
    )


@pytest.mark.parametrize("name", EXERCISES)
def test_a_solution_is_complete(name):
    """Every helper of its own module that it uses is printed above it."""
    sources = feedback._sources(EXERCISES[name].answer)
    assert sources[-1].count(f"def {name}(") == 1
    module = vars(__import__(EXERCISES[name].answer.__module__, fromlist=["x"]))
    called = set(re.findall(r"\b(_\w+)\(", "\n".join(sources)))
    private = called.intersection(module)
    assert all(any(f"def {used}(" in source for source in sources) for used in private)


# --- the version that is judged -------------------------------------------------------------------


def test_nothing_is_said_about_the_version_that_ran_last(shell):
    run(shell, "def f(x):\n    return 1", "x = 1", "def f(x):\n    return 2  # better")
    assert feedback.version_note(shell.user_ns["f"], shell) == ""
    run(shell, "# the same again\n\ndef f(x):\n    return 2")
    assert feedback.version_note(shell.user_ns["f"], shell) == ""
    assert feedback.version_note(shell.user_ns["f"], None) == ""
    assert feedback.version_note(print, shell) == ""
    assert feedback.version_note(EXERCISES["warmup_cosine"].answer, shell) == ""


def test_a_newer_cell_with_a_syntax_error_is_named(shell, capsys):
    run(shell, "def warmup_cosine(step, warmup, steps):\n    return 1.0")
    run(shell, "def warmup_cosine(step, warmup, steps):\n    x = 1\n    return (1.0")
    capsys.readouterr()
    check.warmup_cosine(shell.user_ns["warmup_cosine"])
    assert (
        "This judges the version of `warmup_cosine` that last ran: your newest cell [2] has a "
        "syntax error in line 3." in capsys.readouterr().out
    )


def test_a_newer_cell_that_failed_above_the_function_is_named(shell, capsys):
    run(shell, "def f(x):\n    return 1", "y = undefined\n\ndef f(x):\n    return 2")
    assert feedback.version_note(shell.user_ns["f"], shell) == (
        "This judges the version of `f` that last ran: your newest cell [2] stopped before it "
        "defined `f`."
    )
    capsys.readouterr()
