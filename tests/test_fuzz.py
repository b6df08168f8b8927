"""Random runs: whatever is combined, a fit ends, or one of our own errors says why not.

`CNNLAB_FUZZ=5000 pytest tests/test_fuzz.py` tries so many runs, other ones each time.
"""

import functools
import math
import os
import tempfile
import traceback
from collections import Counter
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_trainer import StopAt, same
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import cnnlab
from cnnlab import callbacks, schedules
from cnnlab.augment import Augment, ramp
from cnnlab.averaging import EMA, SWA
from cnnlab.data import loader
from cnnlab.errors import CnnlabError
from cnnlab.mixing import CutMix, MixUp, either, soft_cross_entropy
from cnnlab.models import small_resnet, stages
from cnnlab.trainer import Trainer


RUNS = int(os.environ.get("CNNLAB_FUZZ", "0"))
LIBRARY = str(Path(cnnlab.__file__).parent)


# --- what can be put together ---------------------------------------------------------------------


def conv(k, c, size, norm=True):
    layers = [
        nn.Conv2d(c, 4, 3, padding=1),
        nn.BatchNorm2d(4) if norm else nn.Identity(),
        nn.ReLU(),
    ]
    return nn.Sequential(
        *layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.2), nn.Linear(4, k)
    )


MODELS = {
    "convolution": conv,
    "without norm": functools.partial(conv, norm=False),
    "linear": lambda k, c, size: nn.Sequential(nn.Flatten(), nn.Linear(c * size * size, k)),
    "resnet": lambda k, c, size: small_resnet(k, c, width=4, depth=1, dropout=0.1),
    "resnet, layer norm": lambda k, c, size: small_resnet(k, c, width=4, depth=1, norm="layer"),
}
OPTIMIZERS = {
    "sgd": lambda p, lr: torch.optim.SGD(p, lr=lr, momentum=0.9, weight_decay=1e-3),
    "adamw": lambda p, lr: torch.optim.AdamW(p, lr=lr),
    "two groups": lambda p, lr: torch.optim.SGD(
        [{"params": p[:1], "lr": lr / 10}, {"params": p[1:]}], lr=lr
    ),
}
SCHEDULES = {
    "constant": lambda n: schedules.constant(),
    "cosine": schedules.cosine,
    "warm-up": lambda n: schedules.warmup(n, then=schedules.linear(n)),
    "one cycle": schedules.one_cycle,
    "restarts": lambda n: schedules.warm_restarts(n, mult=2),
    "steps": schedules.step,
}
BATCH_TRANSFORMS = {
    "flip": lambda k: Augment(flip=0.5, crop_pad=1),
    "colours": lambda k: Augment(brightness=0.3, contrast=0.3, saturation=0.3, hue=0.2, noise=0.1),
    "all of it": lambda k: Augment(
        rotate=30, scale=(0.5, 1.5), shear=10, translate=0.3, erase=0.5, blur=1.0,
        resized_crop=(0.1, 1.0), vflip=0.5, strength=ramp(0, 1, steps=3),
    ),
    "mixup": lambda k: MixUp(0.4, k),
    "cutmix": lambda k: CutMix(1.0, k),
    "list": lambda k: [Augment(flip=0.5), either(MixUp(0.4, k), CutMix(1.0, k), p=(0.3, 0.3))],
    "own": lambda k: lambda images, targets: (images + torch.rand(()), targets),
}  # fmt: skip
LOSSES = {
    "smooth": lambda k: nn.CrossEntropyLoss(label_smoothing=0.1),
    "weighted, one with 0": lambda k: nn.CrossEntropyLoss(weight=torch.arange(0.0, k)),
    "weights of another length": lambda k: nn.CrossEntropyLoss(weight=torch.ones(k + 1)),
    "weighted": lambda k: nn.CrossEntropyLoss(weight=torch.arange(1.0, k + 1)),
    "soft": lambda k: functools.partial(soft_cross_entropy, smoothing=0.1),
    "soft, weighted": lambda k: functools.partial(
        soft_cross_entropy, weight=torch.arange(1.0, k + 1)
    ),
}


class Wrapped(nn.Module):
    """A model that returns a dictionary."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, images):
        return {"out": self.net(images), "aux": images.mean()}


class Centred(nn.Module):
    """A loss with a parameter and a buffer of its own."""

    def __init__(self, k):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.register_buffer("centre", torch.zeros(k))

    def forward(self, logits, targets):
        if self.training:
            self.centre.lerp_(logits.detach().float().mean(0), 0.1)
        return F.cross_entropy(logits * self.scale - self.centre, targets)


def one_hot(y, k, size):
    return F.one_hot(y, k).float()


def per_pixel(y, k, size):
    return y[:, None, None].expand(-1, size, size).contiguous()


# name -> loss, model around or instead of the network, targets from the labels
TASKS = {
    "regression": (lambda k: nn.MSELoss(), None, one_hot),
    "several labels": (lambda k: nn.BCEWithLogitsLoss(), None, one_hot),
    "ignored labels": (lambda k: nn.CrossEntropyLoss(ignore_index=0), None, None),
    "ignored and weighted": (
        lambda k: nn.CrossEntropyLoss(torch.arange(1.0, k + 1), ignore_index=0), None, None,
    ),
    "pixels": (
        lambda k: nn.CrossEntropyLoss(ignore_index=0),
        lambda net, k, c: nn.Sequential(nn.Conv2d(c, 4, 3, padding=1), nn.Conv2d(4, k, 1)),
        per_pixel,
    ),
    "dictionary": (
        lambda k: lambda outputs, y: F.cross_entropy(outputs["out"], y),
        lambda net, k, c: Wrapped(net),
        None,
    ),
    "loss with a state": (Centred, None, None),
}  # fmt: skip


def mean_output(outputs, targets):
    return (outputs["out"] if isinstance(outputs, dict) else outputs).mean()


CALLBACKS = {
    "early": lambda model, folder: callbacks.EarlyStopping("train_loss", "min", patience=1),
    "early, valid": lambda model, folder: callbacks.EarlyStopping("valid_acc", "max", patience=0),
    "save": lambda model, folder: callbacks.Checkpoint(folder / "run", best="train_loss"),
    "snapshots": lambda model, folder: callbacks.SnapshotEnsemble(cycle_steps=2),
    "norms": lambda model, folder: callbacks.GradNormLog(),
    "ratios": lambda model, folder: callbacks.UpdateRatioLog(),
    "table": lambda model, folder: callbacks.CSVLog(folder / "log.csv"),
    "average": lambda model, folder: SWA(model, start_epoch=1),
    "unfreeze": lambda model, folder: callbacks.GradualUnfreeze(
        (parts := stages(model)), range(1, len(parts))
    ),
}
# What makes a batch something that cannot be trained on, or should not be.
FAULTS = {
    "bytes": lambda x, y, k: ((x * 255).byte(), y),
    "float64": lambda x, y, k: (x.double(), y),
    "half": lambda x, y, k: (x.half(), y),
    "channels last": lambda x, y, k: (x.permute(0, 2, 3, 1), y),
    "no batch": lambda x, y, k: (x[0], y[:1]),
    "flat": lambda x, y, k: (x.flatten(1), y),
    "five axes": lambda x, y, k: (x[:, None], y),
    "another channel": lambda x, y, k: (torch.cat([x, x[:, :1]], 1), y),
    "nan": lambda x, y, k: (x / 0, y),
    "huge": lambda x, y, k: (x * 1e38, y),
    "empty": lambda x, y, k: (x[:0], y[:0]),
    "no pixels": lambda x, y, k: (x[..., :0], y),
    "fewer labels": lambda x, y, k: (x, y[:-1]),
    "label too large": lambda x, y, k: (x, y + k),
    "negative label": lambda x, y, k: (x, y - 1),
    "ignored labels": lambda x, y, k: (x, torch.full_like(y, -100)),
    "int32": lambda x, y, k: (x, y.int()),
    "float labels": lambda x, y, k: (x, y.float()),
    "bool labels": lambda x, y, k: (x, y.bool()),
    "column": lambda x, y, k: (x, y[:, None]),
    "one-hot": lambda x, y, k: (x, F.one_hot(y, k)),
    "soft": lambda x, y, k: (x, F.one_hot(y, k).float()),
    "soft float64": lambda x, y, k: (x, F.one_hot(y, k).double()),
    "nan targets": lambda x, y, k: (x, F.one_hot(y, k) / 0),
    "one class short": lambda x, y, k: (x, F.one_hot(y, k + 1).float()),
    "list": lambda x, y, k: (x, y.tolist()),
    "alone": lambda x, y, k: x,
    "triple": lambda x, y, k: (x, y, y),
    "dictionary": lambda x, y, k: {"images": x, "targets": y},
    "no targets": lambda x, y, k: (x, None),
}
OPTION_FAULTS = {
    "clip_norm": [0, -1, math.nan, "1", 1e-30, math.inf],
    "clip_value": [0, -1.0, math.nan, 1.0],
    "precision": ["fp16", "fp8", 16, None],
    "microbatch": [0, -1, 2.5, "2", True],
    "batch_transform": [5, "flip", lambda x, y: None, lambda x, y: (x[:1], y)],
    "scheduler": [schedules.constant(), 5],
    "plateau": [5],
    "loss_fn": [nn.MSELoss(), 5, lambda logits, y: logits, lambda logits, y: 1.0],
    "callbacks": [[5], callbacks.GradNormLog(), None],
    "ema": [5, 0.99],
    "seed": [None, 0.5, "0", -1],
    "device": ["gpu", 7, "cuda:99"],
}


def made_of(options, share=2):
    """One of the options, or None, the rest of the time."""
    return st.none() if not options else st.sampled_from([None] * share + list(options))


RUN = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 99),
        "n": st.integers(1, 13),
        "batch_size": st.integers(1, 6),
        "classes": st.integers(2, 4),
        "channels": st.sampled_from([1, 3]),
        "size": st.integers(1, 9),
        "model": st.sampled_from(list(MODELS)),
        "optimizer": st.sampled_from(list(OPTIMIZERS)),
        "rate": st.sampled_from([0.0, 1e-3, 0.1, 1.0, 1e6]),
        "schedule": made_of(SCHEDULES, share=4),
        "schedule_steps": st.integers(1, 9),
        "plateau": st.sampled_from([False] * 5 + [True]),
        "transform": made_of(BATCH_TRANSFORMS, share=4),
        "loss": made_of(LOSSES, share=4),
        "callbacks": st.lists(st.sampled_from(list(CALLBACKS)), max_size=3, unique=True),
        "loader": st.sampled_from(
            ["ours", "ours", "torch", "torch, generator", "arrays", "list", "generator"]
        ),
        "task": made_of(TASKS, share=12),
        "metrics": st.booleans(),
        "shuffle": st.booleans(),
        "valid": st.sampled_from([None, "ours", "list", "empty"]),
        "epochs": st.integers(1, 3),
        "clip_norm": st.sampled_from([None, None, None, 1.0]),
        "clip_value": st.sampled_from([None] * 7 + [0.5]),
        "microbatch": st.sampled_from([None, None, 1, 2, 3]),
        "precision": st.sampled_from(["fp32", "fp32", "bf16"]),
        "ema": st.sampled_from([None, None, 0.0, 0.9]),
        "channels_last": st.booleans(),
        "cut": st.integers(1, 8),
        "fault": made_of(FAULTS, share=40),
        "wrong": made_of(
            [(k, i) for k, v in OPTION_FAULTS.items() for i in range(len(v))], share=60
        ),
    }
)


# --- putting it together --------------------------------------------------------------------------


def data(run, n):
    g = torch.Generator().manual_seed(run["seed"])
    images = torch.rand(n, run["channels"], run["size"], run["size"], generator=g)
    labels = torch.arange(n) % run["classes"]
    make_targets = TASKS[run["task"]][2] if run["task"] else None
    return images, make_targets(labels, run["classes"], run["size"]) if make_targets else labels


def spoilt(run, batches):
    """The batches, the last of them with the fault of the run."""
    batches = list(batches)
    if batches and run["fault"] and not run["task"]:
        batches[-1] = FAULTS[run["fault"]](*batches[-1], run["classes"])
    return batches


def training_data(run):
    dataset = TensorDataset(*data(run, run["n"]))
    shuffle, size = run["shuffle"], run["batch_size"]
    if run["loader"] == "ours" and not run["fault"]:
        return loader(dataset, size, shuffle=shuffle)
    if run["loader"] == "torch" and not run["fault"]:
        return DataLoader(dataset, size, shuffle=shuffle)
    if run["loader"] == "torch, generator" and not run["fault"]:
        return DataLoader(dataset, size, shuffle=shuffle, generator=torch.Generator())
    batches = spoilt(run, loader(dataset, size, shuffle=shuffle))
    if run["loader"] == "arrays" and not run["fault"]:
        return [(x.double().numpy(), y.numpy()) for x, y in batches]
    return (batch for batch in batches) if run["loader"] == "generator" else batches


def validation_data(run):
    dataset = TensorDataset(*data(run, 5))
    made = {"ours": lambda: loader(dataset, 3), "list": lambda: [dataset[:3]], "empty": list}
    return made[run["valid"]]() if run["valid"] else None


def trainer_of(run, folder, *more):
    k = run["classes"]
    with torch.random.fork_rng():
        torch.manual_seed(run["seed"])
        model = MODELS[run["model"]](k, run["channels"], run["size"])
        make_loss, around, _ = TASKS[run["task"]] if run["task"] else (None, None, None)
        model = around(model, k, run["channels"]) if around else model
    loss_fn = make_loss(k) if make_loss else None
    learnt = list(loss_fn.parameters()) if isinstance(loss_fn, nn.Module) else []
    optimizer = OPTIMIZERS[run["optimizer"]]([*model.parameters(), *learnt], run["rate"])
    options = {name: run[name] for name in ("clip_norm", "clip_value", "microbatch", "precision")}
    options |= {"seed": run["seed"], "channels_last": run["channels_last"]}
    if run["schedule"]:
        schedule = SCHEDULES[run["schedule"]](run["schedule_steps"])
        options["scheduler"] = schedules.attach(optimizer, schedule)
    elif run["plateau"]:
        options["plateau"] = schedules.Plateau(optimizer, patience=0)
    if run["transform"]:
        options["batch_transform"] = BATCH_TRANSFORMS[run["transform"]](k)
    if run["loss"] or run["task"]:
        options["loss_fn"] = loss_fn or LOSSES[run["loss"]](k)
    if run["metrics"]:
        options["metrics"] = {"mean": mean_output}
    if run["ema"] is not None:
        options["ema"] = EMA(model, run["ema"])
    watchers = [CALLBACKS[name](model, folder) for name in run["callbacks"]]
    options["callbacks"] = [*watchers, *more]
    if run["wrong"]:
        name, i = run["wrong"]
        options[name] = OPTION_FAULTS[name][i]
    return Trainer(model, optimizer, progress=False, **{"device": "cpu"} | options)


# --- the law --------------------------------------------------------------------------------------


def is_ours(error):
    """Whether an error is one of the library's, or was raised by a `raise` in the library."""
    last = traceback.extract_tb(error.__traceback__)[-1]
    raised = last.filename.startswith(LIBRARY) and last.line.startswith(
        ("raise ", "warnings.warn(")
    )
    kinds = ValueError | TypeError | UserWarning  # warnings are errors in the tests
    return isinstance(error, CnnlabError) or (raised and isinstance(error, kinds))


def attempt(run):
    """Train as the run says: the trainer, or None where the library said why not."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            trainer = trainer_of(run, Path(folder))
            trainer.fit(training_data(run), validation_data(run), epochs=run["epochs"])
        except Exception as error:
            if not is_ours(error):
                raise
            return None
    return trainer


def check_end(run, trainer):
    history = trainer.history
    assert len(history.frame()) == trainer.epoch
    assert trainer.epoch == run["epochs"] or history.stop_reason
    assert not trainer.model.training
    # A huge last step may still throw the weights out of range; nothing looks at them after it.
    assert run["rate"] > 1 or all(p.isfinite().all() for p in trainer.model.parameters())


def check_cut(run, whole):
    """Stopped after a step, saved, and resumed by another trainer: the same bits."""
    with tempfile.TemporaryDirectory() as folder:
        first, path = Path(folder, "first"), Path(folder, "run.pt")
        arguments = training_data(run), validation_data(run)
        stopped = trainer_of(run, first, StopAt(run["cut"]))
        stopped.fit(*arguments, epochs=run["epochs"])
        stopped.save(path)
        resumed = trainer_of(run, Path(folder, "second"))
        resumed.load(path)
        resumed.fit(*arguments, epochs=run["epochs"])
    for name in ("model", "optimizer", "scheduler", "plateau", "ema", "history"):
        one, other = whole.state_dict()[name], resumed.state_dict()[name]
        assert same(one, other), name


def trial(run):
    trainer = attempt(run)
    if trainer is None:
        return "refused"
    check_end(run, trainer)
    if run["loader"] != "generator" and "save" not in run["callbacks"]:
        check_cut(run, trainer)
    return "trained"


@pytest.mark.slow
def test_a_made_up_run_ends_or_is_refused_with_a_sentence_and_resumes_exactly():
    ends = Counter()

    @given(RUN)
    @settings(
        max_examples=RUNS or 150,
        derandomize=not RUNS,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
    )
    def search(run):
        ends[trial(run)] += 1

    search()
    assert ends["trained"] > ends.total() / 5, ends  # else the law would hold of nothing
