"""Hours with few clients, in which a backend gives nobody a byte for long, and nothing is wrong with it.

    flights = quiet.hour(kind, fleet, seconds)      # of one of `KINDS`
    flights, at = quiet.hang(fleet)                 # and one in which it hangs, from a moment on

An engine here has so many places and a queue before them, and its clients so much patience: what its recorder sees
follows from that.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Final

from extproc.incidents.evidence import End, Flight

if TYPE_CHECKING:
    from support.simulated import Fleet

FOREVER: Final = 1e9


@dataclass
class Ask:
    """A request: when it comes, what it needs, and how long its client waits for a first byte."""

    at: float
    prefill: float
    tokens: float
    """How long it is answered."""
    stream: bool = True
    patience: float = 600.0
    size: int = 0
    model: str = ""
    pause: tuple[float, float] | None = None
    """From when after its first token on it gives nothing, and for how long."""


@dataclass
class Engine:
    """One, with its queue. `held`: from when to when nothing new is begun."""

    upstream: str
    places: int
    held: list[tuple[float, float]] = field(default_factory=list)
    greets: bool = False
    """It gives the headers of a stream at once."""

    def serve(self, fleet: Fleet, asks: Sequence[Ask]) -> list[Flight]:
        """What is seen of the requests."""
        free = [0.0] * self.places
        found = []
        for ask in sorted(asks, key=lambda each: each.at):
            begin = self._begin(max(ask.at, heapq.heappop(free)))
            leaves = ask.at + ask.patience
            token = begin + ask.prefill
            end = token + ask.tokens + (ask.pause[1] if ask.pause else 0)
            gone = (token if ask.stream else end) > leaves
            heapq.heappush(free, max(ask.at, begin) if begin > leaves else leaves if gone else end)
            found.append(self._seen(fleet, ask, token, end, leaves if gone else None))
        return found

    def _begin(self, at: float) -> float:
        return max([at, *(over for since, over in self.held if since <= at < over)])

    def _seen(self, fleet: Fleet, ask: Ask, token: float, end: float, left: float | None) -> Flight:
        path, body = (
            "/v1/chat/completions",
            {"max_tokens": 64, "temperature": 0.5, **fleet.traffic.plain(), "stream": ask.stream},
        )
        plan = replace(fleet.plan(fleet.random.randrange(40), ask.at, self.upstream, path, body), token=token, end=end)
        seen = fleet.whole(plan) if left is None else fleet.left(plan, left)
        if ask.size:
            seen = replace(seen, size=ask.size)
        if ask.model:
            seen = replace(seen, model=ask.model)
        if ask.pause and left is None:
            began = seen.token + ask.pause[0] if seen.token else 0.0
            seen = replace(seen, silence=(began, began + ask.pause[1]))
        if self.greets and ask.stream:
            headers = seen.started + 0.02
            seen = replace(seen, first_byte=headers, last_byte=seen.last_byte or headers)
            seen = replace(seen, outcome="client_cancel_mid_stream", status=200) if left is not None else seen
        return seen


class Hour:
    """Phases of a few chats, and between them what may look like a hang."""

    def __init__(self, fleet: Fleet) -> None:
        self.fleet = fleet
        self.random = fleet.random
        self.flights: list[Flight] = []
        self.upstream = fleet.engines[0]
        self.wait = self.random.choice([0.1, 0.4, 1.5])
        self.clients = self.random.choice([2, 3, 6, 12])
        self.load = self.random.uniform(10, 200)
        """How long a model takes to be loaded."""

    def engine(self, places: int) -> Engine:
        """The one backend."""
        return Engine(self.upstream, places, greets=self.random.random() < 0.5)

    def chats(self, at: float, until: float, clients: int | None = None) -> list[Ask]:
        """Streams, each client's one after the other; with an answer in one piece now and then."""
        asks = []
        for _ in range(self.clients if clients is None else clients):
            now = at + self.random.uniform(0, 3)
            while now < until:
                lasts = self.random.uniform(1, 12)
                stream = self.random.random() < 0.8
                asks.append(Ask(now, self.wait * self.random.uniform(0.7, 1.5), lasts, stream))
                now += lasts + self.wait + self.random.uniform(0.5, 6)
        return asks

    def some(self, at: float, count: int, spread: float, **more: object) -> list[Ask]:
        """Streams that come within so many seconds."""
        made: dict[str, object] = {"prefill": self.wait, "tokens": 5.0, **more}
        return [Ask(at + self.random.uniform(0, spread), **made) for _ in range(count)]  # type: ignore[arg-type]


def _impatient(hour: Hour, at: float) -> float:
    """Long answers in one piece have all places, and the clients of streams behind them lose patience."""
    places, lasts = hour.random.choice([1, 1, 2, 4]), hour.random.uniform(60, 280)
    asks = hour.chats(at - 400, at, clients=min(places, hour.clients))
    asks += [
        Ask(at + 10 + each, hour.wait, lasts * hour.random.uniform(0.9, 1.3), stream=False) for each in range(places)
    ]
    for start in range(12, int(lasts), 8):
        asks += hour.some(at + start, 2, 8, patience=hour.random.uniform(5, 60))
    hour.flights += hour.engine(places).serve(hour.fleet, asks)
    return lasts * 2 + 60


def _idle(hour: Hour, at: float) -> float:
    """Nothing comes for long; then the model has to be loaded again."""
    idle, load = hour.random.uniform(90, 1500), hour.load * hour.random.uniform(0.8, 1.2)
    asks = hour.chats(at - 400, at)
    again = at + idle
    asks += hour.some(again, 8, 40, patience=hour.random.choice([20.0, 60.0, 600.0]))
    engine = hour.engine(8)
    engine.held.append((again - 1, again + load))
    hour.flights += engine.serve(hour.fleet, asks)
    return idle + load + 60


def _long_prompt(hour: Hour, at: float) -> float:
    """Nobody gets anything while one is read."""
    reads = hour.random.uniform(20, 240)
    asks = hour.chats(at - 400, at)
    large = Ask(at + 10, reads, 5, hour.random.random() < 0.5, size=hour.random.randint(20_000, 2_000_000))
    asks += [large, *hour.some(at + 11, 12, reads, patience=hour.random.choice([15.0, 45.0, 600.0]))]
    engine = hour.engine(8)
    engine.held.append((at + 10.5, at + 10 + reads))
    hour.flights += engine.serve(hour.fleet, asks)
    return reads + 60


def _reasoning(hour: Hour, at: float) -> float:
    """A few think for minutes, in one piece or before their first token."""
    asks = hour.chats(at - 400, at)
    asks += [
        Ask(at + 10 + hour.random.uniform(0, 90), hour.random.lognormvariate(3.5, 0.8), 4, hour.random.random() < 0.5)
        for _ in range(40)
    ]
    last = at + 110
    for _ in range(hour.random.randint(2, 6)):
        asks.append(Ask(last + hour.random.uniform(0, 20), hour.random.uniform(60, 300), 4, stream=False))
    hour.flights += hour.engine(64).serve(hour.fleet, asks)
    return 500.0


def _batch(hour: Hour, at: float) -> float:
    """Many at once, in one piece, of which each takes a minute or more; nobody else is there."""
    lasts, count = hour.random.uniform(45, 200), hour.random.choice([3, 10, 50])
    asks = hour.chats(at - 400, at)
    for start in (10, 10 + lasts * 1.1):
        asks += hour.some(at + start, count, hour.random.choice([0.5, 10]), stream=False, tokens=lasts)
    asks += hour.some(at + 10 + lasts * 2.5, count, 1, tokens=30.0)
    hour.flights += hour.engine(hour.random.choice([4, 16, 64])).serve(hour.fleet, asks)
    return lasts * 5 + 60


def _held(hour: Hour, at: float) -> float:
    """A gateway lets nothing through until the minute is over, or while an engine compiles for a new shape."""
    asks = hour.chats(at - 400, at + 300)
    engine = hour.engine(16)
    for minute in range(0, 300, 60):
        engine.held.append((at + minute + hour.random.uniform(2, 55), at + minute + 60))
    hour.flights += engine.serve(hour.fleet, asks)
    return 360.0


def _moved(hour: Hour, at: float) -> float:
    """All go to a new backend, which compiles first; the old one is drained, with a long answer or two."""
    old, compiles = hour.engine(16), hour.random.uniform(30, 250)
    asks = hour.chats(at - 400, at)
    asks += [
        Ask(at - 1, hour.wait, hour.random.uniform(60, 300), stream=False) for _ in range(hour.random.randint(0, 2))
    ]
    hour.flights += old.serve(hour.fleet, asks)
    hour.upstream = f"10.0.3.{int(at) % 250}:{8000 + int(at) // 250}"
    new = hour.engine(16)
    new.held.append((at, at + compiles))
    waits = hour.some(at, 10, compiles, patience=hour.random.choice([20.0, 60.0, 600.0]))
    hour.flights += new.serve(hour.fleet, [*waits, *hour.chats(at + compiles, at + compiles + 60)])
    return compiles + 460


def _left(hour: Hour, at: float) -> float:
    """All leave at once, some before their first token, and come back later."""
    engine, patience = hour.engine(16), hour.random.uniform(0.5, 9)
    asks = hour.chats(at - 400, at)
    asks += hour.some(at + 5, 20, 1, patience=patience, prefill=20.0)
    asks += hour.chats(at + hour.random.uniform(60, 400), at + 460)
    hour.flights += engine.serve(hour.fleet, asks)
    return 900.0


def _queueing(hour: Hour, at: float) -> float:
    """A gateway with few places behind it, all with long answers in one piece, and streams in its queue."""
    places = hour.random.randint(2, 6)
    asks = hour.chats(at - 400, at, clients=places)
    for number in range(places * 3):
        start = at + 5 + number * hour.random.uniform(0, 4)
        asks.append(Ask(start, hour.wait, hour.random.uniform(100, 250), stream=False))
    asks += hour.some(at + 60, 12, 200, patience=hour.random.choice([20.0, 90.0, 600.0]))
    hour.flights += hour.engine(places).serve(hour.fleet, asks)
    return 1500.0


def _tools(hour: Hour, at: float) -> float:
    """One or two streams that pause, for a tool or a thought, and nobody else."""
    asks = hour.chats(at - 400, at)
    now = at + 10
    for _ in range(8):
        for _ in range(hour.random.randint(1, 2)):
            pause = (hour.random.uniform(1, 4), hour.random.uniform(10, 120))
            asks.append(Ask(now + hour.random.uniform(0, 2), hour.wait, 10, pause=pause))
        now += hour.random.uniform(20, 140)
    hour.flights += hour.engine(16).serve(hour.fleet, asks)
    return now - at + 60


def _agents(hour: Hour, at: float) -> float:
    """Some streams, each of which pauses for its own tools: now and then all at the same time."""
    asks = []
    for _ in range(hour.random.randint(3, 5)):
        now = at + hour.random.uniform(0, 30)
        while now < at + 900:
            pause = (hour.random.uniform(1, 5), hour.random.uniform(5, 40))
            asks.append(Ask(now, hour.wait, pause[0] + hour.random.uniform(4, 15), pause=pause))
            now += pause[1] + hour.random.uniform(25, 35)
    hour.flights += hour.engine(32).serve(hour.fleet, asks)
    return 960.0


def _swapping(hour: Hour, at: float) -> float:
    """One model at a time: who asks for another one waits until it is loaded, and so do all after that."""
    load = hour.load * hour.random.uniform(0.8, 1.2)
    asks = hour.chats(at - 400, at)
    asks += hour.some(at + 5, 1, 1, model="another") + hour.some(at + 6, 10, load, model="another")
    asks += hour.some(at + 6, 4, load, patience=hour.random.choice([20.0, 600.0]))
    engine = hour.engine(8)
    engine.held.append((at + 4, at + 6 + load))
    hour.flights += engine.serve(hour.fleet, asks)
    return load + 120


KINDS: Final[dict[str, Callable[[Hour, float], float]]] = {
    "impatient": _impatient,
    "idle": _idle,
    "long prompt": _long_prompt,
    "reasoning": _reasoning,
    "batch": _batch,
    "held": _held,
    "moved": _moved,
    "left": _left,
    "queueing": _queueing,
    "pausing": _tools,
    "agents": _agents,
    "swapping": _swapping,
}  # fmt: skip


def hour(kind: str, fleet: Fleet, seconds: float) -> list[Flight]:
    """One of a kind."""
    found = Hour(fleet)
    at = 400.0
    while at < seconds:
        at += KINDS[kind](found, at) + 460
    return found.flights


def hang(fleet: Fleet, epoch: float) -> tuple[list[Flight], float]:
    """A backend that hangs while few ask: what was seen, and its moment, in seconds from `epoch` on."""
    found = Hour(fleet)
    random = found.random
    at = 400 + random.uniform(0, 60)
    engine = found.engine(16)
    engine.held.append((at, FOREVER))
    asks = found.chats(0, at, clients=2)
    asks += found.some(at, random.randint(4, 20), 60, patience=random.uniform(30, 120))
    asks += found.some(at + 60, 6, 60, patience=random.uniform(30, 120))
    return [_silenced(each, epoch + at, random.uniform(20, 100)) for each in engine.serve(fleet, asks)], at


def _silenced(each: Flight, at: float, patience: float) -> Flight:
    """One that was being answered at a moment, and got nothing more."""
    if each.token is None or (each.ended or at) <= at:
        return each
    begun = each.streamed and each.token <= at
    silenced = replace(each, end=End.LEFT, ended=at + patience, silence=None)
    if begun:
        return replace(silenced, last_byte=at, outcome="client_cancel_mid_stream")
    headers = each.first_byte if each.first_byte is not None and each.first_byte <= at else None
    return replace(
        silenced,
        token=None,
        first_byte=headers,
        last_byte=headers,
        outcome="client_cancel_before_first_byte" if headers is None else "client_cancel_mid_stream",
    )
