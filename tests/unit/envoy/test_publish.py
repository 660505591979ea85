"""The Envoy configuration for an Envoy that somebody else starts; the real Envoy judges it."""

from __future__ import annotations

import asyncio
import subprocess
from pathlib import Path

import pytest
import yaml
from support.commands import invoke

from extproc.config import Config
from extproc.envoy import binary, publish
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
