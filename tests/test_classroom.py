"""A class repeats a study together, with one seed per student."""

import re
import shutil

import numpy as np
import pytest

from cnnlab.course import classroom, cli, notebooks, replicate
from cnnlab.errors import CnnlabError
from cnnlab.study.experiment import Results


SCRIPT = """
import numpy as np
from cnnlab.experiment import Claim, Declaration, fresh_data

SEEDS, METRIC = 5, "test_acc"
DECLARATION = Declaration(
    "Is a better?",
    [Claim("a", ">", "b", by=0.01), Claim("a", "~", "c", by=0.05)],
    fresh_data(),
)


def run(seed, level):
    return {"test_acc": level + 0.01 * np.random.default_rng((seed, int(1000 * level))).normal()}


VARIANTS = {name: lambda s, x=x: run(s, x) for name, x in {"a": 0.8, "b": 0.7, "c": 0.801}.items()}
"""


@pytest.fixture
def studies(tmp_path, monkeypatch):
    """A course with one quick study, and its stored table."""
    folder = tmp_path / "course" / "chapters" / "studies"
    folder.mkdir(parents=True)
    script = folder / "01_quick.py"
    script.write_text(SCRIPT)
    monkeypatch.setattr(notebooks, "root", lambda: tmp_path / "course")
    with replicate.imported(script) as module:
        from cnnlab.study.experiment import study

        study(
            script,
            module.VARIANTS,
            module.SEEDS,
            metric=module.METRIC,
            declaration=module.DECLARATION,
        )
    return folder


@pytest.fixture
def tables(studies, tmp_path):
    """The tables of thirty students."""
    for seed in range(30):
        classroom.run("01_quick", seed, tmp_path / "room")
    return tmp_path / "room"


def test_the_seeds_of_a_class_are_new_and_each_run_can_be_repeated(studies, tmp_path):
    stored = Results.load(studies / "01_quick.csv")
    first = classroom.run("01_quick", 3, tmp_path)
    text = first.read_bytes()
    own = {row["seed"] for row in Results.load(first).rows}
    assert own == {classroom.FIRST_SEED + 3}
    assert not own & {row["seed"] for row in stored.rows}
    assert classroom.run("01_quick", 3, tmp_path).read_bytes() == text


def test_thirty_students_judge_the_claims_and_the_interval_shrinks(tables):
    merged = classroom.merge("01_quick", [tables])
    assert merged.n == 30
    assert [room.supported for _, room, _ in merged.claims()] == [True, True]
    claim = merged.claims()[0][0]
    steps = dict(merged.growing(claim))
    assert list(steps) == list(range(2, 31))
    widths = {n: d.high - d.low for n, d in steps.items()}
    assert widths[30] < widths[10] < widths[3]
    differences = [
        by_name["a"] - by_name["b"]
        for seed in range(30)
        if (
            by_name := {
                r["variant"]: r["test_acc"] for r in merged.room.rows[3 * seed : 3 * seed + 3]
            }
        )
    ]
    assert steps[30].mean == pytest.approx(np.mean(differences))


def test_the_command_lists_runs_and_merges(studies, tables, tmp_path, capsys):
    assert cli.main(["study"]) == 0
    assert re.search(r"01_quick +\d s for one seed", capsys.readouterr().out)
    assert cli.main(["study", "01_quick", "--seed", "77", "--out", str(tables)]) == 0
    assert "01_quick-77.csv" in capsys.readouterr().out
    out = tmp_path / "figure"
    assert cli.main(["study", "01_quick", "--merge", str(tables), "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert "31 students" in printed
    assert printed.count(": supported") == 4
    assert (out / "01_quick.svg").read_text().startswith("<?xml")


def test_the_alt_text_has_both_intervals(tables):
    alt = classroom.merge("01_quick", [tables]).plot().alt
    assert alt.startswith("01_quick, 30 students: their runs support 2 of 2 declared claims.")
    assert alt.count("The room: +0.1") == 1
    assert alt.count("stored: ") == 2


@pytest.mark.parametrize(
    "damage",
    [lambda text: text[:200], lambda text: "", lambda text: text.rpartition(",")[0] + ",good\n"],
    ids=["half", "empty", "edited"],
)
def test_a_damaged_table_is_named(damage, studies, tables):
    path = tables / "01_quick-4.csv"
    path.write_text(damage(path.read_text()))
    with pytest.raises(CnnlabError, match=r"01_quick-4.csv is damaged, .* ask for it once more"):
        classroom.merge("01_quick", [tables])


@pytest.mark.parametrize(
    ("pattern", "edited"),
    [(r"(?m)^a,(\d+),0", r"a,\1,1"), (r"(?m)^a(.*)\nb", r"b\1\na"), (r"(?m)^# digest.*\n", "")],
    ids=["number", "two variants swapped", "no digest"],
)
def test_an_edited_table_is_named(pattern, edited, studies, tables):
    path = tables / "01_quick-4.csv"
    text, n = re.subn(pattern, edited, path.read_text())
    assert n == 1
    path.write_text(text)
    with pytest.raises(CnnlabError, match=r"01_quick-4.csv isn't as .* don't fit its digest"):
        classroom.merge("01_quick", [tables])


def test_a_table_with_other_line_ends_is_merged(studies, tables):
    path = tables / "01_quick-4.csv"
    path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert classroom.merge("01_quick", [tables]).n == 30


def test_what_cannot_be_merged_is_refused(studies, tables, tmp_path, capsys):
    with pytest.raises(CnnlabError, match="tables of three or more students, and there are 2"):
        classroom.merge("01_quick", sorted(tables.glob("*.csv"))[:2])
    again = tmp_path / "again"
    again.mkdir()
    shutil.copy(tables / "01_quick-4.csv", again / "01_quick-my.csv")
    with pytest.raises(CnnlabError, match="have the same seed, 4"):
        classroom.merge("01_quick", [tables, again])
    other = tables / "01_quick-99.csv"
    other.write_text(
        (tables / "01_quick-4.csv").read_text().replace("Is a better?", "Is b better?")
    )
    with pytest.raises(CnnlabError, match="isn't a table of 01_quick"):
        classroom.merge("01_quick", [tables])
    assert cli.main(["study", "01_quick", "--seed", "-1"]) == 1
    assert "it must be 0 or more" in capsys.readouterr().err
    assert cli.main(["study", "01_quick"]) == 1
    assert "say --seed N" in capsys.readouterr().err
    assert cli.main(["study", "01_slow", "--seed", "1"]) == 1
    assert "there is no study '01_slow'" in capsys.readouterr().err
