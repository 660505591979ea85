"""Whom the page answers, and what it gives a browser leave to do."""

from __future__ import annotations

import json
import re
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.commands import run
from support.pages import RunningPage

import extproc
from extproc.errors import ConfigError
from extproc.page import tokens
from extproc.page.tokens import Tokens

TOKEN = "0123456789abcdef"
STATIC = Path(extproc.__file__).parent / "page" / "static"
PATHS = ("/", "/app.js", "/page.css", "/api/v1/exchanges", "/api/v1/about", "/nothing")


@pytest.fixture(scope="module")
def guarded(journal: Path) -> Iterator[RunningPage]:
    """The page with a token, on every address."""
    with RunningPage(journal, tokens=Tokens([("ann", TOKEN)]), host="0.0.0.0") as page:
        yield page


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("127.0.0.1:9465", 200),
        ("localhost:9465", 200),
        ("localhost", 200),
        ("[::1]:9465", 200),
        ("evil.test", 421),
        ("evil.test:9465", 421),
        ("127.0.0.1.evil.test", 421),
        ("localhost.evil.test", 421),
        ("192.0.2.1", 421),
        ("127.0.0.1@evil.test", 421),
        ("", 421),
    ],
)
def test_a_name_that_was_led_here_is_told_nothing(page: RunningPage, host: str, status: int) -> None:
    """DNS rebinding: on loopback only loopback's own names are served, on every path."""
    for path in ("/", "/app.js", "/api/v1/about", "/api/v1/exchanges?limit=1"):
        assert page.ask(path, host=host).status == status, path


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"origin": "http://evil.test"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://127.0.0.1:1"}, 403),
        ({"origin": "http://127.0.0.1:9465"}, 200),
        ({"sec_fetch_site": "cross-site"}, 403),
        ({"sec_fetch_site": "same-site"}, 403),
        ({"sec_fetch_site": "same-origin"}, 200),
        ({"sec_fetch_site": "none"}, 200),
        ({"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}, 403),
    ],
)
def test_other_pages_get_nothing(page: RunningPage, headers: dict[str, str], status: int) -> None:
    """A request that a page of another origin sends is refused before anything is read."""
    assert page.ask("/api/v1/exchanges?limit=1", host="127.0.0.1:9465", **headers).status == status


def test_a_link_from_elsewhere_opens_the_page_alone(page: RunningPage) -> None:
    """A link in a chat may lead to the page; nothing else is given for it."""
    from_elsewhere = {"sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}
    assert page.ask("/", **from_elsewhere).status == 200
    assert page.ask("/app.js", **from_elsewhere).status == 403


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_nothing_but_reading(page: RunningPage, method: str) -> None:
    """No method that changes something, and no preflight, is answered."""
    assert page.ask("/api/v1/exchanges", method).status == 405


@pytest.mark.parametrize("path", PATHS)
def test_every_answer_has_the_headers(page: RunningPage, path: str) -> None:
    """Whatever its status: no inline code, no frame, no guessing of types, no cookie."""
    headers = page.ask(path).headers
    policy = dict(each.strip().partition(" ")[::2] for each in headers["content-security-policy"].split(";"))
    assert policy["default-src"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["connect-src"] == "'self'"
    assert policy["frame-ancestors"] == policy["base-uri"] == policy["form-action"] == "'none'"
    assert policy["img-src"] == "'self' blob:"
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert "set-cookie" not in headers
    assert "access-control-allow-origin" not in headers


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        (None, 401),
        ("", 401),
        ("Bearer", 401),
        (f"Bearer {TOKEN}x", 401),
        (f"Bearer {TOKEN[:-1]}", 401),
        (f"Basic {TOKEN}", 401),
        (TOKEN, 401),
        (f"Bearer {TOKEN}", 200),
    ],
)
def test_a_token_is_needed(guarded: RunningPage, authorization: str | None, status: int) -> None:
    """Each path of the API takes it, and gives nothing without."""
    headers = {} if authorization is None else {"authorization": authorization}
    for path in ("/exchanges?limit=1", "/about", "/status", "/openapi.json"):
        answer = guarded.ask(f"/api/v1{path}", **headers)
        assert answer.status == status, path
        if status == 401:
            assert answer.headers["www-authenticate"] == "Bearer"
            assert set(answer.json()) == {"error"}
    if status == 401:
        assert guarded.ask("/api/v1/events", **headers).status == 401
    assert guarded.ask("/").status == 200  # it asks for the token, and holds nothing


def test_reading_a_prompt_is_noted(journal: Path, tmp_path: Path) -> None:
    """Who, what, when, for its owner alone; a list of rows is no prompt, and nobody without a token is noted."""
    (tmp_path / "segments").symlink_to(journal / "segments")
    log = tmp_path / "page" / "access.jsonl"
    with RunningPage(tmp_path, tokens=Tokens([("ann", TOKEN), ("bob", TOKEN[::-1])])) as page:
        ann, bob = {"authorization": f"Bearer {TOKEN}"}, {"authorization": f"Bearer {TOKEN[::-1]}"}
        id = page.get("/exchanges?view=rows&limit=1", **ann)["exchanges"][0]["id"]
        assert page.ask(f"/api/v1/exchanges/{id}").status == 401
        assert not log.exists()
        page.ask(f"/api/v1/exchanges/{id}", **ann)
        page.ask(f"/api/v1/exchanges/{id}/body/request", **bob)
        page.ask("/api/v1/exchanges?limit=1", **bob)
    noted = [json.loads(line) for line in log.read_text().splitlines()]
    assert [(each["who"], each["what"]) for each in noted] == [
        ("ann", f"/api/v1/exchanges/{id}"),
        ("bob", f"/api/v1/exchanges/{id}/body/request"),
        ("bob", "/api/v1/exchanges?limit=1"),
    ]
    assert all(each["at"] and each["from"] == "127.0.0.1" for each in noted)
    assert stat.S_IMODE(log.stat().st_mode) == 0o600


def test_what_cannot_be_noted_is_not_given(journal: Path, tmp_path: Path) -> None:
    """Where the log of readings cannot be written, a named reader gets no prompt."""
    (tmp_path / "segments").symlink_to(journal / "segments")
    (tmp_path / "page").write_text("no directory")
    with RunningPage(tmp_path, tokens=Tokens([("ann", TOKEN)])) as page:
        answer = page.ask("/api/v1/exchanges?limit=1", authorization=f"Bearer {TOKEN}")
    assert answer.status == 500
    assert "exchanges" not in answer.json()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "no token"),
        ("# ann:0123456789abcdef\n", "no token"),
        ("ann:short\n", ":1: expected NAME:TOKEN"),
        ("ann:0123456789abcdef\n0123456789abcdef\n", ":2: expected NAME:TOKEN"),
        ("a n:0123456789abcdef\n", ":1: expected NAME:TOKEN"),
    ],
)
def test_a_token_file_is_checked(tmp_path: Path, text: str, said: str) -> None:
    """File and line of what is wrong are named; the token itself is not."""
    path = tmp_path / "tokens"
    path.write_text(text)
    with pytest.raises(ConfigError, match=re.escape(said)) as caught:
        tokens.load(path)
    assert "0123456789abcdef" not in str(caught.value)


def test_tokens_have_names(tmp_path: Path) -> None:
    """Each line names whoever has the token."""
    path = tmp_path / "tokens"
    path.write_text(f"# people\n\nann:{TOKEN}\nbob@example.test:{TOKEN[::-1]}\n")
    known = tokens.load(path)
    assert known.name_of(f"Bearer {TOKEN[::-1]}") == "bob@example.test"
    assert known.name_of("Bearer ") is None


def test_other_machines_need_a_token(journal: Path) -> None:
    """An address that others reach is refused without a token file, exit 2."""
    done = run("page", "--host", "0.0.0.0", "--port", "0", "--data-dir", journal, cwd=journal.parent)
    assert done.returncode == 2
    assert b"--token-file" in done.stderr


def test_the_front_end_makes_no_markup_of_text() -> None:
    """No file of it knows a way to: texts become text nodes, and nothing is evaluated or loaded from elsewhere."""
    files = [path for path in STATIC.iterdir() if path.suffix in {".js", ".html", ".css"}]
    assert len(files) >= 10
    forbidden = r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|DOMParser|createContextualFragment|\beval\b"
    forbidden += r"|new Function|srcdoc|setHTML|javascript:|https?://(?!www\.w3\.org/)|document\.cookie|@import"
    for path in files:
        assert re.findall(forbidden, path.read_text()) == [], path.name
    assert not re.search(r"<script(?![^>]*\bsrc=)|<style|\sstyle=|\son[a-z]+=", (STATIC / "index.html").read_text())
