"""The same seed gives the same run in another process and with more workers or threads."""

import contextlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from test_trainer import batches, make, net, noisy, same
from torch.utils.data import Dataset

from cnnlab import rng
from cnnlab.data.loaders import loader


HASH = """
import sys, hashlib
sys.path.insert(0, {here!r})
import torch
from test_trainer import batches, make, noisy
trainer = make(batch_transform=noisy)
trainer.fit(batches(), epochs=2)
data = b"".join(v.numpy().tobytes() for v in trainer.model.state_dict().values())
print(hashlib.sha256(data).hexdigest())
"""


@pytest.mark.slow
def test_two_processes_train_the_same_bits():
    code = HASH.format(here=str(Path(__file__).parent))
    run = [sys.executable, "-c", code]
    first, second = (subprocess.run(run, capture_output=True, text=True, check=True) for _ in "ab")
    assert len(first.stdout.strip()) == 64
    assert first.stdout == second.stdout


class Augmented(Dataset):
    """Images with their own random transform, as users of torchvision write them."""

    def __len__(self):
        return 40

    def __getitem__(self, index):
        image = torch.full((3, 8, 8), index / 40) + 0.1 * torch.randn(3, 8, 8)
        return image, index % 5


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_the_number_of_workers_changes_no_bit_even_if_the_data_set_augments(workers):
    def run(n):
        trainer = make()
        trainer.fit(loader(Augmented(), 8, shuffle=True, workers=n), epochs=2)
        return trainer.model.state_dict()

    assert same(run(0), run(workers))


def test_one_and_two_threads_give_the_same_loss_up_to_rounding():
    losses = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            losses.append(make(net(dropout=0)).fit(batches(), epochs=1).frame()["train_loss"][0])
    finally:
        torch.set_num_threads(before)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)  # the sums are in another order


def test_another_seed_gives_another_run():
    one, two = make(seed=0, batch_transform=noisy), make(seed=1, batch_transform=noisy)
    one.fit(batches(), epochs=1)
    two.fit(batches(), epochs=1)
    assert not same(one.model.state_dict(), two.model.state_dict())


def test_the_generators_of_every_gpu_are_restored(monkeypatch):
    """`seed_at` seeds all of them; on a machine without a GPU torch's own fork is asked."""
    asked = []
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.setattr(
        torch.random, "fork_rng", lambda devices: asked.extend(devices) or contextlib.nullcontext()
    )
    with rng.fork_rng():
        pass
    assert asked == [0, 1, 2]
