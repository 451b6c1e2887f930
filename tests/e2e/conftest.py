"""A browser and a service of OpenAI's kind for journeys."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from tests.utils.browser import started
from tests.utils.listener import in_a_thread
from tests.utils.openai_server import OpenAIServer


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """A headless browser with an empty profile."""
    with started() as browser:
        yield browser


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    """A service of OpenAI's kind."""
    server = OpenAIServer()
    with in_a_thread(server):
        yield server
