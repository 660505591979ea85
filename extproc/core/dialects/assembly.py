"""The answer put together again from a stored body: one message for each choice.

Deltas are merged deeply and by no list of known fields, so that what a server adds (`reasoning_content`, ...)
survives: strings are joined, objects merged, lists of objects keyed by their `index`, and of anything else the
last value counts. An answer that was not a stream is given as it was sent. Vectors are given by their sizes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from extproc.core import jsondoc
from extproc.core.dialects.answer import MAX_CHOICES, mapping, objects
from extproc.core.dialects.response import is_stream
from extproc.core.encoding import Decoder
from extproc.core.sse import Parser

MAX_DEPTH = 64
_LAST_WINS = frozenset({"id", "index", "role", "type", "object", "model", "call_id"})

Event = tuple[str, dict[str, Any]]


def assemble(
    api: str | None, content_type: str | None, content_encoding: str | None, body: bytes
) -> list[dict[str, Any]] | None:
    """The assembled messages by choice index, or None when the body holds no answer of this API.

    Of the Responses API it is the list of output items, of embeddings the size of each vector.
    """
    del content_type  # the first byte tells more: see is_stream
    if api not in _STREAMS:
        return None
    decoder = Decoder(content_encoding)
    decoded = decoder.feed(body) + decoder.finish()
    if is_stream(decoded):
        return _STREAMS[api](_events(decoded))
    try:
        document = jsondoc.decode_leniently(decoded)
    except jsondoc.Malformed:
        return None
    return _DOCUMENTS[api](document) if isinstance(document, dict) else None


def _events(body: bytes) -> Iterator[Event]:
    parser = Parser(limit=len(body))
    for event in [*parser.feed(body), *parser.finish()]:
        try:
            data = jsondoc.decode_leniently(event.data)
        except jsondoc.Malformed:
            continue
        if isinstance(data, dict):
            yield event.event, data


class _Text(list[str]):
    """A string that grows: its parts."""


class _Keyed(dict[int, Any]):
    """A list whose entries are known by their index, which need not begin at 0."""


def _merge(old: Any, new: Any, name: str = "", depth: int = 0) -> Any:
    """`new` merged into `old`, which it may change; `name` is the member that holds them."""
    if new is None or depth > MAX_DEPTH:
        return old
    if isinstance(new, dict):
        target = old if isinstance(old, dict) and not isinstance(old, _Keyed) else {}
        for key, value in new.items():
            target[key] = _merge(target.get(key), value, key, depth + 1)
        return target
    if isinstance(new, list):
        return _merge_list(old, new, depth)
    if isinstance(new, str) and isinstance(old, str | _Text):
        return _merge_text(old, new, name)
    return new


def _merge_text(old: str | _Text, new: str, name: str) -> Any:
    if name in _LAST_WINS:
        return new or old
    # A name comes once, or again in each fragment, or in parts.
    if name == "name" and isinstance(old, str) and (not new or new == old):
        return old
    if isinstance(old, str):
        old = _Text([old])
    old.append(new)
    return old


def _merge_list(old: Any, new: list[Any], depth: int) -> Any:
    entries = objects(new)
    if len(entries) < len(new) or not (isinstance(old, _Keyed) or any("index" in item for item in entries)):
        if type(old) is not list:
            return new if old is None else old
        old.extend(new)
        return old
    keyed = old if isinstance(old, _Keyed) else _Keyed()
    for item in entries:
        key = _key(keyed, item)
        keyed[key] = _merge(keyed.get(key), item, depth=depth + 1)
    return keyed


def _key(keyed: _Keyed, item: dict[str, Any]) -> int:
    """The entry that a fragment belongs to: by index, else by id, else the last one."""
    index = item.get("index")
    if type(index) is int:
        return index
    last = next(reversed(keyed), -1)
    if item.get("id") in (None, "", mapping(keyed.get(last)).get("id")):
        return max(last, 0)
    return last + 1


def _settled(value: Any, depth: int = 0) -> Any:
    """The value as plain JSON."""
    if isinstance(value, _Text):
        return "".join(value)
    if isinstance(value, _Keyed):
        return [_settled(value[index], depth + 1) for index in sorted(value)]
    if isinstance(value, dict) and depth <= 2 * MAX_DEPTH:
        return {key: _settled(item, depth + 1) for key, item in value.items()}
    return value


def _index(value: object) -> int | None:
    return value if type(value) is int and 0 <= value < MAX_CHOICES else None


def _by_index(choices: dict[int, Any]) -> list[dict[str, Any]]:
    return [_settled(choices.get(index, {})) for index in range(max(choices, default=-1) + 1)]


def _chat_stream(events: Iterator[Event]) -> list[dict[str, Any]]:
    choices: dict[int, Any] = {}
    for _, chunk in events:
        for choice in objects(chunk.get("choices")):
            index = _index(choice.get("index", 0))
            if index is not None:
                delta = _message(choice)
                choices[index] = _merge(choices.get(index, {}), delta)
    return _by_index(choices)


def _chat_document(body: dict[str, Any]) -> list[dict[str, Any]] | None:
    choices = {}
    for position, choice in enumerate(objects(body.get("choices"))):
        index = _index(choice.get("index", position))
        choices[position if index is None else index] = _message(choice)
    return _by_index(choices) if choices else None


def _message(choice: dict[str, Any]) -> dict[str, Any]:
    """What a choice says: the message of a chat, or the text of a completion."""
    for name in ("delta", "message"):
        if isinstance(choice.get(name), dict):
            return mapping(choice[name])
    return {"text": choice["text"]} if isinstance(choice.get("text"), str) else {}


def _messages_stream(events: Iterator[Event]) -> list[dict[str, Any]]:
    message: dict[str, Any] = {}
    blocks: dict[int, Any] = {}
    for name, event in events:
        kind = event.get("type", name)
        index = _index(event.get("index", 0)) or 0
        if kind == "message_start":
            started = mapping(event.get("message"))
            message = {"role": started.get("role", "assistant")}
        elif kind == "content_block_start":
            blocks[index] = dict(mapping(event.get("content_block")))
        elif kind == "content_block_delta":
            delta = {key: value for key, value in mapping(event.get("delta")).items() if key != "type"}
            if "citation" in delta:
                delta["citations"] = [delta.pop("citation")]
            blocks[index] = _merge(blocks.get(index, {}), delta)
    if not message and not blocks:
        return []
    return [{**message, "content": [_block(_settled(blocks[index])) for index in sorted(blocks)]}]


def _block(block: dict[str, Any]) -> dict[str, Any]:
    """A block whose streamed input is complete JSON has it as `input`; one cut off keeps `partial_json`."""
    partial = block.get("partial_json")
    if isinstance(partial, str):
        try:
            block["input"] = jsondoc.decode(partial.encode("utf-8", "surrogatepass"))
        except jsondoc.Malformed:
            return block
        del block["partial_json"]
    return block


def _messages_document(body: dict[str, Any]) -> list[dict[str, Any]] | None:
    if "content" not in body:
        return None
    return [{"role": body.get("role", "assistant"), "content": body["content"]}]


_TERMINAL = ("response.completed", "response.incomplete", "response.failed")
_PARTS = {
    "response.output_text.delta": ("content", "content_index", "output_text", "text"),
    "response.reasoning_text.delta": ("content", "content_index", "reasoning_text", "text"),
    "response.refusal.delta": ("content", "content_index", "refusal", "refusal"),
    "response.reasoning_summary_text.delta": ("summary", "summary_index", "summary_text", "text"),
}
"""Where a delta goes in its item: the list, the member with its index, the part's type, and the part's text."""

_ITEM_TEXTS = {
    "response.function_call_arguments.delta": "arguments",
    "response.mcp_call_arguments.delta": "arguments",
    "response.custom_tool_call_input.delta": "input",
    "response.code_interpreter_call_code.delta": "code",
}


def _responses_stream(events: Iterator[Event]) -> list[dict[str, Any]]:
    items: dict[int, Any] = {}
    for name, event in events:
        kind = event.get("type", name)
        if kind in _TERMINAL:
            output = objects(mapping(event.get("response")).get("output"))
            if output:
                return output
        index = _index(event.get("output_index"))
        if index is not None:
            items[index] = _item(items.get(index, {}), kind, event)
    return [_without_index(_settled(items[index])) for index in sorted(items)]


def _without_index(item: dict[str, Any]) -> dict[str, Any]:
    for part in objects(item.get("content")) + objects(item.get("summary")):
        part.pop("index", None)
    return item


def _item(item: Any, kind: object, event: dict[str, Any]) -> Any:
    delta = event.get("delta")
    if kind == "response.output_item.done":
        return mapping(event.get("item"))
    if kind == "response.output_item.added":
        # Its lists are empty here: the parts come by their own index.
        return {key: value for key, value in mapping(event.get("item")).items() if value != []}
    if kind in _PARTS and isinstance(delta, str):
        member, index, type_, text = _PARTS[str(kind)]
        part = {"index": _index(event.get(index, 0)) or 0, "type": type_, text: delta}
        return _merge(item, {member: [part]})
    if kind in _ITEM_TEXTS and isinstance(delta, str):
        return _merge(item, {_ITEM_TEXTS[str(kind)]: delta})
    return item


def _responses_document(body: dict[str, Any]) -> list[dict[str, Any]] | None:
    return objects(body["output"]) if isinstance(body.get("output"), list) else None


def _embeddings_stream(events: Iterator[Event]) -> None:
    """Embeddings are not streamed."""


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
