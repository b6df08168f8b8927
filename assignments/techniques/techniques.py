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
# You write three techniques, each in a variant that the chapters don't have, and use two of them in a small experiment
# of your own. It goes with chapters 4, 5 and 6.
#
# | part | points | who grades it |
# |---|---|---|
# | 1. mixup | 4 | the grader |
# | 2. a schedule | 4 | the grader |
# | 3. early stopping | 4 | the grader |
# | 4. an experiment | 6 | your instructor reads it |
# | 5. explain your curve | 4 | your instructor, in a conversation or on paper |
#
# **Time.** We estimate an hour to an hour and a half for parts 1 to 3 if you have done the exercises of the chapters,
# an hour for part 4, of which a minute or two are computing, and half an hour to prepare part 5.
#
# **How it is graded.** The grader runs the set-up cell and then the one cell that defines your function, alone, in a
# fresh process. So put all your function needs into its cell, helpers and imports included. The grader draws its own
# problems; the examples below each function are only a few of them. Don't rename or delete cells. Your function may
# neither read nor write files nor go online, and has two minutes of processor time. Ours needs less than a
# second. Each of the parts 1 to 3 has two halves, worth two points each. A half counts only if it's right in all
# problems.

# %% [markdown]
# RULES

# %% nbgrader={"schema_version": 3, "grade": false, "grade_id": "setup", "locked": true, "solution": false, "task": false}
import math

import torch
import torch.nn.functional as F

import cnnlab


SEED = 0

# %% [markdown]
# ## 1. Mixup with a weight for each image
#
# Chapter 4 mixes a whole batch with one λ. Here every image has its own. Your function gets
#
# - `images` (N, C, H, W) and `labels` (N,), integers below `num_classes`,
# - `lam` (N,), a number between 0 and 1 for each image,
# - `permutation` (N,): image $i$ is mixed with image $j = $ `permutation[i]`.
#
# Each image should stay closer to itself than to its partner, so its weight is $s_i = \max(\lambda_i, 1 - \lambda_i)$.
# [Berthelot et al. 2019](https://arxiv.org/abs/1905.02249) use mixup in this way. The mixed images and targets are
#
# $$ \tilde x_i = s_i x_i + (1 - s_i) x_j, \qquad \tilde t_i = s_i t_i + (1 - s_i) t_j, $$
#
# where $t_i$ is the one-hot row of label $i$. Return $\tilde x$ (N, C, H, W) and $\tilde t$ (N, K), both float. Don't
# change the batch you are given: that costs half of the points you earn.
#
# **Points.** 2 for the images, 2 for the targets.


# %% nbgrader={"schema_version": 3, "grade": false, "grade_id": "mixup_answer", "locked": false, "solution": true, "task": false}
def mixup(images, labels, num_classes, lam, permutation):
    """Return mixed images (N, C, H, W) and their targets (N, num_classes)."""
    ### BEGIN SOLUTION
    weight = torch.maximum(lam, 1 - lam)
    wide = weight[:, None, None, None]
    mixed = wide * images + (1 - wide) * images[permutation]
    targets = F.one_hot(labels, num_classes).float()
    partners = targets[permutation]
    return mixed, weight[:, None] * targets + (1 - weight)[:, None] * partners
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade": true, "grade_id": "mixup_points", "locked": true, "points": 4, "solution": false, "task": false}
# Two grey images with the pixels 0.2 and 0.6. The first one has λ = 0.25, so its own weight is 0.75.
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
# If you might train for longer than planned, you want a learning rate that stays up and falls only when you say so
# ([Hägele et al. 2024](https://arxiv.org/abs/2405.18392)). Write the multiplier of the learning rate in step
# $t = 0, 1, \dots, T-1$, for a warm-up of $w$ steps, a hold of $h$ steps, $T$ steps in all, and the final value $f$:
#
# - in the warm-up $1/w, 2/w, \dots, 1$: the first step already trains, and the last one has the full learning rate;
# - in the hold 1;
# - in the fall $f + (1 - f)\,(1 - \sqrt{p})$, where $p$ is the fraction of the fall that is done *including* this step:
#   $p = 1 / (T - w - h)$ in its first step, and $p = 1$ in its last, which is therefore at $f$.
#
# $w$ and $h$ may be 0, and $T$ is larger than $w + h$.
#
# **Points.** 2 for warm-up and hold, 2 for the fall.


# %% nbgrader={"schema_version": 3, "grade": false, "grade_id": "schedule_answer", "locked": false, "solution": true, "task": false}
def schedule(step, warmup, hold, steps, final):
    """Return the multiplier of the base learning rate in one step."""
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
# You get the whole curve `values`, one value per evaluation. Return the evaluation that ends the run and the
# best one: `(stop, best)`, two indices from 0.
#
# - With `mode="max"` larger is better, with `"min"` smaller. A NaN is never better than anything.
# - There is a value to beat, at first the first value that isn't NaN. An evaluation is *good* if it is better than the
#   value to beat by more than `min_delta` times the absolute value of the value to beat; then it becomes the value to
#   beat. That first value is good. Every other evaluation is *bad*.
# - Bad evaluations in a row are counted, but only those with an index of at least `start`. When there are `patience`
#   of them, the run ends with that evaluation. A run that is never ended stops at its last evaluation.
# - `best` is the index of the best value up to the stop, however small its lead; if several are equal, the first. If
#   there are only NaNs up to the stop, nothing was better than anything, and `best` is 0. (A curve has at least one value.)
#
# **Points.** 2 for `stop`, 2 for `best`.


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
                break
    return i, 0 if best is None else best  # None: there were only NaNs
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade": true, "grade_id": "stopping_points", "locked": true, "points": 4, "solution": false, "task": false}
# 0.99 beats 1.0 by only one percent: it's the best, but it doesn't count as good. Two bad ones in a row end the run.
assert early_stopping([1.0, 0.99, 0.995, 0.5], 2, 0.05, "min", 0) == (2, 1)
assert early_stopping([1.0, 0.99, 0.995, 0.5], 2, 0.05, "min", 3) == (3, 3)
### BEGIN HIDDEN TESTS
cnnlab.check.grade("early_stopping", early_stopping)
### END HIDDEN TESTS

# %% [markdown]
# ## 4. An experiment
#
# Does your mixup help when a third of the training labels are wrong? The cell below defines `train(seed, alpha)`. It
# draws signs like yours and their wrong labels from the seed, trains with your schedule, with or without your mixup,
# and returns the accuracy on *validation* images with correct labels. `SEED` decides which signs are yours. There is
# no test set: you compare two settings, so you're still choosing.

# %% nbgrader={"schema_version": 3, "grade": false, "grade_id": "experiment", "locked": true, "solution": false, "task": false}
EPOCHS, K = 12, 12


def train(seed, alpha, history=None):
    """Return the validation accuracy of one run; alpha 0 means no mixup.

    The learning rate of each step and the validation loss of each epoch are added to the dict `history`.
    """
    data = cnnlab.load("pocket", seed=1000 * SEED + seed, n_train=960, n_valid=600, n_test=12)
    noisy = cnnlab.data.label_noise(data.train, 0.33, seed)
    torch.manual_seed(seed)
    model = cnnlab.small_resnet(num_classes=K)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    batches = cnnlab.loader(noisy, 64, shuffle=True, seed=seed)
    steps = EPOCHS * len(batches)
    shape = lambda step: schedule(step, steps // 10, steps // 2, steps, 0.0)

    def mix(images, labels):
        lam = torch.distributions.Beta(alpha, alpha).sample((len(images),))
        return mixup(images, labels, K, lam, torch.randperm(len(images)))

    trainer = cnnlab.Trainer(
        model,
        optimizer,
        scheduler=cnnlab.attach(optimizer, shape),
        batch_transform=mix if alpha else None,
        seed=seed,
        progress=False,
    )
    valid = cnnlab.loader(data.valid, 300)
    curves = trainer.fit(batches, valid, epochs=EPOCHS)
    if history is not None:
        history |= {"lr": curves.steps["lr"], "valid_loss": curves.frame()["valid_loss"].tolist()}
    return trainer.evaluate(valid)["acc"]


# %% [markdown]
# Compare at least two settings with `cnnlab.compare` over at least eight seeds (chapter 3 shows how), and print the
# difference with its interval. Two settings and eight seeds take about a minute on one core.

# %% nbgrader={"schema_version": 3, "grade": false, "grade_id": "runs_answer", "locked": false, "solution": true, "task": false}
### BEGIN SOLUTION
results = cnnlab.compare(
    {
        "plain": lambda seed: train(seed, 0.0),
        "mixup": lambda seed: train(seed, 1.0),
    },
    seeds=8,
    metric="valid_acc",
)
print("mixup - plain:", results.difference("mixup", "plain"))
### END SOLUTION

# %% [markdown]
# **Write at most ten sentences.** What did you compare, and what did you keep equal? What is the difference, and does
# its interval allow you to call it an effect? Why might mixup help, or not, with *these* labels? What would you
# measure next if you had ten times the time?
#
# **Points**, one for each of these:
#
# 1. You say what was compared and what was kept equal.
# 2. You quote the mean and the interval as they were printed.
# 3. You draw the conclusion that the interval allows, and no other. "It could be anything from -0.01 to 0.05" earns the
#    point if that's what the interval says.
# 4. You give a reason that has to do with wrong labels.
# 5. You name a next measurement whose result would change your conclusion.
# 6. A fellow student could follow it, and it has at most ten sentences.

# %% [markdown] nbgrader={"schema_version": 3, "grade": true, "grade_id": "report", "locked": false, "points": 6, "solution": true, "task": false}
# ### BEGIN SOLUTION
# For example: "I compared training without mixup and with α = 1, eight seeds each; network, schedule, length, images
# and the wrong labels of a seed were the same. ..." The numbers differ from student to student, and the points are
# those of the list above. Reasons that fit (point 4): a blend is harder to memorise than a single image with its wrong
# label; or, if mixup doesn't help, twelve epochs are too few to memorise wrong labels, so there's little to prevent.
# ### END SOLUTION

# %% [markdown]
# ## 5. Explain your curve
#
# You explain one run of yours, without notes and without a computer, in five minutes of conversation or on one
# handwritten page, as your instructor prefers. Prepare it with `history = {}` and `train(seed, alpha, history)`.
#
# 1. Sketch the learning rate of your run over its steps, with numbers at both axes. (1 point)
# 2. Sketch the validation loss under it, and say what happens in each of the three phases. (1)
# 3. Your instructor changes one thing: no warm-up, no hold, a patience of 1, or no wrong labels. How would the two sketches
#    change, and why? (1)
# 4. Your instructor points at a line of your part 1, 2 or 3. What does it do, and which input would fail without it? (1)
#
# Leave the next cell as it is, unless your instructor asks for a scan or a text.

# %% [markdown] nbgrader={"schema_version": 3, "grade": true, "grade_id": "explain", "locked": false, "points": 4, "solution": true, "task": false}
# ### BEGIN SOLUTION
# Enter the points here after the conversation. 1: the rise ends at step $w$, the fall begins at $w + h$, and the last
# value is 0. 2: agrees with the student's run; the loss usually falls most while the learning rate falls. 3: any
# change that the student can justify from a mechanism; the point is for the reason. 4: names what the line does, and
# an input.
# ### END SOLUTION
