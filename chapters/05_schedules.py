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
# faster if the learning rate first *rises* far too high, and then falls to almost nothing. His paper on
# "super-convergence" was rejected by a leading conference. A few months later, a team from fast.ai used the idea in
# Stanford's DAWNBench and won both training prizes for CIFAR-10 ([Howard
# 2018](https://www.fast.ai/posts/2018-04-30-dawnbench-fastai.html)). Six years later Keller Jordan's script did the
# same task in 3.29 seconds on one GPU, and the learning rate still rose and fell ([Jordan
# 2024](https://arxiv.org/abs/2404.00498)). [A later script](https://github.com/KellerJordan/cifar10-airbench) of his
# needs 2.6 seconds, and there the learning rate only falls. Is the fall the essential half?
#
# In one setting of this chapter a schedule wins clearly, and in another it doesn't. By the end you'll know which to
# expect.
#
# **You will be able to** choose a schedule and its peak, write the common ones as functions of the step, read a range
# test without trusting it too much, add a warm-up, and find the bugs that schedules hide.
#
# | | |
# |---|---|
# | to read | 50 minutes, with the code |
# | exercises | 105 minutes |
# | to run | 35 seconds on one core of a laptop; no internet, no GPU |
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
from cnnlab.augment import Augment
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
# times the slope. If the learning rate is too small, the ball crawls. If it's too large, the ball overshoots the
# bottom. Above a limit that depends on how strongly the valley is curved, each step takes it higher than before.

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
    message="At 0.1 the network learns fastest; at 2 the loss stays higher, "
    "and at 10 it's worse than guessing.",
)

# %% [markdown]
# The same four behaviours appear in a real network. Batch norm keeps the last run from exploding, because large steps
# make the weight vectors longer, and longer vectors turn less (chapter 2). But its loss stays above $\log 12 = 2.48$,
# the loss of a network that guesses. Now look at the run with a learning rate of 2. It learns, but its loss stays
# higher than at 0.1.
#
# **What holds it up?** Part of the answer is noise. Each step follows the gradient of a batch, which is the true
# gradient plus noise. Take a single weight $w$ with the loss $w^2/2$, so that its gradient is $w$, and add noise
# $\varepsilon$ of variance $\sigma^2$:
#
# $$ w \leftarrow w - \eta\,(w + \varepsilon). $$
#
# Each step shrinks the influence of the starting point by a factor $1 - \eta$, but it also adds new noise. The variance
# $v$ stops changing when $v = (1 - \eta)^2 v + \eta^2 \sigma^2$, which gives
#
# $$ v = \frac{\eta}{2 - \eta}\,\sigma^2 . $$
#
# For small $\eta$, the standard deviation is about $\sigma\sqrt{\eta/2}$. So with a constant learning rate the weight
# never arrives. It hovers in a cloud around the minimum, whose width grows like $\sqrt{\eta}$. The classic condition
# for convergence agrees: the sum of all learning rates must be infinite, so that every point can be reached, and the
# sum of their squares finite, so that the noise dies out ([Robbins & Monro
# 1951](https://doi.org/10.1214/aoms/1177729586)).
#
# Here are four thousand such weights, all of which start at 5. In the code, `schedule(step)` is the factor by which the
# learning rate is multiplied. In the third run it falls along half a cosine.


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


plots.lines(
    range(201),
    {
        "constant 0.3": mean_squared_distance(0.3, schedules.constant()),
        "constant 0.01": mean_squared_distance(0.01, schedules.constant()),
        "cosine from 0.3": mean_squared_distance(0.3, schedules.cosine(200)),
    },
    xlabel="step",
    ylabel="mean squared distance from the minimum",
    message="A falling learning rate is fast at first and ends closest to "
    "the minimum.",
    log="y",
)

# %% [markdown]
# The large learning rate arrives at once and then hovers, the small one is still on its way, and the falling one gives
# you both speed and a quiet end. That's the whole case for schedules.
#
# ## 5.2 Step decay and cosine
#
# A **schedule** is a function from the number $t$ of finished steps to a **multiplier** of the base learning rate.
# Where the multiplier is at most 1, the base is the largest learning rate of the run, and it's called the **peak**. In
# vision, two schedules are far more common than the others. **Step decay** divides the learning rate by ten (or two, or
# five) at a few milestones. If a milestone comes every $s$ steps and each one multiplies the learning rate by $\gamma$,
# the multiplier is
#
# $$ \alpha(t) = \gamma^{\lfloor t/s \rfloor} . $$
#
# The **cosine** falls smoothly to a **floor** $f$ at step $T$ ([Loshchilov & Hutter
# 2017](https://arxiv.org/abs/1608.03983)):
#
# $$ \alpha(t) = f + (1 - f)\,\tfrac12\left(1 + \cos \frac{\pi t}{T}\right) . $$
#
# The tables work out one example of each by hand. They count in epochs, to keep the numbers small. The step decay
# starts at 0.1 and is multiplied by $\gamma = 0.1$ every $s = 30$ epochs. The cosine falls from 0.01 to 0.0001 in 100
# epochs, so $f = 0.01$.
#
# | step decay: epoch | $\lfloor t/30 \rfloor$ | learning rate |
# |---|---|---|
# | 1 and 29 | 0 | 0.1 |
# | 30 and 59 | 1 | 0.01 |
# | 60 | 2 | 0.001 |
#
# | cosine: epoch | $\cos(\pi t/100)$ | learning rate |
# |---|---|---|
# | 0 | 1 | 0.01 |
# | 25 | 0.707 | 0.00855 |
# | 50 | 0 | 0.00505 |
# | 75 | −0.707 | ? |
# | 100 | −1 | 0.0001 |
#
# ### Predict
#
# What's the learning rate of this cosine at epoch 75? Compute it by hand.

# %% tags=["predict"]
my_learning_rate_at_75 = ...  # for example 0.004

# %% tags=["check"]
check.prediction(
    "Learning rate of the cosine at epoch 75?",
    my_learning_rate_at_75,
    0.01 * schedules.cosine(100, final=0.01)(75),
    within=0.0001,
)
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
# Step decay has three settings to tune: where to begin, when to fall, and by how much. The cosine has the first, and a
# floor that's usually left at 0, since you know the length of your run anyway. By the way, two things that textbooks
# say about the cosine are wrong. It doesn't "oscillate", because it's only half a wave. And it isn't true that "most of
# the decay happens in the second half": at the halfway point it has fallen exactly half the way. It's steepest there,
# and flat at both ends.
#
# ### Exercise 1: `extended_cosine` (medium, 20 minutes)
#
# A run follows a cosine from 1 to 0 that was planned for `steps` steps. At step `change` you learn that it will end at
# `new_steps` instead: later, because there's more time, or sooner, because somebody needs the machine. If you switch to
# the cosine of the new length, the learning rate jumps. So keep the value that it has at `change`, and let it fall
# from there to 0 along a new half cosine that ends at `new_steps`. Runs sometimes last even longer than that, and from
# then on the multiplier stays at 0.
#
# Plot your function for every step of a run with `plots.lines`, because most mistakes are easy to see.
#
# <details>
# <summary><b>Hint: where to begin</b></summary>
#
# A half cosine from a value $a$ at progress 0 to 0 at progress 1 is $\frac{a}{2}(1 + \cos \pi u)$, where $u$ is the
# progress. You need it twice. What is $a$ each time, and when does $u$ reach 1?
#
# </details>
#
# <details>
# <summary><b>Hint: there is a jump at the change</b></summary>
#
# At `step == change`, how many steps of the new half cosine have passed?
#
# </details>


# %% tags=["exercise"]
def extended_cosine(step, steps, change, new_steps):
    """Return the multiplier at a step."""
    raise NotImplementedError


# %% tags=["check"]
check.extended_cosine(extended_cosine)


# %% tags=["solution", "hide-cell"]
# Solution
def half_cosine(progress):
    """Fall from 1 to 0 while the progress goes from 0 to 1."""
    return (1 + np.cos(np.pi * min(progress, 1.0))) / 2


def extended_cosine(step, steps, change, new_steps):
    """Return the multiplier at a step."""
    if step < change:
        return half_cosine(step / steps)
    start = half_cosine(change / steps)
    return start * half_cosine((step - change) / (new_steps - change))


check.extended_cosine(extended_cosine)

# %% [markdown]
# ## 5.3 A long run and a short one
#
# Start with the photographs. In the stored study `studies/05_photos.py`, our network (width 24) trains for 20 epochs on
# 5,000 photographs from CIFAR-10, stored as JPEG files, with flips and shifts (chapter 3). Every schedule was tuned in
# the same way: we tried the peaks 0.05, 0.1, 0.2 and 0.4 on the validation photographs of one other seed, and kept the
# best. That was 0.1 for the constant learning rate and for step decay, 0.2 for the cosine, and 0.4, the largest that we
# tried, for **one-cycle**, which rises before it falls (5.8). Step decay divides the learning rate by ten halfway
# through the run, and again after three quarters. Then we ran five new seeds, each with its own draw of photographs.
# Two draws share about half of their test photographs.
#
# ### Predict
#
# By how many points does the cosine beat the constant learning rate?

# %% tags=["predict"]
my_points_for_the_cosine = ...  # 5 means 5 points of accuracy

# %%
photos = Results.load("studies/05_photos.csv")
print(photos.claim("cosine", ">", "constant", by=0.03))
print(photos.claim("one-cycle", ">", "constant", by=0.03))
print(photos.claim("step decay", ">", "constant", by=0.01))
print(photos.claim("cosine", ">", "step decay"))
print(photos.verdict("cosine", ">", "constant, 40 epochs"))
print(photos.claim("one-cycle", "~", "cosine", by=0.02))
photos.plot(
    label="test accuracy on photographs",
    message="On photographs, all three falling schedules beat a constant "
    "learning rate in a run of the same length.",
)

# %% tags=["check"]
check.prediction(
    "How many points does the cosine gain?",
    my_points_for_the_cosine,
    100 * photos.difference("cosine", "constant").mean,
    within=2,
)
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
    message="Step decay's loss drops when the learning rate does, and then "
    "stalls above the cosine's.",
)

# %% [markdown]
# The table supports five of the six declared claims. The cosine gains 6.7 points (95 % CI 5.0 to 8.3), one-cycle 7.8
# (6.3 to 9.3) and step decay 3.8 (1.9 to 5.7). One-cycle leads the cosine by 1.1 points (0.6 to 1.7), less than the two
# that we had declared to matter. The sixth claim isn't supported: with twice the epochs, the constant learning rate is
# between 4.9 points behind the cosine and 0.8 ahead. So the cosine does about as well or better with half the epochs.
#
# With new seeds (appendix G), four of the five held. One-cycle's lead over the cosine came out the
# same, at 1.1 points, but this time its interval was wider (−0.2 to 2.4) and no longer ends below two. So one-cycle is
# probably a little ahead here, and hardly by more than two points.
#
# The second figure explains why. At a constant learning rate the loss keeps falling, but slowly (1.29 in epoch 10, 1.07
# in epoch 20), because every step also adds noise. When step decay divides the learning rate by ten, the loss falls by
# 0.13 within one epoch: that much of it was noise. Then it stalls at 1.00, because the steps are now too small to learn
# much more, and the second drop isn't even visible. The cosine gets both, and ends at 0.87.
#
# ### Predict
#
# Now a run of sixty steps, on 960 signs like those at the top and with a narrow network (width 8). Of the peaks 0.05,
# 0.1, 0.2 and 0.4, on two other seeds, 0.2 was best for both schedules. Which ends with the higher validation accuracy,
# `"constant"` or `"cosine"`? Or are they `"within 1 point"`? (Ten seconds.)

# %% tags=["predict"]
my_winner_of_the_short_run = ...


# %% tags=["experiment"]
NEW_SEEDS = range(10, 18)  # those before were used when the peak was 0.1


@cache
def short_run(seed, schedule):
    """Train a narrow network for sixty steps; return its accuracy."""
    model = seeded_resnet(seed, width=8)
    trainer = train_with_schedule(  # as `train`, with a schedule by name
        schedule,
        model,
        sgd(model, 0.2),
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
        fixed="960 signs, a narrow network, SGD, 60 steps, and the best of "
        "the peaks 0.05, 0.1, 0.2 and 0.4 on two other seeds, 0.2 for both",
    ),
    {"constant": short_constant, "cosine": short_cosine},
    seeds=NEW_SEEDS,
    metric="valid_acc",
)
print(short.verdict("constant", ">", "cosine"))
lead = 100 * short.difference("constant", "cosine").mean
short.plot(
    label="validation accuracy",
    message="After sixty steps, each with the best of four peaks, constant "
    f"minus cosine is {lead:+.1f} points.",
)

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
# The constant learning rate wins by 1.6 points (95 % CI 0.1 to 3.0), although both have their best peak. After sixty
# steps little of the loss is noise, so every step that the cosine shortens is lost progress. That's the limit of the
# argument in 5.1: in a run so short that nothing has arrived, decaying only slows you down. The stored study
# `studies/05_shapes.py` had shown this at a peak of 0.1, so it's a replication, not a discovery.
#
# **How both were measured.** The photographs came from trial runs, which were longer and had a gap of about eight
# points. Their claims were written down after that, but before the study. The short run was declared after its peaks
# were tuned, and before its eight seeds ran.
#
# **What would change it.** Length is one candidate. Section 5.8 has a study of 558 steps, with the same kind of signs,
# in which each schedule has its best peak. There, with correct labels, one-cycle gains 1.6 points (0.4 to 2.9). It has
# more images and a wider network, so this doesn't prove that length alone decides.
#
# The peak matters too. This explorer shows the stored study `studies/05_shapes.py`, sixty steps with a network of width
# 16: eight shapes, three peaks, and six seeds for each. On the left is the learning rate, and on the right the training
# loss of the six runs (thin) with their mean (bold). At which peak does the shape matter most, and in which direction?

# %% tags=["widget"]
rates = Results.load("studies/05_shapes.csv")
widgets.schedules(rates)

# %% [markdown]
# At a peak of 0.01, every falling schedule loses. We had declared this for one-cycle, and the claim held: the constant
# learning rate is 8.1 points ahead (95 % CI 6.6 to 9.7). At 0.1, the constant learning rate is still 2.3 points ahead
# of the cosine (0.9 to 3.8) and 3.8 ahead of one-cycle (1.3 to 6.2). A peak of 1 is too large for a constant learning
# rate, and most falling shapes come out ahead. But there the constant runs differ so much that our other claim isn't
# supported. One-cycle gains 7 points, with an interval from −1 to 15. You can't separate the choice of a schedule from
# the choice of its peak, which is why a comparison without equal tuning says little.
#
# **Which optimizers need a schedule?** Lecture notes say that SGD with momentum gains most. Adam divides out the size
# of the gradients, they say, so it gets by with a constant learning rate for longer. We didn't test it. Adam's steps
# are noisy too, and nearly all published recipes decay its learning rate. A schedule improves a run that works. It
# won't rescue one that doesn't.
#
# ## 5.4 The other shapes, and who uses them
#
# | schedule | multiplier | in `cnnlab.schedules` | in torch | where it's used |
# |---|---|---|---|---|
# | constant | $1$ | `constant()` | none needed | debugging, first experiments, a head on frozen features |
# | step decay | $\gamma^{\lfloor t/s \rfloor}$ | `step`, `multistep` | `StepLR`, `MultiStepLR` | ResNets ([He et al. 2016](https://arxiv.org/abs/1512.03385)), object detection |
# | cosine | see above | `cosine(T, f)` | `CosineAnnealingLR(opt, T, eta_min)`; `eta_min` is a learning rate, not a fraction | the default in vision, with a warm-up |
# | linear | $1 - (1 - f)\,t/T$ | `linear(T, f)` | `LinearLR(opt, 1.0, f, T)`; with its defaults it *rises* | BERT ([Devlin et al. 2019](https://arxiv.org/abs/1810.04805)), RoBERTa ([Liu et al. 2019](https://arxiv.org/abs/1907.11692)), small budgets ([Li et al. 2020](https://arxiv.org/abs/1905.04753)) |
# | inverse square root | $\sqrt{\tau / (\tau + t)}$ | `inverse_sqrt(τ)` | `LambdaLR` | the Transformer, after a warm-up ([Vaswani et al. 2017](https://arxiv.org/abs/1706.03762)) |
# | warm restarts | a cosine that starts again after each cycle | `warm_restarts(T, m)` | `CosineAnnealingWarmRestarts` | snapshot ensembles (chapter 6) |
# | one-cycle | up, then down | `one_cycle(T, p)` | `OneCycleLR` | short runs at large learning rates (5.8) |
# | plateau | falls when a metric stops improving | `Plateau(optimizer)` | `ReduceLROnPlateau` | runs of unknown length |

# %%
plots.schedules(
    {
        "linear": schedules.linear(100),
        "inverse square root": schedules.inverse_sqrt(10),
        "warm restarts": schedules.warm_restarts(10, mult=2),
        "warm-up, cosine": schedules.warmup(10, schedules.cosine(90)),
        "one-cycle": schedules.one_cycle(100),
    },
    steps=101,
    message="Linear and inverse square root only fall; the others also "
    "rise, once or several times.",
)

# %% [markdown]
# **Linear or cosine?** It rarely matters, and people follow the habits of their field. **The inverse square root**
# needs no planned end, but it drops fast: after three time scales $\tau$ it's down to a half. **Warm restarts** jump
# back to the top. If the first cycle takes 10 steps and each cycle is twice as long as the one before, the jumps are at
# 10, 30 and 70.
#
# **Plateau** needs no plan. It watches the validation loss, and lowers the learning rate when there has been no
# improvement for `patience` evaluations. The price is delay, and one lucky value makes it wait longer. (Watch out for
# an off-by-one. With `patience=3`, torch acts at the *fourth* evaluation in a row without improvement, Keras and
# `cnnlab` at the third.) Why not let the training loss steer the learning rate at every step? Because it always looks
# better right after a decay, so a greedy rule decays too early.
#
# ## 5.5 Steps or epochs?
#
# Papers state schedules in epochs, but loops count steps. A run has `EPOCHS * len(loader)` steps, so convert once,
# where you make the schedule. `train(..., schedule=f)` does it for you: it calls `f(steps)` to get the schedule.
# `schedules.cosine` is such a function `f`.
#
# ### Predict
#
# The classic mistake mixes the two. The cosine gets `EPOCHS` as its length, here 4, but the loop counts steps, here 60.
# There's no error message. What accuracy do you expect? The correct unit gives about 0.66, and guessing gives 0.08.

# %% tags=["predict"]
my_accuracy_with_the_wrong_unit = ...  # a number between 0 and 1


# %% tags=["experiment"]
def four_steps_long(steps):
    return schedules.cosine(EPOCHS)  # the bug


def wrong_unit(seed):
    model = seeded_resnet(seed, width=8)
    trainer = train(
        model,
        sgd(model, 0.2),
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
    seeds=NEW_SEEDS[:5],
    metric="valid_acc",
)
print(units.claim("cosine(STEPS)", ">", "cosine(EPOCHS)", by=0.3))
units.plot(
    label="validation accuracy",
    message="A cosine that ends after four steps ruins the run.",
)

# %% tags=["check"]
check.prediction(
    "What is the accuracy when the cosine is four steps long?",
    my_accuracy_with_the_wrong_unit,
    float(units.values("cosine(EPOCHS)").mean()),
)

# %% [markdown]
# After four steps the learning rate is zero, and the rest of the run changes no weight. The curve looks as if the
# network couldn't learn. Torch doesn't complain. `Trainer` compares every schedule with the length of the run, which is
# why it warned you above. The opposite mistake is quieter: a per-step schedule that is stepped once per *epoch* stays
# near its peak for the whole run. So *look* at what was used. `history.steps["lr"]` holds the learning rate of every
# step, and its last entry should be what you planned.
#
# ## 5.6 The range test: which learning rate?
#
# The learning rate is the hyperparameter that matters most, and you can estimate it in a minute with a **learning-rate
# range test**. There are two versions. In Leslie Smith's original ([2017](https://arxiv.org/abs/1506.01186)), the
# learning rate grows *linearly* over several epochs, and you watch the *validation accuracy*. In fastai's version, it
# grows by a constant *factor* at each step of a single sweep, and you watch the *training loss* of each batch. This
# version is cheaper and covers five powers of ten, and it's what `lr_find` does in fastai, Lightning and `cnnlab`.

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
# rate is too large. `curve.suggest()` returns the learning rate at which the loss falls most steeply. (The smoothed
# line averages past losses, so it lags about a third of a power of ten behind the measured one. The suggestion is
# computed from the measured losses.) For a constant learning rate, start near the steepest point. For the *peak* of a
# schedule, go further, towards the beginning of the bottom. Don't take the lowest point itself, because there the
# network is about to diverge.
#
# ### Predict
#
# How much can you trust the suggestion? Six seeds, each with its own signs, weights and order, give six suggestions.
# How many times as large as the smallest is the largest?

# %% tags=["predict"]
my_factor_between_suggestions = ...  # 2 means twice as large

# %% tags=["check"]
runs = rates.frame().set_index("variant")
suggestions = runs.loc["constant, suggested", "peak_rate"]
accuracies = runs.loc["constant, suggested", "valid_acc"]
for lr, acc in zip(suggestions, accuracies, strict=True):
    print(f"suggestion {lr:.3f}: accuracy {acc:.2f} after sixty steps")
check.prediction(
    "By what factor do the suggestions differ?",
    my_factor_between_suggestions,
    float(suggestions.max() / suggestions.min()),
    within=3,
)
print(rates.claim("constant, suggested", ">", "constant, 0.001", by=0.2))
print(rates.verdict("constant, 0.1", ">", "constant, suggested"))

# %% [markdown]
# The largest suggestion is almost nine times the smallest. All six train far better than 0.001, as we had declared. We
# had also claimed that 0.1, taken from a grid of four, would beat the suggestions, and that isn't supported. On average
# you lose two points by trusting the test, with an interval from a gain of two to a loss of six. The smallest
# suggestion costs most. So trust a range test only to the nearest power of ten, and run several sweeps: `lr_find(...,
# seeds=5)` returns the median suggestion and tells you how much the suggestions vary.
#
# Now try Smith's version, in three runs of twelve epochs whose learning rate grows from 0 to 6 (a few seconds). Smith
# reads two values off the curve. One is the *shoulder*, where the accuracy starts to improve. That's where a cycle
# should start. The other is the *edge*, where the accuracy begins to fall apart, and the peak of a cycle belongs just
# below it. Read both off the figure before you go on.


# %% tags=["experiment"]
def smith_range_test(seed, high=6, epochs=12):
    """Train while the learning rate grows; return the accuracies."""
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
# The accuracy improves from the first epoch on, and the edge is near 2. But tuning found far smaller peaks, at most 0.3
# on signs and 0.4 on photographs, and at 2 a whole run was worse than at 0.1 (5.1). With batch norm, the edge says
# little about the best peak, because large steps only make the weights longer. Also, each point has had one epoch more
# of training than the point before it, which hides that the learning rate is already too large.
#
# **Typical learning rates** are good starting points. The values below are rules of thumb from papers and from
# practice. We didn't test them here.
#
# | you train | optimizer | peak | schedule |
# |---|---|---|---|
# | a residual network with batch norm, from scratch | SGD, momentum 0.9 | 0.1 for batches of 256, scaled in proportion to the batch size ([Goyal et al. 2017](https://arxiv.org/abs/1706.02677)) | cosine or step decay, with a short warm-up |
# | the same, in only a few epochs | SGD, cycled momentum | 2 to 10 times the constant learning rate | one-cycle |
# | a network without normalisation | SGD, momentum 0.9 | 0.001 to 0.03 | warm-up and clipping (chapter 7) |
# | a convolutional network, from scratch | AdamW | 0.0003 to 0.003 | cosine |
# | a vision transformer | AdamW | 0.0005 to 0.001 | warm-up, then cosine |
# | a new head on a frozen backbone | SGD, AdamW | as from scratch | constant is enough |
# | fine-tuning a pretrained network | SGD; AdamW 0.00001 to 0.0001 | 10 to 100 times smaller than from scratch | warm-up for 1 to 5 epochs, then cosine |
#
# ### Exercise 2: `range_test` (hard, 35 minutes)
#
# Write fastai's version. Train a *copy* of the model with plain SGD on the cross-entropy, one step per batch, in
# training mode. The first step uses the learning rate `low` and the last one uses `high`. In between, the learning rate
# grows by the same factor at each step. Return two lists: the learning rate of each step, and the loss on its batch
# *before* the step. `batches` is a list of pairs (images, labels). To change the learning rate of an optimizer, assign
# to `optimizer.param_groups[0]["lr"]`: that's the value that `step()` reads.


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
# <summary><b>Hint: the learning rates are correct, the losses aren't</b></summary>
#
# Which learning rate does the optimizer find at the moment of your third `step()`?
#
# </details>


# %% tags=["solution", "hide-cell"]
# Solution
def range_test(model, batches, low, high):
    """Return the learning rates and the losses of a range test."""
    model = copy.deepcopy(model).train()
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
# loss is strongly curved, their gradients are large, and the optimizer's running averages are still based on very few
# steps. Adam's first step moves every weight by the full learning rate, however small its gradient (section 1.7).
#
# In a **warm-up**, the multiplier rises along a straight line, $\alpha(t) = t/w$ for $t < w$. Then the actual schedule
# begins, counted from $w$. Goyal et al. ([2017](https://arxiv.org/abs/1706.02677)) start at the learning rate for one
# of their machines. Many libraries start at 0, which wastes one step. Runs with large batches usually need a warm-up,
# and so do transformers, except that those with the norm in front of each layer need it less ([Xiong et al.
# 2020](https://arxiv.org/abs/2002.04745)).
#
# To see the effect in seconds, we exaggerate: AdamW with a learning rate of 0.3, a hundred times more than usual.
#
# ### Predict
#
# Which has the best validation accuracy: a constant 0.3, the same 0.3 after a warm-up over the first half of the run,
# or the usual 0.003? Write `"0.3"`, `"0.3 warmed up"` or `"0.003"`. (The fifteen runs take about ten seconds.)

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
print(rescue.verdict("0.003", ">", "0.3 warmed up"))
best = rescue.table()["mean"].idxmax()
rescue.plot(
    label="validation accuracy",
    message=f"AdamW after sixty steps: on average, {best} is best.",
)

# %% tags=["check"]
check.prediction(
    "AdamW: which of the three is best?",
    my_best_of_three,
    best,
    options=rescue.names,
)

# %% [markdown]
# Both runs with 0.3 end at the same learning rate; they only get there differently. So a warm-up widens the range of
# learning rates that train, but it can't turn a bad learning rate into a good one: the usual 0.003 is still seven
# points ahead (95 % CI 0.2 to 13.6; exploratory, since we hadn't declared it). And it doesn't help if the learning rate
# is too large throughout. To tell the two cases apart, look at *when* the loss explodes: in the first steps, or when
# the ramp reaches a certain value ([Gilmer et al. 2021](https://arxiv.org/abs/2110.04369)).
#
# ### Exercise 3: `warmup_cosine` (easy, 10 minutes)
#
# Write the schedule that most vision recipes use in 2026. It rises along a straight line from 0 to 1, which it reaches
# at step `warmup`, and then falls along half a cosine to 0, which it reaches at step `steps`. After that it stays at 0.
# The argument `steps` counts the whole run, including the warm-up. Start at 0: counted in *steps*, this costs only one
# of them. Some runs have no warm-up, and then `warmup` is 0. Others warm up for more than half of their steps.


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
# Take `warmup = 2` and write down the multipliers at steps 0, 1 and 2.
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
# ### Exercise 4: find the bugs in the textbook (open, 40 minutes)
#
# Both snippets are in circulation. They run without an error, and they're wrong. In the first one, `LambdaLR`
# multiplies the learning rate by `lr_lambda(n)`, where $n$ counts the calls of `scheduler.step()`. It's called once per
# epoch, and training lasts 20 epochs. In the second one, `criterion` is the loss function. Find the bugs, prove each of
# them with a run or a `print`, and fix it. This exercise is open, so it has no check.
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
# | 4 | the schedule: the bug, its proof, a one-line fix, and why the same line is harmless if it counts *steps* |
# | 5 | the finder: its bugs, a proof for each, and how many powers of ten its curve is shifted by |
# | 1 | one line that looks wrong and isn't |
#
# <details>
# <summary><b>Solution: open it when you have a list of your own</b></summary>
#
# - **Schedule.** The whole first epoch trains at 0. `(epoch + 1) / warmup_epochs` fixes it, with two epochs at the peak;
#   `(epoch + 1) / (warmup_epochs + 1)` has only one. Counted in steps, 0 costs a single step.
# - **Finder.** It trains the caller's model. It sets the learning rate after the step, so each loss is paired with the
#   next learning rate, and its first two steps both use `start_lr`. The curve is shifted by one step, 0.07 powers of
#   ten. On a small data set the loader ends before the sweep does. The last learning rate is `end_lr / lr_mult`,
#   because there are only `num_steps - 1` gaps. And a loss of NaN never stops the sweep, because `nan > x` is `False`.
# - **Harmless.** `best_loss = inf`: nothing is larger than `4 * inf`, so the first step can't stop the sweep.
#
# </details>

# %%
# Your experiments: print the multipliers; run the finder on a loader, such as
# cnnlab.loader(signs(0).train, BATCH_SIZE, shuffle=True, seed=0)

# %% [markdown]
# ## 5.8 One-cycle
#
# **One-cycle** ([Smith & Topin 2018](https://arxiv.org/abs/1708.07120)) is a long warm-up to a learning rate that's
# larger than a constant one could be, followed by a fall to almost nothing. In the version that fastai and torch use,
# both phases are half cosines. If the rise takes a fraction $p$ of the $T$ steps, from $\eta_{\min}$ to the peak
# $\eta_{\max}$, the learning rate is
#
# $$ \eta_t = \begin{cases}
# \eta_{\min} + (\eta_{\max} - \eta_{\min})\,\frac{1}{2}\left(1 - \cos \frac{\pi t}{pT}\right) & t \le pT \\
# \eta_{\mathrm{final}} + (\eta_{\max} - \eta_{\mathrm{final}})\,\frac{1}{2}\left(1 + \cos \frac{\pi (t - pT)}{(1-p)T}\right) & t > pT .
# \end{cases} $$
#
# **The momentum runs the other way.** With momentum $m$, each gradient acts on many steps, fading by a factor of $m$
# each time, so in total it counts $1 + m + m^2 + \dots = 1/(1-m)$ times. In the long run the effective learning rate is
# therefore $\eta / (1-m)$. It also decides how far the noise of the batches throws the weights about. For $N$ images in
# batches of $B$, this **noise scale** is about $\eta N / (B (1 - m))$ ([S. L. Smith et al.
# 2018](https://arxiv.org/abs/1711.00489)), so doubling the learning rate, halving the batch size and halving $1 - m$
# all have the same effect on it.
#
# A large learning rate with a large momentum diverges. So one-cycle lowers the momentum from 0.95 to 0.85 while the
# learning rate is high, and raises it again at the end ([L. N. Smith 2018](https://arxiv.org/abs/1803.09820)). The
# noise scale still peaks there, because $\eta$ rises by a factor of 25 while $1/(1-m)$ only falls to a third. The idea
# is to explore with a lot of noise first, and then to settle with little.

# %%
lr = 0.3 * schedules.trace(schedules.one_cycle(100), 101)
momentum = schedules.trace(schedules.one_cycle_momentum(100), 101)
noise_scale = lr / (1 - momentum)
plots.lines(
    range(101),
    {
        "learning rate": lr,
        "momentum": momentum,
        "noise scale (fraction of its peak)": noise_scale / noise_scale.max(),
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
# | peak / end | `final_div_factor`, which in torch is start / end: with `div_factor=25`, write 40 to 400 (the default, 10,000, means a peak / end of 250,000) | $10^3$ to $10^4$ | a longer, finer tail |
# | fraction $p$ of the rise | `pct_start` | 0.3; 0.2 to 0.4 | a later peak and a shorter fall; the *total* time at large learning rates stays the same |
# | lowest momentum | `base_momentum` | 0.85 | a longer effective step $\eta/(1-m)$ at the peak: more noise, more risk |
# | highest momentum | `max_momentum` | 0.95 | a longer effective step at the start and in the tail |
#
# With Adam, the momentum is $\beta_1$. Whatever momentum you gave the optimizer, `OneCycleLR` cycles it unless you pass
# `cycle_momentum=False`.
#
# **Does it keep its promise?** The paper trained a ResNet-56 on CIFAR-10 with learning rates up to 3, and ImageNet
# networks in 20 epochs instead of 100. Our study `studies/05_one_cycle.py` looks for the effect on 3,000 signs. In its
# main comparison, 30 % of the labels are wrong, because that's where noise matters most. Each schedule trains for six
# epochs, with eight seeds, and uses the best of the same four peaks.
#
# **How this was measured.** A first search used correct labels (2,000 to 6,000 signs, two batch sizes, two weight
# decays) and found no difference between one-cycle and a well-chosen constant learning rate. With 30 % wrong labels, we
# found one. A result that you had to search for needs a second test. So we wrote the claims down, chose the peaks on
# two other seeds, and ran the study on new signs.
#
# ### Predict
#
# One-cycle gets *two* epochs and the constant learning rate gets *six*. How far behind is one-cycle? (0.02 means two
# points behind, −0.02 two points ahead.)

# %% tags=["predict"]
my_gap_of_a_third = ...

# %% tags=["check"]
noisy = Results.load("studies/05_one_cycle.csv")
check.prediction(
    "How far behind is one-cycle in two epochs?",
    my_gap_of_a_third,
    noisy.difference("constant, 6 epochs", "one-cycle, 2 epochs").mean,
    within=0.02,
)
print(noisy.claim("one-cycle, 6 epochs", ">", "constant, 6 epochs"))
print(noisy.claim("one-cycle, 6 epochs", ">", "step, 6 epochs"))
print(
    noisy.verdict("constant, 6 epochs", ">", "one-cycle, 2 epochs", by=0.02)
)
print(noisy.claim("one-cycle, clean labels", ">", "constant, clean labels"))
print("\nA second study, with a plain cosine:")
rise = Results.load("studies/05_rise.csv")
print(rise.verdict("cosine", ">", "constant", by=0.02))
print(rise.verdict("one-cycle", "~", "cosine", by=0.02))
noisy.plot(
    label="accuracy on correctly labelled signs",
    message="With wrong labels, one-cycle beats step decay and a constant "
    "learning rate.",
)

# %% [markdown]
# With the same number of epochs, one-cycle gains 5.6 points over the constant learning rate (95 % CI 2.8 to 8.4) and
# 2.8 over step decay (1.6 to 4.1), although the best peak was 0.1 for all three. With correct labels it gains 1.6
# points (0.4 to 2.9), which our first search had missed. Failing to find a difference isn't the same as finding that
# there is none.
#
# We didn't see super-convergence. In a third of the epochs, one-cycle is about 4.5 points behind, with an interval from
# 0 to 9, and with new seeds 6.1 (3.4 to 8.9).
#
# **Is it the rise?** A plain cosine falls to nothing too. At the same peak it even uses almost the same learning rates,
# only in another order, as the next figure shows. So a second study, `studies/05_rise.py`, repeats the comparison with
# wrong labels on eight new draws of signs, with a cosine that was tuned like the others. We had expected the fall to
# explain the gain, but neither of our two claims is supported. The cosine gains 2.3 points over the constant learning
# rate (0.3 to 4.4), and with new seeds 1.5 (−0.7 to 3.6), so falling probably helps. One-cycle is another 3.2 points
# ahead (2.1 to 4.4; exploratory), and with new seeds 1.9 (0.7 to 3.1). So more than half of its gain comes from the
# rise or from the cycle of the momentum, which we didn't separate. On the photographs of 5.3 it was about one point.

# %%
multipliers = {
    "cosine": schedules.trace(schedules.cosine(100), 101),
    "one-cycle": schedules.trace(schedules.one_cycle(100), 101),
}
plots.lines(
    range(101),
    {name: sorted(m, reverse=True) for name, m in multipliers.items()},
    xlabel="steps, sorted by their learning rate",
    ylabel="multiplier",
    message="At the same peak, one-cycle and a cosine use almost the same "
    "learning rates, only in another order.",
)

# %% [markdown]
# The tables collect advice from papers, libraries and lecture notes.
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
# | a good choice | the run is short but has at least some hundreds of steps, or you want a strong baseline soon |
# | to be handled with care: lower the peak by 20 to 50 %, $p = 0.2$ | tiny data sets; transformers (also a few hundred steps of extra warm-up); strong regularisation; tight clipping of gradients (chapter 7) or tiny batches |
# | not worth it | a long cosine works well; the run has fewer than about a hundred steps (in our sixty it lost) |
#
# **Tuning in five steps:**
#
# | step | do this | adjust |
# |---|---|---|
# | 1 | find the peak with a range test, and set start and end by their factors | see the table above |
# | 2 | begin with $p = 0.3$ | 0.2 if the loss jumps up around the peak, 0.35 to 0.4 if validation gains from it |
# | 3 | it still jumps? one at a time, in this order | peak 10 to 20 % lower; larger `div_factor`; $p$ down by 0.05 |
# | 4 | look at the last tenth of the run | levels off too early: larger `final_div_factor`; short of time: a smaller one |
# | 5 | leave the rest alone | constant decoupled weight decay (AdamW's), clipping no tighter than 1, one scheduler step per optimizer step |
#
# One more bug to find: lecture notes also say to *raise* the lowest momentum against jumps. What does
# $\eta / (1 - m)$ say?
#
# <details>
# <summary><b>Answer</b></summary>
#
# It's the effective learning rate of SGD with momentum, and a larger $m$ makes it larger. One-cycle's momentum is lowest
# at the peak, where the jumps are. So raising it makes them worse, and lowering it calms them.
#
# </details>
#
# ## 5.9 Since 2024: when you don't know the end
#
# A cosine has to know its length in advance. If you stop it early, the learning rate is still high, and if you want to
# go on after the end, it's already zero. Large language models made this expensive, and two answers became popular.
#
# **Warm-up, stable, decay** (WSD; [Hu et al. 2024](https://arxiv.org/abs/2404.06395)) keeps the learning rate constant
# for as long as you like. When you need a finished model, you branch off a short **cooldown** over 10 to 20 % of the
# steps, while the main run goes on. [Hägele et al. 2024](https://arxiv.org/abs/2405.18392) found that this matches a
# cosine, and that $1 - \sqrt{u}$ works best, where $u$ is the progress of the cooldown.
#
# **Schedule-free** training ([Defazio et al. 2024](https://arxiv.org/abs/2405.15682)) never decays the learning rate at
# all. It keeps the running mean $x$ of all weights $z$ so far, uses $x$ for evaluation, and takes gradients at a point
# between the two. Averaging quietens the noise just as decaying does (chapter 6).
#
# Let's go back to the noisy valleys of 5.1, now with curvatures from 0.01 to 1, so that some weights need many steps.
#
# ### Predict
#
# Stop after 400 steps. Which has the lowest loss: a `"constant"` learning rate, a cosine that was planned for 800 steps
# (`"stopped early"`), a `"cooldown"` over the last 20 %, or `"schedule-free"` training?

# %% tags=["predict"]
my_best_after_400 = ...


# %% tags=["experiment", "check"]
CURVATURES = np.logspace(-2, 0, 4000)
LENGTHS = [50, 100, 200, 400]


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
stopped = {
    "constant": [descend(schedules.constant(), n) for n in LENGTHS],
    "stopped early": [descend(long_cosine, n) for n in LENGTHS],
    "cooldown": [descend(with_cooldown(n), n) for n in LENGTHS],
    "schedule-free": [schedule_free(n) for n in LENGTHS],
}
right_length = [descend(schedules.cosine(n), n) for n in LENGTHS]
check.prediction(
    "Noisy valleys: which is best after 400 steps?",
    my_best_after_400,
    min(stopped, key=lambda name: stopped[name][-1]),
    options=[*stopped],
)
plots.lines(
    LENGTHS,
    stopped | {"cosine of this length": right_length},
    xlabel="steps when the run stops",
    ylabel="loss",
    log="y",
    message="A cooldown and averaging come closer to a cosine of the right "
    "length than a long cosine that was stopped early.",
)

# %% [markdown]
# From 100 steps on, neither the cooldown nor averaging reaches a cosine of the right length, but both clearly beat the
# long cosine that was stopped early. Schedule-free training had to know nothing about the end. The cooldown had to
# decide on it when 80 % of the steps were done. This toy example illustrates the idea; it isn't evidence about
# networks. If you use the schedule-free library, remember that the *optimizer* has a training mode and an evaluation
# mode too.
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
    """Return a scheduler: warm-up, then cosine to 0; step it per batch."""
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
    """Return the learning rates that a scheduler sets for `steps` steps."""
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
    # torch counts the last step as part of its cycle, so 101 steps rise for
    # 31 - 1 and end where ours ends at 100.
    return torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.0, total_steps=101, pct_start=31 / 101
    )


def ten_then_ninety(optimizer):
    return make_schedule(optimizer, warmup_steps=10, total_steps=100)


plain_weights, weights = with_torch(), with_cnnlab()
assert all(torch.equal(plain_weights[k], weights[k]) for k in weights)
print(f"{len(weights)} tensors, all equal to the last bit")

# torch's final_div_factor divides the start, which is the peak / 25.
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
# One-cycle is usually written `OneCycleLR(optimizer, max_lr, epochs=E, steps_per_epoch=len(loader))`, and also stepped
# per batch.
#
# There are four traps in torch. A cosine that runs longer than planned trains with a *rising* learning rate, as the
# figure shows. `OneCycleLR` does the opposite: one step too many raises an error. It cycles the momentum by default.
# And its `final_div_factor` divides the *start*, not the peak, so if you copy a value from one library to the other,
# you're off by a factor of 25.
#
# For any other shape, `LambdaLR(optimizer, multiplier)` takes a function of the step, just like `cnnlab.attach`, which
# is built on it. A schedule without a memory has another advantage: to resume a run, all it needs is the number of
# steps so far.
#
# ## Make it bigger
#
# Run one-cycle on all of CIFAR-10, the setting in which it became known, with the flips and shifts of 5.3. The cell
# downloads 170 MB once and needs a GPU, so it runs only if the environment variable `CNNLAB_PROFILE` is `gpu`. The peak
# of 0.4 is the best of our small study, so tune it on the validation images first. Then start a race with a friend: who
# reaches 90 % validation accuracy in the fewest steps? (Jordan's paper of 2024 needs 3.29 seconds for 94 % test
# accuracy on one GPU. Its learning rate rises and falls along straight lines.)

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
    trainer = cnnlab.Trainer(
        bigger,
        optimizer,
        scheduler=scheduler,
        batch_transform=Augment(flip=0.5, crop_pad=4),
    )
    trainer.fit(batches, cnnlab.loader(cifar.valid, 512), epochs=15)
else:
    print("left out: set CNNLAB_PROFILE=gpu to run it")

# %% tags=["hide-input"]
check.quiz(5)

# %% [markdown]
# ## Key points
#
# - With a constant learning rate, the weights end in a cloud whose width grows with the learning rate. A falling
#   learning rate is fast first and quiet later.
# - A schedule paid off in long runs (1,560 steps on photographs: seven points). In sixty steps it lost 1.6 points, even
#   with a peak of its own. Tune the peak together with the schedule.
# - A schedule is a function of the step. Count steps, not epochs, and look at the learning rates that were used.
# - A range test finds the power of ten, no more. Run several sweeps, and read the curve.
# - A warm-up rescues a learning rate that destroys new weights, but not one that's too large throughout. Don't spend
#   its first *epoch* at a learning rate of 0.
# - In 2026, a warm-up followed by a cosine is the default in vision. One-cycle is for short runs of at least some
#   hundreds of steps, and a cooldown for runs whose end you don't know.
#
# **Your recipe so far** gains a schedule: a warm-up over the first 5 % of the steps, then a cosine to zero. Try the
# best constant learning rate and twice that as its peak. (On photographs twice was better, in one search with one
# seed.)
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
# - R. Xiong et al., *On layer normalization in the Transformer architecture*, 2020,
#   [arXiv:2002.04745](https://arxiv.org/abs/2002.04745)

# %% [markdown] tags=["instructor", "remove-cell"]
# ## When you are short of time
#
# Keep 5.1, 5.3 and the first half of 5.6. Students can work out the table of 5.2 on paper and read 5.9 at home.
# Exercise 4 makes a good discussion in pairs.
#
# ## A session of ninety minutes
#
# | minutes | what | sections | who |
# |---|---|---|---|
# | 10 | Four learning rates, and the cloud around the minimum | 5.1 | you |
# | 10 | The table of the cosine on paper: where is it steepest? | 5.2 | everybody on paper |
# | 15 | Photographs: predict and read. Then sixty steps: vote again, and run | 5.3 | everybody |
# | 10 | The wrong unit: vote and run | 5.5 | the room |
# | 10 | The range test: how far apart are six suggestions? | 5.6 | everybody |
# | 10 | Warm-up: vote and run; exercise 3 | 5.7 | everybody |
# | 15 | Exercise 4, the bugs in two snippets | 5.7 | pairs |
# | 10 | Questions for the room | | the room |
#
# ## Exercise 4, the solution
#
# It's below the table of points in the exercise. Accept other bugs that are proved by a run.
#
# ## Questions for the room
#
# - The same schedule gains points on photographs and loses points on signs. Which single change to the signs would you
#   try first, and what do you predict? (Make the run longer. After sixty steps little of the loss is noise, so the
#   cosine only loses progress, 1.6 points of it; on photographs it gains 6.7 in twenty epochs. In the 558 steps of 5.8,
#   one-cycle gains 1.6 points on signs with correct labels. That study has more images and a wider network as well, so
#   it's a hint and no proof.)
# - The range test suggests 0.05. Do you use it as the peak of a schedule? (Not as it is. The suggestion is where the
#   loss falls most steeply, which suits a constant learning rate; a peak belongs further on, near the beginning of the
#   bottom. And six sweeps gave suggestions that differed almost by a factor of nine. So take the median of several, and
#   trust it to the nearest power of ten.)
# - Which schedule survives a change of batch size, one that counts steps or one that counts epochs? (The one that
#   counts epochs, because it ends when the run ends. With batches half as large, an epoch has twice the steps, so a
#   schedule in steps ends halfway, and the rest of the run trains at 0 or, with torch's cosine, at a rising learning
#   rate. Neither of them adapts the learning rate itself, which needs another value as well.)
# - We switched to wrong labels after a search with correct ones had shown nothing. Which parts of the second study make
#   its result trustworthy, and would it have been enough to run the first study again? (The claims were written down,
#   the peaks were chosen on two other seeds, the signs were new, and the text tells you about the search. Running the
#   first study again wouldn't do, because a setting that was searched for its effect can't confirm it. Its "no
#   difference" was wrong, too: with correct labels, one-cycle gains 1.6 points (0.4 to 2.9).)
# - At the same peak, one-cycle and the cosine use almost the same learning rates. Which run would tell you whether the
#   rise or the momentum makes the difference in `05_rise.py`? (Two more variants: one-cycle with a constant momentum,
#   and a cosine with one-cycle's momentum. If the first keeps the lead, 3.2 points and 1.9 with new seeds, it's the
#   rise; if the second gains it, it's the momentum. Both need the same tuning as the others, on other seeds, and a
#   claim before they run.)
#
# ## Exam questions
#
# **Question 1.** A single weight w has the loss w²/2, and each gradient comes with noise of variance 1. The learning
# rate η is constant. At which variance does w settle? Compute it for η = 0.4 and for η = 0.1. Why not use 0.01 from the
# start? Use your answer to explain why the loss drops within one epoch when step decay divides the learning rate by
# ten, and then hardly falls any more.
#
# **Answer.** Each step multiplies w by 1 − η and adds noise of variance η². The variance v no longer changes if v = (1
# − η)² v + η², so v = η / (2 − η): 0.25 for 0.4, and 0.053 for 0.1. With 0.01 the cloud is small, but after a hundred
# steps, 37 % of the starting distance is still left (0.99 to the power of 100). Just before the drop, much of the loss
# is the cloud of the large learning rate. With the smaller one the weights settle into a smaller cloud within a few
# steps. After that, each step is too short to make much progress.
#
# **Question 2.** A run has 10,000 steps with batches of 64, and a cosine that falls to zero in 10,000 steps. A
# colleague changes the batch size to 128, keeps the number of epochs, and touches nothing else. What is the learning
# rate at the end of the new run? What will he see in the curves? How do you write the schedule so that this can't
# happen, and what still has to be chosen again?
#
# **Answer.** The new run has 5,000 steps, so it ends halfway down the cosine, at half of the peak. The loss is still
# noisy and higher than it need be, because the weights never settle, and it looks as if the larger batch generalised
# worse. Compute the length from the run, as epochs times batches per epoch, or express the schedule in epochs. The
# learning rate has to be tuned again: linear scaling suggests twice the value for SGD as a first guess. Half the steps
# may also be too few.
