"""The README and the pages of docs/ agree with the code: settings, commands, links."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from extproc.cli.main import COMMANDS, group
from extproc.config import SETTINGS


@pytest.fixture(scope="module")
def pages(checkout: Path) -> dict[str, str]:
    """The text of each page by its name, the README's too."""
    paths = [checkout / "README.md", *sorted((checkout / "docs").glob("*.md"))]
    return {path.name: path.read_text(encoding="utf-8") for path in paths}


def settings_table() -> str:
    """The table as it must stand in docs/settings.md."""
    rows = ["| setting | default | variable | meaning |", "|---|---|---|---|"]
    rows += [
        f"| `{each.name}` | {each.shown_default} | `{each.variable}` | {each.meaning} |".replace("<", "&lt;")
        for each in SETTINGS.values()
    ]
    return "\n".join(rows)


def test_the_settings_table_is_that_of_the_code(pages: Mapping[str, str]) -> None:
    """Every setting with its default, its variable and its meaning; on a difference the right table is printed."""
    match = re.search(r"<!-- settings: begin.*?-->\n(.*?)\n?<!-- settings: end -->", pages["settings.md"], re.DOTALL)
    assert match is not None
    assert match[1] == settings_table()


def test_every_command_has_its_line(pages: Mapping[str, str]) -> None:
    """The table of commands holds all that there are, and no others."""
    section = pages["commands.md"].split("# Commands\n")[1].split("\n## ", maxsplit=1)[0]
    assert re.findall(r"(?m)^\| `extproc ([a-z-]+)", section) == list(COMMANDS)


@pytest.mark.parametrize(("page", "least"), [("README.md", 6), (None, 15)])
def test_every_command_in_an_example_exists(pages: Mapping[str, str], page: str | None, least: int) -> None:
    """Each `extproc COMMAND --flag` in an example, of the README and of all pages, is accepted as it is."""
    text = pages[page] if page else "\n".join(pages.values())
    context = group.make_context("extproc", ["--help"], resilient_parsing=True)
    examples = re.findall(r"(?m)^\$ (?:\.venv/bin/)?extproc ([a-z-]+)([^\n#|>]*)", text)
    assert len(examples) >= least
    for name, arguments in examples:
        command = group.get_command(context, name)
        assert command is not None, name
        known = {option for parameter in command.params for option in parameter.opts}
        assert set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", arguments)) <= known, (name, arguments)


def test_the_flags_of_log_are_all_named(pages: Mapping[str, str]) -> None:
    """The line of `extproc log` in the table lists its own flags."""
    context = group.make_context("extproc", ["--help"], resilient_parsing=True)
    command = group.get_command(context, "log")
    assert command is not None
    (line,) = re.findall(r"(?m)^\| `extproc log`.*$", pages["commands.md"])
    flags = {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
    assert set(re.findall(r"--[a-z-]+", line)) == flags - {"--data-dir", "--config"}


def test_the_readme_leads_to_every_page(pages: Mapping[str, str], checkout: Path) -> None:
    """It is short because everything else is a link away."""
    linked = set(re.findall(r"\]\(docs/([a-z-]+\.md)", pages["README.md"]))
    assert linked == {name for name in pages if name != "README.md"}
    assert len(pages["README.md"].splitlines()) <= 170
