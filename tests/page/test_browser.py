"""The page in a real Chromium: every view, the keyboard, hostile traffic, other pages, and people who cannot see it.

`EXTPROC_TEST_PICTURES=DIR` keeps a picture of each view at three widths, light and dark.
"""

from __future__ import annotations

import base64
import http.server
import json
import os
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.browser import Browser, Page
from support.commands import invoke
from support.journaled import Journaled
from support.pages import RunningPage, well
from support.recorded import Recording
from support.worlds import World

from extproc.page.tokens import Tokens

# A first page may wait for the browser's own start, and for others who test.
pytestmark = pytest.mark.timeout(240)

TOKEN = "0123456789abcdef"
HERE = Path(__file__).parent
AXE = (HERE / "axe" / "axe.min.js").read_text(encoding="utf-8")
DEATH = HERE.parent / "forensics" / "real" / "k_regex_bad_stream"
LEVELS = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]
WIDTHS = (360, 1280, 3840)
PICTURES = os.environ.get("EXTPROC_TEST_PICTURES")
SHOWN = "document.querySelector('main h1') && !document.querySelector('main .waiting')"
PIXEL = base64.b64encode(bytes.fromhex("89504e470d0a1a0a0000000d49484452000000010000000108060000001f15c4890000000d49444154789c6360000002000154a24f5d0000000049454e44ae426082")).decode()  # fmt: skip  # noqa: E501


@pytest.fixture(scope="module")
def death(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningPage]:
    """The page over the journal of a real death."""
    directory = tmp_path_factory.mktemp("death") / "data"
    shutil.copytree(DEATH, directory)
    with RunningPage(directory) as running:
        yield running


def ids(page: RunningPage) -> list[str]:
    """The newest exchanges."""
    return [each["id"] for each in page.get("/exchanges?view=rows&limit=5&q=model=llama-3")["exchanges"]]


def view(page: RunningPage, name: str) -> str:
    """The address of a view."""
    some = ids(page) if name in {"exchange", "compare"} else []
    paths = {"exchange": lambda: f"exchanges/{some[0]}", "compare": lambda: f"compare/{some[0]}/{some[1]}"}
    return f"{page.url}#/{paths[name]() if name in paths else name}"


def axe(tab: Page, rules: list[str]) -> list[Any]:
    """What breaks these rules, or those with these tags."""
    asked = json.dumps({"runOnly": rules, "resultTypes": ["violations"]})
    tab.evaluate(f"globalThis.axe === undefined && (() => {{ {AXE} }})()")
    found = tab.evaluate(f"axe.run(document, {asked}).then((found) => found.violations)")
    return [(each["id"], [node["html"][:200] for node in each["nodes"][:3]]) for each in found]


VIEWS = {
    "live": "document.querySelectorAll('.list .rows .row').length > 3",
    "exchanges": "document.querySelectorAll('.list .rows .row').length > 3 && document.querySelector('aside tbody tr')"
    " && document.querySelector('svg rect')",
    "exchange": "document.querySelectorAll('.message').length >= 2",
    "compare": "document.querySelectorAll('tr.differs').length >= 1",
    "recorder": "document.querySelector('.disk')",
}


@pytest.mark.parametrize("name", [*VIEWS, "incidents", "incident"])
def test_a_view(tab: Page, page: RunningPage, death: RunningPage, name: str) -> None:
    """It shows what it should, at every width and in both colours, to everybody, and asks nobody else for anything."""
    server = death if name.startswith("incident") else page
    tab.send("Page.setBypassCSP", enabled=True)  # for axe alone: the policy itself has its own tests
    if name == "incident":
        (one,) = server.get("/incidents")
        tab.open(f"{server.url}#/incidents/{one['id']}")
        tab.until("document.querySelectorAll('.gantt .suspect').length >= 1")
        assert one["suspects"][0]["exchange"] in tab.evaluate("document.body.innerText")
    else:
        tab.open(view(server, name))
        tab.until(VIEWS.get(name, "document.querySelectorAll('tbody tr').length == 1"))
    for dark in (False, True):
        for width in WIDTHS if PICTURES or not dark else ():
            tab.size(width, 2160 if PICTURES and width == WIDTHS[-1] else 800, dark=dark)
            tab.evaluate("new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")
            assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth"), width
            if PICTURES:
                tab.picture(Path(PICTURES) / f"{name}-{width}-{'dark' if dark else 'light'}.png")
        tab.size(1280, 800, dark=dark)
        assert axe(tab, ["color-contrast"] if dark else LEVELS) == []
    well(tab, server)


def test_the_keyboard(tab: Page, page: RunningPage) -> None:
    """`/` goes to the filters, Enter filters, j and k go through the list, Enter opens."""
    tab.open(f"{page.url}#/exchanges")
    tab.until(VIEWS["exchanges"])
    tab.press("/")
    tab.until("document.activeElement.id === 'search'")
    tab.type("failed")
    tab.press("Enter")
    tab.until("location.hash === '#/exchanges?q=failed'")
    tab.until("document.querySelectorAll('.list .rows .row').length === 3")
    for key in "jjk":
        tab.press(key)
    tab.until("document.querySelector('.row[aria-selected] a') === document.activeElement")
    chosen = tab.evaluate("document.querySelectorAll('.list .rows .row')[0].querySelector('a').hash")
    tab.press("Enter")
    tab.until(f"location.hash === {json.dumps(chosen)}")
    tab.until("document.querySelector('.timeline')")
    well(tab, page)


def test_the_address_holds_the_query(tab: Page, page: RunningPage) -> None:
    """Whoever is sent it sees the same; a mistake in it is said in the words of the command line."""
    tab.open(f"{page.url}#/exchanges?q=failed%20upstream%3D10.0.0.1")
    tab.until("document.querySelectorAll('.list .rows .row').length === 3")
    assert tab.evaluate("document.getElementById('search').value") == "failed upstream=10.0.0.1"
    tab.open(f"{page.url}#/exchanges?q=outcome%3Dnonsense")
    tab.until("document.querySelector('.problem')?.textContent.includes('is no outcome')")


def test_what_is_copied(tab: Page, page: RunningPage, journal: Path) -> None:
    """On the clipboard is the command, what `replay --curl` prints, and a Python program with all of the request."""
    tab.allow_clipboard()
    id = ids(page)[0]
    tab.open(f"{page.url}#/exchanges/{id}")
    tab.until("document.querySelectorAll('.message').length >= 2")

    def copied(button: str, said: str) -> str:
        tab.evaluate(
            f"[...document.querySelectorAll('button')].find((each) => each.textContent === '{button}').click()"
        )
        tab.until(f"document.querySelector('.actions .note').textContent === '{said} copied'")
        return str(tab.evaluate("navigator.clipboard.readText()"))

    assert copied("Copy extproc show", "The command") == f"extproc show {id}"
    assert copied("Copy as curl", "The curl command") == invoke("replay", id, "--curl", "--data-dir", journal).stdout
    (line,) = re.findall(r"body = json.loads\((.*)\)", copied("Copy as Python", "The Python program"))
    assert json.loads(json.loads(line)) == json.loads(page.ask(f"/api/v1/exchanges/{id}/body/request").body)
    well(tab, page)


def test_a_conversation_leads_on(tab: Page, tmp_path: Path) -> None:
    """The page of an exchange leads to what goes on with it, and that back to it."""
    said = [{"role": "user", "content": "Hello"}, {"role": "assistant", "content": "Hi!"}]
    said += [{"role": "user", "content": "More"}]
    with Recording(tmp_path) as recording:
        first, then = (
            recording.add(json.dumps({"model": "m", "messages": each}).encode()) for each in (said[:1], said)
        )
        recording.add(b"", None, method="GET", path="/v1/models")  # the last one is not in the index at once
    assert invoke("index", "--data-dir", tmp_path).exit_code == 0
    with RunningPage(tmp_path) as page:
        tab.open(f"{page.url}#/exchanges/{first}")
        shown = "document.querySelector('section[aria-label=Conversation]')?.innerText.includes"
        tab.until(f"{shown}('it goes on with this one')")
        tab.evaluate("document.querySelector('section[aria-label=Conversation] a').click()")
        tab.until(f"{shown}('this one goes on with it')")
        assert then in tab.evaluate("location.hash")
        well(tab, page)


def test_a_hundred_thousand_rows(tab: Page, page: RunningPage) -> None:
    """Only those that can be seen are in the document, wherever one scrolls to."""
    tab.open(f"{page.url}#/live")
    tab.until(SHOWN)
    tab.evaluate(
        """(async () => {
          const { List } = await import("/list.js");
          const list = new List("Many", [{ title: "n", class: "time", cell: (row) => row }], () => {});
          document.querySelector("main").replaceChildren(list.element);
          list.set(Array.from({ length: 100000 }, (_, number) => `row ${number}`));
        })()"""
    )
    tab.until("document.querySelector('.rows').innerText.includes('row 5')")
    tab.evaluate("document.querySelector('.list').scrollTop = 1e9")
    tab.until("document.querySelector('.rows').innerText.includes('row 99999')")
    assert tab.evaluate("document.querySelectorAll('.rows .row').length") < 150


# Hostile traffic ------------------------------------------------------------------------------------------------

OWN = "globalThis.owned = true"
HOSTILE = [
    f"<script>{OWN}</script>",
    f"<img src=x onerror='{OWN}'>",
    f"<svg onload='{OWN}'><a xlink:href='javascript:{OWN}'>x</a></svg>",
    f"&lt;script&gt;{OWN}&lt;/script&gt;&#60;b&#62;",
    f"</pre></article></main><iframe srcdoc='<script>parent.{OWN}</script>'></iframe>",
    "left \u202e right \u2066 \u200b \u2028 \ufeff end",
    "nul \x00 bell \x07 escape \x1b[31m c1 \x9b",
    "x" * 300_000,
    "\u0301" * 3000 + "\U0001f469\u200d\U0001f469",
    f"javascript:{OWN}",
]


def test_hostile_traffic_changes_nothing(browser: Browser, tmp_path: Path) -> None:
    """Whatever stands in prompts, answers, paths and headers is text in its own box."""
    svg = base64.b64encode(f"<svg xmlns='http://www.w3.org/2000/svg' onload='{OWN}'/>".encode()).decode()
    images = [
        f"data:image/svg+xml;base64,{svg}",
        f"data:image/png;base64,{svg}",
        "data:text/html;base64,PHNjcmlwdD4=",
        "http://evil.test/track.png",
        f"data:image/png;base64,{PIXEL}",
    ]
    parts: list[Any] = [{"type": "text", "text": each} for each in HOSTILE]
    parts += [{"type": "image_url", "image_url": {"url": each}} for each in images]
    body = {
        "model": HOSTILE[1],
        "messages": [
            {"role": HOSTILE[0], "content": parts},
            {"role": "user", "content": "\ud800 alone"},
            None,
            7,
            [[]],
        ],
        HOSTILE[1]: HOSTILE[2],
        "tools": [{"type": "function", "function": {"name": HOSTILE[0], "description": HOSTILE[4]}}],
    }
    answer = {"choices": [{"index": 0, "message": {"role": "assistant", "content": "\n".join(HOSTILE[:7])}}]}
    with Recording(tmp_path / "data", inline_body_bytes=10_000_000) as recording:
        recording.add(
            json.dumps(body).encode(),
            json.dumps(answer).encode(),
            path="/v1/chat/completions?x=<script>",
            headers=[("content-type", "application/json"), ("x-hostile", HOSTILE[1])],
        )
    with RunningPage(tmp_path / "data") as page, browser.page() as tab:
        tab.size(1280, 800)
        for address in ("live", "exchanges", f"exchanges/{page.get('/exchanges?view=rows')['exchanges'][0]['id']}"):
            tab.open(f"{page.url}#/{address}")
            tab.until(SHOWN)
        tab.until("document.querySelectorAll('.message').length >= 6")
        tab.until("[...document.images].every((each) => each.complete)")
        text = tab.evaluate("document.body.innerText")
        assert HOSTILE[0] in text
        assert "left \\u202e right \\u2066 \\u200b" in text
        assert "\\ud800 alone" in text
        assert "\\u001b[31m" in text
        assert tab.evaluate("globalThis.owned") is None
        assert tab.evaluate("document.querySelectorAll('script, iframe, object, embed').length") == 1
        assert tab.evaluate("[...document.images].map((each) => each.naturalWidth)") == [1]
        assert tab.evaluate("document.querySelectorAll('main').length") == 1
        assert tab.evaluate("document.documentElement.scrollWidth <= innerWidth")
        box = "(({ x, y, width }) => [x, y, width])(document.querySelector('header').getBoundingClientRect())"
        tab.evaluate("scrollTo(0, 0)")
        assert tab.evaluate(box) == [0, 0, 1280]
        well(tab, page)


def test_ten_megabytes_and_five_thousand_messages(browser: Browser, tmp_path: Path) -> None:
    """A part of each is shown at once, and the rest when it is asked for."""
    large = json.dumps({"model": "m", "messages": [{"role": "user", "content": "y" * 10_000_000}]}).encode()
    many = json.dumps({"model": "m", "messages": [{"role": "user", "content": f"number {n}"} for n in range(5000)]})
    with Recording(tmp_path / "data") as recording:
        ids = [recording.add(large), recording.add(many.encode())]
    with RunningPage(tmp_path / "data") as page, browser.page() as tab:
        tab.open(f"{page.url}#/exchanges/{ids[0]}")
        tab.until("document.querySelector('.message')?.innerText.includes('9996000 more characters')")
        assert tab.evaluate("document.body.innerText.length") < 100_000
        tab.open(f"{page.url}#/exchanges/{ids[1]}")
        tab.until("document.body.innerText.includes('4900 more messages')")
        assert tab.evaluate("document.querySelectorAll('.message').length") < 150
        well(tab, page)


# Other pages ----------------------------------------------------------------------------------------------------


class _Foreign(http.server.BaseHTTPRequestHandler):
    """A page of somebody else's."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("content-type", "text/html")
        self.end_headers()
        self.wfile.write(b"<!doctype html><title>foreign</title>")

    def log_message(self, *args: object) -> None:
        pass


@pytest.fixture
def foreign() -> Iterator[str]:
    """The address of another page on this machine."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Foreign)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_foreign_page_reads_nothing(tab: Page, page: RunningPage, foreign: str) -> None:
    """Neither by a request, nor by a script, nor in a frame."""
    tab.open(foreign)
    address = json.dumps(f"{page.url}api/v1/about")
    assert tab.evaluate(f"fetch({address}).then(() => 'read', () => 'refused')") == "refused"
    framed = f"""new Promise((done) => {{
      const frame = document.createElement("iframe");
      frame.onload = () => done(frame.contentDocument?.body.innerText ?? "closed");
      frame.src = {json.dumps(page.url)};
      document.body.append(frame);
    }})"""
    assert tab.evaluate(framed) == "closed"
    loaded = f"""new Promise((done) => {{
      const script = document.createElement("script");
      script.onload = () => done("run");
      script.onerror = () => done("refused");
      script.src = {json.dumps(page.url + "words.js")};
      document.body.append(script);
    }})"""
    assert tab.evaluate(loaded) == "refused"


def test_a_name_that_was_led_here_shows_nothing(tab: Page, page: RunningPage) -> None:
    """DNS rebinding: the browser believes that it is on evil.test, and gets no page and no data."""
    tab.open(f"http://evil.test:{page.port}/")
    assert "not served under that name" in tab.evaluate("document.body.innerText")
    asked = "fetch('/api/v1/exchanges').then((answer) => answer.status)"
    assert tab.evaluate(asked) == 421


def test_a_token_is_asked_for(tab: Page, journal: Path) -> None:
    """A wrong one is asked for again; the right one opens the page, and is kept in this tab alone."""
    with RunningPage(journal, tokens=Tokens([("ann", TOKEN)])) as page:
        tab.open(f"{page.url}#/exchanges")
        for text in ("wrong", TOKEN):
            tab.until("document.getElementById('login').open")
            tab.evaluate("document.getElementById('token').focus()")
            tab.type(text)
            tab.press("Enter")
        tab.until(VIEWS["exchanges"])
        assert tab.evaluate("document.cookie + Object.keys(localStorage)") == ""


def test_a_redacted_page_says_so_and_shows_no_text(tab: Page, journal: Path) -> None:
    """Sizes stand where texts would."""
    with RunningPage(journal, redact=True) as page:
        tab.open(view(page, "exchange"))
        tab.until("document.querySelector('.message')")
        text = tab.evaluate("document.body.innerText")
        assert "texts are not shown" in text
        assert "somebody" not in text
        assert " characters>" in text


def test_whether_a_hang_is_over(tab: Page, tmp_path: Path) -> None:
    """The list and the incident say how long it lasted, or that it is not over."""
    world = World()
    world.traffic(0, 30)
    world.streams(26, 60, "client_cancel_mid_stream", last=30)
    Journaled(tmp_path / "lasting", world.flights(), world.bodies).write_until(float("inf"))
    shutil.copytree(DEATH.with_name("h_freeze_then_kill"), tmp_path / "over")
    with RunningPage(tmp_path / "over", tmp_path / "lasting") as server:
        lasts, over = sorted(server.get("/incidents"), key=lambda each: each["ended_at"] is not None)
        tab.open(f"{server.url}#/incidents")
        tab.until("document.querySelectorAll('tbody tr').length == 2")
        cells = tab.evaluate(
            "[...document.querySelectorAll('tbody td:nth-child(2)')].map((each) => each.innerText).sort()"
        )
        assert cells == ["hang for 20.79 s", "hang not over"]
        for each, words in ((lasts, "not over, as far as is known"), (over, "after 20.79 s")):
            tab.open(f"{server.url}#/incidents/{each['id']}")
            tab.until(f"document.querySelector('.verdict')?.innerText.includes({json.dumps(words)})")
        well(tab, server)
