"""Loggers: what they write is what happened, once an epoch, and the training does not notice."""

import csv
import math
import sys

import pytest
import torch
from test_trainer import batches, dataset, make, net, noisy
from torch import nn

from cnnlab.callbacks import (
    CSVLog,
    EarlyStopping,
    GradNormLog,
    GradualUnfreeze,
    TensorBoardLog,
    UpdateRatioLog,
)
from cnnlab.data.loaders import loader
from cnnlab.trainer import Callback, Trainer


VALID = loader(dataset(1), 16)
STEPS = 5  # in an epoch of `batches()`


def test_gradient_norms_of_the_epoch_are_those_of_its_steps():
    history = make(callbacks=[GradNormLog()]).fit(batches(), epochs=3)
    norms = history.steps["grad_norm"].to_numpy().reshape(3, STEPS)
    assert list(history.frame()["grad_norm_mean"]) == pytest.approx(list(norms.mean(1)))
    assert list(history.frame()["grad_norm_max"]) == list(norms.max(1))


def test_update_ratios_are_the_rate_where_the_gradient_is_the_weight():
    model = nn.Linear(3, 2, bias=False)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    log = UpdateRatioLog()
    trainer = Trainer(
        model, optimizer, lambda logits, _: model.weight.square().sum() / 2 + 0 * logits.sum(),
        callbacks=[log], device="cpu", progress=False,
    )  # fmt: skip
    history = trainer.fit([(torch.ones(4, 3), torch.zeros(4, 2))] * 3, epochs=2)
    assert list(history.frame()["log10_update_ratio"]) == pytest.approx([-2, -2], abs=1e-4)
    assert [row["weight"] for row in log.epochs] == pytest.approx([-2, -2], abs=1e-4)


def test_update_ratios_leave_frozen_weights_out_and_biases_and_norms_too():
    model = net()
    log = UpdateRatioLog()
    make(model, callbacks=[GradualUnfreeze([model[0], model[1], model[6]], [1, 1]), log]).fit(
        batches(), epochs=2
    )
    assert [set(row) for row in log.epochs] == [{"0.weight", "6.weight"}] * 2
    assert [math.isnan(row["0.weight"]) for row in log.epochs] == [True, False]
    assert -4 < log.epochs[1]["6.weight"] < 0


def test_the_table_on_disk_is_the_history_also_when_a_column_comes_later(tmp_path):
    path = tmp_path / "logs" / "run.csv"

    class Late(Callback):
        def on_epoch_end(self, trainer):
            if trainer.epoch == 2:
                trainer.history.epochs[-1]["late"] = 0.1 + 0.2

    trainer = make(callbacks=[CSVLog(path), Late()])
    trainer.fit(batches(), epochs=3)
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["late"] for row in rows] == ["", repr(0.1 + 0.2), ""]
    for row, expected in zip(rows, trainer.history.epochs, strict=True):
        assert {k: float(v) for k, v in row.items() if v} == expected
    assert [file.name for file in path.parent.iterdir()] == ["run.csv"]


def test_tensorboard_gets_each_epoch_once_also_from_a_resumed_run(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def run(*extra):
        return make(batch_transform=noisy, callbacks=[TensorBoardLog(tmp_path), *extra])

    first = run()
    first.fit(batches(), VALID, epochs=1)
    state = first.state_dict()
    first.fit(batches(), VALID, epochs=3)  # and then it crashed, and nothing of it was saved
    second = run()
    second.load_state_dict(state)
    history = second.fit(batches(), VALID, epochs=3)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert "train_acc" not in events.Tags()["scalars"]  # it is NaN under mixing
    shown = [(e.step, e.value) for e in events.Scalars("valid_loss")]
    expected = [(row["epoch"], pytest.approx(row["valid_loss"])) for row in history.epochs]
    assert shown == expected


def test_without_tensorboard_the_message_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r"cnnlab\[log\]"):
        TensorBoardLog("x")


def test_what_is_measured_can_be_monitored_and_is_written_whatever_the_order_of_the_list(tmp_path):
    path = tmp_path / "run.csv"
    stopping = EarlyStopping("grad_norm_max", "min", 9)
    make(callbacks=[CSVLog(path), stopping, UpdateRatioLog(), GradNormLog()]).fit(
        batches(), epochs=2
    )
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2
    for name in ("grad_norm_mean", "grad_norm_max", "log10_update_ratio"):
        assert all(math.isfinite(float(row[name])) for row in rows)
    assert stopping.best_value == min(float(row["grad_norm_max"]) for row in rows)
