"""Index and scan: the same answers to the same questions, over journals of every kind."""

from __future__ import annotations

import random
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest
from support.journals import START_NS
from support.kinds import History
from support.thorough import THOROUGH

from extproc.cli import view
from extproc.core.joined import NO_LLM
from extproc.core.times import timestamp
from extproc.history import tally
from extproc.history.answers import Answers
from extproc.history.filters import Bounds, Filters, Param
from extproc.history.index import store
from extproc.history.index.indexer import Indexer
from extproc.history.join import Exchange

SECOND = 1_000_000_000
FILTERS = [
    Filters(),
    Filters(failed=True),
    Filters(models=("none of them",)),
    Filters(outcomes=("class:nothing",)),
    Filters(outcomes=("ok", "class:client")),
    Filters(outcomes=("upstream_*", "sidecar_restart_orphan")),
    Filters(upstreams=("10.0.0.7",)),
    Filters(upstreams=("fd00::7", "backend-*")),
    Filters(models=("llama-?",)),
    Filters(models=("mm*", "gpt*")),
    Filters(models=("*",)),
    Filters(statuses=("5xx", "none")),
    Filters(statuses=("200",), upstreams=("*",)),
    Filters(keys=("000000000001",)),
    Filters(keys=("",)),
    Filters(apis=("chat*",)),
    Filters(methods=("POST",), routes=("def*",), clusters=("llm",)),
    Filters(paths=("/v1/chat/completions",)),
    Filters(paths=("*key=*",), clients=("192.0.2.9",)),
    Filters(min_duration_ms=900.0),
    Filters(min_duration_ms=900.001),
    Filters(min_ttft_ms=100.0),
    Filters(finishes=("st*",)),
    Filters(tokens=Bounds(10, 60)),
    Filters(tokens=Bounds(None, 10**30)),
    Filters(params=(Param("max_tokens"),)),
    Filters(params=(Param("temperature", "0.5"), Param("nothing"))),
    Filters(since=timestamp(START_NS + 30 * SECOND)),
    Filters(until=timestamp(START_NS + 30 * SECOND), failed=True),
    Filters(since=timestamp(START_NS + 25 * SECOND), until=timestamp(START_NS + 33 * SECOND)),
    Filters(since=timestamp(START_NS + 30 * SECOND), upstreams=("10.0.0.7",)),
    Filters(between=(timestamp(START_NS + 40 * SECOND), timestamp(START_NS + 41 * SECOND))),
    Filters(between=(timestamp(START_NS + 100 * SECOND), timestamp(START_NS + 101 * SECOND)), models=("*",)),
]

_AT_A_TIME = ("in flight", *(f"{number} " for number, wanted in enumerate(FILTERS) if wanted.between))


def in_order(exchanges: Iterable[Exchange]) -> list[dict[str, Any]]:
    """What they say. Of two that started together either may come first."""
    ordered = sorted(exchanges, key=lambda each: (each.outcome is None, each.started_at, each.id))
    return [each.members() for each in ordered]


def shown(exchange: Exchange) -> Any:
    """What lists show, and what counts are made of."""
    names = ("started", "outcome", "status", "method", "path", "model", "upstream", "took", "tokens", "id")
    more = ("cluster", "route", "client", "key", "api")
    llm = exchange.llm or NO_LLM
    rest = (exchange.class_, exchange.failed_attempts, exchange.worker, exchange.boot_id, exchange.ended_at)
    return view.row(exchange, (*names, *more), local=False), rest, llm.ttft_ms, llm.fingerprint


def answers(directory: Path, ids: list[str]) -> dict[str, Any]:
    """Every question that there is."""
    found: dict[str, Any] = {}
    with Answers([directory]) as asked:
        for number, wanted in enumerate(FILTERS):
            for running in (False, True):
                complete = list(asked.exchanges(wanted, running=running, complete=True))
                found[f"{number} {running} complete"] = in_order(complete)
                found[f"{number} {running} shown"] = sorted(
                    map(str, map(shown, asked.exchanges(wanted, running=running)))
                )
            found[f"{number} histogram"] = asked.histogram(wanted, 10_000_000)
            last = [each.started_at for each in asked.exchanges(wanted, limit=3)]
            found[f"{number} last"] = last
            tested = asked.exchanges(wanted, test=lambda each: "POST" in str(each.method))
            found[f"{number} tested"] = sorted(each.id for each in tested)
        for id in ids:
            for text in (id, id[:11], id[-8:], f"{id[:14]}4{id[15:]}"):
                found[f"find {text}"] = in_order(asked.find(text))
        for each in asked.exchanges(Filters(), complete=True):
            response_id = (each.llm or NO_LLM).response_id
            if response_id:
                found[f"find {response_id}"] = [other.id for other in asked.find(response_id)]
        for key in tally.KEYS:
            for number, wanted in enumerate(FILTERS[::4]):
                counted, beside = asked.counted(wanted, key)
                tallies = tally.by(key, beside, counted)
                found[f"by {key} {number}"] = sorted(map(str, tally.fields(key, tallies)))
        latest = asked.latest(lambda each: each.outcome != "ok")
        found["latest"] = None if latest is None else latest.started_at
        # A series that is closed has nothing in flight, or recovery would have said that it is over.
        boot = max(path.name.split("-")[1] for path in (directory / "segments").iterdir())
        found["in flight"] = in_order(each for each in asked.in_flight() if each.boot_id == boot)
    return found


def differing(one: dict[str, Any], other: dict[str, Any]) -> dict[str, Any]:
    """The questions with two answers, and these."""
    return {name: (one[name], other.get(name)) for name in one if one[name] != other.get(name)}


def index(directory: Path, *, to_the_end: bool = True) -> None:
    """Bring the index up to date."""
    indexer = Indexer(directory)
    while indexer.step() and to_the_end:
        pass
    indexer.commit(now=True)
    assert indexer.failures == 0
    indexer.close()


@pytest.mark.parametrize("seed", range(12 if THOROUGH else 4))
def test_index_and_scan_give_the_same(seed: int, tmp_path: Path) -> None:
    """For every question, whether the index has all of the journal, a part of it, or nothing, and read in how many
    pieces it was."""
    chance = random.Random(seed)
    history = History(chance)
    ids = [id for id in history.ids if id not in history.belated][:4]
    cuts = sorted(chance.randrange(len(history.events) + 1) for _ in range(3))
    for cut in cuts:
        history.write(tmp_path, history.events[:cut])
        index(tmp_path)
    history.write(tmp_path, history.events)
    told: list[str] = []
    with Answers([tmp_path], told.append):
        assert told == []
    by_index = answers(tmp_path, ids)
    index(tmp_path)
    by_whole_index = answers(tmp_path, ids)
    store.delete(tmp_path)
    by_scan = answers(tmp_path, ids)
    if history.has_lost_an_end:
        by_scan = {name: found for name, found in by_scan.items() if not name.startswith(_AT_A_TIME)}
    assert differing(by_scan, by_index) == {}
    assert differing(by_scan, by_whole_index) == {}
