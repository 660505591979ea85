"""One JSON object a line."""

from __future__ import annotations

import base64
import json
from pathlib import Path

from support.commands import invoke
from support.exported import BODIES, exported, record_all, recorded


def test_the_fields_are_those_of_log_and_show(tmp_path: Path) -> None:
    """Without bodies those of `log --json`, with them those of `show --json`, an object a line, ASCII."""
    exchanges = record_all(tmp_path)
    lines = exported("jsonl", exchanges, bodies=False).decode("ascii").splitlines()
    listed = invoke("log", "--all", "--json", "--data-dir", tmp_path).stdout.splitlines()
    assert sorted(map(json.dumps, map(json.loads, lines))) == sorted(map(json.dumps, map(json.loads, listed)))
    with_bodies = exported("jsonl", exchanges).decode("ascii").splitlines()
    shown = [invoke("show", each.id, "--json", "--data-dir", tmp_path).stdout for each in exchanges]
    assert list(map(json.loads, with_bodies)) == list(map(json.loads, shown))


def test_a_stream_is_put_together(tmp_path: Path) -> None:
    """The answer's events are one message, beside their bytes."""
    exchanges = record_all(tmp_path)
    outputs = [json.loads(line)["llm"] for line in exported("jsonl", exchanges).splitlines()]
    assert [(each or {}).get("output") for each in outputs][1] == [{"role": "assistant", "content": "Hello"}]


def test_any_bytes_come_back(tmp_path: Path) -> None:
    """Whatever was sent and answered."""
    found = []
    for line in exported("jsonl", recorded(tmp_path, list(BODIES.values()))).splitlines():
        exchange = json.loads(line)
        for direction in ("request", "response"):
            (form, value), *rest = exchange[direction]["body"].items()
            assert rest == []
            found.append(value.encode() if form == "text" else base64.b64decode(value))
    assert found == [body for each in BODIES.values() for body in (each, each)]
