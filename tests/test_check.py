import math
import random
import re

import numpy as np
import pytest
import torch

from cnnlab import check
from cnnlab.check import EXERCISES, compare, core


MISTAKES = [
    (name, mistake) for name, exercise in EXERCISES.items() for mistake in exercise.mistakes
]
SEEDS = range(0, 600, 3)  # 200 checks of three problems each, without repeating a problem


@pytest.mark.parametrize("name", EXERCISES)
def test_reference_solution_passes_with_every_seed_and_check_is_public(name):
    exercise = EXERCISES[name]
    for seed in SEEDS[:50]:
        assert exercise.judge(exercise.answer, seed).passed
    assert callable(getattr(check, name))


@pytest.fixture(scope="module")
def memories():
    """What the solution and the mistakes of an exercise do, which the next mistake needs too."""
    return {}


@pytest.mark.slow
@pytest.mark.parametrize(("name", "mistake"), MISTAKES)
def test_every_known_mistake_fails_and_is_recognised_with_every_seed(name, mistake, memories):
    exercise = EXERCISES[name]
    if name not in memories:
        memories.clear()  # the results of one exercise fit into memory
    memory = memories.setdefault(name, {})
    for seed in SEEDS:
        outcome = exercise.judge(exercise.mistakes[mistake].attempt, seed, memory=memory)
        assert not outcome.passed
        assert outcome.mistake == mistake, f"seed {seed}: {outcome}"


@pytest.mark.parametrize("name", EXERCISES)
def test_every_exercise_has_at_least_three_mistakes_with_different_feedback(name):
    mistakes = EXERCISES[name].mistakes
    assert len(mistakes) >= 3
    assert len({m.says for m in mistakes.values()}) == len(mistakes)
    assert all(m.says.endswith(".") and m.hint for m in mistakes.values())


@pytest.mark.parametrize("name", EXERCISES)
def test_feedback_is_short_and_the_exercise_has_a_hint_of_its_own(name):
    exercise = EXERCISES[name]
    assert exercise.task.startswith(f"`{name}(")
    assert exercise.hint != core.Exercise.hint
    assert len(exercise.hint) <= 90
    for mistake in exercise.mistakes.values():
        assert len(mistake.says) + len(mistake.hint) <= 200
        assert "correct, but" not in mistake.says, "not true beside a second mistake"


NONSENSE = [
    3,
    "x",
    [],
    {},
    (1, 2),
    torch.zeros(2),
    np.zeros(3),
    True,
    torch.zeros(2).item,
    object(),
]


@pytest.mark.parametrize("name", EXERCISES)
@pytest.mark.parametrize("result", NONSENSE, ids=lambda result: type(result).__name__)
def test_a_result_that_makes_no_sense_gets_one_short_message_that_blames_nobody(name, result):
    outcome = EXERCISES[name].judge(lambda *arguments: result)
    if not outcome.passed and outcome.mistake is None:
        assert len(outcome.says) + len(outcome.hint) <= 200
        assert "raised" not in outcome.says
        assert "\n" not in outcome.says
        assert "can't read" not in outcome.says


@pytest.mark.parametrize("name", EXERCISES)
def test_unfinished_and_failing_functions_get_feedback_instead_of_a_traceback(name, capsys):
    def unfinished(*arguments):
        raise NotImplementedError

    def failing(*arguments):
        return arguments[0].no_such_attribute

    run_check = getattr(check, name)
    run_check(unfinished)
    assert "not written yet" in capsys.readouterr().out
    run_check(failing)
    output = capsys.readouterr().out
    assert "AttributeError" in output
    assert "return arguments[0].no_such_attribute" in output
    run_check(3)
    assert "expected your function, got 3" in capsys.readouterr().out
    run_check(lambda *arguments: None)
    assert "✘" in capsys.readouterr().out


@pytest.mark.parametrize("name", EXERCISES)
def test_a_check_does_not_change_the_global_random_state(name):
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    EXERCISES[name].judge(EXERCISES[name].answer)
    assert torch.equal(torch.rand(2), expected)


# --- wrong answers that once passed ---------------------------------------------------------------


def test_a_list_that_is_reversed_in_place_is_refused():
    def trained_stages(finished, at_epochs):
        at_epochs.reverse()
        return [*(at <= finished for at in at_epochs), True]

    outcome = EXERCISES["trained_stages"].judge(trained_stages)
    assert outcome.says.startswith("you change `at_epochs` in place")


def test_a_split_by_the_global_generator_is_refused():
    def split(n, n_valid, n_test, seed):
        torch.manual_seed(seed)
        order = torch.randperm(n).tolist()
        return order[n_valid + n_test :], order[:n_valid], order[n_valid : n_valid + n_test]

    says = EXERCISES["split"].judge(split).says
    assert "global random generator: make one of your own, such as `torch.Generator()" in says


# --- what a beginner writes first -----------------------------------------------------------------


def test_a_batch_that_is_another_one_is_described_by_its_own_shape():
    other = torch.zeros(1, 3, 427, 640)
    outcome = EXERCISES["to_batch"].judge(lambda pixels: other)
    assert outcome.says.endswith("has shape (1, 3, 427, 640), expected (1, 3, 2, 3).")


def slid(image, kernel, out, product):
    h, w = kernel.shape
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            out[i, j] = product(image[i : i + h, j : j + w], kernel)
    return out


def places(image, kernel):
    return [n - k + 1 for n, k in zip(image.shape, kernel.shape, strict=True)]


def test_a_feature_map_is_expected_to_be_a_tensor_and_its_few_values_are_shown():
    def array(image, kernel):
        return slid(image, kernel, np.zeros(places(image, kernel)), lambda a, b: (a * b).sum())

    def zeros(image, kernel):
        return torch.zeros(places(image, kernel))

    outcome = EXERCISES["convolve"].judge(array)
    assert outcome.says.endswith("is a NumPy array, expected a tensor.")
    assert "torch.from_numpy" in outcome.hint
    assert EXERCISES["convolve"].judge(zeros).says.endswith("is [0, 0], expected [21, 43].")


def test_errors_of_torch_that_say_little_get_a_hint():
    def without_a_sum(image, kernel):
        return slid(image, kernel, torch.zeros(places(image, kernel)), lambda a, b: a * b)

    def as_in_numpy(pixels):
        return pixels.transpose(2, 0, 1)[None] / 255

    outcome = EXERCISES["convolve"].judge(without_a_sum)
    assert "raised RuntimeError: expand(" in outcome.says
    assert "is a sum or a mean missing?" in outcome.hint
    assert "`permute`" in EXERCISES["to_batch"].judge(as_in_numpy).hint


def test_a_warm_up_of_no_steps_is_tried():
    def warmup_cosine(step, warmup, steps):
        up = step / warmup
        return up if up < 1 else EXERCISES["warmup_cosine"].answer(step, warmup, steps)

    outcome = EXERCISES["warmup_cosine"].judge(warmup_cosine)
    assert "ZeroDivisionError" in outcome.says
    assert "step=0, warmup=0" in outcome.says


def doubled_leaks(train, test):
    return [i for i, a in enumerate(test) for b in train if torch.equal(a, b)]


def diverged_at_the_smallest_rate(rates, scores):
    best = max(sorted(zip(rates, scores, strict=True)), key=lambda pair: pair[1])[0]
    low = max((r for r in rates if r < best), default=best / 10)
    return low, min((r for r in rates if r > best), default=best * 10)


def a_diverged_run_counts_as_zero(table):
    means = {}
    for row in table:
        means.setdefault((row["rate"], row["decay"]), []).append(
            0.0 if math.isnan(row["valid_acc"]) else row["valid_acc"]
        )
    return max(means, key=lambda setting: sum(means[setting]) / len(means[setting]))


def slice_from_the_end(n, n_valid, n_test, seed):
    order = torch.randperm(n, generator=torch.Generator().manual_seed(seed)).tolist()
    return order[n_valid : n - n_test], order[:n_valid], order[-n_test:]


@pytest.mark.parametrize(
    ("name", "attempt", "says"),
    [
        ("leaks", doubled_leaks, "you report a test image twice if two training images equal it."),
        (
            "next_range",
            diverged_at_the_smallest_rate,
            "you take a learning rate that diverged, with the score NaN, for the best.",
        ),
        ("best_setting", a_diverged_run_counts_as_zero, "you count a diverged run as an accuracy"),
        ("split", slice_from_the_end, "with n_test=0, your test set isn't empty."),
    ],
)
def test_an_answer_that_is_wrong_on_a_single_input_is_refused(name, attempt, says):
    for seed in SEEDS[:5]:
        assert EXERCISES[name].judge(attempt, seed).says.startswith(says)


def test_an_epoch_may_ask_the_loader_for_the_size_of_its_data_set():
    def train_one_epoch(model, loader, optimizer, loss_fn):
        mean = EXERCISES["train_one_epoch"].answer(model, loader, optimizer, loss_fn)
        return mean * 22 / len(loader.dataset)

    assert EXERCISES["train_one_epoch"].judge(train_one_epoch).passed


def test_freezing_a_parameter_is_not_called_unfreezing():
    def train_frozen(model):
        EXERCISES["train_frozen"].answer(model)
        model.requires_grad_(False)

    assert EXERCISES["train_frozen"].judge(train_frozen).says == (
        "you freeze a parameter that was trained: only set modes."
    )


def test_the_mode_of_the_model_itself_counts():
    def train_frozen(model):
        EXERCISES["train_frozen"].answer(model)
        model.training = False

    assert EXERCISES["train_frozen"].judge(train_frozen).says == (
        "`model` itself is in evaluation mode."
    )


# --- names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("spelling", [str.upper, lambda s: s.replace("normalised", "normalized")])
def test_a_diagnosis_may_be_spelled_in_another_way(spelling):
    answer = EXERCISES["diagnose_case"].answer
    assert EXERCISES["diagnose_case"].judge(lambda vitals: spelling(answer(vitals))).passed


def test_an_unknown_diagnosis_is_named():
    def diagnose(vitals):
        name = EXERCISES["diagnose_case"].answer(vitals)
        return "gremlins" if name == "dead ReLUs" else name

    says = EXERCISES["diagnose_case"].judge(diagnose).says
    assert (
        says == "the set of names that you return contains 'gremlins', which doesn't belong there."
    )


# --- the core, on exercises made for it -----------------------------------------------------------


def mean(values, digits):
    """The reference of the exercise below."""
    return round(sum(values) / len(values), digits)


def observe(attempt, seed):
    seen = []
    result = attempt([1.0, 2.0, 4.5 + seed], 2)
    return {
        "you print something.": bool(seen),
        "your mean of [1, 2, 4.5]": result,
        "your mean of one value": attempt([3.0], 1),
        "your mean of four values": attempt([1.0, 2.0, 3.0, 5.0], 1),
        "your mean of two values": attempt([1.0, 2.0], 1),
    }


MEAN = core.Exercise(
    name="mean",
    observe=observe,
    answer=mean,
    praise="You divide by the number of values.",
    mistakes={
        "not rounded": core.Mistake(
            lambda values, digits: sum(values) / len(values), "you don't round.", "see `round`"
        ),
        "one less": core.Mistake(
            lambda values, digits: round(sum(values) / max(len(values) - 1, 1), digits),
            "you divide by one less than the number of values.",
            "how many values are there?",
        ),
        "sum": core.Mistake(
            lambda values, digits: round(sum(values), digits), "you return the sum.", "divide"
        ),
    },
    hint="work it out by hand",
    task="`mean(values, digits) -> float`",
)


def judged(attempt, exercise=MEAN):
    outcome = exercise.judge(attempt)
    assert not outcome.passed
    assert len(outcome.says) + len(outcome.hint) <= 200
    return outcome


def test_the_most_upstream_fact_is_the_only_one_that_is_said():
    def half(values, digits):
        return None if len(values) == 1 else 1.5

    outcome = judged(half)
    assert outcome.says == "your mean of one value is None, expected a float."
    assert "`return`" in outcome.hint
    outcome = judged(lambda values, digits: torch.tensor(mean(values, digits)))
    assert outcome.says == "your mean of [1, 2, 4.5] is a tensor, expected a float."
    assert ".item()" in outcome.hint
    outcome = judged(lambda values, digits: [1.0] if len(values) == 4 else 0.0)
    assert outcome.says == "your mean of four values is a list of one float, expected a float."
    assert outcome.hint == "the task is `mean(values, digits) -> float`"
    outcome = judged(lambda values, digits: 0.25)
    assert outcome.says == "your mean of [1, 2, 4.5] is 0.25, expected 2.5."
    assert outcome.hint == MEAN.hint
    assert outcome.mistake is None


def test_values_that_look_alike_are_shown_with_more_digits():
    outcome = judged(lambda values, digits: mean(values, digits) + 4e-4)
    assert outcome.says == "your mean of [1, 2, 4.5] is 2.5004, expected 2.5."


def test_numbers_of_numpy_and_whole_floats_count_as_numbers():
    assert MEAN.judge(lambda values, digits: np.float32(mean(values, digits))).passed
    assert judged(lambda values, digits: True).says.endswith("is a bool, expected a float.")


def test_of_two_mistakes_at_once_the_first_known_one_is_named():
    """The unknown second mistake concerns single values only."""

    def two(values, digits):
        return 0.0 if len(values) == 1 else round(sum(values) / (len(values) - 1), digits)

    assert judged(two).mistake == "one less"

    def more_of_the_sum(values, digits):
        return sum(values) if len(values) > 1 else 7.0

    assert judged(more_of_the_sum).mistake == "sum"

    def right_where_the_sum_is_wrong(values, digits):
        return mean(values, digits) if len(values) == 2 else sum(values)

    def the_sum_in_one_fact_of_three(values, digits):
        return sum(values) if len(values) == 3 else 0.0

    for attempt in (right_where_the_sum_is_wrong, the_sum_in_one_fact_of_three):
        assert judged(attempt).mistake is None


def test_a_complaint_is_said_as_it_is_but_only_where_it_holds():
    def observe_flags(attempt, seed):
        result = attempt(1)
        return {
            "you return 3.": result == 3,
            "you return no 2.": result != 2,
            "your result": result,
        }

    exercise = core.Exercise("two", observe_flags, lambda x: 2 * x, "Fine.")
    assert judged(lambda x: 3, exercise).says == "you return 3."
    assert judged(lambda x: 4, exercise).says == "you return no 2."
    backwards = core.Exercise("three", observe_flags, lambda x: 3 * x, "Fine.")
    assert judged(lambda x: 4, backwards).says == "your result is 4, expected 3."


def test_side_effects_on_arguments_are_noticed():
    def sorts(values, digits):
        values.sort(reverse=True)
        return mean(values, digits)

    outcome = judged(sorts)
    assert outcome.says.startswith("you change `values` in place, but it belongs to the caller")


def test_global_random_numbers_are_refused_where_the_caller_gives_a_seed():
    def observe_first(attempt, seed):
        return {"the number": attempt(seed)}

    def first(seed):
        return seed + 1

    exercise = core.Exercise("first", observe_first, first, "Fine.")

    def seeds(seed):
        torch.manual_seed(3)
        return seed + 1

    def draws(seed):
        random.random()
        return seed + 1

    def numpy_draws(seed):
        np.random.rand()  # noqa: NPY002
        return seed + 1

    for attempt in (seeds, draws, numpy_draws):
        assert "global random generator" in judged(attempt, exercise).says
    assert MEAN.judge(lambda values, digits: mean(values, digits) + 0 * random.random()).passed


def test_an_error_is_reported_with_the_arguments_that_can_be_read():
    def failing(model, loader, optimizer, loss_fn):
        return loader.no_such_attribute

    def raising(model, optimizer, loss_fn, images, labels, size):
        raise ValueError("no " * 60)

    says = EXERCISES["train_one_epoch"].judge(failing).says
    assert "AttributeError" in says
    says = EXERCISES["accumulate"].judge(raising).says
    assert "no no ..." in says
    assert "model" not in says
    assert len(says) <= 200


def test_an_error_is_reported_with_the_line_and_the_arguments():
    def failing(values, digits):
        return values.mean()

    outcome = judged(failing)
    assert re.fullmatch(
        r"line \d+, `return values.mean\(\)`, raised AttributeError: 'list' object has no "
        r"attribute 'mean'. It was given values=\[1, 2, 4.5\], digits=2.",
        outcome.says,
    )
    assert judged(lambda values: 1.0).says == (
        "your function takes (values), but the task calls it with (values, digits)."
    )


def test_only_the_own_raise_means_not_written_yet():
    def unwritten(values, digits):
        raise NotImplementedError("soon")

    assert judged(unwritten).says == "not written yet."

    def helper(values, digits):
        return torch.utils.data.Dataset()[0]

    def by_torch(values, digits):
        return torch.nn.Module()(values)

    for attempt in (helper, by_torch):
        outcome = judged(attempt)
        assert "NotImplementedError" in outcome.says
        assert "line" in outcome.says


def test_an_error_of_the_observer_is_not_blamed_on_the_student():
    def pair(values):
        return min(values), max(values)

    def observe_pair(attempt, seed):
        low, high = attempt([1, 2, 3])
        return {"the width of your range": high - low}

    exercise = core.Exercise("pair", observe_pair, pair, "Fine.")
    for attempt, says in {
        lambda values: {"low": 1}: "is a dict, expected a tuple of 2 ints.",
        lambda values: 3: "is an int, expected a tuple of 2 ints.",
        lambda values: ("1", "3"): "is the string '1', expected an int.",
    }.items():
        outcome = judged(attempt, exercise)
        assert outcome.says.endswith(says)
        assert "your result (values=[1, 2, 3])" in outcome.says
    assert "returned None for values=[1, 2, 3]" in judged(lambda values: None, exercise).says


def test_messages_are_wrapped_but_not_inside_code():
    outcome = core.Outcome(
        "f", False, f"{'long ' * 15}`return some(code, with, spaces)` ends.", "x"
    )
    lines = str(outcome).splitlines()
    assert all(len(line) <= 88 for line in lines)
    assert any("`return some(code, with, spaces)`" in line for line in lines)


@pytest.mark.parametrize(
    ("got", "want", "says"),
    [
        (torch.zeros(2, 3), torch.zeros(3, 2), "has shape (2, 3), expected (3, 2)"),
        (torch.zeros(2).double(), torch.zeros(2), "has dtype float64, expected float32"),
        (torch.tensor([1.0, math.nan]), torch.tensor([1.0, math.nan]), None),
        (torch.tensor([1, 3]), torch.tensor([1, 2]), "is [1, 3], expected [1, 2]"),
        (torch.tensor([True]), torch.tensor([False]), "is [True], expected [False]"),
        (torch.eye(3), torch.zeros(3, 3), "at [0, 0] is 1, expected 0"),
        (np.zeros(2), torch.zeros(2), "is a NumPy array, expected a tensor"),
        ([1], [1, 2], "is [1], expected [1, 2]"),
        ([1] * 30, [1] * 31, "has 30 entries, expected 31"),
        (math.inf, 3, "is inf, expected an int"),
        ((1, 2), [1, 2], None),
        ({"a": 1}, {"b": 1}, "has the keys ['a'], expected ['b']"),
        ({"a", "b"}, {"a"}, "contains 'b', which doesn't belong there"),
        (set(), {"a"}, "lacks 1 of 1 entries"),
        (math.nan, math.nan, None),
        (math.inf, math.inf, None),
        (5.0, math.inf, "is 5, expected inf"),
        (0.1 + 0.2, 0.3, None),
        (1, True, "is an int, expected a bool"),
        (1.0, 1, "is a float, expected an int"),
        (1, 1.0, None),
        (np.int64(2), 2, None),
        (torch.Tensor.item, 1.0, "is a function, expected a float"),
        ("high", "low", "is 'high', expected 'low'"),
    ],
)
def test_a_difference_is_said_in_a_few_words(got, want, says):
    found = compare.difference(got, want)
    assert (found.says if found else None) == says


def test_of_a_list_the_entry_with_the_difference_is_said():
    found = compare.difference([torch.zeros(2), torch.zeros(3)], [torch.zeros(2), torch.zeros(4)])
    assert (found.where, found.says) == ("entry 1 of ", "has shape (3,), expected (4,)")
    found = compare.difference([None, 0.5], [0.5, 0.5])
    assert found.level == compare.TYPE
    assert found.hint == "", "it isn't a missing `return`"
    found = compare.difference([0.5] * 30, [0.5] * 29 + [1.0])
    assert (found.where, found.says) == ("entry 29 of ", "is 0.5, expected 1")


def test_summaries_of_values_fit_on_one_line():
    many = [torch.rand(3, 4, 5) for _ in range(10)]
    assert compare.short(many) == "a list of 10 tensors"
    assert compare.short(torch.tensor(2.0)) == "tensor(2)"
    assert compare.short(0.123456789) == "0.1235"
    for value in ({"a": "x" * 500}, many, torch.rand(900), "x" * 900, list(range(99)), print):
        assert len(compare.short(value)) <= 48
