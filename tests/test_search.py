"""Searches that several processes share, with real processes and one journal file."""

import math
import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn

from cnnlab import loader
from cnnlab.search import Prune, shared_search
from cnnlab.trainer import Trainer
from cnnlab.tune import Choice, LogUniform, Uniform


SPACE = {"lr": LogUniform(1e-3, 1.0)}


def near_a_tenth(prune, lr):
    return -abs(math.log10(lr) + 1)


# --- one process ----------------------------------------------------------------------------------


def test_a_journal_is_kept_in_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    shared_search(lambda prune, lr: lr, SPACE, 1, storage="~/journal.log")
    assert (tmp_path / "journal.log").is_file()


def test_a_search_returns_a_table_of_settings_from_the_space(tmp_path):
    space = {
        "lr": LogUniform(1e-3, 1.0),
        "drop": Uniform(0, 0.5),
        "how": Choice(["sgd", ("a", 1)]),
    }

    def objective(prune, lr, drop, how):
        assert isinstance(prune, Prune)
        return lr - drop + (how == "sgd")

    table = shared_search(objective, space, 12, storage=tmp_path / "journal.log")
    assert list(table.columns) == ["trial", "lr", "drop", "how", "score", "state", "error"]
    assert table.trial.tolist() == list(range(12))
    assert table.lr.between(1e-3, 1).all()
    assert table["drop"].between(0, 0.5).all()
    assert {*table.how} == {"sgd", ("a", 1)}
    assert table.score.tolist() == [objective(Prune(None), *row[1:4]) for row in table.to_numpy()]


def test_settings_near_good_ones_are_preferred(tmp_path):
    table = shared_search(near_a_tenth, SPACE, 60, storage=tmp_path / "journal.log")
    # Random learning rates are 0.83 decades off on average, with a standard error of 0.1 for 30.
    assert table.score[30:].mean() > -0.55


def test_a_second_call_continues_where_the_first_ended(tmp_path):
    calls = []

    def objective(prune, lr):
        calls.append(lr)
        return lr

    journal = tmp_path / "journal.log"
    first = shared_search(objective, SPACE, 3, storage=journal)
    again = shared_search(objective, SPACE, 5, storage=journal, seed=1)
    assert len(calls) == 5
    assert again.lr.tolist()[:3] == first.lr.tolist()
    shared_search(objective, SPACE, 5, storage=journal)
    assert len(calls) == 5
    assert len(shared_search(objective, SPACE, 1, storage=journal, name="another")) == 1


def test_a_failed_trial_and_a_nan_score_do_not_end_the_search(tmp_path):
    results = iter([1.0, ZeroDivisionError("oh"), math.nan, 2.0])

    def objective(prune, lr):
        result = next(results)
        if isinstance(result, Exception):
            raise result
        return result

    table = shared_search(objective, SPACE, 4, storage=tmp_path / "journal.log")
    assert table.state.tolist() == ["complete", "fail", "fail", "complete"]
    assert table.error.tolist() == [
        "",
        "ZeroDivisionError: oh",
        "ArithmeticError: the score is nan",
        "",
    ]
    assert table.score.isna().tolist() == [False, True, True, False]


def test_an_interrupt_ends_the_search_and_the_trial_that_was_cut_short_does_not_count(
    tmp_path, capsys
):
    calls = []

    def interrupted(prune, lr):
        calls.append(lr)
        if len(calls) in (1, 4):
            raise KeyboardInterrupt
        return lr

    journal = tmp_path / "journal.log"
    with pytest.raises(KeyboardInterrupt):  # there is nothing to return yet
        shared_search(interrupted, SPACE, 4, storage=journal)
    table = shared_search(interrupted, SPACE, 4, storage=journal)
    assert table.state.tolist() == ["complete"] * 2
    assert table.score.tolist() == calls[1:3]
    assert "2 of 4 trials are finished and kept" in capsys.readouterr().out
    table = shared_search(interrupted, SPACE, np.int64(4), storage=journal)
    assert table.state.tolist() == ["complete"] * 4
    assert len(calls) == 6


def test_a_database_works_as_storage_too(tmp_path):
    address = f"sqlite:///{tmp_path}/search.db"
    shared_search(near_a_tenth, SPACE, 2, storage=address)
    assert len(shared_search(near_a_tenth, SPACE, 3, storage=address)) == 3


@pytest.mark.parametrize(("space", "n"), [({}, 3), (SPACE, 0)])
def test_a_search_without_trials_or_parameters_is_refused(space, n, tmp_path):
    with pytest.raises(ValueError, match="needs at least one trial and one parameter"):
        shared_search(near_a_tenth, space, n, storage=tmp_path / "journal.log")


def test_without_optuna_the_error_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(ImportError, match=r"pip install 'cnnlab\[search\]'. tune.random_search"):
        shared_search(near_a_tenth, SPACE, 1, storage=tmp_path / "journal.log")


# --- pruning --------------------------------------------------------------------------------------


def trained(prune, lr, epochs=6):
    """Return the validation accuracy of a linear model; only a large learning rate is any good."""
    draw = torch.Generator().manual_seed(0)
    x = torch.rand(64, 1, 2, 2, generator=draw)
    y = (x.mean(dim=(1, 2, 3)) > 0.5).long()
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    trainer = Trainer(model, optimizer, callbacks=[prune], device="cpu", progress=False)
    batches = loader(list(zip(x, y, strict=True)), 16)
    return trainer.fit(batches, batches, epochs=epochs).frame().valid_acc.iloc[-1]


def test_runs_that_fall_behind_are_stopped_early(tmp_path):
    rates = iter([1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1e-6])
    epochs = []

    def objective(prune, lr):
        epochs.append(0)

        class Count(Prune):
            def on_epoch_end(self, trainer):
                epochs[-1] = trainer.epoch
                super().on_epoch_end(trainer)

        return trained(Count(prune.trial, "valid_loss", "min"), next(rates))

    table = shared_search(objective, SPACE, 7, storage=tmp_path / "journal.log")
    assert table.state.tolist()[-1] == "pruned"
    assert "valid_loss was" in table.error.tolist()[-1]
    assert epochs[0] == 6
    assert epochs[-1] < 6


def test_a_missing_column_is_reported(tmp_path):
    def objective(prune, lr):
        return trained(Prune(prune.trial, "valid_f1"), 1.0)

    table = shared_search(objective, SPACE, 1, storage=tmp_path / "journal.log")
    assert "no column 'valid_f1'; it has" in table.error[0]


# --- several processes ----------------------------------------------------------------------------


WORKER = """
import sys, time
from cnnlab.search import shared_search
from cnnlab.tune import LogUniform

def objective(prune, lr):
    prune.trial.set_user_attr("worker", sys.argv[2])
    print("begun", flush=True)
    time.sleep(float(sys.argv[3]))
    return -lr

space = {"lr": LogUniform(1e-3, 1)}
shared_search(objective, space, 8, storage=sys.argv[1], seed=int(sys.argv[2]))
"""


def worker(journal, seed, seconds):
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, str(journal), str(seed), str(seconds)],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow
def test_two_processes_share_the_work_and_a_killed_one_loses_only_its_own_trial(tmp_path):
    import optuna
    from optuna.storages import JournalStorage
    from optuna.storages.journal import JournalFileBackend

    journal = tmp_path / "journal.log"
    killed = worker(journal, 0, 100)
    assert killed.stdout is not None
    assert killed.stdout.readline() == "begun\n"
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    both = [worker(journal, seed, 0.5) for seed in (1, 2)]
    for process in both:
        process.communicate(timeout=300)
    assert [process.returncode for process in both] == [0, 0]
    study = optuna.load_study(
        study_name="search", storage=JournalStorage(JournalFileBackend(str(journal)))
    )
    finished = [trial for trial in study.trials if trial.state.is_finished()]
    assert 8 <= len(finished) <= 9
    assert {trial.user_attrs["worker"] for trial in finished} == {"1", "2"}
    assert len({trial.params["lr"] for trial in finished}) == len(finished)
    # The trial of the killed process stays unfinished and doesn't count.
    assert len(study.trials) == len(finished) + 1
    start = time.monotonic()
    assert len(shared_search(near_a_tenth, SPACE, 8, storage=journal)) == len(finished)
    assert time.monotonic() - start < 30
