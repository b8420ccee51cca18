"""No process of a test outlives it."""

from collections.abc import Iterator

import pytest
from processes import Command, Fork


@pytest.fixture(autouse=True)
def _nothing_goes_on() -> Iterator[None]:
    yield
    Command.end_all()
    Fork.end_all()
