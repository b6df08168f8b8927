# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 7. Debugging training
#
# In 2021 a developer ran into a bug that he had fixed before. His data loader drew NumPy's random numbers in several
# worker processes, and every worker drew the *same* numbers, so their random crops were copies of each other. Nothing
# crashed, but the network was clearly worse than after the fix. He then searched over a hundred thousand public
# projects. Of those that load data in this way, more than 95 % had the bug, including PyTorch's own tutorial and code
# from OpenAI and NVIDIA ([Pärnamaa
# 2021](https://tanelp.github.io/posts/a-bug-that-plagues-thousands-of-open-source-ml-projects/)). PyTorch has seeded
# NumPy in each worker since version 1.9.
#
# That's how training usually fails. It keeps running, and the result is worse than it could be. So you need checks that
# find trouble before it shows.
#
# **You will be able to** check a network before its first step, find out which inputs an output depends on, read update
# ratios and learning curves, find the first NaN, clip gradients, and name the fault of a broken run or script.
#
# | | |
# |---|---|
# | to read | 45 minutes, with the code |
# | exercises | 90 minutes; the emergency room as long as you like |
# | to run | 55 seconds on one core of a laptop; no internet, no GPU |
# | you need | [chapter 2](02_normalisation.ipynb): batch norm, dead units, and the training loop of chapter 1 |

# %% tags=["setup"]
import copy
import math
import tempfile
import warnings
from functools import lru_cache

import pandas as pd
import torch
import torch.nn.functional as F
from studies.common import (
    correct_predictions,
    cpu_trainer,
    seeded_resnet,
    sgd,
    train,
    train_until_it_fails,
)
from torch import nn
from torch.utils.data import TensorDataset

import cnnlab
from cnnlab import check, clinic, diagnose, diagrams, emergency
from cnnlab import plots, schedules, widgets
from cnnlab.callbacks import GradNormLog, UpdateRatioLog
from cnnlab.experiment import (
    Claim,
    Declaration,
    Results,
    compare_declared,
    fresh_data,
)

lab = cnnlab.setup(seed=0)


@lru_cache
def signs(seed):
    """Draw 480 training signs and 480 for validation."""
    return cnnlab.load(
        "pocket", seed=seed, n_train=480, n_valid=480, n_test=96
    )


# %% [markdown]
# ## 7.1 The order in which to look
#
# A broken run usually has several symptoms, and most of them are consequences. Pixels from 0 to 255 make the first loss
# huge, which makes the gradients huge, which makes the curves wild. If you begin with the curves, you'll blame the
# learning rate. So go from cause to effect: **the data, the fresh network, the first steps, the curves, the
# evaluation**. At the first "no", stop, change one thing, and start again.

# %%
diagrams.debugging()

# %% [markdown]
# Many of these boxes come from Andrej Karpathy's *A recipe for training neural networks*
# ([2019](https://karpathy.github.io/2019/04/25/recipe/)), which is worth reading in full. Here are its steps, and where
# the course treats them:
#
# | Karpathy's step | where |
# |---|---|
# | become one with the data: look at hundreds of examples | chapter 13; 7.2 shows one batch |
# | fix the seed, simplify | chapter 1 |
# | initialise the last layer well | 7.2 |
# | a human baseline: label a hundred images yourself | 7.6 needs that number |
# | an input-independent baseline; overfit one batch | 7.3 |
# | look at the data just before they enter the network | 7.2 |
# | watch the predictions for one fixed batch while training | below |
# | use the backward pass to chart dependencies | 7.4 |
# | write a special case first, then the general one | "In plain PyTorch" |
# | then overfit, regularise, tune | chapters 2 to 4, 8 |
#
# While you train, watch the predictions for one fixed batch: they should settle. If they still jump after many epochs,
# the learning rate is probably too high. If the same few images stay wrong, look at their labels.
#
# ## 7.2 Before the first step
#
# **What does the network receive?** Look at a batch *as it enters the network*, after every transform, with its labels.
# Our networks take pixels between 0 and 1 and normalise them in their first layer, so the first convolution should get
# a mean near 0 and a standard deviation near 1. Do the labels fit the images? Here's the first batch of a healthy run
# from `cnnlab.clinic`, which trains small networks on six easy classes of signs, with or without a planted fault.

# %%
well = clinic.healthy(seed=0)
images, labels = well.batch
entering = well.fresh.normalize(images)
print(f"pixels from {images.min():.2f} to {images.max():.2f}")
print(f"first convolution: mean {entering.mean():.2f}, ", end="")
print(f"standard deviation {entering.std():.2f}")
well.pictures()

# %% [markdown]
# **Is the first loss near $\log K$?** You know this check from chapter 1. Here $K = 6$, so we expect 1.79. In practice
# it's usually a little higher. A He-initialised last layer gives random logits, and logits with a variance of
# $\sigma^2$ raise the expected loss by roughly $\sigma^2/2$, because the largest logits dominate the sum in the
# softmax. The thirty healthy networks of the study in 7.5 start anywhere between 1.66 and 2.48. With that much slack
# the check only catches gross errors, such as pixels from 0 to 255, which give first losses between 340 and 2,300. The
# library raises an alarm at twice $\log K$.
#
# You can make the check sharp. Start the last layer with weights of zero (or very small ones), and the first loss is
# *exactly* $\log K$, so any deviation is a bug. Is that safe? And why not start *all* weights at zero? In the next
# cell, `diagnose.initial_loss` returns the first loss and $\log K$, and `diagnose.grad_norms` the norm of each weight
# tensor's gradient.


# %%
def first_look(model):
    """Return the first loss, and two counts of weights with a gradient.

    The first count is made before the first step, and the second after it.
    """
    loss, _ = diagnose.initial_loss(model, [well.batch], F.cross_entropy)
    model = copy.deepcopy(model).train()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    counts = []
    for _ in range(2):
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        norms = diagnose.grad_norms(model).values()
        counts.append(sum(norm > 0 for norm in norms))
        optimizer.step()
    return loss, *counts


zero_head, all_zero = copy.deepcopy(well.fresh), copy.deepcopy(well.fresh)
with torch.no_grad():
    zero_head.head.linear.weight.zero_()
    for parameter in all_zero.parameters():
        parameter.zero_()
n_tensors = len(list(well.fresh.parameters()))
pd.DataFrame(
    [first_look(well.fresh), first_look(zero_head), first_look(all_zero)],
    ["He initialisation", "last layer zero", "everything zero"],
    [
        "first loss",
        f"tensors with a gradient, of {n_tensors}",
        "after one step",
    ],
).round(2)

# %% [markdown]
# With a last layer of zeros, no gradient gets past it in the first step. After that step its weights aren't zero any
# more, so every weight learns. With *everything* zero, the first loss is just as perfect, but only the bias of the last
# layer ever learns: the features are zero, so the last weights get no gradient, and because those weights are zero, the
# layers below get none either. Such a network can learn how frequent the classes are, and no more. That's why you need
# both checks, the loss *and* a gradient for every weight that should learn.
#
# ### Exercise 1: `starting_bias` (easy, 10 minutes)
#
# In many data sets the classes aren't equally frequent. A network that knows nothing but the frequencies has a lower
# loss than $\log K$, and you can start there instead of spending the first hundred steps on it. The weights of the last
# layer are zero, so its bias alone determines the logits of every image.
#
# Return the bias, a tensor of length `num_classes`, for which the softmax gives each class its frequency among the
# `labels` (a tensor of class indices; every class occurs).
#
# <details>
# <summary><b>Hint: my probabilities are almost equal</b></summary>
#
# A softmax begins with an exponential. What should the exponent be?
#
# </details>
#
# <details>
# <summary><b>Hint: counting</b></summary>
#
# `torch.bincount` counts the labels of each class, in the order of the classes.
#
# </details>


# %% tags=["exercise"]
def starting_bias(labels, num_classes):
    """Return the bias that makes the last layer predict the frequencies."""
    raise NotImplementedError


# %% tags=["check"]
check.starting_bias(starting_bias)


# %% tags=["solution", "hide-cell"]
# Solution
def starting_bias(labels, num_classes):
    """Return the bias that makes the last layer predict the frequencies."""
    counts = torch.bincount(labels, minlength=num_classes)
    return (counts / counts.sum()).log()


check.starting_bias(starting_bias)

# %% [markdown]
# ## 7.3 Ten images, and no images at all
#
# **Memorise ten images.** In chapter 1 you trained on the same ten images again and again. Any sensible network drives
# the loss to almost zero within a hundred steps. If yours can't, suspect a bug before you touch a hyperparameter. (A
# learning rate that is far too small or strong dropout can also make a sound network fail, so switch off the dropout
# and use Adam, as `diagnose.overfit_one_batch` does.)
#
# ### Predict
#
# Now shuffle the labels of the ten images, so that each image gets another image's label. Can the network still
# memorise them? Decide before you read the next cell, because a claim that's declared there says what *we* expect. (It
# takes about 4 seconds.)

# %% tags=["predict"]
my_shuffled_labels = ...  # "yes" or "no"


# %% tags=["experiment"]
def losses_on_ten(seed, shuffled):
    """Return the loss at each of forty steps on the same ten images."""
    train_set = signs(seed).train
    model = seeded_resnet(seed, width=8)
    some = torch.randperm(len(train_set))[:10]
    ten_labels = train_set.labels[some]
    if shuffled:
        ten_labels = ten_labels[torch.randperm(10)]
    batch = train_set.pixels(some) / 255, ten_labels
    return diagnose.overfit_one_batch(
        model, batch, F.cross_entropy, steps=40, lr=0.02
    )


def correct_labels(seed):
    return losses_on_ten(seed, shuffled=False)[-1]


def shuffled_labels(seed):
    return losses_on_ten(seed, shuffled=True)[-1]


ten_images = compare_declared(
    Declaration(
        "Does a network memorise ten images with shuffled labels, too?",
        claims=[Claim("correct labels", "~", "shuffled labels", by=0.05)],
        unit=fresh_data(),
        fixed="ten images per seed, the network, 40 steps",
    ),
    {"correct labels": correct_labels, "shuffled labels": shuffled_labels},
    seeds=5,
    metric="final loss",
)
print(ten_images.claim("correct labels", "~", "shuffled labels", by=0.05))
plots.lines(
    range(41),
    {
        "correct labels": losses_on_ten(0, shuffled=False),
        "shuffled labels": losses_on_ten(0, shuffled=True),
    },
    xlabel="step",
    ylabel="loss on the ten images",
    log="y",
    message="A network memorises ten images with shuffled labels, too.",
)

# %% tags=["check"]
final_loss = ten_images.values("shuffled labels").mean()
check.prediction(
    "Does the network memorise shuffled labels?",
    my_shuffled_labels,
    "yes" if final_loss < 0.1 else "no",
    options=["yes", "no"],
)

# %% [markdown]
# It does. A network with more weights than images can memorise any labels, even those of a whole data set ([Zhang et
# al. 2017](https://arxiv.org/abs/1611.03530)), unless two identical images have different labels. So the check shows
# that gradients arrive and that the loss can fall. It can't show that your labels belong to your images.
#
# For that you need the **input-independent baseline**. Train once more with every image replaced by a blank one. All
# that such a network can learn is how frequent the classes are. The real run has to be clearly better. If it isn't,
# your network makes no use of its input.
#
# ### Predict
#
# After four epochs, the training loss with real images is about 1. What is it with blank images, if all twelve classes
# are equally frequent? (The next cell takes about 7 seconds.)

# %% tags=["predict"]
my_blank_loss = ...  # a number


# %% tags=["experiment"]
def train_with(seed, pixels):
    """Train for four epochs on other pixels than those of the images."""
    train_set = TensorDataset(pixels / 255, signs(seed).train.labels)
    model = seeded_resnet(seed, width=8)
    trainer = train(
        model, sgd(model, 0.05), train_set, batch_size=32, epochs=4, seed=seed
    )
    correct = correct_predictions(trainer, signs(seed).valid)
    return {
        "valid_acc": correct.float().mean().item(),
        "train_loss": trainer.history.epochs[-1]["train_loss"],
    }


def real_images(seed):
    return train_with(seed, signs(seed).train.images)


def blank_images(seed):
    return train_with(seed, torch.zeros_like(signs(seed).train.images))


def images_in_another_order(seed):
    pixels = signs(seed).train.images
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(pixels), generator=generator)
    return train_with(seed, pixels[order])


REAL, BLANK, MIXED = "real images", "blank images", "images in another order"
baseline = compare_declared(
    Declaration(
        "Does the network use its input?",
        claims=[
            Claim(REAL, ">", BLANK, by=0.3),
            Claim(REAL, ">", MIXED, by=0.3),
        ],
        unit=fresh_data(),
        fixed="480 signs, SGD with a learning rate of 0.05, four epochs",
    ),
    {
        REAL: real_images,
        BLANK: blank_images,
        MIXED: images_in_another_order,
    },
    seeds=range(10, 15),  # fresh: trial runs had 0 to 4
    metric="valid_acc",
)
losses = baseline.on("train_loss")
print(baseline.claim(REAL, ">", BLANK, by=0.3))
print(baseline.claim(REAL, ">", MIXED, by=0.3))
print("other order - blank, accuracy:", baseline.difference(MIXED, BLANK))
print("other order - blank, training loss:", losses.difference(MIXED, BLANK))
baseline.plot(
    message="Only images with their own labels bring the accuracy above "
    "chance.",
)

# %% tags=["check"]
check.prediction(
    "What is the training loss with blank images?",
    my_blank_loss,
    losses.values(BLANK).mean(),
    within=0.2,
)

# %% [markdown]
# Blank images leave the training loss at about $\log 12 = 2.48$ and the validation accuracy at one in twelve. The third
# run does no better on new images. Its images were permuted and its labels weren't, as happens when a transform touches
# only one of the two. It would pass the test with ten images, and it fails this one.
#
# Make the comparison with *validation* accuracies. Why not with training losses?
#
# <details>
# <summary><b>Answer</b></summary>
#
# The permuted run's training loss is 0.30 below the blank one's, because a network memorises some labels even in four
# epochs.
#
# </details>
#
# The baseline can't reveal a fault that makes a run look better than it is, such as a leak of validation images into
# the training set.
#
# *How this was measured.* The metric and the claims were chosen after a trial with the seeds 0 to 4. So the comparison
# above ran on fresh seeds, 10 to 14.
#
# ## 7.4 Which inputs does an output depend on?
#
# The output for image 2 should depend on image 2 and on nothing else in the batch. A wrong dimension can break this
# silently. Here is a layer that scales each channel by a factor between 0 and 1, computed from the means of all
# channels of the image (a simplified squeeze-and-excitation block, [Hu et al. 2018](https://arxiv.org/abs/1709.01507)).
# By mistake it averages over dimensions 0, 2 and 3, as batch norm does, instead of 2 and 3. Thanks to broadcasting, it
# still runs without an error.
#
# The curves don't show such a bug, but the backward pass does: if an output doesn't depend on an image, its gradient
# with respect to that image is exactly zero. The **Jacobian** holds the derivative of each output with respect to each
# input.


# %%
class ChannelGate(nn.Module):
    """Scale each channel by a factor computed from the channels' means."""

    def __init__(self, channels, dims):
        super().__init__()
        self.linear = nn.Linear(channels, channels)
        self.dims = dims  # to average over; (2, 3) is correct

    def forward(self, x):  # (N, C, H, W)
        context = x.mean(dim=self.dims)
        return x * self.linear(context).sigmoid()[..., None, None]


def gated_network(dims):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=4),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        ChannelGate(8, dims),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 6),
    )


def influence(model, some_images):
    """Return how much each output (rows) depends on each image (columns).

    Absolute values are added, because derivatives could cancel in a sum.
    """
    jacobian = torch.autograd.functional.jacobian(model, some_images)
    # (N, K, N, C, H, W): for each output and each of its K logits, the
    # derivatives by all N images. Sum over everything but the two N.
    return jacobian.abs().sum(dim=(1, 3, 4, 5))


def depends_on_others(table):
    return bool((table - table.diag().diag()).any())


four = images[:4]
correct = influence(gated_network((2, 3)).eval(), four)
training = influence(gated_network((2, 3)).train(), four)
wrong = influence(gated_network((0, 2, 3)).eval(), four)
print("depends on other images of the batch?")
print("correct gate, evaluation mode:", depends_on_others(correct))
print("correct gate, training mode:  ", depends_on_others(training))
print("wrong gate, evaluation mode:  ", depends_on_others(wrong))
plots.heatmap(
    wrong,
    [f"output {i}" for i in range(4)],
    [f"image {i}" for i in range(4)],
    label="sum of absolute derivatives",
    message="With the wrong gate, every output depends on every image.",
)

# %% [markdown]
# Even the correct network fails this check in training mode, because batch norm normalises each image with the
# statistics of the whole batch (chapter 2). So run it in evaluation mode. The same trick finds other bugs: a text model
# whose output for word 5 depends on word 6, a video model that sees the future, or an input that isn't used at all.
#
# A gradient of zero is weaker evidence than one that isn't. Behind an inactive ReLU or a `detach()`, an output can
# depend on an image although the gradient is zero. To be sure, change one image and compare the outputs.
#
# ### Exercise 2: `reads_from` (medium, 15 minutes)
#
# Return the sorted list of the indices of all `images` (N, ...) that influence the logits (K,) of image `i` in
# evaluation mode. Leave the model and the images exactly as you got them: the same mode, the same statistics, and no
# new gradients. You may build on `influence` above, but it only takes images of four dimensions, and you should know
# what its `abs()` is for. (Count a dependence as soon as any single derivative isn't zero.)
#
# <details>
# <summary><b>Hint: the sum of the logits</b></summary>
#
# Imagine two logits, $x$ and $-x$. What is the derivative of their sum? Treat each logit on its own, or use
# `torch.autograd.functional.jacobian`.
#
# </details>
#
# <details>
# <summary><b>Hint: something has changed after my call</b></summary>
#
# `backward()` writes into the model's parameters, and `requires_grad_()` into the images. `torch.autograd.grad` and a
# `detach().clone()` don't. Which mode was the model in, and were all its layers in the same one?
#
# </details>


# %% tags=["exercise"]
def reads_from(model, images, i):
    """Return the indices of the images on which output i depends."""
    raise NotImplementedError


# %% tags=["check"]
check.reads_from(reads_from)


# %% tags=["solution", "hide-cell"]
# Solution
def reads_from(model, images, i):
    """Return the indices of the images on which output i depends."""
    frozen = copy.deepcopy(model).eval()
    inputs = images.detach().clone().requires_grad_()
    found = set()
    for logit in frozen(inputs)[i]:
        (gradient,) = torch.autograd.grad(
            logit, inputs, retain_graph=True, allow_unused=True
        )
        if gradient is not None:
            used = gradient.flatten(1).abs().sum(dim=1) > 0
            found |= set(used.nonzero().flatten().tolist())
    return sorted(found)


check.reads_from(reads_from)

# %% [markdown]
# ## 7.5 The first steps
#
# Now train. If the loss doesn't fall, ask how far a step moves the weights. The **update-to-weight ratio** of a weight
# tensor is
#
# $$ r = \frac{\lVert w_{\text{after}} - w_{\text{before}} \rVert}{\lVert w_{\text{before}} \rVert}, $$
#
# and a rule of thumb says that about $10^{-3}$ per step is healthy ([Karpathy,
# CS231n](https://cs231n.github.io/neural-networks-3/)). Work one out by hand: the weight $(3, 4)$ moves by
# $(0.03, 0.04)$. The step has length 0.05 and the weight length 5, so $r = 10^{-2}$.
#
# Two callbacks measure this at every step. `UpdateRatioLog` adds the median over all weights to the history, as a
# base-10 logarithm, and `GradNormLog` adds the norm of the gradient of all weights, taken as one long vector.


# %% tags=["experiment"]
def watched(lr):
    """Train for five epochs; return the history with both logs."""
    model = seeded_resnet(0, len(well.classes), width=8)
    trainer = train(
        model,
        sgd(model, lr),
        well.train,
        batch_size=32,
        epochs=5,
        seed=0,
        callbacks=[GradNormLog(), UpdateRatioLog()],
    )
    return trainer.history.frame()


runs = {f"learning rate {lr:g}": watched(lr) for lr in (1e-5, 0.05, 10)}
columns = ["train_loss", "grad_norm_mean", "log10_update_ratio"]
first_epoch = {name: run[columns].iloc[0] for name, run in runs.items()}
print(pd.DataFrame(first_epoch).T.round(2))
plots.lines(
    range(1, 6),
    {name: run["log10_update_ratio"].tolist() for name, run in runs.items()},
    xlabel="finished epochs",
    ylabel="log10 of the update-to-weight ratio",
    message="In the first epoch, the update ratio tells a learning rate "
    "that is too low from one that is too high.",
)

# %% [markdown]
# The first and the last run both fail, but their *mean* gradient norms, 1.6 and 6.6, differ by only a factor of four.
# The update ratio separates them by five powers of ten. Read it in the first epoch, though: a few epochs later the last
# run's ratio is no larger than the healthy one's. The largest norm of a single step would have told you too. In the
# study below it's at most 1.3 if the learning rate is too low, and at least 8.7 if it's too high. But you only know
# that 8.7 is large once you've seen healthy runs, whose peaks lie between 2 and 6.
#
# The healthy run lies *above* $10^{-3}$. One reason is batch norm: the scale of a weight in front of a batch-norm layer
# doesn't change the output, so a young network tolerates large steps (chapter 2). So where should an alarm go? Not at a
# number from a lecture. Collect the ratios of many healthy and many broken runs, and look for the values that separate
# them. The stored study `studies/07_vitals.py` did this for thirty healthy runs and thirty runs of each of twelve
# faults, each with its own classes, images, learning rate and severity. The limits in the figure, $10^{-4.2}$ and
# $10^{-1.2}$, had been chosen earlier, on other runs.

# %% tags=["claim"]
vitals_study = Results.load("studies/07_vitals.csv")
by_ratio = vitals_study.on("log10_update_ratio")
print(by_ratio.claim("rate too high", ">", "healthy", by=0.5))
print(by_ratio.claim("healthy", ">", "rate too low", by=1.0))
vital_runs = vitals_study.frame().set_index("variant")
ratio_of = vital_runs["log10_update_ratio"]
plots.histogram(
    {
        "healthy": ratio_of["healthy"],
        "learning rate too high": ratio_of["rate too high"],
        "learning rate too low": ratio_of["rate too low"],
        "exploding gradients": ratio_of["exploding gradients"].dropna(),
    },
    label="log10 of the update-to-weight ratio, first epoch",
    limits=[-4.2, -1.2],
    bins=50,
    message="Both limits lie in wide gaps between healthy runs and runs "
    "with a bad learning rate.",
)

# %% [markdown]
# No healthy run comes near a limit. Their base-10 logarithms lie between −2.0 and −1.6. If the learning rate is too
# high, the values lie between −0.7 and −0.3, and if it's too low, below −4.9. Of the thirty runs with exploding
# gradients, only nine lasted long enough to have a ratio. With dead ReLUs only the bias of the last layer moves, so the
# median is 0 (logged as −12). The other faults stay within both limits.
#
# Two warnings. First, how low is the rate of false alarms if thirty healthy runs raise none?
#
# <details>
# <summary><b>Answer</b></summary>
#
# Probably below one in ten: at that rate, thirty runs would all stay quiet with a probability of only $0.9^{30} =
# 0.04$.
#
# </details>
#
# Second, these faults are gross. The high learning rates are more than 25 times the highest healthy one, so one that is
# three times too high would probably fall into the gap and raise no alarm. And the limits belong to small networks with
# SGD. Make this histogram for your own runs; ten healthy ones are a good start.
#
# ## 7.6 Reading learning curves
#
# Once single steps look healthy, turn to the shape of the whole curve. Six shapes are worth knowing by name. These are
# real runs of sixteen epochs with one seed (about 12 seconds), so they're noisy, as yours will be. We produced each on
# purpose: with weights scaled by 0.3, a large weight decay, a learning rate cut to a hundredth after three epochs, a
# learning rate of 0.003, 40 % wrong labels, and a network one channel wide.


# %% tags=["experiment"]
def curves_of(
    model, lr, *, weight_decay=0.0, wrong_labels=0.0, schedule=None
):
    """Train for sixteen epochs; return the losses of each epoch."""
    trainer = train(
        model,
        sgd(model, lr, weight_decay),
        cnnlab.data.label_noise(signs(0).train, wrong_labels, seed=0),
        batch_size=32,
        epochs=16,
        seed=0,
        schedule=schedule,
        valid=cnnlab.loader(signs(0).valid, 256),
    )
    return trainer.history.frame()


def weak_network():
    """Return a network without norm layers whose weights are too small."""
    model = seeded_resnet(0, width=8, depth=3, norm="none")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter *= 0.3 if parameter.ndim == 4 else 1
    return model


def drops_after_three_epochs(steps):
    return schedules.multistep([3 * steps // 16], gamma=0.01)


def resnet(width=8):
    return seeded_resnet(0, width=width)


six = {
    "flat, then a drop": curves_of(weak_network(), 0.05),
    "plateau": curves_of(resnet(), 0.1, weight_decay=0.02),
    "decayed too early": curves_of(
        resnet(), 0.1, schedule=drops_after_three_epochs
    ),
    "still improving": curves_of(resnet(), 0.003),
    "overfitting": curves_of(resnet(), 0.05, wrong_labels=0.4),
    "underfitting": curves_of(resnet(width=1), 0.1),
}
plots.lines(
    range(1, 17),
    {
        name: {
            "training": run["train_loss"],
            "validation": run["valid_loss"],
        }
        for name, run in six.items()
    },
    xlabel="finished epochs",
    ylabel="loss",
    message="Six shapes of the loss, and each suggests something different "
    "to try.",
)

# %% [markdown]
# | shape | what it often is | what to try |
# |---|---|---|
# | flat, then a drop | a poor initialisation without norm layers | He initialisation, batch norm; if it stays flat, a larger learning rate |
# | plateau | steps too large to get lower, too little capacity, or, as here, too much weight decay | a lower learning rate (chapter 5), less weight decay, a larger network |
# | decayed too early | the learning rate fell while the loss was still falling fast | decay later, or once the validation loss stalls |
# | still improving | too short a run, or too low a learning rate | more epochs, or a larger learning rate |
# | overfitting | the network memorises: training falls, validation turns up | more data, augmentation, mixing, weight decay, dropout, early stopping |
# | underfitting | both curves level off together, too high | a larger network, less regularisation |
#
# Underfitting and "still improving" look alike: both curves fall together. Extend the run. If the loss keeps falling,
# it was too short; if both curves level off at a high loss, the network underfits. Sixteen epochs can't tell you which.
# We know that our last panel underfits because its network is one channel wide.
#
# Textbooks often draw underfitting as two *flat* lines. But a loss that stays at $\log K$ isn't underfitting. That
# network doesn't train at all, and a larger one won't either, so go back to 7.2.
#
# `diagnose.diagnose` reads a history and names its shape, again by thresholds. How many of the six does it get right?

# %%
for name, run in six.items():
    findings = diagnose.diagnose(run, n_classes=12)
    found = ", ".join(finding.name for finding in findings) or "nothing"
    accuracies = run[["train_acc", "valid_acc"]].iloc[-1].round(2).tolist()
    print(f"{name:18} accuracies {accuracies}, diagnose finds: {found}")

# %% [markdown]
# Three: "flat, then a drop", the plateau and overfitting. It calls the run that decayed too early a plateau, finds
# nothing in the fourth and the sixth, and adds "overfitting" to the plateau, whose validation loss is noisy. Thresholds
# that leave healthy runs alone will miss mild cases, so trust your eyes here.
#
# **How large is each problem?** Suppose careful people mislabel 2 % of your images, and your network's error is 8 % on
# the training images (clean ones, in evaluation mode), 10 % on the validation set and 15 % on the test set. Then 6
# points are underfitting, 2 are overfitting, and 5 come from decisions fitted to the validation set, or from test
# images of another kind ([Ng 2018](https://www.mlyearning.org)). Work on the 6 first. A stronger regulariser would make
# them worse.
#
# ## 7.7 NaN and infinity
#
# One NaN in the loss, and after the next step nearly every weight is NaN. The question is where the *first* one came
# from: the **data** (a broken file), a **forward pass** that overflows (usually because the learning rate was too high
# some steps ago), the **loss** ($\log 0$), or a **gradient**, which can be infinite where the value is fine, such as
# that of $\sqrt{x}$ at 0.
#
# `torch.isfinite` checks a tensor, and `diagnose.nan_hunt` applies it to all four places in this order. Here is a
# healthy network first, then one fault of each kind.


# %%
def log_of_zero(logits, labels):
    """Compute a home-made cross-entropy of logits that are far too large."""
    probabilities = (1000 * logits).softmax(dim=1)
    return -probabilities[range(len(labels)), labels].log().mean()


def with_penalty(logits, labels):
    """Add a penalty on the logits' standard deviation to the loss."""
    deviation = logits.var(dim=1).sqrt()
    return F.cross_entropy(logits, labels) + 0.01 * deviation.mean()


broken_images = images.clone()
broken_images[3, 0, 5, 5] = float("nan")
overflowing = copy.deepcopy(well.fresh)
overflowing.blocks[1].norm2 = nn.Identity()  # it would hide the overflow
with torch.no_grad():
    overflowing.blocks[1].conv2.weight.mul_(1e38)

hunts = [
    (well.fresh, well.batch, F.cross_entropy),
    (well.fresh, (broken_images, labels), F.cross_entropy),
    (overflowing, well.batch, F.cross_entropy),
    (well.fresh, well.batch, log_of_zero),
    (zero_head, well.batch, with_penalty),  # last layer zero, from 7.2
]
for model, batch, loss_fn in hunts:
    finding = diagnose.nan_hunt(model, batch, loss_fn)
    print(finding.seen if finding else "everything is finite")

# Anomaly detection: the error names the step of the backward pass, and the
# line of the forward pass arrives in a warning.
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    with torch.autograd.detect_anomaly():
        network = copy.deepcopy(zero_head)
        try:
            with_penalty(network(images), labels).backward()
        except RuntimeError as error:
            print(error)
report = "\n".join(str(warning.message) for warning in caught)
blamed = [line.strip() for line in report.splitlines() if "sqrt" in line]
print("The report blames this line:", blamed[-1])

# %% [markdown]
# The last case is nasty, because every value in the forward pass is finite. With the zero last layer of 7.2, all logits
# are equal and their variance is 0. The slope of $\sqrt{v}$ at 0 is infinite, the slope of the variance is 0, and
# infinity times 0 is NaN. Compute $\sqrt{v + \varepsilon}$ instead. (To avoid $\log 0$, use `F.cross_entropy`, which
# works on the logits.)
#
# PyTorch's **anomaly detection** finds such a line for you. It raises an error at the first gradient that is NaN, and
# names its line of the forward pass. It's slow, so use it for one batch.
#
# During a run, `if not torch.isfinite(loss): raise ...` before the step is enough, and `Trainer` does it.
#
# ## 7.8 Exploding gradients, and clipping
#
# On its way back, a gradient is multiplied by the Jacobian of one layer after another. If the norms of these Jacobians
# exceed one, or if the loss has a steep wall, one step can be a thousand times longer than the others. [Pascanu et al.
# 2013](https://arxiv.org/abs/1211.5063) proposed capping its length. **Clipping by norm** takes the gradients of all
# weights as one long vector $g$ and replaces it by
#
# $$ g \cdot \min\!\left(1, \frac{c}{\lVert g \rVert}\right). $$
#
# **Clipping by value** cuts each entry to the range from $-c$ to $c$. The first keeps the direction. The second changes
# it; with a tiny $c$ only the signs are left. Here is an example with $c = 1$. Both work in place, between `backward()`
# and `step()`. The first returns the norm before clipping, which you need to choose $c$.

# %%
gradient = torch.tensor([4.0, 0.5])
weight = nn.Parameter(torch.zeros(2))

weight.grad = gradient.clone()
norm_before = nn.utils.clip_grad_norm_([weight], max_norm=1.0)
by_norm = weight.grad.clone()

weight.grad = gradient.clone()
nn.utils.clip_grad_value_([weight], clip_value=1.0)
by_value = weight.grad.clone()

print(f"norm before clipping: {norm_before:.2f}")
plots.arrows(
    {
        "gradient": gradient.tolist(),
        "clipped by norm": by_norm.tolist(),
        "clipped by value": by_value.tolist(),
    },
    limit=1,
    message="Clipping by norm keeps the direction; clipping by value doesn't.",
)

# %% [markdown]
# ### Predict
#
# We train a residual network *without* batch norm at a learning rate of 0.4. Within the first steps its accuracy falls
# to chance, one in twelve or 0.08. Now train the same network again, for the same six epochs, with `clip_norm=0.3`.
# What accuracy do you expect? For comparison, the same network *with* batch norm reaches 0.67 in a related study. (The
# next cell takes about 5 seconds. `train_until_it_fails` stops a run whose loss isn't finite and keeps the weights from
# before that step.)

# %% tags=["predict"]
my_accuracy_with_clipping = ...  # a number from 0 to 1


# %% tags=["experiment"]
# A run that fails may predict NaN, which counts as a guess.
warnings.filterwarnings("ignore", "the outputs for .* are NaN or infinite")


def accuracy_without_norm(seed, **clipping):
    """Train without batch norm; return the validation accuracy."""
    trainer = train_until_it_fails(
        signs(seed),
        seed,
        lr=0.4,
        norm="none",
        batch_size=32,
        epochs=6,
        **clipping,
    )
    correct = correct_predictions(trainer, signs(seed).valid)
    return correct.float().mean().item()


def without_clipping(seed):
    return accuracy_without_norm(seed)


def clipped_by_norm(seed):
    return accuracy_without_norm(seed, clip_norm=0.3)


clipped = compare_declared(
    Declaration(
        "Does clipping rescue a network without batch norm?",
        claims=[Claim("clip by norm", ">", "no clipping", by=0.2)],
        unit=fresh_data(),
        fixed="480 signs, SGD with a learning rate of 0.4, six epochs",
    ),
    {"clip by norm": clipped_by_norm, "no clipping": without_clipping},
    seeds=5,
    metric="valid_acc",
)
print(clipped.claim("clip by norm", ">", "no clipping", by=0.2))
clipped.plot(
    message="Clipping rescues a network without batch norm at a learning "
    "rate of 0.4."
)

# %% tags=["check"]
check.prediction(
    "Accuracy with clipping?",
    my_accuracy_with_clipping,
    clipped.values("clip by norm").mean(),
)

# %% [markdown]
# Clipping rescues the run. Is it the best rescue? A stored study, `studies/07_clipping.py`, compared five remedies with
# no remedy at all, with twice the images, larger batches and ten seeds. Clipping by norm, clipping by value, warm-up
# and a smaller learning rate each got the best of four settings, chosen on two other seeds. Batch norm had nothing to
# tune. The five claims were written after a smaller first study and before this one ran.

# %% tags=["claim"]
watching = train_until_it_fails(
    signs(0),
    0,
    lr=0.4,
    norm="none",
    batch_size=32,
    epochs=6,
    clip_norm=0.3,
    callbacks=[GradNormLog()],
)
step_norms = watching.history.steps["grad_norm"]
study = Results.load("studies/07_clipping.csv")
print(study.claim("clip by norm", ">", "no clipping", by=0.3))
print(study.claim("clip by norm", ">", "warm-up", by=0.3))
print(study.claim("batch norm", ">", "clip by norm", by=0.03))
print(study.claim("clip by norm", ">", "a smaller learning rate"))
print(study.verdict("clip by norm", ">", "clip by value"))
shortened = (step_norms > 0.3).mean()
print(f"live: a limit of 0.3 shortens {shortened:.0%} of the steps")
study.plot(
    label="validation accuracy",
    message="In this study, batch norm is ahead of both kinds of clipping, "
    "which do about equally well.",
)

# %% [markdown]
# Batch norm, where you can use it, is probably the better cure. Here it's 5.8 points (95 % CI 4.1 to 7.4) ahead of
# clipping by norm. When we repeated the study with new seeds (appendix G), its lead was 2.6 points (0.1 to 5.0), so the
# claim of a lead above three points didn't hold a second time. The direction is the same, but the first table probably
# overstated the size. Expect that of any result that you notice because it's large.
#
# Warm-up didn't help at all, probably because it only postpones the moment when the learning rate gets too high. A
# smaller learning rate works less reliably. It's 14 points behind on average (95 % CI 4 to 24), mostly because three of
# the ten runs ended below 0.4. It was chosen on two seeds only, so an even smaller one might have been safer.
#
# The fifth claim failed. Clipping by value came out one point *ahead* (95 % CI −1 to 3), so we can't tell the two kinds
# of clipping apart. An earlier study had put clipping by norm 17 points ahead, but its limit for the values was ten
# times as large. So it had compared two settings rather than two methods.
#
# What does clipping do here? In our live run it shortened *every* step, as the last printed line says. What does that
# make of SGD?
#
# <details>
# <summary><b>Answer</b></summary>
#
# Another optimizer, in which the gradient gives only the direction and $c$ acts as a second learning rate.
#
# </details>
#
# If you want a safety net against a few wild steps, log the norms first and choose a limit a little above the usual
# ones.
#
# **What would change it.** We didn't test recurrent networks or transformers, which are usually clipped at a norm of 1.
# And clipping doesn't remove a cause: if one broken image makes the gradient spike, find the image.
#
# ## 7.9 The clinic
#
# Now for patients. Each of the twelve runs below has a fault of its own, planted on purpose (about 10 seconds), and the
# cell prints what was done. Choose a fault and compare its curves with the healthy run's. Some faults are obvious, and
# some leave no trace.

# %% tags=["widget"]
PLANTED = {
    "rate too high": "a learning rate of 4 to 12",
    "rate too low": "a learning rate below 0.0001",
    "labels shuffled": "images permuted in each batch, labels not",
    "not normalised": "pixels from 0 to 255, no batch norm",
    "normalised twice": "pixels normalised before the network does it",
    "eval mode forgotten": "validated in training mode, in small batches",
    "dead ReLUs": "no batch norm, biases so low that no ReLU "
    "is ever positive",
    "leak": "copies of validation images in the training set",
    "frozen batch norm moves": "trained layers frozen for new images, but "
    "the running statistics of their batch norms change",
    "exploding gradients": "no batch norm, a high learning rate, no clipping",
    "class imbalance": "two classes have most of the images",
    "softmax before cross-entropy": "the network ends in a softmax",
}
assert set(PLANTED) == set(clinic.NAMES)
for name, what in PLANTED.items():
    print(f"{name:28} {what}")
examples = {name: clinic.example(name, seed=1) for name in clinic.NAMES}
widgets.sick_curves(
    {name: case.history.frame() for name, case in examples.items()},
    well.history.frame(),
)

# %% [markdown]
# Curves aren't all you have. A case has more to show:
#
# | what | how |
# |---|---|
# | curves by epoch, loss and gradient norm by step | `case.curves()`, `case.steps()`, `case.history` |
# | a batch with its labels, as the model received it | `case.pictures()`, `case.batch` |
# | gradients of the fresh model, layer by layer | `case.gradients()` |
# | which class was taken for which | `case.confusion()` |
# | the validation of this run, with another batch size | `case.measure(batch_size)` |
# | the data, the model before and after | `case.train`, `case.valid`, `case.fresh`, `case.model` |
# | all of it as numbers, with their meanings | `case.vitals()` |
#
# Here is one case, worked through. Its training loss doesn't fall. The pixels are fine, every layer has a gradient, and
# the steps have a healthy size, as the printed vital signs say. So look at what the network is actually being fed:

# %%
shuffled = examples["labels shuffled"]
signs_of_it = shuffled.vitals()
for sign in ("pixel_low", "pixel_high", "silent_share", "log10_update_ratio"):
    print(f"{sign:20} {signs_of_it[sign]:.2f}")
print(clinic.diagnose(shuffled, "labels shuffled"))
shuffled.pictures()

# %% [markdown]
# The labels don't belong to the images. Somewhere after the augmentation the images were permuted and the labels
# weren't.
#
# How far do the checks of this chapter get without you? The study of 7.5 applied all of them to its 390 runs. Each cell
# of the figure shows the fraction of thirty runs in which the checks of one stage found something wrong; the check with
# ten images has a column of its own. Each of the 360 broken runs had at least one finding, and only one of the thirty
# healthy runs raised a false alarm, because of its curves. But these twelve faults are the ones that the checks were
# built for. A bug that nobody has thought of may raise no alarm, so a clean report only means "none of the usual
# suspects".
#
# Two of the signs are new. The *label signal* is how well a simple linear classifier, fitted on half of the images,
# predicts the labels of the others. The *silent share* is the fraction of units that no gradient reaches.

# %% tags=["claim"]
print(
    vitals_study.on("ten_images_loss").claim(
        "labels shuffled", "~", "healthy", by=0.05
    )
)
print(
    vitals_study.on("label_signal").claim(
        "healthy", ">", "labels shuffled", by=0.2
    )
)
print(
    vitals_study.on("silent_share").claim(
        "dead ReLUs", ">", "healthy", by=0.5
    )
)
print(
    vitals_study.on("first_loss").claim(
        "not normalised", ">", "healthy", by=1.0
    )
)
STAGES = {
    "data": "data",
    "fresh network": "fresh_network",
    "ten images": "ten_images",
    "first steps": "first_steps",
    "curves": "curves",
    "evaluation": "evaluation",
}
noticed = vitals_study.frame().groupby("variant", sort=False)
fractions = noticed[list(STAGES.values())].mean()
plots.heatmap(
    fractions.round(2).to_numpy(),
    list(fractions.index),
    list(STAGES),
    label="fraction of runs with a finding",
    message="No stage finds every fault, but together they find all twelve.",
)

# %% [markdown]
# Read the columns. **Ten images**, the most famous check, finds dead ReLUs and a softmax at the end. It also flags most
# frozen backbones, but it would probably flag a correctly frozen one too, because only its new head can learn. It flags
# about an eighth of the runs without normalisation and is blind to the other eight faults. It even misses a learning
# rate that is far too high, because it brings its own optimizer. The **curves** react to many faults, so on their own
# they can't tell you which one you have. And a **leak** looks perfect until you compare the two data sets.
#
# ### Exercise 3: `diagnose_case` (medium, 15 minutes)
#
# Turn the order of 7.1 into a function. It gets some vital signs of a run as a dictionary, and returns one of `"not
# normalised"`, `"dead ReLUs"`, `"rate too high"`, `"rate too low"`, `"eval mode forgotten"`, `"class imbalance"`, or
# `"something else"`. The runs that the check draws keep clear of these limits:
#
# | sign | what it is | suspicious |
# |---|---|---|
# | `pixel_low`, `pixel_high` | smallest and largest pixel | none below 0, and the largest above 2 (bytes reach 255; normalised pixels also go below 0) |
# | `silent_share` | units that no gradient reaches | above 0.5 |
# | `log10_update_ratio` | median of the first epoch | above −1.2, below −4.2 |
# | `train_acc`, `valid_acc` | as recorded | |
# | `valid_acc_again` | evaluated again, in evaluation mode | more than 0.1 from `valid_acc`, up or down |
# | `worst_recall` | lowest recall of any class: the fraction of its images that is found | below 0.2, with a `valid_acc` above 0.6 |
#
# (In a run that died, a value can be NaN. Every comparison with NaN is False.)


# %% tags=["exercise"]
def diagnose_case(vitals):
    """Return the name of the fault that the vital signs point to."""
    raise NotImplementedError


# %% tags=["check"]
check.diagnose_case(diagnose_case)

# %% [markdown] tags=["hint"]
# <details>
# <summary><b>Hint: one fault is taken for another</b></summary>
#
# Several signs can be suspicious at the same time. Which of them can cause the others?
#
# </details>
#
# <details>
# <summary><b>Hint: a gap between training and validation</b></summary>
#
# Overfitting has one too. Which two values should be equal in any honest run?
#
# </details>


# %% tags=["solution", "hide-cell"]
# Solution
def diagnose_case(vitals):
    """Return the name of the fault that the vital signs point to."""
    if vitals["pixel_low"] >= 0 and vitals["pixel_high"] > 2:
        return "not normalised"
    if vitals["silent_share"] > 0.5:
        return "dead ReLUs"
    if vitals["log10_update_ratio"] > -1.2:
        return "rate too high"
    if vitals["log10_update_ratio"] < -4.2:
        return "rate too low"
    if abs(vitals["valid_acc"] - vitals["valid_acc_again"]) > 0.1:
        return "eval mode forgotten"
    if vitals["worst_recall"] < 0.2 and vitals["valid_acc"] > 0.6:
        return "class imbalance"
    return "something else"


check.diagnose_case(diagnose_case)

# %% [markdown]
# ### Exercise 4: four patients (hard, 20 minutes)
#
# Here are four runs (about 3 seconds), and you aren't told what was planted. Examine them in cells of your own, in the
# order of this chapter. `clinic.NAMES` lists the possible faults, and the cell above the widget describes them in
# words. Write your diagnoses in place of the dots; those you leave count as "no answer yet". For more patients, take
# another seed or the numbers 5 to 12.
#
# <details>
# <summary><b>Hint: the curves look healthy</b></summary>
#
# Then the fault is in the data, in what is frozen, or in how the run is evaluated. `case.vitals()` has a value for each.
#
# </details>
#
# <details>
# <summary><b>Hint: the training loss doesn't fall</b></summary>
#
# `case.gradients()`: is there a gradient? `case.history.frame()`: how large are the steps? `case.pictures()`: do the
# labels fit?
#
# </details>

# %% tags=["exercise"]
patients = {n: clinic.case(n, seed=7) for n in (1, 2, 3, 4)}
for patient in patients.values():
    print(patient)

my_diagnoses = {1: ..., 2: ..., 3: ..., 4: ...}

# %% tags=["check"]
for number, answer in my_diagnoses.items():
    print(clinic.diagnose(patients[number], answer))

# %% tags=["solution", "hide-cell"]
# Solution
solution = {
    1: "softmax before cross-entropy",
    2: "dead ReLUs",
    3: "frozen batch norm moves",
    4: "leak",
}
for number, answer in solution.items():
    verdict = clinic.diagnose(patients[number], answer)
    assert verdict.right
    print(verdict)

# %% [markdown]
# ## 7.10 The emergency room
#
# The clinic shows runs. At work, you get code. The emergency room holds 24 plain PyTorch scripts of at most fifty
# lines. Each of these **patients** runs, looks right, and has one silent bug. Each also has a **healthy twin**, the
# same script without the bug. Treat a patient in five steps:
#
# 1. `emergency.patient(n)` shows what its owner complains about. Some owners blame the wrong thing.
# 2. `emergency.admit(n)` writes its script into the folder `emergency` beside this notebook, as `patient_01.py` for
#    patient 1. A file that exists already stays as it is.
# 3. Open the file in an editor and read it. Run it with `%run emergency/patient_01.py` in a cell. The text at its top
#    says what `train` has to return. Then repair it.
# 4. `emergency.discharge(n, cause="...")` runs your file on seeds that you don't know, beside the healthy twin, and
#    says whether the patient can go home and whether you named the cause. Take the cause from the list
#    `emergency.CAUSES`; `emergency.ward()` counts wrong ones.
# 5. `emergency.twin(n)` shows the healthy twin once your repair works and you've named the cause (or two wrong ones).
#
# A discharge accepts every repair that works. It refuses those that only hide the symptom, such as more epochs, another
# learning rate or a prettier report.
#
# Here is what happens when the impatient owner of patient 1 just lowers the learning rate. (The cell works in a
# temporary folder.) You know the real cause from chapter 1. Look for it in `print(emergency.patient(1).script)`.

# %%
print(emergency.patient(1))
with tempfile.TemporaryDirectory() as folder:
    path = emergency.admit(1, folder)
    script = path.read_text()
    path.write_text(script.replace("lr=0.003", "lr=0.001"))
    print(emergency.discharge(1, "learning rate too high", folder))

wards = Results.load("studies/07_emergency.csv")
passed = wards.values("sick").mean()
print(f"unrepaired scripts that would be discharged: {passed:.0%}")
facts = wards.frame().groupby("variant").mean(numeric_only=True)
numbers = [n for n in range(1, 25) if f"{n:02} accuracy" in facts]
pd.DataFrame(
    {
        "sick, as reported": [
            facts.loc["sick", f"{n:02} reported"] for n in numbers
        ],
        "sick, true": [
            facts.loc["sick", f"{n:02} accuracy"] for n in numbers
        ],
        "healthy, true": [
            facts.loc["healthy", f"{n:02} accuracy"] for n in numbers
        ],
    },
    index=pd.Index(numbers, name="patient"),
).round(2)

# %% [markdown]
# The table comes from the study `studies/07_emergency.py`, which ran all 24 patients and their healthy twins on five
# seeds that no discharge uses. "Reported" is the accuracy that a script prints, and "true" is its accuracy on images
# that it never gets. A healthy script isn't always accurate, because some tasks are hard, so compare a patient with its
# twin and not with 1. (Patient 5 isn't in the table because it predicts a pressure: its error is 2.5 bar, and its
# twin's is 0.3.)
#
# Compare the columns. In what ways can a report be wrong?
#
# <details>
# <summary><b>Answer</b></summary>
#
# Most scripts report how bad they are, but their owners may blame the wrong thing. Others, such as patients 9 and 13,
# report an almost perfect accuracy that isn't true. And in a few, such as patients 15 and 18, the true accuracy is as
# good as the twin's, so only the report is wrong.
#
# </details>
#
# ### Exercise 5: your shift (open, 10 to 20 minutes per patient)
#
# `emergency.ward()` lists all patients and how far you are with each. Before you read a script line by line, write down
# which stage of 7.1 the complaint points to, and one check that would confirm it. When you've found a bug, predict what
# the repaired script will report, and only then run it and name the cause. If the effect of a repair surprises you, you
# haven't understood it yet.
#
# ## 7.11 In plain PyTorch
#
# Here are the two checks before the first step, and the training loop with clipping. `train_epoch` is chapter 5's
# function with one more argument, `max_norm`. `overfit_batch` really trains the model that you pass, so pass a copy,
# and set its dropout to 0.


# %% tags=["plain"]
def check_first_loss(model, loader, loss_fn, num_classes):
    """Return the loss of a fresh model on one batch, and log K."""
    images, targets = next(iter(loader))
    model = copy.deepcopy(model).train()  # no running statistics yet
    with torch.no_grad():
        loss = loss_fn(model(images), targets).item()
    return loss, math.log(num_classes)


def overfit_batch(model, batch, optimizer, loss_fn, steps):
    """Train on one batch again and again; return the loss at each step."""
    images, targets = batch
    model.train()
    losses = []
    for _ in range(steps):
        optimizer.zero_grad()
        loss = loss_fn(model(images), targets)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def train_epoch(
    model,
    loader,
    optimizer,
    loss_fn,
    device,
    scheduler=None,
    max_norm=None,
):
    """Train for one epoch; return the mean loss over the samples."""
    model.train()
    total, count = 0.0, 0
    for images, targets in loader:
        images = images.to(device, non_blocking=True)
        targets = targets.to(device, non_blocking=True)
        optimizer.zero_grad()
        loss = loss_fn(model(images), targets)
        loss.backward()
        if max_norm is not None:
            nn.utils.clip_grad_norm_(model.parameters(), max_norm)
        optimizer.step()
        if scheduler is not None:
            scheduler.step()
        total += loss.item() * len(images)
        count += len(images)
    return total / count


# %%
batches = cnnlab.loader(signs(0).train, 32, shuffle=True, seed=0)
fresh = seeded_resnet(0, width=8, norm="none")
first_batch = [next(iter(batches))]
plain_loss, log_k = check_first_loss(fresh, first_batch, F.cross_entropy, 12)
library = diagnose.initial_loss(fresh, first_batch, F.cross_entropy)
assert (plain_loss, log_k) == library
print(f"first loss {plain_loss:.2f}, log 12 = {log_k:.2f}")

ten = tuple(tensor[:10] for tensor in first_batch[0])
trained = copy.deepcopy(fresh)
adam = torch.optim.Adam(trained.parameters(), lr=0.01)
plain_losses = overfit_batch(trained, ten, adam, F.cross_entropy, steps=40)
same = diagnose.overfit_one_batch(fresh, ten, F.cross_entropy, steps=40)
assert plain_losses == same[:-1]
print(f"after forty steps on ten images: {plain_losses[-1]:.3f}")

plain, ours = copy.deepcopy(fresh), copy.deepcopy(fresh)
epoch = list(batches)
train_epoch(
    plain, epoch, sgd(plain, 0.05), F.cross_entropy, "cpu", max_norm=0.3
)
cpu_trainer(ours, sgd(ours, 0.05), 0, clip_norm=0.3).fit(epoch, epochs=1)
weights = ours.state_dict()
largest = max(
    (weight - weights[name]).abs().max().item()
    for name, weight in plain.state_dict().items()
)
assert largest < 1e-5
print("after an epoch with clipping, plain PyTorch and cnnlab agree")

# %% [markdown]
# The losses agree bit for bit. The clipped weights agree up to rounding, because `cnnlab` adds up the squares of the
# gradient in another order.
#
# ### Exercise 6: who checks the checks? (open, 30 minutes)
#
# These debugging helpers look like many that you'll find in public code. All of them run. Which lines would you change,
# and what does each bug make you believe?
#
# ```python
# def sanity_check(model, loader):
#     "Can the model overfit one batch? Then train for real."
#     optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
#     for step in range(100):
#         images, labels = next(iter(loader))        # shuffled, augmented
#         loss = F.cross_entropy(model(images), labels)
#         loss.backward()
#         optimizer.step()
#         optimizer.zero_grad()
#     return loss < 0.1
#
# def gradient_norm(model):
#     "Log this to choose the limit for clipping."
#     return sum(p.grad.norm().item() for p in model.parameters())
#
# def train_step(model, images, labels, optimizer):
#     before = {name: p for name, p in model.named_parameters()}
#     loss = F.cross_entropy(model(images), labels)
#     if loss == float("nan"):
#         raise ValueError("the loss is NaN")
#     optimizer.zero_grad()
#     loss.backward()
#     optimizer.step()
#     torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
#     ratios = {name: ((p - before[name]).norm() / before[name].norm()).item()
#               for name, p in model.named_parameters()}
#     return loss.item(), ratios
#
# torch.autograd.set_detect_anomaly(True)            # better safe than sorry
# ```
#
# | points | for |
# |---|---|
# | 5 | any five of the six or more bugs that make a check useless or wrong, each with the line and what you'd wrongly believe |
# | 2 | two more that slow the run down, or crash on a model with frozen layers |
# | 1 | a line that looks wrong and isn't, with the reason |
# | 2 | a test for one of the bugs that fails on this code and passes on yours |

# %%
# Your review: the lines, what each bug makes you believe, and your test.

# %% [markdown]
# ## Make it bigger
#
# Here are the checks on CIFAR-10, before an hour of training and not after it. The cell downloads 170 MB once and needs
# a GPU, so it only runs if the environment variable `CNNLAB_PROFILE` is `gpu`.

# %% tags=["bigger"]
if lab.profile == "gpu":
    photos = cnnlab.load("cifar10", download=True)
    model = cnnlab.small_resnet(10, width=32, depth=3).to(lab.device)
    batches = cnnlab.loader(photos.train, 128, shuffle=True)
    print(diagnose.check_data(photos.train))
    print(diagnose.initial_loss(model, batches, F.cross_entropy))
    small = next(iter(cnnlab.loader(photos.train, 10)))
    print(diagnose.overfit_one_batch(model, small, F.cross_entropy)[-1])
    trainer = cnnlab.Trainer(
        model,
        torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9),
        clip_norm=1.0,
        callbacks=[GradNormLog(), UpdateRatioLog()],
    )
    history = trainer.fit(
        batches, cnnlab.loader(photos.valid, 512), epochs=15
    )
    print(diagnose.diagnose(history))
else:
    print("left out: set CNNLAB_PROFILE=gpu to run it")

# %% tags=["hide-input"]
check.quiz(7)

# %% [markdown]
# ## Key points
#
# - Look in the order of cause and effect: data, fresh network, first steps, curves, evaluation. One change at a time, and
#   a confirming experiment before you believe a diagnosis.
# - Before the first step: a batch with its labels, the first loss, a gradient for every weight, ten images, and a run
#   with blank images. Each check is blind to something.
# - Gradients show what an output depends on. In evaluation mode, that should be its own image and nothing else.
# - If a loss stands still, the update ratio tells you whether the steps are too small or too large. Choose the limits
#   of alarms from histograms of your own healthy runs.
# - Overfitting: training falls, validation rises. Underfitting: both fall together and end too high. Flat at $\log K$ is
#   neither.
# - Log the gradient norm before you choose a limit for clipping. A limit far below it changes the optimizer.
#
# **Your recipe so far** gains three checks before each run, a guard against NaN, and, for networks without batch norm,
# clipping at a limit chosen from logged norms.
#
# ## Common mistakes
#
# | what you see | what it often is |
# |---|---|
# | the first loss is far above $\log K$ | pixels from 0 to 255, or initial weights that are too large |
# | the loss stays at $\log K$, gradients are zero | dead ReLUs, zero weights, everything frozen |
# | the loss stays near $\log K$, gradients fine, steps tiny | the learning rate is too low |
# | the loss stays near $\log K$, gradients and steps fine | labels that don't belong to the images |
# | the loss reaches millions, then NaN | too high a learning rate, no clipping, no normalisation |
# | NaN at a random step | one broken image, log(0), or a square root at 0 |
# | a high loss and a good accuracy | a softmax before the cross-entropy; label smoothing and mixing do it too |
# | training fine, validation at chance | no `model.eval()`, or other preprocessing in validation |
# | predictions change with the other images of the batch | training mode, or a wrong dimension in a mean or a view |
# | validation as good as training, disappointing in production | copies of validation images in the training set |
# | a good accuracy, one class never found | imbalance |
# | a frozen part no longer computes what it did | its batch norm still updates its statistics |
#
# ## References
#
# - R. Pascanu, T. Mikolov and Y. Bengio, *On the difficulty of training recurrent neural networks*, 2013, [arXiv:1211.5063](https://arxiv.org/abs/1211.5063)
# - A. Karpathy, *CS231n: neural networks part 3*, [cs231n.github.io](https://cs231n.github.io/neural-networks-3/)
# - C. Zhang, S. Bengio, M. Hardt, B. Recht and O. Vinyals, *Understanding deep learning requires rethinking generalization*, 2017, [arXiv:1611.03530](https://arxiv.org/abs/1611.03530)
# - J. Hu, L. Shen, S. Albanie, G. Sun and E. Wu, *Squeeze-and-excitation networks*, 2018, [arXiv:1709.01507](https://arxiv.org/abs/1709.01507)
# - A. Ng, *Machine learning yearning*, 2018, [mlyearning.org](https://www.mlyearning.org)
# - A. Karpathy, *A recipe for training neural networks*, 2019, [karpathy.github.io](https://karpathy.github.io/2019/04/25/recipe/)
# - T. Pärnamaa, *Using PyTorch + NumPy? You're making a mistake*, 2021, [tanelp.github.io](https://tanelp.github.io/posts/a-bug-that-plagues-thousands-of-open-source-ml-projects/)

# %% [markdown] tags=["instructor", "remove-cell"]
# ## When you are short of time
#
# Go straight to the clinic (7.9), two patients for each group, ten minutes; then the heatmap of 7.9, with the question
# which columns they had used. Keep exercise 2. Leave 7.6 to 7.8 for reading at home, and the emergency room for the week.
#
# ## A session of ninety minutes
#
# | minutes | what | sections | who |
# |---|---|---|---|
# | 10 | The order in which to look, on one broken run | 7.1, 7.2 | you |
# | 10 | Shuffled labels and blank images: two votes | 7.3 | the room |
# | 15 | Exercise 2 | 7.4 | everybody |
# | 10 | The update ratio, and limits from histograms | 7.5 | you, with the room |
# | 20 | The clinic: two patients for each pair | 7.9 | pairs |
# | 5 | The heatmap of the checks: which columns had you used? | 7.9 | you |
# | 10 | Patient 1 of the emergency room | 7.10 | everybody |
# | 10 | Questions for the room | | the room |
#
# ## Exercise 6, a model answer
#
# Six bugs make a check useless or wrong; any five get the points:
#
# - `next(iter(loader))` inside the loop draws a new batch at each step. You believe that the network can't overfit a
#   batch, but it never saw the same one twice.
# - `sanity_check` trains the model itself. The "fresh" model of the real run has already been trained with another
#   optimizer, and its batch norms have the statistics of a hundred batches. Use a deep copy.
# - `gradient_norm` adds up the norms of the tensors. The norm of the whole is the root of the sum of their squares, which
#   is much smaller, so a limit chosen from this log never clips.
# - `loss == float("nan")` is never true, because NaN equals nothing. Use `torch.isfinite`.
# - `clip_grad_norm_` stands after `optimizer.step()`, so it changes nothing. You believe that you clip.
# - `before` holds the live parameters, so every ratio is 0. You believe that the learning rate is too low. Use
#   `p.detach().clone()`.
#
# A seventh appears once `before` is a clone: a bias that starts at zero has a norm of 0, so its ratio is infinite or NaN.
#
# Two more: `set_detect_anomaly(True)` stays on and slows the whole run down, and `p.grad` is None for frozen layers, so
# `gradient_norm` crashes. (Dropout stays on during the overfitting, too.)
#
# Two lines look wrong and aren't, and either gets the point: `zero_grad` after the forward pass, and `zero_grad` at the
# end of the loop. It only has to come between one `step` and the next `backward`.
#
# ## Questions for the room
#
# - Which faults show in the loss curve, which only in the accuracy, and which in neither? (Shuffled labels, dead ReLUs
#   and too low a learning rate keep the training loss near log K. A forgotten evaluation mode leaves the training loss
#   at 0.08, and only the validation shows it, with 0.26 before and 0.98 after `eval()`. An imbalance needs the recall
#   of each class. A leak and a double normalisation show in neither: they look like a healthy run, so compare the
#   data.)
# - The check with ten images passes. What have you ruled out? (Dead ReLUs and a softmax at the end, because gradients
#   arrive and the loss can fall. It says nothing about labels, since ten wrong labels can be memorised too, nor about
#   leaks. It doesn't even test your learning rate, because it brings its own optimizer: it's blind to eight of the
#   twelve faults.)
# - Clipping rescues the run. Does it mend the cause? (No. A limit of 0.3 shortened every step of the live run, so it
#   turned SGD into another optimizer, while the network stayed as it was. Batch norm, which changes the network, was
#   ahead of it both times: by 5.8 points (4.1 to 7.4) in the study, and by 2.6 (0.1 to 5.0) when it was repeated with
#   new seeds. And if a broken image makes the spike, find the image.)
# - A colleague says that a run that trains must be correct. Which three counterexamples from the clinic do you give?
#   (The leak has a validation accuracy of 1.00, because it's evaluated on copies of training images. With the imbalance
#   it's 0.90, although one class is never found. And the frozen network whose batch norm moves reaches 0.97, while the
#   frozen part no longer computes what it did.)
# - One false alarm in thirty healthy runs: is that good? (It depends on how many healthy runs you start per broken one.
#   If one run in a hundred is broken, you get three or four alarms for each true one, and people stop reading them. The
#   rate itself is uncertain, too: thirty runs are compatible with anything up to about one in six.)
#
# ## Exam questions
#
# **Question 1.** A network with twelve classes doesn't learn: its training loss stays near 2.5, and the validation
# accuracy is 1/12. Name three faults with this symptom. Which two measurements tell them apart, and what does each
# fault show in them? Then describe an experiment that confirms your diagnosis.
#
# **Answer.** Dead ReLUs or a frozen network, too low a learning rate, and labels that don't belong to the images.
# Measure the gradients and the update-to-weight ratio. With dead ReLUs the gradients are zero, so there are no steps at
# all. With too low a learning rate there are gradients, but the steps are tiny, with a ratio far below a thousandth.
# With permuted labels both look healthy. To confirm the last one, look at a batch with its labels as it enters the
# network. Or train once with blank images: if the real images are no better on the validation set, they and their
# labels have nothing to do with each other. For the others, change the learning rate or the layer alone, and see
# whether the loss falls.
#
# **Question 2.** The gradient of a network with three weights is (3, −4, 12). What does clipping by norm make of it,
# with a limit of 1.3? And clipping by value, with the same limit? Which property does only one of them keep? Somebody
# sets the limit far below all norms that occur. Which optimizer does that make, and how should the limit have been
# chosen?
#
# **Answer.** The norm is √(9 + 16 + 144) = 13, so clipping by norm multiplies the vector by 0.1: (0.3, −0.4, 1.2).
# Clipping by value gives (1.3, −1.3, 1.3). Only the first keeps the direction. If every step is clipped, the gradient
# gives only the direction, and its length no longer matters: the limit acts as a second learning rate, and the steps
# don't get shorter near the minimum. It would have been better to log the norms of a healthy run first, and to choose a
# limit a little above the usual ones, so that only outliers are shortened.
