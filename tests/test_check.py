import re

import pytest
import torch

from cnnlab import check
from cnnlab.check import EXERCISES
from cnnlab.check.core import _summarise as summarise


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


@pytest.mark.slow
@pytest.mark.parametrize(("name", "mistake"), MISTAKES)
def test_every_known_mistake_fails_and_is_recognised_with_every_seed(name, mistake):
    exercise = EXERCISES[name]
    for seed in SEEDS:
        outcome = exercise.judge(exercise.mistakes[mistake].attempt, seed)
        assert not outcome.passed
        assert outcome.mistake == mistake, f"seed {seed}: {outcome}"


@pytest.mark.parametrize("name", EXERCISES)
def test_every_exercise_has_at_least_three_mistakes_with_different_feedback(name):
    mistakes = EXERCISES[name].mistakes
    assert len(mistakes) >= 3
    assert len({m.says for m in mistakes.values()}) == len(mistakes)
    assert all(m.says.endswith(".") and m.hint for m in mistakes.values())


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


def test_unknown_mistakes_are_reported_as_value_and_expected_value():
    outcome = EXERCISES["evaluate"].judge(
        lambda model, loader: EXERCISES["evaluate"].answer(model, loader) / 2
    )
    assert outcome.mistake is None
    assert re.fullmatch(r"the accuracy you return is 0\.\d+, expected 0\.\d+\.", outcome.says)
    outcome = EXERCISES["random_flip"].judge(lambda *arguments: None)
    assert outcome.says == "result shaped like `images` is False, expected True."
    outcome = EXERCISES["evaluate"].judge(lambda model, loader: -1.0)
    first, *differences = outcome.says.splitlines()
    assert first == "your function doesn't behave as expected."
    assert differences[0].startswith("  - `model.training` during the evaluation is 'unknown, ")
    assert differences[0].endswith("never called', expected False")
    assert len(differences) == 3


def test_summaries_of_values_fit_on_one_line():
    many = [torch.rand(3, 4, 5) for _ in range(10)]
    assert summarise(many).startswith(
        "a list of 10, the first of them a tensor of shape (3, 4, 5), beginning with "
    )
    assert summarise(torch.tensor(2.0)) == "a tensor of shape (), 2"
    assert summarise(torch.zeros(0, 3)).endswith("empty")
    assert summarise(0.123456789) == "0.1235"
    assert all(len(summarise(value)) < 160 for value in ({"a": "x" * 500}, many, torch.rand(900)))
