"""Envoy's access log as records of the journal: what Envoy says of each request, when it is over.

Envoy sends its entries in batches, a flush interval after their requests at the latest, on one gRPC stream for each
of its threads, to whichever worker that connects to. Each entry becomes an `access` record; whoever reads the journal
joins it to its exchange by the id that the recorder gave Envoy as dynamic metadata, which no client can forge. An entry
without one is of a request that passed without the recorder, and is kept all the same. Its fields:

    id                          of the exchange, or null
    at                          when it arrived here
    started_at  duration_ms     by Envoy's clock, and its own `times_ms` since then, those that happened
    method path authority scheme client peer http_version tls      as Envoy has them; `peer` where it is not the client
    request_id                  Envoy's
    status                      null when no answer was sent
    response_flags response_code_details connection_termination_details upstream_failure
    upstream cluster route attempts
    request_bytes response_bytes request_headers_bytes response_headers_bytes
    bypass                      why the route takes no recorder (`extproc.bypass` in its metadata), or null

Nothing waits for these records. Those that cannot be written are counted, and the exchange is left without.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from time import monotonic, time_ns
from typing import Any, Protocol

from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import DecodeError

from extproc._proto.access_log_pb2 import (
    AccessLogCommon,
    Address,
    HTTPAccessLogEntry,
    RequestMethod,
    ResponseFlags,
    StreamAccessLogsMessage,
    TLSProperties,
)
from extproc.core import response_flags
from extproc.core.effects import Append, Effect
from extproc.core.record import encode, timestamp
from extproc.core.redact import Redactor
from extproc.errors import JournalError
from extproc.service.wire import NAMESPACE

BYPASS_TAG = "extproc.bypass"
"""The custom tag of the shipped access log that carries the route's reason for passing without the recorder."""

EXPECT_SECONDS = 2.0
"""How long after its end the entry of an exchange is worth waiting for when the worker stops."""

log = logging.getLogger("extproc.service")

_PROTOCOLS = {1: "HTTP/1.0", 2: "HTTP/1.1", 3: "HTTP/2", 4: "HTTP/3"}
_TLS_VERSIONS = {1: "TLSv1", 2: "TLSv1.1", 3: "TLSv1.2", 4: "TLSv1.3"}
_METHODS = {number: name for name, number in RequestMethod.items() if number}
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
        self._expected: dict[str, float] = {}

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
            fields = read(entry, at, self._redactor)
            self._expected.pop(fields["id"], None)
            effects.append(Append(encode(fields), gate=False))
        if effects:
            self.entries += len(effects)
            self._journal.submit(effects, _Written(self, len(effects)))

    def expect(self, id: str) -> None:
        """An exchange has ended, and Envoy has something to say about it."""
        if self.streams:
            self._expected[id] = monotonic() + EXPECT_SECONDS

    def outstanding(self) -> bool:
        """Whether an entry is still worth waiting for. It may have gone to another worker, so not for long."""
        now, expected = monotonic(), self._expected
        while expected and next(iter(expected.values())) <= now:
            del expected[next(iter(expected))]
        return bool(expected and self.streams)


class _Written:
    """The journal's word on a batch, from its thread."""

    __slots__ = ("_access_log", "_count")

    def __init__(self, access_log: AccessLog, count: int) -> None:
        self._access_log = access_log
        self._count = count

    def __call__(self, error: JournalError | None) -> None:
        if error is not None:
            self._access_log.lost += self._count


def read(entry: HTTPAccessLogEntry, at: str, redactor: Redactor) -> dict[str, Any]:
    """The fields of the record of one entry."""
    common, request, response = entry.common_properties, entry.request, entry.response
    client, peer = _address(common.downstream_remote_address), _address(common.downstream_direct_remote_address)
    attempts, upstream = common.upstream_request_attempt_count, _address(common.upstream_remote_address)
    return {
        "type": "access",
        "id": _id(common),
        "at": at,
        "started_at": timestamp(common.start_time.seconds * 1_000_000_000 + common.start_time.nanos),
        "duration_ms": _ms(common.duration) if common.HasField("duration") else None,
        "method": _METHODS.get(request.request_method),
        "path": redactor.url(request.path),
        "authority": request.authority or None,
        "scheme": request.scheme or None,
        "client": client,
        "peer": peer if peer is not None and _host(peer) != _host(client) else None,
        "request_id": request.request_id or None,
        "status": response.response_code.value or None,
        "response_flags": _flags(common),
        "response_code_details": response.response_code_details or None,
        "connection_termination_details": common.connection_termination_details or None,
        "upstream_failure": common.upstream_transport_failure_reason or None,
        "upstream": upstream,
        "cluster": common.upstream_cluster or None,
        "route": common.route_name or None,
        "attempts": attempts or None,
        "http_version": _PROTOCOLS.get(entry.protocol_version),
        "request_bytes": request.request_body_bytes,
        "response_bytes": response.response_body_bytes,
        "request_headers_bytes": request.request_headers_bytes,
        "response_headers_bytes": response.response_headers_bytes,
        "times_ms": {name: _ms(getattr(common, field)) for name, field in _TIMES if common.HasField(field)},
        "tls": _tls(common.tls_properties) if common.HasField("tls_properties") else None,
        "bypass": common.custom_tags.get(BYPASS_TAG) or None,
    }


def _id(common: AccessLogCommon) -> str | None:
    noted = common.metadata.filter_metadata
    if NAMESPACE not in noted:
        return None
    fields = noted[NAMESPACE].fields
    return (fields["id"].string_value or None) if "id" in fields else None


def _flags(common: AccessLogCommon) -> list[str]:
    if not common.HasField("response_flags"):
        return []
    return [_FLAGS[field.number] for field, _ in common.response_flags.ListFields()]


def _address(address: Address) -> str | None:
    socket = address.socket_address
    if socket.address:
        host = socket.address
        return f"[{host}]:{socket.port_value}" if ":" in host else f"{host}:{socket.port_value}"
    return address.pipe.path or None


def _host(address: str | None) -> str:
    return (address or "").rpartition(":")[0]


def _ms(duration: Duration) -> float:
    return (duration.seconds * 1_000_000_000 + duration.nanos) // 1000 / 1000


def _tls(tls: TLSProperties) -> dict[str, Any]:
    peer = tls.peer_certificate_properties
    return {
        "version": _TLS_VERSIONS.get(tls.tls_version),
        "cipher": tls.tls_cipher_suite.value if tls.HasField("tls_cipher_suite") else None,
        "sni": tls.tls_sni_hostname or None,
        "peer_subject": peer.subject or None,
        "peer_sans": [name.uri or name.dns for name in peer.subject_alt_name],
    }
