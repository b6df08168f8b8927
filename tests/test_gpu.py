"""What only a real GPU can show. `make gpu` runs these tests."""

import copy
import functools

import pytest
import torch
import torch.nn.functional as F
from test_run_ahead import IMAGES, LABELS, WAYS, K, make, run_and_resume
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from cnnlab import loader
from cnnlab.averaging import EMA
from cnnlab.devices import Numbers, to_device
from cnnlab.errors import DataError, NonFiniteError
from cnnlab.trainer import Callback, Trainer


pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


class NoWaiting(Callback):
    """Let torch raise an error if the host waits, from the second step of each epoch on."""

    def on_step_end(self, trainer):
        torch.cuda.set_sync_debug_mode("error")

    def on_epoch_end(self, trainer):
        torch.cuda.set_sync_debug_mode("default")

    def on_fit_end(self, trainer):
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("way", WAYS)
def test_no_step_waits_for_the_gpu(way, precision):
    trainer, batches = make("cuda", callbacks=[NoWaiting()], precision=precision, **WAYS[way])
    history = trainer.fit(batches, epochs=2)
    assert trainer._ahead.on
    assert len(history.steps) == 12
    assert history.to_pandas()["train_loss"].notna().all()


@pytest.mark.parametrize("workers", [0, 2])
def test_no_step_waits_for_images_that_come_from_the_cpu(workers):
    trainer, _ = make("cuda", callbacks=[NoWaiting()])
    batches = DataLoader(TensorDataset(IMAGES, LABELS), 8, shuffle=True, num_workers=workers)
    trainer.fit(batches, epochs=2)
    assert trainer.step == 12


def test_the_debug_mode_sees_a_step_that_waits():
    class Reads(Callback):
        def on_step_end(self, trainer):
            next(trainer.model.parameters()).sum().item()

    trainer, batches = make("cuda", callbacks=[NoWaiting(), Reads()])
    with pytest.raises(RuntimeError, match="synchroniz"):
        trainer.fit(batches, epochs=1)


@pytest.mark.parametrize("way", ["plain", "adamw", "microbatches", "class weights"])
def test_a_gpu_and_a_cpu_measure_the_same(way):
    losses = []
    for device in ("cpu", "cuda"):
        options = WAYS[way] | {"batch_transform": None}
        trainer, batches = make(device, dropout=0.0, **options)
        losses.append(trainer.fit(batches, epochs=2).steps["loss"].to_numpy())
    assert losses[1] == pytest.approx(losses[0], rel=2e-2)  # cuDNN rounds in another order


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("at", [0, 1, 4])
def test_a_step_that_is_not_finite_leaves_no_trace(at, precision):
    trainer, batches = make("cuda", poison_at=at, precision=precision, ema=None)
    with pytest.raises(NonFiniteError, match=rf"step {at}\)"):
        trainer.fit(batches, epochs=1)
    assert trainer.step == at
    assert all(t.isfinite().all() for t in trainer.model.state_dict().values())
    trainer.fit(batches, epochs=1)
    assert trainer.step == 6


def test_overflows_in_fp16_are_skipped_and_counted():
    trainer, batches = make("cuda", precision="fp16")
    trainer.scaler = torch.amp.GradScaler("cuda", init_scale=2.0**40, backoff_factor=2.0**-30)
    history = trainer.fit(batches, epochs=2)
    assert history.skipped_steps >= 1
    assert all(p.isfinite().all() for p in trainer.model.parameters())


def test_a_wrong_label_leaves_the_gpu_usable():
    labels = LABELS.clone()
    labels[20] = K
    trainer, _ = make("cuda")
    with pytest.raises(DataError, match="labels run from 0 to 3"):
        trainer.fit(loader(TensorDataset(IMAGES, labels), 8, device="cuda"), epochs=1)
    assert torch.ones(2, device="cuda").sum().item() == 2


def test_a_run_that_stops_in_an_epoch_goes_on_to_the_same_bits(tmp_path):
    torch.backends.cudnn.deterministic = True
    try:
        straight, resumed, batches = run_and_resume(tmp_path)
        resumed.fit(batches, epochs=2)
    finally:
        torch.backends.cudnn.deterministic = False
    pairs = zip(straight.model.parameters(), resumed.model.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_an_average_and_class_weights_follow_the_model_to_the_gpu():
    model = nn.Sequential(nn.Flatten(), nn.Linear(192, K))
    ema, optimizer = EMA(model), torch.optim.SGD(model.parameters(), 0.1)
    weight = [1.0, 2.0, 3.0]
    loss_fn = functools.partial(F.cross_entropy, weight=torch.tensor(weight))
    trainer = Trainer(model, optimizer, loss_fn, ema=ema, progress=False)
    assert trainer.device.type == "cuda"
    assert next(ema.model.parameters()).is_cuda
    batches = loader(TensorDataset(IMAGES, LABELS), 8)
    trainer.fit(batches, batches, epochs=1)
    assert trainer.evaluate(batches, model=ema.model)["loss"] > 0


def test_the_generators_of_every_gpu_are_as_before_after_a_fit():
    before = copy.deepcopy(torch.cuda.get_rng_state_all())
    trainer, batches = make("cuda")
    trainer.fit(batches, epochs=1)
    after = torch.cuda.get_rng_state_all()
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True))


def test_copies_take_their_place_in_the_queue():
    torch.cuda.set_sync_debug_mode("error")
    try:
        moved = to_device(torch.arange(1000.0), torch.device("cuda"))
        numbers = Numbers([moved.sum(), 3, moved[1]])
        assert numbers.read() == [499500.0, 3, 1.0]
    finally:
        torch.cuda.set_sync_debug_mode("default")
