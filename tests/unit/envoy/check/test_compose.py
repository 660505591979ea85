"""How a compose file starts Envoy."""

from __future__ import annotations

from pathlib import Path

import pytest

from extproc.envoy.check import compose

WITHOUT = "Envoy is started without --reject-unknown-dynamic-fields: a misspelt field in routes.yaml would be 404 for "


def test_the_shipped_one(checkout: Path) -> None:
    """It has the flag."""
    assert list(compose.findings(checkout)) == []


@pytest.mark.parametrize("name", ["compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml"])
@pytest.mark.parametrize(
    ("command", "place"),
    [
        (" [envoy, -c, /etc/envoy.yaml]", "4:14"),
        (" envoy -c '/etc/envoy.yaml'", "4:14"),
        ("\n      - envoy\n      - -c", "5:7"),
    ],
)
def test_without_the_flag(tmp_path: Path, name: str, command: str, place: str) -> None:
    """The place is that of the command."""
    path = tmp_path / name
    path.write_text(f"services:\n  a: {{}}\n  b:\n    command:{command}\n")
    (found,) = compose.findings(tmp_path)
    assert str(found).startswith(f"{path}:{place}: error: {WITHOUT}")
    assert found.path == ("services", "b", "command")


@pytest.mark.parametrize(
    "text",
    [
        "services: {e: {command: [envoy, --reject-unknown-dynamic-fields]}}",
        "services: {e: {command: envoy --reject-unknown-dynamic-fields}}",
        "services: {e: {command: [other]}}",
        "services: {e: {image: envoy}}",
        "services: {e: }",
        "services: {e: {command: }}",
        "services: {e: {command: 5}}",
        'services: {e: {command: "envoy \'"}}',
        "services: {e: {command: {a: b}}}",
        "services: [e]",
        "services: 5",
        "services:",
        "- a",
        "a: [",
        "a: !reset x",
        "",
    ],
)
def test_nothing_to_say(tmp_path: Path, text: str) -> None:
    """Whatever else is in the file is compose's to judge."""
    (tmp_path / "compose.yaml").write_text(text)
    assert list(compose.findings(tmp_path)) == []


def test_without_a_compose_file(tmp_path: Path) -> None:
    """Most have none."""
    assert list(compose.findings(tmp_path)) == []
