import copy
import csv
import io
import os
import shutil
import signal
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from test_interrupts import Interrupt, wait_for
from test_stopping import INF, NAN, Script
from test_trainer import K, StopAt, batches, dataset, make, net, noisy, same
from torch import nn

from cnnlab import checkpoint
from cnnlab.averaging import EMA, SWA
from cnnlab.callbacks import (
    Checkpoint,
    CSVLog,
    EarlyStopping,
    GradNormLog,
    GradualUnfreeze,
    Progress,
    SnapshotEnsemble,
    TensorBoardLog,
    UpdateRatioLog,
)
from cnnlab.data.loaders import loader
from cnnlab.errors import CheckpointError
from cnnlab.models import small_resnet, stages
from cnnlab.trainer import Callback, Trainer
from cnnlab.transfer import freeze


VALID = loader(dataset(1), 16)


# --- checkpoints ---------------------------------------------------------------------------------


def files(folder):
    return sorted(path.name for path in Path(folder).iterdir())


@pytest.mark.parametrize(
    ("every", "keep", "expected"),
    [(1, 1, [25]), (1, 3, [15, 20, 25]), (2, 9, [10, 20, 25]), (3, 1, [25]), (9, 1, [25])],
)
def test_checkpoints_are_written_every_n_epochs_and_at_the_end(every, keep, expected, tmp_path):
    trainer = make(callbacks=[Checkpoint(tmp_path / "a" / "b", every=every, keep=keep)])
    trainer.fit(batches(), epochs=5)
    assert files(tmp_path / "a" / "b") == [f"step-{n:08d}.pt" for n in expected]


def test_no_checkpoint_is_written_a_second_time_at_the_end(tmp_path, monkeypatch):
    trainer = make(callbacks=[Checkpoint(tmp_path)])
    written, save = [], trainer.save
    monkeypatch.setattr(trainer, "save", lambda path: written.append(path.name) or save(path))
    trainer.fit(batches(), epochs=2)
    assert written == ["step-00000005.pt", "step-00000010.pt"]


def test_a_stopped_run_is_saved_where_it_stopped_and_resumes_from_its_folder(tmp_path):
    def run(folder, *extra):
        every = [EarlyStopping("valid_loss", "min", 2), Checkpoint(folder, best="valid_loss")]
        return make(callbacks=[*every, *extra], batch_transform=noisy)

    whole = run(tmp_path / "whole")
    whole.fit(batches(), VALID, epochs=3)
    for stop in (2, 5, 7):
        folder = tmp_path / str(stop)
        first = run(folder, StopAt(stop))
        first.fit(batches(), VALID, epochs=3)
        assert first.step == stop
        second = run(folder)
        second.load(folder)
        assert second.step == stop
        second.fit(batches(), VALID, epochs=3)
        assert same(whole.state_dict(), second.state_dict())
        assert files(tmp_path / "whole") == files(folder)


def test_a_run_that_fails_within_an_epoch_keeps_the_checkpoint_of_the_last_epoch(tmp_path):
    class Break(Callback):
        def on_step_end(self, trainer):
            if trainer.step == 8:
                raise RuntimeError("broken")

    trainer = make(callbacks=[Checkpoint(tmp_path), Break()])
    with pytest.raises(RuntimeError, match="broken"):
        trainer.fit(batches(), epochs=3)
    assert files(tmp_path) == ["step-00000005.pt"]


@pytest.mark.parametrize(
    ("values", "best", "expected"),
    [
        ((0.5, NAN, 0.9, 0.7), ("value", "max"), 3),
        ((0.5, NAN, 0.9, 0.7), ("value", "min"), 1),
        ((0.9, 0.9, NAN, 0.1), ("value", "max"), 1),
        ((0.1, 0.2, NAN, INF), ("value", "min"), 1),
    ],
)
def test_best_pt_comes_from_the_best_epoch_and_nan_is_never_best(values, best, expected, tmp_path):
    make(callbacks=[Script(*values), Checkpoint(tmp_path, best=best)]).fit(batches(), epochs=4)
    trainer = make(callbacks=[Script(), Checkpoint(tmp_path / "new", best=best)])
    trainer.load(tmp_path / "best.pt")
    assert trainer.epoch == expected
    assert files(tmp_path) == ["best.pt", "step-00000020.pt"]


def test_a_resumed_run_does_not_replace_best_pt_by_a_worse_epoch(tmp_path):
    def run(epochs):
        trainer = make(callbacks=[Script(1, 5, 4, 3), Checkpoint(tmp_path, best=("value", "max"))])
        if epochs > 2:
            trainer.load(tmp_path)
        trainer.fit(batches(), epochs=epochs)

    run(2)
    run(4)
    assert checkpoint.load(tmp_path / "best.pt")["epoch"] == 2


def test_the_mode_of_best_is_inferred_only_for_losses_and_accuracies():
    assert Checkpoint("x", best="ema_valid_acc").best == ("ema_valid_acc", "max")
    assert Checkpoint("x", best="train_loss").best == ("train_loss", "min")
    with pytest.raises(ValueError, match=r"use best=\('seconds', 'max'\)"):
        Checkpoint("x", best="seconds")
    with pytest.raises(ValueError, match="'min' or 'max'"):
        Checkpoint("x", best=("seconds", "least"))
    for options in ({"every": 0}, {"keep": 0}, {"every": 1.5}, {"keep": 1.5}, {"keep": True}):
        name = next(iter(options))
        with pytest.raises(ValueError, match=f"{name} must be a number of .*, at least 1; got"):
            Checkpoint("x", **options)


def test_numbers_of_numpy_are_taken(tmp_path):
    checkpoints = Checkpoint(tmp_path, every=np.int64(2), keep=np.int32(3))
    snapshots = SnapshotEnsemble(np.int64(5))
    stopping = EarlyStopping("valid_loss", "min", np.int64(1), min_delta=np.float32(0.1))
    unfreeze = GradualUnfreeze([nn.Linear(1, 1), nn.Linear(1, 1)], np.array([2]))
    assert (checkpoints.every, checkpoints.keep, unfreeze.at_epochs) == (2, 3, [2])
    make(callbacks=[checkpoints, snapshots, stopping]).fit(batches(), VALID, epochs=2)
    assert len(snapshots.snapshots) == 2
    with pytest.raises(ValueError, match="at_epochs must be whole numbers"):
        GradualUnfreeze([nn.Linear(1, 1), nn.Linear(1, 1)], [1.5])
    for cycle in (0, 1.5):
        with pytest.raises(ValueError, match="cycle_steps must be a number of optimizer steps"):
            SnapshotEnsemble(cycle)
    with pytest.raises(ValueError, match="last must be a number of snapshots, at least 1; got 0"):
        snapshots.models(net(), last=0)


def test_places_that_nothing_can_be_written_to_are_refused_at_once(tmp_path):
    (tmp_path / "file").write_text("")
    for make_callback in (Checkpoint, TensorBoardLog):
        with pytest.raises(ValueError, match="writes to a folder, and '' names no folder"):
            make_callback("")
        with pytest.raises(ValueError, match=r"writes to a folder, and .*file' is a file"):
            make_callback(tmp_path / "file")
    for path in ("", tmp_path):
        with pytest.raises(ValueError, match=r"CSVLog writes a file, and .* use a name like"):
            CSVLog(path)


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    loggers = [CSVLog("~/log/run.csv"), TensorBoardLog("~/board")]
    trainer = make(callbacks=[Checkpoint("~/run", best="train_loss"), *loggers])
    trainer.fit(batches(), epochs=1)
    assert trainer.save("~/mine.pt") == tmp_path / "mine.pt"
    assert files(tmp_path) == ["board", "log", "mine.pt", "run"]
    for path in ("~/run", "~/run/best.pt", "~/mine.pt"):
        again = make(callbacks=[Checkpoint("~/run")])
        again.load(path)
        assert again.step == 5


def test_a_checkpoint_with_resume_continues_the_run_in_its_folder_as_if_without_a_break(
    tmp_path, capsys
):
    def run(folder, *extra):
        model = net()
        watch = EarlyStopping("valid_loss", "min", 9)
        saved = Checkpoint(folder, best="valid_loss", resume=True)
        every = [watch, saved, GradNormLog(), SnapshotEnsemble(3), *extra]
        return make(model, callbacks=every, ema=EMA(model, 0.9), batch_transform=noisy)

    whole = run(tmp_path / "whole")
    whole.fit(batches(), VALID, epochs=3)
    for stop in (2, 5, 7):
        folder = tmp_path / str(stop)
        run(folder, StopAt(stop)).fit(batches(), VALID, epochs=3)
        again = run(folder)
        again.fit(batches(), VALID, epochs=3)
        assert same(whole.state_dict(), again.state_dict())
    assert capsys.readouterr().out == ""
    for epochs in (3, 4):  # the same cell once more, and then for more epochs
        again = run(tmp_path / "whole")
        again.progress = None
        again.fit(batches(), VALID, epochs=epochs)
        assert (again.epoch, again.step) == (epochs, 5 * epochs)
        line = f"continuing {tmp_path / 'whole'} from epoch 3, step 15\n"
        assert capsys.readouterr().out.startswith(line)


def test_resume_counts_the_steps_of_the_whole_run_and_leaves_a_loaded_run_alone(tmp_path):
    seen = []

    class Plan(Callback):
        def on_fit_start(self, trainer):
            seen.append((trainer.step, trainer.steps_planned))

    make(callbacks=[Checkpoint(tmp_path, keep=9)]).fit(batches(), epochs=2)
    make(callbacks=[Checkpoint(tmp_path, keep=9, resume=True), Plan()]).fit(batches(), epochs=3)
    assert seen == [(10, 15)]
    older = make(callbacks=[Checkpoint(tmp_path, resume=True)])
    older.load(tmp_path / "step-00000005.pt")
    with pytest.raises(CheckpointError, match=r"step 5\); resume that run .*resume=True"):
        older.fit(batches(), epochs=3)
    other = make(nn.Sequential(net()), callbacks=[Checkpoint(tmp_path, resume=True)])
    with pytest.raises(CheckpointError, match="belongs to another model"):
        other.fit(batches(), epochs=3)


def test_a_failed_monitor_leaves_no_checkpoint_behind(tmp_path):
    trainer = make(callbacks=[Checkpoint(tmp_path, best=("f1", "max"))])
    with pytest.raises(ValueError, match="no column 'f1'"):
        trainer.fit(batches(), epochs=1)
    assert files(tmp_path) == []


def test_an_average_that_is_a_callback_is_refused_as_ema():
    model = net()
    with pytest.raises(TypeError, match=r"SWA is a callback: pass it as callbacks="):
        make(model, ema=SWA(model))


def test_there_is_a_complete_checkpoint_at_every_instant(tmp_path, monkeypatch):
    """With keep=1, load the newest checkpoint before and after each operation on a file."""
    steps = []

    def watched(method):
        original = getattr(Path, method)

        def look(path, *args, **kwargs):
            in_folder = tmp_path in path.parents
            if in_folder and (tmp_path / "step-00000005.pt").exists():
                steps.append(None)  # from the first checkpoint on
            if steps and in_folder:
                checkpoint.load_newest(tmp_path)
            result = original(path, *args, **kwargs)
            if steps and in_folder:
                steps.append(checkpoint.load_newest(tmp_path)["step"])
            return result

        monkeypatch.setattr(Path, method, look)

    watched("replace")
    watched("unlink")
    make(callbacks=[Checkpoint(tmp_path, keep=1)]).fit(batches(), epochs=12)
    loaded = [step for step in steps if step is not None]
    assert loaded == sorted(loaded)  # the newest by number, not by name: "5" would be after "10"
    assert set(loaded) == set(range(10, 61, 5))


def test_a_folder_with_a_later_checkpoint_is_refused_and_left_alone(tmp_path):
    make(callbacks=[Checkpoint(tmp_path)]).fit(batches(), epochs=2)
    message = r"step-00000010.pt was saved at a later step .*\(step 0\); resume that run with"
    with pytest.raises(CheckpointError, match=message):
        make(callbacks=[Checkpoint(tmp_path)]).fit(batches(), epochs=1)
    assert files(tmp_path) == ["step-00000010.pt"]


def test_a_damaged_newest_file_is_skipped_and_never_kept_instead_of_a_good_one(tmp_path):
    make(callbacks=[Checkpoint(tmp_path, keep=2)]).fit(batches(), epochs=3)
    newest = tmp_path / "step-00000015.pt"
    newest.write_bytes(newest.read_bytes()[:-100])
    trainer = make(callbacks=[Checkpoint(tmp_path), StopAt(12)])
    trainer.load(tmp_path)
    assert trainer.step == 10
    trainer.fit(batches(), epochs=3)
    assert files(tmp_path) == ["step-00000012.pt", newest.name]
    trainer = make(callbacks=[Checkpoint(tmp_path)])
    trainer.load(tmp_path)
    trainer.fit(batches(), epochs=3)
    assert files(tmp_path) == [newest.name]
    assert checkpoint.load(newest)["epoch"] == 3


# --- interruptions -------------------------------------------------------------------------------


def with_everything(folder, *extra):
    """Return a trainer with nearly all callbacks at once."""
    model = net()
    every = [
        EarlyStopping("valid_loss", "min", 9), Checkpoint(folder), SnapshotEnsemble(3),
        UpdateRatioLog(), GradNormLog(), CSVLog(folder / "log.csv"), SWA(model),
        GradualUnfreeze(three_stages(model), [1, 1]),
    ]  # fmt: skip
    return make(model, callbacks=[*every, *extra], ema=EMA(model, 0.9), rate=0.05)


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole")
    trainer = with_everything(folder)
    trainer.fit(batches(), VALID, epochs=2)
    return trainer.state_dict(), table(folder / "log.csv")


@pytest.mark.parametrize("call", [1, 2])
@pytest.mark.parametrize("hook", ["on_fit_start", "on_epoch_start", "on_step_end", "on_epoch_end"])
def test_a_run_with_all_callbacks_continues_exactly_after_ctrl_c_at_any_hook(
    hook, call, uninterrupted, tmp_path
):
    trainer = with_everything(tmp_path / "cut", Interrupt(hook, call))
    stops = [pytest.raises(KeyboardInterrupt), nullcontext()]
    if (hook, call) == ("on_fit_start", 2):  # each fit starts once
        stops.reverse()
    with stops[0]:
        trainer.fit(batches(), VALID, epochs=2)
    assert trainer.predict(batches()).isfinite().all()
    shutil.copytree(tmp_path / "cut", tmp_path / "copy")
    with stops[1]:
        trainer.fit(batches(), VALID, epochs=2)
    fresh = with_everything(tmp_path / "copy")
    fresh.load(tmp_path / "copy")
    fresh.fit(batches(), VALID, epochs=2)
    state = trainer.state_dict()
    state["callbacks"] = [c for c in state["callbacks"] if c[0] != "Interrupt"]
    for folder, reached in (("cut", state), ("copy", fresh.state_dict())):
        assert same(uninterrupted, (reached, table(tmp_path / folder / "log.csv")))


def three_stages(model):
    """Return the stages of `net()`: convolution, batch norm, head."""
    return [model[0], model[1], model[6]]


def table(path):
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


RUN = """
import sys
sys.path.insert(0, {here!r})
from test_trainer import Callback, batches, make, noisy
from test_callbacks import VALID
from cnnlab.callbacks import Checkpoint, EarlyStopping

class Pause(Callback):
    def on_step_end(self, trainer):
        if trainer.step == 7:
            print("step 7", flush=True)
            sys.stdin.readline()

trainer = make(callbacks=[Pause(), EarlyStopping("valid_loss", "min", 9), Checkpoint({folder!r})],
               batch_transform=noisy)
trainer.fit(batches(), VALID, epochs=3)
"""


@pytest.mark.slow
def test_a_script_stopped_by_sigterm_leaves_a_checkpoint_to_resume_from_exactly(tmp_path):
    script = tmp_path / "run.py"
    script.write_text(RUN.format(here=str(Path(__file__).parent), folder=str(tmp_path / "run")))
    env = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    child = subprocess.Popen(
        [sys.executable, script], env=env,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    wait_for(child, "step 7")
    child.send_signal(signal.SIGTERM)
    child.communicate("\n", timeout=60)
    assert child.returncode == 143
    assert files(tmp_path / "run") == ["step-00000007.pt"]

    def run(folder):
        every = [Callback(), EarlyStopping("valid_loss", "min", 9), Checkpoint(folder)]
        return make(callbacks=every, batch_transform=noisy)

    resumed, whole = run(tmp_path / "run"), run(tmp_path / "whole")
    state = checkpoint.load_newest(tmp_path / "run")
    state["callbacks"] = [["Callback", {}], *(c for c in state["callbacks"] if c[0] != "Pause")]
    resumed.load_state_dict(state)
    resumed.fit(batches(), VALID, epochs=3)
    whole.fit(batches(), VALID, epochs=3)
    assert same(whole.state_dict(), resumed.state_dict())


# --- promises of all callbacks -------------------------------------------------------------------


MEASURING = {
    "Checkpoint": lambda model, path: Checkpoint(path / "run", keep=2, best="valid_acc"),
    "SnapshotEnsemble": lambda model, path: SnapshotEnsemble(3),
    "GradNormLog": lambda model, path: GradNormLog(),
    "UpdateRatioLog": lambda model, path: UpdateRatioLog(),
    "CSVLog": lambda model, path: CSVLog(path / "log.csv"),
    "TensorBoardLog": lambda model, path: TensorBoardLog(path / "board"),
    "Progress": lambda model, path: Progress(),
    "SWA": lambda model, path: SWA(model, start_epoch=1),
    "EarlyStopping": lambda model, _: EarlyStopping("valid_loss", "min", 9, restore_best=False),
}
ACTING = {
    "EarlyStopping": lambda model, path: EarlyStopping("valid_loss", "min", 2),
    "GradualUnfreeze": lambda model, path: GradualUnfreeze(three_stages(model), [1, 2]),
}


@pytest.fixture(scope="module")
def without_callbacks():
    trainer = make(batch_transform=noisy)
    trainer.fit(batches(), VALID, epochs=2)
    return trainer.state_dict()


@pytest.mark.parametrize("name", MEASURING)
def test_a_callback_that_only_measures_leaves_the_training_bit_identical(
    name, without_callbacks, tmp_path
):
    model = net()
    trainer = make(model, batch_transform=noisy, callbacks=[MEASURING[name](model, tmp_path)])
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    trainer.fit(batches(), VALID, epochs=2)
    assert torch.equal(torch.rand(2), expected)
    state = trainer.state_dict()
    for part in ("model", "optimizer", "scaler"):
        assert same(without_callbacks[part], state[part])
    expected_rows = without_callbacks["history"]["epochs"]
    for expected_row, row in zip(expected_rows, state["history"]["epochs"], strict=True):
        assert same(expected_row, {name: row[name] for name in expected_row})


@pytest.mark.parametrize(
    "build", [*MEASURING.values(), *ACTING.values()], ids=[*MEASURING, *(f"{n}!" for n in ACTING)]
)
def test_the_state_of_a_callback_survives_a_restart(build, tmp_path):
    def run(folder, *extra):
        model = net()
        callback = build(model, tmp_path / folder)
        return make(model, batch_transform=noisy, callbacks=[callback, *extra])

    whole = run("whole")
    whole.fit(batches(), VALID, epochs=3)
    for stop in (4, 10):
        folder = f"cut at {stop}"
        first = run(folder, StopAt(stop))
        first.fit(batches(), VALID, epochs=3)
        first.save(tmp_path / "run.pt")
        second = run(folder)
        second.load(tmp_path / "run.pt")
        second.fit(batches(), VALID, epochs=3)
        assert same(whole.state_dict(), second.state_dict())
        if (tmp_path / "whole" / "log.csv").exists():
            assert table(tmp_path / "whole" / "log.csv") == table(tmp_path / folder / "log.csv")


# --- snapshots -----------------------------------------------------------------------------------


def test_snapshots_are_taken_at_the_end_of_cycles_and_share_no_memory_with_the_model():
    states = {}

    class KeepStates(Callback):
        def on_step_end(self, trainer):
            states[trainer.step] = copy.deepcopy(trainer.model.state_dict())

    snapshots = SnapshotEnsemble(4)
    trainer = make(callbacks=[snapshots, KeepStates()])
    trainer.fit(batches(), epochs=2)
    assert len(snapshots.snapshots) == 2
    for state, step in zip(snapshots.snapshots, (4, 8), strict=True):
        assert same(state, states[step])
        assert "1.running_mean" in state
        addresses = {t.data_ptr() for t in trainer.model.state_dict().values()}
        assert addresses.isdisjoint(t.data_ptr() for t in state.values())
    before = copy.deepcopy(trainer.model.state_dict())
    models = snapshots.models(trainer.model)
    for model, step in zip(models, (4, 8), strict=True):
        assert same(model.state_dict(), states[step])
    assert not any(m.training for model in models for m in model.modules())
    assert same(snapshots.models(trainer.model, last=1)[0].state_dict(), states[8])
    assert same(before, trainer.model.state_dict())
    with pytest.raises(ValueError, match="cycle_steps"):
        SnapshotEnsemble(0)


# --- gradual unfreezing --------------------------------------------------------------------------


def unfreezing(at_epochs, *extra):
    torch.manual_seed(0)
    model = small_resnet(K, width=4)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=0.1)
    callbacks = [GradualUnfreeze(stages(model), at_epochs), *extra]
    return Trainer(
        model, optimizer, callbacks=callbacks, device="cpu", progress=False, batch_transform=noisy
    )


def test_stages_are_unfrozen_from_the_top_after_the_given_epochs():
    class Watch(Callback):
        def __init__(self):
            self.states = []

        def on_epoch_end(self, trainer):
            self.states.append([copy.deepcopy(s.state_dict()) for s in stages(trainer.model)])

    watch = Watch()
    trainer = unfreezing([1, 3, 3], watch)
    start = [copy.deepcopy(s.state_dict()) for s in stages(trainer.model)]
    trainer.fit(batches(), epochs=4)
    moved = [
        [not same(a, b) for a, b in zip(old, new, strict=True)]
        for old, new in zip([start, *watch.states], watch.states, strict=False)
    ]  # [epoch][stage, from the bottom]; the whole state, including running statistics
    assert moved == [
        [False, False, False, True],
        [False, False, True, True],
        [False, False, True, True],
        [True, True, True, True],
    ]


def test_gradual_unfreezing_resumed_anywhere_equals_an_uninterrupted_run(tmp_path):
    whole = unfreezing([1, 2, 2])
    whole.fit(batches(), epochs=3)
    for stop in (2, 5, 7, 10, 12):  # 5 and 10 are the ends of epochs
        first = unfreezing([1, 2, 2], StopAt(stop))
        first.fit(batches(), epochs=3)
        first.save(tmp_path / "run.pt")
        second = unfreezing([1, 2, 2])
        second.load(tmp_path / "run.pt")
        second.fit(batches(), epochs=3)
        assert same(whole.state_dict(), second.state_dict())
        if stop in (5, 7):
            first.fit(batches(), epochs=3)
            assert same(whole.model.state_dict(), first.model.state_dict())


def test_epochs_that_do_not_fit_the_stages_are_refused():
    model = small_resnet(K, width=4)
    with pytest.raises(ValueError, match="4 stages need 3, one for each stage"):
        GradualUnfreeze(stages(model), [1, 2])
    for at_epochs in ([3, 2, 4], [-1, 0, 1]):
        with pytest.raises(ValueError, match="must not fall"):
            GradualUnfreeze(stages(model), at_epochs)
    for stage in stages(model)[:-1]:
        freeze(stage)
    optimizer = torch.optim.SGD(model.head.parameters(), lr=0.1)
    unfreeze = GradualUnfreeze(stages(model), [1, 2, 3])
    trainer = Trainer(model, optimizer, callbacks=[unfreeze], device="cpu", progress=False)
    with pytest.raises(ValueError, match="the optimizer lacks"):
        trainer.fit(batches(), epochs=1)


@pytest.mark.parametrize("bar", [True, False])
def test_a_metric_with_a_strange_name_or_a_text_in_the_history_does_not_break_the_progress(
    bar, capsys, monkeypatch
):
    class Note(Callback):
        order = -50

        def on_epoch_end(self, trainer):
            trainer.history.epochs[-1]["train_note"] = "fine"

    monkeypatch.setenv("COLUMNS", "400")  # or the bar would leave out what has no room
    zero = lambda outputs, targets: 0.0
    names = ["a b\nc", "{x}", "α", "100 %", "<bar/>", "loss/é"]
    trainer = make(callbacks=[Note(), Progress(bar)], metrics=dict.fromkeys(names, zero))
    history = trainer.fit(batches(), VALID, epochs=2)
    text = "".join(capsys.readouterr())
    assert "train_a b c" in text
    assert "train_α" in text
    assert "train_{x}" in text
    assert "train_note fine" in repr(history)
    if not bar:
        assert len(text.splitlines()) == 2
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
        trainer.fit(batches(), VALID, epochs=3)


def test_a_history_without_an_epoch_can_not_be_drawn():
    with pytest.raises(ValueError, match="no epoch has finished, so there is nothing to draw"):
        make().history.plot()


def test_importing_the_callbacks_imports_no_heavy_package():
    code = (
        "import sys, cnnlab.callbacks, cnnlab.averaging, cnnlab.transfer; "
        "heavy = {'pandas', 'sklearn', 'tensorboard', 'torchvision'}; "
        "print(heavy & sys.modules.keys())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
