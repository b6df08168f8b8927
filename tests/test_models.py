import math

import pytest
import torch
from torch import nn

from cnnlab.models import Normalize, initialise, replace_head, small_resnet, stages


@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
@pytest.mark.parametrize("depth", [0, 1, 3])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_small_resnet_returns_logits_and_every_parameter_gets_a_gradient(
    norm, depth, channels
):
    model = small_resnet(5, channels, width=4, depth=depth, norm=norm)
    logits = model(torch.rand(2, channels, 32, 32))
    assert logits.shape == (2, 5)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_the_default_network_has_the_number_of_parameters_that_the_course_quotes():
    assert sum(p.numel() for p in small_resnet(12).parameters()) == 73_500


def test_the_initial_loss_is_close_to_the_log_of_the_number_of_classes():
    torch.manual_seed(0)
    images, labels = torch.rand(240, 3, 32, 32), torch.arange(240) % 12
    losses = []
    for _ in range(5):
        loss = nn.functional.cross_entropy(small_resnet(12)(images), labels)
        losses.append(loss.item())
    # Logits with He initialisation add about half their variance to log 12. The largest deviation
    # in 30 runs was a third of 0.6.
    assert abs(sum(losses) / 5 - math.log(12)) < 0.6


@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
def test_every_parameter_is_in_exactly_one_stage_and_the_head_is_the_last(norm):
    model = small_resnet(10, norm=norm, depth=3)
    in_stages = [id(p) for stage in stages(model) for p in stage.parameters()]
    assert sorted(in_stages) == sorted(id(p) for p in model.parameters())
    assert stages(model)[-1] is model.head


def test_layers_without_parameters_are_not_stages():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(4, 2))
    assert stages(model) == [model[0], model[3]]


def test_stages_names_the_parameters_that_are_in_no_child():
    model = nn.Module()
    model.scale = nn.Parameter(torch.ones(1))
    with pytest.raises(ValueError, match="parameters scale of Module"):
        stages(model)


# --- networks of one's own ------------------------------------------------------------------------


class HeadFirst(nn.Module):
    """Its layers are written down in another order than they run in."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 5)
        self.unused = nn.Linear(2, 2)
        self.hidden = nn.Linear(4, 8)
        self.norm = nn.BatchNorm2d(4)
        self.conv = nn.Conv2d(3, 4, 3)
        self.register_buffer("calls", torch.zeros(1))
        self.seen = None

    def forward(self, x):
        self.calls.add_(1)
        n, _, _, _ = x.shape
        self.seen = x
        x = self.norm(self.conv(x)).mean((2, 3)) + torch.rand(1)
        return self.fc(self.hidden(x).relu()).view(n, -1)


class Body(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1, self.conv2 = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 16, 3)

    def forward(self, x):
        return self.conv2(self.conv1(x).relu()).mean((2, 3))


class WithBody(nn.Module):
    def __init__(self, body):
        super().__init__()
        self.body, self.fc = body, nn.Linear(16, 5)

    def forward(self, x):
        return self.fc(self.body(x))


class Vit(nn.Module):
    """A small transformer with parameters of its own, and layers inside a layer of torch."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(16, 5)
        self.token = nn.Parameter(torch.zeros(1, 1, 16))
        self.position = nn.Parameter(torch.zeros(1, 5, 16))
        layer = nn.TransformerEncoderLayer(16, 2, 32, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 4, enable_nested_tensor=False)
        self.norm = nn.LayerNorm(16)
        self.patches = nn.Conv2d(3, 16, 4, 4)

    def forward(self, x, return_tokens=False, mask=None):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1) + self.position
        x = self.norm(self.encoder(x, mask))
        return x if return_tokens else self.head(x[:, 0])


class Untraceable(HeadFirst):
    def forward(self, x):
        return super().forward(x if x.mean() > 0 else -x)


def names_of(model, part):
    names = {id(p): name for name, p in model.named_parameters()}
    return {names[id(p)].removesuffix(".weight").removesuffix(".bias") for p in part.parameters()}


def test_stages_follow_the_forward_pass_and_not_the_order_of_definition():
    model = HeadFirst()
    torch.manual_seed(1)
    expected = torch.rand(1)
    torch.manual_seed(1)
    model.conv.register_forward_pre_hook(lambda *_: pytest.fail("a hook was called"))
    found = [names_of(model, part) for part in stages(model)]
    assert found == [{"conv", "norm"}, {"hidden"}, {"unused"}, {"fc"}]
    # Nothing was run.
    assert torch.equal(torch.rand(1), expected)
    assert (model.calls.item(), model.seen, model.training) == (0, None, True)


def test_a_child_with_most_weights_is_split_if_its_layers_run_one_after_the_other():
    model = WithBody(Body())
    assert stages(model) == [model.body.conv1, model.body.conv2, model.fc]
    block = small_resnet(3, width=8, depth=1).blocks[0]  # two layers and a shortcut around them
    model = WithBody(
        nn.Sequential(nn.Conv2d(3, 8, 1), block, nn.AdaptiveAvgPool2d(1), nn.Flatten())
    )
    assert stages(model) == [model.body[0], block, model.fc]


def test_a_transformer_is_split_into_its_layers_and_the_tokens_belong_to_the_stem():
    model = Vit()
    parts = stages(model)
    assert names_of(model, parts[0]) == {"patches", "token", "position"}
    assert [*parts[1:4], parts[-1]] == [*model.encoder.layers[:3], model.head]
    assert set(parts[4].modules()) >= {model.encoder.layers[3], model.norm}
    assert len(parts) == 6


def test_a_norm_is_no_stage_of_its_own():
    model = nn.Sequential(
        nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4, 2)
    )
    assert [names_of(model, part) for part in stages(model)] == [{"0", "1", "2"}, {"4"}]


def test_a_single_layer_is_one_stage_and_a_model_without_parameters_has_none():
    layer = nn.Linear(3, 2)
    assert stages(layer) == stages(nn.Sequential(layer)) == [layer]
    with pytest.raises(ValueError, match="no parameters"):
        stages(nn.Sequential(nn.Flatten()))


def test_a_forward_pass_that_cannot_be_followed_falls_back_to_the_order_of_definition():
    model = Untraceable()
    assert len(stages(model)) == 4
    assert stages(model)[0] is model.fc


@pytest.mark.parametrize("wrap", [lambda model: model, torch.compile], ids=["plain", "compiled"])
def test_the_layer_that_runs_last_is_the_head_wherever_it_is_written_down(wrap):
    model = HeadFirst()
    conv = model.conv.weight
    wrapped = wrap(model)
    assert replace_head(wrapped, 3, dropout=0.1) is wrapped
    assert isinstance(model.fc[1], nn.Linear)
    assert model.conv.weight is conv
    assert model(torch.rand(2, 3, 8, 8)).shape == (2, 3)
    assert replace_head(wrapped, 4).fc.out_features == 4


def test_the_head_of_a_compiled_small_resnet_keeps_its_structure():
    model = small_resnet(3, width=4)
    replace_head(torch.compile(model), 7, dropout=0.2)
    assert [type(layer) for layer in model.head] == [nn.Dropout, nn.Linear]
    assert model.head.dropout.p == 0.2


class Ends(nn.Module):
    """Several ways to end without a single linear layer."""

    def __init__(self, end):
        super().__init__()
        self.end = end
        self.inner = nn.Linear(4, 4)
        self.conv = nn.Conv2d(3, 4, 3)
        self.a, self.b = nn.Linear(4, 5), nn.Linear(4, 5)
        self.last = nn.Conv2d(4, 5, 1)

    def forward(self, x):
        x = self.conv(x)
        h = self.inner(x.mean((2, 3)))
        ends = {
            "two": lambda: (self.a(h), self.b(h)),
            "sum": lambda: self.a(h) + self.b(h),
            "conv": lambda: self.last(x * h[:, :, None, None]).mean((2, 3)),
            "features too": lambda: (self.a(h), x),
        }
        return ends[self.end]()


@pytest.mark.parametrize(
    ("end", "message"),
    [("two", "linear layers at its end, a, b"), ("sum", "a, b"), ("conv", "is last, a Conv2d")],
)
def test_a_model_whose_logits_do_not_come_from_one_linear_layer_gets_no_new_head(end, message):
    model = Ends(end)
    before = list(model.parameters())
    with pytest.raises(ValueError, match=message):
        replace_head(model, 3)
    assert all(a is b for a, b in zip(before, model.parameters(), strict=True))


def test_a_model_that_returns_its_features_too_has_one_head():
    model = replace_head(Ends("features too"), 3)
    assert (model.a.out_features, model.b.out_features) == (3, 5)


@pytest.mark.parametrize(
    ("scheme", "std"),
    [
        ("he", lambda n, m: math.sqrt(2 / n)),
        ("xavier", lambda n, m: math.sqrt(2 / (n + m))),
        ("lecun", lambda n, m: math.sqrt(1 / n)),
        ("tiny", lambda n, m: 0.1 * math.sqrt(2 / n)),
        ("huge", lambda n, m: 3 * math.sqrt(2 / n)),
    ],
)
@pytest.mark.parametrize("layer", [nn.Linear(400, 300), nn.Conv2d(40, 60, 3)])
def test_initialisation_has_the_standard_deviation_of_its_paper(scheme, std, layer):
    torch.manual_seed(0)
    initialise(layer, scheme)
    per_pixel = layer.weight[0, 0].numel() if layer.weight.ndim == 4 else 1
    fan_in, fan_out = layer.weight.shape[1] * per_pixel, layer.weight.shape[0] * per_pixel
    # With 20,000 or more draws the sample standard deviation is within 2 % of the true one.
    assert layer.weight.std().item() == pytest.approx(std(fan_in, fan_out), rel=0.02)
    assert layer.bias.abs().sum() == 0


def test_activations_keep_their_scale_with_he_vanish_with_tiny_and_explode_with_huge():
    torch.manual_seed(0)
    deep = nn.Sequential(*(m for _ in range(20) for m in (nn.Linear(256, 256), nn.ReLU())))
    x = torch.randn(256, 256)
    power = {s: initialise(deep, s)(x).square().mean().item() for s in ("he", "tiny", "huge")}
    assert 0.2 < power["he"] < 5
    assert power["tiny"] < 1e-30
    assert power["huge"] > 1e15


def test_initialisation_depends_only_on_the_generator_and_resets_batch_norm():
    model = small_resnet(4)
    model.stem[1].weight.data.fill_(7)
    torch.manual_seed(3)
    first = {k: v.clone() for k, v in initialise(model).state_dict().items()}
    torch.manual_seed(3)
    second = initialise(model).state_dict()
    assert all(torch.equal(first[k], second[k]) for k in first)
    assert torch.equal(model.stem[1].weight, torch.ones(16))


@pytest.mark.parametrize(
    "model",
    [
        small_resnet(7, width=4),
        nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 7)),
    ],
    ids=["small_resnet", "sequential"],
)
@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_a_new_head_changes_the_number_of_classes_and_leaves_the_backbone_alone(model, dropout):
    backbone = [p.clone() for p in list(model.parameters())[:-2]]
    replace_head(model, 3, dropout)
    assert model(torch.rand(2, 3, 16, 16)).shape == (2, 3)
    after = list(model.parameters())
    assert all(torch.equal(a, b) for a, b in zip(backbone, after, strict=False))
    assert {m.p for m in model.modules() if isinstance(m, nn.Dropout)} <= {dropout, 0.0}
    replace_head(model, 4, dropout)  # again, to replace the new head
    assert model(torch.rand(2, 3, 16, 16)).shape == (2, 4)


def test_a_new_head_has_the_number_type_of_the_old_one():
    model = replace_head(small_resnet(3, width=4, depth=1).double(), 2)
    assert model(torch.rand(2, 3, 32, 32).double()).shape == (2, 2)


def test_a_model_without_a_linear_layer_gets_no_new_head():
    with pytest.raises(ValueError, match="no linear layer"):
        replace_head(nn.Sequential(nn.Conv2d(3, 4, 1)), 2)


def test_normalize_centres_the_pixels_and_is_part_of_the_state_dict():
    layer = Normalize([0.1, 0.2, 0.3], [0.5, 0.5, 2.0])
    images = torch.rand(4, 3, 5, 5)
    torch.testing.assert_close(layer(images)[:, 2], (images[:, 2] - 0.3) / 2.0)
    assert set(layer.state_dict()) == {"mean", "std"}
    with pytest.raises(ValueError, match="positive"):
        Normalize(0.0, [1.0, 0.0])


@pytest.mark.parametrize(
    "wrong",
    [
        lambda: small_resnet(0),
        lambda: small_resnet(3, depth=-1),
        lambda: small_resnet(3, norm="instance"),
        lambda: small_resnet(3, dropout=1.0),
        lambda: initialise(nn.Linear(2, 2), "glorot"),
        lambda: replace_head(small_resnet(3), 0),
    ],
)
def test_arguments_out_of_range_are_refused_with_their_value(wrong):
    with pytest.raises(ValueError, match="got"):
        wrong()
