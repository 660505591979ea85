"""OpenAI's batch input."""

from __future__ import annotations

import gzip
import io
import json
from pathlib import Path
from typing import Any

import pytest
from support.exported import BODIES, EVENTS, STREAM, recorded
from support.recorded import CHAT, Recording

from extproc import export
from extproc.export import batch
from extproc.history import reader
from extproc.history.join import Exchange


def written(exchanges: list[Exchange]) -> tuple[list[Any], list[str]]:
    """The requests of a batch, and what was told."""
    sink, notes = io.BytesIO(), list[str]()
    count = export.WRITERS["openai-batch"](exchanges, sink, bodies=False, note=notes.append)
    lines = sink.getvalue().splitlines()
    assert len(lines) == count
    return [json.loads(line) for line in lines], notes


@pytest.mark.parametrize(
    ("path", "url"),
    [
        ("/v1/chat/completions?api-version=2", "/v1/chat/completions"),
        ("/gateway/openai/v1/chat/completions", "/v1/chat/completions"),
        ("/v1/completions", "/v1/completions"),
        ("/v1/embeddings", "/v1/embeddings"),
        ("/v1/responses", "/v1/responses"),
    ],
)
def test_a_request(tmp_path: Path, path: str, url: str) -> None:
    """The four members that a line has, and no other; the id leads back to the exchange."""
    with Recording(tmp_path) as recording:
        id = recording.add(path=path)
    assert written(list(reader.exchanges([tmp_path]))) == (
        [{"custom_id": id, "method": "POST", "url": url, "body": json.loads(CHAT)}],
        [],
    )


def test_a_stream_becomes_a_whole_answer(tmp_path: Path) -> None:
    """A batch does not stream; everything else is as it was sent, in its order and its own words."""
    kept = b'"z": 1.0e5, "stream_options": {"include_usage": true},\n "a": [1.10,\n"\\u00e4\xc3\xa4"]\n'
    body = b'{\n  "stream": true,\r\n %b}' % kept
    with Recording(tmp_path) as recording:
        recording.add(body, STREAM, answer_headers=EVENTS)
        recording.add(gzip.compress(body), headers=[("content-encoding", "gzip")])
    sink = io.BytesIO()
    batch.write(reader.exchanges([tmp_path]), sink, note=print)
    for line in sink.getvalue().splitlines():
        assert line.endswith(b'"body":{"z":1.0e5,"a":[1.10, "\\u00e4\xc3\xa4"]}}')


def test_what_a_batch_cannot_hold_is_left_out(tmp_path: Path) -> None:
    """And counted, with why."""
    with Recording(tmp_path) as recording:
        recording.add()
        recording.add(path="/v1/messages")
        recording.add(method="GET", path="/v1/chat/completions", body=b"")
        recording.add(finished=False)
        for body in (b"[1]", b"no JSON", b'{"a":NaN}', b'{"a":"\n"}', b'{"a":"\xff"}', b"{" * 5000):
            recording.add(body)
    found, notes = written(list(reader.exchanges([tmp_path])))
    assert len(found) == 1
    assert sorted(notes) == [
        "1 left out: the request has not come to its end",
        "2 left out: no call that a batch takes",
        "6 left out: the body is no JSON object",
    ]


def test_hostile_bodies(tmp_path: Path) -> None:
    """Whatever is a JSON object passes as it is, on one line; nothing else does."""
    names = [name for name, body in BODIES.items() if is_object(body)]
    assert names == ["text", "a lone surrogate, escaped", "10 MB"]
    found, _ = written(recorded(tmp_path, list(BODIES.values())))
    assert [each["body"] for each in found] == [json.loads(BODIES[name]) for name in names]


def is_object(body: bytes) -> bool:
    """As Python's own reader sees it."""
    try:
        return isinstance(json.loads(body.decode("utf-8")), dict)
    except ValueError:
        return False


def test_more_than_one_file_may_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """OpenAI's limits are told: models, requests and bytes."""
    monkeypatch.setattr(batch, "MOST_REQUESTS", 2)
    bodies = [json.dumps({"model": model}).encode() for model in ("a", "b", "c")]
    with Recording(tmp_path) as recording:
        for body in bodies:
            recording.add(body)
    found, notes = written(list(reader.exchanges([tmp_path])))
    assert len(found) == 3
    assert [note.partition(":")[0] for note in notes] == ["3 models", notes[1].partition(":")[0]]
    assert notes[1].startswith("3 requests, ")
