"""An incident as one page of text: when, what was seen, who was in flight, who may have done it, what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final

from extproc.core.times import moment_text
from extproc.incidents.evidence import End, Flight
from extproc.incidents.incident import Class, Incident

WORDS: Final = {
    Class.DEATH: "died",
    Class.HANG: "hung: it gave nothing more to anybody",
    Class.FREEZE: "froze, and went on: it gave nothing to anybody",
    Class.CRASH_LOOP: "died again: it is in a crash loop",
    Class.BROKEN_FROM_START: "served nothing since its start",
    Class.STOPPED_OR_KILLED: "was stopped or killed: nothing points to a request",
}
_CHART: Final = range(24, 49)
"""How wide a chart may be: it is as wide as leaves room, in `_WIDTH` columns, for how each has ended."""
_WIDTH: Final = 80
_SILENT_SECONDS: Final = 1.0
"""Shorter silences are an engine's pace."""
_MOST_BARS: Final = 40
MOST_SUSPECTS: Final = 5
_LINES: Final = ((0.95, "almost certain"), (0.8, "likely"), (0.6, "probable"), (0.0, "possible"))


def sure(confidence: float) -> str:
    """A confidence in words."""
    return next(words for least, words in _LINES if confidence >= least)


def page(
    incident: Incident, local_time: Callable[[str], str], trace_url: str | None = None, where: Sequence[str] = ()
) -> Iterator[str]:
    """The page, line by line. `local_time` writes a moment as its reader has it; `where`: the arguments that name the
    journal, for the commands to run next. Nothing is escaped."""
    sighting = incident.sighting
    yield f"{incident.id}   {incident.kind.value}   {sure(sighting.confidence)} ({sighting.confidence:.2f})"
    yield headline(incident, local_time)
    yield ""
    yield "What was seen"
    yield from (f"  {line}" for line in incident.evidence)
    yield ""
    yield from _who(incident)
    yield ""
    yield f"In flight: {len(incident.in_flight)}"
    yield from chart(incident)
    yield ""
    yield "Next"
    yield from next_steps(incident, trace_url, where)


def headline(incident: Incident, local_time: Callable[[str], str]) -> str:
    """What befell which backend, and when, in a sentence."""
    sighting = incident.sighting
    backend = f"{sighting.upstream} ({sighting.cluster})" if sighting.cluster else sighting.upstream
    words = f"{WORDS[incident.kind]}{_until(incident, local_time)}"
    return f"At {local_time(incident.at)} the backend {backend}{_engine(incident, local_time)} {words}."


def _until(incident: Incident, local_time: Callable[[str], str]) -> str:
    """How long a silence lasted."""
    sighting = incident.sighting
    if incident.ended_at is not None:
        return f", until {local_time(incident.ended_at)} ({sighting.until - sighting.at:.1f} s)"
    return " since then, as far as is known" if sighting.lasts else ""


def _engine(incident: Incident, local_time: Callable[[str], str]) -> str:
    said = None if incident.start is None else incident.start.answer
    if said is None or said.engine is None:
        return f", {incident.sighting.engine.name} by its message," if incident.sighting.engine else ""
    name = f"{said.engine} {said.version}" if said.version else said.engine
    started = incident.backend["started_at"]
    return f", {name}," if said.started_at is None or not started else f", {name}, started at {local_time(started)},"


def _who(incident: Incident) -> Iterator[str]:
    if incident.verdict == "no_request":
        yield "No request is to blame"
        yield f"  {why_nobody(incident)}"
        return
    yield f"Suspects (that none of them did it: {incident.ranking.nobody:.2f})"
    named = incident.suspects[:MOST_SUSPECTS]
    count = max(len(incident.in_flight), len(named))  # some may have ended before
    for rank, suspect in enumerate(named, 1):
        yield f"  {rank} of {count}  {suspect.score:.2f}  {suspect.flight.id}"
        yield from (f"      {reason}" for reason in suspect.reasons)
        if suspect.latch is not None:
            yield f"      the earlier one: {suspect.latch.id}"


def why_nobody(incident: Incident) -> str:
    """Why no request is accused."""
    if incident.kind is Class.BROKEN_FROM_START:
        return "it broke all that came, whatever that asked for: look at how it is started"
    waiting = sum(each.token is None or each.token > incident.sighting.at for each in incident.in_flight)
    had_tokens = f"{len(incident.in_flight) - waiting} of those in flight had tokens"
    if not waiting:
        return had_tokens
    others = "the other one" if waiting == 1 else f"the {waiting} others"
    return f"{had_tokens}, and {others} asked for nothing that was not served before"


def window(incident: Incident) -> tuple[float, float] | None:
    """From when to when a chart shows who was in flight; None: nobody was."""
    if not incident.in_flight:
        return None
    at = incident.sighting.at
    starts = [each.started for each in incident.in_flight]
    first = max(min([*starts, at]), at - 120)
    return first, max(at + 0.001, min(incident.sighting.until, max(at + max(at - first, 1), *starts)))


def bars(incident: Incident) -> tuple[list[Flight], int]:
    """Whom a chart shows, oldest first, the suspects among them; and how many it leaves out."""
    named = {each.flight.id for each in incident.suspects[:MOST_SUSPECTS]}
    shown = sorted(incident.in_flight, key=lambda each: (each.id not in named, each.started))[:_MOST_BARS]
    return sorted(shown, key=lambda each: each.started), len(incident.in_flight) - len(shown)


def chart(incident: Incident) -> Iterator[str]:
    """Who ran when, as bars: `.` waiting, `=` giving tokens, `|` the moment."""
    found = window(incident)
    if found is None:
        return
    at, (first, last) = incident.sighting.at, found
    named = {each.flight.id: rank for rank, each in enumerate(incident.suspects[:MOST_SUSPECTS], 1)}
    shown, hidden = bars(incident)
    room = _WIDTH - len("  1> 0123456789ab  ") - max(len(_end(each)) for each in shown)
    width = min(max(room, _CHART.start), _CHART.stop - 1)
    for each in shown:
        mark = f"{named[each.id]}>" if each.id in named else "  "
        yield f"  {mark} {each.id[-12:]} {_bar(each, found, at, width)} {_end(each)}"
    if hidden:
        yield f"     and {hidden} more"
    yield f"     {'':12} {at - first:.1f} s before to {last - at:.1f} s after"
    yield f"     {'':12} . waiting or silent   = giving tokens   | the moment"


def _bar(each: Flight, window: tuple[float, float], at: float, width: int) -> str:
    first, step = window[0], (window[1] - window[0]) / width
    spans = list(flowing(each))
    cells = []
    for index in range(width):
        begin, end = first + index * step, first + (index + 1) * step
        if begin <= at < end:
            cells.append("|")
        elif end <= each.started or (each.ended is not None and begin >= each.ended):
            cells.append(" ")
        else:
            cells.append("=" if any(since < end and begin <= until for since, until in spans) else ".")
    return "".join(cells)


def flowing(each: Flight) -> Iterator[tuple[float, float]]:
    """From when until when it was given tokens, but for a long silence."""
    if each.token is None:
        return
    last = max(each.token, each.quiet_from() or each.token)
    began, over = each.silence or (last, last)
    if each.token <= began <= over <= last and over - began >= _SILENT_SECONDS:
        yield each.token, began
        yield over, last
    else:
        yield each.token, last


def _end(each: Flight) -> str:
    if each.end is End.RUNNING:
        return "in flight"
    return f"{each.outcome.removeprefix('upstream_').removeprefix('client_')} {each.status or ''}".rstrip()


def next_steps(incident: Incident, trace_url: str | None, where: Sequence[str] = ()) -> Iterator[str]:
    """What to run next, a line each, as a shell takes it."""
    suspects: Sequence[Flight] = [each.flight for each in incident.suspects[:1]]
    for each in suspects:
        yield _command("show", each.id, *where)
        server = ("--to", "http://TEST-SERVER:8000", "--restart", "COMMAND")
        yield _command("replay", incident.id, "--bisect", *server, *where)
        if "--from" not in where:  # what is kept from backends is a matter of one machine
            yield _command("quarantine", "add", incident.id, *where)
        if trace_url and each.trace:
            yield f"  {trace_url}/trace/{each.trace}"
    there = max([incident.sighting.at, *(each.started + 0.001 for each in incident.in_flight)])
    at = incident.at if there == incident.sighting.at else moment_text(datetime.fromtimestamp(there, UTC))
    yield _command("inflight", "--at", at, "--upstream", _glob(incident.sighting.upstream), *where)
    if not suspects:
        yield "  the backend's own log, and what its supervisor did at that time"


def _command(*arguments: str) -> str:
    return f"  {shlex.join(('extproc', *arguments))}"


def _glob(text: str) -> str:
    """A pattern that a text fits, without what a terminal cannot show."""
    return "".join(each if each.isprintable() and each != "\ufffd" else "?" for each in text)
