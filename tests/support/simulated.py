"""A fleet of engines in simulated time: what its recorder would have seen while one of them dies of a row of `poison`.

    played = play(row, seed)
    played.flights, played.guilty, played.moments

No process runs, so that hours pass in milliseconds. The flights are made as the deaths of real engines looked in
tests/forensics/real.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from random import Random
from typing import Final

from support import families, quiet
from support.families import Body, Traffic
from support.poison import Row

from extproc.incidents import atoms
from extproc.incidents.evidence import End, Flight
from extproc.incidents.incident import Incident, incidents

START: Final = 1_763_694_720.0
FOREVER: Final = 1e9

_BAD: Final = {
    "upstream_error_frame": 200,
    "upstream_error_status": 500,
    "upstream_reset_mid_stream": 200,
    "upstream_reset_before_headers": 503,
    "upstream_truncated": 200,
}
_CUT: Final = "upstream_reset_mid_stream"
_SHAPES: Final = frozenset({"response_format", "structured_outputs", "guided_json", "tools"})


@dataclass
class Played:
    """What was seen, and what is true."""

    flights: list[Flight] = field(default_factory=list)
    guilty: list[set[str]] = field(default_factory=list)
    """The ids of those that did it, by death."""
    moments: list[float] = field(default_factory=list)
    upstreams: list[str] = field(default_factory=list)
    frozen: bool = False
    bodies: dict[str, bytes] = field(default_factory=dict)
    """The requests, by their digests."""


@dataclass
class _Plan:
    """A request that is under way: what becomes of it if nothing befalls its engine."""

    upstream: str
    start: float
    token: float
    end: float
    stream: bool
    path: str
    body: Body
    client: int
    leaves: float = FOREVER
    id: str = ""


def fingerprint(path: str, body: Body) -> str:
    """The names and types of the parameters, with a hash of what is itself a shape: as records have it."""
    shape = [
        f"{name}={json.dumps(value, sort_keys=True) if name in _SHAPES else type(value).__name__}"
        for name, value in sorted(body.items())
    ]
    return hashlib.sha256("\n".join([path, *shape]).encode()).hexdigest()[:16]


class Fleet:
    """Engines, their clients, and what was seen of them."""

    def __init__(self, random: Random, *, engines: int, clients: int, kinds: Sequence[str]) -> None:
        self.random = random
        self.engines = [f"10.0.0.{number}:8000" for number in range(1, engines + 1)]
        self.clients = clients
        self.traffic = Traffic(random, kinds)
        self.flights: list[Flight] = []
        self.bodies: dict[str, bytes] = {}
        self._numbers = itertools.count(1)
        self._speed = random.uniform(0.01, 0.04)
        self._first = random.choice([0.05, 0.2, 0.6])

    def plan(self, client: int, at: float, upstream: str, path: str, body: Body) -> _Plan:
        """A request, and how long it takes."""
        random = self.random
        token = at + self._first * random.lognormvariate(0, 0.6) + len(json.dumps(body)) * 1e-6
        limit = min(int(body.get("max_tokens") or 200), 600)
        tokens = 1 if path == "/v1/embeddings" else random.randint(1, max(limit, 1))
        end = token + tokens * self._speed
        plan = _Plan(upstream, at, token, end, bool(body.get("stream")), path, body, client)
        plan.id = f"{int((START + at) * 1000):012x}-7000-{next(self._numbers):012x}"
        return plan

    def whole(self, plan: _Plan) -> Flight:
        """As it is seen when it ends well."""
        if plan.leaves < plan.end:
            return self.left(plan, plan.leaves)
        return self._flight(plan, plan.end, End.GOOD, "ok", 200, token=plan.token, last=plan.end)

    def left(self, plan: _Plan, at: float) -> Flight:
        """As it is seen when its client goes."""
        begun = plan.stream and plan.token < at
        name = "client_cancel_mid_stream" if begun else "client_cancel_before_first_byte"
        return self._flight(
            plan,
            at,
            End.LEFT,
            name,
            200 if begun else None,
            token=plan.token if begun else None,
            last=at if begun else None,
        )

    def broken(self, plan: _Plan, at: float, outcome: str, quiet: float | None = None, message: str = "") -> Flight:
        """As it is seen when its engine breaks it; `quiet`: it gave nothing from then on."""
        since = at if quiet is None else quiet
        token = plan.token if plan.stream and plan.token < since else None
        if token is None and outcome in ("upstream_reset_mid_stream", "upstream_truncated"):
            outcome = "upstream_reset_before_headers"
        if not plan.stream and outcome == "upstream_error_frame":
            outcome = "upstream_error_status"
        said = outcome in ("upstream_error_frame", "upstream_error_status")
        last = at if said else None if token is None else max(token, since - self.random.uniform(0, 0.05))
        flight = self._flight(plan, at, End.BAD, outcome, _BAD[outcome], token=token, last=last, error=message)
        if quiet is not None and token is not None and said:
            flight = replace(flight, silence=(max(token, quiet - self.random.uniform(0, 0.05)), at))
        return flight

    def refused(self, plan: _Plan) -> Flight:
        """As it is seen when there is no connection."""
        return self._flight(plan, plan.start + 0.002, End.REFUSED, "upstream_connect_fail", 503, token=None, last=None)

    def declined(self, plan: _Plan, status: int = 400) -> Flight:
        """As it is seen when it is wrong."""
        end = plan.start + self.random.uniform(0.002, 0.02)
        bad = status >= 500
        kind = End.BAD if bad else End.DECLINED
        return self._flight(plan, end, kind, "upstream_error_status", status, token=None, last=end)

    def _flight(
        self,
        plan: _Plan,
        ended: float,
        end: End,
        outcome: str,
        status: int | None,
        *,
        token: float | None,
        last: float | None,
        error: str = "",
    ) -> Flight:
        raw = json.dumps(plan.body).encode()
        digest = hashlib.sha256(raw).hexdigest()
        self.bodies[digest] = raw
        usable = end not in (End.REFUSED, End.OTHER)
        first = token if plan.stream else last
        return Flight(
            id=plan.id,
            upstream=plan.upstream,
            started=START + plan.start,
            end=end,
            ended=START + ended,
            cluster="llm",
            model=str(plan.body.get("model", "")),
            outcome=outcome,
            status=status,
            first_byte=_moment(first if first is not None else last),
            last_byte=_moment(last),
            token=_moment(token if plan.stream else (last if end is End.GOOD else None)),
            streamed=plan.stream,
            error=error,
            body=digest,
            size=len(raw),
            fingerprint=fingerprint(plan.path, plan.body),
            path=plan.path,
            client=f"192.0.2.{plan.client}:1234",
            atoms=atoms.of(plan.path, raw if len(raw) <= atoms.MOST_BYTES else None, None, len(raw))
            if usable
            else None,
        )


def _moment(at: float | None) -> float | None:
    return None if at is None else START + at


# Deaths ------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Death:
    """How one death goes: who did it is added by `play`."""

    at: float
    upstream: str
    how: str
    back: float


def play(row: Row, seed: int, change: Callable[[Body], Body] = lambda body: body) -> Played:
    """A deployment whose engine dies of a row. `change`: what is done to the body of each request of the row."""
    random = Random(f"{row.name} {seed}")
    kinds = _kinds(random, row)
    engines = 3 if row.retried else random.choice([1, 1, 1, 2, 3])
    fleet = Fleet(random, engines=engines, clients=random.choice([8, 14, 25]) * engines, kinds=kinds)
    played = Played(frozen="freeze" in row.how)
    at = random.choice([20.0, 60.0, 240.0]) + random.uniform(0, 20)
    upstream = random.choice(fleet.engines)
    deaths: list[Death] = []
    special: list[_Plan] = []
    killer = change(_poisoned(fleet, row, random))
    for number in range(row.deaths):
        down = random.uniform(4, 40)
        death = Death(at, upstream, row.how, at + down)
        deaths.append(death)
        guilty = _guilty(fleet, row, killer if row.retried else change(_poisoned(fleet, row, random)), death, change)
        special += guilty
        first = [plan.id for plan in guilty if not plan.id.startswith("earlier")]
        played.guilty.append(set(first))
        played.moments.append(START + death.at)
        played.upstreams.append(upstream)
        at = death.back + random.uniform(30, 90)
        if number + 1 == row.deaths and row.retried:
            other = next(each for each in fleet.engines if each != upstream)
            carried = Death(deaths[-1].at + random.uniform(1.5, 6), other, row.how, deaths[-1].at + 40)
            deaths.append(carried)
            again = _guilty(fleet, replace(row, stage="arrival"), killer, carried, change)
            special += again
            played.guilty.append({plan.id for plan in again})
            played.moments.append(START + carried.at)
            played.upstreams.append(other)
    _live(fleet, deaths, special, at + random.uniform(20, 60), retries=random.random() < 0.5)
    played.flights, played.bodies = fleet.flights, fleet.bodies
    for index, guilty_ids in enumerate(played.guilty):
        played.guilty[index] = {each.removeprefix("earlier ") for each in guilty_ids}
    return played


def at_death(row: Row, played: Played) -> Incident | None:
    """What was found of the last death that was played. A freeze of which no stream tells is told when it was ended."""
    moment, upstream = played.moments[-1], played.upstreams[-1]
    until = moment + (40 if row.how == "freeze, cut" else 2.5)
    found = incidents(played.flights)
    return next(
        (each for each in found if each.sighting.upstream == upstream and moment - 2.5 < each.sighting.at < until), None
    )


def place(incident: Incident, guilty: set[str]) -> int | None:
    """The place of the first of the guilty among those that are named."""
    return next((place for place, each in enumerate(incident.suspects, 1) if each.flight.id in guilty), None)


def stop(how: str, seed: int) -> Played:
    """The same without a killer: somebody ends a process, again and again."""
    random = Random(f"stop {how} {seed}")
    fleet = Fleet(random, engines=random.choice([1, 2]), clients=random.choice([8, 14, 25, 40]), kinds=_all(random))
    played = Played()
    at = random.choice([8.0, 20.0, 60.0, 300.0]) + random.uniform(0, 20)
    deaths = []
    for _ in range(2):
        death = Death(at, random.choice(fleet.engines), how, at + random.uniform(4, 40))
        deaths.append(death)
        played.moments.append(START + death.at)
        played.upstreams.append(death.upstream)
        played.guilty.append(set())
        at = death.back + random.uniform(60, 200)
    _live(fleet, deaths, [], at + 30, retries=random.random() < 0.5)
    played.flights, played.bodies = fleet.flights, fleet.bodies
    return played


def again_and_again(seed: int, change: Body) -> Played:
    """What has `change` is served once, early on; minutes later three like it kill one engine, one after the other, and
    the last of these kills another engine as well."""
    random = Random(f"again {seed}")
    fleet = Fleet(random, engines=2, clients=10, kinds=["chat", "extraction"])
    first, second = fleet.engines
    fleet.flights.append(fleet.whole(fleet.plan(800, 5.0, first, families.CHAT, {**fleet.traffic.plain(), **change})))
    deaths = [Death(at, first, "cut", at + 20) for at in (200.0, 350.0, 500.0)]
    killers = [{**fleet.traffic.plain(), **change} for _ in deaths]
    deaths.append(Death(640.0, second, "cut", 660.0))
    special = []
    for death, body in zip(deaths, [*killers, killers[-1]], strict=True):
        plan = fleet.plan(900, death.at - 0.1, death.upstream, families.CHAT, body)
        plan.token = plan.end = FOREVER
        special.append(plan)
    _live(fleet, deaths, special, 700.0, retries=False)
    return Played(
        fleet.flights,
        [{plan.id} for plan in special],
        [START + each.at for each in deaths],
        [each.upstream for each in deaths],
        bodies=fleet.bodies,
    )


def _all(random: Random) -> list[str]:
    return ["chat", *random.sample(["chat", "session", "agent", "extraction", "embeddings", "batch", "pictures"], 4)]


HEALTHY: Final = (
    "bursty", "deploying", "cancelling", "autoscaling", "refusing", "failing alone", "compiling", "draining envoy",
    *quiet.KINDS,
)  # fmt: skip


def healthy(kind: str, seed: int, seconds: float = 3600) -> Played:
    """An hour in which nothing dies, whatever else happens."""
    random = Random(f"healthy {kind} {seed}")
    fleet = Fleet(random, engines=random.choice([1, 2, 4]), clients=random.choice([4, 8]), kinds=_all(random))
    if kind in quiet.KINDS:
        return Played(quiet.hour(kind, fleet, seconds))
    fleet._speed, fleet._first = 0.05, max(fleet._first, 0.2)
    _live(fleet, [], [], seconds, retries=True)
    at = 0.0
    while at < seconds - 200:
        at += random.uniform(60, 400)
        _happens(fleet, kind, at)
    return Played(fleet.flights, bodies=fleet.bodies)


def quiet_hang(seed: int) -> Played:
    """A hang of which no streams tell that were giving tokens, since hardly any were."""
    random = Random(f"quiet hang {seed}")
    flights, at = quiet.hang(Fleet(random, engines=1, clients=4, kinds=_all(random)), START)
    return Played(flights, moments=[START + at])


def _happens(fleet: Fleet, kind: str, at: float) -> None:
    """One of the things that are no incident."""
    random, engine = fleet.random, fleet.random.choice(fleet.engines)
    many = [
        fleet.plan(client, at + random.uniform(0, 1), engine, *fleet.traffic.request(client)) for client in range(20)
    ]
    match kind:
        case "bursty":
            fleet.flights += [fleet.whole(each) for _ in range(3) for each in many[: random.randint(3, 20)]]
        case "refusing" | "failing alone":
            status = random.choice([400, 404, 422, 429]) if kind == "refusing" else 500
            poison = fleet.traffic.plain() | {"max_tokens": -1}
            fleet.flights += [
                fleet.declined(replace(each, body=poison if random.random() < 0.7 else each.body), status)
                for each in many
            ]
        case "cancelling":
            leave = at + random.uniform(1, 3)
            fleet.flights += [
                fleet.left(each, leave + random.uniform(0, 0.3)) for each in many if each.start < leave - 0.3
            ]
        case "deploying":
            _replaced(fleet, engine, at)
        case "autoscaling":
            _scaled(fleet, at)
        case "compiling":
            new = f"10.0.1.{random.randrange(250)}:8000"
            slow = at + random.uniform(20, 90)
            for each in many:
                plan = replace(each, upstream=new, token=slow + random.uniform(0, 0.3), end=slow + random.uniform(1, 6))
                fleet.flights.append(fleet.whole(plan))
        case "draining envoy":
            for each in many:
                seen = fleet.left(each, at + 2)
                fleet.flights.append(replace(seen, end=End.OTHER, outcome="proxy_drain", atoms=None))


def _replaced(fleet: Fleet, engine: str, at: float) -> None:
    """A rolling restart: what runs ends well, nothing new comes but a few that find no connection."""
    lasts = fleet.random.uniform(10, 60)
    fleet.flights = [
        each for each in fleet.flights if each.upstream != engine or not START + at <= each.started < START + at + lasts
    ]
    for number in range(fleet.random.choice([0, 2, 10])):
        path, body = fleet.traffic.request(number)
        fleet.flights.append(fleet.refused(fleet.plan(number, at + fleet.random.uniform(0, lasts), engine, path, body)))


def _scaled(fleet: Fleet, at: float) -> None:
    """A new engine for a while, drained at its end."""
    random, new = fleet.random, f"10.0.2.{fleet.random.randrange(250)}:8000"
    until = at + random.uniform(30, 120)
    for client in range(6):
        now = at + random.uniform(0, 2)
        while now < until:
            plan = fleet.plan(client, now, new, *fleet.traffic.request(client))
            fleet.flights.append(fleet.whole(plan))
            now = plan.end + 0.05


def _kinds(random: Random, row: Row) -> list[str]:
    others = [
        each
        for each in ("chat", "chat", "session", "agent", "extraction", "embeddings", "batch")
        if each not in row.without
    ]
    kinds = random.sample(others, random.randint(2, 4))
    return ["chat", *kinds, *row.families]


def _poisoned(fleet: Fleet, row: Row, random: Random) -> Body:
    path, base = fleet.traffic.request(fleet.random.randrange(fleet.clients))
    if path != families.CHAT or row.path != families.CHAT:
        base = (
            {"model": "m", "max_tokens": 64}
            if row.path.startswith("/v1/") and row.path != "/v1/embeddings"
            else {"model": "m"}
        )
        if row.path == families.CHAT:
            base = fleet.traffic.plain()
    if row.usual and row.families:
        return {"model": "m", **families._FAMILIES[row.families[0]](fleet.traffic, 0)[1]}
    return {**base, **row.change(random)}


def _guilty(fleet: Fleet, row: Row, body: Body, death: Death, change: Callable[[Body], Body]) -> list[_Plan]:
    """The requests that do it, and the innocent one before, whose id begins with `earlier`."""
    random = fleet.random
    before = {
        "arrival": random.choice([0.005, 0.03, 0.3]),
        "queue": random.uniform(5, 30),
        "tokens": random.uniform(1, 20),
        "cancel": random.uniform(0.5, 5),
        "latched": random.uniform(1, 4),
    }[row.stage]
    if row.how == "memory":
        before += random.uniform(0.5, 2)
    plan = fleet.plan(900, max(death.at - before, 0.1), death.upstream, row.path, body)
    plan.token, plan.end = FOREVER, FOREVER
    if row.stage == "tokens":
        plan.token = plan.start + 0.2 * before
        plan.stream = True
        plan.body["stream"] = True
    if row.stage == "cancel":
        plan.token, plan.leaves = plan.start + 0.3 * before, death.at - random.uniform(0.003, 0.1)
        plan.stream = True
    if row.stage == "latched":
        plan.token, plan.end = plan.start + 0.3, death.at - random.uniform(0.1, 0.6)
    found = [plan]
    for _ in range(row.beside):
        other = fleet.plan(
            901,
            plan.start - random.uniform(0.01, 0.2),
            death.upstream,
            row.path,
            change({**body, **row.change(random)}),
        )
        other.token = other.end = FOREVER
        found.append(other)
    if row.earlier is not None:
        at = max(death.at - before - random.uniform(0.5, 15), 0.05)
        base = {name: value for name, value in fleet.traffic.plain().items() if name != "stream"}
        earlier = fleet.plan(902, at, death.upstream, row.path, change({**base, **row.earlier(random), "stream": True}))
        earlier.token, earlier.end = at + 0.1, min(at + 0.5, plan.start - 0.01)
        if row.cancelled:
            earlier.leaves = earlier.end - 0.05
            earlier.end = FOREVER
        earlier.id = f"earlier {earlier.id}"
        found.append(earlier)
    return found


def _live(fleet: Fleet, deaths: Sequence[Death], special: Sequence[_Plan], until: float, *, retries: bool) -> None:
    """Every client asks again and again until the end; `special` come when they come."""
    random = fleet.random
    for client in range(fleet.clients):
        at = random.uniform(0, 2)
        upstream = fleet.engines[client % len(fleet.engines)]
        while at < until:
            path, body = fleet.traffic.request(client)
            at = _asked(fleet, deaths, fleet.plan(client, at, upstream, path, body), until, retries)
            if random.random() < 0.3:
                at += random.uniform(0, 3)
    for plan in special:
        plan.id = plan.id.removeprefix("earlier ")
        _asked(fleet, deaths, plan, until, retries=False)


def _asked(fleet: Fleet, deaths: Sequence[Death], plan: _Plan, until: float, retries: bool) -> float:
    """One request, and its retries; when its client is free again."""
    random = fleet.random
    usual = plan.client < 900
    if usual and random.random() < 0.02:
        plan.leaves = plan.start + random.uniform(0.1, 1.2) * (plan.end - plan.start)
    seen = _fate(fleet, deaths, plan)
    fleet.flights.append(seen)
    ended = (seen.ended or START + plan.end) - START
    if not retries or not usual or seen.end not in (End.BAD, End.REFUSED):
        return ended + (random.uniform(0.2, 2) if seen.end is not End.GOOD else 0.01)
    for wait in (0.5, 1.0):
        again = fleet.plan(plan.client, ended + wait * random.uniform(0.7, 1.3), plan.upstream, plan.path, plan.body)
        if again.start > until:
            break
        seen = _fate(fleet, deaths, again)
        fleet.flights.append(seen)
        ended = (seen.ended or START + again.end) - START
        if seen.end not in (End.BAD, End.REFUSED):
            break
    return ended + random.uniform(0.2, 2)


def _fate(fleet: Fleet, deaths: Sequence[Death], plan: _Plan) -> Flight:
    """What becomes of a request."""
    for death in deaths:
        if death.upstream != plan.upstream or min(plan.end, plan.leaves) <= death.at:
            continue
        if plan.start >= death.back:
            continue
        return _met(fleet, death, plan)
    return fleet.whole(plan)


def _met(fleet: Fleet, death: Death, plan: _Plan) -> Flight:
    """What becomes of one that is there at a death, or comes while the engine is away."""
    if death.how in ("hang", "freeze, cut"):
        return _silent(fleet, death, plan, killed=death.how != "hang")
    if death.how == "freeze":
        return _frozen(fleet, death, plan)
    if death.how.startswith("alone"):
        return _alone(fleet, death, plan)
    return _late(fleet, death, plan) if plan.start >= death.at else _struck(fleet, death, plan)


def _late(fleet: Fleet, death: Death, plan: _Plan) -> Flight:
    """It came when the engine was dead."""
    since = plan.start - death.at
    if death.how == "keep-503":
        return fleet.declined(plan, 503)
    if death.how == "keep-500" or (death.how == "frames" and since <= 2):
        return fleet.declined(plan, 500)
    if death.how == "500" and since <= 0.2:
        return fleet.broken(plan, death.at + 0.2, _CUT)
    return fleet.refused(plan)


def _struck(fleet: Fleet, death: Death, plan: _Plan) -> Flight:
    """It was in flight."""
    random, at, killer = fleet.random, death.at, plan.token >= FOREVER
    match death.how:
        case "frames" | "keep-500":
            delay = random.uniform(0.5, 1.0) if killer else random.uniform(0, 0.5)
            return fleet.broken(plan, at + delay, "upstream_error_frame", quiet=at)
        case "500" if killer:
            return fleet.broken(plan, at, "upstream_error_status")
        case "500":
            return fleet.broken(plan, at + 0.2 + random.uniform(0, 0.03), _CUT, quiet=at)
        case "null" if not plan.stream:
            end = at + random.uniform(0, 0.3)
            seen = fleet.whole(replace(plan, token=min(plan.token, end), end=end))
            return replace(seen, end=End.BAD, token=None)
        case "null":
            return fleet.broken(plan, at + random.uniform(0, 0.3), _CUT, quiet=at)
    return fleet.broken(plan, at + random.uniform(0, 0.05), _CUT)


def _alone(fleet: Fleet, death: Death, plan: _Plan) -> Flight:
    """Only that one request is hit."""
    if plan.token < FOREVER:
        return fleet.whole(plan)
    return fleet.declined(plan, 500) if death.how == "alone" else fleet.left(plan, plan.start + 60)


def _silent(fleet: Fleet, death: Death, plan: _Plan, *, killed: bool) -> Flight:
    """Nothing more comes: clients wait for half a minute, or somebody ends it."""
    random = fleet.random
    patience = plan.start + random.uniform(30, 60)
    cut = death.at + (death.back - death.at) * (0.6 if killed else 1)
    end = cut if killed else max(patience, death.at + random.uniform(12, 30))
    if plan.start >= cut:
        return fleet.refused(plan)
    if end >= cut:
        return fleet.broken(
            plan, cut + random.uniform(0, 0.04), "upstream_reset_mid_stream", quiet=max(death.at, plan.start)
        )
    seen = fleet.left(plan, end)
    if plan.stream and plan.token < death.at:
        return replace(seen, last_byte=START + death.at - random.uniform(0, 0.05))
    return replace(
        seen, token=None, first_byte=None, last_byte=None, outcome="client_cancel_before_first_byte", status=None
    )


def _frozen(fleet: Fleet, death: Death, plan: _Plan) -> Flight:
    """All wait until it goes on."""
    random, lasts = fleet.random, death.back - death.at
    if plan.token >= FOREVER:
        return (
            fleet.declined(replace(plan, start=plan.start), 400)
            if random.random() < 0.3
            else replace(
                fleet.whole(replace(plan, token=death.back + 0.2, end=death.back + 1)), started=START + plan.start
            )
        )
    if plan.token < death.at:
        moved = replace(plan, end=plan.end + lasts)
        seen = fleet.whole(moved)
        return replace(
            seen, silence=(START + death.at - random.uniform(0, 0.05), START + death.back + random.uniform(0, 0.05))
        )
    return fleet.whole(replace(plan, token=max(plan.token, death.back) + 0.05, end=plan.end + lasts))
