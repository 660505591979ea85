"""What befell backends, out of the index: the same as from the whole journal, and little of that is read."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
from support.kinds import History
from support.recorded import Recording

from extproc.history import reader
from extproc.history.answers import Answers
from extproc.history.filters import Filters
from extproc.history.index import check, schema, store
from extproc.history.index.indexer import Indexer
from extproc.history.index.precedents import Precedents
from extproc.history.index.query import Index
from extproc.history.index.store import Store
from extproc.history.index.tail import Tail
from extproc.history.live_tables import LiveTables
from extproc.incidents import evidence, incident, indexed
from extproc.incidents.evidence import Flight
from extproc.incidents.indexed import Bodies

DEATHS = Path(__file__).parents[2] / "forensics" / "real"
JOURNALS = ("k_fleet_sdk_retry", "k_queued", "l_400_burst", "l_500_burst", "h_freeze_then_kill")
FAILED = b'{"odd":true,"message":"the engine is gone"}'


def scanned(directory: Path) -> list[Flight]:
    """From all of the journal."""
    found = (evidence.flights(each, evidence.recorded_body) for each in reader.exchanges([directory]))
    return [flight for flights in found for flight in flights]


def index(directory: Path, open_store: Callable[[Path], Store] = Store.open) -> Indexer:
    """The index up to date, and still open."""
    indexer = Indexer(directory, open_store, reader=Bodies())
    while indexer.step():
        pass
    indexer.commit(now=True)
    assert indexer.failures == 0
    return indexer


@pytest.mark.parametrize("name", JOURNALS)
def test_deaths_of_a_real_engine(name: str, tmp_path: Path) -> None:
    """Each exchange says the same, and so does each incident; hardly any is read from the journal for it."""
    data = tmp_path / "data"
    shutil.copytree(DEATHS / name, data)
    index(data).close()
    told: list[str] = []
    with Answers([data], told.append) as asked:
        found = list(indexed.flights(asked))
    assert sorted(found, key=str) == sorted(scanned(data), key=str)
    assert [each.fields() for each in incident.incidents(found)] == [
        each.fields() for each in incident.incidents(scanned(data))
    ]
    assert told == []
    with Index.open(data) as opened:
        assert list(check.differences(opened, Tail(opened, LiveTables()), reader_of_bodies=Bodies())) == []


@pytest.mark.parametrize("seed", range(4))
def test_journals_of_every_kind(seed: int, tmp_path: Path) -> None:
    """Bodies that are none, times that are none, gaps, orphans, several boots: the same as from a scan."""
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    history = History(random.Random(seed), most=40)
    history.write(data, history.events)
    index(data).close()
    with Answers([data]) as asked:
        assert sorted(indexed.flights(asked), key=str) == sorted(scanned(data), key=str)


def test_an_error_in_a_form_that_nobody_knows(tmp_path: Path) -> None:
    """Its message is kept beside the row, so that the body need not be read; a form that is known likewise."""
    data = tmp_path / "data"
    with Recording(data) as recording:
        for answer in (FAILED, b'{"error":{"message":"out of memory","type":"ServerError"}}', b"<html>"):
            recording.add_access(recording.add(answer=answer, status=500), status=500)
        recording.add()
    index(data).close()
    with Answers([data]) as asked:
        known = [each for each in asked.rows() if not each.is_complete]
        assert [each.told.message for each in known] == ["the engine is gone", "out of memory", ""]
        assert sorted(indexed.flights(asked), key=str) == sorted(scanned(data), key=str)


def test_an_index_without_a_reader_of_bodies(tmp_path: Path) -> None:
    """The exchanges are read from the journal then: the answer is the same."""
    data = tmp_path / "data"
    with Recording(data) as recording:
        for _ in range(3):
            recording.add_access(recording.add())
    indexer = Indexer(data)
    while indexer.step():
        pass
    indexer.close()
    with Answers([data]) as asked:
        assert sorted(indexed.flights(asked), key=str) == sorted(scanned(data), key=str)


def users(data: Path) -> dict[str, int]:
    """How often each `user` was served, as it is counted."""
    with Index.open(data, still=True) as opened:
        return {value: times for _, place, value, times in Precedents(opened).atoms() if place == "user"}


def test_what_an_erased_request_asked_for_goes_with_it(tmp_path: Path) -> None:
    """What others asked for as well stays, also for a follower that goes on."""
    data = tmp_path / "data"
    with Recording(data) as recording:
        for user in (b"alice-4711", b"robert", b"robert"):
            body = b'{"model":"llama-3","messages":[{"role":"user","content":"hi"}],"user":"%b"}' % user
            recording.add_access(recording.add(body))
        recording.add()
    indexer = index(data)
    with Index.open(data) as opened:
        alice = next(iter(opened.rows(Filters()))).exchange.id
    assert users(data) == {'"alice-4711"': 1, '"robert"': 2}
    assert store.erase(data, [alice]) == 1
    assert users(data) == {'"robert"': 2}
    assert b"alice" not in b"".join(path.read_bytes() for path in data.glob("index.sqlite*"))
    indexer.close()


def test_values_that_are_new_each_time_are_kept_and_counted_as_one(tmp_path: Path) -> None:
    """Those of users, say: their number is no burden, none needs the journal, and what is erased is gone as well."""
    data, names = tmp_path / "data", ("ann", "ben", "cleo", "dora", "emil-0815", "ann")
    with Recording(data) as recording:
        for user in names:
            body = f'{{"model":"llama-3","messages":[{{"role":"user","content":"hi"}}],"user":"{user}"}}'
            recording.add_access(recording.add(body.encode()))
        recording.add()
    index(data, partial(Store.open, most_values=2)).close()
    with Index.open(data) as opened:
        found = list(opened.rows(Filters()))
        assert [(each.told.atoms or {}).get("user") for each in found] == [f'"{user}"' for user in names]
        assert list(check.differences(opened, Tail(opened, LiveTables()), reader_of_bodies=Bodies())) == []
    assert users(data) == {'"ann"': 2, '"ben"': 1, schema.OTHERS: 3}
    assert store.erase(data, [found[4].exchange.id]) == 1
    assert users(data) == {'"ann"': 2, '"ben"': 1, schema.OTHERS: 2}
    assert b"emil-0815" not in b"".join(path.read_bytes() for path in data.glob("index.sqlite*"))
    with Index.open(data) as opened:
        assert not opened.is_miscounted()
