import math
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

import cnnlab
from cnnlab.course.tracebacks import STOPPED
from cnnlab.errors import ClaimNotSupported
from cnnlab.experiment import Results, compare, study
from cnnlab.limits import limits
from cnnlab.trainer import Callback, Trainer
from cnnlab.tune import Choice, grid_search, random_search


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
        "a beats b in test accuracy by 9.7 points (3 runs: +10.0, +9.0, +10.0)\n"
        "  exploratory: supported"
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


# --- runs that don't finish -----------------------------------------------------------------------


def flaky(seed):
    """A variant whose seed 1 raises an error."""
    if seed == 1:
        raise RuntimeError("out of luck,\nwith a second line")
    return 0.4 + seed / 100


def test_a_run_that_raises_does_not_lose_the_others(capsys):
    comparison = compare({"good": lambda seed: 0.5 + seed / 50, "flaky": flaky}, 4)
    assert len(comparison.rows) == 7
    assert comparison.unfinished == [
        {
            "variant": "flaky",
            "seed": 1,
            "error": "RuntimeError: out of luck,\nwith a second line",
        }
    ]
    line = "1 of 8 runs raised an error: flaky, seed 1 (RuntimeError: out of luck, with a second "
    assert line in capsys.readouterr().out
    assert comparison.table()["n"].to_dict() == {"good": 4, "flaky": 3}
    for text in (repr(comparison), comparison._repr_html_()):
        assert "1 of 8 runs are unfinished: flaky, seed 1" in text
    with pytest.warns(UserWarning, match=r"leaves out seed 1: flaky, seed 1 \(RuntimeError"):
        mean, low, high = comparison.difference("good", "flaky")
    expected = results([0.5, 0.54, 0.56], [0.4, 0.42, 0.43]).difference("a", "b")
    assert (mean, low, high) == pytest.approx(expected)
    with pytest.raises(ValueError, match=r"finished seed 1: .*needs every run.*run compare again"):
        comparison.claim("good", ">", "flaky")


def test_a_claim_about_the_variants_that_are_complete_is_judged():
    variants = {"a": noisy, "b": lambda seed: 0.3 + seed / 100, "flaky": flaky}
    assert compare(variants, 3).claim("a", ">", "b").supported


def test_if_every_run_raises_an_error_it_is_the_first_one():
    def broken(seed):
        raise ZeroDivisionError(f"seed {seed}")

    with pytest.raises(ZeroDivisionError, match="seed 0") as caught:
        compare({"a": broken}, 3)
    assert "all 3 runs" in caught.value.__notes__[0]


def test_a_variant_that_never_finishes_is_in_the_table_and_has_no_difference():
    def broken(seed):
        raise MemoryError

    comparison = compare({"a": noisy, "broken": broken}, 3)
    assert comparison.names == ["a", "broken"]
    assert comparison.table().loc["broken", "n"] == 0
    assert comparison.table().loc["broken"].drop("n").isna().all()
    assert "broken" in comparison.plot().alt
    with pytest.raises(ValueError, match=r"'a' and 'broken' have 0 in common: broken, seed 0"):
        comparison.difference("a", "broken")


def test_a_failed_run_frees_the_memory_that_its_traceback_holds():
    import weakref

    models = []

    def broken(seed):
        model = torch.nn.Linear(2, 2)
        models.append(weakref.ref(model))
        assert all(earlier() is None for earlier in models[:-1])
        try:
            raise KeyError("first")
        except KeyError as error:
            raise RuntimeError("second") from error

    comparison = compare({"a": noisy, "b": broken}, 3)
    assert [run["error"] for run in comparison.unfinished] == ["RuntimeError: second"] * 3


def test_a_result_that_is_no_number_is_an_error_of_its_run():
    comparison = compare({"a": lambda seed: None if seed == 1 else 0.5}, 3)
    assert "TypeError: variant 'a' returned {'test_acc': None}" in comparison.unfinished[0]["error"]


def test_a_missing_metric_ends_a_comparison_at_once():
    calls = []
    with pytest.raises(ValueError, match="not the metric 'acc'"):
        compare({"a": lambda seed: calls.append(seed) or {"loss": 1}}, 5, metric="acc")
    assert calls == [0]


class Press(Callback):
    """Press Ctrl-C, or the stop button, after the second step."""

    def on_step_end(self, trainer):
        if trainer.step == 2:
            signal.raise_signal(signal.SIGINT)


def fitted(seed, pressed):
    """Train for five steps, and return how many were taken."""
    model = torch.nn.Linear(2, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    callbacks = [Press()] if pressed else []
    trainer = Trainer(model, optimizer, callbacks=callbacks, device="cpu", progress=False)
    trainer.fit([(torch.rand(4, 2), torch.arange(4) % 2)] * 5, epochs=1)
    return {"test_acc": trainer.step}


def test_a_run_that_is_cut_short_never_counts_and_the_finished_ones_are_returned(capsys):
    calls = []

    def variant(seed):
        calls.append(seed)
        return fitted(seed, pressed=len(calls) == 4)

    comparison = compare({"a": variant, "b": variant}, 4)
    assert calls == [0, 0, 1, 1]
    assert [(row["variant"], row["seed"]) for row in comparison.rows] == [
        ("a", 0),
        ("b", 0),
        ("a", 1),
    ]
    assert [row["test_acc"] for row in comparison.rows] == [5, 5, 5]
    assert len(comparison.unfinished) == 5
    assert {run["error"] for run in comparison.unfinished} == {"interrupted"}
    assert "Interrupted: 3 of 8 runs are finished and kept." in capsys.readouterr().out
    with pytest.raises(ValueError, match="two or more seeds, and 'a' and 'b' have 1 in common"):
        comparison.difference("a", "b")
    with pytest.raises(ValueError, match="Run compare again"):
        comparison.claim("a", ">", "b")
    assert comparison.plot().alt


def test_an_interrupt_before_any_run_has_finished_is_raised():
    with pytest.raises(KeyboardInterrupt):
        compare({"a": lambda seed: fitted(seed, pressed=True)}, 3)


@pytest.mark.parametrize("search", [random_search, grid_search])
def test_an_interrupted_search_returns_the_finished_trials(search, capsys):
    calls = []

    def objective(x):
        calls.append(x)
        return fitted(0, pressed=len(calls) == 3)["test_acc"]

    size = {"n": 6} if search is random_search else {}
    table = search(objective, {"x": Choice([1, 2, 3, 4, None])}, **size)
    assert table.score.tolist() == [5, 5]
    assert table.trial.tolist() == [0, 1]
    assert table.x.tolist() == calls[:2]
    assert "2 of" in capsys.readouterr().out


def test_an_interrupt_in_a_search_within_a_comparison_ends_the_comparison():
    calls = []

    def variant(seed):
        def objective(x):
            calls.append(seed)
            return fitted(0, pressed=len(calls) == 8)["test_acc"]

        return random_search(objective, {"x": Choice([1, 2])}, 3).score.max()

    comparison = compare({"a": variant}, 5)
    assert [row["seed"] for row in comparison.rows] == [0, 1]  # not 2, whose search was cut short
    assert calls == [0, 0, 0, 1, 1, 1, 2, 2]


def test_tables_are_kept_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    study("~/mine.py", {"a": noisy}, 2, metric="test_acc")
    results = study("~/mine.py", {"a": noisy}, 2, metric="test_acc", table="~/other.csv")
    results.save("~/third.csv")
    assert len(Results.load("~/third.csv").rows) == 2
    assert sorted(p.name for p in tmp_path.iterdir()) == ["mine.csv", "other.csv", "third.csv"]


def test_an_interrupted_study_is_stored_beside_the_complete_one(tmp_path, capsys):
    script = tmp_path / "mine.py"
    study(script, {"a": noisy, "b": worse}, 3, metric="test_acc")
    complete = (tmp_path / "mine.csv").read_bytes()
    study(script, {"a": noisy, "b": flaky}, 3, metric="test_acc")
    assert (tmp_path / "mine.csv").read_bytes() == complete
    assert "saved as mine.partial.csv" in capsys.readouterr().out
    stored = Results.load(tmp_path / "mine.partial.csv")
    assert len(stored.rows) == 5
    assert stored.unfinished[0]["error"].startswith("RuntimeError: out of luck,\n")
    assert "unfinished" not in stored.notes
    with pytest.raises(ValueError, match="finished seed 1"):
        stored.claim("a", ">", "b")


PARALLEL = """
import os, signal, sys, time
from pathlib import Path
from cnnlab.experiment import compare
from cnnlab.tune import random_search, Choice

folder = Path(sys.argv[1])

def variant(seed):
    (folder / f"{os.getpid()}-{seed}").touch()
    if seed >= 2:
        time.sleep(300)
    return 0.5 + seed

if __name__ == "__main__":
    # A shell that runs the tests in the background has it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.argv[2] == "compare":
        print([row["seed"] for row in compare({"a": variant}, 6, jobs=2).rows], flush=True)
    else:
        space = {"seed": [0, 1, 2, 3, 4, 5]}
        from cnnlab.tune import grid_search
        print(grid_search(variant, space, jobs=2).seed.tolist(), flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("whole_group", [False, True])
@pytest.mark.parametrize("what", ["compare", "search"])
def test_an_interrupt_of_parallel_runs_returns_the_finished_ones(tmp_path, what, whole_group):
    script = tmp_path / "script.py"
    script.write_text(PARALLEL)
    (tmp_path / "runs").mkdir()
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "runs"), what],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while len(list((tmp_path / "runs").iterdir())) < 4 and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(1)
    # A terminal, and Jupyter, interrupt the workers too.
    (os.killpg if whole_group else os.kill)(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert "[0, 1]" in out, err
    assert "Interrupted: 2 of 6 runs are finished and kept" in out
    assert process.returncode == 0


def dies(seed):
    if seed == 2:
        time.sleep(2)  # until the others are done
        os._exit(3)
    return 0.5


class Odd(Exception):
    """It can be pickled, but not unpickled."""

    def __init__(self, a, b):
        super().__init__(f"{a} and {b}")


def raises_odd(seed):
    if seed == 1:
        raise Odd(1, 2)
    return 0.1


@pytest.mark.slow
def test_parallel_runs_that_fail_do_not_lose_the_others():
    comparison = compare({"a": noisy, "odd": raises_odd}, np.arange(3), jobs=np.int64(2))
    assert [(run["variant"], run["seed"]) for run in comparison.unfinished] == [("odd", 1)]
    assert "1 and 2" in comparison.unfinished[0]["error"]
    comparison = compare({"a": dies}, [0, 1, 2], jobs=2)
    assert [row["seed"] for row in comparison.rows] == [0, 1]
    assert "Terminated" in comparison.unfinished[0]["error"]
    with pytest.raises(ValueError, match="not the metric"):
        compare({"a": noisy}, 4, metric="acc", jobs=2)


# --- pairs, NaN, numpy ----------------------------------------------------------------------------


def test_a_difference_pairs_the_runs_by_their_seeds():
    rows = [{"variant": "a", "seed": s, "acc": s / 10 + 0.5} for s in (0, 1, 2)]
    rows += [{"variant": "b", "seed": s, "acc": s / 10} for s in (2, 1, 0)]
    assert Results(rows, "acc").difference("a", "b") == (0.5, 0.5, 0.5)
    others = [row | {"seed": row["seed"] + 10 * (row["variant"] == "b")} for row in rows]
    with pytest.raises(ValueError, match="'a' and 'b' have 0 in common"):
        Results(others, "acc").difference("a", "b")
    repeated = [row | {"seed": 0} if row["variant"] == "b" else row for row in rows]
    with pytest.raises(ValueError, match="a seed occurs several times"):
        Results(repeated, "acc").difference("a", "b")


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_difference_or_claim_on_nan_is_refused(value, monkeypatch):
    comparison = results([0.5, value, 0.7], [0.1, 0.2, 0.3])
    monkeypatch.setattr(limits, "judge_claims", False)
    for a, b in (("a", "b"), ("b", "a")):
        with pytest.raises(ValueError, match="test_acc of 'a' is NaN or infinite with seed 1"):
            comparison.difference(a, b)
        with pytest.raises(ValueError, match="NaN or infinite"):
            comparison.claim(a, ">", b)
    assert comparison.table().loc["b", "mean"] == pytest.approx(0.2)
    assert comparison.plot().alt


def test_a_single_run_has_no_interval_and_supports_no_claim():
    comparison = results([0.9], [0.1])
    with pytest.raises(ValueError, match="two or more seeds"):
        comparison.claim("a", ">", "b")
    assert comparison.table().loc["a", ["low", "high", "sd"]].isna().all()


def test_a_metric_that_the_runs_lack_is_named():
    with pytest.raises(ValueError, match="no metric 'f1'; they have 'variant', 'seed', 'test_acc'"):
        Results(results(A, B).rows, "f1").table()


def test_seeds_and_their_number_may_be_numpy_integers():
    expected = compare({"a": noisy}, 3).rows
    assert compare({"a": noisy}, np.int64(3), jobs=np.int32(1)).rows == expected
    comparison = compare({"a": noisy}, np.arange(3))
    assert comparison.rows == expected
    assert all(type(row["seed"]) is int for row in comparison.rows)
    for jobs in (0, 1.5, None):
        with pytest.raises(ValueError, match="jobs must be the number of parallel processes"):
            compare({"a": noisy}, 3, jobs=jobs)


@pytest.mark.parametrize("name", ["None", "0.1", "nan", "# of filters, 16", "a#b"])
def test_a_stored_name_stays_as_it_is(name, tmp_path):
    compare({name: noisy, "b": worse}, 3).save(tmp_path / "x.csv")
    assert Results.load(tmp_path / "x.csv").names == [name, "b"]


# --- the stop button in a notebook ----------------------------------------------------------------


SHELL = """
from IPython.core.interactiveshell import InteractiveShell

shell = InteractiveShell.instance()
if {other}:
    shell.set_custom_exc((KeyboardInterrupt,), lambda *args, **options: print("the other handler"))
assert shell.run_cell("import cnnlab; cnnlab.setup(); cnnlab.setup()").success
result = shell.run_cell("print('before'); raise KeyboardInterrupt\\nprint('after')")
assert isinstance(result.error_in_exec, KeyboardInterrupt)
shell.run_cell("1 / 0")
"""


@pytest.mark.parametrize("other", [False, True])
def test_after_setup_the_stop_button_shows_one_line(other):
    ran = subprocess.run(
        [sys.executable, "-c", SHELL.format(other=other)],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    plain = re.sub(r"\x1b\[[0-9;]*m", "", ran.stdout)
    shown, _, rest = plain.partition("before\n")[2].partition("-----")
    line = "the other handler" if other else STOPPED
    assert shown == f"{line}\n"
    assert "ZeroDivisionError" in rest  # other errors have their traceback
    assert "KeyboardInterrupt" not in ran.stdout + ran.stderr


@pytest.mark.parametrize("seed", ["a", -1, 2**32, 0.5, None])
def test_a_seed_that_numpy_cannot_take_is_refused(seed):
    with pytest.raises(ValueError, match="seed must be a whole number"):
        cnnlab.setup(seed)


def test_a_metric_called_seed_does_not_move_a_run_to_another_seed():
    results = compare({"a": lambda seed: {"test_acc": 0.1 * seed, "seed": 9 - seed}}, 3)
    assert [(row["seed"], row["test_acc"]) for row in results.rows] == [(0, 0), (1, 0.1), (2, 0.2)]


def test_arguments_of_compare_and_claim_of_the_wrong_kind_are_named():
    for variants in ([lambda seed: 1.0], {"a": 5}):
        with pytest.raises(TypeError, match="variants must be a dictionary"):
            compare(variants, 2)
    for seeds in (2.5, None, "3"):
        with pytest.raises(TypeError, match="seeds must be a number of seeds, or a list"):
            compare({"a": lambda seed: 1.0}, seeds)
    results = compare({"a": lambda seed: 0.8 + seed / 100, "b": lambda seed: 0.1}, 3)
    for by in ("0.1", None, math.nan):
        with pytest.raises(ValueError, match="by must be a number, the margin in units"):
            results.claim("a", ">", "b", by=by)
