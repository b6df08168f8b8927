import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import cnnlab
from cnnlab.errors import ClaimNotSupported
from cnnlab.experiment import Results, compare
from cnnlab.limits import limits


def results(a, b, metric="test_acc"):
    rows = [{"variant": "a", "seed": i, metric: v} for i, v in enumerate(a)]
    rows += [{"variant": "b", "seed": i, metric: v} for i, v in enumerate(b)]
    return Results(rows, metric)


metrics = st.lists(st.floats(0, 1), min_size=3, max_size=12)


@given(metrics, st.integers(0, 10**6))
def test_the_difference_has_the_paired_t_interval_of_scipy(a, seed):
    b = np.random.default_rng(seed).uniform(size=len(a))
    mean, low, high = results(a, b).difference("a", "b")
    expected = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert mean == pytest.approx(np.mean(np.array(a) - b), abs=1e-9)
    assert (low, high) == pytest.approx((expected.low, expected.high), abs=1e-9)


def test_the_interval_contains_the_true_difference_in_95_of_100_experiments():
    draw = np.random.default_rng(0)
    n_covered = 0
    for _ in range(2000):
        shared = draw.normal(size=5)
        low, high = results(shared + 0.3 + draw.normal(size=5), shared).difference("a", "b")[1:]
        n_covered += low <= 0.3 <= high
    assert abs(n_covered / 2000 - 0.95) < 0.02  # four standard deviations of 2,000 draws


def test_the_effect_of_a_seed_on_both_variants_cancels_out():
    shared = np.random.default_rng(1).normal(size=5)
    clear = results(shared + 0.1, shared)
    assert clear.claim("a", ">", "b").supported
    blurred = results(np.roll(shared, 1) + 0.1, shared)  # no longer paired
    with pytest.raises(ClaimNotSupported):
        blurred.claim("a", ">", "b")


def test_a_verdict_prints_the_claim_the_interval_and_the_outcome():
    verdict = results([0.5, 0.6, 0.7], [0.4, 0.51, 0.6]).claim("a", ">", "b")
    assert str(verdict) == (
        "a > b in test_acc\n  difference +0.097, 95 % confidence interval 0.082 to 0.111: supported"
    )


A, B = [0.80, 0.82, 0.81, 0.79, 0.83], [0.70, 0.73, 0.70, 0.71, 0.72]


@pytest.mark.parametrize(
    ("claim", "supported"),
    [
        (("a", ">", "b"), True),
        (("a", ">", "b", 0.05), True),
        (("a", ">", "b", 0.2), False),
        (("b", ">", "a"), False),
        (("b", "<", "a"), True),
        (("a", "<", "b"), False),
        (("a", "~", "b", 0.5), True),
        (("a", "~", "b", 0.05), False),
        (("a", "~", "a", 0.01), True),
    ],
)
def test_a_claim_is_supported_only_if_the_whole_interval_agrees(claim, supported, monkeypatch):
    comparison = results(A, B)
    if supported:
        verdict = comparison.claim(*claim)
        assert verdict.supported
        assert str(verdict).endswith(": supported")
    else:
        with pytest.raises(ClaimNotSupported, match=r"not supported\. Claim what the results show"):
            comparison.claim(*claim)
        monkeypatch.setattr(limits, "judge_claims", False)
        verdict = comparison.claim(*claim)
        assert "not judged" in str(verdict)


@pytest.mark.parametrize(
    ("claim", "message"),
    [(("a", "~", "b"), "margin"), (("a", "=", "b"), "got '='"), (("a", ">", "c"), "'a', 'b'")],
)
def test_a_claim_that_is_not_understood_is_explained(claim, message):
    with pytest.raises(ValueError, match=message):
        results(A, B).claim(*claim)


def noisy(seed):
    return {"test_acc": 0.5 + seed / 100, "loss": 1.0 - seed}


def worse(seed):
    return {"test_acc": 0.4 + seed / 100, "loss": 2.0}


@pytest.mark.slow
def test_parallel_processes_give_the_same_rows_in_the_same_order():
    one = compare({"noisy": noisy, "worse": worse}, [3, 1, 2])
    two = compare({"noisy": noisy, "worse": worse}, [3, 1, 2], jobs=2)
    assert one.rows == two.rows
    assert [row["seed"] for row in one.rows] == [3, 3, 1, 1, 2, 2]
    assert one.values("noisy") == pytest.approx([0.53, 0.51, 0.52])


def test_tables_and_figures_contain_the_results():
    comparison = compare({"noisy": noisy, "worse": worse}, 4)
    table = comparison.table()
    assert table.loc["noisy", "mean"] == pytest.approx(0.515)
    assert table.loc["noisy", "n"] == 4
    assert len(comparison.frame()) == 8
    assert "noisy 0.515" in comparison.plot().alt
    assert "loss" in comparison.frame()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: compare({}, 5), "at least one variant"),
        (lambda: compare({"a": noisy}, 1), "two or more different seeds"),
        (lambda: compare({"a": noisy}, [1, 1, 2]), "two or more different seeds"),
        (lambda: compare({"a": noisy}, 2, metric="acc"), "'test_acc', 'loss'.*metric 'acc'"),
    ],
)
def test_an_impossible_comparison_is_refused(call, message):
    with pytest.raises(ValueError, match=message):
        call()


def test_the_smoke_profile_runs_two_seeds(smoke):
    assert len(compare({"a": noisy}, 5).rows) == 2


def session_limits(seed):
    return float(limits.data_fraction)


@pytest.mark.slow
def test_worker_processes_have_the_limits_of_their_parent(smoke):
    assert compare({"a": session_limits}, 5, jobs=2).values("a").tolist() == [1 / 8, 1 / 8]


def test_an_unknown_profile_is_refused(monkeypatch):
    monkeypatch.setenv("CNNLAB_PROFILE", "laptopp")
    with pytest.raises(ValueError, match="smoke, laptop, gpu"):
        cnnlab.setup()
