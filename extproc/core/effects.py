"""What an exchange asks the journal to do: plain values, in the order in which they must happen.

An exchange returns them from `receive` and `close`; the journal carries them out and then opens the gate.
"""

from __future__ import annotations

import msgspec

from extproc.core.events import Direction
from extproc.core.records import Known


class Spool(msgspec.Struct, frozen=True, gc=False):
    """Append these bytes to the body file of one direction, which the first Spool creates.

    The reply to the message waits until they are handed to the system, so that an upload cannot outrun the disk.
    """

    id: str
    direction: Direction
    data: list[bytes]


class SpoolEnd(msgspec.Struct, frozen=True, gc=False):
    """The body file is complete: sync and close it before the record that follows."""

    id: str
    direction: Direction


class Append(msgspec.Struct, frozen=True, gc=False):
    """Write this record. `gate`: somebody waits until it is durable; otherwise it is written and not waited for.

    The journal adds the members that only it knows (`worker`, `boot_id`, `seq`, `crc`).
    """

    record: Known
    gate: bool = True


Effect = Spool | SpoolEnd | Append
