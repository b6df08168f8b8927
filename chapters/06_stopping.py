# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 6. Knowing when to stop, and averaging
#
# You've trained a network on labels of which 40 % are wrong. Its accuracy on new images is 51 %. Now you train it
# again with the same data and settings, but you keep the weights of the best epoch instead of the last. That gives
# 57 %. Then you also keep a running average of the weights, which costs one line of code, and take *that* from its best
# epoch. That gives 65 %. Nothing about the training has changed. All fourteen points come from choosing which weights
# to keep.
#
# This chapter is about that choice: when a run is over, which of its weights you take home, and what you can gain by
# averaging, over the steps of one run or over several networks.
#
# **You will be able to** recognise overfitting in a curve, write early stopping with all its corner cases, resume a run to
# the last bit, keep a moving average of the weights, say when an ensemble is worth its price, and merge two independent
# networks into one.
#
# | | |
# |---|---|
# | to read | 30 minutes |
# | exercises | 85 minutes |
# | to run | 40 seconds on one core of a laptop; no internet, no GPU |
# | you need | chapters 1 and 2; chapter 5 helps |

# %% tags=["setup"]
import copy
import tempfile
from functools import lru_cache
from pathlib import Path

import pandas as pd
import torch
import torch.nn.functional as F
from studies.common import (
    ALONE,
    MATCHED,
    MATCHED_STALE,
    PREDICTIONS,
    STALE,
    WEIGHTS,
    merge_two,
    seeded_resnet,
    sgd,
    train_and_average,
    wrong_label_curves,
)

import cnnlab
from cnnlab import check, checkpoint, diagrams, plots
from cnnlab import schedules, widgets
from cnnlab.averaging import EMA
from cnnlab.callbacks import Checkpoint, EarlyStopping, replay
from cnnlab.experiment import (
    Claim,
    Declaration,
    Results,
    compare_declared,
    fresh_data,
)

lab = cnnlab.setup(seed=0)


def signs(seed):
    return cnnlab.load(
        "pocket", seed=seed, n_train=480, n_valid=480, n_test=480
    )


data = signs(0)
valid = cnnlab.loader(data.valid, 256)
test = cnnlab.loader(data.test, 256)
noisy = cnnlab.data.label_noise(data.train, rate=0.4, seed=0)

# %% [markdown]
# ## 6.1 Where the choice matters: wrong labels
#
# Real labels contain mistakes, and here there are many: two training labels in five are wrong. The labels for validation
# and test are correct. Here are some of the signs that the network is supposed to learn from.

# %% tags=["hide-input"]
mislabelled = (noisy.labels != noisy.clean_labels).nonzero().flatten()[:8]
plots.image_grid(
    noisy.images[mislabelled],
    [f"labelled: {data.classes[k]}" for k in noisy.labels[mislabelled]],
    columns=8,
    alt="Eight traffic signs with wrong labels",
    message="Two in five training signs come with a wrong label.",
)

# %% [markdown]
# The rule that links a sign to its name explains many images at once, so gradient descent finds it early. A wrong label
# follows no rule. It can only be **memorised**, image by image, and that comes later
# ([Arpit et al. 2017](https://arxiv.org/abs/1706.05394)). So somewhere in the middle of the run lies a network that has
# learnt the rule and not yet the mistakes. We compare three ways to choose the final weights:
#
# - the **last epoch**;
# - **early stopping**: end the run when the validation accuracy stops improving, and go back to its best epoch;
# - **EMA, early stopping**: the same, but for an *exponential moving average* of the weights, which section 6.5 explains.
#
# ### Predict
#
# By how many points does the third choice beat the first on the test set?

# %% tags=["predict"]
my_points_for_choosing = ...  # a number of points; 1 point is 0.01


# %% tags=["experiment"]
@lru_cache  # one run serves all three choices
def curves_of(seed):
    return wrong_label_curves(signs(seed), seed, epochs=10, decay=0.97)


def last_epoch(seed):
    return curves_of(seed).test_acc.iloc[-1]


def early_stopped(seed):
    curve = curves_of(seed)
    _, best = replay(curve.valid_acc, "max", patience=4)
    return curve.test_acc[best]


def ema_early_stopped(seed):
    curve = curves_of(seed)
    _, best = replay(curve.ema_valid_acc, "max", patience=4)
    return curve.ema_test_acc[best]


choosing = compare_declared(
    Declaration(
        "Which weights should you keep when labels are wrong?",
        claims=[Claim("EMA, early stopping", ">", "last epoch")],
        unit=fresh_data(),
        unequal={
            "early stopping": "it uses the validation labels to choose",
            "EMA, early stopping": "it uses the validation labels to choose",
        },
    ),
    {
        "last epoch": last_epoch,
        "early stopping": early_stopped,
        "EMA, early stopping": ema_early_stopped,
    },
    seeds=5,
    metric="test_acc",
)
noisy_study = Results.load("studies/06_noisy_labels.csv")
choosing.plot(
    noisy_study,
    message="With 40 % wrong labels, the choice of the weights is worth "
    "fourteen points.",
)

# %% [markdown]
# A run with early stopping is the beginning of the same run without it. So we let each run go to its end, and `replay`
# reads off where it would have stopped. The coloured marks are your five live runs. The grey ones are the stored study
# `studies/06_noisy_labels.py`, with eight seeds, twice as many images and sixteen epochs. Each seed draws its own images
# and its own wrong labels, and the claims were declared before it ran.

# %% tags=["claim"]
print(noisy_study.claim("early stopping", ">", "last epoch"))
print(
    noisy_study.claim("EMA, early stopping", ">", "early stopping", by=0.03)
)

# %% tags=["check"]
gained = noisy_study.difference("EMA, early stopping", "last epoch")[0]
check.prediction(
    "What do stopping and EMA gain with wrong labels?",
    my_points_for_choosing,
    100 * gained,
    within=5,
    unit="points",
)

# %% tags=["hide-input"]
recorded = pd.read_csv("studies/06_noisy_labels_curves.csv")
constant_rate = recorded[recorded.schedule == "constant"]
mean = constant_rate.groupby("epoch").mean(numeric_only=True)
# Right on 60 % of the labels as often as on new images, else by chance.
unmemorised = 0.6 * mean.test_acc + 0.4 * (1 - mean.test_acc) / 11
plots.lines(
    mean.index.tolist(),
    {
        "test, correct labels": mean.test_acc.tolist(),
        "training, 40 % wrong labels": mean.train_acc.tolist(),
        "training, if nothing were memorised": unmemorised.tolist(),
    },
    xlabel="finished epochs",
    ylabel="accuracy (mean of eight runs)",
    message="Test accuracy peaks early, falls while wrong labels are "
    "memorised, and rises again.",
)

# %% [markdown]
# Read this figure slowly, because it holds half the chapter. A network that learnt the signs and memorised nothing would agree
# with the training labels as often as the lowest line says. From the third epoch on, the real training accuracy is clearly above that
# line, and the gap is memorisation. The test accuracy peaks in epoch 4 and then falls by eleven points.
#
# That is **overfitting**: the network still improves on its training images while it gets worse on new ones. Before the peak it
# was **underfitting**, because both curves were still rising. To tell them apart you need three curves: the training loss, the training
# accuracy, and the validation accuracy.
#
# Did you notice the end? After epoch 12 the test accuracy *rises* again, by seven points. This is **epoch-wise double descent**
# ([Nakkiran et al. 2019](https://arxiv.org/abs/1912.02292)): the error falls, rises, and falls a second time. It's typical of large
# networks with noisy labels, and it's worst around the time when the network just manages to fit everything. The second descent doesn't reach
# the first peak here. But it shows that "validation accuracy fell, so the rest of the run is useless" is a rule of thumb, not a law.

# %% [markdown]
# ## 6.2 Early stopping, exactly
#
# **Early stopping** watches a metric $m_t$, measured after each epoch $t$. If large values are good,
#
# $$ \text{epoch } t \text{ improves} \iff m_t > b + \delta, \qquad
# b = \text{the value of the last epoch that improved}, $$
#
# and the run ends after $p$ epochs in a row without improvement. This involves four choices:
#
# - the **mode**: is large good (an accuracy) or small (a loss)?
# - the **patience** $p$: a small one saves time, a large one tolerates noise. In long runs, 10 to 20 epochs are usual.
# - **`min_delta`** $\delta$: smaller gains don't reset the patience counter.
# - **what to restore**. In `cnnlab`, it's the epoch with the best value, however small its lead, so $\delta$ plays no role there.
#
# Try it by hand first. When does each run end, and which epoch is restored?

# %%
by_hand = [0.50, 0.60, 0.58, 0.62, 0.61, 0.63, 0.60, 0.66]
for patience, min_delta in ((1, 0), (2, 0), (2, 0.05), (4, 0.05)):
    stop, best = replay(by_hand, "max", patience, min_delta)
    print(
        f"patience {patience}, min_delta {min_delta}: "
        f"ends after index {stop}, restores index {best}"
    )

# %% [markdown]
# ### Exercise 1: `early_stopping` (medium, 20 minutes)
#
# `values` holds what would be measured after each epoch. Return two indices into it, counted from 0: after which evaluation training ends (the
# last one if nothing stops it), and which evaluation is restored. The rules are those above, and:
#
# - NaN never improves, and it counts as an evaluation without improvement;
# - a tie is no improvement, and the earlier one is restored;
# - the best is restored whether or not the run was stopped;
# - evaluations after the stop never take place.
#
# `patience` is at least 1, and at least one value up to the stop is a number.


# %% tags=["exercise"]
def early_stopping(values, patience, min_delta, mode):
    """Return (stop, best): where training ends, and what is restored."""
    raise NotImplementedError


# %% tags=["check"]
check.early_stopping(early_stopping)

# %% [markdown] tags=["hint"]
# <details>
# <summary><b>Hint: right without min_delta, wrong with it</b></summary>
#
# You need two best values: one that patience compares with, and one for restoring. They follow different rules.
#
# </details>
#
# <details>
# <summary><b>Hint: wrong when a NaN comes first</b></summary>
#
# Every comparison with NaN is False. Which starting value is beaten by any number?
#
# </details>
#
# <details>
# <summary><b>Hint: two modes, twice the code</b></summary>
#
# A small loss is a large negative loss.
#
# </details>


# %% tags=["solution", "hide-cell"]
# Solution
def early_stopping(values, patience, min_delta, mode):
    """Return (stop, best): where training ends, and what is restored."""
    sign = 1 if mode == "max" else -1
    best, best_score = 0, -float("inf")  # for restoring
    to_beat, bad = -float("inf"), 0  # for the patience
    for i, value in enumerate(values):
        score = sign * value
        if score > best_score:
            best, best_score = i, score
        if score > to_beat + min_delta:
            to_beat, bad = score, 0
        else:
            bad += 1
        if bad == patience:
            return i, best
    return len(values) - 1, best


check.early_stopping(early_stopping)

# %% [markdown]
# The mean of eight runs is smooth. You will see one run, and it looks like the next figure. Move the patience: with 1 you stop at the first
# hiccup, with a large one you pay for epochs that bring nothing, though you still keep the best weights.

# %% tags=["widget"]
one_run = constant_rate[constant_rate.seed == 6]
widgets.early_stopping(
    one_run.valid_acc.tolist(), judged=one_run.test_acc.tolist()
)

# %% [markdown]
# In a real run you pass the callback `EarlyStopping("valid_acc", mode="max", patience=4)` to the `Trainer`. It stops the run, restores the best weights, and reports why.
#
# Other libraries differ in details that have cost people days. All of them restore the best weights only if you ask:
#
# | | what it restores | what to watch for |
# |---|---|---|
# | Keras 2 | with `restore_best_weights=True`, the best epoch, but only if the callback itself ended the run | if the epochs run out first, you get the last weights without a word |
# | Keras 3 | with `restore_best_weights=True`, always | "best" means the last epoch that improved by more than `min_delta`; `patience` is 0 unless you set it |
# | PyTorch Lightning | nothing | add `ModelCheckpoint(monitor=..., mode=...)` and load its `best_model_path`; the mode is "min" unless you set it |
#
# Prechelt ([1998](https://doi.org/10.1007/3-540-49430-8_3)) compared hasty and slow criteria on twelve problems. The slow ones generalised
# about 4 % better on average, and they trained about four times as long.
#
# ### The best of many is partly luck
#
# Evaluate a network that is correct in 60 of 100 cases on 480 images, and the result has a standard deviation of $\sqrt{0.6 \cdot 0.4 / 480} \approx 0.022$.
# Now keep the best of sixteen such evaluations. How good does it look?

# %%
generator = torch.Generator().manual_seed(0)
correct = torch.rand(1000, 16, 480, generator=generator) < 0.6
best_of_16 = correct.float().mean(dim=2).max(dim=1).values
print(f"true accuracy 0.600, best of sixteen {best_of_16.mean():.3f}")
del correct

# %% [markdown]
# All sixteen are equally good, yet the best one looks four points better. In a real run the images are the same in each epoch, so the luck is smaller, but it
# points the same way. So a stop that was *chosen* on the validation set is *judged* on the test set.
#
# ## 6.3 Where it doesn't matter: a well-chosen learning rate
#
# So far the learning rate was 0.05, and constant. That suits the moving average, but for the live weights it's much too large: of five constant learning rates, 0.005
# was best (tried on other seeds, 100 and 101).
#
# ### Predict
#
# With a constant learning rate of 0.005, by how many points does early stopping change the test accuracy?

# %% tags=["predict"]
my_points_with_a_good_rate = ...  # a number of points, negative if it hurts

# %% tags=["claim", "hide-input"]
settings = (
    "last epoch",
    "lr 0.005, last epoch",
    "lr 0.005, early stopping",
    "cosine, last epoch",
    "cosine, early stopping",
    "EMA, early stopping",
    "cosine, all labels",
)
by_variant = noisy_study.frame().groupby("variant", sort=False)
columns = ["test_acc", "labels", "epochs_trained"]
table = by_variant[columns].mean().loc[list(settings)]
ends = recorded[recorded.epoch == recorded.epoch.max()]
fitted_labels = ends.groupby("schedule").train_acc.mean()
print("training accuracy at the end (1 means: all memorised)")
print(fitted_labels.round(2).to_string(header=False), "\n")
print(
    noisy_study.claim(
        "cosine, early stopping", "~", "cosine, last epoch", by=0.02
    )
)
at_005 = ("lr 0.005, early stopping", "lr 0.005, last epoch")
print("stopping at 0.005:", noisy_study.difference(*at_005), "(exploratory)")
print(
    noisy_study.claim("EMA, early stopping", ">", "lr 0.005, early stopping")
)
print(noisy_study.verdict("EMA, early stopping", ">", "cosine, all labels"))
table.round(3)

# %% tags=["check"]
check.prediction(
    "What does stopping gain at a learning rate of 0.005?",
    my_points_with_a_good_rate,
    100 * noisy_study.difference(*at_005)[0],
    within=2,
    unit="points",
)

# %% [markdown]
# There was nothing to rescue. With 0.05, the network fits 97 % of its labels by the end. With 0.005, or with a cosine from 0.01, it fits about 69 %, so
# most wrong labels haven't been memorised yet. The smaller steps have done the stopping already. The same holds wherever late training does
# no harm, as with many correct labels: there, early stopping only saves time.
#
# Is an EMA with early stopping then the best you can do? We thought so, and declared two claims. It beats early stopping at 0.005: that holds. It beats a cosine that may train on *all* labels, the 240 validation labels
# included: that's wrong. The run that spends the 240 labels on training is ahead by 2.5 points (0.9 to 4.2). Those labels are correct, and 384
# of the other 960 aren't, so they are worth a lot. **A validation set is part of the price of early stopping.** You can't do without one, because something
# has to choose the settings, but count its labels when you compare two methods.
#
# ## 6.4 Checkpoints: stop today, resume tomorrow
#
# A **checkpoint** is a file from which a run can continue. To *predict*, the weights and the batch-norm statistics are enough. To *resume exactly*, you need everything that
# the next step depends on: also the optimizer's momenta, the position in the schedule, the moving average, the counts of epochs and steps, what callbacks
# remember, and which images come next.
#
# How do you know that nothing is missing? You compare with a run that was never stopped, to the last bit. Below, a run stops in the middle of its third epoch.
# We build everything again, as after a crash, and continue from the folder.


# %% tags=["experiment"]
class StopAt(cnnlab.Callback):
    """End the fit after a step, like a power cut, but politely."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, trainer):
        if trainer.step == self.step:
            raise cnnlab.StopTraining(f"step {self.step}")


def build(*callbacks):
    """Build what a script builds when it starts."""
    model = seeded_resnet(0, len(data.classes))
    optimizer = sgd(model, 0.1)
    batches = cnnlab.loader(data.train, 32, shuffle=True, seed=0)
    trainer = cnnlab.Trainer(
        model,
        optimizer,
        scheduler=cnnlab.attach(
            optimizer, schedules.cosine(4 * len(batches))
        ),
        ema=EMA(model, decay=0.97),
        callbacks=callbacks,
        seed=0,
        device="cpu",
        progress=False,
    )
    return trainer, batches


uninterrupted, batches = build()
uninterrupted.fit(batches, valid, epochs=4)

with tempfile.TemporaryDirectory() as folder:
    middle = 5 * len(batches) // 2  # in the middle of the third epoch
    first, batches = build(StopAt(middle), Checkpoint(folder, keep=2))
    first.fit(batches, valid, epochs=4)
    print("files:", sorted(path.name for path in Path(folder).iterdir()))
    contents = checkpoint.load(checkpoint.numbered(folder, middle))
    print("in the newest:", ", ".join(contents))

    second, batches = build(Checkpoint(folder, keep=2))
    second.load(folder)  # the newest file that is whole
    second.fit(batches, valid, epochs=4)


def equal(model, other):
    """Tell whether two models have the same state to the last bit."""
    state, others = model.state_dict(), other.state_dict()
    return all(torch.equal(state[name], others[name]) for name in state)


print("weights equal: ", equal(uninterrupted.model, second.model))
print("averages equal:", equal(uninterrupted.ema.model, second.ema.model))

# %% [markdown]
# One thing is missing from the file on purpose: the state of random generators. In `cnnlab`, the seed, the epoch and the step determine every random draw, so there's nothing
# to save. Where a framework draws from a running generator, its state belongs in the checkpoint, as does that of every data-loading worker.
#
# Two habits protect you from a crash *while writing*. Write a new file before you delete the old one, and notice damaged files when you load them. And never switch `torch.load`'s `weights_only` off for
# a checkpoint from the internet, because then the file may run code.
#
# ### Exercise 2: find the bugs in the textbook (open, 25 minutes)
#
# This loop is modelled on published lecture notes. It runs, it stops, and it reports an accuracy. How many things are wrong with it?
#
# ```python
# class Stopper:
#     def __init__(self, patience=10, min_delta=0.001):
#         self.patience, self.min_delta = patience, min_delta
#         self.best, self.counter, self.stop = None, 0, False
#
#     def update(self, loss):
#         if self.best is None:
#             self.best = loss
#         elif loss > self.best - self.min_delta:
#             self.counter += 1
#             self.stop = self.counter >= self.patience
#         else:
#             self.best, self.counter = loss, 0
#
# def fit(model, train_loader, valid_loader, epochs):
#     stopper, best_acc = Stopper(), 0.0
#     for epoch in range(epochs):
#         train_one_epoch(model, train_loader)
#         losses, accuracy = evaluate(model, valid_loader)  # one loss per batch
#         if accuracy > best_acc:
#             best_acc = accuracy
#             torch.save(model.state_dict(), "best.pt")
#         stopper.update(sum(losses) / len(losses))
#         if stopper.stop:
#             break
#     return best_acc
# ```
#
# | points | for |
# |---|---|
# | 2 | what one NaN does to `best` and `counter` (try the losses `[1.0, nan, 5.0, 4.0, 3.0]`), and what a run of NaN does |
# | 2 | "best" means two different things here; a curve on which they disagree |
# | 2 | which weights the caller's `model` has afterwards, and a one-line fix |
# | 2 | what is wrong with publishing `best_acc`; what to report instead |
# | 1 | the mean of the batch losses (chapter 1) |
# | 1 | what `best.pt` lacks if you want to resume from it |

# %%
# Your experiment: copy the class, and feed it curves of your own.

# %% [markdown]
# ## 6.5 Averaging weights over the steps of a run
#
# At a constant learning rate the weights never come to rest. Each batch kicks them around a slowly moving centre, and an average over the last steps lies closer to that centre than any
# single step does ([Polyak & Juditsky 1992](https://doi.org/10.1137/0330046)). The **exponential moving average** (EMA) needs one copy of the weights, which moves a little
# after each optimizer step, just as batch norm's running statistics do:
#
# $$ \bar{w} \leftarrow d_t \, \bar{w} + (1 - d_t) \, w, \qquad d_t = \min\!\left(d, \frac{1 + t}{10 + t}\right), $$
#
# where $t$ counts the finished updates and is 0 at the first. The **decay** $d$ is close to 1. Why the minimum? With a constant $d = 0.999$, the random initial weights would still make up 60 % of the average
# after 500 steps. With the rising one they're gone after a few dozen.
#
# How large should $d$ be? The average spans about $1 / (1 - d)$ steps, which carry 63 % of its weight. Decide how many *epochs* you want to span, and work backwards: with 30 steps per epoch and two
# epochs, $d = 1 - 1/60 \approx 0.983$. The usual 0.999 or 0.9999 is meant for runs of many thousand steps.
#
# ### Exercise 3: `ema_update` (medium, 15 minutes)
#
# Write one update, in place. `average` and `model` are modules of the same architecture. Blend the parameters with the formula above, and *copy* the **buffers**: tensors such as batch norm's running statistics that belong
# to the state of a module but aren't trained. `step` is $t$. Leave `model` as it is.


# %% tags=["exercise"]
def ema_update(average, model, step, decay):
    """Move the weights of `average` towards the model's; copy buffers."""
    raise NotImplementedError


# %% tags=["check"]
check.ema_update(ema_update)

# %% [markdown] tags=["hint"]
# <details>
# <summary><b>Hint: nothing changes</b></summary>
#
# In `for old in average.parameters(): old = ...` the name `old` gets a new value, and the module keeps its tensor. `old.copy_(...)` writes into it.
#
# </details>
#
# <details>
# <summary><b>Hint: right late in the run, wrong at its beginning</b></summary>
#
# The decay that counts is the smaller of `decay` and a number that depends on the step.
#
# </details>
#
# <details>
# <summary><b>Hint: the weights require gradients now</b></summary>
#
# The parameters of `model` require gradients, so autograd records what you compute from them, unless you tell it not to.
#
# </details>


# %% tags=["solution", "hide-cell"]
# Solution
@torch.no_grad()
def ema_update(average, model, step, decay):
    """Move the weights of `average` towards the model's; copy buffers."""
    d = min(decay, (1 + step) / (10 + step))
    for old, new in zip(
        average.parameters(), model.parameters(), strict=True
    ):
        old.copy_(d * old + (1 - d) * new)
    for old, new in zip(average.buffers(), model.buffers(), strict=True):
        old.copy_(new)


check.ema_update(ema_update)

# %% [markdown]
# **Stochastic weight averaging** (SWA, [Izmailov et al. 2018](https://arxiv.org/abs/1803.05407)) takes the *equal* average of the weights at the end of each epoch, from some epoch on.
# Here batch norm sets a trap. Its statistics were collected while *other* weights produced the features. An EMA stays so close to the live model that its statistics serve well enough. For SWA they
# don't fit, and you have to collect them again with one pass over the training images: `averaging.update_bn`.
#
# ### Predict
#
# All labels are correct now, and the learning rate is constant. At the end of the run, by how many points does the EMA beat the live weights?

# %% tags=["predict"]
my_points_for_the_ema = ...  # a number of points


# %% tags=["experiment"]
def averages_of(seed):
    _, metrics = train_and_average(
        seed, n_train=480, n_valid=480, epochs=8, decay=0.97
    )
    return metrics


def live(seed):
    return averages_of(seed)["live"]


def ema(seed):
    return averages_of(seed)["EMA"]


def swa(seed):
    return averages_of(seed)["SWA"]


def swa_stale(seed):
    return averages_of(seed)[STALE]


averages = compare_declared(
    Declaration(
        "Is an average better than the live weights, at a constant rate?",
        claims=[Claim("constant, EMA", ">", "constant, live")],
        unit=fresh_data(),
    ),
    {
        "constant, live": live,
        "constant, EMA": ema,
        "constant, SWA": swa,
        f"constant, {STALE}": swa_stale,
    },
    seeds=3,
    metric="valid_acc",
)
averages_study = Results.load("studies/06_averages.csv")
averages.plot(
    averages_study,
    message="At a constant learning rate, an average beats the live weights, "
    "if its batch-norm statistics fit.",
)

# %% tags=["claim"]
print(averages_study.verdict("constant, EMA", ">", "constant, live", by=0.01))
print(averages_study.verdict("constant, SWA", ">", "constant, live", by=0.01))
print(averages_study.claim("constant, SWA", ">", f"constant, {STALE}"))
print(averages_study.claim("cosine, EMA", "~", "cosine, live", by=0.01))
print(averages_study.claim("cosine, SWA", "~", "cosine, live", by=0.01))

# %% tags=["check"]
check.prediction(
    "What does the EMA gain with correct labels?",
    my_points_for_the_ema,
    100 * averages_study.difference("constant, EMA", "constant, live")[0],
    within=1,
    unit="points",
)

# %% [markdown]
# Both averages gain 1.8 points, and both intervals lie above zero. They begin at 0.7 and 0.8, though, so the gain of *more than one point* that we had declared isn't shown. Without statistics of its own, SWA loses the whole gain.
#
# With wrong labels, the batches push harder, and the EMA shows what else it's good for: it calms the curve. The average change from one epoch to the next, the **wobble**, falls by 2.2 points.

# %% tags=["claim", "hide-input"]
print(noisy_study.on("wobble").claim("EMA, last epoch", "<", "last epoch"))
print(
    averages_study.on("wobble").verdict(
        "constant, EMA", "<", "constant, live"
    )
)
plots.lines(
    one_run.epoch.tolist(),
    {
        "validation (live weights)": one_run.valid_acc.tolist(),
        "EMA": one_run.ema_valid_acc.tolist(),
    },
    xlabel="finished epochs",
    ylabel="validation accuracy",
    message="With wrong labels, the EMA is calmer and better than the live "
    "weights.",
)

# %% [markdown]
# With correct labels the wobble shrinks by half a point (0.1 points more to 1.2 points less), which isn't enough to claim anything. A calm curve matters when you compare two ideas by their last
# epoch, because part of what you see is where the last batch happened to push the weights.
#
# ### What would change it
#
# The learning rate. Under a cosine the weights come to rest by themselves, and neither average changes the accuracy by as much as a point. So in twelve epochs of a small network, one of the two is enough.
#
# Don't generalise from that. In 2026 most long recipes use *both*: torchvision's recipe for ImageNet, detectors such as YOLO, and practically every diffusion model keep an EMA and evaluate with it.
# [Morales-Brotons et al. 2024](https://arxiv.org/abs/2411.18704) compared systematically, and found that an EMA needs less learning-rate decay and resists wrong labels better, as you saw in 6.1. The mean teacher
# ([Tarvainen & Valpola 2017](https://arxiv.org/abs/1703.01780)) even trains a network to agree with its own EMA. And an average needs no planned end, which is just what early stopping wants.
#
# ## 6.6 Averaging predictions
#
# Train several networks and average their predictions. The members of an **ensemble** make different mistakes, and where one is wrong the others outvote it. Networks that differ only in their seed are enough: a **deep
# ensemble** ([Lakshminarayanan et al. 2017](https://arxiv.org/abs/1612.01474)). Usually the probabilities are averaged:
#
# $$ \bar{p}_k(x) = \frac{1}{M} \sum_{m=1}^{M} p_k(x; w_m). $$
#
# You could also average the logits and take the softmax afterwards, which amounts to a geometric mean of the probabilities, rescaled to sum to 1.
#
# ### Predict
#
# Take four networks of this course, each trained for sixteen epochs. By how many points do the accuracies of the two ensembles differ?

# %% tags=["predict"]
my_points_between_ensembles = ...  # a number of points, 0 or more

# %% tags=["claim"]
ensembles = Results.load("studies/06_ensembles.csv")
ensemble_loss = ensembles.on("valid_loss")
LOGITS = "four long runs, logits averaged"
print(ensembles.claim("four long runs", "~", LOGITS, by=0.01))
print(
    "loss, probabilities - logits:",
    ensemble_loss.difference("four long runs", LOGITS),
)

# %% tags=["check"]
check.prediction(
    "How far apart are the two kinds of ensembles?",
    my_points_between_ensembles,
    100 * abs(ensembles.difference("four long runs", LOGITS)[0]),
    within=0.5,
    unit="points",
)

# %% [markdown]
# For the accuracy it doesn't matter, and the loss is slightly lower with probabilities (exploratory). So average probabilities, and don't argue with anybody who averages logits. Can't one overconfident member outvote the rest? It can, if you
# invent it: with logits (2, 0), (2, 0) and (0, 9), the mean of the probabilities follows the majority and the mean of the logits doesn't. But networks that were trained alike are about equally confident.
#
# ### What else could the budget have bought?
#
# An ensemble of four costs four trainings. A **snapshot ensemble** ([Huang et al. 2017](https://arxiv.org/abs/1704.00109)) takes its members from a single run: the learning rate falls along a cosine, jumps up again, and at the end of each cycle you keep a copy. The
# fair question is whether it beats other ways of spending the same epochs. In the stored study one budget is sixteen epochs, and each seed draws its own signs.

# %% tags=["claim", "hide-input"]
budgets = {
    "one long run": 1,
    "snapshot ensemble": 1,
    "its members": 1,
    "four short runs": 1,
    "four long runs": 4,
}
print(ensembles.claim("four long runs", ">", "one long run"))
print(ensembles.claim("four short runs", "<", "one long run", by=0.03))
print(ensembles.verdict("snapshot ensemble", "~", "one long run", 0.02))
print(
    ensemble_loss.verdict("snapshot ensemble", "<", "one long run", by=0.03)
)
pd.DataFrame(
    {
        "budgets": budgets,
        "accuracy": {n: ensembles.values(n).mean() for n in budgets},
        "loss": {n: ensemble_loss.values(n).mean() for n in budgets},
    }
).round(3)

# %% [markdown]
# - **Four budgets** buy 2.4 points and a much lower loss. Lecture notes promise "one to two per cent, whatever the task", and here that's about right.
# - **One budget, four short runs**: clearly worse, because no member had time to learn enough.
# - **One budget, snapshots**: in accuracy we can't tell. The estimate is 0.7 points behind a single long run, with an interval from 2.4 behind to 1.0 ahead. Beating its *average member* means little, because the first
#   snapshots are half-trained. The loss is probably lower (by 0.055; 0.003 to 0.107), but the margin of 0.03 that we had declared isn't supported.
#
# Remember the price at inference, too: an ensemble of four needs four passes for each prediction. Could one network hold the knowledge of all of them?
#
# ## 6.7 Averaging the weights of independent runs
#
# An EMA averages weights of *one* run, a few steps apart. Now take two networks like those of 6.6: the same images and architecture, but other initial weights and another order of the images. Each has an accuracy of about 0.80.
#
# ### Predict
#
# You average their *weights* and collect the batch-norm statistics again. What accuracy does the result have? (Guessing gives 0.08.)

# %% tags=["predict"]
my_accuracy_of_mean_weights = ...  # a number between 0 and 1


# %% tags=["experiment"]
def merged(seed):
    return merge_two(seed, n_train=480, n_valid=480, epochs=10)


def each_alone(seed):
    return merged(seed)[ALONE]


def of_weights(seed):
    return merged(seed)[WEIGHTS]


def of_matched_weights(seed):
    return merged(seed)[MATCHED]


def of_predictions(seed):
    return merged(seed)[PREDICTIONS]


merging = compare_declared(
    Declaration(
        "Can the weights of two independent runs be averaged?",
        claims=[Claim(MATCHED, ">", WEIGHTS)],
        unit=fresh_data(),
    ),
    {
        ALONE: each_alone,
        PREDICTIONS: of_predictions,
        WEIGHTS: of_weights,
        MATCHED: of_matched_weights,
    },
    seeds=3,
    metric="valid_acc",
)
matching_study = Results.load("studies/06_matching.csv")
merging.plot(
    matching_study,
    message="Averaging the weights destroys two good networks, unless their "
    "channels are matched first.",
)

# %% tags=["claim"]
print(matching_study.claim(MATCHED, ">", WEIGHTS, by=0.2))
print(matching_study.claim(MATCHED, "<", ALONE))
print(matching_study.claim(PREDICTIONS, ">", MATCHED, by=0.02))
print(matching_study.claim(MATCHED, ">", MATCHED_STALE))
on_gap = matching_study.on("gap")
print(on_gap.claim(f"width 32, {MATCHED}", ">", MATCHED))

# %% tags=["check"]
check.prediction(
    "Accuracy of the averaged weights of two runs?",
    my_accuracy_of_mean_weights,
    matching_study.values(WEIGHTS).mean(),
    within=0.1,
)

# %%
diagrams.averaged_weights()

# %% [markdown]
# The averaged predictions gained, and the averaged weights lost almost everything. The diagram shows why. The order of the hidden units, or of the channels in a convolutional network, is arbitrary: swap two of them,
# together with the weights that read them, and the network computes the same function. So two networks that solve the task alike almost never use the same channel for the same job.
#
# And it shows the remedy. **Match the channels first**, then average ([Singh & Jaggi 2020](https://arxiv.org/abs/1910.05653); *Git Re-Basin*, [Ainsworth et al. 2022](https://arxiv.org/abs/2209.04836)). Reordering the second
# network doesn't change what it computes, but it brings the average from 0.24 back to 0.74.
#
# ### Exercise 4: `match_units` (hard, 25 minutes)
#
# Do it for two-layer networks $x \mapsto U \, \mathrm{relu}(W x + b)$. Each network is a list `[incoming, bias, outgoing]` with $W$ (H, D), $b$ (H,) and $U$ (K, H). Return the second network with its hidden units reordered, as three tensors.
# Choose the order so that the total similarity is as large as possible, where the similarity of unit $i$ of the first network and unit $j$ of the second is the inner product of *all* their weights:
#
# $$ S_{ij} = \sum_d W^{(1)}_{id} W^{(2)}_{jd} + b^{(1)}_i b^{(2)}_j + \sum_k U^{(1)}_{ki} U^{(2)}_{kj} . $$
#
# Finding the best one-to-one assignment is a classic problem, and `scipy.optimize.linear_sum_assignment` solves it.


# %% tags=["exercise"]
def match_units(first, second):
    """Reorder the hidden units of the second network like the first's."""
    raise NotImplementedError


# %% tags=["check"]
check.match_units(match_units)

# %% [markdown] tags=["hint"]
# <details>
# <summary><b>Hint: my network computes something else</b></summary>
#
# A unit owns a row of `incoming`, an entry of `bias` and a *column* of `outgoing`. All three move together.
#
# </details>
#
# <details>
# <summary><b>Hint: the function is right, the order is wrong</b></summary>
#
# `linear_sum_assignment` looks for the *smallest* sum unless you say otherwise. It returns row and column indices; with rows in order, the columns are the order you need.
#
# </details>
#
# <details>
# <summary><b>Hint: three matrix products</b></summary>
#
# Each sum over $d$ or $k$ is a matrix product in which one factor is transposed. `torch.outer` gives the biases.
#
# </details>


# %% tags=["solution", "hide-cell"]
# Solution
def match_units(first, second):
    """Reorder the hidden units of the second network like the first's."""
    from scipy.optimize import linear_sum_assignment

    similarity = first[0] @ second[0].T
    similarity = similarity + torch.outer(first[1], second[1])
    similarity = similarity + first[2].T @ second[2]
    _, order = linear_sum_assignment(similarity.numpy(), maximize=True)
    incoming, bias, outgoing = second
    return incoming[order], bias[order], outgoing[:, order]


check.match_units(match_units)

# %% [markdown]
# For our residual network, `studies.common.match_channels` does the same for five groups of channels. A block and its shortcut must use the same order, because their outputs are added. It compares activations instead of
# weights, which the paper does too.
#
# ### What would change it
#
# Width. Wider networks have more channels to choose from, so each one finds a better partner. The matched average still loses 6.5 points at width 16 and 4.2 at width 32, so it's no replacement for an ensemble. Don't forget the batch-norm statistics either: without `update_bn`, the matched average stops at 0.38.
#
# In practice, people avoid the problem. Networks that were fine-tuned from the *same* pretrained weights are already matched, and their weights can be averaged directly. Such a **model soup** ([Wortsman et al. 2022](https://arxiv.org/abs/2203.05482)) often beats
# the best of its ingredients, at the price of one network at inference. It works because a run becomes insensitive to the order of the images early on, so all its continuations end in the same valley
# ([Frankle et al. 2020](https://arxiv.org/abs/1912.05671)). Today's merging of fine-tuned language models builds on the same fact.
#
# ## 6.8 In plain PyTorch
#
# `torch.optim.swa_utils` has `AveragedModel`, which is an EMA or an SWA depending on the function you give it. By default it copies the buffers, as ours does; `use_buffers=True` would average them. Its first update copies
# the weights. We mark the initial weights as the first average, so that it warms up exactly like `cnnlab`'s. For an SWA, call `AveragedModel(model)` without a function, and `swa_utils.update_bn(loader, average)` at the end.

# %% tags=["plain"]
from torch.optim.swa_utils import AveragedModel


class EarlyStopper:
    """Keep the best weights, and say when the patience has run out."""

    def __init__(self, patience, min_delta=0.0):
        self.patience, self.min_delta = patience, min_delta
        self.best = self.to_beat = -float("inf")
        self.bad_epochs, self.best_weights = 0, None

    def should_stop(self, accuracy, model):
        if accuracy > self.best:
            self.best = accuracy
            self.best_weights = copy.deepcopy(model.state_dict())
        self.bad_epochs += 1
        if accuracy > self.to_beat + self.min_delta:
            self.to_beat, self.bad_epochs = accuracy, 0
        return self.bad_epochs >= self.patience


def make_ema(model, decay):
    def blend(average, weight, n):
        d = min(decay, int(n) / (9 + int(n)))
        return average.lerp(weight, 1 - d)

    ema = AveragedModel(model, avg_fn=blend)
    ema.n_averaged += 1  # the initial weights
    return ema


def save_checkpoint(path, model, optimizer, epoch):
    state = {"model": model.state_dict(), "epoch": epoch}
    state["optimizer"] = optimizer.state_dict()
    torch.save(state, f"{path}.new")
    Path(f"{path}.new").replace(path)  # a crash leaves the old file


def load_checkpoint(path, model, optimizer):
    state = torch.load(path, map_location="cpu", weights_only=True)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return state["epoch"]


# %% [markdown]
# To update the EMA after each step without touching the loop of chapter 1, register it with the optimizer: `optimizer.register_step_post_hook(lambda *_: ema.update_parameters(model))`. At the end of training,
# `model.load_state_dict(stopper.best_weights)` restores the best epoch. Now compare all three with `cnnlab`: a run with an EMA, a run that is interrupted after one epoch and resumed, and a recorded curve.

# %%
fixed = list(cnnlab.loader(data.train, 32, shuffle=True, seed=0))


def new_run():
    net = seeded_resnet(0, len(data.classes))
    optimizer = sgd(net, 0.05)
    average = make_ema(net, decay=0.97)
    optimizer.register_step_post_hook(
        lambda *_: average.update_parameters(net)
    )
    return net, optimizer, average


def one_epoch(net, optimizer):
    net.train()
    for images, labels in fixed:
        optimizer.zero_grad()
        F.cross_entropy(net(images), labels).backward()
        optimizer.step()


net, optimizer, average = new_run()
one_epoch(net, optimizer)
with tempfile.TemporaryDirectory() as folder:
    save_checkpoint(f"{folder}/last.pt", net, optimizer, epoch=1)
    resumed, its_optimizer, _ = new_run()
    finished = load_checkpoint(f"{folder}/last.pt", resumed, its_optimizer)
one_epoch(net, optimizer)
one_epoch(resumed, its_optimizer)
assert finished == 1
assert equal(net, resumed)

ours = seeded_resnet(0, len(data.classes))
theirs = cnnlab.Trainer(
    ours,
    sgd(ours, 0.05),
    ema=EMA(ours, decay=0.97),
    device="cpu",
    progress=False,
)
theirs.fit(fixed, epochs=2)
assert equal(net, ours)
assert equal(average.module, theirs.ema.model)

stopper = EarlyStopper(patience=3, min_delta=0.01)
curve = one_run.valid_acc.tolist()
stops = [stopper.should_stop(accuracy, net) for accuracy in curve]
stop, best = replay(curve, "max", patience=3, min_delta=0.01)
assert stops.index(True) == stop
assert max(curve[: stop + 1]) == curve[best]
print("plain PyTorch and cnnlab agree to the last bit")

# %% [markdown]
# ## 6.9 Are you calibrated yourself?
#
# Probabilities are **calibrated** if about 80 % of the predictions made with 80 % confidence are correct (chapter 4). Ask the same of yourself. Write your confidence behind a guess, for example `my_guess = 0.4, 0.8` if
# you're 80 % sure of 0.4. The figure shows how often you were correct at each level of confidence, in all chapters so far. With a handful of predictions the bars are long, so come back after the next chapters.

# %% tags=["check"]
check.calibration()

# %% [markdown]
# ## Make it bigger
#
# CIFAR-10 with 40 % wrong labels, a moving average, and early stopping on the *average*'s accuracy. It downloads 170 MB once and wants a GPU, so it runs only when the environment variable `CNNLAB_PROFILE` is `gpu`. Set `patience` to
# 200 and `epochs` to 200 to look for double descent.

# %% tags=["bigger"]
if lab.profile == "gpu":
    photos = cnnlab.load("cifar10", download=True)
    model = cnnlab.small_resnet(num_classes=10, width=32, depth=3)
    stopping = EarlyStopping("ema_valid_acc", mode="max", patience=8)
    trainer = cnnlab.Trainer(
        model,
        torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9),
        ema=EMA(model, decay=0.999),
        callbacks=[stopping, Checkpoint("cifar-noisy")],
    )
    trainer.fit(
        cnnlab.loader(
            cnnlab.data.label_noise(photos.train, 0.4), 128, shuffle=True
        ),
        cnnlab.loader(photos.valid, 512),
        epochs=60,
    )
else:
    print("left out: set CNNLAB_PROFILE=gpu to run it")

# %% [markdown]
# ## Key points
#
# - A network overfits when it improves on its training images and gets worse on new ones. Early stopping goes back to the best epoch; judge that choice on the test set.
# - It gains most where late training does harm. With a well-chosen learning rate it may gain nothing, and its validation labels are part of its price.
# - A checkpoint holds everything the next step depends on. Whether it does, only a comparison to the last bit can tell.
# - An EMA spans about $1/(1-d)$ steps. Choose the span in epochs, copy the buffers, and evaluate the average with the same early stopping.
# - Averaged weights other than an EMA's need batch-norm statistics of their own.
# - Averaging predictions works for any networks; probabilities or logits hardly matters. Averaging weights works within a run, for siblings of one pretrained network, or after matching the channels.
#
# **Your recipe so far** gains an EMA of the weights, and early stopping on the EMA's validation accuracy.
#
# ## Common mistakes
#
# | what you see | what it often is |
# |---|---|
# | training stops after the first epochs | the patience is too small for the noise (0 is the default in Keras), or the `mode` is the wrong way round |
# | training never stops although the curve is flat | every tiny gain resets the patience: set `min_delta`; or NaN counts as an improvement |
# | the "restored" model is the last one | nobody restored it: check what your library does when the epochs run out |
# | great validation accuracy, worse on the test set | the best of many epochs is partly luck |
# | after a resume the loss jumps | momenta, schedule or batch-norm statistics weren't in the file |
# | a resumed run ends a little differently | the order of the images, or a random generator, started again |
# | the EMA is as bad as an untrained network | decay too close to 1 for so few steps, no warm-up, or buffers not copied |
# | SWA is much worse than the model | batch-norm statistics of other weights: `update_bn` |
# | the ensemble is no better than one member | the members are too much alike, or they trained too briefly |
#
# ## References
#
# - L. Prechelt, *Early stopping - but when?*, 1998, [doi:10.1007/3-540-49430-8_3](https://doi.org/10.1007/3-540-49430-8_3)
# - D. Arpit, S. Jastrzębski, N. Ballas and others, *A closer look at memorization in deep networks*, 2017, [arXiv:1706.05394](https://arxiv.org/abs/1706.05394)
# - P. Nakkiran, G. Kaplun, Y. Bansal, T. Yang, B. Barak and I. Sutskever, *Deep double descent: Where bigger models and more data hurt*, 2019, [arXiv:1912.02292](https://arxiv.org/abs/1912.02292)
# - B. T. Polyak and A. B. Juditsky, *Acceleration of stochastic approximation by averaging*, 1992, [doi:10.1137/0330046](https://doi.org/10.1137/0330046)
# - A. Tarvainen and H. Valpola, *Mean teachers are better role models*, 2017, [arXiv:1703.01780](https://arxiv.org/abs/1703.01780)
# - P. Izmailov, D. Podoprikhin, T. Garipov, D. Vetrov and A. G. Wilson, *Averaging weights leads to wider optima and better generalization*, 2018, [arXiv:1803.05407](https://arxiv.org/abs/1803.05407)
# - D. Morales-Brotons, T. Vogels and H. Hendrikx, *Exponential moving average of weights in deep learning: Dynamics and benefits*, 2024, [arXiv:2411.18704](https://arxiv.org/abs/2411.18704)
# - B. Lakshminarayanan, A. Pritzel and C. Blundell, *Simple and scalable predictive uncertainty estimation using deep ensembles*, 2017, [arXiv:1612.01474](https://arxiv.org/abs/1612.01474)
# - G. Huang, Y. Li, G. Pleiss, Z. Liu, J. E. Hopcroft and K. Q. Weinberger, *Snapshot ensembles: Train 1, get M for free*, 2017, [arXiv:1704.00109](https://arxiv.org/abs/1704.00109)
# - S. P. Singh and M. Jaggi, *Model fusion via optimal transport*, 2020, [arXiv:1910.05653](https://arxiv.org/abs/1910.05653)
# - S. K. Ainsworth, J. Hayase and S. Srinivasa, *Git Re-Basin: Merging models modulo permutation symmetries*, 2022, [arXiv:2209.04836](https://arxiv.org/abs/2209.04836)
# - M. Wortsman, G. Ilharco, S. Y. Gadre and others, *Model soups: Averaging weights of multiple fine-tuned models improves accuracy without increasing inference time*, 2022, [arXiv:2203.05482](https://arxiv.org/abs/2203.05482)
# - J. Frankle, G. K. Dziugaite, D. M. Roy and M. Carbin, *Linear mode connectivity and the lottery ticket hypothesis*, 2020, [arXiv:1912.05671](https://arxiv.org/abs/1912.05671)

# %% [markdown] tags=["instructor", "remove-cell"]
# ## When you are short of time
#
# Keep 6.1, the exercise of 6.2, and 6.7 up to the diagram. Play a curve of 6.1 epoch by epoch: everybody stands up, and sits down when they would stop.
#
# ## Questions for the room
#
# - Early stopping chose the epoch on the validation set. Which number may you publish? (The test accuracy of the restored weights.)
# - The EMA loses to a cosine that trains on all labels. Why, and how would you choose the length of that cosine without validation labels? (The extra labels are correct. You'd have to choose it on another data set, or
#   by a split first and a second run on everything.)
# - What belongs in a checkpoint? Collect, then compare with the list of 6.4.
# - Why can two fine-tuned networks be averaged without matching, but not two that were trained from scratch?
