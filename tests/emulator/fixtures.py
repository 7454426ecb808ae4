"""Fixtures around the emulator; `tests/conftest.py` names this module in `pytest_plugins`."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.emulator.server import Emulator


@pytest.fixture
def emulator() -> Iterator[Emulator]:
    """Three providers on a free port; fails the test if a script could not be played."""
    with Emulator() as server:
        yield server
    assert server.problems == []
