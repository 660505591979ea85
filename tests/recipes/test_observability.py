"""envoy/examples/observability: the recorder looks on, and nobody waits for it."""

from __future__ import annotations

import hashlib
import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.exchanges import present
from support.recipes import Answer, Recipe
from support.stack import eventually, is_running
from support.traffic import Servers, Traffic, events, question, whole


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    """One LLM server."""
    with Servers(1) as running:
        yield running


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory, servers: Servers) -> Iterator[Recipe]:
    """The recipe before it."""
    with started(tmp_path_factory.mktemp("observability"), servers) as running:
        yield running
        assert running.stop() == 0
        assert running.findings() == []
        assert {exchange.best_effort for exchange in running.exchanges()} == {True}


def started(directory: Path, servers: Servers) -> Recipe:
    """The recipe before the server, not yet entered."""
    return Recipe("observability", directory, "--backend", f"http://127.0.0.1:{servers.ports[0]}")


def recorded(recipe: Recipe, numbers: list[int]) -> bool:
    """Whether the answers to these questions are all recorded, whole."""
    users = {
        present(exchange.llm.params)["user"]
        for exchange in recipe.exchanges()
        if exchange.outcome == "ok" and exchange.llm is not None
    }
    return {str(number) for number in numbers} <= users


def asked(recipe: Recipe, number: int, tokens: int = 0) -> Answer:
    """A question and its answer, which is as the server gave it."""
    with recipe.client() as client:
        answer = client.ask(body=question(number, tokens))
    expected = b"".join(events(question(number, tokens))) if tokens else whole(question(number))
    assert (answer.status, answer.body) == (200, expected)
    return answer


def test_the_record_says_that_nobody_waited(recipe: Recipe) -> None:
    """Both directions are there, byte for byte, and what only a reply could have told Envoy is not."""
    answer = asked(recipe, 1)
    assert "x-audit-id" not in answer.headers
    assert answer.headers["content-length"] == str(len(answer.body))
    eventually(lambda: recorded(recipe, [1]), "the record")
    (exchange,) = recipe.exchanges()
    assert (exchange.outcome, exchange.best_effort, exchange.held) == ("ok", True, False)
    assert exchange.upstream == answer.upstream
    assert present(exchange.request).sha256 == hashlib.sha256(json.dumps(question(1)).encode()).hexdigest()
    assert present(exchange.response).sha256 == hashlib.sha256(answer.body).hexdigest()


def test_streams_and_large_requests(recipe: Recipe) -> None:
    """A stream, and a request larger than what Envoy buffers."""
    asked(recipe, 2, tokens=5)
    client = recipe.client()
    large = json.dumps(question(3) | {"more": "a" * 3_000_000}).encode()
    assert client.ask(body=large).status == 200
    eventually(lambda: recorded(recipe, [2, 3]), "both records")
    digests = {present(exchange.request).sha256 for exchange in recipe.exchanges()}
    assert hashlib.sha256(large).hexdigest() in digests


def test_no_reply_is_waited_for(recipe: Recipe) -> None:
    """With the sidecar stopped, answers pass as ever. It reads what it was sent when it goes on in time."""
    worker = recipe.workers()[0]
    os.kill(worker, signal.SIGSTOP)
    try:
        for number in range(10, 30):
            asked(recipe, number)
        assert not recorded(recipe, [10])
    finally:
        os.kill(worker, signal.SIGCONT)
    eventually(lambda: recorded(recipe, list(range(10, 30))), "all twenty records")


def test_what_a_killed_sidecar_costs(tmp_path: Path, servers: Servers) -> None:
    """No request: only records, of what it was on, and of what came while it was away. Those there are, are whole."""
    with started(tmp_path, servers) as recipe:
        with Traffic(recipe.port, rate=150) as traffic:
            traffic.goes_on(100)
            worker = recipe.workers()[0]
            os.kill(worker, signal.SIGKILL)
            eventually(lambda: not is_running(worker), "its end")
            eventually(lambda: recipe.workers().get(0, worker) != worker, "another one")
            traffic.goes_on(300)
            assert traffic.end() == []
        asked(recipe, 1_000_000)
        eventually(lambda: recorded(recipe, [1_000_000]), "records after the restart")
        assert recipe.stop() == 0
        assert recipe.findings() == []
        exchanges = recipe.exchanges()
        sent = traffic.finished + 1
        outcomes = [exchange.outcome for exchange in exchanges]
        assert 100 < outcomes.count("ok") < sent
        assert set(outcomes) <= {"ok", "sidecar_restart_orphan"}
