"""Loggers: they write one correct row per epoch, and don't change the training."""

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
STEPS = 5  # per epoch of `batches()`


def test_gradient_norms_of_an_epoch_summarise_its_steps():
    history = make(callbacks=[GradNormLog()]).fit(batches(), epochs=3)
    norms = history.steps["grad_norm"].to_numpy().reshape(3, STEPS)
    assert list(history.frame()["grad_norm_mean"]) == pytest.approx(list(norms.mean(1)))
    assert list(history.frame()["grad_norm_max"]) == list(norms.max(1))


def test_the_update_ratio_is_the_learning_rate_if_the_gradient_equals_the_weight():
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


def test_update_ratios_leave_out_frozen_weights_biases_and_batch_norm():
    model = net()
    log = UpdateRatioLog()
    make(model, callbacks=[GradualUnfreeze([model[0], model[1], model[6]], [1, 1]), log]).fit(
        batches(), epochs=2
    )
    assert [set(row) for row in log.epochs] == [{"0.weight", "6.weight"}] * 2
    assert [math.isnan(row["0.weight"]) for row in log.epochs] == [True, False]
    assert -4 < log.epochs[1]["6.weight"] < 0


def test_the_csv_file_equals_the_history_even_if_a_column_appears_later(tmp_path):
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


def test_tensorboard_shows_each_epoch_once_even_after_a_resume(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    def run(*extra):
        return make(batch_transform=noisy, callbacks=[TensorBoardLog(tmp_path), *extra])

    first = run()
    first.fit(batches(), VALID, epochs=1)
    state = first.state_dict()
    first.fit(batches(), VALID, epochs=3)  # then it crashed, and nothing was saved
    second = run()
    second.load_state_dict(state)
    history = second.fit(batches(), VALID, epochs=3)
    events = EventAccumulator(str(tmp_path)).Reload()
    assert "train_acc" not in events.Tags()["scalars"]  # NaN, because the targets are mixed
    logged = [(e.step, e.value) for e in events.Scalars("valid_loss")]
    expected = [(row["epoch"], pytest.approx(row["valid_loss"])) for row in history.epochs]
    assert logged == expected


def test_without_tensorboard_the_error_names_the_extra_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ImportError, match=r"cnnlab\[log\]"):
        TensorBoardLog("x")


def test_measured_columns_can_be_monitored_and_logged_in_any_order_of_callbacks(tmp_path):
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
