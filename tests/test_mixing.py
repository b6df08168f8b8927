from functools import partial

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from torch import nn
from torchvision.transforms import v2

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


K = 7
MIXES = [MixUp, CutMix]


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def batch(n=6, size=8, seed=0):
    return torch.rand(n, 3, size, size, generator=rng(seed)), torch.arange(n) % K


def filled(labels, height=9, width=7):
    """Images that show nothing but the number of their class."""
    return labels.float()[:, None, None, None].expand(-1, 1, height, width)


@pytest.mark.parametrize("per_sample", [True, False])
@pytest.mark.parametrize("mix", MIXES)
def test_the_mean_pixel_is_the_mean_class_of_the_target(mix, per_sample):
    generator = rng()
    for draw in range(1000):
        labels = torch.randint(K, (1 + draw % 9,), generator=generator)
        images, soft = mix(1.0, K, per_sample=per_sample)(filled(labels), labels, generator)
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
def test_targets_stay_distributions_and_pixels_between_those_of_the_two_images(
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
@given(share=st.floats(0, 1), seed=st.integers(0, 10**6), n=st.integers(2, 7))
def test_with_its_share_and_pairing_mixup_is_that_of_torchvision(share, seed, n):
    images, labels = batch(n, seed=seed)
    theirs = v2.MixUp(num_classes=K)
    params = {"lam": share, "labels": labels, "batch_size": n}
    taken = torch.full((n, 1, 1, 1), 1 - share)
    mixed, soft = blend(images, F.one_hot(labels, K).float(), taken, 1)
    assert torch.allclose(mixed, theirs.transform(images, params), atol=1e-6)
    assert torch.allclose(soft, theirs.transform(labels, params), atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(seed=st.integers(0, 10**6), n=st.integers(2, 7))
def test_with_its_box_and_pairing_cutmix_is_that_of_torchvision(seed, n):
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


def test_boxes_are_distributed_as_those_of_torchvision():
    torch.manual_seed(0)
    theirs = v2.CutMix(alpha=1.0, num_classes=K)
    wanted = [theirs.make_params([torch.empty(1, 3, 20, 30)]) for _ in range(3000)]
    boxes = sample_boxes(sample_beta(1.0, 3000, rng()), 20, 30, rng(1))
    for ours, side in zip(boxes.T, (1, 0, 3, 2), strict=True):
        assert stats.ks_2samp(ours.numpy(), [p["box"][side] for p in wanted]).pvalue > 0.01


@pytest.mark.parametrize("alpha", [0.05, 0.2, 0.5, 1.0, 3.0, 40.0])
def test_shares_have_the_beta_distribution(alpha):
    drawn, wanted = sample_beta(alpha, 20_000, rng(1)).double().numpy(), stats.beta(alpha, alpha)
    low, high = wanted.cdf([1e-3, 1 - 1e-3])  # beyond, float32 knows too few numbers near 1
    inner = wanted.cdf(drawn[(drawn > 1e-3) & (drawn < 1 - 1e-3)])
    assert stats.kstest((inner - low) / (high - low), "uniform").pvalue > 0.01
    assert stats.binomtest(len(inner), len(drawn), high - low).pvalue > 0.01


@pytest.mark.parametrize("alpha", [1e-6, 1e-3, 1e6])
def test_shares_stay_between_0_and_1_for_extreme_alpha(alpha):
    drawn = sample_beta(alpha, 10_000, rng())
    assert ((drawn >= 0) & (drawn <= 1)).all()


@pytest.mark.parametrize("mix", MIXES)
def test_every_image_has_a_share_of_its_own_unless_one_is_asked_for(mix):
    labels = torch.arange(64) % K
    images = torch.rand(64, 1, 16, 16, generator=rng())
    soft = mix(1.0, 64)(images, torch.arange(64), rng())[1]
    assert len(soft.amax(dim=1).unique()) > 20
    soft = mix(1.0, 64, per_sample=False)(images, torch.arange(64), rng())[1]
    assert len(soft.amax(dim=1).unique()) == 1
    assert labels.max() == K - 1


@pytest.mark.parametrize("mix", MIXES)
def test_no_image_is_its_own_partner_and_each_is_one_partner(mix):
    share = torch.full((5,), 0.5)
    for seed in range(50):
        mixer = mix(1.0, 5)
        mixer._partner_weight = lambda *_: share[:, None, None, None]
        soft = mixer(torch.rand(5, 1, 8, 8), torch.arange(5), rng(seed))[1]
        assert torch.equal(soft.diagonal(), share)
        assert ((soft > 0).sum(dim=0) == 2).all()


@pytest.mark.parametrize("mix", MIXES)
def test_the_tensors_of_the_caller_stay_as_they_were(mix):
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
def test_class_numbers_and_their_one_hot_rows_are_mixed_alike(mix):
    images, labels = batch()
    one = mix(1.0, K)(images, labels, rng(3))
    two = mix(1.0, K)(images, F.one_hot(labels, K).float(), rng(3))
    assert torch.equal(one[0], two[0])
    assert torch.equal(one[1], two[1])


@pytest.mark.parametrize("mix", [*MIXES, lambda a, k: either(MixUp(a, k), CutMix(a, k))])
def test_draws_belong_to_the_generator_or_to_the_global_one(mix):
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
def test_an_alpha_that_mixes_nothing_is_refused_with_the_way_out(mix, alpha):
    with pytest.raises(ValueError, match="leave this transform out"):
        mix(alpha, K)


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize(
    ("images", "targets", "says"),
    [
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), torch.tensor([0, 1]), "images.float"),
        (torch.zeros(3, 4, 4), torch.tensor([0, 1, 1]), "N, C, H, W"),
        (torch.zeros(2, 3, 4, 4), torch.tensor([0, K]), "len.data.classes"),
        (torch.zeros(2, 3, 4, 4), torch.tensor([-1, 1]), "run from -1"),
        (torch.zeros(2, 3, 4, 4), torch.tensor([0, 1, 2]), "class numbers"),
        (torch.zeros(2, 3, 4, 4), torch.tensor([0.0, 1.0]), "class numbers"),
        (torch.zeros(2, 3, 4, 4), torch.zeros(2, K + 1), "class weights"),
    ],
)
def test_what_cannot_be_mixed_is_refused_in_words(mix, images, targets, says):
    with pytest.raises(DataError, match=says):
        mix(1.0, K)(images, targets)


def test_either_chooses_with_the_probabilities_it_was_given():
    names = ["a", "b"]
    calls = [lambda x, y, g, name=name: (name, y) for name in names]
    images, targets = batch(2)
    counts = {"a": 0, "b": 0, "none": 0}
    generator = rng()
    choose = either(*calls, p=(0.2, 0.5))
    for _ in range(2000):
        got = choose(images, targets, generator)[0]
        counts[got if isinstance(got, str) else "none"] += 1
    assert stats.chisquare(list(counts.values()), [400, 1000, 600]).pvalue > 0.01
    equal = [either(*calls)(images, targets, generator)[0] for _ in range(1000)]
    assert stats.binomtest(equal.count("a"), 1000).pvalue > 0.01


def test_a_batch_that_either_leaves_alone_has_soft_targets_too():
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
def test_either_refuses_what_does_not_fit(transforms, p):
    with pytest.raises(ValueError, match=r"either|p holds|num_classes"):
        either(*transforms, p=p)


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    n=st.integers(1, 9),
    weighted=st.booleans(),
    smoothing=st.floats(0, 1),
)
def test_for_one_hot_targets_the_soft_loss_is_cross_entropy(seed, n, weighted, smoothing):
    g = rng(seed)
    logits = torch.randn(n, K, generator=g, dtype=torch.float64)
    labels = torch.randint(K, (n,), generator=g)
    weight = torch.rand(K, generator=g, dtype=torch.float64) + 0.1 if weighted else None
    wanted = F.cross_entropy(logits, labels, weight, label_smoothing=smoothing)
    for targets in (labels, F.one_hot(labels, K).double()):
        got = soft_cross_entropy(logits, targets, weight, smoothing)
        assert torch.allclose(got, wanted, rtol=1e-12)


def test_without_weights_the_soft_loss_is_that_of_torch_for_any_targets():
    logits, targets = torch.randn(5, K), torch.rand(5, K).softmax(dim=1)
    for smoothing in (0.0, 0.3):
        wanted = F.cross_entropy(logits, targets, label_smoothing=smoothing)
        assert torch.allclose(soft_cross_entropy(logits, targets, smoothing=smoothing), wanted)


def test_the_soft_loss_of_a_mixture_is_the_mixture_of_the_weighted_losses():
    logits, weight = torch.randn(1, K, dtype=torch.float64), torch.rand(K, dtype=torch.float64)
    eye = torch.eye(K, dtype=torch.float64)
    mixed = soft_cross_entropy(logits, (0.3 * eye[2] + 0.7 * eye[5])[None], weight)
    parts = F.cross_entropy(logits.expand(K, K), torch.arange(K), reduction="none") * weight
    wanted = (0.3 * parts[2] + 0.7 * parts[5]) / (0.3 * weight[2] + 0.7 * weight[5])
    assert torch.allclose(mixed, wanted)


def test_the_soft_loss_is_computed_in_full_precision():
    logits, targets = torch.randn(64, K), torch.rand(64, K).softmax(dim=1)
    low = soft_cross_entropy(logits.bfloat16(), targets)
    assert low.dtype == torch.float32
    assert torch.allclose(low, soft_cross_entropy(logits.bfloat16().float(), targets))


def test_smoothing_outside_0_to_1_is_refused():
    with pytest.raises(ValueError, match="between 0 and 1"):
        soft_cross_entropy(torch.zeros(1, K), torch.tensor([0]), smoothing=10)


def trained(microbatch, mixing=True):
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
    one, two = trained(None, mixing), trained(microbatch, mixing)
    assert torch.allclose(one[0], two[0], atol=1e-6)
    assert torch.allclose(one[1], two[1], atol=1e-6)


def test_the_mass_of_a_weighted_soft_loss_is_what_it_divides_by():
    loss_fn = partial(soft_cross_entropy, weight=torch.tensor([1.0, 3.0]))
    assert normalizer(loss_fn, torch.tensor([[0.5, 0.5], [0.0, 1.0]])) == 5.0
    assert normalizer(loss_fn, torch.tensor([0, 1, 1])) == 7.0
    assert normalizer(partial(soft_cross_entropy, smoothing=0.1), torch.tensor([0, 1, 1])) == 3.0


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("mix", MIXES)
def test_on_a_gpu_the_same_generator_mixes_the_same(mix):
    images, labels = batch(16)
    here = mix(1.0, K)(images, labels, rng(1))
    there = mix(1.0, K)(images.cuda(), labels.cuda(), rng(1))
    for one, two in zip(here, there, strict=True):
        assert two.is_cuda
        assert torch.allclose(one, two.cpu(), atol=1e-6)


def test_soft_targets_and_class_weights_of_different_number_types_go_together():
    logits, weight = torch.randn(4, 3), torch.tensor([1.0, 2.0, 5.0])
    soft = torch.eye(3, dtype=torch.float64)[[0, 2, 1, 1]]
    assert normalizer(partial(soft_cross_entropy, weight=weight), soft) == 10.0
    expected = F.cross_entropy(logits, soft.argmax(1), weight)
    assert torch.allclose(soft_cross_entropy(logits, soft, weight=weight).float(), expected)


def test_a_single_probability_is_no_list_of_them():
    with pytest.raises(TypeError, match=r"p=\(0.5,\)"):
        either(MixUp(0.2, 3), p=0.5)
