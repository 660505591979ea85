"""The top level of JSON documents, read at once and in pieces."""

from __future__ import annotations

import hashlib
import json
import math
import random
import tracemalloc
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.core.jsondoc import (
    HELD_BYTES,
    MAX_DEPTH,
    MAX_MEMBERS,
    MEMBER_BYTES,
    Digest,
    Document,
    Malformed,
    Scanner,
    Size,
    Summary,
    decode,
)

CONTENT = frozenset({"messages", "prompt", "input"})


def read(body: bytes, step: int = 1 << 30, held_bytes: int = HELD_BYTES) -> Summary:
    """The summary of a document fed in pieces."""
    document = Document(CONTENT, held_bytes)
    for at in range(0, len(body), step):
        document.feed(body[at : at + step])
    return document.finish()


def scan(body: bytes, step: int = 1 << 30) -> Summary:
    """The summary that the scanner alone gives."""
    scanner = Scanner(CONTENT)
    for at in range(0, len(body), step):
        scanner.feed(body[at : at + step])
    return scanner.finish()


def digest(raw: bytes) -> Digest:
    """The digest of a member's JSON."""
    return Digest(len(raw), hashlib.sha256(raw).hexdigest())


DOCUMENTS: list[tuple[str, dict[str, Any]]] = [
    ("{}", {}),
    (" \r\n\t{ } \n", {}),
    ('{"model":"m","stream":true,"n":null,"t":-0.5e1}', {"model": "m", "stream": True, "n": None, "t": -5.0}),
    ('{"messages":[],"model":"m"}', {"messages": Size(0, 2), "model": "m"}),
    ('{"messages": [ \n ] ,"model":"m"}', {"messages": Size(0, 5), "model": "m"}),
    ('{"messages":[{}],"model":"m"}', {"messages": Size(1, 4), "model": "m"}),
    ('{"messages":[{"a":[1,2,{"b":[3,4]}]},{"c":"]},{"}, 7]}', {"messages": Size(3, 41)}),
    ('{"messages":{"a":[1,2]},"b":[1,2]}', {"messages": Size(1, 11), "b": [1, 2]}),
    ('{"prompt":"a, b","x":"y"}', {"prompt": Size(1, 6), "x": "y"}),
    ('{"prompt":["a, b","c]","\\"d,"]}', {"prompt": Size(3, 20)}),
    ('{"input":[[1,2],[3,4]],"prompt":null}', {"input": Size(2, 13), "prompt": Size(0, 4)}),
    ('{"input":[1,2,3],"prompt":7,"messages":""}', {"input": Size(3, 7), "prompt": Size(1, 1), "messages": Size(1, 2)}),
    ('{"a":"\\\\","b":"\\\\\\"","c":"\\u00e9\\n","é":"ü"}', {"a": "\\", "b": '\\"', "c": "é\n", "é": "ü"}),
    ('{"mod\\u0065l":"m","\\"":1,"":2}', {"model": "m", '"': 1, "": 2}),
    ('{"a":"\\ud83d\\ude00","b":"😀"}', {"a": "😀", "b": "😀"}),
    ('{"nested":{"messages":[1]},"messages":[1]}', {"nested": {"messages": [1]}, "messages": Size(1, 3)}),
    ('{"seed":123456789012345678901234567890}', {"seed": 123456789012345678901234567890}),
    ('{"big":"' + "x" * MEMBER_BYTES + '"}', {"big": digest(b'"' + b"x" * MEMBER_BYTES + b'"')}),
    ('{"fits":"' + "x" * (MEMBER_BYTES - 2) + '"}', {"fits": "x" * (MEMBER_BYTES - 2)}),
]
every_document = pytest.mark.parametrize(
    ("text", "values"), DOCUMENTS, ids=[f"{text[:40]} {len(text)}" for text, _ in DOCUMENTS]
)


@every_document
def test_documents(text: str, values: dict[str, Any]) -> None:
    """Members are decoded, content is counted and sized, large members are digested."""
    found = read(text.encode())
    assert found.values == values
    assert found.error is None
    assert not found.duplicate_keys


@every_document
def test_the_scanner_finds_the_same(text: str, values: dict[str, Any]) -> None:
    """A document too long to be held gives the same, in pieces of any size."""
    body = text.encode()
    for step in (1, 2, 3, 7, 1000, len(body)) if len(body) < 1000 else (999, 65536):
        assert scan(body, step) == read(body), step
        assert read(body, step, held_bytes=len(body) // 2) == read(body), step


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda values: st.lists(values, max_size=4) | st.dictionaries(st.text(max_size=3), values, max_size=4),
    max_leaves=10,
)


@given(
    st.dictionaries(st.sampled_from(["messages", "prompt", "input", "a", "b", "é", '"']), json_values),
    st.sampled_from([None, 1]),
    st.booleans(),
    st.integers(1, 9),
)
def test_both_ways_agree_on_any_document(
    document: dict[str, Any], indent: int | None, ascii_only: bool, step: int
) -> None:
    """Held or scanned, compact or indented: the same summary, and the members are those of the document."""
    body = json.dumps(document, indent=indent, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    found = read(body)
    assert scan(body, step) == found
    for key, value in document.items():
        if key not in CONTENT:
            assert found.values[key] == value
        elif isinstance(value, list):
            assert found.values[key].count == len(value)
    assert found.error is None


ODD: list[tuple[bytes, dict[str, Any], str | None]] = [
    (b"", {}, None),
    (b" \n", {}, None),
    (b"null", {}, "not an object at byte 0"),
    (b" [1]", {}, "not an object at byte 1"),
    (b"<html>", {}, "not an object at byte 0"),
    (b"\xff\xfe{\0", {}, "not an object at byte 0"),
    (b'\xef\xbb\xbf{"a":1}', {"a": 1}, None),
    (b'\xef\xbb\xbf{"a":nope}', {"a": digest(b"nope")}, "malformed at byte 8"),
    (b"{", {}, "cut off at byte 1"),
    (b'{"a', {}, "cut off at byte 3"),
    (b'{"a"', {}, "cut off at byte 4"),
    (b'{"a":', {}, "cut off at byte 5"),
    (b'{"a":1,"b":"x', {"a": 1}, "cut off at byte 13"),
    (b'{"a":1,"b":[1', {"a": 1}, "cut off at byte 13"),
    (b'{"a":1,"messages":[{"x":1},{"y', {"a": 1, "messages": Size(2, 12)}, "cut off at byte 30"),
    (b'{"a":1}x', {"a": 1}, "data after the end at byte 7"),
    (b'{"a":1}{"a":2}', {"a": 1}, "data after the end at byte 7"),
    (b'{"a":1,}', {"a": 1}, "malformed at byte 7"),
    (b"{,}", {}, "malformed at byte 1"),
    (b'{"a" 1}', {}, "malformed at byte 5"),
    (b'{"a"::1}', {}, "malformed at byte 5"),
    (b'{"a":1 "b":2}', {"a": 1}, "malformed at byte 7"),
    (b'{"a":}', {}, "malformed at byte 5"),
    (b"{'a':1}", {}, "malformed at byte 1"),
    (b'{"a":01,"b":1}', {"a": digest(b"01"), "b": 1}, "malformed at byte 6"),
    (b'{"a":nope,"b":1}', {"a": digest(b"nope"), "b": 1}, "malformed at byte 5"),
    (b'{"a":{"x":nope},"b":1}', {"a": digest(b'{"x":nope}'), "b": 1}, "malformed at byte 10"),
    (b'{"messages":[1,nope],"b":1}', {"messages": Size(2, 8), "b": 1}, "malformed at byte 15"),
    ('{"a":"é","b":["ü" 1]}'.encode(), {"a": "é", "b": digest('["ü" 1]'.encode())}, "malformed at byte 20"),
    (b'{"a":"\xff","b":1}', {"a": digest(b'"\xff"'), "b": 1}, "not UTF-8 at byte 6"),
    (b'{"a":"\xc0\x80","b":1}', {"a": digest(b'"\xc0\x80"'), "b": 1}, "not UTF-8 at byte 6"),
    (b'{"a":"\0","b":1}', {"a": digest(b'"\0"'), "b": 1}, "malformed at byte 6"),
    (b'{"a":"\\ud800","\\udfff":1}', {"a": "\ud800", "\udfff": 1}, None),
    (b'{"a":1e999,"b":-Infinity}', {"a": math.inf, "b": -math.inf}, None),
    (b'{"a":' + b"1" * 5000 + b',"b":1}', {"a": digest(b"1" * 5000), "b": 1}, "number too long at byte 5"),
    (
        b'{"messages":[' + b"1" * 5000 + b'],"b":NaN1}',
        {"messages": Size(1, 5002), "b": digest(b"NaN1")},
        "malformed at byte 5022",
    ),
    (
        b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b',"b":1}',
        {"a": Digest(200_000, hashlib.sha256(b"[" * 100_000 + b"]" * 100_000).hexdigest()), "b": 1},
        None,
    ),
    (
        b'{"a":' + b"[" * 20_000 + b"]" * 20_000 + b',"b":1}',
        {"a": digest(b"[" * 20_000 + b"]" * 20_000), "b": 1},
        "too deep at byte 5",
    ),
    (b'{"a":1,"messages":' + b"[" * 100_000, {"a": 1, "messages": Size(1, 100_000)}, "cut off at byte 100018"),
]


@pytest.mark.parametrize(("body", "values", "error"), ODD, ids=[f"{body[:30]!r} {len(body)}" for body, _, _ in ODD])
def test_odd_documents(body: bytes, values: dict[str, Any], error: str | None) -> None:
    """What is not JSON gives the members that can be told, and the kind and place of the first fault."""
    found = read(body)
    assert found.values == values
    assert found.parse_error == error
    assert read(body, 1 if len(body) < 6000 else 4000) == found


def test_nan() -> None:
    """NaN is a value."""
    assert math.isnan(read(b'{"a":NaN}').values["a"])


@pytest.mark.parametrize(
    ("text", "values"),
    [
        ('{"a":1,"a":2}', {"a": 2}),
        ('{ "a" : 1 , "a" : 2 }', {"a": 2}),
        ('{"a":1,\n "b":1,\n "a":2}', {"a": 2, "b": 1}),
        ('{"messages":[1],"messages":[1,2]}', {"messages": Size(2, 5)}),
        ('{"messages": [1], "a": 1, "messages": [1,2]}', {"messages": Size(2, 5), "a": 1}),
        ('{"a":1,"\\u0061":2}', {"a": 2}),
        ('{"é":1,"é":2}', {"é": 2}),
    ],
)
def test_duplicate_keys(text: str, values: dict[str, Any]) -> None:
    """A key that stands twice is noted, and its last value counts; it is no error."""
    for found in (read(text.encode()), scan(text.encode(), 1)):
        assert found.duplicate_keys
        assert found.values == values
        assert found.error is None


@pytest.mark.parametrize("indent", [None, 2])
def test_equal_values_are_no_duplicates(indent: int | None) -> None:
    """Only keys count."""
    assert not read(json.dumps({"a": "a", "b": "a", "ü": {"a": 1}}, indent=indent).encode()).duplicate_keys


def test_members_after_long_content_are_found() -> None:
    """Official clients put the messages before the model; both are told apart in a document of any length."""
    image = b"QUJD" * 1_000_000
    body = b'{"messages":[{"content":"' + image + b'"},{"content":"\\"' + image + b'"}],"model":"m"}'
    for step in (65536, 100_003, len(body)):
        found = read(body, step)
        assert found.values == {"messages": Size(2, len(body) - 25), "model": "m"}
        assert found.error is None


def test_too_many_members() -> None:
    """A document may have a thousand members; the rest is not kept."""
    body = json.dumps({str(number): number for number in range(MAX_MEMBERS + 1)}).encode()
    for found in (read(body), scan(body)):
        assert len(found.values) == MAX_MEMBERS
        assert found.parse_error is not None
        assert found.parse_error.startswith("too many members at byte ")


@pytest.mark.parametrize(
    "piece",
    [b"[]", b'""', b'{"":', b'["', b"{}}", b'\\"', b'"\\"'],
    ids=repr,
)
def test_work_on_hostile_content_is_bounded(piece: bytes) -> None:
    """Tens of megabytes of punctuation are given up on."""
    found = read(b'{"model":"m","messages":[' + piece * (30_000_000 // len(piece)), 1_000_000)
    assert found.values.get("model") == "m"
    assert found.error is not None


def test_work_on_hostile_members_is_bounded() -> None:
    """So are tiny members with the same key, whether the document is held or not: they count like any others."""
    for count in (20_000, 2_000_000):
        body = b'{"model":"m",' + b'"":"",' * count + b'"":""}'
        for found in (read(body), scan(body)):
            assert found.parse_error == f"too many members at byte {13 + 6 * (MAX_MEMBERS - 1) + 3}"
            assert found.duplicate_keys
            assert found.values == {"model": "m", "": ""}


@pytest.mark.parametrize(
    "body",
    [
        b'{"messages":["' + b"x" * 10_000_000,
        b'{"tools":["' + b"x" * 10_000_000,
        b'{"' + b"x" * 10_000_000,
        b'{"a":' + b"1" * 10_000_000,
        b" " * 10_000_000,
        b"{" + b" " * 10_000_000,
        b"{" + b",".join(b'"%d":"%s"' % (number, b"x" * 10_000) for number in range(900)) + b"}",
    ],
    ids=lambda body: repr(body[:14]),
)
def test_memory_is_bounded(body: bytes) -> None:
    """Whatever is long, little of it is held."""
    tracemalloc.start()
    read(body, 50_000)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 5 * HELD_BYTES


@given(
    st.lists(
        st.sampled_from([b"{", b"}", b"[", b"]", b'"', b"\\", b",", b":", b"a", b"1", b" ", b'"a":', b'"messages":'])
    ),
    st.integers(1, 5),
)
def test_any_bytes_in_any_pieces(tokens: list[bytes], step: int) -> None:
    """Nothing raises, and the scanner finds the same in pieces as at once."""
    body = b"".join(tokens)
    read(body)
    assert scan(b"{" + body, step) == scan(b"{" + body)


@given(st.binary(), st.randoms())
def test_binary(body: bytes, rng: random.Random) -> None:
    """Any bytes at all raise nothing."""
    read(body)
    scan(b'{"messages":[' + body, rng.randrange(1, 9))


@pytest.mark.parametrize(
    ("raw", "kind", "at"),
    [
        (b"", "malformed", 0),
        (b"[1 2]", "malformed", 3),
        (b'"\xff"', "not UTF-8", 1),
        (b"[" * 100_000, "too deep", 0),
        (b"9" * 5000, "number too long", 0),
    ],
)
def test_values_that_do_not_decode(raw: bytes, kind: str, at: int) -> None:
    """A value that does not decode says what and where."""
    with pytest.raises(Malformed) as caught:
        decode(raw)
    assert (caught.value.kind, caught.value.at) == (kind, at)


def test_depth_of_members() -> None:
    """A member nests as deep as records allow, strings with brackets aside, and no deeper."""
    fits = b"[" * MAX_DEPTH + b'"[[["' + b"]" * MAX_DEPTH
    assert read(b'{"a":' + fits + b"}").error is None
    assert read(b'{"a":[' + fits + b"]}").parse_error == "too deep at byte 5"
    assert read(b'{"a":[' + b"[]," * 1000 + b"[]]}").error is None
