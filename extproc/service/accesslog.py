"""Envoy's access log as records of the journal: what Envoy says of each request, when it is over.

Envoy sends its entries in batches, a flush interval after their requests at the latest, on one gRPC stream for each
of its threads, to whichever worker that connects to. Each entry becomes an `access` record; whoever reads the journal
joins it to its exchange by the id that the recorder gave Envoy as dynamic metadata, which no client can forge. An entry
without one is of a request that passed without the recorder, and is kept all the same. Entries of single attempts go
into that of their request; those that come before a request's end, where somebody has asked Envoy for them, are passed
over. What the record has is in `records.Access`.

Nothing waits for these records. Those that cannot be written are counted, and the exchange is left without.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from time import monotonic, time_ns
from typing import Protocol

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError
from google.protobuf.timestamp_pb2 import Timestamp

from extproc._proto.access_log_pb2 import (
    AccessLogCommon,
    AccessLogType,
    Address,
    HTTPAccessLogEntry,
    HTTPResponseProperties,
    RequestMethod,
    ResponseFlags,
    StreamAccessLogsMessage,
    TLSProperties,
)
from extproc.core import response_flags
from extproc.core.effects import Append, Effect
from extproc.core.records import Access, Attempt, Tls
from extproc.core.redact import Redactor
from extproc.core.times import timestamp
from extproc.errors import JournalError
from extproc.service.attempts import NOBODY, Attempts, Origin
from extproc.service.wire import NAMESPACE

BYPASS_TAG = "extproc.bypass"
"""The custom tag of the shipped access log that carries the route's reason for passing without the recorder."""

FAILED_OPEN_TAG = "extproc.failed_open"
"""The one that carries what the ext_proc filter notes of itself: `1` where it failed and let the request pass."""

ENCODING_TAG = "extproc.encoding"
"""That of the answer's content-encoding, as it left for the client."""

EXPECT_SECONDS = 2.0
"""How long after its end the entry of an exchange is worth waiting for when the worker stops."""

_WHOLE_REQUEST = frozenset({AccessLogType.DownstreamEnd, AccessLogType.NotSet})
"""What an entry at the end of a request says that it is, or nothing where Envoy is too old to say it."""

_UPSTREAM_END = AccessLogType.UpstreamEnd

_PROTOCOLS = {1: "HTTP/1.0", 2: "HTTP/1.1", 3: "HTTP/2", 4: "HTTP/3"}
_TLS_VERSIONS = {1: "TLSv1", 2: "TLSv1.1", 3: "TLSv1.2", 4: "TLSv1.3"}
_METHODS = {number: name for name, number in RequestMethod.items() if number}
_TRUTH = {"0": False, "1": True}
_FLAGS = {
    field.number: "DR" if field.name == "downstream_remote_reset" else response_flags.NAMES[field.number - 1]
    for field in ResponseFlags.DESCRIPTOR.fields
}
_TIMES = (
    ("last_request_byte", "time_to_last_rx_byte"),
    ("first_upstream_request_byte", "time_to_first_upstream_tx_byte"),
    ("last_upstream_request_byte", "time_to_last_upstream_tx_byte"),
    ("first_upstream_response_byte", "time_to_first_upstream_rx_byte"),
    ("last_upstream_response_byte", "time_to_last_upstream_rx_byte"),
    ("first_response_byte", "time_to_first_downstream_tx_byte"),
    ("last_response_byte", "time_to_last_downstream_tx_byte"),
)


class Journal(Protocol):
    """The journal as the access log uses it; `extproc.journal.writer` has the contract."""

    def submit(self, effects: Sequence[Effect], done: Callable[[JournalError | None], None] | None) -> None: ...


class AccessLog:
    """The entries that come to one worker. All but the counting of what was lost is on the transport's thread."""

    def __init__(self, journal: Journal, redactor: Redactor) -> None:
        self.entries = 0
        """Entries that have come."""
        self.lost = 0
        """Those of them that could not be written."""
        self.malformed = 0
        """Messages that were none of Envoy's."""
        self.streams = 0
        """Streams that are open: Envoy's threads that send here."""
        self._journal = journal
        self._redactor = redactor
        self._attempts = Attempts()
        self._expected: OrderedDict[str, float] = OrderedDict()  # by the time when it is worth waiting for no more

    def receive(self, message: bytes) -> None:
        """Take one StreamAccessLogsMessage. Bytes that are none are counted, and change nothing."""
        try:
            entries = StreamAccessLogsMessage.FromString(message).http_logs.log_entry
        except DecodeError:
            self.malformed += 1
            return
        at = timestamp(time_ns())
        effects = []
        for entry in entries:
            common = entry.common_properties
            kind = common.access_log_type
            if kind in _WHOLE_REQUEST:
                record = read(entry, at, self._redactor, self._failed_attempts(entry, common))
                self._expected.pop(record.id or "", None)
                effects.append(Append(record, gate=False))
            elif kind == _UPSTREAM_END:
                self._attempts.add(_origin(entry), read_attempt(common, entry.response))
        if effects:
            self.entries += len(effects)
            self._journal.submit(effects, _Written(self, len(effects)))

    def _failed_attempts(self, entry: HTTPAccessLogEntry, common: AccessLogCommon) -> list[Attempt] | None:
        attempts, count = self._attempts, common.upstream_request_attempt_count
        return attempts.before_last(_origin(entry) if attempts else NOBODY, count)

    def expect(self, id: str) -> None:
        """An exchange has ended, and Envoy has something to say about it."""
        if self.streams:
            now = monotonic()
            self._forget(now)
            self._expected[id] = now + EXPECT_SECONDS

    def outstanding(self) -> bool:
        """Whether an entry is still worth waiting for. It may have gone to another worker, so not for long."""
        self._forget(monotonic())
        return bool(self._expected and self.streams)

    def _forget(self, now: float) -> None:
        """Those whose time is up. Entries that go to another worker, or were faster than the end, never come here."""
        expected = self._expected
        while expected:
            id = next(iter(expected))
            if expected[id] > now:
                return
            del expected[id]


class _Written:
    """The journal's word on a batch, from its thread."""

    __slots__ = ("_access_log", "_count")

    def __init__(self, access_log: AccessLog, count: int) -> None:
        self._access_log = access_log
        self._count = count

    def __call__(self, error: JournalError | None) -> None:
        if error is not None:
            self._access_log.lost += self._count


def read(
    entry: HTTPAccessLogEntry, at: str, redactor: Redactor, failed_attempts: list[Attempt] | None = None
) -> Access:
    """The record of one request."""
    # Each look at a message within a message makes an object of it: the fewer, the better.
    common, request, response = entry.common_properties, entry.request, entry.response
    has, tag = common.HasField, common.custom_tags.get
    client, peer = _address(common.downstream_remote_address), _address(common.downstream_direct_remote_address)
    return Access(  # by position, in the order of the type: to name so many costs microseconds
        _id(common),
        at,
        _moment(common.start_time),
        _ms(common.duration) if has("duration") else None,
        _METHODS.get(request.request_method),
        redactor.url(request.path),
        redactor.authority(request.authority) or None,
        request.scheme or None,
        client,
        None if peer == client or _host(peer) == _host(client) else peer,
        request.request_id or None,
        response.response_code.value or None,
        _flags(common),
        response.response_code_details or None,
        common.connection_termination_details or None,
        common.upstream_transport_failure_reason or None,
        _address(common.upstream_remote_address),
        common.upstream_cluster or None,
        common.route_name or None,
        common.upstream_request_attempt_count or None,
        _PROTOCOLS.get(entry.protocol_version),
        request.request_body_bytes,
        response.response_body_bytes,
        request.request_headers_bytes,
        response.response_headers_bytes,
        {name: _ms(getattr(common, field)) for name, field in _TIMES if has(field)},
        _tls(common.tls_properties) if has("tls_properties") else None,
        tag(ENCODING_TAG) or None,
        tag(BYPASS_TAG) or None,
        _TRUTH.get(tag(FAILED_OPEN_TAG, "")),
        failed_attempts,
    )


def read_attempt(common: AccessLogCommon, response: HTTPResponseProperties) -> Attempt:
    """One attempt."""
    return Attempt(
        upstream=_address(common.upstream_remote_address),
        cluster=common.upstream_cluster or None,
        status=response.response_code.value or None,
        response_flags=_flags(common),
        upstream_failure=common.upstream_transport_failure_reason or None,
        started_at=_moment(common.start_time),
        duration_ms=_ms(common.duration) if common.HasField("duration") else None,
    )


def _origin(entry: HTTPAccessLogEntry) -> Origin:
    return _address(entry.common_properties.downstream_direct_remote_address), entry.request.request_id


def _id(common: AccessLogCommon) -> str | None:
    noted = common.metadata.filter_metadata.get(NAMESPACE)
    id = noted.fields.get("id") if noted is not None else None
    return (id.string_value or None) if id is not None else None


def _moment(at: Timestamp) -> str | None:
    seconds, nanos = at.seconds, at.nanos
    try:
        return timestamp(seconds * 1_000_000_000 + nanos) if seconds else None
    except (ValueError, OverflowError, OSError):  # a year that no calendar here has
        return None


def _flags(common: AccessLogCommon) -> list[str]:
    if not common.HasField("response_flags"):
        return []
    return [_FLAGS[field.number] for field, _ in common.response_flags.ListFields()]


def _address(address: Address) -> str | None:
    socket = address.socket_address
    if host := socket.address:
        return f"[{host}]:{socket.port_value}" if ":" in host else f"{host}:{socket.port_value}"
    return address.pipe.path or None


def _host(address: str | None) -> str:
    return (address or "").rpartition(":")[0]


def _ms(duration: Duration) -> float:
    return (duration.seconds * 1_000_000 + duration.nanos // 1000) / 1000


def _tls(tls: TLSProperties) -> Tls:
    peer = tls.peer_certificate_properties
    return Tls(
        version=_TLS_VERSIONS.get(tls.tls_version),
        cipher=tls.tls_cipher_suite.value if tls.HasField("tls_cipher_suite") else None,
        sni=tls.tls_sni_hostname or None,
        peer_subject=peer.subject or None,
        peer_sans=[name.uri or name.dns for name in peer.subject_alt_name],
    )
