"""Header blocks: what is understood, what is kept, and what no request may say."""

from __future__ import annotations

import time
from typing import Any

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.http2 import block, fields

from extproc.service.http2.fields import (
    MAX_BLOCK,
    MAX_LIST,
    Fields,
    FloodError,
    Known,
    MalformedError,
    NotDecodableError,
    Request,
    TooLargeError,
)
from extproc.service.transport import PROCESS


def read(data: bytes, known: Known | None = None) -> Request:
    """The request of a block, on a new connection."""
    return Fields({} if known is None else known, 0).request(data)


def encoded(headers: list[tuple[str, str]], *, huffman: bool, table: int = 4096) -> bytes:
    """As another implementation writes it."""
    encoder = hpack.Encoder()
    encoder.header_table_size = table
    return bytes(encoder.encode(headers, huffman=huffman))


def test_a_request() -> None:
    """The path, and the metadata without what is gRPC's own; `-bin` fields are bytes."""
    headers = fields(("grpc-timeout", "1S"), ("traceparent", "00-1-2-01"), ("x-bin", "AP8"), ("x-bin", "AP8=,AQ"))
    assert read(block(headers)) == Request(
        path=PROCESS,
        metadata=(("traceparent", "00-1-2-01"), ("x-bin", b"\0\xff"), ("x-bin", b"\0\xff"), ("x-bin", b"\1")),
    )


def test_a_block_that_touches_no_table_is_read_once() -> None:
    """The second time it is looked up, on any connection."""
    known: Known = {}
    data = block(fields())
    assert read(data, known) is read(data, known)


def test_a_block_that_touches_the_table_is_read_each_time() -> None:
    """The same bytes mean something else later."""
    known: Known = {}
    encoder = hpack.Encoder()
    reader = Fields(known, 0)
    first = bytes(encoder.encode(fields(("x-a", "1"))))
    second = bytes(encoder.encode(fields(("x-a", "1"))))
    third = bytes(encoder.encode(fields(("x-b", "2"))))
    fourth = bytes(encoder.encode(fields(("x-a", "1"))))
    got = [reader.request(each).metadata for each in (first, second, third, fourth)]
    assert got == [(("x-a", "1"),), (("x-a", "1"),), (("x-b", "2"),), (("x-a", "1"),)]
    assert len(second) < len(first)
    assert known == {}


def test_what_is_kept_is_bounded() -> None:
    """With tracing on each block is another."""
    known: Known = {}
    for number in range(2000):
        read(block(fields(("traceparent", f"00-{number}-01"))), known)
    assert len(known) <= 256
    read(block(fields(("x-large", "x" * 5000))), known)
    assert all(len(each) <= 4096 for each in known)


@given(
    st.lists(st.tuples(st.from_regex(r"x-[a-z0-9-]{1,20}", fullmatch=True), st.text("abcXYZ019~!", max_size=300))),
    st.booleans(),
    st.sampled_from([0, 4096]),
)
def test_hpack_in_all_its_forms(extra: list[tuple[str, str]], huffman: bool, table: int) -> None:
    """Another implementation's blocks are read as it means them, and ours as `hpack` reads them."""
    extra = [(name, value) for name, value in extra if not name.endswith("-bin")]
    expected = read(block(fields(*extra)))
    assert read(encoded(fields(*extra), huffman=huffman, table=table)) == expected
    assert expected.metadata == tuple(extra)


@given(st.binary(max_size=80))
def test_any_bytes_are_judged_as_hpack_does(data: bytes) -> None:
    """Our shorter way through blocks without a table takes none that `hpack` refuses, and makes nothing else of it."""
    try:
        expected: Any = list(hpack.Decoder().decode(data, raw=True))
    except hpack.HPACKError:
        expected = None
    try:
        got: Any = read(data)
    except MalformedError:
        got = "malformed"
    except NotDecodableError:
        got = None
    assert (got is None) == (expected is None) or (got is None and data[:1] >= b"\x20")


@pytest.mark.parametrize(
    "data",
    [b"\x80", b"\xff\xff\xff\xff\xff\xff", b"\x00", b"\x00\x05ab", b"\xbe", b"\x00\x81\x00", b"\x3f", b"\x3f\xe1"],
)
def test_what_cannot_be_decoded(data: bytes) -> None:
    """Index 0, integers without end, strings that are cut, entries that are not there, Huffman codes that are none,
    sizes of the table that are cut."""
    with pytest.raises(NotDecodableError):
        read(data)


def test_the_table_may_not_grow_once_the_client_knows() -> None:
    """Until it has acknowledged our SETTINGS, 4096 bytes are the default; then none."""
    request = block(fields())
    before = Fields({}, 0)
    assert before.request(b"\x3f\xe1\x1f" + request).path == PROCESS
    before.settings_acknowledged()
    assert before.request(b"\x20" + request).path == PROCESS
    with pytest.raises(NotDecodableError):
        before.request(b"\x21" + request)


@pytest.mark.parametrize(
    "headers",
    [
        fields()[1:],
        [each for each in fields() if each[0] != ":scheme"],
        [each for each in fields() if each[0] != ":path"],
        [(":path", ""), *(each for each in fields() if each[0] != ":path")],
        [*fields(), (":path", "/")],
        [(":path", "/"), *fields()],
        [(":status", "200"), *fields()],
        [(":unknown", "1"), *fields()],
        fields(("Upper", "1")),
        fields(("", "1")),
        fields(("a b", "1")),
        fields(("connection", "close")),
        fields(("transfer-encoding", "chunked")),
        fields(("te", "gzip")),
        fields(("x", "a\nb")),
        fields(("x", "a\0b")),
        fields(("x", " a")),
        fields(("x", "a\t")),
        fields(("content-length", "1"), ("content-length", "2")),
        fields(("content-length", "-1")),
        fields(("x-bin", "%%")),
    ],
)
def test_what_no_request_may_say(headers: list[tuple[str, str]]) -> None:
    """RFC 9113, section 8.2 and 8.3: such a stream is reset."""
    with pytest.raises(MalformedError):
        read(block(headers))


@pytest.mark.parametrize(
    ("method", "content_type", "status"),
    [
        ("POST", "application/grpc", 0),
        ("POST", "application/grpc+proto", 0),
        ("POST", "application/grpc;charset=x", 0),
        ("POST", "application/grpc-web", 415),
        ("POST", "text/application/grpc", 415),
        ("POST", "", 415),
        ("GET", "application/grpc", 405),
        ("CONNECT", "application/grpc", 405),
    ],
)
def test_what_is_no_grpc(method: str, content_type: str, status: int) -> None:
    """It gets an HTTP status."""
    headers = [(":method", method), *fields()[1:-1], ("content-type", content_type)]
    assert read(block(headers)).refusal == status


def test_a_list_that_is_too_large_is_not_kept() -> None:
    """It ends its stream; the next one is read as ever."""
    reader = Fields({}, 0)
    with pytest.raises(TooLargeError):
        reader.request(block(fields(("x", "y" * MAX_LIST))))
    assert reader.request(block(fields())).path == PROCESS


def test_a_bomb_out_of_the_table_is_cut_off() -> None:
    """A byte each for a long entry: the list is not made in full."""
    encoder = hpack.Encoder()
    bomb = bytes(encoder.encode(fields(("x-large", "y" * 4000)), huffman=False)) + b"\xbe" * (MAX_BLOCK // 2)
    before = time.process_time()
    with pytest.raises(FloodError):
        Fields({}, 0).request(bomb)
    assert time.process_time() - before < 5
