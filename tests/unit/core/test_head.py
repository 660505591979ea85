"""A header list, read once."""

from __future__ import annotations

from extproc.core.encoding import of_headers
from extproc.core.head import read
from extproc.core.redact import Redactor

REDACTOR = Redactor(b"k" * 32)


def test_pseudo_headers_become_attributes_and_the_rest_stays_in_order() -> None:
    """Repeated names are kept, pseudo-headers are not headers."""
    head = read([(":method", b"POST"), (":path", b"/x?a=1"), ("a", b"1"), ("b", b"2"), ("a", b"3")], REDACTOR)
    assert (head.method, head.path, head.fields) == ("POST", "/x?a=1", [("a", "1"), ("b", "2"), ("a", "3")])


def test_several_codings_are_one_header() -> None:
    """`content-encoding` twice means both, in the order of the wire; the list keeps them as they came."""
    head = read([("content-encoding", b"gzip"), ("a", b"1"), ("content-encoding", b"br")], REDACTOR)
    assert (head.content_encoding, of_headers(head.fields)) == ("gzip, br", "gzip, br")
    assert [name for name, _ in head.fields] == ["content-encoding", "a", "content-encoding"]


def test_credentials_appear_nowhere() -> None:
    """Neither a header, nor the path, nor a header that holds a URL carries the secret on."""
    secret = b"canary-7f3a"
    head = read(
        [
            (":path", b"/v1?key=" + secret),
            ("authorization", b"Bearer " + secret),
            ("cookie", secret),
            ("referer", b"https://a/?api_key=" + secret),
        ],
        REDACTOR,
    )
    assert secret.decode() not in repr(head)


def test_bytes_that_are_not_utf8_are_kept_as_base64() -> None:
    """A header value is recorded faithfully whatever its bytes are (CVE-2023-27488 has the shape)."""
    assert read([("x-name", b"\xff\x00")], REDACTOR).fields == [("x-name", {"base64": "/wA="})]


def test_the_private_copy_of_content_length_is_left_out() -> None:
    """The record shows what was on the wire, not what the shipped configuration adds in between."""
    head = read([("content-length", b"12"), ("x-extproc-content-length", b"12")], REDACTOR)
    assert (head.content_length, head.fields) == (12, [("content-length", "12")])


def test_lengths_and_statuses_that_are_no_numbers_are_none() -> None:
    """A number is ASCII digits; anything else is recorded as text and not believed."""
    for value in (b"-1", b"1e3", "٣".encode(), b"9" * 400, b""):
        head = read([("content-length", value), (":status", value[:20])], REDACTOR)
        assert head.content_length is None
        assert value == b"9" * 400 or head.status is None


def test_what_holds_a_credential_is_not_kept() -> None:
    """What was made of a header is kept for the next request, but not where something in it was replaced."""
    redactor = Redactor(b"k" * 32)
    secrets = [
        (":path", b"/v1?key=canary-7f3a"),
        (":authority", b"user:canary-7f3a@host"),
        ("authorization", b"Bearer canary-7f3a"),
        ("referer", b"https://a/?api_key=canary-7f3a"),
        ("x-name", b"\xffcanary-7f3a"),
        ("grpc-status", b"sk-proj-canary7f3acanary7f3acanary7f3acanary7f3a"),
    ]
    headers = [*secrets, (":method", b"POST"), ("accept", b"*/*"), ("content-encoding", b"gzip"), (":status", b"200")]
    first = read(headers, redactor)
    assert b"canary" not in repr(redactor.harmless).encode()
    assert len(redactor.harmless) == len(headers) - len(secrets)
    assert read(headers, redactor) == first


def test_what_is_kept_is_bounded() -> None:
    """A client that makes up headers takes no memory for ever, and each is read as it is."""
    redactor = Redactor(b"k" * 32)
    for number in range(5000):
        assert read([("a", b"v%d" % number)], redactor).fields == [("a", f"v{number}")]
    assert len(redactor.harmless) <= 2048
    before = len(redactor.harmless)
    read([("a", b"v" * 600)], redactor)
    assert len(redactor.harmless) == before
