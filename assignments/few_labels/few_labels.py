# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Assignment: few labels, and a choice to defend
#
# You have ten labelled traffic signs a class, six hundred without labels, and a network that was trained on printed
# letters. You teach it the signs, compare strategies, choose one, and defend the choice. It goes with chapters 9 and
# 10 and takes about three hours.
#
# | part | points | who grades it |
# |---|---|---|
# | 1. learn from few labels | 6 | the grader, on signs that you have not seen |
# | 2. choose by numbers | 4 | the grader |
# | 3. defend your choice | 6 | your instructor reads it |
#
# **How it is graded.** The grader runs the set-up cell and then the one cell that defines your function, alone, in a
# fresh process. So put all your function needs into its cell, helpers and imports included. Do not rename or delete
# cells. Your function may neither read nor write files nor use the network. It has two minutes of one core, for part
# 1 that is two minutes for three sets of signs.

# %% nbgrader={"schema_version": 3, "grade": false, "grade_id": "setup", "locked": true, "solution": false, "task": false}
import math

import torch
import torch.nn.functional as F

import cnnlab
from cnnlab import schedules, transfer
from cnnlab.data import imbalance


SEED = 0

# %% [markdown]
# ## Your signs
#
# `SEED` decides which ones they are: another seed, other signs.

# %% nbgrader={"schema_version": 3, "grade": false, "grade_id": "data", "locked": true, "solution": false, "task": false}
data = cnnlab.load("pocket", seed=SEED, n_train=480, n_test=600)
few = imbalance(data.train, [10] * len(data.classes), SEED)
[(images, labels)] = cnnlab.loader(few, 600)
[(unlabelled, hidden)] = cnnlab.loader(data.test, 600)
print(images.shape, labels.shape, unlabelled.shape)

# %% [markdown]
# ## 1. Learn from few labels
#
# Write a function that gets the labelled images (N, 3, 32, 32), float in [0, 1], their labels (N,), and M unlabelled
# images, and returns a class for each of those: (M,), whole numbers. How you do it is up to you: features and a linear
# classifier, top layers, everything; augmentation, mixing, a schedule; the unlabelled images may help, too. The
# network `cnnlab.pretrained("glyphnet", num_classes)` comes with the library, and so does everything else you have
# seen in the course.
#
# The grader draws three new sets of signs and compares your accuracy with that of a logistic regression on glyphnet's
# features. You get the full six points for being better by 0.07 on average, none for being worse by 0.05, and a share
# in between.


# %% nbgrader={"schema_version": 3, "grade": false, "grade_id": "learn_answer", "locked": false, "solution": true, "task": false}
def learn(images, labels, unlabelled):
    """Return a class for each unlabelled image, (M,)."""
    ### BEGIN SOLUTION
    steps, num_classes = 100, int(labels.max()) + 1
    torch.manual_seed(0)
    model = cnnlab.pretrained("glyphnet", num_classes)
    optimizer = torch.optim.AdamW(transfer.param_groups(model, 0.01, 0.01))
    scheduler = cnnlab.attach(optimizer, schedules.cosine(steps))
    model.train()
    for step in range(steps):
        if step % math.ceil(len(labels) / 32) == 0:
            batches = iter(torch.randperm(len(labels)).split(32))
        batch = next(batches)
        optimizer.zero_grad()
        F.cross_entropy(model(images[batch]), labels[batch]).backward()
        optimizer.step()
        scheduler.step()
    model.eval()
    with torch.inference_mode():
        return model(unlabelled).argmax(dim=1)
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade": true, "grade_id": "learn_points", "locked": true, "points": 6, "solution": false, "task": false}
answers = learn(images, labels, unlabelled)
assert answers.shape == hidden.shape
assert not answers.is_floating_point()
print(f"accuracy on your signs: {(answers == hidden).float().mean():.3f}")
### BEGIN HIDDEN TESTS
cnnlab.check.grade("learn", learn)
### END HIDDEN TESTS

# %% [markdown]
# ## 2. Choose by numbers
#
# Somebody hands you a table: for each strategy its accuracy on five seeds, `{"probe": [0.61, 0.64, ...], ...}` (the
# first number of each belongs to the first seed, and so on), and what it costs, `{"probe": 1.0, ...}` in seconds.
#
# Return the name of the strategy to defend: **the cheapest of those that lose less than 0.02 of accuracy to the one with
# the best mean.** That a strategy loses less than the margin of 0.02 must be shown: the whole 95 % interval of its loss
# lies below 0.02. The loss is the accuracy of the best strategy minus its own, seed by seed, and the interval is mean
# ± $t\,s/\sqrt{n}$, with $s$ the standard deviation of the $n$ losses and $t$ the 97.5 % quantile of Student's
# distribution with $n-1$ degrees of freedom. Your tables have $n = 5$, so $t = 2.776$.
#
# Why a margin? A strategy whose results are noisy has a wide interval, so it's never *clearly worse* than the best one.
# That doesn't make it as good. (And before you believe such an interval, remember that the best strategy was picked
# from the same runs.)


# %% nbgrader={"schema_version": 3, "grade": false, "grade_id": "choose_answer", "locked": false, "solution": true, "task": false}
def choose(scores, seconds):
    """Return the name of the cheapest strategy that loses less than 0.02 to the best."""
    ### BEGIN SOLUTION
    best = max(scores, key=lambda name: sum(scores[name]))

    def good_enough(name):
        losses = torch.tensor(scores[best]) - torch.tensor(scores[name])
        half = 2.776 * losses.std() / math.sqrt(len(losses))
        return (losses.mean() + half).item() < 0.02

    return min(filter(good_enough, scores), key=seconds.get)
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade": true, "grade_id": "choose_points", "locked": true, "points": 4, "solution": false, "task": false}
table = {
    "probe": [0.60, 0.61, 0.59, 0.60, 0.60],
    "noisy": [0.78, 0.60, 0.74, 0.62, 0.70],
    "top layers": [0.70, 0.67, 0.70, 0.68, 0.69],
    "everything": [0.70, 0.67, 0.70, 0.69, 0.70],
}
seconds = {"probe": 1, "noisy": 2, "top layers": 5, "everything": 20}
assert choose(table, seconds) == "top layers"
### BEGIN HIDDEN TESTS
cnnlab.check.grade("choose", choose)
### END HIDDEN TESTS

# %% [markdown]
# ## 3. Defend your choice
#
# Compare at least three strategies on your signs, over at least five seeds, and show the table. One of them is what
# you handed in above.


# %% nbgrader={"schema_version": 3, "grade": false, "grade_id": "runs_answer", "locked": false, "solution": true, "task": false}
### BEGIN SOLUTION
def probe(seed):
    """Return the accuracy of a logistic regression on frozen features."""
    few = imbalance(data.train, [10] * len(data.classes), seed)
    model = cnnlab.pretrained("glyphnet", len(data.classes))
    train = transfer.extract_features(model, cnnlab.loader(few, 600))
    test = transfer.extract_features(model, cnnlab.loader(data.test, 600))
    return transfer.linear_probe(train, test)


def everything(seed):
    """Return the accuracy of what was handed in."""
    few = imbalance(data.train, [10] * len(data.classes), seed)
    [(images, labels)] = cnnlab.loader(few, 600)
    right = learn(images, labels, unlabelled) == hidden
    return right.float().mean().item()


results = cnnlab.compare({"probe": probe, "everything": everything}, seeds=5, metric="test_acc")
print(results.table())
print(results.difference("everything", "probe"))
### END SOLUTION

# %% [markdown]
# **Write, in at most ten sentences:** Which strategy would you defend, at which accuracy with which interval? What does
# the rule of the 2 × 2 table (chapter 10) say for ten images of a task that is unlike the old one, and do your runs
# agree with it? What could make your choice wrong next week? Which of your decisions were made looking at the test
# signs, and what follows from that?

# %% [markdown] nbgrader={"schema_version": 3, "grade": true, "grade_id": "defence", "locked": false, "points": 6, "solution": true, "task": false}
# ### BEGIN SOLUTION
# For example: "I defend training everything for a hundred steps. ..." The numbers differ from student to student.
#
# **Points.** One each: (1) names a strategy with mean and interval; (2) the table carries it: the interval of the difference
# is on the right side, or the text says that it is not; (3) quotes the rule rightly (few and different: do not move
# much) and says whether the runs agree; (4) names a risk that is one (other fonts, other light, fewer labels, another
# cost of time); (5) says which decisions saw the test signs, and that the accuracy is optimistic for that reason; (6) is
# clear and within ten sentences.
# ### END SOLUTION
