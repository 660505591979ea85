"""An exchange as a row of the index, and a row as an exchange again: with what lists, filters and counts ask for.

What the columns cannot say as the journal says it makes a row that is not whole (see `schema.py`).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, cast

import msgspec
from msgspec import structs

from extproc.core.joined import NO_ERROR, NO_LLM, NO_REQUEST, NO_RESPONSE, Error, ExchangeRequest, ExchangeResponse, Llm
from extproc.core.records import Attempt, Protocol
from extproc.core.times import timestamp
from extproc.history import filters
from extproc.history.index import told as told_of
from extproc.history.index.schema import MOST_CHARACTERS, VALUES, WORDS
from extproc.history.index.told import NOTHING, Told
from extproc.history.join import Exchange

Words = Mapping[str | None, int | str | None]
"""What stands for a text, its number; None for None, for what no column can hold (`holds`), and where there is no room
for another one."""

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND: Final = timedelta(seconds=1)
_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
_UUID_CHARACTERS: Final = 36
_TIME_CHARACTERS: Final = 27
_MOST: Final = 2**63 - 1
_MAX_TOKENS: Final = ("max_tokens", "max_completion_tokens", "max_output_tokens")


EVENTS: Final = "event-stream"
"""In the content type of an answer that comes as events."""

Values = tuple[Any, ...]
Place = tuple[int, bytes]
"""The number of the segment in which a row counts, and where all its records stand, packed."""


# To the index ------------------------------------------------------------------------------------------------


def values(
    exchange: Exchange,
    words: Words,
    place: Place,
    told: Told = NOTHING,
    asked: int | None = None,
    *,
    served: int | None = None,
) -> Values:
    """The columns of an exchange, in the order of `COLUMNS`. `told` and `asked`: see `told.py`, `served`: there."""
    row = _Row()
    llm, request, response = exchange.llm or NO_LLM, exchange.request or NO_REQUEST, exchange.response or NO_RESPONSE
    error = llm.error or NO_ERROR
    started, ended = micros(exchange.started_at), micros(exchange.ended_at)
    sent, got = filters.tokens(exchange)
    failed = exchange.failed_attempts
    fields = (
        packed_id(exchange.id),
        mirror(exchange.id),
        started or 0,
        (ended or 0) - (started or 0),
        row.span(exchange.duration_ms),
        row.span(response.first_byte_ms),
        row.span(response.last_byte_ms),
        row.span(llm.ttft_ms),
        row.number(exchange.status),
        row.text(exchange.path),
        row.text(exchange.client),
        row.number(exchange.attempts),
        None if not failed else row.text(_json(msgspec.to_builtins(failed))),
        row.flag(llm.stream),
        row.number(sent),
        row.number(got),
        _limit(llm.params),
        row.number(request.bytes),
        row.number(response.bytes),
        digest(request.sha256),
        digest(response.sha256),
        digest(exchange.trace_id),
        packed_id(exchange.request_id),
        hashed(llm.response_id),
        EVENTS in str(response.content_type or ""),
        row.span(response.silence_at_ms),
        row.span(response.max_silence_ms),
        _message(exchange, error, told.message),
        told.conversation,
        asked,
        served,
    )
    texts = (
        exchange.outcome,
        exchange.class_,
        exchange.method,
        exchange.route,
        exchange.cluster,
        exchange.upstream,
        _listed(exchange.response_flags),
        exchange.response_code_details,
        exchange.grpc_status,
        exchange.key,
        llm.api,
        llm.model,
        llm.response_model,
        _listed(llm.finish_reasons),
        _as_text(error.type),
        _as_text(error.code),
        llm.fingerprint,
    )
    numbers = [words[text] for text in texts]
    whole = row.whole and None not in (started, ended) and numbers.count(None) == texts.count(None)
    return (*fields, whole, *place, *numbers)


def holds(value: Any) -> bool:
    """Whether it is a text that a column can hold."""
    return isinstance(value, str) and len(value) <= MOST_CHARACTERS and _encodes(value)


class _Row:
    """Takes values as columns hold them, and notes when one cannot be held."""

    __slots__ = ("whole",)

    def __init__(self) -> None:
        self.whole = True

    def text(self, value: Any) -> str | None:
        if value is None or holds(value):
            return cast("str | None", value)
        self.whole = False
        return None

    def number(self, value: Any) -> int | None:
        if value is None:
            return None
        if type(value) is not int or abs(value) > _MOST:
            self.whole = False
            return None
        return value

    def span(self, milliseconds: Any) -> int | None:
        """Milliseconds as microseconds, which they have three places for."""
        if milliseconds is None:
            return None
        if type(milliseconds) is float and abs(milliseconds) < 1e15:
            taken = round(milliseconds * 1000)
            if taken / 1000 == milliseconds:
                return taken
        self.whole = False
        return None

    def flag(self, value: Any) -> bool | None:
        if value is not None and not isinstance(value, bool):
            self.whole = False
            return None
        return value


def micros(at: Any) -> int | None:
    """A record's time in microseconds since 1970; None where it is none, or not written as we write times."""
    if not isinstance(at, str) or len(at) != _TIME_CHARACTERS or at[10] != "T" or at[19] != "." or at[26] != "Z":
        return None
    fraction = at[20:26]
    if not (fraction.isascii() and fraction.isdigit()):
        return None
    try:
        return _second(at[:19]) * 1_000_000 + int(fraction)
    except ValueError:
        return None


@lru_cache(maxsize=256)  # many exchanges share a second, and are met together
def _second(at: str) -> int:
    return (datetime.fromisoformat(f"{at}+00:00") - _EPOCH) // _SECOND


def packed_id(id: Any) -> bytes | str | None:
    """An id that is a UUID as its bytes, another one as it is."""
    if not isinstance(id, str):
        return None
    if _UUID.fullmatch(id) is not None:
        return bytes.fromhex(id.replace("-", ""))
    return id if _encodes(id) else None


def unpacked_id(packed: Any) -> str:
    """The id that `packed_id` has packed."""
    if isinstance(packed, str):
        return packed
    digits = packed.hex()
    return f"{digits[:8]}-{digits[8:12]}-{digits[12:16]}-{digits[16:20]}-{digits[20:]}"


def mirror(id: str) -> int | None:
    """The last twelve digits of a UUID, read backwards."""
    if len(id) != _UUID_CHARACTERS:
        return None
    try:
        return int(id[:-13:-1], 16)
    except ValueError:
        return None


def digest(text: Any) -> bytes | str | None:
    """A digest or a trace id in hexadecimal as its bytes, anything else as it is."""
    if not isinstance(text, str):
        return None
    try:
        packed = bytes.fromhex(text)
    except ValueError:
        packed = b""
    return packed if packed.hex() == text else text


def hashed(text: Any) -> int | None:
    """A number for a text that is only ever looked for whole; two may have the same, which whoever asks has to tell."""
    if not isinstance(text, str):
        return None
    return int.from_bytes(
        hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=4).digest(), "big", signed=True
    )


def _message(exchange: Exchange, error: Error, told: str | None) -> str | None:
    """The backend's words on why it failed."""
    if exchange.class_ == "ok":
        return None
    message = error.message or told
    return message if message is not None and len(message) <= told_of.MOST_CHARACTERS and _encodes(message) else None


def _limit(params: Mapping[str, Any] | None) -> int | None:
    """How many tokens the answer might have."""
    if not params:
        return None
    for name in _MAX_TOKENS:
        limit = params.get(name)
        if type(limit) is int and abs(limit) <= _MOST:
            return limit
    return None


_json = json.JSONEncoder(ensure_ascii=True, separators=(",", ":")).encode


def _listed(values: Sequence[str | None] | None) -> str | None:
    """A list as a word."""
    if not values:
        return None if values is None else "[]"
    return _json(values) if len(values) > 1 else _alone(values[0])


@lru_cache(maxsize=256)  # nearly all have one item, and that one of a few
def _alone(item: str | None) -> str:
    return _json([item])


def _as_text(value: Any) -> str | None:
    return None if value is None else str(value)


def _encodes(text: str) -> bool:
    """Whether SQLite can hold it: a lone surrogate has no UTF-8."""
    return text.isascii() or not any("\ud800" <= character <= "\udfff" for character in text)


# From the index ----------------------------------------------------------------------------------------------


def exchange(row: Sequence[Any], text: Callable[[int | None], str | None], series: str, directory: Path) -> Exchange:
    """What a whole row says. Fields that no column has are null; `records` is empty. `text`: what a number stands for,
    and None for None."""
    get = dict(zip(VALUES, row, strict=False))
    get.update(zip(WORDS, map(text, row[len(VALUES) :]), strict=True))
    worker, _, boot_id = series[1:].partition("-")
    return structs.replace(
        _NOTHING,
        id=unpacked_id(get["id"]),
        started_at=_time(get["started"]),
        ended_at=_time(get["started"] + get["lasted"]),
        duration_ms=_milliseconds(get["duration"]),
        outcome=get["outcome"],
        class_=get["class"],
        method=get["method"],
        path=get["path"],
        client=get["client"],
        status=get["status"],
        upstream=get["upstream"],
        cluster=get["cluster"],
        route=get["route"],
        response_flags=_parsed(get["response_flags"]),
        response_code_details=get["details"],
        request_id=None if get["request_id"] is None else unpacked_id(get["request_id"]),
        trace_id=_hex(get["trace_id"]),
        worker=int(worker),
        boot_id=boot_id,
        request=_request(get),
        response=_answer(get),
        llm=_llm(get),
        grpc_status=get["grpc_status"],
        attempts=get["attempts"],
        failed_attempts=_attempts(get["failed_attempts"]),
        key=get["key"],
    ).read_from(directory, {})


_NOTHING: Final = Exchange(
    **dict.fromkeys(set(Exchange.__struct_fields__) - {"id", "started_at", "protocol", "access_log", "integrity"}),
    id="",
    started_at="",
    protocol=Protocol(),
    access_log="received",
    integrity=[],
)
_attempts_of = msgspec.json.Decoder(list[Attempt]).decode


def _attempts(text: str | None) -> list[Attempt] | None:
    return None if text is None else _attempts_of(text)


def _llm(get: Mapping[str, Any]) -> Llm | None:
    stream = get["stream"]
    usage = {"prompt_tokens": get["tokens_in"], "completion_tokens": get["tokens_out"]}
    llm = structs.replace(
        NO_LLM,
        api=get["api"],
        model=get["model"],
        stream=None if stream is None else bool(stream),
        response_model=get["response_model"],
        finish_reasons=_parsed(get["finish_reasons"]),
        usage=None if usage == _NO_USAGE else usage,
        ttft_ms=_milliseconds(get["first_token"]),
        fingerprint=get["fingerprint"],
    )
    return None if llm == NO_LLM else llm


_NO_USAGE: Final = {"prompt_tokens": None, "completion_tokens": None}


def _request(get: Mapping[str, Any]) -> ExchangeRequest | None:
    size = get["request_bytes"]
    return None if size is None else ExchangeRequest(bytes=size, sha256=_hex(get["request_sha256"]))


def _answer(get: Mapping[str, Any]) -> ExchangeResponse | None:
    if get["response_bytes"] is None:
        return None
    return ExchangeResponse(
        bytes=get["response_bytes"],
        sha256=_hex(get["response_sha256"]),
        first_byte_ms=_milliseconds(get["first_byte"]),
        last_byte_ms=_milliseconds(get["last_byte"]),
        max_silence_ms=_milliseconds(get["silence"]),
        silence_at_ms=_milliseconds(get["silence_at"]),
    )


def _time(micros: int) -> str:
    return timestamp(micros * 1000)


def _milliseconds(micros: int | None) -> float | None:
    return None if micros is None else micros / 1000


def _hex(packed: Any) -> str | None:
    return packed.hex() if isinstance(packed, bytes) else packed


def _parsed(text: str | None) -> Any:
    return None if text is None else [*_items(text)]


@lru_cache(maxsize=256)  # as `_alone`
def _items(text: str) -> Sequence[Any]:
    return cast("Sequence[Any]", json.loads(text))
