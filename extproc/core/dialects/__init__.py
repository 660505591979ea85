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
    "embeddings": "embeddings",
    "responses": "responses",
    "messages": "messages",
}


def api_of(path: str) -> str | None:
    """The API that a path belongs to, whatever prefix a gateway puts before it; None for any other path."""
    parts = path.partition("?")[0].partition("#")[0].rstrip("/").rsplit("/", 2)
    return _APIS.get("/".join(parts[-2:])) or _APIS.get(parts[-1])
