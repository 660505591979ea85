"""The Envoy configuration for an Envoy that somebody else starts; the real Envoy judges it."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest
import yaml
from support.commands import invoke

from extproc.config import Config
from extproc.envoy import binary, files, publish
from extproc.errors import ConfigError

BACKENDS = ("http://127.0.0.1:8001", "https://api.example:8443")


MINE = {
    "provider": {
        "name": "mine",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig",
            "http_service": {"http_uri": {"uri": "http://a/v1/traces", "cluster": "llm", "timeout": "1s"}},
        },
    }
}
"""Tracing that somebody has configured."""


def published(config: Config, target: Path, collector: str | None) -> list[Path]:
    """The files of one publication."""
    settings = publish.settings_of(config, collector, target)
    return asyncio.run(publish.Publisher(config, target, settings, lambda _: None).publish())


def test_the_directory_that_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that was named must exist; the default one need not, then the shipped files are used."""
    monkeypatch.chdir(tmp_path)
    assert publish.directory(Config()) is None
    (tmp_path / "envoy").mkdir()
    assert publish.directory(Config()) == Path("envoy")
    with pytest.raises(ConfigError, match=r"mine: there is no such directory"):
        publish.directory(Config(envoy_dir=Path("mine")))


def test_envoy_takes_what_is_published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With every setting applied, and each file where the bootstrap looks for it."""
    monkeypatch.chdir(tmp_path)
    config = Config(backends=BACKENDS, workers=2, port=8080, listen="unix:/run/extproc/extproc.sock")
    written = published(config, tmp_path / "live", "http://jaeger:4317")
    assert {path.name for path in written} == {"envoy.yaml", "routes.yaml", "clusters.yaml"}
    text = (tmp_path / "live" / "envoy.yaml").read_text()
    for expected in ("/run/extproc/extproc.sock.1", "port_value: 8080", "address: jaeger", "OpenTelemetryConfig"):
        assert expected in text
    assert "api.example" in (tmp_path / "live" / "clusters.yaml").read_text()
    done = subprocess.run(
        [
            *(str(binary.find()), "--mode", "validate", "--reject-unknown-dynamic-fields"),
            *("-c", str(tmp_path / "live" / "envoy.yaml")),
        ],
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_a_broken_file_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is refused with its line, and what was published before stays."""
    monkeypatch.chdir(tmp_path)
    assert invoke("publish", "--to", "live").exit_code == 0
    before = (tmp_path / "live" / "routes.yaml").read_bytes()
    (tmp_path / "envoy").mkdir()
    (tmp_path / "envoy" / "routes.yaml").write_text("resources:\n- {name: [\n")
    refused = invoke("publish", "--to", "live")
    assert refused.exit_code == 2
    assert "envoy/routes.yaml:3:1: error: not YAML" in refused.stderr
    assert (tmp_path / "live" / "routes.yaml").read_bytes() == before


def test_a_name_that_does_not_resolve() -> None:
    """It is named, with what to do about it in compose."""
    publish.resolve(["http://127.0.0.1:1"], 0)
    with pytest.raises(ConfigError, match=r"the name nowhere\.invalid cannot be resolved.*LLM_BACKEND=host:port"):
        publish.resolve(["http://nowhere.invalid:1"], 0)


@pytest.mark.parametrize("tracing", [None, MINE])
def test_tracing_that_is_configured_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tracing: object) -> None:
    """Ours is only for those who have none."""
    monkeypatch.chdir(tmp_path)
    published(Config(), tmp_path / "envoy", None)
    path = tmp_path / "envoy" / "envoy.yaml"
    document = yaml.safe_load(path.read_text())
    manager = document["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    if tracing is not None:
        manager["tracing"] = tracing
        path.write_text(yaml.safe_dump(document))
    published(Config(), tmp_path / "live", "https://collector.example:4317")
    document = yaml.safe_load((tmp_path / "live" / "envoy.yaml").read_text())
    manager = document["static_resources"]["listeners"][0]["filter_chains"][0]["filters"][0]["typed_config"]
    assert (manager["tracing"] == MINE) is (tracing is not None)


# Order -----------------------------------------------------------------------------------------------------


class Reader:
    """An Envoy that notes what stands in the target whenever it is asked, and refuses what it is told to refuse."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.seen: list[tuple[set[str], str]] = []
        self.refuses: str | None = None

    async def took(self, clusters: str | None, routes: str | None) -> str | None:
        """Note the names of the clusters, and the one that the routes lead to."""
        self.seen.append(stands(self.target))
        refusal, self.refuses = self.refuses, None
        return refusal


def stands(target: Path) -> tuple[set[str], str]:
    """The clusters that stand in a target, and the one that its route leads to."""
    clusters = yaml.safe_load((target / "clusters.yaml").read_text())["resources"]
    route = yaml.safe_load((target / "routes.yaml").read_text())["resources"][0]["virtual_hosts"][0]["routes"][0]
    return {each["name"] for each in clusters}, route["route"]["cluster"]


def edited(directory: Path, cluster: str) -> None:
    """One cluster of this name, and a route to it."""
    text = (files.shipped() / "clusters.yaml").read_text(encoding="utf-8")
    directory.mkdir(exist_ok=True)
    (directory / "clusters.yaml").write_text(text.replace(": llm\n", f": {cluster}\n"))
    text = (files.shipped() / "routes.yaml").read_text(encoding="utf-8")
    (directory / "routes.yaml").write_text(text.replace("cluster: llm", f"cluster: {cluster}"))


def make(tmp_path: Path, envoy: Reader | None, lines: list[str]) -> publish.Publisher:
    """A publisher of `edit` to `live`, whose lines are kept."""
    config = Config(envoy_dir=tmp_path / "edit", data_dir=tmp_path / "data")
    settings = publish.settings_of(config, None, tmp_path / "live")
    return publish.Publisher(config, tmp_path / "live", settings, lines.append, envoy)


def test_a_cluster_is_there_before_its_route_and_after_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A renamed cluster: the new one comes, the route changes, and the old one goes when `finish` says so."""
    monkeypatch.setattr(publish, "_ON_THEIR_WAY_SECONDS", 0.0)
    lines: list[str] = []
    reader = Reader(tmp_path / "live")
    edited(tmp_path / "edit", "old")
    publisher = make(tmp_path, reader, lines)

    async def story() -> None:
        await publisher.publish()
        edited(tmp_path / "edit", "new")
        await publisher.publish()
        await publisher.publish()
        await publisher.finish()

    asyncio.run(story())
    assert reader.seen == [({"old", "new"}, "old"), ({"old", "new"}, "new"), ({"new"}, "new")]
    assert lines[:2] == ["live: clusters.yaml: old removed", "live: clusters.yaml: new added"]
    assert not any("clusters.yaml" in line for line in lines[2:])


def test_what_stands_in_the_target_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A publisher that is started again says what has changed since, and takes no cluster away before its route."""
    monkeypatch.setattr(publish, "_ON_THEIR_WAY_SECONDS", 0.0)
    monkeypatch.setattr(publish, "_WARM_SECONDS", 0.0)
    edited(tmp_path / "edit", "old")
    lines: list[str] = []
    asyncio.run(make(tmp_path, None, lines).publish())
    assert lines == []
    edited(tmp_path / "edit", "new")
    again = make(tmp_path, None, lines)

    async def story() -> None:
        await again.publish()
        assert stands(tmp_path / "live") == ({"old", "new"}, "new")
        await again.finish()
        assert stands(tmp_path / "live") == ({"new"}, "new")

    asyncio.run(story())
    assert lines[:2] == ["live: clusters.yaml: old removed", "live: clusters.yaml: new added"]


@pytest.mark.parametrize("name", ["clusters.yaml", "routes.yaml", "envoy.yaml"])
@pytest.mark.parametrize("damage", [b"", b"resources: [", None])
def test_a_damaged_target_is_written_anew(tmp_path: Path, name: str, damage: bytes | None) -> None:
    """What an interrupted publication left is no reason to fail."""
    edited(tmp_path / "edit", "llm")
    asyncio.run(make(tmp_path, None, []).publish())
    path = tmp_path / "live" / name
    whole = path.read_bytes()
    path.unlink() if damage is None else path.write_bytes(damage)
    asyncio.run(make(tmp_path, None, []).publish())
    assert path.read_bytes() == whole


def test_what_envoy_refuses_is_taken_back(tmp_path: Path) -> None:
    """Its words are the error, and the target is again what it serves."""
    edited(tmp_path / "edit", "old")
    reader = Reader(tmp_path / "live")
    publisher = make(tmp_path, reader, [])

    async def story() -> None:
        await publisher.publish()
        before = (tmp_path / "live" / "clusters.yaml").read_bytes()
        edited(tmp_path / "edit", "new")
        reader.refuses = "envoy: no"
        with pytest.raises(ConfigError, match="envoy: no"):
            await publisher.publish()
        assert (tmp_path / "live" / "clusters.yaml").read_bytes() == before
        assert stands(tmp_path / "live") == ({"old"}, "old")

    asyncio.run(story())


def test_a_file_that_is_taken_away_is_told_of_once(tmp_path: Path) -> None:
    """And it goes from the target."""
    edited(tmp_path / "edit", "llm")
    (tmp_path / "edit" / "more.yaml").write_text("resources: []\n")
    lines: list[str] = []
    publisher = make(tmp_path, Reader(tmp_path / "live"), lines)

    async def story() -> None:
        await publisher.publish()
        (tmp_path / "edit" / "more.yaml").unlink()
        await publisher.publish()
        await publisher.publish()

    asyncio.run(story())
    assert lines == ["live: more.yaml: removed"]
    assert not (tmp_path / "live" / "more.yaml").exists()


@pytest.mark.parametrize(
    ("before", "now", "half"),
    [
        ({"a": b"x\n"}, {"a": b"y\n"}, False),
        ({"a": b"x\n"}, {"a": b"y"}, True),
        ({"a": b"x\n"}, {"a": b""}, True),
        ({"a": b"x\n"}, {}, True),
        ({}, {"a": b"x\n"}, False),
    ],
)
def test_what_looks_half_saved(before: dict[str, bytes], now: dict[str, bytes], half: bool) -> None:
    """A file that is gone, where a shipped one would take its place, or that ends within a line."""
    assert publish._looks_half_saved(before, now) is half


def test_several_sidecars(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint of the cluster `extproc` for each address; one that is none is refused."""
    monkeypatch.chdir(tmp_path)
    done = invoke("publish", "--to", "live", "--sidecar", "unix:/a.sock", "--sidecar", "127.0.0.1:50051")
    assert done.exit_code == 0, done.output
    clusters = yaml.safe_load((tmp_path / "live" / "envoy.yaml").read_text())["static_resources"]["clusters"]
    (sidecar,) = (each for each in clusters if each["name"] == "extproc")
    assert [each["endpoint"]["address"] for each in sidecar["load_assignment"]["endpoints"][0]["lb_endpoints"]] == [
        {"pipe": {"path": "/a.sock"}},
        {"socket_address": {"address": "127.0.0.1", "port_value": 50051}},
    ]
    refused = invoke("publish", "--to", "live", "--sidecar", "a.sock")
    assert refused.exit_code == 2
    assert "--sidecar: listen: 'a.sock' is wrong; unix:PATH" in refused.stderr
