"""The public names: they exist, take what they took, and are explained."""

import doctest
import importlib
import inspect

import pytest

import cnnlab
from cnnlab import check


# What assignments and other people's code rely on. A change here is a change for them: say it in
# CHANGELOG.md.
SIGNATURES = {
    "schedules.constant": "()",
    "schedules.linear": "(steps, final=0.0)",
    "schedules.step": "(size, gamma=0.1)",
    "schedules.multistep": "(milestones, gamma=0.1)",
    "schedules.cosine": "(steps, final=0.0)",
    "schedules.inverse_sqrt": "(timescale=1)",
    "schedules.warm_restarts": "(first, mult=1, final=0.0)",
    "schedules.warmup": "(steps, then, start=0.0)",
    "schedules.one_cycle": "(steps, peak_fraction=0.3, div_factor=25.0, final_div_factor=10000.0)",
    "schedules.one_cycle_momentum": "(steps, low=0.85, high=0.95, peak_fraction=0.3)",
    "schedules.Plateau": (
        "(optimizer, mode='min', factor=0.1, patience=10, min_delta=0.0, min_lr=0.0)"
    ),
    "schedules.trace": "(schedule, steps)",
    "schedules.attach": "(optimizer, schedule, momentum=None)",
    "trainer.Trainer": (
        "(model, optimizer, loss_fn=None, *, scheduler=None, plateau=None, "
        "batch_transform=None, clip_norm=None, clip_value=None, precision='fp32', "
        "microbatch=None, ema=None, callbacks=(), seed=0, device=None, channels_last=False, "
        "compile=False, progress=None, metrics=None)"
    ),
    "trainer.Trainer.fit": "(self, train, valid=None, *, epochs)",
    "trainer.Trainer.evaluate": "(self, loader, *, model=None)",
    "trainer.Trainer.predict": "(self, loader, *, model=None)",
    "trainer.Trainer.save": "(self, path)",
    "trainer.Trainer.load": "(self, path)",
    "trainer.Trainer.state_dict": "(self)",
    "trainer.Trainer.load_state_dict": "(self, state)",
    "data.load": "(name, *, root=None, download=False, seed=0, **knobs)",
    "data.from_folder": "(path, *, valid=0.2, test=None, size=None, seed=0, on_error='raise')",
    "data.loader": (
        "(dataset, batch_size, *, seed=0, shuffle=False, sampler=None, drop_last=None, "
        "workers=0, device=None)"
    ),
    "data.balanced_sampler": "(labels, seed=0)",
    "data.imbalance": "(dataset, counts, seed=0)",
    "data.label_noise": "(dataset, rate, seed=0)",
    "models.small_resnet": (
        "(num_classes, in_channels=3, width=16, depth=2, norm='batch', dropout=0.0)"
    ),
    "models.initialise": "(model, scheme='he')",
    "models.replace_head": "(model, num_classes, dropout=0.0)",
    "models.stages": "(model)",
    "models.pretrained": "(name, num_classes, *, weights='default')",
    "models.classify": "(model, image, classes, *, size=None, top=3)",
    "models.Backbone.classify": "(self, images, top=3)",
    "distributed.launched": "()",
    "experiment.compare": "(variants, seeds, *, metric='test_acc', jobs=1)",
    "experiment.Results.claim": "(self, a, relation, b, by=0.0)",
    "experiment.Results.difference": "(self, a, b)",
    "diagnose.initial_loss": "(model, loader, loss_fn)",
    "diagnose.nan_hunt": "(model, batch, loss_fn)",
    "diagnose.grad_norms": "(model)",
    "diagnose.update_ratios": "(before, model)",
    "diagnose.diagnose": "(history, n_classes=None)",
    "callbacks.EarlyStopping": (
        "(monitor, mode, patience, min_delta=0.0, start_epoch=0, restore_best=True)"
    ),
    "callbacks.Checkpoint": "(path, every=1, keep=1, best=None, resume=False)",
    "callbacks.SnapshotEnsemble": "(cycle_steps)",
    "callbacks.GradualUnfreeze": "(stages, at_epochs)",
    "callbacks.GradNormLog": "()",
    "callbacks.UpdateRatioLog": "()",
    "callbacks.TensorBoardLog": "(dir)",
    "callbacks.CSVLog": "(path)",
    "averaging.EMA": "(model, decay=0.999)",
    "averaging.SWA": "(model, *, start_epoch=0)",
    "averaging.update_bn": "(model, loader)",
    "mixing.MixUp": "(alpha, num_classes, *, per_sample=True)",
    "mixing.CutMix": "(alpha, num_classes, *, per_sample=True)",
    "mixing.either": "(*transforms, p=None)",
    "mixing.soft_cross_entropy": "(logits, targets, weight=None, smoothing=0.0)",
    "augment.ramp": "(start, end, steps)",
    "data.class_weights": "(labels, scheme='balanced', *, beta=0.999)",
    "data.logit_adjustment": "(labels, tau=1.0)",
    "transfer.freeze": "(module)",
    "transfer.unfreeze": "(module)",
    "transfer.train_mode": "(model)",
    "transfer.param_groups": (
        "(model, lr, weight_decay=0.0, *, layer_decay=None, head_lr=None, stages=None)"
    ),
    "transfer.extract_features": "(model, loader)",
    "transfer.linear_probe": "(train, test, kind='logistic')",
    "transfer.retrieval": (
        "(query, query_labels, gallery, gallery_labels, *, k, exclude_self=False)"
    ),
    "transfer.advise": "(n_per_class, similarity)",
    "tune.lr_find": (
        "(model, optimizer=None, loss_fn=None, loader=None, *, low=1e-06, high=10.0, steps=100, "
        "batch_transform=None, seeds=1)"
    ),
    "tune.random_search": "(objective, space, n, seed=0, *, jobs=1)",
    "tune.grid_search": "(objective, space, *, jobs=1)",
    "tune.refine": "(space, results, top=3)",
    "tune.LogUniform": "(low, high)",
    "tune.Uniform": "(low, high)",
    "tune.Choice": "(options)",
    "diagnose.overfit_one_batch": "(model, batch, loss_fn, steps=100, lr=0.01)",
    "symptoms.silent_share": "(model, batch, loss_fn)",
    "symptoms.label_signal": "(images, labels)",
    "symptoms.shared_share": "(train, valid)",
    "symptoms.recalls": "(logits, labels)",
    "symptoms.moved_statistics": "(before, after)",
    "symptoms.sums_to_one": "(outputs)",
    "symptoms.unregistered_layers": "(model)",
    "symptoms.judge": "(vitals)",
    "clinic.case": "(n, seed=0)",
    "clinic.example": "(fault, seed=0)",
    "clinic.healthy": "(seed=0)",
    "clinic.diagnose": "(case, answer)",
    "clinic.examine": "(case)",
    "emergency.patient": "(n)",
    "emergency.admit": "(n, folder='emergency')",
    "emergency.discharge": "(n, cause=None, folder='emergency')",
    "emergency.twin": "(n, folder='emergency')",
    "emergency.ward": "(folder='emergency')",
    "check.grade": "(name, attempt, *, points=1.0, seed=0, key=None)",
    "check.prediction": "(question, guess, result=None, *, within=0.1, options=None, unit='')",
    "check.calibration": "()",
} | {f"check.{name}": "(fn)" for name in check.EXERCISES}


def find(name):
    module, *rest = name.split(".")
    found = importlib.import_module(f"cnnlab.{module}")
    for part in rest:
        found = getattr(found, part)
    return found


def bare(signature):
    """A signature without its annotations."""
    parameters = [p.replace(annotation=p.empty) for p in signature.parameters.values()]
    return str(signature.replace(parameters=parameters, return_annotation=signature.empty))


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_public_name_takes_what_it_is_known_to_take(name):
    assert bare(inspect.signature(find(name))) == SIGNATURES[name]


@pytest.mark.parametrize("name", SIGNATURES)
def test_a_public_name_is_explained(name):
    text = inspect.getdoc(find(name))
    assert text
    assert text.split("\n")[0].endswith(".")


FUNCTIONS = [name for name in SIGNATURES if inspect.isfunction(find(name)) and name.count(".") == 1]


@pytest.mark.parametrize(
    "name", [n for n in FUNCTIONS if n.split(".")[0] not in ("check", "experiment")]
)
def test_a_public_function_has_an_example_that_runs_as_a_test(name):
    assert doctest.DocTestParser().get_examples(find(name).__doc__)


def test_everything_in_all_is_there_and_nothing_else_is_offered():
    assert sorted(cnnlab.__all__) == cnnlab.__all__
    for name in cnnlab.__all__:
        assert getattr(cnnlab, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        cnnlab.nonsense  # noqa: B018


def test_the_loop_can_be_read_on_one_page():
    lines = inspect.getsource(cnnlab.Trainer).splitlines()
    first = next(i for i, line in enumerate(lines) if "def fit(" in line)
    last = next(i for i, line in enumerate(lines) if "def evaluate(" in line)
    assert [line.split("(")[0].split()[-1] for line in lines[first:last] if "    def " in line] == [
        "fit", "_train_epoch", "_update",
    ]  # fmt: skip
    assert last - first <= 70
