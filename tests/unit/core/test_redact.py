"""Credentials are replaced, and nothing else is touched."""

from __future__ import annotations

import base64
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extproc.core.marks import MARK
from extproc.core.redact import Redactor, parameter_name

REDACTOR = Redactor(b"k" * 32, headers=["X-Tenant-Room"], query=["door"])
KEY = "sk-canary0123"


def mark(text: str) -> str:
    """The mark for it."""
    return REDACTOR.mark(text.encode())


def test_the_mark_is_the_same_for_one_key_and_differs_between_keys() -> None:
    """Requests with one credential can be told to belong together, on one machine only."""
    assert REDACTOR.mark(b"Bearer sk-1") == REDACTOR.mark(b"Bearer sk-1") != REDACTOR.mark(b"Bearer sk-2")
    assert REDACTOR.mark(b"Bearer sk-1") != Redactor(b"x" * 32).mark(b"Bearer sk-1")
    assert REDACTOR.mark(b"Bearer sk-1").startswith(MARK)


@pytest.mark.parametrize("name", ["authorization", "cookie", "set-cookie", "x-acme-api-key", "x-tenant-room"])
@pytest.mark.parametrize("value", [b"Bearer sk-1", b"", b"\xff", b"x" * 10_000])
def test_a_header_that_is_secret_by_its_name(name: str, value: bytes) -> None:
    """The known and the configured names, whatever their case in the configuration: all of the value is replaced."""
    assert REDACTOR.field(name, value) == REDACTOR.mark(value)


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("/v1/models", "/v1/models"),
        ("/v1?a=1&b=%20&c", "/v1?a=1&b=%20&c"),
        ("/v1?key=", "/v1?key="),
        ("/v1?monkey=1&max_tokens=5&page_token=abc", "/v1?monkey=1&max_tokens=5&page_token=abc"),
        ("/v1?key=S&a=1", "/v1?key={}&a=1"),
        ("/v1?a=1&API_KEY=S#part", "/v1?a=1&API_KEY={}#part"),
        ("/v1?%6Bey=S", "/v1?%6Bey={}"),
        ("/v1?%256Bey=S", "/v1?%256Bey={}"),
        ("/v1?door=S&door=S", "/v1?door={0}&door={0}"),
        ("/v1?key[]=S&key[0]=S&key%5B%5D=S&auth[token]=S", "/v1?key[]={0}&key[0]={0}&key%5B%5D={0}&auth[token]={0}"),
        ("/v1?a=1;key=S;b=2", "/v1?a=1;key={};b=2"),
        ("/v1;jsessionid=S;a=1/x?b", "/v1;jsessionid={};a=1/x?b"),
        ("/cb#access_token=S&token_type=bearer", "/cb#access_token={}&token_type=bearer"),
        (
            "/f?code=S&sig=S&X-Amz-Signature=S&client_secret=S",
            "/f?code={0}&sig={0}&X-Amz-Signature={0}&client_secret={0}",
        ),
        ("/f?sv=2024&se=2026-01-01&sig=a%2Bb%3D", "/f?sv=2024&se=2026-01-01&sig=" + mark("a%2Bb%3D")),
        ("https://h/p?access_token=S", "https://h/p?access_token={}"),
        ("https://S@h/p", "https://{}@h/p"),
        (f"/v1/{KEY}/chat?q={KEY}", f"/v1/{mark(KEY)}/chat?q={mark(KEY)}"),
        (f"/v1?{KEY}", f"/v1?{mark(KEY)}"),
        ("/v1?url=https://h/?key=S", "/v1?url=https://h/?key={}"),
        ("/v1?url=https%3A%2F%2Fh%2F%3Fkey%3DS", "/v1?url=" + mark("https%3A%2F%2Fh%2F%3Fkey%3DS")),
        ("/v1?url=https%3A%2F%2Fh%2F%3Fpage%3D2", "/v1?url=https%3A%2F%2Fh%2F%3Fpage%3D2"),
        ("/v1?q=Bearer%20abc", "/v1?q=" + mark("Bearer%20abc")),
        (f"/v1/%73{KEY[1:]}/x", f"/v1/{mark('%73' + KEY[1:])}/x"),
        ("/v1?key=redacted:0123456789ab", "/v1?key=" + mark("redacted:0123456789ab")),
    ],
)
def test_secrets_of_a_url_are_replaced_where_they_stand(url: str, kept: str) -> None:
    """In path, query and fragment, whichever way they are written; the rest stays as it was sent, to the byte."""
    assert REDACTOR.url(url) == kept.format(mark("S"))
    assert REDACTOR.field("x-original-uri", url.encode()) == kept.format(mark("S"))


@pytest.mark.parametrize(
    ("name", "value", "kept"),
    [
        ("user-agent", "OpenAI/Python 1.99.1", "OpenAI/Python 1.99.1"),
        ("x-note", "key, token; secret", "key, token; secret"),
        ("x-api-version", "2024-10-21", "2024-10-21"),
        ("idempotency-key", "stainless-1", "stainless-1"),
        ("www-authenticate", 'Bearer realm="x"', 'Bearer realm="x"'),
        ("x-ratelimit-remaining-tokens", "149984", "149984"),
        ("x-note", f"Bearer {KEY}", f"Bearer {mark(KEY)}"),
        ("idempotency-key", KEY, mark(KEY)),
        ("referer", "https://S@h/?a=1#token=S", "https://{0}@h/?a=1#token={0}"),
        ("link", '<https://h/?key=S&page=2>; rel="next"', '<https://h/?key={}&page=2>; rel="next"'),
        ("refresh", "0; url=https://h/?token=S", "0; url=https://h/?token={}"),
        ("x-forwarded-uri", "/v1?subscription-key=S", "/v1?subscription-key={}"),
        ("location", "//S@h/x", "//{}@h/x"),
        ("x-portkey-config", '{"provider":"x", "api_key": "S", "n":1}', '{"provider":"x", "api_key": "{}", "n":1}'),
        ("x-options", "mode=fast, secret=S; n=1", "mode=fast, secret=" + mark("S") + "; n=1"),
        ("forwarded", "for=192.0.2.1;proto=https", "for=192.0.2.1;proto=https"),
        ("sec-websocket-protocol", "realtime, openai-insecure-api-key.S", "realtime, openai-insecure-api-key.{}"),
        ("sec-websocket-protocol", "openai-beta.realtime-v1", "openai-beta.realtime-v1"),
        ("sec-websocket-protocol", "access_token, S, chat", "access_token, {}, chat"),
        ("sec-websocket-protocol", "v4.x, base64url.bearer.authorization.k8s.io.S", None),
    ],
)
def test_secrets_of_a_header_are_replaced_where_they_stand(name: str, value: str, kept: str | None) -> None:
    """Whatever it is called; what is harmless in it stays."""
    field = REDACTOR.field(name, value.encode())
    if kept is None:
        assert "io.S" not in str(field)
    else:
        assert field == kept.replace("{}", mark("S")).replace("{0}", mark("S"))


def test_a_value_that_is_not_utf8_is_read_too() -> None:
    """Its other bytes stay as they are."""
    field = REDACTOR.field("location", b"https://h/\xff?a=\xfe&key=S\xfd&b=1")
    assert isinstance(field, dict)
    kept = base64.b64decode(field["base64"])
    assert re.fullmatch(rb"https://h/\xff\?a=\xfe&key=redacted:[0-9a-f]{12}&b=1", kept)


def test_an_authority_may_hold_a_user() -> None:
    """Only the host stays."""
    assert REDACTOR.authority("u:p@h:8000") == mark("u:p") + "@h:8000"
    assert REDACTOR.authority("h:8000") == "h:8000"


@pytest.mark.parametrize("parameter", ["a{}=1", "key{}=1", "a{}=%31", "x"])
def test_more_parameters_than_anybody_needs_are_replaced_as_a_whole(parameter: str) -> None:
    """The first ones one by one."""
    url = "/v1?" + "&".join(parameter.format(number) for number in range(1000)) + "&key=S"
    kept = REDACTOR.url(url)
    assert kept.startswith("/v1?" + parameter.partition("{")[0])
    assert "key=S" not in kept
    assert kept.count("&") == 256


@given(
    text=st.lists(
        st.one_of(
            st.sampled_from(
                [*"/?&;#=%@:[]{}\"'<> ", "key", "token", "%3D", "%25", "://", "Bearer ", "redacted:", "sk-", "a"]
            ),
            st.text(max_size=3),
        ),
        max_size=12,
    ).map("".join)
)
def test_any_text_is_read(text: str) -> None:
    """Nothing raises, and what is not replaced is as it was: without marks the rest of the text is there in order."""
    raw = text.encode("utf-8", "surrogatepass")
    REDACTOR.field("x-any", raw)
    at = 0
    for piece in re.split("redacted:[0-9a-f]{12}", REDACTOR.url(text)):
        at = text.index(piece, at) + len(piece)


@pytest.mark.parametrize(("text", "name"), [("Key=x", "key"), ("%6Bey[]=x", "key"), ("a[b]=x", "a[b]")])
def test_the_name_of_a_parameter(text: str, name: str) -> None:
    """As it is compared."""
    assert parameter_name(text) == name
