"""Everything that can be known of a configuration before Envoy runs on it.

In this order, as each step needs the one before: YAML; the messages' types; the names by which parts refer to each
other; what the recorder relies on; certificates; and, where the program is there, Envoy's own validation. What is said
of a name that our copy of the message types lacks is dropped where Envoy knows the name.
"""

from __future__ import annotations

import copy
import dataclasses
import re
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from extproc.config import Config
from extproc.envoy import binary, certificates, files, parts, references, reliance, typed
from extproc.envoy.files import BOOTSTRAP, Documents
from extproc.envoy.findings import Finding, Level
from extproc.envoy.parts import get
from extproc.envoy.source import Place, SyntaxProblem
from extproc.errors import StackError

_VALIDATE_SECONDS: Final = 60.0
_USUAL: Final = re.compile(r"^\[[^\]]*\]\[[0-9]+\]\[(?:info|debug|trace|warning)\]")
_HEAD: Final = re.compile(r"^\[[^\]]*\]\[[0-9]+\]\[\w+\]\[\w+\] \[[^\]]*\] ")


@dataclasses.dataclass(frozen=True, slots=True)
class Report:
    """The findings in the order of the files, and whether Envoy itself was asked."""

    findings: Sequence[Finding]
    envoy_asked: bool

    @property
    def errors(self) -> list[Finding]:
        return [each for each in self.findings if each.level is Level.ERROR]

    @property
    def warnings(self) -> list[Finding]:
        return [each for each in self.findings if each.level is Level.WARNING]


def syntax(problems: Sequence[SyntaxProblem]) -> Report:
    """The report on files that cannot be parsed."""
    return Report([Finding(Level.ERROR, each.place, each.text) for each in problems], envoy_asked=False)


def check(documents: Documents, config: Config, more: Iterable[Finding] = ()) -> Report:
    """Check documents as they would be published. They are not changed. `more` are findings about what is beside."""
    wrong = list(_types(documents))
    if any(not each.name for each in wrong):
        return Report(_in_order(wrong), envoy_asked=False)
    found = [
        *more,
        *references.findings(documents),
        *reliance.findings(documents, config),
        *certificates.findings(documents),
    ]
    if any(each.level is Level.ERROR for each in found):
        return Report(_in_order([*map(_uncertain, wrong), *found]), envoy_asked=False)
    try:
        refusal = _refusal(documents)
    except StackError:
        return Report(_in_order([*map(_uncertain, wrong), *found]), envoy_asked=False)
    if refusal is None:
        return Report(_in_order(found), envoy_asked=True)
    named = [each for each in wrong if each.name and each.name in refusal.text]
    return Report(_in_order([*(named or [refusal]), *found]), envoy_asked=True)


def check_shipped(documents: Documents, config: Config) -> Report:
    """Check the settings against documents that are known to be right: Envoy's message types take a second to load."""
    return Report(_in_order(list(reliance.findings(documents, config))), envoy_asked=False)


def _in_order(findings: Sequence[Finding]) -> list[Finding]:
    return sorted(set(findings), key=lambda each: (each.place, each.level, each.text))


def _uncertain(finding: Finding) -> Finding:
    # A misspelt name looks like what it should be; a new one of Envoy's does not.
    if "did you mean" in finding.text:
        return finding
    return dataclasses.replace(finding, level=Level.WARNING)


def _types(documents: Documents) -> Iterator[Finding]:
    for name, document in documents.items():
        places = documents.places[name]
        type_name = typed.BOOTSTRAP if name == BOOTSTRAP else typed.RESOURCES
        for each in typed.mismatches(document, type_name):
            place = places.of_name(each.path) if each.name else places.of(each.path)
            yield Finding(Level.ERROR, place, each.text, each.path, each.name)


# Envoy's own word ------------------------------------------------------------------------------------------


def _refusal(documents: Documents) -> Finding | None:
    """What `envoy --mode validate` says against the whole; None when it takes it. Raises StackError without Envoy."""
    program = binary.find()
    with tempfile.TemporaryDirectory(prefix="extproc-check-") as directory:
        standing = _standing(documents)
        files.set_directory(standing, Path(directory))
        files.write(standing, Path(directory))
        command = [
            *(str(program), "--mode", "validate", "--reject-unknown-dynamic-fields"),
            *("-c", str(Path(directory) / BOOTSTRAP), "--concurrency", "1"),
        ]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, errors="replace", check=False, timeout=_VALIDATE_SECONDS
            )
        except subprocess.TimeoutExpired:
            text = f"Envoy's own validation did not end within {_VALIDATE_SECONDS:g} s"
            return Finding(Level.WARNING, Place(BOOTSTRAP), text)
        if done.returncode == 0:
            return None
        said = _what_it_said(done.stderr).replace(f"{directory}/", "")
    return Finding(Level.ERROR, _place_of(said, documents), f"Envoy refuses it: {said}")


def _standing(documents: Documents) -> Documents:
    """Routes and clusters within the bootstrap: in this mode Envoy reads no watched file."""
    standing = Documents()
    standing.update(copy.deepcopy(dict(documents)))
    standing.places = documents.places
    bootstrap = standing[BOOTSTRAP]
    dynamic = bootstrap.get("dynamic_resources") or {}
    if get(dynamic, "cds_config", "path_config_source") is not None:
        del dynamic["cds_config"]
        clusters = bootstrap.setdefault("static_resources", {}).setdefault("clusters", [])
        clusters.extend(_untyped(each.value) for each in parts.resources(standing, ".Cluster"))
    by_name = {each.name: each.value for each in parts.resources(standing, ".RouteConfiguration")}
    for listener in parts.listeners(standing):
        for manager in parts.managers(listener):
            name = get(manager.value, "rds", "route_config_name")
            if name in by_name and get(manager.value, "rds", "config_source", "path_config_source") is not None:
                del manager.value["rds"]
                manager.value["route_config"] = _untyped(by_name[name])
    return standing


def _untyped(resource: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in resource.items() if name != "@type"}


def _what_it_said(stderr: str) -> str:
    lines = [_HEAD.sub("", line).strip() for line in stderr.splitlines() if line and not _USUAL.match(line)]
    said = " ".join(lines) or "it does not say why"
    return re.sub(r"^error initializing (?:config|configuration) '[^']*': ", "", said)[:1000]


def _place_of(said: str, documents: Documents) -> Place:
    """Envoy names no line, but mostly the thing that it is about."""
    named = (
        *parts.clusters(documents),
        *parts.routes(documents),
        *(each for whole in parts.everything(documents) for each in whole.found("virtual_hosts")),
    )
    for part in named:
        if part.name and re.search(rf"(?<![\w.-]){re.escape(part.name)}(?![\w.-])", said):
            return part.place
    return documents.places[BOOTSTRAP].of(())
