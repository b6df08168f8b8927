import pytest
import torch

from cnnlab import check
from cnnlab.check import EXERCISES


WRONG = [(name, wrong) for name, exercise in EXERCISES.items() for wrong in exercise.mistakes]
SEEDS = range(0, 600, 3)  # 200 checks of three problems each, none of them drawn twice


@pytest.mark.parametrize("name", EXERCISES)
def test_the_right_answer_passes_under_every_seed_and_is_offered_as_a_function(name):
    exercise = EXERCISES[name]
    for seed in SEEDS[:50]:
        assert exercise.judge(exercise.answer, seed).passed
    assert callable(getattr(check, name))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "wrong"), WRONG)
def test_a_wrong_answer_never_passes_and_is_named_under_every_seed(name, wrong):
    exercise = EXERCISES[name]
    for seed in SEEDS:
        outcome = exercise.judge(exercise.mistakes[wrong].attempt, seed)
        assert not outcome.passed
        assert outcome.mistake == wrong, f"seed {seed}: {outcome}"


@pytest.mark.parametrize("name", EXERCISES)
def test_every_exercise_has_three_named_mistakes_that_are_told_apart(name):
    mistakes = EXERCISES[name].mistakes
    assert len(mistakes) >= 3
    assert len({m.says for m in mistakes.values()}) == len(mistakes)
    assert all(m.says.endswith(".") and m.hint for m in mistakes.values())


@pytest.mark.parametrize("name", EXERCISES)
def test_what_is_not_written_or_raises_is_told_and_never_escapes(name, capsys):
    def empty(*arguments):
        raise NotImplementedError

    def broken(*arguments):
        return arguments[0].no_such_attribute

    public = getattr(check, name)
    public(empty)
    assert "not written yet" in capsys.readouterr().out
    public(broken)
    said = capsys.readouterr().out
    assert "AttributeError" in said
    assert "return arguments[0].no_such_attribute" in said
    public(3)
    assert "expected your function" in capsys.readouterr().out
    public(lambda *arguments: None)
    assert "✘" in capsys.readouterr().out


@pytest.mark.parametrize("name", EXERCISES)
def test_a_check_leaves_the_random_numbers_of_the_student_alone(name):
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    EXERCISES[name].judge(EXERCISES[name].answer)
    assert torch.equal(torch.rand(2), expected)


def test_what_is_shown_of_a_wrong_value_fits_on_a_line():
    from cnnlab.check.core import _short

    many = [torch.rand(3, 4, 5) for _ in range(10)]
    assert _short(many).startswith(
        "a list of 10, the first of them a tensor of shape (3, 4, 5), begi"
    )
    assert _short(torch.tensor(2.0)) == "a tensor of shape (), 2"
    assert _short(torch.zeros(0, 3)).endswith("empty")
    assert _short(0.123456789) == "0.1235"
    assert all(len(_short(value)) < 160 for value in ({"a": "x" * 500}, many, torch.rand(900)))
