"""envoy/examples/circuit-breakers: so many requests run, so many wait, the rest is refused."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import pytest
from support.exchanges import present
from support.holding import Crowd, HoldingBackend
from support.recipes import Answer, Recipe
from support.stack import eventually

PER_SERVER = 2
WAITING = 3


def small(name: str, text: str) -> str:
    """The recipe with limits that a test can fill."""
    if name != "overlay.yaml":
        return text
    for old, new in (("max_connections: 64", PER_SERVER), ("max_pending_requests: 32", WAITING)):
        limit = old.partition(":")[0]
        assert old in text
        text = text.replace(old, f"{limit}: {new}")
    return text


class Full:
    """The recipe with servers that hold their answers back, filled to the brim."""

    def __init__(self, directory: Path, edit: Any = small) -> None:
        self.backends = [HoldingBackend(), HoldingBackend()]
        ports = dict(zip((8001, 8002), (backend.port for backend in self.backends), strict=True))
        self.recipe = Recipe("circuit-breakers", directory, "--envoy-concurrency", "1", backends=ports, edit=edit)
        self.recipe.__enter__()
        self.crowd = Crowd(self.recipe)
        self.running: list[Future[Answer]] = []
        for number in range(1, 2 * PER_SERVER + 1):
            self.running.append(self.crowd.ask())
            eventually(lambda number=number: self.at_work() == number, f"{number} requests at the servers")  # type: ignore[misc]
        self.waiting = [self.crowd.ask() for _ in range(WAITING)]
        eventually(lambda: self.stat("upstream_rq_pending_active") == WAITING, "a full queue")

    def at_work(self) -> int:
        return sum(backend.running for backend in self.backends)

    def stat(self, name: str) -> int:
        return self.recipe.envoy_stat(f"cluster.llm.{name}")

    def close(self) -> None:
        for backend in self.backends:
            backend.stop()
        self.crowd.close()
        self.recipe.stop()


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Full]:
    """Two requests at each of two servers, and three that wait."""
    full = Full(tmp_path)
    try:
        yield full
        for backend in full.backends:
            backend.release()
        assert full.recipe.stop() == 0
        assert full.recipe.findings() == []
    finally:
        full.close()


def test_the_limits_hold(full: Full) -> None:
    """No server gets more than its share; ten more are refused, and then all others answered."""
    refused = [full.crowd.ask().result() for _ in range(10)]
    assert [answer.status for answer in refused] == [503] * 10
    assert [backend.running for backend in full.backends] == [PER_SERVER, PER_SERVER]
    assert full.stat("upstream_rq_pending_overflow") == 10
    for backend in full.backends:
        backend.release()
    assert [answer.result().status for answer in full.running + full.waiting] == [200] * (2 * PER_SERVER + WAITING)
    assert [backend.most for backend in full.backends] == [PER_SERVER, PER_SERVER]


def test_a_refusal_is_openais_and_recorded(full: Full) -> None:
    """503 with a code and `retry-after`; the record has the flag UO, the cluster, and no upstream."""
    answer = full.crowd.ask().result()
    assert answer.headers["content-type"] == "application/json"
    assert answer.headers["retry-after"] == "1"
    error = answer.json()["error"]
    assert (error["type"], error["code"]) == ("service_unavailable_error", "upstream_overflow")
    assert answer.upstream is None
    exchange = full.recipe.told(answer.headers["x-audit-id"])
    assert (exchange.outcome, exchange.status, exchange.response_flags) == ("local_reply", 503, ["UO"])
    assert exchange.response_code_details == "upstream_reset_before_response_started{overflow}"
    assert (exchange.cluster, exchange.upstream) == ("llm", None)
    assert present(present(exchange.request).bytes) > 0


def test_the_queue_moves_on_as_soon_as_a_request_ends(full: Full) -> None:
    """A place in the queue becomes free, and the next request is no longer refused."""
    assert full.crowd.ask().result().status == 503
    full.backends[0].release()
    full.backends[1].release()
    assert [answer.result().status for answer in full.waiting] == [200] * WAITING
    assert full.crowd.ask().result().status == 200


def test_what_waits_has_its_request_recorded(full: Full) -> None:
    """`extproc inflight` shows the queue as well as what runs."""

    def in_flight() -> bool:
        return sum(exchange.in_flight for exchange in full.recipe.exchanges()) == 2 * PER_SERVER + WAITING

    eventually(in_flight, "the records of all that runs and waits")


def test_all_servers_together_have_a_limit(tmp_path: Path) -> None:
    """max_requests counts what runs in the whole cluster."""

    def edit(name: str, text: str) -> str:
        return small(name, text).replace("max_requests: 128", f"max_requests: {2 * PER_SERVER}")

    full = Full(tmp_path, edit)
    try:
        assert full.stat("circuit_breakers.default.remaining_rq") == 0
        assert full.stat("circuit_breakers.default.remaining_pending") == 0
        assert full.crowd.ask().result().json()["error"]["code"] == "upstream_overflow"
    finally:
        full.close()


def test_as_it_is(tmp_path: Path) -> None:
    """The recipe with its own figures and demo backends: ordinary traffic meets no limit."""
    with Recipe("circuit-breakers", tmp_path) as recipe:
        assert sum(recipe.spread(64).values()) == 64
        assert recipe.envoy_stat("cluster.llm.upstream_rq_pending_overflow") == 0
        assert recipe.stop() == 0
        assert recipe.findings() == []
