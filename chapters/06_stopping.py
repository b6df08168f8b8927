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
# **Questions.** When is a run over? Which of its weights do you keep? How do you stop a run today and go on tomorrow
# as if nothing had happened? What do you gain when you average: weights of one run, or answers of several?
#
# **Afterwards you can** read a noisy validation curve without being fooled by it, write early stopping with all its
# corner cases, resume a run to the last bit, choose the decay of a moving average, and say when an ensemble is worth
# its price.
#
# | | |
# |---|---|
# | to read | 30 minutes |
# | to run | 75 seconds on one core of a laptop; no internet, no GPU |
# | you need | chapters 1 and 2; chapter 5 helps |

# %% tags=["setup"]
import copy
import tempfile
from functools import lru_cache
from pathlib import Path

import pandas as pd
import torch

import cnnlab
from cnnlab import averaging, check, checkpoint, plots, schedules, widgets
from cnnlab.averaging import EMA, SWA
from cnnlab.callbacks import (
    Checkpoint,
    EarlyStopping,
    SnapshotEnsemble,
    replay,
)
from cnnlab.experiment import Results

lab = cnnlab.setup(seed=0)


@lru_cache
def signs(seed):
    """The signs that belong to the seed."""
    return cnnlab.load(
        "pocket", seed=seed, n_train=480, n_valid=480, n_test=240
    )


data = signs(0)
K = len(data.classes)  # twelve classes
valid = cnnlab.loader(data.valid, batch_size=256)
test = cnnlab.loader(data.test, batch_size=256)


def fresh(seed):
    """A network with the weights that belong to the seed."""
    torch.manual_seed(seed)
    return cnnlab.small_resnet(num_classes=K)


def batches(part, seed):
    """The training batches of 32, in the order that belongs to the seed."""
    return cnnlab.loader(part, batch_size=32, shuffle=True, seed=seed)


def trainer_for(model, seed, *, rate, schedule=None, ema=None, callbacks=()):
    """SGD with momentum; the rate is constant unless a schedule is given."""
    optimizer = torch.optim.SGD(model.parameters(), lr=rate, momentum=0.9)
    return cnnlab.Trainer(
        model,
        optimizer,
        scheduler=cnnlab.attach(optimizer, schedule or schedules.constant()),
        ema=ema,
        callbacks=callbacks,
        seed=seed,
        device="cpu",
        progress=False,
    )


# %% [markdown]
# ## 6.1 When to stop
#
# The training loss falls as long as you train. The validation accuracy rises, wavers, and sometimes falls again,
# because at some point the network learns what only its training images have in common. **Early stopping** watches a
# number $m_t$ that was measured after epoch $t$, and ends the run when it no longer improves. With an accuracy, where
# large is good:
#
# $$ \text{epoch } t \text{ improves} \iff m_t > b + \delta, \qquad
# b = \text{the value of the last epoch that improved}, $$
#
# and the run ends after $p$ epochs in a row without improvement. Then you keep the weights of the best epoch, not the
# last ones. There are four choices in it:
#
# - the **mode**: is large good (an accuracy) or small (a loss)? Code that guesses it from the name has
#   minimised accuracies; `EarlyStopping` makes you say it;
# - the **patience** $p$: small saves time, large forgives noise. Ten to twenty epochs are usual in long runs, fewer
#   in short ones;
# - **`min_delta`** $\delta$: gains no larger than this do not renew the patience;
# - **restoring**: the best weights are those of the best value, however small its lead. So $\delta$ has no say in it.
#
# Prechelt ([1998](https://doi.org/10.1007/3-540-49430-8_3)) compared three kinds of such criteria, each from hasty to
# slow. There was no free lunch: the slow ones generalised about 4 % better on average, and trained about four times
# as long.
#
# An example to do in your head first. After which epoch does training end, and which is restored?

# %%
by_hand = [0.50, 0.60, 0.58, 0.62, 0.61, 0.63, 0.60, 0.66]
for patience, min_delta in ((1, 0), (2, 0), (2, 0.05), (4, 0.05)):
    stop, best = replay(by_hand, "max", patience, min_delta)
    print(
        f"patience {patience}, min_delta {min_delta}: "
        f"ends after index {stop}, restores index {best}"
    )

# 0.62 and 0.63 exceed 0.60, but not by more than 0.05; 0.66 comes too late:
assert replay(by_hand, "max", 2, 0.05) == (3, 3)
assert replay(by_hand, "max", 4, 0.05) == (5, 5)

# %% [markdown]
# Look at the third line. With a `min_delta` of 0.05 the epoch with 0.62 did not count as improvement, and still its
# weights are the ones you get: they were the best that were seen.
#
# What `replay` works out for a list, the callback `EarlyStopping` does in a run.
#
# ### A best of many is partly luck
#
# Before you look at real curves, know your ruler. Measure a network that is right in 60 of 100 cases on 480 images,
# and the number has a standard deviation of $\sqrt{0.6 \cdot 0.4 / 480} \approx 0.022$. Sixteen such measurements,
# and the best of them is kept: how good does it look?

# %%
draws = torch.Generator().manual_seed(0)
right = torch.rand(1000, 16, 480, generator=draws) < 0.6  # 1000 runs
measured = right.float().mean(dim=2)  # (1000, 16)
best_of_16 = measured.max(dim=1).values.mean().item()
print(f"true accuracy 0.600, best of sixteen {best_of_16:.3f} on average")
assert best_of_16 > 0.63
del right

# %% [markdown]
# All sixteen are equally good, yet the best one seems clearly better. In a real run the images are the same in each
# epoch, so the luck is smaller, but it has the same sign. That is why a stop that was *chosen* on the validation part
# is *judged* on the test part, here and in your work.
#
# ## 6.2 Wrong labels
#
# Where does stopping pay? Where late training does harm. The harm is largest when labels are wrong: the rule behind
# the signs is learnt first, for it serves many images at once; the wrong labels can only be learnt by heart, one by
# one, and that comes later ([Arpit et al. 2017](https://arxiv.org/abs/1706.05394)). So you train on images of which
# two in five bear a wrong label. The labels for validation and test are right.


# %%
class TestToo(cnnlab.Callback):
    """Evaluates the test set after each epoch as well; it decides nothing."""

    def __init__(self, test):
        self.test = test

    def on_epoch_end(self, trainer):
        row = trainer.history.epochs[-1]
        row["test_acc"] = trainer.evaluate(self.test)["acc"]
        averaged = trainer.evaluate(self.test, model=trainer.ema.model)
        row["ema_test_acc"] = averaged["acc"]


@lru_cache  # a cell that runs again does not train again
def wrong_labels(seed):
    """Train ten epochs on 40 % wrong labels; one row per epoch."""
    data = signs(seed)
    noisy = cnnlab.data.label_noise(data.train, rate=0.4, seed=seed)
    test_too = TestToo(cnnlab.loader(data.test, batch_size=256))
    model = fresh(seed)
    ema = EMA(model, decay=0.97)  # section 6.4
    trainer = trainer_for(
        model, seed, rate=0.05, ema=ema, callbacks=[test_too]
    )
    valid = cnnlab.loader(data.valid, batch_size=256)
    return trainer.fit(batches(noisy, seed), valid, epochs=10).frame()


# %% [markdown]
# ### Predict
#
# By how much will the test accuracy of the restored epoch exceed that of the last one? (0.1 would be ten points; a
# negative number means that stopping does harm.)

# %% tags=["predict"]
my_gain_by_stopping = ...

# %% [markdown]
# A run with early stopping is the beginning of the same run without it: the callback only watches. So one run a seed
# serves both arms: let it go to its end, and read off where it would have stopped.


# %% tags=["experiment"]
def noisy_outcome(seed, part="", stopped=False):
    """Test accuracy at the end, or of what early stopping restores."""
    curve = wrong_labels(seed)
    used = len(curve) - 1
    if stopped:
        _, used = replay(curve[f"{part}valid_acc"], "max", patience=4)
    return curve[f"{part}test_acc"][used]


live_noisy = cnnlab.compare(
    {
        "last epoch": noisy_outcome,
        "early stopping": lambda seed: noisy_outcome(seed, stopped=True),
        "EMA, last epoch": lambda seed: noisy_outcome(seed, "ema_"),
        "EMA, early stopping": lambda seed: noisy_outcome(
            seed, "ema_", stopped=True
        ),
    },
    seeds=3,
    metric="test_acc",
)
stored_noisy = Results.load("studies/06_noisy_labels.csv")
live_noisy.plot(
    stored_noisy,
    message="Of these four, an EMA with early stopping copes best with wrong labels.",
)

# %% [markdown]
# Your three runs (coloured) are short. The grey bars are a stored study, `chapters/studies/06_noisy_labels.py`, with
# eight seeds, twice as many images and sixteen epochs. Each seed draws its own images and its own wrong labels, and the
# six claims of the study were declared before it ran. This is the first of them:

# %% tags=["claim"]
stored_noisy.claim("early stopping", ">", "last epoch")

# %% tags=["check"]
check.prediction(
    "How much does stopping gain with wrong labels?",
    my_gain_by_stopping,
    stored_noisy.difference("early stopping", "last epoch")[0],
    within=0.05,
)

# %%
curves = pd.read_csv("studies/06_noisy_labels_curves.csv")
curves = curves[curves.schedule == "constant"]
mean = curves.groupby("epoch").mean(numeric_only=True)
plots.lines(
    mean.index.tolist(),
    {
        "validation, correct labels": mean.valid_acc.tolist(),
        "test, correct labels": mean.test_acc.tolist(),
        "training, 40 % wrong labels": mean.train_acc.tolist(),
    },
    xlabel="finished epochs",
    ylabel="accuracy (mean of eight runs)",
    message="Validation accuracy peaks early and falls while wrong labels "
    "are memorised, then recovers in part.",
)

# %% [markdown]
# The training accuracy can't exceed 0.6 by knowing signs alone, because two labels in five are wrong. At the latest
# where the curve crosses 0.6, the network is memorising wrong labels, and by then the other two have turned down.

# %%
crossing = int((mean.train_acc > 0.6).idxmax())
print(f"training accuracy above 0.6 from epoch {crossing} on")
print(f"validation best in epoch {int(mean.valid_acc.idxmax())}")
assert mean.valid_acc.idxmax() < crossing

# %% [markdown]
# The mean of eight runs is smooth. Yours will be one run, and one run looks like the next figure (one of the eight,
# picked because it shows it well). Move the patience: with 1 you stop at the first hiccup, with a large one you pay
# for epochs that bring nothing, though you still keep the best weights. Then move `min_delta`: as a rule a larger one
# stops earlier.

# %% tags=["widget"]
one_run = curves[curves.seed == 6]
widgets.early_stopping(
    one_run.valid_acc.tolist(), judged=one_run.test_acc.tolist()
)

# %% [markdown]
# <details>
# <summary><b>For experts: can a larger min_delta stop <i>later</i>?</b></summary>
#
# Yes. Take a patience of 2 and the accuracies 0, 0.06, 0.08, 0, 0. With a `min_delta` of 0.05 the second value
# improves, the third does not exceed *it* by 0.05, and the run ends after the fourth. With 0.07 the second value does
# not count, but the third exceeds the first by 0.08, and the run ends after the fifth. Try it with `replay`.
#
# </details>

# %%
zigzag = [0, 0.06, 0.08, 0, 0]
assert replay(zigzag, "max", patience=2, min_delta=0.05)[0] == 3
assert replay(zigzag, "max", patience=2, min_delta=0.07)[0] == 4

# %% [markdown]
# And the real thing. The callback ends the fit, puts the best weights into the model, and tells why.

# %%
stopping = EarlyStopping("valid_acc", mode="max", patience=2)
model = fresh(0)
trainer = trainer_for(model, 0, rate=0.05, callbacks=[stopping])
noisy = cnnlab.data.label_noise(data.train, rate=0.4, seed=0)
history = trainer.fit(batches(noisy, 0), valid, epochs=10)
print(history.stop_reason or "all epochs done")

whole = wrong_labels(0)
stop, best = replay(whole.valid_acc, "max", patience=2)
assert trainer.epoch == stop + 1  # epochs count from 1, indices from 0
assert stopping.best_epoch == best + 1
assert trainer.evaluate(test)["acc"] == whole.test_acc[best]

# %% [markdown]
# The last line is worth a thought: the test accuracy of the restored weights is that of the best epoch to the last
# digit. With `EarlyStopping` the same is true when the epochs run out and nothing has stopped the run. Many
# implementations restore only when *they* ended it, and otherwise hand you the last weights without a word.
#
# ### What would change it
#
# Everything so far had a constant learning rate of 0.05, and early stopping had 240 correct labels that training didn't
# get. Both can change. So the study has three more kinds of runs with the same seeds. One has a learning rate of 0.005,
# the best of five for a constant rate. One has a cosine, with the best of five peaks, which is 0.01. And the runs called
# "all labels" train on the 240 validation images as well, to the last epoch.

# %%
frame = stored_noisy.frame().groupby("variant", sort=False)
frame[["test_acc", "labels", "epochs_trained", "epoch_used"]].mean().round(3)

# %% tags=["claim"]
stored_noisy.claim(
    "cosine, early stopping", "~", "cosine, last epoch", by=0.02
)

# %%
print("0.005, stopped - not stopped:")
print(
    stored_noisy.difference(
        "lr 0.005, early stopping", "lr 0.005, last epoch"
    )
)

# %% [markdown]
# **With a well-chosen learning rate there was little left to rescue.** Under the cosine, stopping changes the accuracy by
# less than two points, and at a constant 0.005 by 0.3 points (−0.6 to 1.1; exploratory). The stored curves show why. With
# 0.05, the network fits 97 % of its labels in the end, wrong ones included. With the other two it gets only as far as
# about 69 %, so most wrong labels haven't been memorised yet. Early stopping saved epochs there, as the table shows, but
# a shorter schedule saves them too. And where late training does no harm, as with many correct labels, stopping is only a
# way to save time.

# %%
every = pd.read_csv("studies/06_noisy_labels_curves.csv")
ends = every[every.epoch == every.epoch.max()]
learnt = ends.groupby("schedule").train_acc.mean()
print(learnt.round(3).to_string())
assert learnt["constant"] > 0.95
assert learnt["cosine"] < 0.75

# %% [markdown]
# The figure had two more rows. EMA stands for the moving average of section 6.4; it was stopped by its *own*
# validation accuracy.

# %% tags=["claim"]
print(
    stored_noisy.claim("EMA, early stopping", ">", "early stopping", by=0.03)
)
print(
    stored_noisy.claim("EMA, early stopping", ">", "lr 0.005, early stopping")
)

# %% [markdown]
# The average of the weights at the right moment beats early stopping of the live weights, also where those have their best
# learning rate. Without the stop much of that is lost again, because the average follows the live weights wherever they
# go (exploratory):

# %%
print(stored_noisy.difference("EMA, early stopping", "EMA, last epoch"))

# %% [markdown]
# So is this the best that you can do with these labels? We thought so, and declared that it beats a cosine that has all
# the labels to train on.

# %% tags=["claim"]
stored_noisy.verdict("EMA, early stopping", ">", "cosine, all labels")

# %% [markdown]
# **It's the other way round:** the run that spends the 240 labels on training is ahead by 2.5 points (0.9 to 4.2). They
# are correct, while 384 of the other 960 are wrong, so they are worth a lot to the training. A validation set is part of
# the price of early stopping. You can't do without one altogether, because settings must be chosen (here on other seeds),
# but count its labels when you compare two methods.

# %% [markdown]
# ## 6.3 Checkpoints: stop today, go on tomorrow
#
# A **checkpoint** is a file from which a run can go on. For the weights alone `torch.save` would do. To go on
# *exactly* you need all that the next step depends on: the weights and the batch-norm statistics, the optimizer's
# momenta, the position in the schedule, the moving average, the count of epochs, batches and steps, what callbacks
# remember, and which images come next.
#
# You stop a run in the middle of its third epoch, build everything anew, as after a crash, and go on from the folder.
# Then you compare with a run that was never stopped.


# %%
class StopAt(cnnlab.Callback):
    """Ends the fit after a step, as a power cut would, only more politely."""

    def __init__(self, step):
        self.step = step

    def on_step_end(self, trainer):
        if trainer.step == self.step:
            raise cnnlab.StopTraining(f"step {self.step}")


def anew(*callbacks):
    """All that a script would build when it starts."""
    model, train = fresh(0), batches(data.train, 0)
    schedule = schedules.cosine(4 * len(train))
    trainer = trainer_for(
        model,
        0,
        rate=0.1,
        schedule=schedule,
        ema=EMA(model, decay=0.97),
        callbacks=callbacks,
    )
    return trainer, train


uninterrupted, train = anew()
uninterrupted.fit(train, valid, epochs=4)

with tempfile.TemporaryDirectory() as folder:
    middle = 5 * len(train) // 2  # half-way through the third epoch
    first, train = anew(
        StopAt(middle), Checkpoint(folder, keep=2, best="valid_acc")
    )
    first.fit(train, valid, epochs=4)
    print("stopped:", first.history.partial)
    print("files:", sorted(path.name for path in Path(folder).iterdir()))
    newest = checkpoint.load(checkpoint.numbered(folder, middle))

    second, train = anew(Checkpoint(folder, keep=2, best="valid_acc"))
    second.load(folder)  # the newest file that is whole
    second.fit(train, valid, epochs=4)

for one, other in (
    (uninterrupted.model, second.model),
    (uninterrupted.ema.model, second.ema.model),
):
    pairs = zip(
        one.state_dict().values(), other.state_dict().values(), strict=True
    )
    assert all(torch.equal(a, b) for a, b in pairs)
print("weights, statistics and averages are equal to the last bit")

# %%
print("in the file:", ", ".join(newest))

# %% [markdown]
# One thing is missing from the file, and on purpose: the state of random generators. In `cnnlab` the seed, the epoch
# and the step decide every random draw of the training, the order of the images included, so there is nothing to
# save. Where a framework draws from a running generator, its state belongs into the checkpoint, the one of every
# worker too.
#
# `Checkpoint` writes the new file before it deletes an old one, so a crash while writing leaves you the old one;
# `keep` says how many of the newest stay. `best="valid_acc"` keeps the best epoch in a file of its own, `best.pt`.
# Each file ends in a digest, so that a damaged one is noticed and `load` takes the one before. And a checkpoint holds
# tensors and plain values only: loading one from the internet runs no code.
#
# ## 6.4 Averages of weights
#
# At a constant rate the weights never come to rest. Each batch throws them about, around a place that moves slowly.
# An average over the last steps lies nearer to that place than any single step (Polyak & Juditsky
# [1992](https://doi.org/10.1137/0330046)). The **exponential moving average** (EMA; in deep learning for
# example [Tarvainen & Valpola 2017](https://arxiv.org/abs/1703.01780)) costs one copy of the weights,
#
# $$ \bar{w} \leftarrow d_t \, \bar{w} + (1 - d_t) \, w, \qquad d_t = \min\!\left(d, \frac{1 + t}{10 + t}\right), $$
#
# after each optimizer step; $t$ counts the finished updates, 0 at the first. Why the minimum? With the constant $d$
# the random first weights would fade only slowly. With the rising one the average forgets fast as long as there is
# little worth remembering.

# %%
decay, steps = 0.999, 500
constant, rising = decay**steps, 1.0
for t in range(steps):
    rising *= min(decay, (1 + t) / (10 + t))
print(f"share of the first weights after {steps} steps:")
print(f"constant decay {constant:.3f}, with warm-up {rising:.1e}")
assert constant > 0.6
assert rising < 1e-9

# %% [markdown]
# How large a $d$? A weight that is $s$ steps old has the share $(1 - d) \, d^s$, and the mean age is $d / (1 - d)$.
# So the average spans about $1 / (1 - d)$ steps: the newest so many make up all but $1/e$ of it, 63 %. Decide how
# many *epochs* you want to span and work backwards: with 30 steps an epoch and two epochs that is $d = 1 - 1/60
# \approx 0.983$. The usual 0.999 spans a thousand steps, which in this chapter would be more than a whole run.

# %%
for decay in (0.9, 0.98, 0.999):
    span = round(1 / (1 - decay))
    newest_share = 1 - decay**span
    print(f"d = {decay}: the newest {span} steps make up {newest_share:.2f}")
    assert 0.63 < newest_share < 0.66

# %% [markdown]
# **Stochastic weight averaging** (SWA, [Izmailov et al. 2018](https://arxiv.org/abs/1803.05407)) takes the *equal*
# average of the weights at the end of each epoch, from some epoch on, at a rate that stays large: $\bar{w} =
# \frac{1}{n} \sum_i w_i$.
#
# Averaged weights have a catch. Batch norm divides by statistics that were collected while *other* weights produced
# the features. For an EMA, which stays close to the live model, the statistics of that model serve well enough. For
# SWA they do not fit, and you measure them anew with one pass over the training images: `averaging.update_bn`.
#
# Now the labels are right again, and everything comes from the same runs: the live model, its EMA, its SWA before and
# after `update_bn`. Besides the accuracy at the end you measure how much the curve **wobbles**: the mean size of the
# change of the validation accuracy from one epoch to the next, in the second half of the run, where the first rise is
# over.
#
# ### Predict
#
# In a stored study with right labels and a constant learning rate, the validation accuracy of the live weights changes
# by 3.9 points from one epoch to the next, on average. By how many points does the accuracy of their EMA change?

# %% tags=["predict"]
my_wobble_of_the_ema = ...


# %% tags=["experiment"]
@lru_cache
def averaged_run(seed, data_seed):
    """Train with right labels at a constant rate; the trainer and its SWA."""
    data = signs(data_seed)
    model = fresh(seed)
    swa = SWA(model, start_epoch=5)
    trainer = trainer_for(
        model, seed, rate=0.1, ema=EMA(model, decay=0.97), callbacks=[swa]
    )
    valid = cnnlab.loader(data.valid, batch_size=256)
    trainer.fit(batches(data.train, seed), valid, epochs=10)
    stale = copy.deepcopy(swa.model)
    averaging.update_bn(swa.model, cnnlab.loader(data.train, 256))
    return trainer, stale, swa.model


def end_and_wobble(seed, part):
    """Accuracy at the end, and mean change from epoch to epoch."""
    column = averaged_run(seed, seed)[0].history.frame()[f"{part}valid_acc"]
    return {
        "valid_acc": column.iloc[-1],
        "wobble": column.diff().abs().iloc[5:].mean(),
    }


def swa_end(seed, which):
    trainer, *models = averaged_run(seed, seed)
    valid = cnnlab.loader(signs(seed).valid, batch_size=256)
    found = trainer.evaluate(valid, model=models[which])
    return {"valid_acc": found["acc"], "wobble": float("nan")}


live_averages = cnnlab.compare(
    {
        "constant, live": lambda seed: end_and_wobble(seed, ""),
        "constant, EMA": lambda seed: end_and_wobble(seed, "ema_"),
        "constant, SWA": lambda seed: swa_end(seed, 1),
        "constant, SWA, statistics of the live model": lambda seed: swa_end(
            seed, 0
        ),
    },
    seeds=5,
    metric="valid_acc",
)
stored_averages = Results.load("studies/06_averages.csv")
live_averages.plot(stored_averages)

# %% [markdown]
# The warning belongs to the last variant, which leaves out `update_bn` on purpose.
#
# Coloured: your five runs, each with signs of its own. Grey: the stored study `06_averages.py`, with eight seeds, more
# images and two more epochs. Its settings were chosen on other images with other seeds, and so were those of the third
# study, further down. First the curve:

# %%
averaged_run(0, 0)[0].history.plot()

# %%
settings = {
    "right labels, your runs, second half": (
        live_averages,
        "constant, EMA",
        "constant, live",
    ),
    "right labels, the study, whole runs": (
        stored_averages,
        "constant, EMA",
        "constant, live",
    ),
    "wrong labels, the study, whole runs": (
        stored_noisy,
        "EMA, last epoch",
        "last epoch",
    ),
}
print("wobble, EMA - live:")
for name, (results, a, b) in settings.items():
    print(f"{name}: {results.on('wobble').difference(a, b)}")

# %% [markdown]
# In the study the EMA wobbles by half a point less, and the interval reaches from 1.2 points less to 0.1 points more. So
# the EMA is probably a little calmer and hardly by more than a third, but that it is calmer at all, which we had
# declared before the study ran, isn't supported after Holm's correction:

# %% tags=["claim"]
stored_averages.on("wobble").verdict("constant, EMA", "<", "constant, live")

# %% tags=["check"]
check.prediction(
    "By how many points does the accuracy of the EMA change per epoch?",
    my_wobble_of_the_ema,
    100 * stored_averages.on("wobble").values("constant, EMA").mean(),
    within=0.5,
    unit="points",
)

# %% [markdown]
# A validation accuracy wobbles by itself, whatever the weights do, and an EMA can't take that away. With wrong labels the
# weights are thrown about further. Here is the run from the explorer once more; there the declared claim is supported,
# and the EMA wobbles by 2.2 points less (1.0 to 3.4):
# %%
plots.lines(
    one_run.epoch.tolist(),
    {
        "validation (live weights)": one_run.valid_acc.tolist(),
        "EMA": one_run.ema_valid_acc.tolist(),
    },
    xlabel="finished epochs",
    ylabel="validation accuracy",
    message="With wrong labels, the EMA is calmer than the live weights.",
)

# %% tags=["claim"]
stored_noisy.on("wobble").claim("EMA, last epoch", "<", "last epoch")

# %% [markdown]
# A calm curve is worth something in itself: when you compare two ideas by their last epoch, part of what you see is
# where the weights happened to be thrown.
#
# Is the average also better? We had declared that each average gains more than one point over the live weights:

# %% tags=["claim"]
print(
    stored_averages.verdict("constant, EMA", ">", "constant, live", by=0.01)
)
print(
    stored_averages.verdict("constant, SWA", ">", "constant, live", by=0.01)
)

# %% [markdown]
# The estimate is 1.8 points for both, and both intervals lie above zero: averaging helped here. But they begin at 0.7
# and 0.8 points, so a gain of *more than one point* isn't shown. SWA needs batch-norm statistics of its own for it:

# %% tags=["claim"]
stored_averages.claim(
    "constant, SWA", ">", "constant, SWA, statistics of the live model"
)

# %% [markdown]
# ### What would change it
#
# The learning rate. Under a cosine the weights come to rest by themselves, and there is little left to average away:

# %% tags=["claim"]
print(stored_averages.claim("cosine, EMA", "~", "cosine, live", by=0.01))
print(stored_averages.claim("cosine, SWA", "~", "cosine, live", by=0.01))

# %% [markdown]
# There, neither average changes the accuracy by as much as one point. Averaging and a falling learning rate do the same
# job in two ways, and in this study one of them was enough. The constant learning rate with an average even came out
# ahead of the cosine. We hadn't declared that, so it is exploratory:

# %%
print(stored_averages.difference("constant, EMA", "cosine, live"))

# %% [markdown]
# That is one setting, twelve epochs of a small network, and the rate was not chosen for each arm by itself: do not
# throw your cosine away. What the average offers beyond it is freedom: it needs no end. You can stop it after any
# epoch, which is just what early stopping wants.
#
# ## 6.5 Averages of answers
#
# Ask several networks and average what they say. The members of an **ensemble** err on different images, and where
# one is wrong the others outvote it. Networks that differ in nothing but their seed, so in first weights and order of
# the images, are enough: a **deep ensemble** ([Lakshminarayanan et al. 2017](https://arxiv.org/abs/1612.01474)). What
# is averaged are the **probabilities**:
#
# $$ \bar{p}_k(x) = \frac{1}{M} \sum_{m=1}^{M} p_k(x; w_m). $$
#
# Not the logits: their scale says how sure a member is of itself, and a single member that is far too sure would
# overrule the rest. Not the votes either, which throw away every hesitation. Three members and two classes:

# %%
logits = torch.tensor([[[2.0, 0.0]], [[2.0, 0.0]], [[0.0, 9.0]]])  # (3, 1, 2)
for p in logits.softmax(dim=2)[:, 0].tolist():
    print("a member:", [f"{share:.4f}" for share in p])
together = averaging.ensemble(logits)[0]
of_logits = logits.mean(dim=0).softmax(dim=1)[0]
print("mean of the probabilities:", [f"{p:.3f}" for p in together.tolist()])
print("softmax of mean logits:   ", [f"{p:.3f}" for p in of_logits.tolist()])
assert together.argmax() == 0  # two against one
assert of_logits.argmax() == 1  # the loud one wins

# %% [markdown]
# And why not the weights, which would cost one network instead of $M$? An EMA does average weights, but those of
# *one* run, steps apart. Now train four networks on the same images, each with its own seed for the first weights and
# the order.
#
# ### Predict
#
# You average the *weights* of these four networks and compute the batch-norm statistics again. What accuracy do you
# expect? (Each one alone: see the figure above. Guessing: 0.08.)

# %% tags=["predict"]
my_accuracy_of_mean_weights = ...

# %% tags=["experiment"]
models = [averaged_run(seed, 0)[0].model for seed in range(4)]
mean_weights = SWA(models[0])
for model in models:
    mean_weights.update(model)
averaging.update_bn(mean_weights.model, cnnlab.loader(data.train, 256))


def accuracy(outputs, data):
    """Compute the validation accuracy of logits or probabilities (N, K)."""
    correct = outputs.argmax(dim=1) == data.valid.labels
    return correct.float().mean().item()


measurer = averaged_run(0, 0)[0]
alone = [measurer.evaluate(valid, model=model)["acc"] for model in models]
of_weights = measurer.evaluate(valid, model=mean_weights.model)["acc"]
of_answers = accuracy(averaging.ensemble(models, loader=valid), data)
print(f"each alone, mean of four:   {sum(alone) / 4:.3f}")
print(f"average of probabilities:   {of_answers:.3f}")
print(f"average of weights:         {of_weights:.3f}")
if lab.profile != "smoke":  # too few images to learn anything there
    assert of_weights < min(alone) - 0.2
    assert of_answers > sum(alone) / 4

# %% tags=["check"]
check.prediction(
    "Accuracy of the mean weights?",
    my_accuracy_of_mean_weights,
    of_weights,
    within=0.05,
)

# %% [markdown]
# The answers gained, the weights lost most of what training had brought. Two networks that do the same need not do it
# with the same channels: swap two channels of one, together with the weights that read them, and it is still the same
# function, but its average with the other is another one. Weights can be averaged within one run, or soon after a
# common beginning; answers always.
#
# ### Many for the price of one
#
# Five networks cost five trainings. A **snapshot ensemble** ([Huang et al. 2017](https://arxiv.org/abs/1704.00109))
# takes its members from one run: the rate falls along a cosine and jumps up again (`schedules.warm_restarts`),
# several times. At the end of each cycle the weights have settled, a copy is kept, and the jump leads elsewhere.


# %%
@lru_cache
def snapshot_logits(seed, cycles=3, epochs=3):
    """Train in cycles; the validation logits at the end of each."""
    data = signs(seed)
    model, train = fresh(seed), batches(data.train, seed)
    cycle = epochs * len(train)  # in steps
    snapshots = SnapshotEnsemble(cycle_steps=cycle)
    trainer = trainer_for(
        model,
        seed,
        rate=0.1,
        schedule=schedules.warm_restarts(cycle),
        callbacks=[snapshots],
    )
    trainer.fit(train, epochs=cycles * epochs)
    valid = cnnlab.loader(data.valid, batch_size=256)
    return [trainer.predict(valid, model=m) for m in snapshots.models(model)]


def snapshots_of(seed):
    """Accuracies of the ensemble, of its members and of the last of them."""
    members, data = snapshot_logits(seed), signs(seed)
    alone = [accuracy(member, data) for member in members]
    averaged = accuracy(averaging.ensemble(members), data)
    return averaged, sum(alone) / len(alone), alone[-1]


plots.schedules(
    {"three cycles": schedules.warm_restarts(45)},
    136,
    message="Each of the three cycles starts again at the full learning rate.",
)

# %% tags=["experiment"]
live_ensembles = cnnlab.compare(
    {
        "snapshot ensemble": lambda seed: snapshots_of(seed)[0],
        "its members": lambda seed: snapshots_of(seed)[1],
        "its last member": lambda seed: snapshots_of(seed)[2],
    },
    seeds=3,
    metric="valid_acc",
)
stored_ensembles = Results.load("studies/06_ensembles.csv")
live_ensembles.plot(
    stored_ensembles,
    message="The snapshot ensemble beats its average member, but not its last one.",
)

# %% tags=["claim"]
stored_ensembles.claim("snapshot ensemble", ">", "its members")

# %% [markdown]
# It is a cheap claim, and so we didn't declare it: the members of the first cycles are half-trained, and drag the mean
# down. Ask what you
# would ask in earnest: is the ensemble better than what the same epochs could have bought otherwise? Here is the
# whole study, with its price; one budget is sixteen epochs.

# %%
budgets = {
    "snapshot ensemble": 1,
    "its last two members": 1,
    "its last member": 1,
    "one long run": 1,
    "four short runs": 1,
    "four long runs": 4,
    "four long runs, logits averaged": 4,
}
stored_loss = stored_ensembles.on("valid_loss")
table = pd.DataFrame(
    {
        "budgets": budgets,
        "accuracy": {n: stored_ensembles.values(n).mean() for n in budgets},
        "loss": {n: stored_loss.values(n).mean() for n in budgets},
    }
)
table.round(3)

# %% [markdown]
# With one budget **no ensemble could be shown to beat one long run in accuracy**. The snapshot ensemble is 0.7 points
# behind, with an interval from 2.4 points behind to 1.0 ahead. We had declared that the two differ by less than two
# points, and six seeds aren't enough to support that. Four short runs are clearly worse, because none of the four had
# the time to learn enough.

# %% tags=["claim"]
print(
    stored_ensembles.verdict("snapshot ensemble", "~", "one long run", 0.02)
)
print(stored_ensembles.claim("four short runs", "<", "one long run", by=0.03))

# %% [markdown]
# The loss tells another story. A single network that memorises its training images is overconfident everywhere, and
# members that disagree make the average hesitate:

# %% tags=["claim"]
stored_loss.verdict("snapshot ensemble", "<", "one long run", by=0.03)

# %% [markdown]
# The loss is probably lower, by 0.055 (0.003 to 0.107). That it is lower by more than 0.03, which we had declared, isn't
# supported. If you need good probabilities, snapshots are worth a try, because they cost no epochs (but each prediction
# costs four passes through a network instead of one).
#
# If you can pay four times, both get better:

# %% tags=["claim"]
print(stored_ensembles.claim("four long runs", ">", "one long run"))
print(stored_loss.claim("four long runs", "<", "one long run", by=0.05))

# %% [markdown]
# ### What would change it
#
# Perhaps longer cycles: those of the paper last tens of epochs, long enough to finish a network, and ours last four.
# This study didn't try it; you can, with `SHORT` in its script. And the logits? Averaging them instead changed the
# accuracy by less than one point. The loss is a little lower with probabilities (exploratory):

# %% tags=["claim"]
logits_averaged = "four long runs, logits averaged"
print(stored_ensembles.claim("four long runs", "~", logits_averaged, by=0.01))
print(stored_loss.difference("four long runs", logits_averaged))

# %% [markdown]
# ### Are you calibrated yourself?
#
# Probabilities are **calibrated** if, of all the predictions made with 80 % confidence, about 80 % are correct. You can
# ask the same of your own predictions. Write your confidence behind a guess, for example `my_guess = 0.4, 0.8` if you're
# 80 % sure of 0.4. Below you see how often you were correct at each level of confidence, in all chapters so far. With a
# handful of predictions the bars are long. The next chapters add more than twenty, so come back and run the cell again.

# %% tags=["check"]
check.calibration()

# %% [markdown]
# ## Exercises
#
# ### Exercise 1: `early_stopping` (hard, 20 minutes)
#
# Given what would be measured after each epoch, return two indices into `values`, counted from 0: after which
# evaluation training ends (the last one when nothing stops it), and of which evaluation the weights are restored. The
# rules are those of section 6.1, and:
#
# - NaN never improves, and counts as an evaluation without improvement;
# - a tie is no improvement, and the earlier one is restored;
# - the best is restored whether or not the run was stopped;
# - evaluations behind the stop never happen.
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
# You need two best values: one that patience compares with, and one for restoring. They move by different rules.
#
# </details>
#
# <details>
# <summary><b>Hint: wrong when a NaN comes first</b></summary>
#
# Every comparison with NaN is False. With what can you begin that any number beats?
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
# ### Exercise 2: `ema_update` (easy, 8 minutes)
#
# One update of the moving average with warm-up, as `averaging.EMA` makes it. `average` and `weights` are lists of
# tensors of the same shapes; `step` counts the *finished* updates, so it is 0 at the first. Return a new list, and
# leave what you were given as it is.


# %% tags=["exercise"]
def ema_update(average, weights, step, decay):
    """Return the average after one more update, as new tensors."""
    raise NotImplementedError


# %% tags=["check"]
check.ema_update(ema_update)

# %% [markdown] tags=["hint"]
# <details>
# <summary><b>Hint: right late in the run, wrong at its beginning</b></summary>
#
# The decay that counts is the smaller one of `decay` and a number that depends on the step.
#
# </details>
#
# <details>
# <summary><b>Hint: the average hardly differs from the weights</b></summary>
#
# Who keeps the share $d$, and who gets $1 - d$?
#
# </details>


# %% tags=["solution", "hide-cell"]
# Solution
def ema_update(average, weights, step, decay):
    """Return the average after one more update, as new tensors."""
    d = min(decay, (1 + step) / (10 + step))
    return [
        d * old + (1 - d) * new
        for old, new in zip(average, weights, strict=True)
    ]


check.ema_update(ema_update)

# %% [markdown]
# ### Exercise 3: `ensemble` (easy, 5 minutes)
#
# From the logits of $M$ members for $N$ images and $K$ classes, (M, N, K), make the probabilities of the ensemble,
# (N, K).


# %% tags=["exercise"]
def ensemble(logits):
    """Return the mean of the members' probabilities, (N, K)."""
    raise NotImplementedError


# %% tags=["check"]
check.ensemble(ensemble)

# %% [markdown] tags=["hint"]
# <details>
# <summary><b>Hint: the rows do not sum to 1</b></summary>
#
# Along which of the three axes does the softmax run, and along which the mean?
#
# </details>


# %% tags=["solution", "hide-cell"]
# Solution
def ensemble(logits):
    """Return the mean of the members' probabilities, (N, K)."""
    return logits.softmax(dim=2).mean(dim=0)


check.ensemble(ensemble)

# %% [markdown]
# ## Make it bigger
#
# CIFAR-10 with 40 % wrong labels, a moving average, and early stopping on the *average*'s accuracy. It downloads 170
# MB once and wants a GPU, so it runs only when the environment variable `CNNLAB_PROFILE` is `gpu`.

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
# - Early stopping: choose mode and patience; restore the best epoch, whether or not the run was stopped; NaN never
#   improves.
# - A stop is a choice made on the validation part. Judge it on images that had no say in it.
# - It gains accuracy where late training does harm, such as with wrong labels at a large constant learning rate. With a
#   smaller one, or a schedule that falls to zero, it may gain nothing. Its validation labels are part of its price.
# - A checkpoint holds everything the next step depends on. Whether it does, only a comparison to the last bit tells.
# - An EMA spans about $1/(1-d)$ steps; choose the span in epochs. It replaces a falling rate, and adds little to one.
# - Averaged weights need batch-norm statistics of their own.
# - Ensembles average probabilities. Weights of independent runs cannot be averaged.
# - Compare an ensemble with what its budget would have bought otherwise.
#
# ## Common mistakes
#
# | what you see | what it often is |
# |---|---|
# | training stops after the first epochs | patience too small for the noise, or `mode` the wrong way round |
# | training never stops although the curve is flat | every tiny gain renews the patience: set `min_delta`; or NaN counts as improvement |
# | the restored model is the last one | weights are restored only when the callback itself stopped the run |
# | great validation number, worse on the test part | the best of many epochs is partly luck |
# | after a resume the loss jumps | momenta, schedule or batch-norm statistics were not in the file |
# | a resumed run ends a little differently | the order of the images, or a random generator, began anew |
# | the EMA is as bad as a fresh network | decay too near to 1 for so few steps, and no warm-up |
# | SWA is much worse than the model | the batch-norm statistics of other weights: `update_bn` |
# | the ensemble is no better than one member | the members are too much alike, or one of them shouts: logits were averaged |
#
# ## References
#
# - L. Prechelt, *Early stopping - but when?*, 1998, [doi:10.1007/3-540-49430-8_3](https://doi.org/10.1007/3-540-49430-8_3)
# - D. Arpit and others, *A closer look at memorization in deep networks*, 2017, [arXiv:1706.05394](https://arxiv.org/abs/1706.05394)
# - B. Polyak and A. Juditsky, *Acceleration of stochastic approximation by averaging*, 1992, [doi:10.1137/0330046](https://doi.org/10.1137/0330046)
# - A. Tarvainen and H. Valpola, *Mean teachers are better role models*, 2017, [arXiv:1703.01780](https://arxiv.org/abs/1703.01780)
# - P. Izmailov and others, *Averaging weights leads to wider optima and better generalization*, 2018, [arXiv:1803.05407](https://arxiv.org/abs/1803.05407)
# - G. Huang and others, *Snapshot ensembles: train 1, get M for free*, 2017, [arXiv:1704.00109](https://arxiv.org/abs/1704.00109)
# - B. Lakshminarayanan, A. Pritzel and C. Blundell, *Simple and scalable predictive uncertainty estimation using deep ensembles*, 2017, [arXiv:1612.01474](https://arxiv.org/abs/1612.01474)

# %% [markdown] tags=["instructor", "remove-cell"]
# ## When you are short of time
#
# 6.1, the curve of 6.2, and 6.3. Play that curve with the room: everybody stands up, and sits down when they would stop.
#
# ## Questions for the room
#
# - Early stopping chose the epoch on the validation part. Which number may you publish?
# - What belongs into a checkpoint? Collect, then compare with the list of 6.3.
# - Four short runs or one long run: what did the study say, and does it surprise you?
