"""The command that examines a teacher's own key."""

import re
import textwrap
from pathlib import Path

import pytest

from cnnlab import course
from cnnlab.check.grading import exercises
from cnnlab.course import cli


KEY = """
from cnnlab.check import Exercise, Mistake


def _observe(attempt, seed):
    return {f"your mean of [{seed}, 4, 6]": attempt([seed, 4, 6])}


def mean(values):
    return sum(values) / len(values)


def _sum(values):
    return sum(values)


def _middle(values):
    return sorted(values)[1]


def _largest(values):
    return max(values)


MEAN = Exercise(
    name="mean",
    task="`mean(values) -> float`",
    observe=_observe,
    answer=mean,
    praise="You divide by the number of values.",
    hint="what is the mean of [2, 2, 2]?",
    mistakes={
        "sum": Mistake(_sum, "you return the sum.", "what is the mean of [2, 2, 2]?"),
        "median": Mistake(_middle, "you return the median.", "which value is in the middle?"),
        "maximum": Mistake(_largest, "you return the maximum.", "which value is the largest?"),
    },
)
EXERCISES = {"mean": MEAN}
"""


@pytest.fixture
def examined(tmp_path, capsys):
    def examine(key, *options):
        path = tmp_path / "key.py"
        path.write_text(textwrap.dedent(key))
        return cli.main(["check-key", str(path), *options]), capsys.readouterr()

    return examine


def test_a_mistake_that_some_problem_cannot_tell_apart_is_found(examined):
    code, printed = examined(KEY, "--seeds", "5")  # the median of [6, 4, 6] is its maximum
    assert code == 1
    assert "'maximum' isn't recognised with seed 6: it's taken for 'median'" in printed.out
    assert "Add a fact that tells the two apart" in printed.out


def test_a_good_key_passes(examined):
    code, printed = examined(KEY.replace("[seed, 4, 6]", "[-20 - seed, 4, 6]"), "--seeds", "20")
    assert (code, printed.out) == (0, "✔ mean: the solution passes, every mistake is recognised\n")


def test_the_faults_of_a_key_are_said(examined):
    good = KEY.replace("[seed, 4, 6]", "[-20 - seed, 4, 6]")
    code, printed = examined(good.replace("return sorted(values)[1]", "return mean(values)"))
    assert code == 1
    assert "'median' isn't recognised with seed 0: it passes. Pose a problem" in printed.out
    _, printed = examined(good.replace("you return the median.", "you return the sum."))
    assert "'median' says the same as 'sum'" in printed.out
    _, printed = examined(good.replace("you return the sum.", "the sum"))
    assert "must be a sentence with a full stop, got 'the sum'" in printed.out
    _, printed = examined(good.replace('        "median": Mistake', '        # "median": Mistake'))
    assert "it knows 2 mistakes; write at least 3" in printed.out


def test_the_page_for_teachers_shows_what_happens(examined):
    page = Path(course.root(), "chapters", "instructor", "own_exercise.md").read_text("utf-8")
    key, more_facts = re.findall(r"(?s)```python\n(.*?)```", page)[:2]
    code, printed = examined(key)
    assert code == 1
    assert textwrap.indent(printed.out.rstrip(), "    ") in page
    code, printed = examined(
        key.replace('    return {f"your mean of {values}": attempt(values)}\n', more_facts)
    )
    assert code == 0, printed.out


def test_what_is_no_key_is_refused(examined, tmp_path, capsys):
    code, printed = examined("x = 1")
    assert code == 1
    assert "defines no dict `EXERCISES`" in printed.err
    assert cli.main(["check-key", str(tmp_path / "nope.py")]) == 1
    assert "there is no key at" in capsys.readouterr().err


def test_the_exercises_of_a_chapter_are_examined_in_their_own_file(capsys):
    path = course.root() / "cnnlab" / "course" / "check" / "chapter05.py"
    assert cli.main(["check-key", str(path), "--seeds", "2"]) == 0
    assert "warmup_cosine" in capsys.readouterr().out


def test_the_keys_of_the_course_pass(capsys):
    key = Path(course.root(), "assignments", "techniques", "key.py")
    assert cli.main(["check-key", str(key), "--seeds", "10"]) == 0
    assert capsys.readouterr().out.count("✔") == len(exercises(key))
