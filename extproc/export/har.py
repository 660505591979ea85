"""HAR 1.2, for a browser's network panel or mitmproxy: http://www.softwareishard.com/blog/har-12-spec/

Bodies are in it without their content coding, as the format asks. Those that are no text are base64; the format has no
place to say so of a request, so that stands in `_encoding`. What HAR has no word for is in `_extproc`, the exchange as
`extproc log --json` has it, with the assembled answer where bodies are wanted. An exchange without an answer has the
status 0, as browsers write it.
"""

from __future__ import annotations

import ipaddress
import urllib.parse
from collections.abc import Iterable
from typing import Any, BinaryIO

from extproc import __version__
from extproc.core.joined import NO_REQUEST, NO_RESPONSE
from extproc.core.record import json_line
from extproc.core.records import Passed
from extproc.export.bodies import Note, assembled_if_there, readable, text_or_base64
from extproc.export.flat import text_of
from extproc.history.headers import header_text
from extproc.history.join import Exchange


def write(exchanges: Iterable[Exchange], sink: BinaryIO, *, bodies: bool, note: Note) -> int:
    """Write one log, an entry a line."""
    creator = json_line({"name": "extproc", "version": __version__})
    sink.write(f'{{"log":{{"version":"1.2","creator":{creator},"entries":['.encode())
    count = 0
    for exchange in exchanges:
        sink.write(b",\n" if count else b"\n")
        sink.write(json_line(_entry(exchange, bodies=bodies, note=note)).encode("ascii"))
        count += 1
    sink.write(b"\n]}}\n")
    return count


def _entry(exchange: Exchange, *, bodies: bool, note: Note) -> dict[str, Any]:
    timings = _timings(exchange)
    own = {name: value for name, value in exchange.members().items() if name not in {"request", "response"}}
    if bodies and (answer := assembled_if_there(exchange)) is not None:
        own["llm"] = {**(own["llm"] or {}), "output": answer}
    entry = {
        "startedDateTime": exchange.started_at,
        "time": sum(timings.values()),
        "request": _request(exchange, bodies=bodies, note=note),
        "response": _response(exchange, bodies=bodies, note=note),
        "cache": {},
        "timings": timings,
        "comment": exchange.outcome or "in flight",
        "_extproc": own,
    }
    address = _address(exchange.upstream)
    return entry if address is None else entry | {"serverIPAddress": address}


def _request(exchange: Exchange, *, bodies: bool, note: Note) -> dict[str, Any]:
    part = exchange.request or NO_REQUEST
    path = text_of(exchange.path) or "/"
    host = text_of(exchange.authority) or "unknown.invalid"
    request: dict[str, Any] = {
        "method": text_of(exchange.method) or "GET",
        "url": f"{text_of(exchange.scheme) or 'http'}://{host}{path if path.startswith('/') else f'/{path}'}",
        "httpVersion": _version(exchange),
        "cookies": [],
        "headers": _headers(part),
        "queryString": _query(path),
        "headersSize": -1,
        "bodySize": -1 if part.bytes is None else part.bytes,
    }
    body = readable(exchange, "request", note) if bodies else None
    if body:
        text, is_base64 = text_or_base64(body)
        request["postData"] = {"mimeType": text_of(part.content_type) or "", "text": text}
        if is_base64:
            request["postData"]["_encoding"] = "base64"
    return request


def _response(exchange: Exchange, *, bodies: bool, note: Note) -> dict[str, Any]:
    part = exchange.response or NO_RESPONSE
    headers = _headers(part)
    content = {"size": part.bytes or 0, "mimeType": text_of(part.content_type) or ""}
    body = readable(exchange, "response", note) if bodies else None
    if body is not None:
        text, is_base64 = text_or_base64(body)
        content |= {"size": len(body), "text": text} | ({"encoding": "base64"} if is_base64 else {})
    return {
        "status": exchange.status or 0,
        "statusText": "",
        "httpVersion": _version(exchange),
        "cookies": [],
        "headers": headers,
        "content": content,
        "redirectURL": next((each["value"] for each in headers if each["name"] == "location"), ""),
        "headersSize": -1,
        "bodySize": -1 if part.bytes is None else part.bytes,
    }


def _version(exchange: Exchange) -> str:
    return text_of(exchange.envoy and exchange.envoy.http_version) or "HTTP/1.1"


def _headers(part: Passed) -> list[dict[str, str]]:
    return [{"name": text_of(name) or "", "value": header_text(value)} for name, value in part.headers or ()]


def _query(path: str) -> list[dict[str, str]]:
    query = path.partition("?")[2].partition("#")[0]
    return [{"name": name, "value": value} for name, value in urllib.parse.parse_qsl(query, keep_blank_values=True)]


def _timings(exchange: Exchange) -> dict[str, float]:
    """Sending is not told apart from waiting: what is known is when the request began, and when bytes came."""
    response = exchange.response or NO_RESPONSE
    duration = _time(exchange.duration_ms)
    first = _time(response.first_byte_ms, duration)
    return {"send": 0, "wait": first, "receive": max(0.0, _time(response.last_byte_ms, duration) - first)}


def _time(value: float | None, otherwise: float = 0.0) -> float:
    return float(value) if value is not None and value >= 0 else otherwise


def _address(upstream: str | None) -> str | None:
    host = (upstream or "").rpartition(":")[0].strip("[]")
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return None
