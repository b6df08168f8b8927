"""The README keeps its word. `python tests/test_readme.py` draws its picture anew."""

import re
from pathlib import Path

import pytest

from cnnlab import check, plots
from cnnlab.clinic import FAULTS
from cnnlab.experiment import Results


ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
PICTURE = ROOT / "chapters" / "pictures" / "labels.png"


def picture():
    """The figure of chapter 9 with three of its lines."""
    stored = Results.load(ROOT / "chapters" / "studies" / "09_labels.csv")
    summary = stored.table()[["mean", "low", "high"]]
    counts = (5, 10, 20, 50, 96)
    arms = {
        "pretrained on letters, frozen": "logistic regression",
        "from scratch": "scratch",
        "frozen, never trained": "random features",
    }
    return plots.trend(
        counts,
        {
            name: summary.loc[[f"digits, {n}: {arm}" for n in counts]].to_numpy().tolist()
            for name, arm in arms.items()
        },
        xlabel="labelled digits a class",
        ylabel="test accuracy",
        message="With few labels frozen features of another task win, "
        "with many a network from scratch.",
        log="x",
    )


@pytest.mark.slow
def test_the_example_runs_as_it_stands_and_reaches_what_it_says(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    exec(code, {})  # noqa: S102 - it is ours
    accuracy = float(re.search(r"'acc': ([\d.]+)", capsys.readouterr().out)[1])
    assert accuracy > 0.88  # eight standard deviations below the three runs it quotes


def test_the_picture_is_described_by_the_numbers_it_was_made_from():
    (alt, path) = re.findall(r"!\[(.*?)\]\((.*?)\)", README, flags=re.DOTALL)[0]
    assert ROOT / path == PICTURE
    assert PICTURE.read_bytes().startswith(b"\x89PNG")
    assert " ".join(alt.split()) == picture().alt


def test_the_counts_it_names_are_those_of_today():
    known = sum(len(exercise.mistakes) for exercise in check.EXERCISES.values())
    assert len(check.EXERCISES) == 40
    assert "Forty exercises" in README
    assert f"{known} known mistakes" in README
    assert len(FAULTS) == 12
    assert "twelve broken runs" in README


def test_every_file_it_points_at_is_there():
    for path in re.findall(r"\]\((?!http)(.*?)\)", README):
        assert (ROOT / path).exists(), path


if __name__ == "__main__":
    picture().save(PICTURE, dpi=110)
