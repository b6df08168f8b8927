"""The stored tables match their scripts: one run of each script is repeated."""

import itertools
from pathlib import Path

import pytest
import torch

from cnnlab.course.replicate import imported
from cnnlab.experiment import Results, compare, study


# Studies on CIFAR-10. Tests have no network, so one run is repeated only where its files are.
NEED_PHOTOGRAPHS = {
    "03_photos",
    "05_photos",
    "09_photo_pixels",
    "09_photos",
    "10_distortion",
    "10_photos",
    "11_photos",
    "13_capstone",
    "13_ladder",
}
FOLDER = Path(__file__).parents[1] / "chapters" / "studies"
SCRIPTS = sorted(path for path in FOLDER.glob("*.py") if path.name != "common.py")


def import_script(script):
    with imported(script) as module:
        return module


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_stored_table_has_the_variants_and_seeds_of_its_script_and_its_origin(script):
    module, stored = import_script(script), Results.load(script.with_suffix(".csv"))
    runs = {(row["variant"], row["seed"]) for row in stored.rows}
    assert runs == set(itertools.product(module.VARIANTS, range(module.SEEDS)))
    assert len(stored.rows) == len(runs)
    assert module.SEEDS >= 5
    assert stored.metric == module.METRIC
    assert {"made by", "versions", "date", "seconds"} <= set(stored.notes)


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_declaration_is_still_what_it_was_when_the_study_ran(script):
    module, stored = import_script(script), Results.load(script.with_suffix(".csv"))
    declaration = module.DECLARATION
    text = declaration.to_json(module.VARIANTS, module.SEEDS, module.METRIC)
    assert stored.notes["declaration"] == text, "declare first, then run: delete the table"
    assert declaration.question.endswith("?")
    assert 1 <= len(declaration.claims) <= 6
    assert declaration.unit is not None
    assert declaration.fixed
    for claim in declaration.claims:
        stored.on(claim.metric or stored.metric).verdict(claim.a, claim.relation, claim.b, claim.by)
        if claim.relation == "~" and "acc" in (claim.metric or stored.metric):
            assert claim.by <= 0.02, "a difference of two points matters in practice"


@pytest.mark.slow
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_a_repeated_run_gives_the_stored_result(script):
    module, stored = import_script(script), Results.load(script.with_suffix(".csv"))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the scripts, because the order of a sum affects its last bits
    try:
        name = next(iter(module.VARIANTS))
        result = module.VARIANTS[name](0)
    except FileNotFoundError as error:
        assert script.stem in NEED_PHOTOGRAPHS
        pytest.skip(str(error))
    finally:
        torch.set_num_threads(threads)
    metric = result[module.METRIC] if isinstance(result, dict) else result
    std = stored.values(name).std(ddof=1)
    # On the same kind of machine the result is identical. On others, rounding errors grow over the
    # steps until they matter as much as another seed.
    assert metric == pytest.approx(stored.values(name)[0], abs=max(0.02, 4 * std))


def test_a_study_is_saved_and_loaded_with_its_notes(tmp_path):
    script = tmp_path / "mine.py"
    variants = {
        "a": lambda seed: {"valid_acc": 0.5 + seed / 7, "loss": 1.0},
        "b": lambda seed: {"valid_acc": 0.25, "loss": 2},
    }
    results = study(script, variants, 3)
    loaded = Results.load(tmp_path / "mine.csv")
    assert loaded.difference("a", "b") == pytest.approx(results.difference("a", "b"), abs=1e-5)
    assert [row["loss"] for row in loaded.rows] == [1.0, 2.0] * 3
    assert loaded.notes["made by"] == "mine.py"
    assert "torch" in loaded.notes["versions"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.csv"]


def test_a_table_without_its_metric_is_refused(tmp_path):
    (tmp_path / "other.csv").write_text("variant,seed\n")
    with pytest.raises(ValueError, match=r"other\.csv has no line '# metric"):
        Results.load(tmp_path / "other.csv")


def test_a_plot_shows_the_stored_study_beside_the_live_one():
    live = compare({"a": lambda seed: 0.5 + seed / 10, "b": lambda seed: 0.4 + seed / 10}, 2)
    stored = compare({"a": lambda seed: 0.7 + seed / 10, "c": lambda seed: 0.1 + seed / 10}, 2)
    alt = live.plot(stored).alt
    assert "a in the stored study 0.750" in alt
    assert "c" not in alt.partition("stored study")[2]
    assert "stored" not in live.plot().alt
