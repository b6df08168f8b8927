"""Test that long work shows that it goes on, at least every two seconds, and the time left."""

import re
import sys
import threading
import time
from contextlib import redirect_stderr
from itertools import pairwise
from types import SimpleNamespace

import pytest
import torch
from jupyter_client.manager import start_new_kernel
from torch import nn

from cnnlab import compare
from cnnlab.course import pretrain
from cnnlab.experiment import study
from cnnlab.search import shared_search
from cnnlab.training import progress
from cnnlab.training.progress import long_work
from cnnlab.tune import Choice, Uniform, grid_search, lr_find, random_search


SILENCE = 2.0  # seconds
SLOW = 2.6


class Recorder:
    """A terminal that remembers when something was written to it."""

    def __init__(self):
        self.times, self.text = [time.monotonic()], ""

    def write(self, text):
        self.times.append(time.monotonic())
        self.text += text

    def flush(self):
        pass

    def isatty(self):
        return True

    def longest_silence(self):
        times = [*self.times, time.monotonic()]
        return max(b - a for a, b in pairwise(times))


@pytest.fixture(autouse=True)
def not_static(monkeypatch):
    monkeypatch.delenv("CNNLAB_STATIC", raising=False)


def terminal():
    return redirect_stderr(Recorder())


def slow(seed):
    time.sleep(SLOW)
    return seed / 10


def two_runs(folder):
    assert len(compare({"a": slow}, 2).rows) == 2


def two_parallel_runs(folder):
    assert len(compare({"a": slow}, 2, jobs=2).rows) == 2


def a_study(folder):
    (folder / "slow.py").write_text("")
    assert len(study(folder / "slow.py", {"a": slow}, 2).rows) == 2


def a_search(folder):
    assert len(random_search(lambda lr: slow(lr), {"lr": Uniform(0, 1)}, 2)) == 2


def a_shared_search(folder):
    space = {"lr": Uniform(0, 1)}
    table = shared_search(lambda prune, lr: slow(lr), space, 2, storage=folder / "journal.log")
    assert len(table) == 2


def a_range_test(folder):
    class Slow(nn.Linear):
        def forward(self, x):
            return super().forward(x + slow(0))

    model = Slow(2, 2)
    batches = [(torch.randn(8, 2), torch.arange(8) % 2)]
    lr_find(
        model, torch.optim.SGD(model.parameters(), lr=1), nn.CrossEntropyLoss(), batches, steps=2
    )


@pytest.mark.parametrize(
    "work",
    [
        two_runs,
        *(
            pytest.param(work, marks=pytest.mark.slow)
            for work in (two_parallel_runs, a_study, a_search, a_shared_search, a_range_test)
        ),
    ],
)
def test_no_work_is_silent_for_two_seconds_and_the_time_left_is_shown(work, tmp_path, monkeypatch):
    (tmp_path / "first").mkdir()
    monkeypatch.setattr(sys.modules[__name__], "SLOW", 0)
    with terminal():
        work(tmp_path / "first")  # imports everything
    monkeypatch.undo()
    monkeypatch.delenv("CNNLAB_STATIC", raising=False)
    with terminal() as screen:
        work(tmp_path)
        assert screen.longest_silence() < SILENCE
    if work is not two_parallel_runs:  # both finish at the same time
        assert re.search(r"1/2 \[00:0\d<00:0[1-9]", screen.text)
    shown = screen.text.rpartition("\r")
    assert not shown[2].strip()  # the bar is gone


@pytest.mark.parametrize("part", ["drawing", "evaluating"])
def test_pretraining_is_not_silent_before_and_after_its_training(part, monkeypatch):
    draw, evaluate = pretrain.glyphs.load, pretrain.Trainer.evaluate

    def slowly(task, name):
        time.sleep(SLOW if name == part else 0)
        return task()

    def few(seed, n_train):
        return slowly(lambda: draw(seed=seed, n_train=97, n_valid=97, n_test=97), "drawing")

    monkeypatch.setattr(pretrain, "glyphs", SimpleNamespace(load=few))
    monkeypatch.setattr(
        pretrain.Trainer, "evaluate", lambda *args: slowly(lambda: evaluate(*args), "evaluating")
    )
    with terminal() as screen:
        pretrain.train(pretrain.Recipe(n_train=97, epochs=1, batch_size=97))
        assert screen.longest_silence() < SILENCE
    assert part in screen.text


def test_quick_work_shows_nothing():
    with terminal() as screen:
        for _ in range(3):
            compare({"a": lambda seed: seed}, 2)
        grid_search(lambda lr: lr, {"lr": Choice([0.1, 0.2])})
    assert not screen.text


@pytest.mark.parametrize("place", ["terminal", "log", "book"])
def test_a_log_and_a_page_of_the_book_stay_as_they_are(place, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS", 0.05)
    if place == "book":
        monkeypatch.setenv("CNNLAB_STATIC", "1")
    with terminal() as screen:
        screen.isatty = lambda: place != "log"
        compare({"a": lambda seed: time.sleep(0.2) or 1.0}, 2)
    assert bool(screen.text) == (place == "terminal")


def test_a_comparison_inside_a_run_has_no_bar_of_its_own(monkeypatch):
    monkeypatch.setattr(progress, "SECONDS", 0.05)
    inner = {"b": lambda seed: time.sleep(0.2) or 1.0}
    with terminal() as screen:
        compare({"a": lambda seed: compare(inner, 3).values("b").mean()}, 2)
    assert "/2 [" in screen.text
    assert "/3 [" not in screen.text


def fail(error):
    with long_work("runs", 2, "run"):
        time.sleep(0.2)
        raise error


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_the_bar_ends_with_an_error_or_an_interrupt_and_its_thread_too(error, monkeypatch):
    monkeypatch.setattr(progress, "SECONDS", 0.05)
    before = threading.active_count()
    with terminal() as screen:
        with pytest.raises(error):
            fail(error)
        assert threading.active_count() == before
        written = screen.text
        time.sleep(0.2)
        assert screen.text == written
    assert "0/2" in written


WARM_UP = "import cnnlab, ipywidgets, scipy.stats, tqdm.auto; cnnlab.setup(); cnnlab.compare"
CELL = """
import time
def slow(seed):
    time.sleep(2.6)
    return seed / 10
print("ready")
cnnlab.compare({"a": slow}, 2)
"""


@pytest.mark.slow
def test_a_notebook_is_not_silent_either():
    manager, client = start_new_kernel(kernel_name="python3")
    times, texts = [], []

    def keep(message):
        if message["msg_type"] in {"stream", "display_data", "comm_msg", "execute_result"}:
            times.append(time.monotonic())
            state = message["content"].get("data", {}).get("state", {})
            texts.append(str(state.get("value", "")).replace("\u2007", " "))

    try:
        client.execute_interactive(WARM_UP, timeout=120)
        client.execute_interactive(CELL, timeout=120, output_hook=keep)
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    assert max(b - a for a, b in pairwise(times)) < SILENCE
    assert any(re.search(r"1/2 \[00:0\d&lt;00:0[1-9]", text) for text in texts)
