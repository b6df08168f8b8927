import errno
import os
import random
import subprocess
import sys
from collections import OrderedDict, defaultdict, deque
from pathlib import Path

import numpy as np
import pytest
import torch

from cnnlab import checkpoint
from cnnlab.errors import CheckpointError


STATE = {
    "model": {"weight": torch.arange(600.0).reshape(20, 30), "count": torch.tensor(7)},
    "step": 12,
    "names": ["a", None, True],
    "betas": (0.9, 0.999),
}


def equal(a, b):
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[k], b[k]) for k in a)
    if isinstance(a, list | tuple):
        return type(a) is type(b) and len(a) == len(b) and all(map(equal, a, b))
    return a == b


def test_what_was_saved_comes_back_and_torch_reads_the_file_too(tmp_path):
    path = checkpoint.save(STATE, tmp_path / "new folder" / "run.pt")
    assert equal(checkpoint.load(path), STATE)
    assert equal(torch.load(path, weights_only=True), STATE)
    assert [p.name for p in path.parent.iterdir()] == ["run.pt"]


def test_a_saved_state_is_a_snapshot_of_the_live_tensors(tmp_path):
    live = torch.zeros(3)
    path = checkpoint.save({"x": live}, tmp_path / "run.pt")
    live.fill_(1)
    assert torch.equal(checkpoint.load(path)["x"], torch.zeros(3))


def test_a_slice_is_saved_without_the_tensor_it_was_cut_from(tmp_path):
    path = checkpoint.save({"x": torch.zeros(1_000_000)[:10]}, tmp_path / "run.pt")
    assert path.stat().st_size < 10_000


def test_values_of_a_history_come_back_as_plain_ones(tmp_path):
    odd = {
        "accuracy": np.float64(0.5),
        "count": np.int32(3),
        "flag": np.bool_(True),
        "path": Path("a") / "b",
        "curve": np.arange(3.0),
        "groups": defaultdict(list, {"x": [1]}),
        "ordered": OrderedDict(a=1),
    }
    back = checkpoint.load(checkpoint.save(odd, tmp_path / "run.pt"))
    assert back["accuracy"] == 0.5
    assert type(back["accuracy"]) is float
    assert back["path"] == str(Path("a") / "b")
    assert back["groups"] == {"x": [1]}
    assert torch.equal(back["curve"], torch.arange(3.0).double())


@pytest.mark.parametrize("odd", [deque([1]), {1, 2}, torch.nn.Linear(1, 1), object(), slice(3)])
def test_what_could_not_be_read_back_is_refused_when_it_is_saved(odd, tmp_path):
    path = checkpoint.save(STATE, tmp_path / "run.pt")
    with pytest.raises(TypeError, match=r"state\['deep'\]\[0\] is a " + type(odd).__name__):
        checkpoint.save({"deep": [odd]}, path)
    assert equal(checkpoint.load(path), STATE)
    assert [p.name for p in tmp_path.iterdir()] == ["run.pt"]


def test_one_flipped_bit_is_never_loaded(tmp_path):
    path = checkpoint.save(STATE, tmp_path / "run.pt")
    whole = path.read_bytes()
    chosen = random.Random(0)
    for _ in range(1000):
        data = bytearray(whole)
        data[chosen.randrange(len(data))] ^= 1 << chosen.randrange(8)
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match=r"run\.pt"):
            checkpoint.load(path)


def test_a_file_cut_anywhere_or_with_something_added_is_refused_with_its_path(tmp_path):
    path = checkpoint.save(STATE, tmp_path / "run.pt")
    whole = path.read_bytes()
    lengths = range(0, len(whole), max(1, len(whole) // 400))
    for data in [whole[:n] for n in lengths] + [whole + b"junk", b"", whole * 2]:
        path.write_bytes(data)
        with pytest.raises(CheckpointError, match=r"run\.pt"):
            checkpoint.load(path)


def test_a_file_of_torch_save_is_named_with_the_call_that_reads_it(tmp_path):
    for number, saved in enumerate((STATE["model"], torch.nn.Linear(2, 2), [1, 2])):
        path = tmp_path / f"weights{number}.pt"
        torch.save(saved, path)
        message = r"not written by Trainer.save.*model.load_state_dict\(torch.load\('.*weights"
        with pytest.raises(CheckpointError, match=message):
            checkpoint.load(path)
    whole = checkpoint.save(STATE, tmp_path / "run.pt")
    whole.write_bytes(whole.read_bytes()[:-20])
    with pytest.raises(CheckpointError, match="was cut short"):
        checkpoint.load(whole)


def test_a_folder_is_no_file(tmp_path):
    with pytest.raises(CheckpointError, match="is a folder; load_newest reads"):
        checkpoint.load(tmp_path)
    with pytest.raises(CheckpointError, match="not the name of a file"):
        checkpoint.save(STATE, "")


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    checkpoint.save({"step": 3}, checkpoint.numbered("~/run", 3))
    assert checkpoint.listed("~/run") == [tmp_path / "run" / "step-00000003.pt"]
    assert checkpoint.load_newest("~/run") == checkpoint.load("~/run/step-00000003.pt")
    checkpoint.prune("~/run", keep=1)
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert checkpoint.save({}, "~nobody-has-this-name/x.pt").is_file()  # an ordinary folder


def test_a_pickle_that_runs_code_is_refused_even_with_a_right_digest(tmp_path):
    import hashlib
    import io
    import pickle

    class Payload:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'marker'}",)

    for inner in (Payload(), {"optimizer": {"state": [Payload()]}}):
        buffer = io.BytesIO()
        torch.save(inner, buffer, pickle_module=pickle)
        data = buffer.getvalue()
        path = tmp_path / "evil.pt"
        path.write_bytes(data + checkpoint._MARK + hashlib.sha256(data).digest())
        with pytest.raises(CheckpointError, match="refused"):
            checkpoint.load(path)
    assert not (tmp_path / "marker").exists()


KILL_200_TIMES = """
import os, random, signal, sys, time
import torch
from cnnlab import checkpoint

path, draw, state = sys.argv[1], random.Random(0), {"x": torch.zeros(300_000)}
torch.set_num_threads(1)

def save(step):
    state["x"].fill_(step)
    checkpoint.save({"step": step, **state}, path)

save(-1)
for trial in range(200):
    ready, tell = os.pipe()
    child = os.fork()
    if child == 0:
        for step in range(1000 * trial, 1000 * trial + 1000):
            save(step)
            os.write(tell, b".")
        os._exit(0)
    os.close(tell)  # so that a child that dies is not waited for
    os.read(ready, 1)  # the first file is whole; how long that takes is the disk's affair
    time.sleep(draw.uniform(0, 0.04))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(ready)
    found = checkpoint.load(path)
    assert (found["x"] == found["step"]).all(), trial
    print(found["step"], flush=True)
"""


@pytest.mark.slow
def test_killed_at_200_random_instants_of_saving_a_whole_file_is_left_every_time(tmp_path):
    path = tmp_path / "run.pt"
    done = subprocess.run(
        [sys.executable, "-c", KILL_200_TIMES, path], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    steps = [int(line) for line in done.stdout.splitlines()]
    assert len(steps) == 200
    assert len(set(steps)) == 200
    left = [p for p in tmp_path.iterdir() if p != path]
    assert left, "no child was killed in the middle of writing: the test shows nothing"


def test_a_full_disk_names_path_and_cause_and_keeps_the_old_file(tmp_path):
    path = checkpoint.save(STATE, tmp_path / "run.pt")
    large = {"x": torch.zeros(100_000)}
    resource = pytest.importorskip("resource", reason="Windows has no limit of file sizes")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    import signal

    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, hard))
    try:
        with pytest.raises(CheckpointError, match=r"run\.pt: File too large.*untouched"):
            checkpoint.save(large, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert equal(checkpoint.load(path), STATE)
    assert [p.name for p in tmp_path.iterdir()] == ["run.pt"]


def test_data_are_durable_before_they_get_their_name_and_the_folder_after(tmp_path, monkeypatch):
    calls = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda fd: (calls.append("fsync"), fsync(fd))[1])
    monkeypatch.setattr(
        Path, "replace", lambda self, to: (calls.append("replace"), replace(self, to))[1]
    )
    checkpoint.save(STATE, tmp_path / "run.pt")
    assert calls == ["fsync", "replace", "fsync"]


def test_a_failed_rename_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = checkpoint.save(STATE, tmp_path / "run.pt")

    def fail(self, to):
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(Path, "replace", fail)
    with pytest.raises(CheckpointError, match="Input/output error"):
        checkpoint.save({"x": 1}, path)
    assert equal(checkpoint.load(path), STATE)
    assert [p.name for p in tmp_path.iterdir()] == ["run.pt"]


def test_the_newest_is_the_one_with_the_highest_number_and_a_damaged_one_is_passed_over(tmp_path):
    for step in (9, 10, 100_000_000):
        checkpoint.save({"step": step}, checkpoint.numbered(tmp_path, step))
    checkpoint.save({"step": -1}, tmp_path / "best.pt")
    assert checkpoint.load_newest(tmp_path)["step"] == 100_000_000
    checkpoint.numbered(tmp_path, 100_000_000).write_bytes(b"half")
    assert checkpoint.load_newest(tmp_path)["step"] == 10
    checkpoint.prune(tmp_path, keep=2)
    assert [p.name for p in checkpoint.listed(tmp_path)] == [
        "step-00000010.pt",
        "step-100000000.pt",
    ]


def test_a_folder_without_a_readable_checkpoint_says_what_is_wrong_with_each(tmp_path):
    with pytest.raises(FileNotFoundError, match="no checkpoint"):
        checkpoint.load_newest(tmp_path)
    for step in (1, 2):
        checkpoint.numbered(tmp_path, step).write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"(?s)step-00000002.*step-00000001"):
        checkpoint.load_newest(tmp_path)


def test_a_file_may_be_read_by_whom_a_plain_file_may(tmp_path):
    (tmp_path / "plain").write_bytes(b"")
    checkpoint.save({"step": 1}, tmp_path / "ours")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "plain").stat().st_mode
