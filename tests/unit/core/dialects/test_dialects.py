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
        ("/completion", "completions"),
        ("//v1//chat//completions", "chat.completions"),
        ("/anthropic/v1/messages", "messages"),
        ("/v1/threads/thread_1/messages", None),
        ("/openai/threads/thread_1/messages?api-version=1", None),
        ("/v1/conversations/c/messages", None),
        ("/v1/chat/completions/chatcmpl-1/messages", None),
        ("/v1/chat/completions/chatcmpl-1", None),
        ("/forms/f/responses", None),
    ],
)
def test_api_of(path: str, api: str | None) -> None:
    """The end of the path names the API, whatever stands before it."""
    assert api_of("POST", path) == api


@pytest.mark.parametrize("method", ["GET", "HEAD", "OPTIONS", "DELETE", "PUT", "PATCH", "post", ""])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"])
def test_only_a_post_calls_a_model(method: str, path: str) -> None:
    """The same paths list what is stored, and are asked by browsers what they may send."""
    assert api_of(method, path) is None
    assert api_of(None, path) is not None
