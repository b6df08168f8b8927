import re

import pytest
import torch

from cnnlab import clinic
from cnnlab.clinic.cases import MEANINGS
from cnnlab.clinic.faults import FAULTS


SEEDS = (0, 1, 2)


@pytest.fixture(scope="module")
def leak():
    return clinic.example("leak")


def finding_names(case):
    return {finding.name for finding in clinic.examine(case)}


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS)
def test_the_library_finds_at_least_ten_of_the_twelve_faults_by_itself(seed):
    cases = {n: clinic.case(n, seed) for n in range(1, len(clinic.NAMES) + 1)}
    planted = {n: clinic._planted_fault(n, seed) for n in cases}
    assert sorted(planted.values()) == sorted(clinic.NAMES)
    missed = [
        planted[n]
        for n, case in cases.items()
        if not finding_names(case) & set(FAULTS[planted[n]].signs)
    ]
    assert len(missed) <= 2, missed


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(20))
def test_a_healthy_run_learns_and_the_library_finds_nothing_in_it(seed):
    case = clinic.healthy(seed)
    assert clinic.examine(case) == []
    assert case.vitals()["valid_acc"] > 0.8


def test_the_order_of_the_faults_depends_on_the_seed():
    orders = {tuple(clinic._planted_fault(n, seed) for n in range(1, 13)) for seed in range(20)}
    assert len(orders) == 20
    assert all(set(order) == set(clinic.NAMES) for order in orders)


def test_a_case_is_reproducible_and_depends_on_the_seed():
    first, again, other = clinic.case(4, 1), clinic.case(4, 1), clinic.case(4, 2)
    columns = ["train_loss", "valid_loss", "grad_norm_max"]
    assert first.history.frame()[columns].equals(again.history.frame()[columns])
    assert first.vitals() == pytest.approx(again.vitals(), nan_ok=True)
    assert not torch.equal(first.train.images[:20], other.train.images[:20])


@pytest.mark.parametrize("name", clinic.NAMES)
def test_nothing_a_student_reads_before_the_answer_names_the_fault(name):
    seed = 3
    n = next(n for n in range(1, 13) if clinic._planted_fault(n, seed) == name)
    case = clinic.case(n, seed)
    texts = [
        repr(case),
        repr(clinic.diagnose(case, ...)),
        *(plot.alt for plot in (case.curves(), case.steps(), case.pictures(), case.gradients())),
        case.confusion().alt,
        *case.vitals(),
        repr(case.vitals()),
        *(key for key in vars(case) if not key.startswith("_")),
    ]
    assert not any(name in text for text in texts)
    assert 0 <= case.measure(16) <= 1


def test_a_correct_answer_gets_the_evidence_and_a_wrong_answer_a_place_to_look(leak):
    correct = clinic.diagnose(leak, "leak")
    assert correct.right
    assert all(heading in correct.says for heading in ("Evidence", "To confirm", "Cure"))
    assert str(correct).startswith("✔")
    wrong = clinic.diagnose(leak, "rate too low")
    assert wrong.right is False
    assert str(wrong).startswith("✘")
    assert FAULTS["leak"].look in wrong.says
    assert FAULTS["rate too low"].shows in wrong.says
    assert not re.search(r"\bleak\b", wrong.says.removeprefix(leak.title + ":"))
    unanswered = clinic.diagnose(leak, ...)
    assert unanswered.right is None
    assert str(unanswered).startswith("·")


def test_unknown_cases_and_faults_are_refused(leak):
    for n in (0, 13):
        with pytest.raises(ValueError, match=f"no case {n}: the cases are numbered 1 to 12"):
            clinic.case(n)
    with pytest.raises(ValueError, match="no fault called 'gremlins'"):
        clinic.example("gremlins")
    for answer, hint in (("gremlins", "clinic.NAMES"), ("leek", "did you mean 'leak'?"), (3, "3")):
        unknown = clinic.diagnose(leak, answer)
        assert unknown.right is None
        assert f"there is no fault called {answer!r}" in unknown.says
        assert hint in unknown.says


def test_a_name_may_be_typed_in_any_case_and_in_american_spelling(leak):
    assert clinic.diagnose(leak, " Leak").right
    assert clinic.diagnose(leak, "Not normalized").right is False
    assert "not 'not normalised'" in clinic.diagnose(leak, "Not normalized").says
    assert clinic.example("LEAK").title == "leak, seed 0"


def test_the_vital_signs_print_as_a_table_with_units(leak):
    vitals = leak.vitals()
    assert set(vitals) == set(MEANINGS)
    assert vitals["chance"] == dict(vitals)["chance"]
    lines = repr(vitals).splitlines()
    assert len(lines) == len(vitals)
    assert all(len(line) <= 110 for line in lines)
    assert re.match(r"first_loss +\d\.\d+ nats +loss of the model before", lines[1])


@pytest.mark.parametrize("name", clinic.NAMES)
def test_where_to_look_next_does_not_give_the_fault_away(name):
    """It has no word that only the name or the evidence of this fault has."""
    given_away = ("frozen", "softmax", "sum", "copies", "dead", "imbalance", "shuffled", "twice")
    assert not any(word in FAULTS[name].look for word in (*given_away, name))
    assert len(FAULTS[name].look) <= 80


def test_a_healthy_run_has_nothing_to_diagnose_and_leaves_random_numbers_alone():
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    case = clinic.healthy(5)
    clinic.examine(case)
    assert torch.equal(torch.rand(2), expected)
    with pytest.raises(ValueError, match="healthy"):
        clinic.diagnose(case, "leak")


@pytest.mark.parametrize("name", clinic.NAMES)
def test_every_fault_has_all_its_texts_without_a_final_full_stop(name):
    fault = FAULTS[name]
    assert all((fault.look, fault.shows, fault.confirm, fault.cure, fault.signs))
    texts = (fault.look, fault.shows, fault.confirm, fault.cure)
    assert not any(text.endswith(".") for text in texts)


@pytest.mark.slow
def test_exploding_gradients_are_confirmed_by_clipping_with_which_the_same_run_learns():
    from cnnlab.clinic.plans import healthy_plan, run_plan

    for seed in SEEDS:
        accuracies = []
        for limit in (None, 1.0):
            plan = healthy_plan(seed, 1)
            FAULTS["exploding gradients"].plant(plan)
            plan.clip_norm = limit
            last = run_plan(plan, seed).history.epochs[-1:]
            accuracies.append(last[0]["valid_acc"] if last else 0.0)
        assert accuracies[0] < 0.4
        assert accuracies[1] > 0.7


@pytest.mark.slow
def test_a_rate_too_high_is_confirmed_by_a_smaller_rate_with_which_the_same_run_learns():
    from cnnlab.clinic.plans import healthy_plan, run_plan

    for seed in SEEDS:
        losses = []
        for factor in (1, 0.01):
            plan = healthy_plan(seed, 1)
            FAULTS["rate too high"].plant(plan)
            plan.lr *= factor
            losses.append(run_plan(plan, seed).history.epochs[0]["train_loss"])
        assert losses[1] < 1.8 < losses[0]
