"""Credentials are replaced, and nothing else is touched."""

from __future__ import annotations

import pytest

from extproc.core.redact import HEADERS, MARK, Redactor

REDACTOR = Redactor(b"k" * 32, headers=["X-Tenant-Secret"], query=["sig"])


@pytest.mark.parametrize("name", [*sorted(HEADERS), "x-tenant-secret"])
def test_known_and_configured_headers_are_secret(name: str) -> None:
    """The built-in list and the configured names, whatever their case in the configuration."""
    assert REDACTOR.is_secret(name)


def test_other_headers_are_not_secret() -> None:
    """A name that merely contains a secret one is no secret."""
    assert not REDACTOR.is_secret("x-authorization-policy")


def test_the_mark_is_the_same_for_one_key_and_differs_between_keys() -> None:
    """Requests with one credential can be told to belong together, on one machine only."""
    assert REDACTOR.mark(b"Bearer sk-1") == REDACTOR.mark(b"Bearer sk-1") != REDACTOR.mark(b"Bearer sk-2")
    assert REDACTOR.mark(b"Bearer sk-1") != Redactor(b"x" * 32).mark(b"Bearer sk-1")
    assert REDACTOR.mark(b"Bearer sk-1").startswith(MARK)


@pytest.mark.parametrize(
    ("url", "kept"),
    [
        ("/v1/models", "/v1/models"),
        ("/v1?a=1&b=%20&c", "/v1?a=1&b=%20&c"),
        ("/v1?key=", "/v1?key="),
        ("/v1?monkey=1", "/v1?monkey=1"),
        ("/v1?key=S&a=1", "/v1?key={}&a=1"),
        ("/v1?a=1&API_KEY=S#part", "/v1?a=1&API_KEY={}#part"),
        ("/v1?%6Bey=S", "/v1?%6Bey={}"),
        ("/v1?sig=S&sig=S", "/v1?sig={0}&sig={0}"),
        ("https://h/p?access_token=S", "https://h/p?access_token={}"),
    ],
)
def test_secret_query_parameters_are_replaced_where_they_stand(url: str, kept: str) -> None:
    """Only the value changes; the rest of the URL stays as it was sent, to the byte."""
    assert REDACTOR.url(url) == kept.format(REDACTOR.mark(b"S"))
