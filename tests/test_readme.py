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


def measured(page, title):
    """Return the ratios of a table of the benchmarks, by the name of the row."""
    text = (ROOT / "benchmarks" / "results" / f"{page}.md").read_text(encoding="utf-8")
    table = text.partition(f"## {title}\n")[2].partition("\n## ")[0]
    rows = re.findall(r"(?m)^\| (.+?) \| ([\d.]+) \|", table)
    return {name.strip("*"): float(ratio) for name, ratio in rows}


def in_percent(*ratios):
    """Return what is added to the reference, to the nearest percent or the one beside it."""
    return pytest.approx([100 * (ratio - 1) for ratio in ratios], abs=1)


def numbers(sentence):
    return [float(n) for n in re.findall(r"\d+(?:\.\d+)?", sentence)]


def test_the_numbers_of_the_comparison_are_those_of_the_benchmarks():
    text = " ".join(README.partition("### How it compares")[2].split())
    at = "90 weights, 8 px, batches of 16"
    bare = measured("trainer", at)
    shown = measured("trainer", f"{at}: beside a loop with loss and accuracy")
    ours, peers = re.search(r"cnnlab adds (.*?)\. skorch and Accelerate add (.*?);", text).groups()
    assert numbers(ours) == in_percent(bare["cnnlab"], shown["cnnlab"])
    assert numbers(peers) == in_percent(bare["skorch"], bare["Accelerate"], bare["Ignite"])
    assert all(2.5 < bare[name] < 3.6 for name in ("fastai", "Keras on torch", "Lightning"))

    larger = measured("trainer", "19 thousand weights, 16 px, batches of 64")
    found = numbers(re.search(r"19 thousand weights, (.*?)\. ", text)[1])
    assert found[:1] == in_percent(larger["cnnlab"])
    assert found[:1] == in_percent(larger["skorch"])
    assert found[1:] == in_percent(
        larger["Accelerate"], larger["Ignite"], larger["fastai"], larger["Lightning"]
    )
    assert larger["fastai"] < larger["Keras on torch"] < larger["Lightning"]

    small = measured("augment", "32 px, full pipeline, batches of 128")
    found = numbers(re.search(r"At 32 pixels, cnnlab is (.*?) nearly", text)[1])
    one_by_one = small["torchvision v2, PIL, one by one"], small["albumentations, one by one"]
    assert found == pytest.approx(one_by_one, abs=0.5)
    assert 3.5 < small["kornia"] < 4
    assert 2 < small["fastai"] < 3

    large = measured("augment", "224 px, full pipeline, batches of 32")
    found = numbers(re.search(r"At 224 pixels it's (.*?) times", text)[1])
    of_torchvision = [large[f"torchvision v2, {kind}, one by one"] for kind in ("PIL", "tensors")]
    assert found == pytest.approx(of_torchvision, abs=0.1)
    assert [round(large["kornia"]), round(large["fastai"])] == [3, 3]
    assert 0.9 < large["albumentations, one by one"] < 1.1

    saved = numbers(re.search(r"\*Channels last\* saves (.*?) %", text)[1])
    page = (ROOT / "benchmarks" / "results" / "channels_last.md").read_text(encoding="utf-8")
    for network in ("small_resnet", "glyphnet"):
        ratio = float(re.search(rf"(?m)^\| {network} \| ([\d.]+) ", page)[1])
        assert saved == pytest.approx([100 * (1 - ratio)], abs=1)


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
