# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 1. The training loop
#
# Training a network takes about ten lines of code, and PyTorch won't tell you when one of them is missing. In this
# chapter you leave out a single line, in two settings. Both runs end without an error message, and their accuracies may
# surprise you. How do you notice such a bug, and how do you tell a real improvement from luck? By the end of the
# chapter you have a loop that you can trust, and a way to compare two networks fairly.
#
# **You will be able to** write a training loop and a fair evaluation from memory, run the two checks that catch many
# bugs before they cost you an hour, explain what each optimizer does with a gradient, and say what an accuracy with a
# confidence interval means.
#
# | | |
# |---|---|
# | to read | 40 minutes, with the code |
# | exercises | 75 minutes |
# | to run | 40 seconds on one core of a laptop, without internet access or a GPU |
# | you need | [chapter 0](00_first_network.ipynb): tensors, gradients, and a first classifier |

# %% tags=["setup"]
import copy
import inspect
import math

import pandas as pd
import torch
import torch.nn.functional as F

import cnnlab
from cnnlab import check, diagrams, plots
from cnnlab.experiment import Claim, Declaration, Results, compare_declared
from cnnlab.experiment import fresh_data

lab = cnnlab.setup(seed=0)

# %% [markdown]
# ## 1.1 Three splits
#
# Throughout the course you train on **PocketSigns**: twelve traffic signs of 32 × 32 pixels, rendered by a program that
# imitates a poor camera. The seed decides which images you get. `signs(0)` gives the same ones on every machine, and
# `signs(1)` gives a fresh sample of the same kind. Chapter 0 used 3,000 signs and eight epochs. From here on, it's about
# a thousand signs and six epochs, so that a run takes a few seconds, and the accuracy is lower.


# %%
def signs(seed):
    """Draw the images of a seed."""
    return cnnlab.load("pocket", seed=seed, n_train=1024, n_valid=960)


data = signs(0)
data.show(per_class=2)

# %% [markdown]
# The images come in three **splits**, and each answers a different question:
#
# - On the **training set** you fit the weights.
# - On the **validation set** you make decisions: which learning rate, how many epochs, which of two ideas.
# - You use the **test set** once, after the last decision. In PocketSigns, its signs have fonts and backgrounds that never
#   appear in the other two splits, just as the real world will differ from your training data.
#
# Why aren't two splits enough? Because you fit your *decisions* to the validation images, much as the optimizer fits the
# weights to the training images. After a hundred decisions, the best validation accuracy is partly luck, and only images
# that you have never used can tell you how much.
#
# ### Exercise 1: `split` (easy, 8 minutes)
#
# Your own data often come as a single pool of `n` images, sorted by class. Write a function that splits it. It returns
# three lists of indices: for training, for validation (`n_valid` of them) and for testing (`n_test` of them). Every image
# belongs to exactly one list, and `seed` alone decides which one.


# %% tags=["exercise"]
def split(n, n_valid, n_test, seed):
    """Return the indices of the training, validation and test sets."""
    raise NotImplementedError


# %% tags=["check"]
check.split(split)

# %% [markdown] tags=["hint"]
# <details>
# <summary><b>Hint: an index is in two lists, or in none</b></summary>
#
# Put all indices into one random order, then cut that order into three pieces.
#
# </details>
#
# <details>
# <summary><b>Hint: the same seed gives a different split each time</b></summary>
#
# `torch.randperm` takes a `generator`. Make one with `torch.Generator()`, and give it the seed.
#
# </details>


# %% tags=["solution", "hide-cell"]
# Solution
def split(n, n_valid, n_test, seed):
    """Return the indices of the training, validation and test sets."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(n, generator=generator).tolist()
    n_held = n_valid + n_test
    return order[n_held:], order[:n_valid], order[n_valid:n_held]


check.split(split)

# %% [markdown]
# **When a random split is wrong.** It's right only if the images are independent of each other. If one patient, one
# video or one object gives several images, a random split puts near copies into both sets, and the validation accuracy
# rewards memorisation. The German road signs of GTSRB ([Stallkamp et al.
# 2012](https://doi.org/10.1016/j.neunet.2012.02.016)) are such a case: their training images come in tracks of 30 that
# show the same sign, so split them by *track*, for example with scikit-learn's `GroupShuffleSplit`. If the model will
# meet the future, split by *time*. And if a class is rare, **stratify**: split each class on its own, so that every set
# gets its fraction. (Our signs are drawn one by one.)
#
# ## 1.2 From images to batches, in plain PyTorch
#
# `cnnlab` has a loader of its own, but first you should see what every PyTorch project uses. A **Dataset** answers two
# questions: how many samples are there, and what is sample number `i`? A **DataLoader** turns it into **batches**. It
# chooses the order, asks for the samples one by one, and stacks them. Finally, the **device** is where the arithmetic
# happens, and the model and every batch have to be moved to the same one.
#
# Two details matter later. The images stay `uint8`, which takes a quarter of the memory of floats, until one is
# requested. And a shuffled loader drops the last, incomplete batch, because batch norm needs several images (chapter
# 2). Shuffling means that different images are dropped in every epoch.

# %% tags=["plain"]
from torch.utils.data import DataLoader, Dataset


class ImageDataset(Dataset):
    """Images (N, 3, H, W) of uint8 and their labels, one pair at a time.

    A transform that returns floats has to bring them to 0..1 itself.
    """

    def __init__(self, images, labels, transform=None):
        self.images, self.labels = images, labels
        self.transform = transform

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        image = self.images[index]
        if self.transform is not None:
            image = self.transform(image)
        if image.dtype == torch.uint8:
            image = image / 255
        return image, self.labels[index]


def make_loader(dataset, batch_size, shuffle, seed, **options):
    """Return a DataLoader whose order depends only on the seed.

    For a GPU, add `pin_memory=True`, which makes the copies faster.
    """
    return DataLoader(
        dataset,
        batch_size,
        shuffle=shuffle,
        drop_last=shuffle,
        generator=torch.Generator().manual_seed(seed),
        **options,
    )


def pick_device():
    """Return the GPU, if CUDA finds one, or else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


# %%
def training_batches(seed):
    """Return a loader of the training images of a seed."""
    train_set = signs(seed).train
    dataset = ImageDataset(train_set.images, train_set.labels)
    return make_loader(dataset, batch_size=64, shuffle=True, seed=seed)


def a_batch():
    return next(iter(training_batches(seed=0)))


print("images", a_batch()[0].shape, a_batch()[0].dtype)
print("labels", a_batch()[1].shape, a_batch()[1].dtype)
print("batches per epoch:", len(training_batches(seed=0)))
print("the fastest device here:", pick_device())

# %% [markdown]
# When the images are files, `DataLoader(..., num_workers=4)` reads and decodes them in four processes while the model
# trains (chapter 12 measures it). Our images are in memory, so workers would only cost time.
#
# ## 1.3 What should the loss be before training?
#
# A network $f$ with weights $w$ maps an image $x$ to twelve scores, the **logits**, and its prediction is the class
# with the highest one. To train it we need one number that tells us how wrong it is on a batch of $N$ images. That
# number is the **loss**. We use the cross-entropy, which you can read as the network's average surprise at the correct
# label $y_i$:
#
# $$ L(w) = -\frac{1}{N} \sum_{i=1}^{N} \log p_{y_i}(x_i; w), \qquad p_k = \frac{e^{f_k}}{\sum_j e^{f_j}}. $$
#
# Here is the first of two checks that you should run before any training. A new network knows nothing about signs.
#
# ### Predict
#
# What loss does a new, untrained network have on a batch, if there are $K = 12$ classes? Write a number in place of the
# dots. (Everything below also runs without your prediction.)

# %% tags=["predict"]
my_first_loss = ...  # a number


# %% tags=["experiment"]
def first_logits(seed, scale=1.0):
    """Return the logits of a new network, and the labels of its batch.

    The weights of its last layer are multiplied by `scale`.
    """
    torch.manual_seed(seed)
    network = cnnlab.small_resnet(num_classes=12)
    images, labels = a_batch()
    with torch.no_grad():
        network.head.linear.weight *= scale
        return network(images), labels


def first_loss(seed, scale=1.0):
    return F.cross_entropy(*first_logits(seed, scale)).item()


new_networks = range(5)
average_first_loss = sum(first_loss(i) for i in new_networks) / 5
print(f"mean first loss of five new networks: {average_first_loss:.2f}")


def half_variance(seed, scale):
    """Return half the variance of the logits of an image, on average."""
    logits, _ = first_logits(seed, scale)
    return logits.var(dim=1).mean().item() / 2


# The last layer, with smaller or larger weights than usual.
scales = [0, 0.25, 0.5, 0.75, 1, 1.25, 1.5]
measured = [
    sum(first_loss(i, scale) for i in new_networks) / 5 for scale in scales
]
expected = [
    math.log(12) + sum(half_variance(i, scale) for i in new_networks) / 5
    for scale in scales
]
plots.lines(
    scales,
    {"measured": measured, "log 12 + half the variance": expected},
    xlabel="weights of the last layer, as a multiple of the usual ones",
    ylabel="first loss",
    message="Random scores cost more than equal scores.",
)

# %% tags=["check"]
check.prediction(
    "What is the first loss of a new network?",
    my_first_loss,
    average_first_loss,
    within=0.5,
)

# %% [markdown]
# A network that gives each of $K$ classes the probability $1/K$ has the loss $-\log(1/K) = \log K$, which is 2.48 for
# twelve classes. Ours starts somewhat higher. An untrained network isn't undecided: it has random preferences, and most
# of them are wrong. If the logits of an image vary with variance $\sigma^2$ and have nothing to do with its label, the
# loss is about $\log K + \sigma^2 / 2$. The dashed line shows that this is nearly the whole story.
#
# <details>
# <summary><b>Why half the variance?</b></summary>
#
# That's Jensen's inequality at work: the logarithm of a mean of exponentials is larger than the mean of the exponents.
# For exponents with a normal distribution, it's larger by half their variance.
#
# </details>
#
# So a good first loss is $\log K$ or a little more. If it's *much higher*, such as 15, the initial weights are far too
# large or, without batch norm, the images aren't scaled. If it's *lower*, the loss isn't the mean you think it is, or
# the "new" network isn't new. And if you start the last layer with small weights, the loss starts at almost exactly
# $\log K$, and no step is wasted on shrinking meaningless scores
# ([Karpathy 2019](https://karpathy.github.io/2019/04/25/recipe/)).
#
# ## 1.4 One step, and ten images
#
# The **gradient** $\nabla L$ tells us, for each weight, how the loss changes if that weight grows a little. A step of
# gradient descent moves every weight a little in the opposite direction, $w \leftarrow w - \eta \, \nabla L(w)$. The
# **learning rate** $\eta$ decides how far. A batch is only a random sample of the training set, so its gradient is a
# noisy estimate of the gradient over all images. Hence the name *stochastic* gradient descent, SGD
# ([Robbins & Monro 1951](https://doi.org/10.1214/aoms/1177729586);
# [Bottou et al. 2018](https://arxiv.org/abs/1606.04838) is a survey).


# %%
def one_step(seed):
    """Take one step on a batch; return the loss before and after it."""
    torch.manual_seed(seed)
    network = cnnlab.small_resnet(num_classes=12)
    sgd = torch.optim.SGD(network.parameters(), lr=0.01)
    images, labels = a_batch()

    sgd.zero_grad()  # forget the gradients of the last step
    loss = F.cross_entropy(network(images), labels)  # forward pass
    loss.backward()  # backward pass: a gradient for every weight
    sgd.step()  # move every weight against its gradient

    after = F.cross_entropy(network(images), labels)
    return loss.item(), after.item()


before_step, after_step = one_step(seed=0)
print(f"loss before the step {before_step:.3f}, after it {after_step:.3f}")
diagrams.learning_rates()

# %% [markdown]
# The second check before any training: **overfit ten images**. Take ten training images, repeat this step on them a hundred
# times, and the loss should go almost to zero. Ten images are easy to **memorise**, so if the network can't even do that,
# something is broken: the loss, the labels, the optimizer, or a layer that gets no gradient. The check takes a second, and
# it finds bugs that the first check misses.
#
# ### Predict
#
# Here is one. Many people end their network with a softmax, so that it returns probabilities, and then train it with
# `F.cross_entropy`, which expects logits and applies a softmax *itself*. Does the loss on ten images still go to zero
# (below 0.1) within a hundred steps?

# %% tags=["predict"]
my_softmax_reaches_zero = ...  # "yes" or "no"


# %% tags=["experiment"]
def overfit_ten(softmax_first, steps=100):
    """Return the loss at each of a hundred steps on the same ten images."""
    torch.manual_seed(0)
    network = cnnlab.small_resnet(num_classes=12)
    sgd = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9)
    images, labels = (part[:10] for part in a_batch())
    losses = []
    for _ in range(steps):
        sgd.zero_grad()
        scores = network(images)
        if softmax_first:
            scores = scores.softmax(dim=1)  # the bug
        loss = F.cross_entropy(scores, labels)
        loss.backward()
        sgd.step()
        losses.append(loss.item())
    return losses


healthy = overfit_ten(softmax_first=False)
two_softmaxes = overfit_ten(softmax_first=True)
plots.lines(
    range(1, 101),
    {"logits": healthy, "softmax, then cross-entropy": two_softmaxes},
    xlabel="step",
    ylabel="loss on the ten images",
    message=f"After 100 steps, the loss is {healthy[-1]:.2f} with logits "
    f"and {two_softmaxes[-1]:.2f} with a second softmax.",
)

# %% tags=["check"]
reached = "yes" if two_softmaxes[-1] < 0.1 else "no"
check.prediction(
    "Does the loss go to zero with two softmaxes?",
    my_softmax_reaches_zero,
    reached,
    options=["yes", "no"],
)

# %% [markdown]
# The first check was *passed*: the loss with two softmaxes starts at 2.46, almost exactly $\log 12$. But probabilities lie
# between 0 and 1, so even the most confident correct prediction looks like a hesitant one to the second softmax. The loss
# can't fall below $\log(e + 11) - 1 = 1.62$. In a long training run, you'd see a network that learns slowly, and blame the
# learning rate.
#
# Two habits make the check more reliable. Switch off regularisation and augmentation (chapters 2 and 3), and look at
# the ten images you feed in, with their labels.
#
# ## 1.5 Many steps
#
# An **epoch** is one pass over the training set, in a new random order each time. It's the step of 1.4 in a loop, so
# write it yourself.
#
# ### Exercise 2: `train_one_epoch` (easy, 10 minutes)
#
# The function makes one pass over the loader with one optimizer step per batch, and returns the mean loss *over the
# samples* as a number. First, it calls `model.train()`, because the model you receive may still be in evaluation mode.
# (Section 1.6 explains both modes.)


# %% tags=["exercise"]
def train_one_epoch(model, loader, optimizer, loss_fn):
    """Train for one epoch; return the mean loss over the samples."""
    raise NotImplementedError


# %% tags=["check"]
check.train_one_epoch(train_one_epoch)

# %% [markdown] tags=["hint"]
# <details>
# <summary><b>Hint: the loss is a little off</b></summary>
#
# The last batch may be shorter than the others. A mean of the batch means gives its samples too much weight.
#
# </details>
#
# <details>
# <summary><b>Hint: the weights don't move</b></summary>
#
# In which order do you clear, compute and use the gradients?
#
# </details>


# %% tags=["solution", "hide-cell"]
# Solution
def train_one_epoch(model, loader, optimizer, loss_fn):
    """Train for one epoch; return the mean loss over the samples."""
    model.train()
    total, count = 0.0, 0
    for images, labels in loader:
        optimizer.zero_grad()
        loss = loss_fn(model(images), labels)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(labels)
        count += len(labels)
    return total / count


check.train_one_epoch(train_one_epoch)

# %% [markdown]
# Here is a loop over several epochs, and a function that measures the accuracy of the result. `clear=False` leaves out
# one line, `zero_grad`. It looks like housekeeping. If you forget it, `backward()` *adds* the new gradient to all the
# earlier ones. Does that matter? The cell trains five networks with the line and five without it (about 20 seconds).


# %% tags=["experiment"]
def train_by_hand(seed, *, epochs=6, lr=0.1, momentum=0.9, clear=True):
    """Train a new network and return it; `clear=False` is a bug."""
    torch.manual_seed(seed)
    model = cnnlab.small_resnet(num_classes=12)
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum)
    batches = training_batches(seed)
    for _ in range(epochs):
        model.train()
        for images, labels in batches:
            if clear:
                optimizer.zero_grad()
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
    return model


def accuracy(model, images, *, batch_size=256, training=False):
    """Return the accuracy of a model, by default in evaluation mode."""
    model.train(training)
    with torch.no_grad():
        batches = cnnlab.loader(images, batch_size)
        logits = torch.cat([model(x) for x, _ in batches])
    return (logits.argmax(dim=1) == images.labels).float().mean().item()


trained = {seed: train_by_hand(seed) for seed in range(5)}


def with_zero_grad(seed):
    return accuracy(trained[seed], signs(seed).valid)


def without_zero_grad(seed):
    return accuracy(train_by_hand(seed, clear=False), signs(seed).valid)


forgotten = compare_declared(
    Declaration(
        "Does it matter if you forget zero_grad?",
        claims=[Claim("with zero_grad", ">", "without", by=0.2)],
        unit=fresh_data(),
    ),
    {"with zero_grad": with_zero_grad, "without": without_zero_grad},
    seeds=5,
    metric="valid_acc",
)
forgotten.plot(message="Without zero_grad, the same training fails.")

# %% [markdown]
# ### How to read such a result
#
# Each tick is one run with its own **seed**, which decides everything random: the images, the initial weights and the
# order of the batches. The bar shows the mean of five runs with its 95 % **confidence interval**, a range of plausible
# values for the mean over many more seeds. If you repeated the whole experiment a hundred times, about 95 of the
# intervals would contain that mean, and five would miss it. To compare two variants, we take the *difference* between
# them for each seed, so that whatever a seed does to both cancels out. The interval we report is then the confidence
# interval of these differences. ([Bouthillier et al. 2021](https://arxiv.org/abs/2103.03098) measured how much seeds
# matter in published benchmarks.)

# %% tags=["claim"]
print(forgotten.claim("with zero_grad", ">", "without", by=0.2))

# %% [markdown]
# There's a second way to fool yourself: look at twenty differences and report the one that luck made large. So the
# experiment says *before* its first run what it sets out to show. Such a claim is **declared**, and its result comes
# with a **p-value**, `p`: the probability of evidence at least this strong if the claim were only just false. Here,
# that would be a true difference of 20 points, and not more. Anything we notice afterwards is **exploratory**, a hint
# to test on new seeds. And if several claims are declared together, **Holm's correction** makes each one stricter, so
# that the chance of even one false success stays below 5 % ([Holm 1979](https://www.jstor.org/stable/4615733)).
#
# ### What would change this result
#
# Summing past gradients isn't absurd in itself. **Momentum** does exactly that, except that older gradients fade:
# $v \leftarrow m v + \nabla L$ with $m = 0.9$. Forgetting `zero_grad` means $m = 1$: nothing ever fades.
#
# ### Predict
#
# Now take a learning rate ten times smaller, no other momentum, and only three epochs. Is the accuracy without
# `zero_grad` `"lower"`, `"higher"` or `"the same"` (within 0.05) as with it? (The runs take about 10 seconds.)

# %% tags=["predict"]
my_short_run = ...  # "lower", "higher" or "the same"


# %% tags=["experiment"]
def short_run(seed, clear):
    model = train_by_hand(seed, epochs=3, lr=0.01, momentum=0, clear=clear)
    return accuracy(model, signs(seed).valid)


def short_with_zero_grad(seed):
    return short_run(seed, clear=True)


def short_without_zero_grad(seed):
    return short_run(seed, clear=False)


gentle = compare_declared(
    Declaration(
        "Can it help to forget zero_grad?",
        claims=[Claim("without", ">", "with zero_grad")],
        unit=fresh_data(),
    ),
    {
        "with zero_grad": short_with_zero_grad,
        "without": short_without_zero_grad,
    },
    seeds=5,
    metric="valid_acc",
)
print(gentle.claim("without", ">", "with zero_grad"))
gentle.plot(
    message="With small steps, the accuracy is "
    f"{gentle.values('with zero_grad').mean():.2f} with zero_grad and "
    f"{gentle.values('without').mean():.2f} without."
)

# %% tags=["check"]
gap = gentle.difference("without", "with zero_grad").mean
change = "lower" if gap < -0.05 else "higher" if gap > 0.05 else "the same"
check.prediction(
    "How is the accuracy without zero_grad, with small steps?",
    my_short_run,
    change,
    options=["lower", "higher", "the same"],
)

# %% [markdown]
# The run with the bug is better here, because the correct one has hardly moved in three epochs. There are two lessons in
# this. A bug can hide behind a good number. And a comparison is valid only in the setting in which it was made, so say
# what that setting was.
#
# ## 1.6 Training mode and evaluation mode
#
# Some layers behave differently at inference. **Batch norm** ([Ioffe & Szegedy 2015](https://arxiv.org/abs/1502.03167))
# in training mode subtracts the mean of the *batch* from each channel and divides by the standard deviation of the
# batch. In evaluation mode it uses running averages from training instead. **Dropout** (chapter 2) switches features
# off at random, in training mode only. `model.train()` and `model.eval()` switch all such layers.
#
# ### Predict
#
# You evaluate the five trained networks with batches of a single image, but forget `model.eval()`. In evaluation mode,
# their mean accuracy is about 0.75. What is it now? (The cell takes about 10 seconds.)

# %% tags=["predict"]
my_accuracy_in_training_mode = ...  # a number from 0 to 1


# %% tags=["experiment", "claim"]
def in_training_mode(seed, batch_size):
    """Evaluate a copy, because training mode changes the model."""
    network = copy.deepcopy(trained[seed])
    images = signs(seed).valid
    return accuracy(network, images, batch_size=batch_size, training=True)


def batches_of_1(seed):
    return in_training_mode(seed, batch_size=1)


def batches_of_2(seed):
    return in_training_mode(seed, batch_size=2)


def batches_of_64(seed):
    return in_training_mode(seed, batch_size=64)


modes = compare_declared(
    Declaration(
        "What does it cost to forget eval()?",
        claims=[
            Claim("eval mode", ">", "train mode, 1 image", by=0.2),
            Claim("eval mode", ">", "train mode, 2 images", by=0.05),
        ],
        unit=fresh_data(),
    ),
    {
        "eval mode": with_zero_grad,
        "train mode, 1 image": batches_of_1,
        "train mode, 2 images": batches_of_2,
        "train mode, 64 images": batches_of_64,
    },
    seeds=5,
    metric="valid_acc",
)
print(modes.claim("eval mode", ">", "train mode, 1 image", by=0.2))
print(modes.claim("eval mode", ">", "train mode, 2 images", by=0.05))
print(modes.verdict("train mode, 64 images", ">", "eval mode"))
single = float(modes.values("train mode, 1 image").mean())
modes.plot(
    message="With single images in training mode, the accuracy is "
    f"{single:.2f}."
)

# %% tags=["check"]
check.prediction(
    "How accurate is training mode with single images?",
    my_accuracy_in_training_mode,
    single,
)

# %% [markdown]
# The network was trained with the statistics of 64 images, and now it gets those of one. Even a single image has
# statistics, because each channel has 16 × 16 values after the first layer. But they differ from image to image, and
# the network has never seen features that were normalised this way. It's the **mismatch** between training and
# evaluation that hurts, not the small batch as such (chapter 2).
#
# With batches of 64 the statistics resemble those of training, so the bug hardly shows. Here it even flatters the
# network, by 1.9 points (95 % CI 0.2 to 3.6), perhaps because the running averages lag behind weights that still change
# fast. But the prediction for an image now depends on the other images in its batch, and every evaluation moves the
# running averages, so evaluating the model changes it.
#
# **How precise is an accuracy?** Suppose a network is correct with probability $p$ on each image. Its accuracy on $n$
# images then varies around $p$, and the standard deviation of that accuracy is the **standard error**
# $\sqrt{p(1-p)/n}$. With $p = 0.75$ and 960 images, it's 1.4 points. So one network that scores 0.75 may well have a
# true accuracy between 0.72 and 0.78, before you even think about seeds. To halve the error you need four times as many
# images.
#
# ### Exercise 3: `evaluate` (easy, 10 minutes)
#
# Write a function that returns the fraction of correct predictions over all samples of a loader. It must leave the model's
# statistics unchanged, and it doesn't need gradients.


# %% tags=["exercise"]
def evaluate(model, loader):
    """Return the fraction of correct predictions, between 0 and 1."""
    raise NotImplementedError


# %% tags=["check"]
check.evaluate(evaluate)

# %% [markdown] tags=["hint"]
# <details>
# <summary><b>Hint: correct for full batches, wrong with the last one</b></summary>
#
# Add up the correct predictions and the samples, and divide once, at the end.
#
# </details>
#
# <details>
# <summary><b>Hint: every call returns a different number</b></summary>
#
# Which mode is the model in when your function gets it?
#
# </details>


# %% tags=["solution", "hide-cell"]
# Solution
def evaluate(model, loader):
    """Return the fraction of correct predictions, between 0 and 1."""
    model.eval()
    correct, count = 0, 0
    with torch.no_grad():
        for images, labels in loader:
            correct += (model(images).argmax(dim=1) == labels).sum().item()
            count += len(labels)
    return correct / count


check.evaluate(evaluate)

# %% [markdown]
# ## 1.7 Optimizers
#
# The loop computes a gradient $g$. What to do with it is up to the **optimizer**. If you choose another one, only the
# line that creates it changes. Nearly all optimizers build on two ideas.
#
# **Remember the direction.** Momentum adds up the gradients in a **velocity** $v$, which slowly forgets them, so noise
# and zigzags cancel out. Nesterov's variant looks one such step ahead.
#
# | optimizer | update for each weight | source |
# |---|---|---|
# | SGD | $w \leftarrow w - \eta g$ | [Robbins & Monro 1951](https://doi.org/10.1214/aoms/1177729586) |
# | momentum | $v \leftarrow m v + g, \quad w \leftarrow w - \eta v$ | [Polyak 1964](https://doi.org/10.1016/0041-5553(64)90137-5) |
# | Nesterov | $v \leftarrow m v + g, \quad w \leftarrow w - \eta (g + m v)$ | Nesterov 1983, [Sutskever et al. 2013](https://proceedings.mlr.press/v28/sutskever13.html) |
#
# The next cell shows where that helps. The loss is a narrow valley, a hundred times more strongly curved across than
# along its floor. Every optimizer gets the best of the same 33 learning rates. (The fourth one, Adam, belongs to the
# second idea.)


# %% tags=["experiment"]
def valley(w):
    return (w[0] ** 2 + 100 * w[1] ** 2) / 2


def descend(optimizer_class, lr, **options):
    """Return the loss at each of fifty steps down the valley."""
    w = torch.tensor([10.0, 1.0], requires_grad=True)
    optimizer = optimizer_class([w], lr=lr, **options)
    losses = []
    for _ in range(50):
        optimizer.zero_grad()
        loss = valley(w)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def best_descent(optimizer_class, **options):
    """Return the losses with the best of 33 learning rates."""
    rates = [10 ** (i / 8 - 3) for i in range(33)]  # from 0.001 to 10
    runs = [descend(optimizer_class, lr, **options) for lr in rates]
    return min(runs, key=lambda losses: losses[-1])


plots.lines(
    range(50),
    {
        "SGD": best_descent(torch.optim.SGD),
        "momentum": best_descent(torch.optim.SGD, momentum=0.9),
        "Nesterov": best_descent(
            torch.optim.SGD, momentum=0.9, nesterov=True
        ),
        "Adam": best_descent(torch.optim.Adam),
    },
    xlabel="step",
    ylabel="loss",
    log="y",
    message="In a narrow valley, plain SGD falls far behind.",
)

# %% [markdown]
# Plain SGD needs a small learning rate for the steep walls, and then it crawls along the floor.
#
# **Scale each weight.** The second idea is to divide each gradient by its usual size, so that all weights move at a
# similar speed.
#
# | optimizer | update for each weight | source |
# |---|---|---|
# | AdaGrad | $s \leftarrow s + g^2, \quad w \leftarrow w - \eta g / (\sqrt s + \varepsilon)$ | [Duchi et al. 2011](https://jmlr.org/papers/v12/duchi11a.html) |
# | RMSProp | $s \leftarrow \beta s + (1 - \beta) g^2, \quad w \leftarrow w - \eta g / (\sqrt s + \varepsilon)$ | [Tieleman & Hinton 2012](https://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf) |
# | Adam | $v \leftarrow \beta_1 v + (1 - \beta_1) g, \quad s \leftarrow \beta_2 s + (1 - \beta_2) g^2, \quad w \leftarrow w - \eta \hat v / (\sqrt{\hat s} + \varepsilon)$ | [Kingma & Ba 2015](https://arxiv.org/abs/1412.6980) |
# | AdamW | $w \leftarrow w - \eta \lambda w$, then as Adam | [Loshchilov & Hutter 2019](https://arxiv.org/abs/1711.05101) |
#
# Here $s$ adds up squared gradients. AdaGrad's sum only grows, so its steps get ever shorter. RMSProp forgets old
# gradients instead, the more slowly the closer $\beta$ is to 1. Adam adds momentum (usually $\beta_1 = 0.9$ and
# $\beta_2 = 0.999$), and it corrects for averages that start at zero: $\hat v = v / (1 - \beta_1^t)$ and
# $\hat s = s / (1 - \beta_2^t)$ after $t$ steps. The tiny $\varepsilon$ prevents a division by zero. AdamW takes weight
# decay of strength $\lambda$ (chapter 2) out of the gradient, where Adam's division would distort it.
#
# ### Predict
#
# Three weights have the gradients 100, 1 and 0.01, and the learning rate is 0.1. How far does Adam move the *third*
# weight in its first step?

# %% tags=["predict"]
my_step_of_adam = ...  # a number


# %% tags=["experiment"]
def first_step(optimizer_class, **options):
    """Return how far each of three weights moves in the first step."""
    weights = torch.zeros(3, requires_grad=True)
    optimizer = optimizer_class([weights], lr=0.1, **options)
    weights.grad = torch.tensor([100.0, 1.0, 0.01])
    optimizer.step()
    return weights.detach().abs().tolist()


first_steps = pd.DataFrame(
    {
        "SGD": first_step(torch.optim.SGD),
        "momentum": first_step(torch.optim.SGD, momentum=0.9),
        "AdaGrad": first_step(torch.optim.Adagrad),
        "RMSProp": first_step(torch.optim.RMSprop),
        "Adam": first_step(torch.optim.Adam),
    },
    index=["gradient 100", "gradient 1", "gradient 0.01"],
)
first_steps.round(4)

# %% tags=["check"]
check.prediction(
    "How far does Adam's first step move the third weight?",
    my_step_of_adam,
    float(first_steps.loc["gradient 0.01", "Adam"]),
    within=0.01,
)

# %% [markdown]
# An **adaptive** optimizer, which is one that scales each weight, divides out the size of the gradient, so each weight
# moves by about $\eta$. That's why good learning rates for Adam are much smaller than for SGD, and why 0.001 is a
# usable first guess for many networks. (The best learning rate still falls as networks get wider,
# [Yang et al. 2022](https://arxiv.org/abs/2203.03466).) RMSProp has no correction for the zero at its start, so its
# first step is ten times too long.
#
# In the valley, this helped Adam because the valley lies along the axes. Momentum doesn't depend on that.
#
# **Is the loss of a real network a valley too?** Nobody can draw 73 thousand axes, but you can walk away from a trained
# network in two directions and plot the loss along the way. The next cell does so for a network of 1.5. One direction
# is random, the other is the gradient's. Both are scaled filter by filter: each filter of a direction is as long as the
# network's own ([Li et al. 2018](https://arxiv.org/abs/1712.09913)). Otherwise the plot would depend on the lengths of
# filters in front of a batch norm, although these lengths don't change the output.


# %% tags=["experiment"]
def as_long_as_the_filters(direction, model):
    """Scale a direction, filter by filter, to the size of the weights."""
    scaled = []
    for d, weight in zip(direction, model.parameters(), strict=True):
        if weight.ndim > 1:
            sizes = weight.flatten(1).norm(dim=1) / d.flatten(1).norm(dim=1)
            d = d * sizes.view(-1, *[1] * (d.ndim - 1))
        else:
            d = torch.zeros_like(d)  # biases and batch norms stay
        scaled.append(d)
    return scaled


start = copy.deepcopy(trained[0]).train()
images, labels = data.train.images[:128] / 255, data.train.labels[:128]
loss = F.cross_entropy(start(images), labels)
gradient = torch.autograd.grad(loss, list(start.parameters()))
generator = torch.Generator().manual_seed(0)
chance = [torch.randn(g.shape, generator=generator) for g in gradient]
across = as_long_as_the_filters(gradient, start)
along = as_long_as_the_filters(chance, start)


def loss_at(a, b):
    """Return the loss at weights + a * random + b * gradient."""
    moved = copy.deepcopy(start)
    with torch.no_grad():
        for w, d, g in zip(moved.parameters(), along, across, strict=True):
            w += a * d + b * g
        return F.cross_entropy(moved(images), labels).item()


fractions = [i / 20 for i in range(-4, 5)]
surface = [[loss_at(a, b) for a in fractions] for b in fractions]
names = [f"{fraction:+.2f}" for fraction in fractions]
plots.heatmap(
    surface,
    names,
    names,
    label="loss",
    xlabel="steps along a random direction, as a fraction of the weights",
    ylabel="along the gradient",
    message="A trained network lies in a valley: steep along the gradient, "
    "nearly flat along a random direction.",
)


# %% [markdown]
# Move every filter by a fifth of its length in a random direction, and the loss grows by about a third. Move it as far
# along the gradient, and the loss is twenty-five times as large. So a real network has steep walls and a long floor as
# well. (Two directions are two of 73 thousand, and nearly all random ones look as flat as this one.)
#
# **Which optimizer wins on a real network?** In 2017, [Wilson et al.](https://arxiv.org/abs/1705.08292) reported that adaptive
# optimizers generalise worse than SGD, and many people in vision went back to SGD. Two years later,
# [Choi et al.](https://arxiv.org/abs/1910.05446) showed that such rankings depend on how much each optimizer is tuned:
# after enough tuning, Adam was never worse than plain momentum, which it can imitate.
#
# So a comparison is fair only if all optimizers are tuned equally well. That takes many runs, so we made them in advance
# and saved the results, as a **stored study**. Each of seven optimizers got the same search over five learning rates.
# Each then trained the network of this chapter on 1,500 signs for six epochs, which is 138 steps at a constant learning
# rate, with eight seeds that the search hadn't used.

# %% tags=["claim"]
optimizers = Results.load("studies/01_optimizers.csv")
print(optimizers.verdict("Adam", ">", "SGD"))
print(optimizers.verdict("Nesterov", ">", "momentum"))
print(optimizers.verdict("momentum", "~", "SGD", by=0.02))
print(optimizers.verdict("AdamW", "~", "Adam", by=0.02))
print(optimizers.verdict("Adam", ">", "momentum"))
optimizers.plot(
    message="Adam leads after six epochs, and plain SGD varies most."
)

# %% [markdown]
# This table supports two of the four declared claims. Adam beats plain SGD by 5.7 points (95 % CI 2.4 to 8.9), and
# AdamW matches Adam to within 2 points, probably because six epochs leave a small weight decay no time to act.
# Nesterov's gain over momentum is 1.4 points (−1.3 to 4.0), and momentum's gain over plain SGD 1.8 points (−1.8 to
# 5.4), so eight seeds can't tell whether either gain is real. SGD itself varies between 0.73 and 0.84, probably because
# its search, on only two seeds, chose too large a learning rate.
#
# **Then we ran it again.** With eight new seeds, neither claim held (appendix G). Adam's lead over SGD
# shrank to 2.6 points (−0.9 to 6.1), so it probably helps, but by less than the first table says. AdamW came out 0.6
# points above Adam (−0.8 to 2.1), just too much for our margin of 2. A result that stands out the first time often had
# luck on its side, and only a replication shows how much.
#
# We hadn't declared a comparison of Adam with momentum, but Adam is ahead there too, by 3.8 points (2.0 to 5.7), and by
# about three with the new seeds. The course still goes on with SGD and momentum. Many recipes for convolutional
# networks use it, and its steps are simply proportional to the gradients. For a single short run without tuning, AdamW
# is the better bet. Chapter 5 lowers the learning rate during training, which this study didn't.
#
# <details>
# <summary><b>A newer optimizer: Muon</b></summary>
#
# [Muon](https://kellerjordan.github.io/posts/muon/) (Jordan et al. 2024), which makes the update of each weight matrix
# orthogonal, has set speed records on CIFAR-10 and for language models. The one in `torch.optim` takes matrices only.
# The kernels of a convolution have to be flattened to a matrix first, and biases, norms and the last layer still get
# another optimizer, such as AdamW.
#
# </details>
#
# **In 2026**, convolutional networks trained from scratch still often use SGD with Nesterov momentum, and fine-tuning
# and transformers use AdamW.
#
# ## In plain PyTorch
#
# From the next chapter on you use `cnnlab.Trainer`. It's the loop above, plus metrics, progress, checkpoints and a
# clean stop. Is that really all? Here is the loop once more, with PyTorch alone, a device and the validation. The
# second cell trains with both loops and compares all weights bit by bit.

# %% tags=["plain"]


def train_epoch(model, loader, optimizer, loss_fn, device):
    """Train for one epoch; return the mean loss over the samples."""
    model.train()
    total, count = 0.0, 0
    for images, targets in loader:
        images = images.to(device, non_blocking=True)
        targets = targets.to(device, non_blocking=True)
        optimizer.zero_grad()
        loss = loss_fn(model(images), targets)
        loss.backward()
        optimizer.step()
        total += loss.item() * len(images)
        count += len(images)
    return total / count


@torch.inference_mode()  # as no_grad, and a little faster
def evaluate_model(model, loader, device):
    """Return the accuracy over all samples."""
    model.eval()
    correct, count = 0, 0
    for images, labels in loader:
        images = images.to(device, non_blocking=True)
        labels = labels.to(device, non_blocking=True)
        correct += (model(images).argmax(dim=1) == labels).sum().item()
        count += len(labels)
    return correct / count


def fit(model, train_loader, valid_loader, optimizer, epochs, device):
    """Train; return (training loss, validation accuracy) of each epoch."""
    model.to(device)
    history = []
    for _ in range(epochs):
        loss = train_epoch(
            model, train_loader, optimizer, F.cross_entropy, device
        )
        history.append((loss, evaluate_model(model, valid_loader, device)))
    return history


# %% tags=["experiment"]
def new_run():
    """Return a new network, its optimizer, and loaders of both splits."""
    torch.manual_seed(0)
    model = cnnlab.small_resnet(num_classes=12)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    train_loader = cnnlab.loader(data.train, 64, shuffle=True, seed=0)
    return model, optimizer, train_loader, cnnlab.loader(data.valid, 256)


plain_model, optimizer, train_loader, valid_loader = new_run()
plain_history = fit(
    plain_model,
    train_loader,
    valid_loader,
    optimizer,
    epochs=6,
    device=torch.device("cpu"),  # pick_device() on a GPU
)

model, optimizer, train_loader, valid_loader = new_run()
trainer = cnnlab.Trainer(model, optimizer, seed=0, device="cpu")
history = trainer.fit(train_loader, valid_loader, epochs=6)

plain_weights, weights = plain_model.state_dict(), model.state_dict()
assert all(torch.equal(plain_weights[k], weights[k]) for k in weights)
assert trainer.evaluate(valid_loader)["acc"] == plain_history[-1][1]
print(f"{len(weights)} tensors, all equal to the last bit")
history.plot()

# %% [markdown]
# Both loops took their batches from a `cnnlab.loader`, whose order depends only on the seed and the epoch. A loop
# doesn't care who makes its batches. The cells in plain PyTorch grow, chapter by chapter, into the script `train.py`
# beside this notebook. By chapter 13 it's a complete training script that needs nothing but PyTorch.
#
# Don't expect equal bits everywhere. With another device, version of PyTorch or number of threads, the last digits
# differ, and on a GPU even two equal runs may, unless you call `torch.use_deterministic_algorithms(True)`.
#
# **On a GPU**, three details save time. `pin_memory=True` in the loader and `non_blocking=True` let a batch travel while
# the GPU works. And `loss.item()` waits for the GPU at every step, so add up `loss.detach()` and call `.item()` once per
# epoch.
#
# **Reading the curves.** The training loss falls as long as there is something left to fit. If the validation loss turns
# upwards while the training loss keeps falling, the network is learning details that other images don't share: it
# **overfits** (chapter 6). The training accuracy is the mean over an epoch *while the weights changed*, but the validation
# accuracy is measured at its end, so early on the validation accuracy can be the higher one.
#
# To read the loop of `Trainer`, write `cnnlab.Trainer??` in a cell of your own. And since every chapter trains a
# network many times, all chapters share this template. You've just seen all of its parts:

# %%
from studies.common import train

print(inspect.getsource(train))

# %% [markdown]
# From now on, `train(model, optimizer, dataset, batch_size=64, epochs=6, seed=0)` means the loop of this chapter.
# `schedule` changes the learning rate during training (chapter 5).
#
# ## 1.8 Can you trust a loop that you didn't write?
#
# You've compared one loop with your own, bit by bit. For all others that you'll meet, you need a test.
#
# ### Exercise 4: `find_fault` (hard, 25 minutes)
#
# You've seen that a bug can hide behind a good number. So write that test. `find_fault` gets a function
# `epoch(model, loader, optimizer, loss_fn)` that should do what your `train_one_epoch` does. Call it on a small problem of
# your own, look at what it did, and return one of these:
#
# | return | if the epoch |
# |---|---|
# | `"evaluation mode"` | leaves the model in evaluation mode, if it was in that mode before |
# | `"no step"` | clears the gradients just before `step()`, so the weights never move |
# | `"no zero_grad"` | never clears the gradients |
# | `"mean of batch means"` | returns the mean of the batch losses instead of the mean over the samples |
# | `"none"` | is correct |
#
# An epoch has at most one of the faults. Which problem makes all of them visible?


# %% tags=["exercise"]
def find_fault(epoch):
    """Return the fault of a function that trains for one epoch."""
    raise NotImplementedError


# %% tags=["check"]
check.find_fault(find_fault)

# %% [markdown] tags=["hint"]
# <details>
# <summary><b>Hint: some faults look like a correct epoch</b></summary>
#
# How many batches does your problem have, and are they equally long? In which mode is your model before the epoch?
#
# </details>
#
# <details>
# <summary><b>Hint: everything moves at once</b></summary>
#
# What would you still see if the learning rate were 0? Look at `.grad` after the epoch.
#
# </details>


# %% tags=["solution", "hide-cell"]
# Solution
def find_fault(epoch):
    """Return the fault of a function that trains for one epoch."""
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3).eval()  # as an evaluation leaves it
    modes = []
    model.register_forward_hook(lambda *_: modes.append(model.training))
    x, y = torch.randn(10, 4), torch.arange(10) % 3
    batches = [(x[:8], y[:8]), (x[8:], y[8:])]
    optimizer = torch.optim.SGD(model.parameters(), lr=0)  # nothing moves
    returned = epoch(model, batches, optimizer, F.cross_entropy)
    left = model.weight.grad  # should be the gradient of the last batch

    if not all(modes):
        return "evaluation mode"
    if left is None or not left.any():
        return "no step"
    model.weight.grad = None
    F.cross_entropy(model(x[8:]), y[8:]).backward()
    if not torch.allclose(left, model.weight.grad):
        return "no zero_grad"
    if abs(returned - F.cross_entropy(model(x), y).item()) > 1e-5:
        return "mean of batch means"
    return "none"


check.find_fault(find_fault)

# %% [markdown]
# ### Exercise 5: review a training script (open, 20 minutes)
#
# A colleague asks you to review this function before its result goes into a report. It runs without an error. Most of its
# bugs occur in published tutorials. Which lines would you change, and what does each bug do to the result?
#
# ```python
# def train_model(model, train_loader, test_loader, config):
#     optimizer = torch.optim.AdamW(model.parameters(), lr=config["lr"])
#     best_acc, best_state = 0.0, None
#     for epoch in range(config["epochs"]):
#         train_loss = 0.0
#         for images, labels in train_loader:
#             probabilities = model(images).softmax(dim=1)
#             loss = F.cross_entropy(probabilities, labels)
#             optimizer.zero_grad()
#             loss.backward()
#             optimizer.step()
#             train_loss += loss
#         model.eval()
#         correct, test_loss = 0, 0.0
#         for images, labels in test_loader:
#             outputs = model(images)
#             test_loss += F.cross_entropy(outputs, labels).item()
#             correct += (outputs.argmax(dim=1) == labels).sum().item()
#         test_loss /= len(test_loader)
#         acc = 100 * correct / len(test_loader.dataset)
#         if acc > best_acc:
#             best_acc, best_state = acc, model.state_dict()
#     model.load_state_dict(best_state)
#     return best_acc
# ```
#
# | points | for |
# |---|---|
# | 4 | four bugs that change the reported accuracy or the returned weights, each with the line and what it does |
# | 2 | two more that change only a reported loss, or waste memory |
# | 2 | one line that looks wrong and isn't, with the reason |
# | 2 | a test for one of the bugs that fails on this code and passes on yours |

# %%
# Your review: the lines, what each bug does, and your test.

# %% [markdown]
# ## Make it bigger
#
# Here's the same call on CIFAR-10, fifty thousand real photographs. It downloads 170 MB once and needs a GPU, so it
# only runs if the environment variable `CNNLAB_PROFILE` is `gpu`.

# %% tags=["bigger"]
if lab.profile == "gpu":
    photos = cnnlab.load("cifar10", download=True)
    bigger = cnnlab.small_resnet(num_classes=10, width=32, depth=3)
    cnnlab.Trainer(
        bigger, torch.optim.SGD(bigger.parameters(), lr=0.1, momentum=0.9)
    ).fit(
        cnnlab.loader(photos.train, 128, shuffle=True),
        cnnlab.loader(photos.valid, 512),
        epochs=15,
    )
else:
    print("left out: set CNNLAB_PROFILE=gpu to run it")

# %% tags=["hide-input"]
check.quiz(1)

# %% [markdown]
# ## Key points
#
# - One step: clear the gradients, compute the loss, run the backward pass, move the weights. An epoch is one pass in a
#   new order.
# - Before you train: is the first loss near $\log K$, and can the network memorise ten images?
# - Fit weights on the training set and decisions on the validation set, and use the test set once.
# - Call `model.train()` before an epoch and `model.eval()` before an evaluation, and average over *samples*.
# - An adaptive optimizer moves each weight by about the learning rate; compare optimizers only after equal tuning.
# - A single run proves little. Use several seeds and an interval, and write your claim down before you run.
#
# **The recipe so far:** SGD with momentum 0.9, a learning rate of 0.1, batches of 64 (or AdamW, if you can't tune).
# With 1,024 signs and six epochs, it reaches an accuracy of about 0.75, and each chapter improves on it.
#
# ## Common mistakes
#
# | what you see | what it often is |
# |---|---|
# | the loss explodes, or jumps around from the start | no `zero_grad`, or far too large a learning rate |
# | the loss doesn't move at all | gradients cleared before `step`, or the optimizer holds the weights of another model |
# | the loss stalls at 1.6, with twelve classes | a softmax before the cross-entropy |
# | two evaluations of the same model differ | no `model.eval()` |
# | the accuracy depends on the batch size of the evaluation | no `model.eval()`, or a mean of batch means |
# | a good validation accuracy, a disappointing one in production | decisions were fitted to the validation set, or it doesn't resemble production |
#
# ## References
#
# - L. Bottou, F. Curtis and J. Nocedal, *Optimization methods for large-scale machine learning*, SIAM Review 60, 2018, [arXiv:1606.04838](https://arxiv.org/abs/1606.04838)
# - X. Bouthillier, P. Delaunay, M. Bronzi, A. Trofimov, B. Nichyporuk, J. Szeto, N. Mohammadi Sepahvand, E. Raff, K. Madan, V. Voleti, S. E. Kahou, V. Michalski, T. Arbel, C. Pal, G. Varoquaux and P. Vincent, *Accounting for variance in machine learning benchmarks*, MLSys 2021, [arXiv:2103.03098](https://arxiv.org/abs/2103.03098)
# - D. Choi, C. Shallue, Z. Nado, J. Lee, C. Maddison and G. Dahl, *On empirical comparisons of optimizers for deep learning*, 2019, [arXiv:1910.05446](https://arxiv.org/abs/1910.05446)
# - J. Duchi, E. Hazan and Y. Singer, *Adaptive subgradient methods for online learning and stochastic optimization*, JMLR 12, 2011, [jmlr.org](https://jmlr.org/papers/v12/duchi11a.html)
# - S. Holm, *A simple sequentially rejective multiple test procedure*, Scandinavian Journal of Statistics 6, 1979, [jstor.org/stable/4615733](https://www.jstor.org/stable/4615733)
# - S. Ioffe and C. Szegedy, *Batch normalization*, ICML 2015, [arXiv:1502.03167](https://arxiv.org/abs/1502.03167)
# - K. Jordan, Y. Jin, V. Boza, J. You, F. Cesista, L. Newhouse and J. Bernstein, *Muon: an optimizer for hidden layers in neural networks*, 2024, [kellerjordan.github.io](https://kellerjordan.github.io/posts/muon/)
# - A. Karpathy, *A recipe for training neural networks*, 2019, [karpathy.github.io](https://karpathy.github.io/2019/04/25/recipe/)
# - D. Kingma and J. Ba, *Adam: a method for stochastic optimization*, ICLR 2015, [arXiv:1412.6980](https://arxiv.org/abs/1412.6980)
# - H. Li, Z. Xu, G. Taylor, C. Studer and T. Goldstein, *Visualizing the loss landscape of neural nets*, NeurIPS 2018, [arXiv:1712.09913](https://arxiv.org/abs/1712.09913)
# - I. Loshchilov and F. Hutter, *Decoupled weight decay regularization*, ICLR 2019, [arXiv:1711.05101](https://arxiv.org/abs/1711.05101)
# - Y. Nesterov, *A method for solving the convex programming problem with convergence rate O(1/k²)*, Doklady Akademii Nauk SSSR 269, 1983, [mi.mathnet.ru/dan46009](http://mi.mathnet.ru/dan46009)
# - B. Polyak, *Some methods of speeding up the convergence of iteration methods*, USSR Computational Mathematics and Mathematical Physics 4, 1964, [doi:10.1016/0041-5553(64)90137-5](https://doi.org/10.1016/0041-5553(64)90137-5)
# - H. Robbins and S. Monro, *A stochastic approximation method*, Annals of Mathematical Statistics 22, 1951, [doi:10.1214/aoms/1177729586](https://doi.org/10.1214/aoms/1177729586)
# - J. Stallkamp, M. Schlipsing, J. Salmen and C. Igel, *Man vs. computer: benchmarking machine learning algorithms for traffic sign recognition*, Neural Networks 32, 2012, [doi:10.1016/j.neunet.2012.02.016](https://doi.org/10.1016/j.neunet.2012.02.016)
# - I. Sutskever, J. Martens, G. Dahl and G. Hinton, *On the importance of initialization and momentum in deep learning*, ICML 2013, [proceedings.mlr.press](https://proceedings.mlr.press/v28/sutskever13.html)
# - T. Tieleman and G. Hinton, *Lecture 6.5: RMSProp*, Neural Networks for Machine Learning, 2012, [cs.toronto.edu](https://www.cs.toronto.edu/~tijmen/csc321/slides/lecture_slides_lec6.pdf)
# - A. Wilson, R. Roelofs, M. Stern, N. Srebro and B. Recht, *The marginal value of adaptive gradient methods in machine learning*, NeurIPS 2017, [arXiv:1705.08292](https://arxiv.org/abs/1705.08292)
# - G. Yang, E. J. Hu, I. Babuschkin, S. Sidor, X. Liu, D. Farhi, N. Ryder, J. Pachocki, W. Chen and J. Gao, *Tensor programs V: tuning large neural networks via zero-shot hyperparameter transfer*, 2022, [arXiv:2203.03466](https://arxiv.org/abs/2203.03466)

# %% [markdown] tags=["instructor", "remove-cell"]
# ## When you are short of time
#
# Do 1.4 and 1.5 at the board and run 1.6; leave 1.2 and 1.7 for reading at home. Exercise 3 is the one to keep, because
# `eval()` and the mean over samples come back in every chapter. Exercise 5 makes a good discussion in pairs.
#
# ## A session of ninety minutes
#
# If chapter 0 has to fit into the same session, keep the rows with a star.
#
# | minutes | what | sections | who |
# |---|---|---|---|
# | 10* | Three splits; exercise 1 | 1.1 | you, then everybody |
# | 10* | Two votes: the first loss, and a softmax too many | 1.3, 1.4 | the room |
# | 15* | Exercise 2, the loop by hand | 1.5 | everybody |
# | 15* | Leave out `zero_grad`, twice: vote, run, and read the intervals | 1.5 | everybody |
# | 15 | Forget `eval()`: vote and run; exercise 3 | 1.6 | everybody |
# | 5* | The loop by hand beside `Trainer`: equal to the last bit | In plain PyTorch | you |
# | 10 | Exercise 5, the review of a script | 1.8 | pairs |
# | 10 | Questions for the room | | the room |
#
# ## Exercise 5, a model answer
#
# Four bugs change the accuracy or the weights:
#
# - `model.train()` is never called again after the first `model.eval()`. From the second epoch on, batch norm's running
#   statistics are frozen and dropout is off.
# - The softmax before the cross-entropy makes the loss flat.
# - The "best" epoch is chosen on the test set, so the reported accuracy is too high. Choose it on a validation set.
# - `model.state_dict()` isn't a copy. It holds the live tensors, so `load_state_dict` restores the *last* weights. Use
#   `copy.deepcopy`.
#
# Four more change only a loss, or waste memory:
#
# - `train_loss += loss` keeps a tensor and its graph. Use `loss.item()`.
# - Dividing by `len(test_loader)` gives a mean of batch means.
# - The test loss is computed from logits and the training loss isn't, so the two can't be compared.
# - There's no `torch.no_grad()` around the evaluation.
#
# One line looks wrong and isn't: `zero_grad` after the forward pass. It only has to come before `backward`.
#
# ## Questions for the room
#
# - A mean of batch means is wrong only if the last batch is short. In which case is it badly wrong? (Take 65 images in
#   batches of 64, so that the last image is a batch of its own and counts as much as the 64 others. If these have a
#   loss of 0.1 each and the last one has 6.5, the mean over the images is 0.2, but the mean of the batch means is 3.3.
#   Sorted data make it worse, because then the short batch holds a single class.)
# - A run scores 0.76 and another one 0.75, on the same 960 images. Is the first network better? (You can't tell. With
#   an accuracy of 0.75 and 960 images, the standard error is 1.4 points, which is more than the difference, and another
#   seed changes the result as well. Train both with several seeds, take the difference for each seed, and look at its
#   interval.)
# - Without `zero_grad`, the short run of 1.5 got better. Do you ship the version without it? (No. The correct loop had
#   hardly moved in three epochs at a learning rate of 0.01, and adding up the gradients acted like larger steps. At a
#   learning rate of 0.1, with momentum and six epochs, the same bug costs more than sixty points. So keep the line and
#   raise the learning rate.)
# - The hand-written loop and `Trainer` end with equal weights. What would break this equality most: dropout, another
#   order, or another number of threads? (The order changes every batch, so the first step already differs. Dropout does
#   the same if the two loops draw their masks from generators in different states. Another number of threads only adds
#   up the sums in another order, so at first just the last digits differ. Training makes that difference grow, but no
#   more than another seed would.)
# - Who may look at the test set, and when? (The person who publishes the result, once, after the last decision. If
#   you look earlier and then change something, you've turned it into a validation set. It helps to give its labels to
#   a colleague who doesn't train.)
#
# ## Exam questions
#
# **Question 1.** A network with twelve classes is trained on the same ten images for a hundred steps. Its loss starts
# at 2.48 and stops falling at 1.62. Which bug do you suspect? Derive both numbers, and explain why the check of the
# first loss doesn't find it.
#
# **Answer.** The network ends with a softmax, and the loss applies a second one. At the start all twelve probabilities
# are about 1/12, so the second softmax gets equal scores, and the loss is log 12 = 2.48, as in a healthy network. At
# best the first softmax gives 1 for the correct class and 0 for the eleven others. The second one turns that into e /
# (e + 11), whose loss is log(e + 11) − 1 = 1.62. Only training on a few images shows it, because it needs the loss to
# become small.
#
# **Question 2.** A report says: "Optimizer A reaches 0.81 and optimizer B 0.79, so A is better." Each was run once,
# with the learning rate that suits A. What's missing? Describe a comparison that you'd believe.
#
# **Answer.** B wasn't tuned, so the comparison is about learning rates. There's one run of each, so seeds may explain
# the difference, and nobody knows how many comparisons were tried before this one. For a fair comparison, write down
# the claim first. Give both optimizers the same search over learning rates, on seeds that aren't used again. Then run
# several new seeds, the same ones for both, and report the mean of the differences with its interval. If there are
# several claims, correct for their number.
