import copy
import math
import re

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from test_trainer import K, batches, dataset, make, net, same
from torch import nn

from cnnlab.models import replace_head, small_resnet, stages
from cnnlab.schedules import attach, cosine, warmup
from cnnlab.trainer import Trainer
from cnnlab.transfer import advise, freeze, param_groups, train_mode, unfreeze


def resnet(**options):
    torch.manual_seed(0)
    return small_resnet(K, width=4, **options)


# --- freezing -------------------------------------------------------------------------------------


def test_a_frozen_backbone_never_changes_and_gives_the_same_features_in_training_and_inference():
    model = resnet()
    for module in (model.stem, model.blocks):
        freeze(module)
    before = copy.deepcopy({"stem": model.stem.state_dict(), "blocks": model.blocks.state_dict()})
    head = copy.deepcopy(model.head.state_dict())
    make(model).fit(batches(), epochs=3)
    assert same(before, {"stem": model.stem.state_dict(), "blocks": model.blocks.state_dict()})
    assert not same(head, model.head.state_dict())
    images = dataset().tensors[0]
    assert same(model.features(images), train_mode(model).features(images))


@pytest.mark.parametrize("stale", ["gradient", "zeros"])
def test_freezing_removes_the_gradient_so_that_momentum_does_not_move_the_weights(stale):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
    F.cross_entropy(model(dataset().tensors[0]), dataset().tensors[1]).backward()
    optimizer.step()
    if stale == "zeros":
        optimizer.zero_grad(set_to_none=False)
    assert freeze(model[0]) is model[0]
    before, other = copy.deepcopy(model[0].state_dict()), model[6].weight.detach().clone()
    optimizer.step()
    assert same(before, model[0].state_dict())
    assert not same(other, model[6].weight)
    assert unfreeze(model[0]) is model[0]
    assert all(p.requires_grad and p.grad is None for p in model[0].parameters())
    assert model[6].weight.grad is not None


def test_unfreezing_removes_a_gradient_from_before_the_freezing():
    layer = nn.Linear(2, 2)
    layer(torch.ones(1, 2)).sum().backward()
    layer.weight.requires_grad_(False)  # by hand, which leaves the gradient where it is
    unfreeze(layer)
    assert layer.weight.grad is None
    assert layer.bias.grad is not None  # it was never frozen


class Odd(nn.Module):
    """Batch-norm layers without parameters: one in a submodule of its own, one in the model."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 4, 3), nn.Sequential(nn.BatchNorm2d(4, affine=False))
        )
        self.loose = nn.BatchNorm2d(4, affine=False)
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, K))

    def forward(self, images):
        return self.head(self.loose(self.body(images)))


def test_a_batch_norm_without_parameters_is_frozen_with_the_module_around_it():
    model = Odd()
    freeze(model.body)
    before = copy.deepcopy(model.body.state_dict())
    make(model).fit(batches(), epochs=2)
    assert same(before, model.body.state_dict())
    assert model.loose.num_batches_tracked == 10
    train_mode(unfreeze(model))
    assert all(module.training for module in model.modules())


def test_train_mode_looks_at_the_parameters_at_every_call():
    model = resnet()
    freeze(model.blocks[0])
    train_mode(model)
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    inside = {m for m in model.blocks[0].modules() if isinstance(m, nn.BatchNorm2d)}
    assert inside
    assert [m.training for m in norms] == [m not in inside for m in norms]
    model.train()
    assert [m.training for m in train_mode(model).modules() if m in inside] == [False] * len(inside)
    freeze(model)
    assert not any(m.training for m in train_mode(model).modules() if m in set(norms))
    bare = nn.BatchNorm1d(3, affine=False)  # nothing in this model can be frozen
    assert train_mode(bare).training


# --- parameter groups -----------------------------------------------------------------------------


def plain_network(depth, norm):
    """Return a plain sequence of `depth` convolutions, each followed by batch norm or not."""
    layers = []
    for _ in range(depth):
        layers += [nn.Conv2d(3, 3, 1), *([nn.BatchNorm2d(3)] if norm else [])]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(12, 2))


@settings(deadline=None, max_examples=40)
@given(
    depth=st.integers(0, 3),
    ours=st.booleans(),
    norm=st.booleans(),
    frozen=st.sets(st.integers(0, 6)),
    layer_decay=st.none() | st.floats(0.1, 1.0),
    head_lr=st.none() | st.floats(1e-4, 1.0),
)
def test_every_parameter_is_in_exactly_one_group_with_the_learning_rate_of_its_depth(
    depth, ours, norm, frozen, layer_decay, head_lr
):
    model = (
        small_resnet(3, width=2, depth=depth, norm="batch" if norm else "none")
        if ours
        else plain_network(depth, norm)
    )
    parts = stages(model)
    for index in frozen & set(range(len(parts))):
        freeze(parts[index])
    groups = param_groups(model, 0.1, 0.02, layer_decay=layer_decay, head_lr=head_lr)
    listed = [id(p) for group in groups for p in group["params"]]
    assert sorted(listed) == sorted(id(p) for p in model.parameters())
    names = [group["name"] for group in groups]
    assert len(set(names)) == len(names)
    assert names[0] == "head"
    depths = {id(p): d for d, stage in enumerate(reversed(parts)) for p in stage.parameters()}
    for group in groups:
        (d,) = {depths[id(p)] for p in group["params"]}
        expected = 0.1 * (layer_decay or 1.0) ** d
        if d == 0 and head_lr is not None:
            expected = head_lr
        assert group["lr"] == expected
        biases = {id(p) for n, p in model.named_parameters() if n.endswith("bias") or p.ndim <= 1}
        assert {id(p) in biases for p in group["params"]} == {group["weight_decay"] == 0}


@pytest.mark.parametrize("make_optimizer", [torch.optim.SGD, torch.optim.AdamW])
def test_a_schedule_keeps_the_ratios_of_the_learning_rates(make_optimizer):
    model = resnet()
    groups = param_groups(model, 0.01, layer_decay=0.5, head_lr=0.02)
    optimizer = make_optimizer(groups)
    base = {0: 0.02, 1: 0.005, 2: 0.0025, 3: 0.00125}
    schedule = warmup(4, cosine(6, final=0.1))
    scheduler = attach(optimizer, schedule)
    trainer = Trainer(model, optimizer, scheduler=scheduler, device="cpu", progress=False)
    trainer.fit(batches(), epochs=1)
    for group in optimizer.param_groups:
        name = group["name"].removesuffix(", no decay")
        depth = int(name.removeprefix("head - ")) if name != "head" else 0
        assert group["lr"] == pytest.approx(base[depth] * schedule(5), rel=1e-12)
    assert trainer.history.steps["lr"].iloc[-1] == pytest.approx(0.02 * schedule(4))
    other = Trainer(
        copy.deepcopy(model), make_optimizer(param_groups(model, 0.01, layer_decay=0.5)),
        device="cpu", progress=False,
    )  # fmt: skip
    assert len(other.optimizer.param_groups) == len(groups)


def test_a_parameter_that_two_stages_share_is_in_the_group_closer_to_the_head():
    shared = nn.Linear(3, 3, bias=False)
    model = nn.Sequential(nn.Sequential(shared), nn.Sequential(shared, nn.Linear(3, 2)))
    groups = param_groups(model, 1.0, layer_decay=0.5)
    assert [(g["name"], len(g["params"])) for g in groups] == [("head", 2), ("head, no decay", 1)]


class Loose(nn.Module):
    """A network whose forward pass can't be followed, with a parameter outside its children."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1, 2))
        self.stem, self.fc = nn.Linear(3, 2), nn.Linear(2, 2)

    def forward(self, x):
        return self.fc(self.stem(x) * self.scale) if x.sum() > 0 else x


def test_stages_of_ones_own_replace_the_automatic_ones():
    model = Loose()
    with pytest.raises(ValueError, match=r"scale of Loose.*stages="):
        param_groups(model, 0.1)
    own = [[model.stem, model.scale], model.fc]
    groups = param_groups(model, 0.1, 0.01, layer_decay=0.5, head_lr=1.0, stages=own)
    found = [(g["name"], g["lr"], [id(p) for p in g["params"]]) for g in groups]
    assert found == [
        ("head", 1.0, [id(model.fc.weight)]),
        ("head, no decay", 1.0, [id(model.fc.bias)]),
        ("head - 1", 0.05, [id(model.stem.weight), id(model.scale)]),
        ("head - 1, no decay", 0.05, [id(model.stem.bias)]),
    ]
    whole = param_groups(model, 0.1, stages=(model, model.fc))  # the upper one of two stages
    assert [len(g["params"]) for g in whole] == [1, 1, 2, 1]
    net = resnet()
    assert same(param_groups(net, 0.1, stages=stages(net)), param_groups(net, 0.1))


@pytest.mark.parametrize(
    ("own", "error", "message"),
    [
        (lambda m: [m.stem, m.fc], ValueError, "lacks 1 parameters of the model, scale"),
        (lambda m: [], ValueError, "lacks 5"),
        (lambda m: [m, nn.Linear(2, 2)], ValueError, "2 parameters that are not in the model"),
        (lambda m: ["stem", m], TypeError, "a stage must be a module.*'stem'"),
        (lambda m: [m.scale, m], TypeError, "a stage must be a module"),
        (lambda m: [[m.stem, None], m], TypeError, "a stage must be a module"),
    ],
)
def test_stages_that_do_not_cover_the_model_are_refused(own, error, message):
    model = Loose()
    with pytest.raises(error, match=message):
        param_groups(model, 0.1, stages=own(model))


def test_options_out_of_range_are_refused():
    for options in (
        {"layer_decay": 0.0},
        {"layer_decay": 1.5},
        {"head_lr": 0.0},
        {"weight_decay": -1.0},
    ):
        with pytest.raises(ValueError, match=r"layer_decay must|learning rates must"):
            param_groups(resnet(), 0.1, **options)
    with pytest.raises(ValueError, match="learning rates must be positive"):
        param_groups(resnet(), 0.0)


# --- advice ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("n", "similarity", "strategy"),
    [
        (10, "high", "feature extraction"),
        (10, "low", "top layers"),
        (1000, "high", "fine-tuning"),
        (1000, "low", "full training"),
        (99, 0.5, "feature extraction"),
        (100, 0.49, "full training"),
    ],
)
def test_the_advice_follows_the_two_by_two_table(n, similarity, strategy):
    advice = advise(n, similarity)
    assert advice.strategy == strategy
    assert len(advice.reason) > 40


@pytest.mark.parametrize(
    ("n", "similarity", "said"),
    [
        (10, "high", "linear classifier on its features"),
        (10, "low", "success is not guaranteed.*earlier stage.*fine-tuning"),
        (1000, "high", "a few of the later stages, and more of them the more images"),
        (1000, "low", "all stages.*often worthwhile.*from scratch"),
    ],
)
def test_the_reason_says_what_the_lectures_say_about_the_cell(n, similarity, said):
    assert re.search(said, advise(n, similarity).reason)


@pytest.mark.parametrize(
    ("n", "similarity"), [(0, "high"), (math.nan, 0.5), (10, "medium"), (10, 1.5), (10, math.nan)]
)
def test_advise_refuses_arguments_out_of_range(n, similarity):
    with pytest.raises(ValueError, match=r"n_per_class|similarity"):
        advise(n, similarity)


def test_a_new_head_keeps_the_mode_of_the_model_and_replaces_an_earlier_new_head():
    images = torch.rand(4, 12)
    model = replace_head(nn.Sequential(nn.Linear(12, 8), nn.Linear(8, 3)).eval(), 5, dropout=0.5)
    assert torch.equal(model(images), model(images))
    assert not any(module.training for module in model.modules())
    assert isinstance(replace_head(model, 7)[1], nn.Linear)
    resnet = replace_head(small_resnet(3, width=4, depth=1).eval(), 5, dropout=0.5)
    assert not any(module.training for module in resnet.modules())
