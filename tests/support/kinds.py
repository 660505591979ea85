"""Journals of every kind by chance: every type of record, several workers and boots, gaps, orphans, late and early
entries, damage, segments that are open, closed or compressed.

    history = History(random.Random(7))
    history.write(directory, history.events[:20])     # as it was then
    history.write(directory, history.events)          # and as it is later: the same lines, and more
"""

from __future__ import annotations

import io
import random
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from support.journals import START_NS

from extproc.core.record import encode, seal
from extproc.core.records import fields_of
from extproc.core.times import timestamp
from extproc.journal import frames, segment
from extproc.journal.flight import Flight
from extproc.journal.segment import CLOSED, COMPRESSED, OPEN, Name

MS: Final = 1_000_000
SECOND: Final = 1000 * MS
MODELS: Final = ("llama-3", "gpt-oss-120b", "m" * 300, "mod\udc80el", "")
UPSTREAMS: Final = ("10.0.0.7:8000", "[fd00::7]:8000", "backend-1:80")
FLAGS: Final[Sequence[tuple[list[str], str]]] = (
    ([], "via_upstream"),
    (["UC"], "upstream_reset_after_response_started{connection_termination}"),
    (["DC"], "downstream_remote_disconnect"),
    (["UF"], "upstream_reset_before_response_started{connection_failure}"),
    (["NR"], "route_not_found"),
)


class Event(NamedTuple):
    """A record that is written by a worker at a time."""

    at: int
    worker: int
    boot: int
    fields: dict[str, Any]


class History:
    """What happened; `events` in the order in which they were written."""

    def __init__(self, chance: random.Random, *, most: int = 12) -> None:
        self._chance = chance
        self.ids: list[str] = []
        self.belated: set[str] = set()
        """Exchanges of which something came when nobody waited for it any more: lists say so, and leave it out."""
        events: list[Event] = []
        for boot in range(chance.randint(1, 2)):
            for _ in range(chance.randint(most // 2, most)):
                events += self._exchange(boot)
        events += [self._gap() for _ in range(chance.randint(0, 2))]
        self.events = sorted(events, key=lambda event: (event.boot, event.at))
        self._cut = {number for number in range(len(events)) if chance.random() < 0.25}
        self._states = [chance.choice((CLOSED, COMPRESSED)) for _ in range(200)]
        self._damaged = {number for number in range(len(events)) if chance.random() < 0.02}
        self.has_lost_an_end = any(self.events[each].fields["type"] in ("response", "orphan") for each in self._damaged)
        """What ended is in flight for good, then, but where the head of a later segment is believed."""

    def write(self, directory: Path, events: Sequence[Event]) -> None:
        """The journal after these events; what is there is replaced."""
        segments = directory / "segments"
        shutil.rmtree(segments, ignore_errors=True)
        segments.mkdir(parents=True, mode=0o700)
        written: dict[tuple[int, int], _Series] = {}
        for number, event in enumerate(events):
            key = event.worker, event.boot
            series = written.setdefault(key, _Series(segments, Name(event.worker, f"b{event.boot}", 0)))
            if number in self._cut:
                series.end(self._states[series.name.number])
            series.add(event, damaged=number in self._damaged)
        last = max((boot for _, boot in written), default=0)
        for (_, boot), series in written.items():
            series.end(OPEN if boot == last else CLOSED)

    # What happens ----------------------------------------------------------------------------------------------

    def _exchange(self, boot: int) -> list[Event]:
        chance, worker = self._chance, self._chance.randrange(2)
        start = START_NS + boot * 1000 * SECOND + chance.randrange(60) * SECOND + chance.randrange(10**6) * 1000
        lasted = chance.choice((5, 900, 4000, 70_000)) * MS
        id = self._id(start)
        self.ids.append(id)
        both = {"id": id, "request_id": f"{id[:14]}4{id[15:]}"}
        model = chance.choice(MODELS)
        kinds = chance.choice(_STORIES)
        found: list[Event] = []
        for kind in kinds:
            at, fields = self._record(kind, both, start, lasted, model)
            of = chance.randrange(2) if kind in ("access", "alone") else worker
            found.append(Event(at, of, boot, {"type": kind if kind != "alone" else "access", **fields}))
        return found

    def _id(self, start: int) -> str:
        if self._chance.random() < 0.05:
            return f"other-{self._chance.getrandbits(40):x}"
        milliseconds = f"{start // MS:012x}"
        tail = f"{self._chance.getrandbits(48):012x}"
        return f"{milliseconds[:8]}-{milliseconds[8:]}-7{self._chance.getrandbits(12):03x}-8000-{tail}"

    def _record(
        self, kind: str, both: dict[str, Any], start: int, lasted: int, model: str
    ) -> tuple[int, dict[str, Any]]:
        chance, end = self._chance, start + lasted
        flags, details = chance.choice(FLAGS)
        match kind:
            case "request" | "open":
                at = start + (MS if kind == "request" else MS // 2)  # what is over has no `open` record behind it
                return at, {**both, "at": timestamp(at), "started_at": timestamp(start), **self._request(model, kind)}
            case "response":
                return end, {
                    "id": both["id"],
                    "at": timestamp(end),
                    "started_at": timestamp(start),
                    "ended_at": timestamp(end),
                    "duration_ms": lasted / MS,
                    "method": "POST",
                    "path": "/v1/chat/completions",
                    "status": chance.choice((200, 200, 429, 503, None)),
                    "upstream": chance.choice(UPSTREAMS),
                    "response_code_details": "via_upstream",
                    "response": self._answer(model),
                    "llm": None,
                }
            case "orphan":
                return end, {"id": both["id"], "at": timestamp(end), "had": "request"}
            case "late":
                at = end + self._delay(both["id"], (100, 3000)) * MS
                protocol = {"late": {"response.body": 1}, "duplicate_end_of_stream": 1}
                return at, {"id": both["id"], "at": timestamp(at), "protocol": protocol}
        at = end + self._delay(both["id"], (-1, 250, 3000, 9000)) * MS
        return at, {
            **(both if kind == "access" else {**both, "id": None}),
            "at": timestamp(at),
            "started_at": timestamp(start),
            "duration_ms": lasted / MS,
            "method": "POST",
            "path": "/v1/chat/completions",
            "status": chance.choice((200, 404, None)),
            "response_flags": flags,
            "response_code_details": details,
            "upstream": chance.choice((*UPSTREAMS, None)) if kind == "access" else None,
            "cluster": "llm",
            "route": "default",
            "attempts": 2,
            "failed_attempts": chance.choice((None, [{"upstream": UPSTREAMS[0], "cluster": "llm", "status": 503}])),
        }

    def _request(self, model: str, kind: str) -> dict[str, Any]:
        key = f"redacted:{self._chance.randrange(3):012x}"
        body = f'{{"model":{_json(model)},"temperature":0.5,"messages":[],"max_tokens":{self._chance.randrange(99)}}}'
        return {
            "method": "POST",
            "path": self._chance.choice(("/v1/chat/completions", "/v1/chat/completions?key=redacted:1")),
            "client": "192.0.2.9:50123",
            "trace_id": f"{self._chance.getrandbits(128):032x}",
            "request": {
                "bytes": len(body),
                "sha256": "ab" * 32 if kind == "request" else None,
                "chunks": 1,
                "ended_by": "end_of_stream" if kind == "request" else None,
                "truncated": False,
                "content_type": "application/json",
                "headers": [["content-type", "application/json"], ["authorization", key]],
                "body": {"text": body},
            },
            "llm": None,
        }

    def _answer(self, model: str) -> dict[str, Any]:
        number = self._chance.getrandbits(40)
        text = (
            f'{{"id":"chatcmpl-{number:010x}","object":"chat.completion","model":{_json(model)},"choices":[{{"index":0,'
            f'"message":{{"role":"assistant","content":"hi"}},"finish_reason":"stop"}}],'
            f'"usage":{{"prompt_tokens":{number % 97},"completion_tokens":2}}}}'
        )
        return {
            "bytes": len(text),
            "sha256": f"{number:064x}",
            "chunks": 1,
            "ended_by": self._chance.choice(("end_of_stream", "closed")),
            "truncated": False,
            "content_type": "application/json",
            "headers": [["content-type", "application/json"]],
            "body": {"text": text},
            "first_byte_ms": 100.25,
            "last_byte_ms": 150.0,
        }

    def _delay(self, id: str, milliseconds: Sequence[int]) -> int:
        delay = self._chance.choice(milliseconds)
        if delay == milliseconds[-1]:
            self.belated.add(id)
        return delay

    def _gap(self) -> Event:
        at = START_NS + self._chance.randrange(60) * SECOND
        span = {"from": timestamp(at - SECOND), "to": timestamp(at)}
        return Event(at, 0, 0, {"type": "gap", "at": timestamp(at), **span, "count": 1, "direction": "request"})


_STORIES: Final = (
    ("request", "response", "access"),
    ("request", "response", "access"),
    ("request", "response", "access", "late"),
    ("open", "request", "response", "access"),
    ("request", "response"),
    ("request",),
    ("open",),
    ("request", "orphan"),
    ("request", "orphan", "access"),
    ("response", "access"),
    ("access",),
    ("alone",),
    ("request", "response", "alone"),
)


def _json(text: str) -> str:
    return '"' + text.replace("\udc80", "\\udc80") + '"'


class _Series:
    """The segments of one worker and boot."""

    def __init__(self, segments: Path, name: Name) -> None:
        self.name = name
        self._segments = segments
        self._lines: list[bytes] = []
        self._flight = Flight()
        self._seq = 0
        self._at = ""

    def add(self, event: Event, *, damaged: bool) -> None:
        self._at = event.fields["at"]
        if not self._lines:
            self.name = Name(self.name.worker, self.name.boot_id, self.name.number + 1)
            self._append(fields_of(segment.header(self._at, self._flight.snapshot())))
        self._append(event.fields, damaged=damaged)
        if isinstance(event.fields.get("id"), str):
            self._flight.note(event.fields["type"], event.fields["id"])

    def end(self, state: str) -> None:
        if not self._lines:
            return
        if state != OPEN:
            self._append({"type": "end", "at": self._at, "records": len(self._lines), "recovered": state == CLOSED})
        path = self._segments / f"{self.name.stem}{state}"
        with path.open("wb") as file:
            if state == COMPRESSED:
                frames.compress(io.BytesIO(b"".join(self._lines)), file)
            else:
                file.write(b"".join(self._lines))
        self._lines = []

    def _append(self, fields: dict[str, Any], *, damaged: bool = False) -> None:
        self._seq += 1
        line = seal(encode(fields), *self.name.series, self._seq)
        self._lines.append(line.replace(b'"at"', b'"aT"', 1) if damaged else line)
