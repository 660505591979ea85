"""Envoy's entries become records, whatever is in them, and none of them ever harms a stream."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from google.protobuf import struct_pb2

from extproc._proto import access_log_pb2 as wire
from extproc.core.effects import Append, Effect
from extproc.core.records import encode, fields_of
from extproc.core.redact import Redactor
from extproc.errors import JournalError
from extproc.service import accesslog
from extproc.service.accesslog import AccessLog, read

AT = "2026-11-21T03:12:00.000000Z"
REDACTOR = Redactor(b"k" * 32)
ID = "019aa3f2-0000-7000-8000-000000000001"


class FakeJournal:
    """Keeps what was submitted; the test says what became of it."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.submits: list[Callable[[JournalError | None], None] | None] = []

    def submit(self, effects: Sequence[Effect], done: Callable[[JournalError | None], None] | None) -> None:
        """Take one batch."""
        for effect in effects:
            assert isinstance(effect, Append)
            assert not effect.gate
            self.records.append(json.loads(encode(effect.record)))
        self.submits.append(done)


@pytest.fixture
def journal() -> FakeJournal:
    """A journal without a disk."""
    return FakeJournal()


def entry(id: str | None = ID) -> wire.HTTPAccessLogEntry:
    """An entry with everything in it."""
    common = wire.AccessLogCommon(
        downstream_remote_address=_address("192.0.2.9", 50123),
        downstream_direct_remote_address=_address("10.0.0.1", 40000),
        upstream_remote_address=_address("fd00::7", 8000),
        upstream_cluster="llm",
        route_name="default",
        upstream_transport_failure_reason="TLS error",
        connection_termination_details="gone",
        upstream_request_attempt_count=2,
        response_flags=wire.ResponseFlags(upstream_connection_termination=True, downstream_remote_reset=True),
        tls_properties=wire.TLSProperties(
            tls_version=wire.TLSProperties.TLSv1_3,
            tls_sni_hostname="llm.example",
            peer_certificate_properties=wire.TLSProperties.CertificateProperties(
                subject="CN=client",
                subject_alt_name=[
                    wire.TLSProperties.CertificateProperties.SubjectAltName(uri="spiffe://a/b"),
                    wire.TLSProperties.CertificateProperties.SubjectAltName(dns="a.example"),
                ],
            ),
        ),
        custom_tags={"extproc.bypass": "upgrade", "extproc.encoding": "gzip", "extproc.failed_open": "0"},
    )
    common.tls_properties.tls_cipher_suite.value = 0x1301
    common.start_time.FromJsonString("2026-11-21T03:11:59.250Z")
    common.duration.FromMilliseconds(1500)
    common.time_to_last_rx_byte.FromMicroseconds(250)
    if id is not None:
        struct = struct_pb2.Struct()
        struct.update({"id": id})
        common.metadata.filter_metadata["extproc"].CopyFrom(struct)
    request = wire.HTTPRequestProperties(
        request_method=wire.POST,
        scheme="http",
        authority="llm.example",
        path="/v1/models?api_key=sk-secret",
        request_id="r-1",
        request_headers_bytes=100,
        request_body_bytes=82,
    )
    response = wire.HTTPResponseProperties(
        response_headers_bytes=50, response_body_bytes=494, response_code_details="via_upstream"
    )
    response.response_code.value = 200
    return wire.HTTPAccessLogEntry(
        common_properties=common, protocol_version=wire.HTTPAccessLogEntry.HTTP2, request=request, response=response
    )


def message(*entries: wire.HTTPAccessLogEntry) -> bytes:
    """One flush of Envoy's."""
    logs = wire.StreamAccessLogsMessage.HTTPAccessLogEntries(log_entry=entries)
    return wire.StreamAccessLogsMessage(http_logs=logs).SerializeToString()


def _address(host: str, port: int) -> wire.Address:
    return wire.Address(socket_address=wire.SocketAddress(address=host, port_value=port))


def test_every_field() -> None:
    """As the module describes the record; the secret in the path is not there."""
    mark = REDACTOR.mark(b"sk-secret")
    assert fields_of(read(entry(), AT, REDACTOR)) == {
        "type": "access",
        "id": ID,
        "at": AT,
        "started_at": "2026-11-21T03:11:59.250000Z",
        "duration_ms": 1500.0,
        "method": "POST",
        "path": f"/v1/models?api_key={mark}",
        "authority": "llm.example",
        "scheme": "http",
        "client": "192.0.2.9:50123",
        "peer": "10.0.0.1:40000",
        "request_id": "r-1",
        "status": 200,
        "response_flags": ["UC", "DR"],
        "response_code_details": "via_upstream",
        "connection_termination_details": "gone",
        "upstream_failure": "TLS error",
        "upstream": "[fd00::7]:8000",
        "cluster": "llm",
        "route": "default",
        "attempts": 2,
        "http_version": "HTTP/2",
        "request_bytes": 82,
        "response_bytes": 494,
        "request_headers_bytes": 100,
        "response_headers_bytes": 50,
        "times_ms": {"last_request_byte": 0.25},
        "tls": {
            "version": "TLSv1.3",
            "cipher": 0x1301,
            "sni": "llm.example",
            "peer_subject": "CN=client",
            "peer_sans": ["spiffe://a/b", "a.example"],
        },
        "encoding": "gzip",
        "bypass": "upgrade",
        "failed_open": False,
        "failed_attempts": None,
    }


def test_nothing_set() -> None:
    """An entry of nothing is a record of nothing: no id, no status, no times."""
    fields = fields_of(read(wire.HTTPAccessLogEntry(), AT, REDACTOR))
    filled = {name: value for name, value in fields.items() if value not in (None, [], {}, "", 0)}
    assert filled == {"type": "access", "at": AT}
    assert (fields["id"], fields["status"], fields["response_flags"], fields["tls"]) == (None, None, [], None)
    assert fields["started_at"] is None


def test_every_flag_has_its_short_name() -> None:
    """Those of Envoy's log format, each one different."""
    names = set()
    for field in wire.ResponseFlags.DESCRIPTOR.fields:
        odd = wire.HTTPAccessLogEntry()
        flags = odd.common_properties.response_flags
        if field.message_type is None:
            setattr(flags, field.name, True)
        else:
            getattr(flags, field.name).SetInParent()
        (name,) = read(odd, AT, REDACTOR).response_flags or []
        names.add(name)
    assert len(names) == 28
    assert {"UH", "UF", "UC", "UT", "LR", "UR", "NR", "DC", "SI", "UAEX", "DPE", "UPE", "DR", "DF"} <= names


@pytest.mark.parametrize("value", ["", None])
def test_an_id_that_is_none(value: str | None) -> None:
    """Metadata of our namespace without an id in it names no exchange."""
    odd = entry(value if value is not None else None)
    assert read(odd, AT, REDACTOR).id is None


@pytest.mark.parametrize(("value", "told"), [("0", False), ("1", True), ("", None), ("-", None)])
def test_whether_the_recorder_failed_and_the_request_passed(value: str, told: bool | None) -> None:
    """As Envoy's filter says; where it says nothing, neither do we."""
    odd = entry()
    odd.common_properties.custom_tags["extproc.failed_open"] = value
    assert read(odd, AT, REDACTOR).failed_open is told


def test_a_peer_is_told_only_where_it_is_another_host() -> None:
    """Without a proxy before Envoy the two addresses are one."""
    same = entry()
    same.common_properties.downstream_direct_remote_address.CopyFrom(_address("192.0.2.9", 50123))
    assert read(same, AT, REDACTOR).peer is None


def test_a_path_of_a_megabyte() -> None:
    """Envoy bounds it; here nothing depends on that. What is not read is not written."""
    long = entry()
    long.request.path = "/?" + "a=b&" * 250_000 + "api_key=sk-secret"
    path = read(long, AT, REDACTOR).path or ""
    assert path.startswith("/?a=b&a=b&")
    assert "sk-secret" not in path


@pytest.mark.parametrize("seconds", [253_402_300_800, 2**62, -(2**62)])
def test_a_time_that_no_calendar_has(journal: FakeJournal, seconds: int) -> None:
    """That one field is left out; neither the entry nor those beside it are lost."""
    odd = entry("odd")
    odd.common_properties.start_time.seconds = seconds
    odd.common_properties.duration.seconds = seconds
    access_log = AccessLog(journal, REDACTOR)
    access_log.receive(message(entry(), odd, entry()))
    assert [record["id"] for record in journal.records] == [ID, "odd", ID]
    assert [record["started_at"] is None for record in journal.records] == [False, True, False]


def attempt(port: int, **common: Any) -> wire.HTTPAccessLogEntry:
    """What Envoy says of an attempt of the request of `entry` that ended in a 503."""
    said = wire.AccessLogCommon(
        downstream_direct_remote_address=_address("10.0.0.1", 40000),
        upstream_remote_address=_address("10.0.0.7", port),
        upstream_cluster="llm",
        access_log_type=wire.UpstreamEnd,
        **common,
    )
    said.start_time.FromJsonString("2026-11-21T03:11:59.100Z")
    said.duration.FromMicroseconds(700)
    failed = wire.HTTPAccessLogEntry(common_properties=said, request=wire.HTTPRequestProperties(request_id="r-1"))
    failed.response.response_code.value = 503
    return failed


def test_a_failed_attempt_goes_into_the_entry_of_its_request(journal: FakeJournal) -> None:
    """No record of its own, whether both come in one message or in two."""
    expected = {
        "upstream": "10.0.0.7:8001",
        "cluster": "llm",
        "status": 503,
        "response_flags": [],
        "upstream_failure": None,
        "started_at": "2026-11-21T03:11:59.100000Z",
        "duration_ms": 0.7,
    }
    access_log = AccessLog(journal, REDACTOR)
    access_log.receive(message(attempt(8001), entry()))
    access_log.receive(message(attempt(8001)))
    access_log.receive(message(entry()))
    assert [record["failed_attempts"] for record in journal.records] == [[expected], [expected]]
    assert (access_log.entries, access_log.malformed) == (2, 0)


def test_an_attempt_without_a_connection(journal: FakeJournal) -> None:
    """Envoy's flag and its reason, in place of a status."""
    refused = attempt(
        8001,
        response_flags=wire.ResponseFlags(upstream_connection_failure=True),
        upstream_transport_failure_reason="Connection refused",
    )
    refused.response.ClearField("response_code")
    AccessLog(journal, REDACTOR).receive(message(refused, attempt(8002), entry()))
    (failed,) = journal.records[0]["failed_attempts"]
    assert (failed["status"], failed["response_flags"]) == (None, ["UF"])
    assert failed["upstream_failure"] == "Connection refused"


def test_attempts_of_which_envoy_has_not_told(journal: FakeJournal) -> None:
    """Of two there is one that failed, and it is not known."""
    AccessLog(journal, REDACTOR).receive(message(entry()))
    assert journal.records[0]["failed_attempts"] is None


@pytest.mark.parametrize("kind", [wire.DownstreamStart, wire.DownstreamPeriodic, wire.UpstreamPoolReady])
def test_entries_before_the_end_are_no_end(journal: FakeJournal, kind: wire.AccessLogType) -> None:
    """Envoy can be asked to write them, and what they say is not yet so."""
    early = entry()
    early.common_properties.access_log_type = kind
    access_log = AccessLog(journal, REDACTOR)
    access_log.receive(message(early))
    assert (journal.records, access_log.entries, access_log.malformed) == ([], 0, 0)
    early.common_properties.access_log_type = wire.DownstreamEnd
    access_log.receive(message(early))
    assert [record["id"] for record in journal.records] == [ID]


def test_a_batch_is_one_submit(journal: FakeJournal) -> None:
    """However many entries, the journal is asked once, and nobody waits."""
    access_log = AccessLog(journal, REDACTOR)
    access_log.receive(message(entry(), entry(None), entry()))
    assert [record["id"] for record in journal.records] == [ID, None, ID]
    assert (len(journal.submits), access_log.entries, access_log.lost) == (1, 3, 0)
    access_log.receive(message())
    assert len(journal.submits) == 1


def test_what_cannot_be_written_is_counted(journal: FakeJournal) -> None:
    """Each entry of the batch."""
    access_log = AccessLog(journal, REDACTOR)
    access_log.receive(message(entry(), entry()))
    (done,) = journal.submits
    assert done is not None
    done(JournalError("full"))
    assert (access_log.entries, access_log.lost) == (2, 2)
    done(None)
    assert access_log.lost == 2


def test_a_message_cut_anywhere(journal: FakeJournal) -> None:
    """No cut raises; what is no message is counted."""
    access_log = AccessLog(journal, REDACTOR)
    whole = message(entry())
    for length in range(len(whole)):
        access_log.receive(whole[:length])
    assert access_log.malformed > 0
    assert access_log.malformed + len(journal.records) <= len(whole)
    access_log.receive(whole)
    assert journal.records[-1]["id"] == ID


def test_text_that_is_not_utf8_is_malformed(journal: FakeJournal) -> None:
    """Envoy sanitises its strings; another peer's would not be a message at all."""
    access_log = AccessLog(journal, REDACTOR)
    access_log.receive(message(entry()).replace(b"default", b"def\xff\xfelt"))
    assert (access_log.malformed, journal.records) == (1, [])


class Id(str):
    """An exchange's id of which it can be told whether anybody still holds it."""

    __slots__ = ("__weakref__",)


def test_entries_that_go_elsewhere_are_forgotten(journal: FakeJournal, monkeypatch: pytest.MonkeyPatch) -> None:
    """With several workers half of them do, so that what is kept must not grow with the traffic."""
    now = 100.0
    monkeypatch.setattr(accesslog, "monotonic", lambda: now)
    access_log = AccessLog(journal, REDACTOR)
    access_log.streams = 1
    kept: weakref.WeakSet[Id] = weakref.WeakSet()
    ids = [Id(number) for number in range(1000)]
    kept.update(ids)
    while ids:
        access_log.expect(ids.pop())
        now += accesslog.EXPECT_SECONDS / 10
    assert len(kept) <= 11
    assert access_log.outstanding()


def test_what_is_worth_waiting_for(journal: FakeJournal, monkeypatch: pytest.MonkeyPatch) -> None:
    """The entry of an exchange that has just ended, while there is a stream that may bring it, for two seconds."""
    now = 100.0
    monkeypatch.setattr(accesslog, "monotonic", lambda: now)
    access_log = AccessLog(journal, REDACTOR)
    access_log.expect(ID)
    assert not access_log.outstanding()
    access_log.streams = 1
    access_log.expect(ID)
    access_log.expect("other")
    assert access_log.outstanding()
    access_log.receive(message(entry()))
    assert access_log.outstanding()
    now += accesslog.EXPECT_SECONDS
    assert not access_log.outstanding()
    access_log.expect(ID)
    access_log.streams = 0
    assert not access_log.outstanding()
