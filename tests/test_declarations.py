"""Claims that were declared before the run: corrected, matched, stored; and what a table says."""

from math import sqrt

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy import stats

from cnnlab.errors import ClaimNotSupported
from cnnlab.experiment import (
    Claim,
    Declaration,
    Results,
    budget,
    compare,
    compare_declared,
    fixed_data,
    fresh_data,
    splits,
    study,
)
from cnnlab.limits import limits
from cnnlab.study.intervals import holm, p_value, t_interval


def noisy(mean, scale=0.01, metric="test_acc"):
    """A variant whose result is normally distributed over the seeds."""
    key = int(1e6 * mean) + int(1e9 * scale)
    return lambda seed: {metric: mean + scale * np.random.default_rng([seed, key]).normal()}


VARIANTS = {"a": noisy(0.80), "b": noisy(0.70), "c": noisy(0.699)}
QUESTION = Declaration(
    "Is a better than the others?",
    claims=[Claim("a", ">", "b", by=0.05), Claim("c", "<", "a"), Claim("b", "~", "c", by=0.02)],
    unit=fresh_data(),
    fixed="everything else",
)


# --- intervals and corrections --------------------------------------------------------------------


@given(st.lists(st.floats(-1, 1), min_size=3, max_size=12), st.floats(-0.5, 0.5))
def test_a_p_value_below_005_means_that_the_whole_interval_agrees(values, by):
    values = np.array(values)
    by = abs(by)
    _, low, high = t_interval(values)
    assume(np.ptp(values) > 1e-6)
    for relation, agrees, distance in (
        (">", low > by, abs(low - by)),
        ("<", high < -by, abs(high + by)),
        ("~", -by < low and high < by, min(abs(low + by), abs(by - high))),
    ):
        if distance > 1e-9:
            assert (p_value(values, relation, by) < 0.05) == agrees


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_rejects_what_its_step_down_procedure_rejects(p_values):
    rejected, remaining = set(), len(p_values)
    for i in sorted(range(len(p_values)), key=lambda i: p_values[i]):
        if p_values[i] * remaining > 0.05:
            break
        rejected.add(i)
        remaining -= 1
    assert {i for i, p in enumerate(holm(p_values)) if p <= 0.05} == rejected


def test_differences_that_are_equal_but_for_rounding_have_no_error():
    differences = np.array([0.3 - 0.2, 0.2 - 0.1, 0.1])
    assert p_value(differences, ">", 0.1 - 1e-15) == 1.0  # the margin is theirs, but for rounding
    assert p_value(differences, ">", 0.05) == 0.0


def test_holm_keeps_the_errors_of_a_family_of_claims_at_5_percent():
    rng = np.random.default_rng(0)
    errors = {"holm": 0, "none": 0}
    for _ in range(1500):
        p_values = [p_value(rng.normal(size=6), ">", 0.0) for _ in range(8)]
        errors["holm"] += min(holm(p_values)) < 0.05
        errors["none"] += min(p_values) < 0.05
    assert errors["none"] / 1500 > 0.12  # eight claims, 2.5 % on this side each
    assert errors["holm"] / 1500 < 0.04


def test_splits_of_one_set_have_the_interval_of_nadeau_and_bengio():
    values = np.array([0.91, 0.93, 0.90, 0.94, 0.92, 0.95])
    mean, low, high = t_interval(values, overlap=0.25)
    error = values.std(ddof=1) * sqrt(1 / 6 + 0.25)
    half = stats.t.ppf(0.975, 5) * error
    assert (mean, low, high) == pytest.approx((values.mean(), mean - half, mean + half))


def test_the_corrected_interval_covers_the_truth_where_the_usual_one_does_not():
    """The truth is the mean of a population, and each interval comes from splits of one sample."""
    rng = np.random.default_rng(0)
    covered = {0.0: 0, 0.25: 0}
    for _ in range(400):
        sample = rng.normal(size=250)
        values = np.array([rng.permutation(sample)[200:].mean() for _ in range(10)])
        for overlap in covered:
            _, low, high = t_interval(values, overlap)
            covered[overlap] += low <= 0 <= high
    assert covered[0.0] / 400 < 0.83
    assert covered[0.25] / 400 > 0.91


def test_the_interval_of_an_accuracy_stays_between_0_and_1():
    values = [0.999, 0.95, 1.0, 0.9, 1.0]
    rows = [{"variant": "a", "seed": i, "test_acc": v, "loss": v} for i, v in enumerate(values)]
    assert Results(rows, "test_acc").table().loc["a", "high"] == 1
    assert Results(rows, "loss").table().loc["a", "high"] > 1


def test_fewer_than_five_runs_are_shown_without_an_interval():
    few, enough = compare(VARIANTS, 4), compare(VARIANTS, 5)
    assert few.table()[["low", "high"]].isna().all().all()
    runs = " ".join(f"{value:.3f}" for value in few.values("a"))
    for text in (repr(few), few._repr_html_()):
        assert runs in text
        assert "low" not in text
    assert "low" in repr(enough)
    assert enough.table()["low"].notna().all()
    sentence = str(few.claim("a", ">", "b"))
    assert "4 runs: +" in sentence
    assert "CI" not in sentence
    assert "95 % CI" in str(enough.claim("a", ">", "b"))


# --- declared and exploratory claims --------------------------------------------------------------


def test_a_declared_claim_is_corrected_and_another_one_is_exploratory():
    results = compare_declared(QUESTION, VARIANTS, 5)
    declared = results.claim("a", ">", "b", by=0.05)
    assert declared.declared
    assert declared.n_claims == 3
    assert "declared before the run, p" in str(declared)
    assert "after Holm's correction for 3 claims: supported" in str(declared)
    for other in (("a", ">", "b"), ("a", ">", "b", 0.06), ("a", ">", "c", 0.01)):
        exploratory = results.claim(*other)
        assert not exploratory.declared
        assert "exploratory: supported" in str(exploratory)
    assert not compare(VARIANTS, 5).claim("a", ">", "b", by=0.05).declared


def test_a_claim_may_be_written_from_either_side():
    results = compare_declared(QUESTION, VARIANTS, 5)
    assert results.claim("a", ">", "c").declared
    assert results.claim("c", "~", "b", by=0.02).declared
    assert results.claim("b", "<", "a", by=0.05).declared
    assert not results.on("test_acc").claim("b", "<", "a", by=0.04).declared


def test_a_claim_that_only_the_uncorrected_interval_supports_is_not_supported():
    differences = np.array([0.014, 0.030, 0.006, 0.026, 0.008])
    rows = [
        {"variant": name, "seed": seed, "test_acc": 0.5 + factor * difference}
        for name, factor in (("a", 1), ("b", 0), ("c", 2))
        for seed, difference in enumerate(differences)
    ]
    claims = [Claim("a", ">", "b"), Claim("c", ">", "b"), Claim("c", ">", "a")]
    results = Results(rows, "test_acc")
    assert results.claim("a", ">", "b").supported
    results.declaration = Declaration("?", claims, fresh_data()).bind("abc", "test_acc")
    with pytest.raises(ClaimNotSupported, match=r"declared before .* for 3 claims: not"):
        results.claim("a", ">", "b")


def test_the_correction_counts_the_claims_about_other_metrics():
    variants = {
        "a": lambda seed: {"acc": 0.8 + seed / 100, "loss": 0.5 - seed / 90},
        "b": lambda seed: {"acc": 0.7 + seed / 110, "loss": 0.7 - seed / 100},
    }
    question = Declaration(
        "?", [Claim("a", ">", "b"), Claim("a", "<", "b", metric="loss")], fresh_data()
    )
    results = compare_declared(question, variants, 5, metric="acc")
    assert results.claim("a", ">", "b").n_claims == 2
    in_loss = results.on("loss").claim("a", "<", "b")
    assert in_loss.declared
    assert in_loss.n_claims == 2


@pytest.mark.parametrize(
    ("claim", "sentence"),
    [
        (("a", ">", "b"), "a beats b in test accuracy by 10.0 points (95 % CI 10.0 to 10.0)"),
        (("a", ">", "b", 0.05), "(95 % CI 10.0 to 10.0); claimed: more than 5 points"),
        (("b", "<", "a"), "b has a lower test accuracy than a, by 10.0 points"),
        (
            ("b", ">", "c", -0.01),
            "b > c, or worse by less than 1 point, in test accuracy: +0.0 points (95 % CI",
        ),
        (
            ("b", "~", "c", 0.02),
            "b and c differ by less than 2 points in test accuracy: +0",
        ),
    ],
)
def test_a_claim_prints_as_a_sentence(claim, sentence):
    rows = [
        {"variant": name, "seed": i, "test_acc": value + i / 64}
        for name, value in (("a", 0.6), ("b", 0.5), ("c", 0.5))
        for i in range(5)
    ]
    assert sentence in str(Results(rows, "test_acc").claim(*claim))


def test_a_claim_that_is_not_supported_prints_the_difference_as_it_is():
    rows = [
        {"variant": name, "seed": i, "test_acc": 0.5 + sign * i / 100}
        for name, sign in (("a", 1), ("b", 0))
        for i in range(5)
    ]
    results = Results(rows, "test_acc")
    assert str(results.verdict("a", "<", "b", by=0.01)) == (
        "a < b by more than 1 point in test accuracy? "
        "The difference is +2.0 points (95 % CI 0.0 to 4.0)\n  exploratory: not supported"
    )
    assert "a and b may differ by more than 1.5 points in test accuracy: +2.0 points" in str(
        results.verdict("a", "~", "b", by=0.015)
    )


def test_a_claim_about_another_metric_says_which_is_higher():
    rows = [
        {"variant": name, "seed": i, "valid_loss": value + i / 64}
        for name, value in (("a", 1.5), ("b", 1.25))
        for i in range(5)
    ]
    results = Results(rows, "valid_loss")
    assert "a has a higher validation loss than b, by 0.250" in str(results.claim("a", ">", "b"))
    assert "b has a lower validation loss than a, by 0.250" in str(results.claim("b", "<", "a"))


def test_a_difference_prints_as_estimate_and_interval():
    rows = [{"variant": "b", "seed": i, "test_acc": 0.5} for i in range(5)]
    rows += [{"variant": "a", "seed": i, "test_acc": 0.5 + i / 100} for i in range(5)]
    difference = Results(rows, "test_acc").difference("a", "b")
    assert str(difference) == "+0.020, 95 % CI +0.000 to +0.040"
    assert difference == (difference.mean, difference.low, difference.high)


def test_a_table_says_what_its_intervals_are_about():
    for unit in (fresh_data(), splits(100, 25), fixed_data("they are given")):
        results = compare_declared(Declaration("?", (), unit), VARIANTS, 5)
        for text in (repr(results), results._repr_html_()):
            assert unit.text in text
    assert "splits of this set" in splits(100, 25).text
    assert compare(VARIANTS, 5).unit is None


def test_the_difference_over_splits_of_a_set_is_wider():
    fresh = compare_declared(Declaration("?", (), fresh_data()), VARIANTS, 6).difference("b", "c")
    split = compare_declared(Declaration("?", (), splits(100, 50)), VARIANTS, 6)
    wider = split.difference("b", "c")
    assert wider.mean == fresh.mean
    ratio = (wider.high - wider.low) / (fresh.high - fresh.low)
    assert ratio == pytest.approx(sqrt((1 / 6 + 0.5) / (1 / 6)))


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: Claim("a", "=", "b"), ValueError, "relation must be"),
        (lambda: Claim("a", "~", "b"), ValueError, "'~' needs a margin"),
        (lambda: Claim("a", "~", "b", by=-1), ValueError, "'~' needs a margin"),
        (lambda: Declaration("?", [("a", ">", "b")]), TypeError, r"claims must be a list of Claim"),
        (lambda: Declaration("?", unit="fresh"), TypeError, r"unit must be fresh_data\(\)"),
        (lambda: fixed_data(" "), ValueError, "needs a reason"),
        (lambda: splits(0, 3), ValueError, "at least one sample, got n_train=0"),
        (
            lambda: Declaration("?", [Claim("a", ">", "z")]).bind("ab", "acc"),
            ValueError,
            "names 'z' in a claim or in unequal, but the variants are 'a', 'b'",
        ),
        (
            lambda: Declaration("?", unequal={"z": "more"}).bind("ab", "acc"),
            ValueError,
            "names 'z' in a claim or in unequal",
        ),
        (
            lambda: Declaration("?", [Claim("a", ">", "b"), Claim("b", "<", "a")]).bind("ab", "m"),
            ValueError,
            "the same claim twice",
        ),
    ],
)
def test_an_impossible_declaration_is_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_a_wrong_declaration_is_refused_before_the_first_run():
    def never(seed):
        raise AssertionError("it ran")

    with pytest.raises(ValueError, match="names 'z' in a claim or in unequal"):
        compare_declared(Declaration("?", [Claim("a", ">", "z")]), {"a": never, "b": never}, 5)


# --- the same for every variant -------------------------------------------------------------------


def with_budget(mean, **used):
    return lambda seed: {"test_acc": mean + seed / 100} | budget(**used)


def test_variants_with_other_labels_steps_or_tuning_are_not_compared():
    variants = {
        "plain": with_budget(0.7, labels=100, steps=50),
        "same": with_budget(0.8, labels=100, steps=50),
        "tuned": with_budget(0.8, labels=100, steps=50, tuning_runs=9),
        "longer": with_budget(0.8, labels=100, steps=80),
        "unknown": lambda seed: 0.8 + seed / 100,
    }
    results = compare(variants, 5)
    assert results.claim("same", ">", "plain").supported
    with pytest.raises(ValueError, match="'tuned' was given 9 tuning runs and 'plain' 0"):
        results.claim("tuned", ">", "plain")
    with pytest.raises(ValueError, match=r"'longer' was given 80 steps .*unequal=\{'plain'"):
        results.claim("longer", ">", "plain")
    with pytest.raises(ValueError, match="'unknown' was given an unknown number of labels"):
        results.claim("unknown", ">", "plain")
    reason = Declaration("?", unit=fresh_data(), unequal={"longer": "length is the question"})
    assert compare_declared(reason, variants, 5).claim("longer", ">", "plain").supported


# --- studies that are stored ----------------------------------------------------------------------


def test_a_study_stores_its_declaration_before_it_runs(tmp_path):
    seen = []

    def first(seed):
        seen.append((tmp_path / "mine.partial.csv").read_text())
        return {"valid_acc": 0.8 + seed / 100}

    variants = {"a": first, "b": noisy(0.5, metric="valid_acc")}
    question = Declaration("Is a better?", [Claim("a", ">", "b")], fresh_data(), "the rest")
    study(tmp_path / "mine.py", variants, 5, declaration=question)
    assert '"question": "Is a better?"' in seen[0]
    assert "a,0," not in seen[0]
    assert "a,0," in seen[1]  # each finished run is saved at once
    loaded = Results.load(tmp_path / "mine.csv")
    assert loaded.notes["declaration"] == question.to_json(variants, 5, "valid_acc")
    assert loaded.declaration == question.bind(variants, "valid_acc")
    assert loaded.claim("a", ">", "b").declared
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.csv"]


def test_an_interrupted_study_goes_on_where_it_was(tmp_path, capsys):
    calls = []

    def variant(seed, stop=True):
        if stop and seed == 3:
            raise KeyboardInterrupt
        calls.append(seed)
        return {"valid_acc": 0.1 + 0.2 * seed / 3}

    script = tmp_path / "mine.py"
    script.write_text("1")
    first = study(script, {"a": variant, "b": variant}, 5)
    assert len(first.rows) == 6
    assert not (tmp_path / "mine.csv").exists()
    calls.clear()
    again = {name: lambda seed: variant(seed, stop=False) for name in "ab"}
    results = study(script, again, 5)
    assert calls == [3, 3, 4, 4]
    assert "Going on after 6 finished runs in mine.partial.csv" in capsys.readouterr().out
    fresh = study(script, again, 5, table=tmp_path / "fresh.csv")
    assert Results.load(tmp_path / "mine.csv").rows == Results.load(tmp_path / "fresh.csv").rows
    assert [row["seed"] for row in results.rows] == [s for s in range(5) for _ in "ab"]
    assert "continued" in results.notes["seconds"]
    assert "continued" not in fresh.notes["seconds"]


def test_a_partial_table_of_another_version_of_the_script_is_not_continued(tmp_path, capsys):
    def stops(seed):
        if seed == 2:
            raise KeyboardInterrupt
        return {"valid_acc": 0.5}

    script = tmp_path / "mine.py"
    script.write_text("1")
    study(script, {"a": stops}, 4)
    script.write_text("2")
    calls = []
    study(script, {"a": lambda seed: calls.append(seed) or 0.75}, 4)
    assert calls == [0, 1, 2, 3]
    assert "another version of this study" in capsys.readouterr().out


def test_too_few_seeds_of_a_quick_pass_do_not_judge_declared_claims(monkeypatch):
    monkeypatch.setattr(limits, "judge_claims", False)
    monkeypatch.setattr(limits, "max_seeds", 2)
    verdict = compare_declared(QUESTION, VARIANTS, 5).claim("b", ">", "a")
    assert verdict.declared is False
    assert "not judged" in str(verdict)


def test_a_figure_of_few_runs_shows_them_without_an_interval():
    few, enough = compare(VARIANTS, 3).plot(), compare(VARIANTS, 5).plot()
    assert "confidence interval" not in few.alt
    assert "(" not in few.alt.partition("variants, mean: ")[2]
    assert "mean and 95 % confidence interval" in enough.alt
    labels = [[text.get_text() for text in p.figure.legends[0].get_texts()] for p in (few, enough)]
    assert labels == [["one run", "mean"], ["one run", "mean, 95 % confidence interval"]]
    beside = compare(VARIANTS, 3).plot(compare(VARIANTS, 5))
    assert "a in the stored study" in beside.alt
