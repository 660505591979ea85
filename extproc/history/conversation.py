"""Requests that go on with one another: each sends again all that was said before.

    found = messages(document)     # what a request says, whichever API it is for; empty where it says nothing so
    beginning(found)               # the same for all requests of a conversation
    relation(own, other)           # what another one is to this one

Marks for a provider's cache are no part of what was said: clients move them with each turn.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec

Messages = Sequence[Mapping[str, Any]]

_PLACES: Final = ("messages", "contents", "input")
_MARK: Final = "cache_control"
_BYTES: Final = 4
_encode = msgspec.json.Encoder(order="deterministic").encode


def messages(document: Any) -> Messages:
    """OpenAI's and Anthropic's `messages`, Gemini's `contents`, a list as `input` of the Responses API."""
    if not isinstance(document, Mapping):
        return ()
    for name in _PLACES:
        said = document.get(name)
        if isinstance(said, list) and said and all(isinstance(each, Mapping) for each in said):
            return said
    return ()


def beginning(said: Messages) -> bytes | None:
    """A digest of the messages up to the first one of a user; None where there is none, or JSON has no form for it."""
    for count, message in enumerate(said, 1):
        if message.get("role") == "user":
            try:
                text = _encode([_plain(each) for each in said[:count]])
            except (RecursionError, UnicodeEncodeError, msgspec.MsgspecError):
                return None
            return hashlib.blake2b(text, digest_size=_BYTES).digest()
    return None


def relation(own: Messages, other: Messages) -> str:
    """What another request is to this one: `earlier` when this one goes on with all of it, `later` when it goes on with
    all of this one, `same` when both say the same, `branch` when they part ways."""
    try:
        parted = any(_plain(mine) != _plain(its) for mine, its in zip(own, other, strict=False))
    except RecursionError:
        parted = True
    if parted:
        return "branch"
    if len(own) == len(other):
        return "same"
    return "earlier" if len(other) < len(own) else "later"


def _plain(message: Mapping[str, Any]) -> dict[str, Any]:
    """A message without marks. A text that is its only part is the text: that is how a mark is put on it."""
    content = message.get("content")
    if isinstance(content, list):
        content = [_unmarked(part) if isinstance(part, Mapping) else part for part in content]
        match content:
            case [{"type": "text", "text": str(text), **rest}] if not rest:
                content = text
        return _unmarked(message) | {"content": content}
    return _unmarked(message)


def _unmarked(value: Mapping[str, Any]) -> dict[str, Any]:
    return {name: each for name, each in value.items() if name != _MARK}
