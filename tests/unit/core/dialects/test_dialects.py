"""Which paths belong to which API."""

from __future__ import annotations

import pytest

from extproc.core.dialects import api_of


@pytest.mark.parametrize(
    ("path", "api"),
    [
        ("/v1/chat/completions", "chat.completions"),
        ("/v1/chat/completions/", "chat.completions"),
        ("/v1/chat/completions?api-version=1&x=/v1/embeddings", "chat.completions"),
        ("/openai/deployments/gpt/chat/completions", "chat.completions"),
        ("/v1/completions", "completions"),
        ("/v1/embeddings", "embeddings"),
        ("/v1/responses", "responses"),
        ("/v1/messages", "messages"),
        ("/v1/messages/count_tokens", None),
        ("/v1/responses/resp_1", None),
        ("/v1/models", None),
        ("/health", None),
        ("/", None),
        ("", None),
        ("\0\ud800?", None),
    ],
)
def test_api_of(path: str, api: str | None) -> None:
    """The end of the path names the API, whatever stands before it."""
    assert api_of(path) == api
