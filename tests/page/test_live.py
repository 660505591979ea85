"""Live, in a real Chromium: bars while streams run, what ends, when it stands still, and when nobody answers."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.browser import Page
from support.pages import RunningPage, well
from support.recorded import CHAT, START_NS, Recording
from support.stack import RunningStack
from support.streams import Backend, ask

pytestmark = pytest.mark.timeout(240)

ROWS = "document.querySelectorAll('.list .rows .row').length"
COUNT = "document.querySelector('.list').getAttribute('aria-rowcount')"
CONNECTION = "document.getElementById('connection').textContent"
STILL = "document.querySelector('.note[role=status]').textContent.includes('stands still')"


class Fresh:
    """A journal of which the page shows the last minutes, and somebody who adds to it."""

    def __init__(self, recording: Recording) -> None:
        self._recording = recording
        self._minute = (time.time_ns() - START_NS) / 60e9 - 2
        self.count = 0

    def add(self, number: int = 1) -> None:
        """So many more, each later than those before."""
        for _ in range(number):
            self.count += 1
            self._recording.add(CHAT, minute=self._minute + self.count / 1000)


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Fresh]:
    """An empty one."""
    with Recording(tmp_path / "data") as recording:
        yield Fresh(recording)


@pytest.fixture
def live(tmp_path: Path, fresh: Fresh, tab: Page) -> Iterator[RunningPage]:
    """Live is open over it, with fifty exchanges."""
    fresh.add(50)
    with RunningPage(tmp_path / "data") as page:
        tab.open(f"{page.url}#/live")
        tab.until(f"{ROWS} > 5")
        yield page


def newest(fresh: Fresh) -> str:
    """Whether the newest stands first."""
    return f"document.querySelector('.list .rows .row .id')?.textContent.endsWith('{fresh.count:012x}')"


# A stack --------------------------------------------------------------------------------------------------------


@pytest.mark.e2e
def test_streams_while_they_run(tab: Page, tmp_path: Path) -> None:
    """A bar for each request, which says whether it waits, streams or is silent; tokens, failures and health of the
    backend beside it; a bar stays under the pointer; what has ended stands in the list."""
    with (
        Backend() as backend,
        RunningStack(tmp_path, "--backend", backend.url, "--envoy-concurrency", "1") as stack,
        RunningPage(stack.data_dir) as page,
    ):
        address = backend.url.removeprefix("http://")
        tab.open(f"{page.url}#/live")
        tab.until("document.body.innerText.includes('Nothing is in flight')")
        failed = [ask(stack, "fail") for _ in range(3)]
        for connection in failed:
            assert connection.read_message().head.status == 500
        tab.until(f"{strip(address)}?.innerText.includes('3 failed')")
        tab.until(f"{strip(address)}.innerText.includes('failed the last 3')")
        running = [ask(stack, query) for query in ("events=0", "events=2", "drip")]
        tab.until(f"{strip('llm')}?.querySelectorAll('.bar.waiting').length === 1")
        tab.until(f"{strip(address)}.querySelectorAll('.bar.streaming').length >= 1")
        tab.until(f"/[1-9][0-9]* tokens.s/.test({strip(address)}.innerText)")
        tab.until(f"{strip(address)}.querySelectorAll('.bar.silent').length === 1")
        assert tab.evaluate("document.querySelector('.bar.silent').innerText").partition("silent for ")[2]
        assert tab.evaluate("document.querySelector('.bar.waiting').innerText").partition("waiting for ")[2]
        tab.point_at(".bar.silent")
        tab.evaluate("globalThis.bar = document.querySelector('.bar.silent'), 0")
        backend.release.set()
        tab.until(f"{ROWS} === 6")
        assert tab.evaluate("globalThis.bar.isConnected")
        tab.point(1, 1)
        tab.until("document.querySelectorAll('.bar').length === 0")
        for connection in (*failed, *running):
            connection.close()
        well(tab, page)
        assert stack.stop() == 0


def strip(name: str) -> str:
    """The strip of a backend."""
    return f"document.querySelector('.strip[aria-label=\"{name}\"]')"


# What moves, and when it does not -------------------------------------------------------------------------------


def test_what_ends_appears_by_itself(tab: Page, fresh: Fresh, live: RunningPage) -> None:
    """The newest exchange stands first as soon as it has ended, with nobody asking."""
    tab.until(newest(fresh))
    fresh.add()
    tab.until(newest(fresh))
    well(tab, live)


@pytest.mark.parametrize("how", ["hovered", "scrolled", "focused", "held"])
def test_it_stands_still_while_somebody_looks(tab: Page, fresh: Fresh, live: RunningPage, how: str) -> None:
    """Nothing moves under the pointer, the keyboard or a scrolled list, which is said; afterwards it goes on."""
    looks, leaves = LOOKS[how]
    looks(tab)
    before = tab.evaluate(COUNT)
    fresh.add()
    tab.until(STILL)
    assert tab.evaluate(COUNT) == before
    leaves(tab)
    tab.until(newest(fresh))
    tab.until(f"!{STILL}")
    well(tab, live)


def _press_pause(tab: Page) -> None:
    tab.evaluate("[...document.querySelectorAll('button')].find((each) => each.textContent === 'Pause').click()")


def _scroll(tab: Page, top: int) -> None:
    tab.evaluate(f"document.querySelector('.list').scrollTop = {top}")
    tab.until(f"document.querySelector('.list').scrollTop === {top}")


LOOKS: dict[str, tuple[Any, Any]] = {
    "hovered": (lambda tab: tab.point_at(".list"), lambda tab: tab.point(1, 1)),
    "scrolled": (lambda tab: _scroll(tab, 300), lambda tab: _scroll(tab, 0)),
    "focused": (
        lambda tab: tab.evaluate("document.querySelector('.list').focus()"),
        lambda tab: tab.evaluate("document.activeElement.blur()"),
    ),
    "held": (_press_pause, _press_pause),
}


def test_the_lost_connection_is_said(tab: Page, tmp_path: Path, fresh: Fresh) -> None:
    """Live says that it stands still because nobody answers, and not because nothing happens; and goes on by itself."""
    fresh.add()
    with RunningPage(tmp_path / "data") as page:
        tab.open(f"{page.url}#/live")
        tab.until(f"{CONNECTION} === 'connected'")
    tab.until(f"{CONNECTION}.includes('lost')")
    assert tab.evaluate("document.querySelector('.strips').matches('.stale')")
    fresh.add()
    with RunningPage(tmp_path / "data", port=page.port):
        tab.until(f"{CONNECTION} === 'connected'")
        tab.until(newest(fresh))
        assert not tab.evaluate("document.querySelector('.strips').matches('.stale')")
