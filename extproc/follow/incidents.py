"""The consumer that finds deaths, hangs and freezes of backends as they happen.

    incidents = Incidents(directory, reporter, reports, prober)    # None: nobody is asked
    follower = Follower(..., watcher=incidents)

It keeps of each exchange when it gave bytes and how it ended, and looks at the workers' tables of what is in flight
every `TABLES_SECONDS`, or more often. What it sees is for the reporter, in a thread of its own: nothing here waits.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from extproc.core.joined import NO_LLM, NO_RESPONSE
from extproc.core.records import AnyRecord, RequestLlm
from extproc.core.times import timestamp
from extproc.follow.reports import Reports
from extproc.history import now as history_now
from extproc.history.join import Exchange, Parts
from extproc.history.joiner import Joiner
from extproc.incidents import evidence
from extproc.incidents.evidence import End, Flight, Known
from extproc.incidents.live import Watch
from extproc.incidents.prober import Prober
from extproc.incidents.reporter import Reporter
from extproc.journal import live as tables
from extproc.journal.live import LiveExchange

TABLES_SECONDS: Final = 2.0
SOON_SECONDS: Final = 0.5
"""The same while backends are silent."""
_NEVER: Final = float("inf")


class Incidents:
    """One data directory."""

    def __init__(self, directory: Path, reporter: Reporter, reports: Reports, prober: Prober | None = None) -> None:
        self._directory = directory
        self._reporter = reporter
        self._reports = reports
        self._prober = prober
        if prober is not None:
            prober.start()
        self._watch = Watch()
        self._tables_at = 0.0

    # A consumer --------------------------------------------------------------------------------------------------

    def exchange(self, exchange: Exchange) -> None:
        """One that is final."""
        for flight in _without_bodies(exchange):
            self._watch.add(flight)
            if self._prober is not None:
                self._prober.named(flight.upstream)

    def record(self, record: AnyRecord) -> None:
        """Of no exchange: nothing that a backend did."""

    def sequence(self) -> int:
        return 0

    def flushed_to(self, sequence: int) -> bool:
        """What was not reported is found again at the next start, whatever the position."""
        return True

    # And more ----------------------------------------------------------------------------------------------------

    def taken(self, record: AnyRecord) -> None:
        """A record, as it is read: a suspect who comes again is told at once."""
        if (repeat := self._reports.repeats.of(record)) is not None:
            self._reports.repeat(repeat)

    def step(self, now: float, joiner: Joiner, *, is_caught_up: bool) -> None:
        """Look for what has befallen the backends until now, the time up to which everything was read."""
        if is_caught_up and (since := time.monotonic()) >= self._tables_at:
            soon = self._watch.silences(now, map(_in_flight, self._rows().values()))
            self._tables_at = since + (SOON_SECONDS if soon else TABLES_SECONDS)
        if self._watch.is_due:
            for sighting in self._watch.look(now, lambda: self._others(joiner, now)):
                self._reporter.report(sighting)

    def close(self, timeout: float) -> None:
        """Report what was seen, and deliver that."""
        if self._prober is not None:
            self._prober.close(0.0)  # what it has learned is kept after each round
        self._reporter.close(timeout / 2)
        self._reports.close(timeout / 2)

    def _rows(self) -> dict[str, LiveExchange]:
        """What is in flight, at workers that live: what others left behind will not go on."""
        rows = {each.id: each for each in tables.read(self._directory)}
        if not rows:
            return rows
        alive = {(worker, boot) for _, worker, boot in history_now.live_series([self._directory])}
        return {id: each for id, each in rows.items() if (each.worker, each.boot_id) in alive}

    def _others(self, joiner: Joiner, now: float) -> tuple[Iterable[Flight], float]:
        """For `Watch.look`: what has ended and is not final, what is in flight, and since when there is any of which
        nothing is known."""
        rows = self._rows()
        text = timestamp(int(now * 1e9))
        found = [flight for parts in joiner.ended_not_final() for flight in _without_bodies(parts.exchange(text))]
        over = {each.id for each in found}
        running = {parts.id: parts for parts in joiner.in_flight()}
        found += [
            _in_flight(each, running.get(id))
            for id, each in rows.items()
            if id not in over and each.started_ns < now * 1e9
        ]
        unknown = [evidence.seconds(each.started_at) or _NEVER for id, each in running.items() if id not in rows]
        return found, min(unknown, default=_NEVER)


def _without_bodies(exchange: Exchange) -> list[Flight]:
    """What an exchange says without what its request asked for, which is most of the work: deaths are found so."""
    answer, llm = exchange.response or NO_RESPONSE, exchange.llm or NO_LLM
    message = (llm.error and llm.error.message) or ""
    streamed = "event-stream" in (answer.content_type or "")
    return evidence.flights(exchange, lambda *_: None, Known(None, message, streamed))


def _in_flight(row: LiveExchange, parts: Parts | None = None) -> Flight:
    """`parts`: what there is in the journal of it; None: nothing, or that is of no interest."""
    begun = None if parts is None else parts.begun
    llm = (begun and begun.llm) or RequestLlm()
    return Flight(
        id=row.id,
        upstream=row.upstream or "",
        started=row.started_ns / 1e9,
        end=End.RUNNING,
        cluster=row.cluster,
        model=llm.model or "",
        status=row.status,
        first_byte=_seconds(row.first_byte_ns),
        last_byte=_seconds(row.last_chunk_ns) if row.response_chunks else _seconds(row.first_byte_ns),
        token=_seconds(row.first_token_ns),
        silence=None if row.silence_ns is None else (row.silence_ns[0] / 1e9, row.silence_ns[1] / 1e9),
        streamed=row.first_token_ns is not None or bool(llm.stream),
        body=(begun and begun.request and begun.request.sha256) or "",
        size=row.request_bytes,
        fingerprint=llm.fingerprint or "",
    )


def _seconds(ns: int | None) -> float | None:
    return None if ns is None else ns / 1e9
