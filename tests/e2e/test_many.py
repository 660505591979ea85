"""Thousands of exchanges under concurrency: each is recorded once, with the digests of both ends.

EXTPROC_TEST_EXCHANGES says how many. Half of the answers are streams; some clients close right after `[DONE]`, as
real ones do, so that the end of the stream never comes.
"""

from __future__ import annotations

import collections
import dataclasses
import hashlib
import os
import random
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.exchanges import present
from support.raw import Connection, Head, RawBackend
from support.stack import RunningStack, eventually

EXCHANGES = int(os.environ.get("EXTPROC_TEST_EXCHANGES", "3000"))
CLIENTS = 24

KIB = 1024
SIZES = {
    0: 10,
    1: 5,
    300: 40,
    5_000: 30,
    64 * KIB: 4,
    64 * KIB + 1: 4,
    200_000: 3,
    512 * KIB: 2,
    512 * KIB + 1: 2,
    2_000_000: 1,
}
"""Sizes of bodies, and how often: around the limits at which a body is held, inlined and spooled."""

DATA = random.Random(7).randbytes(3_000_000)
DONE = b"data: [DONE]\n\n"


@dataclasses.dataclass
class Plan:
    """One exchange: what will be sent, and how it will end."""

    number: int
    request: bytes
    response: bytes
    chunked: bool
    stream: bool
    leaves: bool
    at_backend: str = ""
    at_client: str = ""
    id: str = ""

    @property
    def path(self) -> str:
        return f"/v1/chat/completions?number={self.number}"


def plan(number: int) -> Plan:
    """The same plan for the same number."""
    rng = random.Random(number)
    stream = number % 2 == 0

    def body() -> bytes:
        size = rng.choices(list(SIZES), list(SIZES.values()))[0]
        start = rng.randrange(len(DATA) - size)
        return DATA[start : start + size]

    response = events(rng) if stream else body()
    return Plan(number, body(), response, rng.random() < 0.3, stream, leaves=stream and rng.random() < 0.2)


def events(rng: random.Random) -> bytes:
    """A chat completion's stream of some tokens."""
    tokens = (
        b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"%d "}}]}\n\n' % rng.randrange(1000)
        for _ in range(rng.randint(1, 40))
    )
    end = b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
    return b"".join(tokens) + end + DONE


def serve(plan: Plan, connection: Connection, head: Head) -> None:
    """The backend's part."""
    plan.at_backend = hashlib.sha256(connection.finish(head).body).hexdigest()
    if not plan.stream:
        head_of_bytes = b"HTTP/1.1 200 OK\r\ncontent-type: application/octet-stream\r\ncontent-length: %d\r\n\r\n"
        connection.send(head_of_bytes % len(plan.response) + plan.response)
        return
    connection.send(b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n")
    middle = len(plan.response) // 2
    for part in (plan.response[:middle], plan.response[middle:]):
        connection.send(b"%x\r\n%b\r\n" % (len(part), part))
    if plan.leaves:
        connection.read_to_end()  # the end would come when the client has left already
    connection.send(b"0\r\n\r\n")


def ask(plan: Plan, client: Connection) -> None:
    """The client's part."""
    head = b"POST %b HTTP/1.1\r\nhost: a\r\n" % plan.path.encode()
    if plan.chunked:
        body = b"%x\r\n%b\r\n" % (len(plan.request), plan.request) if plan.request else b""
        client.send(head + b"transfer-encoding: chunked\r\n\r\n" + body + b"0\r\n\r\n")
    else:
        client.send(head + b"content-length: %d\r\n\r\n" % len(plan.request) + plan.request)
    answer = client.read_head()
    assert answer.status == 200, answer
    plan.id = answer.get("x-audit-id") or ""
    body = b""
    if plan.leaves:
        while not body.endswith(DONE):
            body += client.read_chunk()
        client.close()
    else:
        body = client.finish(answer).body
    plan.at_client = hashlib.sha256(body).hexdigest()


def converse(plans: list[Plan], port: int) -> None:
    """One client after another, each on one connection until it leaves."""
    client: Connection | None = None
    try:
        for plan in plans:
            client = client or Connection.to(port)
            ask(plan, client)
            if plan.leaves:
                client = None
    finally:
        if client is not None:
            client.close()


def shares(plans: list[Plan]) -> list[list[Plan]]:
    """An equal part for each client."""
    return [plans[start::CLIENTS] for start in range(CLIENTS)]


@pytest.mark.slow
@pytest.mark.timeout(180 + EXCHANGES // 30)
def test_every_exchange_is_recorded_once(tmp_path: Path) -> None:
    """Exactly one terminal record each; bytes and digests as the client and the backend saw them."""
    plans = {each.path: each for each in map(plan, range(EXCHANGES))}
    with RawBackend() as backend:
        backend.otherwise = lambda connection, head: serve(plans[head.path], connection, head)
        arguments = ("--backend", backend.url, "--workers", "2", "--envoy-concurrency", "2")
        with RunningStack(tmp_path, *arguments) as stack:
            with ThreadPoolExecutor(CLIENTS) as pool:
                list(pool.map(lambda some: converse(some, stack.port), shares(list(plans.values()))))
            eventually(lambda: stack.envoy_stat("http.ingress.downstream_rq_active") == 0, "the last exchange's end")
            assert stack.stop() == 0
        assert backend.errors == []
    assert stack.findings() == []
    check(stack, plans)


def check(stack: RunningStack, plans: dict[str, Plan]) -> None:
    """The records against what both ends saw."""
    kinds = collections.Counter(
        (record["type"], record["id"])
        for record in stack.records()
        if record["type"] in ("request", "response", "orphan")
    )
    assert [kind for kind, count in kinds.items() if count > 1] == []
    assert sum(kind in ("response", "orphan") for kind, _ in kinds) == len(plans)
    exchanges = stack.exchanges()
    assert {exchange.id for exchange in exchanges} == {plan.id for plan in plans.values()}
    for exchange in exchanges:
        plan = plans[present(exchange.path)]
        assert exchange.id == plan.id
        sent, received = present(exchange.request), present(exchange.response)
        assert (sent.bytes, sent.sha256) == (len(plan.request), plan.at_backend), plan.path
        assert (received.bytes, received.sha256) == (len(plan.response), plan.at_client), plan.path
        assert plan.at_backend == hashlib.sha256(plan.request).hexdigest()
        assert plan.at_client == hashlib.sha256(plan.response).hexdigest()
        assert exchange.protocol.late == {}
        if plan.leaves:
            assert exchange.outcome in ("ok", "ok_client_left_after_terminal"), (plan.path, exchange.outcome)
        else:
            assert exchange.outcome == "ok", (plan.path, exchange.outcome)
