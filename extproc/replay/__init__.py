"""Recorded requests once more: sent, their answers judged, and which of them kills a server proved.

    request     what was recorded, ready to be sent, with credentials from the environment
    answer      an answer, judged as the recorder would have recorded it
    sender      one request on its way: a thread that can be told to hang up
    target      the server that it goes to: alive or not, and back again
    window      several requests in their order and overlap
    search      which of them kills, as a function of "does this sequence kill?"
    minimise    the smallest request that still does, likewise
    tries       what was tried, in a file, so that a search goes on where it was ended
    prove       all of them together, for one incident

`search` and `minimise` know neither servers nor clocks.
"""

from __future__ import annotations
