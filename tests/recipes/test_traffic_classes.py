"""envoy/examples/traffic-classes: batch traffic cannot take from interactive traffic what is not its own."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from pathlib import Path

import pytest
from support.holding import Crowd, HoldingBackend
from support.raw import Head
from support.recipes import Answer, Recipe
from support.stack import eventually

RUNNING = 4
WAITING = 4
POOLS = 4
"""Envoy's two threads, each with its connections to two servers: one each may be beyond the limit."""


def small(name: str, text: str) -> str:
    """The recipe with limits that a test can fill."""
    limits = "max_connections: 16, max_pending_requests: 64"
    assert name != "overlay.yaml" or limits in text
    return text.replace(limits, f"max_connections: {RUNNING}, max_pending_requests: {WAITING}")


def is_batch(head: Head) -> bool:
    """Whether a request says so, in whatever case."""
    return (head.get("x-traffic-class") or "").lower() == "batch"


class Saturated:
    """The recipe before servers that hold batch answers back, and as many batch requests as it takes."""

    def __init__(self, directory: Path) -> None:
        self.backends = [HoldingBackend(is_batch), HoldingBackend(is_batch)]
        ports = dict(zip((8001, 8002), (backend.port for backend in self.backends), strict=True))
        self.recipe = Recipe("traffic-classes", directory, backends=ports, edit=small)
        self.recipe.__enter__()
        self.crowd = Crowd(self.recipe)
        self.batch: list[Future[Answer]] = []
        while not self.refused():
            self.batch.append(self.crowd.ask(x_traffic_class="batch"))
            eventually(self._all_are_somewhere, "the next batch request's place")
            assert len(self.batch) <= RUNNING + POOLS + WAITING + 1

    def refused(self) -> list[Answer]:
        return [answer.result() for answer in self.batch if answer.done()]

    def running(self) -> int:
        return sum(backend.running for backend in self.backends)

    def waiting(self) -> int:
        return self.recipe.envoy_stat("cluster.llm.upstream_rq_pending_active")

    def close(self) -> None:
        for backend in self.backends:
            backend.stop()
        self.crowd.close()
        self.recipe.stop()

    def _all_are_somewhere(self) -> bool:
        return self.running() + self.waiting() + len(self.refused()) == len(self.batch)


@pytest.fixture
def saturated(tmp_path: Path) -> Iterator[Saturated]:
    """One batch request more than there is room for."""
    saturated = Saturated(tmp_path)
    try:
        yield saturated
        for backend in saturated.backends:
            backend.release()
        assert saturated.recipe.stop() == 0
        assert saturated.recipe.findings() == []
    finally:
        saturated.close()


def test_batch_has_its_limits(saturated: Saturated) -> None:
    """So many run, so many wait, and the next one is refused in OpenAI's shape and recorded."""
    assert RUNNING <= saturated.running() <= RUNNING + POOLS
    [answer] = saturated.refused()
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    assert answer.json()["error"]["code"] == "upstream_overflow"
    exchange = saturated.recipe.told(answer.headers["x-audit-id"])
    assert (exchange.outcome, exchange.route, exchange.cluster) == ("local_reply", "batch", "llm")
    assert (exchange.response_flags, exchange.upstream) == (["UO"], None)


def test_interactive_requests_are_all_answered(saturated: Saturated) -> None:
    """Two hundred of them, while batch is full and its servers hold it; both servers take part."""
    spread = saturated.recipe.spread(200)
    assert sum(spread.values()) == 200
    assert len(spread) == 2
    assert len(saturated.refused()) == 1
    assert saturated.crowd.ask(x_traffic_class="BATCH").result().status == 503


def test_batch_goes_on_when_its_turn_comes(saturated: Saturated) -> None:
    """What ran and what waited is answered in the end."""
    for backend in saturated.backends:
        backend.release()
    statuses = [answer.result().status for answer in saturated.batch]
    assert (statuses.count(200), statuses.count(503)) == (len(statuses) - 1, 1)


def test_many_interactive_requests_leave_batch_its_share(tmp_path: Path) -> None:
    """The other way round: forty that are held, and batch still runs."""
    backends = [HoldingBackend(lambda head: not is_batch(head)) for _ in range(2)]
    ports = dict(zip((8001, 8002), (backend.port for backend in backends), strict=True))
    with Recipe("traffic-classes", tmp_path, backends=ports, edit=small) as recipe:
        crowd = Crowd(recipe)
        interactive = [crowd.ask() for _ in range(40)]
        eventually(lambda: sum(backend.running for backend in backends) == 40, "all interactive requests at once")
        for _ in range(20):
            assert recipe.client().chat(x_traffic_class="batch").status == 200
        for backend in backends:
            backend.release()
        assert {answer.result().status for answer in interactive} == {200}
        crowd.close()
        assert recipe.stop() == 0
        assert recipe.findings() == []
    for backend in backends:
        backend.stop()


def test_as_it_is(tmp_path: Path) -> None:
    """With its demo backends; the record tells the classes apart."""
    with Recipe("traffic-classes", tmp_path) as recipe:
        for headers, route in (({}, "default"), ({"x_traffic_class": "Batch"}, "batch")):
            answer = recipe.client().chat(**headers)
            assert answer.status == 200
            exchange = recipe.told(answer.headers["x-audit-id"])
            assert (exchange.outcome, exchange.route, exchange.cluster) == ("ok", route, "llm")
        assert recipe.stop() == 0
        assert recipe.findings() == []
