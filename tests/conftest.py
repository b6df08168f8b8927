"""What the tests share."""

from collections.abc import Iterator

import loopback
import pytest


@pytest.fixture
def no_network() -> Iterator[list[str]]:
    """Every test is refused connections that leave this machine; here is the list of those tried."""
    loopback.refused.clear()
    yield loopback.refused
    loopback.refused.clear()
