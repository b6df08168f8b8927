# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Assignment: mixup, a schedule, early stopping
#
# You write three techniques, each in a variant that the chapters do not have, and use them in a small experiment of
# your own. It goes with chapters 4, 5 and 6 and takes about three hours.
#
# | part | points | who grades it |
# |---|---|---|
# | 1. mixup | 4 | the grader |
# | 2. a schedule | 4 | the grader |
# | 3. early stopping | 4 | the grader |
# | 4. an experiment | 6 | your instructor reads it |
#
# **How it is graded.** The grader runs the set-up cell and then the one cell that defines your function, alone, in a
# fresh process. So put all your function needs into its cell, helpers and imports included. It draws its problems
# anew; the examples below each function are only a few of them. Do not rename or delete cells. Your function may
# neither read nor write files nor use the network, and has two minutes of one core.

# %% nbgrader={"schema_version": 3, "grade": false, "grade_id": "setup", "locked": true, "solution": false, "task": false}
import math

import torch
import torch.nn.functional as F

import cnnlab


SEED = 0

# %% [markdown]
# ## 1. Mixup, a share for each image
#
# Chapter 4 mixes a whole batch with one λ. Here every image has its own. You are given
#
# - `images` (N, C, H, W) and `labels` (N,), whole numbers below `num_classes`,
# - `lam` (N,), a number between 0 and 1 for each image,
# - `permutation` (N,): image $i$ is mixed with image $j = $ `permutation[i]`.
#
# Each image is to stay nearer to itself than to its partner. So its share is $s_i = \max(\lambda_i, 1 - \lambda_i)$
# ([Berthelot et al. 2019](https://arxiv.org/abs/1905.02249) use mixup in this way), and
#
# $$ \tilde x_i = s_i x_i + (1 - s_i) x_j, \qquad \tilde y_i = s_i y_i + (1 - s_i) y_j, $$
#
# where $y$ is the one-hot row of a label. Return $\tilde x$ (N, C, H, W) and $\tilde y$ (N, K), both float. The batch
# you are given stays as it is.


# %% nbgrader={"schema_version": 3, "grade": false, "grade_id": "mixup_answer", "locked": false, "solution": true, "task": false}
def mixup(images, labels, num_classes, lam, permutation):
    """Return mixed images (N, C, H, W) and their targets (N, num_classes)."""
    ### BEGIN SOLUTION
    share = torch.maximum(lam, 1 - lam)
    wide = share[:, None, None, None]
    mixed = wide * images + (1 - wide) * images[permutation]
    targets = F.one_hot(labels, num_classes).float()
    partners = targets[permutation]
    return mixed, share[:, None] * targets + (1 - share)[:, None] * partners
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade": true, "grade_id": "mixup_points", "locked": true, "points": 4, "solution": false, "task": false}
# Two grey images, 0.2 and 0.6 bright; the first has the smaller λ, and keeps 0.75 of itself all the same.
two = torch.tensor([0.2, 0.6])[:, None, None, None].expand(2, 1, 2, 2).clone()
lam, swap = torch.tensor([0.25, 1.0]), torch.tensor([1, 0])
mixed, targets = mixup(two, torch.tensor([0, 1]), 2, lam, swap)
assert torch.allclose(mixed[:, 0, 0, 0], torch.tensor([0.3, 0.6]))
assert torch.allclose(targets, torch.tensor([[0.75, 0.25], [0.0, 1.0]]))
### BEGIN HIDDEN TESTS
cnnlab.check.grade("mixup", mixup)
### END HIDDEN TESTS

# %% [markdown]
# ## 2. A schedule: rise, hold, fall
#
# A run that may go on for longer than planned wants a rate that stays up and falls only when you say so
# ([Hägele et al. 2024](https://arxiv.org/abs/2405.18392)). Write the multiplier of step $t = 0, 1, \dots, T-1$, for a
# warm-up of $w$ steps, a hold of $h$ steps, $T$ steps in all and the final value $f$:
#
# - in the warm-up $1/w, 2/w, \dots, 1$: the first step already does something, the last one has the full rate;
# - in the hold 1;
# - then $f + (1 - f)\,(1 - \sqrt{p})$, where $p$ is the share of the fall that is done *with* this step: it is
#   $1 / (T - w - h)$ in the first step of the fall and 1 in the last, which is therefore at $f$.
#
# $w$ and $h$ may be 0; $T$ is larger than $w + h$.


# %% nbgrader={"schema_version": 3, "grade": false, "grade_id": "schedule_answer", "locked": false, "solution": true, "task": false}
def schedule(step, warmup, hold, steps, final):
    """Return the multiplier of the base rate in one step."""
    ### BEGIN SOLUTION
    if step < warmup:
        return (step + 1) / warmup
    if step < warmup + hold:
        return 1.0
    done = (step - warmup - hold + 1) / (steps - warmup - hold)
    return final + (1 - final) * (1 - math.sqrt(done))
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade": true, "grade_id": "schedule_points", "locked": true, "points": 4, "solution": false, "task": false}
# Two steps up, one at the top, four down to 0.2.
curve = [round(schedule(step, 2, 1, 7, 0.2), 4) for step in range(7)]
assert curve == [0.5, 1.0, 1.0, 0.6, 0.4343, 0.3072, 0.2], curve
### BEGIN HIDDEN TESTS
cnnlab.check.grade("schedule", schedule)
### END HIDDEN TESTS

# %% [markdown]
# ## 3. Early stopping with a relative threshold
#
# You get the whole curve `values`, one number for each evaluation, and say at which evaluation the run ends and which
# one was the best: `(stop, best)`, two indices from 0.
#
# - With `mode="max"` larger is better, with `"min"` smaller. A NaN is never better than anything.
# - There is a value to beat, at first the first number. An evaluation is *good* if it is better than the value to beat
#   by more than `min_delta` times the absolute value of the value to beat; then it becomes the value to beat. The
#   first number is good. Every other evaluation is *bad*.
# - Bad evaluations in a row are counted, but only those with an index of at least `start`. When there are `patience`
#   of them, the run ends with that evaluation. A run that is never ended stops at its last evaluation.
# - `best` is the best number up to the stop, however small its lead; of equal ones the first. (A curve has at least
#   one number.)


# %% nbgrader={"schema_version": 3, "grade": false, "grade_id": "stopping_answer", "locked": false, "solution": true, "task": false}
def early_stopping(values, patience, min_delta, mode, start):
    """Return the indices of the evaluation that ends the run and of the best one."""
    ### BEGIN SOLUTION
    sign = 1 if mode == "max" else -1
    best = to_beat = None
    bad = 0
    for i, value in enumerate(values):
        known = not math.isnan(value)
        if known and (best is None or sign * value > sign * values[best]):
            best = i
        if known and (to_beat is None or sign * (value - to_beat) > min_delta * abs(to_beat)):
            to_beat, bad = value, 0
        elif i >= start:
            bad += 1
            if bad >= patience:
                return i, best or 0
    return len(values) - 1, best or 0
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade": true, "grade_id": "stopping_points", "locked": true, "points": 4, "solution": false, "task": false}
# 0.99 beats 1.0 by one percent only: it is the best, but does not count as good. Two bad ones in a row end the run.
assert early_stopping([1.0, 0.99, 0.995, 0.5], 2, 0.05, "min", 0) == (2, 1)
assert early_stopping([1.0, 0.99, 0.995, 0.5], 2, 0.05, "min", 3) == (3, 3)
### BEGIN HIDDEN TESTS
cnnlab.check.grade("early_stopping", early_stopping)
### END HIDDEN TESTS

# %% [markdown]
# ## 4. An experiment
#
# Does your mixup help on your data? `SEED` decides which signs you have, and a third of your training labels are
# wrong. The cell below trains with your schedule, without and with your mixup, on five seeds. It
# takes about two minutes.

# %% nbgrader={"schema_version": 3, "grade": false, "grade_id": "experiment", "locked": true, "solution": false, "task": false}
data = cnnlab.load("pocket", seed=SEED, n_train=960, n_valid=300, n_test=600)
noisy = cnnlab.data.label_noise(data.train, 0.33, SEED)
K = len(data.classes)


def train(seed, alpha):
    """Return the test accuracy of one run; alpha 0 is without mixup."""
    torch.manual_seed(seed)
    model = cnnlab.small_resnet(num_classes=K)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    batches = cnnlab.loader(noisy, 64, shuffle=True, seed=seed)
    steps = 12 * len(batches)
    shape = lambda step: schedule(step, steps // 10, steps // 2, steps, 0.0)

    def mix(images, labels):
        shares = torch.distributions.Beta(alpha, alpha).sample((len(images),))
        return mixup(images, labels, K, shares, torch.randperm(len(images)))

    trainer = cnnlab.Trainer(
        model,
        optimizer,
        scheduler=cnnlab.attach(optimizer, shape),
        batch_transform=mix if alpha else None,
        seed=seed,
        progress=False,
    )
    trainer.fit(batches, epochs=12)
    return trainer.evaluate(cnnlab.loader(data.test, 300))["acc"]


# %% [markdown]
# Compare at least two settings with `cnnlab.compare` over at least five seeds (chapter 4 shows how), and print the
# difference with its interval.

# %% nbgrader={"schema_version": 3, "grade": false, "grade_id": "runs_answer", "locked": false, "solution": true, "task": false}
### BEGIN SOLUTION
results = cnnlab.compare(
    {
        "plain": lambda seed: train(seed, 0.0),
        "mixup": lambda seed: train(seed, 1.0),
    },
    seeds=5,
    metric="test_acc",
)
print("mixup - plain:", results.difference("mixup", "plain"))
### END SOLUTION

# %% [markdown]
# **Write, in at most ten sentences:** What did you compare, and what did you keep equal? What is the difference, and
# does its interval allow you to call it an effect? What speaks for mixup on *these* labels, and what would you
# measure next if you had ten times the time? An honest "cannot be told" earns all the points; a claim that the
# numbers do not carry does not.

# %% [markdown] nbgrader={"schema_version": 3, "grade": true, "grade_id": "report", "locked": false, "points": 6, "solution": true, "task": false}
# ### BEGIN SOLUTION
# For example: "I compared training without mixup and with α = 1, five seeds each; network, schedule, length, batches
# and the wrong labels of a seed were the same. ..." The numbers differ from student to student.
#
# **Points.** One each: (1) says what was compared and what was kept equal; (2) quotes mean and interval as printed; (3) draws
# the conclusion that the interval allows, and no other; (4) gives a reason that fits wrong labels (a blend cannot be
# learnt by heart as easily); (5) names a next measurement that would settle something; (6) is clear and within ten
# sentences.
# ### END SOLUTION
