"""Apple's GPUs are used only if somebody asks for them, and what they can't do is refused."""

from functools import cache

import pytest
import torch

import cnnlab
from cnnlab.course import doctor
from cnnlab.trainer import best_device
from cnnlab.training import options


@pytest.fixture
def mac(monkeypatch):
    """A machine that has MPS, as far as one can see before anything is computed."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", cache(lambda: True))
    monkeypatch.setattr(options, "as_device", torch.device)


def trainer(**given):
    model = given.pop("model", torch.nn.Linear(3, 2))
    return cnnlab.Trainer(model, torch.optim.SGD(model.parameters(), lr=0.1), **given)


def test_the_cpu_is_chosen_unless_mps_is_asked_for(mac):
    assert best_device() == torch.device("cpu")
    assert trainer().device == torch.device("cpu")
    asked = options.TrainerOptions(
        model := torch.nn.Linear(3, 2), torch.optim.SGD(model.parameters(), lr=0.1), device="mps"
    )
    assert asked.device == torch.device("mps")


def test_the_doctor_says_how_to_ask_for_mps(mac):
    line = next(iter(doctor.machine.device()))
    assert line.found.startswith("CPU")
    assert "only with device='mps'" in line.found


def with_buffer():
    model = torch.nn.Linear(3, 2)
    model.register_buffer("scale", torch.ones(3, dtype=torch.float64))
    return model


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"precision": "fp16"}, "fp16 needs a CUDA device and this one is mps"),
        ({"model": torch.nn.Linear(3, 2).double()}, r"weight is torch\.float64.*model\.float\(\)"),
        ({"model": with_buffer()}, r"scale is torch\.float64"),
    ],
)
def test_what_mps_cannot_do_is_refused(mac, given, message):
    with pytest.raises(ValueError, match=message):
        trainer(device="mps", **given)


def test_several_processes_are_refused_on_mps(mac, monkeypatch):
    monkeypatch.setattr(options.distributed, "launched", lambda: True)
    with pytest.raises(ValueError, match=r"can't train together on MPS.*device='cpu'"):
        trainer(device="mps")
