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
# In 2015 two researchers at Google put a small layer between the convolutions of their best network. It subtracts a
# mean and divides by a standard deviation, and the network reached the same accuracy in fourteen times fewer steps.
# They called the layer batch norm and explained why it works, and the field believed them. Three years later, four
# researchers at MIT did an experiment that speaks against the explanation. In this chapter you find out what the layer
# repairs, repeat that experiment in a small version, and meet dropout and weight decay, which help a lot in one setting
# and not at all in another.
#
# **You will be able to** choose the standard deviation of initial weights for any activation, compute a batch norm by
# hand, put it in the right place and remove it before deployment, explain what goes wrong without `eval()`, and say
# when dropout and weight decay are worth it.
#
# | | |
# |---|---|
# | to read | 45 minutes, with the code |
# | exercises | 75 minutes, for four of them |
# | to run | 70 seconds on one core of a laptop, without internet access or a GPU |
# | you need | [chapter 1](01_training_loop.ipynb), and some idea of what a mean and a variance are |

# %% tags=["setup"]
import copy

import torch
import torch.nn.functional as F
from studies.common import (
    seeded_resnet,
    sgd,
    signs_with_wrong_labels,
    train,
    train_wide_mlp,
)
from torch import nn

import cnnlab
from cnnlab import check, diagrams, plots
from cnnlab.experiment import (
    Claim,
    Declaration,
    Results,
    compare_declared,
    fresh_data,
)

lab = cnnlab.setup(seed=0)


def signs(seed):
    """Draw the images of a seed."""
    return cnnlab.load("pocket", seed=seed, n_train=960, n_valid=960)


data = signs(0)
plots.image_grid(
    data.valid.images[:2],
    [data.classes[label] for label in data.valid.labels[:2]],
    alt="Two traffic signs",
    message="Section 2.1 sends these two signs through twenty layers.",
)

# %% [markdown]
# ## 2.1 Initialisation: does the image survive twenty layers?
#
# Stack twenty convolutions, each followed by a ReLU, and send two different signs through, before any training. If the
# network is to tell the signs apart, its last layer must still respond differently to them. An **activation** is the
# value that one unit passes on for one image, here after its ReLU. The **signal** is the typical difference between an
# activation for one sign and the same activation for the other. It depends on the initial weights alone, and the next
# cell draws them by several rules, ten times each. One rule is the default of `nn.Conv2d`.
#
# ### Predict
#
# With PyTorch's default, the signal enters with a size near 1. What is left of it after twenty layers? Write a power of
# ten: `0` for 1, `-2` for a hundredth, `-6` for a millionth, `2` for a hundred.

# %% tags=["predict"]
my_power_of_ten = ...  # a power of ten, such as -2


# %% tags=["experiment"]
def signal_sizes(rule, seed):
    """Return the size of the signal after each of twenty layers."""
    torch.manual_seed(seed)
    x = data.valid.images[:2].float() / 255
    x = (x - x.mean()) / x.std()
    sizes = []
    for _ in range(20):
        conv = nn.Conv2d(x.shape[1], 128, 3, padding=1)
        if rule is not None:
            cnnlab.initialise(conv, rule)
        with torch.no_grad():
            x = conv(x).relu()
        sizes.append((x[0] - x[1]).square().mean().sqrt().item())
    return sizes


def mean_and_band(rule):
    """Average ten draws; return (mean, low, high) for each layer."""
    draws = [signal_sizes(rule, seed) for seed in range(10)]
    logs = torch.tensor(draws, dtype=torch.float64).log()
    mean = logs.mean(dim=0)
    half = 2.26 * logs.std(dim=0) / 10**0.5  # Student's t, 9 degrees
    return torch.stack([mean, mean - half, mean + half], 1).exp().tolist()


RULES = {
    "He": "he",
    "LeCun": "lecun",
    "PyTorch's default": None,
    "a tenth of He": "tiny",
    "three times He": "huge",
}
signals = {name: mean_and_band(rule) for name, rule in RULES.items()}
left = signals["PyTorch's default"][-1][0]
plots.trend(
    range(1, 21),
    signals,
    xlabel="layer",
    ylabel="size of the signal",
    message=f"After twenty layers, PyTorch's default leaves {left:.0e} of "
    "the signal.",
    log="y",
)

# %% tags=["check"]
default_end = torch.tensor(signals["PyTorch's default"][-1][0])
check.prediction(
    "Power of ten after twenty layers?",
    my_power_of_ten,
    default_end.log10().item(),
    within=1,
)

# %% [markdown]
# With the default of the library you use, the signal dies out, and few people notice, because batch norm makes up for
# it. Why do the lines look like this?
#
# **One layer.** A unit adds up $n$ products of a weight and an input. The weights have mean 0 and standard deviation
# $\sigma$. If the inputs have the mean square $q$, the sum has the variance $n \sigma^2 q$. A ReLU then sets the
# negative half to zero, so half of the mean square is left. One layer multiplies the mean square by
# $\tfrac12 n \sigma^2$, and twenty layers multiply it by the twentieth power of that. Only a factor of 1 survives:
#
# $$ \tfrac12\, n\, \sigma^2 = 1 \quad\Rightarrow\quad \sigma = \sqrt{2/n}. $$
#
# That's **He initialisation**, also called Kaiming initialisation ([He et al. 2015](https://arxiv.org/abs/1502.01852)).
# The number $n$ is the **fan-in**: for a convolution, the input channels times the pixels of the kernel. PyTorch's
# default (`kaiming_uniform_` with `a=sqrt(5)`, for historical reasons) has $\sigma = \sqrt{1/(3n)}$, so its factor is
# 1/6. Its random biases keep the activations from vanishing, but they're the same for both signs, so they carry no
# signal.
#
# <details>
# <summary><b>Why does even He's line fall by a factor of three?</b></summary>
#
# The zeros of the padding cost some 4 % of the mean square per layer, ReLU layers make different inputs a little more
# alike, and in a narrow network a single draw can miss the average by a lot.
#
# </details>
#
# ### Exercise 1: `init_std` (medium, 12 minutes)
#
# He's rule is made for ReLU. What if another activation comes before the layer? Write a function that works for any.
# `z` holds many draws from a standard normal distribution, and the inputs of the layer are `activation(z)`. Which
# standard deviation of the weights gives the layer's sums a variance of 1 again? `weight` has the shape (out, in) or
# (out, in, height, width); only its shape matters. Return a number.


# %% tags=["exercise"]
def init_std(weight, activation, z):
    """Return the standard deviation that keeps the size of the signal."""
    raise NotImplementedError


# %% tags=["check"]
check.init_std(init_std)

# %% [markdown] tags=["hint"]
# <details>
# <summary><b>Hint: I don't know where to start</b></summary>
#
# The sum has the variance $n \sigma^2 q$. You know $n$ from the shape. How do you get $q$, the mean square of the
# inputs, from `z`?
#
# </details>
#
# <details>
# <summary><b>Hint: it works for tanh, but not for ReLU</b></summary>
#
# Look at the mean of `torch.relu(z)`. Is the mean square of such numbers the same as their variance?
#
# </details>


# %% tags=["solution", "hide-cell"]
# Solution
def init_std(weight, activation, z):
    """Return the standard deviation that keeps the size of the signal."""
    fan_in = weight[0].numel()
    mean_square = activation(z).square().mean().item()
    return (1 / (fan_in * mean_square)) ** 0.5


check.init_std(init_std)

# %% [markdown]
# In practice you look it up. The rule depends on the activation:
#
# | activation | rule | $\sigma$, for normal weights | limit $a$, for weights uniform in $\pm a$ |
# |---|---|---|---|
# | ReLU and its relatives | He | $\sqrt{2/n}$ | $\sqrt{6/n}$ |
# | sigmoid, tanh | Xavier | $\sqrt{2/(n+m)}$ | $\sqrt{6/(n+m)}$ |
# | SELU | LeCun | $\sqrt{1/n}$ | $\sqrt{3/n}$ |
# | none (output layer) | Xavier | $\sqrt{2/(n+m)}$ | $\sqrt{6/(n+m)}$ |
#
# The two columns are the same rule, because weights that are uniform in $\pm a$ have the variance $a^2/3$. In the figure,
# LeCun's line also stands for Xavier, which is the same where a layer has as many inputs as outputs.
#
# **Xavier**, also called Glorot, is a compromise. Without an activation, the forward signal keeps its size if $n
# \sigma^2 = 1$. The gradient, on its way back, is a sum over the $m$ outputs that a unit feeds (the **fan-out**), so it
# asks for $m \sigma^2 = 1$. You can't have both unless $n = m$. So Xavier uses the mean of $n$ and $m$: $\sigma^2 =
# 2/(n+m)$ ([Glorot & Bengio 2010](https://proceedings.mlr.press/v9/glorot10a.html); [LeCun et al.
# 1998](https://doi.org/10.1007/3-540-49430-8_2)).
#
# Does it matter for training? Build a plain network: eight convolutions in a row, no shortcuts. Train it for six epochs
# from PyTorch's default, from He's rule, and from the default with a batch-norm layer after each convolution. We
# declare what we expect first, as in chapter 1. (The cell trains fifteen networks, in about half a minute.)


# %% tags=["experiment", "claim"]
def plain_network(normalised):
    """Build eight convolutions in a row, with PyTorch's initial weights."""
    layers = []
    for i in range(8):
        stride = 2 if i in (0, 3, 7) else 1
        conv = nn.Conv2d(24 if i else 3, 24, 3, stride=stride, padding=1)
        norms = [nn.BatchNorm2d(24)] if normalised else []
        layers += [conv, *norms, nn.ReLU()]
    end = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(24, 12)]
    return nn.Sequential(*layers, *end)


def accuracy_of(model, seed, *, lr, epochs):
    """Train a model on the signs of a seed; return its accuracy."""
    images = signs(seed)
    trainer = train(
        model,
        sgd(model, lr),
        images.train,
        batch_size=64,
        epochs=epochs,
        seed=seed,
    )
    return trainer.evaluate(cnnlab.loader(images.valid, 256))["acc"]


def pytorch_default(seed):
    torch.manual_seed(seed)
    return accuracy_of(plain_network(False), seed, lr=0.03, epochs=6)


def he(seed):
    torch.manual_seed(seed)
    model = cnnlab.initialise(plain_network(False), "he")
    return accuracy_of(model, seed, lr=0.03, epochs=6)


def default_with_batch_norm(seed):
    torch.manual_seed(seed)
    return accuracy_of(plain_network(True), seed, lr=0.03, epochs=6)


deep = compare_declared(
    Declaration(
        "Can a deep network start from PyTorch's initial weights?",
        claims=[
            Claim("He", ">", "default", by=0.05),
            Claim("default, batch norm", ">", "default", by=0.3),
        ],
        unit=fresh_data(),
    ),
    {
        "default": pytorch_default,
        "He": he,
        "default, batch norm": default_with_batch_norm,
    },
    seeds=5,
    metric="valid_acc",
)
print(deep.verdict("He", ">", "default", by=0.05))
print(deep.claim("default, batch norm", ">", "default", by=0.3))
study = Results.load("studies/02_norms.csv")
print(study.claim("batch norm, tiny", ">", "no norm, tiny", by=0.2))
print(study.claim("batch norm, huge", ">", "no norm, huge", by=0.2))
deep.plot(
    message="Batch norm makes up for initial weights that are too small."
)

# %% [markdown]
# Starting from PyTorch's default, the network only guesses (1/12 is 0.083), because its output hardly depends on the
# image. With He's rule, one of the five networks learns fast, and the other four end up hardly better than guessing. So
# the interval is wide, and our first claim isn't supported. With batch norm, all five learn.
#
# The last two printed lines come from a stored study of the course's own network, with eight seeds. With a tenth of
# He's standard deviation, and also with three times He's, it trains with batch norm and only guesses without it.
#
# **What would change this result.** Shortcuts let the signal pass around a bad layer, and Adam divides gradients by
# their own size, so with either, bad initial weights do less harm. Today's practice is to rely on normalisation and to
# initialise with He anyway.
#
# ## 2.2 Batch norm, by hand
#
# **Batch norm** ([Ioffe & Szegedy 2015](https://arxiv.org/abs/1502.03167)) takes one channel at a time. It processes the
# channel's $m$ values, over all images and pixels of the batch, in four steps:
#
# 1. the mean, $\mu = \frac1m \sum_i x_i$
# 2. the variance, $\sigma^2 = \frac1m \sum_i (x_i - \mu)^2$
# 3. normalise, $\hat x_i = \dfrac{x_i - \mu}{\sqrt{\sigma^2 + \varepsilon}}$
# 4. scale and shift, $y_i = \gamma \hat x_i + \beta$
#
# The scale $\gamma$ and the shift $\beta$ are learnt, one pair per channel, and start as 1 and 0. With them, a layer can
# undo the normalisation where that helps. The small $\varepsilon$ avoids a division by zero.
#
# Try it on paper before you run the cell: what does the value 1 become in the batch 1, 3, 5, 7, with $\gamma = 2$ and
# $\beta = 1$?
#
# <details>
# <summary><b>Answer</b></summary>
#
# The mean is 4. The deviations are −3, −1, 1, 3, so the variance is (9 + 1 + 1 + 9) / 4 = 5, and the standard deviation
# is 2.236. Then −3 becomes −1.342 in step 3, and 2 · (−1.342) + 1 = −1.683 in step 4.
#
# </details>

# %%
x = torch.tensor([1.0, 3.0, 5.0, 7.0])
gamma, beta = 2.0, 1.0

mean = x.mean()
variance = ((x - mean) ** 2).mean()
x_hat = (x - mean) / (variance + 1e-5).sqrt()
y = gamma * x_hat + beta
print("1. mean           ", mean.item())
print("2. variance       ", variance.item())
print("3. normalised     ", [round(value, 3) for value in x_hat.tolist()])
print("4. scaled, shifted", [round(value, 3) for value in y.tolist()])

norm = nn.BatchNorm1d(1)  # in training mode, like every new module
with torch.no_grad():
    norm.weight.fill_(gamma)
    norm.bias.fill_(beta)
assert torch.allclose(norm(x[:, None]).flatten(), y)

# %% [markdown]
# At inference there may be only one image, and no batch to average over. So the layer keeps **running statistics**, and
# evaluation mode uses them in place of $\mu$ and $\sigma^2$. Each training batch moves them a tenth of the way towards
# its own statistics:
#
# $$ r \leftarrow 0.9\, r + 0.1\, \mu, $$
#
# and likewise for the variance, whose sum of squares is divided by $m - 1$ here, instead of $m$. The running mean
# starts at 0 and the running variance at 1.
#
# There's a trap in the name of that tenth. PyTorch calls it `momentum=0.1`, the weight of the *new* value. Keras and
# many texts mean the weight of the *old* one and write 0.9 or 0.99. Some lists of usual settings say "BatchNorm
# momentum 0.9". Copy that into `nn.BatchNorm2d`, and the running statistics are little more than those of the last
# batch.

# %%
tracks = {"momentum 0.1": [], "momentum 0.9": []}
torch.manual_seed(0)
batches = 4 + 2.2 * torch.randn(60, 8, 1)  # 60 batches of eight values
for name, momentum in (("momentum 0.1", 0.1), ("momentum 0.9", 0.9)):
    layer = nn.BatchNorm1d(1, momentum=momentum)
    for batch in batches:
        layer(batch)
        tracks[name].append(layer.running_mean.item())
plots.lines(
    range(1, 61),
    tracks,
    xlabel="batches seen",
    ylabel="running mean (truth: 4)",
    message="A momentum of 0.1 takes some thirty batches to arrive; 0.9 never "
    "settles.",
)

# %% [markdown]
# In a short run the running statistics lag. After ten batches, they still have a third of the way to go.
#
# ### Exercise 2: `batch_norm` (medium, 10 minutes)
#
# Write the forward pass in training mode, for images: `x` has the shape (N, C, H, W), and `scale` and `shift` have the
# shape (C,). Don't use `nn.BatchNorm2d` or `F.batch_norm`, and don't modify `x` in place.


# %% tags=["exercise"]
def batch_norm(x, scale, shift, eps):
    """Normalise each channel over the batch, then scale and shift it."""
    raise NotImplementedError


# %% tags=["check"]
check.batch_norm(batch_norm)

# %% [markdown] tags=["hint"]
# <details>
# <summary><b>Hint: the shapes don't match</b></summary>
#
# A mean of shape (C,) doesn't broadcast against (N, C, H, W). `keepdim=True` keeps the averaged dimensions as ones, and
# `scale[:, None, None]` has the shape (C, 1, 1).
#
# </details>
#
# <details>
# <summary><b>Hint: almost right</b></summary>
#
# `var` has its own idea of what to divide by. And where is $\varepsilon$ in step 3?
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
# ## 2.3 Why it works: a famous explanation, and the experiment against it
#
# What does the layer buy? A stored study trained three versions of our network at four learning rates, with eight seeds
# each. The runs are short: four epochs on 960 signs, which is sixty steps, so the accuracies of this chapter stay below
# those of chapters 0 and 1.

# %% tags=["experiment", "claim"]
LEARNING_RATES = ("0.02", "0.1", "0.4", "1.6")
NORMS = ("batch norm", "layer norm", "no norm")
means = study.table()["mean"]
print(study.claim("batch norm, lr 0.4", ">", "no norm, lr 0.4", by=0.2))
print(study.claim("batch norm, lr 0.1", ">", "layer norm, lr 0.1", by=0.05))
print(study.verdict("batch norm, lr 1.6", ">", "layer norm, lr 1.6", by=0.2))
print("\nbatch norm - no norm, both at 0.02:")
print(study.difference("batch norm, lr 0.02", "no norm, lr 0.02"))
plots.heatmap(
    [[means[f"{norm}, lr {lr}"] for lr in LEARNING_RATES] for norm in NORMS],
    NORMS,
    LEARNING_RATES,
    label="validation accuracy",
    xlabel="learning rate",
    ylabel="normalisation",
    message="Batch norm trains over the widest range of learning rates.",
)

# %% [markdown]
# In runs of sixty steps, batch norm buys two things: faster learning at the *same* small learning rate (at 0.02, 0.64
# against 0.48 without a norm, which is exploratory), and larger learning rates, at which the others fail.
#
# The third claim is a near miss. The study declared six claims, and after Holm's correction (chapter 1), the data don't
# support a lead of *more than 20 points*. But there's no doubt that batch norm does better at a learning rate of 1.6.
#
# But why? Ioffe and Szegedy's answer was **internal covariate shift**. While the early layers learn, the distribution
# of their outputs keeps changing, so the later layers chase a moving target. Batch norm holds the target still.
#
# The story makes a prediction that you can test. In 2018,
# [Santurkar, Tsipras, Ilyas and Mądry](https://arxiv.org/abs/1805.11604) trained networks in which random noise follows
# each batch norm. It shifts and scales the activations of every sample, from a distribution that changes at every step,
# so the target moves more than ever.
#
# ### Predict
#
# We did a simplified version with our network: every *channel* gets a new random shift and scale at every step. At a
# learning rate of 0.4, the network only guesses without normalisation, and with batch norm it reaches 0.67. What
# accuracy does it reach with the *noisy* batch norm, where the distributions shift many times more than in a network
# without any norm?

# %% tags=["predict"]
my_accuracy_with_noise = ...  # such as 0.5

# %% tags=["experiment", "claim"]
shifted = Results.load("studies/02_covariate_shift.csv")
shifts = shifted.on("shift").table()["mean"]
for name in ("no norm", "batch norm", "noisy batch norm"):
    moved = shifts[f"{name}, lr 0.1"]
    print(
        f"{name}: a channel moves by {moved:.3f} standard deviations per step"
    )
noisy_accuracy = shifted.values("noisy batch norm, lr 0.4").mean().item()
print(
    shifted.claim("noisy batch norm, lr 0.4", ">", "no norm, lr 0.4", by=0.2)
)
print(shifted.claim("noisy batch norm, lr 0.1", ">", "no norm, lr 0.1"))
print(
    shifted.on("shift").claim(
        "noisy batch norm, lr 0.1", ">", "no norm, lr 0.1", by=0.1
    )
)
print(shifted.claim("batch norm, lr 0.1", ">", "noisy batch norm, lr 0.1"))
shifted.plot(
    message="At a learning rate of 0.4, noisy batch norm reaches "
    f"{noisy_accuracy:.2f}."
)

# %% tags=["check"]
check.prediction(
    "Accuracy with noisy batch norm at a learning rate of 0.4?",
    my_accuracy_with_noise,
    noisy_accuracy,
    within=0.05,
)

# %% [markdown]
# The noise costs six points, as you'd expect of noise. But of the three networks, the noisy one has the distributions
# that move most, and it still beats the network without a norm: by 18 points at a learning rate of 0.1 (the interval is
# wide, 4 to 32), and at 0.4 it trains where the other only guesses. So whatever batch norm does, keeping distributions
# still isn't the main part of it. Why does it work, then? Three explanations are better supported:
#
# - **Only the direction of the weights counts.** Multiply the weights before a batch-norm layer by ten, and the output
#   stays the same, because the mean and the standard deviation grow by a factor of ten as well. The gradient gets ten
#   times *smaller*. The next cell shows both. So if a step is too large, the weight vector gets longer, and the next
#   steps turn it less: the angle shrinks with the square of the length. That way, a learning rate that is too large
#   corrects itself, up to a point ([van Laarhoven 2017](https://arxiv.org/abs/1706.05350);
#   [Arora et al. 2019](https://arxiv.org/abs/1812.03981)).
# - **The loss becomes smoother**: its gradient changes less along a step, so longer steps stay safe. That's what
#   Santurkar and her co-authors measured, and proved in simple cases.
# - **It regularises a little**, which means that it makes single images harder to memorise. The statistics of a batch
#   are noisy, and each image shares its batch with different images in every epoch.
#
# The second cell below computes the backward pass by hand.
#
# <details>
# <summary><b>How the gradient passes through a batch norm</b></summary>
#
# Call the gradient that arrives $h_i = \partial L / \partial y_i$, and write $s = \sqrt{\sigma^2 + \varepsilon}$ and
# $g_i = \gamma h_i$, which is the gradient with respect to $\hat x_i$. The parameters are easy:
# $\partial L / \partial \gamma = \sum_i h_i \hat x_i$ and $\partial L / \partial \beta = \sum_i h_i$. An input $x_j$ acts in
# three ways, through its own $\hat x_j$, through the mean, and through the variance:
#
# $$ \frac{\partial L}{\partial x_j} = \frac{g_j}{s} + \frac1m \frac{\partial L}{\partial \mu} +
# \frac{2 (x_j - \mu)}{m} \frac{\partial L}{\partial \sigma^2}. $$
#
# All outputs contain the mean, so $\partial L / \partial \mu = -\frac1s \sum_i g_i$. (The variance contains it too, but
# there its derivative is zero, because the deviations add up to zero.) All outputs contain the variance, and the
# derivative of $1/s$ with respect to $\sigma^2$ is $-1/(2 s^3)$, so
# $\partial L / \partial \sigma^2 = -\frac{1}{2 s^2} \sum_i g_i \hat x_i$. Together:
#
# $$ \frac{\partial L}{\partial x_j} = \frac{1}{s} \Big( g_j - \frac1m \sum_i g_i - \hat x_j \, \frac1m \sum_i g_i \hat x_i \Big). $$
#
# Whatever gradient arrives, its mean is subtracted, and so is the part that points along $\hat x$. So no gradient asks
# the layer before to shift or to stretch a channel, which the normalisation would undo anyway.
#
# </details>

# %%
torch.manual_seed(0)
conv, norm = nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8)
images = data.valid.images[:64].float() / 255
target = torch.randn(64, 8, 30, 30)


def output_and_gradient():
    """Return the normalised output and the size of the gradient."""
    out = norm(conv(images))
    loss = F.mse_loss(out, target)
    (gradient,) = torch.autograd.grad(loss, conv.weight)
    return out.detach(), gradient.norm().item()


once, gradient = output_and_gradient()
with torch.no_grad():
    conv.weight.mul_(10)
ten_times, gradient_of_ten_times = output_and_gradient()
print(f"largest change of the output: {(once - ten_times).abs().max():.4f}")
print(f"gradient: {gradient:.4f}, then {gradient_of_ten_times:.4f}")

# %%
x = torch.randn(8, 3, 5, 5, requires_grad=True)
norm, over = nn.BatchNorm2d(3), (0, 2, 3)
arriving = torch.randn(8, 3, 5, 5)
norm(x).backward(arriving)  # autograd's gradient is now in x.grad

s = (x.var(over, keepdim=True, correction=0) + norm.eps).sqrt()
x_hat = (x - x.mean(over, keepdim=True)) / s
along = x_hat * (arriving * x_hat).mean(over, keepdim=True)
by_hand = (arriving - arriving.mean(over, keepdim=True) - along) / s
assert torch.allclose(by_hand, x.grad, atol=1e-5)
print("by hand and by autograd: the same gradient for all 600 inputs")

# %% [markdown]
# ## 2.4 Batch norm in code
#
# The usual order is **convolution, batch norm, ReLU**. (Some put the norm after the ReLU. Practitioners have argued
# about it for ten years, and both train.)
#
# ```python
# nn.Sequential(
#     nn.Conv2d(16, 32, 3, padding=1, bias=False),
#     nn.BatchNorm2d(32),  # one mean and one variance for each of 32 channels
#     nn.ReLU(),
# )
# ```
#
# Why `bias=False`? A bias adds the same value to a whole channel, and the normalisation subtracts it again. So it has
# no effect, and its gradient is zero. The shift $\beta$ does its job. (The bias is wasted but harmless, and published
# code is full of it.)
#
# `nn.BatchNorm2d(32)` takes images (N, 32, H, W), and `nn.BatchNorm1d(256)` the output of a linear layer (N, 256). A
# **residual block** ([He et al. 2016](https://arxiv.org/abs/1512.03385)) has two such groups and a shortcut around
# them, which is added *before* the last ReLU. You'll find one in plain PyTorch at the end of this chapter.
#
# ### Exercise 3: `fold_batch_norm` (hard, 20 minutes)
#
# In evaluation mode, batch norm multiplies each channel by a constant and adds another. A convolution can do that
# itself. So before a network goes into a phone, its batch-norm layers are **folded** into the convolutions, which gives
# the same predictions with a third fewer layers. Write the function. `norm` is an `nn.BatchNorm2d` in evaluation mode.
# Return `(weight, bias)` of one convolution that computes `norm(conv(x))`, and leave both layers as they are. This
# `conv` has a bias.


# %% tags=["exercise"]
def fold_batch_norm(conv, norm):
    """Return weight and bias of one convolution that does both."""
    raise NotImplementedError


# %% tags=["check"]
check.fold_batch_norm(fold_batch_norm)

# %% [markdown] tags=["hint"]
# <details>
# <summary><b>Hint: I don't know where to start</b></summary>
#
# Take one channel, and call the output of the convolution $u$. Write steps 3 and 4 with the running statistics as
# $a u + b$. Then insert $u = w \cdot x + c$, with the weight $w$ and the bias $c$ of the convolution, and collect the
# terms.
#
# </details>
#
# <details>
# <summary><b>Hint: the shapes don't match</b></summary>
#
# The weight has the shape (out, in, height, width), and there is one $a$ for each *output* channel.
#
# </details>


# %% tags=["solution", "hide-cell"]
# Solution
def fold_batch_norm(conv, norm):
    """Return weight and bias of one convolution that does both."""
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    weight = conv.weight * scale[:, None, None, None]
    bias = norm.bias + (conv.bias - norm.running_mean) * scale
    return weight.detach(), bias.detach()


check.fold_batch_norm(fold_batch_norm)

# %% [markdown]
# ### A bug that really happens: sorted batches
#
# Your validation images lie in one folder per class, as usual. A loader without shuffling reads them class by class, so
# most batches hold a single class. That's harmless, unless somebody also forgets `eval()`. In chapter 1 that mistake
# hardly showed with batches of 64, because the statistics of a mixed batch resemble those of training.
#
# ### Predict
#
# You train a network as usual, on shuffled batches, and it reaches about 0.7. You evaluate it in *training mode* on the
# validation images, class by class, in batches of 64. What accuracy will you see? (The next cell trains five networks,
# in about ten seconds.)

# %% tags=["predict"]
my_accuracy_on_sorted_batches = ...  # such as 0.5


# %% tags=["experiment", "claim"]
def trained(seed):
    """Train the course's network with batch norm."""
    model = seeded_resnet(seed)
    accuracy_of(model, seed, lr=0.1, epochs=4)
    return model


networks = [trained(seed) for seed in range(5)]


def accuracy_in_mode(seed, training, by_class):
    """Evaluate the network of a seed, in batches of 64."""
    valid = signs(seed).valid
    if by_class:
        valid = valid.select(valid.labels.argsort(stable=True))
    model = copy.deepcopy(networks[seed]).train(training)
    correct = 0
    with torch.no_grad():
        for images, labels in cnnlab.loader(valid, 64):
            correct += (model(images).argmax(dim=1) == labels).sum().item()
    return correct / len(valid)


def eval_by_class(seed):
    return accuracy_in_mode(seed, training=False, by_class=True)


def train_mixed(seed):
    return accuracy_in_mode(seed, training=True, by_class=False)


def train_by_class(seed):
    return accuracy_in_mode(seed, training=True, by_class=True)


modes = compare_declared(
    Declaration(
        "What do class-sorted batches do to batch norm in training mode?",
        claims=[
            Claim("eval mode, by class", ">", "train mode, by class", by=0.2),
            Claim("train mode, mixed", ">", "train mode, by class", by=0.2),
        ],
        unit=fresh_data(),
    ),
    {
        "eval mode, by class": eval_by_class,
        "train mode, mixed": train_mixed,
        "train mode, by class": train_by_class,
    },
    seeds=5,
    metric="valid_acc",
)
sorted_accuracy = modes.values("train mode, by class").mean().item()
print(modes.claim("eval mode, by class", ">", "train mode, by class", by=0.2))
print(modes.claim("train mode, mixed", ">", "train mode, by class", by=0.2))
modes.plot(
    message=f"In training mode, sorted batches give {sorted_accuracy:.2f}."
)

# %% tags=["check"]
check.prediction(
    "Accuracy in training mode, class by class?",
    my_accuracy_on_sorted_batches,
    sorted_accuracy,
)

# %% [markdown]
# If every image of a batch shows a blue disc, then the mean over the batch carries what these images have in common.
# The channel that responds to blue is high in all of these images, so its mean is high, and subtracting the mean
# removes the evidence. The same weights, the same images and the same mode give 0.71 or 0.26, depending on the order of
# the files. The cure is one line, `eval()`.
#
# Now make the same mistake in training, and *train* on sorted batches. It takes two lines, the sorting and a loader
# that doesn't shuffle. The network is then evaluated, in evaluation mode, on the very images that it was trained on.
#
# ### Predict
#
# While it trains, four in five of its predictions are correct. What accuracy does the network with batch norm reach
# afterwards?

# %% tags=["predict"]
my_accuracy_after_sorted_training = ...  # such as 0.5

# %% tags=["experiment"]
after = {}
many = cnnlab.load("pocket", seed=0, n_train=1920).train
for kind in ("batch", "layer"):
    by_class = many.select(many.labels.argsort(stable=True))
    loader = cnnlab.loader(by_class, 8)  # not shuffled

    model = seeded_resnet(0, norm=kind)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    correct = []
    for _ in range(2):
        for images, labels in loader:
            logits = model(images)
            optimizer.zero_grad()
            F.cross_entropy(logits, labels).backward()
            optimizer.step()
            correct += (logits.argmax(dim=1) == labels).tolist()
    model.eval()
    with torch.no_grad():
        images = many.images.float() / 255
        hits = model(images).argmax(dim=1) == many.labels
    after[kind] = hits.float().mean().item()
    print(f"{kind} norm, while training: {sum(correct) / len(correct):.2f}")
    print(f"{kind} norm, in eval mode:   {after[kind]:.2f}")

# %% tags=["check"]
check.prediction(
    "Accuracy after training on sorted batches?",
    my_accuracy_after_sorted_training,
    after["batch"],
)

# %% [markdown]
# The log looks fine, but the network is useless: it predicts the last class for every image. Now look at the last two
# lines. Layer norm (section 2.5), which never looks at other images, does the same, so this isn't batch norm's fault.
# While the images of one class go by, a few steps teach the network to predict that class, and by the end of the epoch
# it has forgotten the others. So there are two causes, and *evaluation mode* tells them apart: it cures the first
# problem, but not the second.
#
# The first problem can also occur during training. If each of several GPUs reads files of one class, each normalises
# its own class by itself. `nn.SyncBatchNorm` averages over all GPUs, and shuffling the files is better still.
#
# ## 2.5 The other norms
#
# **Layer norm** ([Ba et al. 2016](https://arxiv.org/abs/1607.06450)) uses the same equation, but it averages within one
# image. For the features $x_1, \dots, x_d$ of a single sample,
#
# $$ \mu = \frac1d \sum_{j=1}^d x_j, \quad \sigma^2 = \frac1d \sum_{j=1}^d (x_j - \mu)^2, \quad
# y_j = \gamma_j \frac{x_j - \mu}{\sqrt{\sigma^2 + \varepsilon}} + \beta_j. $$
#
# It doesn't involve the batch, so there are no running statistics and no difference between the modes. **Group norm**
# ([Wu & He 2018](https://arxiv.org/abs/1803.08494)) splits the channels into groups, often 32, and averages within
# each. With one group, it's layer norm over channels and pixels. With one channel per group, it's called **instance
# norm**. (That's before any training. Afterwards, the learnt scales differ: `nn.LayerNorm` has one for each pixel of
# each channel, the other two have one per channel.)

# %%
sample = torch.randn(2, 6, 4, 4)
whole_image = nn.LayerNorm([6, 4, 4])(sample)
assert torch.allclose(nn.GroupNorm(1, 6)(sample), whole_image, atol=1e-5)
each_map = nn.InstanceNorm2d(6)(sample)
assert torch.allclose(nn.GroupNorm(6, 6)(sample), each_map, atol=1e-5)
diagrams.normalisation()

# %% [markdown]
# | | averages over | depends on the batch | training and inference | used in |
# |---|---|---|---|---|
# | batch norm | images and pixels, per channel | yes | differ | convolutional networks |
# | layer norm | all features of one sample | no | the same | transformers and recurrent networks (RNNs); ConvNeXt, over the channels of each pixel |
# | RMSNorm | as layer norm, but without subtracting a mean | no | the same | most large language models; `nn.RMSNorm` |
# | group norm | a group of channels of one image | no | the same | detection, segmentation, diffusion models: few large images per GPU |
# | instance norm | one channel of one image | no | the same | style transfer |
#
# ("Layer norm" means two things for images. Our networks, like `GroupNorm(1, C)`, average over channels and pixels.
# ConvNeXt averages over the channels of each pixel. RMSNorm is by
# [Zhang & Sennrich 2019](https://arxiv.org/abs/1910.07467). Very deep networks can also train without any of these
# layers, with scaled weights and clipped gradients, such as NFNets:
# [Brock et al. 2021](https://arxiv.org/abs/2102.06171).)
#
# So is batch norm useless for small batches? Textbooks say "works poorly", and the reason is plausible: two images give a
# noisy mean. A fair test changes nothing but the statistics. In the study, each step still uses the gradient of 64
# images, but they pass through the network two at a time, and their gradients are added up (**gradient accumulation**,
# chapter 12).
#
# ### Predict
#
# With 64 images at once, batch norm reaches 0.70 at a learning rate of 0.1. By how much does the accuracy fall if its
# statistics come from two images at a time?

# %% tags=["predict"]
my_loss_by_small_batches = ...  # a difference, such as 0.1 for ten points

# %% tags=["claim"]
print(study.verdict("batch norm, lr 0.1", ">", "batch norm, two at a time"))
print("\nlayer norm, two at a time - 64 at once:")
print(study.difference("layer norm, two at a time", "layer norm, lr 0.1"))

# %% tags=["check"]
check.prediction(
    "Accuracy lost with statistics of two images?",
    my_loss_by_small_batches,
    study.difference("batch norm, lr 0.1", "batch norm, two at a time").mean,
    within=0.03,
)

# %% [markdown]
# We had declared that it would cost accuracy, and in our network of seven convolutions the numbers don't confirm it.
# The cost is at most four points and may be zero. Even two images give each channel of the stem 512 values to average
# (2 × 16 × 16), and each channel of the last block 32. So what ruined the batches of *one* in chapter 1? Not a lack of
# values, but a **mismatch**. That network was trained with the statistics of 64 images and then evaluated with those of
# one. This one was trained on pairs, so its running statistics fit.
#
# In a large network the cost is large. Wu & He trained a ResNet-50 on ImageNet, and with two images per GPU, batch norm
# was 10.6 points behind group norm. (We suspect that the noise of its fifty layers adds up, but haven't tested it.)
# There, group norm is the usual way out.
#
# ## 2.6 Dropout
#
# **Dropout** ([Srivastava et al. 2014](https://jmlr.org/papers/v15/srivastava14a.html)) sets each feature to zero with
# probability $p$ during training, so no unit can rely on another one being there. At inference nothing is dropped. To
# make both modes agree on average, the surviving features are divided by $1 - p$ in training:
#
# $$ y_i = \frac{m_i}{1 - p}\, x_i, \qquad m_i = \begin{cases} 0 & \text{with probability } p\\ 1 & \text{otherwise.}\end{cases} $$
#
# This form is called **inverted dropout**, and every framework uses it. The mean stays the same:
# $\mathbb{E}[y_i] = (1-p) \cdot x_i / (1-p) = x_i$.
#
# Try it: a unit has the value 4, and dropout with $p = 0.2$ spares it. What does the next layer receive in training?
#
# <details>
# <summary><b>Answer</b></summary>
#
# It receives 4 / (1 − 0.2) = 5. In evaluation mode it receives 4, whatever $p$ is.
#
# </details>
#
# Here it is for four units with the values 2, 1, 4, 3, with $p = 0.5$ and a mask that keeps the first and the third:

# %%
x = torch.tensor([2.0, 1.0, 4.0, 3.0])
mask = torch.tensor([1.0, 0.0, 1.0, 0.0])
print("this mask:           ", (mask / (1 - 0.5) * x).tolist())

torch.manual_seed(0)
drop = nn.Dropout(0.5)
masked = torch.stack([drop(x) for _ in range(20_000)])
mean = [round(value, 2) for value in masked.mean(dim=0).tolist()]
print("mean of 20,000 masks:", mean)
print("evaluation mode:     ", drop.eval()(x).tolist())

# %% [markdown]
# Where does it go? After an activation and before the next linear layer, never after the output layer:
#
# ```python
# nn.Sequential(
#     nn.Linear(784, 512), nn.ReLU(), nn.Dropout(0.5),
#     nn.Linear(512, 256), nn.ReLU(), nn.Dropout(0.3),
#     nn.Linear(256, 10),
# )
# ```
#
# | where | usual $p$ | note |
# |---|---|---|
# | hidden layers of an MLP (multilayer perceptron: linear layers and activations only) | 0.5 | where it was invented |
# | after a convolutional block | 0.25 | `nn.Dropout2d`, which drops whole channels |
# | in front of a network's classifier | 0.2 to 0.5 | `small_resnet(..., dropout=0.5)` |
# | attention and feed-forward layers of a transformer | 0.1 | often 0 on very large data sets |
# | between the layers of an RNN | 0.2 to 0.5 | |
#
# Between convolutions, ordinary dropout does little, because the neighbours of a dropped pixel carry the same
# information. So people drop whole channels ([Tompson et al. 2015](https://arxiv.org/abs/1411.4280)), squares of a
# feature map (DropBlock, [Ghiasi et al. 2018](https://arxiv.org/abs/1810.12890)) or whole residual blocks (**stochastic
# depth**, [Huang et al. 2016](https://arxiv.org/abs/1603.09382), the standard in ConvNeXt and vision transformers).
#
# Don't put dropout before a batch-norm layer. The layer collects its running variance while dropout is on, so the
# variance is too large at inference, when dropout is off ([Li et al. 2019](https://arxiv.org/abs/1801.05134)).
#
# ## 2.7 When do dropout and weight decay help?
#
# **Weight decay** shrinks every weight a little at each step, $w \leftarrow w - \eta\,(\nabla L + \lambda w)$. For SGD
# that is the same as adding the penalty $\tfrac{\lambda}{2} \lVert w \rVert^2$ to the loss, which is called L2
# regularisation. Usual values of $\lambda$ are $10^{-4}$ to $10^{-3}$ with SGD. (We use 0.01 and 0.005 below, because
# in short runs at small learning rates a small decay has little time to act.) Both techniques are said to prevent
# overfitting, which means learning details that only the training images have. So give the network something that it
# must not learn: 40 % *wrong labels*.

# %%
noisy, valid = signs_with_wrong_labels(0, wrong=0.4, n_valid=960)
mislabelled = (noisy.labels != noisy.clean_labels).nonzero().flatten()
shown = mislabelled[:8]
plots.image_grid(
    noisy.images[shown],
    [noisy.classes[k] for k in noisy.labels[shown]],
    alt="Eight signs with the labels that the network is given",
    message="Two in five training images carry a wrong label.",
)

# %% [markdown]
# The network has 660 thousand weights in three linear layers, which is enough to memorise 1,200 labels. The validation
# labels are correct. (The cell after the prediction trains it twice, in about 15 seconds.)
#
# *How this was measured.* We searched for a setting in which *both* techniques matter. A convolutional network didn't
# qualify, even with wrong labels, because weight decay never helped it. Larger learning rates didn't qualify either,
# because dropout gained nothing there. The script `02_noisy_labels.py` lists everything we tried, all of it on other
# images and seeds. We declared the claims after that search and before the study ran.
#
# ### Predict
#
# By how much does dropout with $p = 0.5$ change the validation accuracy at the end of training, averaged over eight
# seeds? Write a difference such as 0.02 or -0.02.

# %% tags=["predict"]
my_gain_by_dropout = ...  # a difference, such as 0.02

# %% tags=["experiment"]
loader = cnnlab.loader(valid, 256)
curves = {}
for name, dropout in (("plain", 0.0), ("dropout 0.5", 0.5)):
    trainer = train_wide_mlp(0, noisy, dropout=dropout, valid=loader)
    history = trainer.history.frame()
    curves[name] = {
        "training, wrong labels included": history["train_acc"],
        "validation, correct labels": history["valid_acc"],
    }
plain = curves["plain"]["validation, correct labels"]
plots.lines(
    range(1, len(history) + 1),
    curves,
    xlabel="epoch",
    ylabel="accuracy",
    message="The plain network's validation accuracy peaks at "
    f"{max(plain):.2f} and ends at {plain[len(plain) - 1]:.2f}.",
)

# %% tags=["experiment", "claim"]
regularised = Results.load("studies/02_noisy_labels.csv")
gain = regularised.difference("dropout 0.5", "plain").mean
decay_gain = regularised.difference("decay 1e-2", "plain").mean
REPEATED = "fraction of wrong labels repeated"
print(regularised.claim("dropout 0.5", ">", "plain", by=0.05))
print(regularised.claim("decay 1e-2", ">", "plain", by=0.05))
repeated = regularised.on(REPEATED)
print(repeated.claim("plain", ">", "dropout 0.5", by=0.2))
print(repeated.claim("plain", ">", "decay 1e-2", by=0.2))
CORRECT = ", correct labels"
print(regularised.claim(f"plain{CORRECT}", ">", f"dropout 0.5{CORRECT}"))
print(
    regularised.claim(f"decay 1e-2{CORRECT}", "~", f"plain{CORRECT}", by=0.02)
)
regularised.plot(
    message="With wrong labels, dropout changes the final accuracy by "
    f"{100 * gain:+.1f} points, weight decay by {100 * decay_gain:+.1f}."
)

# %% tags=["check"]
check.prediction(
    "Gain by dropout with wrong labels?",
    my_gain_by_dropout,
    gain,
    within=0.03,
)

# %% [markdown]
# Look at the left panel first: validation accuracy is best after a few epochs and falls as soon as the network begins
# to memorise. (On the right, training accuracy is low because it's measured with dropout switched on.) At the end, the
# network repeats 95 % of the wrong labels that it was given without regularisation, 26 % with weight decay, and 9 %
# with dropout. Both techniques gain about eleven points on images that the network has never seen. Weights that serve a
# single wrong label are pulled back by decay and made unreliable by dropout. Weights that serve hundreds of images
# withstand both.
#
# With *correct* labels, there's nothing wrong to memorise. Dropout costs three points here, and decay changes the
# accuracy by less than one.
#
# Is the end of training a fair baseline? In the left panel, the plain network was much better along the way, and
# stopping there costs nothing. So a second study, on new signs, lets every network choose its best epoch by its
# accuracy on 240 more signs with correct labels. That's **early stopping**, the subject of
# [chapter 6](06_stopping.ipynb). A third study trained our small residual network for 30 epochs on 300 correct labels,
# which it memorises. The next cell prints all claims that the two studies declared.

# %% tags=["claim"]
best = Results.load("studies/02_early_stopping.csv")
print(best.claim("plain, best epoch", ">", "plain, last epoch", by=0.05))
print(best.verdict("dropout 0.5, best epoch", ">", "plain, best epoch"))
print(best.verdict("decay 1e-2, best epoch", ">", "plain, best epoch"))
print(best.claim("dropout 0.5, last epoch", ">", "plain, best epoch"))
print(best.claim("decay 1e-2, last epoch", ">", "plain, best epoch"))

print("\nOn 300 correct labels:")
small = Results.load("studies/02_regularisation.csv")
print(small.claim("dropout 0.3", "~", "plain", by=0.01))
print(small.verdict("decay 5e-3", ">", "plain"))
in_loss = small.on("valid_loss")
print(in_loss.claim("decay 5e-3", "<", "plain", by=0.05))
print(small.claim("decay 5e-3", ">", "decay 5e-3 everywhere"))

print("\nexploratory, dropout 0.5 - plain:")
print(small.difference("dropout 0.5", "plain"))
print("exploratory, decay 5e-3 - decay 5e-3 everywhere, in the loss:")
print(in_loss.difference("decay 5e-3", "decay 5e-3 everywhere"))

# %% [markdown]
# **Stopping in time gives most of it.** Choosing the best epoch gains 8.6 points (6.7 to 10.5) without any
# regularisation. If all three networks may choose, dropout leads by 1.7 points (0.2 to 3.3) and weight decay by 1.6
# (−0.8 to 4.1), and neither claim is supported. But early stopping needs correct labels to stop by. Dropout and weight
# decay don't: at the end of training, without those labels, they're still 2.8 points (1.6 to 4.1) and 2.1 points (0.7
# to 3.5) ahead of the best epoch of the plain network.
#
# **On 300 correct labels, we see no gain in accuracy.** Dropout of 0.3 and weight decay change it by less than one
# point here. For dropout of 0.5, the interval reaches from a loss of two points to a gain of two. But decay lowers the
# loss by 0.13 (0.09 to 0.16). With as many correct predictions and a lower loss, the network is probably less
# overconfident, a subject of [chapter 4](04_mixing.ipynb).
#
# **What new seeds said.** We repeated both studies (appendix G), and three of the claims didn't hold.
# Here are the differences in points:
#
# | claim | first | new seeds | held |
# |---|---|---|---|
# | the best epoch of `plain` beats its last by more than 5 | 8.6 (6.7 to 10.5) | 7.6 (5.6 to 9.7) | no |
# | dropout at the end beats the best epoch of `plain` | 2.8 (1.6 to 4.1) | 2.9 (1.0 to 4.7) | yes |
# | decay at the end beats the best epoch of `plain` | 2.1 (0.7 to 3.5) | 2.5 (0.5 to 4.4) | no |
# | 300 labels: dropout of 0.3 changes less than 1 | 0.1 (−0.4 to 0.7) | −0.2 (−1.3 to 1.0) | no |
#
# The estimates hardly moved. The two in the first and third row even clear their margins again, but not by enough for
# Holm's correction. In the last row, a loss of more than one point is now possible. So "didn't hold" doesn't mean
# "isn't there". Two estimates that agree tell you more than either verdict.
#
# **Decay weights only.** Sparing the biases and the $\gamma$ and $\beta$ of the batch-norm layers gains 1.9 points here
# (1.2 to 2.6), at a strong decay. It's a convention from practice ([He et al. 2019](https://arxiv.org/abs/1812.01187)):
# a channel has only one value of each, so they can't overfit much.
#
# <details>
# <summary><b>Why does the last line compare the two variants directly?</b></summary>
#
# If one of them differs significantly from `plain` and the other doesn't, that says nothing about their own difference
# ([Gelman & Stern 2006](https://doi.org/10.1198/000313006X152649)).
#
# </details>
#
# **Decay in front of a batch norm** can't simplify the function, because only the direction of the weights counts there.
# What does it do instead? The next cell follows the length $\lVert w \rVert$ of all convolutions, step by step, with
# and without decay.


# %% tags=["experiment"]
def lengths(weight_decay):
    """Train for eight epochs; return the weights' length at each step."""
    model = seeded_resnet(0)
    optimizer = sgd(model, lr=0.1, weight_decay=weight_decay)
    convolutions = [p for p in model.parameters() if p.ndim == 4]
    batches = cnnlab.loader(data.train, 64, shuffle=True, seed=0)
    result = []
    for _ in range(8):
        for images, labels in batches:
            length = nn.utils.parameters_to_vector(convolutions).norm()
            result.append(length.item())
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            optimizer.step()
    return result


free, decayed = lengths(0.0), lengths(5e-3)
plots.lines(
    range(len(free)),
    {"no decay": free, "weight decay 0.005": decayed},
    xlabel="step",
    ylabel="length of all convolutions' weights",
    message="Without decay, the weights in front of batch norms only get "
    "longer.",
)

# %% [markdown]
# Scaling such weights changes nothing, so the gradient has no component along them: it's perpendicular. Each step
# therefore makes them longer, as the hypotenuse is longer than a leg, and longer weights turn less in the next step.
# Decay keeps them short, so it raises the effective *learning rate* ([van Laarhoven
# 2017](https://arxiv.org/abs/1706.05350)). In our MLP, which has no norm, it acts as advertised.
#
# With Adam, a penalty in the loss isn't weight decay, because Adam rescales the penalty's gradient together with that
# of the loss. **AdamW** shrinks the weights separately, usually with $\lambda$ from 0.01 to 0.1
# ([Loshchilov & Hutter 2019](https://arxiv.org/abs/1711.05101)).
#
# **What would change this result.** Larger networks, longer training, and fewer or noisier labels all give these
# techniques more to do. Augmentation ([chapter 3](03_augmentation.ipynb)) is the stronger remedy for few images,
# because it adds knowledge about the task. Current practice: weight decay nearly always, on weights only; stochastic
# depth in large networks; dropout in front of a head, or while fine-tuning on few labels.
#
# ### Exercise 4: find the bugs in a textbook (open, 30 minutes)
#
# This code is assembled from tutorials and one published chapter. It runs, and it trains. Every numbered line is a
# mistake, a waste, or fine.
#
# ```python
# class Block(nn.Module):
#     def __init__(self, channels):
#         super().__init__()
#         self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)        # 1
#         self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
#         self.norm = nn.BatchNorm2d(channels, momentum=0.9)              # 2
#         self.drop = nn.Dropout(0.5)
#
#     def forward(self, x):
#         out = self.norm(self.drop(self.conv1(x))).relu()                # 3
#         out = self.norm(self.conv2(out)).relu()                         # 4
#         return out + x                                                  # 5
#
# def init_weights(m):
#     if isinstance(m, (nn.Conv2d, nn.Linear)):
#         nn.init.kaiming_normal_(m.weight, mode="fan_out")               # 6
#     elif isinstance(m, nn.BatchNorm2d):
#         nn.init.zeros_(m.weight)                                        # 7
#
# optimizer = torch.optim.AdamW(model.parameters(), weight_decay=0.1)     # 8
# model.eval()                                                            # 9
# for epoch in range(10):
#     model.train()
#     ...
# ```
#
# Sort the nine lines, most harmful first, and say for each what you would see. Then *prove* at least two of your
# judgements with a run, in cells of your own (the key `B` adds one): build the block into a small network, change one
# line at a time, and compare over five seeds.
#
# | points | for |
# |---|---|
# | 4 | each of the lines 2, 3, 4 and 7 explained: what it does, and what you'd see in a log (1 each) |
# | 2 | lines 1 and 9: why one is only a waste, and why the other has no effect |
# | 2 | lines 5, 6 and 8: which are defensible, and what the other costs |
# | 3 | a declared comparison over seeds for two lines, with an interval |
# | 1 | you report a result that you didn't expect |
#
# ## In plain PyTorch
#
# Here is everything you'll keep from this chapter, with PyTorch alone: the residual block, the network, He
# initialisation through `model.apply`, and the two groups of parameters for weight decay. It goes into the script
# `train.py`, which grows with every chapter. (Like the library's network, it uses He's rule for the head as well,
# although no ReLU follows. With Xavier's rule or zeros, the first loss would be closer to log 12.)

# %% tags=["plain"]
import torch
from torch import nn


class ResidualBlock(nn.Module):
    def __init__(self, channels, width):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, width, 3, 2, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(width)
        shortcut = nn.Conv2d(channels, width, 1, 2, bias=False)
        self.shortcut = nn.Sequential(shortcut, nn.BatchNorm2d(width))

    def forward(self, x):
        out = self.norm1(self.conv1(x)).relu()
        return (self.norm2(self.conv2(out)) + self.shortcut(x)).relu()


class SmallResNet(nn.Module):
    def __init__(self, num_classes=12):
        super().__init__()
        self.register_buffer("mean", torch.full((1, 1, 1), 0.45))
        self.register_buffer("std", torch.full((1, 1, 1), 0.25))
        conv = nn.Conv2d(3, 16, 3, 2, padding=1, bias=False)
        self.stem = nn.Sequential(conv, nn.BatchNorm2d(16), nn.ReLU())
        blocks = ResidualBlock(16, 32), ResidualBlock(32, 64)
        self.blocks = nn.Sequential(*blocks)
        self.head = nn.Linear(64, num_classes)

    def forward(self, x):
        x = self.blocks(self.stem((x - self.mean) / self.std))
        return self.head(x.mean(dim=(2, 3)))


def init_weights(module):
    if isinstance(module, nn.Conv2d | nn.Linear):
        nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)


def decay_groups(model, weight_decay):
    weights = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    decayed = {"params": weights, "weight_decay": weight_decay}
    return [decayed, {"params": others, "weight_decay": 0.0}]


# %%
from cnnlab.transfer import param_groups

torch.manual_seed(0)
ours = SmallResNet().apply(init_weights)
courses = seeded_resnet(0)
for mine, theirs in zip(ours.parameters(), courses.parameters(), strict=True):
    assert torch.allclose(mine, theirs)  # the same draws

names = list(ours.state_dict())
values = courses.state_dict().values()
ours.load_state_dict(dict(zip(names, values, strict=True)))
images = data.valid.images[:64].float() / 255
assert torch.equal(ours(images), courses(images))
assert torch.equal(ours.eval()(images), courses.eval()(images))


def decayed_sizes(groups):
    """Return the shapes of the parameters that decay."""
    chosen = [g["params"] for g in groups if g["weight_decay"] > 0]
    return sorted(tuple(p.shape) for params in chosen for p in params)


library = decayed_sizes(param_groups(courses, lr=0.1, weight_decay=5e-4))
assert decayed_sizes(decay_groups(ours, 5e-4)) == library
print("the same initial weights, outputs and decay groups as the library's")

# %% [markdown]
# **The recipe so far.** Chapter 1 gave you a loop that you can trust. This chapter adds a network with batch norm, He's
# initial weights, and weight decay on the weights alone.
#
# ## Make it bigger
#
# The same three kinds of network on CIFAR-10: which of them train at a learning rate of 0.1? The cell needs a GPU and
# one download, so it runs only if `CNNLAB_PROFILE` is `gpu`.

# %% tags=["bigger"]
if lab.profile == "gpu":
    photos = cnnlab.load("cifar10", download=True)
    for norm in ("batch", "layer", "none"):
        model = cnnlab.small_resnet(10, width=32, depth=3, norm=norm)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        big = cnnlab.Trainer(model, optimizer)
        try:
            big.fit(cnnlab.loader(photos.train, 128, shuffle=True), epochs=10)
        except cnnlab.errors.NonFiniteError as error:
            print(norm, error)
            continue
        print(norm, big.evaluate(cnnlab.loader(photos.valid, 512)))
else:
    print("left out: set CNNLAB_PROFILE=gpu to run it")

# %% tags=["hide-input"]
check.quiz(2)

# %% [markdown]
# ## Key points
#
# - A layer multiplies the mean square of the signal by $n \sigma^2 / 2$. He's rule makes that 1. PyTorch's default
#   makes it 1/6, and batch norm hides that.
# - Batch norm takes the mean and the variance, normalises, then scales and shifts. It uses the statistics of the batch
#   in training and running statistics at inference.
# - Why it works is better explained by scale invariance and a smoother loss than by stable distributions, which it can
#   do without.
# - In training mode a prediction depends on the other images of the batch. Sorted batches make it useless.
# - Layer, group and instance norm look at one image alone, so they do the same in both modes and with any batch size.
# - Where there's something that must not be memorised, dropout and weight decay gain a lot over the end of training,
#   but stopping in time gains most of that too, if you have correct labels to stop by. Decay weights, not biases and
#   norms.
#
# ## Common mistakes
#
# | what you see | what it often is |
# |---|---|
# | a loss near $\log K$ that doesn't move, no norm layers | initial weights too small (PyTorch's default, in a deep network) |
# | the first loss is huge or NaN | initial weights too large, or pixels from 0 to 255 |
# | validation accuracy depends on batch size or order of the files | no `eval()` |
# | the log looks good, but the network predicts one class for everything | batches sorted by class, no shuffling |
# | validation far below training from the start, and jumping | running statistics that lag; a `momentum` copied from Keras |
# | worse after adding dropout in front of a batch norm | the running variance was collected with dropout on, and is too large with it off |
# | Adam with `weight_decay` hardly regularises | use AdamW |
#
# ## References
#
# - S. Ioffe and C. Szegedy, *Batch normalization: accelerating deep network training by reducing internal covariate shift*, 2015, [arXiv:1502.03167](https://arxiv.org/abs/1502.03167)
# - S. Santurkar, D. Tsipras, A. Ilyas and A. Mądry, *How does batch normalization help optimization?*, 2018, [arXiv:1805.11604](https://arxiv.org/abs/1805.11604)
# - S. Arora, Z. Li and K. Lyu, *Theoretical analysis of auto rate-tuning by batch normalization*, 2019, [arXiv:1812.03981](https://arxiv.org/abs/1812.03981)
# - J. L. Ba, J. R. Kiros and G. E. Hinton, *Layer normalization*, 2016, [arXiv:1607.06450](https://arxiv.org/abs/1607.06450)
# - Y. Wu and K. He, *Group normalization*, 2018, [arXiv:1803.08494](https://arxiv.org/abs/1803.08494)
# - B. Zhang and R. Sennrich, *Root mean square layer normalization*, 2019, [arXiv:1910.07467](https://arxiv.org/abs/1910.07467)
# - A. Brock, S. De, S. L. Smith and K. Simonyan, *High-performance large-scale image recognition without normalization*, 2021, [arXiv:2102.06171](https://arxiv.org/abs/2102.06171)
# - K. He, X. Zhang, S. Ren and J. Sun, *Delving deep into rectifiers*, 2015, [arXiv:1502.01852](https://arxiv.org/abs/1502.01852)
# - K. He, X. Zhang, S. Ren and J. Sun, *Deep residual learning for image recognition*, 2016, [arXiv:1512.03385](https://arxiv.org/abs/1512.03385)
# - X. Glorot and Y. Bengio, *Understanding the difficulty of training deep feedforward neural networks*, 2010, [PMLR 9](https://proceedings.mlr.press/v9/glorot10a.html)
# - Y. LeCun, L. Bottou, G. Orr and K.-R. Müller, *Efficient BackProp*, 1998, [doi:10.1007/3-540-49430-8_2](https://doi.org/10.1007/3-540-49430-8_2)
# - N. Srivastava, G. Hinton, A. Krizhevsky, I. Sutskever and R. Salakhutdinov, *Dropout: a simple way to prevent neural networks from overfitting*, 2014, [JMLR 15](https://jmlr.org/papers/v15/srivastava14a.html)
# - J. Tompson, R. Goroshin, A. Jain, Y. LeCun and C. Bregler, *Efficient object localization using convolutional networks*, 2015, [arXiv:1411.4280](https://arxiv.org/abs/1411.4280)
# - G. Huang, Y. Sun, Z. Liu, D. Sedra and K. Weinberger, *Deep networks with stochastic depth*, 2016, [arXiv:1603.09382](https://arxiv.org/abs/1603.09382)
# - G. Ghiasi, T.-Y. Lin and Q. V. Le, *DropBlock: a regularization method for convolutional networks*, 2018, [arXiv:1810.12890](https://arxiv.org/abs/1810.12890)
# - X. Li, S. Chen, X. Hu and J. Yang, *Understanding the disharmony between dropout and batch normalization by variance shift*, 2019, [arXiv:1801.05134](https://arxiv.org/abs/1801.05134)
# - T. van Laarhoven, *L2 regularization versus batch and weight normalization*, 2017, [arXiv:1706.05350](https://arxiv.org/abs/1706.05350)
# - I. Loshchilov and F. Hutter, *Decoupled weight decay regularization*, 2019, [arXiv:1711.05101](https://arxiv.org/abs/1711.05101)
# - T. He, Z. Zhang, H. Zhang, Z. Zhang, J. Xie and M. Li, *Bag of tricks for image classification with convolutional neural networks*, 2019, [arXiv:1812.01187](https://arxiv.org/abs/1812.01187)
# - A. Gelman and H. Stern, *The difference between "significant" and "not significant" is not itself statistically significant*, 2006, [doi:10.1198/000313006X152649](https://doi.org/10.1198/000313006X152649)

# %% [markdown] tags=["instructor", "remove-cell"]
# ## When you are short of time
#
# 2.1 to 2.3 carry the chapter. Do 1, 3, 5, 7 by hand with the room, let everyone vote on the noisy batch norm before you
# show it, and leave 2.5 and 2.6 for reading. Of 2.7, show the curves.
#
# ## A session of ninety minutes
#
# | minutes | what | sections | who |
# |---|---|---|---|
# | 15 | Signals that die and grow: predict, run, and derive nσ²/2 at the board | 2.1 | you, with a vote |
# | 15 | Exercise 1 | 2.1 | everybody |
# | 10 | 1, 3, 5, 7 by hand, then the cell | 2.2 | everybody on paper |
# | 10 | Exercise 2 | 2.2 | everybody |
# | 15 | The famous explanation: vote on the noisy batch norm, then read the claims | 2.3 | the room |
# | 10 | Sorted batches: two predictions, then run | 2.4 | everybody |
# | 5 | The curves with wrong labels | 2.7 | you |
# | 10 | Questions for the room | | the room |
#
# ## The open exercise
#
# Line 7 does the most harm. It sets the scale of *every* norm to zero, and the shift is zero too, so each ReLU after a
# norm gets zeros. The gradient of ReLU at 0 is 0, so the scales, the shifts and the convolutions of the block never get
# a gradient, and the block stays the identity for good. (A stem with such a norm is dead too, and then nothing learns
# but the bias of the head.) On the *last* norm of a residual block *without* a ReLU between it and the addition, it's a
# well-known trick: there the scale gets a gradient, and the block wakes up.
#
# Next come line 4 (one norm is shared by two layers, so its running statistics fit neither), line 3 (the running
# variance is collected with dropout on, and is too large with it off), line 2 (the running statistics are those of the
# last batch or two) and line 8 (0.1 on every parameter pulls the scales of the norms towards zero).
#
# Line 1 is a waste, because the norm subtracts the bias again. Line 9 has no effect: `train()` undoes `eval()` in the
# first epoch. (Published code relies on such a line to freeze statistics.) Two lines are defensible. In line 5, the
# ReLU usually comes after the addition; "pre-activation" networks drop it, but then the norm belongs first. In line 6,
# fan-out keeps the size of the gradient instead of the signal's, as PyTorch's ResNet does.
#
# ## Questions for the room
#
# - PyTorch's default weights let the signal die in twenty layers. Why has hardly anybody noticed? (Because batch norm
#   makes up for it: in 2.1 all five networks learn from the default once they have batch norm, and without it they only
#   guess. Shortcuts and Adam hide it as well. You notice it when you build a deep network without norms, and then it
#   looks as if the learning rate were wrong.)
# - In training mode, the output for one image depends on the others in its batch. Where could that leak information
#   from one user to another? (On a server that batches the requests of several users and forgets `eval()`. The
#   prediction for your image then changes with strangers' images, and somebody who sends chosen images could learn
#   something about the others in the batch. In evaluation mode, the other images play no part. The order of the images
#   matters as much: in 2.4 it decides between 0.71 and 0.26.)
# - Santurkar's experiment shows that stability isn't necessary. Does it show that smoothness is the reason? (No, it
#   only speaks against the first explanation. At a learning rate of 0.4, the noisy batch norm reaches 0.61, the usual
#   one 0.67 and the network without norm 0.08, although the noisy one's distributions move most. Smoothness was
#   measured separately. To show that it's the cause, you'd have to change it and nothing else.)
# - You don't know how clean the labels of a data set are. Do you use dropout, weight decay, early stopping, or nothing?
#   (Look at a hundred labels first. If you can check a few hundred, stop early: with 40 % wrong labels that gained 8.6
#   points over the end of training, and 7.6 with new seeds. Without any clean labels, dropout and weight decay are an
#   insurance: each gained about eleven points with wrong labels. With correct ones, dropout cost three points and decay
#   less than one, so decay is the cheaper one.)
#
# ## Exam questions
#
# **Question 1.** A plain network has ten convolutions with 64 channels and 3 x 3 kernels, each followed by a ReLU. The
# weights have the variance 1/n, where n is the fan-in. By what factor does the mean square of the signal change over
# the ten layers? Which standard deviation would keep it? Why does nobody see the problem in a network with batch norm?
#
# **Answer.** A sum of n products has n · 1/n = 1 times the mean square of its inputs, and the ReLU keeps half of it. So
# each layer halves the mean square, and ten layers leave 1/1,024 of it: the signal is 32 times as small. With the
# variance 2/n each layer keeps it. Here n is 64 · 9 = 576, so the standard deviation is the root of 2/576, which is
# 0.059. Batch norm divides by the standard deviation after every layer, so the size of the weights no longer matters
# for the forward pass.
#
# **Question 2.** A network reaches 0.71 on the validation set. A colleague evaluates the same weights on the same
# images and gets 0.26. His images are sorted by class. What has he forgotten, and why does the order matter? A second
# network was *trained* on sorted images. Which test tells the two cases apart?
#
# **Answer.** He has forgotten the evaluation mode. Batch norm then subtracts the mean of the batch, and in a batch of a
# single class this mean carries just what the class has in common, so the evidence is removed. In shuffled batches the
# statistics resemble those of training, which is why the mistake hardly shows there. To tell the cases apart, evaluate
# in evaluation mode. That cures the first one. The second network stays bad, because it has learnt to predict whatever
# class came last, and a network with layer norm would be just as bad.
