# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 2. Normalisation, initialisation, regularisation
#
# **Questions.** Why does a deep network with unlucky fresh weights not learn at all? What does batch norm compute, and why
# does it allow larger learning rates? How does layer norm differ? What do dropout and weight decay do, and where do they not
# belong?
#
# **Afterwards you can** compute a batch norm by hand, choose the spread of fresh weights, write dropout so that nothing
# has to be corrected in use, and say which parameters should not decay.
#
# | | |
# |---|---|
# | to read | 30 minutes |
# | to run | 55 seconds on one core of a laptop; no network, no GPU |
# | you need | chapter 1, and what a mean and a variance are |

# %% tags=["setup"]
import copy
import math

import torch
from torch import nn

import cnnlab
from cnnlab import check, plots
from cnnlab.errors import NonFiniteError
from cnnlab.experiment import (
    Claim,
    Declaration,
    Results,
    compare_declared,
    fresh_data,
)

lab = cnnlab.setup(seed=0)


def signs(seed, n_train=1000):
    """Draw the images of a seed."""
    return cnnlab.load("pocket", seed=seed, n_train=n_train, n_valid=960)


data = signs(0)

# %% [markdown]
# ## 2.1 Fresh weights: the size of a signal
#
# A layer adds up many products. If $n$ numbers of mean square $q$ each meet a weight drawn with mean 0 and standard deviation
# $\sigma$, the sum has the mean square $n \sigma^2 q$. A ReLU then sets the negative half to zero and with it half of the
# mean square. So one layer multiplies the mean square of the signal by
#
# $$ \tfrac{1}{2} \, n \, \sigma^2, $$
#
# and twenty layers multiply it by this factor to the power of twenty. Only a factor near 1 survives that. Setting it to 1
# gives $\sigma = \sqrt{2/n}$: **He's** rule ([He et al. 2015](https://arxiv.org/abs/1502.01852)). The number $n$ of products in one
# sum is the **fan-in**: for a convolution, input channels times the pixels of its kernel. The older rules were made for
# units that pass both signs:
#
# | scheme | $\sigma$ | thought for |
# |---|---|---|
# | LeCun | $\sqrt{1/n}$ | keeps the forward signal of a linear or tanh unit near 0 |
# | Xavier | $\sqrt{2/(n+m)}$ with the fan-out $m$ | a middle way between the forward and the backward signal |
# | He | $\sqrt{2/n}$ | a layer followed by a ReLU |
#
# ([LeCun et al. 1998](https://doi.org/10.1007/3-540-49430-8_2), [Glorot & Bengio 2010](https://proceedings.mlr.press/v9/glorot10a.html).)
# Watch a batch of signs go through twenty convolutions with each of them, and with two wrong ones: `tiny` is a tenth of He's
# deviation, `huge` three times it.


# %%
def signal_sizes(scheme, *, layers=20, channels=32):
    """Root mean square of the signal after each layer of a plain stack."""
    torch.manual_seed(0)
    convs = [
        nn.Conv2d(3 if i == 0 else channels, channels, 3, padding="same")
        for i in range(layers)
    ]
    x = data.valid.images[:32].float() / 255
    x = (x - x.mean()) / x.std()
    sizes = []
    with torch.no_grad():
        for conv in convs:
            x = cnnlab.initialise(conv, scheme)(x).relu()
            sizes.append(x.square().mean().sqrt().item())
    return sizes


SCHEMES = ("he", "xavier", "lecun", "tiny", "huge")
sizes = {scheme: signal_sizes(scheme) for scheme in SCHEMES}
plots.lines(
    range(1, 21),
    sizes,
    xlabel="layer",
    ylabel="root mean square of the signal",
    message="Through twenty layers, He's scheme changes the signal least; "
    "the others shrink it or blow it up.",
    log="y",
)

# %%
assert 0.1 < sizes["he"][-1] / sizes["he"][0] < 10
assert sizes["tiny"][-1] < 1e-9
assert sizes["huge"][-1] > 1e5

# %% [markdown]
# With `tiny` the images have no influence on the answer any more, and no gradient finds its way back. With `huge` the first
# logits are astronomically large, and so is the first loss. Xavier and LeCun lose a factor near $\sqrt 2$ a layer,
# which a few layers forgive and twenty do not.
#
# ### Predict
#
# Does that matter in a network of six layers? Train one without any normalisation for four epochs, with
# He's weights, with a tenth and with three times their spread. Guessing gives 0.08. Which accuracy will `tiny` reach?

# %% tags=["predict"]
my_accuracy_with_tiny_weights = ...


# %% tags=["experiment"]
def train(seed, *, norm, lr, scheme="he", epochs=4, n_train=1000, **options):
    """Train a fresh network; return it, or None if the loss overflowed."""
    data = signs(seed, n_train)
    torch.manual_seed(seed)
    model = cnnlab.small_resnet(len(data.classes), norm=norm, **options)
    cnnlab.initialise(model, scheme)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=0.9)
    trainer = cnnlab.Trainer(
        model, optimizer, seed=seed, device="cpu", progress=False
    )
    loader = cnnlab.loader(data.train, 64, shuffle=True, seed=seed)
    try:
        trainer.fit(loader, epochs=epochs)
    except NonFiniteError:
        return None
    return model


def accuracy(model, seed, *, n_train=1000, training=False, batch_size=256):
    """Return the validation accuracy; after an overflow the model can only guess."""
    if model is None:
        return 1 / len(data.classes)
    valid = signs(seed, n_train).valid
    model = copy.deepcopy(model).train(training)
    with torch.no_grad():
        correct = sum(
            (model(images).argmax(dim=1) == labels).sum().item()
            for images, labels in cnnlab.loader(valid, batch_size)
        )
    return correct / len(valid)


def with_scheme(scheme):
    return lambda seed: accuracy(
        train(seed, norm="none", lr=0.03, scheme=scheme), seed
    )


schemes = compare_declared(
    Declaration(
        "Do the initial weights matter in a network of six layers?",
        claims=[
            Claim("he", ">", "tiny", by=0.1),
            Claim("he", ">", "huge", by=0.1),
        ],
        unit=fresh_data(),
    ),
    {scheme: with_scheme(scheme) for scheme in ("he", "tiny", "huge")},
    seeds=5,
    metric="valid_acc",
)
schemes.plot(message="Only the network with He initialisation learns.")

# %% tags=["claim"]
print(schemes.claim("he", ">", "tiny", by=0.1))
print(schemes.claim("he", ">", "huge", by=0.1))

# %% [markdown]
# The two wrong spreads do not make training slow. They make it impossible: one network sees nothing, the other
# overflows in its first steps.
#
# ### What would change it
#
# A normalisation layer after each convolution rescales the signal, whatever the weights were. With batch norm
# the network trains from both of these starts. The numbers come from a stored study with eight seeds, of
# which you'll see more below:

# %% tags=["claim"]
study = Results.load("studies/02_norms.csv")
print(study.claim("batch norm, tiny", ">", "no norm, tiny", by=0.2))
print(study.claim("batch norm, huge", ">", "no norm, huge", by=0.2))
starts = ["batch norm, lr 0.1", "batch norm, tiny", "batch norm, huge"]
study.table().loc[starts].round(3)

# %% [markdown]
# ## 2.2 Batch norm, by hand
#
# **Batch norm** ([Ioffe & Szegedy 2015](https://arxiv.org/abs/1502.03167)) takes one channel at a time. It collects the numbers
# of that channel over all images and pixels of the batch, computes their mean $\mu$ and variance $\sigma^2$, and returns
#
# $$ \hat x = \frac{x - \mu}{\sqrt{\sigma^2 + \varepsilon}}, \qquad y = \gamma \hat x + \beta. $$
#
# The scale $\gamma$ and the shift $\beta$ are learnt, one pair a channel; they begin as 1 and 0. The small $\varepsilon$ avoids a
# division by zero. Do it with four numbers: 1, 3, 5, 7. Their mean is 4. Their deviations are −3, −1, 1, 3, so the variance
# is (9 + 1 + 1 + 9) / 4 = 5.

# %%
x = torch.tensor([1.0, 3.0, 5.0, 7.0])
mean = x.mean()
variance = ((x - mean) ** 2).mean()
x_hat = (x - mean) / (variance + 1e-5).sqrt()
print(f"mean {mean:.0f}, variance {variance:.0f}")
print("normalised:", [round(value, 3) for value in x_hat.tolist()])

assert (mean, variance) == (4, 5)
norm = nn.BatchNorm1d(1)  # in training mode, as every fresh module
assert torch.allclose(norm(x[:, None]).flatten(), x_hat)

# %% [markdown]
# In use there may be a single image and no batch to take a mean over. Therefore the layer keeps **running statistics**. Each
# training batch moves them a tenth of the way to its own:
#
# $$ r \leftarrow 0.9\, r + 0.1\, \mu, $$
#
# and likewise for the variance, which for this purpose is divided by $N - 1$ and not by $N$. Evaluation mode uses them in place
# of $\mu$ and $\sigma^2$. They begin as 0 and 1, so after our one batch they are 0.4 and 0.9 + 0.1 · 20/3.

# %%
print(f"running mean {norm.running_mean.item():.3f}")
print(f"running variance {norm.running_var.item():.4f}")
assert math.isclose(norm.running_mean.item(), 0.4, rel_tol=1e-6)
assert math.isclose(norm.running_var.item(), 0.9 + 0.1 * 20 / 3, rel_tol=1e-6)

# %%
tracking = nn.BatchNorm1d(1)
tracks = {"running mean": [0.0], "running variance": [1.0]}
for _ in range(60):
    tracking(x[:, None])
    tracks["running mean"].append(tracking.running_mean.item())
    tracks["running variance"].append(tracking.running_var.item())
print(f"after sixty batches: {tracks['running mean'][-1]:.3f}")
plots.lines(
    range(61),
    tracks,
    xlabel="batches seen",
    ylabel="running statistic",
    message="After forty batches, the running statistics are almost there.",
)

# %% [markdown]
# A short training leaves the running statistics behind the truth: after ten batches about a third of the way is still to go.
#
# ### Predict
#
# Without normalisation, a rate of 0.4 with momentum 0.9 was too much for every network that we tried before writing this. What
# will batch norm reach in four epochs at that rate: `"guessing"`, `"some"` (below 0.4) or `"most"` (above)?

# %% tags=["predict"]
my_guess_with_batch_norm = ...

# %% tags=["experiment"]
trained = {seed: train(seed, norm="batch", lr=0.4) for seed in range(5)}


def without_norm(seed):
    return accuracy(train(seed, norm="none", lr=0.4), seed)


at_a_large_rate = compare_declared(
    Declaration(
        "Does batch norm allow a larger learning rate?",
        claims=[Claim("batch norm", ">", "no norm", by=0.2)],
        unit=fresh_data(),
    ),
    {
        "batch norm": lambda seed: accuracy(trained[seed], seed),
        "no norm": without_norm,
    },
    seeds=5,
    metric="valid_acc",
)
at_a_large_rate.plot(
    message="At a learning rate of 0.4, only the network with batch norm learns."
)

# %% tags=["claim"]
at_a_large_rate.claim("batch norm", ">", "no norm", by=0.2)

# %% [markdown]
# Why? Multiply all weights before a batch norm by ten: the output stays the same, for mean and spread grow by
# ten as well. The network's answers depend on the *direction* of these weights only.

# %%
torch.manual_seed(0)
conv, norm_after = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
images = data.valid.images[:64].float() / 255
once = norm_after(conv(images))
with torch.no_grad():
    conv.weight.mul_(10)
    conv.bias.mul_(10)
ten_times = norm_after(conv(images))
print(f"largest change: {(once - ten_times).abs().max().item():.4f}")
assert torch.allclose(once, ten_times, atol=0.02)

# %% [markdown]
# A step that is too long makes the weights longer, and longer weights turn less at the next step of the same length. So
# too large a rate corrects itself, up to a point. Without the norm a too long step makes the signal larger, the next gradient
# larger still, and so on.
#
# The whole picture is a table of rates against norms. It takes some minutes, so a script beside this
# notebook, `studies/02_norms.py`, made it once:

# %% tags=["experiment"]
LEARNING_RATES = ("0.02", "0.1", "0.4", "1.6")
NORMS = ("batch norm", "layer norm", "no norm")
table = study.table()["mean"]
plots.heatmap(
    [[table[f"{norm}, lr {lr}"] for lr in LEARNING_RATES] for norm in NORMS],
    NORMS,
    LEARNING_RATES,
    label="validation accuracy",
    xlabel="learning rate",
    ylabel="normalisation",
    message="Batch norm trains over the widest range of learning rates.",
)

# %% tags=["claim"]
print(study.claim("batch norm, lr 0.4", ">", "no norm, lr 0.4", by=0.2))
print(study.verdict("batch norm, lr 1.6", ">", "layer norm, lr 1.6", by=0.2))

# %% [markdown]
# All six claims of this study were declared before it ran, with their margins. The second one above is a near miss. Its
# own interval starts just above 20 points, but if you make six claims, one of them is more likely to hold by luck.
# **Holm's correction** makes up for that, and after it the numbers don't support a lead of *more than 20 points*. That
# batch norm does better than layer norm at a learning rate of 1.6 is not in doubt.

# %% [markdown]
# ## 2.3 Layer norm, and small batches
#
# **Layer norm** ([Ba et al. 2016](https://arxiv.org/abs/1607.06450)) uses the same equation, but collects its numbers over all channels
# and pixels of *one* image. There is no batch in it. So it needs no running statistics, does the same in both
# modes, and does not care how large the batch is.
#
# | | averages over | training and evaluation mode | batch of one |
# |---|---|---|---|
# | batch norm | images and pixels, each channel alone | differ | fails in training mode |
# | layer norm | channels and pixels, each image alone | the same | the same |

# %%
torch.manual_seed(0)
layer_normed = cnnlab.small_resnet(12, norm="layer")
sample = data.valid.images[:64].float() / 255
with torch.no_grad():
    together = layer_normed.train()(sample)
    alone = torch.cat([layer_normed.eval()(image[None]) for image in sample])
assert torch.allclose(together, alone, atol=1e-4)
print("layer norm: 64 images together or one by one, the same answers")


# %% tags=["experiment"]
def in_mode(training):
    return lambda seed: accuracy(
        trained[seed], seed, training=training, batch_size=1
    )


modes = compare_declared(
    Declaration(
        "What does batch norm do with single images in training mode?",
        claims=[Claim("eval mode", ">", "train mode", by=0.2)],
        unit=fresh_data(),
    ),
    {"eval mode": in_mode(False), "train mode": in_mode(True)},
    seeds=5,
    metric="valid_acc",
)
modes

# %% tags=["claim"]
modes.claim("eval mode", ">", "train mode", by=0.2)

# %% [markdown]
# Evaluated one image at a time, a trained network with batch norm is of little use until you call `eval()`. On
# the other hand, with batches of 64 layer norm was the weaker of the two in our network:

# %% tags=["claim"]
study.claim("batch norm, lr 0.1", ">", "layer norm, lr 0.1", by=0.05)

# %% [markdown]
# And when the memory has room for two images only? Then the mean and the variance of a batch are mostly noise,
# and large networks are known to suffer from it ([Wu & He 2018](https://arxiv.org/abs/1803.08494)). A fair test
# changes nothing but these statistics. In the study each step still uses the gradient of 64 images, but they go
# through the network two at a time, and their gradients are added up (**gradient accumulation**, chapter 12).
# Layer norm looks at each image alone, so this should make no difference to it. Batch norm now gets its statistics
# from two images:

# %% tags=["claim"]
print(study.verdict("batch norm, lr 0.1", ">", "batch norm, two at a time"))
print("\nlayer norm, two at a time - 64 at once:")
print(study.difference("layer norm, two at a time", "layer norm, lr 0.1"))
print("batch norm - layer norm, both two at a time:")
print(
    study.difference("batch norm, two at a time", "layer norm, two at a time")
)

# %% [markdown]
# We had declared that batch norm loses accuracy, and the numbers don't confirm it. The loss is at most four points, and
# it may as well be a gain of up to one and a half. Layer norm changes by no more than rounding errors. Even with
# statistics from two images, batch norm stays far ahead of layer norm in this network.
#
# Why is it so robust here? Two images still give each channel of the stem 512 values to average, and each channel of the
# last stage 32, and some noise may even regularise. The trouble begins where feature maps are small, networks are deep,
# and the statistics come from other data than those at inference.
#
# ## 2.4 Dropout
#
# **Dropout** ([Srivastava et al. 2014](https://jmlr.org/papers/v15/srivastava14a.html)) sets each feature to zero with probability $p$ while
# the network trains. No unit can rely on another one being there. In use nothing is dropped. So that the next layer sees sums of the same size
# in both modes, the features that stay are divided by $1 - p$ in training. That is the **inverted** form, which every
# framework uses; evaluation mode is then the identity.
#
# $$ y_i = \frac{m_i}{1 - p}\, x_i, \qquad m_i = \begin{cases} 0 & \text{with probability } p\\ 1 & \text{otherwise.}\end{cases} $$
#
# The mean is kept: $\mathbb{E}[y_i] = (1-p) \cdot x_i / (1-p) = x_i$. With $p = 0.5$ and four features equal to 1, each
# output is 0 or 2.

# %%
torch.manual_seed(0)
drop = nn.Dropout(0.5)
ones = torch.ones(4)
print("training:  ", drop(ones).tolist())
print("evaluation:", drop.eval()(ones).tolist())

many = nn.Dropout(0.3)(torch.ones(100_000))
assert set(many.unique().tolist()) == {0.0, torch.tensor(1 / 0.7).item()}
assert abs(many.mean() - 1) < 0.01  # five standard deviations

# %% [markdown]
# Where? Before the last linear layer, or between linear layers, with $p$ of 0.3 to 0.5. Between convolutions it does little, since
# neighbouring pixels carry the same message, and before a batch norm it disturbs the statistics: they are collected with dropout
# and used without it ([Li et al. 2019](https://arxiv.org/abs/1801.05134)). `small_resnet(..., dropout=0.5)` puts it before
# the head.
#
# ## 2.5 Weight decay
#
# **Weight decay** pulls every weight towards zero a little at each step, $w \leftarrow w - \eta\,(\nabla L + \lambda w)$. For plain
# gradient descent this is the penalty $\tfrac{\lambda}{2} \lVert w \rVert^2$ added to the loss. For Adam it is not, since Adam would
# divide the pull by the size of the gradient; AdamW applies the pull apart from it
# ([Loshchilov & Hutter 2019](https://arxiv.org/abs/1711.05101)). Usual values of $\lambda$ are $10^{-4}$ to $10^{-3}$ with
# SGD, and $10^{-2}$ to $10^{-1}$ with AdamW.
#
# You saw that the length of weights before a batch norm does not change the answers. Decay there works in another way: it keeps
# the weights from growing, and the shorter they are, the further one step turns them. It acts on the *rate*
# ([van Laarhoven 2017](https://arxiv.org/abs/1706.05350)).
#
# It does not belong on the scales and shifts of norms, nor on biases. Each is one number a channel and cannot overfit much,
# and pulling a $\gamma$ to zero switches its channel off. `transfer.param_groups` sorts the parameters for you:

# %%
from cnnlab.transfer import param_groups

torch.manual_seed(0)
groups = param_groups(cnnlab.small_resnet(12), lr=0.1, weight_decay=5e-4)
for decay in (5e-4, 0.0):
    chosen = [g["params"] for g in groups if g["weight_decay"] == decay]
    tensors = [p for params in chosen for p in params]
    print(
        f"decay {decay}: {len(tensors)} tensors, {sum(p.numel() for p in tensors):,} numbers"
    )
    assert all((p.ndim > 1) == (decay > 0) for p in tensors)

# %% [markdown]
# ### Predict
#
# Give the network only 300 images and thirty epochs, and it memorises them. By how much does dropout with
# $p = 0.5$ change the mean validation accuracy? Write a difference such as 0.05 or -0.05.

# %% tags=["predict"]
my_change_by_dropout = ...

# %% tags=["experiment"]
FEW = 300


def with_dropout(p):
    return lambda seed: accuracy(
        train(seed, norm="batch", lr=0.1, epochs=10, n_train=FEW, dropout=p),
        seed,
        n_train=FEW,
    )


live = cnnlab.compare(
    {"plain": with_dropout(0.0), "dropout 0.5": with_dropout(0.5)},
    seeds=5,
    metric="valid_acc",
)
regularised = Results.load("studies/02_regularisation.csv")
live.plot(
    regularised,
    message="Dropout with p = 0.5 hardly moves the mean accuracy.",
)

# %% [markdown]
# The bars are ten epochs, trained now. The grey marks are thirty epochs with eight seeds from
# `studies/02_regularisation.py`, which also tried weight decay:

# %%
regularised.plot(
    message="Weight decay on all parameters costs accuracy; the rest hardly changes it."
)

# %%
print("dropout 0.5 - plain:", regularised.difference("dropout 0.5", "plain"))

# %% tags=["claim"]
print(regularised.claim("dropout 0.3", "~", "plain", by=0.01))
print(regularised.verdict("decay 5e-3", ">", "plain"))

# %% [markdown]
# Both are standard advice, and the accuracy hardly notices either of them here. Dropout with $p = 0.3$ changes it by less
# than one point, in either direction: there is one linear layer with 64 inputs, so there is little to drop. (A
# replication with eight new seeds gave −0.2 points, −1.3 to +1.0, which allows for a little more.) Dropout with
# $p = 0.5$ hardly moves the mean, but it makes the runs differ more, so the interval is wider, from a loss of two points to
# a gain of almost as much. We had also declared that the stronger decay would gain accuracy. It didn't: its interval goes
# from a loss of 0.8 points to none.
#
# The accuracy counts correct predictions only. The *loss* also sees how confident the network is, and it punishes
# confident mistakes most:

# %%
in_loss = regularised.on("valid_loss")
for name in regularised.names[1:]:
    print(f"{name + ' - plain:':32}{in_loss.difference(name, 'plain')}")

# %% tags=["claim"]
in_loss.claim("decay 5e-3", "<", "plain", by=0.05)

# %% [markdown]
# Weight decay lowers the loss: the weights of the head are smaller, so the logits are smaller, and the network is less
# confident when it is wrong. The other rows are exploratory, because nobody declared them before the runs. Dropout with
# $p = 0.3$ seems to raise the loss; before you build on that, repeat it with new seeds.
#
# And does it matter *which* parameters decay? You could compare each variant with `plain` and look at which interval
# excludes zero, but that answers another question. Compare the two directly:

# %% tags=["claim"]
regularised.claim("decay 5e-3", ">", "decay 5e-3 everywhere")

# %% [markdown]
# At this strength, sparing the norms and biases is worth one to two and a half points of accuracy.
#
# ### What would change it
#
# Larger networks, above all those with large linear layers; longer training; and fewer or noisier labels. Augmentation
# (chapter 3) is the stronger remedy for few images, because it brings in knowledge about the task that neither of the
# two has.

# %% tags=["check"]
check.score(
    {
        "Accuracy with tiny weights?": (
            my_accuracy_with_tiny_weights,
            float(schemes.values("tiny").mean()),
        ),
        "Batch norm at rate 0.4: guessing, some or most?": (
            my_guess_with_batch_norm,
            "most",
        ),
        "Change of the accuracy by dropout 0.5?": (
            my_change_by_dropout,
            regularised.difference("dropout 0.5", "plain").mean,
        ),
    },
    within=0.03,
)

# %% [markdown]
# ## Exercises
#
# ### Exercise 1: `batch_norm` (medium, 10 minutes)
#
# Write the forward pass of batch norm in training mode, for images: `x` has the shape (N, C, H, W), `scale` and `shift` have
# the shape (C,). Do not use `nn.BatchNorm2d` or `F.batch_norm`.


# %% tags=["exercise"]
def batch_norm(x, scale, shift, eps):
    """Normalise each channel over the batch, then scale and shift it."""
    raise NotImplementedError


# %% tags=["check"]
check.batch_norm(batch_norm)

# %% [markdown] tags=["hint"]
# <details>
# <summary><b>Hint: shapes do not fit</b></summary>
#
# A mean of shape (C,) does not broadcast against (N, C, H, W). `keepdim=True` keeps the averaged dimensions as ones, and
# `scale[:, None, None]` has the shape (C, 1, 1).
#
# </details>
#
# <details>
# <summary><b>Hint: almost right</b></summary>
#
# `var` has its own idea of what to divide by, and eps has its place in the equation.
#
# </details>


# %% tags=["solution", "hide-cell"]
# Solution
def batch_norm(x, scale, shift, eps):
    """Normalise each channel over the batch, then scale and shift it."""
    over = (0, 2, 3)
    mean = x.mean(dim=over, keepdim=True)
    variance = x.var(dim=over, keepdim=True, correction=0)
    x_hat = (x - mean) / (variance + eps).sqrt()
    return scale[:, None, None] * x_hat + shift[:, None, None]


check.batch_norm(batch_norm)

# %% [markdown]
# ### Exercise 2: `dropout` (easy, 8 minutes)
#
# Write inverted dropout. `draws` holds a uniform random number between 0 and 1 for each feature; a feature is dropped where its draw
# is below `p`. The caller still needs `x` as it was.


# %% tags=["exercise"]
def dropout(x, p, draws, training):
    """Drop a share p of the features while training; keep their mean."""
    raise NotImplementedError


# %% tags=["check"]
check.dropout(dropout)

# %% [markdown] tags=["hint"]
# <details>
# <summary><b>Hint: the mean is not kept</b></summary>
#
# Of 100 features worth 1, how many are left, and what must each be worth so that the sum is still 100?
#
# </details>
#
# <details>
# <summary><b>Hint: wrong in evaluation mode</b></summary>
#
# In the inverted form there is nothing to do in use.
#
# </details>


# %% tags=["solution", "hide-cell"]
# Solution
def dropout(x, p, draws, training):
    """Drop a share p of the features while training; keep their mean."""
    if not training:
        return x
    return torch.where(draws < p, 0.0, x / (1 - p))


check.dropout(dropout)

# %% [markdown]
# ### Exercise 3: `he_std` (easy, 5 minutes)
#
# Which standard deviation does He's rule give to the weights of a layer? The function gets the weights, of shape (out, in) for a
# linear layer and (out, in, height, width) for a convolution, and returns a number.


# %% tags=["exercise"]
def he_std(weight):
    """Return the standard deviation that keeps a signal's size."""
    raise NotImplementedError


# %% tags=["check"]
check.he_std(he_std)

# %% [markdown] tags=["hint"]
# <details>
# <summary><b>Hint: right for linear layers only</b></summary>
#
# One output of a convolution sums over the input channels *and* over the pixels under its kernel.
#
# </details>
#
# <details>
# <summary><b>Hint: off by a factor near 1.4</b></summary>
#
# A ReLU discards half of the mean square. Does your rule make up for it?
#
# </details>


# %% tags=["solution", "hide-cell"]
# Solution
def he_std(weight):
    """Return the standard deviation that keeps a signal's size."""
    fan_in = weight[0].numel()
    return math.sqrt(2 / fan_in)


check.he_std(he_std)

# %% [markdown]
# ## Make it bigger
#
# The same three arms on CIFAR-10: which norm trains at which rate? It needs a GPU and one download, so it runs only when
# `CNNLAB_PROFILE` is `gpu`.

# %% tags=["bigger"]
if lab.profile == "gpu":
    photos = cnnlab.load("cifar10", download=True)
    for norm in ("batch", "layer", "none"):
        model = cnnlab.small_resnet(10, width=32, depth=3, norm=norm)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        big = cnnlab.Trainer(model, optimizer)
        try:
            big.fit(cnnlab.loader(photos.train, 128, shuffle=True), epochs=10)
        except NonFiniteError as error:
            print(norm, error)
            continue
        print(norm, big.evaluate(cnnlab.loader(photos.valid, 512)))
else:
    print("left out: set CNNLAB_PROFILE=gpu to run it")

# %% [markdown]
# ## Key points
#
# - One layer multiplies the mean square of the signal by $n \sigma^2 / 2$. He's rule makes that 1.
# - Batch norm centres and scales each channel over the batch, and in use with running statistics.
# - With batch norm the length of the weights does not matter, only their direction. That is why large rates work.
# - Layer norm looks at one image alone: same answers in both modes and with every batch size.
# - Inverted dropout divides by $1 - p$ while training and does nothing in use.
# - Weight decay belongs on the weights of convolutions and linear layers, not on norms and biases. Here that was worth
#   one to two and a half points.
#
# ## Common mistakes
#
# | what you see | what it often is |
# |---|---|
# | loss near $\log K$ and nothing moves, no norm layers | initial weights too small |
# | the first loss is huge or NaN | initial weights too large, or pixels from 0 to 255 |
# | validation far below training from the first epoch on, and jumping | running statistics that lag, or very small batches |
# | good in training, useless with single images | no `eval()` |
# | worse after adding dropout before a batch norm | the statistics collected with dropout do not fit without it |
# | Adam with `weight_decay` does not regularise as expected | use AdamW |
#
# ## References
#
# - S. Ioffe and C. Szegedy, *Batch normalization*, 2015, [arXiv:1502.03167](https://arxiv.org/abs/1502.03167)
# - J. Ba, J. Kiros and G. Hinton, *Layer normalization*, 2016, [arXiv:1607.06450](https://arxiv.org/abs/1607.06450)
# - K. He, X. Zhang, S. Ren and J. Sun, *Delving deep into rectifiers*, 2015, [arXiv:1502.01852](https://arxiv.org/abs/1502.01852)
# - X. Glorot and Y. Bengio, *Understanding the difficulty of training deep feedforward neural networks*, 2010, [PMLR 9](https://proceedings.mlr.press/v9/glorot10a.html)
# - Y. LeCun, L. Bottou, G. Orr and K.-R. Müller, *Efficient BackProp*, 1998, [doi:10.1007/3-540-49430-8_2](https://doi.org/10.1007/3-540-49430-8_2)
# - N. Srivastava et al., *Dropout*, 2014, [JMLR 15](https://jmlr.org/papers/v15/srivastava14a.html)
# - Y. Wu and K. He, *Group normalization*, 2018, [arXiv:1803.08494](https://arxiv.org/abs/1803.08494)
# - X. Li, S. Chen, X. Hu and J. Yang, *Understanding the disharmony between dropout and batch normalization by variance shift*, 2019, [arXiv:1801.05134](https://arxiv.org/abs/1801.05134)
# - T. van Laarhoven, *L2 regularization versus batch and weight normalization*, 2017, [arXiv:1706.05350](https://arxiv.org/abs/1706.05350)
# - I. Loshchilov and F. Hutter, *Decoupled weight decay regularization*, 2019, [arXiv:1711.05101](https://arxiv.org/abs/1711.05101)

# %% [markdown] tags=["instructor", "remove-cell"]
# ## When you are short of time
#
# 2.1 and 2.2 carry the chapter. Do 1, 3, 5, 7 by hand with the room, run one experiment of 2.1, and skip 2.3 and 2.5;
# their results are in the key points.
#
# ## Questions for the room
#
# - Batch norm makes the output for one image depend on the others in its batch. Where could that do harm after
#   training? Where is it a leak?
# - Weight decay lowered the loss here, but gained no accuracy. Is that an argument against it?
# - Which would you give up first: good initialisation or batch norm? What do the runs say about each without the
#   other?
