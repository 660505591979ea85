"""The Envoy configuration for an Envoy that somebody else starts; the real Envoy judges it."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml
from support.commands import invoke
from support.configuration import edit, shipped_copy
from support.stack import PATIENCE_SECONDS

from extproc.config import Config
from extproc.envoy.config import files
from extproc.envoy.config.files import BOOTSTRAP, CLUSTERS, ROUTES
from extproc.envoy.process import binary
from extproc.envoy.publish import live, publish
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
        timeout=150,
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


def test_each_mistake_has_a_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On stderr, and no line break of a finding's own makes another one."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "envoy").mkdir()
    (tmp_path / "envoy" / "routes.yaml").write_text("resources: 5\nxyz: 1\nversion_info: [1]\n")
    refused = invoke("publish", "--to", "live")
    assert refused.exit_code == 2
    assert [line.split(": error: ")[0] for line in refused.stderr.splitlines()] == [
        "extproc: envoy/routes.yaml:1:12",
        "extproc: envoy/routes.yaml:3:15",
    ]
    (tmp_path / "a\nb").mkdir()
    (tmp_path / "a\nb" / "routes.yaml").write_text("resources: 5\n")
    (line,) = invoke("publish", "--envoy-dir", tmp_path / "a\nb", "--to", "live").stderr.splitlines()
    assert "a\\nb/routes.yaml:1:12: error: " in line


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
    if tracing is None:  # Envoy's own values of these hold the query, and whatever key is in it
        assert {"http.url", "grpc.path", "grpc.authority"} <= {tag["tag"] for tag in manager["tracing"]["custom_tags"]}


# One after the other ---------------------------------------------------------------------------------------


class Envoy:
    """What a running Envoy finds in the target each time that it takes something: clusters, and where routes lead."""

    def __init__(self, target: Path) -> None:
        self.target = target
        self.found: list[tuple[set[str], set[str]]] = []
        self.versions: list[tuple[str | None, str | None]] = []
        self.others: list[str] = []
        self.refuses = ""

    async def took(self, clusters: str | None, routes: str | None, *others: str) -> str | None:
        """Look; refuse a version of the file that is to be refused."""
        self.others += others
        self.found.append((names(self.target / CLUSTERS), leads(self.target / ROUTES)))
        self.versions.append((clusters, routes))
        refused = {CLUSTERS: clusters, ROUTES: routes}.get(self.refuses) is not None
        return "envoy: no" if refused else None


def names(path: Path) -> set[str]:
    """The clusters of a file."""
    return {each["name"] for each in yaml.safe_load(path.read_text())["resources"]}


def leads(path: Path) -> set[str]:
    """The clusters to which the routes of a file lead."""
    routes = yaml.safe_load(path.read_text())["resources"][0]["virtual_hosts"][0]["routes"]
    return {each["route"]["cluster"] for each in routes}


class Deployment:
    """A directory `envoy`, what is published of it in `live`, and what is said."""

    def __init__(self, tmp_path: Path, *, envoy: bool = True) -> None:
        self.source = shipped_copy(tmp_path / "envoy")
        self.target = tmp_path / "live"
        self.said: list[str] = []
        self.envoy = Envoy(self.target)
        self.config = Config(envoy_dir=self.source)
        settings = publish.settings_of(self.config, None, self.target)
        live = self.envoy if envoy else None
        self.publisher = publish.Publisher(self.config, self.target, settings, self.said.append, envoy=live)

    def publish(self) -> None:
        """Once, and what is left to do."""

        async def main() -> None:
            await self.publisher.publish()
            await self.publisher.finish()

        asyncio.run(main())

    def state(self) -> dict[str, tuple[int, int, bytes]]:
        """The files of the target: inode, time of the last change, bytes."""
        return {
            path.name: (path.stat().st_ino, path.stat().st_mtime_ns, path.read_bytes())
            for path in self.target.glob("*.yaml")
        }


@pytest.fixture
def deployment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Deployment:
    """Published once. No request is on its way anywhere."""
    monkeypatch.setattr(live, "_ON_THEIR_WAY_SECONDS", 0.0)
    monkeypatch.setattr(live, "_WARM_SECONDS", 0.0)
    made = Deployment(tmp_path)
    made.publish()
    return made


def use(directory: Path, *clusters: str) -> None:
    """Let the clusters of a directory be these, and its routes lead to the first."""
    shipped = files.read(None)
    resources = [{**shipped[CLUSTERS]["resources"][0], "name": each} for each in clusters]
    (directory / CLUSTERS).write_text(yaml.safe_dump({"resources": resources}))
    text = (files.shipped() / ROUTES).read_text()
    (directory / ROUTES).write_text(text.replace("cluster: llm", f"cluster: {clusters[0]}"))


@pytest.mark.parametrize(
    ("clusters", "found"),
    [
        (["llm", "spare"], [({"llm", "spare"}, {"llm"})]),
        (["new"], [({"new", "llm"}, {"llm"}), ({"new", "llm"}, {"new"}), ({"new"}, {"new"})]),
        (["new", "llm"], [({"new", "llm"}, {"llm"}), ({"new", "llm"}, {"new"})]),
        (["llm"], []),
    ],
)
def test_no_route_without_its_cluster(
    deployment: Deployment, clusters: list[str], found: list[tuple[set[str], set[str]]]
) -> None:
    """A new one is taken before a route leads to it, and a removed one goes when none does any more."""
    use(deployment.source, *clusters)
    edit(deployment.source / ROUTES, "# Which", "# That")  # no change in what it says
    deployment.envoy.found.clear()
    deployment.publish()
    assert deployment.envoy.found == found


def test_removing_a_cluster_without_moving_a_route(deployment: Deployment) -> None:
    """It takes one step, when the time has come."""
    use(deployment.source, "llm", "spare")
    deployment.publish()
    deployment.envoy.found.clear()
    use(deployment.source, "llm")
    deployment.publish()
    assert deployment.envoy.found[-1] == ({"llm"}, {"llm"})
    assert names(deployment.target / CLUSTERS) == {"llm"}


def test_the_first_publication_is_not_waited_for(deployment: Deployment) -> None:
    """Envoy is started on it."""
    assert deployment.envoy.found == []
    assert deployment.said == []


def test_versions_are_those_in_the_files(deployment: Deployment) -> None:
    """Envoy says which it has taken."""
    use(deployment.source, "new", "llm")
    deployment.publish()
    clusters, routes = (yaml.safe_load((deployment.target / each).read_text()) for each in (CLUSTERS, ROUTES))
    assert deployment.envoy.versions == [(clusters["version_info"], None), (None, routes["version_info"])]


def test_a_file_that_says_the_same_is_not_touched(deployment: Deployment) -> None:
    """Envoy would read it again for nothing."""
    before = deployment.state()
    edit(deployment.source / ROUTES, "# Which", "# That")
    deployment.publish()
    assert deployment.state() == before
    edit(deployment.source / ROUTES, "600s", "601s")
    deployment.publish()
    after = deployment.state()
    assert {name for name in before if before[name] != after[name]} == {ROUTES}
    assert before[ROUTES][0] != after[ROUTES][0], "written in place, which Envoy does not notice"


@pytest.mark.parametrize("refused", [CLUSTERS, ROUTES])
def test_what_envoy_refuses_is_put_back(deployment: Deployment, refused: str) -> None:
    """What was live is in the files again, so that another Envoy finds it; and the next edit is taken."""
    before = {name: data for name, (_, _, data) in deployment.state().items()}
    use(deployment.source, "new", "llm")
    edit(deployment.source / BOOTSTRAP, "stream_idle_timeout: 600s", "stream_idle_timeout: 601s")
    deployment.envoy.refuses = refused
    with pytest.raises(ConfigError, match="envoy: no"):
        deployment.publish()
    after = {name: data for name, (_, _, data) in deployment.state().items()}
    assert after[refused] == before[refused]
    assert leads(deployment.target / ROUTES) <= names(deployment.target / CLUSTERS)
    if refused == CLUSTERS:
        assert after == before
    deployment.envoy.refuses = ""
    deployment.publish()
    assert (names(deployment.target / CLUSTERS), leads(deployment.target / ROUTES)) == ({"new", "llm"}, {"new"})
    assert "601s" in (deployment.target / BOOTSTRAP).read_text()


def test_what_is_wrong_is_not_published(deployment: Deployment) -> None:
    """The error has a line for each finding, and the report itself."""
    before = deployment.state()
    first = edit(deployment.source / CLUSTERS, "connect_timeout", "conect_timeout")
    second = edit(deployment.source / ROUTES, "virtual_hosts", "virtual_host")
    with pytest.raises(publish.Refused) as caught:
        deployment.publish()
    lines = str(caught.value).splitlines()
    assert [line.partition(": ")[0] for line in lines] == [
        f"{deployment.source / CLUSTERS}:{first}",
        f"{deployment.source / ROUTES}:{second}",
    ]
    assert len(caught.value.report.errors) == 2
    assert deployment.state() == before


@pytest.mark.parametrize(
    ("old", "new"),
    [("address: {socket_address: {address: 0.0.0.0, port_value: 8000}}", "address: 5"), ("node: {id", "node: [{id")],
)
def test_files_of_any_shape_are_refused(deployment: Deployment, old: str, new: str) -> None:
    """Before the settings are put into them."""
    edit(deployment.source / BOOTSTRAP, old, new)
    with pytest.raises(publish.Refused, match=r"envoy\.yaml:[0-9]+:[0-9]+: error: "):
        deployment.publish()


def test_envoy_is_asked_for_other_files_that_it_watches(deployment: Deployment) -> None:
    """Endpoints, for one; a file that nobody reads is not waited for."""
    (deployment.source / "endpoints.yaml").write_text("resources: []\n")
    deployment.publish()
    assert deployment.envoy.others == []
    cds = "eds_cluster_config: {eds_config: {path_config_source: {path: envoy/endpoints.yaml}}}"
    assignment = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"
    text = f'resources:\n- {{"@type": {assignment}, cluster_name: eds}}\n'
    (deployment.source / "endpoints.yaml").write_text(text)
    cluster = f'- {{"@type": type.googleapis.com/envoy.config.cluster.v3.Cluster, name: eds, type: EDS, {cds}}}\n'
    with (deployment.source / CLUSTERS).open("a") as clusters:
        clusters.write(cluster)
    deployment.publish()
    published = yaml.safe_load((deployment.target / "endpoints.yaml").read_text())
    assert deployment.envoy.others == [published["version_info"]]


def test_a_file_more_and_a_file_less(deployment: Deployment) -> None:
    """What is carried along comes, and goes again."""
    (deployment.source / "more.yaml").write_text("resources: []\n")
    deployment.publish()
    assert (deployment.target / "more.yaml").is_file()
    (deployment.source / "more.yaml").unlink()
    deployment.publish()
    deployment.publish()
    assert not (deployment.target / "more.yaml").exists()
    assert deployment.said == ["live: more.yaml: added", "live: more.yaml: removed"]


def test_what_is_said(deployment: Deployment) -> None:
    """Each change; of the bootstrap, when it counts; a warning once; of very many, how many more there are."""
    edit(deployment.source / BOOTSTRAP, "failure_mode_allow: false", "failure_mode_allow: true")
    deployment.publish()
    deployment.publish()
    warning, live, restart = deployment.said
    assert "warning: failure_mode_allow: what cannot be recorded passes" in warning
    assert live.startswith("live: envoy.yaml: static_resources: listeners: ingress: filter_chains: ")
    assert live.endswith("failure_mode_allow: false -> true")
    assert restart == "envoy.yaml is read when Envoy starts: what has changed in it waits for a restart"
    deployment.said.clear()
    use(deployment.source, "llm", *(f"c{number}" for number in range(25)))
    deployment.publish()
    said = [line for line in deployment.said if line.startswith("live: ")]
    assert said[:2] == ["live: clusters.yaml: c0 added", "live: clusters.yaml: c1 added"]
    assert (len(said), said[-1]) == (21, "live: 5 changes more")


def test_where_nothing_can_be_written(deployment: Deployment) -> None:
    """The error names the path, and the system's reason."""
    shutil.rmtree(deployment.target)
    deployment.target.write_text("a file")
    edit(deployment.source / ROUTES, "600s", "601s")
    with pytest.raises(ConfigError, match=r"/live.*: cannot be written: "):
        deployment.publish()


@pytest.mark.parametrize("damage", ["", "a: [", "resources: 5\n", "resources: [5, null]\n", "- a\n"])
def test_a_target_that_somebody_has_damaged(deployment: Deployment, damage: str) -> None:
    """The next publication puts it right."""
    whole = {name: data for name, (_, _, data) in deployment.state().items()}
    for name in (CLUSTERS, ROUTES):
        (deployment.target / name).write_text(damage)
    again = Deployment(deployment.target.parent, envoy=False)
    again.publish()
    assert {name: data for name, (_, _, data) in again.state().items()} == whole


def test_a_second_program_goes_on_from_what_stands_there(deployment: Deployment) -> None:
    """An Envoy may be running on it: the files that say the same stay, and the changes are said."""
    before = deployment.state()
    again = Deployment(deployment.target.parent, envoy=False)
    use(again.source, "new")
    again.publish()
    assert "live: clusters.yaml: new added" in again.said
    after = again.state()
    assert {name for name in before if before[name] != after[name]} == {CLUSTERS, ROUTES}
    assert names(again.target / CLUSTERS) == {"new"}


# Watching --------------------------------------------------------------------------------------------------


async def until(ask: Callable[[], bool], what: str) -> None:
    """Wait for something to be so."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    for _ in iter(ask, True):
        assert time.monotonic() < deadline, f"never came: {what}"
        await asyncio.sleep(0.01)


@contextlib.asynccontextmanager
async def watching(deployment: Deployment) -> AsyncIterator[None]:
    """A publisher that watches; it has not ended by itself."""
    watch = asyncio.ensure_future(deployment.publisher.watch())
    try:
        yield
        assert not watch.done()
    finally:
        watch.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watch


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """One item for each time that the directory has been read to be published."""
    seen: list[Any] = []
    parsed = files.parsed

    def counted(directory: Path | None, own: Mapping[str, bytes]) -> Any:
        seen.append(parsed(directory, own))
        return seen[-1]

    monkeypatch.setattr(files, "parsed", counted)
    return seen


IDLE = ("600s", "601s")
LIVE = "live: routes.yaml: ingress: all: websocket: idle_timeout: 600s -> 601s"


def in_place(path: Path) -> None:
    """As `cat >` and many editors write."""
    edit(path, *IDLE)


def by_renaming(path: Path) -> None:
    """As vim, and everybody who wants a file to be whole, writes."""
    new = path.with_name(".routes.yaml.new")
    new.write_text(path.read_text().replace(*IDLE, 1))
    new.rename(path)


def by_backup(path: Path) -> None:
    """The old file is moved away first."""
    text = path.read_text()
    path.rename(path.with_name("routes.yaml~"))
    path.write_text(text.replace(*IDLE, 1))


def with_others(path: Path) -> None:
    """Among files that are none of the configuration."""
    for name in (".routes.yaml.swp", "4913", "notes.txt", "extproc.yaml", "routes.yaml~", ".#routes.yaml"):
        path.with_name(name).write_text("a: [")
    edit(path, *IDLE)


def by_replacing_the_directory(path: Path) -> None:
    """As a deployment that unpacks into a new one."""
    new = path.parent.with_name("new")
    shutil.copytree(path.parent, new)
    edit(new / ROUTES, *IDLE)
    path.parent.rename(path.parent.with_name("old"))
    new.rename(path.parent)


@pytest.mark.parametrize("write", [in_place, by_renaming, by_backup, with_others, by_replacing_the_directory])
def test_an_edit_becomes_live(deployment: Deployment, write: Callable[[Path], None]) -> None:
    """Whatever way it is written; it is said once, and nothing else."""

    async def main() -> None:
        async with watching(deployment):
            await until(lambda: is_watched(deployment.source), "the watch")
            write(deployment.source / ROUTES)
            await until(lambda: "601s" in (deployment.target / ROUTES).read_text(), "the edit")
            await until(lambda: bool(deployment.said), "a word on it")

    asyncio.run(main())
    assert deployment.said == [LIVE]


def test_an_edit_before_the_watch_begins(deployment: Deployment) -> None:
    """It is not lost."""

    async def main() -> None:
        in_place(deployment.source / ROUTES)
        async with watching(deployment):
            await until(lambda: bool(deployment.said), "a word on it")

    asyncio.run(main())
    assert deployment.said == [LIVE]


def is_watched(directory: Path) -> bool:
    """Whether this process has asked the kernel for the changes of a directory."""
    wanted = f"ino:{directory.stat().st_ino:x} "
    for path in Path("/proc/self/fdinfo").iterdir():
        with contextlib.suppress(OSError):
            if any(line.startswith("inotify ") and wanted in line for line in path.read_text().splitlines()):
                return True
    return False


@pytest.mark.parametrize("at", [0, 200, -1])
def test_a_half_saved_file(deployment: Deployment, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    """Truncated, then completed: one publication, and no complaint."""
    monkeypatch.setattr(publish, "_HALF_SAVED_SECONDS", 0.3)
    half = asyncio.Event()
    looks_half_saved = publish._looks_half_saved

    def noticed(*arguments: Any) -> bool:
        found = looks_half_saved(*arguments)
        if found:
            half.set()
        return found

    monkeypatch.setattr(publish, "_looks_half_saved", noticed)

    async def main() -> None:
        whole = (deployment.source / ROUTES).read_text().replace(*IDLE, 1)
        async with watching(deployment):
            (deployment.source / ROUTES).write_text(whole[:at])
            await half.wait()
            (deployment.source / ROUTES).write_text(whole)
            await until(lambda: bool(deployment.said), "a word on it")

    asyncio.run(main())
    assert deployment.said == [LIVE]


def test_a_broken_file(deployment: Deployment, reads: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """It is complained of once, what was live goes on, and the next edit that is right is live."""
    monkeypatch.setattr(publish, "_HALF_SAVED_SECONDS", 0.1)
    before = deployment.state()
    place = f"{deployment.source / ROUTES}:1:1"

    async def main() -> None:
        path = deployment.source / ROUTES
        whole = path.read_text()
        async with watching(deployment):
            path.write_text("- a\n")
            await until(lambda: deployment.said[-1:] == ["not published; what was live goes on"], "a complaint")
            assert deployment.said == [
                f"{place}: error: expected a mapping, as in the shipped file",
                "not published; what was live goes on",
            ]
            assert deployment.state() == before
            count = len(reads)
            path.write_text("- a\n# again\n")
            await until(lambda: len(reads) >= count + 2, "another look")
            path.write_text(whole.replace(*IDLE, 1))
            await until(lambda: "601s" in (deployment.target / ROUTES).read_text(), "the edit")
            await until(lambda: deployment.said[-1] == LIVE, "a word on it")

    asyncio.run(main())
    assert deployment.said[2:] == [LIVE]


def test_a_file_that_is_deleted(deployment: Deployment, monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipped one stands in."""
    monkeypatch.setattr(publish, "_HALF_SAVED_SECONDS", 0.1)
    edit(deployment.source / ROUTES, *IDLE)
    deployment.publish()
    deployment.said.clear()

    async def main() -> None:
        async with watching(deployment):
            (deployment.source / ROUTES).unlink()
            await until(lambda: "601s" not in (deployment.target / ROUTES).read_text(), "the shipped file")
            await until(lambda: bool(deployment.said), "a word on it")

    asyncio.run(main())
    assert deployment.said == ["live: routes.yaml: ingress: all: websocket: idle_timeout: 601s -> 600s"]


def test_a_mounted_config_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kubernetes keeps the files behind a link, `..data`, that it renames over the old one."""
    monkeypatch.setattr(publish, "_HALF_SAVED_SECONDS", 0.1)
    deployment = Deployment(tmp_path)
    source = deployment.source
    first = shipped_copy(source / "..2026_1")
    (source / "..data").symlink_to(first.name)
    for name in files.NAMES:
        (source / name).unlink()
        (source / name).symlink_to(Path("..data") / name)
    deployment.publish()

    async def main() -> None:
        async with watching(deployment):
            await until(lambda: is_watched(source), "the watch")
            second = shipped_copy(source / "..2026_2")
            edit(second / ROUTES, *IDLE)
            (source / "..data_tmp").symlink_to(second.name)
            (source / "..data_tmp").rename(source / "..data")
            shutil.rmtree(first)
            await until(lambda: "601s" in (deployment.target / ROUTES).read_text(), "the edit")
            await until(lambda: bool(deployment.said), "a word on it")

    asyncio.run(main())
    assert deployment.said == [LIVE]


def test_a_removed_cluster_goes_while_watching(deployment: Deployment) -> None:
    """Without another edit."""

    async def main() -> None:
        async with watching(deployment):
            use(deployment.source, "new")
            await until(lambda: names(deployment.target / CLUSTERS) == {"new"}, "the removal")

    asyncio.run(main())
    assert [found for found in deployment.envoy.found if not found[1] <= found[0]] == []


def test_the_shipped_files_do_not_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without a directory there is nothing to watch, and it is watched until somebody ends it."""
    monkeypatch.chdir(tmp_path)
    config = Config()
    settings = publish.settings_of(config, None, tmp_path / "live")
    publisher = publish.Publisher(config, tmp_path / "live", settings, lambda _: None)

    async def main() -> None:
        await publisher.publish()
        watch = asyncio.ensure_future(publisher.watch())
        done, _ = await asyncio.wait([watch], timeout=0)
        assert not done
        watch.cancel()
        await asyncio.wait([watch])

    asyncio.run(main())


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
    assert "--sidecar: listen: expected unix:PATH" in refused.stderr


def test_files_of_others_in_the_target_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as the endpoints that another program writes there."""
    monkeypatch.chdir(tmp_path)
    theirs = tmp_path / "live" / "endpoints.yaml"
    theirs.parent.mkdir()
    theirs.write_text("resources: []\n")
    for _ in range(2):
        done = invoke("publish", "--to", "live")
        assert done.exit_code == 0
        assert "endpoints" not in done.output
    assert theirs.read_text() == "resources: []\n"
