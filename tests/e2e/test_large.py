"""Large bodies: digests agree everywhere, and the sidecar's memory does not grow with them."""

from __future__ import annotations

import hashlib
import random
from concurrent.futures import ThreadPoolExecutor

import pytest
from support.exchanges import present
from support.raw import Connection, Head, RawBackend
from support.stack import RunningStack, peak_resident_bytes, reset_peak, resident_bytes

SIZE = 100_000_000
PIECE = 1_000_000
AT_ONCE = 10
GROWTH = 64 * 1024 * 1024


def pieces(seed: int) -> list[bytes]:
    """A body of SIZE bytes: its pieces, of which many are the same object."""
    rng = random.Random(seed)
    distinct = [rng.randbytes(PIECE) for _ in range(4)]
    return rng.choices(distinct, k=SIZE // PIECE)


def digest(body: list[bytes]) -> str:
    """The SHA-256 of a body."""
    sha = hashlib.sha256()
    for piece in body:
        sha.update(piece)
    return sha.hexdigest()


def receive(connection: Connection, head: Head) -> str:
    """Read a body by its content-length; its SHA-256."""
    sha, left = hashlib.sha256(), int(head.get("content-length") or 0)
    while left:
        data = connection.read_some(left)
        sha.update(data)
        left -= len(data)
    return sha.hexdigest()


@pytest.mark.slow
@pytest.mark.timeout(240)
def test_ten_bodies_of_100_mb_at_once_up_and_down(raw_stack: RunningStack, raw_backend: RawBackend) -> None:
    """Client, backend and record agree on every byte, and RSS grows by less than 64 MB."""
    at_backend: dict[str, str] = {}
    up = {number: pieces(number) for number in range(AT_ONCE)}
    down = {number: pieces(100 + number) for number in range(AT_ONCE)}

    def exchange(number: int) -> tuple[str, str]:
        def script(connection: Connection, head: Head) -> None:
            at_backend[head.path] = receive(connection, head)
            connection.send(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % SIZE)
            for piece in down[number]:
                connection.send(piece)

        path = raw_backend.on(script)
        with Connection.to(raw_stack.port) as client:
            client.send(b"POST %b HTTP/1.1\r\nhost: a\r\ncontent-length: %d\r\n\r\n" % (path.encode(), SIZE))
            for piece in up[number]:
                client.send(piece)
            return path, receive(client, client.read_head())

    (worker,) = raw_stack.workers().values()
    reset_peak(worker)
    before = resident_bytes(worker)
    with ThreadPoolExecutor(AT_ONCE) as pool:
        at_client = list(pool.map(exchange, range(AT_ONCE)))
    growth = peak_resident_bytes(worker) - before

    for number, (path, received) in enumerate(at_client):
        assert at_backend[path] == digest(up[number])
        assert received == digest(down[number])
        exchange_ = raw_stack.exchange_of(path)
        assert exchange_.outcome == "ok"
        assert (present(exchange_.request).bytes, present(exchange_.request).sha256) == (SIZE, at_backend[path])
        assert (present(exchange_.response).bytes, present(exchange_.response).sha256) == (SIZE, received)
        assert not present(exchange_.request).truncated
        assert not present(exchange_.response).truncated
    assert growth < GROWTH, f"RSS grew by {growth / 2**20:.0f} MiB"
