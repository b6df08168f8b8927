"""Runs for one process and for several: `torchrun tests/torchrun_cases.py OUT`."""

import os
import signal
import sys
from functools import partial
from pathlib import Path

import torch
from torch import nn
from torch.utils.data import TensorDataset

from cnnlab import callbacks, distributed, loader, schedules
from cnnlab.augment import Augment
from cnnlab.averaging import EMA
from cnnlab.mixing import CutMix, MixUp
from cnnlab.models import small_resnet, stages
from cnnlab.trainer import Callback, StopTraining, Trainer


K = 3


def dataset(n, seed=0):
    draw = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, K, (n,), generator=draw)
    images = torch.rand(n, 3, 8, 8, generator=draw) / 2 + labels[:, None, None, None] / 6
    return TensorDataset(images, labels)


class Scaled(nn.Module):
    """A loss with a parameter of its own, and a buffer that follows the batches of each process."""

    def __init__(self, follows=False):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0 + int(os.environ.get("RANK", "0"))))
        self.register_buffer("centre", torch.zeros(K))
        self.follows = follows

    def forward(self, logits, targets):
        if self.follows and self.training:
            self.centre.lerp_(logits.detach().float().mean(0), 0.1)
        return nn.functional.cross_entropy(logits * self.scale - self.centre, targets)


def confidence(logits, targets):
    return logits.softmax(1).amax(1).mean()


CASES = {
    "plain": {},
    "metrics": {"metrics": {"confidence": confidence}},
    "a loss that learns": {"loss": Scaled},
    "microbatch": {"microbatch": 3},
    "mixing": {"batch_transform": [Augment(flip=0.5, crop_pad=1), MixUp(0.4, K)]},
    "cutmix and microbatch": {"batch_transform": CutMix(1.0, K), "microbatch": 5},
    "weights": {"loss_fn": nn.CrossEntropyLoss(torch.tensor([1.0, 2.0, 5.0]))},
    "clip": {"clip_norm": 0.05},
    "ema": {"ema": 0.9},
    "bf16": {"precision": "bf16"},
    "unfreeze": {"unfreeze": [1, 2]},
}
# The processes agree, but each sees only its shard, so a single process gets something else.
SHARDED = {"a loss with a buffer": {"loss": partial(Scaled, follows=True)}}


def trainer_of(options, norm="layer"):
    """A trainer whose network treats samples separately; processes start with other weights."""
    options = dict(options)
    torch.manual_seed(int(os.environ.get("RANK", "0")))
    model = small_resnet(K, width=4, depth=1, norm=norm)
    parameters = [*model.parameters()]
    if make_loss := options.pop("loss", None):
        options["loss_fn"] = make_loss()
        parameters += options["loss_fn"].parameters()
    optimizer = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=1e-3)
    watchers = list(options.pop("callbacks", []))
    if unfreeze := options.pop("unfreeze", None):
        watchers.append(callbacks.GradualUnfreeze(stages(model), unfreeze))
    if decay := options.pop("ema", None):
        options["ema"] = EMA(model, decay)
    scheduler = schedules.attach(optimizer, schedules.cosine(3 * 7))
    return Trainer(
        model,
        optimizer,
        scheduler=scheduler,
        callbacks=watchers,
        seed=3,
        device="cpu",
        progress=False,
        **options,
    )


def train_batches():
    return loader(dataset(67), 10, seed=1, shuffle=True, drop_last=False)


def run(name):
    """Train for three epochs of 7 batches, the last of them short and odd; return what came out."""
    trainer = trainer_of((CASES | SHARDED)[name])
    trainer.fit(train_batches(), loader(dataset(45, seed=1), 10), epochs=3)
    rows = trainer.history.frame().drop(columns="seconds").to_numpy()
    measured = trainer.evaluate(loader(dataset(23, seed=2), 4))
    return {
        "weights": {k: v.clone() for k, v in trainer.model.state_dict().items()},
        "loss": dict(trainer.loss_fn.state_dict()) if isinstance(trainer.loss_fn, Scaled) else {},
        "average": trainer.ema.model.state_dict() if trainer.ema else {},
        "history": torch.tensor(rows),
        "steps": torch.tensor(trainer.history.steps.to_numpy()),
        "measured": torch.tensor(list(measured.values())),
        "logits": trainer.predict(loader(dataset(9, seed=2), 4)),
    }


class Accident(Callback):
    """Kill the second process at a step of its first attempt, or ask it to end."""

    def __init__(self, step, number):
        self.at, self.number = step, number

    def on_step_end(self, trainer):
        first_life = os.environ.get("TORCHELASTIC_RESTART_COUNT") == "0"
        if trainer.step == self.at and distributed.rank() == 1 and first_life:
            os.kill(os.getpid(), self.number)


def with_accident(folder, number):
    """Train with batch norm and dropout, saving checkpoints; resume if there are some."""
    watchers = [callbacks.Checkpoint(folder / "checkpoints"), callbacks.CSVLog(folder / "log.csv")]
    watchers.append(callbacks.EarlyStopping("valid_loss", "min", patience=2))
    if number:
        watchers.append(Accident(16, number))
    trainer = trainer_of({"callbacks": watchers}, norm="batch")
    if (folder / "checkpoints").exists():
        trainer.load(folder / "checkpoints")
    trainer.fit(train_batches(), loader(dataset(45, seed=1), 10), epochs=3)
    return trainer


class StopOne(Callback):
    """Ask for an end in the second process alone."""

    def on_step_end(self, trainer):
        if trainer.step == 5 and distributed.rank() == 1:
            raise StopTraining("enough")


def alone():
    """What goes wrong, or is asked for, in one process is known to the other."""
    stopped = trainer_of({"callbacks": [StopOne()]})
    stopped.fit(train_batches(), epochs=3)
    images, labels = dataset(24).tensors
    labels[3] = K  # in the second of six batches, which the second process evaluates
    try:
        stopped.evaluate(loader(TensorDataset(images, labels), 4))
    except Exception as error:  # noqa: BLE001 - another one in each process
        message = str(error)
    after = stopped.evaluate(loader(dataset(24), 4))  # nobody hangs
    try:
        trainer_of({}).fit(loader(dataset(24 - 8 * distributed.rank()), 4), epochs=3)
    except Exception as error:  # noqa: BLE001 - the same one in both
        unequal = str(error)
    averaged = trainer_of({"ema": 0.5}, norm="batch")
    averaged.fit(train_batches(), epochs=1)
    averaged.evaluate(loader(dataset(24), 4), model=averaged.ema.model)
    buffers = torch.cat([b.flatten().float() for b in averaged.ema.model.buffers()])
    return {
        "step": stopped.step,
        "message": message,
        "after": after["loss"],
        "unequal": unequal,
        "buffers": buffers,
    }


def main(what, out):
    if what == "alone":
        result = alone()
    elif what == "cases":
        result = {name: run(name) for name in CASES | SHARDED}
    else:
        trainer = with_accident(out, {"killed": signal.SIGKILL, "asked": signal.SIGTERM}.get(what))
        result = {"weights": trainer.model.state_dict(), "step": trainer.step}
        result["reason"] = trainer.history.stop_reason
    torch.save(result, out / f"result-{os.environ['RANK']}.pt")


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
