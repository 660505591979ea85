"""What must hold of a fleet once all is shipped: each exchange is in the bucket once, as hosts and clients have it.

    verdict.of(bucket, endpoint, directories, traffic, cache)      # lines of figures; raises Wrong

Held against each other are the files of the hosts and the objects, the exchanges that the journals give and the rows
that DuckDB reads, the bodies that `--from` reads, their digests, and what clients and backend saw.
"""

from __future__ import annotations

import collections
import hashlib
import random
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from fleet.traffic import Traffic, answer_of, number_of, request_of
from support import duck
from support.buckets import environment
from support.commands import PROGRAM

from extproc.core.joined import NO_LLM, NO_REQUEST, NO_RESPONSE
from extproc.fleet import view
from extproc.fleet.bucket import Bucket
from extproc.fleet.span import EVERYTHING
from extproc.history import bodies, reader, verify
from extproc.history.join import Exchange
from extproc.journal.segment import COMPRESSED

SHOWN = 25
"""Exchanges that are asked for one by one, by the command itself."""


class Wrong(Exception):
    """Something is not as it must be."""


def of(bucket: Bucket, endpoint: str, directories: Sequence[Path], traffic: Traffic, cache: Path) -> Iterator[str]:
    """The figures, as each of them has been found to be right."""
    yield f"{_segments(bucket, directories):,} segments are in the bucket, byte for byte as on the hosts, and no other"
    here = _exchanges(directories)
    yield f"{_rows(bucket, endpoint, here):,} rows, of {len(here)} hosts: each exchange once, with the same counts"
    yield f"{_bodies(bucket, here, cache):,} bodies by --from, each with its digest and as the hosts have it"
    requests, answers = _seen(here, traffic)
    yield f"{requests:,} requests that the backend had whole, {answers:,} answers that clients had whole: all there"
    yield f"{_shown(bucket, endpoint, here, cache)} exchanges by `show --from`, to the byte"


def _must(holds: object, text: str) -> None:
    if not holds:
        raise Wrong(text)


def _segments(bucket: Bucket, directories: Sequence[Path]) -> int:
    """All closed segments of all hosts, and nothing but them."""
    there = {"/".join(each.path.split("/")[3:]): each.path for each in bucket.objects("v1/raw")}
    here: set[str] = set()
    for directory in directories:
        _must(not (found := list(verify.verify(directory))), f"{directory}: {found}")
        host = _name(directory)
        for path in (directory / "segments").iterdir():
            _must(path.name.endswith((COMPRESSED, ".torn")), f"{path} is not closed")
            if path.name.endswith(COMPRESSED):
                name = f"host={host}/{path.name}"
                _must(name in there, f"{name} is not in the bucket")
                _must(bucket.read(there[name]) == path.read_bytes(), f"{name} is another one in the bucket")
                here.add(name)
    _must(here == set(there), f"in the bucket, and on no host: {set(there) - here}")
    return len(here)


def _name(directory: Path) -> str:
    return (directory / "host").read_text().strip()


def _exchanges(directories: Sequence[Path]) -> dict[str, dict[str, Exchange]]:
    """What each host has by its own journal."""
    found: dict[str, dict[str, Exchange]] = {}
    for directory in directories:
        ended = found.setdefault(_name(directory), {})
        for each in reader.exchanges([directory]):
            _must(not each.in_flight, f"{each.id} has no end")
            _must(each.id not in ended, f"{each.id} is twice on its host")
            ended[each.id] = each
    return found


def _rows(bucket: Bucket, endpoint: str, here: dict[str, dict[str, Exchange]]) -> int:
    connection = duck.on_s3(endpoint)
    rows = connection.execute(f"SELECT host, id FROM {duck.rows_of(bucket.url)}").fetchall()
    there = collections.Counter(rows)
    expected = {(host, id) for host, ended in here.items() for id in ended}
    doubled = [row for row, count in there.items() if count > 1]
    _must(not doubled, f"{len(doubled)} exchanges have more than one row: {doubled[:3]}")
    _must(
        set(there) == expected,
        f"without a row: {_some(expected - set(there))}; only there: {_some(set(there) - expected)}",
    )
    counted = connection.execute(
        "SELECT host, outcome, status, model, count(*), sum(tokens_in), sum(tokens_out), sum(request_bytes),"
        f" sum(response_bytes) FROM {duck.rows_of(bucket.url)} GROUP BY ALL"
    ).fetchall()
    sums: dict[tuple[Any, ...], list[int]] = {}
    for host, ended in here.items():
        for each in ended.values():
            llm = each.llm or NO_LLM
            usage = llm.usage or {}
            of = sums.setdefault((host, each.outcome, each.status, llm.model), [0] * 5)
            values = (
                1,
                usage.get("prompt_tokens"),
                usage.get("completion_tokens"),
                (each.request or NO_REQUEST).bytes,
                (each.response or NO_RESPONSE).bytes,
            )
            of[:] = [total + (value or 0) for total, value in zip(of, values, strict=True)]
    found = {tuple(row[:4]): [value or 0 for value in row[4:]] for row in counted}
    _must(found == sums, f"DuckDB counts otherwise than the hosts: {found} and {sums}")
    return len(rows)


def _some(rows: set[tuple[str, str]]) -> str:
    return f"{len(rows)}, {sorted(rows)[:3]}"


def _bodies(bucket: Bucket, here: dict[str, dict[str, Exchange]], cache: Path) -> int:
    count = 0
    unseen = {id: each for ended in here.values() for id, each in ended.items()}
    with view.opened(bucket, EVERYTHING, bodies=True, cache=cache) as directories:
        for there in reader.exchanges(directories):
            own = unseen.pop(there.id, None)
            _must(own == there, f"{there.id} is another exchange by --from")
            for direction, said in (("request", there.request), ("response", there.response)):
                body = bodies.whole(there, direction)
                digest = None if said is None else said.sha256
                _must(digest in (None, _sha256(body or b"")), f"{there.id}: the body of its {direction} is another one")
                _must(own is not None and bodies.whole(own, direction) == body, f"{there.id}: {direction} differs")
                count += body is not None
    _must(not unseen, f"not to be seen by --from: {list(unseen)[:3]}")
    return count


def _seen(here: dict[str, dict[str, Exchange]], traffic: Traffic) -> tuple[int, int]:
    """What the backend received, and what clients got, is in the journals with its digest."""
    received, got = set(traffic.received), dict(traffic.got)
    for ended in here.values():
        for id, each in ended.items():
            number = number_of(str(each.path))
            if (each.request or NO_REQUEST).sha256 == _sha256(request_of(number)):
                received.discard(number)
            if got.get(id) == number and (each.response or NO_RESPONSE).sha256 == _sha256(answer_of(number)):
                del got[id]
    _must(not received, f"the backend had them whole, and no host: {sorted(received)[:3]}")
    _must(not got, f"clients had the answers whole, and no host: {list(got)[:3]}")
    return len(traffic.received), len(traffic.got)


def _shown(bucket: Bucket, endpoint: str, here: dict[str, dict[str, Exchange]], cache: Path) -> int:
    whole = {id: each for ended in here.values() for id, each in ended.items() if each.outcome == "ok"}
    chosen = random.Random(len(whole)).sample(sorted(whole), min(SHOWN, len(whole)))
    for id in chosen:
        number = number_of(str(whole[id].path))
        for direction, right in (("request", request_of(number)), ("response", answer_of(number))):
            done = subprocess.run(
                [*PROGRAM, "show", id, "--from", bucket.url, "--body", direction],
                env=environment() | {"EXTPROC_CACHE": str(cache), "AWS_ENDPOINT_URL": endpoint},
                capture_output=True, check=False,
            )  # fmt: skip
            _must(done.returncode == 0 and done.stdout == right, f"show {id} --body {direction}: {done.stderr!r}")
    return len(chosen)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
