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
# Suppose you've trained a network, and 40 % of its training labels were wrong. Its accuracy on new images is 51 %. Now
# you train it again with the same data and settings, but you keep the weights of the best epoch instead of the last.
# That gives 57 %. Then you also keep a running average of the weights, which costs one line of code, and take *that*
# from its best epoch. That gives 65 %. You've only chosen which weights to keep.
#
# You get those fourteen points at a learning rate that suits the average. If each method gets its own, three to five
# points are left (6.3). This chapter is about when to end a run, which weights to keep, and what you gain by averaging,
# over the steps of one run or over several networks.
#
# **You will be able to** recognise overfitting in a curve, write early stopping with all its corner cases, resume a run
# so that it ends with exactly the same weights, keep a moving average of the weights, say when an ensemble is worth its
# price, and merge two independent networks into one.
#
# | | |
# |---|---|
# | to read | 45 minutes, with the code |
# | exercises | 110 minutes |
# | to run | 35 seconds on one core of a laptop, without internet access or a GPU |
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
    REPEATED,
    STALE,
    WEIGHTS,
    StopAt,
    merge_two,
    same_state,
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
noisy = cnnlab.data.label_noise(data.train, rate=0.4, seed=0)

# %% [markdown]
# ## 6.1 Wrong labels
#
# Real labels contain mistakes, and here there are many: two training labels in five are wrong. The labels for
# validation and test are correct. Here are eight of the signs whose labels are wrong.

# %% tags=["hide-input"]
mislabelled = (noisy.labels != noisy.clean_labels).nonzero().flatten()[:8]
plots.image_grid(
    noisy.images[mislabelled],
    [f"labelled: {data.classes[k]}" for k in noisy.labels[mislabelled]],
    columns=8,
    alt="Eight traffic signs with wrong labels",
    message="These eight training signs come with a wrong label.",
)

# %% [markdown]
# The rule that links a sign to its name explains many images at once, so gradient descent finds it early. A wrong label
# follows no rule. It can only be **memorised**, image by image, and that comes later
# ([Arpit et al. 2017](https://arxiv.org/abs/1706.05394)). So somewhere in the middle of the run there's a network that
# has learnt the rule but not yet the mistakes. We compare three ways to choose the final weights:
#
# - the **last epoch**;
# - **early stopping**: end the run when the validation accuracy stops improving, and go back to its best epoch. Here we
#   stop after four epochs without improvement, which is called a patience of 4;
# - **EMA, early stopping**: the same, but for an *exponential moving average* of the weights. Its decay of 0.97 says
#   how slowly it moves (section 6.5).
#
# Up to the epoch where it stops, a run with early stopping is identical to one without. So we let each run go to its
# end, and `replay` tells us where it would have stopped. The stored study `studies/06_noisy_labels.py` has eight runs
# of sixteen epochs, each with its own images and its own wrong labels. Its claims were declared before it ran.
#
# ### Predict
#
# After which of the study's sixteen epochs is the mean test accuracy highest, for the network itself without an
# average? (The cell after your prediction trains five networks of your own, for ten epochs each, in about fifteen
# seconds. Your runs are the coloured marks, and the study's are grey.)

# %% tags=["predict"]
my_best_epoch = ...  # a number from 1 to 16


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
        unequal={  # where the comparison isn't quite fair, and why
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
gained = noisy_study.difference("EMA, early stopping", "last epoch").mean
choosing.plot(
    noisy_study,
    label="test accuracy",
    message="At a learning rate of 0.05, choosing which weights to keep is "
    f"worth {100 * gained:.0f} points in the stored study.",
)

# %% tags=["check"]
print(noisy_study.claim("early stopping", ">", "last epoch"))
print(
    noisy_study.claim("EMA, early stopping", ">", "early stopping", by=0.03)
)
recorded = pd.read_csv("studies/06_noisy_labels_curves.csv")
constant_lr = recorded[recorded.schedule == "constant"]
mean = constant_lr.groupby("epoch").mean(numeric_only=True)
check.prediction(
    "After which epoch is the test accuracy highest?",
    my_best_epoch,
    int(mean.test_acc.idxmax()),
    within=1,
)
# Correct on 60 % of the labels as often as on new images, else by chance.
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
# Both claims hold here. When we repeated the study with new seeds (appendix G), the average again beat early stopping:
# by 9.7 points (95 % CI 6.9 to 12.5), after 8.7 (6.8 to 10.5). Early stopping itself was 5.6 points (2.7 to 8.5) ahead
# of the last epoch, and 4.5 (0.4 to 8.6) with new seeds. After Holm's correction for the six claims of the study, the
# second result isn't enough, so this claim didn't hold again. Early stopping probably helps by some points on average,
# but don't count on it in a single run.
#
# Read this figure slowly, because it holds half the chapter. Suppose a network learnt the signs and memorised nothing.
# Then it would agree with the 60 % correct training labels as often as with the labels of new images, and with a wrong
# one only if its own mistake happens to be that class, one of eleven. The line "if nothing were memorised" shows this.
# From the third epoch on, the real training accuracy is clearly above it, and the gap is
# memorisation. (The training accuracy is the mean over an epoch while the network changes, so it lags by half an
# epoch.) The test accuracy peaks in epoch 4 and then falls by eleven points.
#
# That is **overfitting**: the network still improves on its training images while it gets worse on new ones. Before the
# peak it was **underfitting**, because both curves were still rising. The losses show it even more clearly.

# %% tags=["hide-input"]
plots.lines(
    mean.index.tolist(),
    {
        "training, 40 % wrong labels": mean.train_loss.tolist(),
        "validation, correct labels": mean.valid_loss.tolist(),
    },
    xlabel="finished epochs",
    ylabel="loss (mean of eight runs)",
    message="The training loss falls to the end; the validation loss turns "
    "after epoch 4.",
)

# %% [markdown]
# So plot three curves of every run. The training loss shows whether the optimizer still makes progress, the training
# accuracy how much of its data the network fits, and the validation curve when that stops helping.
#
# Did you notice the end of the first figure? After epoch 12 the test accuracy *rises* again, by seven points. This is
# **epoch-wise double descent** ([Nakkiran et al. 2019](https://arxiv.org/abs/1912.02292)): the error falls, rises, and
# falls again. It's typical of noisy labels and networks that are large for their data, and the error is worst when the
# network just manages to fit everything. So "validation accuracy fell, and the rest of the run is useless" is a rule of
# thumb, not a law.
#
# ## 6.2 Early stopping, exactly
#
# **Early stopping** watches a metric $m_t$, evaluated after each epoch $t$. If large values are good,
#
# $$ \text{epoch } t \text{ improves} \iff m_t > b + \delta, \qquad
# b = \text{the value of the last epoch that improved}, $$
#
# and the run ends after $p$ epochs in a row without improvement. You choose four things:
#
# - the **mode**: are large values good, as for an accuracy, or small ones, as for a loss?
# - the **patience** $p$: a small one saves time, a large one tolerates noise. In long runs, 10 to 20 epochs are usual.
# - **`min_delta`** $\delta$: smaller gains don't reset the patience counter.
# - **what to restore**. In `cnnlab`, it's the epoch with the best value, whatever $\delta$ is.
#
# ### Predict
#
# Try it by hand. The validation accuracies are 0.50, 0.60, 0.58, 0.62, 0.61, 0.63, 0.60 and 0.66. With a patience of 2
# and a `min_delta` of 0.05, after which of them does the run end? Count from 0.

# %% tags=["predict"]
my_last_evaluation = ...  # an index from 0 to 7

# %% tags=["check"]
by_hand = [0.50, 0.60, 0.58, 0.62, 0.61, 0.63, 0.60, 0.66]
check.prediction(
    "After which evaluation does the run end?",
    my_last_evaluation,
    replay(by_hand, "max", patience=2, min_delta=0.05)[0],
    options=range(len(by_hand)),
)
for patience, min_delta in ((1, 0), (2, 0), (2, 0.05), (4, 0.05)):
    stop, best = replay(by_hand, "max", patience, min_delta)
    print(
        f"patience {patience}, min_delta {min_delta}: "
        f"ends after index {stop}, restores index {best}"
    )

# %% [markdown]
# ### Exercise 1: `early_stopping` (medium, 25 minutes)
#
# The list `values` holds the metric after each epoch. Return two indices into it, counted from 0. The first is the
# evaluation after which training ends, which is the last one if nothing stops the run. The second is the evaluation
# whose weights are restored. Follow the rules above, and four more:
#
# - NaN is never an improvement, so it counts as an evaluation without one;
# - a tie isn't an improvement, and of two equal values the earlier one is restored;
# - the best evaluation is restored whether or not the run was stopped early;
# - evaluations after the stop never take place.
#
# With `mode="min"`, small values are good and an improvement must be below $b - \delta$. `patience` is at least 1, and
# at least one value up to the stop isn't NaN.


# %% tags=["exercise"]
def early_stopping(values, patience, min_delta, mode):
    """Return (stop, best): where training ends, and what is restored."""
    raise NotImplementedError


# %% tags=["check"]
check.early_stopping(early_stopping)

# %% [markdown] tags=["hint"]
# <details>
# <summary><b>Hint: correct without min_delta, wrong with it</b></summary>
#
# You need two best values: one to beat before the patience runs out, and one for restoring. They follow different
# rules.
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
# Minimising a loss is the same as maximising the loss times −1.
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
# The mean of eight runs is smooth. In practice you'll have a single run, and its curve looks like the one in the next
# figure. It's the run with seed 6, which we picked because it zigzags. Move the slider for the patience. With a
# patience of 1 you stop at the first hiccup. With a large patience you pay for epochs that bring nothing, though you
# still keep the best weights.

# %% tags=["widget"]
one_run = constant_lr[constant_lr.seed == 6]
widgets.early_stopping(
    one_run.valid_acc.tolist(), judged=one_run.test_acc.tolist()
)

# %% [markdown]
# In a real run you pass the callback `EarlyStopping("valid_acc", mode="max", patience=4)` to the `Trainer`. (A
# **callback** is an object whose methods the trainer calls at fixed moments, such as the end of an epoch.) It stops the
# run, restores the best weights, and reports why it stopped.
#
# Other libraries differ in details that have cost people days. All of them restore the best weights only if you ask:
#
# | | what it restores | what to watch for |
# |---|---|---|
# | Keras 2 | with `restore_best_weights=True`, the best epoch, but only if the callback itself ended the run | if the epochs run out first, you get the last weights without a warning |
# | Keras 3 | with `restore_best_weights=True`, always | "best" means the last epoch that improved by more than `min_delta` (in Keras 2 too); `patience` is 0 unless you set it, which acts like 1 |
# | PyTorch Lightning | nothing | add `ModelCheckpoint(monitor=..., mode=...)` and load its `best_model_path`; unless you set them, `mode` is "min" and `patience` is 3; NaN ends the run |
#
# Prechelt ([1998](https://doi.org/10.1007/3-540-49430-8_3)) compared hasty and slow stopping criteria on twelve
# problems. With the slow ones, the networks generalised about 4 % better on average, and training took about four times
# as long.
#
# ### The best of many is partly luck
#
# Suppose the true accuracy of a network is 60 %. If you evaluate it on 480 images, the result has a standard deviation
# of $\sqrt{0.6 \cdot 0.4 / 480} \approx 0.022$. Now keep the best of sixteen such evaluations. How good does it look?

# %%
generator = torch.Generator().manual_seed(0)
correct = torch.rand(1000, 16, 480, generator=generator) < 0.6
best_of_16 = correct.float().mean(dim=2).max(dim=1).values
print(f"true accuracy 0.600, best of sixteen {best_of_16.mean():.3f}")
del correct

# %% [markdown]
# All sixteen are equally good, yet the best one looks four points better. In a real run the images are the same in each
# epoch, so the luck is smaller, but it points the same way. So if you *choose* the epoch on the validation set,
# *evaluate* your choice on the test set.
#
# ### Exercise 2: find the bugs in the textbook (open, 30 minutes)
#
# This loop is modelled on published lecture notes. It runs, it stops, and it reports an accuracy. How many things are
# wrong with it? (`state_dict()` is a dictionary of all weights and batch-norm statistics by name.)
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
# Each of four bugs is worth two points: one for naming it, one for a curve, a number or a line of code that shows it.
# There's a fifth, smaller one (1 point), and a line that looks wrong and isn't (1 point).
#
# <details>
# <summary><b>Hint: where to look</b></summary>
#
# Feed the class the losses `[1.0, nan, 5.0, 4.0, 3.0]`, and then several NaNs in a row. How many things are called
# "best"? Which weights does `model` have when `fit` returns? Would you publish `best_acc`?
#
# </details>
#
# <details>
# <summary><b>What we found</b></summary>
#
# 1. `nan > best - min_delta` is False, so a NaN becomes the new `best` and resets the counter. The next loss, however
#    bad, then replaces it. After the first NaN, the losses 5, 4, 3 all count as improvements over 1, and a run that
#    only yields NaN never stops. Ask `if loss < best - min_delta` instead.
# 2. The patience watches the loss, the file follows the accuracy. With overconfident networks the loss rises while the
#    accuracy still improves, so the run ends before its best epoch. Use one metric for both.
# 3. `fit` leaves the last weights in `model`. Add `model.load_state_dict(torch.load("best.pt"))` before the return.
# 4. `best_acc` is the best of many validation accuracies, so it's partly luck. Report the test accuracy of the restored
#    weights.
# 5. The mean of the batch losses gives the images of a smaller last batch too much weight (chapter 1).
#
# Looks wrong and isn't: `best` stays where it is after a gain below `min_delta`. Otherwise a curve that improves slowly
# but steadily would be stopped.
#
# </details>

# %%
# Your experiment: copy the class, and feed it curves of your own.

# %% [markdown]
# ## 6.3 The same labels at another learning rate
#
# So far we've used a constant learning rate of 0.05. That's the best of five for the moving average. For the **live
# weights**, which are the weights that the optimizer updates, 0.005 was best, the smallest that we tried (both on other
# seeds, 100 and 101).
#
# ### Predict
#
# With a constant learning rate of 0.005, by how many points does early stopping change the test accuracy?

# %% tags=["predict"]
my_points_at_a_small_lr = ...  # a number of points, negative if it hurts

# %% tags=["check", "hide-input"]
at_005 = ("lr 0.005, early stopping", "lr 0.005, last epoch")
check.prediction(
    "What does stopping gain at a learning rate of 0.005?",
    my_points_at_a_small_lr,
    100 * noisy_study.difference(*at_005).mean,
    within=2,
    unit="points",
)
explore = {
    "stopping at lr 0.005": at_005,
    "EMA with stopping - cosine": (
        "EMA, early stopping",
        "cosine, last epoch",
    ),
}
for name, pair in explore.items():
    print(f"{name}: {noisy_study.difference(*pair)} (exploratory)")
print(
    noisy_study.claim(
        "cosine, early stopping", "~", "cosine, last epoch", by=0.02
    )
)
print(
    noisy_study.claim("EMA, early stopping", ">", "lr 0.005, early stopping")
)
print(noisy_study.verdict("EMA, early stopping", ">", "cosine, all labels"))
by_variant = noisy_study.frame().groupby("variant", sort=False)
table = by_variant[["test_acc", "labels", "epochs_trained"]].mean()
table.drop("EMA, last epoch").round(3)

# %% [markdown]
# At 0.005 there was nothing to rescue, and the last epoch is better than early stopping at 0.05 (0.60 against 0.57).
# So of the fourteen points, choosing a better learning rate would have given you nine. An EMA with early stopping is
# still 4.9 points ahead of that last epoch, and 3.1 points (95 % CI 1.7 to 4.4) ahead of the last epoch of a cosine
# from 0.01. Both of these comparisons are exploratory.
#
# So is an EMA with early stopping the best you can do? We thought so, and declared two claims. The first, that it beats
# early stopping at 0.005, holds. The second, that it also beats a cosine that trains on *all* labels, including the 240
# of the validation set, doesn't. That cosine is ahead by 2.5 points (95 % CI 0.9 to 4.2). The 240 labels are worth a
# lot because they're correct, while 40 % of the other 960 aren't. Even at 0.05, they bring the last epoch from 0.51 to
# 0.60.
#
# **A validation set is part of the price of early stopping.** You can't do without one, because something has to choose
# the settings. But count its labels when you compare two methods.
#
# Why was there nothing to rescue at 0.005? Does a small learning rate memorise less? A second study,
# `studies/06_memorised.py`, shows each network its wrongly labelled training images once more, and counts how often
# it repeats the wrong label.

# %% tags=["claim"]
memorised = Results.load("studies/06_memorised.csv")
print(memorised.claim("lr 0.05", ">", "lr 0.005", by=0.2))
print(memorised.claim("lr 0.05", ">", "cosine from 0.01", by=0.2))
print(memorised.verdict("lr 0.05, epoch 7", "~", "lr 0.005", by=0.1))
print(
    memorised.on("test_acc").claim(
        "lr 0.05, epoch 7", "<", "lr 0.005", by=0.05
    )
)
by_variant = memorised.frame().groupby("variant", sort=False)
by_variant[[REPEATED, "test_acc"]].mean().round(3)

# %% [markdown]
# It does memorise less. At the end of the run with 0.05, nearly all wrong labels are repeated, against 39 % at 0.005
# and 33 % under a cosine from 0.01. But that's only part of the answer. After epoch 7 the run with 0.05 has memorised
# about as much as the one with 0.005 at its end (the interval reaches from 5 points less to 10 points more), and yet
# its test accuracy is 16 points lower. With new seeds (appendix G), it had memorised 7.1 points more
# (1.3 to 12.9), so that may explain part of the gap. Another part may be noise, because large steps make the live
# weights jump, and an average smooths that out. The EMA after epoch 5 repeats the fewest wrong labels, 25 %.
#
# ## 6.4 Checkpoints: stop today, resume tomorrow
#
# A **checkpoint** is a file from which a run can continue. To *predict*, the weights and the batch-norm statistics are
# enough. To *resume exactly*, you need everything that the next step depends on. That includes the optimizer's momenta,
# the position in the schedule, the moving average, the number of epochs and steps so far, the state of the callbacks,
# the order of the images that come next, and the gradient scaler of chapter 12 if you use one.
#
# How do you know that nothing is missing? You compare the resumed run, down to the last bit, with a run that was never
# stopped. Below, a run stops in the middle of its third epoch. We build everything again, as you would after a crash,
# and continue from the folder.


# %% tags=["experiment"]
def build(*callbacks):
    """Build a trainer and its batches, as a script does at its start."""
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
    second.load(folder)  # the newest undamaged file
    second.fit(batches, valid, epochs=4)

same = same_state(uninterrupted.model, second.model)
print("weights equal: ", same)
same = same_state(uninterrupted.ema.model, second.ema.model)
print("averages equal:", same)

# %% [markdown]
# Most of the names in the file come from the list above, and the others serve special runs (mixed precision, frozen
# layers). The state of random generators is missing on purpose. In `cnnlab`, the seed, the epoch and the step
# determine every random draw, so there's nothing to save. If your framework draws from a running generator, the
# generator's state belongs in the checkpoint, and so does the state of every data-loading worker.
#
# Two habits protect you from a crash *while writing*. Write a new file before you delete the old one, and check files
# for damage when you load them. And never switch off `weights_only` in `torch.load` for a checkpoint from the internet,
# because then the file may run code.
#
# ## 6.5 Averaging weights over the steps of a run
#
# At a constant learning rate the weights never come to rest. Each batch kicks them around a slowly moving centre, and
# an average over the last steps lies closer to that centre than any single step does. David Ruppert in the USA and
# Boris Polyak in Moscow found this independently around 1990, long before anybody trained deep networks ([Polyak &
# Juditsky 1992](https://doi.org/10.1137/0330046)). Their average gives all steps the *same* weight. The **exponential
# moving average** (EMA) forgets old steps, and it needs only one copy of the weights. Here is the run of 6.2 again.

# %% tags=["claim", "hide-input"]
print(noisy_study.on("wobble").claim("EMA, last epoch", "<", "last epoch"))
plots.lines(
    one_run.epoch.tolist(),
    {
        "validation (live weights)": one_run.valid_acc.tolist(),
        "EMA": one_run.ema_valid_acc.tolist(),
    },
    xlabel="finished epochs",
    ylabel="validation accuracy",
    message="With wrong labels, the EMA's curve is smoother and higher than "
    "the curve of the live weights.",
)

# %% [markdown]
# The EMA calms the curve. The **wobble** is the average change in accuracy from one epoch to the next, and in the study
# of 6.1 the EMA lowers it by 2.2 points, from 5.1 to 2.9.
#
# ### Exercise 3: `ema_update` (medium, 20 minutes)
#
# After each optimizer step, the average $\bar w$ moves a little towards the live weights $w$, just as batch norm's
# running statistics move towards the statistics of the batch:
#
# $$ \bar{w} \leftarrow d_t \, \bar{w} + (1 - d_t) \, w, \qquad d_t = \min\!\left(d, \frac{1 + t}{10 + t}\right), $$
#
# where $t$ counts the finished updates and is 0 at the first. The **decay** $d$ is close to 1. Why take the minimum?
# With a constant $d = 0.999$, the random initial weights would still make up 60 % of the average after 500 steps.
# With a decay that rises, less than 0.1 % of them is left after five.
#
# Write a function that makes one update, in place. `average` and `model` are modules with the same architecture.
# Blend the parameters with the formula, and *copy* the **buffers**, which are tensors that belong to the state of a
# module but aren't trained, such as batch norm's running statistics. `step` is $t$. Leave `model` unchanged.


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
# In `for old in average.parameters(): old = ...`, the assignment binds the name `old` to a new tensor, but the module
# keeps its own. `old.copy_(...)` writes into the module's tensor.
#
# </details>
#
# <details>
# <summary><b>Hint: correct late in the run, wrong at the beginning</b></summary>
#
# The update uses the smaller of two decays: `decay` itself, and a value that depends on the step.
#
# </details>
#
# <details>
# <summary><b>Hint: the weights require gradients now</b></summary>
#
# The parameters of `model` require gradients, so autograd records what you compute from them, unless you tell it not
# to.
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
# How large should $d$ be? The average spans about $1 / (1 - d)$ steps, which carry 63 % of its weight. Decide how many
# *epochs* you want to span, and work backwards. For example, with 30 steps per epoch and a span of two epochs, $d = 1 -
# 1/60 \approx 0.983$. The usual 0.999 or 0.9999 is meant for runs of many thousands of steps.
#
# **Stochastic weight averaging** (SWA, [Izmailov et al. 2018](https://arxiv.org/abs/1803.05407)) averages the weights
# at the end of each epoch, from some epoch on, and counts them all *equally*, as Polyak did. Here batch norm becomes
# a trap, because its statistics were collected while *other* weights produced the features. An EMA stays so close to
# the live model that the live model's statistics serve it well enough. For SWA they don't fit, so you have to collect
# them again with one pass over the training images: `averaging.update_bn`.
#
# ### Predict
#
# All labels are correct now, and the learning rate is constant. At the end of the run, by how many points does the EMA
# beat the live weights? (The cell after your prediction takes about five seconds.)

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
        "Is an average better than the live weights, at a constant lr?",
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
    label="validation accuracy",
    message="At a constant learning rate, an average beats the live weights, "
    "if its batch-norm statistics fit.",
)

# %% tags=["check"]
print(averages_study.verdict("constant, EMA", ">", "constant, live", by=0.01))
print(averages_study.verdict("constant, SWA", ">", "constant, live", by=0.01))
print(averages_study.claim("constant, SWA", ">", f"constant, {STALE}"))
wobble = averages_study.on("wobble")
print(wobble.verdict("constant, EMA", "<", "constant, live"))
check.prediction(
    "What does the EMA gain with correct labels?",
    my_points_for_the_ema,
    100 * averages_study.difference("constant, EMA", "constant, live").mean,
    within=1,
    unit="points",
)

# %% [markdown]
# In the stored study (the grey marks, with twelve epochs and more signs), both averages gain 1.8 points. The intervals
# begin at 0.7 and 0.8, so they don't support the gain of *more than one point* that we had declared. With new seeds
# they do: the EMA gains 2.5 points (1.2 to 3.8) and SWA 2.6 (1.3 to 3.8). "Not supported" never meant "not there".
# Without its own statistics, SWA loses all or most of its gain.
#
# With correct labels, the wobble shrinks by only half a point, with an interval from 0.1 points more to 1.2 points
# less, and with new seeds by 1.3 points (0.7 to 2.0). A calm curve matters when you compare two ideas by their last
# epoch. If the curve wobbles, part of what you see is where the last batch happened to push the weights.
#
# ### What would change this result
#
# The learning rate would. Under a cosine the weights come to rest by themselves (chapter 5), and the two claims below
# say that neither average then changes the accuracy by as much as a point. So a cosine and an EMA seem to do the same
# job.
#
# ### Predict
#
# In the same study, a cosine without an average reaches an accuracy of 0.792. What does the EMA reach at a constant
# learning rate?

# %% tags=["predict"]
my_accuracy_of_the_ema = ...  # a number between 0 and 1

# %% tags=["check"]
print(averages_study.claim("cosine, EMA", "~", "cosine, live", by=0.01))
print(averages_study.claim("cosine, SWA", "~", "cosine, live", by=0.01))
check.prediction(
    "What does an EMA reach at a constant learning rate?",
    my_accuracy_of_the_ema,
    averages_study.values("constant, EMA").mean(),
    within=0.01,
)
ahead = averages_study.difference("constant, EMA", "cosine, live")
print("EMA at a constant lr - cosine:", ahead, "(exploratory)")

# %% [markdown]
# Here the EMA at a constant learning rate is even 2.5 points *ahead* of the cosine (95 % CI 1.4 to 3.6). We didn't
# declare that, and the learning rate of 0.1 wasn't tuned for either. It seems that the average does what the decay
# would have done, without giving up large steps.
#
# In 2026 both recipes are common. Torchvision's recipe for ImageNet and detectors such as YOLO let the learning rate
# fall *and* keep an EMA. Diffusion models usually keep the learning rate constant and leave the rest to the EMA: DiT,
# for example, trains with $10^{-4}$ throughout and a decay of 0.9999 ([Peebles & Xie
# 2023](https://arxiv.org/abs/2212.09748)). In a systematic comparison, [Morales-Brotons et al.
# 2024](https://arxiv.org/abs/2411.18704) found that an EMA needs less learning-rate decay and resists wrong labels
# better, as you saw in 6.1. And an average needs no planned end, which is exactly what you want for early stopping.
#
# ## 6.6 Averaging predictions
#
# Train several networks and average their predictions. The members of an **ensemble** make different mistakes, and
# where one is wrong the others outvote it. If they differ only in their seed, the ensemble is called a **deep
# ensemble** ([Lakshminarayanan et al. 2017](https://arxiv.org/abs/1612.01474)). Usually the probabilities are
# averaged. You could also average the logits and take the softmax afterwards.
#
# ### Predict
#
# Take four of this course's networks, each trained for sixteen epochs, and average them in both ways. By how many
# points do the accuracies of the two ensembles differ?

# %% tags=["predict"]
my_points_between_ensembles = ...  # a number of points, 0 or more

# %% tags=["check"]
ensembles = Results.load("studies/06_ensembles.csv")
ensemble_loss = ensembles.on("valid_loss")
LOGITS = "four long runs, logits averaged"
print(ensembles.claim("four long runs", "~", LOGITS, by=0.01))
print(
    "loss, probabilities - logits:",
    ensemble_loss.difference("four long runs", LOGITS),
    "(exploratory)",
)
check.prediction(
    "How far apart are the two kinds of ensemble?",
    my_points_between_ensembles,
    100 * abs(ensembles.difference("four long runs", LOGITS).mean),
    within=0.5,
    unit="points",
)

# %% [markdown]
# For accuracy it doesn't matter, and the loss is slightly lower if you average probabilities (exploratory). So do
# that, and don't argue with anybody who averages logits. Written out for $M$ members, the two are
#
# $$ \bar{p}_k(x) = \frac{1}{M} \sum_{m=1}^{M} p_k(x; w_m) \qquad\text{and}\qquad
# \bar{p}_k(x) \propto \exp\Bigl(\frac{1}{M} \sum_m z_k(x; w_m)\Bigr) \propto \prod_m p_k(x; w_m)^{1/M}, $$
#
# an arithmetic and a geometric mean. (The logits are $z_k = \log p_k$ plus a number that is the same for all classes.)
#
# If you average logits, couldn't one overconfident member outvote the rest? You can construct such a case: with logits
# (2, 0), (2, 0) and (0, 9), the mean of the probabilities follows the majority and the mean of the logits doesn't. But
# networks that were trained in the same way are about equally confident.
#
# ### What else could the budget have bought?
#
# An ensemble of four costs four training runs. You could also train *one* network for four times as long, or one of
# twice the width, whose steps cost about four times as much. And if you have only one budget, there's the **snapshot
# ensemble** ([Huang et al. 2017](https://arxiv.org/abs/1704.00109)). It takes its members from a single run: the
# learning rate falls along a cosine, jumps up again, and at the end of each cycle you keep a copy.
#
# ### Predict
#
# By how many points is the ensemble of four more accurate than one network that trained for four times as long?

# %% tags=["predict"]
my_points_over_a_longer_run = ...  # negative if the ensemble is behind

# %% tags=["check"]
four = Results.load("studies/06_four_budgets.csv")
FOUR, LONGER = "four networks", "one network, 64 epochs"
WIDER = "one network of twice the width"
check.prediction(
    "How far is an ensemble ahead of a run of four times the length?",
    my_points_over_a_longer_run,
    100 * four.difference(FOUR, LONGER).mean,
    within=1.5,
    unit="points",
)
four_loss = four.on("valid_loss")
for other in (LONGER, WIDER):
    print(four.verdict(FOUR, ">", other))
    print(four_loss.claim(FOUR, "<", other, by=0.05))
print(ensembles.claim("four short runs", "<", "one long run", by=0.03))
print(ensembles.verdict("snapshot ensemble", "~", "one long run", 0.02))
print(
    ensemble_loss.verdict("snapshot ensemble", "<", "one long run", by=0.03)
)
one_budget = ["one long run", "snapshot ensemble", "four short runs"]
table = {
    f"{name} (budget {budget})": {
        "accuracy": study.values(name).mean(),
        "loss": study.on("valid_loss").values(name).mean(),
    }
    for study, budget, names in (
        (ensembles, 1, one_budget),
        (four, 4, [FOUR, LONGER, WIDER]),
    )
    for name in names
}
pd.DataFrame(table).T.round(3)

# %% [markdown]
# We had declared that the ensemble beats both rivals in accuracy, and neither claim is supported. It's 0.4 points
# behind the longer run (95 % CI 1.7 behind to 1.0 ahead) and 1.2 points ahead of the wider network (0.3 behind to 2.8
# ahead). With new seeds, only the lead over the wider network is clear: 0.8 points (0.3 to 1.4). So after runs as short
# as ours, longer training may buy as much as the "one to two per cent" that lecture notes promise for an ensemble (here
# 2.0 points over its average member). What only the ensemble buys is better probabilities: its loss is lower by 0.22
# and by 0.11, and both claims hold.
#
# With one budget, four short runs are clearly worse: no member had time to learn enough. Snapshots are 0.7 points
# behind a single long run (95 % CI 2.4 behind to 1.0 ahead), so either could be better. Their loss is probably lower
# (by 0.055; 95 % CI 0.003 to 0.107), but the margin of 0.03 that we had declared isn't supported.
#
# An ensemble also needs four passes per prediction. **Distillation**
# ([Hinton et al. 2015](https://arxiv.org/abs/1503.02531)) trains one network to give the same probabilities. Could you
# also merge the weights?
#
# ## 6.7 Averaging the weights of independent runs
#
# An EMA averages weights of *one* run, a few steps apart. Now take two networks like those of 6.6, with the same images
# but different initial weights and a different order. In the stored study, each has an accuracy of about 0.80.
#
# ### Predict
#
# You average their *weights* and collect the batch-norm statistics again. What accuracy does the result have in the
# study? (Guessing gives 0.08. The cell after your prediction trains six networks, in about ten seconds.)

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
    label="validation accuracy",
    message="Averaging the weights destroys two good networks, unless their "
    "channels are matched first.",
)

# %% tags=["check"]
print(matching_study.claim(MATCHED, ">", WEIGHTS, by=0.2))
print(matching_study.claim(MATCHED, "<", ALONE))
print(matching_study.claim(PREDICTIONS, ">", MATCHED, by=0.02))
print(matching_study.claim(MATCHED, ">", MATCHED_STALE))
on_gap = matching_study.on("gap")
print(on_gap.claim(f"width 32, {MATCHED}", ">", MATCHED))
check.prediction(
    "How accurate is a network with the mean weights of two runs?",
    my_accuracy_of_mean_weights,
    matching_study.values(WEIGHTS).mean(),
    within=0.1,
)
diagrams.averaged_weights()

# %% [markdown]
# Averaging the predictions helped, but averaging the weights lost almost everything. The diagram shows why. The order
# of the hidden units (or channels) is arbitrary: swap two of them, together with the weights that read them, and the
# network computes the same function. So two networks that solve a task alike almost never use the same unit for the
# same job.
#
# So **match the units first**, then average
# ([Singh & Jaggi 2020](https://arxiv.org/abs/1910.05653); *Git Re-Basin*,
# [Ainsworth et al. 2022](https://arxiv.org/abs/2209.04836)). Reordering the second network doesn't change what it
# computes, but in the study it brings the average from 0.24 back to 0.74.
#
# ### Exercise 4: `match_units` (hard, 35 minutes)
#
# Match the hidden units of two-layer networks $x \mapsto U \, \mathrm{relu}(W x + b)$. Each network is a list
# `[incoming, bias, outgoing]`, which holds $W$ (H, D), $b$ (H,) and $U$ (K, H). Return the second network with its
# hidden units reordered, as three tensors, so that the total similarity of the pairs is as large as possible. The
# similarity of unit $i$ of the first network and unit $j$ of the second is the inner product of *all* their weights,
# biases included:
#
# $$ S_{ij} = \sum_d W^{(1)}_{id} W^{(2)}_{jd} + b^{(1)}_i b^{(2)}_j + \sum_k U^{(1)}_{ki} U^{(2)}_{kj} . $$
#
# (That also minimises the squared distance between the weights.) In the diagram, $W^{(1)} = (1, -1)^\top$,
# $W^{(2)} = (-1, 1)^\top$, the biases are 0 and the outgoing weights 1. So $S_{11} = 1 \cdot (-1) + 1 \cdot 1 = 0$ and
# $S_{12} = 1 \cdot 1 + 1 \cdot 1 = 2$: the first unit matches the second network's second unit.
#
# `scipy.optimize.linear_sum_assignment` finds the best one-to-one assignment. It takes an array of *costs* and
# returns the rows and the column assigned to each row.


# %% tags=["exercise"]
def match_units(first, second):
    """Reorder the second network's hidden units to match the first's."""
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
# <summary><b>Hint: the network computes the same function, but the order is wrong</b></summary>
#
# `linear_sum_assignment` looks for the *smallest* sum unless you tell it otherwise. It returns row and column indices.
# The rows are in order, so the columns are the order you need.
#
# </details>
#
# <details>
# <summary><b>Hint: three matrix products</b></summary>
#
# Each sum over $d$ or $k$ is a matrix product in which one factor is transposed. `torch.outer` computes the term with
# the biases.
#
# </details>


# %% tags=["solution", "hide-cell"]
# Solution
def match_units(first, second):
    """Reorder the second network's hidden units to match the first's."""
    from scipy.optimize import linear_sum_assignment

    similarity = first[0] @ second[0].T
    similarity = similarity + torch.outer(first[1], second[1])
    similarity = similarity + first[2].T @ second[2]
    scores = similarity.detach().numpy()
    _, order = linear_sum_assignment(scores, maximize=True)
    incoming, bias, outgoing = second
    return incoming[order], bias[order], outgoing[:, order]


check.match_units(match_units)

# %% [markdown]
# For our residual network, `studies.common.match_channels` does the same for five groups of channels. A block and its
# shortcut must use the same order, because their outputs are added. The function compares activations instead of
# weights, one of the three methods of *Git Re-Basin*.
#
# **What would change this result.** The width would. Wider networks have more channels to choose from, so each channel
# finds a better partner. The matched average still loses 6.5 points at width 16 and 4.2 at width 32, so it's no
# replacement for an ensemble. Don't forget the batch-norm statistics: without `update_bn`, the matched average only
# reaches 0.38 ([Jordan et al. 2022](https://arxiv.org/abs/2211.08403) explain why).
#
# In practice, people avoid the problem. Networks that were fine-tuned from the *same* pretrained weights are already
# matched, because all of them end in the same valley ([Neyshabur et al. 2020](https://arxiv.org/abs/2008.11687)). So
# you can average their weights directly. Such a **model soup** ([Wortsman et al.
# 2022](https://arxiv.org/abs/2203.05482)) often beats the best of its ingredients, and at inference it costs no more
# than one network. Today's merging of fine-tuned language models builds on the same fact.
#
# ## 6.8 In plain PyTorch
#
# `torch.optim.swa_utils` has `AveragedModel`. People usually write `AveragedModel(model,
# multi_avg_fn=get_ema_multi_avg_fn(0.999))`, which is an EMA without warm-up. Ours passes a function of its own, so
# that the decay warms up exactly as in `cnnlab`. Without a function it's an SWA, which needs
# `swa_utils.update_bn(loader, average)` at the end. All of them copy the buffers. Call `average.eval()` before you
# evaluate an average.


# %% tags=["plain"]
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

    def state_dict(self):
        return vars(self)

    def load_state_dict(self, state):
        vars(self).update(state)


def make_ema(model, decay):
    def blend(average, weight, n):  # n = t + 1 averages so far
        return average.lerp(weight, 1 - min(decay, n.item() / (n.item() + 9)))

    ema = torch.optim.swa_utils.AveragedModel(model, avg_fn=blend)
    ema.n_averaged += 1  # the initial weights count as the first
    return ema


def save_checkpoint(path, parts, **facts):
    state = {name: part.state_dict() for name, part in parts.items()}
    torch.save(state | facts, f"{path}.new")
    Path(f"{path}.new").replace(path)  # a crash leaves the old file


def load_checkpoint(path, parts):
    state = torch.load(path, map_location="cpu", weights_only=True)
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return state


# %% [markdown]
# The `parts` of a checkpoint are everything that has a `state_dict()`: the model, the optimizer, the scheduler, the
# average, the stopper. The `facts` are anything else that you need to go on, such as the epoch.
#
# To update the average after each step without touching the loop of chapter 1, register a function with the optimizer
# (`register_step_post_hook`). At the end of training, `model.load_state_dict(stopper.best_weights)` restores the best
# epoch.
#
# Now compare all of it with `cnnlab`: a run with an EMA and a cosine, the same run interrupted after one epoch and
# resumed, and a recorded curve.

# %% tags=["hide-input"]
fixed = list(cnnlab.loader(data.train, 32, shuffle=True, seed=0))
ONE_EPOCH = len(fixed)


def new_run():
    """Return a model, its optimizer, its average and its scheduler."""
    net = seeded_resnet(0, len(data.classes))
    optimizer = sgd(net, 0.05)
    average = make_ema(net, decay=0.97)
    cosine = schedules.cosine(2 * ONE_EPOCH)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, cosine)

    def update(optimizer, args, kwargs):
        average.update_parameters(net)

    optimizer.register_step_post_hook(update)
    return {
        "model": net,
        "optimizer": optimizer,
        "ema": average,
        "scheduler": scheduler,
    }


def one_epoch(model, optimizer, ema, scheduler):
    model.train()
    for images, labels in fixed:
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        scheduler.step()


run, resumed = new_run(), new_run()
one_epoch(**run)
with tempfile.TemporaryDirectory() as folder:
    save_checkpoint(f"{folder}/last.pt", run, epoch=1)
    assert load_checkpoint(f"{folder}/last.pt", resumed)["epoch"] == 1
one_epoch(**run)
one_epoch(**resumed)
assert same_state(run["model"], resumed["model"])
assert same_state(run["ema"], resumed["ema"])

ours = seeded_resnet(0, len(data.classes))
optimizer = sgd(ours, 0.05)
theirs = cnnlab.Trainer(
    ours,
    optimizer,
    scheduler=cnnlab.attach(optimizer, schedules.cosine(2 * ONE_EPOCH)),
    ema=EMA(ours, decay=0.97),
    device="cpu",
    progress=False,
)
theirs.fit(fixed, epochs=2)
assert same_state(run["model"], ours)
assert same_state(run["ema"].module, theirs.ema.model)

curve = one_run.valid_acc.tolist()
stop, best = replay(curve, "max", patience=3, min_delta=0.01)
stopper, marker = EarlyStopper(3, min_delta=0.01), torch.nn.Linear(1, 1)
for epoch, accuracy in enumerate(curve):
    marker.bias.data.fill_(epoch)  # so that the weights know their epoch
    if stopper.should_stop(accuracy, marker):
        break
assert epoch == stop
assert stopper.best_weights["bias"].item() == best
print("plain PyTorch and cnnlab agree to the last bit")

# %% [markdown]
# ## 6.9 How well calibrated are you?
#
# Probabilities are **calibrated** if about 80 % of the predictions made with 80 % confidence are correct (chapter 4).
# `START_HERE` suggests that you ask the same of yourself: write your confidence after your guess, for example
# `my_guess = 0.4, 0.8` if you're 80 % sure of 0.4. The figure shows how often you were correct at each level of
# confidence, in all chapters so far. If you've forgotten about it, go back to a few predictions and try. With only a
# handful of them the error bars are long, so come back after the next chapters.

# %% tags=["check"]
check.calibration()

# %% [markdown]
# ## Make it bigger
#
# Train on CIFAR-10 with 40 % wrong labels, a moving average, and early stopping on the *average*'s accuracy. The cell
# downloads 170 MB once and needs a GPU, so it runs only if the environment variable `CNNLAB_PROFILE` is `gpu`. To look
# for double descent, set `patience` and `epochs` to 200.

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

# %% tags=["hide-input"]
check.quiz(6)

# %% [markdown]
# ## Key points
#
# - A network overfits when it improves on its training images and gets worse on new ones. Early stopping goes back to
#   the best epoch; judge that choice on the test set.
# - Early stopping gains most where late training does harm. With a well-chosen learning rate it may gain nothing, and
#   its validation labels are part of its price.
# - A checkpoint holds everything the next step depends on. Only a comparison to the last bit can tell you whether
#   nothing is missing.
# - An EMA spans about $1/(1-d)$ steps. Choose the span in epochs, copy the buffers, and evaluate the average with the
#   same early stopping.
# - Averaged weights other than an EMA's need batch-norm statistics of their own.
# - Averaging predictions works for any networks, and it hardly matters whether you average probabilities or logits. At
#   the same price, longer training may buy as much accuracy, but not as good probabilities.
# - Averaging weights works within a run, between networks fine-tuned from the same pretrained weights, or, with a loss
#   that shrinks with the width, after matching the channels.
#
# **Your recipe so far** has two versions now. The first is a cosine that runs to its end, as in chapter 5. The second
# is for runs whose end you don't know, or whose labels you don't trust: a constant learning rate with an EMA, and early
# stopping on the EMA's validation accuracy.
#
# ## Common mistakes
#
# | what you see | the usual cause |
# |---|---|
# | training stops after the first epochs | the patience is too small for the noise (0 is the default in Keras), or the `mode` is the wrong way round |
# | training never stops although the curve is flat | every tiny gain resets the patience: set `min_delta`; or NaN counts as an improvement |
# | the "restored" model is the last one | nothing was restored: check what your library does when the epochs run out |
# | great validation accuracy, worse on the test set | the best of many epochs is partly luck |
# | after a resume the loss jumps | momenta, schedule or batch-norm statistics weren't in the file |
# | a resumed run ends a little differently | the order of the images, or a random generator, started again |
# | the EMA is as bad as an untrained network | decay too close to 1 for so few steps, no warm-up, or buffers not copied |
# | SWA is much worse than the model | the batch-norm statistics belong to other weights: call `update_bn` |
# | the ensemble is no better than one member | the members are too much alike, or they trained too briefly |
#
# ## References
#
# - S. K. Ainsworth, J. Hayase and S. Srinivasa, *Git Re-Basin: Merging models modulo permutation symmetries*, 2022,
#   [arXiv:2209.04836](https://arxiv.org/abs/2209.04836)
# - D. Arpit, S. Jastrzębski, N. Ballas and others, *A closer look at memorization in deep networks*, 2017,
#   [arXiv:1706.05394](https://arxiv.org/abs/1706.05394)
# - G. Hinton, O. Vinyals and J. Dean, *Distilling the knowledge in a neural network*, 2015,
#   [arXiv:1503.02531](https://arxiv.org/abs/1503.02531)
# - G. Huang, Y. Li, G. Pleiss, Z. Liu, J. E. Hopcroft and K. Q. Weinberger, *Snapshot ensembles: Train 1, get M for
#   free*, 2017, [arXiv:1704.00109](https://arxiv.org/abs/1704.00109)
# - P. Izmailov, D. Podoprikhin, T. Garipov, D. Vetrov and A. G. Wilson, *Averaging weights leads to wider optima and
#   better generalization*, 2018, [arXiv:1803.05407](https://arxiv.org/abs/1803.05407)
# - K. Jordan, H. Sedghi, O. Saukh, R. Entezari and B. Neyshabur, *REPAIR: REnormalizing Permuted Activations for
#   Interpolation Repair*, 2022, [arXiv:2211.08403](https://arxiv.org/abs/2211.08403)
# - B. Lakshminarayanan, A. Pritzel and C. Blundell, *Simple and scalable predictive uncertainty estimation using deep
#   ensembles*, 2017, [arXiv:1612.01474](https://arxiv.org/abs/1612.01474)
# - D. Morales-Brotons, T. Vogels and H. Hendrikx, *Exponential moving average of weights in deep learning: Dynamics and
#   benefits*, 2024, [arXiv:2411.18704](https://arxiv.org/abs/2411.18704)
# - P. Nakkiran, G. Kaplun, Y. Bansal, T. Yang, B. Barak and I. Sutskever, *Deep double descent: Where bigger models and
#   more data hurt*, 2019, [arXiv:1912.02292](https://arxiv.org/abs/1912.02292)
# - B. Neyshabur, H. Sedghi and C. Zhang, *What is being transferred in transfer learning?*, 2020,
#   [arXiv:2008.11687](https://arxiv.org/abs/2008.11687)
# - W. Peebles and S. Xie, *Scalable diffusion models with transformers*, 2023,
#   [arXiv:2212.09748](https://arxiv.org/abs/2212.09748)
# - B. T. Polyak and A. B. Juditsky, *Acceleration of stochastic approximation by averaging*, 1992,
#   [doi:10.1137/0330046](https://doi.org/10.1137/0330046)
# - L. Prechelt, *Early stopping - but when?*, 1998,
#   [doi:10.1007/3-540-49430-8_3](https://doi.org/10.1007/3-540-49430-8_3)
# - S. P. Singh and M. Jaggi, *Model fusion via optimal transport*, 2020,
#   [arXiv:1910.05653](https://arxiv.org/abs/1910.05653)
# - M. Wortsman, G. Ilharco, S. Y. Gadre and others, *Model soups: Averaging weights of multiple fine-tuned models
#   improves accuracy without increasing inference time*, 2022, [arXiv:2203.05482](https://arxiv.org/abs/2203.05482)

# %% [markdown] tags=["instructor", "remove-cell"]
# ## When you are short of time
#
# Keep 6.1, the exercise of 6.2, and 6.7 up to the diagram. Reveal a curve of 6.1 epoch by epoch: everybody stands up at
# the start, and sits down when they would stop.
#
# ## A session of ninety minutes
#
# | minutes | what | sections | who |
# |---|---|---|---|
# | 15 | Wrong labels: predict the best epoch, run, and read the figure slowly | 6.1 | you, with a vote |
# | 10 | Stand up, and sit down when you would stop; then stop by hand | 6.2 | the room |
# | 20 | Exercise 1 | 6.2 | everybody |
# | 10 | Collect what belongs in a checkpoint; resume to the bit | 6.4 | the room, then you |
# | 15 | The moving average: exercise 3 | 6.5 | everybody |
# | 10 | Average the weights of two networks: vote, run, and draw the diagram | 6.7 | the room |
# | 10 | Questions for the room | | the room |
#
# ## Questions for the room
#
# - Your validation accuracy has fallen for five epochs. Do you stop the run? (Usually yes, and keep the best epoch. But
#   in 6.1 the test accuracy peaks in epoch 4, falls by eleven points and rises again by seven after epoch 12, which is
#   double descent. There the last epoch ends at 51 % and early stopping at 57 %, so stopping was right all the same. A
#   better learning rate would have gained more than either.)
# - Early stopping chose the epoch on the validation set. Which number may you publish? (The test accuracy of the
#   restored weights. The validation accuracy of the best epoch is the largest of many, so it's partly luck: the best of
#   sixteen equally good evaluations on 480 images looks four points too good.)
# - The EMA loses to a cosine that trains on all labels. Why, and how would you choose the length of that cosine without
#   validation labels? (The extra labels are correct, and 40 % of the others aren't: the cosine on all labels is 2.5
#   points ahead (0.9 to 4.2). You'd have to choose its length on another data set. Or split first, choose, and then
#   train again on everything.)
# - What belongs in a checkpoint? Collect answers, then compare them with the list in 6.4. (Everything that the next
#   step depends on: the weights and batch-norm statistics, the optimizer's momenta, the position in the schedule, the
#   moving average, the numbers of epochs and steps, the state of the callbacks, the order of the images to come, and a
#   gradient scaler. If the framework draws from running random generators, their state belongs in it, too. You know
#   that nothing is missing when a resumed run ends with the same bits as one that was never stopped.)
# - Why can two fine-tuned networks be averaged without matching, but not two that were trained from scratch?
#   (Fine-tuned networks begin with the same weights, so their units have kept the same jobs, and both end in the same
#   valley. From scratch, the order of the units is arbitrary: two networks with an accuracy of 0.80 give an average
#   with 0.24. After their channels are matched, it's 0.74.)
#
# ## Exam questions
#
# **Question 1.** The validation losses of a run are 1.00, 0.80, 0.79, 0.85, 0.76, 0.75, NaN, 0.74. An improvement is a
# loss that is more than δ below the last one that counted as an improvement. After which evaluation does early stopping
# with a patience of 3 end the run if δ is 0.05, and after which if δ is 0? Which weights are restored? Which number do
# you report, and why not the loss of the restored evaluation?
#
# **Answer.** With δ = 0.05, 0.80 improves on 1.00. Then 0.79, 0.85 and 0.76 don't lie below 0.75, so the run ends after
# the fifth evaluation, and its weights are restored, because 0.76 is the lowest loss so far. With δ = 0, the losses
# 0.80, 0.79, 0.76, 0.75 and 0.74 all improve, and NaN counts as an evaluation without improvement. The patience never
# runs out, so the run ends with the last evaluation, which is restored. Report the metric of the restored weights on a
# test set. Their validation loss is the smallest of several, so luck is part of it.
#
# **Question 2.** A run of 500 steps keeps a moving average of the weights with a constant decay of 0.999, which starts
# at the initial weights. The average is hardly better than an untrained network. Explain this with a number, and give
# two repairs. Why does an equal average over the last ten epochs need new batch-norm statistics, while a moving average
# can do without?
#
# **Answer.** The initial weights still make up 0.61 of the average, which is 0.999 to the power of 500. Either choose a
# decay that spans the epochs you want, for example 1 − 1/60 for sixty steps, or let the decay rise during the run.
# Batch-norm statistics belong to the features that the weights produced when they were collected. A moving average
# stays close to the live weights, so their statistics nearly fit. The mean of ten epochs lies far from each of them, so
# its features have other means and variances, and they have to be measured by passing training images through it.
