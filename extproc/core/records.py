"""The records of the journal as types, one for each `type` of line, and the way from a line to them.

    record = unseal(line)                      # raises DamagedLine
    match record:
        case Request(): record.request.bytes
        case Unknown(): ...                    # a newer version's

A type's fields are the members of its JSON object, under the same names and in the same order. A member that is null,
or that an earlier version did not write, is None; one that is written only where there is something to say is UNSET
without it, and so are those that only the journal knows (`worker`, `boot_id`, `seq`, `crc`) until it has written the
record.

What a newer version has added is read and kept: members that a type does not have, or that are of another type than
ours, stand in its `unknown`, at whatever depth, and a line of a type that we do not have, or without the id that it
would need, is an `Unknown`. Such lines, and those with lone surrogates, take the slow way; `encode` writes what was
kept again in its place.
"""

from __future__ import annotations

import base64
import types
import typing
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, ClassVar, Final, TypeVar, cast

import msgspec
from msgspec import UNSET, UnsetType

from extproc.core import record as line_format

_NOT_YET: Final = cast(Any, UNSET)
"""For what every record has once it is in the journal, so that who reads it need not ask."""


_INLINE: Final = line_format.LONGEST // 2
"""Bytes of the longest body in a record, as it stands there; the rest is for everything else."""
_ESCAPED: Final = 6
"""What a byte of a text may become: `\\u0000`."""


class JournalObject(msgspec.Struct, frozen=True, kw_only=True, gc=False, forbid_unknown_fields=True):
    """A JSON object of the journal."""

    unknown: dict[str, Any] | UnsetType = msgspec.field(default=UNSET, name="")
    """Members that this version does not know."""


# Parts of records ------------------------------------------------------------------------------------------------

HeaderValue = str | dict[str, str]
"""Text where it is UTF-8, else `{"base64": ...}`."""
Headers = list[tuple[str, HeaderValue]]
"""In the order of the wire, credentials replaced, pseudo-headers left out."""


class Body(JournalObject, frozen=True, gc=False, omit_defaults=True):
    """A body: one of these."""

    text: str | None = None
    """The body, where it is UTF-8."""
    base64: str | None = None
    """The body, where it is not."""
    file: str | None = None
    """Where a larger one stands, within the data directory."""

    @classmethod
    def of(cls, data: bytes) -> Body:
        """A body as it stands in a record. Exact either way."""
        try:
            return cls(text=data.decode())
        except UnicodeDecodeError:
            return cls(base64=base64.b64encode(data).decode("ascii"))


class Passed(JournalObject, frozen=True, gc=False):
    """A direction as it passed. A field is null where an earlier version did not write it."""

    bytes: int | None = None
    """Of the body."""
    sha256: str | None = None
    """Of the body, in hexadecimal. Null while the direction is not over."""
    chunks: int | None = None
    """In how many pieces the body came."""
    ended_by: str | None = None
    """`headers`, `end_of_stream`, `content_length`, `trailers`, `closed`, `cancelled`, `drain` or `orphan`. Null while
    the direction is not over."""
    truncated: bool | None = None
    """Whether there was more of it, or may have been."""
    content_type: str | None = None
    """Null where no header says it."""
    headers: Headers | None = None
    """Pairs of name and value in the order of the wire; a value that is not UTF-8 is `{"base64": ...}`."""


class Silences(Passed, frozen=True, gc=False):
    """An answer as it passed. Times count from the exchange's start."""

    max_silence_ms: float | None = None
    """The longest time between two pieces of the body. Null where it came in one piece."""
    silence_at_ms: float | None = None
    """When that began. Null where it came in one piece."""
    silence_at_byte: int | None = None
    """After how many bytes. Null where it came in one piece."""
    first_byte_ms: float | None = None
    """When the first bytes of the body came, or else the headers."""
    last_byte_ms: float | None = None


class RequestDirection(Passed, frozen=True, gc=False):
    """The request as it passed."""

    body: Body | None = None
    """Null where it could not be written."""
    trailers: Headers | UnsetType = UNSET
    """Left out where there were none."""
    body_lost: bool | UnsetType = UNSET
    """The body could not be written. Left out where it was."""


class ResponseDirection(Silences, frozen=True, gc=False):
    """The answer as it passed. Times count from the exchange's start."""

    body: Body | None = None
    """Null where it could not be written."""
    trailers: Headers | UnsetType = UNSET
    """Left out where there were none."""
    body_lost: bool | UnsetType = UNSET
    """The body could not be written. Left out where it was."""


class RequestLlm(JournalObject, frozen=True, gc=False):
    """What a request asks of a model. A field is null where the body does not say it."""

    api: str | None = None
    """`chat.completions`, `completions`, `embeddings`, `responses` or `messages`."""
    model: str | None = None
    stream: bool | None = None
    params: dict[str, Any] | None = None
    """Every parameter but the content, of which there are counts and sizes."""
    fingerprint: str | None = None
    """A hash of the shape of the parameters."""
    duplicate_keys: bool | UnsetType = UNSET
    """The body has a key twice."""
    parse_error: str | UnsetType = UNSET
    """What could not be read, and where."""


class LlmError(JournalObject, frozen=True, gc=False):
    """An error of the model's server. A field is null where the server did not give it."""

    type: str | None = None
    code: str | int | None = None
    message: str | None = None


class ResponseLlm(JournalObject, frozen=True, gc=False):
    """What a model answered. A field is null where the body does not say it."""

    api: str | None = None
    response_model: str | None = None
    response_id: str | None = None
    finish_reasons: list[str | None] | None = None
    """By the index of the choice; null for one without."""
    usage: dict[str, Any] | None = None
    """As the server sent it."""
    output_chars: int | None = None
    """Characters of text, reasoning and tool arguments, of all choices. Null where they could not be counted."""
    done: bool | None = None
    """A stream came to its last event."""
    error: LlmError | None = None
    cut: bool | UnsetType = UNSET
    """It ended where its format does not end."""
    parse_error: str | UnsetType = UNSET
    ttft_ms: float | None = None
    """From the exchange's start to the first token. Null where none came, or where nobody saw when."""


class Protocol(JournalObject, frozen=True, gc=False):
    """What Envoy sent beyond the end of a direction."""

    late: dict[str, int] = {}
    """Messages, by kind: `request.body`, `response.trailers` ..."""
    duplicate_end_of_stream: int = 0
    late_bytes: dict[str, int] | UnsetType = UNSET
    """Late body messages by what was in them: `same` as the body's end, `different` or `empty`."""


class Routing(JournalObject, frozen=True, gc=False):
    """What Envoy was told to route by."""

    by: str | None = None
    """`body`, or `headers` where what the client sent stands. Null where nobody knows."""
    why: str | None = None
    """Why a header that was asked for could not be had from the body. Null where none was missing."""
    set: dict[str, str] = {}
    """The headers that were set."""


class Attempt(JournalObject, frozen=True, gc=False):
    """One attempt at an upstream. A field is null where Envoy does not say it."""

    upstream: str | None = None
    cluster: str | None = None
    status: int | None = None
    response_flags: list[str] | None = None
    upstream_failure: str | None = None
    started_at: str | None = None
    duration_ms: float | None = None


class Tls(JournalObject, frozen=True, gc=False):
    """The client's connection. A field is null where Envoy does not say it."""

    version: str | None = None
    cipher: int | None = None
    """By its number at IANA."""
    sni: str | None = None
    peer_subject: str | None = None
    peer_sans: list[str] | None = None


class Progress(JournalObject, frozen=True, gc=False):
    """How far an exchange had come. Times count from its start. A field is null where nothing of it had come."""

    request_bytes: int | None = None
    request_chunks: int | None = None
    response_bytes: int | None = None
    response_chunks: int | None = None
    first_byte_ms: float | None = None
    first_token_ms: float | None = None
    last_chunk_at: str | None = None
    max_silence_ms: float | None = None
    """The longest time between two pieces of the answer's body, until then."""
    silence_at_ms: float | None = None
    """When that began."""


# Records ---------------------------------------------------------------------------------------------------------


class Record(JournalObject, frozen=True, kw_only=True, gc=False, tag_field="type"):
    """What every line has."""

    type: ClassVar[str]

    worker: int = _NOT_YET
    boot_id: str = _NOT_YET
    seq: int = _NOT_YET
    crc: str = _NOT_YET


class Segment(Record, frozen=True, gc=False, tag="segment"):
    """The first line of a segment. A field is null where it is not known."""

    type: ClassVar[str] = "segment"

    version: int | None = None
    """Of the format."""
    at: str = ""
    host: str | None = None
    pid: int | None = None
    extproc: str | None = None
    """Our version."""
    clock_offset_ms: float | None = None
    in_flight: dict[str, str] = {}
    """What had no terminal record then, by id: `open`, `request` or `response`."""
    latest: str | UnsetType = UNSET
    """Up to when records were written before; where the clock has been set back."""
    kept: list[tuple[str, int]] | UnsetType = UNSET
    """What retention has left: for each line the exchange and where the line stood."""


class _Request(Record, frozen=True, gc=False):
    id: str
    at: str = ""
    started_at: str | None = None
    method: str | None = None
    path: str | None = None
    authority: str | None = None
    scheme: str | None = None
    client: str | None = None
    """Address and port."""
    request_id: str | None = None
    """Envoy's."""
    trace_id: str | None = None
    span_id: str | None = None
    parent_span_id: str | None = None
    trace_flags: int | None = None
    held: bool | None = None
    """The whole request was held back until it was recorded."""
    best_effort: bool | None = None
    """Nobody waited for the record."""
    routing: Routing | None = None
    """Null where no route asks for it."""
    request: RequestDirection | None = None
    llm: RequestLlm | None = None
    """Null where it is no model's request, or where the body stands in the record: who reads that has it."""
    protocol: Protocol | None = None


class Request(_Request, frozen=True, gc=False, tag="request"):
    """The request is over. A field is null where neither the request nor Envoy says it."""

    type: ClassVar[str] = "request"


class Open(_Request, frozen=True, gc=False, tag="open"):
    """A request that is long in coming. A field is null where it is not known yet."""

    type: ClassVar[str] = "open"


class Response(Record, frozen=True, gc=False, tag="response"):
    """The exchange is over: the terminal record. A field is null where Envoy has not said it by then."""

    type: ClassVar[str] = "response"

    id: str
    at: str = ""
    started_at: str | None = None
    ended_at: str | None = None
    duration_ms: float | None = None
    method: str | None = None
    path: str | None = None
    status: int | None = None
    upstream: str | None = None
    cluster: str | None = None
    route: str | None = None
    response_flags: list[str] | None = None
    response_code_details: str | None = None
    grpc_status: str | None = None
    closed: str | None = None
    """Why the stream was over before the answer: `closed`, `cancelled` or `drain`. Null where it was not."""
    rejected: bool | None = None
    """It was refused by us."""
    response: ResponseDirection | None = None
    """Null where no answer began."""
    llm: ResponseLlm | None = None
    """Null where it is no model's answer, or where the body stands in the record: who reads that has it."""
    protocol: Protocol | None = None


class Orphan(Record, frozen=True, gc=False, tag="orphan"):
    """The exchange was cut off by the sidecar's own end: the terminal record that recovery writes. A field is null
    where the table of exchanges in flight did not have it."""

    type: ClassVar[str] = "orphan"

    id: str
    had: str | None = None
    """The record it had: `open` or `request`."""
    at: str = ""
    of_boot: str | None = None
    of_worker: int | None = None
    upstream: str | None = None
    cluster: str | None = None
    status: int | None = None
    progress: Progress | None = None


class Late(Record, frozen=True, gc=False, tag="late"):
    """What came after the terminal record. A field is null where it is not known."""

    type: ClassVar[str] = "late"

    id: str
    at: str = ""
    protocol: Protocol | None = None
    trailers: dict[str, Headers] | UnsetType = UNSET
    """By direction."""


class Access(Record, frozen=True, gc=False, tag="access"):
    """Envoy's access log entry. A field is null where Envoy does not say it."""

    type: ClassVar[str] = "access"

    id: str | None
    """Of the exchange. Null where it passed without the recorder."""
    at: str = ""
    """When it arrived."""
    started_at: str | None = None
    """By Envoy's clock."""
    duration_ms: float | None = None
    method: str | None = None
    path: str | None = None
    authority: str | None = None
    scheme: str | None = None
    client: str | None = None
    peer: str | None = None
    """The address of the connection. Null where it is the client's host."""
    request_id: str | None = None
    status: int | None = None
    """Null when no answer was sent."""
    response_flags: list[str] | None = None
    response_code_details: str | None = None
    connection_termination_details: str | None = None
    upstream_failure: str | None = None
    upstream: str | None = None
    cluster: str | None = None
    route: str | None = None
    attempts: int | None = None
    http_version: str | None = None
    request_bytes: int | None = None
    response_bytes: int | None = None
    request_headers_bytes: int | None = None
    response_headers_bytes: int | None = None
    times_ms: dict[str, float] | None = None
    """What happened when, in milliseconds since `started_at`."""
    tls: Tls | None = None
    encoding: str | None = None
    """The content-encoding in which the answer left for the client. Null where it had none."""
    bypass: str | None = None
    """Why the route takes no recorder. Null where it does."""
    failed_open: bool | None = None
    """The recorder was asked and failed, and Envoy went on without it."""
    failed_attempts: list[Attempt] | None = None
    """Those before the last. Null where Envoy has not told of each one."""
    alone: bool | UnsetType = UNSET
    """Never on disk: it is an exchange of its own, and the id is one that readers give it (see `alone`)."""


class Gap(Record, frozen=True, gc=False, tag="gap"):
    """What passed without a record. A field is null where it is not known."""

    type: ClassVar[str] = "gap"

    at: str = ""
    from_: str | None = msgspec.field(default=None, name="from")
    to: str | None = None
    count: int = 0
    direction: str | None = None
    why: str | None = None


class End(Record, frozen=True, gc=False, tag="end"):
    """The last line of a closed segment. A field is null where it is not known."""

    type: ClassVar[str] = "end"

    at: str = ""
    records: int | None = None
    """The lines before it."""
    recovered: bool | None = None
    """It was written by recovery."""


class Unknown(JournalObject, frozen=True, gc=False):
    """A line of a type that this version does not have, or without what its type needs. All of it is in `unknown`."""

    type: str = ""
    id: str | None = None
    at: str = ""
    worker: int = 0
    boot_id: str = ""
    seq: int = 0


Known = Segment | Request | Open | Response | Orphan | Late | Access | Gap | End
AnyRecord = Known | Unknown

NOTHING: Final = Unknown(unknown={})


def id_of(record: AnyRecord) -> str | None:
    """The exchange's that a record belongs to; None where it names none."""
    found: str | None = getattr(record, "id", None)
    return found


TYPES: Final[Mapping[str, type[Known]]] = {each.type: each for each in typing.get_args(Known)}


# From a line -----------------------------------------------------------------------------------------------------

_decode: Callable[[bytes], Known] = msgspec.json.Decoder(Known).decode


def unseal(line: bytes) -> AnyRecord:
    """The record in a line, with or without its line end. Raises `DamagedLine` when a byte is not as written."""
    line = line_format.whole(line)
    try:
        return _decode(line)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        return of_fields(line_format.decode(line))


def of_fields(fields: Mapping[str, Any]) -> AnyRecord:
    """The record that an object stands for, whichever version has written it."""
    known = TYPES.get(fields["type"]) if isinstance(fields.get("type"), str) else None
    if known is not None:
        try:
            record = kept(known, {name: value for name, value in fields.items() if name != "type"})
            # Whether anything was kept at whatever depth is so to be seen at the top: see `as_dict`.
            return msgspec.structs.replace(record, unknown={}) if record.unknown is UNSET else record
        except TypeError:
            pass  # it has no id, or none that is a text
    plain = {name: value for name, value in fields.items() if _is(Unknown, name, value)}
    return Unknown(**plain, unknown=dict(fields))


S = TypeVar("S", bound=JournalObject)


def kept(type: type[S], members: Mapping[str, Any]) -> S:
    """An object of this type. Members that do not fit in are kept apart. Raises TypeError where one is wanting."""
    known, unknown, fields = {}, {}, _fields(type)
    for name, value in members.items():
        field = fields.get(name)
        if field is None:
            unknown[name] = value
            continue
        try:
            known[field.name] = _converted(field.type, value)
        except msgspec.ValidationError:
            unknown[name] = value
    return type(**known, unknown=unknown or UNSET)


def _converted(type: Any, value: Any) -> Any:
    """A value of this type. Raises ValidationError."""
    alternatives = typing.get_args(type) if isinstance(type, types.UnionType) else (type,)
    for each in alternatives:
        if typing.get_origin(each) is list and isinstance(value, list) and _is_kept(typing.get_args(each)[0]):
            return [_converted(typing.get_args(each)[0], item) for item in value]
        if _is_kept(each) and isinstance(value, dict):
            return kept(each, value)
    return msgspec.convert(value, type)


def _is_kept(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, JournalObject)


def _is(type: type[JournalObject], name: str, value: Any) -> bool:
    try:
        msgspec.convert(value, _fields(type)[name].type)
    except (KeyError, msgspec.ValidationError):
        return False
    return True


@cache
def _fields(type: type[JournalObject]) -> Mapping[str, msgspec.structs.FieldInfo]:
    """By the name of the member."""
    return {field.encode_name: field for field in msgspec.structs.fields(type) if field.encode_name}


# And back --------------------------------------------------------------------------------------------------------


def fields_of(value: JournalObject) -> dict[str, Any]:
    """The members as they stand in JSON, those that were kept behind the others. Of a tagged type with the tag."""
    if isinstance(value, Unknown):
        return dict(value.unknown or {})
    return dict(line_format.plain(value))


def as_dict(record: Known | Unknown) -> dict[str, Any]:
    """The same for a record that was read, quickly: values stay as they are."""
    if isinstance(record, Unknown) or record.unknown is not UNSET:
        return fields_of(record)
    members: dict[str, Any] = msgspec.to_builtins(record)
    return members


def encode(record: JournalObject) -> bytes:
    """One record as a JSON object without a line end, ASCII only. What was kept of newer versions is written again."""
    return line_format.encode(fields_of(record) if isinstance(record, Unknown) else record)


def fits(body: bytes) -> bool:
    """Whether a body can stand in a record, however many of its bytes have to be escaped."""
    return len(body) * _ESCAPED <= _INLINE or len(encode(Body.of(body))) <= _INLINE
