"""Requests that are kept from backends that they may kill.

entries     which, as a file in the data directory that is renamed into place
guard       a worker's view of that file, and the one look-up a held request
"""

from __future__ import annotations
