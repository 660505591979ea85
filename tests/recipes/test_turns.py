"""envoy/examples/round-robin, random and weights: balancing that does not look at what runs."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

from support.recipes import Recipe
from support.servers import Servers, plain


def turns(recipe: Recipe, number: int) -> list[str]:
    """The upstreams of requests on one connection, in order."""
    client = recipe.client()
    return [plain(client).upstream for _ in range(number)]


def test_round_robin(tmp_path: Path, servers: Servers) -> None:
    """One after the other on a connection; in all, even to within one for each of Envoy's two threads."""
    with Recipe("round-robin", tmp_path, backends=servers.ports) as recipe:
        order = turns(recipe, 12)
        assert len(set(order[:3])) == 3
        assert order == order[:3] * 4
        spread = recipe.spread(600, plain)
        assert max(spread.values()) - min(spread.values()) <= 2
        answer = plain(recipe.client())
        exchange = recipe.settled(answer)
        assert (exchange.upstream, exchange.cluster, exchange.outcome) == (answer.upstream, "llm", "ok")
        assert recipe.stop() == 0
        assert recipe.findings() == []


def test_random(tmp_path: Path, servers: Servers) -> None:
    """Each server gets a third, and as often as chance has it the same one twice in a row (five deviations)."""
    with Recipe("random", tmp_path, backends=servers.ports) as recipe:
        order = turns(recipe, 300)
        again = sum(one == two for one, two in itertools.pairwise(order))
        assert 59 <= again <= 141
        spread = recipe.spread(1500, plain)
        assert len(spread) == 3
        assert all(408 <= share <= 592 for share in spread.values()), spread
        assert recipe.stop() == 0
        assert recipe.findings() == []


def shares(spread: Counter[str], servers: Servers) -> list[int]:
    """The counts in the order of the servers."""
    return [spread[servers.address(index)] for index in range(3)]


def test_weights(tmp_path: Path, servers: Servers) -> None:
    """5 : 3 : 2 of 2,000, within four deviations; changed weights hold at once, and a stream that runs goes on."""
    with Recipe("weights", tmp_path, backends=servers.ports) as recipe:
        order = turns(recipe, 100)
        for first in range(91):
            ten = shares(Counter(order[first : first + 10]), servers)
            assert all(abs(seen - weight) <= 1 for seen, weight in zip(ten, (5, 3, 2), strict=True)), ten
        five, three, two = shares(recipe.spread(2000, plain), servers)
        assert abs(five - 1000) <= 89
        assert abs(three - 600) <= 82
        assert abs(two - 400) <= 72

        stream = servers.open_stream(recipe.port)
        recipe.edit(
            "overlay.yaml", lambda text: text.replace("weight: 5", "weight: 1").replace("weight: 3", "weight: 6")
        )
        one, six, two = shares(recipe.spread(900, plain), servers)
        assert abs(one - 100) <= 38
        assert abs(six - 600) <= 57
        assert abs(two - 200) <= 50
        servers.end_streams()
        stream.rest()
        assert recipe.settled(stream.id).outcome == "ok"
        assert recipe.stop() == 0
        assert recipe.findings() == []
