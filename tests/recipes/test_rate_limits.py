"""envoy/examples/rate-limits: a bucket for each API key, one for those who have none, one for each route."""

from __future__ import annotations

import re
import textwrap
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.commands import run
from support.exchanges import present
from support.raw import Connection, Head, RawBackend
from support.recipes import CHAT, EXAMPLES, Answer, Client, Recipe
from support.stack import eventually

from extproc.envoy.config import files

ROUTE = 40
KEY = 5
NO_KEY = 2
EMBEDDINGS = 3


def small(_: str, text: str) -> str:
    """The recipe with buckets that a test can empty, and that nothing fills again."""
    changes = {
        "{max_tokens: 200, tokens_per_fill: 100, fill_interval: 1s}\n\n": EMBEDDINGS,
        "{max_tokens: 200, tokens_per_fill: 100, fill_interval: 1s}\n": ROUTE,
        "{max_tokens: 60, tokens_per_fill: 60, fill_interval: 60s}\n": KEY,
        "{max_tokens: 20, tokens_per_fill: 20, fill_interval: 60s}\n": NO_KEY,
    }
    for old, tokens in changes.items():
        assert text.count(old) == 1, old
        text = text.replace(old, f"{{max_tokens: {tokens}, tokens_per_fill: 1, fill_interval: 86400s}}\n")
    return text


class Backend(RawBackend):
    """A backend that answers everything, and keeps the heads of what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.heads: list[Head] = []
        self.otherwise = self._script

    def _script(self, connection: Connection, head: Head) -> None:
        connection.finish(head)
        self.heads.append(head)
        connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok")


@pytest.fixture
def backend() -> Iterator[Backend]:
    """The backend behind `recipe`."""
    with Backend() as backend:
        yield backend
        assert backend.errors == []


@pytest.fixture
def recipe(tmp_path: Path, backend: Backend) -> Iterator[Recipe]:
    """The recipe with full buckets."""
    with Recipe("rate-limits", tmp_path, "--backend", backend.url, edit=small) as running:
        yield running
        assert running.stop() == 0
        assert running.findings() == []


def ask(recipe: Recipe, number: int, **headers: str) -> list[int]:
    """The statuses of so many requests, each on a connection of its own: Envoy's two threads both get some."""
    return [recipe.client().chat(**headers).status for _ in range(number)]


def test_each_key_has_a_bucket(recipe: Recipe) -> None:
    """One caller's requests take nothing from another's, and those without a key share one bucket."""
    assert ask(recipe, KEY + 2, authorization="Bearer sk-first") == [200] * KEY + [429] * 2
    assert ask(recipe, KEY + 2, authorization="Bearer sk-second") == [200] * KEY + [429] * 2
    assert ask(recipe, KEY + 2, x_api_key="sk-third") == [200] * KEY + [429] * 2
    assert ask(recipe, NO_KEY + 2) == [200] * NO_KEY + [429] * 2
    assert ask(recipe, 1, authorization="Bearer sk-first") == [429]


def test_a_client_cannot_choose_its_bucket(recipe: Recipe) -> None:
    """What it sends as x-client-key counts for nothing."""
    statuses = [recipe.client().chat(x_client_key=f"made-up-{number}").status for number in range(NO_KEY + 2)]
    assert statuses == [200] * NO_KEY + [429] * 2
    mine = {"authorization": "Bearer sk-mine"}
    statuses = [recipe.client().chat(x_client_key=f"made-up-{number}", **mine).status for number in range(KEY + 2)]
    assert statuses == [200] * KEY + [429] * 2


def test_a_refusal_is_openais_and_recorded(recipe: Recipe, backend: Backend) -> None:
    """429 with a code, `retry-after` and what is left; the record has the flag RL, whose it was, and no upstream."""
    ask(recipe, KEY, authorization="Bearer sk-full")
    reached = len(backend.heads)
    answer = recipe.client().chat(authorization="Bearer sk-full")
    assert (answer.status, answer.headers["content-type"]) == (429, "application/json")
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("rate_limit_error", "rate_limit_exceeded")
    assert (answer.headers["retry-after"], answer.headers["x-ratelimit-remaining"]) == ("3", "0")
    assert answer.upstream is None
    assert len(backend.heads) == reached
    exchange = recipe.told(answer.headers["x-audit-id"])
    assert (exchange.outcome, exchange.status, exchange.response_flags) == ("local_reply", 429, ["RL"])
    assert (exchange.route, exchange.upstream) == ("default", None)
    assert present(present(exchange.request).bytes) > 0
    marks = [value for name, value in present(present(exchange.request).headers) if name == "authorization"]
    assert marks == [f"redacted:{present(exchange.routing).set['x-client-key']}"]


def test_no_key_is_written_anywhere(recipe: Recipe, backend: Backend) -> None:
    """Not in the journal, not in Envoy's log, not in its configuration; and the hash does not reach the backend."""
    keys = [f"sk-very-secret-{number}" for number in range(3)]
    for key in keys:
        ask(recipe, KEY + 1, authorization=f"Bearer {key}")
        recipe.client().chat(x_api_key=key)
    for answer in [recipe.client().chat(authorization=f"Bearer {keys[0]}"), recipe.client().chat()]:
        recipe.told(answer.headers["x-audit-id"])
    assert recipe.stop() == 0
    written = [path for path in recipe.directory.rglob("*") if path.is_file()]
    assert {"envoy.log", "stderr", "routes.yaml"} < {path.name for path in written}
    assert [path for path in written if b"very-secret" in path.read_bytes()] == []
    assert backend.heads
    assert not any(head.get("x-client-key") for head in backend.heads)
    assert any(head.get("authorization") == f"Bearer {keys[0]}" for head in backend.heads)


def test_a_route_has_a_bucket_of_its_own(recipe: Recipe) -> None:
    """Embeddings are limited for all callers together, and take nothing from what else they do."""
    body = {"model": "demo", "input": "a"}
    answers = [
        recipe.client().ask(path="/v1/embeddings", body=body, authorization=f"Bearer sk-{number}")
        for number in range(EMBEDDINGS + 2)
    ]
    assert [answer.status for answer in answers] == [200] * EMBEDDINGS + [429] * 2
    assert answers[-1].json()["error"]["code"] == "rate_limit_exceeded"
    assert answers[-1].headers["retry-after"] == "1"
    exchange = recipe.told(answers[-1].headers["x-audit-id"])
    assert (exchange.route, exchange.response_flags) == ("embeddings", ["RL"])
    assert ask(recipe, 1, authorization="Bearer sk-0") == [200]


def test_all_callers_together_have_a_limit(recipe: Recipe) -> None:
    """New keys have new buckets, but the route's own ends them."""
    statuses = Counter(recipe.client().chat(authorization=f"Bearer sk-{number}").status for number in range(ROUTE + 10))
    assert statuses == {200: ROUTE, 429: 10}


def test_threads_share_the_buckets(recipe: Recipe) -> None:
    """The limit is that of the process, however many connections there are."""
    total = Counter[int]()

    def one(client: Client, _: int) -> Answer:
        answer = client.chat(authorization="Bearer sk-shared")
        total[answer.status] += 1
        return answer._replace(status=200)

    recipe.spread(10 * KEY, one, clients=16)
    assert total[200] == KEY


def test_an_edit_begins_with_full_buckets(recipe: Recipe) -> None:
    """Envoy makes them anew with the routes."""
    assert ask(recipe, NO_KEY + 1)[-1] == 429
    routes = recipe.envoy_dir / "overlay.yaml"
    routes.write_text(routes.read_text().replace("idle_timeout: 600s", "idle_timeout: 601s"))
    eventually(lambda: ask(recipe, 1) == [200], "a request that passes")


def test_as_it_is(tmp_path: Path) -> None:
    """With its own figures and demo backends: some callers at an ordinary pace, and the server of each answer named."""
    with Recipe("rate-limits", tmp_path) as recipe:
        spread = recipe.spread(
            60, lambda client, number: client.ask(body=CHAT, authorization=f"Bearer sk-{number % 4}"), clients=4
        )
        assert len(spread) == 2
        assert recipe.stop() == 0
        assert recipe.findings() == []


def _commented(text: str, after: str) -> str:
    """The YAML in the comment that follows some words, without its comment signs."""
    lines = text.partition(after)[2].split("\n")[2:]
    return textwrap.dedent("\n".join(re.sub("^# ?", "", line) for line in _until_blank(lines)))


def _until_blank(lines: list[str]) -> list[str]:
    return lines[: next((number for number, line in enumerate(lines) if line in ("#", "")), len(lines))]


def test_the_commented_part_is_right(tmp_path: Path) -> None:
    """The global rate limit service, as the comments have it, is something that Envoy takes."""
    text = (EXAMPLES / "rate-limits" / files.OVERLAY).read_text()
    service = _commented(text, "This goes into this file, too:")
    assert "http_filters:" in service
    actions = textwrap.indent(_commented(text, "what the service is to count:"), "    ")
    counted = text.replace("  - name: all\n", f"  - name: all\n{actions}\n", 1)
    assert counted != text
    (tmp_path / files.OVERLAY).write_text(f"{counted}\n{service}\n")
    done = run("check", "--envoy-dir", tmp_path, cwd=tmp_path)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
