"""Who hears of an incident: the log, the metrics, the traces, the webhook, and the quarantine if it is asked for."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from extproc.core.times import moment_text
from extproc.errors import ConfigError
from extproc.incidents import repeats
from extproc.incidents.evidence import Flight
from extproc.incidents.incident import Incident
from extproc.incidents.kept import Kept, Report
from extproc.incidents.repeats import Repeat, Repeats
from extproc.incidents.webhook import Delivery, Webhook
from extproc.quarantine import entries
from extproc.quarantine.entries import Entry, Mode, Quarantine
from extproc.telemetry.metrics import Metrics

if TYPE_CHECKING:
    from extproc.telemetry.tracing import Tracing  # loaded by who traces

QUARANTINE_SECONDS: Final = 60
_log = logging.getLogger("extproc.incidents")


class Reports:
    """One data directory's. `redacts`: values that clients sent do not leave this machine; `mode`: what happens to a
    suspect's body when it comes again at once, None: nothing."""

    def __init__(
        self,
        directory: Path,
        kept: Kept,
        metrics: Metrics,
        tracing: Tracing | None,
        webhook: Webhook | None,
        *,
        redacts: bool = True,
        mode: Mode | None = None,
    ) -> None:
        self.repeats = Repeats()
        self._directory = directory
        self._kept = kept
        self._metrics = metrics
        self._tracing = tracing
        self._webhook = webhook
        self._redacts = redacts
        self._mode = mode

    # The reporter's audience -------------------------------------------------------------------------------------

    def found(self, found: Incident, report: Report, flights: Sequence[Flight]) -> None:
        """A new incident."""
        if self._mode is not None:
            self._quarantine(found, self._mode)
        _log.error("a backend %s", _WORDS[found.kind.value], extra=_fields(report))
        self._metrics.incident(found.kind.value, found.sighting.upstream)
        if self._tracing is not None:
            self._tracing.incident(self._body(report), report.at, report.trace)
        self._send("incident", report)
        for each in self.repeats.expect(found, flights, datetime.now(UTC).timestamp()):
            self.repeat(each)

    def changed(self, found: Incident, report: Report, before: Report) -> None:
        """What is known of one has changed: it was counted, and is not counted again."""
        counted, kind = str(before.fields["class"]), found.kind.value
        if counted != kind:
            self._metrics.incident_changed(counted, kind, found.sighting.upstream)
        if before.lasts and not report.lasts:
            _log.warning("a backend %s", _OVER.get(kind, _WORDS[kind]), extra=_fields(report))
            if self._tracing is not None:
                self._tracing.incident(self._body(report), report.at, report.trace, over=True)
            self._send("ended", report)
        else:
            _log.warning("an incident is seen otherwise by now", extra=_fields(report))
            self._send("changed", report)

    def undelivered(self, report: Report) -> None:
        """One of before a restart."""
        self._send("incident", report)

    # And of the follower -----------------------------------------------------------------------------------------

    def repeat(self, repeat: Repeat) -> None:
        """A suspect has come again."""
        fields = repeat.fields()
        _log.error("a request that may have killed a backend has come again", extra=fields)
        self._metrics.repeat(repeat.expected.upstream)
        if self._webhook is not None:
            self._webhook.send(Delivery(f"{repeat.expected.incident}-{repeat.id}", "repeat", fields))

    def close(self, timeout: float) -> None:
        """Deliver what waits."""
        if self._webhook is not None:
            self._webhook.close(timeout)

    def _send(self, event: str, report: Report) -> None:
        if self._webhook is None:
            self._kept.delivered(report.id)
            return
        delivery = Delivery(f"{report.id}-{event}-{report.gist_mark}", event, self._body(report))
        self._webhook.send(delivery, lambda: self._kept.delivered(report.id))

    def _body(self, report: Report) -> dict[str, Any]:
        return report.redacted if self._redacts else report.fields

    def _quarantine(self, found: Incident, mode: Mode) -> None:
        """Keep the suspects' bodies from a second backend, for a minute."""
        now = datetime.now(UTC)
        over = moment_text(now + timedelta(seconds=QUARANTINE_SECONDS))
        try:
            held = entries.load(self._directory)
            if held.mode is Mode.OFF:
                return
            bodies = [each.body for each in repeats.likely(found) if each.body]
            new = [
                Entry(entries.new_id(), moment_text(now), body=body, mode=mode, expires_at=over, incident=found.id)
                for body in bodies
            ]
            rest = [each for each in held.entries if each.body is None or not each.is_over(now)]
            entries.save(self._directory, Quarantine(held.version, held.mode, (*rest, *new)))
        except (ConfigError, OSError) as error:
            _log.error("a suspect cannot be put into quarantine: %s", error)


_WORDS: Final = {
    "death": "died",
    "hang": "hangs",
    "freeze": "froze, and went on",
    "crash_loop": "died again: it is in a crash loop",
    "broken_from_start": "serves nothing since its start",
    "stopped_or_killed": "was stopped or killed",
}


_OVER: Final = {"hang": "that hung does so no more"}


def _fields(report: Report) -> dict[str, Any]:
    """For the log: nothing that a client has sent."""
    fields = report.fields
    suspects = fields["suspects"]
    return {
        "incident": report.id,
        "class": fields["class"],
        "upstream": report.upstream,
        "cluster": fields["cluster"],
        "at": fields["at"],
        "ended_at": fields.get("ended_at"),
        "confidence": fields["confidence"],
        "in_flight": len(fields["in_flight"]),
        "suspect": suspects[0]["exchange"] if suspects else None,
        "score": suspects[0]["score"] if suspects else None,
    }
