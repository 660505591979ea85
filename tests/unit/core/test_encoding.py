"""Content codings undone piece by piece, within caps."""

from __future__ import annotations

import gzip
import random
import tracemalloc
import zlib
from collections.abc import Callable

import brotli  # type: ignore[import-untyped]  # it comes without types
import pytest
import zstandard
from hypothesis import given
from hypothesis import strategies as st

from extproc.core.encoding import MAX_BYTES, RATIO_FLOOR, Decoder, of_headers

CONTENT = 'data: {"choices":[{"delta":{"content":"fjørd"}}]}\n\n'.encode() * 20
MEGABYTE = 1024 * 1024


def raw_deflate(data: bytes) -> bytes:
    """A deflate stream without zlib's frame, as some servers send it."""
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush()


ENCODERS: dict[str, tuple[str, Callable[[bytes], bytes]]] = {
    "gzip": ("gzip", gzip.compress),
    "x-gzip": ("X-GZIP", gzip.compress),
    "deflate": ("deflate", zlib.compress),
    "raw deflate": ("deflate", raw_deflate),
    "br": ("br", brotli.compress),
    "zstd": ("zstd", zstandard.compress),
    "stacked": ("gzip, br", lambda data: brotli.compress(gzip.compress(data))),
    "stacked three": (
        "deflate,identity,zstd ,br",
        lambda data: brotli.compress(zstandard.compress(zlib.compress(data))),
    ),
}
NO_TEXT = random.Random(7).randbytes(300)
CODINGS = sorted({coding for coding, _ in ENCODERS.values()})
every_coding = pytest.mark.parametrize(("coding", "encode"), ENCODERS.values(), ids=ENCODERS.keys())


def decode(coding: str | None, body: bytes, step: int = 1 << 30) -> tuple[bytes, str | None]:
    """What comes out of a body fed in pieces, and the error."""
    decoder = Decoder(coding)
    found = b"".join([decoder.feed(body[at : at + step]) for at in range(0, len(body), step)])
    found += decoder.finish()
    assert decoder.truncated == (decoder.error is not None)
    return found, decoder.error


@every_coding
def test_every_piece_size(coding: str, encode: Callable[[bytes], bytes]) -> None:
    """However the coded body is cut, the content comes out."""
    body = encode(CONTENT)
    for step in (1, 2, 3, 10, 50, len(body)):
        assert decode(coding, body, step) == (CONTENT, None)


@every_coding
def test_cut_off(coding: str, encode: Callable[[bytes], bytes]) -> None:
    """A body that ends early, at any byte, is flagged, and what came before is a part of the content."""
    body = encode(CONTENT)
    for end in range(1, len(body)):
        found, error = decode(coding, body[:end])
        assert CONTENT.startswith(found)
        assert error is not None, end
        assert error.endswith(f"cut off at byte {end}")


@every_coding
def test_trailing_data(coding: str, encode: Callable[[bytes], bytes]) -> None:
    """Data after the end is flagged, cut anywhere."""
    body = encode(CONTENT) + b"more"
    for step in (1, 5, len(body)):
        assert decode(coding, body, step)[1] is not None


@every_coding
def test_the_header_lies(coding: str, encode: Callable[[bytes], bytes]) -> None:
    """A body that is no text, and not in the coding it claims, is flagged."""
    assert decode(coding, NO_TEXT)[1] is not None


@pytest.mark.parametrize("coding", [*CODINGS, "exotic", "gzip, exotic", "br, br, br, br"])
@pytest.mark.parametrize(
    "text", [CONTENT, b'{"error":"busy"}', '{"error":"内部错误 请稍后再试"}'.encode(), b"[1, 2, 3, 4, 5]"]
)
def test_text_is_read_as_it_is(coding: str, text: bytes) -> None:
    """Coded bytes are no text, so a body that is text was not coded, whatever its header says; cut anywhere."""
    for step in (1, 7, len(text)):
        assert decode(coding, text, step) == (text, None)


@pytest.mark.parametrize(
    "header",
    ["none", "None", "utf-8", "UTF8", "binary", "8bit", "null", " ", ",", '"identity"', "gzip, none", "utf-8,gzip"],
)
def test_what_is_no_coding_is_left_out(header: str) -> None:
    """Servers put character sets and nothings where a coding belongs."""
    is_coded = "gzip" in header
    assert decode(header, gzip.compress(NO_TEXT) if is_coded else NO_TEXT) == (NO_TEXT, None)


def test_several_headers_are_one() -> None:
    """The codings of all headers of the name count, in the order of the wire."""
    assert of_headers([["content-encoding", "gzip"], ["a", "b"], ["content-encoding", "br"]]) == "gzip, br"
    assert of_headers([("content-encoding", {"base64": "/w=="}), ("x", "gzip")]) is None


@every_coding
def test_no_body_is_no_error(coding: str, encode: Callable[[bytes], bytes]) -> None:
    """A coding named for an empty body is fine: answers to HEAD have it."""
    assert decode(coding, b"") == (b"", None)


@every_coding
@given(rng=st.randoms())
def test_damage(coding: str, encode: Callable[[bytes], bytes], rng: random.Random) -> None:
    """A flipped byte anywhere raises nothing."""
    body = bytearray(encode(CONTENT))
    body[rng.randrange(len(body))] ^= 1 + rng.randrange(255)
    decode(coding, bytes(body), rng.randrange(1, 100))


@pytest.mark.parametrize("coding", ["gzip", "deflate", "br", "zstd", "gzip, br", "identity", "compress", "", None])
@given(data=st.binary(max_size=300))
def test_any_bytes(coding: str | None, data: bytes) -> None:
    """No bytes raise anything under any coding."""
    decode(coding, data)
    decode(coding, data, 1)


@pytest.mark.parametrize("coding", [None, "", "identity", " Identity ,, identity"])
def test_identity_is_the_same_object(coding: str | None) -> None:
    """Without a coding nothing is copied."""
    decoder = Decoder(coding)
    assert decoder.feed(CONTENT) is CONTENT
    assert decoder.finish() == b""
    assert decoder.error is None


@pytest.mark.parametrize("coding", ["compress", "gzip, exotic", "aes128gcm", "\x1b[31m" * 100])
def test_unknown_coding(coding: str) -> None:
    """An unknown coding gives nothing and says which it was, in printable characters."""
    found, error = decode(coding, NO_TEXT)
    assert found == b""
    assert error is not None
    assert error.startswith("unknown content-encoding ")
    assert error.isprintable()
    assert len(error) < 250


def test_too_many_codings() -> None:
    """More codings than anybody stacks are not tried."""
    assert decode("br, br, br, br", NO_TEXT) == (b"", "more than 3 content-encodings")


@pytest.mark.parametrize(("coding", "encode"), [("gzip", gzip.compress), ("zstd", zstandard.compress)])
def test_several_members(coding: str, encode: Callable[[bytes], bytes]) -> None:
    """A body of several members is their contents together."""
    body = encode(CONTENT[:100]) + encode(b"") + encode(CONTENT[100:])
    for step in (1, 7, len(body)):
        assert decode(coding, body, step) == (CONTENT, None)


def test_zero_padding_after_gzip() -> None:
    """Zeros after the last member are padding."""
    for step in (1, 1 << 20):
        assert decode("gzip", gzip.compress(CONTENT) + bytes(5000), step) == (CONTENT, None)


def test_flushed_events_come_at_once() -> None:
    """Each flushed event of a coded stream comes out with its last byte."""
    stream = zlib.compressobj(wbits=31)
    decoder = Decoder("gzip")
    for number in range(20):
        event = b"data: %d\n\n" % number
        assert decoder.feed(stream.compress(event) + stream.flush(zlib.Z_SYNC_FLUSH)) == event


ZEROS = bytes(100 * MEGABYTE)
BOMBS = {
    "gzip": ("gzip", gzip.compress(ZEROS)),
    "raw deflate": ("deflate", raw_deflate(ZEROS)),
    "br": ("br", brotli.compress(ZEROS, quality=5)),
    "zstd": ("zstd", zstandard.compress(ZEROS)),
    "gzip in gzip": ("gzip, gzip", gzip.compress(gzip.compress(ZEROS))),
    "gzip in br": ("gzip, br", brotli.compress(gzip.compress(ZEROS))),
    "gzip, many members": ("gzip", gzip.compress(ZEROS[:MEGABYTE]) * 100),
    "zstd, many frames": ("zstd", zstandard.compress(ZEROS[:MEGABYTE]) * 100),
}


@pytest.mark.parametrize(("coding", "bomb"), BOMBS.values(), ids=BOMBS.keys())
@pytest.mark.parametrize("step", [1000, 1 << 30])
def test_bombs(coding: str, bomb: bytes, step: int) -> None:
    """A bomb stops at the cap of the ratio, is flagged, and is never held whole."""
    decoder = Decoder(coding, max_ratio=20)
    tracemalloc.start()
    size = sum(len(piece) for at in range(0, len(bomb), step) for piece in decoder.pieces(bomb[at : at + step]))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert size <= max(RATIO_FLOOR, 20 * len(bomb))
    assert decoder.truncated
    assert "bytes decoded" in str(decoder.error)
    assert peak < 16 * MEGABYTE


@every_coding
def test_size_cap_is_exact(coding: str, encode: Callable[[bytes], bytes]) -> None:
    """Output ends at the cap to the byte, and nothing comes after it."""
    body = encode(CONTENT)
    decoder = Decoder(coding, max_bytes=300)
    if "," not in coding:
        assert decoder.feed(body) == CONTENT[:300]
    assert len(decoder.feed(body)) <= 300
    assert decoder.truncated
    assert decoder.feed(body) == b""


@pytest.mark.parametrize(
    ("coding", "member"), [("gzip", gzip.compress(b"")), ("zstd", zstandard.compress(b""))], ids=["gzip", "zstd"]
)
def test_endless_empty_members(coding: str, member: bytes) -> None:
    """Members that hold nothing are not worth endless work."""
    found, error = decode(coding, member * 100_000)
    assert found == b""
    assert error is not None
    assert error.startswith(f"{coding}: more than 1000 ")


def test_a_large_window_is_refused() -> None:
    """A zstd frame that asks for a window of gigabytes gets an error, not the memory."""
    parameters = zstandard.ZstdCompressionParameters(window_log=27, compression_level=1)
    stream = zstandard.ZstdCompressor(compression_params=parameters).compressobj()
    body = stream.compress(b"x" * 100_000) + stream.flush()
    assert decode("zstd", body)[1] is not None


def test_ordinary_repetition_is_no_bomb() -> None:
    """A megabyte of the same may have any ratio."""
    body = gzip.compress(bytes(RATIO_FLOOR))
    assert decode("gzip", body) == (bytes(RATIO_FLOOR), None)
    assert MAX_BYTES > RATIO_FLOOR
