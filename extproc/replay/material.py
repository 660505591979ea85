"""What a search needs of a journal: an incident's requests, ready to be sent, and one that is known to be good.

    material = of_incident(incident, journal, credentials)
    material.steps[id], material.window, material.suspects, material.known_good

A request that is known to be good is the plainest of those that the same model has served: with the fewest parameters,
and the shortest answer. It asks for nothing that could leave something behind in a server: one that does might be the
very latch that is searched for.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from extproc.core.joined import NO_LLM
from extproc.core.outcome import Outcome
from extproc.core.times import moment_text
from extproc.errors import ExtprocError
from extproc.history import bodies
from extproc.history.answers import Answers
from extproc.history.filters import Filters
from extproc.history.join import Exchange
from extproc.incidents import evidence, incident, indexed
from extproc.incidents.incident import Incident
from extproc.replay.minimise import CONTENT
from extproc.replay.request import Request, prepare
from extproc.replay.search import Candidate
from extproc.replay.sender import Leave
from extproc.replay.window import Step

_LEFT: Final = frozenset({Outcome.CLIENT_CANCEL_BEFORE_FIRST_BYTE, Outcome.CLIENT_CANCEL_MID_STREAM})
_PLAIN: Final = frozenset(
    {"model", "stream", "stream_options", "max_tokens", "max_completion_tokens", "temperature", "top_p", "seed", "user"}
    | set(CONTENT)
)
"""What a request may ask for that is known to be good."""
_SERVED: Final = ("class:ok",)
_LOOKED_AT: Final = 2000
"""Of those that were served: the last ones, when one that is known to be good is looked for."""
_AROUND: Final = timedelta(hours=1)
"""And within this time of one that is sent alone."""
_BEST_APIS: Final = frozenset({"chat.completions", "completions"})


@dataclass(frozen=True, slots=True)
class Credentials:
    """What was not recorded, from the command line: see `request.prepare`."""

    variables: Mapping[str, Sequence[str]]
    headers: Sequence[tuple[str, bytes]] = ()
    optional: bool = False
    """What is missing is left out."""


@dataclass(frozen=True, slots=True)
class Material:
    """What to send."""

    steps: Mapping[str, Step]
    """By the ids of their exchanges, those of the window with their times."""
    window: tuple[str, ...]
    """In the order in which they had begun."""
    suspects: tuple[Candidate, ...]
    hints: Mapping[str, tuple[str, ...]]
    """For each suspect, the parameters that speak against it."""
    known_good: Request | None
    recorded: Mapping[str, Exchange]


def find_incident(journal: Answers, id: str) -> Incident:
    """The incident that goes by `id`."""
    return incident.named(incident.incidents(indexed.flights(journal)), id)


def of_incident(found: Incident, journal: Answers, credentials: Credentials) -> Material:
    """What an incident's search needs. Raises ExtprocError where nothing of it can be sent."""
    there = {each.id: each for each in (*found.in_flight, *(suspect.flight for suspect in found.ranking.suspects))}
    latches = {suspect.latch.id for suspect in found.ranking.suspects if suspect.latch is not None}
    recorded = {each.id: each for each in journal.of_ids({*there, *latches})}
    best = _Best({each.model for each in there.values()}, before=found.sighting.at)
    models = () if "" in best.models else tuple(sorted(best.models))
    served = Filters(outcomes=_SERVED, models=models, until=found.at)
    for exchange in journal.exchanges(served, limit=_LOOKED_AT, complete=True):
        best.consider(exchange)
    requests = _requests([each for each in recorded.values() if _has_body(each)], credentials)
    window = sorted((each for each in there.values() if each.id in requests), key=lambda each: (each.started, each.id))
    if not window:
        raise ExtprocError(f"{found.id}: none of its requests was recorded")
    began = window[0].started
    times = {each.id: each.started - began for each in window}
    steps = {id: Step(request, times.get(id), _leave(recorded[id])) for id, request in requests.items()}
    return Material(
        steps,
        tuple(each.id for each in window),
        tuple(_suspects(found, requests)),
        {each.flight.id: tuple(_hints(each.reasons)) for each in found.ranking.suspects},
        best.request(credentials) or _made_up(recorded[window[0].id], requests[window[0].id]),
        recorded,
    )


def of_exchange(exchange: Exchange, journal: Answers, credentials: Credentials) -> Material:
    """The same for one request alone, whoever is to blame."""
    id = exchange.id
    request = prepare(exchange, whole_body(exchange), credentials.variables, credentials.headers)
    _check([request], credentials)
    best = _Best({_model(exchange)}, but=id)
    started = datetime.fromisoformat(exchange.started_at)
    near = Filters(outcomes=_SERVED, since=moment_text(started - _AROUND), until=moment_text(started + _AROUND))
    for each in journal.exchanges(near, limit=_LOOKED_AT, complete=True):
        best.consider(each)
    known_good = best.request(credentials) or _made_up(exchange, request)
    return Material({id: Step(request, 0.0, _leave(exchange))}, (id,), (Candidate(id),), {}, known_good, {id: exchange})


def whole_body(exchange: Exchange) -> bytes:
    """The bytes of a request. Raises ExtprocError where they were not recorded."""
    body = bodies.whole(exchange, "request")
    if exchange.request is None or body is None:
        raise ExtprocError(f"{exchange.id}: its request was not recorded")
    return body


def _has_body(exchange: Exchange) -> bool:
    return exchange.request is not None and evidence.recorded_body(exchange, "request") is not None


def _requests(exchanges: Sequence[Exchange], credentials: Credentials) -> dict[str, Request]:
    requests = {
        each.id: prepare(each, whole_body(each), credentials.variables, credentials.headers, check=False)
        for each in exchanges
    }
    _check(list(requests.values()), credentials)
    return requests


def _check(requests: Sequence[Request], credentials: Credentials) -> None:
    """Nothing is sent without a credential that it had, unless that was asked for."""
    missing = dict.fromkeys(name for request in requests for name in request.missing)
    if missing and not credentials.optional:
        raise MissingCredentialsError(list(missing))


class MissingCredentialsError(ExtprocError):
    """Requests had credentials, which are never recorded. `names`: what the command line has to give."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(f"{', '.join(names)} was not recorded")
        self.names = names


def _suspects(found: Incident, requests: Mapping[str, Request]) -> Iterator[Candidate]:
    for each in found.ranking.suspects:
        if each.flight.id in requests:
            latch = each.latch.id if each.latch is not None and each.latch.id in requests else None
            yield Candidate(each.flight.id, latch)


def _hints(reasons: Sequence[str]) -> Iterator[str]:
    """The parameters that reasons begin with: `response_format.type "text": never before ...`."""
    for reason in reasons:
        place = reason.partition(" ")[0]
        yield place.partition(".")[0].partition("[")[0].rstrip(":")


def _leave(exchange: Exchange) -> Leave | None:
    """When its client left."""
    if exchange.outcome not in _LEFT:
        return None
    if exchange.response is not None and exchange.response.bytes:
        return Leave(bytes=exchange.response.bytes)
    return None if exchange.duration_ms is None else Leave(seconds=exchange.duration_ms / 1000)


# Known to be good ----------------------------------------------------------------------------------------------


class _Best:
    """The plainest request that was served."""

    def __init__(self, models: set[str], *, before: float | None = None, but: str | None = None) -> None:
        self.models = models
        self._before = before
        self._but = but
        self._found: tuple[tuple[float, ...], Exchange] | None = None

    def consider(self, exchange: Exchange) -> None:
        llm = exchange.llm or NO_LLM
        if (
            exchange.class_ != "ok"
            or exchange.id == self._but
            or llm.api not in _BEST_APIS
            or _model(exchange) not in self.models
            or not set(llm.params or ()) <= _PLAIN
            or not _ended_before(exchange, self._before)
        ):
            return
        plainness = (len(llm.params or ()), exchange.duration_ms or 0.0)
        if self._found is None or plainness < self._found[0]:
            self._found = plainness, exchange

    def request(self, credentials: Credentials) -> Request | None:
        if self._found is None or not _has_body(self._found[1]):
            return None
        exchange = self._found[1]
        return prepare(exchange, whole_body(exchange), credentials.variables, credentials.headers, check=False)


def _ended_before(exchange: Exchange, at: float | None) -> bool:
    ended = exchange.ended_at
    return at is None or (ended is not None and datetime.fromisoformat(ended).timestamp() < at)


def _model(exchange: Exchange) -> str:
    return (exchange.llm or NO_LLM).model or ""


def _made_up(exchange: Exchange, request: Request) -> Request | None:
    """One word for the same model, where the journal has nothing that was served."""
    llm = exchange.llm or NO_LLM
    if llm.api not in _BEST_APIS or not llm.model:
        return None
    content = "messages" if llm.api == "chat.completions" else "prompt"
    document = {"model": llm.model, content: CONTENT[content], "max_tokens": 1}
    return request.with_document(document)


def document_of(request: Request) -> dict[str, Any] | None:
    """The JSON object that a request's body is; None for any other body."""
    try:
        document = json.loads(request.body)
    except (ValueError, RecursionError):
        return None
    return document if isinstance(document, dict) else None
