# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 4. Mixup and CutMix
#
# Imagine that someone labelled your training images and got 40 % of them wrong. A normal training run
# memorises nearly every wrong label, so your network repeats the mistakes. Now add one line of code that blends each
# training image, and its label, with another one. The same network, trained for the same time on the same bad labels,
# becomes many points more accurate. For many images with a wrong label, it even gives the *true* one, which nobody ever
# showed it. That line is called **mixup**, and its close relative **CutMix** pastes where mixup blends.
#
# **You will be able to** write mixup and CutMix and find the bugs in published code for them, tell from your data
# whether mixing is worth a try, read a training curve under mixing, and measure and repair a network's confidence.
#
# | | |
# |---|---|
# | to read | 40 minutes, with the code |
# | exercises | 75 minutes |
# | to run | 40 seconds on one core of a laptop, without internet access or a GPU |
# | you need | chapter 1; chapter 3 helps |

# %% tags=["setup"]
import torch
import torch.nn.functional as F
from studies import common
from studies.common import (
    CORRECTED,
    REPEATED,
    calibration,
    in_points,
    train_on_few_labels,
    train_on_wrong_labels,
    wrong_label_metrics,
)
from torch import nn

import cnnlab
from cnnlab import check, mixing, plots, widgets
from cnnlab.experiment import (
    Claim,
    Declaration,
    Results,
    compare_declared,
    fresh_data,
)
from cnnlab.mixing import CutMix, MixUp

lab = cnnlab.setup(seed=0)
data = cnnlab.load("pocket", seed=0, n_train=480, n_valid=96, n_test=96)
K = len(data.classes)  # twelve classes
batches = cnnlab.loader(data.train, 48, shuffle=True, seed=10)
images, labels = next(iter(batches))


def rng(seed=0):
    """Return a new generator, so that a cell shows the same every time."""
    return torch.Generator().manual_seed(seed)


# %% [markdown]
# ## 4.1 Two images, one label
#
# Augmentation (chapter 3) changes an image and keeps its label. Mixing changes both. Take an image and a **partner**,
# another image of the same batch. Keep 60 % of the first and add 40 % of its partner. The label becomes 60 % of one
# class and 40 % of the other, a **soft label**: a row of probabilities instead of a single class. (An ordinary label,
# written as such a row, is called **one-hot**: 1 for its class and 0 elsewhere.)
#
# - **Mixup** ([Zhang et al. 2018](https://arxiv.org/abs/1710.09412)) blends every pixel.
# - **CutMix** ([Yun et al. 2019](https://arxiv.org/abs/1905.04899)) pastes a rectangle of the partner into the image.
#   Every pixel still comes from a real image, and the label is mixed by area.

# %%
one_hot = F.one_hot(labels, K).float()  # (48,) -> (48, 12)
chosen = [0, 2]
pair, pair_labels = images[chosen], one_hot[chosen]
take_40 = torch.full((2, 1, 1, 1), 0.4)  # weight of the partner
blended, blended_labels = mixing.blend(pair, pair_labels, take_40, shift=1)

box = torch.tensor([[0, 12, 20, 32]] * 2)  # top, left, bottom, right
mask = mixing.box_masks(box, 32, 32)
pasted, pasted_labels = mixing.blend(pair, pair_labels, mask, shift=1)

plots.soft_labels(
    torch.cat([pair, blended[:1], pasted[:1]]),
    torch.cat([pair_labels, blended_labels[:1], pasted_labels[:1]]),
    data.classes,
    message="An image, its partner, their mixup and their CutMix, each with "
    "its label.",
)

# %% tags=["hide-input"]
photos = cnnlab.load("photos", size=128)
names = [photos.classes.index(name) for name in ("chelsea", "coffee")]
cat, coffee = photos.train.images[names].float() / 255
weights = (1.0, 0.75, 0.5, 0.25, 0.0)
by_mixup = [w * cat + (1 - w) * coffee for w in weights]
by_cutmix = []
for weight in weights:
    size = round(128 * (1 - weight) ** 0.5)
    mixed = cat.clone()
    mixed[:, :size, :size] = coffee[:, :size, :size]
    by_cutmix.append(mixed)
plots.image_grid(
    torch.stack(by_mixup + by_cutmix),
    [f"{name} {w:.2f}" for name in ("mixup", "CutMix") for w in weights],
    columns=5,
    alt="A cat and a cup of coffee, mixed with five weights",
    message="Mixup looks like a double exposure, CutMix like a collage.",
)

# %% [markdown]
# Write $x_i$ for an image, $t_i$ for its one-hot label, $j$ for its partner, and $\lambda$ for the fraction that the
# image keeps. Mixup is
#
# $$ \tilde{x} = \lambda x_i + (1 - \lambda) x_j, \qquad \tilde{t} = \lambda t_i + (1 - \lambda) t_j . $$
#
# Nobody expects such ghostly images in production, so why train on them? Between two training images lies a line of
# images that nobody labelled, and an ordinary network may jump from one confident prediction to another anywhere along
# it. Mixup asks it to change smoothly instead. There's a second reason, which matters more than the first when labels
# are wrong: an image hardly ever comes back alone, or twice in the same mixture, so there's little that stays the same
# and could be memorised.
#
# ### Exercise 1: `mixup` (easy, 10 minutes)
#
# Write the function. `lam` is a number, the fraction that each image keeps, and `permutation` holds the index of each
# image's partner. Return the mixed images and the mixed targets. The batch may be a **view** of the data set, which
# means that it shares its memory, so don't change it.


# %% tags=["exercise"]
def mixup(images, targets, lam, permutation):
    """Mix images (N, C, H, W) and one-hot targets (N, K) with partners."""
    raise NotImplementedError


# %% tags=["check"]
check.mixup(mixup)

# %% [markdown] tags=["hint"]
# <details>
# <summary><b>Hint: the values are right, but the batch has changed</b></summary>
#
# `images *= lam` changes the caller's tensor. `lam * images` makes a new one.
#
# </details>
#
# <details>
# <summary><b>Hint: images and labels disagree</b></summary>
#
# Whatever happens to an image must happen to its target, with the same number and the same partner.
#
# </details>


# %% tags=["solution", "hide-cell"]
# Solution
def mixup(images, targets, lam, permutation):
    """Mix images (N, C, H, W) and one-hot targets (N, K) with partners."""
    return (
        lam * images + (1 - lam) * images[permutation],
        lam * targets + (1 - lam) * targets[permutation],
    )


check.mixup(mixup)

# %% [markdown]
# ## 4.2 Wrong labels
#
# Two in five training labels are now wrong: each of them is replaced by one of the eleven other classes, drawn
# uniformly at random. The validation labels are correct. A large enough network can memorise every wrong label ([Zhang
# et al. 2017](https://arxiv.org/abs/1611.03530)), and it repeats what it memorised on similar images.
#
# `train_on_wrong_labels` draws new signs for each seed, makes 40 % of their labels wrong, and trains with the template
# of chapter 1, with a learning rate that falls to zero along a cosine (chapter 5). The only difference between the two
# variants is the argument `mix`, which the `Trainer` applies to each training batch as its `batch_transform`.
# Validation images are never mixed, because you want to know about real ones. (Write `train_on_wrong_labels??` into a
# cell of your own to see all of it.)
#
# ### Predict
#
# After training, we show each network the mislabelled training images once more, unmixed, and count how often it
# repeats the wrong label. A network that memorises everything scores 1. What fraction does a network trained with
# CutMix repeat? (The cell after your prediction trains six networks, which takes about twenty seconds.)

# %% tags=["predict"]
my_fraction_repeated_with_cutmix = ...  # a number between 0 and 1


# %% tags=["experiment"]
cutmix_all = CutMix(1.0, num_classes=K)


def wrong_labels_plain(seed):
    run = train_on_wrong_labels(seed, n_train=480, n_valid=960)
    return wrong_label_metrics(*run)


def wrong_labels_cutmix(seed):
    run = train_on_wrong_labels(
        seed, n_train=480, n_valid=960, mix=cutmix_all
    )
    return wrong_label_metrics(*run)


noise = compare_declared(
    Declaration(
        "Does CutMix protect against wrong labels?",
        claims=[
            Claim("CutMix", ">", "plain"),
            Claim("plain", ">", "CutMix", metric=REPEATED),
        ],
        unit=fresh_data(),
    ),
    {"plain": wrong_labels_plain, "CutMix": wrong_labels_cutmix},
    seeds=3,
    metric="valid_acc",
)
noise_study = Results.load("studies/04_label_noise.csv")
gains = [
    100 * noise_study.difference(name, "plain").mean
    for name in ("CutMix", "mixup")
]
noise.plot(
    noise_study,
    message="With 40 % wrong labels and 1,200 images (grey), mixing changes "
    f"the accuracy by {min(gains):+.0f} to {max(gains):+.0f} points.",
)

# %% [markdown]
# The runs that you've just made, with three seeds and 480 images each, are in colour. The grey marks come from the
# stored study (`studies/04_label_noise.py`), which calls the same function with eight seeds and 1,200 images per seed,
# and adds mixup and **label smoothing**. Smoothing takes a little probability from the given class, here 0.2 in all,
# and spreads it evenly over all classes.

# %% tags=["claim"]
print(noise_study.claim("CutMix", ">", "plain", by=0.05))
print(noise_study.claim("mixup", ">", "plain", by=0.05))
print(noise_study.claim("CutMix", ">", "label smoothing", by=0.05))
print(noise_study.on(REPEATED).claim("plain", ">", "CutMix", by=0.3))
best_epoch = Results.load("studies/04_best_epoch.csv")
print(best_epoch.claim("CutMix", ">", "plain, best epoch", by=0.05))
early = best_epoch.difference("plain, best epoch", "plain")
print("best epoch - last epoch, without mixing:", in_points(early))

# %% tags=["check"]
repeated = noise_study.on(REPEATED)
check.prediction(
    "Fraction of the wrong labels that CutMix repeats?",
    my_fraction_repeated_with_cutmix,
    float(repeated.values("CutMix").mean()),
    within=0.1,
)

# %% tags=["hide-input"]
corrected = noise_study.on(CORRECTED)
METHODS = ["plain", "label smoothing", "mixup", "CutMix"]
outcomes = {
    name: {
        "repeats the wrong label": 100 * repeated.values(name).mean(),
        "gives the true label": 100 * corrected.values(name).mean(),
    }
    for name in METHODS
}
for outcome in outcomes.values():
    outcome["something else"] = 100 - sum(outcome.values())
by_cutmix_repeated, by_cutmix_corrected, _ = outcomes["CutMix"].values()
plots.parts(
    outcomes,
    label="mislabelled training images",
    unit="%",
    message=f"CutMix repeats {by_cutmix_repeated:.0f} % of the wrong labels "
    f"and corrects {by_cutmix_corrected:.0f} %.",
)

# %%
trainer, noisy, _ = train_on_wrong_labels(
    0, n_train=480, n_valid=96, mix=cutmix_all
)
predicted = trainer.predict(cnnlab.loader(noisy, 256)).argmax(dim=1)
is_wrong = noisy.labels != noisy.clean_labels
was_corrected = is_wrong & (predicted == noisy.clean_labels)
shown = was_corrected.nonzero().flatten()[:20].tolist()
plots.image_grid(
    noisy.images[shown],
    [
        f"given: {data.classes[noisy.labels[i]]} "
        f"predicted: {data.classes[predicted[i]]}"
        for i in shown
    ],
    columns=5,
    alt="Signs with their wrong label and the prediction",
    message=f"CutMix corrected {int(was_corrected.sum())} of "
    f"{int(is_wrong.sum())} wrong labels that it was trained on.",
)

# %% [markdown]
# For each mislabelled training image, a network can repeat the wrong label, give the true one, or predict another
# class. The bars are from the study. There, mixup gives the true label for about half of these images, and CutMix for
# six in ten. The twenty signs come from one live run, which has only 480 images and corrects fewer.
#
# Under mixing, memorising hardly pays. A wrong label comes with a different partner, a different fraction and a
# different box each time, so the cheapest way to be right on average is to learn what the images of a class have in
# common. Label smoothing softens labels too, but it leaves the images alone, so they can be memorised as before.
#
# **Isn't stopping early enough?** Early stopping (chapter 6) recovers part of the loss: the best of the sixteen epochs
# of plain training, chosen in hindsight on the validation images themselves, is 3.4 points (1.6 to 5.2) better than the
# last one, but CutMix beats even that epoch by 7.3 points (5.8 to 8.7; `studies/04_best_epoch.py`).
#
# **What would change this result.** Our wrong labels are uniform. People confuse 30 with 80, not stop with 30, and this
# study can't say whether mixing helps as much against such mistakes. With labels of your own, *find* the wrong ones
# first.
#
# <details>
# <summary><b>How do you find wrong labels?</b></summary>
#
# **Confident learning** ([Northcutt, Jiang & Chuang 2021](https://arxiv.org/abs/1911.00068), in the package `cleanlab`)
# compares each label with the prediction of a network that wasn't trained on it. Look at your test set, too: those of
# ImageNet and CIFAR-10 contain wrong labels ([Northcutt, Athalye & Mueller 2021](https://arxiv.org/abs/2103.14749)).
#
# </details>
#
# ## 4.3 Correct labels and a short run
#
# ### Predict
#
# You train the same networks for the same sixteen epochs, but now every label is correct. By how much does CutMix
# change the validation accuracy? Write a difference, such as 0.02 or -0.02.

# %% tags=["predict"]
my_change_with_correct_labels = ...  # such as 0.02 or -0.02

# %% tags=["claim"]
CLEAN = {
    name: f"{name}, correct labels" for name in ("plain", "mixup", "CutMix")
}
print(noise_study.claim(CLEAN["plain"], ">", CLEAN["CutMix"]))
for name in ("CutMix", "mixup"):
    change = noise_study.difference(CLEAN[name], CLEAN["plain"])
    print(f"{name} - plain: {in_points(change)}")
fitted_images = noise_study.on("train_given")
for name in CLEAN.values():
    print(
        f"training accuracy, {name}: {fitted_images.values(name).mean():.2f}"
    )

# %% tags=["check"]
check.prediction(
    "Change of the accuracy by CutMix, with correct labels?",
    my_change_with_correct_labels,
    noise_study.difference(CLEAN["CutMix"], CLEAN["plain"]).mean,
    within=0.02,
)

# %% [markdown]
# CutMix costs five to six points. The training accuracies show why. Sixteen epochs are enough to fit single images but
# not to fit all their mixtures, so the network is still *underfitting* when the run ends. The papers train larger
# networks, which memorise more, for hundreds of epochs, and there mixing pays on clean labels as well. For example, in
# 300 epochs on ImageNet CutMix lifts the accuracy of a ResNet-50 from 76.3 % to 78.6 % ([Yun et al.
# 2019](https://arxiv.org/abs/1905.04899)).
#
# ## 4.4 Writing CutMix: the clipped box
#
# CutMix draws $\lambda$ first and then a box that should cover the fraction $1 - \lambda$ of the image. Its sides are
# $H \sqrt{1 - \lambda}$ and $W \sqrt{1 - \lambda}$, and its centre can be anywhere, so part of the box often sticks out
# and is clipped. Let the mask $M$ be 1 where the image stays and 0 inside the box, and let $\odot$ multiply pixel by
# pixel. Then
#
# $$ \tilde{x} = M \odot x_i + (1 - M) \odot x_j, \qquad
# \lambda = \frac{1}{HW} \sum_{h,w} M_{hw}, \qquad \tilde{t} = \lambda t_i + (1 - \lambda) t_j . $$
#
# There's a trap here. Suppose $\lambda$ is uniform, so that it's 1/2 on average. How much of the image is really kept
# once the boxes are clipped?

# %%
asked = mixing.sample_beta(1.0, 20_000, rng())  # λ before clipping
boxes = mixing.sample_boxes(1 - asked, 32, 32, rng(1))
top, left, bottom, right = boxes.unbind(1)
kept = 1 - (bottom - top) * (right - left) / (32 * 32)
print(f"λ that was drawn:     {asked.mean():.2f} on average")
print(f"λ of the clipped box: {kept.mean():.2f} on average")

# %% [markdown]
# The box covers about a third of the image, not half. (The exact value is $\int_0^1 (\sqrt{u} - u/4)^2 \, \mathrm{d}u =
# \tfrac12 - \tfrac15 + \tfrac1{48} \approx 0.32$.) If you used the $\lambda$ you drew, half of each label would belong
# to the partner, on average, although the partner covers only a third of the image. So compute $\lambda$ *again* from
# the pixels you pasted.
#
# Try it below. The explorer starts with CutMix, $\lambda = 0.5$ and the box in the middle, where it can hide the one
# thing that identifies a sign. The label still goes by area, so it's right on average rather than for every image. Now
# move the box into a corner, row and column, and watch the label. (Mixup has no box, so row and column do nothing
# there.)

# %% tags=["widget"]
widgets.mixing(images, labels, data.classes)

# %% [markdown]
# One test catches every mismatch of pixels and labels, in anybody's mixing code: the **grey-paint test**. Paint each
# image in a single grey that equals its class index $k$, mix the batch, and compare. The mean of the pixels must be
# $\sum_k k \, \tilde{t}_k$, the class index that the soft label promises.

# %%
painted = labels.float().view(-1, 1, 1, 1).expand(-1, 3, 32, 32) / K


def broken_promise(mixed, soft):
    """Return the largest gap between the pixels and the soft label."""
    promised = soft @ torch.arange(K).float() / K
    return (mixed.mean(dim=(1, 2, 3)) - promised).abs().max().item()


mixup_all = MixUp(1.0, num_classes=K)
print(f"MixUp:  {broken_promise(*mixup_all(painted, labels, rng())):.6f}")
print(f"CutMix: {broken_promise(*cutmix_all(painted, labels, rng())):.6f}")

lam = asked[:48, None]
masks = mixing.box_masks(boxes[:48], 32, 32)
mixed, _ = mixing.blend(painted, one_hot, masks, shift=1)
unclipped = lam * one_hot + (1 - lam) * one_hot.roll(1, 0)
print(f"λ before clipping: {broken_promise(mixed, unclipped):.6f}")

# %% [markdown]
# ### Exercise 2: `cutmix` (medium, 20 minutes)
#
# `box` is `(top, left, bottom, right)` in pixels *before* clipping, with `bottom` and `right` just outside the box. It
# may stick out on any side, so its numbers may be negative. Paste the part that lies inside the image, from the same
# place in the partner, and mix the targets in proportion to the pixels.


# %% tags=["exercise"]
def cutmix(images, targets, box, permutation):
    """Paste a box of the partners into images (N, C, H, W); mix targets."""
    raise NotImplementedError


# %% tags=["check"]
check.cutmix(cutmix)

# %% [markdown] tags=["hint"]
# <details>
# <summary><b>Hint: the box over the top left corner goes wrong</b></summary>
#
# What does `list(range(10))[-2:4]` give? Clip the numbers before you slice.
#
# </details>
#
# <details>
# <summary><b>Hint: the images are right, the targets aren't</b></summary>
#
# How many pixels did you replace in the end? Try the grey-paint test.
#
# </details>


# %% tags=["solution", "hide-cell"]
# Solution
def cutmix(images, targets, box, permutation):
    """Paste a box of the partners into images (N, C, H, W); mix targets."""
    height, width = images.shape[2:]
    top, left, bottom, right = box
    top, left = max(top, 0), max(left, 0)
    bottom, right = min(bottom, height), min(right, width)
    rows, columns = slice(top, bottom), slice(left, right)
    mixed = images.clone()
    mixed[:, :, rows, columns] = images[permutation][:, :, rows, columns]
    lam = 1 - (bottom - top) * (right - left) / (height * width)
    return mixed, lam * targets + (1 - lam) * targets[permutation]


check.cutmix(cutmix)

# %% [markdown]
# ### Exercise 3: find the bug in the textbook (open, 20 minutes)
#
# This function has been copied from one set of lecture notes to the next. It runs, its pixels and its $\lambda$ are
# right, and a network trains with it. Yet one line silently damages the training data when the batch comes from a data
# set that is kept in memory. (The grey-paint test passes, because this batch is mixed correctly.) Find that line,
# *prove* the damage with a few lines of code, and fix it. Then judge the other oddities: which of them are harmless?
#
# ```python
# def cutmix_data(x, y, alpha=1.0):
#     lam = np.random.beta(alpha, alpha)
#     index = torch.randperm(x.size(0))
#     W, H = x.size(2), x.size(3)
#     cut_w, cut_h = int(W * np.sqrt(1 - lam)), int(H * np.sqrt(1 - lam))
#     cx, cy = np.random.randint(W), np.random.randint(H)
#     x1, x2 = np.clip([cx - cut_w // 2, cx + cut_w // 2], 0, W)
#     y1, y2 = np.clip([cy - cut_h // 2, cy + cut_h // 2], 0, H)
#     x[:, :, x1:x2, y1:y2] = x[index, :, x1:x2, y1:y2]
#     lam = 1 - (x2 - x1) * (y2 - y1) / (W * H)
#     return x, y, y[index], lam
# ```
#
# | points | for |
# |---|---|
# | 2 | you name the line, and why it matters for a view but not for a fresh copy |
# | 3 | your code shows it: the data set before and after one epoch, or the images after ten |
# | 1 | a fix of at most one line |
# | 2 | two harmless oddities, each with the reason (look at `W` and `H`, and at the number of boxes per batch) |
# | 2 | what `np.random` does to a run that should be reproducible with `torch.manual_seed` |

# %%
# Your experiment: call the function on a batch that is a view of a tensor.

# %% [markdown]
# ## 4.5 How strongly to mix
#
# Both methods draw $\lambda \sim \mathrm{Beta}(\alpha, \alpha)$, a distribution on the numbers from 0 to 1 with
#
# $$ p(\lambda) \propto \lambda^{\alpha-1} (1-\lambda)^{\alpha-1}, \qquad
# \mathbb{E}[\lambda] = \tfrac{1}{2}, \qquad \mathrm{Var}[\lambda] = \frac{1}{4 (2\alpha + 1)}. $$
#
# It's symmetric, so neither image is favoured, and the single number $\alpha > 0$ sets the strength. Below 1 most draws
# lie near 0 or 1, at 1 every fraction is equally likely, and above 1 most draws lie near one half. The mixup paper uses
# 0.2 on ImageNet and 1 on CIFAR-10; CutMix almost always uses 1.
#
# ### Predict
#
# With $\alpha = 0.2$, what fraction of the mixed images takes more than nine tenths from a single original?

# %% tags=["predict"]
my_fraction_nearly_pure = ...  # a number between 0 and 1

# %%
ALPHAS = (0.2, 1.0, 4.0)
draws = {
    f"α = {alpha}": mixing.sample_beta(alpha, 20_000, rng())
    for alpha in ALPHAS
}
pure = {
    name: (torch.maximum(lam, 1 - lam) > 0.9).float().mean().item()
    for name, lam in draws.items()
}
plots.histogram(
    {name: lam.numpy() for name, lam in draws.items()},
    label="λ, the fraction of an image that is kept",
    message=f"Nearly pure images: {pure['α = 0.2']:.0%} at α = 0.2, "
    f"{pure['α = 1.0']:.0%} at α = 1, {pure['α = 4.0']:.0%} at α = 4.",
)

# %% tags=["check"]
check.prediction(
    "Fraction of nearly pure images with α = 0.2?",
    my_fraction_nearly_pure,
    pure["α = 0.2"],
    within=0.1,
)

# %% [markdown]
# So $\alpha = 0.2$ leaves most images almost unchanged. When a paper says "we used mixup", ask for its $\alpha$. Ask
# how often $\lambda$ is drawn, too. Published code, torchvision's included, draws one $\lambda$ per *batch*. `cnnlab`
# draws one per image by default, which averages over more values at the same cost (`per_sample=False` gives you the
# usual behaviour).
#
# ## 4.6 A picture of what mixing does
#
# Two interleaved half-moons are simple enough to show everything in one plot. We train the same little network on 60
# noisy points, once without mixing and once with mixup.


# %% tags=["experiment"]
def moons(seed, n):
    """Draw n points of two noisy half-moons, and their classes."""
    from sklearn.datasets import make_moons

    points, classes = make_moons(n, noise=0.3, random_state=seed)
    return torch.from_numpy(points).float(), torch.from_numpy(classes)


def train_on_moons(seed, alpha=None, steps=600):
    """Train a small network on 60 points; mix each step if alpha is given."""
    points, classes = moons(seed, 60)
    targets = F.one_hot(classes, 2).float()
    torch.manual_seed(seed)
    net = nn.Sequential(
        nn.Linear(2, 64),
        nn.ReLU(),
        nn.Linear(64, 64),
        nn.ReLU(),
        nn.Linear(64, 2),
    )
    optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
    for _ in range(steps):
        x, t = points, targets
        if alpha is not None:
            lam = mixing.sample_beta(alpha, 60)[:, None]
            partner = torch.randperm(60)
            x = lam * x + (1 - lam) * x[partner]
            t = lam * t + (1 - lam) * t[partner]
        optimizer.zero_grad()
        F.cross_entropy(net(x), t).backward()
        optimizer.step()
    return net


def loss_on_new_moons(seed, net):
    points, classes = moons(seed + 10_000, 5000)
    with torch.no_grad():
        return F.cross_entropy(net(points), classes).item()


def moons_plain(seed):
    return {"loss": loss_on_new_moons(seed, train_on_moons(seed))}


def moons_mixup(seed):
    return {"loss": loss_on_new_moons(seed, train_on_moons(seed, alpha=1.0))}


on_moons = compare_declared(
    Declaration(
        "Does mixup lower the loss on new points of the moons?",
        claims=[Claim("mixup", "<", "plain", by=0.5)],
        unit=fresh_data(),
    ),
    {"plain": moons_plain, "mixup": moons_mixup},
    seeds=5,
    metric="loss",
)
nets = {
    "plain": train_on_moons(0),
    "mixup, α = 1": train_on_moons(0, alpha=1.0),
}


def probability_of(net):
    return lambda grid: net(grid).softmax(dim=1)[:, 1]


plots.probability_map(
    {name: probability_of(net) for name, net in nets.items()},
    *moons(0, 60),
    message="Plain training is certain right up to a ragged border; mixup "
    "gives a smooth border and doubt beside it.",
)

# %% tags=["claim"]
on_moons.claim("mixup", "<", "plain", by=0.5)

# %% [markdown]
# The plain network memorised every noisy point, and where it's wrong on new ones it's wrong with full confidence, which
# the loss punishes. Figure 1 of the mixup paper shows the same on another toy problem.
#
# ## 4.7 Loss and accuracy under mixing
#
# Cross-entropy works unchanged, because it's defined for any probability vector:
#
# $$ L = -\frac{1}{N} \sum_{i=1}^{N} \sum_{k=1}^{K} \tilde{t}_{ik} \log p_{ik} . $$
#
# In code that's `-(targets * F.log_softmax(logits, dim=1)).sum(dim=1).mean()`. Take `log_softmax` rather than the
# logarithm of a softmax, which is minus infinity as soon as a probability is rounded to zero. The loss is linear in the
# label, so the loss of a mixed label equals the mixture of the two losses, and many codebases compute it that way.
# Three things change, though. The next cell shows all three.

# %%
logits = torch.randn(48, K, generator=rng(3))
weight = torch.linspace(0.5, 4.0, K)
by_index = F.cross_entropy(logits, labels, weight)
by_row = F.cross_entropy(logits, one_hot, weight)
ours = mixing.soft_cross_entropy(logits, one_hot, weight)
assert torch.allclose(ours, by_index)
print("1. the same labels, with class weights")
print(f"   torch, class indices: {by_index:.3f}")
print(f"   torch, one-hot rows:  {by_row:.3f}")
print(f"   cnnlab, one-hot rows: {ours:.3f}")

smooth = 0.9 * one_hot + 0.1 / K
twice = 0.9 * smooth + 0.1 / K
print("2. probability of the true class after label smoothing")
print(f"   once {smooth.max():.3f}, twice {twice.max():.3f}")

print("3. lowest training loss that any network can reach")
for name, lam in draws.items():
    two_classes = torch.stack([lam, 1 - lam]).clamp(min=1e-12)
    floor = -(two_classes * two_classes.log()).sum(dim=0).mean()
    print(f"   {name}: {floor:.2f}")

# %% [markdown]
# 1. **Class weights** (chapter 11) should give a weighted *mean*, divided by $\sum_i \sum_k w_k \, \tilde{t}_{ik}$.
#    `F.cross_entropy` does that for class indices, but for soft labels it divides by $N$. Every gradient grows by the
#    same factor, as if you had changed the learning rate, so switching mixup on would silently retune your run.
#    `cnnlab.mixing.soft_cross_entropy` divides by the weights.
# 2. **Label smoothing** ([Szegedy et al. 2016](https://arxiv.org/abs/1512.00567)) replaces $t$ by $(1 - \varepsilon) t
#    + \varepsilon / K$, so that it never pays to be completely certain. Some mixing functions already smooth the labels
#    they return. If your loss has `label_smoothing=0.1` as well, you smooth by 0.19. Smooth once, in the loss.
# 3. **The training loss can't reach zero.** At best the prediction *is* the soft label, and then the loss is the
#    entropy of the label.
#
# A colleague trains with mixup ($\alpha = 1$). The training loss stalls at 0.55, and the validation loss is 0.40. Does
# the network underfit, or is there a bug?
#
# <details>
# <summary><b>Answer</b></summary>
#
# By itself, it's a sign of neither. For uniform $\lambda$ and partners of another class, the entropy is exactly 1/2 on
# average, so 0.55 is almost as low as it can get. A training loss *above* the validation loss is normal under mixing.
#
# </details>
#
# Training *accuracy* makes no sense here, because an image that is 60 % stop sign has no single correct class to count.
# The `Trainer` leaves it out. To see how well the training images are fitted, evaluate once at the end on the unmixed
# images, as 4.3 does.
#
# One more requirement is easy to miss: the loader must shuffle. If the data are sorted by class, a batch holds one or
# two classes, and mixing within a class is no more than a blur.
#
# ## 4.8 Few labels: accuracy versus confidence
#
# A network reports probabilities, and you'd like to believe them. Its **confidence** in a prediction is the largest
# probability. If four in five of the predictions with confidence 0.8 are correct, and likewise for every other
# confidence, the network is **calibrated** ([Guo et al. 2017](https://arxiv.org/abs/1706.04599)). Networks that fit
# their training images perfectly tend to be **overconfident**. (Not all large ones do: [Minderer et al.
# 2021](https://arxiv.org/abs/2106.07998) found recent models, transformers above all, among the best calibrated.) Three
# measures, all on new images:
#
# - the loss $-\frac{1}{N} \sum_i \log p_{y_i}$ punishes predictions that are incorrect *and* confident;
# - **overconfidence** is mean confidence minus accuracy, and its sign tells you the direction;
# - the **expected calibration error** (ECE) sorts the predictions into $B$ bins by confidence and averages the gaps,
#   $\sum_b \frac{n_b}{N} \left| \mathrm{conf}_b - \mathrm{acc}_b \right|$.
#
# Here are eight predictions. Before you run the cell: is this network overconfident, on the whole?

# %%
confidence = torch.tensor([0.4, 0.5, 0.5, 0.6, 0.8, 0.9, 0.9, 1.0])
correct = torch.tensor([1.0, 0.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0])
gap = confidence - correct
print(f"mean confidence {confidence.mean():.2f}, accuracy {correct.mean()}")
print(f"overconfidence {gap.mean():+.2f}")
for name, bins in (
    ("two bins of four predictions", gap.chunk(2)),
    ("four bins of two predictions", gap.chunk(4)),
    ("two bins of equal width", gap.split([3, 5])),  # below 0.55, above it
):
    error = sum(len(part) / 8 * part.mean().abs() for part in bins)
    print(f"ECE with {name}: {error:.3f}")

# %% [markdown]
# On the whole, confidence and accuracy nearly agree, but only because two errors cancel out: the network is
# under-confident in the four less confident predictions and overconfident in the others. The ECE shows that. It also
# depends on the bins, so state which you use. Guo et al. use bins of equal *width*. Ours are ten bins with equally many
# predictions.
#
# With few labels, training images are soon fitted perfectly, so that's the place to look.
# [Thulasidasan et al. 2019](https://arxiv.org/abs/1905.11001) reported that mixup helps here.
#
# ### Predict
#
# You train on ten images per class, all labelled correctly, for forty epochs and without mixing. By how much does the
# mean confidence exceed the accuracy? (0 for a calibrated network. The cell after your prediction trains ten networks,
# which takes about fifteen seconds.)

# %% tags=["predict"]
my_overconfidence = ...  # a number between -1 and 1


# %% tags=["experiment", "claim"]
def few_labels_run(seed, mix=None):
    trainer, valid = train_on_few_labels(
        seed, n_train=120, n_valid=960, mix=mix
    )
    logits = trainer.predict(cnnlab.loader(valid, 256))
    return logits, valid.labels


def few_plain(seed):
    return calibration(*few_labels_run(seed))


def few_mixup(seed):
    return calibration(*few_labels_run(seed, mix=mixup_all))


few_labels = compare_declared(
    Declaration(
        "Does mixup lower the loss with ten labels per class?",
        claims=[Claim("mixup", "<", "plain")],
        unit=fresh_data(),
    ),
    {"plain": few_plain, "mixup": few_mixup},
    seeds=5,
    metric="valid_loss",
)
print(few_labels.claim("mixup", "<", "plain"))
lower = few_labels.table()["mean"].idxmin()
few_labels.plot(
    message="With ten labels per class, the validation loss is lower for "
    f"{lower}.",
)

# %% tags=["check"]
overconfidence = few_labels.on("overconfidence").values("plain").mean()
check.prediction(
    "Overconfidence without mixing?",
    my_overconfidence,
    float(overconfidence),
    within=0.1,
)

# %% [markdown]
# That was ten labels per class. The stored study `studies/04_few_labels.py` has *twenty*, ten seeds, and two more
# variants: CutMix, and label smoothing, this time of 0.1.

# %% tags=["claim"]
few_study = Results.load("studies/04_few_labels.csv")
print(few_study.claim("mixup", "<", "plain", by=0.1))
confidence_study = few_study.on("overconfidence")
print(confidence_study.claim("plain", ">", "mixup", by=0.1))
accuracy_study = few_study.on("valid_acc")
print(accuracy_study.claim("mixup", ">", "plain"))
confidence_study.plot(
    label="confidence minus accuracy",
    message="Twenty labels per class: plain training is overconfident, label "
    "smoothing under-confident, mixing is nearest to zero.",
)

# %% [markdown]
# With twenty labels per class, mixup gains about two points of accuracy. Its larger gain is in calibration. Its
# confidence is four points below its accuracy, while plain training reports fifteen points more than it achieves.
#
# ### The cheaper repair: a temperature
#
# Is mixing the best way to calibrate? The paper that made calibration famous has a simpler way. **Temperature scaling**
# divides all logits by a single number $T$ after training:
#
# $$ p = \mathrm{softmax}(z / T), \qquad T = \arg\min_{T > 0} \; -\frac{1}{N} \sum_i \log p_{y_i}(T) \quad \text{on held-out images} . $$
#
# $T > 1$ makes the network less confident, $T < 1$ more. The order of the classes doesn't change, so no prediction
# changes, and neither does the accuracy.
#
# ### Exercise 4: `fit_temperature` (hard, 25 minutes)
#
# Return the $T$ with the lowest cross-entropy, as a plain number, accurate to about 1 %. The logits (N, K) come from
# held-out images. The best $T$ lies between 0.05 and 20. Use any method you like: a grid in two stages, bisection, or
# an optimizer on $\log T$.


# %% tags=["exercise"]
def fit_temperature(logits, labels):
    """Return the temperature with the lowest cross-entropy."""
    raise NotImplementedError


# %% tags=["check"]
check.fit_temperature(fit_temperature)

# %% [markdown] tags=["hint"]
# <details>
# <summary><b>Hint: my T is the inverse of the right one</b></summary>
#
# An overconfident network needs smaller logits. Do you divide by T, or multiply?
#
# </details>
#
# <details>
# <summary><b>Hint: my T isn't accurate enough</b></summary>
#
# The loss is a smooth function with one minimum. Evaluate it on fifty values that are evenly spaced in log T, then on
# fifty values around the best one.
#
# </details>


# %% tags=["solution", "hide-cell"]
# Solution
def fit_temperature(logits, labels):
    """Return the temperature with the lowest cross-entropy."""
    low, high = 0.05, 20.0
    for _ in range(4):
        candidates = torch.logspace(
            torch.tensor(low).log10(), torch.tensor(high).log10(), 50
        )
        losses = torch.stack(
            [F.cross_entropy(logits / t, labels) for t in candidates]
        )
        best = int(losses.argmin())
        low = candidates[max(best - 1, 0)].item()
        high = candidates[min(best + 1, 49)].item()
    return candidates[best].item()


check.fit_temperature(fit_temperature)

# %%
logits, targets = few_labels_run(0)
half = len(targets) // 2
fitted = common.fit_temperature(logits[:half], targets[:half])
mixed_logits, mixed_targets = few_labels_run(0, mix=mixup_all)
print(f"T = {fitted:.2f}")


def gaps(logits, targets, bins=5):
    """Return confidence minus accuracy in bins of equal size."""
    confidence, predicted = logits.softmax(dim=1).max(dim=1)
    order = confidence.argsort(stable=True)
    gap = confidence - (predicted == targets).float()
    return [part.mean().item() for part in gap[order].chunk(bins)]


plots.lines(
    ["least confident", "2nd fifth", "3rd fifth", "4th fifth", "most"],
    {
        "plain": gaps(logits[half:], targets[half:]),
        "plain, divided by T": gaps(logits[half:] / fitted, targets[half:]),
        "mixup": gaps(mixed_logits[half:], mixed_targets[half:]),
        "perfectly calibrated": [0.0] * 5,
    },
    xlabel="fifths of the predictions, by confidence",
    ylabel="confidence minus accuracy",
    message="In this run, one number after training calibrates about as "
    "well as mixup during training.",
)

# %% [markdown]
# The plot shows one run of each kind. We fitted $T$ on the first half of the validation images and plotted the second
# half. But the comparison isn't fair, because the temperature used 480 labels that mixup never saw. In the stored study
# `studies/04_temperature.py`, every variant has 240 labels in all. The variants with a temperature train on 180 of them
# and fit $T$ on the other 60.

# %% tags=["claim"]
fair = Results.load("studies/04_temperature.csv")
error = fair.on("calibration_error")
print(error.verdict("plain + temperature", "<", "plain", by=0.05))
print(error.verdict("mixup", "<", "plain", by=0.05))
print(fair.verdict("mixup", "<", "plain + temperature", by=0.02))
fair_accuracy = fair.on("valid_acc")
print(fair_accuracy.verdict("mixup", ">", "plain + temperature", by=0.02))
print("\nNot declared before the study, calibration error:")
for a, b in [
    ("plain + temperature", "mixup"),
    ("mixup + temperature", "mixup"),
]:
    print(f"{a} - {b}: {error.difference(a, b)}")
error.plot(
    label="expected calibration error",
    message="With equally many labels, a temperature and mixup both repair "
    "most of the calibration error.",
)
# %% [markdown]
# A temperature removes about three quarters of the calibration error, mixup about two thirds. So the temperature is the
# better calibrator here, by 0.015 (0.005 to 0.026), and on top of mixup it adds nothing that we can see: the error
# changes by −0.008 (−0.025 to +0.010). But the sixty labels that fit the temperature are missing from training. That
# costs three to four points of accuracy, so mixup ends with the lower loss. If you hold out a validation set anyway,
# for early stopping say, a temperature is free, so fit one. If you need every label for training, mix.
#
# ### What would change this result
#
# How confident a network becomes also depends on how reliable its labels are. Go back to 4.2, where a label is correct
# with a probability of only 0.6. Suppose a network learns everything that these labels can teach, and memorises
# nothing. Then it reports a confidence of 0.6, however accurate it is:

# %% tags=["claim"]
confidence_with_noise = noise_study.on("overconfidence")
print(confidence_with_noise.claim("CutMix", "<", "plain", by=0.1))
confidence_with_noise.plot(
    label="confidence minus accuracy",
    message="Trained on wrong labels, mixup and CutMix are strongly "
    "under-confident.",
)

# %% [markdown]
# CutMix is now strongly under-confident: it's correct much more often than it claims, because mixing adds its own
# uncertainty to that of the labels. "Mixup calibrates" is a statement about networks that were overconfident to begin
# with.
#
# ## 4.9 In plain PyTorch
#
# You don't need cnnlab for any of this. `torchvision.transforms.v2` has `MixUp` and `CutMix`. They work on whole
# batches, so they belong in the `DataLoader`'s **collate function**, which turns a list of samples into a batch. The
# loop of chapter 1 stays as it is, because `F.cross_entropy` accepts probabilities.

# %% tags=["plain"]
from torch.utils.data import default_collate
from torchvision.transforms import v2


def mix_batch(num_classes, alpha=1.0):
    """Return a collate function that applies mixup or CutMix to a batch."""
    options = {"alpha": alpha, "num_classes": num_classes}
    mix = v2.RandomChoice([v2.MixUp(**options), v2.CutMix(**options)])

    def collate(samples):
        return mix(*default_collate(samples))

    return collate


# %% [markdown]
# Use it as `DataLoader(dataset, 64, shuffle=True, collate_fn=mix_batch(12))`, for training only. To check it, we take a
# batch from the loader, read $\lambda$ off its labels, and let cnnlab mix the same images with the same $\lambda$.
# torchvision pairs each image with the one before it, which is `shift=1`.

# %%
samples = [(images[i], labels[i]) for i in (0, 1, 2, 3)]
assert labels[0] != labels[3]  # then λ can be read off the first row
by_torchvision = v2.MixUp(alpha=1.0, num_classes=K)
torch.manual_seed(0)
their_images, their_labels = by_torchvision(images[:4], labels[:4])
lam = their_labels[0, labels[0]]
partner_weight = (1 - lam).expand(4, 1, 1, 1)
our_images, our_labels = mixing.blend(
    images[:4], one_hot[:4], partner_weight, shift=1
)
assert torch.allclose(their_images, our_images, atol=1e-6)
assert torch.allclose(their_labels, our_labels, atol=1e-6)

mixed_images, soft = mix_batch(K)(samples)
assert torch.allclose(soft.sum(dim=1), torch.ones(4))
print(f"λ = {lam:.3f}: torchvision and cnnlab mix alike")
print(
    f"loss of a mixed batch: {F.cross_entropy(torch.randn(4, K), soft):.2f}"
)

# %% [markdown]
# In 2026, mixing is a standard ingredient of long training recipes. The usual ImageNet recipes of timm and torchvision
# for ResNets and vision transformers switch between mixup (α between 0.2 and 0.8) and CutMix (α = 1). They combine it
# with label smoothing of 0.1, RandAugment and hundreds of epochs. Fine-tuning runs of a few epochs mostly leave mixing
# out, for the reason you saw in 4.3.
#
# ## Make it bigger
#
# This cell trains with CutMix under label noise on all of CIFAR-10. It downloads 170 MB once and needs a GPU, so it
# runs only when the environment variable `CNNLAB_PROFILE` is `gpu`. Then put the correct labels back, train for 15 and
# for 60 epochs, and find out how long a run has to be before mixing pays without noise.

# %% tags=["bigger"]
if lab.profile == "gpu":
    photos = cnnlab.load("cifar10", download=True)
    noisy = cnnlab.data.label_noise(photos.train, 0.4, seed=0)
    for mix in (None, CutMix(1.0, num_classes=10)):
        torch.manual_seed(0)
        model = cnnlab.small_resnet(num_classes=10, width=32, depth=3)
        optimizer = torch.optim.SGD(
            model.parameters(), lr=0.1, momentum=0.9, weight_decay=5e-4
        )
        batches = cnnlab.loader(noisy, 128, shuffle=True)
        schedule = cnnlab.schedules.cosine(30 * len(batches))
        trainer = cnnlab.Trainer(
            model,
            optimizer,
            scheduler=cnnlab.attach(optimizer, schedule),
            batch_transform=mix,
        )
        trainer.fit(batches, cnnlab.loader(photos.valid, 512), epochs=30)
else:
    print("left out: set CNNLAB_PROFILE=gpu to run it")

# %% tags=["hide-input"]
check.quiz(4)

# %% [markdown]
# ## Key points
#
# - An image keeps a fraction $\lambda$ of itself and takes $1 - \lambda$ from a partner, and so does its label.
#   $\alpha$ sets the strength.
# - Use one permutation and one $\lambda$ for images and labels. For CutMix, use the $\lambda$ of the clipped box. The
#   grey-paint test checks both.
# - Mixing keeps a network from memorising single labels. With 40 % wrong labels, that was worth ten points of accuracy.
# - It isn't a free lunch. With correct labels and a short run, CutMix cost five points.
# - Training accuracy is meaningless under mixing, and the training loss has a floor above zero. Evaluate on unmixed
#   images.
# - Look at accuracy *and* calibration. A temperature repairs overconfidence after training with a single number.
#
# **Your recipe so far** gains an option: mixing, for noisy labels and for long runs.
#
# ## Common mistakes
#
# | what you see | what it often is |
# |---|---|
# | training with mixing is a little worse than it should be, without an error | $\lambda$ of the unclipped box, or $\lambda$ and $1 - \lambda$ swapped |
# | the network hardly learns at all | a second permutation for the labels |
# | the images look more ghostly from epoch to epoch | mixing in place, on views of the data |
# | class weights need another learning rate once mixing is on | a loss that divides by $N$ |
# | under-confident predictions, validation loss higher than expected | labels smoothed twice, or mixing too strong |
# | mixing changes nothing | a loader that doesn't shuffle sorted data, or $\alpha$ near 0 |
# | training loss above validation loss | nothing: mixing looks like that |
#
# ## References
#
# - H. Zhang, M. Cisse, Y. N. Dauphin and D. Lopez-Paz, *mixup: Beyond empirical risk minimization*, 2018, [arXiv:1710.09412](https://arxiv.org/abs/1710.09412)
# - S. Yun, D. Han, S. J. Oh, S. Chun, J. Choe and Y. Yoo, *CutMix: Regularization strategy to train strong classifiers with localizable features*, 2019, [arXiv:1905.04899](https://arxiv.org/abs/1905.04899)
# - C. Szegedy, V. Vanhoucke, S. Ioffe, J. Shlens and Z. Wojna, *Rethinking the Inception architecture for computer vision*, 2016, [arXiv:1512.00567](https://arxiv.org/abs/1512.00567)
# - C. Zhang, S. Bengio, M. Hardt, B. Recht and O. Vinyals, *Understanding deep learning requires rethinking generalization*, 2017, [arXiv:1611.03530](https://arxiv.org/abs/1611.03530)
# - C. G. Northcutt, L. Jiang and I. L. Chuang, *Confident learning: Estimating uncertainty in dataset labels*, 2021, [arXiv:1911.00068](https://arxiv.org/abs/1911.00068)
# - C. G. Northcutt, A. Athalye and J. Mueller, *Pervasive label errors in test sets destabilize machine learning benchmarks*, 2021, [arXiv:2103.14749](https://arxiv.org/abs/2103.14749)
# - C. Guo, G. Pleiss, Y. Sun and K. Q. Weinberger, *On calibration of modern neural networks*, 2017, [arXiv:1706.04599](https://arxiv.org/abs/1706.04599)
# - S. Thulasidasan, G. Chennupati, J. Bilmes, T. Bhattacharya and S. Michalak, *On mixup training: Improved calibration and predictive uncertainty for deep neural networks*, 2019, [arXiv:1905.11001](https://arxiv.org/abs/1905.11001)
# - M. Minderer, J. Djolonga, R. Romijnders, F. Hubis, X. Zhai, N. Houlsby, D. Tran and M. Lucic, *Revisiting the calibration of modern neural networks*, 2021, [arXiv:2106.07998](https://arxiv.org/abs/2106.07998)

# %% [markdown] tags=["instructor", "remove-cell"]
# ## When you are short of time
#
# Keep 4.1, 4.2 and 4.4. Let everybody compute the λ of one clipped box by hand. Class weights, smoothing and the moons
# can be read at home.
#
# ## A session of ninety minutes
#
# | minutes | what | sections | who |
# |---|---|---|---|
# | 10 | An image, its partner, and their label | 4.1 | you |
# | 10 | Exercise 1 | 4.1 | everybody |
# | 15 | Wrong labels: predict, run, and read the bars | 4.2 | everybody |
# | 5 | The same with correct labels: vote again | 4.3 | the room |
# | 10 | The λ of one clipped box on paper, then the explorer | 4.4 | everybody on paper |
# | 20 | Exercise 2, with the grey-paint test | 4.4 | everybody |
# | 10 | Eight predictions by hand; guess the overconfidence | 4.8 | the room |
# | 10 | Questions for the room | | the room |
#
# ## Exercise 3: a model answer
#
# The line is `x[:, :, x1:x2, y1:y2] = ...`. It writes into `x`. If `x` is a view of the data set, as a slice is, the
# pasted pixels stay there, and the next epoch pastes into images that are already mixed, while their labels are still
# pure. If `x` is a fresh copy, as from `default_collate` or indexing with a tensor, the data set stays as it was. A
# proof:
#
# ```python
# stored = torch.rand(8, 3, 32, 32)
# before = stored.clone()
# cutmix_data(stored[:4], torch.arange(4))
# print((stored != before).float().mean())  # above 0, unless the box was empty
# ```
#
# The fix is `x = x.clone()` at the top. Harmless: `W` is really the height (`x.size(2)`) and `H` the width, but they're
# used consistently; one box and one λ for the whole batch, which is the usual form and only makes the gradients a bit
# noisier. `np.random` isn't seeded by `torch.manual_seed`, so the boxes of a run can't be repeated unless you seed
# NumPy as well, or draw everything with torch.
#
# ## Questions for the room
#
# - Training accuracy means nothing under mixing. What do you watch instead? (The validation metrics, and the accuracy
#   on unmixed training images at the end. Don't wait for the training loss to reach zero: with α = 1 and partners of
#   another class it can't fall below 0.5. A training loss above the validation loss is normal.)
# - CutMix helped with wrong labels and hurt with correct ones in short runs. What does that say about a paper that
#   shows only the first? (The paper may be right, but its claim is about wrong labels. Here CutMix gained 10.7 points
#   with 40 % wrong labels, and with correct ones it cost 5.7. So ask for the other setting, for the length of the runs,
#   and for a baseline that stops early: against the best epoch of plain training, the gain was 7.3 points.)
# - You have 240 labels and an overconfident network. Do you mix, or do you hold out sixty labels for a temperature?
#   (The temperature calibrates better, by 0.015 (0.005 to 0.026), and it can't change a prediction. But the sixty
#   labels are missing from training, which cost three to four points of accuracy, so mixup ended with the lower loss.
#   If you hold out a validation set anyway, the temperature is free.)
# - Two networks are equally accurate, but one is less confident. Which one would you deploy in a hospital, and what
#   would you measure before you decide? (Low confidence isn't a merit, and neither is high confidence. What counts is
#   whether 90 % means nine in ten. Measure the calibration error and its sign on patients of that hospital: with wrong
#   labels, CutMix was 26 points *under*-confident. A temperature can repair either without changing a prediction. Then
#   ask which decision depends on the probability, and choose by that.)
#
# ## Exam questions
#
# **Question 1.** CutMix draws λ = 0.75 for images of 32 x 32 pixels. How large is the box? Its centre lies in row 4 and
# column 28. Which part of it lies inside the image, and which λ belongs in the label? What goes wrong if the label gets
# 0.75, and how would you test somebody else's code for it?
#
# **Answer.** The sides are 32 · √0.25 = 16 pixels. The box spans the rows −4 to 12 and the columns 20 to 36, so 12 x 12
# pixels lie inside. The image keeps 1 − 144/1,024 = 0.86 of its pixels, and that's the λ of the label. With 0.75, a
# quarter of the label belongs to a partner that covers a seventh of the image. Clipping only makes boxes smaller, so
# this mistake always has the same sign, and the network learns to report too much of classes that it hardly sees. To
# test it, paint each image in a grey that equals its class index: after mixing, the mean grey has to be the class index
# that the soft label promises.
#
# **Question 2.** In a data set with twelve classes, each label is correct with a probability of 0.6 and otherwise any
# of the other eleven. A network learns all that such labels can teach and memorises none of them. It names 95 % of new
# images correctly. What confidence does it report, and is it over- or under-confident? You fit a temperature on
# held-out images with *correct* labels. What changes, and what doesn't? What if their labels are as noisy as the
# others?
#
# **Answer.** The best prediction for a noisy label gives 0.6 to the class it recognises, and 0.4/11 to each of the
# others. So the confidence is about 0.6 at an accuracy of 0.95: it's under-confident by 35 points. With correct labels,
# the best temperature is below 1. The confidence rises to about 0.95, and no prediction changes, because the order of
# the classes stays. With noisy labels, a confidence of 0.6 is right for just these labels, so the temperature stays
# near 1 and repairs nothing.
