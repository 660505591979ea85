"""Everything that can be known of a configuration before Envoy runs on it.

In this order, as each step needs the one before: YAML; the messages' types; the names by which parts refer to each
other; what the recorder relies on; certificates; and, where the program is there, Envoy's own validation. What is said
of a name that our copy of the message types lacks is dropped where Envoy knows the name.
"""

from __future__ import annotations

import copy
import dataclasses
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from extproc.config import Config
from extproc.envoy.check import certificates, envoy_error, recorder, references, typed
from extproc.envoy.config import files, xds
from extproc.envoy.config.files import BOOTSTRAP, Documents
from extproc.envoy.config.findings import Finding, Level
from extproc.envoy.config.source import Place, Pointer, SyntaxProblem, get
from extproc.envoy.config.xds import Part
from extproc.envoy.process import binary
from extproc.errors import StackError

_VALIDATE_SECONDS: Final = 60.0


@dataclasses.dataclass(frozen=True, slots=True)
class CheckResult:
    """The findings in the order of the files, and whether Envoy itself was asked."""

    findings: Sequence[Finding]
    envoy_asked: bool

    @property
    def errors(self) -> list[Finding]:
        return [each for each in self.findings if each.level is Level.ERROR]

    @property
    def warnings(self) -> list[Finding]:
        return [each for each in self.findings if each.level is Level.WARNING]


def syntax(problems: Sequence[SyntaxProblem]) -> CheckResult:
    """The report on files that cannot be parsed."""
    return CheckResult([Finding(Level.ERROR, each.place, each.text) for each in problems], envoy_asked=False)


def types(documents: Documents) -> CheckResult:
    """What is of another type than Envoy's messages have: settings can be applied only where there is nothing."""
    wrong = list(_types(documents))
    surely = any(not each.name for each in wrong)
    return CheckResult(_in_order(map(_uncertain, wrong)) if surely else [], envoy_asked=False)


def in_form(documents: Documents) -> Documents:
    """The documents with each value in the form in which everything here looks for it, whatever form was written."""
    made = Documents()
    for name in documents:
        reading = _reading(documents, name)
        made[name] = reading.value
        made.places[name] = documents.places[name].moved(reading.stood)
    return made


def without_place(documents: Documents) -> CheckResult:
    """Why a setting has no place in documents: the names that no message has, and that look like one that is there;
    else what was not made for the recorder at all."""
    near = [each for each in map(_uncertain, _types(documents)) if each.level is Level.ERROR]
    return CheckResult(_in_order(near or recorder.missing(documents)), envoy_asked=False)


def check(documents: Documents, config: Config, more: Iterable[Finding] = ()) -> CheckResult:
    """Check documents as they would be published. They are not changed. `more` are findings about what is beside.

    In stages, each of which needs what the one before has passed: types, our own rules, Envoy's own word.
    """
    documents = in_form(documents)
    wrong = list(_types(documents))
    uncertain = [_uncertain(each) for each in wrong]
    if any(not each.name for each in wrong):
        return CheckResult(_in_order(uncertain), envoy_asked=False)
    ours = [
        *more,
        *references.findings(documents),
        *recorder.findings(documents, config),
        *certificates.findings(documents),
    ]
    if any(each.level is Level.ERROR for each in ours):
        return CheckResult(_in_order([*uncertain, *ours]), envoy_asked=False)
    judged = _judged_by_envoy(documents, wrong)
    return CheckResult(_in_order([*(uncertain if judged is None else judged), *ours]), envoy_asked=judged is not None)


def check_shipped(documents: Documents, config: Config, more: Iterable[Finding] = ()) -> CheckResult:
    """Check the settings against documents that are known to be right: Envoy's message types take a second to load."""
    return CheckResult(_in_order([*more, *recorder.findings(documents, config)]), envoy_asked=False)


def _in_order(findings: Iterable[Finding]) -> list[Finding]:
    # What an alias stands for is found wherever it is named.
    once = {(each.place, each.level, each.text): each for each in findings}
    return [once[key] for key in sorted(once)]


def _uncertain(finding: Finding) -> Finding:
    # A misspelt name looks like what it should be; a new one of Envoy's does not.
    if not finding.name or "did you mean" in finding.text:
        return finding
    return dataclasses.replace(finding, level=Level.WARNING)


def _types(documents: Documents, names: Iterable[str] | None = None) -> Iterator[Finding]:
    for name in documents if names is None else names:
        reading = _reading(documents, name)
        places = documents.places[name].moved(reading.stood)
        for each in reading.mismatches:
            place = places.of_name(each.path) if each.name else places.of(each.path)
            yield Finding(Level.ERROR, place, each.text, each.path, each.name)


def _reading(documents: Documents, name: str) -> typed.Reading:
    return typed.read(documents[name], typed.BOOTSTRAP if name == BOOTSTRAP else typed.RESOURCES)


# Envoy's own word ------------------------------------------------------------------------------------------


def _judged_by_envoy(documents: Documents, wrong: Sequence[Finding]) -> list[Finding] | None:
    """What Envoy's word leaves of names that our copy of its types does not know, and what it refuses itself; None
    where there is no Envoy, or no room for its files."""
    try:
        refused = _refusal(documents)
    except (StackError, OSError):
        return None
    # Of the other files Envoy has been shown no more than endpoints.
    unseen = [_uncertain(each) for each in _types(documents, documents.keys() - set(files.NAMES))]
    if refused is None:
        return unseen
    if any(each.name in refused.text for each in wrong):
        # Envoy names one at a time.
        return [*(each for each in wrong if each.name in refused.text or _uncertain(each) is each), *unseen]
    return [refused, *unseen]


def _refusal(documents: Documents) -> Finding | None:
    """What `envoy --mode validate` says against the whole; None when it takes it. Raises StackError without Envoy."""
    program = binary.find()
    with tempfile.TemporaryDirectory(prefix="extproc-check-") as directory:
        standing, origins = _standing(documents)
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
        said = envoy_error.said(done.stderr.replace(f"{directory}/", ""))
    place = envoy_error.place_of(said, documents, origins)
    return Finding(Level.ERROR, place, f"Envoy refuses it: {envoy_error.reason(said)}")


def _standing(documents: Documents) -> tuple[Documents, envoy_error.Origins]:
    """All within the bootstrap, and where it is from: routes, clusters, endpoints. Envoy reads no watched file here."""
    standing = Documents()
    standing.update(copy.deepcopy(dict(documents)))
    standing.places = documents.places
    origins: dict[Pointer, Part] = {}
    bootstrap = standing[BOOTSTRAP]
    if get(bootstrap, "dynamic_resources", "cds_config", "path_config_source") is not None:
        del bootstrap["dynamic_resources"]["cds_config"]
        static = bootstrap["static_resources"] = bootstrap.get("static_resources") or {}
        static["clusters"] = static.get("clusters") or []
        for each in xds.resources(documents, ".Cluster"):
            origins["static_resources", "clusters", len(static["clusters"])] = each
            static["clusters"].append(_untyped(each.value))
    origins |= _with_endpoints(standing, documents)
    by_name = {each.name: each for each in xds.resources(documents, ".RouteConfiguration")}
    for listener in xds.listeners(standing):
        for manager in xds.managers(listener):
            routes = by_name.get(manager.at("rds", "route_config_name").value)
            if routes is not None and get(manager.value, "rds", "config_source", "path_config_source") is not None:
                del manager.value["rds"]
                manager.value["route_config"] = _untyped(routes.value)
                origins[*manager.path, "route_config"] = routes
    return standing, origins


def _with_endpoints(standing: Documents, documents: Documents) -> dict[Pointer, Part]:
    """Clusters that get their endpoints from a file get them in their own place. Where those are from."""
    assignments = xds.assignments(documents)
    origins: dict[Pointer, Part] = {}
    for cluster in xds.document(standing, BOOTSTRAP).each("static_resources", "clusters"):
        assignment = assignments.get(xds.asks_for(cluster))
        source = get(cluster.value, "eds_cluster_config", "eds_config", "path_config_source")
        if assignment is not None and source is not None:
            del cluster.value["eds_cluster_config"]
            cluster.value.update(type="STATIC", load_assignment=_untyped(assignment.value))
            origins[*cluster.path, "load_assignment"] = assignment
    return origins


def _untyped(resource: dict[str, Any]) -> dict[str, Any]:
    return copy.deepcopy({name: value for name, value in resource.items() if name != "@type"})
