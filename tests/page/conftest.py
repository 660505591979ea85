"""A journal with exchanges of many kinds, and the page over it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.browser import Browser, Page
from support.pages import RunningPage
from support.recorded import CHAT, Recording

from extproc.history.index.indexer import Indexer
from extproc.incidents.indexed import Bodies

SECRET = "the prompt of somebody"


def indexed(directory: Path) -> None:
    """Make the index of a journal, as the follower does."""
    indexer = Indexer(directory, reader=Bodies())
    while indexer.step():
        pass
    indexer.commit(now=True)
    indexer.close()


@pytest.fixture(scope="session")
def journal(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty exchanges, some of them failed, one with a prompt that is a secret, and its index."""
    path = tmp_path_factory.mktemp("page") / "data"
    with Recording(path) as recording:
        for number in range(27):
            recording.add(status=503 if number % 9 == 4 else 200, upstream=f"10.0.0.{number % 3}:8000")
        recording.add(CHAT.replace(b'"hi"', f'"{SECRET}"'.encode()))
        recording.add(b'{"model":"other","prompt":"Once","top_k":7}', path="/v1/completions?user=jo")
        recording.add(b"", None, method="GET", path="/v1/models")
    indexed(path)
    return path


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """A Chromium; each page of it has a context of its own."""
    with Browser() as running:
        yield running


@pytest.fixture
def tab(browser: Browser) -> Iterator[Page]:
    """A tab of its own, of a common size."""
    with browser.page() as opened:
        opened.size(1280, 800)
        yield opened


@pytest.fixture(scope="session")
def page(journal: Path) -> Iterator[RunningPage]:
    """The page over it, on loopback, without a token."""
    with RunningPage(journal) as running:
        yield running
