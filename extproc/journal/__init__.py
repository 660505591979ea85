"""The journal: append-only segments of records, the bodies beside them, and everything that reads them back.

The format is described in `segment.py`. The data path ends here; whatever else wants to know what passed reads
the journal, beside a running sidecar or long after it.
"""
