"""The exceptions of the package, each for something a caller does differently.

    ExtprocError
    ├── ConfigError    a setting, a file or a flag is wrong: print it, exit 2
    ├── StackError     the stack could not start or has fallen over: print it, exit 1
    ├── BucketError    an object store does not do what was asked: tried again later, and traffic never waits for it
    │   └── Conflict   it has something else under a name of ours: nothing is overwritten
    └── JournalError   the journal cannot be written or opened: the audit policy applies
        └── Postponed  an exchange's end will be written, without its body, once the journal can be: nothing is lost

Malformed bodies and messages out of order raise nothing: they are recorded.
"""

from __future__ import annotations


class ExtprocError(Exception):
    """Something the user can act on; its text is complete without a traceback."""

    @property
    def lines(self) -> list[str]:
        """The text as lines for the operator: one, or one for each thing that is wrong."""
        return [str(self)]


class ConfigError(ExtprocError):
    """A setting is wrong. The text names the place (`FILE:LINE`), what was expected, and what was seen."""


class StackError(ExtprocError):
    """A part of the running stack failed. The text says which part and why."""


class BucketError(ExtprocError):
    """An object store does not do what was asked of it. The text names the object and what the store said."""


class Conflict(BucketError):
    """It has an object of the same name and other content."""


class JournalError(ExtprocError):
    """The journal cannot take a record. The text names the file and the system's reason."""


class Postponed(JournalError):
    """It cannot take this terminal record now and keeps it, without its body, until it can."""
