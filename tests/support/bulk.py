"""A large journal, written at once: the lines of a few real exchanges, again and again with other ids and values.

    write(directory, 20_000)

What varies is what questions are asked about: backend, model, outcome, status, key, parameters, tokens, duration.
Bodies have two kilobytes. Two workers write, and Envoy's entry goes to either; one boot in the middle died, and its
orphans are there. Segments are closed and compressed, but for the last of each series.
"""

from __future__ import annotations

import hashlib
import heapq
import io
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from support.recorded import Recording

from extproc.core.record import encode, seal
from extproc.core.records import fields_of
from extproc.core.times import timestamp
from extproc.journal import frames, lines, segment
from extproc.journal.segment import COMPRESSED, OPEN, Name

MS: Final = 1_000_000
SECOND: Final = 1000 * MS
EVERY_NS: Final = 100 * MS
"""Ten requests a second."""
UPSTREAMS: Final = tuple(f"10.0.0.{number}:8000" for number in range(1, 17))
MODELS: Final = tuple(f"model-{number}" for number in range(8))
SEGMENT_BYTES: Final = 64 * 1024 * 1024
BODY_BYTES: Final = 2000
ORPHANS: Final = 40
_VARIANTS: Final = 64
_ANSWER_ID: Final = f"chatcmpl-{0:032x}"
_MIXING: Final = 0x9E3779B97F4A7C15F39CC0605CEDC835

Fields = dict[str, Any]
Event = tuple[int, int, "Series", Fields]
"""A record that comes at a time; the number keeps two of the same time apart."""


def write(directory: Path, exchanges: int, *, end_ns: int, seed: int = 1, body_bytes: int = BODY_BYTES) -> None:
    """So many exchanges, the last of which ends at `end_ns`."""
    chance = random.Random(seed)
    templates = _templates(chance, body_bytes)
    start_ns = end_ns - exchanges * EVERY_NS - 10 * SECOND
    (directory / "segments").mkdir(mode=0o700, parents=True)
    half = exchanges // 2
    for boot, (first, last) in enumerate(((0, half), (half, exchanges))):
        series = [Series(directory, worker, f"b{boot:03d}") for worker in range(2)]
        coming: list[Event] = []
        for number in range(first, last):
            at = start_ns + number * EVERY_NS
            _write_until(at, coming)
            for event in _exchange(series, number, at, templates[chance.randrange(_VARIANTS)], chance):
                heapq.heappush(coming, event)
        _write_until(start_ns + 10**18, coming)
        crashed = boot == 0
        for number in range(ORPHANS) if crashed else ():
            _orphan(series[number % 2], exchanges + number, start_ns + last * EVERY_NS, templates[number])
        for each in series:
            each.end(closed=crashed)


class Series:
    """Segments of one worker and one boot."""

    def __init__(self, directory: Path, worker: int, boot_id: str) -> None:
        self._directory = directory
        self._name = Name(worker, boot_id, 0)
        self._lines: list[bytes] = []
        self._size = self._seq = 0
        self._at = timestamp(0)

    def add(self, fields: Fields) -> None:
        self._at = fields["at"]
        if not self._lines:
            self._begin()
        self._append(fields)
        if self._size > SEGMENT_BYTES:
            self.end(closed=True)

    def end(self, *, closed: bool) -> None:
        """Write what there is, compressed where it is closed."""
        path = self._directory / "segments" / f"{self._name.stem}{COMPRESSED if closed else OPEN}"
        if closed:
            self._append({"type": "end", "at": self._at, "records": len(self._lines), "recovered": False})
            with path.open("wb") as file:
                frames.compress(io.BytesIO(b"".join(self._lines)), file)
        else:
            path.write_bytes(b"".join(self._lines))
        path.chmod(0o600)
        self._lines = []

    def _begin(self) -> None:
        self._size = 0
        self._name = Name(self._name.worker, self._name.boot_id, self._name.number + 1)
        self._append(fields_of(segment.header(self._at, {})))

    def _append(self, fields: Fields) -> None:
        self._seq += 1
        line = seal(encode(fields), *self._name.series, self._seq)
        self._size += len(line)
        self._lines.append(line)


def _templates(chance: random.Random, body_bytes: int) -> list[dict[str, Fields]]:
    """Exchanges with different bodies, as the core and the journal write them: their records by type."""
    with tempfile.TemporaryDirectory(prefix="extproc-bulk-") as name:
        directory = Path(name) / "data"
        with Recording(directory, inline_body_bytes=65536) as recording:
            for number in range(_VARIANTS):
                model = MODELS[number % len(MODELS)]
                headers = (
                    ("content-type", "application/json"),
                    ("authorization", f"Bearer sk-{number % 20:020d}"),
                    ("user-agent", "OpenAI/Python 2.1.0"),
                )
                id = recording.add(
                    _prompt(number, model, chance, body_bytes), _answer(model, chance, body_bytes), headers=headers
                )
                recording.add_access(
                    id,
                    status=200,
                    duration_ms=900.0,
                    attempts=1,
                    method="POST",
                    path="/v1/chat/completions",
                    authority="llm.test",
                    http_version="HTTP/1.1",
                )
        found: dict[str, dict[str, Fields]] = {}
        for series in lines.series(directory):
            for each in series.names:
                for line in lines.read_lines(directory, each):
                    fields = _fields(line.record)
                    if isinstance(fields.get("id"), str):
                        found.setdefault(fields["id"], {})[fields["type"]] = fields
    return list(found.values())


def _fields(record: Any) -> Fields:
    """A record's members but for those that the journal adds."""
    return {name: value for name, value in record.items() if name not in {"worker", "boot_id", "seq", "crc"}}


def _prompt(number: int, model: str, chance: random.Random, body_bytes: int) -> bytes:
    params = f'"temperature":0.{number % 10},"max_tokens":{256 << number % 3}'
    if number % 4 == 0:
        params += ',"response_format":{"type":"json_object"}'
    if number % 8 == 0:
        params += ',"top_p":0.9,"seed":7'
    words = _words(chance, body_bytes)
    return f'{{"model":"{model}",{params},"messages":[{{"role":"user","content":"{words}"}}]}}'.encode()


def _answer(model: str, chance: random.Random, body_bytes: int) -> bytes:
    usage = f'{{"prompt_tokens":{chance.randrange(50, 900)},"completion_tokens":{chance.randrange(10, 500)}}}'
    message = f'{{"role":"assistant","content":"{_words(chance, body_bytes)}"}}'
    choice = f'{{"index":0,"message":{message},"finish_reason":"stop"}}'
    return f'{{"id":"{_ANSWER_ID}","model":"{model}","choices":[{choice}],"usage":{usage}}}'.encode()


def _words(chance: random.Random, body_bytes: int) -> str:
    text = ""
    while len(text) < body_bytes - 200:
        text += f"{chance.getrandbits(20):x} "
    return text


def _write_until(at: int, coming: list[Event]) -> None:
    while coming and coming[0][0] <= at:
        _, _, series, fields = heapq.heappop(coming)
        series.add(fields)


def _exchange(
    series: list[Series], number: int, at: int, template: dict[str, Fields], chance: random.Random
) -> Iterator[Event]:
    id, lasted = id_of(number, at), int(chance.expovariate(1 / 2000) * MS) + 50 * MS
    upstream = UPSTREAMS[chance.randrange(len(UPSTREAMS))]
    own, other = series[number % 2], series[chance.randrange(2)]
    yield at + MS, 3 * number, own, _request(template, id, at, chance)
    yield at + lasted, 3 * number + 1, own, _response(template, id, at, lasted, upstream=upstream, number=number)
    end = at + lasted + 250 * MS
    size = {"request_bytes": template["request"]["request"]["bytes"]}
    entry = {"id": id, "at": timestamp(end), "started_at": timestamp(at), "upstream": upstream, **size}
    entry |= {"duration_ms": lasted / MS, "status": _status(number)}
    yield end, 3 * number + 2, other, {**template["access"], **entry}


def _request(template: dict[str, Fields], id: str, at: int, chance: random.Random) -> Fields:
    fields = {
        "id": id,
        "at": timestamp(at + MS),
        "started_at": timestamp(at),
        "client": f"192.0.2.{chance.randrange(200)}:{chance.randrange(30000, 60000)}",
        "request_id": f"{id[:14]}4{id[15:]}",
        "trace_id": f"{chance.getrandbits(128):032x}",
    }
    return {**template["request"], **fields}


def _response(template: dict[str, Fields], id: str, at: int, lasted: int, *, upstream: str, number: int) -> Fields:
    fields = {
        "id": id,
        "at": timestamp(at + lasted),
        "started_at": timestamp(at),
        "ended_at": timestamp(at + lasted),
        "duration_ms": round(lasted / MS, 3),
        "upstream": upstream,
        "status": _status(number),
    }
    return {**template["response"], **fields, "response": _with_id(template["response"]["response"], number)}


def _with_id(answer: Fields, number: int) -> Fields:
    """The answer with an id of its own."""
    text = answer["body"]["text"].replace(_ANSWER_ID, f"chatcmpl-{number * _MIXING & 2**128 - 1:032x}")
    return {**answer, "body": {"text": text}, "sha256": hashlib.sha256(text.encode()).hexdigest()}


def _status(number: int) -> int:
    return 503 if number % 50 == 0 else 429 if number % 97 == 0 else 200


def _orphan(series: Series, number: int, at: int, template: dict[str, Fields]) -> None:
    id = id_of(number, at)
    series.add({**template["request"], "id": id, "at": timestamp(at), "started_at": timestamp(at)})
    series.add({"type": "orphan", "id": id, "at": timestamp(at + 5 * SECOND), "had": "request"})


def id_of(number: int, at_ns: int) -> str:
    """The id of exchange `number`: a UUIDv7 of that time, with an end that looks as if it were chance's."""
    milliseconds = f"{at_ns // MS:012x}"
    mixed = number * _MIXING & (2**62 - 1)
    digits = f"{mixed:016x}"
    return f"{milliseconds[:8]}-{milliseconds[8:]}-7{digits[1:4]}-8{digits[4:7]}-{digits[7:]}{number & 0xFFF:03x}"


def ids(exchanges: int, end_ns: int) -> Iterator[str]:
    """The ids of the exchanges that `write` has written."""
    start_ns = end_ns - exchanges * EVERY_NS - 10 * SECOND
    return (id_of(number, start_ns + number * EVERY_NS) for number in range(exchanges))
