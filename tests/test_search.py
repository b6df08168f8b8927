"""Searches that several processes share, with real processes at one journal."""

import math
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch import nn

from cnnlab import loader
from cnnlab.search import Prune, shared_search
from cnnlab.trainer import Trainer
from cnnlab.tune import Choice, LogUniform, Uniform


SPACE = {"rate": LogUniform(1e-3, 1.0)}


def near_a_tenth(prune, rate):
    return -abs(math.log10(rate) + 1)


# --- one process --------------------------------------------------------------------------------------------------


def test_a_search_is_a_table_of_settings_of_the_space(tmp_path):
    space = {
        "rate": LogUniform(1e-3, 1.0),
        "drop": Uniform(0, 0.5),
        "how": Choice(["sgd", ("a", 1)]),
    }

    def objective(prune, rate, drop, how):
        assert isinstance(prune, Prune)
        return rate - drop + (how == "sgd")

    table = shared_search(objective, space, 12, storage=tmp_path / "journal.log")
    assert list(table.columns) == ["trial", "rate", "drop", "how", "score", "state", "error"]
    assert table.trial.tolist() == list(range(12))
    assert table.rate.between(1e-3, 1).all()
    assert table["drop"].between(0, 0.5).all()
    assert {*table.how} == {"sgd", ("a", 1)}
    assert table.score.tolist() == [objective(Prune(None), *row[1:4]) for row in table.to_numpy()]


def test_it_prefers_settings_near_good_ones(tmp_path):
    table = shared_search(near_a_tenth, SPACE, 60, storage=tmp_path / "journal.log")
    # Random rates are 0.83 off on average, with 0.1 to spare for thirty of them.
    assert table.score[30:].mean() > -0.55


def test_a_second_call_goes_on_where_the_first_ended(tmp_path):
    calls = []

    def objective(prune, rate):
        calls.append(rate)
        return rate

    journal = tmp_path / "journal.log"
    first = shared_search(objective, SPACE, 3, storage=journal)
    again = shared_search(objective, SPACE, 5, storage=journal, seed=1)
    assert len(calls) == 5
    assert again.rate.tolist()[:3] == first.rate.tolist()
    shared_search(objective, SPACE, 5, storage=journal)
    assert len(calls) == 5
    assert len(shared_search(objective, SPACE, 1, storage=journal, name="another")) == 1


def test_a_bad_trial_and_a_score_that_is_none_do_not_end_the_search(tmp_path):
    answers = iter([1.0, ZeroDivisionError("oh"), math.nan, 2.0])

    def objective(prune, rate):
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    table = shared_search(objective, SPACE, 4, storage=tmp_path / "journal.log")
    assert table.state.tolist() == ["complete", "fail", "fail", "complete"]
    assert table.error.tolist() == [
        "",
        "ZeroDivisionError: oh",
        "ArithmeticError: the score is nan",
        "",
    ]
    assert table.score.isna().tolist() == [False, True, True, False]


def test_an_interrupt_ends_the_search_and_keeps_what_was_found(tmp_path):
    def objective(prune, rate):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        shared_search(objective, SPACE, 4, storage=tmp_path / "journal.log")
    table = shared_search(near_a_tenth, SPACE, 4, storage=tmp_path / "journal.log")
    assert table.state.tolist() == ["fail", "complete", "complete", "complete"]


def test_a_database_serves_as_well(tmp_path):
    address = f"sqlite:///{tmp_path}/search.db"
    shared_search(near_a_tenth, SPACE, 2, storage=address)
    assert len(shared_search(near_a_tenth, SPACE, 3, storage=address)) == 3


@pytest.mark.parametrize(("space", "n"), [({}, 3), (SPACE, 0)])
def test_a_search_needs_a_trial_and_a_parameter(space, n, tmp_path):
    with pytest.raises(ValueError, match="needs a trial and a parameter"):
        shared_search(near_a_tenth, space, n, storage=tmp_path / "journal.log")


def test_without_optuna_the_way_out_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=r"pip install 'cnnlab\[search\]'. tune.random_search"):
        shared_search(near_a_tenth, SPACE, 1, storage=tmp_path / "journal.log")


# --- pruning ------------------------------------------------------------------------------------------------------


def trained(prune, rate, epochs=6):
    """Validation accuracy of a linear model on points that a good rate learns at once, a bad one never."""
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(64, 1, 2, 2, generator=draw)
    y = (x.mean(dim=(1, 2, 3)) > 0.5).long()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=rate)
    trainer = Trainer(model, optimizer, callbacks=[prune], device="cpu", progress=False)
    batches = loader(list(zip(x, y, strict=True)), 16)
    return trainer.fit(batches, batches, epochs=epochs).frame().valid_acc.iloc[-1]


def test_runs_that_fall_behind_are_ended_after_an_epoch(tmp_path):
    rates = iter([1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1e-6])
    seen = []

    def objective(prune, rate):
        seen.append(0)

        class Count(Prune):
            def on_epoch_end(self, trainer):
                seen[-1] = trainer.epoch
                super().on_epoch_end(trainer)

        return trained(Count(prune.trial, "valid_loss", "min"), next(rates))

    table = shared_search(objective, SPACE, 7, storage=tmp_path / "journal.log")
    assert table.state.tolist()[-1] == "pruned"
    assert "valid_loss was" in table.error.tolist()[-1]
    assert seen[0] == 6
    assert seen[-1] < 6


def test_a_column_that_is_not_there_is_told(tmp_path):
    def objective(prune, rate):
        return trained(Prune(prune.trial, "valid_f1"), 1.0)

    table = shared_search(objective, SPACE, 1, storage=tmp_path / "journal.log")
    assert "no column 'valid_f1'; it has" in table.error[0]


# --- several processes --------------------------------------------------------------------------------------------


WORKER = """
import sys, time
from cnnlab.search import shared_search
from cnnlab.tune import LogUniform

def objective(prune, rate):
    prune.trial.set_user_attr("worker", sys.argv[2])
    print("begun", flush=True)
    time.sleep(float(sys.argv[3]))
    return -rate

shared_search(objective, {"rate": LogUniform(1e-3, 1)}, 8, storage=sys.argv[1], seed=int(sys.argv[2]))
"""


def worker(journal, seed, seconds):
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(journal), str(seed), str(seconds)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_two_processes_share_the_work_and_a_killed_one_takes_its_own_trial_alone(tmp_path):
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    journal = tmp_path / "journal.log"
    dies = worker(journal, 0, 100)
    assert dies.stdout is not None
    assert dies.stdout.readline() == "begun\n"
    os.kill(dies.pid, signal.SIGKILL)
    dies.communicate()
    both = [worker(journal, seed, 0.5) for seed in (1, 2)]
    for process in both:
        process.communicate(timeout=300)
    assert [process.returncode for process in both] == [0, 0]
    study = optuna.load_study(
        study_name="search", storage=JournalStorage(JournalFileBackend(str(journal)))
    )
    ended = [trial for trial in study.trials if trial.state.is_finished()]
    assert 8 <= len(ended) <= 9
    assert {trial.user_attrs["worker"] for trial in ended} == {"1", "2"}
    assert len({trial.params["rate"] for trial in ended}) == len(ended)
    assert (
        len(study.trials) == len(ended) + 1
    )  # that of the killed one stays unfinished, and does not count
    start = time.monotonic()
    assert len(shared_search(near_a_tenth, SPACE, 8, storage=journal)) == len(ended)
    assert time.monotonic() - start < 30
