# ---
# jupyter:
#   kernelspec:
#     display_name: Python 3 (ipykernel)
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Assignment: five patients
#
# Five training scripts run, look right and are silently wrong. You repair them, name the causes, and explain one case
# so that a colleague believes you. The assignment goes with chapter 7. We estimate two hours for parts 1 to 5, and an
# hour for part 6.
#
# | part | points | who grades it |
# |---|---|---|
# | 1. the first patient | 3 | the grader, on seeds that you don't know |
# | 2. the second patient | 3 | the grader |
# | 3. the third patient | 3 | the grader |
# | 4. the fourth patient | 3 | the grader |
# | 5. the fifth patient | 3 | the grader |
# | 6. a case report | 10 | your instructor reads it |
#
# **How it is graded.** Each patient earns two points for the repair and one for the cause, independently of each
# other. The grader runs your script beside a healthy one and compares what they do: the accuracy on images that the
# script never sees, the accuracy it reports, and the number of training steps. So every repair that works is accepted,
# and nothing that only hides the symptom. A script may neither read nor write files, nor go online, nor start
# processes. Your script and the healthy one have three minutes of processor time together, and healthy ones need about
# ten seconds.
#
# **What is allowed.** `emergency.discharge` judges your repair before you hand it in, and you may use it as often as
# you like. It also says whether the cause you name is right, so you could try all causes in turn. `emergency.ward()`
# counts the wrong ones. The grader doesn't see that count, but part 6 asks which measurement ruled a cause out, and a
# guess isn't a measurement. The library is open source, and the key to the patients is in it. If you copy it, you earn
# the points of parts 1 to 5, and have nothing to write in part 6, which is worth two thirds as much: it asks for *your*
# measurements.

# %% [markdown]
# RULES

# %% nbgrader={"schema_version": 3, "grade": false, "grade_id": "setup", "locked": true, "solution": false, "task": false}

from cnnlab import check, emergency
from cnnlab.emergency.records import drawn


SEED = 0
PATIENTS = drawn(SEED, 5)

# %% [markdown]
# ## Your patients
#
# `SEED` decides which five they are. The next cell writes their scripts to the folder `emergency`. Run them, read
# them, change them, and ask `emergency.discharge(n, cause="...")` what your repair is worth.

# %% nbgrader={"schema_version": 3, "grade": false, "grade_id": "admit", "locked": true, "solution": false, "task": false}
for n in PATIENTS:
    print(emergency.patient(n))
    emergency.admit(n)

# %% [markdown]
# Each of the next five cells returns a repaired script and its cause. Paste the script between the quotation marks:
#
# ```python
# def patient_1():
#     """Return the repaired script and its cause."""
#     script = r'''
# ... your script ...
# '''
#     return script, "one of emergency.CAUSES"
# ```

# %% [markdown]
# ## 1. The first patient


# %% nbgrader={"schema_version": 3, "grade": false, "grade_id": "patient_1_answer", "locked": false, "solution": true, "task": false}
def patient_1():
    """Return the repaired script and its cause."""
    ### BEGIN SOLUTION
    from cnnlab.emergency.records import healthy_script, record

    n = PATIENTS[0]
    return healthy_script(n), record(n).cause
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade": true, "grade_id": "patient_1_points", "locked": true, "points": 3, "solution": false, "task": false}
script, cause = patient_1()
compile(script, "the first patient", "exec")
assert cause in emergency.CAUSES
### BEGIN HIDDEN TESTS
check.grade("patient_1", patient_1, points=3)
### END HIDDEN TESTS

# %% [markdown]
# ## 2. The second patient


# %% nbgrader={"schema_version": 3, "grade": false, "grade_id": "patient_2_answer", "locked": false, "solution": true, "task": false}
def patient_2():
    """Return the repaired script and its cause."""
    ### BEGIN SOLUTION
    from cnnlab.emergency.records import healthy_script, record

    n = PATIENTS[1]
    return healthy_script(n), record(n).cause
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade": true, "grade_id": "patient_2_points", "locked": true, "points": 3, "solution": false, "task": false}
script, cause = patient_2()
compile(script, "the second patient", "exec")
assert cause in emergency.CAUSES
### BEGIN HIDDEN TESTS
check.grade("patient_2", patient_2, points=3)
### END HIDDEN TESTS

# %% [markdown]
# ## 3. The third patient


# %% nbgrader={"schema_version": 3, "grade": false, "grade_id": "patient_3_answer", "locked": false, "solution": true, "task": false}
def patient_3():
    """Return the repaired script and its cause."""
    ### BEGIN SOLUTION
    from cnnlab.emergency.records import healthy_script, record

    n = PATIENTS[2]
    return healthy_script(n), record(n).cause
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade": true, "grade_id": "patient_3_points", "locked": true, "points": 3, "solution": false, "task": false}
script, cause = patient_3()
compile(script, "the third patient", "exec")
assert cause in emergency.CAUSES
### BEGIN HIDDEN TESTS
check.grade("patient_3", patient_3, points=3)
### END HIDDEN TESTS

# %% [markdown]
# ## 4. The fourth patient


# %% nbgrader={"schema_version": 3, "grade": false, "grade_id": "patient_4_answer", "locked": false, "solution": true, "task": false}
def patient_4():
    """Return the repaired script and its cause."""
    ### BEGIN SOLUTION
    from cnnlab.emergency.records import healthy_script, record

    n = PATIENTS[3]
    return healthy_script(n), record(n).cause
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade": true, "grade_id": "patient_4_points", "locked": true, "points": 3, "solution": false, "task": false}
script, cause = patient_4()
compile(script, "the fourth patient", "exec")
assert cause in emergency.CAUSES
### BEGIN HIDDEN TESTS
check.grade("patient_4", patient_4, points=3)
### END HIDDEN TESTS

# %% [markdown]
# ## 5. The fifth patient


# %% nbgrader={"schema_version": 3, "grade": false, "grade_id": "patient_5_answer", "locked": false, "solution": true, "task": false}
def patient_5():
    """Return the repaired script and its cause."""
    ### BEGIN SOLUTION
    from cnnlab.emergency.records import healthy_script, record

    n = PATIENTS[4]
    return healthy_script(n), record(n).cause
    ### END SOLUTION


# %% nbgrader={"schema_version": 3, "grade": true, "grade_id": "patient_5_points", "locked": true, "points": 3, "solution": false, "task": false}
script, cause = patient_5()
compile(script, "the fifth patient", "exec")
assert cause in emergency.CAUSES
### BEGIN HIDDEN TESTS
check.grade("patient_5", patient_5, points=3)
### END HIDDEN TESTS

# %% [markdown]
# ## 6. A case report
#
# Choose the patient whose repair taught you most. Show, in the next cell, the measurement that convinced you: numbers
# or a figure, of the script before and after your repair, over at least three seeds.

# %% nbgrader={"schema_version": 3, "grade": false, "grade_id": "evidence_answer", "locked": false, "solution": true, "task": false}
### BEGIN SOLUTION
import runpy
from pathlib import Path


n = PATIENTS[0]
scripts = {"before": emergency.patient(n).script, "after": patient_1()[0]}
for name, script in scripts.items():
    path = Path("emergency", f"{name}.py")
    path.write_text(script)
    train = runpy.run_path(path)["train"]
    print(name, [round(train(seed)[1], 3) for seed in range(3)])
### END SOLUTION

# %% [markdown]
# **Write at most twenty sentences**, for a colleague who has never met this bug:
#
# 1. What did the owner see, in numbers? (1 point)
# 2. Which two causes did you suspect first, and which measurement ruled one of them out? (3)
# 3. Which lines are wrong, and why does Python or PyTorch not complain? (2)
# 4. Name a change that makes the symptom smaller without curing it. Did you try it, and what did you measure? (2)
# 5. Which check of one or two lines, in the script or in its tests, would have caught the bug on the first day? (2)

# %% [markdown] nbgrader={"schema_version": 3, "grade": true, "grade_id": "report", "locked": false, "points": 10, "solution": true, "task": false}
# ### BEGIN SOLUTION
# The patients differ from seed to seed, so this is how to give the points.
#
# **1 (1 point).** A number before and after, with the seeds it was measured on. **2 (3).** One point for two causes
# that fit the complaint; one for a measurement that tells them apart (the same number would be expected under both
# causes otherwise); one for its result. "I read the code and saw it" earns one of the three, because the report should
# convince someone who doesn't see it. **3 (2).** The right lines, and why the operation is legal: shapes broadcast, a
# gradient is a buffer that is added to, a mode is a flag that nobody checks. **4 (2).** A change that was run, with
# its number beside that of the repair. Without a number: one point. **5 (2).** A check that fails on the sick script
# and passes on the healthy one: an assertion on shapes, a gradient norm, two predictions of the same image, one batch
# that must be learnt. "Better code review" earns nothing.
# ### END SOLUTION
