"""The README agrees with the code: its settings, its commands, its links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from extproc.cli.main import COMMANDS, group
from extproc.config import SETTINGS


@pytest.fixture(scope="module")
def readme(checkout: Path) -> str:
    """The README's text."""
    return (checkout / "README.md").read_text(encoding="utf-8")


def settings_table() -> str:
    """The table as it must stand in the README."""
    rows = ["| setting | default | variable | meaning |", "|---|---|---|---|"]
    rows += [
        f"| `{each.name}` | {each.shown_default} | `{each.variable}` | {each.meaning} |".replace("<", "&lt;")
        for each in SETTINGS.values()
    ]
    return "\n".join(rows)


def test_the_settings_table_is_that_of_the_code(readme: str) -> None:
    """Every setting with its default, its variable and its meaning; on a difference the right table is printed."""
    match = re.search(r"<!-- settings: begin.*?-->\n(.*?)\n?<!-- settings: end -->", readme, re.DOTALL)
    assert match is not None
    assert match[1] == settings_table()


def test_the_readme_names_every_command(readme: str) -> None:
    """The table of commands holds all that there are, and no others."""
    section = readme.split("\n## Commands\n")[1].split("\n## ", maxsplit=1)[0]
    assert re.findall(r"(?m)^\| `extproc ([a-z-]+)", section) == list(COMMANDS)


def test_every_command_in_the_readme_exists(readme: str) -> None:
    """Each `extproc COMMAND --flag` in an example is accepted by the program as it is."""
    context = group.make_context("extproc", ["--help"], resilient_parsing=True)
    examples = re.findall(r"(?m)^\$ (?:\.venv/bin/)?extproc ([a-z-]+)([^\n#|>]*)", readme)
    assert len(examples) > 5
    for name, arguments in examples:
        command = group.get_command(context, name)
        assert command is not None, name
        known = {option for parameter in command.params for option in parameter.opts}
        assert set(re.findall(r"(?<!\S)--?[a-z][a-z-]*", arguments)) <= known, (name, arguments)


def test_the_flags_of_log_are_all_named(readme: str) -> None:
    """The line of `extproc log` in the table lists its own flags."""
    context = group.make_context("extproc", ["--help"], resilient_parsing=True)
    command = group.get_command(context, "log")
    assert command is not None
    (line,) = re.findall(r"(?m)^\| `extproc log`.*$", readme)
    flags = {option for parameter in command.params for option in parameter.opts if option.startswith("--")}
    assert set(re.findall(r"--[a-z-]+", line)) == flags - {"--data-dir", "--config"}


def test_the_files_that_the_readme_links_to_exist(readme: str, checkout: Path) -> None:
    """A link without a scheme names a file of the repository or a heading of the README."""
    headings = {
        re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-")
        for heading in re.findall(r"(?m)^#+ (.*)$", readme)
    }
    for target in re.findall(r"\]\(([^)\s]+)\)", readme):
        if target.startswith("#"):
            assert target[1:] in headings
        elif "://" not in target:
            assert (checkout / target).exists(), target
