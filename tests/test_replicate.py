"""A replication repeats studies with new seeds, goes on after an interrupt, and reports."""

from pathlib import Path

import pandas as pd
import pytest

from cnnlab import cli
from cnnlab.course import notebooks, replicate
from cnnlab.errors import CnnlabError
from cnnlab.experiment import Results


SCRIPT = '''
"""A study that takes no time."""
import os
from pathlib import Path
from common import offset
from cnnlab.experiment import Claim, Declaration, fresh_data, study

SEEDS = 5
METRIC = "valid_acc"
DECLARATION = Declaration(
    "Is a better than b?",
    [Claim("a", ">", "b", by=0.05), Claim("b", ">", "c"), Claim("c", ">", "a")],
    fresh_data(),
    fixed="everything",
)

def run(seed, mean):
    with Path(os.environ["CALLS"]).open("a") as calls:
        calls.write(f"{seed} ")
    if os.environ.get("STOP") == str(seed):
        raise KeyboardInterrupt
    return mean + offset + seed % 5 / 100

def lucky(seed):
    return run(seed, 0.6 if seed < 100 else 0.5)  # better than c with the first seeds only

VARIANTS = {"a": lambda seed: run(seed, 0.8), "b": lucky, "c": lambda seed: run(seed, 0.55)}

if __name__ == "__main__":
    study(__file__, VARIANTS, SEEDS, metric=METRIC, declaration=DECLARATION)
'''


@pytest.fixture
def course(tmp_path, monkeypatch):
    folder = tmp_path / "chapters" / "studies"
    folder.mkdir(parents=True)
    (folder / "common.py").write_text("offset = 0.01\n")
    (folder / "01_silent.py").write_text("VARIANTS = {}\n")
    (folder / "02_tiny.py").write_text(SCRIPT)
    monkeypatch.setattr(notebooks, "root", lambda: tmp_path)
    monkeypatch.setenv("CALLS", str(tmp_path / "calls"))
    with replicate.imported(folder / "02_tiny.py") as module:
        from cnnlab.experiment import study

        study(
            folder / "02_tiny.py",
            module.VARIANTS,
            module.SEEDS,
            metric=module.METRIC,
            declaration=module.DECLARATION,
        )
    (tmp_path / "calls").write_text("")
    return tmp_path


def calls(course):
    return (course / "calls").read_text().split()


def test_every_claim_is_compared_with_what_new_seeds_show(course):
    lines = []
    report = replicate.replicate(say=lines.append)
    assert set(calls(course)) == {str(seed) for seed in range(10_000, 10_005)}
    assert report["supported"].tolist() == [True, True, False]
    assert report["held"].tolist() == [True, False, False]
    assert lines == ["1/1 02_tiny: 1 of 2 claims held"]
    assert replicate.summary(report) == "1 of 2 claims held"
    assert report["first"][1] == "+0.050 (+0.050 to +0.050)"
    assert report["again"][1] == "-0.050 (-0.050 to -0.050)"
    text = replicate.markdown(report)
    assert "b > c in valid_acc | +0.050 (+0.050 to +0.050) | -0.050" in text
    assert "| **no** |" in text
    assert "wasn't supported at first" in text
    stored = pd.read_csv(course / "chapters" / "studies" / "replication.csv")
    assert stored["held"].tolist() == report["held"].tolist()
    # The table of the study itself stays as it was.
    first = Results.load(course / "chapters" / "studies" / "02_tiny.csv")
    assert {row["seed"] for row in first.rows} == set(range(5))


def test_an_interrupted_replication_goes_on_where_it_was(course, monkeypatch, capsys):
    monkeypatch.setenv("STOP", "10002")
    assert cli.main(["replicate", "02_tiny"]) == 130
    assert not (course / "chapters" / "studies" / "replication.csv").exists()
    done = calls(course)
    monkeypatch.delenv("STOP")
    assert cli.main(["replicate", "02_tiny"]) == 0
    assert "1 of 2 claims held" in capsys.readouterr().out
    assert sorted(calls(course)) == sorted([*done, *["10002", "10003", "10004"] * 3])
    assert cli.main(["replicate"]) == 0  # nothing is left to do
    assert len(calls(course)) == len(done) + 9


def test_a_study_whose_data_are_not_here_is_left_out(course):
    script = course / "chapters" / "studies" / "02_tiny.py"
    other = script.with_name("01_photos.py")
    other.write_text(
        SCRIPT.replace(
            "    with Path(os",
            '    raise FileNotFoundError("there are no photographs")\n    with Path(os',
        )
    )
    other.with_suffix(".csv").write_text(script.with_suffix(".csv").read_text())
    lines = []
    report = replicate.replicate(say=lines.append)
    assert lines == [
        "1/2 01_photos: left out, because there are no photographs",
        "2/2 02_tiny: 1 of 2 claims held",
    ]
    assert set(report["study"]) == {"02_tiny"}


def test_a_study_without_a_declaration_or_with_a_wrong_name_is_refused(course, capsys):
    with pytest.raises(FileNotFoundError, match=r"no study '03'; the studies are 01_silent, 02_t"):
        replicate.scripts(["03"])
    with pytest.raises(CnnlabError, match=r"01_silent\.py has no DECLARATION"):
        replicate.scripts(["01_silent"])
    assert cli.main(["replicate", "nothing"]) == 1
    assert "there is no study 'nothing'" in capsys.readouterr().err


def test_studies_with_modules_of_the_same_name_do_not_meet(tmp_path):
    for name, value in (("one", 1), ("two", 2)):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "common.py").write_text(f"value = {value}\n")
        (folder / "study.py").write_text("from common import value\n")
        with replicate.imported(folder / "study.py") as module:
            assert module.value == value


def test_the_stored_report_is_about_what_the_studies_declare_and_found():
    folder = Path(__file__).parents[1] / "chapters" / "studies"
    report = pd.read_csv(folder / "replication.csv")
    for name, rows in report.groupby("study"):
        stored = Results.load(folder / f"{name}.csv")
        for claim, (_, row) in zip(stored.declaration.claims, rows.iterrows(), strict=True):
            verdict = stored.on(claim.metric).verdict(claim.a, claim.relation, claim.b, claim.by)
            assert row["claim"] == verdict.claim
            assert row["supported"] == verdict.supported
            assert row["first"].startswith(f"{verdict.mean:+.3f} (")


def test_a_replication_of_another_declaration_is_not_reported(course, monkeypatch):
    """The new table of an earlier declaration is there, and repeating it is interrupted."""
    replicate.replicate(say=lambda line: None)
    report = course / "chapters" / "studies" / "replication.csv"
    report.unlink()
    script = course / "chapters" / "studies" / "02_tiny.py"
    script.write_text(script.read_text().replace('fixed="everything"', 'fixed="nothing"'))
    monkeypatch.setenv("STOP", "10002")
    with pytest.raises(KeyboardInterrupt):
        replicate.replicate(say=lambda line: None)
    assert not report.exists()
