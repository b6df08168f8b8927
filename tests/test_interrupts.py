"""Test Ctrl-C, SIGTERM and SIGKILL on real processes."""

import multiprocessing
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch
from test_trainer import N, StopAt, batches, make, same
from torch.utils.data import DataLoader

from cnnlab import checkpoint
from cnnlab.data.loaders import loader
from cnnlab.trainer import Callback


HERE = Path(__file__).parent

RUN = """
import sys
sys.path.insert(0, {here!r})
import torch
from test_trainer import Callback, batches, make, noisy
from cnnlab.schedules import one_cycle

class Save(Callback):
    order = 100
    def on_step_end(self, trainer):
        trainer.save({path!r})
        print("step", trainer.step, flush=True)
        if trainer.step == {pause}:
            sys.stdin.readline()
    def on_fit_end(self, trainer):
        trainer.save({path!r})
        print("saved", flush=True)

trainer = make(callbacks=[Save()], batch_transform=noisy, schedule=one_cycle(20))
if {resume}:
    trainer.load({path!r})
trainer.fit(batches(), epochs=4)
print("finished", flush=True)
"""


def start(path, *, pause=0, resume=False):
    code = RUN.format(here=str(HERE), path=str(path), pause=pause, resume=resume)
    script = Path(path).with_suffix(".py")
    script.write_text(code)
    return subprocess.Popen(
        [sys.executable, script],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def wait_for(child, line):
    for output in child.stdout:
        if output.strip() == line:
            return
    pytest.fail(child.stderr.read())


@pytest.mark.slow
def test_a_run_killed_during_an_epoch_resumes_bit_exactly_in_a_new_process(tmp_path):
    killed, uninterrupted = tmp_path / "killed.pt", tmp_path / "uninterrupted.pt"
    child = start(killed, pause=7)  # an epoch has five steps
    wait_for(child, "step 7")
    child.kill()
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    assert "finished" in start(killed, resume=True).communicate(timeout=60)[0]
    assert "finished" in start(uninterrupted).communicate(timeout=60)[0]
    one, two = checkpoint.load(uninterrupted), checkpoint.load(killed)
    assert torch.equal(one["model"]["0.weight"], two["model"]["0.weight"])
    assert same(one, two)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "codes"),
    # Python dies of the signal itself, or exits with 1 if code still ran while it shut down
    [(signal.SIGINT, {-signal.SIGINT, 1}), (signal.SIGTERM, {143})],
)
def test_an_interrupted_script_runs_its_callbacks_and_gives_an_exit_code(number, codes, tmp_path):
    child = start(tmp_path / "run.pt", pause=7)
    wait_for(child, "step 7")
    child.send_signal(number)
    out, err = child.communicate("\n", timeout=60)
    assert child.returncode in codes
    assert "saved" in out
    assert "finished" not in out
    assert ("KeyboardInterrupt" in err) == (number == signal.SIGINT)
    assert checkpoint.load(tmp_path / "run.pt")["step"] == 7


class Interrupt(Callback):
    """Press Ctrl-C in the given call of one hook."""

    def __init__(self, hook, call=1):
        self.hook, self.call = hook, call

    def _interrupt_in(self, hook):
        if hook == self.hook:
            self.call -= 1
            if self.call == 0:
                signal.raise_signal(signal.SIGINT)

    def on_fit_start(self, trainer):
        self._interrupt_in("on_fit_start")

    def on_epoch_start(self, trainer):
        self._interrupt_in("on_epoch_start")

    def on_step_end(self, trainer):
        self._interrupt_in("on_step_end")

    def on_epoch_end(self, trainer):
        self._interrupt_in("on_epoch_end")


@pytest.mark.parametrize("notebook", [True, False])
@pytest.mark.parametrize("call", [1, 2])
@pytest.mark.parametrize("hook", ["on_fit_start", "on_epoch_start", "on_step_end", "on_epoch_end"])
def test_ctrl_c_stops_the_cell_and_the_next_fit_continues_exactly(
    hook, call, notebook, monkeypatch
):
    monkeypatch.setattr("cnnlab.training.progress.in_ipython", lambda: notebook)
    handler = signal.getsignal(signal.SIGINT)
    trainer = make(callbacks=[Interrupt(hook, call)])
    if hook == "on_fit_start" and call == 2:
        trainer.fit(batches(), epochs=1)
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(batches(), epochs=3)
    assert trainer.history.stop_reason == "stopped by SIGINT"
    assert trainer.epoch < 3
    assert (trainer.history.partial is None) == (trainer.batch == 0)
    assert len(trainer.history.to_pandas()) == trainer.epoch
    assert signal.getsignal(signal.SIGINT) is handler
    assert not trainer.model.training
    assert trainer.predict(batches()).isfinite().all()
    trainer.fit(batches(), epochs=3)
    uninterrupted = make()
    uninterrupted.fit(batches(), epochs=3)
    assert same(uninterrupted.model.state_dict(), trainer.model.state_dict())


def test_ctrl_c_during_the_validation_stops_it_and_the_next_fit_validates_again():
    class Pressed(list):
        """Validation batches; Ctrl-C is pressed while the second one is read."""

        read = 0

        def __iter__(self):
            for batch in super().__iter__():
                self.read += 1
                if self.read == 2:
                    signal.raise_signal(signal.SIGINT)
                yield batch

    valid = Pressed([(torch.rand(4, 3, 8, 8), torch.arange(4)) for _ in range(9)])
    trainer, uninterrupted = make(), make()
    with pytest.raises(KeyboardInterrupt):
        trainer.fit(batches(), valid, epochs=2)
    assert valid.read < 9
    assert trainer.epoch == 0
    assert trainer.history.partial == {"epoch": 1, "batches": len(batches())}
    trainer.fit(batches(), list(valid), epochs=2)
    uninterrupted.fit(batches(), list(valid), epochs=2)
    drop = ["seconds"]
    assert (
        trainer.history.to_pandas()
        .drop(columns=drop)
        .equals(uninterrupted.history.to_pandas().drop(columns=drop))
    )
    assert same(uninterrupted.model.state_dict(), trainer.model.state_dict())


def test_ctrl_c_in_a_script_is_raised_after_the_last_callback():
    steps = []

    class Last(Callback):
        def on_fit_end(self, trainer):
            steps.append(trainer.step)

    with pytest.raises(KeyboardInterrupt):
        make(callbacks=[Interrupt("on_step_end", 3), Last()]).fit(batches(), epochs=2)
    assert steps == [3]


def test_a_second_ctrl_c_takes_effect_at_once(request):
    # A shell that starts the tests in the background makes them ignore the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))

    class Twice(Callback):
        def on_step_end(self, trainer):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            pytest.fail("the second signal had no effect")

    with pytest.raises(KeyboardInterrupt):
        make(callbacks=[Twice()]).fit(batches(), epochs=2)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_during_saving_leaves_the_old_file_intact(tmp_path, monkeypatch):
    path = tmp_path / "run.pt"
    make().save(path)
    replace = Path.replace

    class Save(Callback):
        def on_fit_end(self, trainer):
            monkeypatch.setattr(Path, "replace", self.press_ctrl_c)
            trainer.save(path)

        def press_ctrl_c(self, *arguments):
            monkeypatch.setattr(Path, "replace", replace)
            signal.raise_signal(signal.SIGINT)
            pytest.fail("the second signal had no effect")

    with pytest.raises(KeyboardInterrupt):
        make(callbacks=[Interrupt("on_step_end"), Save()]).fit(batches(), epochs=1)
    assert checkpoint.load(path)["step"] == 0
    assert [p.name for p in tmp_path.iterdir()] == ["run.pt"]


class Slow(torch.utils.data.Dataset):
    """A data set that isn't a tensor in memory, so that worker processes load it."""

    def __len__(self):
        return 40

    def __getitem__(self, index):
        return torch.rand(3, 8, 8), index % 5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ours", "torch"])
def test_no_worker_process_survives_an_error_during_an_epoch(kind):
    others = set(multiprocessing.active_children())  # workers that other tests keep for reuse

    class Fail(Callback):
        def on_step_end(self, trainer):
            if trainer.step == 2:
                assert set(multiprocessing.active_children()) > others
                raise RuntimeError("in the middle")

    make_loader = loader if kind == "ours" else DataLoader
    workers = {"workers" if kind == "ours" else "num_workers": 2}
    # A notebook keeps the traceback, and so does `error`.
    with pytest.raises(RuntimeError, match="in the middle") as error:
        make(callbacks=[Fail()]).fit(make_loader(Slow(), 8, shuffle=True, **workers), epochs=2)
    deadline = time.monotonic() + 5
    while set(multiprocessing.active_children()) - others and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not set(multiprocessing.active_children()) - others
    assert error


def test_a_fit_in_another_thread_works_and_changes_no_signal_handler():
    handler = signal.getsignal(signal.SIGTERM)
    trainer = make()
    thread = threading.Thread(target=trainer.fit, args=(batches(),), kwargs={"epochs": 1})
    thread.start()
    thread.join()
    assert trainer.epoch == 1
    assert signal.getsignal(signal.SIGTERM) is handler


def test_the_history_records_the_partial_epoch():
    history = make(callbacks=[StopAt(7)]).fit(batches(), epochs=3)
    assert history.partial == {"epoch": 2, "batches": 2}
    assert N // 8 == 5
