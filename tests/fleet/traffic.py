"""Traffic of which every byte can be said again: a request and its answer are functions of a number.

    with RawBackend() as backend:
        traffic = Traffic(backend, exchanges=50_000, seconds=1200)
        client = traffic.client()           # one for each host; `port` says where its stack is at the moment

Clients go on whatever happens to their connections. One request in fifty is large, as is one answer; some answers are
errors, and some are cut off.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import random
import threading
import time

from support.raw import Closed, Connection, Head, RawBackend

THREADS = 4
"""Of each client."""
MODELS = ("small", "medium", "large")
_LARGE_EVERY = 50
_LARGE_CHARACTERS = 90_000
_REFUSED_EVERY = 97
_CUT_EVERY = 211


def request_of(number: int) -> bytes:
    """The body of a request."""
    text = _words(number, large=number % _LARGE_EVERY == 0)
    messages = [{"role": "user", "content": f"{number} {text}"}]
    return json.dumps({"model": MODELS[number % len(MODELS)], "messages": messages}).encode()


def answer_of(number: int) -> bytes:
    """The body of its answer."""
    if number % _REFUSED_EVERY == 0:
        return json.dumps({"error": {"message": f"not {number}", "type": "overloaded", "code": 503}}).encode()
    message = {"role": "assistant", "content": _words(~number, large=number % _LARGE_EVERY == 25)}
    choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
    usage = {"prompt_tokens": number % 1000, "completion_tokens": number % 77, "total_tokens": 0}
    model = MODELS[number % len(MODELS)]
    return json.dumps({"id": f"chatcmpl-{number}", "model": model, "choices": choices, "usage": usage}).encode()


def number_of(path: str) -> int:
    """The number of the request with this path."""
    return int(path.partition("?n=")[2] or -1)


def _words(seed: int, *, large: bool) -> str:
    chance = random.Random(seed)
    size = _LARGE_CHARACTERS if large else chance.randrange(50, 1500)
    return chance.randbytes(size // 2).hex()


class Traffic:
    """All of it, to one backend."""

    def __init__(self, backend: RawBackend, exchanges: int, seconds: float, hosts: int) -> None:
        self.received: set[int] = set()
        """The requests that the backend has received whole."""
        self.got: dict[str, int] = {}
        """The requests whose answers a client has got whole, by the ids that came with them."""
        self.numbers = itertools.count(1)
        self.pause = THREADS * hosts * seconds / exchanges
        self._exchanges = exchanges
        backend.otherwise = self._script

    @property
    def is_over(self) -> bool:
        """Whether as many answers have come as were wanted."""
        return len(self.got) >= self._exchanges

    def client(self) -> Client:
        """The client of one more host."""
        return Client(self)

    def _script(self, connection: Connection, head: Head) -> None:
        number = number_of(head.path)
        body = connection.finish(head).body
        assert body == request_of(number), f"request {number} came as another one"
        self.received.add(number)
        answer = answer_of(number)
        status = b"503 Service Unavailable" if number % _REFUSED_EVERY == 0 else b"200 OK"
        start = b"HTTP/1.1 %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n" % (status, len(answer))
        if number % _CUT_EVERY == 0:
            connection.send(start + answer[: len(answer) // 2])
            connection.close()
            return
        connection.send(start + answer)


class Client:
    """Some threads that ask one host."""

    def __init__(self, traffic: Traffic) -> None:
        self.port = 0
        self._traffic = traffic
        self._stop = threading.Event()
        self._threads = [threading.Thread(target=self._run) for _ in range(THREADS)]

    def start(self) -> None:
        """Begin."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End, each thread after the answer for which it waits."""
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self) -> None:
        while not self._stop.is_set():
            with contextlib.suppress(Closed, ConnectionError, TimeoutError), Connection.to(self.port) as connection:
                self._use(connection)
            self._stop.wait(0.05)  # between two stacks nobody listens

    def _use(self, connection: Connection) -> None:
        """One connection, until either side closes it."""
        traffic = self._traffic
        while not self._stop.is_set() and not traffic.is_over:
            began = time.monotonic()
            number = next(traffic.numbers)
            body = request_of(number)
            head = b"POST /v1/chat/completions?n=%d HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\n"
            connection.send(head % number + b"content-length: %d\r\n\r\n%b" % (len(body), body))
            answer = connection.read_message()
            id = answer.head.get("x-audit-id")
            if id is not None and answer.body == answer_of(number):
                traffic.got[id] = number
            if answer.head.get("connection") == "close" or answer.ended_by_close:
                return
            self._stop.wait(max(0.0, traffic.pause - (time.monotonic() - began)))
