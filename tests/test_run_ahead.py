"""On a GPU the host runs ahead of it; here a stand-in on the CPU shows that nothing is waited for.

The stand-in is torch's own arithmetic on the CPU. It marks the tensors that would be on a GPU, and
refuses what would make the host wait for them, or what CUDA would refuse.
"""

import functools
import math

import pytest
import torch
from stand_in_gpu import HostWaits, StandInGPU
from torch import nn
from torch.utils.data import TensorDataset

from cnnlab import loader
from cnnlab.augment import Augment
from cnnlab.augment.mixing import CutMix, MixUp, either
from cnnlab.averaging import EMA
from cnnlab.devices import to_device
from cnnlab.errors import DataError, NonFiniteError
from cnnlab.losses import soft_cross_entropy
from cnnlab.models import small_resnet
from cnnlab.schedules import attach, one_cycle
from cnnlab.trainer import Callback, StopTraining, Trainer
from cnnlab.training.progress import Progress


K = 3
GENERATOR = torch.Generator().manual_seed(0)
IMAGES = torch.rand(48, 3, 8, 8, generator=GENERATOR)
LABELS = torch.randint(K, (48,), generator=GENERATOR)


@pytest.fixture
def gpu():
    with StandInGPU() as mode:
        yield mode


class Poison(nn.Module):
    """Multiply by NaN in one call of the forward pass."""

    def __init__(self, at):
        super().__init__()
        self.at, self.calls = at, 0

    def forward(self, x):
        call, self.calls = self.calls, self.calls + 1
        return x * math.nan if call == self.at else x


def make(device="cpu", *, poison_at=None, optimizer=torch.optim.SGD, dropout=0.1, **options):
    torch.manual_seed(0)
    model = small_resnet(K, width=4, depth=1, dropout=dropout)
    if poison_at is not None:
        model = nn.Sequential(Poison(poison_at), model)
    if StandInGPU.current is not None and device != "cpu":
        StandInGPU.current.move(model)
    momentum = {"momentum": 0.9} if optimizer is torch.optim.SGD else {}
    optimizer = optimizer(model.parameters(), lr=0.05, fused=True, **momentum)
    options = {
        "scheduler": attach(optimizer, one_cycle(12)),
        "ema": EMA(model),
        "batch_transform": Augment(flip=0.5, crop_pad=1, brightness=0.2, erase=0.5),
        "clip_norm": 1.0,
        "progress": False,
    } | options
    trainer = Trainer(model, optimizer, device=device, **options)
    batches = loader(TensorDataset(IMAGES, LABELS), 8, shuffle=True, device=device)
    return trainer, batches


def run_and_resume(folder):
    """Return a run of two epochs, one that stands at its step 4, and the batches of the second."""

    class Save(Callback):
        def on_step_end(self, trainer):
            if trainer.step == 4:
                trainer.save(folder / "run.pt")

    straight, batches = make("cuda", callbacks=[Save()])
    straight.fit(batches, epochs=2)
    resumed, batches = make("cuda", callbacks=[Save()])
    resumed.load(folder / "run.pt")
    return straight, resumed, batches


def values(state):
    """Every tensor and number in a state, in order."""
    if isinstance(state, dict):
        return [x for value in state.values() for x in values(value)]
    if isinstance(state, list | tuple):
        return [x for value in state for x in values(value)]
    return state.detach().flatten().tolist() if isinstance(state, torch.Tensor) else [state]


def same(one, other):
    return repr(values(one)) == repr(values(other))  # NaN is the same as NaN


class Watch(Progress):  # no other callback may see a step that isn't read
    """Watch for reads from the second step on; the first one may look at everything."""

    def __init__(self):
        super().__init__(bar=False)
        self.ahead = []

    def on_step_end(self, trainer):
        self.ahead.append(len(trainer._ahead.steps))
        StandInGPU.current.strict = True

    def on_epoch_end(self, trainer):
        StandInGPU.current.strict = False


MIX = either(MixUp(1.0, K), CutMix(1.0, K))
WEIGHT = torch.tensor([1.0, 2.0, 3.0])
WAYS = {
    "plain": {},
    "adamw": {"optimizer": torch.optim.AdamW},
    "microbatches": {"microbatch": 3},
    "mixing": {"batch_transform": [Augment(flip=0.5), MIX], "loss_fn": soft_cross_entropy},
    "torch's loss": {"batch_transform": MIX, "loss_fn": nn.CrossEntropyLoss(label_smoothing=0.1)},
    "class weights": {"loss_fn": functools.partial(soft_cross_entropy, weight=WEIGHT)},
    "weights in a module": {"loss_fn": nn.CrossEntropyLoss(weight=WEIGHT)},
    "a metric": {"metrics": {"largest": lambda logits, _: logits.amax(1).mean()}},
    "every augmentation": {
        "batch_transform": Augment(
            flip=0.5, vflip=0.5, rotate=10, translate=0.1, scale=(0.9, 1.1), shear=5, crop_pad=1,
            brightness=0.1, contrast=0.1, saturation=0.1, hue=0.1, blur=1.0, erase=0.5,
        )
    },
    "a resized crop": {"batch_transform": Augment(resized_crop=(0.5, 1.0))},
    "smooth": {"batch_transform": Augment(resized_crop=(0.5, 1.0), interpolation="bilinear")},
}  # fmt: skip


@pytest.mark.parametrize("way", WAYS)
def test_no_step_reads_from_the_gpu_and_nothing_else_changes(way, gpu):
    on_cpu, batches = make(**WAYS[way])
    with gpu.absent():
        history = on_cpu.fit(batches, epochs=2)
    watch = Watch()
    trainer, batches = make("cuda", callbacks=[watch], **WAYS[way])
    trainer.fit(batches, epochs=2)
    assert watch.ahead == [1, 2, 2, 2, 2, 2] * 2
    assert trainer.step == 12
    assert same(trainer.history.state_dict()["steps"], history.state_dict()["steps"])
    assert same(trainer.model.state_dict(), on_cpu.model.state_dict())
    assert same(trainer.ema.state_dict(), on_cpu.ema.state_dict())


def snapshot(trainer):
    """What an error must leave as it was."""
    state = trainer.state_dict()
    names = ("model", "optimizer", "scheduler", "ema", "step", "batch")
    return {name: state[name] for name in names}


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.AdamW])
@pytest.mark.parametrize("at", [0, 1, 4])
@pytest.mark.parametrize("microbatch", [None, 4])
def test_a_step_that_is_not_finite_is_found_later_and_leaves_no_trace(
    at, microbatch, optimizer, gpu
):
    class Stop(Callback):
        def on_step_end(self, trainer):
            if trainer.step == at:
                raise StopTraining("enough")

    options = {"optimizer": optimizer, "microbatch": microbatch}
    trainer, batches = make("cuda", poison_at=at * (1 if microbatch is None else 2), **options)
    with pytest.raises(NonFiniteError, match=rf"batch {at + 1} \(step {at}\): the loss is nan"):
        trainer.fit(batches, epochs=1)
    healthy, batches = make("cuda", poison_at=99, callbacks=[Stop()], **options)
    if at:
        healthy.fit(batches, epochs=1)
    assert same(snapshot(trainer), snapshot(healthy))
    assert len(trainer.history.steps) == at
    trainer.fit(batches, epochs=1)  # the next call of the model is healthy
    assert trainer.step == 6
    assert all(p.isfinite().all() for p in trainer.model.parameters())


def test_a_callback_never_sees_a_step_that_will_be_undone(gpu):
    class Count(Callback):
        def __init__(self):
            self.seen = []

        def on_step_end(self, trainer):
            self.seen.append(trainer.step)

    count = Count()
    trainer, batches = make("cuda", poison_at=3, callbacks=[count])
    with pytest.raises(NonFiniteError, match=r"step 3"):
        trainer.fit(batches, epochs=1)
    assert count.seen == [1, 2, 3]


def test_a_callback_that_reads_the_history_gets_every_step(gpu):
    rows = []

    class Read(Callback):
        def on_step_end(self, trainer):
            rows.append((len(trainer.history.steps), trainer.grad_norm))

    trainer, batches = make("cuda", callbacks=[Read()])
    trainer.fit(batches, epochs=1)
    assert [n for n, _ in rows] == [1, 2, 3, 4, 5, 6]
    assert [norm for _, norm in rows] == trainer.history.steps["grad_norm"].tolist()


def test_a_checkpoint_in_the_middle_of_an_epoch_has_every_step(gpu, tmp_path):
    straight, resumed, batches = run_and_resume(tmp_path)
    assert len(resumed.history.steps) == 4
    resumed.fit(batches, epochs=2)
    assert same(resumed.model.state_dict(), straight.model.state_dict())
    assert same(resumed.history.state_dict()["steps"], straight.history.state_dict()["steps"])


def test_without_a_fused_optimizer_each_step_is_read_before_the_weights_change(gpu):
    trainer, batches = make("cuda", poison_at=2)
    for group in trainer.optimizer.param_groups:
        group["fused"] = False
    with pytest.raises(NonFiniteError, match=r"step 2\): the loss is nan although the images"):
        trainer.fit(batches, epochs=1)
    assert not trainer._ahead.on


def test_a_wrong_label_is_refused_before_it_is_on_the_gpu(gpu):
    labels = LABELS.clone()
    labels[20] = K
    trainer, _ = make("cuda")
    with pytest.raises(DataError, match=f"labels run from 0 to {K}, but the model has {K} classes"):
        trainer.fit(loader(TensorDataset(IMAGES, labels), 8, device="cuda"), epochs=1)


def test_a_wrong_label_that_is_mixed_stops_the_run_and_changes_no_weight(gpu):
    labels = LABELS.clone()
    labels[20] = K
    trainer, _ = make("cuda", batch_transform=MixUp(1.0, K), ema=None)
    with pytest.raises(NonFiniteError, match=r"batch 3 \(step 2\)"):
        trainer.fit(loader(TensorDataset(IMAGES, labels), 8, device="cuda"), epochs=1)
    assert all(p.isfinite().all() for p in trainer.model.parameters())


def test_the_stand_in_sees_what_would_wait(gpu):
    on_gpu = torch.ones(3, device="cuda")
    assert on_gpu.is_cuda
    gpu.strict = True
    for read in (
        lambda: on_gpu.sum().item(),
        lambda: bool(on_gpu.sum() > 1),
        lambda: float(on_gpu.sum()),
        lambda: on_gpu.tolist(),
        lambda: on_gpu.cpu(),
        lambda: on_gpu.to("cpu"),
        lambda: on_gpu[on_gpu > 0],
        lambda: torch.ones(3).to("cuda"),
        lambda: torch.ones(3).to("cuda", non_blocking=True),
        lambda: torch.tensor([1.0], device="cuda"),
    ):
        with pytest.raises(HostWaits):
            read()
    with pytest.raises(RuntimeError, match="two devices"):
        on_gpu + torch.ones(3)
    to_device(torch.ones(3), torch.device("cuda")) + on_gpu
