"""Test what the README claims. `python tests/test_readme.py` draws its figure again."""

import re
from pathlib import Path

import pandas as pd
import pytest

from cnnlab import plots
from cnnlab.course import readme, replicate
from cnnlab.experiment import Results


ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
FIGURE_PATH = ROOT / "chapters" / "pictures" / "labels.png"


def figure():
    """Return the figure of chapter 9 with three of its lines."""
    results = Results.load(ROOT / "chapters" / "studies" / "09_labels.csv")
    summary = results.table()[["mean", "low", "high"]]
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
        xlabel="labelled digits per class",
        ylabel="test accuracy",
        message=(
            "With few labels, frozen features from another task win; with many, training from "
            "scratch catches up."
        ),
        log="x",
    )


@pytest.mark.slow
def test_the_example_runs_unchanged_and_reaches_its_accuracy(capsys):
    (code,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    exec(code, {})  # noqa: S102 - our own code
    accuracy = float(re.search(r"'acc': ([\d.]+)", capsys.readouterr().out)[1])
    assert accuracy > 0.88  # eight standard deviations below the three runs in the README


def test_the_alt_text_of_the_figure_has_the_stored_numbers():
    (alt, path) = re.findall(r"!\[(.*?)\]\((.*?)\)", README, flags=re.DOTALL)[0]
    assert ROOT / path == FIGURE_PATH
    assert FIGURE_PATH.read_bytes().startswith(b"\x89PNG")
    assert " ".join(alt.split()) == figure().alt


def test_the_counts_in_the_readme_are_up_to_date():
    assert readme.counted(README) == README, "run `make fix`, which writes the counts"
    with pytest.raises(ValueError, match="doesn't say how many chapters"):
        readme.counted(README.replace("chapters", "pages"))


def test_the_sentence_about_the_replication_is_that_of_its_table():
    report = pd.read_csv(ROOT / "chapters" / "studies" / "replication.csv")
    repeated, studies = report.study.nunique(), len(replicate.scripts())
    which = f"all {studies}" if repeated == studies else f"{repeated} of the {studies}"
    said = " ".join(README.split())
    assert f"**{replicate.summary(report)}** when {which} studies" in said


def test_every_linked_file_exists():
    for path in re.findall(r"\]\((?!http|#)(.*?)\)", README):
        assert (ROOT / path).exists(), path
    headings = {
        re.sub(r"[^\w -]", "", title).lower().replace(" ", "-")
        for title in re.findall(r"(?m)^##+ (.*)", README)
    }
    assert set(re.findall(r"\]\(#(.*?)\)", README)) <= headings


if __name__ == "__main__":
    figure().save(FIGURE_PATH, dpi=110)
