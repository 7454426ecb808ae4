"""A chat server for each test."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.chat_server import ChatServer, running, settings_for
from tests.emulator import Emulator


@pytest.fixture
async def server(database_url: str, api_database_url: str, emulator: Emulator) -> AsyncIterator[ChatServer]:
    """With keys for all three providers; titles are off, so that a turn is one model request."""
    async with running(settings_for(api_database_url, emulator), database_url) as chat_server:
        await chat_server.rows(
            'update admin_config set config_data = config_data || \'{"titles": {"enabled": false}}\' '
            "where config_key = 'app_settings'"
        )
        yield chat_server
