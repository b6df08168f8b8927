# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 5. Learning-rate schedules
#
# In 2017, Leslie Smith, a researcher at the US Naval Research Laboratory, claimed that networks train several times
# faster if the learning rate first *rises* to a value that looks far too large, and then falls to almost nothing. His
# paper on "super-convergence" was rejected by a leading conference. A few months later, a team of students around
# fast.ai used the idea in Stanford's DAWNBench contest and won both training prizes for CIFAR-10, fastest and cheapest
# ([Howard 2018](https://www.fast.ai/posts/2018-04-30-dawnbench-fastai.html)). Today the record for the same task is a
# few seconds on one GPU, and the learning rate still goes up and down.
#
# A schedule is one line of code, and on the photographs of this chapter it's worth about seven points of accuracy. In a
# short run on traffic signs it costs four. By the end you'll know which of the two to expect.
#
# **You will be able to** choose a schedule and its peak, write the common ones as functions of the step, read a range
# test without trusting it too much, add a warm-up that doesn't waste an epoch, and find the bugs that schedules hide.
#
# | | |
# |---|---|
# | to read | 30 minutes |
# | exercises | 85 minutes |
# | to run | 30 seconds on one core of a laptop; no internet, no GPU |
# | you need | [chapter 2](02_normalisation.ipynb): batch norm, and the training template of chapter 1 |

# %% tags=["setup"]
import copy
from functools import cache, lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from studies.common import (
    cpu_trainer,
    seeded_resnet,
    sgd,
    train,
    train_with_schedule,
)

import cnnlab
from cnnlab import check, diagrams, plots, schedules, tune, widgets
from cnnlab.experiment import Claim, Declaration, Results
from cnnlab.experiment import compare_declared, fresh_data

lab = cnnlab.setup(seed=0)
EPOCHS, BATCH_SIZE = 4, 64


@lru_cache(maxsize=8)
def signs(seed):
    """Draw 960 training signs and 960 for validation."""
    return cnnlab.load("pocket", seed=seed, n_train=960, n_valid=960)


STEPS_PER_EPOCH = len(cnnlab.loader(signs(0).train, BATCH_SIZE, shuffle=True))
STEPS = EPOCHS * STEPS_PER_EPOCH  # 4 epochs of 15 steps
signs(0).show(per_class=1)

# %% [markdown]
# ## 5.1 Four learning rates
#
# Picture the loss as a valley and the weights as a ball in it. Each step moves the ball downhill by the learning rate
# times the slope. If the learning rate is too small, the ball crawls. If it's too large, the ball overshoots the bottom
# and climbs the other side. And above a limit that depends on how strongly the valley is curved, each step takes it
# higher than before.

# %%
diagrams.learning_rates()


# %% tags=["experiment"]
def loss_curve(lr):
    """Train for sixty steps; return the losses, averaged over five steps."""
    model = seeded_resnet(0, width=8)
    trainer = train(
        model,
        sgd(model, lr),
        signs(0).train,
        batch_size=BATCH_SIZE,
        epochs=EPOCHS,
        seed=0,
    )
    losses = trainer.history.steps["loss"]
    return losses.rolling(5, min_periods=1).mean()


four_curves = {
    "0.001, too small": loss_curve(0.001),
    "0.1": loss_curve(0.1),
    "2, too large": loss_curve(2.0),
    "10, far too large": loss_curve(10.0),
}
plots.lines(
    range(1, len(four_curves["0.1"]) + 1),
    four_curves,
    xlabel="step",
    ylabel="training loss, mean of five steps",
    log="y",
    message="At 0.1 the network learns fastest; at 2 it gets stuck higher "
    "up, and at 10 it's worse than guessing.",
)

# %% [markdown]
# The same four behaviours appear in a real network. Batch norm keeps the last run from exploding, because large steps
# make the weights longer and longer weights turn less (chapter 2). But its loss stays above $\log 12 = 2.48$, which is
# worse than guessing. Now look at the run with 2. It isn't broken. It learns, but it *settles too high*.
#
# **Why does it settle?** Each step follows the gradient of a batch, which is the true gradient plus noise. Take a
# single weight $w$ with the loss $w^2/2$, so that its gradient is $w$, and add noise $\varepsilon$ of variance
# $\sigma^2$:
#
# $$ w \leftarrow w - \eta\,(w + \varepsilon). $$
#
# Each step shrinks the influence of the starting point by a factor $1 - \eta$, but it also adds new noise. The variance
# $v$ stops changing when $v = (1 - \eta)^2 v + \eta^2 \sigma^2$, which gives
#
# $$ v = \frac{\eta}{2 - \eta}\,\sigma^2 . $$
#
# So with a constant learning rate the weight never arrives. It hovers in a cloud around the minimum, and the cloud is
# about as wide as $\sqrt{\eta}$. The classic condition for convergence says the same: the learning rates must sum to
# infinity, so that every point can be reached, and their squares must not, so that the noise dies out ([Robbins & Monro
# 1951](https://doi.org/10.1214/aoms/1177729586)). Here are four thousand such weights, all of which start at 5.


# %% tags=["experiment"]
def mean_squared_distance(lr, schedule, steps=200, n_weights=4000):
    """Return the mean of w² before each step, and at the end."""
    noise = np.random.default_rng(0)
    w, distances = np.full(n_weights, 5.0), []
    for step in range(steps + 1):
        distances.append((w**2).mean())
        gradient = w + noise.normal(size=n_weights)
        w = w - lr * schedule(step) * gradient
    return distances


hovering = mean_squared_distance(0.3, schedules.constant())
plots.lines(
    range(201),
    {
        "constant 0.3": hovering,
        "constant 0.01": mean_squared_distance(0.01, schedules.constant()),
        "cosine from 0.3": mean_squared_distance(0.3, schedules.cosine(200)),
    },
    xlabel="step",
    ylabel="mean squared distance from the minimum",
    message="A learning rate that falls is fast at first and ends closest "
    "to the minimum.",
    log="y",
)

# %% [markdown]
# The large learning rate arrives at once and then hovers, the small one is still on its way, and the falling one gives
# you both speed and a quiet end. That's the whole case for schedules, and it also shows their limit: in a run so short
# that nothing has arrived yet, there's no noise to suppress, and decaying only slows you down. Remember this for 5.3.
#
# ## 5.2 Step decay and cosine
#
# A **schedule** is a function from the number $t$ of finished steps to a **multiplier** of the base learning rate. Two
# are used more than all others in vision. **Step decay** divides the learning rate by ten (or two, or five) at a few
# milestones:
#
# $$ \alpha(t) = \gamma^{\lfloor t/s \rfloor}, \qquad\text{and the cosine}\qquad
# \alpha(t) = f + (1 - f)\,\tfrac12\left(1 + \cos \frac{\pi t}{T}\right) $$
#
# falls smoothly to a **floor** $f$ at step $T$ ([Loshchilov & Hutter 2017](https://arxiv.org/abs/1608.03983)). Worked
# by hand, with a base of 0.1 that falls by $\gamma = 0.1$ every $s = 30$ epochs, and with a cosine from 0.01 to 0.0001,
# so that $f = 0.01$:
#
# | step decay: epoch | $\lfloor t/30 \rfloor$ | learning rate | | cosine: epoch | $\cos(\pi t/100)$ | learning rate |
# |---|---|---|---|---|---|---|
# | 1 | 0 | 0.1 | | 0 | 1 | 0.01 |
# | 29 | 0 | 0.1 | | 25 | 0.707 | 0.00855 |
# | 30 | 1 | 0.01 | | 50 | 0 | 0.00505 |
# | 59 | 1 | 0.01 | | 75 | −0.707 | 0.00155 |
# | 60 | 2 | 0.001 | | 100 | −1 | 0.0001 |
#
# Step decay has three settings to tune: where to begin, when to fall, and by how much. The cosine has only the first,
# since you know the length of your run anyway. Two textbook sentences about it are wrong, by the way. It doesn't
# "oscillate", because it's only half a wave. And it isn't true that "most of the decay happens in the second half": by
# half-time it has fallen exactly half the way. It's steepest there, and flat at both ends.

# %%
plots.schedules(
    {
        "step decay": schedules.step(30, gamma=0.1),
        "cosine, no floor": schedules.cosine(100),
        "cosine, floor 0.2": schedules.cosine(100, final=0.2),
    },
    steps=101,
    message="Step decay falls in jumps; the cosine glides, and a floor "
    "squeezes it upwards.",
)

# %% [markdown]
# ### Exercise 1: `cosine` (easy, 10 minutes)
#
# Write the cosine: 1 at step 0, and the floor `final` at `steps`. Runs sometimes last longer than planned, and from
# then on the multiplier stays at the floor. Plot what you wrote with `plots.schedules`, because most mistakes are easy
# to see.


# %% tags=["exercise"]
def cosine(step, steps, final):
    """Return the multiplier at a step."""
    raise NotImplementedError


# %% tags=["check"]
check.cosine(cosine)

# %% [markdown] tags=["hint"]
# <details>
# <summary><b>Hint: where to begin</b></summary>
#
# First compute the progress of the run, a number from 0 to 1. Then find a curve that is 1 at progress 0 and 0 at
# progress 1. Then add the floor.
#
# </details>
#
# <details>
# <summary><b>Hint: correct up to the end, wrong after it</b></summary>
#
# How large may the progress become?
#
# </details>


# %% tags=["solution", "hide-cell"]
# Solution
def cosine(step, steps, final):
    """Return the multiplier at a step."""
    progress = min(step / steps, 1.0)
    return final + (1 - final) * (1 + np.cos(np.pi * progress)) / 2


check.cosine(cosine)

# %% [markdown]
# ## 5.3 Where a schedule wins, and where it loses
#
# First the win. In the stored study `studies/05_photos.py`, our network trains for 20 epochs on 5,000 photographs of
# CIFAR-10, with flips and shifts (chapter 3). Each schedule got the same tuning: the best of the peaks 0.05, 0.1, 0.2
# and 0.4 on one other seed. That's 0.1 for the constant learning rate and for step decay, which divides by ten after a
# half and after three quarters of the run, 0.2 for the cosine, and 0.4 for **one-cycle** (5.8). Five seeds followed,
# each with photographs of its own.
#
# We didn't pick this setting at random. Trial runs had shown a gap of about eight points with longer training, and the
# claims were written down after them and before the study.
#
# ### Predict
#
# By how many points does the cosine beat the constant learning rate?

# %% tags=["predict"]
my_points_for_the_cosine = ...  # 5 means 5 points of accuracy

# %%
photos = Results.load("studies/05_photos.csv")
photos.plot(
    label="test accuracy on photographs",
    message="On photographs, every falling schedule beats a constant "
    "learning rate of the same length.",
)

# %% tags=["claim"]
print(photos.claim("cosine", ">", "constant", by=0.03))
print(photos.claim("one-cycle", ">", "constant", by=0.03))
print(photos.claim("step decay", ">", "constant", by=0.01))
print(photos.claim("cosine", ">", "step decay"))
print(photos.verdict("cosine", ">", "constant, 40 epochs"))
print(photos.claim("one-cycle", "~", "cosine", by=0.02))
photo_runs = photos.frame()
LOSSES = [f"loss_{i:02}" for i in range(1, 21)]
plots.lines(
    range(1, 21),
    {
        name: photo_runs[photo_runs["variant"] == name][LOSSES].mean()
        for name in ("constant", "step decay", "cosine", "one-cycle")
    },
    xlabel="epoch",
    ylabel="training loss, mean of five runs",
    message="When step decay falls after epoch 10, so does the loss; the "
    "others get there gradually.",
)

# %% tags=["check"]
check.prediction(
    "Points that the cosine gains?",
    my_points_for_the_cosine,
    100 * photos.difference("cosine", "constant").mean,
    within=2,
)

# %% [markdown]
# Five of the six declared claims held. The cosine gains 6.7 points (95 % CI 5.0 to 8.3), one-cycle 7.8 (6.3 to 9.3) and
# step decay 3.8 (1.9 to 5.7). One-cycle and the cosine differ by about one point, less than the two points that we had
# called a difference that matters. The sixth claim failed: with twice the epochs, the constant learning rate is 2.0
# points behind the cosine, but the interval reaches from 4.9 behind to 0.8 ahead, and its runs vary most, from 0.56 to
# 0.63. So with half of the epochs the cosine does about as well or better. Whether time could replace it completely,
# five seeds can't tell.
#
# The figure explains why. At a constant learning rate the loss levels off, although the network could fit more: it
# hovers. As soon as the learning rate drops, the loss drops too, within an epoch. The classic ImageNet curves of
# ResNets have such jumps at epochs 30, 60 and 90.
#
# ### Predict
#
# Now the twin on signs, such as those at the top: 960 images, four epochs, sixty steps in all, and a peak of 0.1 for
# both. Which ends with the higher validation accuracy, `"constant"` or `"cosine"`? Or are they `"within 1 point"`?

# %% tags=["predict"]
my_winner_of_the_short_run = ...


# %% tags=["experiment"]
@cache
def short_run(seed, schedule):
    """Train a narrow network for sixty steps on the signs of a seed."""
    model = seeded_resnet(seed, width=8)
    trainer = train_with_schedule(
        schedule,
        model,
        sgd(model, 0.1),
        signs(seed).train,
        batch_size=BATCH_SIZE,
        epochs=EPOCHS,
        seed=seed,
    )
    return trainer.evaluate(cnnlab.loader(signs(seed).valid, 256))["acc"]


def short_constant(seed):
    return short_run(seed, "constant")


def short_cosine(seed):
    return short_run(seed, "cosine")


short = compare_declared(
    Declaration(
        "Does a cosine cost accuracy in a run of sixty steps?",
        claims=[Claim("constant", ">", "cosine")],
        unit=fresh_data(),
        fixed="960 signs, a narrow network, SGD, a peak of 0.1, 60 steps",
    ),
    {"constant": short_constant, "cosine": short_cosine},
    seeds=5,
    metric="valid_acc",
)
print(short.claim("constant", ">", "cosine"))
short.plot(message="In a run of sixty steps, the cosine costs accuracy.")

# %% tags=["check"]
gain = short.difference("cosine", "constant").mean
ahead = "cosine" if gain > 0 else "constant"
check.prediction(
    "Sixty steps: constant or cosine?",
    my_winner_of_the_short_run,
    "within 1 point" if abs(gain) < 0.01 else ahead,
    options=["constant", "cosine", "within 1 point"],
)

# %% [markdown]
# The constant learning rate wins by about four points. After sixty steps nothing has arrived, there's no cloud to
# leave, and each step that the cosine shortens is missing. We had seen this in the stored study `studies/05_shapes.py`,
# so this is a repetition and not a discovery.
#
# **What would change it.** A longer run, a larger peak, or more noise. The explorer shows that study: eight shapes,
# three peaks, six seeds each. On the left is the learning rate, and on the right the training loss of six runs (thin)
# with their mean (bold). The other schedules at the same peak are grey. At which peak does the shape matter most, and
# which way?

# %% tags=["widget"]
rates = Results.load("studies/05_shapes.csv")
widgets.schedules(rates)

# %% [markdown]
# At a peak of 0.01, everything that falls loses. That was a declared claim for one-cycle, and it held: the constant
# learning rate is 8.1 points ahead (95 % CI 6.6 to 9.7). At 1, which is too large for a constant learning rate, most
# shapes that fall come out ahead, but there the constant runs differ so much that our other claim failed: one-cycle
# gains 7 points, with an interval from −1 to 15. The choice of a schedule and the choice of its peak can't be
# separated, which is why a comparison without equal tuning says little.
#
# **Which optimizers need a schedule?** SGD with momentum gains most. Adam divides out the size of the gradients, so it
# gets by with a constant learning rate for longer, but its steps have noise as well, and nearly all published recipes
# decay it. A schedule improves a run that works. It won't rescue one that doesn't.
#
# ## 5.4 The other shapes, and who uses them
#
# | schedule | multiplier | in `cnnlab.schedules` | in torch | where it's used |
# |---|---|---|---|---|
# | constant | $1$ | `constant()` | none needed | debugging, first experiments, a head on frozen features |
# | step decay | $\gamma^{\lfloor t/s \rfloor}$ | `step`, `multistep` | `StepLR`, `MultiStepLR` | ResNets ([He et al. 2016](https://arxiv.org/abs/1512.03385)), object detection |
# | cosine | see above | `cosine(T, f)` | `CosineAnnealingLR` | the default in vision, with a warm-up |
# | linear | $1 - (1 - f)\,t/T$ | `linear(T, f)` | `LinearLR` | BERT ([Devlin et al. 2019](https://arxiv.org/abs/1810.04805)), RoBERTa ([Liu et al. 2019](https://arxiv.org/abs/1907.11692)), small budgets ([Li et al. 2020](https://arxiv.org/abs/1905.04753)) |
# | inverse square root | $\sqrt{\tau / (\tau + t)}$ | `inverse_sqrt(τ)` | `LambdaLR` | the Transformer, after a warm-up ([Vaswani et al. 2017](https://arxiv.org/abs/1706.03762)) |
# | warm restarts | the cosine again and again | `warm_restarts(T, m)` | `CosineAnnealingWarmRestarts` | snapshot ensembles (chapter 6) |
# | one-cycle | up, then down | `one_cycle(T, p)` | `OneCycleLR` | short runs at large learning rates (5.8) |
# | plateau | falls when a metric stops improving | `Plateau(optimizer)` | `ReduceLROnPlateau` | runs of unknown length |

# %%
plots.schedules(
    {
        "linear": schedules.linear(100),
        "inverse square root": schedules.inverse_sqrt(10),
        "warm restarts": schedules.warm_restarts(15, mult=2),
        "warm-up, cosine": schedules.warmup(10, schedules.cosine(90)),
        "one-cycle": schedules.one_cycle(100),
    },
    steps=101,
    message="Linear and inverse square root only fall; the others rise, "
    "once or again and again.",
)

# %% [markdown]
# **Linear or cosine?** It rarely matters, and people mostly follow the habit of their field. **The inverse square
# root** needs no end, so a run can go on for as long as you like. But it drops fast: after three time scales $\tau$
# it's down to a half, so it spends little time at large values. **Warm restarts** jump back to the top; with a first
# cycle of 10 steps, each twice as long as the one before, the jumps are at 10, 30 and 70.
#
# **Plateau** needs no plan. It watches the validation loss, and lowers the learning rate when there was no improvement
# for `patience` evaluations. The price is delay: it acts `patience` epochs too late, and on a small validation set one
# lucky value makes it wait longer. (An off-by-one to know: with `patience=3`, torch acts at the *fourth* evaluation in
# a row without improvement, Keras and `cnnlab` at the third.) Why not go all the way and let the training loss steer
# the learning rate at every step? Because batch losses are noisy, and the loss always looks better right after a decay,
# so a greedy rule decays too early.
#
# ## 5.5 Steps or epochs?
#
# Papers state schedules in epochs, but loops count steps. A run has `EPOCHS * len(loader)` steps, so convert once,
# where you make the schedule.
#
# ### Predict
#
# The classic mistake mixes the two: a cosine over `EPOCHS`, here 4, where the loop counts steps, here 60. There's no
# error message. What accuracy do you expect? The correct unit gives about 0.62, and guessing gives 0.08.

# %% tags=["predict"]
my_accuracy_with_the_wrong_unit = ...  # a number between 0 and 1


# %% tags=["experiment"]
def four_steps_long(steps):
    return schedules.cosine(EPOCHS)  # the bug


def wrong_unit(seed):
    model = seeded_resnet(seed, width=8)
    trainer = train(
        model,
        sgd(model, 0.1),
        signs(seed).train,
        batch_size=BATCH_SIZE,
        epochs=EPOCHS,
        seed=seed,
        schedule=four_steps_long,
    )
    return trainer.evaluate(cnnlab.loader(signs(seed).valid, 256))["acc"]


units = compare_declared(
    Declaration(
        "What does a schedule in epochs cost if the loop counts steps?",
        claims=[Claim("cosine(STEPS)", ">", "cosine(EPOCHS)", by=0.3)],
        unit=fresh_data(),
        fixed="960 signs, a narrow network, SGD, 60 steps",
    ),
    {"cosine(STEPS)": short_cosine, "cosine(EPOCHS)": wrong_unit},
    seeds=5,
    metric="valid_acc",
)
print(units.claim("cosine(STEPS)", ">", "cosine(EPOCHS)", by=0.3))
units.plot(message="A cosine that ends after four steps ruins the run.")

# %% tags=["check"]
check.prediction(
    "Accuracy when the cosine is four steps long?",
    my_accuracy_with_the_wrong_unit,
    float(units.values("cosine(EPOCHS)").mean()),
)

# %% [markdown]
# After four steps the learning rate is zero, and the rest of the run changes nothing. The curve looks like that of a
# network that can't learn. Torch says nothing, while `Trainer` compares every schedule with the length of the run and
# warned you above. The opposite mistake is quieter: a per-step schedule that is stepped once per *epoch* stays near its
# peak for the whole run. So *look* at what was used. `history.steps["lr"]` has the learning rate of every step, and its
# last entry should be what you planned.
#
# ## 5.6 The range test: which learning rate?
#
# The learning rate is the hyperparameter that matters most, and you can estimate it in a minute with a **learning-rate
# range test**. There are two versions. In Leslie Smith's original ([2017](https://arxiv.org/abs/1506.01186)), the
# learning rate grows *linearly* over several epochs, and you watch the *validation accuracy*. In fastai's version, it
# grows by a constant *factor* at each step of a single sweep, and you watch the *training loss* of each batch. That's
# cheaper, covers five powers of ten, and it's what `lr_find` of fastai, Lightning and `cnnlab` do.

# %%
model = seeded_resnet(0)
curve = tune.lr_find(
    model,
    sgd(model, 0.1),
    F.cross_entropy,
    cnnlab.loader(signs(0).train, BATCH_SIZE, shuffle=True, seed=0),
    low=1e-4,
    steps=60,
)
curve.plot()

# %% [markdown]
# **How to read it.** On the left the curve is *flat*, because the steps are too small to move the loss. Then it
# *falls*, and the network learns. It reaches a *bottom*, and after that it's *noisy and rises*, because the learning
# rate is too large. `curve.suggest()` returns the place of the steepest descent. (The smoothed line averages past
# losses, so it lags by about a third of a power of ten behind the measured one. The suggestion is computed from the
# measured losses.) For a constant learning rate, start near the steepest place. For the *peak* of a schedule, go
# further, towards the beginning of the bottom. Don't take the lowest point itself, where the network is about to leave.
#
# ### Predict
#
# How much can you trust the number? Six seeds, each with its own signs, weights and order, give six suggestions. By
# what factor is the largest larger than the smallest?

# %% tags=["predict"]
my_factor_between_suggestions = ...  # 2 means twice as large

# %% tags=["claim"]
runs = rates.frame().set_index("variant")
suggestions = runs.loc["constant, suggested", "peak_rate"]
accuracies = runs.loc["constant, suggested", "valid_acc"]
for lr, acc in zip(suggestions, accuracies, strict=True):
    print(f"suggestion {lr:.3f}: accuracy {acc:.2f} after sixty steps")
print(rates.claim("constant, suggested", ">", "constant, 0.001", by=0.2))
print(rates.verdict("constant, 0.1", ">", "constant, suggested"))

# %% tags=["check"]
check.prediction(
    "Factor between the suggestions?",
    my_factor_between_suggestions,
    float(suggestions.max() / suggestions.min()),
    within=3,
)

# %% [markdown]
# The six suggestions differ by a factor of nine. They all train far better than 0.001, which was the declared claim.
# But the other one, that 0.1 from a grid of four beats them, isn't supported: the price of trusting the test is two
# points, with an interval from two points gained to six lost. The smallest suggestion costs most. So trust a range test
# only to the power of ten, and run several sweeps: `lr_find(..., seeds=5)` returns the median and says how far they lie
# apart.
#
# Now Smith's version, in three runs of twelve epochs whose learning rate grows from 0 to 6. He reads two values off the
# curve: the *shoulder*, where the accuracy starts to improve, and the place where it begins to fall apart, just below
# which the peak of a cycle belongs.


# %% tags=["experiment"]
def smith_range_test(seed, high=6, epochs=12):
    """Return the validation accuracy after each epoch of a growing run."""
    batches = cnnlab.loader(
        signs(seed).train, BATCH_SIZE, shuffle=True, seed=seed
    )
    steps = epochs * len(batches)

    def growing(step):
        return step / steps

    net = seeded_resnet(seed, width=8)
    optimizer = sgd(net, high)
    scheduler = cnnlab.attach(optimizer, growing)
    trainer = cpu_trainer(net, optimizer, seed, scheduler=scheduler)
    valid = cnnlab.loader(signs(seed).valid, 256)
    return trainer.fit(batches, valid, epochs=epochs).to_pandas()["valid_acc"]


accuracy = sum(smith_range_test(seed) for seed in range(3)) / 3
plots.lines(
    6 * (accuracy.index + 1) / 12,
    {"validation accuracy": accuracy},
    xlabel="learning rate at the end of the epoch",
    ylabel="validation accuracy, mean of three runs",
    message="Smith's test: the accuracy rises up to a learning rate of about "
    "2, and then it becomes erratic.",
)

# %% [markdown]
# **Usual learning rates** are good places to start from. They're rules of thumb from papers and practice and weren't
# measured here.
#
# | you train | optimizer | peak | schedule |
# |---|---|---|---|
# | a residual network with batch norm, from scratch | SGD, momentum 0.9 | 0.1 for batches of 256, in proportion to the batch ([Goyal et al. 2017](https://arxiv.org/abs/1706.02677)) | cosine or step decay, with a short warm-up |
# | the same in few epochs | SGD, cycled momentum | 2 to 10 times the constant one | one-cycle |
# | a network without normalisation | SGD, momentum 0.9 | 0.001 to 0.03 | warm-up and clipping (chapter 7) |
# | a convolutional network, from scratch | AdamW | 0.0003 to 0.003 | cosine |
# | a vision transformer | AdamW | 0.0005 to 0.001 | warm-up, then cosine |
# | a new head on a frozen network | SGD, AdamW | as from scratch | constant is enough |
# | fine-tuning a pretrained network | SGD, AdamW | 10 to 100 times smaller | short warm-up, then cosine |
#
# ### Exercise 2: `range_test` (hard, 30 minutes)
#
# Write fastai's version. Train a *copy* of the model with plain SGD on the cross-entropy, one step per batch. The step
# on the first batch has the learning rate `low`, the step on the last batch has `high`, and in between it grows by the
# same factor each time. Return two lists: the learning rate of each step, and the loss on its batch *before* the step.
# `batches` is a list of (images, labels).


# %% tags=["exercise"]
def range_test(model, batches, low, high):
    """Return the learning rates and the losses of a range test."""
    raise NotImplementedError


# %% tags=["check"]
check.range_test(range_test)

# %% [markdown] tags=["hint"]
# <details>
# <summary><b>Hint: the learning rates are off</b></summary>
#
# With five batches, how many times is the learning rate multiplied by the factor?
#
# </details>
#
# <details>
# <summary><b>Hint: the learning rates are right, the losses aren't</b></summary>
#
# The optimizer reads `optimizer.param_groups[0]["lr"]` at the moment of `step()`. Which value does it find there at
# your third step?
#
# </details>


# %% tags=["solution", "hide-cell"]
# Solution
def range_test(model, batches, low, high):
    """Return the learning rates and the losses of a range test."""
    model = copy.deepcopy(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=low)
    factor = (high / low) ** (1 / (len(batches) - 1))
    lrs, losses = [], []
    for i, (images, labels) in enumerate(batches):
        lr = low * factor**i
        optimizer.param_groups[0]["lr"] = lr
        optimizer.zero_grad()
        loss = F.cross_entropy(model(images), labels)
        loss.backward()
        optimizer.step()
        lrs.append(lr)
        losses.append(loss.item())
    return lrs, losses


check.range_test(range_test)

# %% [markdown]
# ## 5.7 Warm-up
#
# A learning rate can be right for the middle of a run and wrong for its first steps. New weights often lie where the
# loss is strongly curved, their gradients are large, and the running averages of the optimizer have seen almost
# nothing. Adam's first step moves every weight by the full learning rate, however small its gradient (1.7). A
# **warm-up** rises along a straight line, $\alpha(t) = t/w$ for $t < w$, and then the actual schedule begins, counted
# from $w$ ([Goyal et al. 2017](https://arxiv.org/abs/1706.02677)). Transformers nearly always need one, and so do large
# batches.
#
# To see the effect in seconds, we exaggerate: AdamW with a learning rate of 0.3, a hundred times more than usual.
#
# ### Predict
#
# Which has the best validation accuracy: a constant 0.3, the same 0.3 after a warm-up over the first half of the run,
# or the usual 0.003? Write `"0.3"`, `"0.3 warmed up"` or `"0.003"`.

# %% tags=["predict"]
my_best_of_three = ...


# %% tags=["experiment"]
def warm_up_half(steps):
    return schedules.warmup(steps // 2, schedules.constant())


def adamw_run(seed, lr, schedule=None):
    model = seeded_resnet(seed, width=8)
    trainer = train(
        model,
        torch.optim.AdamW(model.parameters(), lr=lr),
        signs(seed).train,
        batch_size=BATCH_SIZE,
        epochs=EPOCHS,
        seed=seed,
        schedule=schedule,
    )
    return trainer.evaluate(cnnlab.loader(signs(seed).valid, 256))["acc"]


def adamw_cold(seed):
    return adamw_run(seed, 0.3)


def adamw_warm(seed):
    return adamw_run(seed, 0.3, warm_up_half)


def adamw_usual(seed):
    return adamw_run(seed, 0.003)


rescue = compare_declared(
    Declaration(
        "Does a warm-up make a large learning rate usable?",
        claims=[
            Claim("0.3 warmed up", ">", "0.3", by=0.05),
            Claim("0.003", ">", "0.3", by=0.1),
        ],
        unit=fresh_data(),
        fixed="960 signs, a narrow network, AdamW, 60 steps",
    ),
    {
        "0.3": adamw_cold,
        "0.3 warmed up": adamw_warm,
        "0.003": adamw_usual,
    },
    seeds=5,
    metric="valid_acc",
)
print(rescue.claim("0.3 warmed up", ">", "0.3", by=0.05))
print(rescue.claim("0.003", ">", "0.3", by=0.1))
print("0.003 - 0.3 warmed up:", rescue.difference("0.003", "0.3 warmed up"))
rescue.plot(message="A warm-up rescues AdamW at a learning rate of 0.3.")

# %% tags=["check"]
check.prediction(
    "AdamW: which of the three is best?",
    my_best_of_three,
    rescue.table()["mean"].idxmax(),
    options=rescue.names,
)

# %% [markdown]
# Both runs with 0.3 end at 0.3; only the way there differs. So a warm-up widens the range of learning rates that train,
# but it can't turn a bad one into a good one: the usual 0.003 is still seven points ahead (95 % CI 0.2 to 13.6). And it
# doesn't help if the learning rate is too large throughout. To tell the two apart, look at *when* the loss explodes, in
# the first steps or when the ramp reaches some value ([Gilmer et al. 2021](https://arxiv.org/abs/2110.04369)).
#
# ### Exercise 3: `warmup_cosine` (medium, 15 minutes)
#
# Write the schedule that most vision recipes of 2026 use: a straight line from 0 to 1, reached at step `warmup`, and
# then half a cosine to 0, reached at `steps`. The argument `steps` counts the whole run, including the warm-up. Some
# runs have no warm-up: then `warmup` is 0.


# %% tags=["exercise"]
def warmup_cosine(step, warmup, steps):
    """Return the multiplier at a step."""
    raise NotImplementedError


# %% tags=["check"]
check.warmup_cosine(warmup_cosine)

# %% [markdown] tags=["hint"]
# <details>
# <summary><b>Hint: the peak is below 1, or there is a jump</b></summary>
#
# When the warm-up is over, how many steps of the fall have been taken? How many does the fall have in all?
#
# </details>
#
# <details>
# <summary><b>Hint: a step too early or too late</b></summary>
#
# Take `warmup = 2` and write down the multipliers of the steps 0, 1 and 2.
#
# </details>


# %% tags=["solution", "hide-cell"]
# Solution
def warmup_cosine(step, warmup, steps):
    """Return the multiplier at a step."""
    if step < warmup:
        return step / warmup
    progress = min((step - warmup) / (steps - warmup), 1.0)
    return (1 + np.cos(np.pi * progress)) / 2


check.warmup_cosine(warmup_cosine)

# %% [markdown]
# ### Exercise 4: find the bugs in the textbook (open, 30 minutes)
#
# Both snippets are in circulation. They run, and they're wrong. The first is stepped once per epoch, and trains for 20
# epochs.
#
# ```python
# warmup_epochs, total_epochs = 5, 20
# def lr_lambda(epoch):
#     if epoch < warmup_epochs:
#         return epoch / warmup_epochs
#     progress = (epoch - warmup_epochs) / (total_epochs - warmup_epochs)
#     return 0.5 * (1 + np.cos(np.pi * progress))
# scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lr_lambda)
# ```
#
# ```python
# def lr_finder(model, train_loader, criterion, start_lr=1e-7, end_lr=1, num_steps=100):
#     optimizer = torch.optim.SGD(model.parameters(), lr=start_lr)
#     lr_mult = (end_lr / start_lr) ** (1 / num_steps)
#     lrs, losses, best_loss = [], [], float("inf")
#     for i, (inputs, targets) in enumerate(train_loader):
#         if i >= num_steps:
#             break
#         optimizer.zero_grad()
#         loss = criterion(model(inputs), targets)
#         loss.backward()
#         optimizer.step()
#         current_lr = start_lr * (lr_mult ** i)
#         for group in optimizer.param_groups:
#             group["lr"] = current_lr
#         lrs.append(current_lr)
#         losses.append(loss.item())
#         if loss.item() > 4 * best_loss:
#             break
#         best_loss = min(best_loss, loss.item())
#     return lrs, losses
# ```
#
# | points | for |
# |---|---|
# | 3 | the first epoch of the warm-up: what happens in it, a run or a `print` that proves it, and a fix of one line |
# | 1 | why `t/w` is harmless when it's counted in *steps* |
# | 3 | three bugs of the finder: one that ruins the caller's model, one that pairs losses with the wrong learning rates, one that ends the sweep early on a small data set |
# | 2 | how far off the suggestion is because of the second of these, in powers of ten, with the numbers of this snippet |
# | 1 | one line that looks wrong and isn't |

# %%
# Your experiments: print the multipliers; run the finder on `signs(0)`.

# %% [markdown]
# ## 5.8 One-cycle
#
# **One-cycle** ([Smith & Topin 2018](https://arxiv.org/abs/1708.07120)) is a long warm-up to a learning rate that's
# larger than a constant one could be, followed by a fall to almost nothing. In the form that fastai and torch made of
# it, both parts are half cosines. With a fraction $p$ of the $T$ steps for the rise,
#
# $$ \eta_t = \begin{cases}
# \eta_{\min} + (\eta_{\max} - \eta_{\min})\,\frac{1}{2}\left(1 - \cos \frac{\pi t}{pT}\right) & t \le pT \\
# \eta_{\mathrm{final}} + (\eta_{\max} - \eta_{\mathrm{final}})\,\frac{1}{2}\left(1 + \cos \frac{\pi (t - pT)}{(1-p)T}\right) & t > pT .
# \end{cases} $$
#
# **The momentum runs the other way.** With momentum $m$, each gradient acts again and again, fading by $m$ per step, so
# in all it acts $1 + m + m^2 + \dots = 1/(1-m)$ times. The learning rate that counts in the long run is $\eta / (1-m)$,
# and the noise grows with it. For $N$ images in batches of $B$, the **noise scale** of SGD is about $\eta N / (B (1 -
# m))$ ([Smith et al. 2018](https://arxiv.org/abs/1711.00489)). Doubling the learning rate, halving the batch and
# halving $1 - m$ are three ways to the same noise. So one-cycle lowers the momentum from 0.95 to 0.85 while the
# learning rate is high, and raises it again at the end ([Smith 2018](https://arxiv.org/abs/1803.09820)). The idea
# behind it all: explore with much noise first, then settle with little.

# %%
lr = 0.3 * schedules.trace(schedules.one_cycle(100), 101)
momentum = schedules.trace(schedules.one_cycle_momentum(100), 101)
noise_scale = lr / (1 - momentum)
plots.lines(
    range(101),
    {
        "learning rate": lr,
        "momentum": momentum,
        "noise scale / its peak": noise_scale / noise_scale.max(),
    },
    xlabel="step",
    ylabel="",
    message="One-cycle lowers the momentum while the learning rate is high.",
    stacked=True,
)

# %% [markdown]
# | setting | in torch's `OneCycleLR` | usual | larger means |
# |---|---|---|---|
# | peak $\eta_{\max}$ | `max_lr` | just below where a range test gets unstable | more exploration, more risk of spikes |
# | peak / start | `div_factor` | 10 to 25, or 3 to 10 for a faster launch | a gentler start |
# | peak / end | `final_div_factor`: there it's start / end | $10^3$ to $10^4$ | a longer, finer tail |
# | fraction $p$ of the rise | `pct_start` | 0.3; 0.2 to 0.4 | more time at large learning rates, less to settle |
# | lowest momentum | `base_momentum` | 0.85 | more damping at the peak: safer, less noise |
# | highest momentum | `max_momentum` | 0.95 | a smoother, slower tail |
#
# With Adam, the momentum is $\beta_1$. `OneCycleLR` cycles it unless you say `cycle_momentum=False`, whatever momentum
# you gave the optimizer.
#
# **Does it keep its promise?** The paper trained a ResNet-56 on CIFAR-10 with learning rates up to 3, and ImageNet
# networks in 20 epochs instead of 100. We looked for the effect on signs and should tell you how. With correct labels
# (2,000 to 6,000 signs, two batch sizes, two weight decays) a first search found no difference to a well-chosen
# constant learning rate. Then we made 30 % of the labels wrong, where noise matters most, and found one. A result that
# was searched for like this needs a second test. So the claims were written down, each schedule got the best of the
# same four peaks on two other seeds, and `studies/05_one_cycle.py` ran on new signs, eight times, for six epochs.
#
# ### Predict
#
# How far behind a constant learning rate in *six* epochs is one-cycle in *two*? (0.02 means two points behind, −0.02
# two points ahead.)

# %% tags=["predict"]
my_gap_of_a_third = ...

# %% tags=["claim"]
noisy = Results.load("studies/05_one_cycle.csv")
print(noisy.claim("one-cycle, 6 epochs", ">", "constant, 6 epochs"))
print(noisy.claim("one-cycle, 6 epochs", ">", "step, 6 epochs"))
print(
    noisy.verdict("constant, 6 epochs", ">", "one-cycle, 2 epochs", by=0.02)
)
print(noisy.claim("one-cycle, clean labels", ">", "constant, clean labels"))
noisy.plot(
    label="accuracy on correctly labelled signs",
    message="With wrong labels, one-cycle beats step decay and a constant "
    "learning rate.",
)

# %% tags=["check"]
check.prediction(
    "How far behind is one-cycle in two epochs?",
    my_gap_of_a_third,
    noisy.difference("constant, 6 epochs", "one-cycle, 2 epochs").mean,
    within=0.02,
)

# %% [markdown]
# With equal epochs, one-cycle gains 5.6 points on the constant learning rate (2.8 to 8.4) and 2.8 on step decay (1.6 to
# 4.1), although the best peak was 0.1 for all three. With correct labels it gains 1.6 points (0.4 to 2.9), which our
# first search had missed: not finding a difference isn't the same as finding that there is none. Super-convergence
# didn't show. In a third of the epochs, one-cycle is about 4.5 points behind, with an interval from nothing to nine.
# And on the photographs of 5.3, it's only one point ahead of a plain cosine.
#
# | coming from | with one-cycle you | try |
# |---|---|---|
# | step decay | needn't choose drop epochs | $p = 0.3$ |
# | cosine | add a rise, which allows a larger peak | your cosine's peak first, then twice that |
# | linear | spend longer at large learning rates | $p = 0.2$ |
# | inverse square root (transformers) | need to know the end of the run | $p = 0.2$ and a smaller peak |
# | constant | get a quiet end | the range test, then the table above |
#
# | one-cycle is | when |
# |---|---|
# | a good choice | epochs are few, or you want a strong baseline soon, and can afford a range test |
# | to be handled with care: lower the peak by 20 to 50 %, $p = 0.2$ | tiny or noisy data sets; transformers (also a few hundred steps of extra warm-up); strong regularisation; tight clipping or tiny batches; running statistics of batch norm that drift near the peak |
# | not worth it | a long cosine works well; no range test is possible; $pT$ is only a handful of steps |
#
# **Tuning in five steps:**
#
# | step | do this | adjust |
# |---|---|---|
# | 1 | find the peak with a range test, and set start and end by their factors | see the table above |
# | 2 | begin with $p = 0.3$ | 0.2 if the loss spikes around the peak, 0.35 to 0.4 if validation gains from it |
# | 3 | still spiky? one at a time, in this order | peak 10 to 20 % lower; lowest momentum up by 0.02 to 0.05; larger `div_factor`; $p$ down by 0.05 |
# | 4 | look at the tail | levels off too early: larger `final_div_factor`; short of time: a smaller one |
# | 5 | leave the rest alone | constant decoupled weight decay, clipping no tighter than 1, one scheduler step per optimizer step |
#
# ## 5.9 Since 2024: when you don't know the end
#
# A cosine has to know its length. If you stop it early, the learning rate is still high, and if you want to go on, it's
# already zero. Large language models made this expensive, and two answers became popular.
#
# **Warm-up, stable, decay** (WSD; [Hu et al. 2024](https://arxiv.org/abs/2404.06395)) keeps the learning rate constant
# for as long as you like. When you need a finished model, you branch off a short **cooldown**, over 10 to 20 % of the
# steps, and the trunk goes on. [Hägele et al. 2024](https://arxiv.org/abs/2405.18392) found that it matches a cosine,
# and that $1 - \sqrt{\tau}$ over the progress $\tau$ of the cooldown works best. **Schedule-free** training ([Defazio
# et al. 2024](https://arxiv.org/abs/2405.15682)) never decays at all. It keeps the running mean $x$ of all weights $z$
# so far, evaluates $x$, and takes gradients at a point between the two. Averaging quietens the noise as decaying does,
# which is the topic of chapter 6.
#
# Back to the noisy valleys of 5.1, now with curvatures from 0.01 to 1, so that some weights need many steps.


# %% tags=["experiment"]
CURVATURES = np.logspace(-2, 0, 4000)
LENGTHS = [50, 100, 200, 400, 800]


def valley_loss(w):
    return (CURVATURES * w**2 / 2).mean()


def noisy_gradient(w, noise):
    return CURVATURES * w + noise.normal(size=len(w))


def descend(schedule, steps):
    noise, w = np.random.default_rng(0), np.full(4000, 5.0)
    for step in range(steps):
        w = w - 0.5 * schedule(step) * noisy_gradient(w, noise)
    return valley_loss(w)


def with_cooldown(steps, fraction=0.2):
    """Return a schedule: constant, then a cooldown at the end."""
    start = steps - int(fraction * steps)

    def multiplier(step):
        progress = max(0.0, (step - start) / (steps - start))
        return 1 - np.sqrt(progress)

    return multiplier


def schedule_free(steps, beta=0.9):
    noise, z = np.random.default_rng(0), np.full(4000, 5.0)
    x = z.copy()
    for step in range(steps):
        y = beta * x + (1 - beta) * z
        z = z - 0.5 * noisy_gradient(y, noise)
        x = x + (z - x) / (step + 2)
    return valley_loss(x)


long_cosine = schedules.cosine(800)
plots.lines(
    LENGTHS,
    {
        "constant": [descend(schedules.constant(), n) for n in LENGTHS],
        "cosine for 800, stopped": [descend(long_cosine, n) for n in LENGTHS],
        "cooldown of 20 %": [descend(with_cooldown(n), n) for n in LENGTHS],
        "schedule-free": [schedule_free(n) for n in LENGTHS],
        "cosine of this length": [
            descend(schedules.cosine(n), n) for n in LENGTHS
        ],
    },
    xlabel="steps when the run stops",
    ylabel="loss",
    log="y",
    message="A cosine of the right length is best, but a cooldown or "
    "averaging can stop at any time.",
)

# %% [markdown]
# In this toy, neither reaches a cosine that knew its length, but both clearly beat the long cosine that was stopped
# early, and neither had to know the end. It's a picture of the idea and no evidence about networks. In the
# schedule-free library, remember that the *optimizer* has a training and an evaluation mode too.
#
# ## 5.10 In plain PyTorch
#
# `SequentialLR` joins schedulers at milestones, here `LinearLR` and `CosineAnnealingLR`. The training loop of chapter 1
# gets one more argument and one more line: `scheduler.step()` after *every* `optimizer.step()`.

# %% tags=["plain"]
from torch.optim.lr_scheduler import (
    CosineAnnealingLR,
    LinearLR,
    SequentialLR,
)


def make_schedule(optimizer, warmup_steps, total_steps):
    """Return a warm-up and a cosine to zero, to be stepped per batch."""
    rise = LinearLR(optimizer, 1 / warmup_steps, total_iters=warmup_steps)
    fall = CosineAnnealingLR(optimizer, T_max=total_steps - warmup_steps)
    return SequentialLR(optimizer, [rise, fall], milestones=[warmup_steps])


def train_epoch(model, loader, optimizer, loss_fn, device, scheduler=None):
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
        if scheduler is not None:
            scheduler.step()
        total += loss.item() * len(images)
        count += len(images)
    return total / count


# %% tags=["experiment"]
def with_torch():
    """Train for two epochs in plain PyTorch; return the weights."""
    net = seeded_resnet(0, width=8)
    optimizer = sgd(net, 0.1)
    scheduler = make_schedule(optimizer, warmup_steps=10, total_steps=30)
    batches = cnnlab.loader(signs(0).train, BATCH_SIZE, shuffle=True, seed=0)
    for _ in range(2):
        train_epoch(
            net, batches, optimizer, F.cross_entropy, "cpu", scheduler
        )
    return net.state_dict()


def with_cnnlab():
    """Train for two epochs with `Trainer`; return the weights."""
    net = seeded_resnet(0, width=8)

    def schedule(steps):  # 30 steps: two epochs
        return schedules.warmup(10, schedules.cosine(20), start=1 / 10)

    train(
        net,
        sgd(net, 0.1),
        signs(0).train,
        batch_size=BATCH_SIZE,
        epochs=2,
        seed=0,
        schedule=schedule,
    )
    return net.state_dict()


def torch_lrs(make, steps):
    """Return the learning rates that a scheduler sets for some steps."""
    optimizer = torch.optim.SGD(
        [torch.zeros(1, requires_grad=True)], lr=1.0, momentum=0.9
    )
    scheduler = make(optimizer)
    lrs = []
    for _ in range(steps):
        lrs.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    return lrs


def torch_one_cycle(optimizer):
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.0, total_steps=101, pct_start=31 / 101
    )


def ten_then_ninety(optimizer):
    return make_schedule(optimizer, warmup_steps=10, total_steps=100)


plain_weights, weights = with_torch(), with_cnnlab()
assert all(torch.equal(plain_weights[k], weights[k]) for k in weights)
print(f"{len(weights)} tensors, all equal to the last bit")

# torch divides the start, and counts the last step within the cycle.
ours = schedules.one_cycle(100, final_div_factor=25 * 1e4)
assert np.allclose(
    torch_lrs(torch_one_cycle, 101), schedules.trace(ours, 101)
)
plots.lines(
    range(151),
    {
        "torch": torch_lrs(ten_then_ninety, 151),
        "cnnlab": schedules.trace(
            schedules.warmup(10, schedules.cosine(90), start=0.1), 151
        ),
    },
    xlabel="step",
    ylabel="multiplier",
    message="Both agree up to step 100; past its end, torch's cosine climbs "
    "again.",
)

# %% [markdown]
# Three traps in torch. A run that's longer than planned trains with a *rising* learning rate, as the figure shows.
# `OneCycleLR` cycles the momentum by default. And its `final_div_factor` divides the *start*, not the peak, so copy a
# value from one library to the other and you're off by a factor of 25. For any other shape, `LambdaLR(optimizer,
# multiplier)` takes a function of the step, just like `cnnlab.attach`, which is built on it. A schedule without a
# memory has another advantage: to resume a run, all it needs is the number of steps so far.
#
# ## Make it bigger
#
# One-cycle on all of CIFAR-10, the setting in which it became known. It downloads 170 MB once and wants a GPU, so it
# runs only if the environment variable `CNNLAB_PROFILE` is `gpu`. Then start a race with a friend: who reaches 90 % of
# validation accuracy in the fewest steps? (Jordan's airbench reaches 94 % of test accuracy in 3.29 seconds on one GPU,
# [2024](https://arxiv.org/abs/2404.00498). Its learning rate rises and falls along straight lines.)

# %% tags=["bigger"]
if lab.profile == "gpu":
    cifar = cnnlab.load("cifar10", download=True)
    torch.manual_seed(0)
    bigger = cnnlab.small_resnet(num_classes=10, width=32, depth=3)
    optimizer = torch.optim.SGD(
        bigger.parameters(), lr=0.4, momentum=0.9, weight_decay=5e-4
    )
    batches = cnnlab.loader(cifar.train, 256, shuffle=True)
    steps = 15 * len(batches)
    scheduler = cnnlab.attach(
        optimizer,
        schedules.one_cycle(steps),
        schedules.one_cycle_momentum(steps),
    )
    trainer = cnnlab.Trainer(bigger, optimizer, scheduler=scheduler)
    trainer.fit(batches, cnnlab.loader(cifar.valid, 512), epochs=15)
else:
    print("left out: set CNNLAB_PROFILE=gpu to run it")

# %% [markdown]
# ## Key points
#
# - A constant learning rate ends in a cloud whose width grows with it. A falling one is fast first and quiet later.
# - A schedule pays once a run is long enough to hover: seven points on photographs, minus four in a run of sixty steps.
#   Tune the peak together with the schedule.
# - A schedule is a function of the step. Count steps, not epochs, and look at the learning rates that were used.
# - A range test finds the power of ten, no more. Run several sweeps, and read the curve.
# - A warm-up rescues a learning rate that destroys new weights, but not one that's too large throughout. Its first
#   *epoch* must not be at 0.
# - In 2026, warm-up and cosine is the default in vision. Take one-cycle when epochs are few, and a cooldown if you
#   don't know the end.
#
# **Your recipe so far** gains a schedule: a warm-up of a few hundred steps, then a cosine to zero, with a peak about
# twice the best constant learning rate.
#
# ## Common mistakes
#
# | what you see | what it often is |
# |---|---|
# | the loss falls for a few steps and then never again | a schedule in epochs that's stepped once per step |
# | the learning rate at the end is far from zero | a per-step schedule stepped once per epoch, or a run that's shorter than planned |
# | the first epoch learns nothing | a warm-up in epochs that starts at 0 |
# | good results get worse as training goes on | torch's cosine past its `T_max` |
# | a momentum that you didn't set | `OneCycleLR` cycles it by default |
# | the peak is never reached | a cosine that counts from step 0 instead of the end of the warm-up |
# | the loss explodes in the first steps | no warm-up, or too large a peak |
# | the learning rate falls although the loss still improves | plateau with too little patience on a noisy metric |
#
# ## References
#
# - A. Defazio, X. Yang, A. Khaled, K. Mishchenko, H. Mehta and A. Cutkosky, *The road less scheduled*, 2024, [arXiv:2405.15682](https://arxiv.org/abs/2405.15682)
# - J. Devlin, M.-W. Chang, K. Lee and K. Toutanova, *BERT: Pre-training of deep bidirectional transformers for language understanding*, 2019, [arXiv:1810.04805](https://arxiv.org/abs/1810.04805)
# - J. Gilmer et al., *A loss curvature perspective on training instability in deep learning*, 2021, [arXiv:2110.04369](https://arxiv.org/abs/2110.04369)
# - P. Goyal et al., *Accurate, large minibatch SGD: training ImageNet in 1 hour*, 2017, [arXiv:1706.02677](https://arxiv.org/abs/1706.02677)
# - A. Hägele, E. Bakouch, A. Kosson, L. Ben Allal, L. Von Werra and M. Jaggi, *Scaling laws and compute-optimal training beyond fixed training durations*, 2024, [arXiv:2405.18392](https://arxiv.org/abs/2405.18392)
# - K. He, X. Zhang, S. Ren and J. Sun, *Deep residual learning for image recognition*, 2016, [arXiv:1512.03385](https://arxiv.org/abs/1512.03385)
# - J. Howard, *Training Imagenet in 3 hours for USD 25; and CIFAR10 for USD 0.26*, 2018, [fast.ai](https://www.fast.ai/posts/2018-04-30-dawnbench-fastai.html)
# - S. Hu et al., *MiniCPM: Unveiling the potential of small language models with scalable training strategies*, 2024, [arXiv:2404.06395](https://arxiv.org/abs/2404.06395)
# - K. Jordan, *94% on CIFAR-10 in 3.29 seconds on a single GPU*, 2024, [arXiv:2404.00498](https://arxiv.org/abs/2404.00498)
# - M. Li, E. Yumer and D. Ramanan, *Budgeted training: Rethinking deep neural network training under resource constraints*, 2020, [arXiv:1905.04753](https://arxiv.org/abs/1905.04753)
# - Y. Liu et al., *RoBERTa: A robustly optimized BERT pretraining approach*, 2019, [arXiv:1907.11692](https://arxiv.org/abs/1907.11692)
# - I. Loshchilov and F. Hutter, *SGDR: Stochastic gradient descent with warm restarts*, 2017, [arXiv:1608.03983](https://arxiv.org/abs/1608.03983)
# - H. Robbins and S. Monro, *A stochastic approximation method*, 1951, [doi:10.1214/aoms/1177729586](https://doi.org/10.1214/aoms/1177729586)
# - L. N. Smith, *Cyclical learning rates for training neural networks*, 2017, [arXiv:1506.01186](https://arxiv.org/abs/1506.01186)
# - L. N. Smith, *A disciplined approach to neural network hyper-parameters: Part 1*, 2018, [arXiv:1803.09820](https://arxiv.org/abs/1803.09820)
# - L. N. Smith and N. Topin, *Super-convergence: Very fast training of neural networks using large learning rates*, 2018, [arXiv:1708.07120](https://arxiv.org/abs/1708.07120)
# - S. L. Smith, P.-J. Kindermans, C. Ying and Q. V. Le, *Don't decay the learning rate, increase the batch size*, 2018, [arXiv:1711.00489](https://arxiv.org/abs/1711.00489)
# - A. Vaswani et al., *Attention is all you need*, 2017, [arXiv:1706.03762](https://arxiv.org/abs/1706.03762)

# %% [markdown] tags=["instructor", "remove-cell"]
# ## When you are short of time
#
# Keep 5.1, 5.3 and the first half of 5.6. The table of 5.2 can be worked on paper, and 5.9 read at home. Exercise 4 is
# a good discussion in pairs.
#
# ## Questions for the room
#
# - The same schedule gains points on photographs and loses points on signs. Which single change to the signs would you
#   try first, and what do you predict?
# - Per step or per epoch: which of the two survives a change of the batch size?
# - We took wrong labels after a search with correct ones had shown nothing. Which parts of the second study make its
#   result trustworthy, and would a second run of the first study have been enough?
# - Solutions to exercise 4: the first epoch trains at 0 (`(epoch + 1) / warmup_epochs`). The finder trains the caller's
#   model, sets the learning rate after the step (and its first two steps both use `start_lr`, so it lags by one step of
#   0.07 powers of ten), and stops when the loader ends. `best_loss = inf` is harmless: `4 * inf` never stops the sweep.
