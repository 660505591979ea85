"""envoy/examples/workers: several recorders behind one Envoy."""

from __future__ import annotations

import json
import os
import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.commands import PROGRAM, run
from support.exchanges import present
from support.parts import EnvoyPart, Part, free_port
from support.recipes import Recipe
from support.stack import eventually, is_running
from support.traffic import Servers, Traffic

from extproc.history import reader, verify


@pytest.fixture(scope="module")
def servers() -> Iterator[Servers]:
    """One LLM server."""
    with Servers(1) as running:
        yield running


def started(directory: Path, servers: Servers, *arguments: str) -> Recipe:
    """The recipe before the server, not yet entered."""
    return Recipe("workers", directory, "--backend", f"http://127.0.0.1:{servers.ports[0]}", *arguments)


def test_the_load_is_spread(tmp_path: Path, servers: Servers) -> None:
    """Streams go to the worker with the fewest: a quarter for each, within four standard deviations of even draws."""
    with started(tmp_path, servers) as recipe, Traffic(recipe.port, rate=60, streams=1.0) as traffic:
        assert sorted(recipe.workers()) == [0, 1, 2, 3]
        traffic.goes_on(120)
        assert traffic.end() == []
        assert recipe.stop() == 0
        assert recipe.findings() == []
        exchanges = recipe.exchanges()
    workers = Counter(present(exchange.worker) for exchange in exchanges)
    assert sorted(workers) == [0, 1, 2, 3]
    total = traffic.finished
    deviation = (total * 0.25 * 0.75) ** 0.5
    assert all(abs(count - total / 4) <= 4 * deviation for count in workers.values()), workers
    assert Counter(exchange.outcome for exchange in exchanges) == {"ok": total}


@pytest.mark.parametrize("count", [1, 2, 3])
def test_another_number_of_workers(tmp_path: Path, servers: Servers, count: int) -> None:
    """By the flag, which counts more than the file: each of them records."""
    with started(tmp_path, servers, "--workers", str(count)) as recipe, Traffic(recipe.port) as traffic:
        traffic.goes_on(150)
        assert traffic.end() == []
        assert recipe.stop() == 0
        assert recipe.findings() == []
        assert Counter(exchange.outcome for exchange in recipe.exchanges()) == {"ok": traffic.finished}
        assert {exchange.worker for exchange in recipe.exchanges()} == set(range(count))


def test_a_worker_that_is_killed(tmp_path: Path, servers: Servers) -> None:
    """Its own streams are cut, and recorded as orphans; those of the others are whole; then it is back."""
    with started(tmp_path, servers) as recipe, Traffic(recipe.port, rate=40, streams=1.0) as traffic:
        eventually(lambda: traffic.running >= 60, "sixty streams")
        worker = recipe.workers()[2]
        os.kill(worker, signal.SIGKILL)
        eventually(lambda: not is_running(worker), "its end")
        eventually(lambda: recipe.workers().get(2, worker) != worker, "another one")
        back = recipe.workers()[2]
        eventually(lambda: recipe.envoy_stat("cluster.extproc.membership_healthy") == 4, "all four in service")
        traffic.goes_on(60)
        failures = len(traffic.end())
        assert recipe.workers()[2] == back
        assert recipe.stop() == 0
        assert recipe.findings() == []
        exchanges = recipe.exchanges()
    # What Envoy sent it in the instant of its death has Envoy's entry alone, which another worker has got.
    unseen = [exchange for exchange in exchanges if exchange.records.keys() == {"access"}]
    assert {exchange.outcome for exchange in unseen} <= {"recorder_failed"}
    recorded = [exchange for exchange in exchanges if exchange not in unseen]
    outcomes = Counter((exchange.worker == 2, exchange.outcome) for exchange in recorded)
    assert outcomes.keys() <= {(False, "ok"), (True, "ok"), (True, "sidecar_restart_orphan")}
    orphans = outcomes[True, "sidecar_restart_orphan"]
    assert orphans >= 5
    # Of such a request there may be no entry either; and an answer may be recorded whole of which it could not tell
    # Envoy any more.
    assert orphans + len(unseen) <= failures <= orphans + 3
    assert traffic.finished - 3 <= len(exchanges) <= traffic.finished
    boots = {exchange.boot_id for exchange in exchanges if exchange.worker == 2}
    assert len(boots) == 2, "the one that died, and the one that is back"


def test_two_sidecars(tmp_path: Path, servers: Servers) -> None:
    """Each with a directory of its own: both record, either can be stopped, and `log` shows all as one."""
    port = free_port()
    directories = [tmp_path / "a", tmp_path / "b"]
    first, second = (
        Part(tmp_path, each.name, *PROGRAM, "serve", "--data-dir", each, "--admin-port", "0") for each in directories
    )
    addresses = [("--sidecar", f"unix:{each}/run/extproc.sock") for each in directories]
    backend = ("--backend", f"http://127.0.0.1:{servers.ports[0]}")
    ports = {"EXTPROC_PORT": str(port), "EXTPROC_ENVOY_ADMIN_PORT": "0"}
    published = run(
        "publish", "--to", tmp_path / "live", *backend, *addresses[0], *addresses[1], cwd=tmp_path, env=ports
    )
    assert published.returncode == 0, published.stderr
    envoy = EnvoyPart(tmp_path, tmp_path / "live" / "envoy.yaml", "--disable-hot-restart")
    with first, second:
        for sidecar in (first, second):
            sidecar.wait_for("ready ")
        with envoy, Traffic(port, rate=80) as traffic:
            traffic.goes_on(200)
            assert first.stop() == 0
            traffic.goes_on(200)
            failures = traffic.end()
            assert second.stop() == 0
    assert failures == []
    flags = [flag for each in directories for flag in ("--data-dir", str(each))]
    shown = [json.loads(line) for line in run("log", *flags, "--json", cwd=tmp_path).stdout.splitlines()]
    assert Counter(exchange["outcome"] for exchange in shown) == {"ok": traffic.finished}
    assert len({exchange["id"] for exchange in shown}) == traffic.finished
    shares = [len(list(reader.exchanges([each]))) for each in directories]
    assert sum(shares) == traffic.finished
    assert min(shares) > 50
    assert [list(verify.verify(each)) for each in directories] == [[], []]
