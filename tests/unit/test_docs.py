"""The documents say what the program does."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from extproc.config import Config
from extproc.core.outcome import Outcome, outcome_class
from extproc.envoy.check import check
from extproc.envoy.config import files
from extproc.service.sidecar.exposition import Exposition
from extproc.service.sidecar.follower import FollowerProcess
from extproc.service.sidecar.workers import Workers
from extproc.telemetry.families import OWN
from extproc.telemetry.metrics import Metrics


@pytest.fixture
def families(tmp_path: Path) -> set[tuple[str, str]]:
    """Every metric that there is, as it is written down: its name and its type."""
    follower, shipper = FollowerProcess(Config()), FollowerProcess(Config(), name="shipper")
    live = Exposition(tmp_path, None, Workers(Config(data_dir=tmp_path)), follower, shipper)
    text = Metrics((), {}).text() + asyncio.run(live.text())
    found = [each for each in text_string_to_metric_families(text.decode()) if not each.name.endswith("_created")]
    return {(f"{each.name}_total" if each.type == "counter" else each.name, each.type) for each in found}


def test_every_metric_is_documented(checkout: Path, families: set[tuple[str, str]]) -> None:
    """And no other one is."""
    text = (checkout / "docs" / "metrics.md").read_text()
    assert set(re.findall(r"(?m)^\| `(\w+)` \| (\w+) \|", text)) == families


def test_the_metrics_of_the_journal_are_documented_as_they_are(checkout: Path) -> None:
    """Each with its labels and its text, in the order of the table that they are made from."""
    text = (checkout / "docs" / "metrics.md").read_text()
    assert "\n".join(each.row for each in OWN) in text


def test_every_outcome_is_documented(checkout: Path) -> None:
    """And no other one, each with its class, what was seen, what it means and what to do."""
    text = (checkout / "docs" / "outcomes.md").read_text()
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in re.findall(r"(?m)^\| `\w+` .*$", text)]
    assert [row[0].strip("`") for row in rows] == [outcome.value for outcome in Outcome]
    for name, kind, *rest in rows:
        assert re.match(r"\w+", kind)[0] == outcome_class(name.strip("`")), name  # type: ignore[index]
        assert len(rest) == 3, name
        assert all(rest), name


def test_every_recipe_is_documented_and_tested(checkout: Path) -> None:
    """In the list of recipes, in the table from nginx to Envoy, and by a test that runs it."""
    recipes = {path.name for path in (checkout / "envoy" / "examples").iterdir() if path.is_dir()}
    listed = (checkout / "envoy" / "examples" / "README.md").read_text()
    assert set(re.findall(r"(?m)^\| \[([a-z-]+)\]\(\1\) \|", listed)) == recipes
    routing = (checkout / "docs" / "routing.md").read_text()
    assert set(re.findall(r"\.\./envoy/examples/([a-z-]+)\)", routing)) <= recipes
    tests = "".join(path.read_text() for path in (checkout / "tests" / "recipes").glob("*.py"))
    assert [name for name in sorted(recipes) if f'"{name}"' not in tests] == []


def overlays() -> list[str]:
    """Each piece of YAML in docs/routing.md."""
    text = (Path(__file__).parents[2] / "docs" / "routing.md").read_text()
    return re.findall(r"(?ms)^```yaml\n(.*?)^```$", text)


@pytest.mark.parametrize("overlay", overlays())
def test_the_yaml_of_each_directive_is_right(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, overlay: str) -> None:
    """As an overlay.yaml the check finds nothing wrong with it, and Envoy takes it."""
    monkeypatch.chdir(tmp_path)  # Envoy opens the files of access logs even to validate
    (tmp_path / files.OVERLAY).write_text(overlay)
    documents = files.read(tmp_path)
    assert documents != files.read(None)
    report = check.check(documents, Config())
    assert (report.findings, report.envoy_asked) == ([], True)


ROOT = Path(__file__).parents[2]
PAGES = sorted(
    str(path.relative_to(ROOT))
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(ROOT / "envoy").rglob("*.md"))
)


@pytest.mark.parametrize("document", PAGES)
def test_links_lead_somewhere(checkout: Path, document: str) -> None:
    """Those to files of the project, and to headings, in a page itself and in others."""
    path = checkout / document
    for target in re.findall(r"\]\((?!https?:)([^)]+)\)", path.read_text()):
        name, _, heading = target.partition("#")
        file = path.parent / name if name else path
        assert file.exists(), target
        assert not heading or heading in headings(file), target


def headings(page: Path) -> set[str]:
    """What the headings of a page are called in links."""
    lines = re.findall(r"(?m)^#+ (.*)$", page.read_text())
    return {re.sub(r"[^\w -]", "", line.lower()).strip().replace(" ", "-") for line in lines}
