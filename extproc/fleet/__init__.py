"""Past one machine: closed segments in an object store, read from there, and taken out of it again.

    v1/raw/dt=2026-11-28/host=gpu7-5f0c9a1e/w0-0193c0de-000001.jsonl.zst       the segment, byte for byte
    v1/exchanges/dt=2026-11-28/host=gpu7-5f0c9a1e/w0-0193c0de-000001.parquet   a row for each exchange that ended in it
    v1/bodies/dt=2026-11-28/host=gpu7-5f0c9a1e/w0-0193c0de-000001.pack         their bodies that have files of their own
    v1/erasures/20261128T031207Z-5f0c9a1e.json                                 what was taken out, signed

`dt` is the day at the head of the segment, so that a name never depends on when something is shipped. An object is
made once (`If-None-Match: *`) and never overwritten, but by an erasure. The segment itself comes last: where it is,
the rest is.

    names     the names of the objects           ship      what is closed goes to the bucket, whatever happens between
    bucket    an object store, in four verbs     ledger    what has been shipped, and what is on its way
    host      what this machine is called        rows      the exchanges that ended in a segment
    pack      body files in one object           table     their columns, as Parquet
    catalog   what a bucket has of a time        view      that, as data directories, for the readers (`span`)
    erase     a person's data taken out          signed    the list of that, signed
    process   shipping as a part of `serve`

obstore and pyarrow are an extra (`extproc[fleet]`), and loaded when a bucket is used.
"""
