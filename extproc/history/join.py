"""Records that belong together, as the one exchange that `extproc log --json` shows.

    parts = Parts(id, directory)
    parts.add(record)            # in any order; True for the record that ends it
    parts.exchange(now)          # what they say together

The word on an exchange comes from two sides: what passed, from our own records, and why it ended, from Envoy's
access entry, which follows within its flush interval, perhaps in another worker's segment. What Envoy says of the
upstream, the flags and the details is taken before what it said in mid-exchange. Where the recorder saw nothing of the
request, or nothing at all (see `alone.py`), the entry says that too. Where an entry has not come
`ACCESS_SECONDS` after the end, none will: `access_log` is `missing`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Any, Final, Self

from msgspec import UNSET, UnsetType, structs

from extproc.core import joined
from extproc.core.llm import request_llm, response_llm, without_content
from extproc.core.marks import credential
from extproc.core.outcome import Outcome, decide, outcome_class
from extproc.core.records import (
    Access,
    AnyRecord,
    Body,
    Headers,
    Known,
    Late,
    Open,
    Orphan,
    Progress,
    Protocol,
    Request,
    RequestLlm,
    Response,
    ResponseLlm,
)
from extproc.core.times import later, milliseconds, started_by_id
from extproc.history import alone
from extproc.history.position import RecordPosition
from extproc.journal.live import LiveExchange

ACCESS_SECONDS: Final = 5
"""How long after its end an exchange waits for Envoy's access entry."""

JOINED: Final = frozenset({"request", "open", "response", "orphan", "late", "access"})
"""The types of records that belong to an exchange; an `access` record only where it names one."""


class Exchange(joined.Exchange, frozen=True, dict=True, gc=True):
    """One exchange, and where it was read. What it says is in its fields, and is all of it that goes into JSON."""

    def read_from(
        self, directory: Path, records: Mapping[str, Known], positions: Sequence[RecordPosition] = ()
    ) -> Self:
        """Note what it was made of."""
        self.__dict__["source"] = directory, records, positions
        return self

    def with_fields(self, **fields: Any) -> Self:
        """The same with other values."""
        return structs.replace(self, **fields).read_from(*self.__dict__["source"])

    @property
    def directory(self) -> Path:
        """The data directory."""
        found: Path = self.__dict__["source"][0]
        return found

    @property
    def records(self) -> Mapping[str, Known]:
        """What it was made of, by type; none of one that an index has told."""
        found: Mapping[str, Known] = self.__dict__["source"][1]
        return found

    @property
    def positions(self) -> Sequence[RecordPosition]:
        """Where these stand in its directory, in the order in which they were met."""
        found: Sequence[RecordPosition] = self.__dict__["source"][2]
        return found

    @property
    def in_flight(self) -> bool:
        """It has no terminal record yet."""
        return self.outcome is None

    @property
    def begun(self) -> Request | Open | None:
        """What there is of the request: its record, else that of the unfinished one."""
        found = self.records.get("request") or self.records.get("open")
        return found if isinstance(found, Request | Open) else None

    @property
    def access(self) -> Access | None:
        """Envoy's entry."""
        found = self.records.get("access")
        return found if isinstance(found, Access) else None

    def body(self, direction: str) -> Body | None:
        """What its record says of a direction's body: the text, the bytes, or the name of a file."""
        if direction == "request":
            return self.begun.request.body if self.begun is not None and self.begun.request is not None else None
        answer = self.records.get("response")
        return answer.response.body if isinstance(answer, Response) and answer.response is not None else None


class Parts:
    """The records of one exchange that were met so far."""

    __slots__ = (
        "access",
        "directory",
        "given",
        "id",
        "late",
        "made",
        "opened",
        "orphan",
        "positions",
        "protocol",
        "request",
        "response",
        "seen",
    )

    def __init__(self, id: str, directory: Path) -> None:
        self.id = id
        self.directory = directory
        self.positions: list[RecordPosition] = []
        """Where the records stand, of those that stand in this directory."""
        self.opened: Open | None = None
        self.request: Request | None = None
        self.response: Response | None = None
        self.orphan: Orphan | None = None
        self.late: Late | None = None
        self.access: Access | None = None
        self.protocol: Protocol | None = None
        self.seen: LiveExchange | None = None
        """What the table of exchanges in flight says of it."""
        self.given = False
        """The exchange was given, and is kept until it has settled (see `joiner.py`)."""
        self.made: Exchange | None = None
        """As it was given, while nothing has come since."""

    def add(self, record: AnyRecord, position: RecordPosition | None = None) -> bool:
        """Take a record in. True when it is the one that ends the exchange."""
        self.made = None
        if position is not None:
            self.positions.append(position)
        if isinstance(record, Request | Open | Response | Late):
            self.protocol = record.protocol or self.protocol
        match record:
            case Open():
                self.opened = record if self.opened is None or record.request is not None else self.opened
            case Request():
                self.request = self.request or record
            case Late():
                self.late = record
            case Access():
                if self.access is None or alone.stands_alone(self.access):
                    self.access = record
                return self.is_alone
            case Response() if not self.over:
                self.response = record
                return True
            case Orphan() if not self.over:
                self.orphan = record
                return True
        return False

    def take_over(self, other: Parts) -> None:
        """Take in the entry that stood alone and is of this exchange."""
        if other.access is not None:
            self.add(other.access)
            if other.directory == self.directory:
                self.positions += other.positions

    def leave_bodies(self) -> None:
        """Keep what bodies say in their places."""
        self.made = None
        for record in self._records().values():
            match without_content(record):
                case Request() as request:
                    self.request = request
                case Open() as opened:
                    self.opened = opened
                case Response() as response:
                    self.response = response

    @property
    def over(self) -> bool:
        """It has its terminal record."""
        return self.response is not None or self.orphan is not None or self.is_alone

    @property
    def is_alone(self) -> bool:
        """Envoy's entry is all that there is."""
        return self.access is not None and alone.stands_alone(self.access) and not self._recorded

    @property
    def complete(self) -> bool:
        """Nothing is expected any more."""
        return self.over and self.access is not None

    @property
    def began(self) -> bool:
        """There is a record of its own, not only what others say of it."""
        return self._recorded or self.is_alone

    @property
    def _recorded(self) -> bool:
        return any(each is not None for each in (self.request, self.opened, self.response, self.orphan))

    @property
    def begun(self) -> Request | Open | None:
        """What there is of the request: its record, else that of the unfinished one."""
        return self.request or self.opened

    @property
    def started_at(self) -> str:
        """When its request came; what of it only Envoy has seen began by Envoy's clock."""
        answered_at = None if self.response is None else self.response.started_at
        if self.begun is None and self.access is not None and self.access.started_at:
            return min(answered_at or "~", self.access.started_at)
        found = (self.request and self.request.started_at) or (self.opened and self.opened.started_at) or answered_at
        first = self.orphan or self.opened or self.access
        return found or started_by_id(self.id) or ("" if first is None else first.at)

    @property
    def ended_at(self) -> str | None:
        """When it ended, by its terminal record; None while it is in flight."""
        if self.is_alone and self.access is not None:
            return later(self.started_at, (self.access.duration_ms or 0) / 1000)
        if self.response is not None:
            return self.response.ended_at
        return None if self.orphan is None else self.orphan.at

    def exchange(self, now: str | None = None) -> Exchange:
        """What the records say together. `now`, RFC 3339: an entry that has not come yet may still be expected."""
        begun, access, response = self.begun, self.access or _NO_ENTRY, self._answered()
        asked, seen, known = begun or _NO_REQUEST, begun or access, self.orphan or self.seen or _NO_ORPHAN
        first = begun or self.response or self.orphan or self.access
        started_at, ended_at = self.started_at, self.ended_at
        began_before = response.started_at not in (None, started_at)
        earlier_ms = (milliseconds(started_at, response.started_at) or 0.0) if began_before else 0.0
        request, answer = self._request(), self._answer(earlier_ms)
        outcome, status = self._outcome(response), self._status(known)
        made = Exchange(
            id=self.id,
            started_at=started_at,
            ended_at=ended_at,
            duration_ms=self._duration_ms(earlier_ms),
            outcome=None if outcome is None else outcome.value,
            method=seen.method or response.method,
            path=seen.path or response.path,
            authority=seen.authority or None,
            scheme=seen.scheme or None,
            client=seen.client or None,
            status=status,
            upstream=access.upstream or response.upstream or known.upstream,
            cluster=access.cluster or response.cluster or known.cluster,
            route=access.route or response.route,
            response_flags=response.response_flags if self.access is None else access.response_flags,
            response_code_details=access.response_code_details or response.response_code_details,
            request_id=seen.request_id or None,
            trace_id=asked.trace_id,
            span_id=asked.span_id,
            worker=_of_the_journal(first, "worker"),
            boot_id=_of_the_journal(first, "boot_id"),
            seq=_of_the_journal(first, "seq"),
            request=request,
            response=answer,
            llm=_llm(None if begun is None else request_llm(begun), response.llm),
            protocol=self.protocol or Protocol(),
            grpc_status=response.grpc_status,
            parent_span_id=asked.parent_span_id,
            held=asked.held,
            best_effort=asked.best_effort,
            routing=asked.routing,
            attempts=access.attempts,
            failed_attempts=access.failed_attempts,
            access_log=self._access_log(ended_at, now),
            envoy=None if self.access is None else _envoy(self.access),
            integrity=_integrity(request, answer, access),
            progress=self._progress(),
            key=credential((request and request.headers) or ()),
            class_=None if outcome is None else outcome_class(outcome, status, response.grpc_status),
        )
        return made.read_from(self.directory, self._records(), self.positions)

    def _answered(self) -> Response:
        """The response record with its `llm`; one that says nothing where there is none."""
        record = self.response or Response(id=self.id)
        return record if record.llm is not None else structs.replace(record, llm=response_llm(record))

    def _duration_ms(self, earlier_ms: float) -> float | None:
        counted = None if self.response is None else self.response.duration_ms
        if counted is None:
            return milliseconds(self.started_at, self.ended_at)
        return _later_by(counted, earlier_ms)

    def _outcome(self, answered: Response) -> Outcome | None:
        """None while it is in flight."""
        return decide(self.response and answered, self.orphan, self.access) if self.over else None

    def _status(self, known: Orphan | LiveExchange) -> int | None:
        if self.response is not None:
            return self.response.status
        return self.access.status if self.is_alone and self.access is not None else known.status

    def _progress(self) -> Progress | None:
        if self.orphan is not None:
            return self.orphan.progress
        return None if self.seen is None else self.seen.progress()

    def _request(self) -> joined.ExchangeRequest | None:
        part = None if self.begun is None else self.begun.request
        if part is None:
            return None
        ended_by = "orphan" if part.ended_by is None and self.orphan is not None else part.ended_by
        return joined.ExchangeRequest(
            part.bytes,
            part.sha256,
            part.chunks,
            ended_by,
            part.truncated,
            part.content_type,
            part.headers,
            trailers=self._trailers(part.trailers, "request"),
            body_lost=part.body_lost,
            unknown=part.unknown,
        )

    def _answer(self, earlier_ms: float) -> joined.ExchangeResponse | None:
        part = None if self.response is None else self.response.response
        if part is None:
            return None
        return joined.ExchangeResponse(
            part.bytes,
            part.sha256,
            part.chunks,
            part.ended_by,
            part.truncated,
            part.content_type,
            part.headers,
            part.max_silence_ms,
            _later_by(part.silence_at_ms, earlier_ms),
            part.silence_at_byte,
            _later_by(part.first_byte_ms, earlier_ms),
            _later_by(part.last_byte_ms, earlier_ms),
            trailers=self._trailers(part.trailers, "response"),
            body_lost=part.body_lost,
            unknown=part.unknown,
        )

    def _trailers(self, trailers: Headers | UnsetType, direction: str) -> Headers | UnsetType:
        if trailers is UNSET and self.late is not None and self.late.trailers is not UNSET:
            return self.late.trailers.get(direction, UNSET)
        return trailers

    def _access_log(self, ended_at: str | None, now: str | None) -> str:
        if self.access is not None:
            return "received"
        late = ended_at is not None and (now is None or now > later(ended_at, ACCESS_SECONDS))
        return "missing" if late else "pending"

    def _records(self) -> dict[str, Known]:
        every = (self.request, self.opened, self.response, self.orphan, self.late, self.access)
        return {record.type: record for record in every if record is not None}


_NO_REQUEST: Final = Request(id="")
_NO_ORPHAN: Final = Orphan(id="")
_NO_ENTRY: Final = Access(id=None)
_of_envoy: Final = attrgetter(*joined.Envoy.__struct_fields__)
_WHOLE: Final = frozenset({"headers", "end_of_stream", "content_length", "trailers"})


def _of_the_journal(record: Known | None, name: str) -> Any:
    """What the journal has added to a record; null where nobody has."""
    found = getattr(record, name, UNSET)
    return None if found is UNSET else found


def _llm(request: RequestLlm | None, response: ResponseLlm | None) -> joined.Llm | None:
    if request is None and response is None:
        return None
    asked, answered = request or RequestLlm(), response or ResponseLlm()
    errors = [part.parse_error for part in (asked, answered) if part.parse_error]
    error = answered.error
    return joined.Llm(
        api=answered.api or asked.api,
        model=asked.model,
        stream=asked.stream,
        params=asked.params,
        response_model=answered.response_model,
        response_id=answered.response_id,
        finish_reasons=answered.finish_reasons,
        usage=answered.usage,
        ttft_ms=answered.ttft_ms,
        output_chars=answered.output_chars,
        fingerprint=asked.fingerprint,
        error=UNSET if error is None else joined.Error(error.type, error.code, error.message),
        parse_error="; ".join(map(str, errors)) or UNSET,
    )


def _envoy(access: Access) -> joined.Envoy:
    return joined.Envoy(*_of_envoy(access))


def _integrity(
    request: joined.ExchangeRequest | None, response: joined.ExchangeResponse | None, access: Access
) -> list[joined.Difference]:
    """Where Envoy has counted other bytes than we have digested.

    Only directions that ended whole can be compared, and an answer only where nothing broke on its way: of one that
    was cut off, or that Envoy has compressed, it counts what left for the client, and we what came from the backend.
    """
    findings = []
    whole = not access.response_flags and not _compressed_by_envoy(response, access)
    for direction, part, envoy in (
        ("request", request, access.request_bytes),
        ("response", response, access.response_bytes if whole else None),
    ):
        if part is None or envoy is None or part.ended_by not in _WHOLE or part.truncated or part.bytes is None:
            continue
        if part.bytes != envoy:
            findings.append(joined.Difference(direction, envoy, part.bytes))
    return findings


def _compressed_by_envoy(response: joined.ExchangeResponse | None, access: Access) -> bool:
    headers = (response and response.headers) or ()
    return access.encoding is not None and ("content-encoding", access.encoding) not in headers


def _later_by(milliseconds: float | None, more: float) -> float | None:
    return milliseconds if milliseconds is None or not more else round(milliseconds + more, 3)
