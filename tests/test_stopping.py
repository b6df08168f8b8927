"""Early stopping: first its arithmetic, with a stand-in for the trainer, then real runs."""

import copy
import math
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna import TrialPruned
from test_trainer import StopAt, batches, make, net, noisy, same
from torch import nn

from cnnlab import checkpoint
from cnnlab.averaging import EMA
from cnnlab.callbacks import Checkpoint, EarlyStopping, Prune, replay
from cnnlab.errors import NonFiniteError
from cnnlab.trainer import Callback, StopTraining, Trainer
from cnnlab.training.history import History


NAN, INF = math.nan, math.inf
STEPS = 5  # per epoch of `batches()`


# --- arithmetic ----------------------------------------------------------------------------------


class StandIn:
    """The attributes of a trainer that the callback needs; its only weight is the epoch number."""

    def __init__(self):
        self.model, self.ema = nn.Linear(1, 1, bias=False), None
        self.epoch = self.step = self.batch = 0
        self.history = History()

    def end_epoch(self, callback, **row):
        self.epoch, self.step = self.epoch + 1, self.step + 1
        self.model.weight.data.fill_(self.epoch)
        self.history.epochs.append({"epoch": self.epoch, **row})
        callback.on_epoch_end(self)

    @property
    def weight(self):
        return self.model.weight.item()


def play(stopping, values):
    """Return the epoch after which it stopped (None if it didn't), and the finished stand-in."""
    trainer, stopped_at = StandIn(), None
    stopping.on_fit_start(trainer)
    for value in values:
        try:
            trainer.end_epoch(stopping, value=value)
        except StopTraining:
            stopped_at = trainer.epoch
            break
    stopping.on_fit_end(trainer)
    return stopped_at, trainer


@pytest.mark.parametrize(
    ("values", "patience", "options", "stop", "best"),
    [
        # patience 0 acts like 1: the first epoch that does not improve ends the run
        ([5, 4, 3, 4, 2, 9, 9, 9, 9, 9], 0, {}, 4, 3),
        ([5, 4, 3, 4, 2, 9, 9, 9, 9, 9], 1, {}, 4, 3),
        ([5, 4, 3, 4, 2, 9, 9, 9, 9, 9], 2, {}, 7, 5),
        ([5, 4, 3, 4, 2, 9, 9, 9, 9, 9], 5, {}, 10, 5),
        ([5, 4, 3, 4, 2, 9, 9, 9, 9, 9], 6, {}, None, 5),
        # an equal value is no improvement, and the earlier epoch stays best
        ([1, 1, 1], 2, {}, 3, 1),
        # NaN is never an improvement and never best
        ([5, 4, NAN, NAN, 1], 2, {}, 4, 2),
        ([INF, 3, 4], 2, {}, None, 2),
        ([-INF, 3, 4], 2, {}, 3, 1),
        # small improvements count once their sum exceeds min_delta; the best weights always follow
        ([1.0, 0.9, 0.8, 0.7], 3, {"min_delta": 0.5}, 4, 4),
        ([1.0, 0.9, 0.8, 0.45, 0.4, 0.4], 3, {"min_delta": 0.5}, None, 5),
        ([2.0, 1.0, 1.0], 1, {"min_delta": 1.0}, 2, 2),
        # negative numbers: -0.95 is worse than -1
        ([-1.0, -0.95, -0.92], 2, {}, 3, 1),
        # the first epochs are ignored
        ([1, 5, 6, 7], 2, {"start_epoch": 1}, 4, 2),
        ([1, 5], 1, {"start_epoch": 2}, None, 0),
        ([NAN, 5, 6, 7], 2, {"start_epoch": 1}, 4, 2),
        # patience without end
        ([1, 2, 3], INF, {}, None, 1),
    ],
)
@pytest.mark.parametrize("mode", ["min", "max"])
def test_early_stopping_ends_after_exactly_this_epoch_with_exactly_these_weights(
    values, patience, options, stop, best, mode
):
    values = [v if mode == "min" else -v for v in values]
    stopping = EarlyStopping("value", mode, patience, **options)
    stopped_at, trainer = play(stopping, values)
    assert (stopped_at, stopping.best_epoch) == (stop, best)
    assert trainer.weight == (best or trainer.epoch)


def expected_stop(values, patience, min_delta):
    """Apply the definition: stop after the first `patience` epochs in a row without improvement."""
    reference, improved = INF, []
    for value in values:
        improved.append(reference - value > min_delta)
        reference = value if improved[-1] else reference
    n = max(patience, 1)
    return next((e for e in range(n, len(values) + 1) if not any(improved[e - n : e])), None)


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([0.0, 0.25, 0.5, 0.75, 1.0, NAN, INF]), min_size=1, max_size=12),
    st.integers(0, 4),
    st.sampled_from([0.0, 0.25, 0.6]),
    st.integers(1, 11),
)
def test_early_stopping_follows_its_definition_even_across_a_restart(
    values, patience, min_delta, cut
):
    replayed = replay(values, "min", patience, min_delta)
    stopping = EarlyStopping("value", "min", patience, min_delta)
    if math.isnan(values[0]):  # nothing can be decided by a column that has never been a number
        with pytest.raises(ValueError, match="value is NaN"):
            play(stopping, values)
        assert replayed[0] == (expected_stop(values, patience, min_delta) or len(values)) - 1
        return
    stopped_at, trainer = play(stopping, values)
    assert stopped_at == expected_stop(values, patience, min_delta)
    assert replayed == ((stopped_at or len(values)) - 1, stopping.best_epoch - 1)
    finite = [v for v in values[:stopped_at] if not math.isnan(v) and v < INF]
    if finite:
        assert stopping.best_epoch == values.index(min(finite)) + 1 == trainer.weight

    first = EarlyStopping("value", "min", patience, min_delta)
    if play(first, values[:cut])[0] is None and cut < len(values):
        second = EarlyStopping("value", "min", patience, min_delta)
        second.load_state_dict(copy.deepcopy(first.state_dict()))
        resumed = StandIn()
        resumed.epoch = resumed.step = cut
        resumed.history.epochs = [{"value": value} for value in values[:cut]]
        best = first._best_weights
        resumed.model.weight.data.fill_(best["model"]["weight"].item() if best else cut)
        second.on_fit_start(resumed)
        assert resumed.weight == cut  # the weights that training had reached, not the best ones
        resumed_stopped_at = None
        for value in values[cut:]:
            try:
                resumed.end_epoch(second, value=value)
            except StopTraining:
                resumed_stopped_at = resumed.epoch
                break
        assert resumed_stopped_at == stopped_at


def test_early_stopping_without_restoring_leaves_the_weights_alone():
    _, trainer = play(EarlyStopping("value", "min", 2, restore_best=False), [1, 2, 3])
    assert trainer.weight == 3


def test_early_stopping_forgets_an_earlier_run():
    stopping = EarlyStopping("value", "min", 2)
    assert play(stopping, [1, 2, 3])[0] == 3
    stopped_at, trainer = play(stopping, [9, 8, 7])
    assert (stopped_at, stopping.best_epoch, trainer.weight) == (None, 3, 3)


def test_weights_that_you_changed_after_a_fit_are_not_overwritten():
    stopping = EarlyStopping("value", "min", 5)
    _, trainer = play(stopping, [1, 2, 3])
    trainer.model.weight.data.fill_(77)
    stopping.on_fit_start(trainer)
    assert trainer.weight == 77


def test_a_fit_that_fails_before_it_starts_leaves_the_weights_alone():
    stopping = EarlyStopping("value", "min", patience=9)
    _, trainer = play(stopping, [1, 2, 3])
    assert trainer.weight == 1
    trainer.model.weight.data.fill_(7)
    stopping.on_fit_end(trainer)  # without on_fit_start, because another callback raised before it
    assert trainer.weight == 7


def test_the_mode_has_no_default():
    with pytest.raises(TypeError, match="mode"):
        EarlyStopping("valid_loss", patience=3)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("valid_loss", "auto", 3), "'min' or 'max'"),
        (("valid_loss", "min", -1), "patience must be at least 0, got -1"),
        (("valid_loss", "min", 1, -0.1), "min_delta must be at least 0"),
        (("valid_loss", "min", 1, NAN), "min_delta must be at least 0"),
        (("valid_loss", "min", 1, 0.0, -2), "start_epoch must be at least 0"),
        (("valid_loss", "min", "3"), "patience must be at least 0, got '3'"),
        (("valid_loss", "min", 2.5), "patience must be a whole number of epochs, got 2.5"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        EarlyStopping(*arguments)


def monitors(column, path):
    """The callbacks that watch a column."""
    trial = SimpleNamespace(report=lambda *_: None, should_prune=lambda: False)
    return [
        EarlyStopping(column, "max", 3),
        Checkpoint(path, best=(column, "max")),
        Prune(trial, column),
    ]


WATCHERS = pytest.mark.parametrize(
    "watcher", range(3), ids=["EarlyStopping", "Checkpoint", "Prune"]
)


@WATCHERS
@pytest.mark.parametrize(
    ("column", "valid", "message"),
    [
        ("valid_loss", False, r"valid_loss needs validation data: fit\(train, valid"),
        ("valid_acc", False, "valid_acc needs validation data.* 'train_acc'"),
        ("valid_mae", False, "valid_mae needs validation data"),
        ("ema_valid_acc", False, "ema_valid_acc needs validation data"),
        ("ema_valid_acc", True, r"needs a moving average: .*ema=EMA\(model\)"),
        ("val_loss", False, "valid_loss needs validation data"),
        ("val_loss", True, "no column 'val_loss': it is called 'valid_loss'"),
        ("val_accuracy", True, "it is called 'valid_acc'"),
        ("val_mae", True, "it is called 'valid_mae'"),
        ("validation_acc", True, "it is called 'valid_acc'"),
        ("training_loss", True, "it is called 'train_loss'"),
        ("loss", True, "monitor 'train_loss' or, with validation data, 'valid_loss'"),
        ("accuracy", True, "monitor 'train_acc' or"),
    ],
)
def test_a_monitor_that_the_run_cannot_have_is_refused_before_the_first_step(
    column, valid, message, watcher, tmp_path
):
    mae = lambda logits, targets: logits.abs().mean()
    trainer = make(callbacks=[monitors(column, tmp_path)[watcher]], metrics={"mae": mae})
    with pytest.raises(ValueError, match=message):
        trainer.fit(batches(), batches() if valid else None, epochs=2)
    assert trainer.step == 0


@WATCHERS
def test_a_missing_column_is_reported_after_the_first_epoch_with_those_that_exist(
    watcher, tmp_path
):
    trainer = make(callbacks=[monitors("valid_f1", tmp_path)[watcher]])
    message = r"no column 'valid_f1'; it has epoch, lr, train_loss, .*fit\(train, valid\)"
    with pytest.raises(ValueError, match=message):
        trainer.fit(batches(), epochs=2)
    assert trainer.epoch == 1


@WATCHERS
def test_the_accuracy_of_a_regression_is_no_column(watcher, tmp_path):
    model = nn.Linear(3, 1)
    trainer = Trainer(
        model, torch.optim.SGD(model.parameters(), lr=0.1), nn.MSELoss(), device="cpu",
        progress=False, callbacks=[monitors("valid_acc", tmp_path)[watcher]],
    )  # fmt: skip
    data = [(torch.ones(4, 3), torch.ones(4, 1))]
    message = (
        "no column 'valid_acc'; it has epoch, lr, train_loss, valid_loss, seconds; .*one class"
    )
    with pytest.raises(ValueError, match=message):
        trainer.fit(data, data, epochs=2)


@WATCHERS
def test_a_column_that_has_never_been_a_number_is_refused_and_a_later_nan_is_not(watcher, tmp_path):
    trainer = make(callbacks=[Script(NAN, 1), monitors("value", tmp_path)[watcher]])
    with pytest.raises(ValueError, match="value is NaN, so it can't be used to compare epochs"):
        trainer.fit(batches(), epochs=2)
    assert trainer.epoch == 1
    callback = monitors("value", tmp_path)[watcher]
    trainer = make(callbacks=[Script(1, NAN), callback])
    if watcher == 2:
        with pytest.raises(TrialPruned):
            trainer.fit(batches(), epochs=2)
    else:
        trainer.fit(batches(), epochs=2)
        assert callback.best_value == 1


def test_a_callback_of_your_own_may_add_any_column(tmp_path):
    class Validate(Callback):
        order = -50

        def on_epoch_end(self, trainer):
            trainer.history.epochs[-1]["val_loss"] = trainer.evaluate(batches())["loss"]

    stopping = EarlyStopping("val_loss", "min", 3)
    make(callbacks=[stopping, Validate()]).fit(batches(), epochs=2)
    assert stopping.best_epoch > 0


def test_replay_of_a_column_without_any_number_returns_no_best_epoch():
    assert replay([NAN, NAN, 1], "min", 2) == (1, -1)
    assert replay([NAN, 3, 4], "min", 3) == (2, 1)
    assert replay([], "min", 3) == (-1, -1)


def test_an_unknown_mode_or_monitor_is_refused():
    with pytest.raises(ValueError, match="'min' or 'max'"):
        Prune(None, "valid_acc", "maximize")
    with pytest.raises(TypeError, match="name of a column"):
        EarlyStopping(None, "min", 3)
    for best in (3, ("valid_acc",), ("valid_acc", "max", 1)):
        with pytest.raises(TypeError, match=r"or a pair such as \('seconds', 'min'\)"):
            Checkpoint("run", best=best)


# --- real runs -----------------------------------------------------------------------------------


class Script(Callback):
    """Write the given values into the history, and keep the weights of every epoch."""

    order = -50

    def __init__(self, *values):
        self.values, self.weights = values, {}

    def on_epoch_end(self, trainer):
        trainer.history.epochs[-1]["value"] = float(self.values[trainer.epoch - 1])
        self.weights[trainer.epoch] = copy.deepcopy(trainer.model.state_dict())
        if trainer.ema is not None:
            self.weights["ema", trainer.epoch] = copy.deepcopy(trainer.ema.state_dict())


@pytest.mark.parametrize("how", ["epochs done", "stopped early", "stopped by another", "an error"])
def test_the_best_weights_and_buffers_are_restored_however_the_run_ends(how):
    script = Script(3, 2, 1, 4, 4, 4, 4, 4)
    callbacks = [script, EarlyStopping("value", "min", 1 if how == "stopped early" else 10)]
    if how == "stopped by another":
        callbacks.append(StopAt(3 * STEPS + 2))
    calls = []

    def poison(images, targets):
        calls.append(1)
        bad = how == "an error" and len(calls) == 3 * STEPS + 3
        return images * math.nan if bad else images, targets

    model = net()
    trainer = make(model, callbacks=callbacks, batch_transform=poison, ema=EMA(model, 0.5))
    if how == "an error":
        with pytest.raises(NonFiniteError):
            trainer.fit(batches(), epochs=4)
    else:
        trainer.fit(batches(), epochs=4)
    assert trainer.epoch == (4 if how in ("epochs done", "stopped early") else 3)
    assert same(trainer.model.state_dict(), script.weights[3])
    assert same(trainer.ema.state_dict(), script.weights["ema", 3])


def scripted(*, ema=True, patience=3, extra=()):
    model = net()
    callbacks = [
        Script(5, 4, 9, 9, 3, 9, 9, 9, 9, 9),
        EarlyStopping("value", "min", patience),
        *extra,
    ]
    return make(
        model, callbacks=callbacks, batch_transform=noisy, ema=EMA(model, 0.9) if ema else None
    )


def test_early_stopping_resumed_anywhere_equals_an_uninterrupted_run(tmp_path):
    whole = scripted()
    history = whole.fit(batches(), epochs=10)
    assert "has not improved for 3 epochs; the best was 3 in epoch 5" in history.stop_reason
    assert whole.epoch == 8
    assert same(whole.model.state_dict(), whole.callbacks[0].weights[5])
    expected = whole.state_dict()
    for stop in (3, 12, 27, 35):
        first = scripted(extra=[StopAt(stop)])
        first.fit(batches(), epochs=10)
        first.save(tmp_path / "run.pt")
        second = scripted()
        second.load(tmp_path / "run.pt")
        second.fit(batches(), epochs=10)
        assert same(expected, second.state_dict())
        if stop == 12:
            first.fit(batches(), epochs=10)  # in the same process
            state = first.state_dict()
            assert same(expected, state | {"callbacks": state["callbacks"][:2]})


def test_more_epochs_continue_from_the_last_weights_and_not_from_the_best():
    whole = scripted(patience=9)
    whole.fit(batches(), epochs=7)
    piecewise = scripted(patience=9)
    for epochs in (1, 3, 4, 7):
        piecewise.fit(batches(), epochs=epochs)
    assert same(whole.state_dict(), piecewise.state_dict())
    assert piecewise.callbacks[1].best_epoch == 5


def test_a_run_that_was_stopped_early_stays_stopped():
    trainer = scripted()
    trainer.fit(batches(), epochs=10)
    state = trainer.state_dict()
    history = trainer.fit(batches(), epochs=10)
    assert trainer.epoch == 8
    assert "best was 3 in epoch 5" in history.stop_reason
    assert same(state, trainer.state_dict())


@pytest.mark.parametrize("restart", [False, True])
def test_two_early_stoppings_continue_from_the_last_weights_and_not_from_the_best(
    restart, tmp_path
):
    def run():
        model = net()
        watchers = [EarlyStopping("value", "min", 9), EarlyStopping("value", "max", 9)]
        every = [Script(5, 1, 9, 4, 6, 7), *watchers]
        return make(model, callbacks=every, ema=EMA(model, 0.9), batch_transform=noisy)

    whole = run()
    whole.fit(batches(), epochs=6)
    assert same(whole.model.state_dict(), whole.callbacks[0].weights[3])  # the best of the last one
    piecewise = run()
    for epochs in (2, 4, 6):
        piecewise.fit(batches(), epochs=epochs)
        if restart:
            state = checkpoint.load(piecewise.save(tmp_path / "run.pt"))
            piecewise = run()
            piecewise.load_state_dict(state)
    assert same(whole.state_dict(), piecewise.state_dict())
    kept = [stopping._current_weights for stopping in piecewise.callbacks[1:]]
    assert kept[0] is not None
    assert kept[1] is None
