"""envoy/examples/least-request: the next request goes to the server with the fewest requests running."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest
from support.recipes import Recipe
from support.servers import Servers, plain
from support.stack import eventually


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, servers: Servers) -> Iterator[Recipe]:
    """The recipe in front of them."""
    with Recipe("least-request", tmp_path_factory.mktemp("least"), backends=servers.ports) as running:
        yield running
        assert running.stop() == 0
        assert running.findings() == []


def test_a_busy_server_gets_none_of_the_next(recipe: Recipe, servers: Servers) -> None:
    """As long as the others are idle, from whichever connection; once its stream has ended it gets some again."""
    stream = servers.open_stream(recipe.port)
    spread = recipe.spread(60, plain, clients=1) + recipe.spread(60, plain, clients=1)
    assert stream.upstream not in spread
    assert len(spread) == 2
    servers.end_streams()
    assert stream.rest().body == b"data: a\n\n" * 2
    assert eventually(lambda: plain(recipe.client()).upstream == stream.upstream, "a request for the idle server")
    exchange = recipe.settled(stream.id)
    assert (exchange.upstream, exchange.cluster, exchange.outcome) == (stream.upstream, "llm", "ok")


def test_streams_are_even(recipe: Recipe, servers: Servers) -> None:
    """Of nine that are opened one after the other each server has three, on either of Envoy's threads."""
    streams = [servers.open_stream(recipe.port) for _ in range(9)]
    assert set(Counter(stream.upstream for stream in streams).values()) == {3}
    servers.end_streams()
    for stream in streams:
        stream.rest()
