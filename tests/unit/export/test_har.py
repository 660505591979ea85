"""HAR 1.2, held to the specification's own lists of members."""

from __future__ import annotations

import base64
import datetime
import json
from pathlib import Path
from typing import Any

from support.exported import BODIES, exported, record_all, recorded
from support.recorded import ANSWER, CHAT

TEXT, NUMBER, LIST, OBJECT = str, (int, float), list, dict
NEEDED: dict[str, dict[str, Any]] = {
    # What http://www.softwareishard.com/blog/har-12-spec/ does not call optional.
    "log": {"version": TEXT, "creator": OBJECT, "entries": LIST},
    "creator": {"name": TEXT, "version": TEXT},
    "entry": {
        "startedDateTime": TEXT,
        "time": NUMBER,
        "request": OBJECT,
        "response": OBJECT,
        "cache": OBJECT,
        "timings": OBJECT,
    },
    "request": {
        "method": TEXT,
        "url": TEXT,
        "httpVersion": TEXT,
        "cookies": LIST,
        "headers": LIST,
        "queryString": LIST,
        "headersSize": NUMBER,
        "bodySize": NUMBER,
    },
    "response": {
        "status": NUMBER,
        "statusText": TEXT,
        "httpVersion": TEXT,
        "cookies": LIST,
        "headers": LIST,
        "content": OBJECT,
        "redirectURL": TEXT,
        "headersSize": NUMBER,
        "bodySize": NUMBER,
    },
    "pair": {"name": TEXT, "value": TEXT},
    "content": {"size": NUMBER, "mimeType": TEXT},
    "timings": {"send": NUMBER, "wait": NUMBER, "receive": NUMBER},
    "postData": {"mimeType": TEXT, "text": TEXT},
}
OPTIONAL = {
    "log": {"browser", "pages", "comment"},
    "entry": {"pageref", "serverIPAddress", "connection", "comment"},
    "request": {"postData", "comment"},
    "response": {"comment"},
    "content": {"compression", "text", "encoding", "comment"},
    "timings": {"blocked", "dns", "connect", "ssl", "comment"},
    "postData": {"params", "comment"},
}


def hold(value: Any, kind: str) -> None:
    """Every member is there, of its type; what the specification does not know begins with an underscore."""
    for name, type in NEEDED[kind].items():
        assert isinstance(value[name], type), (kind, name, value.get(name))
        assert not isinstance(value[name], bool)
    more = {name for name in value.keys() - NEEDED[kind].keys() if not name.startswith("_")}
    assert more <= OPTIONAL.get(kind, set()), (kind, more)


def entries(data: bytes) -> list[dict[str, Any]]:
    """The entries of a log in which everything is as the specification wants it."""
    log = json.loads(data.decode("ascii"))["log"]
    hold(log, "log")
    hold(log["creator"], "creator")
    assert log["version"] == "1.2"
    for entry in log["entries"]:
        hold(entry, "entry")
        assert datetime.datetime.fromisoformat(entry["startedDateTime"]).tzinfo is not None
        request, response = entry["request"], entry["response"]
        for part, kind in ((request, "request"), (response, "response")):
            hold(part, kind)
            for pair in (*part["headers"], *part.get("queryString", ())):
                hold(pair, "pair")
                assert pair["name"].encode() + pair["value"].encode()
        if "postData" in request:
            hold(request["postData"], "postData")
        hold(response["content"], "content")
        hold(entry["timings"], "timings")
        assert min(entry["timings"].values()) >= 0
        assert entry["time"] == sum(entry["timings"].values())
    found: list[dict[str, Any]] = log["entries"]
    return found


def test_every_kind_of_exchange(tmp_path: Path) -> None:
    """Whole, streamed, coded, without a body, without an answer."""
    exchanges = record_all(tmp_path)
    whole, streamed, coded, listing, unfinished = entries(exported("har", exchanges))
    assert [each.id for each in exchanges] == [
        each["_extproc"]["id"] for each in (whole, streamed, coded, listing, unfinished)
    ]
    assert whole["request"]["url"].startswith("http://llm.test/v1/chat/completions?key=redacted:")
    assert {pair["name"] for pair in whole["request"]["queryString"]} == {"key", "a"}
    assert whole["serverIPAddress"] == "10.0.0.7"
    assert coded["request"]["postData"]["text"].encode() == CHAT
    assert coded["response"]["content"] | {"size": 0} == {
        "size": 0,
        "mimeType": "application/json",
        "text": ANSWER.decode(),
    }
    assert streamed["_extproc"]["llm"]["output"] == [{"role": "assistant", "content": "Hello"}]
    assert unfinished["response"]["status"] == 0
    assert "postData" not in listing["request"]


def test_no_credential_is_in_it(tmp_path: Path) -> None:
    """Marks stand in the place of keys, in headers and in queries."""
    text = exported("har", record_all(tmp_path))
    assert b"sk-secret" not in text
    assert text.count(b"redacted:") >= 3


def test_without_bodies(tmp_path: Path) -> None:
    """Sizes and types alone."""
    for entry in entries(exported("har", record_all(tmp_path), bodies=False)):
        assert "postData" not in entry["request"]
        assert "text" not in entry["response"]["content"]


def test_no_exchange_at_all() -> None:
    """A log without entries."""
    assert entries(exported("har", [])) == []


def test_any_bytes_come_back(tmp_path: Path) -> None:
    """Text as it is, anything else as base64."""
    found = []
    for entry in entries(exported("har", recorded(tmp_path, list(BODIES.values())))):
        sent, got = entry["request"]["postData"], entry["response"]["content"]
        for text, encoding in ((sent["text"], sent.get("_encoding")), (got["text"], got.get("encoding"))):
            found.append(base64.b64decode(text) if encoding == "base64" else text.encode())
    assert found == [body for each in BODIES.values() for body in (each, each)]
