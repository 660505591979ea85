"""Which requests are in quarantine: a file in the data directory, whole at any time.

    {"version": 1, "mode": "shadow", "entries": [{"id": "q-3f1c", "fingerprint": "...", ...}, ...]}

An entry names requests by the fingerprint of their parameters, by one of their atoms (`incidents.atoms`: a place and
the kind of what stands there), or one request by the SHA-256 of its body. It may be limited to models and to Envoy's
clusters, and has an end. What happens to a request is the mode's matter: its own, or that of all.

    off       nothing
    shadow    it passes, and is counted
    refuse    422
    route     it passes with the header `x-quarantine`, by which a route can send it to a cluster of its own
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any, Final

import msgspec

from extproc import fs
from extproc.errors import ConfigError

FILE_NAME: Final = "quarantine.json"
VERSION: Final = 1


class Mode(Enum):
    """What happens to a request in quarantine."""

    OFF = "off"
    SHADOW = "shadow"
    REFUSE = "refuse"
    ROUTE = "route"


class Entry(msgspec.Struct, frozen=True, omit_defaults=True):
    """One kind of request. Exactly one of `fingerprint`, `atom` and `body` is there."""

    id: str
    created_at: str
    fingerprint: str | None = None
    atom: tuple[str, str] | None = None
    """A place and the kind of its value: `("response_format.type", '"text"')`."""
    body: str | None = None
    """A SHA-256, in hex."""
    models: tuple[str, ...] = ()
    """Globs; none: all."""
    upstreams: tuple[str, ...] = ()
    """Globs of Envoy's clusters; none: all."""
    mode: Mode | None = None
    """None: that of all entries."""
    expires_at: str | None = None
    incident: str | None = None
    """What it was put here for."""

    def concerns(self, model: str | None, cluster: str | None) -> bool:
        """Whether it is for requests of this model that are to go to this cluster."""
        of_model = not self.models or any(fnmatchcase(model or "", each) for each in self.models)
        return of_model and (not self.upstreams or any(fnmatchcase(cluster or "", each) for each in self.upstreams))

    def is_over(self, at: datetime) -> bool:
        """Whether its end has come."""
        return self.expires_at is not None and datetime.fromisoformat(self.expires_at) <= at

    def names(self, fingerprint: str | None, atoms: Mapping[str, str], body: str | None = None) -> bool:
        """Whether it names a request with these."""
        if self.body is not None:
            return body == self.body
        if self.atom is not None:
            return atoms.get(self.atom[0]) == self.atom[1]
        return fingerprint is not None and fingerprint == self.fingerprint

    @property
    def what(self) -> str:
        """For a person."""
        if self.body is not None:
            return f"body {self.body}"
        return f"fingerprint {self.fingerprint}" if self.atom is None else f"{self.atom[0]} {self.atom[1]}"


class Quarantine(msgspec.Struct, frozen=True):
    """All of the file. `mode`: None: what the settings say."""

    version: int = VERSION
    mode: Mode | None = None
    entries: tuple[Entry, ...] = ()

    def with_entry(self, entry: Entry) -> Quarantine:
        """The same with one more."""
        return msgspec.structs.replace(self, entries=(*self.entries, entry))

    def without(self, id: str) -> Quarantine:
        """The same without one. Raises ConfigError where there is no such."""
        rest = tuple(each for each in self.entries if each.id != id)
        if len(rest) == len(self.entries):
            raise ConfigError(f"there is no entry {id!r} in quarantine")
        return msgspec.structs.replace(self, entries=rest)


def new_id() -> str:
    """An id for a new entry."""
    return f"q-{secrets.token_hex(4)}"


def load(directory: Path) -> Quarantine:
    """What the file of a data directory holds; nothing where there is none. Raises ConfigError for any other file."""
    path = directory / FILE_NAME
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        return Quarantine()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        found = msgspec.json.decode(data, type=Quarantine)
        for each in found.entries:
            each.is_over(datetime.now(UTC))
    except (msgspec.DecodeError, ValueError, TypeError) as error:
        raise ConfigError(f"{path}: is no quarantine: {error}") from error
    if found.version != VERSION:
        raise ConfigError(f"{path}: expected version {VERSION}, got {found.version}")
    return found


def save(directory: Path, quarantine: Quarantine) -> None:
    """Put the file into place; workers have it within a second."""
    with fs.directory(directory) as handle:
        fs.put(handle, FILE_NAME, msgspec.json.encode(quarantine))


def stamp(directory: Path) -> tuple[int, ...] | None:
    """What changes with each `save`; None: there is no file."""
    try:
        found = (directory / FILE_NAME).stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


def fields(entry: Entry) -> dict[str, Any]:
    """An entry as `--json` prints it."""
    atom: Sequence[str] | None = entry.atom
    return {
        "id": entry.id,
        "fingerprint": entry.fingerprint,
        "atom": None if atom is None else {"place": atom[0], "value": atom[1]},
        "body": entry.body,
        "models": list(entry.models),
        "upstreams": list(entry.upstreams),
        "mode": entry.mode.value if entry.mode else None,
        "created_at": entry.created_at,
        "expires_at": entry.expires_at,
        "incident": entry.incident,
    }
