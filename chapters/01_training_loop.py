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
# **Questions.** What happens in one step of training, and what in one epoch? Why are the images split in three? What do
# `model.train()` and `model.eval()` change? What does a `Trainer` do that a loop of ten lines does not?
#
# **Afterwards you can** write a training loop and an honest measurement by heart, name the line whose absence spoils
# a run, and say what a number on the validation set means.
#
# | | |
# |---|---|
# | to read | 25 minutes |
# | to run | 100 seconds on one core of a laptop; no network, no GPU |
# | you need | Python, and what a derivative is |

# %% tags=["setup"]
import copy
import math

import torch
import torch.nn.functional as F

import cnnlab
from cnnlab import check
from cnnlab.experiment import Claim, Declaration, compare_declared, fresh_data

lab = cnnlab.setup(seed=0)

# %% [markdown]
# ## 1.1 Images, labels, and three parts
#
# Throughout the course you train on **PocketSigns**: twelve traffic signs of 32 x 32 pixels, drawn and photographed
# badly by a program. The same seed gives the same images on every machine, another seed gives other
# images, and nothing is downloaded.


# %%
def signs(seed):
    """Draw the images of a seed."""
    return cnnlab.load("pocket", seed=seed, n_train=1500, n_valid=960)


data = signs(0)
data

# %%
data.show(per_class=2)

# %% [markdown]
# A sign is a tensor of three channels with values between 0 and 1; its label is a number from 0 to 11.
#
# The images come in three parts, and each answers its own question:
#
# - the **training** part is what the weights are fitted to;
# - the **validation** part is what you look at while you decide: which rate, how many epochs, which of two ideas;
# - the **test** part is looked at once, when every decision has been made. In PocketSigns it is drawn with fonts and
#   before backgrounds that the other two do not contain, as the world outside will be.
#
# Why not two parts? Because you fit your *decisions* to the validation images, much as the optimizer fits the weights to
# the training images. After enough decisions a good validation number is partly luck, and only untouched images tell.

# %%
image, label = data.train[0]
(
    image.shape,
    image.dtype,
    round(image.min().item(), 2),
    round(image.max().item(), 2),
    data.classes[label],
)

# %% [markdown]
# ## 1.2 One step
#
# A network $f$ with weights $w$ turns an image $x$ into twelve numbers, the **logits**; the largest one is its answer. How
# wrong the answers to a batch of $N$ images are, one number says: the **loss**. Ours is the cross-entropy,
#
# $$ L(w) = -\frac{1}{N} \sum_{i=1}^{N} \log p_{y_i}(x_i; w), \qquad p_k = \frac{e^{f_k}}{\sum_j e^{f_j}}. $$
#
# A network that knows nothing gives each of $K$ classes the probability $1/K$, and its loss is $\log K$. For twelve classes
# that is 2.48. A fresh network should start near this value; when it does not, something is wrong before the first
# step.

# %%
torch.manual_seed(0)
fresh = cnnlab.small_resnet(num_classes=len(data.classes))
train = cnnlab.loader(data.train, batch_size=64, shuffle=True)

images, labels = next(iter(train))  # (64, 3, 32, 32) and (64,)
logits = fresh(images)  # (64, 12)
loss = F.cross_entropy(logits, labels)
print(f"the first loss is {loss.item():.2f}, log 12 is {math.log(12):.2f}")

# %% [markdown]
# A little above, because fresh weights do give some answers, and most of them are wrong.
#
# The **gradient** $\nabla L$ holds, for each weight, how the loss would change if that weight grew a little. One step of
# gradient descent moves every weight a little the other way,
#
# $$ w \leftarrow w - \eta \, \nabla L(w), $$
#
# with the **learning rate** $\eta$. Because the batch is a random sample of the training part, its gradient is a noisy
# estimate of the gradient over all images: *stochastic* gradient descent
# ([Robbins & Monro 1951](https://doi.org/10.1214/aoms/1177729586)). In PyTorch a step is four lines.

# %%
model = copy.deepcopy(fresh)  # so that you can run this cell again
optimizer = torch.optim.SGD(model.parameters(), lr=0.01)

optimizer.zero_grad()  # forget the gradients of the last step
loss = F.cross_entropy(model(images), labels)  # forwards: how wrong?
loss.backward()  # backwards: a gradient for every weight
optimizer.step()  # move every weight against its gradient

after = F.cross_entropy(model(images), labels)
print(f"before the step {loss.item():.3f}, after it {after.item():.3f}")
assert after < loss

# %% [markdown]
# ## 1.3 One epoch, and many
#
# An **epoch** is one pass over the training part: with 1,500 images in batches of 64, twenty-three steps (the loader
# leaves out the short rest, which is another one each time). The images come in a new order in each epoch. Here is the whole
# loop, by hand, and a measurement at its end.


# %%
def train_by_hand(seed, *, epochs=6, rate=0.1, momentum=0.9, clear=True):
    """Train a fresh network and return it; `clear=False` leaves out zero_grad."""
    data = signs(seed)
    torch.manual_seed(seed)
    model = cnnlab.small_resnet(num_classes=len(data.classes))
    optimizer = torch.optim.SGD(
        model.parameters(), lr=rate, momentum=momentum
    )
    train = cnnlab.loader(data.train, batch_size=64, shuffle=True, seed=seed)
    for _ in range(epochs):
        model.train()
        for images, labels in train:
            if clear:
                optimizer.zero_grad()
            loss = F.cross_entropy(model(images), labels)
            loss.backward()
            optimizer.step()
    return model


def accuracy(model, images, *, batch_size=256):
    """Return the accuracy on some images, in whatever mode the model is."""
    batches = cnnlab.loader(images, batch_size)
    with torch.no_grad():
        right = sum(
            (model(images).argmax(dim=1) == labels).sum().item()
            for images, labels in batches
        )
    return right / len(images)


by_hand = train_by_hand(seed=0)
print(
    f"accuracy on the validation part after six epochs: {accuracy(by_hand.eval(), data.valid):.3f}"
)

# %% [markdown]
# ### Predict
#
# `zero_grad` looks like housekeeping. Suppose you forget it: `backward()` then *adds* the new gradient to the old ones.
# What accuracy do you expect after six epochs? Write a number between 0 and 1 in place of the dots. Guessing would give
# one in twelve, 0.08. (Everything below runs without an answer too.)

# %% tags=["predict"]
my_accuracy_without_zero_grad = ...

# %% tags=["experiment"]
trained = {seed: train_by_hand(seed) for seed in range(5)}


def with_zero_grad(seed):
    return accuracy(trained[seed].eval(), signs(seed).valid)


def without_zero_grad(seed):
    model = train_by_hand(seed, clear=False)
    return accuracy(model.eval(), signs(seed).valid)


forgotten = compare_declared(
    Declaration(
        "Does it matter that you forget zero_grad?",
        claims=[Claim("with zero_grad", ">", "without", by=0.2)],
        unit=fresh_data(),
    ),
    {"with zero_grad": with_zero_grad, "without": without_zero_grad},
    seeds=5,
    metric="valid_acc",
)
forgotten.plot(message="Without zero_grad, the same training fails.")

# %% [markdown]
# Each tick is one run with its own seed, and each bar shows the mean of five runs with a 95 %
# confidence interval. The seed decides everything that is random here: which images are drawn, the
# initial weights, and the order of the batches. So the interval is about signs of this kind, and not
# only about these 1,500. A single run can easily mislead you. Five pairs of runs that share their
# seeds are much less likely to, although one interval in twenty will still miss.
#
# From here on, the course says that something *helps* only if the whole interval of the difference
# says so. There is one more way to fool yourself: look at twenty differences, and report the one that
# luck made large. That's why the cell above says *before* the first run what it sets out to show, in a
# `Declaration`. The next cell compares that claim with the numbers, and fails if they don't agree.

# %% tags=["claim"]
forgotten.claim("with zero_grad", ">", "without", by=0.2)

# %% [markdown]
# ### What would change it
#
# The sum of all gradients so far is nothing absurd. Momentum is such a sum as well, only that older gradients fade:
# $v \leftarrow m v + \nabla L$ with $m = 0.9$. To forget `zero_grad` is to set $m = 1$: nothing ever fades. With momentum
# 0.9 *on top* and a rate of 0.1 that is far too much. With a rate ten times smaller and no other momentum, the same mistake
# is a strong push. Look at what it does:


# %% tags=["experiment"]
def small_steps(seed, clear):
    model = train_by_hand(seed, epochs=4, rate=0.01, momentum=0, clear=clear)
    return accuracy(model.eval(), signs(seed).valid)


gentle = compare_declared(
    Declaration(
        "Can it help to forget zero_grad?",
        claims=[Claim("without", ">", "with zero_grad")],
        unit=fresh_data(),
    ),
    {
        "with zero_grad": lambda seed: small_steps(seed, clear=True),
        "without": lambda seed: small_steps(seed, clear=False),
    },
    seeds=5,
    metric="valid_acc",
)
gentle

# %% tags=["claim"]
gentle.claim("without", ">", "with zero_grad")

# %% [markdown]
# The run with the mistake is *better* here, because the correct run has hardly moved in its four epochs. Two lessons. A bug can
# hide behind a good number. And a comparison says something about the setting it was made in, no more.

# %% [markdown]
# ## 1.4 Training mode and evaluation mode
#
# Some layers behave differently at inference. **Batch norm** in training mode subtracts the mean of the *batch*
# from each channel and divides by its standard deviation; in evaluation mode it uses averages from training. **Dropout** (chapter 2) switches
# features off at random in training mode only. `model.train()` and `model.eval()` switch all such layers.
#
# ### Predict
#
# You have a trained network and measure it with batches of a single image, but forget `model.eval()`. Will the accuracy be
# `"higher"`, `"the same"` (within 0.05) or `"lower"`?

# %% tags=["predict"]
my_accuracy_in_training_mode = ...


# %% tags=["experiment"]
def evaluated(seed, *, training, batch_size=256):
    """Return the accuracy in one of the two modes.

    It evaluates a copy, because a forward pass in training mode changes the model.
    """
    model = copy.deepcopy(trained[seed]).train(training)
    return accuracy(model, signs(seed).valid, batch_size=batch_size)


def in_training_mode(batch_size):
    return lambda seed: evaluated(seed, training=True, batch_size=batch_size)


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
        "eval mode": lambda seed: evaluated(seed, training=False),
        "train mode, 1 image": in_training_mode(1),
        "train mode, 2 images": in_training_mode(2),
        "train mode, 64 images": in_training_mode(64),
    },
    seeds=5,
    metric="valid_acc",
)
modes.plot(
    message="In training mode, accuracy collapses when the batch is small."
)

# %% tags=["claim"]
print(modes.claim("eval mode", ">", "train mode, 1 image", by=0.2))
print(modes.claim("eval mode", ">", "train mode, 2 images", by=0.05))

# %% [markdown]
# The network was trained with the statistics of 64 images, and now it gets those of a single one. It has
# never seen features that were normalised like this. With two images there is still a large loss. In
# evaluation mode the batch size plays no role, because the statistics are fixed.
#
# With batches of 64 the statistics are like those of training, and the mistake hardly shows:

# %%
print("eval mode - train mode, 64 images:")
print(modes.difference("eval mode", "train mode, 64 images"))

# %% [markdown]
# Here the mistake even flatters the network: the statistics of 64 images at hand serve it better than running
# averages that lag behind weights which still move fast. Don't take comfort from that. In training mode the
# prediction for an image depends on its neighbours in the batch, and every evaluation moves the running
# averages, so evaluating the network changes it.

# %%
model = copy.deepcopy(trained[0])
running_mean = model.stem[1].running_mean
before = running_mean.clone()
accuracy(model.eval(), data.valid)
assert torch.equal(before, running_mean)  # evaluation mode: nothing moved
accuracy(model.train(), data.valid)
assert not torch.equal(before, running_mean)  # training mode: it moved

# %% [markdown]
# ## 1.5 The same loop, kept for you
#
# From the next chapter on you use `Trainer`. It is the loop above, with the things that go wrong in practice taken care
# of: metrics, a schedule for the rate, clipping, checkpoints, a clean stop. To see that it is no more than that, train with both
# from the same seed and compare the weights bit by bit.

# %%
torch.manual_seed(0)
model = cnnlab.small_resnet(num_classes=len(data.classes))
optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
trainer = cnnlab.Trainer(model, optimizer, seed=0, device="cpu")
history = trainer.fit(
    cnnlab.loader(data.train, batch_size=64, shuffle=True, seed=0),
    cnnlab.loader(data.valid, batch_size=256),
    epochs=6,
)

weights, weights_by_hand = model.state_dict(), by_hand.state_dict()
assert all(
    torch.equal(weights[name], weights_by_hand[name]) for name in weights
)
print(f"{len(weights)} tensors, all equal to the last bit")

# %%
history.plot()

# %% [markdown]
# Read such curves from left to right. The training loss falls as long as there is something left to fit. The validation loss
# falls more slowly; where it turns up while the training loss falls on, the network learns details of the training images
# that other images do not share: it **overfits** (chapter 6).
#
# The training accuracy is the mean over an epoch *while the weights moved*, the validation accuracy is measured at its end.
# In a fast first epoch the validation accuracy can therefore be the higher one.
#
# The file `cnnlab/trainer.py` is meant to be read. Write `cnnlab.Trainer??` into a cell of your own and Jupyter shows it
# beside this page: `fit`, `_train_epoch` and `_update` are the whole loop.

# %% tags=["check"]
check.score(
    {
        "Accuracy without zero_grad?": (
            my_accuracy_without_zero_grad,
            float(forgotten.values("without").mean()),
        ),
        "Training mode with single images: higher, the same or lower?": (
            my_accuracy_in_training_mode,
            "lower",
        ),
    }
)

# %% [markdown]
# ## Exercises
#
# ### Exercise 1: `train_one_epoch` (easy, 10 minutes)
#
# Write the body. The function makes one pass over the loader, with one optimizer step a batch, and returns the mean loss
# *over the samples* as a number. It may be handed a model that was just measured.


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
# The last batch can be shorter than the others. A mean of batch means gives its samples too much weight.
#
# </details>
#
# <details>
# <summary><b>Hint: the weights do not move</b></summary>
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
# ### Exercise 2: `evaluate` (easy, 10 minutes)
#
# Write a function that returns the share of right answers over all samples of a loader. Measuring must leave no trace in the
# model's statistics, and needs no gradients.


# %% tags=["exercise"]
def evaluate(model, loader):
    """Return the share of right answers, between 0 and 1."""
    raise NotImplementedError


# %% tags=["check"]
check.evaluate(evaluate)

# %% [markdown] tags=["hint"]
# <details>
# <summary><b>Hint: right with full batches, wrong with the last one</b></summary>
#
# Add up the right answers and the samples, and divide once at the end.
#
# </details>
#
# <details>
# <summary><b>Hint: every call gives another number</b></summary>
#
# Which mode is the model in when your function gets it?
#
# </details>


# %% tags=["solution", "hide-cell"]
# Solution
def evaluate(model, loader):
    """Return the share of right answers, between 0 and 1."""
    model.eval()
    correct, count = 0, 0
    with torch.no_grad():
        for images, labels in loader:
            correct += (model(images).argmax(dim=1) == labels).sum().item()
            count += len(labels)
    return correct / count


check.evaluate(evaluate)

# %% [markdown]
# ### Exercise 3: `split` (easy, 8 minutes)
#
# Your own data come in one heap of `n` images. Return three lists of indices: for training, for validation (`n_valid` of
# them) and for testing (`n_test`). The seed alone decides which image goes where.


# %% tags=["exercise"]
def split(n, n_valid, n_test, seed):
    """Return the indices of the training, validation and test part."""
    raise NotImplementedError


# %% tags=["check"]
check.split(split)

# %% [markdown] tags=["hint"]
# <details>
# <summary><b>Hint: an index is in two parts, or in none</b></summary>
#
# Bring all indices into one order, then cut that order in three.
#
# </details>
#
# <details>
# <summary><b>Hint: the same seed gives other parts</b></summary>
#
# `torch.randperm` takes a `generator`. Make one, and give it the seed.
#
# </details>


# %% tags=["solution", "hide-cell"]
# Solution
def split(n, n_valid, n_test, seed):
    """Return the indices of the training, validation and test part."""
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(n, generator=generator).tolist()
    n_held = n_valid + n_test
    return order[n_held:], order[:n_valid], order[n_valid:n_held]


check.split(split)

# %% [markdown]
# ## Make it bigger
#
# The same call on CIFAR-10, fifty thousand real photographs. It downloads 170 MB once and wants a GPU, so it runs only when
# the environment variable `CNNLAB_PROFILE` is `gpu`.

# %% tags=["bigger"]
if lab.profile == "gpu":
    photos = cnnlab.load("cifar10", download=True)
    model = cnnlab.small_resnet(num_classes=10, width=32, depth=3)
    trainer = cnnlab.Trainer(
        model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    )
    trainer.fit(
        cnnlab.loader(photos.train, 128, shuffle=True),
        cnnlab.loader(photos.valid, 512),
        epochs=15,
    )
else:
    print("left out: set CNNLAB_PROFILE=gpu to run it")

# %% [markdown]
# ## Key points
#
# - One step: clear the gradients, compute the loss, go backwards, move the weights.
# - An epoch is one pass in a new order. Metrics of an epoch are means over *samples*.
# - Fit weights on the training part, decisions on the validation part, and open the test part once.
# - `model.train()` before an epoch, `model.eval()` before every measurement.
# - A fresh network has a loss near $\log K$.
# - One run is an anecdote; five seeds and an interval are evidence, for the setting they were made in. Write
#   down what you claim before you run.
#
# ## Common mistakes
#
# | what you see | what it often is |
# |---|---|
# | the loss jumps around or explodes from the start | no `zero_grad`, or far too large a rate |
# | the loss does not move at all | gradients cleared before `step`, or the optimizer holds another model's weights |
# | validation numbers change when you measure twice | no `model.eval()` |
# | accuracy depends on the batch size of the measurement | no `model.eval()`, or a mean of batch means |
# | great validation numbers, disappointing in use | decisions were fitted to the validation part |
#
# ## References
#
# - H. Robbins and S. Monro, *A stochastic approximation method*, 1951, [doi:10.1214/aoms/1177729586](https://doi.org/10.1214/aoms/1177729586)
# - L. Bottou, F. Curtis and J. Nocedal, *Optimization methods for large-scale machine learning*, 2018, [arXiv:1606.04838](https://arxiv.org/abs/1606.04838)
# - K. He, X. Zhang, S. Ren and J. Sun, *Deep residual learning for image recognition*, 2016, [arXiv:1512.03385](https://arxiv.org/abs/1512.03385)
# - S. Ioffe and C. Szegedy, *Batch normalization*, 2015, [arXiv:1502.03167](https://arxiv.org/abs/1502.03167)

# %% [markdown] tags=["instructor", "remove-cell"]
# ## When you are short of time
#
# Show 1.2 and 1.4 at the board and run 1.5; leave 1.1 for reading at home. Exercise 2 is the one to keep: `eval()` and
# the mean over samples come back in every chapter.
#
# ## Questions for the room
#
# - Why is a mean of batch means wrong only when the last batch is short? Construct a case in which it is badly wrong.
# - The hand-written loop and the `Trainer` end with equal weights. What would be the first thing to break this
#   equality: dropout, another order, another thread count?
# - Who is allowed to look at the test part, and when?
