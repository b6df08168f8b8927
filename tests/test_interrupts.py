"""Ctrl-C, SIGTERM and SIGKILL, on real processes."""

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
        print("tidy", flush=True)

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
    for said in child.stdout:
        if said.strip() == line:
            return
    pytest.fail(child.stderr.read())


@pytest.mark.slow
def test_a_run_killed_in_the_middle_of_an_epoch_and_resumed_in_a_new_process_is_bit_exact(tmp_path):
    path, straight = tmp_path / "killed.pt", tmp_path / "straight.pt"
    child = start(path, pause=7)  # an epoch has five steps
    wait_for(child, "step 7")
    child.kill()
    child.communicate()
    assert child.returncode == -signal.SIGKILL
    assert "finished" in start(path, resume=True).communicate(timeout=60)[0]
    assert "finished" in start(straight).communicate(timeout=60)[0]
    one, two = checkpoint.load(straight), checkpoint.load(path)
    assert torch.equal(one["model"]["0.weight"], two["model"]["0.weight"])
    assert same(one, two)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("number", "codes"),
    # Python ends by the signal itself, or with 1 when something evaluated code while it shut down
    [(signal.SIGINT, {-signal.SIGINT, 1}), (signal.SIGTERM, {143})],
)
def test_a_script_that_is_interrupted_ends_tidily_and_says_so_by_its_exit_code(
    number, codes, tmp_path
):
    child = start(tmp_path / "run.pt", pause=7)
    wait_for(child, "step 7")
    child.send_signal(number)
    out, err = child.communicate("\n", timeout=60)
    assert child.returncode in codes
    assert "tidy" in out
    assert "finished" not in out
    assert ("KeyboardInterrupt" in err) == (number == signal.SIGINT)
    assert checkpoint.load(tmp_path / "run.pt")["step"] == 7


class Interrupt(Callback):
    """Press Ctrl-C at one point of the run."""

    def __init__(self, hook, call=1):
        self.hook, self.call = hook, call

    def _maybe(self, hook):
        if hook == self.hook:
            self.call -= 1
            if self.call == 0:
                signal.raise_signal(signal.SIGINT)

    def on_fit_start(self, trainer):
        self._maybe("on_fit_start")

    def on_epoch_start(self, trainer):
        self._maybe("on_epoch_start")

    def on_step_end(self, trainer):
        self._maybe("on_step_end")

    def on_epoch_end(self, trainer):
        self._maybe("on_epoch_end")


@pytest.mark.parametrize("call", [1, 2])
@pytest.mark.parametrize("hook", ["on_fit_start", "on_epoch_start", "on_step_end", "on_epoch_end"])
def test_ctrl_c_in_a_notebook_ends_the_fit_and_the_next_call_finishes_it_exactly(
    hook, call, monkeypatch
):
    monkeypatch.setattr("cnnlab.training.interrupts.in_ipython", lambda: True)
    handler = signal.getsignal(signal.SIGINT)
    trainer = make(callbacks=[Interrupt(hook, call)])
    history = trainer.fit(batches(), epochs=3)
    if not (hook == "on_fit_start" and call == 2):
        assert history.stop_reason == "stopped by SIGINT"
        assert trainer.epoch < 3
    assert (history.partial is None) == (trainer.batch == 0)
    assert len(history.frame()) == trainer.epoch
    assert signal.getsignal(signal.SIGINT) is handler
    assert not trainer.model.training
    assert trainer.predict(batches()).isfinite().all()
    trainer.fit(batches(), epochs=3)
    whole = make()
    whole.fit(batches(), epochs=3)
    assert same(whole.model.state_dict(), trainer.model.state_dict())


def test_ctrl_c_in_a_script_is_raised_after_the_run_is_tidy():
    ended = []

    class Last(Callback):
        def on_fit_end(self, trainer):
            ended.append(trainer.step)

    with pytest.raises(KeyboardInterrupt):
        make(callbacks=[Interrupt("on_step_end", 3), Last()]).fit(batches(), epochs=2)
    assert ended == [3]


def test_a_second_ctrl_c_is_obeyed_at_once(request):
    # Whoever starts the tests in the background of a shell has them ignore the signal.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    request.addfinalizer(lambda: signal.signal(signal.SIGINT, before))

    class Twice(Callback):
        def on_step_end(self, trainer):
            signal.raise_signal(signal.SIGINT)
            signal.raise_signal(signal.SIGINT)
            pytest.fail("the second signal was not obeyed")

    with pytest.raises(KeyboardInterrupt):
        make(callbacks=[Twice()]).fit(batches(), epochs=2)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_second_ctrl_c_while_the_run_is_saved_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "run.pt"
    make().save(path)
    replace = Path.replace

    class Save(Callback):
        def on_fit_end(self, trainer):
            monkeypatch.setattr(Path, "replace", self.press)
            trainer.save(path)

        def press(self, *arguments):
            monkeypatch.setattr(Path, "replace", replace)
            signal.raise_signal(signal.SIGINT)
            pytest.fail("the second signal was not obeyed")

    with pytest.raises(KeyboardInterrupt):
        make(callbacks=[Interrupt("on_step_end"), Save()]).fit(batches(), epochs=1)
    assert checkpoint.load(path)["step"] == 0
    assert [p.name for p in tmp_path.iterdir()] == ["run.pt"]


class Slow(torch.utils.data.Dataset):
    """Images from somewhere else, so that worker processes are needed."""

    def __len__(self):
        return 40

    def __getitem__(self, index):
        return torch.rand(3, 8, 8), index % 5


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ours", "torch"])
def test_no_worker_process_survives_an_error_in_the_middle_of_an_epoch(kind):
    others = set(multiprocessing.active_children())  # those that other tests keep for reuse

    class Fail(Callback):
        def on_step_end(self, trainer):
            if trainer.step == 2:
                assert set(multiprocessing.active_children()) > others
                raise RuntimeError("in the middle")

    make_loader = loader if kind == "ours" else DataLoader
    workers = {"workers" if kind == "ours" else "num_workers": 2}
    with pytest.raises(
        RuntimeError, match="in the middle"
    ) as kept:  # as a notebook keeps the traceback
        make(callbacks=[Fail()]).fit(make_loader(Slow(), 8, shuffle=True, **workers), epochs=2)
    deadline = time.monotonic() + 5
    while set(multiprocessing.active_children()) - others and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not set(multiprocessing.active_children()) - others
    assert kept


def test_a_fit_in_another_thread_works_and_leaves_signals_alone():
    handler = signal.getsignal(signal.SIGTERM)
    trainer = make()
    thread = threading.Thread(target=trainer.fit, args=(batches(),), kwargs={"epochs": 1})
    thread.start()
    thread.join()
    assert trainer.epoch == 1
    assert signal.getsignal(signal.SIGTERM) is handler


def test_the_partial_epoch_is_marked():
    history = make(callbacks=[StopAt(7)]).fit(batches(), epochs=3)
    assert history.partial == {"epoch": 2, "batches": 2}
    assert N // 8 == 5
