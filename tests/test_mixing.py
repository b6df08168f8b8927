from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import nn
from torchvision.transforms import v2

from cnnlab.augment import Augment, ramp
from cnnlab.augment.geometry import box_masks
from cnnlab.data.loaders import loader
from cnnlab.errors import DataError
from cnnlab.losses import normalizer
from cnnlab.mixing import (
    CutMix,
    MixUp,
    blend,
    either,
    sample_beta,
    sample_boxes,
    soft_cross_entropy,
)
from cnnlab.trainer import Trainer
from cnnlab.training.transforms import wrap_batch_transform


K = 7
MIXES = [MixUp, CutMix]


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(n=6, size=8, seed=0):
    return torch.rand(n, 3, size, size, generator=rng(seed)), torch.arange(n) % K


def constant_images(labels, height=9, width=7):
    """Return images whose every pixel equals their class index."""
    return labels.float()[:, None, None, None].expand(-1, 1, height, width)


@pytest.mark.parametrize("per_sample", [True, False])
@pytest.mark.parametrize("mix", MIXES)
def test_the_mean_pixel_equals_the_mean_class_of_the_target(mix, per_sample):
    generator = rng()
    for draw in range(1000):
        labels = torch.randint(K, (1 + draw % 9,), generator=generator)
        transform = mix(1.0, K, per_sample=per_sample)
        images, soft = transform(constant_images(labels), labels, generator)
        classes = soft @ torch.arange(K).float()
        assert torch.allclose(images.mean(dim=(1, 2, 3)), classes, atol=2e-5)


@settings(max_examples=60, deadline=None)
@given(
    mix=st.sampled_from(MIXES),
    alpha=st.floats(0.01, 50),
    n=st.integers(1, 9),
    height=st.integers(1, 12),
    width=st.integers(1, 12),
    per_sample=st.booleans(),
    seed=st.integers(0, 10**6),
)
def test_targets_sum_to_1_and_pixels_lie_between_those_of_the_two_images(
    mix, alpha, n, height, width, per_sample, seed
):
    images = torch.rand(n, 2, height, width, generator=rng(seed))
    labels = torch.arange(n) % K
    mixed, soft = mix(alpha, K, per_sample=per_sample)(images, labels, rng(seed))
    assert mixed.shape == images.shape
    assert soft.shape == (n, K)
    assert torch.allclose(soft.sum(dim=1), torch.ones(n))
    assert (soft >= 0).all()
    assert (mixed >= images.amin(0) - 1e-6).all()
    assert (mixed <= images.amax(0) + 1e-6).all()


@settings(max_examples=30, deadline=None)
@given(lam=st.floats(0, 1), seed=st.integers(0, 10**6), n=st.integers(2, 7))
def test_mixup_equals_torchvisions_for_the_same_lambda_and_pairing(lam, seed, n):
    images, labels = batch(n, seed=seed)
    theirs = v2.MixUp(num_classes=K)
    params = {"lam": lam, "labels": labels, "batch_size": n}
    partner_weight = torch.full((n, 1, 1, 1), 1 - lam)
    mixed, soft = blend(images, F.one_hot(labels, K).float(), partner_weight, 1)
    assert torch.allclose(mixed, theirs.transform(images, params), atol=1e-6)
    assert torch.allclose(soft, theirs.transform(labels, params), atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(2, 7))
def test_cutmix_equals_torchvisions_for_the_same_box_and_pairing(seed, n):
    images, labels = torch.rand(n, 3, 11, 8, generator=rng(seed)), torch.arange(n) % K
    theirs = v2.CutMix(num_classes=K)
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        params = theirs.make_params([images])
    params |= {"labels": labels, "batch_size": n}
    left, top, right, bottom = params["box"]
    boxes = torch.tensor([[top, left, bottom, right]]).expand(n, 4)
    mixed, soft = blend(images, F.one_hot(labels, K).float(), box_masks(boxes, 11, 8), 1)
    assert torch.equal(mixed, theirs.transform(images, params))
    assert torch.allclose(soft, theirs.transform(labels, params), atol=1e-6)


def test_boxes_have_the_same_distribution_as_torchvisions():
    torch.manual_seed(0)
    theirs = v2.CutMix(alpha=1.0, num_classes=K)
    params = [theirs.make_params([torch.empty(1, 3, 20, 30)]) for _ in range(3000)]
    boxes = sample_boxes(sample_beta(1.0, 3000, rng()), 20, 30, rng(1))
    for ours, side in zip(boxes.T, (1, 0, 3, 2), strict=True):
        assert stats.ks_2samp(ours.numpy(), [p["box"][side] for p in params]).pvalue > 0.01


@pytest.mark.parametrize("alpha", [0.05, 0.2, 0.5, 1.0, 3.0, 40.0])
def test_lambda_has_the_beta_distribution(alpha):
    values, beta = sample_beta(alpha, 20_000, rng(1)).double().numpy(), stats.beta(alpha, alpha)
    # Closer to the ends float32 has too few values near 1 for the test.
    low, high = beta.cdf([1e-3, 1 - 1e-3])
    inner = beta.cdf(values[(values > 1e-3) & (values < 1 - 1e-3)])
    assert stats.kstest((inner - low) / (high - low), "uniform").pvalue > 0.01
    assert stats.binomtest(len(inner), len(values), high - low).pvalue > 0.01


@pytest.mark.parametrize("alpha", [1e-6, 1e-3, 1e6])
def test_lambda_stays_between_0_and_1_for_extreme_alpha(alpha):
    values = sample_beta(alpha, 10_000, rng())
    assert ((values >= 0) & (values <= 1)).all()


@pytest.mark.parametrize("mix", MIXES)
def test_each_image_gets_its_own_lambda_unless_per_sample_is_off(mix):
    images = torch.rand(64, 1, 16, 16, generator=rng())
    soft = mix(1.0, 64)(images, torch.arange(64), rng())[1]
    assert len(soft.amax(dim=1).unique()) > 20
    soft = mix(1.0, 64, per_sample=False)(images, torch.arange(64), rng())[1]
    assert len(soft.amax(dim=1).unique()) == 1


@pytest.mark.parametrize("mix", MIXES)
def test_no_image_is_its_own_partner_and_each_is_the_partner_of_one(mix):
    half = torch.full((5,), 0.5)
    for seed in range(50):
        mixer = mix(1.0, 5)
        mixer._partner_weight = lambda *_: half[:, None, None, None]
        soft = mixer(torch.rand(5, 1, 8, 8), torch.arange(5), rng(seed))[1]
        assert torch.equal(soft.diagonal(), half)
        assert ((soft > 0).sum(dim=0) == 2).all()


@pytest.mark.parametrize("mix", MIXES)
def test_the_input_tensors_are_not_changed(mix):
    whole = torch.rand(12, 3, 8, 8)
    labels = torch.arange(12) % K
    soft = F.one_hot(labels, K).float()
    before = whole.clone(), soft.clone()
    mix(1.0, K)(whole[2:9], soft[2:9])  # a slice shares the memory of the data set
    mix(1.0, K)(whole[::2], labels[::2])
    assert torch.equal(whole, before[0])
    assert torch.equal(soft, before[1])


@pytest.mark.parametrize("mix", MIXES)
def test_a_batch_of_one_is_left_alone(mix):
    images, labels = batch(1)
    mixed, soft = mix(1.0, K)(images, labels)
    assert torch.equal(mixed, images)
    assert torch.equal(soft, F.one_hot(labels, K).float())


@pytest.mark.parametrize("mix", MIXES)
def test_class_indices_and_one_hot_targets_are_mixed_in_the_same_way(mix):
    images, labels = batch()
    one = mix(1.0, K)(images, labels, rng(3))
    two = mix(1.0, K)(images, F.one_hot(labels, K).float(), rng(3))
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])


@pytest.mark.parametrize("mix", [*MIXES, lambda a, k: either(MixUp(a, k), CutMix(a, k))])
def test_draws_depend_only_on_the_generator_or_on_the_global_one(mix):
    images, labels = batch()
    state = torch.get_rng_state()
    one, two = (mix(1.0, K)(images, labels, rng(5))[0] for _ in range(2))
    assert torch.equal(one, two)
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(one, mix(1.0, K)(images, labels, rng(6))[0])
    torch.manual_seed(4)
    first = mix(1.0, K)(images, labels)[0]
    torch.manual_seed(4)
    assert torch.equal(first, mix(1.0, K)(images, labels)[0])


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("alpha", [0, -1.0, float("nan"), float("inf")])
def test_an_alpha_that_is_not_positive_and_finite_is_refused(mix, alpha):
    with pytest.raises(ValueError, match="leave this transform out"):
        mix(alpha, K)


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize(
    ("images", "targets", "message"),
    [
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 1]), "images.float"),
        (torch.zeros(3, 4, 4), torch.tensor([0, 1, 1]), "N, C, H, W"),
        (torch.zeros(2, 3, 4, 4), torch.tensor([0, K]), "len.data.classes"),
        (torch.zeros(2, 3, 4, 4), torch.tensor([-1, 1]), "labels from -1 to 1"),
        (torch.zeros(2, 3, 4, 4), torch.tensor([0, 1, 2]), "class indices"),
        (torch.zeros(2, 3, 4, 4), torch.tensor([0.0, 1.0]), "class indices"),
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, K + 1), "soft targets"),
    ],
)
def test_images_and_targets_that_do_not_fit_are_refused(mix, images, targets, message):
    with pytest.raises(DataError, match=message):
        mix(1.0, K)(images, targets)


def test_either_chooses_with_the_given_probabilities():
    names = ["a", "b"]
    calls = [lambda x, y, g, name=name: (name, y) for name in names]
    images, targets = batch(2)
    counts = {"a": 0, "b": 0, "none": 0}
    generator = rng()
    choose = either(*calls, p=(0.2, 0.5))
    for _ in range(2000):
        result = choose(images, targets, generator)[0]
        counts[result if isinstance(result, str) else "none"] += 1
    assert stats.chisquare(list(counts.values()), [400, 1000, 600]).pvalue > 0.01
    equal = [either(*calls)(images, targets, generator)[0] for _ in range(1000)]
    assert stats.binomtest(equal.count("a"), 1000).pvalue > 0.01


def test_either_takes_an_augmentation_of_the_images_alone():
    images, labels = batch()
    dark = Augment(brightness=0.5)
    choose = either(dark, MixUp(1.0, K), p=(1, 0))
    result, soft = choose(images, labels, rng())
    after = rng()
    torch.rand((), generator=after, dtype=torch.float64)  # the choice is drawn first
    assert torch.equal(result, dark(images, after))
    assert torch.equal(soft, F.one_hot(labels, K).float())  # as if another transform mixed them
    assert either(dark)(images, labels)[1] is labels


def test_the_strength_of_an_augmentation_inside_either_grows_in_a_fit():
    growing = Augment(flip=1.0, strength=ramp(0, 1, steps=4))
    nested = wrap_batch_transform([either(either(growing), p=(1,))])
    images, labels = batch()
    for step in (0, 1, 4):
        result, _ = nested(images, labels, step)
        assert growing.step == step
    assert torch.equal(result, images.flip(3))
    assert torch.equal(nested(images, labels, 0)[0], images)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (lambda x: x, "either calls <lambda> with images and targets"),
        (nn.ReLU(), "either calls ReLU with images and targets"),
        (lambda: None, "for the images alone"),
        (0.5, "got 0.5"),
        ([Augment(), MixUp(1.0, K)], "Augments, got"),
    ],
)
def test_either_refuses_at_once_what_does_not_take_a_batch(wrong, message):
    with pytest.raises(TypeError, match=message):
        either(MixUp(1.0, K), wrong)


def test_either_gives_soft_targets_to_unmixed_batches_too():
    images, labels = batch()
    mixed, soft = either(MixUp(1.0, K), CutMix(1.0, K), p=(0, 0))(images, labels)
    assert torch.equal(mixed, images)
    assert torch.equal(soft, F.one_hot(labels, K).float())
    nested = either(either(MixUp(1.0, K)), p=(0,))(images, labels)
    assert torch.equal(nested[1], soft)
    assert either(lambda x, y: (x, y), p=(0,))(images, labels)[1] is labels


@pytest.mark.parametrize(
    ("transforms", "p"),
    [
        ((), None),
        ((MixUp(1, K),), (0.5, 0.5)),
        ((MixUp(1, K), CutMix(1, K)), (0.6, 0.6)),
        ((MixUp(1, K), CutMix(1, K)), (-0.1, 0.6)),
        ((MixUp(1, K), CutMix(1, K + 1)), None),
    ],
)
def test_either_refuses_transforms_and_probabilities_that_do_not_fit(transforms, p):
    with pytest.raises(ValueError, match=r"either needs|p must hold|different num_classes"):
        either(*transforms, p=p)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 9),
    weighted=st.booleans(),
    smoothing=st.floats(0, 1),
)
def test_for_one_hot_targets_the_soft_loss_equals_cross_entropy(seed, n, weighted, smoothing):
    g = rng(seed)
    logits = torch.randn(n, K, generator=g, dtype=torch.float64)
    labels = torch.randint(K, (n,), generator=g)
    weight = torch.rand(K, generator=g, dtype=torch.float64) + 0.1 if weighted else None
    expected = F.cross_entropy(logits, labels, weight, label_smoothing=smoothing)
    for targets in (labels, F.one_hot(labels, K).double()):
        loss = soft_cross_entropy(logits, targets, weight, smoothing)
        assert torch.allclose(loss, expected, rtol=1e-12)


def test_without_weights_the_soft_loss_equals_torchs_for_any_targets():
    logits, targets = torch.randn(5, K), torch.rand(5, K).softmax(dim=1)
    for smoothing in (0.0, 0.3):
        expected = F.cross_entropy(logits, targets, label_smoothing=smoothing)
        assert torch.allclose(soft_cross_entropy(logits, targets, smoothing=smoothing), expected)


def test_the_soft_loss_of_a_mixture_is_the_mixture_of_the_weighted_losses():
    logits, weight = torch.randn(1, K, dtype=torch.float64), torch.rand(K, dtype=torch.float64)
    eye = torch.eye(K, dtype=torch.float64)
    mixed = soft_cross_entropy(logits, (0.3 * eye[2] + 0.7 * eye[5])[None], weight)
    losses = F.cross_entropy(logits.expand(K, K), torch.arange(K), reduction="none") * weight
    expected = (0.3 * losses[2] + 0.7 * losses[5]) / (0.3 * weight[2] + 0.7 * weight[5])
    assert torch.allclose(mixed, expected)


def test_the_soft_loss_is_computed_in_full_precision():
    logits, targets = torch.randn(64, K), torch.rand(64, K).softmax(dim=1)
    low = soft_cross_entropy(logits.bfloat16(), targets)
    assert low.dtype == torch.float32
    assert torch.allclose(low, soft_cross_entropy(logits.bfloat16().float(), targets))


def test_smoothing_outside_0_to_1_is_refused():
    with pytest.raises(ValueError, match="between 0 and 1"):
        soft_cross_entropy(torch.zeros(1, K), torch.tensor([0]), smoothing=10)


def train(microbatch, mixing=True):
    """Return the weights and the losses of a short run with class weights."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 8 * 8, K))
    data = torch.utils.data.TensorDataset(*batch(22))
    weight = torch.linspace(0.1, 5, K)
    trainer = Trainer(
        model,
        torch.optim.SGD(model.parameters(), lr=0.05),
        partial(soft_cross_entropy, weight=weight),
        batch_transform=either(MixUp(1.0, K), CutMix(1.0, K)) if mixing else None,
        microbatch=microbatch,
        device="cpu",
        progress=False,
    )
    history = trainer.fit(loader(data, 11, shuffle=True), loader(data, 5), epochs=2)
    weights = torch.cat([p.detach().flatten() for p in model.parameters()])
    return weights, torch.tensor(history.frame()[["train_loss", "valid_loss"]].to_numpy())


@pytest.mark.parametrize("mixing", [True, False])
@pytest.mark.parametrize("microbatch", [1, 3, 7])
def test_microbatches_give_the_step_of_the_whole_batch_with_weights_and_soft_targets(
    microbatch, mixing
):
    weights, losses = train(None, mixing)
    other_weights, other_losses = train(microbatch, mixing)
    assert torch.allclose(weights, other_weights, atol=1e-6)
    assert torch.allclose(losses, other_losses, atol=1e-6)


def test_the_normalizer_of_a_weighted_soft_loss_is_its_divisor():
    loss_fn = partial(soft_cross_entropy, weight=torch.tensor([1.0, 3.0]))
    assert normalizer(loss_fn, torch.tensor([[0.5, 0.5], [0.0, 1.0]])) == 5.0
    assert normalizer(loss_fn, torch.tensor([0, 1, 1])) == 7.0
    assert normalizer(partial(soft_cross_entropy, smoothing=0.1), torch.tensor([0, 1, 1])) == 3.0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("mix", MIXES)
def test_a_generator_gives_the_same_mixture_on_a_gpu(mix):
    images, labels = batch(16)
    on_cpu = mix(1.0, K)(images, labels, rng(1))
    on_gpu = mix(1.0, K)(images.cuda(), labels.cuda(), rng(1))
    for expected, result in zip(on_cpu, on_gpu, strict=True):
        assert result.is_cuda
        assert torch.allclose(expected, result.cpu(), atol=1e-6)


def test_soft_targets_and_class_weights_may_have_different_dtypes():
    logits, weight = torch.randn(4, 3), torch.tensor([1.0, 2.0, 5.0])
    soft = torch.eye(3, dtype=torch.float64)[[0, 2, 1, 1]]
    assert normalizer(partial(soft_cross_entropy, weight=weight), soft) == 10.0
    expected = F.cross_entropy(logits, soft.argmax(1), weight)
    assert torch.allclose(soft_cross_entropy(logits, soft, weight=weight).float(), expected)


def test_a_single_number_for_p_is_refused():
    with pytest.raises(TypeError, match=r"p=\(0.5,\)"):
        either(MixUp(0.2, 3), p=0.5)
