"""The answer put together again from a stored body: one message for each choice.

Deltas are merged as `merge` says. What a stream says twice is in it once: of a choice's delta, message and text the
first that says something counts, as it does for the counts of the record. An answer that was not a stream is given as
it was sent. Vectors are given by their sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from extproc.core import jsondoc, media
from extproc.core.dialects import native
from extproc.core.dialects.answer import MAX_CHOICES, mapping, objects, whole_number
from extproc.core.dialects.content import json_text, message_texts, places, shows_something, texts
from extproc.core.dialects.merge import merge, settled
from extproc.core.dialects.openai import TERMINAL
from extproc.core.encoding import Decoder
from extproc.core.sse import Parser

Event = tuple[str, dict[str, Any]]

_LOOKED_AT = 4096


def assemble(
    api: str | None, content_type: str | None, content_encoding: str | None, body: bytes
) -> list[dict[str, Any]] | None:
    """The assembled messages by choice index, or None when the body holds no answer of this API.

    Of the Responses API it is the list of output items, of embeddings the size of each vector.
    """
    if api not in _STREAMS:
        return None
    decoder = Decoder(content_encoding)
    decoded = decoder.feed(body) + decoder.finish()
    if media.is_stream(content_type, decoded[:_LOOKED_AT]):
        return _STREAMS[api](_events(decoded))
    try:
        document = jsondoc.decode_leniently(decoded)
    except jsondoc.Malformed:
        return _by_lines(_STREAMS[api], decoded)
    return _DOCUMENTS[api](document) if isinstance(document, dict) else None


def _by_lines(
    stream: Callable[[Iterator[Event]], list[dict[str, Any]] | None], body: bytes
) -> list[dict[str, Any]] | None:
    """JSON by the line under a type that does not say so."""
    events = list(_events(body)) if body.lstrip()[:1] == b"{" else []
    return stream(iter(events)) if len(events) > 1 else None


def _events(body: bytes) -> Iterator[Event]:
    parser = Parser(limit=len(body))
    for event in [*parser.feed(body), *parser.finish()]:
        try:
            data = jsondoc.decode_leniently(event.data)
        except jsondoc.Malformed:
            continue
        if isinstance(data, dict):
            yield event.event, data


# Chat completions and completions --------------------------------------------------------------------------------


class _Choices:
    """The messages of a stream, by choice."""

    def __init__(self) -> None:
        self._messages: dict[int, Any] = {}
        self._spoken: set[int] = set()
        self._stated: dict[int, list[dict[str, Any]]] = {}
        """Whole messages, as long as nothing comes in parts: the last one may be repeated, with more."""

    def add(self, index: int, choice: dict[str, Any]) -> None:
        """What a choice of one chunk says."""
        if not 0 <= index < MAX_CHOICES:
            return
        delta, message, text = mapping(choice.get("delta")), mapping(choice.get("message")), choice.get("text")
        said = any(message_texts(delta)) or shows_something(delta)
        if not said and message:
            self._merge(index, delta)
            self._state(index, message)
            return
        if not said and isinstance(text, str):
            said = bool(text)
            delta = {**delta, "text": text}
        if said:
            self._end_statements(index)
            self._spoken.add(index)
        self._merge(index, delta)

    def by_index(self) -> list[dict[str, Any]]:
        """Those that came, and empty ones for those between."""
        for index in list(self._stated):
            self._end_statements(index)
        count = max(self._messages, default=-1) + 1
        return [settled(self._messages.get(index, {})) for index in range(count)]

    def _merge(self, index: int, message: dict[str, Any]) -> None:
        self._messages[index] = merge(self._messages.get(index, {}), message)

    def _end_statements(self, index: int) -> None:
        for message in self._stated.pop(index, ()):
            self._merge(index, message)

    def _state(self, index: int, message: dict[str, Any]) -> None:
        """A message in place of a delta: the whole of what came in parts, or all so far, or the next part."""
        if index in self._spoken:
            return
        stated = self._stated.setdefault(index, [])
        before = "".join(message_texts(stated[-1])) if stated else ""
        if before and "".join(message_texts(message)).startswith(before):
            stated[-1] = message
        else:
            stated.append(message)


def _chat_stream(events: Iterator[Event]) -> list[dict[str, Any]]:
    choices = _Choices()
    for _, chunk in events:
        listed = objects(chunk.get("choices"))
        for choice, index in zip(listed, places(listed, whole=False), strict=True):
            choices.add(index, choice)
        if "choices" not in chunk:
            delta = _native(chunk)
            if delta is not None:
                choices.add(whole_number(chunk.get("index"), 0), {"delta": delta})
    return choices.by_index()


def _chat_document(body: dict[str, Any]) -> list[dict[str, Any]] | None:
    listed = objects(body.get("choices"))
    if not listed:
        message = _native(body)
        return None if message is None else [message]
    choices = {}
    for position, (choice, index) in enumerate(zip(listed, places(listed, whole=True), strict=True)):
        choices[index if 0 <= index < MAX_CHOICES else position] = _message(choice)
    return [choices.get(index, {}) for index in range(max(choices) + 1)]


def _message(choice: dict[str, Any]) -> dict[str, Any]:
    """What a choice says: the message of a chat, or the text of a completion."""
    named = [mapping(choice[name]) for name in ("delta", "message") if isinstance(choice.get(name), dict)]
    for message in named:
        if any(message_texts(message)) or shows_something(message):
            return message
    if isinstance(choice.get("text"), str):
        return {"text": choice["text"]}
    return named[-1] if named else {}


def _native(body: dict[str, Any]) -> dict[str, Any] | None:
    """What an event or a document of a server's own form says, as a message."""
    if native.is_llama_cpp(body):
        return {"content": body["content"]}
    return native.ollama_message(body) if native.is_ollama(body) else None


# Messages --------------------------------------------------------------------------------------------------------


def _messages_stream(events: Iterator[Event]) -> list[dict[str, Any]]:
    message: dict[str, Any] = {}
    blocks: dict[int, Any] = {}
    for name, event in events:
        kind = event.get("type", name)
        index = _index(event.get("index")) or 0
        if kind == "message_start":
            started = mapping(event.get("message"))
            message = {"role": started.get("role", "assistant")}
        elif kind == "content_block_start":
            blocks[index] = dict(mapping(event.get("content_block")))
        elif kind == "content_block_delta":
            delta = {key: value for key, value in mapping(event.get("delta")).items() if key != "type"}
            if "citation" in delta:
                delta["citations"] = [delta.pop("citation")]
            blocks[index] = merge(blocks.get(index, {}), delta)
        elif kind == "message" and isinstance(event.get("content"), list) and not blocks:
            message = {"role": event.get("role", "assistant")}
            blocks = dict(enumerate(event["content"]))
    if not message and not blocks:
        return []
    return [{**message, "content": [_block(settled(blocks[index])) for index in sorted(blocks)]}]


def _index(value: object) -> int | None:
    index = whole_number(value, -1)
    return index if 0 <= index < MAX_CHOICES else None


def _block(block: Any) -> Any:
    """A block whose streamed input is complete JSON has it as `input`; one cut off keeps `partial_json`.

    A tool without arguments sends no input, or an empty one: what the block began with is all of it.
    """
    partial = block.get("partial_json") if isinstance(block, dict) else None
    if isinstance(partial, str):
        try:
            block["input"] = jsondoc.decode(partial.encode("utf-8", "surrogatepass")) if partial else block["input"]
        except jsondoc.Malformed:
            return block
        except KeyError:
            block["input"] = {}
        del block["partial_json"]
    return block


def _messages_document(body: dict[str, Any]) -> list[dict[str, Any]] | None:
    if "content" not in body:
        return None
    return [{"role": body.get("role", "assistant"), "content": body["content"]}]


# Responses -------------------------------------------------------------------------------------------------------

_PARTS = {
    "response.output_text": ("content", "output_text", "text"),
    "response.reasoning_text": ("content", "reasoning_text", "text"),
    "response.reasoning": ("content", "reasoning_text", "text"),
    "response.refusal": ("content", "refusal", "refusal"),
    "response.reasoning_summary_text": ("summary", "summary_text", "text"),
    "response.reasoning_summary": ("summary", "summary_text", "text"),
}
"""Where a text goes in its item: the list, the part's type, and the part's text."""

_ADDED = {"response.content_part.added": "content", "response.reasoning_summary_part.added": "summary"}

_ITEM_TEXTS = {
    "response.function_call_arguments": "arguments",
    "response.mcp_call_arguments": "arguments",
    "response.custom_tool_call_input": "input",
    "response.code_interpreter_call_code": "code",
}


def _responses_stream(events: Iterator[Event]) -> list[dict[str, Any]]:
    """The output of the terminal event, and what the events before it say more.

    There are servers whose last event holds nothing, or the last delta alone.
    """
    items: dict[int, Any] = {}
    ids: dict[int, Any] = {}
    places = _Places()
    output: list[dict[str, Any]] = []
    for name, event in events:
        kind = event.get("type", name)
        if not isinstance(kind, str):
            continue
        if kind in TERMINAL or event.get("object") == "response":
            output = objects(mapping(event.get("response", event)).get("output"))
        elif kind.startswith("response."):
            index = places.of(event)
            if index is not None:
                item = _item(items.get(index), kind, event)
                if item is not None:
                    items[index] = item
                    ids[index] = event.get("item_id") or item.get("id")
    items = {index: settled(item) for index, item in items.items()}
    if not output:
        return [items[index] for index in sorted(items)]
    found = []
    for position, item in enumerate(output):
        index = _same_item(item, position, items, ids)
        other = {} if index is None else items.pop(index)
        found.append((position if index is None else index, _fuller(item, other)))
    # An item that was announced and is missing in the end is one that the server forgot.
    found += [(index, item) for index, item in items.items() if "type" in item]
    return [item for _, item in sorted(found, key=lambda pair: pair[0])]


class _Places:
    """Where an event's item stands in the output: by its index, or, for a server that gives none, by the item's id."""

    def __init__(self) -> None:
        self._by_id: dict[str, int] = {}
        self._last = 0

    def of(self, event: dict[str, Any]) -> int | None:
        """The index; None for one that is none. An event without index and id belongs to the item before it."""
        if "output_index" in event:
            return _index(event["output_index"])
        id = event.get("item_id") or mapping(event.get("item")).get("id")
        if isinstance(id, str):
            self._last = self._by_id.setdefault(id, len(self._by_id))
        return self._last


def _same_item(item: dict[str, Any], position: int, items: dict[int, Any], ids: dict[int, Any]) -> int | None:
    """The index of the same item in the events: by id, else by its place in the output."""
    by_id = next((index for index in items if item.get("id") and ids.get(index) == item["id"]), None)
    if by_id is not None:
        return by_id
    return position if position in items and items[position].get("type") == item.get("type") else None


def _item(item: Any, kind: str, event: dict[str, Any]) -> Any:
    """An item after this event; None for one that does not exist, and for an event that makes none."""
    if kind == "response.output_item.added":
        return _begun(event.get("item"))
    if kind == "response.output_item.done":
        return _fuller(mapping(event.get("item")), settled(item or {}))
    if kind in _ADDED:
        item = item or {}
        return {**item, _ADDED[kind]: [*objects(item.get(_ADDED[kind])), _begun(event.get("part"))]}
    what, _, stage = kind.rpartition(".")
    if stage == "delta" and isinstance(event.get("delta"), str):
        return _with_text(item or {}, what, event["delta"], is_whole=False)
    if stage == "done":
        whole = event.get(_PARTS.get(what, ("", "", _ITEM_TEXTS.get(what, "")))[2])
        return _with_text(item or {}, what, whole, is_whole=True) if isinstance(whole, str) else item
    return item


def _begun(value: object) -> dict[str, Any]:
    """An item or a part as it was announced. Its lists are empty here: what is in them comes by itself."""
    return {key: member for key, member in mapping(value).items() if member != []}


def _with_text(item: dict[str, Any], what: str, text: str, *, is_whole: bool) -> Any:
    if what in _ITEM_TEXTS:
        return _with_member(item, _ITEM_TEXTS[what], text, is_whole=is_whole)
    if what not in _PARTS:
        return item or None
    member, type_, name = _PARTS[what]
    parts = objects(item.get(member))
    # By the order of the events: vLLM 0.11.0 counts the content index up with each delta.
    if not parts or parts[-1].get("type") != type_:
        parts.append({"type": type_})
    parts[-1] = _with_member(parts[-1], name, text, is_whole=is_whole)
    return {**item, member: parts}


def _with_member(holder: dict[str, Any], name: str, text: str, *, is_whole: bool) -> dict[str, Any]:
    if not is_whole:
        return {**holder, name: merge(holder.get(name), text, name)}
    return holder if len(settled(holder.get(name)) or "") >= len(text) else {**holder, name: text}


_SAID = ("content", "summary", "arguments", "input", "code")


def _fuller(item: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """An item as it was sent, with the texts of the other where that one has more."""
    if _length(other) <= _length(item):
        return item
    return {**other, **item, **{name: other[name] for name in _SAID if name in other}}


def _length(item: dict[str, Any]) -> int:
    said = [*texts(item.get("content")), *texts(item.get("summary"))]
    said += [json_text(item.get(name)) for name in _SAID[2:]]
    return sum(map(len, said))


def _responses_document(body: dict[str, Any]) -> list[dict[str, Any]] | None:
    return objects(body["output"]) if isinstance(body.get("output"), list) else None


# Embeddings ------------------------------------------------------------------------------------------------------


def _embeddings_stream(events: Iterator[Event]) -> list[dict[str, Any]] | None:
    """Embeddings are not streamed; a document under the type of a stream may be."""
    return next((found for _, event in events if (found := _embeddings_document(event)) is not None), None)


def _embeddings_document(body: dict[str, Any]) -> list[dict[str, Any]] | None:
    if not isinstance(body.get("data"), list):
        return None
    return [_vector(position, item) for position, item in enumerate(objects(body["data"]))]


def _vector(position: int, item: dict[str, Any]) -> dict[str, Any]:
    index, embedding = item.get("index", position), item.get("embedding")
    if isinstance(embedding, list):
        return {"index": index, "dimensions": len(embedding)}
    return {"index": index, "base64_chars": len(embedding) if isinstance(embedding, str) else None}


_STREAMS: dict[str, Callable[[Iterator[Event]], list[dict[str, Any]] | None]] = {
    "chat.completions": _chat_stream,
    "completions": _chat_stream,
    "embeddings": _embeddings_stream,
    "responses": _responses_stream,
    "messages": _messages_stream,
}

_DOCUMENTS: dict[str, Callable[[dict[str, Any]], list[dict[str, Any]] | None]] = {
    "chat.completions": _chat_document,
    "completions": _chat_document,
    "embeddings": _embeddings_document,
    "responses": _responses_document,
    "messages": _messages_document,
}
