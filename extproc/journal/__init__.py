"""The journal: append-only segments of records and the bodies beside them, written, recovered, kept and deleted.

The format is described in `segment.py`. The data path ends here; whatever else wants to know what passed reads
the journal (`extproc/history`), beside a running sidecar or long after it.
"""
