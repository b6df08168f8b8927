"""Fixtures for all tests."""

from collections.abc import Iterator

import loopback
import pytest

from cnnlab.course.profile import apply_profile
from cnnlab.limits import limits


@pytest.fixture
def no_network() -> Iterator[list[str]]:
    """The list of refused connections; no test may leave this machine."""
    loopback.refused.clear()
    yield loopback.refused
    loopback.refused.clear()


@pytest.fixture
def smoke(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Work under the limits of the smoke profile."""
    monkeypatch.setenv("CNNLAB_PROFILE", "smoke")
    apply_profile()
    yield
    limits.reset()
