"""`extproc quarantine`: which requests are kept from the backends, and what that does or would do."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final

import click

from extproc import config
from extproc.cli import options, output
from extproc.core.joined import NO_LLM, NO_REQUEST
from extproc.core.outcome import Outcome
from extproc.core.times import moment_text
from extproc.errors import ConfigError, ExtprocError
from extproc.history import reader
from extproc.history.join import Exchange
from extproc.incidents import atoms, evidence, incident
from extproc.quarantine import entries
from extproc.quarantine.entries import Entry, Mode, Quarantine

_COLUMNS = (
    output.Column("ID", fixed=True),
    output.Column("WHAT", worth=1),
    output.Column("MODE", fixed=True),
    output.Column("EXPIRES", worth=3),
    output.Column("MATCHED", right=True),
    output.Column("REFUSED", right=True),
    output.Column("SERVED WELL", right=True),
    output.Column("INCIDENT", worth=2),
)
_MODES: Final = click.Choice([mode.value for mode in Mode])


@click.group
def command() -> None:
    """Keep requests from backends that they may kill.

    An entry names requests by the shape of their parameters, or by one parameter's value. By itself nothing is kept
    from a backend: the mode is `shadow`, which only counts. `refuse` answers 422; `route` sets the header x-quarantine,
    by which a route can send them to a cluster of their own. Workers have a change within a second.

    \b
    Examples:
      extproc quarantine add 20261128-031207-3f1c2a
      extproc quarantine list
      extproc quarantine mode refuse
      extproc quarantine remove q-3f1c2a9b
    """


@command.command("list")
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@options.journal_directories
def list_entries(as_json: bool, data_dirs: Sequence[Path], config_path: Path | None) -> None:
    """List the entries, each with what it has met since it was added.

    SERVED WELL are those that passed and did no harm: in mode `shadow`, what would have been refused in vain.

    \b
    Examples:
      extproc quarantine list
      extproc quarantine list --json
    """
    directory = _one(data_dirs, config_path)
    found = entries.load(directory)
    counts = _counts(directory, found)
    mode, now = found.mode or _default(config_path), datetime.now(UTC)
    if as_json:
        listed = [
            {**entries.fields(each), **counts[each.id].fields(), "expired": each.is_over(now)} for each in found.entries
        ]
        click.echo(json.dumps({"mode": mode.value, "entries": listed}))
        return
    click.echo(f"mode: {mode.value}", err=True)
    if not output.table(_COLUMNS, (_row(each, counts[each.id], each.mode or mode, now) for each in found.entries)):
        click.echo("nothing is in quarantine", err=True)


@command.command
@click.argument("id", required=False, metavar="[EXCHANGE|INCIDENT]")
@click.option("--fingerprint", help="Requests of this shape, instead of an exchange's.")
@click.option("--atom", metavar="PLACE=VALUE", help="Requests with this value, as `extproc incidents` writes it.")
@click.option("--model", "models", multiple=True, metavar="GLOB", help="Only of these models.")
@click.option("--upstream", "upstreams", multiple=True, metavar="GLOB", help="Only those for these clusters of Envoy.")
@click.option("--expires", default="24h", show_default=True, metavar="AGE|never", help="When the entry ends.")
@click.option("--mode", type=_MODES, help="What happens to them. [default: the mode of all]")
@click.option("--json", "as_json", is_flag=True, help="Print the entry as one JSON object.")
@options.journal_directories
def add(
    id: str | None,
    fingerprint: str | None,
    atom: str | None,
    models: Sequence[str],
    upstreams: Sequence[str],
    expires: str,
    mode: str | None,
    as_json: bool,
    data_dirs: Sequence[Path],
    config_path: Path | None,
) -> None:
    """Put requests like an exchange's, or like an incident's first suspect, into quarantine.

    \b
    Examples:
      extproc quarantine add 20261128-031207-3f1c2a --expires 2h
      extproc quarantine add 019aa3f2 --model llama-3 --upstream llm
      extproc quarantine add --atom 'response_format.type="text"' --mode refuse
    """
    directory = _one(data_dirs, config_path)
    named: str | None = None
    if (fingerprint is None and atom is None) == (id is None):
        raise click.UsageError("an exchange, an incident, --fingerprint or --atom says which requests: one of them")
    if id is not None:
        fingerprint, named = _fingerprint(id, directory)
    now = datetime.now(UTC)
    entry = Entry(
        entries.new_id(),
        moment_text(now),
        fingerprint=fingerprint,
        atom=None if atom is None else _atom(atom),
        models=tuple(models),
        upstreams=tuple(upstreams),
        mode=None if mode is None else Mode(mode),
        expires_at=_end(expires, now),
        incident=named,
    )
    entries.save(directory, entries.load(directory).with_entry(entry))
    click.echo(json.dumps(entries.fields(entry)) if as_json else f"{entry.id}: {output.escape(entry.what)}")


@command.command
@click.argument("ids", nargs=-1, required=True, metavar="ENTRY...")
@options.journal_directories
def remove(ids: Sequence[str], data_dirs: Sequence[Path], config_path: Path | None) -> None:
    """Take entries out.

    \b
    Examples:
      extproc quarantine remove q-3f1c2a9b
    """
    directory = _one(data_dirs, config_path)
    found = entries.load(directory)
    for id in ids:
        found = found.without(id)
    entries.save(directory, found)


@command.command
@click.argument("mode", required=False, type=_MODES)
@click.option("--json", "as_json", is_flag=True, help="One JSON object.")
@options.journal_directories
def mode(mode: str | None, as_json: bool, data_dirs: Sequence[Path], config_path: Path | None) -> None:
    """Say what happens to requests in quarantine, or change it.

    \b
    Examples:
      extproc quarantine mode
      extproc quarantine mode refuse
    """
    directory = _one(data_dirs, config_path)
    found = entries.load(directory)
    if mode is not None:
        found = Quarantine(found.version, Mode(mode), found.entries)
        entries.save(directory, found)
    now = (found.mode or _default(config_path)).value
    click.echo(json.dumps({"mode": now}) if as_json else now)


def _one(data_dirs: Sequence[Path], config_path: Path | None) -> Path:
    directories = options.existing(data_dirs, config_path)
    if len(directories) > 1:
        raise ConfigError("each data directory has a quarantine of its own: name one")
    return directories[0]


def _default(config_path: Path | None) -> Mode:
    try:
        return Mode(config.load(config_path).quarantine_mode)
    except ConfigError:
        if config_path is not None:
            raise
        return Mode(config.Config().quarantine_mode)


def _fingerprint(id: str, directory: Path) -> tuple[str, str | None]:
    """The fingerprint of an exchange, or of an incident's first suspect, and the incident's id."""
    if incident.ID.fullmatch(id):
        flights = (
            each for one in reader.exchanges([directory]) for each in evidence.flights(one, evidence.recorded_body)
        )
        found = incident.named(incident.incidents(flights), id)
        if not found.suspects:
            raise ExtprocError(f"{found.id}: nothing points to a request")
        return found.suspects[0].flight.fingerprint, found.id
    exchange = options.one(id, [directory])
    fingerprint = (exchange.llm or NO_LLM).fingerprint
    if not fingerprint:
        raise ExtprocError(f"{exchange.id}: it has no fingerprint, being no request to a model")
    return fingerprint, None


def _atom(text: str) -> tuple[str, str]:
    place, equals, value = text.partition("=")
    if not place or not equals or not value:
        raise click.UsageError("--atom: expected PLACE=VALUE, such as 'response_format.type=\"text\"'")
    return place.strip(), value.strip()


def _end(text: str, now: datetime) -> str | None:
    if text == "never":
        return None
    seconds = options.seconds_of(text)
    if seconds is None:
        raise click.UsageError(f"--expires: expected 30m, 24h, 7d or never, got {text!r}")
    return moment_text(now + timedelta(seconds=seconds))


def _row(entry: Entry, met: _Met, mode: Mode, now: datetime) -> output.Row:
    expires = "expired" if entry.is_over(now) else entry.expires_at or "never"
    return (
        entry.id,
        entry.what,
        mode.value,
        expires,
        str(met.matched),
        str(met.refused),
        str(met.served_well),
        entry.incident or "",
    )


# What they have met ------------------------------------------------------------------------------------------


@dataclass(slots=True)
class _Met:
    """The exchanges that an entry names, by what became of them."""

    matched: int = 0
    refused: int = 0
    served_well: int = 0
    failed: int = 0

    def fields(self) -> dict[str, int]:
        return {
            "matched": self.matched,
            "refused": self.refused,
            "would_refuse": self.matched - self.refused,
            "false_positives": self.served_well,
            "failed": self.failed,
        }


def _counts(directory: Path, found: Quarantine) -> dict[str, _Met]:
    """Of each entry, from the journal since it was added."""
    met = {each.id: _Met() for each in found.entries}
    if not found.entries:
        return met
    since = min(datetime.fromisoformat(each.created_at) for each in found.entries)
    wanted = any(each.atom is not None for each in found.entries)
    for exchange in output.chosen(reader.exchanges([directory], since=since), lambda _: True):
        llm = exchange.llm or NO_LLM
        there = _atoms(exchange) if wanted else {}
        for each in found.entries:
            started = exchange.started_at
            if started < each.created_at or (each.expires_at is not None and started > each.expires_at):
                continue
            # Of a request that was refused no cluster is known.
            cluster = exchange.cluster or (each.upstreams[0] if each.upstreams else None)
            body = (exchange.request or NO_REQUEST).sha256
            if each.names(llm.fingerprint, there, body) and each.concerns(llm.model, cluster):
                _count(met[each.id], exchange)
    return met


def _atoms(exchange: Exchange) -> Mapping[str, str]:
    body = evidence.recorded_body(exchange, "request")
    params = (exchange.llm or NO_LLM).params
    return atoms.of(exchange.path or "", body, params, len(body or b""))


def _count(met: _Met, exchange: Exchange) -> None:
    met.matched += 1
    if exchange.outcome == Outcome.REJECTED_BY_POLICY:
        met.refused += 1
    elif exchange.class_ == "ok":
        met.served_well += 1
    elif exchange.outcome is not None:
        met.failed += 1
