"""envoy/examples/body-size: what is longer than the limit is refused, and recorded."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from support.exchanges import present
from support.raw import Connection
from support.recipes import Recipe

LIMIT = 10485760


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Recipe]:
    """The recipe as it is."""
    with Recipe("body-size", tmp_path_factory.mktemp("body-size")) as running:
        yield running
        assert running.stop() == 0
        assert running.findings() == []


def test_up_to_the_limit(recipe: Recipe) -> None:
    """The last byte that is allowed."""
    body = b'{"model":"demo","prompt":"%b"}' % (b"x" * (LIMIT - 28))
    answer = recipe.client().ask(path="/v1/completions", body=body)
    assert answer.status == 200
    exchange = recipe.settled(answer)
    assert (exchange.outcome, present(exchange.request).bytes) == ("ok", LIMIT)


def test_a_byte_more(recipe: Recipe) -> None:
    """Refused by its content-length, before it comes, in OpenAI's shape."""
    with Connection.to(recipe.port) as client:
        client.send(b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % (LIMIT + 1))
        answer = client.read_message()
    assert answer.head.status == 413
    assert json.loads(answer.body)["error"]["code"] == "request_too_large"
    exchange = recipe.told(answer.head.get("x-audit-id") or "")
    assert (exchange.outcome, exchange.upstream) == ("local_reply", None)


def test_one_that_does_not_say_how_long_it_is(recipe: Recipe) -> None:
    """Chunked: refused when it gets too long."""
    with Connection.to(recipe.port) as client:
        client.send(b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(LIMIT // 65536):
            client.send(b"10000\r\n%b\r\n" % (b"x" * 65536))
        client.send(b"1\r\nx\r\n")
        head = client.read_head()
    assert head.status == 413
    assert recipe.told(head.get("x-audit-id") or "").outcome == "local_reply"
