"""The APIs of model servers: what a request asks, what a response answers, as their bytes pass.

`RequestReading` and `ResponseReading` gather the `llm` part of a record in bounded memory, whatever the body's
size; `assemble` puts the answer together again from a stored body. None of them raises, on any input.
"""

from __future__ import annotations

from extproc.core.dialects.assembly import assemble
from extproc.core.dialects.request import RequestReading
from extproc.core.dialects.response import ResponseReading

__all__ = ["RequestReading", "ResponseReading", "api_of", "assemble"]

_APIS = {
    "chat/completions": "chat.completions",
    "completions": "completions",
    "completion": "completions",
    "embeddings": "embeddings",
    "responses": "responses",
    "messages": "messages",
}

_USUAL = {f"/v1/{end}": api for end, api in _APIS.items()}

_WITHIN_ANOTHER = frozenset(
    {
        *("threads", "conversations", "chats", "channels", "rooms", "sessions", "users", "groups"),
        *("completions", "responses", "messages", "forms", "surveys", "batches", "evals"),
    }
)
"""Collections whose members have messages or responses of their own."""


def api_of(method: str | None, path: str) -> str | None:
    """The API that a request calls, whatever prefix a gateway puts before its path; None for any other request.

    Only a POST asks a model for something: the same paths list what is stored (GET) and tell browsers what is allowed
    (OPTIONS). Where the method is not known the path decides. The messages of a thread, `/v1/threads/ID/messages`,
    are none of a model's.
    """
    if method not in (None, "POST"):
        return None
    if (usual := _USUAL.get(path)) is not None:
        return usual
    parts = [part for part in path.partition("?")[0].partition("#")[0].split("/") if part]
    if not parts:
        return None
    *before, last = parts
    api = _APIS.get("/".join([*before[-1:], last])) or _APIS.get(last)
    if last in {"messages", "responses"} and not _WITHIN_ANOTHER.isdisjoint(before):
        return None
    return api
